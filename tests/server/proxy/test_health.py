"""Golden sentences: what counts as well."""
import threading

import numpy as np
import pytest
from bert_serving.client.errors import DeadlineError, UnavailableError
from bert_serving.server.proxy import health
from bert_serving.server.golden import SENTENCES
from bert_serving.server.proxy.health import Readiness


class Golden:
    """A probe's client."""

    def __init__(self):
        self.vectors = np.arange(24, dtype=np.float32).reshape(6, 4)
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    @property
    def server_status(self):
        return {"precision": "fp32"}

    def encode(self, texts):
        assert tuple(texts) == SENTENCES
        self.asked += 1
        self.begun.set()
        assert self.gate.wait(20)
        if isinstance(self.vectors, Exception):
            raise self.vectors
        return self.vectors


@pytest.fixture
def client():
    return Golden()


@pytest.fixture
def readiness(client, monkeypatch):
    monkeypatch.setattr(health, "FRESH_SECONDS", 0.0)
    return Readiness(client)


def test_the_same_every_time(readiness, client):
    for change in (0, 1e-5, -1e-5):
        client.vectors = client.vectors + np.float32(change)
        assert readiness.check() >= 0
    assert client.asked == 3


@pytest.mark.parametrize("vectors, said", [
    (np.full((6, 4), np.nan, np.float32), "not finite"), (np.zeros((5, 4), np.float32), "not finite"),
    (np.ones((6, 4), np.float32), "other vectors"), (np.ones((6, 5), np.float32), "other vectors"),
    (DeadlineError("no answer"), "did not come back: no answer"),
    (UnavailableError("stopping"), "were not encoded: stopping")])
def test_anything_else(readiness, client, vectors, said):
    readiness.check()
    good, client.vectors = client.vectors, vectors
    with pytest.raises(UnavailableError, match=said):
        readiness.check()
    client.vectors = good
    readiness.check()


def test_an_answer_is_given_again_for_a_second(client):
    readiness = Readiness(client)
    assert readiness.check() == readiness.check()
    assert client.asked == 1


def test_who_asks_meanwhile_does_not_wait_long(readiness, client):
    client.gate.clear()
    first = threading.Thread(target=readiness.check)
    first.start()
    assert client.begun.wait(20)
    with pytest.raises(UnavailableError, match="seconds ago and are not back yet"):
        readiness.check()
    client.gate.set()
    first.join(20)
    assert client.asked == 1 and not first.is_alive()
