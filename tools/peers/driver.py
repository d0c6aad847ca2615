"""Processes that take turns, so that whatever else the machine does meets all of them alike."""
from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.server.process import ExitStatus

from .environments import PeerError
from .workloads import Workload

PAUSE = 0.15
"""Seconds before each turn, for the threads of the one before to go to sleep: some libraries' spin for a while."""


class EngineProcess:
    """An engine in a process of its own; engines.py says what is written and read.

    Attributes:
        about: what runs, as it says itself.
        precision: what its runtime says that it computes in.
    """

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None,
                 timeout: float = 600) -> None:
        """
        Args:
            log: where its standard error goes.
            env: variables to set beside those of this process.
            timeout: longest time for one answer, in seconds.
        Raises:
            PeerError: it does not start.
        """
        self._log, self._timeout = log, timeout
        with log.open("wb") as errors:
            try:
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                                 env={**os.environ, **(env or {})})
            except OSError as error:
                raise PeerError(f"cannot run {command[0]}: {error.strerror}") from error
        try:
            answer = self._answer()
            self.about, self.precision = str(answer["ready"]), str(answer["precision"])
        except BaseException:
            self.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """
        Raises:
            PeerError: there is no answer, or it is an error.
        """
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            pass                                       # It has died; what it said last tells why.
        return self._answer()

    def load(self, workload: Workload, folder: Path) -> None:
        """Give it the sequences of a workload, by a file in ``folder``."""
        file = folder / "sequences.json"
        file.write_text(json.dumps(workload.sequences))
        self.ask(do="load", name=workload.kind.name, file=str(file), max_seq_len=workload.kind.max_seq_len)

    def vectors(self, workload: Workload, folder: Path) -> np.ndarray:
        """float32 [B, D], of a workload that it has been given."""
        file = folder / "vectors.npy"
        self.ask(do="write", name=workload.kind.name, file=str(file))
        vectors: np.ndarray = np.load(file)
        return vectors

    def seconds(self, workload: Workload) -> float:
        """How long it takes for all sequences of a workload that it has been given."""
        return float(np.median(self.ask(do="run", name=workload.kind.name, repeat=workload.kind.repeat)["seconds"]))

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        # One answer to one request: nothing can be waiting in the reader's own buffer.
        if not select.select([self._process.stdout], [], [], self._timeout)[0]:
            raise PeerError(f"no answer within {self._timeout:g} s; see {self._log}")
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"it {ExitStatus.of(self._process.wait())}; see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{answer['error']}; see {self._log}")
        return answer

    def close(self) -> None:
        """End the process; it has nothing to lose."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                assert pipe
                pipe.close()
            except OSError:
                pass                                   # A request that it never read.


def take_turns(turns: Mapping[str, Callable[[], float]], rounds: int, failed: Callable[[str, PeerError], None],
               pause: Callable[[float], None] = time.sleep) -> dict[str, list[float]]:
    """Let each measure once, one after the other, ``rounds`` times over.

    Args:
        turns: name -> makes one measurement.
        failed: is told of one that fails; it is left out from then on.
    Returns:
        name -> one figure for each round.
    """
    figures: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        # Who is first in one round is last in the next: nobody always follows the same neighbour.
        for name in list(figures)[::-1 if number % 2 else 1]:
            pause(PAUSE)
            try:
                figures[name].append(turns[name]())
            except PeerError as error:
                del figures[name]
                failed(name, error)
    return figures


def cosines(vectors: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Least and mean cosine between the rows of two float [B, D]."""
    wide = vectors.astype(np.float64), exact.astype(np.float64)
    values = (wide[0] * wide[1]).sum(1) / np.linalg.norm(wide[0], axis=1) / np.linalg.norm(wide[1], axis=1)
    return float(values.min()), float(values.mean())
