"""Measures a whole server on this machine: what clients get of what its engine can do, and what the way costs.

    python docs/performance/server.py echo
    python docs/performance/server.py model sentences.txt --precision int8

``echo`` starts a server with the echo engine, which computes nothing, and says how many requests pass a second, and
what each costs in each of the server's threads. ``model`` starts one with a model, and loads the same engine into this
process; both take turns: 2048 sentences a request, 64 clients with one sentence each, and one sentence alone.
``sentences.txt`` has a sentence a line. Clients are those of load.py. docs/performance.md holds results.
"""
from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import load
import numpy as np

from bert_serving.client import BertClient
from bert_serving.server import machine
from bert_serving.server.config import ServerConfig
from bert_serving.server.core.placement import share_out
from bert_serving.server.engine import artefact, backends, base
from bert_serving.server.engine.cache import user_cache
from bert_serving.server.engine.models import resolve

TICKS = os.sysconf("SC_CLK_TCK")
"""A second's."""
READY = re.compile(r"ready: port=(\d+) port_out=(\d+) ")


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    process: int
    port: int
    port_out: int

    def ticks(self) -> Counter[str]:
        """The kernel's ticks of processor that each thread of its processes has had; those of one name together."""
        processes = [self.process]
        for process in processes:
            processes += map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
        had: Counter[str] = Counter()
        for process in processes:
            kind = "broker" if process == self.process else "worker"
            for thread in Path(f"/proc/{process}/task").iterdir():
                about = (thread / "stat").read_text().rpartition(")")[2].split()
                name = (thread / "comm").read_text().strip() if thread.name != str(process) else "loop"
                had[f"{kind} {'libzmq' if name.startswith('ZMQbg') else name}"] += int(about[11]) + int(about[12])
        return had

    def spent(self) -> dict[str, tuple[float, int]]:
        """For each of the status reply's histograms: the sum of its values, and how many there are."""
        with BertClient(port=self.port, port_out=self.port_out) as client:
            histograms = client.server_status["histograms"]
        return {name: (values["sum"], sum(values["counts"])) for name, values in histograms.items()}


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """A server with these options, ready."""
    process = subprocess.Popen([sys.executable, "-m", "bert_serving.server.cli", "-port", "0", "-port_out", "0",
                                *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    reader = None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            found = READY.search(line)
            if found:
                # Who does not read on what it logs holds it up once the pipe is full.
                reader = threading.Thread(target=process.stderr.read, daemon=True)
                reader.start()
                yield Server(process.pid, int(found[1]), int(found[2]))
                return
        raise RuntimeError("the server did not start:\n" + "".join(said))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        if reader is not None:
            reader.join()
        process.stderr.close()


# ---- without a model -------------------------------------------------------------------------------------------------

def echo(args: argparse.Namespace) -> None:
    text = "how can i reset the password of my account please"
    with serving("-engine", "echo", *args.options) as server:
        print("| clients | sentences a request | requests/s | half within, ms | 99 % within, ms | broker | worker |")
        print("|---|---|---|---|---|---|---|")
        for clients, sentences in args.cases:
            requests = [[[text] * sentences]] * clients
            best: tuple[load.Measured, Counter[str]] | None = None
            rates = []
            for _ in range(args.rounds):
                before = server.ticks()
                measured = load.run(server.port, server.port_out, requests, args.seconds, warm_up=0.5)
                had = server.ticks()
                had.subtract(before)
                rates.append(measured.requests / measured.seconds)
                if best is None or rates[-1] == max(rates):
                    best = measured, had
            assert best is not None
            measured, had = best
            # The threads' ticks are of the warm-up too.
            requests_in_all = max(rates) * (args.seconds + 0.5)
            costs = [" + ".join(f"{ticks / TICKS / requests_in_all * 1e6:.0f} {thread.partition(' ')[2]}"
                                for thread, ticks in had.most_common() if thread.startswith(kind) and
                                ticks > .02 * args.seconds * TICKS) for kind in ("broker", "worker")]
            print(f"| {clients} | {sentences} | {np.median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f}) | "
                  f"{measured.latency(.5) * 1e3:.2f} | {measured.latency(.99) * 1e3:.2f} | {costs[0]} | {costs[1]} | "
                  f"load {measured.processor / measured.requests * 1e6:.0f}", flush=True)


def case(text: str) -> tuple[int, int]:
    clients, sentences = text.split("x")
    return int(clients), int(sentences)


# ---- with a model ----------------------------------------------------------------------------------------------------

def load_engine(args: argparse.Namespace) -> tuple[base.EngineSettings, base.Engine]:
    config = ServerConfig(model_dir=args.model_dir, max_seq_len=args.max_seq_len, precision=args.precision)
    settings = resolve(config).settings
    cache = user_cache("graphs")
    path = artefact.cached(settings, cache) or artefact.make(settings, cache)["path"]
    settings = replace(settings, artefact=str(path),
                       num_threads=share_out(machine.allowed_cores(), config.num_worker, config.num_threads).threads[0])
    return settings, backends.create(settings)


def model(args: argparse.Namespace) -> None:
    settings, engine = load_engine(args)
    with open(args.file, encoding="utf-8") as file:
        texts = [line.strip() for line in file if line.strip()]
    np.random.default_rng(0).shuffle(texts)
    texts = texts[:2048]
    tokenizer = base.create_tokenizer(settings)
    sequences = base.features(texts, tokenizer, settings)
    alone = next(text for text, sequence in zip(texts, sequences) if len(sequence) == 12)
    ratios: dict[str, list[float]] = {}
    options = ["-precision", args.precision, "-max_seq_len", str(args.max_seq_len), *args.options]
    with serving(*options, *(["-model_dir", args.model_dir] if args.model_dir else [])) as server:
        for number in range(args.rounds + 1):
            values = round_of(server, engine, settings, tokenizer, texts, sequences, alone, args.seconds)
            if number:                                   # The first one is for everybody to get warm.
                for name, value in values.items():
                    ratios.setdefault(name, []).append(value)
                print("  ".join(f"{name} {value:.4g}" for name, value in values.items()), flush=True)
    print(f"{len(texts)} sentences, {sum(map(len, sequences)) / len(texts):.1f} tokens on average, "
          f"{settings.precision}, {settings.num_threads} threads; medians of {args.rounds} rounds (least, most):")
    for name, seen in ratios.items():
        print(f"| {name} | {np.median(seen):.4g} ({min(seen):.4g}-{max(seen):.4g}) |")


def round_of(server: Server, engine: base.Engine, settings: base.EngineSettings, tokenizer: Any, texts: list[str],
             sequences: list[Any], alone: str, seconds: float) -> dict[str, float]:
    """The figures of one round, in which engine and server take turns."""
    done, begin = 0, time.perf_counter()
    while time.perf_counter() < begin + seconds:
        for start in range(0, len(sequences), 256):
            engine.encode(sequences[start:start + 256])
        done += len(sequences)
    engine_rate = done / (time.perf_counter() - begin)
    begin = time.perf_counter()
    base.features(texts, tokenizer, settings)
    tokenizer_rate = len(texts) / (time.perf_counter() - begin)
    bulk = load.run(server.port, server.port_out, [[texts]], seconds, warm_up=0)
    many = load.run(server.port, server.port_out,
                    [[[text] for text in texts[number::64]] for number in range(64)], seconds)
    one = base.features([alone], tokenizer, settings)
    engine_seconds = []
    begin = time.perf_counter()
    while time.perf_counter() < begin + seconds / 4:
        asked = time.perf_counter()
        engine.encode(one)
        engine_seconds.append(time.perf_counter() - asked)
    before = server.spent()
    single = load.run(server.port, server.port_out, [[[alone]]], seconds / 2)
    took = {name: (total - before[name][0]) / (count - before[name][1]) * 1e3
            for name, (total, count) in server.spent().items()}
    return {"engine, sentences/s": engine_rate,
            "tokenizer, sentences/s": tokenizer_rate,
            "2048 a request": bulk.sentences / bulk.seconds / engine_rate,
            "64 clients": many.sentences / many.seconds / engine_rate,
            "engine, one, ms": float(np.median(engine_seconds)) * 1e3,
            "one, ms": single.latency(.5) * 1e3,
            "one, 90 %, ms": single.latency(.9) * 1e3,
            # These are means.
            "one, computing, ms": took["computing_seconds"],
            "one, tokenizing, ms": took["tokenizing_seconds"],
            "one, in the server, ms": took["answering_seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a server on this machine.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    parsers = {name: kinds.add_parser(name) for name in ("echo", "model")}
    for kind in parsers.values():
        kind.add_argument("--seconds", type=float, default=3, help="of each measurement")
        kind.add_argument("--rounds", type=int, default=3)
        kind.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options of the server; last")
    parsers["echo"].add_argument("--cases", type=case, nargs="+", metavar="CLIENTSxSENTENCES",
                                 default=[(1, 1), (8, 1), (32, 1), (64, 1), (256, 1), (8, 256)])
    parsers["model"].add_argument("file")
    parsers["model"].add_argument("--model_dir")
    parsers["model"].add_argument("--max_seq_len", type=int, default=25)
    parsers["model"].add_argument("--precision", default="fp32")
    args = parser.parse_args()
    {"echo": echo, "model": model}[args.kind](args)


if __name__ == "__main__":
    main()
