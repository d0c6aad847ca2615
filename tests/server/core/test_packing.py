"""Packing: every token once, no row overfull, little padding, and neighbours kept apart."""
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.core.features import Features
from bert_serving.server.core.packing import LONG, MAX_TOKENS, RUN_COST, lay_out, plan
from bert_serving.server.core.tokenization import WordHashTokenizer

LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=300) | st.lists(st.integers(1, 30), min_size=1,
                                                                             max_size=300)


def sentences(lengths, seed=0):
    """Tokens that occur once in the whole batch."""
    random = np.random.default_rng(seed)
    ends = np.cumsum(lengths)
    return [Features(np.arange(end - length, end, dtype=np.int32), random.integers(0, 2, length, dtype=np.int32),
                     random.integers(0, 2, length, dtype=np.int32), 2, WordHashTokenizer())
            for end, length in zip(ends, lengths)]


def padded(runs):
    return sum(run.width * len(run.rows) for run in runs)


# ---- plan ------------------------------------------------------------------------------------------------------------

@given(lengths=LENGTHS)
def test_every_sentence_once_and_no_row_overfull(lengths):
    runs = plan(lengths)
    assert Counter(index for run in runs for row in run.rows for index in row) == Counter(range(len(lengths)))
    for run in runs:
        assert run.rows and all(run.rows)
        assert all(sum(lengths[index] for index in row) <= run.width for row in run.rows)
        assert len(run.rows) * run.width <= max(MAX_TOKENS, run.width)
        assert run.alone == (run.width > LONG)
        assert not run.alone or [lengths[index] for index in run.rows[0]] == [run.width]


@given(lengths=LENGTHS)
def test_padding_is_bounded(lengths):
    """Never worse than rows of one sentence each: the longest of a run is not much longer than its other openers."""
    for run in plan(lengths):
        openers = [lengths[row[0]] for row in run.rows]
        assert max(openers) - min(openers) <= max(RUN_COST, max(openers) // 4)
    assert padded(plan(lengths)) <= sum(max(length + RUN_COST, length * 4 / 3) + 1 for length in lengths) + 48


RANDOM = np.random.default_rng(0)
WORKLOADS = {
    "short": (np.minimum(RANDOM.geometric(0.13, 256) + 2, 25), 0.97), "any to 25": (RANDOM.integers(3, 26, 256), 0.97),
    "few": (RANDOM.integers(3, 26, 32), 0.92), "long": (RANDOM.integers(3, 257, 64), 0.9),
    "texts": (np.minimum(RANDOM.lognormal(3, 0.8, 256).astype(int) + 2, 256), 0.92),
    "one length": (np.full(100, 25), 1), "another": (np.full(3, 17), 1), "one long": (np.array([300, 5, 5, 5]), 1)}


@pytest.mark.parametrize("name", WORKLOADS)
def test_fill(name):
    """Share of what is computed that is somebody's token."""
    lengths, least = WORKLOADS[name]
    assert lengths.sum() / padded(plan(lengths.tolist())) >= least


def test_a_lone_sentence_takes_the_shortest_way():
    for length in (1, 12, 512):
        run, = plan([length])
        assert (run.width, run.rows, run.alone) == (length, [[0]], length > LONG)


def test_short_sentences_are_not_put_into_long_rows():
    runs = plan([400] + [8] * 40)
    assert [run.width for run in runs][0] == 400
    assert all(run.width <= 48 for run in runs[1:])


def test_gaps_are_filled():
    run, = plan([100, 90, 10])
    assert (run.width, run.rows) == (100, [[0], [1, 2]])


def test_runs_of_equal_size():
    assert [len(run.rows) for run in plan([128] * 9)] == [3, 3, 3]
    assert [len(run.rows) for run in plan([100] * 11)] == [4, 4, 3]


# ---- lay_out ---------------------------------------------------------------------------------------------------------

@given(lengths=LENGTHS, seed=st.integers(0, 9))
def test_every_token_has_its_place(lengths, seed):
    batch = sentences(lengths, seed)
    for run in plan(lengths):
        layout = lay_out(run, batch)
        shape = (len(run.rows), run.width)
        assert len(layout.places) == len(set(layout.places.tolist())) == layout.cu_seqlens[-1]
        filled = np.zeros(shape, bool)
        for number, index in enumerate(layout.order):
            places = layout.places[layout.cu_seqlens[number]:layout.cu_seqlens[number + 1]]
            row, column = divmod(int(places[0]), run.width)
            assert index in run.rows[row]
            part = (row, slice(column, column + lengths[index]))
            assert np.array_equal(places, places[0] + np.arange(lengths[index]))
            assert np.array_equal(layout.input_ids[part], batch[index].input_ids)
            assert np.array_equal(layout.token_type_ids[part], batch[index].token_type_ids)
            assert np.array_equal(layout.position_ids[part], np.arange(lengths[index]))
            assert (layout.owner[part] == number).all()
            mask = batch[index].input_mask
            expected = mask == 0 if mask.any() else np.zeros(lengths[index], bool)
            assert np.array_equal(expected, layout.hidden[part] if layout.hidden is not None else ~expected & False)
            filled[part] = True
        assert np.array_equal(filled, layout.owner >= 0)
        assert not layout.input_ids[~filled].any() and not layout.position_ids[~filled].any()
        if layout.hidden is not None:
            assert not layout.hidden[~filled].any()
        expected = np.concatenate([batch[index].input_mask for index in layout.order])
        assert np.array_equal(expected, np.ones(len(expected)) if layout.pool_mask is None else layout.pool_mask)


@pytest.mark.parametrize("num_prompt, expected", [
    ((0, 0), None), ((2, 0), [0, 0, 1, 1, 1]), ((0, 1), [1, 1, 1, 0, 1]), ((3, 2), [0] * 5)])
def test_pooling_does_not_see_prompts(num_prompt, expected):
    batch = [replace(one, input_mask=np.ones_like(one.input_mask), num_prompt=number)
             for one, number in zip(sentences([3, 2]), num_prompt)]
    layout = lay_out(plan([3, 2])[0], batch)
    assert layout.hidden is None, "attention sees them"
    assert (layout.pool_mask is None) is (expected is None)
    assert expected is None or layout.pool_mask.tolist() == expected


def test_types():
    layout = lay_out(plan([3, 2])[0], sentences([3, 2]))
    assert {array.dtype.name for array in (layout.input_ids, layout.token_type_ids, layout.position_ids,
                                           layout.owner)} == {"int32"}
