"""Turns, and what the client refuses. How long turns are waited for is in test_app.py."""
import pytest
from bert_serving.client.errors import PoolExhaustedError, RequestError
from bert_serving.server.proxy.answers import WrongBody
from bert_serving.server.proxy.gate import ClientGoneError, Gate
from flask import Flask


@pytest.fixture
def gate(fake):
    with Flask("test").test_request_context():
        yield Gate(fake, 1, 0)


def test_one_at_a_time(gate):
    with gate.turn():
        with pytest.raises(PoolExhaustedError, match="1 request in progress"):
            gate.encode(["a"])
    assert gate.encode(["a"]).shape == (1, 2)


@pytest.mark.parametrize("error", [ValueError("x"), RequestError("x"), KeyError("x")])
def test_a_turn_ends_with_an_error(gate, fake, error):
    fake.error = error
    for _ in range(3):
        with pytest.raises(Exception, match="x"):
            gate.encode(["a"])


def test_what_the_client_refuses_names_the_key(gate):
    with pytest.raises(WrongBody, match="element 0 is an integer") as caught:
        gate.encode_with_tokens([1], False, "input")
    assert (caught.value.kind, caught.value.param) == ("TypeError", "input")
    with pytest.raises(WrongBody, match="empty or blank") as caught:
        gate.encode(["a", " "])
    assert (caught.value.kind, caught.value.param, caught.value.more) == ("ValueError", "texts", {"index": 1})


def test_nobody_is_asked_for_whom_nobody_waits(fake):
    with Flask("test").test_request_context(environ_overrides={"waitress.client_disconnected": lambda: True}):
        with pytest.raises(ClientGoneError):
            Gate(fake, 1, 0).encode(["a"])
    assert not hasattr(fake, "call")


def test_tokens(gate):
    vectors, tokens = gate.encode_with_tokens(["a b"], False)
    assert vectors.shape == (1, 2) and tokens == [["[CLS]", "a", "b", "[SEP]"]]
