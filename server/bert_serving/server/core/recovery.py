"""Which worker holds what, and what becomes of it when the worker dies, hangs or fails.

Worker states::

    STARTING ──ready──▶ READY ──────lost──────▶ LOST ──started──▶ STARTING
        │                 └─leave─▶ LEAVING ──lost─▶│        any ──stopped──▶ STOPPED
        └────────────────────lost──────────────────▲

A piece of a request is QUEUED (in the backlog), SENT (in a job in flight), or SUSPECT. When a worker dies, everything
it held becomes suspect, without a strike: it may be innocent. Suspects run alone, on one worker at a time (the
quarantine). A piece that fails or dies there is halved; a single text that kills its worker ``MAX_STRIKES`` times, or
that raises or gives no finite vector alone, is guilty: its request fails, and no other one does.

The table of jobs in flight is also what makes every answer single: rows of a job that is no longer in it are dropped.
"""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from math import ceil

from .batching import Backlog, Piece

CREDIT = 2
"""Jobs out on one worker: one running, one waiting, so that the worker never waits for the broker."""

MAX_STRIKES = 3

WORTH_WAITING = 0.003
"""A second job waits behind a running one only if that is expected to end within this many seconds: the gap between
two jobs costs 0.3 ms, while a short request that arrives meanwhile would wait for both."""

RATE_SECONDS = 1.0
"""How much computing the measured rate looks back on: each job counts by its time, so that many tiny ones do not make
long ones look short."""

TARGET_SECONDS = 0.5
"""Jobs are cut so that they are expected to take at most this long."""

MIN_JOB_TOKENS, FIRST_JOB_TOKENS, MAX_JOB_TOKENS = 1024, 4096, 65536

SHORT_JOB_TOKENS = 64
"""Of workers with equally much to do, the one that would be done first with a job of so many tokens gets the next."""

OVERHEAD_WEIGHT = 0.2
"""How much each job counts in what a worker's way to and fro takes."""

MAX_TOKENS_PER_SECOND = 1e9
"""No worker does so many, whatever it says."""

HANG_FACTOR = 10
"""A job that takes this many times as long as expected hangs (but see ``hang_seconds``)."""


class WorkerState(Enum):
    STARTING, READY, LEAVING, LOST, STOPPED = "starting", "ready", "leaving", "lost", "stopped"


TRANSITIONS = {
    WorkerState.STARTING: {WorkerState.READY, WorkerState.LOST, WorkerState.STOPPED},
    WorkerState.READY: {WorkerState.LEAVING, WorkerState.LOST, WorkerState.STOPPED},
    WorkerState.LEAVING: {WorkerState.LOST, WorkerState.STOPPED},
    WorkerState.LOST: {WorkerState.STARTING, WorkerState.STOPPED},
    WorkerState.STOPPED: set(),
}


@dataclass(eq=False, slots=True)
class Flight:
    """A job that a worker holds.

    Attributes:
        alone: it is one suspect piece, and nothing else is on that worker.
        since: when the worker was first free to run it, on the broker's clock; None while another job is before it.
        first: nothing was before it when it was handed out, so that ``since`` is when that was.
    """

    job: int
    slot: int
    pieces: list[Piece]
    tokens: int
    alone: bool
    since: float | None = None
    first: bool = False


@dataclass(eq=False, slots=True)
class Worker:
    """One place for a worker; the process in it changes, which ``incarnation`` counts.

    Attributes:
        credit: most jobs out on it.
        is_remote: it is on another host, so that jobs and rows have a way to go.
        tokens_per_second: as measured; 0: not yet.
        overhead: seconds that a job takes beside what the worker spends on it; of remote ones only.
    """

    slot: int
    credit: int = CREDIT
    is_remote: bool = False
    state: WorkerState = WorkerState.LOST
    incarnation: int = 0
    flights: dict[int, Flight] = field(default_factory=dict)
    num_jobs: int = 0
    num_sequences: int = 0
    restarts: int = 0
    tokens_per_second: float = 0.0
    overhead: float = 0.0

    @property
    def tokens(self) -> int:
        """Of the jobs that it holds."""
        return sum(flight.tokens for flight in self.flights.values())

    def enter(self, state: WorkerState) -> None:
        assert state in TRANSITIONS[self.state], f"worker {self.slot}: {self.state} -> {state}"
        self.state = state


