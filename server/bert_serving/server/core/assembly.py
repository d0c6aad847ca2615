"""Puts the rows of one request back together, in whatever order they arrive."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Slice(NamedTuple):
    """Rows of consecutive sequences of one request.

    Attributes:
        array: [n, D], a row per sequence; with ``lengths``, [sum(lengths), D], a row per token.
        lengths, contents, specials: token-level only, one number a sequence: its rows; its tokens without special
            ones; how many special tokens widen a batch that it is in.
        tokens: each sequence's tokens, if the server shows them.
    """

    array: np.ndarray
    lengths: list[int] | None = None
    contents: list[int] | None = None
    specials: list[int] | None = None
    tokens: list[list[str]] | None = None


@dataclass(slots=True)
class Assembly:
    """One request being collected.

    Attributes:
        size: number of sequences in the request.
        filled: sequences that have their rows.
        slices: offset of the slice's first sequence -> slice.
    """

    size: int
    filled: int = 0
    slices: dict[int, Slice] = field(default_factory=dict)

    def add(self, offset: int, count: int, rows: Slice) -> None:
        """Rows for sequences ``offset`` to ``offset + count - 1``; what is there already is left as it is."""
        if offset not in self.slices:
            self.slices[offset] = rows
            self.filled += count

    @property
    def is_complete(self) -> bool:
        return self.filled == self.size

    def _in_order(self) -> list[Slice]:
        if len(self.slices) == 1:
            return list(self.slices.values())
        return [self.slices[offset] for offset in sorted(self.slices)]

    def result(self, width: int | None = None, max_width: int = 0) -> np.ndarray:
        """All rows in request order; only when complete.

        Args:
            width: of token-level results, in tokens; None: the longest sequence, as the original counts it.
            max_width: upper limit of that.
        Returns:
            [size, D], or token-level [size, width, D] with zeros after each sequence's own rows.
        """
        slices = self._in_order()
        if slices[0].lengths is None:
            return slices[0].array if len(slices) == 1 else np.concatenate([rows.array for rows in slices])
        if width is None:
            # The original made a batch as wide as its longest content plus the special tokens of a pair if any
            # sequence was one (CONTRACT 5.3), whether or not the longest sequence was the pair.
            contents = [content for rows in slices for content in rows.contents or []]
            specials = [special for rows in slices for special in rows.specials or []]
            width = min(max(contents) + max(specials), max_width)
        first = slices[0].array
        result = np.zeros((self.size, width, first.shape[-1]), first.dtype)
        sequence = 0
        for rows in slices:
            start = 0
            for length in rows.lengths or []:
                result[sequence, :length] = rows.array[start:start + length]
                start += length
                sequence += 1
        return result

    def tokens(self) -> list[list[str]] | None:
        """Each sequence's tokens in request order; None if the server does not show them."""
        collected: list[list[str]] = []
        for rows in self._in_order():
            if rows.tokens is None:
                return None
            collected.extend(rows.tokens)
        return collected
