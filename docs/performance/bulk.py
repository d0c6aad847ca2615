"""Measures bulk jobs against the engine alone, on this machine, taking turns.

    python docs/performance/bulk.py sentences.txt --texts 4096

Starts a server with a model, and loads the same engine into this process. In each round the engine encodes the texts,
tokenized before, in batches of 256; then ``bert-serving-encode`` makes a .npy file of them, with that server; then of
one text, which is what the job's start and end cost, and is taken off. Prints what the job reaches of the engine's
sentences a second, and of its sentences for a second of the processors: those of server and job together, which depend
less on what else the machine does. ``sentences.txt`` has a sentence a line; each is taken once. docs/bulk.md holds
results.
"""
from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import server

from bert_serving.server.engine import base

BATCH = 256


def engine_alone(engine: base.Engine, sequences: list[Any]) -> np.ndarray:
    """[2]: seconds by the clock, and of the processors."""
    begin = np.asarray([time.perf_counter(), time.process_time()])
    for start in range(0, len(sequences), BATCH):
        engine.encode(sequences[start:start + BATCH])
    return np.asarray([time.perf_counter(), time.process_time()]) - begin


def job(running: server.Server, source: Path) -> np.ndarray:
    """[2]: the same for a whole job, the server's share included."""
    begin = np.asarray([time.perf_counter(), processor_seconds(running)])
    done = subprocess.run(
        [sys.executable, "-m", "bert_serving.server.bulk.command", str(source), str(source.with_suffix(".npy")),
         "-overwrite", "-port", str(running.port), "-port_out", str(running.port_out)], stderr=subprocess.PIPE)
    assert not done.returncode, done.stderr
    return np.asarray([time.perf_counter(), processor_seconds(running)]) - begin


def processor_seconds(running: server.Server) -> float:
    """Of the server, and of the jobs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(running.ticks().values()) / server.TICKS + used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure bulk jobs against the engine alone.")
    parser.add_argument("file")
    parser.add_argument("--texts", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model_dir")
    parser.add_argument("--max_seq_len", type=int, default=25)
    parser.add_argument("--precision", default="fp32")
    args = parser.parse_args()
    settings, engine = server.load_engine(args)
    with open(args.file, encoding="utf-8") as file:
        texts = list(dict.fromkeys(line.strip() for line in file if line.strip()))
    np.random.default_rng(0).shuffle(texts)
    texts = texts[:args.texts]
    sequences = base.features(texts, base.create_tokenizer(settings), settings)
    ratios = []
    model = ["-model_dir", args.model_dir] if args.model_dir else []
    with (server.serving("-precision", args.precision, "-max_seq_len", str(args.max_seq_len), *model) as running,
          tempfile.TemporaryDirectory() as directory):
        all_texts, one_text = Path(directory) / "all.txt", Path(directory) / "one.txt"
        all_texts.write_text("\n".join(texts), encoding="utf-8")
        one_text.write_text(texts[0], encoding="utf-8")
        engine_alone(engine, sequences[:2 * BATCH])
        job(running, one_text)
        for _ in range(args.rounds):
            alone, whole, start = engine_alone(engine, sequences), job(running, all_texts), job(running, one_text)
            ratios.append(alone / (whole - start))
            print(f"engine {len(texts) / alone[0]:.0f} sentences/s, job {len(texts) / (whole - start)[0]:.0f}: "
                  f"{ratios[-1][0]:.1%}; for a processor second {ratios[-1][1]:.1%}; start {start[0]:.1f} s, "
                  f"{start[1]:.1f} of the processor", flush=True)
    seen = np.asarray(ratios)
    print(f"{len(texts)} sentences, {sum(map(len, sequences)) / len(texts):.1f} tokens on average, "
          f"{settings.precision}, {settings.num_threads} threads; medians of {args.rounds} rounds (least, most):")
    for name, column in zip(("sentences a second", "sentences a processor second"), seen.T):
        print(f"| {name} | {np.median(column):.1%} ({column.min():.1%}-{column.max():.1%}) |")


if __name__ == "__main__":
    main()
