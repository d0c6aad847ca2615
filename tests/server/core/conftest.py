"""Vocabulary of the tests of core: accepted requests, rows that tell where they belong, clients that record."""
import numpy as np
import pytest
from bert_serving.client import protocol
from bert_serving.server.core.assembly import Assembly
from bert_serving.server.core.batching import Pending, estimate_tokens
from bert_serving.server.core.outlet import Outlet

LIMIT = 25
"""Longest sequence, in tokens."""


def make_pending(uid, size=1, identity=b"client", words=1, deadline=None):
    """An accepted request whose texts are unique: "uid/number" and then some."""
    texts = [f"{uid}/{number}" + " word" * words for number in range(size)]
    return Pending(uid, identity, b"%d" % uid, texts, sum(map(len, texts)),
                   sum(estimate_tokens(texts, LIMIT)), 0.0, deadline, Assembly(size))


def vector_of(text):
    """What the engine would answer for a text: two numbers that no other text has."""
    uid, _, number = text.partition(" ")[0].partition("/")
    return [float(uid), float(number)]


def rows_of(texts):
    """float32 [n, 2]"""
    return np.array([vector_of(text) for text in texts], np.float32).reshape(len(texts), 2)


class Clients:
    """What clients have received: everything that a real Outlet sent, decoded.

    Attributes:
        received: (identity, reply)
        full: who does not read.
        limit: how many replies the network takes, in all.
    """

    def __init__(self, **limits):
        self.received = []
        self.outlet = Outlet(self.send, **{"max_client_bytes": 10**8, "max_bytes": 10**9, "hold_seconds": 30.0,
                                           **limits})
        self.full = set()
        self.limit = float("inf")

    def send(self, frames):
        identity = bytes(frames[0]).removesuffix(protocol.TERMINATOR)
        if identity in self.full or len(self.received) >= self.limit:
            return False
        if not (frames[-1].isdigit() and len(frames[-1]) <= protocol.MAX_DIGITS):
            frames = [*frames[:-1], b"0"]  # an error about the request's id goes out under that id
        self.received.append((identity, protocol.decode_reply(frames)))
        return True

    def join(self, *identities):
        """These subscribe."""
        for identity in identities:
            self.outlet.subscription(b"\1" + identity, 0.0)
            self.outlet.deliver(identity, 0.0)
        return self

    def replies_to(self, identity, request_id=None):
        return [reply for receiver, reply in self.received
                if receiver == identity and (request_id is None or reply.request_id == request_id)]


@pytest.fixture
def clients():
    """Clients "a" and "b", both subscribed."""
    return Clients().join(b"a", b"b")
