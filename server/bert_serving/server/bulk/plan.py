"""Which rows of a chunk have to be computed, and which are another row once more."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .journal import digest
from .records import Chunk


@dataclass(frozen=True)
class ChunkPlan:
    """What becomes of each record of a chunk; rows count from the beginning of the input.

    Attributes:
        texts: row -> text that has to be computed.
        first: digest -> row of the texts that were never seen before: those in ``texts``.
        copies: row -> the earlier row whose text it has.
        rejects: row -> why there is no text.
    """

    texts: dict[int, str] = field(default_factory=dict)
    first: dict[bytes, int] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    rejects: dict[int, str] = field(default_factory=dict)


def plan(chunk: Chunk, under_way: Mapping[bytes, int],
         rows_of: Callable[[Iterable[bytes]], Mapping[bytes, int]]) -> ChunkPlan:
    """Sort the records of a chunk.

    Args:
        under_way: digest -> row of what earlier chunks compute that are not done yet.
        rows_of: gives the same for what is done.
    """
    made = ChunkPlan()
    digests = {}
    for row, record in enumerate(chunk.records, chunk.start.row):
        if record.text is None:
            made.rejects[row] = record.reason
        else:
            digests[row] = digest(record.text)
    done = rows_of({one for one in digests.values() if one not in under_way})
    for row, one in digests.items():
        earlier = under_way.get(one, done.get(one, made.first.get(one)))
        if earlier is None:
            made.first[one] = row
            text = chunk.records[row - chunk.start.row].text
            assert text is not None
            made.texts[row] = text
        else:
            made.copies[row] = earlier
    return made
