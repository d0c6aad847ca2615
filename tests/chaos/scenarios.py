"""What the bench does, one function a scenario: each promises something and brings back what it saw."""
from __future__ import annotations

import json
import math
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from bert_serving.client import BertClient
from bert_serving.client.errors import UnprocessableError
from bert_serving.server.keys import make as make_keys

from . import memory
from .clients import Clients
from .faults import Garbage, HalfOpen, Proxy, Server
from .history import Checker, Verdict

PLANTED = Path(__file__).with_name("planted.py")

RECOVERY_MS = 100
STALLED_SHARE = 0.10
INTERACTIVE_FACTOR = 2
MODEL_KILL_EVERY = 5.0
MODEL_DIFFERENCE = 1e-5
"""A sentence computed beside other sentences may differ in the last bits."""

WORDS = ("the a one many river house light green old quickly reads writes in under of to and while it is cat friend"
         " paper seven winter music said never begins ends street colour between without").split()

BULK_JOB, BULK_MS = 16, 3
"""Sentences in one job beside the interactive client, and milliseconds that each takes."""

WORKERS, ENOUGH_FOR_P99 = 2, 200
"""Of each server; and requests of the interactive client that are enough for a p99."""

FLOOD_SIZE, FLOOD_MS, FLOOD_SHARE, LEFT_SECONDS = 50, 60, 0.07, 1.0
"""Sentences of a flood's requests; how much longer the p99 of a single one may be beside it; how much less may be
computed in all for that; and how soon a flood whose clients were killed costs nothing."""

LEFT_SIZE = 20_000
"""Sentences that a client leaves behind when it is killed: half a minute of work."""

REFUSED_SECONDS, NEIGHBOUR_SECONDS = 15.0, 5.0
"""How soon a text that hangs its worker is refused, and how long others may wait meanwhile."""

GROWTH = 1_000_000
"""Bytes by which the lower bound of the slope may have a broker grow while it is looked at: what an allocator may need
for itself. A request in ten that left a small object behind would go beyond it within a minute."""

MORE_FILES = 8

HALF_OPEN, HALF_OPEN_SHARE = 1000, 0.20
KEYS_SIZE, KEYS_REPEAT, KEYS_CLIENTS, KEYS_SHARE = 64, 2, 4, 0.15


@dataclass(frozen=True)
class Settings:
    """What a run was told.

    Attributes:
        seconds: for the whole run; each scenario takes its share.
        sentences: the storm goes on until it has had so many.
        kill_every, restart_every: seconds between the storm's faults.
        timeout: milliseconds after which our own client counts an answer as lost; restarts have to fit in.
        engine: what the scenario with a real model runs on; without one it is left out.
        model_sentences: how many sentences that is.
        planted: a bug to plant, and ``every`` how many results it strikes.
        original: an interpreter with the original's client, or why there is none.
        keys: directory of keys that all servers and clients use; None: they do without.
    """

    seconds: float
    seed: int
    expect: Callable[[list[str]], str]
    sentences: int = 0
    kill_every: float = 2.0
    restart_every: float = 60.0
    timeout: int = 20_000
    planted: str | None = None
    every: int = 1000
    leak: int = 200_000
    original: Path | str = "not asked for"
    keys: str | None = None
    engine: str | None = None
    model_sentences: int = 20_000
    directory: str | None = None
    say: Callable[[str], None] = print


@dataclass
class Outcome:
    """What a scenario brings back.

    Attributes:
        passed: None: it was not judged, ``figure`` says why.
    """

    name: str
    verdict: Verdict
    figure: str
    limit: str
    passed: bool | None
    notes: list[str] = field(default_factory=list)


