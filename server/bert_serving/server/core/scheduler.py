"""Which worker holds what, and what becomes of it when the worker dies, hangs or fails.

WorkerSlot states::

    STARTING ──ready──▶ READY ──────lost──────▶ LOST ──started──▶ STARTING
        │                 └─leave─▶ LEAVING ──lost─▶│
        └────────────────────lost──────────────────▲

A piece of a request is QUEUED (in the backlog), SENT (in a job in flight), or SUSPECT. When a worker dies, everything
it held becomes suspect, without a strike: it may be innocent. Suspects run alone, on one worker at a time (the
quarantine). A piece that fails or dies there is halved; a single text that kills its worker ``MAX_STRIKES`` times, or
that raises or gives no finite vector alone, is guilty: its request fails, and no other one does. Where the quarantine
is the only worker that is ready, suspects and everybody else take turns on it.

A job's size is a time: as many tokens as its worker is expected to do in it. It is short while anybody interactive is
about, and long while all that comes is bulk.

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

INTERACTIVE_SECONDS = 0.045
"""The same while somebody interactive is about, who may have to wait for a job that has just begun."""

INTERACTIVE_WINDOW = 30.0
"""Seconds after its last request that somebody interactive counts as being about."""

MIN_JOB_TOKENS, FIRST_JOB_TOKENS, MAX_JOB_TOKENS = 64, 4096, 65536

QUIET_SECONDS = 1.0
"""What a client left behind when it went is computed only after nobody else has asked for so long."""

SHORT_JOB_TOKENS = 64
"""Of workers with equally much to do, the one that would be done first with a job of so many tokens gets the next."""

OVERHEAD_WEIGHT = 0.2
"""How much each job counts in what a worker's way to and fro takes."""

MAX_TOKENS_PER_SECOND = 1e9
"""No worker does so many, whatever it says."""

HANG_FACTOR = 10
"""A job that takes this many times as long as expected hangs (but see ``Scheduler.time_allowed``)."""

SECONDS_PER_CHARACTER = 0.2e-6
"""What reading a text takes at most, however few of its tokens are computed (0.01 to 0.12e-6 on a Zen 4)."""

ALONE_SHARE = 1 / 2
"""A suspect that runs alone has so much of the least time that other jobs have."""

LAST_SHARE = 5 / 3
"""The same for a text that will be found guilty if it does not end."""

FAR_SECONDS = 10.0
"""A job of a worker on another host has at least so many, if any job there has less than ``hang_seconds``: nobody knows
what lies between, and what the worker runs on."""

ALARM_SECONDS, MAX_ALARMS = 600.0, 6
"""Each time that a worker was thought to hang and no text was found guilty of it, the least time that a job has doubles
for so many seconds; at most so often."""

TURN_SECONDS = 0.3
"""Suspects and everybody else, where they share the only worker, have turns of this length, and at least one job."""

MAX_ESTIMATE = 10.0
"""Estimated and counted tokens of a text differ by this factor at most."""


class WorkerState(Enum):
    STARTING, READY, LEAVING, LOST = "starting", "ready", "leaving", "lost"


TRANSITIONS = {
    WorkerState.STARTING: {WorkerState.READY, WorkerState.LOST},
    WorkerState.READY: {WorkerState.LEAVING, WorkerState.LOST},
    WorkerState.LEAVING: {WorkerState.LOST},
    WorkerState.LOST: {WorkerState.STARTING},
}


@dataclass(eq=False, slots=True)
class Flight:
    """A job that a worker holds.

    Attributes:
        alone: it is one suspect piece, and nothing else is on that worker.
        since: when the worker was first free to run it, on the broker's clock; None while another job is before it.
        first: nothing was before it when it was handed out, so that ``since`` is when that was.
        hung: its worker was ended because it took too long.
    """

    job: int
    slot: int
    pieces: list[Piece]
    tokens: int
    alone: bool
    since: float | None = None
    first: bool = False
    hung: bool = False


@dataclass(eq=False, slots=True)
class WorkerSlot:
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

    @property
    def oldest(self) -> Flight | None:
        """The job that it runs, if it has any."""
        return next(iter(self.flights.values()), None)

    def enter(self, state: WorkerState) -> None:
        assert state in TRANSITIONS[self.state], f"worker {self.slot}: {self.state} -> {state}"
        self.state = state


