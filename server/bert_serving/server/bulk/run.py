"""The run of a job: chunks are read, asked for, and written in their order, several under way at a time."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from bert_serving.client.words import counted

from .asking import Answer, Asker
from .journal import Journal
from .places import stamp
from .plan import ChunkPlan, plan
from .records import BulkError, Chunk, Position, Record, chunks
from .vectors import VectorFile


class Input(Protocol):
    """A file of records: see lines.py and tables.py."""

    path: Path

    def check(self) -> None: ...

    def count(self) -> int: ...

    def records(self, start: Position) -> Iterator[tuple[Record, Position]]: ...


@dataclass(frozen=True)
class Work:
    """A chunk under way."""

    chunk: Chunk
    plan: ChunkPlan
    answer: Answer


def resolve(work: Work, vectors: VectorFile, reason: Callable[[int], str | None]) -> tuple[np.ndarray, dict[int, str]]:
    """The rows of a chunk whose answer is complete, and the reasons of those that are rejects.

    Args:
        vectors: has the rows of all chunks before.
        reason: why one of those rows has no vector; None: it has.
    Returns:
        [number of records, width], NaN where there is no vector; row -> reason.
    """
    start = work.chunk.start.row
    rows = np.full((len(work.chunk.records), vectors.width), np.nan, vectors.dtype)
    rejects = dict(work.plan.rejects)
    computed = list(work.plan.texts)
    if computed:
        rows[np.asarray(computed) - start] = work.answer.vectors
    rejects.update((computed[index], why) for index, why in work.answer.refused.items())
    before = [(row, source) for row, source in work.plan.copies.items() if source < start]
    if before:
        rows[np.asarray([row for row, _ in before]) - start] = vectors.read([source for _, source in before])
    for row, source in work.plan.copies.items():
        if source >= start:
            rows[row - start] = rows[source - start]
        if np.isnan(rows[row - start, 0]):
            why = rejects.get(source) or reason(source)
            if why:
                rejects[row] = why
    return rows, dict(sorted(rejects.items()))


class BulkRun:
    """The chunks of a job that are under way: read, asked for, and written in their order."""

    def __init__(self, source: Input, seen: list[int], journal: Journal, vectors: VectorFile, asker: Asker, most: int,
                 on_rows: Callable[[int], None]) -> None:
        """
        Args:
            seen: the stamp that the input has to keep.
            most: chunks under way at a time.
            on_rows: told of each number of rows that is done.
        """
        self.source, self.seen, self.journal, self.vectors, self.asker = source, seen, journal, vectors, asker
        self.most, self.on_rows = most, on_rows
        self._works: deque[Work] = deque()
        self._under_way: dict[bytes, int] = {}

    def run(self) -> None:
        """Do what is left to do.

        Raises:
            BulkError: the server is gone, the disk is full, the input was changed.
        """
        waiting = chunks(self.source.records(self.journal.position), self.journal.position)
        while True:
            while len(self._works) < self.most and (chunk := next(waiting, None)) is not None:
                self._begin(chunk)
            if not self._works:
                break
            if self._works[0].answer.missing:
                self.asker.step()
            while self._works and not self._works[0].answer.missing:
                if stamp(self.source.path) != self.seen:
                    raise BulkError(f"{self.source.path} was changed while it was read; -overwrite begins anew")
                self._finish(self._works.popleft())
        if self.journal.position.row != self.vectors.count:
            raise BulkError(f"{self.source.path} had {counted(self.vectors.count, 'record')} and now has "
                            f"{self.journal.position.row}; -overwrite begins anew")

    def _begin(self, chunk: Chunk) -> None:
        made = plan(chunk, self._under_way, self.journal.rows_of)
        self._under_way.update(made.first)
        self._works.append(Work(chunk, made, self.asker.ask(list(made.texts.values()))))

    def _finish(self, work: Work) -> None:
        rows, rejects = resolve(work, self.vectors, self.journal.reason)
        start = work.chunk.start.row
        self.vectors.write(start, rows)
        self.vectors.sync()
        self.journal.advance(work.chunk.end, work.plan.first, [
            (row, work.chunk.records[row - start].line, why) for row, why in rejects.items()])
        for one in work.plan.first:
            del self._under_way[one]
        self.on_rows(len(rows))
