"""What broker and remote hosts say to each other, and who of them is there.

A **host** is a ``bert-serving-worker``: it has workers of its own, like a server without clients. It connects to one
port, where it joins, says what its workers can do, gets jobs for them and brings their answers. Each frame sequence
begins with a kind of one byte, below with what follows::

    host -> broker    JOIN     {"host": its name for itself, "version", "protocol", "name", "pid"}
                      ALIVE
                      READY    {"worker": number, ... what the worker says of itself, see messages.Ready}
                      GONE     {"worker": number, "how": in words}
                      LEAVE                                         no more jobs, please
                      ANSWER   head, meta[, rows]                   of a worker, see messages
    broker -> host    WHO                                           join, if you want something
                      WELCOME  {"options": of the model, "largest_job": bytes, "timeout": seconds}
                      REFUSED  {"reason": in words}
                      ALIVE
                      JOB      worker u32, head, sequences          see messages
                      KILL     {"worker": number, "why": in words}  it hangs
                      BYE      {"reason": in words}                 the server stops, or you have left

A connection that breaks and comes back is another peer to the broker, and so the host joins again: what it had is given
to others by then, or at once. Its workers stay as they are.
"""
from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from bert_serving.client.words import counted, json_kind

from ..golden import difference
from ..precision import PRECISIONS
from .batching import Piece
from .messages import HEAD, Fault, Job, Rows, decode_from_worker, encode_to_worker
from .placement import CPU
from .recovery import CREDIT, Fleet, WorkerState

PROTOCOL = 2

JOIN, ALIVE, READY, GONE, LEAVE, ANSWER, WHO, WELCOME, REFUSED, JOB, KILL, BYE = (bytes([code]) for code in range(12))

WORKER = struct.Struct("<I")

MAX_WORKERS = 4096
"""Of all other hosts together; of one host, a number beyond this is a mistake."""

MAX_HOSTS = 1024

MAX_KEY = 64
"""Characters of a host's name for itself."""

MAX_WORDS = 16_000_000
"""Most bytes of a message that is no job and no answer; the vectors of the golden sentences need the most of it."""

MAX_COUNT = 2 ** 31
"""Of what a worker counts: a number beyond this is a mistake."""

ALIVE_SECONDS = 1.0
"""How often each end says that it is there, if the timeout is not so short that it has to be more often."""


class MembershipError(ValueError):
    """A message that is none of those above."""


def readable(value: Any, most: int = 64) -> str:
    """What another host says, for the log and for people: short and printable, so that nobody writes our log for us."""
    return (value if isinstance(value, str) else json_kind(value))[:most].encode("unicode_escape").decode()


# ---- frames ----------------------------------------------------------------------------------------------------------


def encode(kind: bytes, **values: Any) -> list[bytes]:
    """A message whose contents, if any, are plain JSON values."""
    return [kind, json.dumps(values).encode("ascii")] if values else [kind]


def decode(frames: Sequence[bytes | memoryview]) -> tuple[bytes, dict[str, Any]]:
    """Kind and contents of a message that is neither ANSWER nor JOB.

    Raises:
        MembershipError: it is no such message.
    """
    kind = bytes(frames[0]) if frames else b""
    if kind not in (JOIN, ALIVE, READY, GONE, LEAVE, WHO, WELCOME, REFUSED, KILL, BYE) or len(frames) > 2:
        raise MembershipError(f"a message of kind {kind[:8]!r} with {counted(len(frames), 'frame')}")
    if len(frames) == 1:
        return kind, {}
    if len(frames[1]) > MAX_WORDS:
        raise MembershipError(f"contents of {counted(len(frames[1]), 'byte')}; expected at most {MAX_WORDS}")
    try:
        values = json.loads(bytes(frames[1]))
    except (ValueError, RecursionError) as error:
        raise MembershipError(f"contents that are not JSON: {error}") from error
    if not isinstance(values, dict):
        raise MembershipError("contents that are no JSON object")
    return kind, values


def encode_job(worker: int, job: Job) -> list[bytes]:
    return [JOB, WORKER.pack(worker), *encode_to_worker(job)]


