"""Sequences as Google's BERT builds them: pairs, truncation, masks."""
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client.errors import UnprocessableError
from bert_serving.client.pairs import Pair
from bert_serving.server.core.features import (PlainBatch, build_features, lengths_of, truncate_pair,
                                               truncate_pair_as_library)
from bert_serving.server.core.tokenization import Layout, WordHashTokenizer

TOKENIZER = WordHashTokenizer()
CLS, SEP = "[CLS]", "[SEP]"


def build(text, max_length=25, **options):
    features, = build_features([text], TOKENIZER, max_length=max_length, **options)
    assert features.input_ids.dtype == features.token_type_ids.dtype == features.input_mask.dtype == np.int32
    assert len(features.input_ids) == len(features.token_type_ids) == len(features.input_mask) == len(features)
    assert features.tokens == TOKENIZER.tokens(features.input_ids.tolist())
    return features


def test_single():
    features = build("a b")
    assert features.tokens == [CLS, "a", "b", SEP]
    assert features.token_type_ids.tolist() == [0, 0, 0, 0]
    assert features.input_mask.tolist() == [1, 1, 1, 1]
    assert features.num_special == 2


@pytest.mark.parametrize("text", [Pair("a b", "c"), Pair(["a", "b"], ["c"])])
def test_pair(text):
    features = build(text)
    assert features.tokens == [CLS, "a", "b", SEP, "c", SEP]
    assert features.token_type_ids.tolist() == [0, 0, 0, 0, 1, 1]
    assert features.num_special == 3


def test_a_pair_is_taken_literally():
    features = build(Pair("a ||| b\nc", "d ||| e"))
    assert features.tokens == [CLS, "a", "|||", "b", "c", SEP, "d", "|||", "e", SEP]
    assert build("a ||| b").tokens == [CLS, "a", "|||", "b", SEP]
    assert build(["a", "|||", "b"]).num_special == 2


@pytest.mark.parametrize("text", [Pair("a", " "), Pair(["a"], [])])
def test_a_pair_without_its_second_half_is_single(text):
    assert build(text).num_special == 2


def test_a_pair_without_its_first_half():
    assert build(Pair([], ["b"])).tokens == [CLS, SEP, "b", SEP]


@pytest.mark.parametrize("options", [{}, {"no_special_token": True}])
@pytest.mark.parametrize("text", ["", "  ", []])
def test_nothing(text, options):
    assert build(text, **options).tokens == [CLS, SEP]


def with_layout(pair=None, **attributes):
    tokenizer = WordHashTokenizer()
    tokenizer.pair = pair or tokenizer.pair
    for name, value in attributes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def test_token_types_as_the_layout_says():
    layout = Layout((1,), (2,), (2, 3), first_type=4, second_type=5, special_types=(6, 7, 8, 9))
    features, = build_features([Pair("a b", "c")], with_layout(layout), max_length=25)
    assert features.input_ids.tolist()[:1] == [1] and features.token_type_ids.tolist() == [6, 4, 4, 7, 8, 5, 9]
    assert features.num_special == 4
    features, = build_features([Pair("a b", "c")], with_layout(layout.without_types()), max_length=25)
    assert not features.token_type_ids.any() and len(features) == 7


def test_a_prompt_is_put_in_front_of_texts_and_of_the_first_of_a_pair():
    """As sentence-transformers does it, for a CrossEncoder as well."""
    tokenizer = with_layout(prompt="query: a ")
    given = ["b", ["b"], Pair("b", "c"), "", Pair(["b"], ["c"])]
    texts = build_features(given, tokenizer, max_length=25, include_prompt=False)
    assert [one.tokens for one in texts] == [[CLS, "query:", "a", "b", SEP], [CLS, "b", SEP],
                                             [CLS, "query:", "a", "b", SEP, "c", SEP], [CLS, "query:", "a", SEP],
                                             [CLS, "b", SEP, "c", SEP]]
    assert [one.num_prompt for one in texts] == [3, 0, 3, 3, 0]
    assert not any(one.num_prompt for one in build_features(given, tokenizer, max_length=25))


