"""What the modules of a bulk job hand to one another: records of the input, and chunks of them."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bert_serving.client.errors import BertServingError

CHUNK_RECORDS = 1024
CHUNK_CHARACTERS = 4_000_000
"""A chunk ends with the record that reaches either, so that its end depends on nothing but the input."""

MAX_BYTES = 8 << 20
"""A longer line, or text of a table, is no text for a model; such a line is not even held in memory."""


class BulkError(BertServingError):
    """The job cannot go on; the message is the one line that the user reads."""


class Position(NamedTuple):
    """A place between two records of an input.

    Attributes:
        row: number of the record after it, from 0; the row that its vector gets.
        offset: where that record begins: a byte of a file of lines, a row of a table.
        line: number of the line that it begins on, from 1.
    """

    row: int
    offset: int
    line: int


START = Position(0, 0, 1)


class Record(NamedTuple):
    """A text of the input, or why there is none.

    Attributes:
        line: where it is: the number of its line, or of its row in a table, from 1.
        text: what is to be encoded; None: it is a reject.
        reason: why it is one.
    """

    line: int
    text: str | None
    reason: str = ""


@dataclass(frozen=True)
class Chunk:
    """Records that are handled together.

    Attributes:
        start, end: where they begin, and what comes after them.
    """

    start: Position
    end: Position
    records: list[Record]


def text_record(line: int, raw: bytes | str) -> Record:
    """The record of one text: a reject if a server would not take it."""
    try:
        if isinstance(raw, bytes):
            text = raw.decode("utf-8")
        else:
            text = raw
            if not text.isascii():
                text.encode("utf-8")
    except UnicodeDecodeError as error:
        return Record(line, None, f"byte {error.start + 1} is not valid UTF-8")
    except UnicodeEncodeError as error:
        return Record(line, None, f"character {error.start + 1} is half of a pair, and no text")
    if not text or text.isspace():
        return Record(line, None, "the text is empty or blank")
    return Record(line, text)


def chunks(records: Iterable[tuple[Record, Position]], start: Position) -> Iterator[Chunk]:
    """Group records, each with the position after it, from ``start`` on."""
    group: list[Record] = []
    size, begin, end = 0, start, start
    for record, end in records:
        group.append(record)
        size += len(record.text or "")
        if len(group) == CHUNK_RECORDS or size >= CHUNK_CHARACTERS:
            yield Chunk(begin, end, group)
            group, size, begin = [], 0, end
    if group:
        yield Chunk(begin, end, group)


def no_column(path: Path, column: str, found: list[str]) -> BulkError:
    """There is no such column, and these are those that there are."""
    return BulkError(f"{path} has no column {column!r}; give -column one of those found: {listed(found)}")


def listed(names: list[str], most: int = 20) -> str:
    """Names in a line, however many there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