def decode_job(frames: Sequence[bytes]) -> tuple[int, bytes, list[bytes]]:
    """
    Returns:
        Number of the worker, head of the message for it, and the rest of that.
    Raises:
        MembershipError: it is no job.
    """
    if len(frames) != 4 or len(frames[1]) != WORKER.size or len(frames[2]) < HEAD.size:
        raise MembershipError(f"a job of {counted(len(frames), 'frame')}")
    return WORKER.unpack(frames[1])[0], frames[2], list(frames[3:])


def encode_proof(array: np.ndarray) -> dict[str, Any]:
    """Vectors of the golden sentences, as part of what a worker says of itself."""
    rows = np.ascontiguousarray(array, np.float32)
    return {"shape": list(rows.shape), "rows": base64.b64encode(rows.tobytes()).decode("ascii")}


def decode_proof(proof: Any) -> np.ndarray:
    """
    Returns:
        float32 [n, D]
    Raises:
        MembershipError: it is no proof.
    """
    try:
        rows = np.frombuffer(base64.b64decode(proof["rows"], validate=True), np.float32)
        count, width = proof["shape"]
        return rows.reshape(int(count), int(width))
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise MembershipError(f"no vectors of the golden sentences: {error}") from error


# ---- who is there ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class Kind:
    """What the vectors of a server are like, so that others are not taken for them.

    Attributes:
        precision: of what computes them.
        token_level: there is one for each token, and not for each sequence.
        longest: tokens that a sequence can have.
    """

    precision: str = "fp32"
    token_level: bool = False
    longest: int = 512

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(PRECISIONS[self.precision].answer_dtype)


@dataclass(eq=False, slots=True)
class Host:
    """One connection that has joined.

    Attributes:
        peer: ZeroMQ's name for the connection.
        key: the host's name for itself, the same after it has joined again.
        name: for people.
        heard: when it last said anything.
        slots: number of a worker there -> its slot here.
        leaving: it wants no more jobs.
        unheard: it has a worker that is ready, and could not be measured yet.
    """

    peer: bytes
    key: str
    name: str
    heard: float
    slots: dict[int, int] = field(default_factory=dict)
    leaving: bool = False
    unheard: bool = False


