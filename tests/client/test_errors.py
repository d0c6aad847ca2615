"""Errors survive the wire, and old except clauses still catch them."""
import json

import pytest
from bert_serving.client import errors
from bert_serving.client.errors import BY_CODE, BertServingError, from_wire
from hypothesis import given
from hypothesis import strategies as st

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=5)


@pytest.mark.parametrize("code", BY_CODE)
def test_round_trip(code):
    error = BY_CODE[code]("what was found", index=3, retry_after=1.5)
    back = from_wire(json.loads(json.dumps(error.to_wire())))
    assert type(back) is BY_CODE[code]
    assert (str(back), back.message, back.index, back.retry_after) == ("what was found", "what was found", 3, 1.5)


def test_every_class_that_travels_has_its_own_code():
    classes = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, BertServingError)]
    assert set(classes) - set(BY_CODE.values()) == {errors.PoolExhaustedError}  # never leaves the process
    assert all(BY_CODE[cls.code] is cls for cls in set(classes) - {errors.PoolExhaustedError})


@pytest.mark.parametrize("error, builtin", [
    (errors.RequestError, ValueError), (errors.TooLargeError, ValueError), (errors.UnprocessableError, ValueError),
    (errors.DeadlineError, TimeoutError), (errors.PoolExhaustedError, TimeoutError),
    (errors.PoolExhaustedError, RuntimeError),
])
def test_builtin_parents(error, builtin):
    assert issubclass(error, builtin) and issubclass(error, BertServingError)


def test_unknown_code_is_the_servers_fault():
    assert type(from_wire({"code": "from the future", "message": "m"})) is BertServingError


@given(st.dictionaries(st.sampled_from(["code", "message", "index", "retry_after", "x"]), json_values))
def test_any_object_makes_an_error(wire):
    assert isinstance(from_wire(wire), BertServingError)


@pytest.mark.parametrize("retry_after", [10 ** 400, -1, float("nan"), float("inf"), "1"])
def test_useless_retry_after_is_left_out(retry_after):
    assert from_wire({"retry_after": retry_after}).retry_after is None
