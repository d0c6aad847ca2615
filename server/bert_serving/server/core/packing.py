"""Sentences into rows: several end to end in one row, so that hardly any of what is computed is padding.

A *run* is what the engine computes at once: rows of one width. Attention looks at whole rows, and each token is told
to see its own sentence alone; so a row costs its width, and a little more for each token the wider it is. A long
sentence is a run by itself.
"""
from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .features import Features

MAX_TOKENS = 512
"""Tokens of one run, padding included; bounds its memory, and keeps it near the processor."""

RUN_COST = 16
"""What a run costs beside its tokens, in tokens: so much padding is cheaper than a run more."""

SHORT = 32
"""Up to this width attention hardly costs anything."""

LONG = 128
"""A sentence of more tokens keeps a processor busy by itself: it is a run of its own, exactly as wide as it is long, so
that nothing has to be kept apart in it."""

ATTENTION = 512
"""At this width, attention costs a token as much as all the rest of the model does."""


@dataclass(frozen=True)
class Run:
    """Rows of one width.

    Attributes:
        width: tokens of a row.
        rows: for each row, the sentences in it, as indices into the batch.
        alone: there is one row, which one LONG sentence fills.
    """

    width: int
    rows: list[list[int]]
    alone: bool = False


@dataclass(frozen=True)
class Layout:
    """A run's tokens in their places.

    Attributes:
        input_ids, token_type_ids, position_ids: int32 [R, C], 0 where there is no token.
        owner: int32 [R, C], which sentence of ``order`` a token is of; -1 where there is no token.
        hidden: bool [R, C], tokens that no token may see, as -mask_cls_sep wants; None: there are none.
        order: int [S], the run's sentences, as indices into the batch.
        places: int [T], where in the flattened [R * C] the sentences' tokens are, end to end in that order.
        cu_seqlens: int [S + 1], where in ``places`` each sentence starts.
        pool_mask: int32 [T], 0 for tokens that pooling leaves out: hidden ones, and those of a prompt; None: all ones.
        alone: as the run's.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    position_ids: np.ndarray
    owner: np.ndarray
    hidden: np.ndarray | None
    order: np.ndarray
    places: np.ndarray
    cu_seqlens: np.ndarray
    pool_mask: np.ndarray | None
    alone: bool


# ---- which sentences share a row -------------------------------------------------------------------------------------

def plan(lengths: Sequence[int]) -> list[Run]:
    """Runs that hold every sentence once, with little padding, the longest sentences first.

    Args:
        lengths: tokens of each sentence of the batch, at least 1.
    """
    if len(lengths) == 1:
        return [Run(lengths[0], [[0]], lengths[0] > LONG)]
    waiting = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    num_long = sum(length > LONG for length in lengths)
    runs = [Run(lengths[index], [[index]], alone=True) for index in waiting[:num_long]]
    waiting = waiting[num_long:]
    while waiting:
        longest = lengths[waiting[0]]
        widths = [longest, *(width for width in (SHORT, SHORT * 3 // 2) if width > longest and longest <= SHORT)]
        width, rows, waiting = min((_fill(waiting, lengths, width) for width in widths), key=_cost)
        size = max(1, MAX_TOKENS // width)
        # Runs of equal size: a short last one would cost as much as it saves.
        size = -(-len(rows) // -(-len(rows) // size))
        runs += [Run(width, rows[start:start + size]) for start in range(0, len(rows), size)]
    return runs


def _fill(waiting: Sequence[int], lengths: Sequence[int], width: int) -> tuple[int, list[list[int]], list[int]]:
    """Rows of this width for the longest of the waiting sentences, filled up with shorter ones; and who still waits.

    Each sentence goes where the least room is left. One that fits nowhere gets a row of its own, unless it is much
    shorter than the longest: narrower rows will do for it.
    """
    shortest_to_open = lengths[waiting[0]] - max(RUN_COST, lengths[waiting[0]] // 4)
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), in order
    left = []
    for index in waiting:
        length = lengths[index]
        found = bisect_left(room, (length, 0))
        if found < len(room):
            rest, row = room.pop(found)
            rows[row].append(index)
        elif length >= shortest_to_open:
            rest, row = width, len(rows)
            rows.append([index])
        else:
            left.append(index)
            continue
        if rest > length:
            insort(room, (rest - length, row))
    return width, rows, left


def _cost(filled: tuple[int, list[list[int]], list[int]]) -> float:
    """What the rows cost, and what the sentences that still wait will cost at least, in tokens."""
    width, rows, left = filled
    return len(rows) * width * (1 + width / ATTENTION) + len(left) * RUN_COST / 4


# ---- where their tokens are ------------------------------------------------------------------------------------------

def lay_out(run: Run, batch: Sequence[Features]) -> Layout:
    """The tokens of a run's sentences in its rows, each sentence's positions counted from 0."""
    order = [index for row in run.rows for index in row]
    sentences = [batch[index] for index in order]
    lengths = np.fromiter(map(len, sentences), np.intp, len(sentences))
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    # A row's sentences follow one another; a row begins where its number says.
    in_row = np.fromiter(map(len, run.rows), np.intp, len(run.rows))
    first = np.concatenate([[0], np.cumsum(in_row)[:-1]])
    shift = np.repeat(np.arange(len(run.rows)) * run.width - cu_seqlens[first], in_row)
    owner = np.repeat(np.arange(len(sentences)), lengths)
    token = np.arange(cu_seqlens[-1])
    places = token + shift[owner]
    mask = np.concatenate([sentence.input_mask for sentence in sentences])
    pooled = pool_mask(sentences, mask)
    hidden = None
    if not mask.all():
        # Where all tokens of a sentence are hidden, they see one another: there is nothing else to see.
        all_hidden = np.maximum.reduceat(mask, cu_seqlens[:-1]) == 0
        hidden = _spread(run, places, (mask == 0) & ~all_hidden[owner], False)
    return Layout(
        input_ids=_spread(run, places, np.concatenate([sentence.input_ids for sentence in sentences])),
        token_type_ids=_spread(run, places, np.concatenate([sentence.token_type_ids for sentence in sentences])),
        position_ids=_spread(run, places, (token - cu_seqlens[owner]).astype(np.int32)),
        owner=_spread(run, places, owner.astype(np.int32), -1),
        hidden=hidden, order=np.array(order, np.intp), places=places, cu_seqlens=cu_seqlens,
        pool_mask=None if pooled.all() else pooled, alone=run.alone)


def pool_mask(sentences: Sequence[Features], mask: np.ndarray) -> np.ndarray:
    """int32 [T], the tokens of the sentences, end to end, that pooling sees.

    Args:
        mask: int32 [T], the sentences' own masks, end to end; it is the result where there are no prompts.
    """
    if not any([sentence.num_prompt for sentence in sentences]):
        return mask
    return mask * np.concatenate([np.arange(len(sentence)) >= sentence.num_prompt for sentence in sentences])


def _spread(run: Run, places: np.ndarray, values: np.ndarray, elsewhere: int = 0) -> np.ndarray:
    """[R, C] with the values in their places."""
    rows = np.full(len(run.rows) * run.width, elsewhere, values.dtype)
    rows[places] = values
    return rows.reshape(len(run.rows), run.width)