class Members:
    """The hosts that brought workers. Decides what to answer them; who calls it sends that.

    Attributes:
        about: slot -> what the remote worker in it says of itself.
        golden: float32 [n, D], the vectors that every worker has to have for the golden sentences; None as long as no
            worker of this server has proved itself.
    """

    def __init__(self, fleet: Fleet, timeout: float, kind: Kind, version: str, credit_on_gpu: int,
                 on_lost: Callable[[int], None]) -> None:
        """
        Args:
            fleet: with this server's own workers, if it has any.
            timeout: seconds without a word after which a host counts as lost.
            version: of this server; hosts need the same.
            credit_on_gpu: jobs that a worker on a GPU may hold.
            on_lost: called with the slot of a worker that is gone.
        """
        self.fleet, self.timeout, self.kind, self.version = fleet, timeout, kind, version
        self.credit_on_gpu, self.on_lost = credit_on_gpu, on_lost
        self.has_own = self.awaits_own = bool(fleet.workers)  # they are the measure, and not who happens to come first
        self.hosts: dict[bytes, Host] = {}
        self.places: dict[int, tuple[bytes, int]] = {}   # slot -> (peer, number of the worker there)
        self.about: dict[int, dict[str, Any]] = {}
        self.golden: np.ndarray | None = None
        self._free: list[int] = []

    def learn(self, about: dict[str, Any]) -> list[Host]:
        """A worker of this server has proved itself: what it computed is what the others are measured by.

        Returns:
            Those that have said too early that their workers are ready; they have to join again.
        """
        if not self.awaits_own:
            return []
        self.golden, self.awaits_own = decode_proof(about.get("proof")), False
        return [host for host in self.hosts.values() if host.unheard]

    def join(self, peer: bytes, values: dict[str, Any], now: float) -> str | None:
        """A host wants to join; why it may not, or None.

        Raises:
            MembershipError: it does not say who it is.
        """
        key, name, pid = (values.get(what) for what in ("host", "name", "pid"))
        if type(key) is not str or type(name) is not str or type(pid) is not int or not 0 <= pid < MAX_COUNT \
                or len(key) > MAX_KEY:
            raise MembershipError("a host that does not say who it is")
        # Who joins again has lost the connection: what was on it will not be answered there.
        for host in [host for host in self.hosts.values() if host.key == key or host.peer == peer]:
            self.forget(host.peer)
        if values.get("protocol") != PROTOCOL or values.get("version") != self.version:
            return (f"it is bert-serving-server {readable(values.get('version'))}, this server is {self.version}; "
                    "install the same on both")
        if len(self.hosts) >= MAX_HOSTS:
            return f"the server has {MAX_HOSTS} hosts with workers, which is the most"
        self.hosts[peer] = Host(peer, key, f"{readable(name)} (process {pid})", now)
        return None

    def hear(self, peer: bytes, now: float) -> Host | None:
        """The host of a message; None if it has not joined, or was given up."""
        host = self.hosts.get(peer)
        if host is not None:
            host.heard = now
        return host

    def ready(self, host: Host, values: dict[str, Any]) -> str | int | None:
        """A worker there has proved itself; its slot, or why it is not taken. None: it is not, and that is no matter.

        Raises:
            MembershipError: it says nothing of use.
        """
        number = worker_number(values)
        if number in host.slots:  # another process in the same place
            self.gone(host, values)
        theirs = decode_proof(values.get("proof"))
        if host.leaving:
            return None
        if self.awaits_own:
            host.unheard = True
            return None
        found = None
        if self.golden is not None:
            found = difference(theirs, self.golden, self.kind.precision)
        elif not theirs.size or not np.isfinite(theirs).all():
            found = "they are no vectors"
        if found is not None:
            return f"its vectors of the golden sentences are not this server's: {found}; has it the same model?"
        if len(self.places) >= MAX_WORKERS:
            return f"the server has {MAX_WORKERS} workers of other hosts, which is the most"
        self.golden = theirs if self.golden is None else self.golden
        device, threads = (_count(values.get(what)) for what in ("device", "num_threads"))
        slot = self._slot(CREDIT if device is None else self.credit_on_gpu)
        host.slots[number] = slot
        self.places[slot] = host.peer, number
        self.about[slot] = {"device": CPU if device is None else device, "num_threads": threads}
        self.fleet.started(slot)
        self.fleet.ready(slot, _rate(values.get("tokens_per_second")))
        return slot

    def _slot(self, credit: int) -> int:
        """A place that nobody has any more, or a new one."""
        slot = self._free.pop() if self._free else self.fleet.add()
        worker = self.fleet.workers[slot]
        worker.credit = credit
        worker.tokens_per_second = worker.overhead = 0.0
        worker.num_jobs = worker.num_sequences = worker.restarts = 0
        return slot

    def gone(self, host: Host, values: dict[str, Any]) -> int | None:
        """A worker there has ended; its slot, if it had one.

        Raises:
            MembershipError: it is no worker.
        """
        slot = host.slots.pop(worker_number(values), None)
        if slot is not None:
            self._lose(slot)
        return slot

    def leave(self, host: Host) -> None:
        """It wants no more jobs; it may go when ``is_done``."""
        host.leaving = True
        for slot in host.slots.values():
            if self.fleet.workers[slot].state is WorkerState.READY:
                self.fleet.leave(slot)

    def is_done(self, host: Host) -> bool:
        """Whether it wants to leave, and has no job any more."""
        return host.leaving and not any(self.fleet.workers[slot].flights for slot in host.slots.values())

    def forget(self, peer: bytes) -> list[int]:
        """A host is gone, however that came; the slots that its workers had.

        Links break, and hosts are expelled: that says nothing of the texts that were there.
        """
        host = self.hosts.pop(peer)
        slots = list(host.slots.values())
        for slot in slots:
            for job in self.fleet.workers[slot].flights:
                self.fleet.unsent(job)
            self._lose(slot)
        return slots

    def _lose(self, slot: int) -> None:
        del self.places[slot]
        self.about.pop(slot, None)
        self.on_lost(slot)
        self._free.append(slot)
        if not self.places and not self.has_own:
            self.golden = None  # nobody is there any more who computes as the first one did; it may have been wrong

    def answer(self, host: Host, frames: Sequence[bytes | memoryview]) -> Rows | Fault | None:
        """The answer of a worker there to a job that it has; None: that was given up meanwhile.

        Raises:
            MembershipError: it is none, or not to what was asked.
        """
        try:
            message = decode_from_worker(frames)
        except Exception as error:  # whatever a decoder makes of what is not ours
            raise MembershipError(f"an answer that cannot be read: {type(error).__name__}: {error}"[:300]) from error
        if not isinstance(message, (Rows, Fault)):
            raise MembershipError("an answer that is none")
        flight = self.fleet.flights.get(message.job)
        if flight is None:
            return None
        if self.places.get(flight.slot, (b"", 0))[0] != host.peer:
            raise MembershipError(f"an answer to job {message.job}, which it does not have")
        if isinstance(message, Fault):
            return replace(message, code=readable(message.code), message=readable(message.message, 500))
        assert self.golden is not None, "no worker is ready without"
        check_rows(message, flight.pieces, self.golden.shape[1], self.kind)
        return message

    def silent(self, now: float) -> Iterator[Host]:
        """Hosts that have not been heard of for too long."""
        return (host for host in list(self.hosts.values()) if now - host.heard > self.timeout)


