"""A pair of texts that become one vector, as a value, and the older notation for it: ``a ||| b``."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Sequence, Union

SEPARATOR = "|||"
"""Between the two texts of a pair, where a pair is written as one text."""


@dataclass(frozen=True)
class Pair:
    """Two texts, or two token lists, that become one vector.

    A text may hold whatever it likes, bars and line breaks too. An empty ``second`` leaves ``first`` alone.
    """

    first: Union[str, Sequence[str]]
    second: Union[str, Sequence[str]]

    def __iter__(self) -> Iterator[Union[str, Sequence[str]]]:
        return iter((self.first, self.second))

    def __len__(self) -> int:
        """Characters, or tokens, of both together."""
        return len(self.first) + len(self.second)

    def __bool__(self) -> bool:
        return True


Text = Union[str, List[str], Pair]
"""What becomes one vector: a text, its tokens, or a pair."""


def split_text(text: str) -> Union[str, Pair]:
    """The text, or the pair that it is: cut at the last " ||| ", unless a line break makes it ordinary text."""
    stripped = text.strip()
    if f" {SEPARATOR} " in stripped and "\n" not in stripped:
        return Pair(*stripped.rsplit(f" {SEPARATOR} ", 1))
    return text


def split_tokens(tokens: List[str]) -> Union[List[str], Pair]:
    """The tokens, or the pair that they are: cut at the first "|||"."""
    if SEPARATOR in tokens:
        middle = tokens.index(SEPARATOR)
        return Pair(tokens[:middle], tokens[middle + 1:])
    return tokens
