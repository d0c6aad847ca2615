"""One process that sends hostile input to one door of a running server, until its standard input is closed.

    python -m tests.fuzz.flood '{"door": "requests", "port": 5555, "seed": 1, "pace": 0}'

writes JSON, a line each: ``["sent", n]`` (so many more since the last line), ``["wrong", what, [frames in base64]]``
for an answer that should not be; and at its end ``["last", [[frames in base64], ...]]``: what it sent last.
"""
from __future__ import annotations

import json
import os
import random
import re
import select
import socket
import sys
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import zmq
from bert_serving.client import protocol
from bert_serving.server.core import remote_messages
from bert_serving.server.engine import backends, base
from bert_serving.server.engine.base import EngineSettings

from . import generate
from .generate import IDENTITIES, Frames, Random

KEPT = 300
ORDINARY = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-|raw\d|ours\d")
"""How the identities of the clients begin that are checked meanwhile."""

STUCK_SECONDS = 20
"""A server that takes nothing for so long while others go on is an answer that should not be."""


class Reporter:
    """Counts and tells what is sent.

    Attributes:
        is_over: standard input was closed: nobody wants more.
    """

    def __init__(self) -> None:
        self.is_over = threading.Event()
        self.kept: deque[Frames] = deque(maxlen=KEPT)
        self._count, self._next = 0, time.monotonic() + 0.5
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        sys.stdin.read()
        self.is_over.set()

    def sent(self, frames: Frames) -> None:
        self.kept.append(frames)
        self._count += 1
        if time.monotonic() >= self._next:
            self.flush()

    def flush(self) -> None:
        _say("sent", self._count)
        self._count, self._next = 0, time.monotonic() + 0.5

    def wrong(self, what: str, frames: Frames) -> None:
        _say("wrong", what, [b64encode(frame[:2000]).decode() for frame in frames])

    def last(self) -> None:
        _say("last", [[b64encode(frame).decode() for frame in frames] for frames in self.kept
                      if sum(map(len, frames)) < 10_000])


def _say(*event: object) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


# ---- ZeroMQ ----------------------------------------------------------------------------------------------------------

def requests(rng: Random, port: int, report: Reporter) -> Iterator[None]:
    """Requests, mostly spoiled; every few thousand from a new connection."""
    context = zmq.Context()
    while True:
        push = context.socket(zmq.PUSH)
        push.linger = 0
        push.connect(f"tcp://127.0.0.1:{port}")
        for _ in range(rng.choice((10, 1000, 20_000))):
            frames = generate.request(rng)
            if rng.random() < 0.9:
                frames = generate.without_termination(generate.spoil(rng, frames))
            if not frames:
                continue
            if not _send(push, frames, report):
                return
            yield
        push.close()


def subscriptions(rng: Random, port: int, report: Reporter) -> Iterator[None]:
    """Subscriptions and what is none, and a look at what comes in: nothing that is for an ordinary client may."""
    context = zmq.Context()
    while True:
        ends = [context.socket(zmq.XSUB) for _ in range(4)]
        for end in ends:
            end.linger = 0
            end.connect(f"tcp://127.0.0.1:{port}")
            end.send(b"\1")  # everything, please
        # Not many more: what a connection is subscribed to costs libzmq time whenever any connection ends, and memory.
        for _ in range(rng.choice((50, 500))):
            frames = [generate.subscription(rng)]
            if rng.random() < 0.6:
                frames = generate.spoil(rng, frames) or [b""]
            end = rng.choice(ends)
            if not _send(end, frames, report):
                return
            for end in ends:
                _listen(end, report)
            yield
        for end in ends:
            end.close()


def _send(to: zmq.Socket[bytes], frames: Frames, report: Reporter) -> bool:
    """Whether it was taken: it waits as long as there is somebody who wants more, and the server is not stuck."""
    for _ in range(STUCK_SECONDS * 10):
        try:
            to.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            if report.is_over.is_set():
                return False
            to.poll(100, zmq.POLLOUT)
        else:
            report.sent(frames)
            return True
    report.wrong(f"nothing was taken for {STUCK_SECONDS} seconds", frames)
    return False


def _listen(end: zmq.Socket[bytes], report: Reporter) -> None:
    with suppress(zmq.Again):
        while True:
            frames = end.recv_multipart(zmq.NOBLOCK)
            if ORDINARY.match(frames[0]) or not frames[0].endswith(b"\0"):
                report.wrong(f"a reply to {frames[0]!r} came to who may not have it", frames)
            try:
                protocol.decode_reply(frames)
            except protocol.ProtocolError as error:
                if len(frames[-1]) <= protocol.MAX_DIGITS and frames[-1].isdigit():
                    report.wrong(f"a reply that is none: {error}", frames)


