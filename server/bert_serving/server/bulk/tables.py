"""Inputs that are tables: Parquet and Arrow files. Of the columns only the one with the texts is read."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .records import CHUNK_RECORDS, MAX_BYTES, BulkError, Position, Record, no_column, text_record

BUFFER_BYTES = 1 << 20


def need_arrow() -> tuple[Any, Any]:
    """pyarrow, and its part for Parquet.

    Raises:
        BulkError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BulkError(f"Parquet and Arrow files need pyarrow ({error}); pip install './server[bulk]'"
                        ) from error
    return pyarrow, pyarrow.parquet


class TableInput:
    """What both kinds of tables have in common."""

    def __init__(self, path: Path, column: str) -> None:
        self.path, self.column = path, column
        self.arrow, self.parquet = need_arrow()

    def check(self) -> None:
        """
        Raises:
            BulkError: it is no such file, or has no such column.
        """
        with self._reading():
            schema = self._schema()
        if self.column not in schema.names:
            raise no_column(self.path, self.column, schema.names)
        kind = schema.field(self.column).type
        if self.arrow.types.is_dictionary(kind):
            kind = kind.value_type
        if kind not in (self.arrow.string(), self.arrow.large_string()):
            raise BulkError(f"column {self.column!r} of {self.path} holds {kind}; expected strings")

    def count(self) -> int:
        """Number of records."""
        raise NotImplementedError

    def records(self, start: Position) -> Iterator[tuple[Record, Position]]:
        """The records from ``start`` on, each with the position after it."""
        row = start.row
        with self._reading():
            for column in self._columns(row):
                for first in range(0, len(column), CHUNK_RECORDS):
                    for raw in self._texts(column.slice(first, CHUNK_RECORDS)):
                        row += 1
                        yield self._record(row, raw), Position(row, row, row + 1)

    def _record(self, row: int, raw: bytes | None) -> Record:
        if raw is None:
            return Record(row, None, "the text is null")
        if len(raw) > MAX_BYTES:
            return Record(row, None, f"the text is longer than {MAX_BYTES >> 20} MB")
        return text_record(row, raw)

    def _schema(self) -> Any:
        raise NotImplementedError

    def _columns(self, row: int) -> Iterator[Any]:
        """The texts from a row on, as arrays that follow one another."""
        raise NotImplementedError

    def _texts(self, column: Any) -> list[bytes | None]:
        """As bytes, since a writer may have put anything there."""
        arrow = self.arrow
        if arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        binary = arrow.large_binary() if column.type == arrow.large_string() else arrow.binary()
        texts: list[bytes | None] = column.cast(binary).to_pylist()
        return texts

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """
        Raises:
            BulkError: what is read is not what it should be.
        """
        try:
            yield
        except (self.arrow.ArrowException, OSError) as error:
            raise BulkError(f"cannot read {self.path}: {' '.join(str(error).split())}") from error


class ParquetInput(TableInput):
    """A Parquet file, read page by page."""

    def count(self) -> int:
        with self._reading(), self._open() as file:
            return int(file.metadata.num_rows)

    def _open(self) -> Any:
        return self.parquet.ParquetFile(self.path, buffer_size=BUFFER_BYTES, pre_buffer=False)

    def _schema(self) -> Any:
        with self._open() as file:
            return file.schema_arrow

    def _columns(self, row: int) -> Iterator[Any]:
        with self._open() as file:
            at = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if at + size <= row:
                    at += size
                    continue
                for batch in file.iter_batches(batch_size=CHUNK_RECORDS, row_groups=[group], columns=[self.column]):
                    column = batch.column(0)
                    if at + len(column) > row:
                        yield column.slice(max(0, row - at))
                    at += len(column)


class ArrowInput(TableInput):
    """An Arrow file (IPC, Feather version 2); one of its batches at a time is in memory."""

    def count(self) -> int:
        with self._reading():
            return sum(map(len, self._columns(0)))

    def _schema(self) -> Any:
        with self.arrow.OSFile(str(self.path)) as file:
            return self.arrow.ipc.open_file(file).schema

    def _columns(self, row: int) -> Iterator[Any]:
        options = self.arrow.ipc.IpcReadOptions(included_fields=[self._schema().names.index(self.column)])
        with self.arrow.OSFile(str(self.path)) as file:
            reader = self.arrow.ipc.open_file(file, options=options)
            at = 0
            for number in range(reader.num_record_batches):
                column = reader.get_batch(number).column(0)
                if at + len(column) > row:
                    yield column.slice(max(0, row - at))
                at += len(column)
