"""Where log lines go and what they look like: one handler, a colour for each stage, on a terminal only.

Everybody else writes ``logger = logging.getLogger(__name__)`` and nothing more.
"""
from __future__ import annotations

import logging
import os
import sys
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
    "core.recovery": Stage.VENTILATOR,
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


class Brake(logging.Filter):
    """Lets a few warnings of one kind through in a while, and says how many it kept back: whoever can send rubbish
    could fill the disk with them."""

    def __init__(self) -> None:
        super().__init__()
        # Where in the code a line is written -> [until when it is counted, lines let through, lines kept back].
        self._kinds: dict[tuple[str, int], list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        kind = self._kinds.setdefault((record.pathname, record.lineno), [0.0, 0, 0])
        if record.created >= kind[0]:
            if kind[2]:
                record.msg = f"{record.getMessage()} ({kind[2]:.0f} more like it in the last {BRAKE_SECONDS:g} seconds)"
                record.args = ()
            kind[:] = record.created + BRAKE_SECONDS, 0, 0
        let_through = kind[1] < MOST_WARNINGS
        kind[1 if let_through else 2] += 1
        return let_through


MOST_WARNINGS, BRAKE_SECONDS = 20, 10.0
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
