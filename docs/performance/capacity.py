"""Measures what a server's threads spend on requests, for the simulation that says where one server is full.

    python docs/performance/capacity.py
    python docs/performance/capacity.py --check

Echo servers, whose workers compute nothing, are asked in several ways, and the kernel says how long each thread was on
a processor. ``--check`` also measures other ways to ask, and sets them beside what the simulation says of them; how
long their workers take for a sentence is not simulated, but taken as it was. Clients are those of load.py. The server's
threads have one core to themselves, and workers and clients another one, so that it is the server that is full. A
measurement in which other processes took part of the machine is made again. On Linux only, with two cores or more.
docs/scaling.md holds results; ``python docs/performance/saturation.py --costs FILE`` takes the costs.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import load
import numpy as np
from saturation import THREADS, Cost, Costs, Counts, Outcome, Plan, fit, simulate, with_wake
from server import TICKS, Server, serving

from bert_serving.client import BertClient

MAX_FOREIGN = 0.05
"""Share of the machine's processors that others may take before a measurement is made again."""

CORES = sorted(os.sched_getaffinity(0))[:2]
"""The server's own, and that of workers and clients."""


@dataclass(frozen=True)
class Case:
    """A way to ask an echo server.

    Attributes:
        clients: each has one request out at a time.
        size: sentences in a request.
        long: of four times as many words.
        layers: how many are pooled: the vectors are so many times as long.
        workers: of the server.
        sleep_ms: time that a worker takes for a sentence, without a processor.
    """

    clients: int
    size: int
    long: bool = False
    layers: int = 1
    workers: int = 1
    sleep_ms: int = 0

    def options(self) -> tuple[str, ...]:
        """Of its server."""
        return ("-engine", "echo", "-num_worker", str(self.workers), "-max_seq_len", "64",
                "-pooling_layer", *map(str, range(-self.layers, 0)))

    def requests(self) -> list[list[list[str]]]:
        """Those of each client; no two texts alike, since a worker computes what is alike once."""
        words = " ".join(["how can i reset the password of my account"] * (4 if self.long else 1))
        sleep = f"__sleep_{self.sleep_ms}__ " if self.sleep_ms else ""
        return [[[f"{sleep}{words} {client} {turn} {number}" for number in range(self.size)] for turn in range(4)]
                for client in range(self.clients)]


ALONE = Case(1, 1)
CALIBRATION = (ALONE, Case(32, 1), Case(256, 1), Case(8, 16), Case(64, 16), Case(8, 256), Case(8, 16, long=True),
               Case(8, 16, layers=4), Case(4, 256, layers=4))
CHECKS = (Case(64, 1), Case(128, 1), Case(64, 2), Case(32, 4), Case(16, 64), Case(64, 1, workers=4, sleep_ms=2),
          Case(32, 16, workers=4, sleep_ms=2))


@dataclass(frozen=True)
class Seen:
    """What one measurement found.

    Attributes:
        case: what was measured.
        speed: sentences per second.
        foreign: share of the machine's processors that others took meanwhile.
        counts: what there was, warm-up included.
        spent: name of a thread -> seconds of processor for that.
        bytes_in, bytes_out: of a text and a vector.
    """

    case: Case
    speed: float
    foreign: float
    counts: Counts
    spent: dict[str, float]
    bytes_in: float
    bytes_out: float


def pin(server: Server) -> None:
    """Give the server's own process a core, and workers and this process another one."""
    own, other = CORES
    os.sched_setaffinity(0, [other])
    children = Path(f"/proc/{server.process}/task/{server.process}/children").read_text().split()
    for process, core in [(server.process, own), *((int(child), other) for child in children)]:
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), [core])


def spent(server: Server) -> dict[str, float]:
    """Seconds of processor that its threads have had; all of its workers' together."""
    had = dict.fromkeys(THREADS, 0.0)
    children = Path(f"/proc/{server.process}/task/{server.process}/children").read_text().split()
    for process in [server.process, *map(int, children)]:
        for thread in Path(f"/proc/{process}/task").iterdir():
            name = "worker" if process != server.process else "loop" if thread.name == str(process) else "io"
            had[name] += int((thread / "schedstat").read_text().split()[0]) / 1e9
    return had


def machine() -> tuple[float, float]:
    """Seconds of processor that the whole machine has spent, and has had."""
    user, nice, system, idle, waiting, interrupts, soft, stolen = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    worked = user + nice + system + interrupts + soft + stolen
    return worked / TICKS, (worked + idle + waiting) / TICKS


