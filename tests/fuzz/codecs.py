"""Decoders under fire, each a target: how its input is made, and what has to hold whatever the input is.

As a script it is one process with one target, so that not even a crash of the interpreter ends the fuzzer::

    python -m tests.fuzz.codecs '{"target": "requests", "messages": 100000, "seed": 1, "trace": "FILE"}'

prints one line of JSON: ``{"messages", "seconds", "found": [...], "times": [...], "memory": [...]}``. ``FILE`` holds
the input that is being looked at, for the case that the process does not survive it.
"""
from __future__ import annotations

import json
import logging
import mmap
import os
import random
import struct
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from bert_serving.client import protocol
from bert_serving.client.errors import BertServingError
from bert_serving.client.options import RequestOptions
from bert_serving.client.pairs import Pair
from bert_serving.server import __version__
from bert_serving.server.api_keys import ApiKeys
from bert_serving.server.core import messages, remote_messages
from bert_serving.server.core.batching import Backlog
from bert_serving.server.core.membership import Members
from bert_serving.server.core.outlet import Outlet
from bert_serving.server.core.scheduler import Scheduler
from bert_serving.server.core.remote_messages import Welcome
from bert_serving.server.core.remote_rows import VectorKind
from bert_serving.server.core.sink import Reply, Sink
from bert_serving.server.core.statistics import Statistics
from bert_serving.server.core.ventilator import Caller, Limits, Ventilator
from bert_serving.server.stages.remote_workers import RemoteWorkers
from bert_serving.server.proxy.connections import HEAD_BYTES, HttpParser, Room
from waitress.adjustments import Adjustments

from ..chaos.memory import resident

from . import generate
from .generate import Frames, Random

MAX_FOUND = 20
SAMPLES = 256
TRACE_BYTES = 1 << 20


@dataclass(frozen=True)
class Target:
    """
    Attributes:
        make: an input, and what it has to decode to; None if something is wrong with it.
        check: raises AssertionError for a wrong answer, and anything else for a crash.
    """

    make: Callable[[Random], tuple[Frames, Any]]
    check: Callable[[Frames, Any], None]


# ---- the targets -----------------------------------------------------------------------------------------------------

def make_request(rng: Random) -> tuple[Frames, Any]:
    frames = generate.request(rng)
    return (frames, list(frames)) if rng.random() < 0.1 else (generate.spoil(rng, frames), None)


def check_request(frames: Frames, right: Any) -> None:
    """It is a request, or an error that can be answered, whose answer every client understands."""
    try:
        decoded = protocol.decode_request(frames)
    except protocol.ProtocolError as error:
        assert right is None, f"a right request is refused: {error}"
        if not error.identity:
            return
        assert 0 < len(error.identity) <= protocol.MAX_IDENTITY and b"\0" not in error.identity
        assert len(error.request_id) <= protocol.MAX_IDENTITY
        reply = [protocol.topic(error.identity), *protocol.encode_error(error, error.request_id)]
        header = json.loads(reply[1])
        assert header["dtype"].isascii() and header["dtype"].isprintable() and "," not in header["dtype"]
        if error.request_id.isdigit() and len(error.request_id) <= protocol.MAX_DIGITS:
            failure = protocol.decode_reply(reply)
            assert isinstance(failure, protocol.Failure) and failure.request_id == int(error.request_id)
            assert failure.error.message == error.message and type(failure.error).code == error.code
        return
    if isinstance(decoded, protocol.Command):
        assert decoded.name in protocol.COMMANDS
        return
    assert decoded.identity == frames[0] and decoded.request_id == frames[2] and decoded.request_id.isdigit()
    assert decoded.texts and int(frames[3]) == len(decoded.texts)
    parts = [part for text in decoded.texts for part in (text if isinstance(text, Pair) else (text,))]
    kind = type(parts[0])
    assert all(type(part) is kind for part in parts) and kind in (str, list)
    if kind is list:
        assert all(type(token) is str for part in parts for token in part)
    if right is not None:
        found = [_with_bars(text) for text in decoded.texts] if decoded.options.input is None else decoded.texts
        sent = protocol.encode_request(decoded.identity, int(decoded.request_id), found, decoded.options)
        if decoded.options.input is None:
            assert sent[:1] + sent[2:] == right[:1] + right[2:]
            stripped = [text if isinstance(text, list) or " ||| " not in text else text.strip()
                        for text in json.loads(right[1])]
            assert json.loads(sent[1]) == stripped, "it is not what was sent"
        else:
            assert sent == right, "it is not what was sent"


