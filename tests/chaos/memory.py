"""Does a process grow? Samples of /proc, and a slope with its confidence interval."""
from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

PAGE = os.sysconf("SC_PAGE_SIZE")
WARM_UP = 1 / 3
"""Part of a run in which buffers and caches reach their size; it is not judged."""

BLOCKS = 16
FEWEST = 4 * BLOCKS


@dataclass(frozen=True)
class Slope:
    """Bytes per second, with the bounds of a 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def is_growth(self) -> bool:
        return self.low > 0


def slope(times: Sequence[float], values: Sequence[float]) -> Slope:
    """The trend of a series, by least squares over the means of 16 blocks of its last two thirds.

    Memory comes in steps, and a sample resembles the one before it; means of blocks do much less so. What resemblance
    is left (correlation of neighbouring residuals) widens the interval.

    Raises:
        ValueError: fewer than 64 samples.
    """
    if len(times) < FEWEST:
        raise ValueError(f"{len(times)} samples; a slope needs {FEWEST}")
    first = int(len(times) * WARM_UP)
    x = np.array([block.mean() for block in np.array_split(np.asarray(times[first:], float), BLOCKS)])
    y = np.array([block.mean() for block in np.array_split(np.asarray(values[first:], float), BLOCKS)])
    centred = x - x.mean()
    value = float(centred @ (y - y.mean()) / (centred @ centred))
    residuals = y - y.mean() - value * centred
    spread = float(residuals @ residuals)
    likeness = float(residuals[1:] @ residuals[:-1]) / spread if spread else 0.0
    likeness = min(max(likeness, 0.0), 0.9)
    error = (spread / (BLOCKS - 2) / float(centred @ centred)) ** .5 * ((1 + likeness) / (1 - likeness)) ** .5
    half = 2.145 * error  # Student's t for 14 degrees of freedom
    return Slope(value, value - half, value + half)


def resident(pid: int) -> int:
    """Bytes of memory that a process has in use.

    Raises:
        OSError: it is gone.
    """
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * PAGE


def descriptors(pid: int) -> int:
    """Number of a process's open files and sockets."""
    return len(os.listdir(f"/proc/{pid}/fd"))


class Sampler:
    """Looks at a process again and again.

    Attributes:
        times, memory, files: the samples: seconds, bytes, number of descriptors.
    """

    def __init__(self, pid: Callable[[], int], every: float) -> None:
        self.times: list[float] = []
        self.memory: list[int] = []
        self.files: list[int] = []
        self._pid, self._every = pid, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                memory, files = resident(self._pid()), descriptors(self._pid())
            except OSError:
                continue
            self.times.append(time.monotonic())
            self.memory.append(memory)
            self.files.append(files)