def worker_number(values: dict[str, Any]) -> int:
    """
    Raises:
        MembershipError: there is none.
    """
    number = values.get("worker")
    if type(number) is not int or not 0 <= number < MAX_WORKERS:
        raise MembershipError(f"worker {str(number)[:20]}")
    return number


def check_rows(rows: Rows, pieces: Sequence[Piece], width: int, kind: Kind) -> None:
    """
    Args:
        pieces: of the job.
        width: numbers of a vector.
    Raises:
        MembershipError: what was computed elsewhere does not fit the job.
    """
    count = sum(piece.count for piece in pieces)
    problem = ""
    if not _are_counts(rows.counts, count):
        problem = "the counts of tokens"
    elif kind.token_level and not _are_lengths(rows, count, kind.longest):
        problem = "the lengths"
    elif rows.array.dtype != kind.dtype \
            or rows.array.shape != (sum(rows.lengths or []) if kind.token_level else count, width):
        problem = "the vectors"
    elif not kind.token_level and (rows.lengths, rows.contents, rows.specials) != (None, None, None):
        problem = "lengths, which are for the strategy NONE,"
    elif (rows.tokens is not None or any(piece.request.options.tokens for piece in pieces)) \
            and not _are_tokens(rows.tokens, count):
        problem = "the tokens"
    elif not isinstance(rows.bad, list) or any(type(at) is not int or not 0 <= at < count for at in rows.bad):
        problem = "the places of vectors that are not finite"
    elif not _marks_what_is_not_finite(rows, kind):
        problem = "the vectors, of which some are not finite without its saying so,"
    elif type(rows.num_tokens) is not int or not 0 <= rows.num_tokens <= count * kind.longest \
            or not isinstance(rows.seconds, dict) or not all(
                isinstance(value, float) and 0 <= value < MAX_COUNT for value in rows.seconds.values()):
        problem = "the measurements"
    if problem:
        raise MembershipError(f"rows {rows.array.dtype} {list(rows.array.shape)} for a job of "
                              f"{counted(count, 'sequence')}, where {problem} cannot be right")


def _marks_what_is_not_finite(rows: Rows, kind: Kind) -> bool:
    finite = np.isfinite(rows.array)
    if finite.all():
        return True
    if kind.token_level:
        return bool(rows.bad)
    return set(rows.bad) >= set(np.flatnonzero(~finite.all(axis=1)).tolist())


def _count(value: Any) -> int | None:
    """A number of something, if it is one."""
    return value if type(value) is int and 0 <= value < MAX_COUNT else None


def _rate(value: Any) -> float:
    """What a worker says of its speed; 0 where that is nothing of use."""
    return value if isinstance(value, float) and 0 < value < math.inf else 0.0


def _are_counts(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and None not in map(_count, values)


def _are_lengths(rows: Rows, count: int, longest: int) -> bool:
    """Whether they fit each other, so that the rows fit into an answer."""
    return all(_are_counts(values, count) for values in (rows.lengths, rows.contents, rows.specials)) and all(
        length <= min(content + special, longest) for length, content, special in
        zip(rows.lengths or [], rows.contents or [], rows.specials or []))


def _are_tokens(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(
        isinstance(tokens, list) and all(isinstance(token, str) for token in tokens) for tokens in values)
