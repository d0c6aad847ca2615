"""Counts with their nouns, and names of types."""
import math

import numpy as np
import pytest
from bert_serving.client.words import counted, every, json_kind, python_kind, with_article


@pytest.mark.parametrize("number, text", [(0, "0 workers"), (1, "1 worker"), (2, "2 workers"), (1.0, "1 worker"),
                                          (0.5, "0.5 workers"), (1_000_000, "1000000 workers"),
                                          (np.int64(1), "1 worker"),
                                          (2e7, "20000000 workers"), (math.inf, "inf workers")])
def test_a_count_has_its_noun(number, text):
    assert counted(number, "worker") == text


def test_a_plural_of_its_own():
    assert [counted(number, "batch", "batches") for number in (1, 3)] == ["1 batch", "3 batches"]


def test_all_of_one():
    assert [every(number, "client") for number in (1, 2)] == ["the only client", "all 2 clients"]


@pytest.mark.parametrize("noun, text", [("int", "an int"), ("str", "a str"), ("object", "an object"),
                                        ("ndarray", "an ndarray"), ("uint8", "a uint8"), ("NaT", "a NaT")])
def test_articles(noun, text):
    assert with_article(noun) == text


@pytest.mark.parametrize("value, python, of_json", [
    (None, "None", "null"), (1, "an int", "an integer"), (True, "a bool", "a boolean"), (.5, "a float", "a number"),
    ("a", "a str", "a string"), ([], "a list", "an array"), ({}, "a dict", "an object"), (b"", "bytes", "bytes"),
    (np.zeros(1), "an ndarray", "an ndarray")], ids=repr)
def test_names_of_types(value, python, of_json):
    assert (python_kind(value), json_kind(value)) == (python, of_json)
