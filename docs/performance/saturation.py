"""Where one server is full: what its threads spend on requests, and what comes of that with other workers and clients.

    python docs/performance/saturation.py --speed 500 --size 16

Costs are found by :func:`fit` from what threads were seen to spend; :func:`simulate` lets a server of such costs live
for a while, event by event. There are no processes or clocks here; capacity.py measures.

A server has two threads that can be full: the loop, where ventilator, sink and supervisor are, and ZeroMQ's, which
carries bytes. Each does one thing after the other. Workers and clients are somewhere else, on other cores.
The server's own Backlog and Scheduler decide which worker gets which job, by the simulated clock.
"""
from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from bert_serving.client.words import counted
from bert_serving.server.config import positive
from bert_serving.server.core.assembly import Assembly
from bert_serving.server.core.batching import CHARACTERS_PER_TOKEN, Backlog, Pending, estimate_tokens
from bert_serving.server.core.scheduler import Scheduler, Flight
from bert_serving.server.stages.endpoints import MAX_AT_ONCE

LEAST_TOKENS, = estimate_tokens([""], sys.maxsize)
"""Of a sentence without any characters."""

CLIENTS_EACH, MIN_CLIENTS = 8, 32
"""Clients for each worker, so that none waits for want of requests."""


@dataclass(frozen=True)
class Cost:
    """Seconds of processor that something takes of one thread.

    Attributes:
        request: for each request.
        sentence: for each sentence.
        job: for each job.
        byte_in: for each byte of the texts as they travel.
        byte_out: for each byte of the vectors.
    """

    request: float = 0.0
    sentence: float = 0.0
    job: float = 0.0
    byte_in: float = 0.0
    byte_out: float = 0.0


@dataclass(frozen=True)
class Counts:
    """How much of each there was: the same names as in a Cost."""

    request: float
    sentence: float
    job: float
    byte_in: float
    byte_out: float

    def seconds(self, cost: Cost) -> float:
        """What it costs in all."""
        return sum(count * each for count, each in zip(astuple(self), astuple(cost)))


@dataclass(frozen=True)
class Costs:
    """What threads spend.

    Attributes:
        loop, io: the server's two.
        worker, client: of echo servers; all the threads of one.
        wake: seconds until a thread that had nothing to do begins; they take no processor.
    """

    loop: Cost
    io: Cost
    worker: Cost = Cost()
    client: Cost = Cost()
    wake: float = 0.0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Costs:
        """From what capacity.py writes.

        Raises:
            TypeError, KeyError: it is something else.
        """
        return cls(wake=float(values["wake"]), **{name: Cost(**values[name]) for name in THREADS})


THREADS = ("loop", "io", "worker", "client")

MEASURED = Costs(
    loop=Cost(request=62.1e-6, sentence=0.07e-6, job=341e-6, byte_in=37.9e-9, byte_out=0.115e-9),
    io=Cost(request=43e-6, job=92.2e-6, byte_in=3.93e-9, byte_out=0.523e-9), wake=1e-6)