def _with_bars(text: Any) -> Any:
    """A text that becomes this one on the way, if that is a pair."""
    if not isinstance(text, Pair):
        return text
    first, second = text
    return f"{first} ||| {second}" if isinstance(first, str) else [*first, "|||", *second]


def make_reply(rng: Random) -> tuple[Frames, Any]:
    frames = generate.reply(rng)
    return (frames, list(frames)) if rng.random() < 0.1 else (generate.spoil(rng, frames), None)


def check_reply(frames: Frames, right: Any) -> None:
    """It is a reply, whose array holds numbers and no more bytes than came, or a ProtocolError."""
    try:
        decoded = protocol.decode_reply(frames)
    except protocol.ProtocolError as error:
        assert right is None, f"a right reply is refused: {error}"
        assert error.request_id.isdigit()
        return
    assert 0 <= decoded.request_id < 10 ** protocol.MAX_DIGITS
    if isinstance(decoded, protocol.Result):
        assert decoded.embedding.dtype.kind in "fiub" and not decoded.embedding.flags.writeable
        assert decoded.embedding.nbytes == len(frames[2])
        if right is not None:
            assert decoded.embedding.tobytes() == right[2]
            assert list(decoded.embedding.shape) == json.loads(right[1])["shape"]
    elif isinstance(decoded, protocol.Failure):
        assert isinstance(decoded.error, BertServingError) and isinstance(decoded.error.message, str)
        assert decoded.error.retry_after is None or decoded.error.retry_after >= 0
    else:
        assert type(decoded.values) is dict


def make_subscriptions(rng: Random) -> tuple[Frames, Any]:
    """A run of subscription messages from one client after the other."""
    run = [generate.subscription(rng) for _ in range(1 + int(20 * rng.random()))]
    return (generate.spoil(rng, run) if rng.random() < 0.8 else run), None


def check_subscriptions(frames: Frames, right: Any) -> None:
    """A result goes to who is subscribed to its whole identity, and to nobody else."""
    outlet = Outlet(1 << 20, 1 << 20, 30.0)
    registered: dict[bytes, int] = {}
    for number, message in enumerate(frames):
        change = outlet.subscription(message, float(number))
        is_right = 2 <= len(message) <= 256 and message[0] in (0, 1) and b"\0" not in message[1:]
        assert (change is not None) == is_right, message
        if change is not None:
            assert change.topic == message[1:] + b"\0" and change.subscribe == bool(message[0])
            registered[message[1:]] = max(0, registered.get(message[1:], 0) + (1 if change.subscribe else -1))
    assert outlet.subscribers == {identity: count for identity, count in registered.items() if count}
    for identity in {*registered, b"bystander", *(message[1:] for message in frames if 1 < len(message) < 256)}:
        if b"\0" in identity:
            continue
        assert outlet.open_topic(identity) == (identity + b"\0" if registered.get(identity) else None), identity
        assert outlet.hold(identity, [b"{}", b"1"], 1.0, is_result=True)
        assert (outlet.next_held(identity) is not None) == bool(registered.get(identity)), identity
    outlet.expire(100.0)
    assert outlet.held_bytes == 0 and not outlet.held


def make_job(rng: Random) -> tuple[Frames, Any]:
    message = generate.to_worker(rng)
    frames = messages.encode_to_worker(message)
    return (frames, message) if rng.random() < 0.2 else (generate.spoil(rng, frames), None)


INNER = (ValueError, KeyError, TypeError, struct.error, IndexError, RecursionError, AttributeError)
"""What a frame that does not decode may raise between broker and worker, whose peers are our own processes."""


def check_job(frames: Frames, right: Any) -> None:
    try:
        decoded = messages.decode_to_worker(frames)
    except INNER:
        assert right is None
        return
    assert right is None or decoded == right


