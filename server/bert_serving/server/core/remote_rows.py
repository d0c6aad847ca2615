"""Whether rows that were computed on another host fit their job, so that no answer is spoilt by them."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bert_serving.client.words import counted

from ..precision import PRECISIONS
from .batching import Piece
from .messages import Rows
from .remote_messages import MAX_COUNT, MembershipError, count_or_none


@dataclass(frozen=True, slots=True)
class VectorKind:
    """What the vectors of a server are like, so that others are not taken for them.

    Attributes:
        precision: of what computes them.
        token_level: there is one for each token, and not for each sequence.
        longest: tokens that a sequence can have.
    """

    precision: str = "fp32"
    token_level: bool = False
    longest: int = 512

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(PRECISIONS[self.precision].answer_dtype)


def check_rows(rows: Rows, pieces: Sequence[Piece], width: int, kind: VectorKind) -> None:
    """
    Args:
        pieces: of the job.
        width: numbers of a vector.
    Raises:
        MembershipError: what was computed elsewhere does not fit the job.
    """
    count = sum(piece.count for piece in pieces)
    problem = ""
    if not _are_counts(rows.counts, count):
        problem = "the counts of tokens"
    elif kind.token_level and not _are_lengths(rows, count, kind.longest):
        problem = "the lengths"
    elif rows.array.dtype != kind.dtype \
            or rows.array.shape != (sum(rows.lengths or []) if kind.token_level else count, width):
        problem = "the vectors"
    elif not kind.token_level and (rows.lengths, rows.contents, rows.specials) != (None, None, None):
        problem = "lengths, which are for the strategy NONE,"
    elif (rows.tokens is not None or any(piece.request.options.tokens for piece in pieces)) \
            and not _are_tokens(rows.tokens, count):
        problem = "the tokens"
    elif not isinstance(rows.bad, list) or any(type(at) is not int or not 0 <= at < count for at in rows.bad):
        problem = "the places of vectors that are not finite"
    elif not _marks_what_is_not_finite(rows, kind):
        problem = "the vectors, of which some are not finite without its saying so,"
    elif type(rows.num_tokens) is not int or not 0 <= rows.num_tokens <= count * kind.longest \
            or not isinstance(rows.seconds, dict) or not all(
                isinstance(value, float) and 0 <= value < MAX_COUNT for value in rows.seconds.values()):
        problem = "the measurements"
    if problem:
        raise MembershipError(f"rows {rows.array.dtype} {list(rows.array.shape)} for a job of "
                              f"{counted(count, 'sequence')}, where {problem} cannot be right")


def _marks_what_is_not_finite(rows: Rows, kind: VectorKind) -> bool:
    finite = np.isfinite(rows.array)
    if finite.all():
        return True
    if kind.token_level:
        return bool(rows.bad)
    return set(rows.bad) >= set(np.flatnonzero(~finite.all(axis=1)).tolist())


def _are_counts(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and None not in map(count_or_none, values)


def _are_lengths(rows: Rows, count: int, longest: int) -> bool:
    """Whether they fit each other, so that the rows fit into an answer."""
    return all(_are_counts(values, count) for values in (rows.lengths, rows.contents, rows.specials)) and all(
        length <= min(content + special, longest) for length, content, special in
        zip(rows.lengths or [], rows.contents or [], rows.specials or []))


def _are_tokens(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(
        isinstance(tokens, list) and all(isinstance(token, str) for token in tokens) for tokens in values)