class Stage:
    """A server, clients, and the checker that hears them; all are gone at the end of ``with``."""

    def __init__(self, settings: Settings, name: str, *options: str, engine: str = "echo",
                 program: Sequence[str] | None = None) -> None:
        self.settings, self.engine = settings, engine
        if settings.keys:
            options = (*options, "-curve_dir", settings.keys)
        self.rng = random.Random(f"{settings.seed} {name}")
        self.checker = Checker(settings.expect)
        self.clients: list[Clients] = []
        self._options, self._program = options, program
        self._lock = threading.Lock()
        self._exit = ExitStack()

    def __enter__(self) -> Stage:
        settings = self.settings
        self.server = self._exit.enter_context(Server(
            "-engine", self.engine, "-num_worker", str(WORKERS), *self._options,
            directory=settings.directory, program=self._program,
            leak=settings.leak if settings.planted == "leak" else 0))
        self.port, self.port_out = self.server.port, self.server.port_out
        if settings.planted not in (None, "leak"):
            spoiler = subprocess.Popen(
                [sys.executable, PLANTED, str(self.port_out), settings.planted, str(settings.every)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._exit.callback(_end, spoiler)
            self.port_out = int(spoiler.stdout.readline())
        return self

    def __exit__(self, *exc_info: object) -> None:
        for clients in self.clients:
            clients.close()
        self._exit.close()

    def take(self, event: list[Any]) -> None:
        with self._lock:
            self.checker.add(event)

    def start(self, kind: str, mode: str, names: list[str], **order: Any) -> Clients:
        """A process of clients."""
        if kind == "original":
            assert isinstance(self.settings.original, Path)
            order["interpreter"] = self.settings.original
        order = {"port": self.port, "port_out": self.port_out, "seed": self.rng.randrange(1 << 30),
                 "timeout": self.settings.timeout, "curve_dir": self.settings.keys or "", **order}
        self.clients.append(Clients(kind, mode, names, self.take, **order))
        return self.clients[-1]

    def finish(self) -> Verdict:
        """Let the clients end, and judge.

        Raises:
            RuntimeError: there is nothing to judge, or the server has ended by itself.
        """
        self.server.check()
        for clients in self.clients:
            clients.ask_to_stop()
        for clients in self.clients:
            clients.wait()
        self.server.check()
        with self._lock:
            verdict = self.checker.finish(time.monotonic())
            if not verdict.answered and not self.checker.figures and self.engine == "echo":
                raise RuntimeError("nothing was answered")
            return verdict

    def answered(self) -> int:
        return self.checker.verdict.answered

    def figures(self, name: str) -> list[Any]:
        with self._lock:
            return [value for _, who, value in self.checker.figures if who == name]

    def wait_for(self, condition: Callable[[], Any], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.02)
        return False

    @property
    def has_original(self) -> bool:
        return isinstance(self.settings.original, Path)


def _end(process: subprocess.Popen[str]) -> None:
    process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


# ---- everything at once ----------------------------------------------------------------------------------------------

def storm(settings: Settings) -> Outcome:
    """Clients of three kinds, while workers are killed and stopped, the server is restarted, one client sends poison,
    one reads nothing for a while, and both ports get garbage."""
    seconds = settings.seconds * (0.4 if settings.seconds >= 120 else 0.3)
    restart_every, kill_every = settings.restart_every, settings.kill_every
    if not settings.sentences:  # a short run has to have some, too
        restart_every, kill_every = min(restart_every, max(3.0, seconds / 2.5)), min(kill_every, max(0.5, seconds / 6))
    with Stage(settings, "storm", "-job_timeout", "3") as stage:
        server, rng = stage.server, stage.rng
        stage.start("ours", "mixed", [f"ours{i}" for i in range(6)])
        stage.start("ours", "mixed", ["poisoner"], largest=8, poison=0.1, recovery=5 * kill_every)
        stage.start("raw", "", [f"raw{i}" for i in range(4)], window=4, timeout=min(settings.timeout // 4, 10_000))
        lazy = stage.start("raw", "", ["lazy"], window=40, timeout=12_000, largest=16)
        if stage.has_original:
            stage.start("original", "mixed", [f"original{i}" for i in range(4)], timeout=4_000)
        garbage = Garbage(random.Random(rng.random()))
        began = time.monotonic()
        next_kill, next_restart, next_garbage = began + kill_every, began + restart_every, began
        descriptors = 0
        paused_since: float | None = None
        while True:
            now = time.monotonic()
            if settings.sentences:
                if stage.answered() >= settings.sentences:
                    break
            elif now - began > seconds:
                break
            if now >= next_kill:
                next_kill = now + kill_every
                server.hurt_worker(rng.choice([signal.SIGKILL] * 4 + [signal.SIGSTOP]), rng)
                if paused_since is None:
                    lazy.pause()
                    paused_since = now
            if paused_since is not None and now - paused_since > 1.5 * kill_every:
                lazy.go_on()
                paused_since = None
            if now >= next_restart:
                number = rng.choice([signal.SIGKILL, signal.SIGTERM])
                stage.take(["disturbed", *server.restart(number), "restart"])
                next_restart = time.monotonic() + restart_every
            if now >= next_garbage:
                next_garbage = now + 0.1
                garbage.send(stage.server.port, stage.server.port_out)
            descriptors = max(descriptors, memory.descriptors(server.process.pid))
            time.sleep(0.02)
        elapsed = time.monotonic() - began
        verdict = stage.finish()
        time.sleep(0.3)
        left = memory.descriptors(server.process.pid)
        return Outcome(
            "storm", verdict,
            f"{verdict.answered / elapsed:.0f} sentences/s; {server.kills} workers hurt, {server.restarts} restarts, "
            f"{garbage.sent} pieces of garbage; at most {descriptors} descriptors, {left} at the end",
            "0 faults", verdict.clean)


def cuts(settings: Settings) -> Outcome:
    """TCP connections are cut, those for requests and those for results."""
    seconds = settings.seconds * 0.1
    with Stage(settings, "cuts") as stage, Proxy(stage.port) as into, Proxy(stage.port_out) as out:
        through = {"port": into.port, "port_out": out.port}
        stage.start("ours", "mixed", [f"ours{i}" for i in range(4)], **through)
        if stage.has_original:
            stage.start("original", "mixed", ["original0", "original1"], timeout=3_000, **through)
        stage.start("raw", "", ["beside"], window=4)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(stage.rng.uniform(0.2, 0.6))
            now = time.monotonic()
            stage.rng.choice([into, out]).cut()
            # A client connects again within a fraction of a second.
            stage.take(["disturbed", now, now + 1, "cut"])
        verdict = stage.finish()
        return Outcome("cuts", verdict, f"{into.cuts + out.cuts} connections cut", "0 faults", verdict.clean)


# ---- one thing at a time ---------------------------------------------------------------------------------------------

def recovery(settings: Settings) -> Outcome:
    """How long a request waits beyond its own time when its worker is killed."""
    own = 0.1
    wanted = int(min(max(settings.seconds * 0.12 / 0.4, 5), 100))
    with Stage(settings, "recovery") as stage:
        clients = stage.start("ours", "timed", ["caller"], size=1, words=f"__sleep_{int(own * 1000)}__ ", pause=0.15)
        waits: list[float] = []
        seen = 0
        end = time.monotonic() + 60 + wanted
        stage.wait_for(lambda: stage.figures("caller"), 20)
        while len(waits) < wanted and time.monotonic() < end and clients.process.poll() is None:
            seen = len(stage.figures("caller"))
            # It pauses for 150 ms, so that the next request is on its way 50 ms after its beginning.
            last = stage.figures("caller")[-1][1]
            time.sleep(max(0.0, last + 0.2 - time.monotonic()))
            stage.server.hurt_worker(signal.SIGKILL, stage.rng)
            killed = time.monotonic()
            if not stage.wait_for(lambda: len(stage.figures("caller")) > seen, 20):
                break
            started, ended = stage.figures("caller")[seen]
            if started < killed < ended and ended - started > 1.2 * own:  # it was this worker's
                waits.append((ended - killed - own) * 1000)
            stage.wait_for(lambda: len(stage.server.workers()) == 2, 5)
        verdict = stage.finish()
    median = statistics.median(waits) if waits else float("inf")
    return Outcome("recovery", verdict, f"median {median:.0f} ms, longest {max(waits, default=0):.0f} ms "
                   f"of {len(waits)} kills", f"median {RECOVERY_MS} ms",
                   verdict.clean and len(waits) >= min(wanted, 5) and median < RECOVERY_MS)


def fresh(settings: Settings) -> Outcome:
    """New clients of the original, whose first result must not be lost or late."""
    if not isinstance(settings.original, Path):
        return Outcome("fresh", Verdict(), settings.original, "100 of 100", None)
    with Stage(settings, "fresh") as stage:
        stage.start("original", "fresh", ["fresh"], count=100, timeout=5_000).wait(600)
        verdict = stage.finish()
        times = stage.figures("fresh")
    soon = sum(seconds < 1 for seconds in times)
    return Outcome("fresh", verdict, f"{soon} of 100 within a second, median {statistics.median(times) * 1000:.1f} ms, "
                   f"longest {max(times) * 1000:.0f} ms", "100 of 100", verdict.clean and soon == 100)


def unfetched(settings: Settings) -> Outcome:
    """One client sends 6,000 requests before it takes the first result; one of the original's does, too."""
    count = 6000
    with Stage(settings, "unfetched") as stage:
        stage.start("ours", "unfetched", ["ours"], count=count)
        if stage.has_original:
            stage.start("original", "unfetched", ["original"], count=count)
        for clients in stage.clients:
            clients.wait(120)
        verdict = stage.finish()
    return Outcome("unfetched", verdict, f"{verdict.answered} of {verdict.requests} fetched", "none lost",
                   verdict.clean and verdict.answered == verdict.requests > 0)


def stalled(settings: Settings) -> Outcome:
    """32 readers; by turns one of them reads nothing, and goes on asking. What the others get is compared."""
    turn = min(max(settings.seconds * 0.015, 0.3), 5.0)
    turns = 6 if settings.seconds >= 60 else 4
    with Stage(settings, "stalled") as stage:
        names = [f"reader{i}" for i in range(31)]
        stage.start("raw", "", names, window=4, size=4, timeout=20_000)
        lazy = stage.start("raw", "", ["lazy"], window=1, size=4, timeout=25_000, rcvhwm=8, burst=400, pace=60)
        stage.wait_for(lambda: stage.answered() > 4000, 10)

        def others() -> int:
            return sum(stage.checker.answers[name] for name in names)

        rates: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * turns):
            is_stalled = bool(number % 2)
            lazy.tell("stall" if is_stalled else "read")
            time.sleep(max(0.3, turn / 4))  # the burst, or what it left
            before, began = others(), time.monotonic()
            time.sleep(turn)
            rates[is_stalled].append((others() - before) / (time.monotonic() - began))
        lazy.tell("read")
        verdict = stage.finish()
    changes = [stalled / reading - 1 for reading, stalled in zip(rates[False], rates[True])]
    change, half = statistics.mean(changes), interval(changes)
    return Outcome("stalled", verdict, f"the other 31 get {statistics.median(rates[True]):.0f} results/s, "
                   f"{statistics.median(rates[False]):.0f} when it reads: {change:+.0%} (95 %: {change - half:+.0%} to "
                   f"{change + half:+.0%})", f"at most {STALLED_SHARE:.0%} less",
                   verdict.clean and change + half >= -STALLED_SHARE)


def interval(values: list[float]) -> float:
    """Half the width of the 95 % confidence interval of the mean of some values."""
    student = {2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36}  # degrees of freedom -> quantile
    return student.get(len(values) - 1, 2.3 if len(values) < 14 else 2.2) * statistics.stdev(values) / len(values) ** .5


def interactive(settings: Settings) -> Outcome:
    """A client that asks for one sentence at a time, alone and beside one that always has far more than enough out.

    The bulk is of texts that take their time without needing the processor, as if a GPU computed them: what is measured
    is in which order things are done, not how many processors there are.
    """
    seconds = min(max(settings.seconds * 0.05, 1.5), 30.0)
    with Stage(settings, "interactive", "-max_batch_size", str(BULK_JOB), "-priority_batch_size", "4") as stage:
        slow = f"__sleep_{BULK_MS}__"
        # As many as make a whole job for each worker: they share what waits.
        stage.start("ours", "timed", [f"{slow} job"], size=WORKERS * BULK_JOB, count=20).wait(60)
        one_job = statistics.median(ended - started for started, ended in stage.figures(f"{slow} job"))
        stage.start("ours", "timed", [f"{slow} single"], size=1)
        stage.wait_for(lambda: len(stage.figures(f"{slow} single")) > 50, 20)

        def measure() -> list[float]:
            before, end = len(stage.figures(f"{slow} single")), time.monotonic() + seconds
            # The slowest of a few dozen would say more of the machine than of the server.
            stage.wait_for(lambda: time.monotonic() > end
                           and len(stage.figures(f"{slow} single")) - before >= ENOUGH_FOR_P99, seconds + 30)
            return sorted((ended - started) * 1000 for started, ended in stage.figures(f"{slow} single")[before:])

        alone = measure()
        bulk = stage.start("raw", "", [f"{slow} bulk"], window=4, size=4 * BULK_JOB, timeout=30_000)
        stage.wait_for(lambda: stage.checker.answers[f"{slow} bulk"] > 2, 20)
        beside = measure()
        bulk.ask_to_stop()
        verdict = stage.finish()
    if not alone or not beside:
        return Outcome("interactive", verdict, "no request was answered", "as alone, and one job", False)
    p99_alone, p99_beside = _percentile(alone, .99), _percentile(beside, .99)
    limit = INTERACTIVE_FACTOR * p99_alone + one_job * 1000
    return Outcome("interactive", verdict, f"p99 {p99_beside:.1f} ms beside bulk, {p99_alone:.1f} ms alone; one job "
                   f"{one_job * 1000:.1f} ms ({len(beside)} and {len(alone)} requests)",
                   f"{limit:.1f} ms", verdict.clean and p99_beside <= limit and len(beside) >= ENOUGH_FOR_P99)


def flood(settings: Settings) -> Outcome:
    """Bulk alone, a client alone that asks for one sentence at a time, both; at last a bulk client is killed with half
    a minute of work waiting. The server has its own choice of how large a job is.

    Texts take their time without needing the processor, as in ``interactive``.
    """
    seconds = min(max(settings.seconds * 0.05, 3.0), 30.0)
    slow = f"__sleep_{BULK_MS}__ "
    with Stage(settings, "flood") as stage:
        bulk = [f"bulk{i}" for i in range(8)]

        def done(name: str, size: int, since: float, until: float) -> float:
            """Sentences of requests that were answered between these times; of those on the edge their share."""
            return sum(size * max(0.0, min(ended, until) - max(started, since)) / (ended - started)
                       for started, ended in stage.figures(name))

        def work(since: float, until: float) -> float:
            """Sentences a second, of all clients."""
            return (sum(done(name, FLOOD_SIZE, since, until) for name in bulk)
                    + done("single", 1, since, until)) / (until - since)

        def begin(name: str) -> Clients:
            started = stage.start("ours", "timed", bulk if name == "bulk" else [name],
                                  words=slow, size=1 if name == "single" else FLOOD_SIZE)
            seen = {who: len(stage.figures(who)) for who in started.names}
            stage.wait_for(lambda: all(len(stage.figures(who)) > seen[who] + 1 for who in started.names), 20)
            return started

        def measure(enough: Callable[[], bool] = lambda: True) -> tuple[float, float]:
            began = time.monotonic()
            stage.wait_for(lambda: time.monotonic() > began + seconds and enough(), seconds + 60)
            return began, time.monotonic()

        def of_single(since: float, until: float) -> list[float]:
            return [(ended - started) * 1000 for started, ended in stage.figures("single") if since < started < until]

        flooding = begin("bulk")
        bulk_alone = measure()
        flooding.ask_to_stop()
        flooding.wait()
        single = begin("single")
        single_alone = measure()
        flooding = begin("bulk")
        before = len(stage.figures("single"))
        together = measure(lambda: len(stage.figures("single")) > before + ENOUGH_FOR_P99)
        flooding.ask_to_stop()
        flooding.wait()
        leaving = stage.start("ours", "timed", ["leaving"], size=LEFT_SIZE, words=slow)
        with BertClient(port=stage.port, port_out=stage.port_out, curve_dir=settings.keys or "") as client:
            stage.wait_for(lambda: client.server_status["queue"]["sentences"] >= LEFT_SIZE, 20)
        time.sleep(0.5)
        leaving.process.kill()
        killed = time.monotonic()
        time.sleep(2 * LEFT_SECONDS)
        single.ask_to_stop()
        single.wait()
        stage.clients.remove(leaving)
        leaving.close()
        verdict = stage.finish()
        after = [(started - killed, (ended - started) * 1000) for started, ended in stage.figures("single")
                 if started > killed]
        work_alone, work_together = work(*bulk_alone), work(*together)
        alone, beside = sorted(of_single(*single_alone)), sorted(of_single(*together))
    slowed = 2 * statistics.median(alone)
    # When those that follow are as fast as before, whatever a single one of them is.
    free = min((since for number, (since, _) in enumerate(after[:-10])
                if statistics.median(took for _, took in after[number:number + 10]) < slowed), default=math.inf)
    p99_alone, p99_beside = _percentile(alone, .99), _percentile(beside, .99)
    cost = 1 - work_together / work_alone
    return Outcome(
        "flood", verdict, f"p99 {p99_beside:.1f} ms beside a flood, {p99_alone:.1f} ms alone, median "
        f"{statistics.median(beside):.1f} and {statistics.median(alone):.1f} ms ({len(beside)} and {len(alone)} "
        f"requests); {work_together:.0f} sentences/s in all, {work_alone:.0f} of bulk alone: {-cost:+.1%}; free "
        f"{free:.2f} s after the flood was killed",
        f"{p99_alone + FLOOD_MS:.1f} ms; at most {FLOOD_SHARE:.0%} less; {LEFT_SECONDS:g} s",
        verdict.clean and p99_beside <= p99_alone + FLOOD_MS and len(beside) >= ENOUGH_FOR_P99
        and cost <= FLOOD_SHARE and free <= LEFT_SECONDS)


def hang(settings: Settings) -> Outcome:
    """A text that hangs its worker, among three, on a server with one worker; others ask beside it."""
    with Stage(settings, "hang", "-num_worker", "1") as stage:
        names = ["neighbour0", "neighbour1", "neighbour2"]
        stage.start("ours", "timed", names[:2], size=1, pause=0.02)
        stage.start("ours", "timed", names[2:], size=50, pause=0.02)
        stage.wait_for(lambda: all(stage.figures(name) for name in names), 20)
        with BertClient(port=stage.port, port_out=stage.port_out, timeout=300_000,
                        curve_dir=settings.keys or "") as client:
            began = time.monotonic()
            blamed = None
            try:
                client.encode(["good", "__hang__ now", "also good"])
            except UnprocessableError as error:
                blamed = error.index
            refused = time.monotonic() - began
        stage.wait_for(lambda: all(stage.figures(name)[-1][0] > began + refused for name in names), 20)
        verdict = stage.finish()
        waits = [ended - started for name in names for started, ended in stage.figures(name)]
    whom = "its text blamed" if blamed == 1 else "NOT its text blamed"
    return Outcome("hang", verdict, f"refused after {refused:.1f} s, {whom}; the longest wait of a neighbour "
                   f"{max(waits):.2f} s ({len(waits)} requests)",
                   f"{REFUSED_SECONDS:g} s; {NEIGHBOUR_SECONDS:g} s",
                   verdict.clean and blamed == 1 and refused <= REFUSED_SECONDS and max(waits) <= NEIGHBOUR_SECONDS)


def _percentile(values: list[float], share: float) -> float:
    return values[max(0, math.ceil(len(values) * share) - 1)]


def steady(settings: Settings) -> Outcome:
    """The broker's memory and descriptors under load, with workers being killed."""
    seconds = settings.seconds * (0.4 if settings.seconds >= 600 else 0.15)
    with Stage(settings, "steady") as stage:
        server = stage.server
        stage.start("ours", "mixed", [f"ours{i}" for i in range(4)])
        stage.start("raw", "", ["raw0", "raw1"], window=4)
        stage.wait_for(lambda: stage.answered() > 1000, 20)
        with memory.Sampler(lambda: server.process.pid, min(1.0, seconds / 120)) as sampler:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(min(settings.kill_every, max(0.5, seconds / 6)))
                server.hurt_worker(signal.SIGKILL, stage.rng)
        verdict = stage.finish()
    try:
        slope = memory.slope(sampler.times, sampler.memory)
    except ValueError as error:
        return Outcome("steady", verdict, str(error), "no growth", verdict.clean and None)
    third = len(sampler.files) // 3
    files = [max(part) for part in (sampler.files[third:2 * third], sampler.files[2 * third:])]
    grown = slope.low * seconds * (1 - memory.WARM_UP)
    figure = (f"{sampler.memory[-1] / 1e6:.1f} MB, {slope.value / 1e3:+.2f} kB/s (95 %: {slope.low / 1e3:+.2f} to "
              f"{slope.high / 1e3:+.2f}) in {seconds:.0f} s; at most {files[0]}, later {files[1]} descriptors")
    return Outcome("steady", verdict, figure, f"growth of less than {GROWTH / 1e6:.0f} MB within the interval",
                   verdict.clean and grown < GROWTH and files[1] <= files[0] + MORE_FILES)


def model(settings: Settings) -> Outcome:
    """The same sentences twice through a real model, the second time with workers being killed."""
    limit = f"equal within {MODEL_DIFFERENCE:g}"
    if settings.engine is None:
        return Outcome("model", Verdict(), "only with --engine", limit, None)
    directory = Path(settings.directory or ".")
    texts = directory / "texts.json"
    texts.write_text(json.dumps([sentence(number) for number in range(settings.model_sentences)]))
    with Stage(settings, "model", engine=settings.engine) as stage:
        order = {"texts": str(texts), "size": 50, "timeout": 300_000}
        began = time.monotonic()
        stage.start("ours", "whole", ["undisturbed"], out=str(directory / "undisturbed.npy"), **order).wait(3600)
        undisturbed = time.monotonic() - began
        began = time.monotonic()
        clients = stage.start("ours", "whole", ["disturbed"], out=str(directory / "disturbed.npy"), **order)
        while clients.process.poll() is None:
            try:
                clients.process.wait(MODEL_KILL_EVERY)
            except subprocess.TimeoutExpired:
                stage.server.hurt_worker(signal.SIGKILL, stage.rng)
        disturbed = time.monotonic() - began
        verdict = stage.finish()
        kills = stage.server.kills
    first, second = (np.load(directory / f"{name}.npy") for name in ("undisturbed", "disturbed"))
    verdict.requests = 2 * -(-settings.model_sentences // 50)
    verdict.sentences = verdict.answered = len(first) + len(second)
    is_whole = first.shape == second.shape and len(first) == settings.model_sentences
    difference = float(np.abs(first - second).max()) if is_whole else float("inf")
    same = int((first == second).all(axis=1).sum()) if is_whole else 0
    return Outcome("model", verdict, f"{settings.engine}: {kills} workers killed; {same} of {len(first)} vectors are "
                   f"the same to the last bit, the largest difference is {difference:.1g}; {undisturbed:.0f} s without "
                   f"kills, {disturbed:.0f} s with", limit,
                   verdict.clean and difference <= MODEL_DIFFERENCE)


def sentence(number: int) -> str:
    """One of many sentences that differ in words and length."""
    rng = random.Random(number)
    words = [rng.choice(WORDS) for _ in range(rng.randint(3, 20))]
    return f"{number} " + " ".join(words)


def halfopen(settings: Settings) -> Outcome:
    """1,000 connections that never finish their handshakes, by turns held and not, beside a client that asks."""
    turn, turns = min(max(settings.seconds * 0.05, 0.5), 20.0), 3
    with Stage(settings, "halfopen") as stage:
        stage.start("ours", "timed", ["caller"], size=1)
        stage.wait_for(lambda: len(stage.figures("caller")) > 200, 20)

        held: list[int] = []

        def measure(half_open: HalfOpen | None = None) -> list[float]:
            before, end = len(stage.figures("caller")), time.monotonic() + turn
            while time.monotonic() < end:
                time.sleep(0.1)
                if half_open is not None:
                    held.append(half_open.held)
            return sorted((ended - started) * 1000 for started, ended in stage.figures("caller")[before:])

        without: list[list[float]] = []
        beside: list[list[float]] = []
        opened = 0
        for _ in range(turns):
            without.append(measure())
            with HalfOpen([stage.port, stage.port_out], HALF_OPEN) as half_open:
                stage.wait_for(lambda: half_open.held == HALF_OPEN, 30)
                beside.append(measure(half_open))
                opened += half_open.opened
        pid = stage.server.process.pid
        stage.wait_for(lambda: memory.descriptors(pid) < HALF_OPEN / 10, 20)
        files = memory.descriptors(pid)
        verdict = stage.finish()
    change = statistics.median(statistics.median(b) / statistics.median(a) - 1 for a, b in zip(without, beside))
    shown = ", ".join(f"{name} {statistics.median(all_):.2f} ms (p99 {_percentile(sorted(all_), .99):.1f})"
                      for name, all_ in (("beside them", sum(beside, [])), ("without", sum(without, []))))
    return Outcome("halfopen", verdict, f"{statistics.mean(held):.0f} held for {turns} times {turn:.0f} s, {opened} "
                   f"opened for that; "
                   f"median {shown}: {change:+.0%}; {files} descriptors at the end",
                   f"at most {HALF_OPEN_SHARE:.0%} more", verdict.clean and change <= HALF_OPEN_SHARE
                   and statistics.mean(held) > 0.9 * HALF_OPEN and files < HALF_OPEN / 10)


def keys(settings: Settings) -> Outcome:
    """The same requests through a real model, by turns to a server with keys and to one without."""
    limit = f"at most {KEYS_SHARE:.0%} less"
    if settings.engine is None:
        return Outcome("keys", Verdict(), "only with --engine", limit, None)
    directory = Path(settings.directory or ".") / "keys"
    make_keys(directory)
    verdict, rates, vectors = Verdict(), {False: [], True: []}, {}
    with ExitStack() as exit_stack:
        def ask(client: BertClient, number: int) -> np.ndarray:
            texts = [sentence(KEYS_SIZE * number + place) for place in range(KEYS_SIZE)]
            return [client.encode(texts) for _ in range(KEYS_REPEAT)][-1]

        pool = exit_stack.enter_context(ThreadPoolExecutor(KEYS_CLIENTS))
        clients = {}
        for name in (None, str(directory)):
            stage = exit_stack.enter_context(
                Stage(replace(settings, keys=name), f"keys {name}", engine=settings.engine))
            clients[bool(name)] = [exit_stack.enter_context(BertClient(
                port=stage.port, port_out=stage.port_out, curve_dir=name or "", check_length=False))
                for _ in range(KEYS_CLIENTS)]
        order, end = [False, True], time.monotonic() + max(settings.seconds * 0.5, 4)
        while time.monotonic() < end or len(rates[True]) < 4:
            for has_keys in order:
                began = time.monotonic()
                vectors[has_keys] = np.stack(list(pool.map(ask, clients[has_keys], range(KEYS_CLIENTS))))
                rates[has_keys].append(KEYS_SIZE * KEYS_REPEAT * KEYS_CLIENTS / (time.monotonic() - began))
                verdict.requests += KEYS_REPEAT * KEYS_CLIENTS
            order.reverse()
    verdict.sentences = verdict.answered = verdict.requests * KEYS_SIZE
    difference = float(np.abs(vectors[True] - vectors[False]).max())
    # The first round is for warming up.
    changes = [guarded / plain - 1 for plain, guarded in zip(rates[False][1:], rates[True][1:])]
    change, half = statistics.mean(changes), interval(changes)
    return Outcome("keys", verdict, f"{settings.engine}: {statistics.median(rates[True]):.0f} sentences/s with keys, "
                   f"{statistics.median(rates[False]):.0f} without: {change:+.1%} (95 %: {change - half:+.1%} to "
                   f"{change + half:+.1%}, {len(changes)} rounds); the largest difference of a vector is "
                   f"{difference:.1g}", limit,
                   verdict.clean and change >= -KEYS_SHARE and difference <= MODEL_DIFFERENCE)


SCENARIOS: dict[str, Callable[[Settings], Outcome]] = {
    function.__name__: function
    for function in (storm, cuts, recovery, fresh, unfetched, stalled, interactive, flood, hang, halfopen, steady,
                     model, keys)}
