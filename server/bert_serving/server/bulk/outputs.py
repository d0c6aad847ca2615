"""Results that are made of the .npy file at the end: JSON Lines and Parquet."""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from .tables import need_arrow
from .vectors import VectorFile

Rejects = Callable[[int, int], Iterable[tuple[int, int, str]]]
"""First row, and the row after the last -> row, line and reason of each reject among them."""

GROUP_BYTES = 8_000_000
"""Of vectors that make a row group of Parquet, which takes several times its size to write."""

TEXT_BYTES = 1_000_000
"""Of vectors that become text at once: as numbers of Python they take eight times that."""


def groups(vectors: VectorFile, size: int) -> Iterator[tuple[int, int]]:
    """First row, and the row after the last, of each part of about so many bytes."""
    step = max(1, size // max(1, vectors.width * vectors.dtype.itemsize))
    for first in range(0, vectors.count, step):
        yield first, min(vectors.count, first + step)


def write_json_lines(path: Path, vectors: VectorFile, rejects: Rejects) -> None:
    """``{"row": 0, "vector": [...]}`` a line; a reject has null, and its reason.

    Numbers have the digits that give back the same 32 bits.
    """
    row_format = '{"row": %d, "vector": [' + ", ".join(["%.9g"] * vectors.width) + "]}\n"
    with open(path, "w", encoding="utf-8") as file:
        for first, end in groups(vectors, TEXT_BYTES):
            reasons = {row: why for row, _, why in rejects(first, end)}
            for row, vector in enumerate(vectors.read_block(first, end).tolist(), first):
                if row in reasons:
                    file.write(json.dumps({"row": row, "vector": None, "reason": reasons[row]}) + "\n")
                else:
                    file.write(row_format % (row, *vector))
        file.flush()
        os.fsync(file.fileno())


def write_parquet(path: Path, vectors: VectorFile, rejects: Rejects) -> None:
    """Columns ``row`` and ``vector``, a list of float32; a reject has null."""
    arrow, parquet = need_arrow()
    schema = arrow.schema([("row", arrow.int64()), ("vector", arrow.list_(arrow.float32()))])
    with parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False,
                               write_statistics=False) as writer:
        for first, end in groups(vectors, GROUP_BYTES):
            keep = np.ones(end - first, bool)
            keep[[row - first for row, _, _ in rejects(first, end)]] = False
            numbers = vectors.read_block(first, end)[keep].astype(np.float32, copy=False)
            offsets = np.concatenate([[0], np.cumsum(keep)]) * vectors.width
            lists = arrow.ListArray.from_arrays(
                arrow.array(offsets, arrow.int32(), mask=np.append(~keep, False)), arrow.array(numbers.reshape(-1)))
            writer.write_table(arrow.table([arrow.array(np.arange(first, end)), lists], schema=schema))
    with open(path, "rb") as file:
        os.fsync(file.fileno())


FORMATS = {".jsonl": write_json_lines, ".parquet": write_parquet}
"""Suffix of an output -> what makes it of the vectors."""

SUFFIXES = (".npy", *FORMATS)
"""What an output may end in; .npy is what the vectors are in from the start."""


def check(suffix: str) -> None:
    """Raises BulkError if what writes such an output is not installed."""
    if suffix == ".parquet":
        need_arrow()
