"""Measures the engines side by side, in one process, taking turns, so that what else the machine does hits all alike.

    python docs/performance/engine.py sentences.txt --max_seq_len 25
    python docs/performance/engine.py sentences.txt --engines graph/bf16 graph/fp16 lite/int8

``sentences.txt`` has a sentence a line. Prints tokens per second (best round) and as a multiple of the original
server's way, which pads every sentence to max_seq_len; milliseconds for one sentence of 12 tokens (median); and the
cosine between each sentence's vector and the exact one, least and mean. docs/performance.md holds results.

With ``--threads 1``, the default, seconds are the processor's own for this process: a busy machine changes them little.
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bert_serving.server.config import ServerConfig
from bert_serving.server.core.features import Features
from bert_serving.server.engine import base, freeze, graph
from bert_serving.server.engine.cache import user_cache
from bert_serving.server.engine.models import settle

Encode = Callable[[list[Features]], np.ndarray]


def load(model_dir: str | None, max_seq_len: int, threads: int, engine: str,
         precision: str) -> tuple[base.EngineSettings, base.Engine]:
    config = ServerConfig(model_dir=model_dir, max_seq_len=max_seq_len, engine=engine, precision=precision)
    settings = settle(config).settings
    path = freeze.cached_graph(settings, user_cache("graphs")) or freeze.freeze(settings, user_cache("graphs"))["path"]
    settings = replace(settings, frozen_graph=str(path), num_threads=threads)
    return settings, base.create(settings)


def padded(engine: base.Engine, width: int) -> Encode:
    """The original's way: every sequence padded to max_seq_len, all of a batch in one run.

    About 4 % slower than a graph for that alone would be, by what brings tokens together for attention.
    """
    assert isinstance(engine, graph.GraphEngine)
    return lambda batch: engine._run(*graph.pad(graph.lay_out(batch), len(batch), width))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the engines side by side.")
    parser.add_argument("file")
    parser.add_argument("--engines", nargs="+", default=["graph/fp32", "lite/fp32", "lite/int8"],
                        metavar="ENGINE/PRECISION", help="what to measure, beside graph/fp32")
    parser.add_argument("--model_dir")
    parser.add_argument("--max_seq_len", type=int, default=25)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    clock = time.process_time if args.threads == 1 else time.perf_counter

    engines: dict[str, Encode] = {}
    for name in dict.fromkeys(["graph/fp32", *args.engines]):
        settings, made = load(args.model_dir, args.max_seq_len, args.threads, *name.split("/"))
        if name == "graph/fp32":
            engines["graph, padded"] = padded(made, args.max_seq_len)
        engines[name] = made.encode
    with open(args.file, encoding="utf-8") as file:
        texts = [line.strip() for line in file if line.strip()]
    np.random.default_rng(0).shuffle(texts)
    tokenizer = base.create_tokenizer(settings)
    sequences = base.features(texts[:args.batch * args.batches], tokenizer, settings)
    batches = [sequences[start:start + args.batch] for start in range(0, len(sequences), args.batch)]
    tokens = sum(map(len, sequences))
    one = next([sequence] for sequence in base.features(texts, tokenizer, settings) if len(sequence) == 12)

    exact = np.concatenate([engines["graph/fp32"](batch) for batch in batches]).astype(np.float64)
    best = dict.fromkeys(engines, float("inf"))
    alone: dict[str, list[float]] = {name: [] for name in engines}
    cosines = {}
    for name, encode in engines.items():
        vectors = np.concatenate([encode(batch) for batch in batches])
        vectors = vectors.astype(np.float64)
        cosines[name] = (vectors * exact).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(exact, axis=1)
    for _ in range(args.rounds):
        for name, encode in engines.items():
            start = clock()
            for batch in batches:
                encode(batch)
            best[name] = min(best[name], clock() - start)
    for _ in range(40):
        for name, encode in engines.items():
            encode(one)
            start = clock()
            encode(one)
            alone[name].append(clock() - start)
    print(f"{len(sequences)} sentences, {tokens} tokens, mean {tokens / len(sequences):.1f}, "
          f"at most {args.max_seq_len}; batches of {args.batch}, {args.threads} threads")
    for name in engines:
        print(f"| {name} | {tokens / best[name]:.0f} | {best['graph, padded'] / best[name]:.2f} | "
              f"{np.median(alone[name]) * 1e3:.2f} | {cosines[name].min():.6f} / {cosines[name].mean():.6f} |")


if __name__ == "__main__":
    main()
