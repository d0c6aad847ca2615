"""Measures few workers of many threads against many workers of few, side by side.

    python docs/performance/workers.py sentences.txt --plans 1x2 2x1 -precision int8

``1x2`` is one worker with two threads. Other options are those of ``bert-serving-start``. The servers are there all the
time, and take turns in being asked, so that what else the machine does hits all alike. Prints sentences per second, and
their ratio to the first plan's in the same round: least, median, most.
"""
from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack

from bert_serving.server.benchmark.load import Crowd, Load
from bert_serving.server.benchmark.report import Spread, figure, table
from bert_serving.server.benchmark.sentences import read_lines, shares
from bert_serving.server.benchmark.served import Served, to_json
from bert_serving.server.config import ServerConfig, get_args_parser

LOADS = {"1 client, 1024 sentences": (1, 1024), "4 clients, 256 sentences": (4, 256),
         "8 clients, 16 sentences": (8, 16), "32 clients, one sentence": (32, 1),
         "1 client, one sentence": (1, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure workers against threads.", allow_abbrev=False)
    parser.add_argument("file")
    parser.add_argument("--plans", nargs="+", default=["1x2", "2x1"])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.0)
    args, options = parser.parse_known_args()
    usual = {**to_json(ServerConfig.from_args(get_args_parser().parse_args(options))), "port": 0, "port_out": 0}
    lines = read_lines(args.file)
    speeds: dict[tuple[str, str], list[float]] = {(load, plan): [] for load in LOADS for plan in args.plans}
    with ExitStack() as stack:
        servers = {}
        for plan in args.plans:
            num_worker, num_threads = map(int, plan.split("x"))
            servers[plan] = stack.enter_context(Served({**usual, "num_worker": num_worker, "num_threads": num_threads}))
        crowd = stack.enter_context(Crowd())
        for number in range(args.rounds):
            for load, (num_client, size) in LOADS.items():
                for plan in args.plans[::-1 if number % 2 else 1]:
                    run = crowd.measure(servers[plan].address, Load(size=size, seconds=args.seconds),
                                        shares(lines, num_client, size), servers[plan].check)
                    speeds[load, plan].append(run.speed)
    rows = []
    for load in LOADS:
        first = speeds[load, args.plans[0]]
        cells = []
        for plan in args.plans:
            ratio = Spread.of([speed / other for speed, other in zip(speeds[load, plan], first)])
            cells += [figure(statistics.median(speeds[load, plan])),
                      " / ".join(f"{value:.2f}" for value in (ratio.min, ratio.median, ratio.max))]
        rows.append([load, *cells])
    print(table(["clients", *(name for plan in args.plans for name in (plan, f"x {args.plans[0]}"))], rows))


if __name__ == "__main__":
    main()
