"""Which hosts have brought workers, what each of these may do, and what is taken from them."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, NamedTuple

import numpy as np

from ..golden import difference
from .messages import Fault, Rows, decode_from_worker
from .placement import CPU
from .scheduler import CREDIT, Scheduler, WorkerState
from .remote_messages import (MAX_COUNT, MAX_WORKERS, PROTOCOL, MembershipError, count_or_none, decode_proof, readable,
                              worker_number)
from .remote_rows import VectorKind, check_rows

MAX_HOSTS = 1024

MAX_KEY = 64
"""Characters of a host's name for itself."""


class Reason(Enum):
    """Why a host may not join, or a worker is not taken."""

    VERSION = auto()
    TOO_MANY_HOSTS = auto()
    TOO_MANY_WORKERS = auto()
    OTHER_VECTORS = auto()


class Refusal(NamedTuple):
    """
    Attributes:
        detail: of VERSION, the host's; of OTHER_VECTORS, how they differ; fit for people.
    """

    reason: Reason
    detail: str = ""


class Reception(NamedTuple):
    """What became of a worker that says it is ready; neither slot nor refusal: it is not taken, and need not be told.

    Attributes:
        slot: the one that it got.
        refusal: why it got none.
    """

    slot: int | None = None
    refusal: Refusal | None = None


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

    def __init__(self, scheduler: Scheduler, timeout: float, kind: VectorKind, version: str, credit_on_gpu: int,
                 on_lost: Callable[[int], None]) -> None:
        """
        Args:
            scheduler: with this server's own workers, if it has any.
            timeout: seconds without a word after which a host counts as lost.
            version: of this server; hosts need the same.
            credit_on_gpu: jobs that a worker on a GPU may hold.
            on_lost: called with the slot of a worker that is gone.
        """
        self.scheduler, self.timeout, self.kind, self.version = scheduler, timeout, kind, version
        self.credit_on_gpu, self.on_lost = credit_on_gpu, on_lost
        # They are the measure, and not who happens to come first.
        self.has_own = self.awaits_own = bool(scheduler.workers)
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

    def join(self, peer: bytes, values: dict[str, Any], now: float) -> Refusal | None:
        """A host wants to join; None: it has.

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
            return Refusal(Reason.VERSION, readable(values.get("version")))
        if len(self.hosts) >= MAX_HOSTS:
            return Refusal(Reason.TOO_MANY_HOSTS)
        self.hosts[peer] = Host(peer, key, f"{readable(name)} (process {pid})", now)
        return None

    def hear(self, peer: bytes, now: float) -> Host | None:
        """The host of a message; None if it has not joined, or was given up."""
        host = self.hosts.get(peer)
        if host is not None:
            host.heard = now
        return host

    def ready(self, host: Host, values: dict[str, Any]) -> Reception:
        """A worker there has proved itself.

        Raises:
            MembershipError: it says nothing of use.
        """
        number = worker_number(values)
        if number in host.slots:  # another process in the same place
            self.gone(host, values)
        theirs = decode_proof(values.get("proof"))
        if host.leaving:
            return Reception()
        if self.awaits_own:
            host.unheard = True
            return Reception()
        found = None
        if self.golden is not None:
            found = difference(theirs, self.golden, self.kind.precision)
        elif not theirs.size or not np.isfinite(theirs).all():
            found = "they are no vectors"
        if found is not None:
            return Reception(refusal=Refusal(Reason.OTHER_VECTORS, found))
        if len(self.places) >= MAX_WORKERS:
            return Reception(refusal=Refusal(Reason.TOO_MANY_WORKERS))
        self.golden = theirs if self.golden is None else self.golden
        device, threads = (count_or_none(values.get(what)) for what in ("device", "num_threads"))
        slot = self._slot(CREDIT if device is None else self.credit_on_gpu)
        host.slots[number] = slot
        self.places[slot] = host.peer, number
        self.about[slot] = {"device": CPU if device is None else device, "num_threads": threads}
        self.scheduler.started(slot)
        self.scheduler.ready(slot, _rate(values.get("tokens_per_second")))
        return Reception(slot)

    def _slot(self, credit: int) -> int:
        """A place that nobody has any more, or a new one."""
        slot = self._free.pop() if self._free else self.scheduler.add()
        worker = self.scheduler.workers[slot]
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
            if self.scheduler.workers[slot].state is WorkerState.READY:
                self.scheduler.leave(slot)

    def is_done(self, host: Host) -> bool:
        """Whether it wants to leave, and has no job any more."""
        return host.leaving and not any(self.scheduler.workers[slot].flights for slot in host.slots.values())

    def forget(self, peer: bytes) -> list[int]:
        """A host is gone, however that came; the slots that its workers had.

        Links break, and hosts are expelled: that says nothing of the texts that were there.
        """
        host = self.hosts.pop(peer)
        slots = list(host.slots.values())
        for slot in slots:
            for job in self.scheduler.workers[slot].flights:
                self.scheduler.unsent(job)
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
        flight = self.scheduler.flights.get(message.job)
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


def _rate(value: Any) -> float:
    """What a worker says of its speed; 0 where that is nothing of use."""
    return value if isinstance(value, float) and 0 < value < math.inf else 0.0
