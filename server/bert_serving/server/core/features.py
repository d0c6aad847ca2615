"""What the engine reads: the token ids of one sequence and what goes with them."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import overload

import numpy as np

from bert_serving.client.errors import UnprocessableError
from bert_serving.client.pairs import Pair
from bert_serving.client.words import counted

from .tokenization import BaseTokenizer, Layout


@dataclass(frozen=True, slots=True)
class Features:
    """One sequence, unpadded.

    Attributes:
        input_ids: int32 [n], special tokens included; n is at least 1, but for a static model's blank texts.
        token_type_ids: int32 [n]; in BERT 0 through the first [SEP], 1 for the second sentence of a pair.
        input_mask: int32 [n], 0 where -mask_cls_sep hides [CLS] and [SEP] from attention and pooling, else 1.
        num_special: how many special tokens a batch of such sequences is widened by: in BERT 3 for a pair, else 2.
        tokenizer: what made it.
        is_bare: no special tokens are in it, as -no_special_token wants.
        num_prompt: how many tokens at the beginning pooling leaves out: the prompt's, and special ones before it.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    input_mask: np.ndarray
    num_special: int
    tokenizer: BaseTokenizer
    is_bare: bool = False
    num_prompt: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def tokens(self) -> list[str]:
        """The n tokens as text: made when they are asked for, which few do."""
        return self.tokenizer.tokens(self.input_ids.tolist())


class PlainBatch(Sequence[Features]):
    """Sequences end to end, all of token type 0, nothing of them hidden, no prompt left out.

    A job's sequences are hardly ever anything else. An engine that takes such arrays reads them; for the others each
    sequence is a view, made when somebody asks for one.

    Attributes:
        input_ids: int32 [T].
        starts: int32 [B + 1], where each sequence begins; starts[-1] == T.
        lengths: of the sequences.
    """

    def __init__(self, input_ids: np.ndarray, lengths: list[int], tokenizer: BaseTokenizer) -> None:
        self.input_ids, self.lengths = input_ids, lengths
        self.starts = np.fromiter(accumulate(lengths, initial=0), np.int32, len(lengths) + 1)
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Features: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Features]: ...

    def __getitem__(self, index: int | slice) -> Features | Sequence[Features]:
        if not isinstance(index, slice) or index.step not in (None, 1):
            return self._sequences[index]
        first, end, _ = index.indices(len(self))
        end = max(first, end)
        return PlainBatch(self.input_ids[self.starts[first]:self.starts[end]], self.lengths[first:end], self._tokenizer)

    def __iter__(self) -> Iterator[Features]:
        return iter(self._sequences)

    @cached_property
    def _sequences(self) -> list[Features]:
        tokenizer, ids, num_special = self._tokenizer, self.input_ids, self._tokenizer.single.num_special
        starts = self.starts.tolist()
        return [Features(ids[start:start + length], _zeros(length), _ones(length), num_special, tokenizer)
                for start, length in zip(starts, self.lengths)]


def lengths_of(batch: Sequence[Features]) -> list[int]:
    """How many tokens each sequence has."""
    return batch.lengths if isinstance(batch, PlainBatch) else [len(sequence) for sequence in batch]


def build_features(texts: Sequence[str | Sequence[str] | Pair], tokenizer: BaseTokenizer, *, max_length: int,
                   mask_cls_sep: bool = False, no_special_token: bool = False,
                   include_prompt: bool = True) -> Sequence[Features]:
    """The sequences of a batch, in its order.

    Args:
        texts: each a text, or the tokens of one that the user cut himself, or a pair of either. All are taken
            literally: a bar is a bar. Nothing at all gives the special tokens alone. The tokenizer's prompt is put in
            front of texts and of the first of a pair; not of tokens.
        max_length: longest sequence in tokens, special ones included, at least 4; the right end is cut off.
        mask_cls_sep: hide special tokens from attention and pooling.
        no_special_token: add no special tokens to those that the user cut himself; pairs keep theirs.
        include_prompt: pooling sees the tokens of the prompt.
    Raises:
        UnprocessableError: there is no token in a sequence, or no room for a pair's special tokens.
    """
    if texts and not mask_cls_sep and not tokenizer.single.has_types and (include_prompt or not tokenizer.prompt):
        strings = [text for text in texts if isinstance(text, str)]
        if len(strings) == len(texts) and (batch := _plain(strings, tokenizer, max_length)) is not None:
            return batch
    parts = [(text.first, text.second) if isinstance(text, Pair) else (text,) for text in texts]
    if tokenizer.prompt:
        parts = [(tokenizer.prompt + halves[0], *halves[1:]) if isinstance(halves[0], str) else halves
                 for halves in parts]
    encoded = iter(tokenizer.encode([half for halves in parts for half in halves if isinstance(half, str)], max_length))
    result = []
    for halves in parts:
        ids = [next(encoded) if isinstance(half, str) else tokenizer.lookup(half) for half in halves]
        num_prompt = 0 if include_prompt or not isinstance(halves[0], str) else tokenizer.prompt_length
        if len(ids) == 2 and (ids[1] or tokenizer.pairs_as_library):
            result.append(_pair(halves, ids, tokenizer, max_length, mask_cls_sep, num_prompt))
        elif no_special_token and not isinstance(halves[0], str) and ids[0]:
            result.append(_bare(ids[0], tokenizer, max_length))
        else:
            result.append(_single(ids[0], tokenizer, max_length, mask_cls_sep, num_prompt))
    return result


