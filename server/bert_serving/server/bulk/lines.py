"""Inputs that are read line by line: text, JSON Lines and CSV."""
from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from bert_serving.client.words import counted, json_kind

from .records import MAX_BYTES, BulkError, Position, Record, listed, no_column, text_record

BLOCK = 1 << 20
BOM = b"\xef\xbb\xbf"
TOO_LONG = f"the line is longer than {MAX_BYTES >> 20} MB"
NO_COLUMN_AFTER = 1000
"""So many lines without the wanted column, and none with it, are an input that has not got it."""


class Line(NamedTuple):
    """A line without its end, and where the next one begins; None: it is too long to be held."""

    number: int
    content: bytes | None
    end: int


def read_lines(file: IO[bytes], offset: int, number: int) -> Iterator[Line]:
    """Lines of a binary file, from a place between two of them; only ``\\n`` and ``\\r\\n`` end one."""
    file.seek(offset)
    while line := file.readline(MAX_BYTES + 1):
        end = offset + len(line)
        content: bytes | None = line
        if len(line) > MAX_BYTES and not line.endswith(b"\n"):
            content = None
            while line and not line.endswith(b"\n"):
                line = file.readline(BLOCK)
                end += len(line)
        elif line.endswith(b"\n"):
            content = line[:-2] if line.endswith(b"\r\n") else line[:-1]
        if content is not None and offset == 0:
            content = content.removeprefix(BOM)
        yield Line(number, content, end)
        offset, number = end, number + 1


def count_lines(path: Path) -> int:
    """Number of lines; what comes after the last end of a line is one, too."""
    count, last = 0, b""
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last not in (b"", b"\n"))


class TextInput:
    """A text a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Any file will do."""

    def count(self) -> int:
        """Number of records."""
        return count_lines(self.path)

    def records(self, start: Position) -> Iterator[tuple[Record, Position]]:
        """The records from ``start`` on, each with the position after it."""
        row = start.row
        with open(self.path, "rb") as file:
            for line in read_lines(file, start.offset, start.line):
                row += 1
                record = Record(line.number, None, TOO_LONG) if line.content is None else self._record(line)
                yield record, Position(row, line.end, line.number + 1)

    def _record(self, line: Line) -> Record:
        assert line.content is not None
        return text_record(line.number, line.content)


class JsonInput(TextInput):
    """JSON Lines: objects, with the text under the column's name; or strings."""

    def __init__(self, path: Path, column: str) -> None:
        super().__init__(path)
        self.column = column

    def check(self) -> None:
        """
        Raises:
            BulkError: none of the first lines has the column, and some have others.
        """
        found: dict[str, None] = {}
        with open(self.path, "rb") as file:
            for line in read_lines(file, 0, 1):
                value = _parsed(line.content)
                if isinstance(value, str) or isinstance(value, dict) and self.column in value:
                    return
                if isinstance(value, dict):
                    found.update(dict.fromkeys(value))
                if line.number == NO_COLUMN_AFTER:
                    break
        if found:
            raise no_column(self.path, self.column, list(found))

    def _record(self, line: Line) -> Record:
        assert line.content is not None
        try:
            value = json.loads(line.content)
        except UnicodeDecodeError as error:
            return Record(line.number, None, f"byte {error.start + 1} is not valid UTF-8")
        except json.JSONDecodeError as error:
            return Record(line.number, None, f"no JSON: {error.msg} at character {error.colno}")
        except (ValueError, RecursionError) as error:
            return Record(line.number, None, f"no JSON: {error}")
        if isinstance(value, dict):
            if self.column not in value:
                return Record(line.number, None, f"there is no {self.column!r}; found: {listed(list(value))}")
            value = value[self.column]
        if not isinstance(value, str):
            return Record(line.number, None, f"the text is {json_kind(value)}; expected a string")
        return text_record(line.number, value)


class CsvInput:
    """CSV with a header; a record may take several lines, and lines without anything are none."""

    def __init__(self, path: Path, column: str, delimiter: str = ",") -> None:
        self.path, self.column, self.delimiter = path, column, delimiter
        csv.field_size_limit(MAX_BYTES)
        self._place = 0

    def check(self) -> None:
        """Read the header.

        Raises:
            BulkError: the column is not there.
        """
        header, _ = self._header()
        if self.column not in header:
            raise no_column(self.path, self.column, header)
        self._place = header.index(self.column)

    def _header(self) -> tuple[list[str], Position]:
        try:
            fields, _, after = next(self._rows(Position(0, 0, 1)))
        except StopIteration:
            raise BulkError(f"{self.path} is empty; expected a line with the names of its columns") from None
        if isinstance(fields, str):
            raise BulkError(f"the first line of {self.path} cannot be read: {fields}")
        return fields, Position(0, after.offset, after.line)

    def count(self) -> int:
        """Number of records."""
        _, start = self._header()
        return sum(1 for _ in self._rows(start))

    def records(self, start: Position) -> Iterator[tuple[Record, Position]]:
        """The records from ``start`` on, each with the position after it."""
        if start.offset == 0:
            _, start = self._header()
        for fields, line, after in self._rows(start):
            if isinstance(fields, str):
                record = Record(line, None, fields)
            elif len(fields) <= self._place:
                record = Record(line, None, f"it has {counted(len(fields), 'field')}, and {self.column!r} is number "
                                            f"{self._place + 1}")
            else:
                record = text_record(line, fields[self._place].encode("utf-8", "surrogateescape"))
            yield record, after

    def _rows(self, start: Position) -> Iterator[tuple[list[str] | str, int, Position]]:
        """The fields of each record, or what is wrong with it; the line it begins on; the position after it."""
        with open(self.path, "rb") as file:
            lines = _Feed(read_lines(file, start.offset, start.line), start)
            reader = csv.reader(lines, delimiter=self.delimiter)
            row = start.row
            while True:
                begin = lines.line
                lines.too_long = False
                fields: list[str] | str
                try:
                    fields = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    fields = f"no CSV: {error}"
                if lines.too_long:
                    fields = TOO_LONG
                elif not fields:
                    continue
                row += 1
                yield fields, begin, Position(row, lines.offset, lines.line)


class _Feed:
    """Lines for ``csv.reader``, which takes as many as a record has, and so where its next one begins."""

    def __init__(self, lines: Iterator[Line], start: Position) -> None:
        self._lines = lines
        self.offset, self.line = start.offset, start.line
        self.too_long = False

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.offset, self.line = line.end, line.number + 1
        if line.content is None:
            self.too_long = True
            return "\n"
        return line.content.decode("utf-8", "surrogateescape") + "\n"


def _parsed(content: bytes | None) -> object:
    try:
        return json.loads(content or b"")
    except (ValueError, RecursionError):
        return None