"""By capacity.py on 2026-11-26, on 2 cores of a Zen 3 with other work. Workers and clients are left
out: they are on other machines."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be simulated.

    Attributes:
        clients: each has one request out at a time.
        client_threads: that they share; None: each has its own.
        size: sentences in a request.
        workers: how many.
        speed: sentences per second that each of them computes; infinite: it takes no time but what it costs.
        tokens: of one sentence, special tokens included.
        bytes_in: of one text as it travels.
        bytes_out: of one vector.
        max_batch_size: most sentences in a job.
        priority_batch_size: most sentences of a fast request.
        cores: that the server's two threads share; None: each has its own.
        other_cores: that all threads of workers and clients share; None: each has its own.
    """

    clients: int
    size: int
    workers: int
    speed: float = math.inf
    tokens: int = 12
    bytes_in: float = 60.0
    bytes_out: float = 3072.0
    max_batch_size: int = 256
    priority_batch_size: int = 16
    cores: int | None = None
    other_cores: int | None = None
    client_threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a plan.

    Attributes:
        speed: sentences per second.
        loop, io, workers: share of the time that these were busy.
        batch: sentences in a job, on average.
    """

    speed: float
    loop: float
    io: float
    workers: float
    batch: float


# ---- costs -----------------------------------------------------------------------------------------------------------

def fit(seen: Sequence[Counts], seconds: Sequence[float]) -> Cost:
    """The cost that explains best what was spent, none below 0: the least sum of squared relative errors.

    Args:
        seen: what there was in each measurement.
        seconds: of processor that one thread spent in each.
    """
    spent = np.asarray(seconds, dtype=float)
    matrix = np.array([astuple(counts) for counts in seen]) / spent[:, None]  # [measurements, 5]; what is fitted is 1
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    found, _ = nnls(matrix / scale, np.ones(len(spent)))
    return Cost(*(float(value) for value in found / scale))


def with_wake(costs: Costs, plan: Plan, speed: float) -> Costs:
    """The same with the ``wake`` that makes one client as fast as it was seen to be, in sentences per second."""
    none, some = (1 / simulate(replace(costs, wake=wake), plan, 20).speed for wake in (0.0, 1e-3))
    return replace(costs, wake=max(0.0, (1 / speed - none) / (some - none) * 1e-3))


# ---- simulation ------------------------------------------------------------------------------------------------------

class _Cores:
    """Threads wait here for a core; whoever has one keeps it until it has done what it began."""

    def __init__(self, number: int | None) -> None:
        self.free = math.inf if number is None else number
        self.waiting: deque[_Thread] = deque()

    def take(self, thread: _Thread) -> None:
        if self.free:
            self.free -= 1
            thread.begin()
        else:
            self.waiting.append(thread)

    def give(self) -> None:
        if self.waiting:
            self.waiting.popleft().begin()
        else:
            self.free += 1


class _Thread:
    """Does one thing after the other."""

    def __init__(self, life: _Life, cores: _Cores) -> None:
        self.life, self.cores = life, cores
        self.queue: deque[tuple[float, Callable[[], None]]] = deque()
        self.busy = False
        self.spent = 0.0

    def do(self, seconds: float, then: Callable[[], None]) -> None:
        self.queue.append((seconds, then))
        if not self.busy:
            self.busy = True
            self.life.after(self.life.costs.wake, lambda: self.cores.take(self))

    def do_next(self, tasks: Sequence[tuple[float, Callable[[], None]]]) -> None:
        """In this order, before all else; for what follows from the task that just ends."""
        self.queue.extendleft(reversed(tasks))

    def begin(self) -> None:
        seconds, then = self.queue.popleft()
        self.spent += seconds
        self.life.after(seconds, lambda: self._end(then))

    def _end(self, then: Callable[[], None]) -> None:
        then()
        self.cores.give()
        if self.queue:
            self.cores.take(self)
        else:
            self.busy = False


@dataclass
class _Request:
    """A request whose sentences are being computed; ``missing`` of them have no row yet."""

    client: _Thread
    missing: int


class _Worker:
    def __init__(self, thread: _Thread) -> None:
        self.thread = thread
        self.computing_until = 0.0
        self.computed = 0.0           # seconds


class _Life:
    """A server, its workers and its clients, and the time."""

    def __init__(self, costs: Costs, plan: Plan) -> None:
        self.costs, self.plan = costs, plan
        self.now = 0.0
        own, other = _Cores(plan.cores), _Cores(plan.other_cores)
        self.answered = self.sentences = self.jobs = self.in_jobs = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers, self._uids = itertools.count(), itertools.count()
        self.loop, self.io = _Thread(self, own), _Thread(self, own)
        self.workers = [_Worker(_Thread(self, other)) for _ in range(plan.workers)]
        self.backlog = Backlog(plan.max_batch_size, plan.priority_batch_size, plan.tokens)
        self.scheduler = Scheduler(plan.workers, self.backlog, math.inf)
        each = 1 / plan.speed + costs.worker.sentence + plan.bytes_out * costs.worker.byte_out + 1e-9
        for slot in range(plan.workers):
            self.scheduler.started(slot)
            self.scheduler.ready(slot, plan.tokens / each)
        self.requests: dict[int, _Request] = {}
        self.texts = ["x" * (CHARACTERS_PER_TOKEN * (plan.tokens - LEAST_TOKENS))] * plan.size
        self.arrived = self.due = 0    # messages for the loop; those of them that it takes before it makes jobs
        self.bytes_in, self.bytes_out = plan.size * plan.bytes_in, plan.size * plan.bytes_out
        threads = [_Thread(self, other) for _ in range(plan.client_threads or plan.clients)]
        for client in range(plan.clients):
            self._ask(b"%d" % client, threads[client % len(threads)])

    def after(self, seconds: float, then: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), then))

    def run(self, requests: int) -> None:
        """Until so many requests are answered."""
        while self.answered < requests:
            self.now, _, then = heapq.heappop(self._events)
            then()

    def spent(self) -> np.ndarray:
        """Now, sentences answered, jobs and sentences in them; seconds of loop, ZeroMQ's thread, and all workers."""
        return np.array([self.now, self.sentences, self.jobs, self.in_jobs, self.loop.spent, self.io.spent,
                         sum(worker.thread.spent + worker.computed for worker in self.workers)])

    # A request's way. Of what is known to be spent on each request or job, half is for each direction.

    def _ask(self, identity: bytes, client: _Thread) -> None:
        seconds = Counts(1, self.plan.size, 0, self.bytes_in, self.bytes_out).seconds(self.costs.client)
        client.do(seconds, lambda: self.io.do(self._toward(self.costs.io), lambda: self._arrive(identity, client)))

    def _toward(self, cost: Cost) -> float:
        return cost.request / 2 + cost.sentence / 2 * self.plan.size + cost.byte_in * self.bytes_in

    def _back(self, cost: Cost) -> float:
        return cost.request / 2 + cost.byte_out * self.bytes_out

    def _arrive(self, identity: bytes, client: _Thread) -> None:
        self.arrived += 1
        self.loop.do(self._toward(self.costs.loop), lambda: self._accept(identity, client))

    def _accept(self, identity: bytes, client: _Thread) -> None:
        """As Ventilator does it where no client has more than one request out."""
        pending = Pending(uid=next(self._uids), identity=identity, request_id=b"", texts=self.texts,
                          nbytes=0, tokens=sum(estimate_tokens(self.texts, self.plan.tokens)), arrived=self.now,
                          deadline=None, assembly=Assembly(self.plan.size))
        self.requests[pending.uid] = _Request(client, self.plan.size)
        if self.backlog.is_fast(pending):
            self.scheduler.interactive(self.now)
        self.backlog.add(pending)
        self._hand_out()

    def _hand_out(self) -> None:
        """Hand out jobs, once the loop has taken all messages that were there when it last did."""
        self.arrived -= 1
        self.due -= 1
        if self.due > 0:
            return
        self.due = min(self.arrived, MAX_AT_ONCE)
        flights = iter(partial(self.scheduler.next_flight, self.now), None)
        self.loop.do_next([(self.costs.loop.job / 2, partial(self._send, flight)) for flight in flights])

    def _send(self, flight: Flight) -> None:
        size = sum(piece.count for piece in flight.pieces)
        self.jobs += 1
        self.in_jobs += size
        seconds = Counts(len(flight.pieces), size, 1, size * self.plan.bytes_in,
                         size * self.plan.bytes_out).seconds(self.costs.worker)
        self.io.do(self.costs.io.job / 2, lambda: self.workers[flight.slot].thread.do(
            seconds, lambda: self._compute(flight, size, seconds)))

    def _compute(self, flight: Flight, size: int, busy: float) -> None:
        """What takes a worker time and no core of ours."""
        worker, seconds = self.workers[flight.slot], size / self.plan.speed
        worker.computed += seconds
        worker.computing_until = max(self.now, worker.computing_until) + seconds
        self.after(worker.computing_until - self.now, lambda: self.io.do(
            self.costs.io.job / 2 + self.costs.io.sentence / 2 * size,
            lambda: self._take_rows(flight, size, busy + seconds)))

    def _take_rows(self, flight: Flight, size: int, seconds: float) -> None:
        cost = self.costs.loop
        self.arrived += 1
        self.loop.do(cost.job / 2 + cost.sentence / 2 * size, lambda: self._collect(flight, size, seconds))

    def _collect(self, flight: Flight, size: int, seconds: float) -> None:
        tokens = size * self.plan.tokens
        self.scheduler.landed(flight.job, self.now, tokens, seconds, seconds, tokens)
        whole = []
        for piece in flight.pieces:
            request = self.requests[piece.request.uid]
            request.missing -= piece.count
            if not request.missing:
                del self.requests[piece.request.uid]
                whole.append((piece.request.identity, request.client))
        self.loop.do_next([*((self._back(self.costs.loop), partial(self._publish, *who)) for who in whole),
                           (0.0, self._hand_out)])

    def _publish(self, identity: bytes, client: _Thread) -> None:
        self.io.do(self._back(self.costs.io), lambda: self._answer(identity, client))

    def _answer(self, identity: bytes, client: _Thread) -> None:
        self.answered += 1
        self.sentences += self.plan.size
        self._ask(identity, client)