def truncate_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens each half keeps: the longer one gives up tokens until both fit; on a tie, the second does."""
    if first + second <= room:
        return first, second
    kept_first = min(first, max(room - second, room - room // 2))
    return kept_first, room - kept_first


def truncate_pair_as_library(first: int, second: int, room: int, first_is_longer: bool) -> tuple[int, int]:
    """As Hugging Face's ``longest_first``: of an odd number of tokens, the half that was longer keeps one more.

    Args:
        first_is_longer: of the halves before anything was cut off; on a tie the second counts as the longer.
    """
    if first + second <= room:
        return first, second
    if first_is_longer:
        return truncate_pair(first, second, room)
    second, first = truncate_pair(second, first, room)
    return first, second


def _plain(texts: Sequence[str], tokenizer: BaseTokenizer, max_length: int) -> PlainBatch | None:
    """Texts without anything special; None if one of them has no token at all."""
    layout = tokenizer.single
    room, before, after = _room(layout, max_length), layout.before, (*layout.between, *layout.after)
    if tokenizer.prompt:
        texts = [tokenizer.prompt + text for text in texts]
    ids = [(*before, *ids[:room], *after) for ids in tokenizer.encode(texts, max_length)]
    lengths = list(map(len, ids))
    if not all(lengths):
        return None
    return PlainBatch(np.fromiter(chain.from_iterable(ids), np.int32, sum(lengths)), lengths, tokenizer)


def _single(ids: list[int], tokenizer: BaseTokenizer, max_length: int, mask_cls_sep: bool, num_prompt: int) -> Features:
    layout = tokenizer.single
    return _sequence(layout, ids[:_room(layout, max_length)], [], tokenizer, mask_cls_sep, num_prompt)


def _pair(halves: Sequence[str | Sequence[str]], ids: Sequence[list[int]], tokenizer: BaseTokenizer, max_length: int,
          mask_cls_sep: bool, num_prompt: int) -> Features:
    layout, (first, second) = tokenizer.pair, ids
    room = _room(layout, max_length)
    if tokenizer.pairs_as_library:
        kept_first, kept_second = truncate_pair_as_library(
            len(first), len(second), room, _first_is_longer(halves, ids, max_length, tokenizer))
    else:
        kept_first, kept_second = truncate_pair(len(first), len(second), room)
    return _sequence(layout, first[:kept_first], second[:kept_second], tokenizer, mask_cls_sep, num_prompt)


def _sequence(layout: Layout, first: list[int], second: list[int], tokenizer: BaseTokenizer, mask_cls_sep: bool,
              num_prompt: int) -> Features:
    before, between, after = layout.before, layout.between, layout.after
    ids = [*before, *first, *between, *second, *after]
    if not ids and not tokenizer.takes_blank:
        noun, wanted = ("pair", "texts that are") if layout is tokenizer.pair else ("text", "a text that is")
        raise UnprocessableError(f"the {noun} has no token, and this model's tokenizer adds none; send {wanted} not "
                                 "blank")
    mask = _ones(len(ids))
    if mask_cls_sep:
        mask, middle = mask.copy(), len(before) + len(first)
        mask[:len(before)] = mask[middle:middle + len(between)] = mask[len(ids) - len(after):] = 0
    types = _types(layout, len(first), len(second)) if layout.has_types else _zeros(len(ids))
    return Features(np.array(ids, np.int32), types, mask, layout.num_special, tokenizer,
                    num_prompt=min(num_prompt, len(ids) - len(after)))


MAX_COMPARED = 1 << 14
"""Tokens of a half that are looked at to see which is the longer; of those that have more, characters are counted."""


def _first_is_longer(halves: Sequence[str | Sequence[str]], ids: Sequence[list[int]], max_length: int,
                     tokenizer: BaseTokenizer) -> bool:
    """Whether a pair's first half has more tokens than the second: of more than max_length, some may be missing."""
    if min(map(len, ids)) >= max_length:
        ids = [tokenizer.encode([half], MAX_COMPARED)[0] if isinstance(half, str) else tokens
               for half, tokens in zip(halves, ids)]
        if min(map(len, ids)) >= MAX_COMPARED and all(isinstance(half, str) for half in halves):
            return len(halves[0]) > len(halves[1])
    return len(ids[0]) > len(ids[1])


def _room(layout: Layout, max_length: int) -> int:
    """How many tokens of the texts there is room for."""
    room = max_length - layout.num_special
    if room < 0:
        raise UnprocessableError(f"a sequence can have {counted(max_length, 'token')}, and this model's special tokens "
                                 f"take {layout.num_special}")
    return room


def _types(layout: Layout, first: int, second: int) -> np.ndarray:
    """Token types of a sequence whose texts have so many tokens."""
    special = layout.special_types or (0,) * layout.num_special
    middle, end = len(layout.before), len(layout.before) + len(layout.between)
    kinds = np.array([*special[:middle], layout.first_type, *special[middle:end], layout.second_type, *special[end:]],
                     np.int32)
    counts = np.ones(len(kinds), np.intp)
    counts[middle], counts[end + 1] = first, second
    return kinds.repeat(counts)


def _bare(ids: list[int], tokenizer: BaseTokenizer, max_length: int) -> Features:
    ids = ids[:max_length]
    return Features(np.array(ids, np.int32), _zeros(len(ids)), _ones(len(ids)), tokenizer.single.num_special, tokenizer,
                    is_bare=True)


ZEROS, ONES = np.zeros(512, np.int32), np.ones(512, np.int32)
"""Shared by the sequences, most of which need nothing else; nobody may write to them."""
ZEROS.flags.writeable = ONES.flags.writeable = False


def _zeros(n: int) -> np.ndarray:
    return ZEROS[:n] if n <= len(ZEROS) else np.zeros(n, np.int32)


def _ones(n: int) -> np.ndarray:
    return ONES[:n] if n <= len(ONES) else np.ones(n, np.int32)
