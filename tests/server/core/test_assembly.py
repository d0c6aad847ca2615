"""A request's rows, put together in whatever order they arrive."""
import itertools

import numpy as np
import pytest
from bert_serving.server.core.assembly import Assembly, Slice
from hypothesis import given
from hypothesis import strategies as st

ROWS = np.arange(20, dtype=np.float32).reshape(10, 2)
PARTS = [(0, 3), (3, 1), (4, 4), (8, 2)]
"""(offset, count) of slices that make up ten sequences."""


@pytest.mark.parametrize("order", list(itertools.permutations(PARTS)), ids=str)
def test_rows_in_any_order(order):
    assembly = Assembly(10)
    for offset, count in order:
        assert not assembly.is_complete
        assembly.add(offset, count, Slice(ROWS[offset:offset + count]))
    assert assembly.is_complete
    np.testing.assert_array_equal(assembly.result(), ROWS)


def test_rows_that_are_there_stay_as_they_are():
    assembly = Assembly(2)
    assembly.add(0, 1, Slice(ROWS[:1]))
    assembly.add(0, 1, Slice(ROWS[5:6]))
    assert not assembly.is_complete
    assembly.add(1, 1, Slice(ROWS[1:2]))
    np.testing.assert_array_equal(assembly.result(), ROWS[:2])


def test_rows_of_a_single_slice_are_not_copied():
    assembly = Assembly(10)
    assembly.add(0, 10, Slice(ROWS))
    assert assembly.result() is ROWS


@st.composite
def token_level(draw):
    """(lengths of sequences, where to cut them into slices, the slices' order of arrival)"""
    lengths = draw(st.lists(st.integers(2, 6), min_size=1, max_size=8))
    cuts = sorted(draw(st.sets(st.integers(1, len(lengths) - 1)))) if len(lengths) > 1 else []
    bounds = list(zip([0, *cuts], [*cuts, len(lengths)]))
    return lengths, draw(st.permutations(bounds))


@given(token_level(), st.none() | st.integers(6, 9))
def test_token_rows_in_any_order_padded_with_zeros(request, width):
    lengths, bounds = request
    starts = np.cumsum([0, *lengths])
    tokens = np.arange(1, 2 * starts[-1] + 1, dtype=np.float32).reshape(-1, 2)
    assembly = Assembly(len(lengths))
    for first, last in bounds:
        assembly.add(first, last - first, Slice(
            tokens[starts[first]:starts[last]], lengths[first:last], [length - 2 for length in lengths[first:last]],
            [2] * (last - first)))
    result = assembly.result(width, max_width=512)
    assert result.shape == (len(lengths), width or max(lengths), 2) and result.dtype == np.float32
    for sequence, length in enumerate(lengths):
        np.testing.assert_array_equal(result[sequence, :length], tokens[starts[sequence]:starts[sequence + 1]])
        assert not result[sequence, length:].any()


@pytest.mark.parametrize("sequences, max_width, expected", [
    ([(5, 3, 2)], 512, 5),
    ([(5, 3, 2), (4, 1, 3)], 512, 6),    # a pair anywhere makes room for three special tokens (CONTRACT 5.3)
    ([(4, 4, 2)], 512, 6),               # -no_special_token gets two columns of padding all the same
    ([(12, 10, 2)], 12, 12),             # never beyond the model's own limit
    ([(12, 12, 2)], 12, 12),
], ids=str)
def test_width_is_that_of_the_originals_batch(sequences, max_width, expected):
    lengths, contents, specials = map(list, zip(*sequences))
    assembly = Assembly(len(sequences))
    assembly.add(0, len(sequences), Slice(np.ones((sum(lengths), 2), np.float16), lengths, contents, specials))
    assert assembly.result(None, max_width).shape == (len(sequences), expected, 2)


def test_tokens_in_request_order():
    assembly = Assembly(3)
    assembly.add(1, 2, Slice(ROWS[1:3], tokens=[["b"], ["c"]]))
    assembly.add(0, 1, Slice(ROWS[:1], tokens=[["a"]]))
    assert assembly.tokens() == [["a"], ["b"], ["c"]]


def test_no_tokens_where_the_server_shows_none():
    assembly = Assembly(1)
    assembly.add(0, 1, Slice(ROWS[:1]))
    assert assembly.tokens() is None
