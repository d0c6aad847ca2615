"""How far it is: a bar in a terminal, a line a step elsewhere."""
from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

WIDTH = 24


class BenchmarkProgress:
    """``[########----------------]  12/36  num_client 16  1:05, about 2:10 left``, on one line that changes."""

    def __init__(self, total: int, stream: TextIO | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            total: number of steps.
            stream: where it is shown; default: standard error.
        """
        self.total, self.stream, self.clock = total, stream or sys.stderr, clock
        self.done = 0
        self.what = ""
        self.is_terminal = self.stream.isatty()
        self._began = clock()

    def begin(self, what: str) -> None:
        """A step begins."""
        self.what = what
        self.tick()

    def end(self, found: str) -> None:
        """It has ended, and this is what was found."""
        self.done += 1
        if self.is_terminal:
            self.tick()
        else:
            self.say(f"{self.done}/{self.total} {self.what}: {found}")

    def skip(self, steps: int) -> None:
        """So many steps will not be made."""
        self.total -= steps

    def tick(self) -> None:
        """Show the time."""
        if self.is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r\x1b[K" + self.line()[:width])
            self.stream.flush()

    def say(self, line: str) -> None:
        """Show a line that stays."""
        self.clear()
        self.stream.write(line + "\n")
        self.stream.flush()
        self.tick()

    def clear(self) -> None:
        """Make room for what others write."""
        if self.is_terminal:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def line(self) -> str:
        filled = WIDTH * self.done // max(1, self.total)
        seconds = self.clock() - self._began
        left = f", about {minutes(seconds / self.done * (self.total - self.done))} left" if self.done else ""
        bar = "#" * filled + "-" * (WIDTH - filled)
        return f"[{bar}] {self.done}/{self.total}  {self.what}  {minutes(seconds)}{left}"


def minutes(seconds: float) -> str:
    """``1:05`` for 65 seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