def test_a_prompt_that_fills_the_sequence():
    features, = build_features(["b"], with_layout(prompt="a " * 30), max_length=8, include_prompt=False)
    assert features.num_prompt == 7 and len(features) == 8


def test_special_tokens_that_leave_no_room_are_an_error():
    layout = Layout((1,) * 3, (2,) * 3, (3,) * 3)
    with pytest.raises(UnprocessableError, match="can have 8 tokens, .* take 9"):
        build_features([Pair("a", "b")], with_layout(layout), max_length=8)
    assert len(build_features([Pair("a", "b")], with_layout(layout), max_length=9)[0]) == 9


# ---- texts alone, end to end -----------------------------------------------------------------------------------------

TEXTS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=12).map(" ".join), min_size=1, max_size=8)


def as_lists(batch):
    return [(one.input_ids.tolist(), one.token_type_ids.tolist(), one.input_mask.tolist(), one.num_special, one.is_bare,
             one.num_prompt, one.tokens) for one in batch]


@given(TEXTS, st.sampled_from(["", "query: "]), st.integers(4, 12))
def test_texts_alone_are_what_they_are_beside_a_pair(texts, prompt, max_length):
    tokenizer = with_layout(prompt=prompt)
    batch = build_features(texts, tokenizer, max_length=max_length)
    assert isinstance(batch, PlainBatch)
    *expected, pair = build_features([*texts, Pair("a", "b")], tokenizer, max_length=max_length)
    assert as_lists(batch) == as_lists(expected)
    assert batch.lengths == lengths_of(batch) == lengths_of(expected) and len(batch) == len(texts)
    assert batch.input_ids.dtype == batch.starts.dtype == np.int32
    np.testing.assert_array_equal(batch.input_ids, np.concatenate([one.input_ids for one in expected]))
    assert batch.starts.tolist() == [0, *np.cumsum(batch.lengths)]


@given(TEXTS, st.slices(8))
def test_a_part_of_them(texts, part):
    batch = build_features(texts, TOKENIZER, max_length=9)
    assert as_lists(batch[part]) == as_lists(batch)[part]
    assert as_lists([batch[-1]]) == as_lists(batch)[-1:]
    if isinstance(batch[part], PlainBatch):
        assert batch[part].starts.tolist() == [0, *np.cumsum(batch[part].lengths)]


@pytest.mark.parametrize("given, options", [
    (["a", Pair("a", "b")], {}), (["a", ["b"]], {}), (["a"], {"mask_cls_sep": True}), ([], {})])
def test_other_batches_are_sequences_one_by_one(given, options):
    assert not isinstance(build_features(given, TOKENIZER, max_length=9, **options), PlainBatch)


def test_texts_with_token_types_or_a_prompt_left_out_are_sequences_one_by_one():
    types = with_layout(single=Layout((1,), (2,), first_type=3, special_types=(2, 0)))
    assert not isinstance(build_features(["a"], types, max_length=9), PlainBatch)
    prompt = with_layout(prompt="query: ")
    assert not isinstance(build_features(["a"], prompt, max_length=9, include_prompt=False), PlainBatch)


# ---- truncation ------------------------------------------------------------------------------------------------------

def drop_one_by_one(first, second, room):
    """The paper's way."""
    while first + second > room:
        if first > second:
            first -= 1
        else:
            second -= 1
    return first, second


@given(first=st.integers(0, 60), second=st.integers(0, 60), room=st.integers(1, 40))
def test_pairs_lose_the_end_of_the_longer(first, second, room):
    assert truncate_pair(first, second, room) == drop_one_by_one(first, second, room)


def drop_as_library(first, second, room):
    """What the library computes, in its own words."""
    swap = first > second
    short, long = (second, first) if swap else (first, second)
    if short + long <= room:
        return first, second
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if swap else (short, long)