def hosts(rng: Random, port: int, report: Reporter) -> Iterator[None]:
    """Strangers at the port for workers, and hosts that join, bring a worker that seems right, and talk nonsense.

    No answer of theirs is to be taken: they have no vectors, and do not say that a text is to blame.
    """
    context = zmq.Context()
    golden = remote_messages.encode_proof(_golden())
    while True:
        dealer = context.socket(zmq.DEALER)
        dealer.linger, dealer.sndtimeo = 0, STUCK_SECONDS * 1000
        dealer.connect(f"tcp://127.0.0.1:{port}")
        is_member = rng.random() < 0.5
        if is_member:
            dealer.send_multipart(generate.joining(rng))
            if not dealer.poll(STUCK_SECONDS * 1000) or dealer.recv_multipart()[0] != remote_messages.WELCOME:
                report.wrong("who joins as it should is not welcome", [])
                return
            if rng.random() < 0.1:
                dealer.send_multipart(remote_messages.encode(remote_messages.READY, worker=0, device=-1, about="fuzz",
                                                             proof=golden))
                dealer.poll(50)  # ordinary clients' jobs may come
        for _ in range(rng.choice((1, 10, 100))):
            frames = generate.host(rng)
            if frames[0] == remote_messages.ANSWER:
                if len(frames) < 4:
                    continue
                frames[-1] = frames[-1][:rng.randrange(100)]
            if rng.random() < 0.9:
                frames = generate.spoil(rng, frames) or [b""]
            if not _send(dealer, frames, report):
                return
            yield
            if rng.random() < 0.9:
                with suppress(zmq.Again):  # some do not read
                    while dealer.recv_multipart(zmq.NOBLOCK):
                        pass
        if rng.random() < 0.95:
            dealer.close()
        else:
            _forgotten.append(dealer)
            if len(_forgotten) > 20:
                _forgotten.popleft().close()


_forgotten: deque[zmq.Socket[bytes]] = deque()
"""Connections that say nothing any more."""


def _golden() -> np.ndarray:
    """What the server that is under fire expects of a worker's vectors."""
    settings = EngineSettings(engine="echo")
    engine = backends.create(settings)
    return base.prove(engine, base.create_tokenizer(settings), settings)


def raw(rng: Random, port: int, report: Reporter) -> Iterator[None]:
    """Bytes that are, or look like, those of ZeroMQ's own protocol."""
    for frames in _connections(rng, port, report, lambda: generate.zmtp(rng)):
        yield


# ---- HTTP ------------------------------------------------------------------------------------------------------------

def http(rng: Random, port: int, report: Reporter) -> Iterator[None]:
    """HTTP, mostly malformed; what comes back is HTTP, and no failure of the proxy's own."""
    for answer, sent in _connections(rng, port, report, lambda: generate.http(rng)):
        if answer and not answer.startswith(b"HTTP/1."):
            report.wrong(f"no HTTP came back: {answer[:60]!r}", [sent])
        elif answer[9:12] == b"500":
            report.wrong(f"the proxy failed: {answer[-300:]!r}", [sent])
        yield


# ---- raw connections -------------------------------------------------------------------------------------------------

def _connections(rng: Random, port: int, report: Reporter, make: Callable[[], bytes]) -> Iterator[tuple[bytes, bytes]]:
    """(first bytes of the answer, what was sent) of one connection after the other; some stay open for a while."""
    open_ones: deque[socket.socket] = deque()
    while True:
        sent, answer = make(), b""
        try:
            peer = socket.create_connection(("127.0.0.1", port), STUCK_SECONDS)
        except TimeoutError:
            report.wrong(f"no connection was taken for {STUCK_SECONDS} seconds", [sent])
            return
        except OSError:
            continue
        with suppress(OSError):  # it may hang up as it likes
            peer.settimeout(STUCK_SECONDS)
            cut = rng.randrange(len(sent) + 1)
            for part in (sent[:cut], sent[cut:]):
                peer.sendall(part)
            if rng.random() < 0.5 and select.select([peer], [], [], 0.02)[0]:
                answer = peer.recv(4000)
        if rng.random() < 0.9:
            if rng.random() < 0.3:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # it ends with a reset
            peer.close()
        else:
            open_ones.append(peer)
            if len(open_ones) > 50:
                open_ones.popleft().close()
        report.sent([sent])
        yield answer, sent


DOORS = {"requests": requests, "subscriptions": subscriptions, "hosts": hosts, "raw": raw, "http": http}


def main(order: dict[str, object]) -> None:
    report = Reporter()
    rng = random.Random(f"{order['seed']} {order['door']}")
    assert IDENTITIES
    pace = float(str(order["pace"]))  # messages a second at most; 0: as many as go
    for _ in DOORS[str(order["door"])](rng, int(str(order["port"])), report):
        if report.is_over.is_set() or (pace and report.is_over.wait(1 / pace)):
            break
    report.flush()
    report.last()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # libzmq's threads do not always end
