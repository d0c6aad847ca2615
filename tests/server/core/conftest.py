"""Vocabulary of the tests of core: accepted requests, rows that tell where they belong, clients that record."""
import numpy as np
from bert_serving.client import protocol
from bert_serving.server.core.assembly import Assembly
from bert_serving.server.core.batching import Pending, estimate_tokens
from bert_serving.server.core.messages import Rows
from bert_serving.server.core.outlet import Outlet
from bert_serving.server.core.placement import CPU
from bert_serving.server.core.remote_messages import PROTOCOL, encode_proof

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


# ---- other hosts -----------------------------------------------------------------------------------------------------

GOLDEN = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
WIDTH = GOLDEN.shape[1]


def who(host="a", **values):
    return {"host": host, "name": f"host-{host}", "pid": 7, "version": "2", "protocol": PROTOCOL, **values}


def about(worker=0, proof=GOLDEN, **values):
    return {"worker": worker, "device": CPU, "num_threads": 2, "proof": encode_proof(proof), **values}


def rows(flight, count=2, **values):
    """What a worker of another host answers to a job."""
    array = np.ones((count, WIDTH), np.float32)
    return Rows(**{"slot": flight.slot, "incarnation": 1, "job": flight.job, "array": array, "num_tokens": 6,
                   "seconds": {"compute": 0.5}, "counts": [3] * count, **values})


# ---- clients ---------------------------------------------------------------------------------------------------------

class Network:
    """Plays the broker's loop for an outlet: sends what it lets out, and reports what became of it.

    Attributes:
        sent: (identity, frames)
        full: who does not read.
        limit: how many replies the network takes, in all.
    """

    def __init__(self, **limits):
        self.sent = []
        self.outlet = Outlet(**{"max_client_bytes": 10**8, "max_bytes": 10**9, "hold_seconds": 30.0, **limits})
        self.full = set()
        self.limit = float("inf")

    def send(self, identity, frames):
        if identity in self.full or len(self.sent) >= self.limit:
            return False
        self.sent.append((identity, frames))
        return True

    def post(self, identity, frames, now=0.0, is_result=False):
        """False if the outlet drops it."""
        topic = self.outlet.open_topic(identity)
        assert topic in (None, identity + b"\0"), "without terminator, one identity's is the beginning of another's"
        if topic is not None and self.send(identity, frames):
            self.outlet.sent(identity, frames, now, is_result)
            return True
        return self.outlet.hold(identity, frames, now, is_result)

    def deliver(self, identity, now=0.0):
        while (frames := self.outlet.next_held(identity)) is not None:
            if not self.send(identity, frames):
                self.outlet.block(identity)
                return
            self.outlet.delivered(identity, now)

    def retry(self, now=0.0):
        for identity in list(self.outlet.blocked):
            self.deliver(identity, now)

    def join(self, *identities):
        """These subscribe; returns who of them has been there before."""
        back = []
        for identity in identities:
            if self.outlet.subscription(b"\1" + identity, 0.0).is_back:
                back.append(identity)
            self.deliver(identity)
        return back


class Clients(Network):
    """What clients have received, decoded."""

    def publish(self, replies, sink, now=0.0):
        """What the broker does with replies."""
        for reply in replies:
            is_kept = self.post(reply.identity, reply.frames, now, reply.request is not None)
            if reply.request is not None and is_kept:
                sink.answered(reply.request, now)
            elif reply.request is not None:
                dropped = sink.dropped(reply.request, sum(map(len, reply.frames)))
                self.post(dropped.identity, dropped.frames, now)

    @property
    def received(self):
        """(identity, reply)"""
        return [(identity, decode(identity, frames)) for identity, frames in self.sent]

    def replies_to(self, identity, request_id=None):
        return [reply for receiver, reply in self.received
                if receiver == identity and (request_id is None or reply.request_id == request_id)]


def decode(identity, frames):
    """The reply in frames without topic."""
    if not (frames[-1].isdigit() and len(frames[-1]) <= protocol.MAX_DIGITS):
        frames = [*frames[:-1], b"0"]  # an error about the request's id goes out under that id
    return protocol.decode_reply([protocol.topic(identity), *frames])
