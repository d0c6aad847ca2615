"""How far a job is: tqdm's bar on a terminal, a line now and then elsewhere; always on standard error."""
from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from bert_serving.client.words import counted

EVERY_SECONDS = 30.0


class BulkProgress:
    """Counts rows, and shows their number, their rate and the time that is left."""

    def __init__(self, total: int, done: int = 0, stream: TextIO | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            total: number of rows.
            done: how many of them an earlier run has done.
            stream: where it is shown; default: standard error.
        """
        self.total, self.done, self.stream, self.clock = total, done, stream or sys.stderr, clock
        self._first = done
        self._began = self._shown = clock()
        self._bar: Any = None
        if self.stream.isatty():
            try:
                from tqdm import tqdm
            except ImportError:  # it comes with the extra; lines will do
                pass
            else:
                self._bar = tqdm(total=total, initial=done, unit=" rows", file=self.stream, smoothing=0.1)

    def add(self, rows: int) -> None:
        """So many more rows are done."""
        self.done += rows
        if self._bar is not None:
            self._bar.update(rows)
        elif self.clock() - self._shown >= EVERY_SECONDS and self.done < self.total:
            self._shown = self.clock()
            print(self.line(), file=self.stream, flush=True)

    def line(self) -> str:
        """``20480 of 100000 rows, 512 a second, about 2:35 left``"""
        rate = (self.done - self._first) / self.seconds if self.seconds else 0.0
        left = f", about {hours((self.total - self.done) / rate)} left" if rate else ""
        return f"{self.done} of {counted(self.total, 'row')}, {rate:.0f} a second{left}"

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self.clock() - self._began

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def hours(seconds: float) -> str:
    """``1:05`` for 65 seconds, ``2:01:05`` for two hours more."""
    whole = int(seconds)
    rest = f"{whole // 60 % 60:02d}:{whole % 60:02d}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{rest}" if whole >= 3600 else rest