def simulate(costs: Costs, plan: Plan, requests: int = 1000) -> Outcome:
    """Let a server live until so many requests are answered, after a fifth of them that does not count.

    Raises:
        ValueError: nobody would ask or compute.
    """
    if min(plan.clients, plan.size, plan.workers, plan.max_batch_size, requests) < 1 or not plan.speed > 0:
        raise ValueError(f"{plan} with {counted(requests, 'request')}; expected at least one of everything")
    if plan.tokens < LEAST_TOKENS:
        raise ValueError(f"{plan}; expected at least {LEAST_TOKENS} tokens for a sentence")
    life = _Life(costs, plan)
    life.run(max(1, requests // 5))
    before = life.spent()
    life.run(max(1, requests // 5) + requests)
    seconds, sentences, jobs, in_jobs, loop, io, workers = life.spent() - before
    return Outcome(sentences / seconds, loop / seconds, io / seconds, workers / seconds / plan.workers,
                   in_jobs / max(1, jobs))


# ---- the command -----------------------------------------------------------------------------------------------------

def table(costs: Costs, sizes: Sequence[int], speeds: Sequence[float], numbers: Sequence[int], dimension: int) -> str:
    """Sentences per second of one server by request size, worker speed and number of workers.

    In brackets: how busy the busier of its two threads is.
    """
    lines = ["| sentences a request | a worker's sentences/s | "
             + " | ".join(counted(number, "worker") for number in numbers)
             + " |", "|---|---|" + "---|" * len(numbers)]
    for size in sizes:
        for speed in speeds:
            outcomes = [simulate(costs, Plan(
                clients=max(MIN_CLIENTS, CLIENTS_EACH * number), workers=number, size=size, speed=speed,
                bytes_out=4.0 * dimension), max(500, 3 * CLIENTS_EACH * number)) for number in numbers]
            lines.append(f"| {size} | {speed:g} | " + " | ".join(
                f"{outcome.speed:.0f} ({100 * max(outcome.loop, outcome.io):.0f} %)" for outcome in outcomes) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print what one server can feed; the exit code."""
    parser = argparse.ArgumentParser(description="Say how many sentences per second one server passes on, and how "
                                     "busy the busier of its threads is: at 100 %% it is full.")
    parser.add_argument("--size", type=positive, nargs="+", default=[1, 16, 256], help="sentences in a request")
    parser.add_argument("--speed", type=positive, nargs="+", default=[100, 1000, 10000],
                        help="sentences per second that a worker computes")
    parser.add_argument("--workers", type=positive, nargs="+", default=[1, 4, 16, 64], help="how many there are")
    parser.add_argument("--dimension", type=positive, default=384, help="numbers in a vector")
    parser.add_argument("--costs", type=Path, help="what capacity.py --output has written "
                        "(default: what it measured on a Zen 3)")
    args = parser.parse_args(argv)
    try:
        costs = Costs.from_json(json.loads(args.costs.read_text())) if args.costs else MEASURED
    except (OSError, ValueError, TypeError, KeyError) as error:
        parser.error(f"--costs {args.costs} is not what capacity.py --output writes: {error}")
    print(table(replace(costs, worker=Cost(), client=Cost()), args.size, args.speed, args.workers,
                args.dimension))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
