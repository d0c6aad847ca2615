"""Pairs as values, and cut out of one text or one list of tokens as bert-as-service 1.x did."""
import re

import pytest
from bert_serving.client.pairs import Pair, split_text, split_tokens
from hypothesis import given
from hypothesis import strategies as st


def test_a_pair_is_no_list_of_its_halves():
    pair = Pair("a", "b")
    assert pair == Pair("a", "b") and pair != Pair("b", "a")
    assert pair != ["a", "b"] and pair != ("a", "b")
    assert len({pair, Pair("a", "b"), ("a", "b")}) == 2
    assert tuple(pair) == ("a", "b")


def test_its_length_is_that_of_both():
    assert len(Pair("ab", "cde")) == len(Pair(["a"] * 2, ["b"] * 3)) == 5
    assert Pair("", "")


@pytest.mark.parametrize("text, expected", [
    ("x ||| y ||| z", Pair("x ||| y", "z")),               # the last one
    (" a ||| b ", Pair("a", "b")),
    ("||| b", "||| b"),                                    # a space is needed on both sides, after stripping
    ("a ||| ", "a ||| "),
    ("a|||b", "a|||b"),
    ("a ||| b\nc", "a ||| b\nc"),                          # a line break makes it ordinary text
    ("a ||| b\n", Pair("a", "b")),                         # ... unless it is stripped
    ("x ||| ||| y", Pair("x |||", "y")),
    ("", ""),
])
def test_pairs_of_text(text, expected):
    assert split_text(text) == expected


@given(text=st.text(st.sampled_from("a |\n"), max_size=30))
def test_pairs_of_text_equal_the_regular_expression(text):
    match = re.match(r"^(.*) \|\|\| (.*)$", text.strip())
    assert split_text(text) == (Pair(*match.groups()) if match else text)


def test_pairs_of_tokens_split_at_the_first():
    assert split_tokens(["a", "|||", "b", "|||", "c"]) == Pair(["a"], ["b", "|||", "c"])
    assert split_tokens(["|||"]) == Pair([], [])
    assert split_tokens(["a", "| |||"]) == ["a", "| |||"]