class Fleet:
    """The workers, the jobs in flight, the suspects, and the measured rate."""

    def __init__(self, num_worker: int, backlog: Backlog, hang_seconds: float, credit: int = CREDIT) -> None:
        """
        Args:
            num_worker: number of slots.
            backlog: where jobs come from.
            hang_seconds: least time without an answer after which a worker counts as hung.
            credit: most jobs out on one worker.
        """
        self.workers = [Worker(slot, credit) for slot in range(num_worker)]
        self.backlog = backlog
        self.hang_seconds = hang_seconds
        self.flights: dict[int, Flight] = {}
        self.suspects: deque[Piece] = deque()
        self.quarantine: int | None = None
        self.tokens_per_second = 0.0
        self.num_redispatched = 0
        self._next_job = 1

    # ---- workers -----------------------------------------------------------------------------------------------------

    def started(self, slot: int) -> int:
        """A process is being started in ``slot``; its incarnation number."""
        worker = self.workers[slot]
        worker.enter(WorkerState.STARTING)
        worker.incarnation += 1
        return worker.incarnation

    def ready(self, slot: int) -> None:
        self.workers[slot].enter(WorkerState.READY)

    def add(self, credit: int = CREDIT) -> int:
        """A new slot for a worker of another host; its number."""
        self.workers.append(Worker(len(self.workers), credit, is_remote=True))
        return len(self.workers) - 1

    def leave(self, slot: int) -> None:
        """The worker ends what it has, and gets no more."""
        self.workers[slot].enter(WorkerState.LEAVING)

    def stopped(self, slot: int) -> None:
        self.workers[slot].enter(WorkerState.STOPPED)

    def is_current(self, slot: int, incarnation: int) -> bool:
        """Whether a message comes from the process that is in the slot now."""
        return slot < len(self.workers) and self.workers[slot].incarnation == incarnation

    @property
    def num_ready(self) -> int:
        return sum(worker.state is WorkerState.READY for worker in self.workers)

    def lost(self, slot: int) -> list[Piece]:
        """The worker in ``slot`` is gone; what it held becomes suspect.

        Returns:
            Pieces found guilty: one text each, that killed its worker alone once too often.
        """
        worker = self.workers[slot]
        worker.enter(WorkerState.LOST)
        worker.restarts += 1
        guilty: list[Piece] = []
        flights = [self._land(job) for job in sorted(worker.flights)]
        if self.quarantine == slot:
            self.quarantine = None
        for flight in flights:
            if flight is None:
                continue
            for piece in flight.pieces:
                if piece.request.finished:
                    continue
                self.num_redispatched += 1
                piece.strikes += flight.alone
                if flight.alone and piece.count > 1:
                    self.suspects.extend(piece.halves())
                elif piece.strikes >= MAX_STRIKES:
                    guilty.append(piece)
                else:
                    self.suspects.append(piece)
        return guilty

    # ---- jobs out ----------------------------------------------------------------------------------------------------

    def rate(self, worker: Worker) -> float:
        """Tokens per second that are to be expected of a worker: its own, or what any did; 0: nothing is known."""
        return worker.tokens_per_second or self.tokens_per_second

    def job_tokens(self, worker: Worker) -> int:
        """How many tokens a job may have, from the measured rate."""
        rate = self.rate(worker)
        if not rate:
            return FIRST_JOB_TOKENS
        return int(min(max(rate * TARGET_SECONDS, MIN_JOB_TOKENS), MAX_JOB_TOKENS))

    def next_flight(self, now: float) -> Flight | None:
        """The next job, given to a worker that can take it; None if there is no job or no such worker."""
        if not self.backlog and not self.suspects:
            return None
        if self.quarantine is not None and self.workers[self.quarantine].state is WorkerState.LEAVING \
                and not self.workers[self.quarantine].flights:
            self.quarantine = None
        for worker in sorted(self.workers, key=self._turn):
            if worker.state is not WorkerState.READY or len(worker.flights) >= worker.credit:
                continue
            if self._takes_suspect(worker):
                piece = self._next_suspect()
                if piece is not None:
                    return self._launch(worker, [piece], True, now)
            if worker.slot == self.quarantine or not self.backlog:
                continue
            if worker.flights and not self._is_short(worker):
                continue
            pieces = self.backlog.take(min(self.job_tokens(worker), self._share(worker)))
            if pieces:
                return self._launch(worker, pieces, False, now)
        return None

    def _turn(self, worker: Worker) -> tuple[int, float]:
        """Who gets the next job, least first."""
        rate = self.rate(worker)
        return len(worker.flights), worker.overhead + (SHORT_JOB_TOKENS / rate if rate else 0.0)

    def _takes_suspect(self, worker: Worker) -> bool:
        """Whether this worker is the quarantine and idle; an idle worker becomes it when there is none."""
        while self.suspects and self.suspects[0].request.finished:
            self.suspects.popleft()
        if not self.suspects:
            if self.quarantine is not None and not self.workers[self.quarantine].flights:
                self.quarantine = None
            return False
        if self.quarantine is None:
            # Its last jobs end first; meanwhile it gets no new ones.
            self.quarantine = worker.slot
        return self.quarantine == worker.slot and not worker.flights

    def _next_suspect(self) -> Piece | None:
        while self.suspects:
            piece = self.suspects.popleft()
            if not piece.request.finished:
                return piece
        return None

    def _share(self, asking: Worker) -> int:
        """One worker's share of what waits, in tokens, by how fast each is who will be done before it could do all."""
        waiting, own = self.backlog.tokens, self.rate(asking) or 1.0
        together = 0.0
        for worker in self.workers:
            rate = self.rate(worker) or 1.0
            if worker.state is WorkerState.READY and worker.slot != self.quarantine \
                    and worker.tokens * own < waiting * rate:
                together += rate
        return ceil(waiting * own / max(own, together))

    def _is_short(self, worker: Worker) -> bool:
        """Whether what the worker holds is expected to be done in no time, or before another job could get there."""
        return worker.tokens < self.rate(worker) * (WORTH_WAITING + worker.overhead)

    def _launch(self, worker: Worker, pieces: list[Piece], alone: bool, now: float) -> Flight:
        first = not worker.flights
        flight = Flight(self._next_job, worker.slot, pieces, sum(piece.tokens for piece in pieces), alone,
                        now if first else None, first)
        self._next_job += 1
        self.flights[flight.job] = worker.flights[flight.job] = flight
        return flight

    def unsent(self, job: int) -> None:
        """A job could not be handed over, or its host is lost, so that its worker's end is not its fault."""
        self.flights[job].alone = False

    # ---- jobs in -----------------------------------------------------------------------------------------------------

    def landed(self, job: int, now: float, num_tokens: int = 0, seconds: float = 0.0,
               busy: float = 0.0) -> Flight | None:
        """A job has come back, done or failed.

        Args:
            num_tokens, seconds: what the worker computed and how long it took; they make the measured rate.
            busy: seconds that the worker spent on it in all.
        Returns:
            The job; None if it was given up long ago, so that the rows are doubles.
        """
        flight = self._land(job)
        if flight is None:
            return None
        worker = self.workers[flight.slot]
        worker.num_jobs += 1
        worker.num_sequences += sum(piece.count for piece in flight.pieces)
        for waiting in worker.flights.values():
            if waiting.since is None:
                waiting.since = now
            break
        if worker.is_remote and flight.since is not None:
            seconds = min(seconds, now - flight.since)  # whatever it says
        if num_tokens and seconds > 0:
            rate, weight = min(num_tokens / seconds, MAX_TOKENS_PER_SECOND), min(seconds / RATE_SECONDS, 0.5)
            self.tokens_per_second += (rate - self.tokens_per_second) * (weight if self.tokens_per_second else 1.0)
            worker.tokens_per_second += (rate - worker.tokens_per_second) * (
                weight if worker.tokens_per_second else 1.0)
            if worker.is_remote and flight.first and flight.since is not None:
                overhead = max(0.0, now - flight.since - busy)
                worker.overhead += (overhead - worker.overhead) * (OVERHEAD_WEIGHT if worker.overhead else 1.0)
        return flight

    def failed(self, flight: Flight) -> list[Piece]:
        """A job's worker could not do it, and lives: run its pieces alone, or smaller.

        Returns:
            Pieces found guilty.
        """
        return [piece for piece in flight.pieces if not piece.request.finished and self.suspect(piece, flight)]

    def suspect(self, piece: Piece, flight: Flight) -> bool:
        """A piece whose job failed, or whose vectors are not finite; True if it is guilty, else it runs again."""
        self.num_redispatched += 1
        if piece.count == 1 and len(flight.pieces) == 1:
            return True
        if len(flight.pieces) == 1:
            self.suspects.extend(piece.halves())
        else:
            self.suspects.append(piece)
        return False

    def _land(self, job: int) -> Flight | None:
        flight = self.flights.pop(job, None)
        if flight is not None:
            del self.workers[flight.slot].flights[job]
        return flight

    # ---- time --------------------------------------------------------------------------------------------------------

    def hung(self, now: float) -> list[int]:
        """Slots whose worker has had its oldest job for far too long."""
        slots = []
        for worker in self.workers:
            oldest = next(iter(worker.flights.values()), None)
            if oldest is not None and oldest.since is not None and now - oldest.since > self.time_allowed(oldest):
                slots.append(worker.slot)
        return slots

    def time_allowed(self, flight: Flight) -> float:
        """Seconds after which a job's worker counts as hung."""
        rate = self.rate(self.workers[flight.slot])
        expected = flight.tokens / rate if rate else 0.0
        return max(self.hang_seconds, HANG_FACTOR * expected)

    def seconds_of_backlog(self) -> float:
        """How long everything that waits would take, at the measured rate; at least a second when nothing is known."""
        tokens = self.backlog.tokens + sum(flight.tokens for flight in self.flights.values())
        rate = sum(self.rate(worker) for worker in self.workers if worker.state is WorkerState.READY)
        rate = rate or self.tokens_per_second
        return tokens / rate if rate else 1.0