def measure(case: Case, server: Server, seconds: float) -> Seen:
    """Ask one server for so long."""
    requests = case.requests()
    with BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as observer:
        width = 4 * observer.encode(requests[0][0][:1]).shape[1]
        status, before, machine_before = observer.server_status, spent(server), machine()
        own = os.times()
        run = load.run(server.port, server.port_out, requests, seconds, warm_up=min(0.5, seconds))
        own_then = os.times()
        then, machine_then, after = spent(server), machine(), observer.server_status
    count, sentences, jobs = (new - old for new, old in zip(_counted(after), _counted(status)))
    used = {name: then[name] - before[name] for name in THREADS}
    used["client"] = run.processor / run.requests * count
    worked, had = (now - earlier for earlier, now in zip(machine_before, machine_then))
    ours = sum(used.values()) - used["client"] + sum(own_then[:2]) - sum(own[:2])
    bytes_in = float(np.mean([len(text) + 4 for text in requests[0][0]]))  # with JSON's quotes, comma and blank
    return Seen(case, run.sentences / run.seconds, max(0.0, worked - ours) / had,
                Counts(count, sentences, jobs, sentences * bytes_in, sentences * width), used, bytes_in, width)


def _counted(status: dict[str, Any]) -> tuple[int, int, int]:
    """Requests, sentences and jobs so far."""
    ok = status["outcomes"]["ok"]
    return ok["requests"], ok["sentences"], sum(status["histograms"]["batch_sentences"]["counts"])


def rounds(cases: Sequence[Case], number: int, seconds: float, num_tries: int = 1,
           tell: Callable[[str], None] = lambda line: None) -> list[Seen]:
    """Measurements of each case; they take turns. One that others disturbed is made again; the best one counts."""
    seen = []
    with ExitStack() as stack:
        servers: dict[tuple[str, ...], Server] = {}
        for case in cases:
            if case.options() not in servers:
                servers[case.options()] = stack.enter_context(serving(*case.options()))
        for turn in range(number):
            for case in cases:
                tries: list[Seen] = []
                while not tries or tries[-1].foreign > MAX_FOREIGN and len(tries) < num_tries:
                    tries.append(measure(case, servers[case.options()], seconds))
                seen.append(min(tries, key=lambda each: each.foreign))
                tell(f"round {turn + 1} of {number}: {case}: {seen[-1].speed:.0f} sentences/s; others took "
                     f"{100 * seen[-1].foreign:.0f} % of the machine")
    return seen


def calibrate(seen: Sequence[Seen]) -> Costs:
    """What each thread spends, but a worker's, which is no part of the server."""
    loop, io, client = (fit([each.counts for each in seen], [each.spent[name] for each in seen])
                        for name in ("loop", "io", "client"))
    alone = [each for each in seen if each.case == ALONE]
    costs, plan = simulation(Costs(loop, io, client=client), alone)
    return with_wake(costs, plan, float(np.median([each.speed for each in alone])))


def simulation(costs: Costs, seen: Sequence[Seen]) -> tuple[Costs, Plan]:
    """What is to be simulated for measurements of one case: their workers' cost with the others, and the plan."""
    case, first = seen[0].case, seen[0]
    worker = float(np.median([each.spent["worker"] / each.counts.sentence for each in seen]))
    plan = Plan(clients=case.clients, size=case.size, workers=case.workers, client_threads=1, cores=1, other_cores=1,
                speed=1 / slept(case.sleep_ms / 1000) if case.sleep_ms else math.inf, bytes_in=first.bytes_in,
                bytes_out=first.bytes_out)
    return replace(costs, worker=Cost(sentence=worker)), plan


def slept(seconds: float) -> float:
    """How long a sleep of so many seconds takes here."""
    begin = time.perf_counter()
    for _ in range(100):
        time.sleep(seconds)
    return (time.perf_counter() - begin) / 100


def compare(costs: Costs, seen: Sequence[Seen]) -> list[tuple[Case, list[float], Outcome]]:
    """For each case: sentences per second as measured, and what is simulated."""
    found = []
    for case in dict.fromkeys(each.case for each in seen):
        every = [each for each in seen if each.case == case]
        found.append((case, [each.speed for each in every], simulate(*simulation(costs, every))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a server's threads spend.")
    parser.add_argument("--check", action="store_true", help="measure other ways to ask, too, beside the simulation")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each; they take turns")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--tries", type=int, default=3, help="of a measurement that other processes disturb")
    parser.add_argument("--output", type=Path, help="write the costs there, as JSON")
    args = parser.parse_args()
    seen = rounds(CALIBRATION + (CHECKS if args.check else ()), args.rounds, args.seconds, args.tries, print)
    costs = calibrate([each for each in seen if each.case in CALIBRATION])
    if args.output:
        args.output.write_text(json.dumps(asdict(costs), indent=1) + "\n")
    print("\n" + json.dumps(asdict(costs)))
    print("\n| | clients | sentences a request | layers | workers | ms a sentence | measured | simulated | ratio | "
          "the loop is busy |\n|---|---|---|---|---|---|---|---|---|---|")
    for case, measured, outcome in compare(costs, seen):
        print(f"| {'check' if case in CHECKS else ''} | {case.clients} | {case.size}{' long' if case.long else ''} | "
              f"{case.layers} | {case.workers} | {case.sleep_ms} | {np.median(measured):.0f} "
              f"({min(measured):.0f}-{max(measured):.0f}) | {outcome.speed:.0f} | "
              f"{outcome.speed / np.median(measured):.2f} | {100 * outcome.loop:.0f} % |")


if __name__ == "__main__":
    main()