def make_rows(rng: Random) -> tuple[Frames, Any]:
    count, width = int(4 * rng.random()), int(4 * rng.random())
    slot, incarnation, job = rng.randrange(2 ** 32), rng.randrange(2 ** 64), rng.randrange(2 ** 64)
    kind = rng.random()
    message: messages.FromWorker
    if kind < 0.2:
        message = messages.Fault(slot, incarnation, job, "internal", "why \u00fc", rng.choice((None, 3)))
    elif kind < 0.4:
        message = messages.Ready(slot, incarnation, {"engine": "x"})
    else:
        array = np.frombuffer(rng.randbytes(4 * count * width), np.float32).reshape(count, width)
        message = messages.Rows(slot, incarnation, job, array, num_tokens=7, seconds={"compute": 0.5},
                                bad=[0] if count else [], counts=[3] * count)
    frames = [bytes(frame) for frame in messages.encode_from_worker(message)]
    return (frames, message) if rng.random() < 0.2 else (generate.spoil(rng, frames), None)


def check_rows(frames: Frames, right: Any) -> None:
    try:
        decoded = messages.decode_from_worker(frames)
    except INNER:
        assert right is None
        return
    if isinstance(decoded, messages.Rows):
        assert decoded.array.nbytes <= len(frames[2])
    if right is not None:
        assert messages.encode_from_worker(decoded) == frames


def make_host(rng: Random) -> tuple[Frames, Any]:
    frames = generate.host(rng)
    if rng.random() < 0.2:
        return frames, frames[0] == remote_messages.ANSWER and len(frames) == 4
    return generate.spoil(rng, frames), None


class Port:
    """The socket for workers of other hosts: what comes in, and nobody who hears what goes out."""

    class Frame(bytes):
        more, bytes, buffer = False, property(bytes), property(memoryview)

        def get(self, name: str) -> str:
            return "127.0.0.1"

    def __init__(self) -> None:
        self.waiting: list[Port.Frame] = []

    def put(self, frames: Frames) -> None:
        self.waiting = [self.Frame(frame) for frame in frames]
        for frame in self.waiting[:-1]:
            frame.more = True

    def recv(self, flags: int, copy: bool) -> Port.Frame:
        if not self.waiting:
            raise zmq.Again
        return self.waiting.pop(0)

    def send_multipart(self, frames: Frames, flags: int, copy: bool) -> None:
        assert all(isinstance(frame, bytes) for frame in frames)


class Work:
    """A server's decisions, with one worker, of a host called ``peer``, that has job 1: the two texts of a request."""

    def __init__(self, is_token_level: bool) -> None:
        self.replies: list[Any] = []
        backlog = Backlog(8, 4, 25)
        self.scheduler = Scheduler(0, backlog, 60.0)
        statistics = Statistics(0.0)
        self.ventilator = Ventilator(Limits(max_message_bytes=10**6, max_bytes=10**7, max_size=10**4), backlog,
                                     self.scheduler, Sink(statistics, None, 512), Outlet(1 << 20, 1 << 20, 30.0),
                                     statistics, lambda *_: {})
        self.members = Members(self.scheduler, 10.0, VectorKind(token_level=is_token_level), __version__, 2,
                               lambda slot: self._publish(self.ventilator.lost(slot, 2.0)))
        self.port = Port()
        welcome = Welcome({}, 7, 10.0)
        self.remote_workers = RemoteWorkers(self.port, self.members, welcome,  # type: ignore[arg-type]
                                            lambda frame: True)
        who = {"host": "a", "name": "a", "pid": 1, "version": __version__, "protocol": remote_messages.PROTOCOL}
        assert self.members.join(b"peer", who, 0.0) is None
        self.members.ready(self.members.hosts[b"peer"],
                           {"worker": 0, "proof": remote_messages.encode_proof(generate.GOLDEN)})
        frames = protocol.encode_request(b"a", 1, ["x", "yy"], RequestOptions(tokens=is_token_level))
        self._publish(self.ventilator.receive(frames, 0.0, Caller()))
        assert self.ventilator.next_job(1.0) is not None

    def hear(self, peer: bytes, frames: Frames) -> None:
        self.port.put([peer, *frames])
        self.remote_workers.on_message(self._take)
        assert not self.port.waiting
        self.ventilator.next_job(2.0)

    def close(self) -> None:
        """Let nothing hold anything: what is left for the garbage collector looks like a leak for too long."""
        vars(self.ventilator).clear()
        vars(self).clear()

    def _take(self, answer: messages.Rows | messages.Fault) -> None:
        if isinstance(answer, messages.Rows):
            self._publish(self.ventilator.rows(answer, 2.0))
        else:
            self._publish(self.ventilator.fault(answer, 2.0))

    def _publish(self, replies: Sequence[Reply]) -> None:
        for identity, frames, _ in replies:
            self.replies.append(protocol.decode_reply([identity + b"\0", *map(bytes, frames)]))


