"""What a request can say: what is said comes back, and anything else is an error that says why."""
import json
from dataclasses import FrozenInstanceError

import pytest
from bert_serving.client.errors import RequestError
from bert_serving.client.options import (DEFAULT, FIELDS, INPUTS, NAMES, RequestOptions, announced, decode_options,
                                         encode_options)
from hypothesis import given
from hypothesis import strategies as st

VALUES = {"timeout": st.none() | st.integers(0, 10**12) | st.floats(0), "tokens": st.booleans(),
          "input": st.none() | st.sampled_from(INPUTS)}
some_options = st.fixed_dictionaries(VALUES).map(lambda values: RequestOptions(**values))


def test_every_option_is_in_these_tests_and_says_what_it_does():
    assert set(VALUES) == set(NAMES)
    assert all(option.metadata["help"] and option.metadata["expected"] for option in FIELDS)


@given(some_options)
def test_what_is_said_comes_back(options):
    frame = encode_options(options)
    assert decode_options(frame or b"{}") == options
    assert bool(frame) == (options != DEFAULT)


def test_defaults_are_left_out():
    assert encode_options(RequestOptions()) == b""
    assert encode_options(RequestOptions(timeout=5000, input="texts")) == b'{"timeout": 5000, "input": "texts"}'


def test_options_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        DEFAULT.tokens = True


@pytest.mark.parametrize("values", [{}, {"timeout": None}, {"tokens": False}, {"input": None}])
def test_what_says_nothing(values):
    assert decode_options(json.dumps(values).encode()) == DEFAULT


@pytest.mark.parametrize("frame, complaint", [
    (b"", "options frame is not JSON"),
    (b"{", "options frame is not JSON"),
    (b"\xff", "options frame is not JSON"),
    (b"[" * 100_000, "options frame is not JSON"),
    (b"[]", "options frame is an array; expected an object"),
    (b'{"normalise": true}', 'unknown option "normalise"; expected timeout or tokens or input'),
    (b'{"timeout": -1}', "option timeout is -1; expected a number of milliseconds, 0 or more"),
    (b'{"timeout": NaN}', "option timeout is NaN"),
    (b'{"timeout": true}', "option timeout is a boolean"),
    (b'{"timeout": "5"}', 'option timeout is "5"'),
    (b'{"timeout": [1]}', "option timeout is an array"),
    (b'{"tokens": 1}', "option tokens is 1; expected true or false"),
    (b'{"tokens": null}', "option tokens is null"),
    (b'{"input": "files"}', 'option input is "files"; expected "texts" or "tokens" or "pairs"'),
    (b'{"input": ["texts"]}', "option input is an array"),
    (b'{"' + b"x" * 10_000 + b'": 1}', 'unknown option "xxx'),
])
def test_what_is_no_option_says_why(frame, complaint):
    for _ in range(2):  # an error is not remembered as an answer
        with pytest.raises(RequestError) as caught:
            decode_options(frame)
        assert complaint in caught.value.message and len(caught.value.message) < 200


@pytest.mark.parametrize("config", [None, {}, {"request_options": None}, {"request_options": "timeout"}])
def test_who_announces_nothing(config):
    assert "timeout" not in announced(config)


def test_who_announces_something():
    assert list(announced({"request_options": ["timeout", "dtype"]})) == ["timeout", "dtype"]
