"""What the engine reads: the token ids of one sequence and what goes with them."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bert_serving.client.pairs import Pair

from .tokenization import BaseTokenizer


@dataclass(frozen=True, slots=True)
class Features:
    """One sequence, unpadded.

    Attributes:
        input_ids: int32 [n], special tokens included; n is at least 1.
        token_type_ids: int32 [n], 0 through the first [SEP], 1 for the second sentence of a pair.
        input_mask: int32 [n], 0 where -mask_cls_sep hides [CLS] and [SEP] from attention and pooling, else 1.
        num_special: how many special tokens a batch of such sequences is widened by: in BERT 3 for a pair, else 2.
        tokenizer: what made it.
        is_bare: no special tokens are in it, as -no_special_token wants.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    input_mask: np.ndarray
    num_special: int
    tokenizer: BaseTokenizer
    is_bare: bool = False

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def tokens(self) -> list[str]:
        """The n tokens as text: made when they are asked for, which few do."""
        return self.tokenizer.tokens(self.input_ids.tolist())


def build_features(texts: Sequence[str | Sequence[str] | Pair], tokenizer: BaseTokenizer, *, max_length: int,
                   mask_cls_sep: bool = False, no_special_token: bool = False) -> list[Features]:
    """The sequences of a batch, in its order.

    Args:
        texts: each a text, or the tokens of one that the user cut himself, or a pair of either. All are taken
            literally: a bar is a bar. Nothing at all gives the special tokens alone.
        max_length: longest sequence in tokens, special ones included, at least 4; the right end is cut off.
        mask_cls_sep: hide special tokens from attention and pooling.
        no_special_token: add no special tokens to those that the user cut himself; pairs keep theirs.
    """
    parts = [(text.first, text.second) if isinstance(text, Pair) else (text,) for text in texts]
    encoded = iter(tokenizer.encode([half for halves in parts for half in halves if isinstance(half, str)], max_length))
    result = []
    for halves in parts:
        ids = [next(encoded) if isinstance(half, str) else tokenizer.lookup(half) for half in halves]
        if len(ids) == 2 and ids[1]:
            result.append(_pair(ids[0], ids[1], tokenizer, max_length, mask_cls_sep))
        elif no_special_token and not isinstance(halves[0], str) and ids[0]:
            result.append(_bare(ids[0], tokenizer, max_length))
        else:
            result.append(_single(ids[0], tokenizer, max_length, mask_cls_sep))
    return result


def truncate_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens each half keeps: the longer one gives up tokens until both fit; on a tie, the second does."""
    if first + second <= room:
        return first, second
    kept_first = min(first, max(room - second, room - room // 2))
    return kept_first, room - kept_first


def _single(ids: list[int], tokenizer: BaseTokenizer, max_length: int, mask_cls_sep: bool) -> Features:
    before, after = tokenizer.before, tokenizer.after
    num_special = len(before) + len(after)
    ids = [*before, *ids[:max_length - num_special], *after]
    mask = _ones(len(ids))
    if mask_cls_sep:
        mask = mask.copy()
        mask[:len(before)] = mask[len(ids) - len(after):] = 0
    return Features(np.array(ids, np.int32), _zeros(len(ids)), mask, num_special, tokenizer)


def _pair(first: list[int], second: list[int], tokenizer: BaseTokenizer, max_length: int,
          mask_cls_sep: bool) -> Features:
    before, between, after = tokenizer.before, tokenizer.between, tokenizer.after
    num_special = len(before) + len(between) + len(after)
    kept_first, kept_second = truncate_pair(len(first), len(second), max_length - num_special)
    ids = [*before, *first[:kept_first], *between, *second[:kept_second], *after]
    middle = len(before) + kept_first
    types = np.zeros(len(ids), np.int32)
    types[middle + len(between):] = tokenizer.template.second_type
    mask = np.ones(len(ids), np.int32)
    if mask_cls_sep:
        mask[:len(before)] = mask[middle:middle + len(between)] = mask[len(ids) - len(after):] = 0
    return Features(np.array(ids, np.int32), types, mask, num_special, tokenizer)


def _bare(ids: list[int], tokenizer: BaseTokenizer, max_length: int) -> Features:
    ids = ids[:max_length]
    return Features(np.array(ids, np.int32), _zeros(len(ids)), _ones(len(ids)),
                    len(tokenizer.before) + len(tokenizer.after), tokenizer, is_bare=True)


ZEROS, ONES = np.zeros(512, np.int32), np.ones(512, np.int32)
"""Shared by the sequences, most of which need nothing else; nobody may write to them."""
ZEROS.flags.writeable = ONES.flags.writeable = False


def _zeros(n: int) -> np.ndarray:
    return ZEROS[:n] if n <= len(ZEROS) else np.zeros(n, np.int32)


def _ones(n: int) -> np.ndarray:
    return ONES[:n] if n <= len(ONES) else np.ones(n, np.int32)
