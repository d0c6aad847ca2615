"""Where log lines go and what they look like: one handler, a colour for each stage, on a terminal only.

Everybody else writes ``logger = logging.getLogger(__name__)`` and nothing more.
"""
from __future__ import annotations

import logging
import os
import sys
from collections import deque
from enum import Enum, unique
from typing import TextIO

from termcolor import colored


@unique
class Stage(Enum):
    """Where a line comes from: its name stands in the line, and its value is the colour of that name on a terminal."""

    VENTILATOR = "magenta"
    SINK = "green"
    WORKER = "yellow"
    GRAPHOPT = "cyan"
    PROXY = "red"
    SERVER = "blue"
    HOST = "light_blue"
    RAY = "light_magenta"


STAGES = {
    "core.ventilator": Stage.VENTILATOR,
    "core.scheduler": Stage.VENTILATOR,
    "core.sink": Stage.SINK,
    "core.outlet": Stage.SINK,
    "engine": Stage.GRAPHOPT,
    "proxy": Stage.PROXY,
}
"""Module below bert_serving.server -> the stage whose name its lines carry; the rest is SERVER."""


class Formatter(logging.Formatter):
    """``I 12:34:56.789 VENTILATOR: message``: level, local time, stage, message."""

    def __init__(self, stage: Stage | None, number: int | None, in_color: bool) -> None:
        """
        Args:
            stage: this process's stage; None: by the module that logs.
            number: of this process among those of its stage, shown behind the name; None: there is only one.
            in_color: whether the stage's name is coloured.
        """
        super().__init__("%(asctime)s", "%H:%M:%S")
        self.stage, self.number, self.in_color = stage, number, in_color

    def format(self, record: logging.LogRecord) -> str:
        stage = self.stage or _stage_of(record.name)
        name = stage.name if self.number is None else f"{stage.name}-{self.number}"
        shown = f"{name:<10}"
        if self.in_color:
            shown = colored(shown, stage.value, force_color=True)
        time = f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}"
        line = f"{record.levelname[0]} {time} {shown} {record.getMessage()}"
        return line + "\n" + self.formatException(record.exc_info) if record.exc_info else line


def _stage_of(module: str) -> Stage:
    module = module.removeprefix("bert_serving.server.")
    for prefix, stage in STAGES.items():
        if module == prefix or module.startswith(prefix + "."):
            return stage
    return Stage.SERVER


class Throttle:
    """Decides how many lines the log gets in a while: whoever can send rubbish could fill the disk with them.

    Attributes:
        kept_back: lines since the last one that was let through.
    """

    def __init__(self, most: int, seconds: float) -> None:
        """
        Args:
            most: lines in any ``seconds``.
        """
        self.most, self.seconds, self.kept_back = most, seconds, 0
        self._lines: deque[float] = deque(maxlen=most)  # when the last ones were let through

    def is_open(self, now: float) -> bool:
        """Whether a line may be let through; whoever asks calls ``let_through`` or ``keep_back`` then."""
        return len(self._lines) < self.most or now - self._lines[0] >= self.seconds

    def let_through(self, now: float) -> int:
        """Count a line that is let through; how many were kept back before it."""
        self._lines.append(now)
        kept_back, self.kept_back = self.kept_back, 0
        return kept_back

    def keep_back(self) -> None:
        """Count a line that is not let through."""
        self.kept_back += 1


class Brake(logging.Filter):
    """Lets a few warnings of one kind through in a while, and says how many it kept back."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, int], Throttle] = {}  # where in the code a line is written -> its throttle

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        kind = self._kinds.setdefault((record.pathname, record.lineno), Throttle(MAX_WARNINGS, BRAKE_SECONDS))
        if not kind.is_open(record.created):
            kind.keep_back()
            return False
        kept_back = kind.let_through(record.created)
        if kept_back:
            record.msg = f"{record.getMessage()} ({kept_back} more like it in the last {BRAKE_SECONDS:g} seconds)"
            record.args = ()
        return True


MAX_WARNINGS, BRAKE_SECONDS = 20, 10.0
"""Of one kind, that are let through in a time."""


def set_up(verbose: bool, stage: Stage | None = None, number: int | None = None,
           stream: TextIO | None = None) -> None:
    """Send this process's log lines to ``stream`` (default: standard error).

    Args:
        verbose: every request too.
        stage: see Formatter.
        number: see Formatter.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    in_color = bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and "NO_COLOR" not in os.environ)
    handler.setFormatter(Formatter(stage, number, in_color))
    handler.addFilter(Brake())
    root = logging.getLogger("bert_serving")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False