class Scheduler:
    """The workers, the jobs in flight, the suspects, and the measured rate."""

    def __init__(self, num_worker: int, backlog: Backlog, hang_seconds: float, credit: int = CREDIT,
                 floor_seconds: float | None = None) -> None:
        """
        Args:
            num_worker: number of slots.
            backlog: where jobs come from.
            hang_seconds: least time without an answer after which a worker counts as hung.
            credit: most jobs out on one worker.
            floor_seconds: the same for a worker whose rate is known; None: no less.
        """
        self.workers = [WorkerSlot(slot, credit) for slot in range(num_worker)]
        self.backlog = backlog
        self.hang_seconds = hang_seconds
        self.floor_seconds = hang_seconds if floor_seconds is None else min(floor_seconds, hang_seconds)
        self.flights: dict[int, Flight] = {}
        self.suspects: deque[Piece] = deque()
        self.quarantine: int | None = None
        self.tokens_per_second = 0.0
        self.num_redispatched = 0
        self._next_job = 1
        self._estimate = 1.0                   # estimated tokens for each that was counted
        self._interactive = float("-inf")      # when somebody interactive last asked
        self._alarms: deque[float] = deque()   # when workers were thought to hang, and no text was found guilty of it
        # Where suspects and others share the only worker: whose turn it is, until when, whether a suspect ran in it.
        self._is_others_turn, self._turn_ends, self._had_job = False, 0.0, False

    # ---- workers -----------------------------------------------------------------------------------------------------

    def started(self, slot: int) -> int:
        """A process is being started in ``slot``; its incarnation number."""
        worker = self.workers[slot]
        worker.enter(WorkerState.STARTING)
        worker.incarnation += 1
        return worker.incarnation

    def ready(self, slot: int, tokens_per_second: float = 0.0) -> None:
        """The worker has proved itself.

        Args:
            tokens_per_second: as its self-test has it; 0: unknown. What jobs have shown counts for more.
        """
        worker = self.workers[slot]
        worker.enter(WorkerState.READY)
        if not worker.tokens_per_second:
            worker.tokens_per_second = min(tokens_per_second, MAX_TOKENS_PER_SECOND)

    def add(self, credit: int = CREDIT) -> int:
        """A new slot for a worker of another host; its number."""
        self.workers.append(WorkerSlot(len(self.workers), credit, is_remote=True))
        return len(self.workers) - 1

    def leave(self, slot: int) -> None:
        """The worker ends what it has, and gets no more."""
        self.workers[slot].enter(WorkerState.LEAVING)

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
        self._is_others_turn, self._turn_ends, self._had_job = True, float("inf"), False
        if any(flight is not None and flight.hung for flight in flights):
            flights.reverse()  # a worker that hangs has begun the oldest only: the others first
        for flight in flights:
            if flight is None:
                continue
            # A worker that hangs with a single piece was not ended by anything else.
            is_clear = flight.alone or flight.hung and len(flight.pieces) == 1
            for piece in flight.pieces:
                if piece.request.finished:
                    continue
                self.num_redispatched += 1
                piece.strikes += is_clear
                if is_clear and piece.count > 1:
                    self.suspects.extend(piece.halves())
                elif piece.strikes >= MAX_STRIKES:
                    guilty.append(piece)
                    if flight.hung and self._alarms:
                        self._alarms.pop()  # it was no false one
                else:
                    self.suspects.append(piece)
        return guilty

    # ---- jobs out ----------------------------------------------------------------------------------------------------

    def interactive(self, now: float) -> None:
        """Somebody has asked who waits for a short answer."""
        self._interactive = now

    def rate(self, worker: WorkerSlot) -> float:
        """Estimated tokens per second that are to be expected of a worker: as it did, or as any did; 0: unknown."""
        return (worker.tokens_per_second or self.tokens_per_second) * self._estimate

    def target_seconds(self, now: float) -> float:
        """How long a job may be expected to take."""
        return INTERACTIVE_SECONDS if now - self._interactive <= INTERACTIVE_WINDOW else TARGET_SECONDS

    def job_tokens(self, worker: WorkerSlot, seconds: float) -> int:
        """How many estimated tokens a job may have that is to take so many seconds."""
        rate = self.rate(worker)
        if not rate:
            return FIRST_JOB_TOKENS
        return int(min(max(rate * seconds, MIN_JOB_TOKENS), MAX_JOB_TOKENS))

    def next_flight(self, now: float) -> Flight | None:
        """The next job, given to a worker that can take it; None if there is no job or no such worker."""
        if not self.backlog and not self.suspects:
            return self._next_of_the_gone(now)
        if self.quarantine is not None and self.workers[self.quarantine].state is WorkerState.LEAVING \
                and not self.workers[self.quarantine].flights:
            self.quarantine = None
        for worker in sorted(self.workers, key=self._turn):
            if worker.state is not WorkerState.READY or len(worker.flights) >= worker.credit:
                continue
            if not self._is_for_others(worker, now):
                if self._takes_suspect(worker):
                    self._had_job = True
                    return self._launch(worker, [self.suspects.popleft()], True, now)
                if worker.slot == self.quarantine:
                    continue
            if not self.backlog or worker.flights and not self._is_short(worker, now):
                continue
            pieces = self.backlog.take(min(self._next_tokens(worker, now), self._share(worker)))
            if pieces:
                return self._launch(worker, pieces, False, now)
        return None

    def _next_tokens(self, worker: WorkerSlot, now: float) -> int:
        """How many estimated tokens the next job may have."""
        seconds = self.target_seconds(now)
        tokens = self.job_tokens(worker, seconds)
        if seconds == INTERACTIVE_SECONDS and self.backlog.mixes_in_a_flood(tokens):
            # Who asks beside a flood of small requests waits for the job before, and for all of this one.
            tokens = self.job_tokens(worker, seconds / 2)
        return tokens

    def _next_of_the_gone(self, now: float) -> Flight | None:
        """A job of what clients left behind that have gone, while nobody else wants anything."""
        if self.backlog.left and now - self.backlog.last_added > QUIET_SECONDS:
            for worker in self.workers:
                if worker.state is WorkerState.READY and not worker.flights:
                    pieces = self.backlog.take_left(self.job_tokens(worker, INTERACTIVE_SECONDS))
                    return self._launch(worker, pieces, False, now)
        return None

    def _is_for_others(self, worker: WorkerSlot, now: float) -> bool:
        """Whether it is the turn of those who are no suspects, on the only worker that is ready."""
        if not self.suspects or not self.backlog or any(flight.alone for flight in worker.flights.values()) \
                or any(other.state is WorkerState.READY for other in self.workers if other is not worker):
            return False
        if self._turn_ends == float("inf"):  # the first turn after a worker was lost begins when there is one again
            self._turn_ends = now + TURN_SECONDS
        if now >= self._turn_ends and (self._is_others_turn or self._had_job):
            self._is_others_turn, self._turn_ends = not self._is_others_turn, now + TURN_SECONDS
            self._had_job = False
        return self._is_others_turn

    def _turn(self, worker: WorkerSlot) -> tuple[int, float]:
        """Who gets the next job, least first."""
        rate = self.rate(worker)
        return len(worker.flights), worker.overhead + (SHORT_JOB_TOKENS / rate if rate else 0.0)

    def _takes_suspect(self, worker: WorkerSlot) -> bool:
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

    def _share(self, asking: WorkerSlot) -> int:
        """One worker's share of what waits, in tokens, by how fast each is who will be done before it could do all."""
        waiting, own = self.backlog.tokens, self.rate(asking) or 1.0
        together = 0.0
        for worker in self.workers:
            rate = self.rate(worker) or 1.0
            if worker.state is WorkerState.READY and worker.slot != self.quarantine \
                    and worker.tokens * own < waiting * rate:
                together += rate
        return ceil(waiting * own / max(own, together))

    def _is_short(self, worker: WorkerSlot, now: float) -> bool:
        """Whether what the worker holds is expected to be done in no time, or before another job could get there."""
        return self._left_to_do(worker, now) < WORTH_WAITING + worker.overhead

    def _left_to_do(self, worker: WorkerSlot, now: float) -> float:
        """Seconds that a worker is expected to need for the jobs that it holds. One that is late may need any time."""
        rate = self.rate(worker)
        expected = worker.tokens / rate if rate else float("inf")
        oldest = worker.oldest
        elapsed = now - oldest.since if oldest is not None and oldest.since is not None else 0.0
        return expected - elapsed if 0 <= elapsed < expected else expected

    def seconds_until_next(self, now: float) -> float | None:
        """Seconds until a worker will have so little left to do that the next job may be sent on its way.

        None: nobody need look. At a worker of this host, to which there is no way, a job is at once when it is free.
        """
        if not self.backlog:
            return None
        seconds = [self._left_to_do(worker, now) - WORTH_WAITING - worker.overhead for worker in self.workers
                   if worker.overhead and worker.state is WorkerState.READY and worker.slot != self.quarantine
                   and 0 < len(worker.flights) < worker.credit]
        return max(0.0, min(seconds)) if seconds else None

    def _launch(self, worker: WorkerSlot, pieces: list[Piece], alone: bool, now: float) -> Flight:
        first = not worker.flights
        flight = Flight(self._next_job, worker.slot, pieces, sum(piece.tokens for piece in pieces), alone,
                        now if first else None, first)
        self._next_job += 1
        self.flights[flight.job] = worker.flights[flight.job] = flight
        return flight

    def unsent(self, job: int) -> None:
        """A job could not be handed over, or its host is lost, so that its worker's end is not its fault."""
        self.flights[job].alone = self.flights[job].hung = False

    # ---- jobs in -----------------------------------------------------------------------------------------------------

    def landed(self, job: int, now: float, num_tokens: int = 0, seconds: float = 0.0,
               busy: float = 0.0, counted: int = 0) -> Flight | None:
        """A job has come back, done or failed.

        Args:
            num_tokens, seconds: what the worker computed and how long it took; they make the measured rate.
            busy: seconds that the worker spent on it in all.
            counted: tokens of all its sequences, those included that were computed once for several; 0: unknown.
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
            if not worker.is_remote:
                seconds = max(seconds, busy)  # tokenizing takes time, too
            if counted:
                estimate = min(max(flight.tokens / counted, 1 / MAX_ESTIMATE), MAX_ESTIMATE)
                self._estimate += (estimate - self._estimate) * min(seconds / RATE_SECONDS, 0.5)
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
        while self._alarms and now - self._alarms[0] > ALARM_SECONDS:
            self._alarms.popleft()
        slots = []
        for worker in self.workers:
            oldest = worker.oldest
            if oldest is None or oldest.since is None:
                continue
            seconds = now - oldest.since
            # No job has less than that; only then all its characters are counted.
            if seconds > self.floor_seconds * ALONE_SHARE and seconds > self.time_allowed(oldest):
                slots.append(worker.slot)
        return slots

    def time_allowed(self, flight: Flight) -> float:
        """Seconds after which a job's worker counts as hung: far more than the job should take, and not too few."""
        worker = self.workers[flight.slot]
        rate = self.rate(worker)
        # The way to a worker of another host is known once a job has been there and back.
        is_known = bool(rate) and (not worker.is_remote or worker.overhead > 0)
        least = self.floor_seconds if is_known else self.hang_seconds
        if worker.is_remote:
            least = max(least, min(FAR_SECONDS, self.hang_seconds))
        alarms = len(self._alarms)
        if least < self.hang_seconds:
            if flight.alone:
                piece = flight.pieces[0]
                least *= LAST_SHARE if piece.count == 1 and piece.strikes == MAX_STRIKES - 1 else ALONE_SHARE
                alarms -= 1  # one of them is for what it did before
            least = min(least * 2 ** min(max(alarms, 0), MAX_ALARMS), self.hang_seconds)
        expected = flight.tokens / rate + worker.overhead if rate else 0.0
        characters = sum(len(text) for piece in flight.pieces for text in piece.texts)
        return max(least, HANG_FACTOR * (expected + characters * SECONDS_PER_CHARACTER))

    def give_up(self, slot: int, now: float) -> None:
        """The worker in ``slot`` hangs, and is about to be ended."""
        oldest = self.workers[slot].oldest
        assert oldest is not None, "an idle worker does not hang"
        if not oldest.hung and not oldest.alone:
            self._alarms.append(now)
        oldest.hung = True
        oldest.since = now

    def excuse(self, seconds: float) -> None:
        """Nothing went on for so long, here as at the workers: the machine was stopped. That counts for no job."""
        for flight in self.flights.values():
            if flight.since is not None:
                flight.since += seconds

    def seconds_of_backlog(self) -> float:
        """How long everything that waits would take, at the measured rate; at least a second when nothing is known."""
        tokens = self.backlog.tokens + sum(flight.tokens for flight in self.flights.values())
        rate = sum(self.rate(worker) for worker in self.workers if worker.state is WorkerState.READY)
        rate = rate or self.tokens_per_second
        return tokens / rate if rate else 1.0