def check_host(frames: Frames, right: Any) -> None:
    """It is answered, or whoever sent it is expelled; nothing is lost by it, and nothing poisoned."""
    logging.disable(logging.CRITICAL)
    try:
        for is_token_level in (False, True):
            work = Work(is_token_level)
            for peer in (b"stranger", b"peer"):
                work.hear(peer, frames)
            _check_work(work, is_token_level)
            # The request of the second one is for tokens, too.
            if right and (b'"lengths"' in frames[2]) == is_token_level <= (b'"tokens"' in frames[2]):
                reply, = work.replies
                assert reply.embedding.shape[::2] == (2, 4)[:reply.embedding.ndim - 1], reply.embedding.shape
            work.close()
    finally:
        logging.disable(logging.NOTSET)


def _check_work(work: Work, is_token_level: bool) -> None:
    members, scheduler = work.members, work.scheduler
    for reply in work.replies:
        if isinstance(reply, protocol.Result):
            assert reply.embedding.ndim == 2 + is_token_level and len(reply.embedding) == 2
            assert reply.embedding.shape[-1] == 4 and reply.embedding.dtype == np.float32
    assert len(work.replies) + len(work.ventilator.pending) == 1, "answered once, or still to be answered"
    if work.ventilator.pending:
        assert scheduler.flights or scheduler.suspects or scheduler.backlog, "it is lost"
    for flight in scheduler.flights.values():
        assert flight.slot in members.places, "it is with nobody"
    for worker in scheduler.workers:
        assert 0 <= worker.tokens_per_second < 1e12 and 0 <= worker.overhead < 1e12
    assert 0 <= scheduler.tokens_per_second < 1e12
    assert len(json.dumps([*members.about.values(), *(host.name for host in members.hosts.values())])) < 2000
    json.dumps([work.ventilator.statistics.to_ours(), work.ventilator.statistics.to_status(3.0)], allow_nan=False)


def make_http(rng: Random) -> tuple[Frames, Any]:
    """A connection's bytes, in the pieces in which they come."""
    sent = generate.http(rng)
    pieces = []
    while sent:
        size = rng.choice((1, 10, 1000, 8192, 1 << 20))
        pieces.append(sent[:size])
        sent = sent[size:]
        if len(pieces) > 50:
            pieces.append(sent)
            break
    return pieces, None


ADJUSTMENTS = Adjustments(max_request_body_size=20_001, max_request_header_size=HEAD_BYTES)


def check_http(frames: Frames, right: Any) -> None:
    """Requests come to their end or are refused; nothing is held beyond the limits, nor after the end."""
    room = Room(50_000)
    keys = ApiKeys(["x" * 16]) if len(frames) % 2 else ApiKeys()
    parser = HttpParser(ADJUSTMENTS, keys, room)
    for data in frames:
        while data:
            used = parser.received(data)
            assert 0 <= used <= len(data)
            assert used or parser.completed, "it stands still"
            assert room.held <= 20_001 + len(data), room.held
            if parser.chunked:
                line = len(parser.body_rcv.control_line) + len(parser.body_rcv.trailer)
                assert parser.completed or line <= HEAD_BYTES, "a line of the body does not end"
            data = data[used:]
            if parser.completed:
                if parser.error is None and not parser.empty:
                    assert parser.body_rcv is None or len(parser.get_body_stream().read()) == len(parser.body_rcv)
                parser.close()
                assert room.held == 0
                if parser.error is not None:
                    assert 400 <= parser.error.code < 600
                    return  # the connection is closed then
                parser = HttpParser(ADJUSTMENTS, keys, room)
    parser.close()
    assert room.held == 0


TARGETS = {
    "requests": Target(make_request, check_request),
    "replies": Target(make_reply, check_reply),
    "subscriptions": Target(make_subscriptions, check_subscriptions),
    "jobs": Target(make_job, check_job),
    "rows": Target(make_rows, check_rows),
    "hosts": Target(make_host, check_host),
    "http parser": Target(make_http, check_http),
}