@given(first=st.integers(0, 60), second=st.integers(0, 60), room=st.integers(0, 40))
def test_pairs_lose_tokens_as_in_the_library(first, second, room):
    assert truncate_pair_as_library(first, second, room, first > second) == drop_as_library(first, second, room)


@pytest.mark.parametrize("first, second, expected", [
    ("a " * 20_000, "b " * 20_001, (2, 3)), ("a " * 20_001, "b " * 20_000, (3, 2)), ("a " * 90, "b " * 91, (2, 3)),
    (["a"] * 90, "b " * 91, (2, 3)), (["a"] * 91, ["b"] * 90, (3, 2)), ("a " * 9, "b " * 9, (2, 3))])
def test_the_longer_half_keeps_one_more(first, second, expected):
    tokenizer = with_layout(pairs_as_library=True)
    features, = build_features([Pair(first, second)], tokenizer, max_length=8)
    assert (features.tokens.count("a"), features.tokens.count("b")) == expected


def test_single_loses_its_right_end():
    assert build("a b c d e", 5).tokens == [CLS, "a", "b", "c", SEP]


@given(st.data())
def test_sequences(data):
    """Length, masks and types of any text, raw or tokenized, pair or single."""
    words = st.lists(st.sampled_from("abcdef"), max_size=40)
    first, second = data.draw(words), data.draw(words)
    raw, masked, bare = (data.draw(st.booleans()) for _ in range(3))
    room = data.draw(st.integers(4, 30))
    text = Pair(" ".join(first), " ".join(second)) if raw else Pair(first, second)
    features = build(text, room, mask_cls_sep=masked, no_special_token=bare)
    assert 1 <= len(features) <= room
    a, b = first, second
    if b:
        kept_a, kept_b = drop_one_by_one(len(a), len(b), room - 3)
        assert features.tokens == [CLS, *a[:kept_a], SEP, *b[:kept_b], SEP]
    elif bare and not raw and a:
        assert features.tokens == a[:room]
    else:
        assert features.tokens == [CLS, *a[:room - 2], SEP]
    special = [token in (CLS, SEP) for token in features.tokens]
    assert features.input_mask.tolist() == [0 if masked and hidden else 1 for hidden in special]
    seps = np.cumsum([token == SEP for token in features.tokens])
    types = np.concatenate([[0], seps[:-1]]) if b else np.zeros(len(features))
    assert features.token_type_ids.tolist() == types.tolist()


def test_no_special_token():
    features = build(["a", "b", "c"], 2, no_special_token=True, mask_cls_sep=True)
    assert features.tokens == ["a", "b"]
    assert features.input_mask.tolist() == [1, 1]
    assert features.num_special == 2
    assert build("a b", no_special_token=True).tokens == [CLS, "a", "b", SEP]
    assert build(Pair(["a"], ["b"]), no_special_token=True).tokens == [CLS, "a", SEP, "b", SEP]


def test_no_special_token_with_long_raw_text():
    """The original's worker died of it."""
    assert len(build("a " * 100, 25, no_special_token=True)) == 25


def test_batches_keep_their_order():
    texts = ["a b", ["c"], Pair("d", "e"), "", Pair(["f"], ["g"]), "h"]
    together = build_features(texts, TOKENIZER, max_length=25)
    assert [features.tokens for features in together] == [build(text).tokens for text in texts]
    assert build_features([], TOKENIZER, max_length=25) == []


def test_sequences_longer_than_the_shared_arrays():
    assert len(build("a " * 3000, 2000)) == len(build(["a"] * 3000, 2000, no_special_token=True)) == 2000


def test_the_shared_arrays_cannot_be_written_to():
    with pytest.raises(ValueError):
        build("a").input_mask[0] = 7


def test_a_megabyte_takes_no_time():
    start = time.process_time()
    assert len(build(Pair("a " * 500_000, "b " * 500_000))) == 25
    assert time.process_time() - start < 1
