"""Which formats an input may have, and what reads them."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError
from .lines import CsvInput, JsonInput, TextInput
from .records import BulkError
from .run import Input
from .tables import ArrowInput, ParquetInput

FORMATS: dict[str, Callable[[Path, str], Input]] = {
    "text": lambda path, column: TextInput(path),
    "jsonl": JsonInput,
    "csv": CsvInput,
    "tsv": lambda path, column: CsvInput(path, column, "\t"),
    "parquet": ParquetInput,
    "arrow": ArrowInput,
}
"""Name of a format -> what reads a file of it, given the column."""

SUFFIXES = {".txt": "text", ".text": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv",
            ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}

WITHOUT_COLUMN = ("text",)


def format_of(path: Path | None) -> str:
    """The format that a name stands for; None is standard input.

    Raises:
        ConfigError: for none.
    """
    if path is None:
        return "text"
    try:
        return SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise ConfigError(f"{path} does not end in a format that is known ({', '.join(SUFFIXES)}); give -format "
                          f"{', '.join(FORMATS)}") from None


def open_input(path: Path, format: str, column: str) -> Input:
    """A file to read, looked at.

    Raises:
        BulkError: it is not there, or has no such column.
    """
    try:
        if not path.is_file():
            raise BulkError(f"{path} is {'no file; - reads standard input' if path.exists() else 'not there'}")
        source = FORMATS[format](path, column)
        source.check()
    except OSError as error:
        raise BulkError(f"cannot read {path}: {error.strerror or error}") from error
    return source


def about(format: str, column: str) -> dict[str, str]:
    """What of an input's options its records depend on."""
    return {"format": format, **({} if format in WITHOUT_COLUMN else {"column": column})}