# ---- one after the other ---------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Found:
    """What a target did not stand.

    Attributes:
        is_crash: it raised what it should not; else it gave a wrong answer.
        what: the error, in a line.
        frames: the input, made as small as it gets.
    """

    target: str
    is_crash: bool
    what: str
    frames: Frames

    def to_json(self) -> dict[str, Any]:
        return {"target": self.target, "is_crash": self.is_crash, "what": self.what,
                "frames": [b64encode(frame).decode() for frame in self.frames]}

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> Found:
        return cls(held["target"], held["is_crash"], held["what"], [b64decode(frame) for frame in held["frames"]])

    def keep(self, folder: Path) -> Path:
        """Write it to a file that is named after what it is."""
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.to_json(), indent=1) + "\n"
        path = folder / f"{self.target.replace(' ', '-')}-{sha256(content.encode()).hexdigest()[:8]}.json"
        path.write_text(content)
        return path


def trouble(target: Target, frames: Frames, right: Any = None) -> tuple[bool, str] | None:
    """(is_crash, what) if the target does not stand this input."""
    try:
        target.check(frames, right)
    except AssertionError as error:
        return False, f"{error}"[:200] or _where(error)
    except Exception as error:
        return True, f"{type(error).__name__}: {error}"[:150] + f" ({_where(error)})"
    return None


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    assert trace is not None
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def shrink(target: Target, frames: Frames) -> Frames:
    """The same trouble with less: frames left out, and cut to halves, as long as that works."""
    wanted = trouble(target, frames)
    if wanted is None:  # only because it was a right one
        return frames
    smaller = True
    while smaller:
        smaller = False
        tries = [frames[:place] + frames[place + 1:] for place in range(len(frames))]
        tries += [frames[:place] + [part] + frames[place + 1:] for place, frame in enumerate(frames) if len(frame) > 1
                  for part in (frame[:len(frame) // 2], frame[len(frame) // 2:], frame[:-1], frame[1:])]
        for attempt in tries:
            met = trouble(target, attempt)
            if met is not None and met[0] == wanted[0] and met[1][:20] == wanted[1][:20]:
                frames, smaller = attempt, True
                break
    return frames


class Trace:
    """The input that is being looked at, in a file that outlives this process."""

    def __init__(self, path: str | None) -> None:
        self._map = None
        if path is not None:
            with open(path, "wb") as file:
                file.truncate(TRACE_BYTES)
            with open(path, "r+b") as file:
                self._map = mmap.mmap(file.fileno(), TRACE_BYTES)

    def note(self, frames: Frames) -> None:
        if self._map is not None:
            data = b"".join([struct.pack(f"<I{len(frames)}I", len(frames), *map(len, frames)), *frames])
            self._map[:min(len(data), TRACE_BYTES)] = data[:TRACE_BYTES]

    @staticmethod
    def read(path: str) -> Frames:
        data = Path(path).read_bytes()
        count, = struct.unpack_from("<I", data)
        lengths = struct.unpack_from(f"<{count}I", data, 4)
        frames, at = [], 4 + 4 * count
        for length in lengths:
            frames.append(data[at:at + length])
            at += length
        return frames


def fire(name: str, count: int, seed: int, trace: str | None = None, target: Target | None = None) -> dict[str, Any]:
    """So many inputs at one target; what was found, and how memory went."""
    target = target or TARGETS[name]
    rng = random.Random(f"{seed} {name}")
    note = Trace(trace).note
    found: dict[str, Found] = {}
    times, memory = [], []
    every = max(1, count // SAMPLES)
    pid, start = os.getpid(), time.monotonic()
    for number in range(count):
        frames, right = target.make(rng)
        note(frames)
        met = trouble(target, frames, right)
        if met is not None and met[1] not in found and len(found) < MAX_FOUND:
            found[met[1]] = Found(name, met[0], met[1], shrink(target, frames))
        if number % every == 0:
            times.append(time.monotonic() - start)
            memory.append(resident(pid))
    return {"messages": count, "seconds": time.monotonic() - start, "found": [one.to_json() for one in found.values()],
            "times": times, "memory": memory}


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    kind = order.pop("planted", None)
    if kind:
        from .planted import spoiled
        order["target_object"] = spoiled(TARGETS[order["target"]], kind)
    print(json.dumps(fire(order["target"], order["messages"], order["seed"], order.get("trace"),
                          order.get("target_object"))))
