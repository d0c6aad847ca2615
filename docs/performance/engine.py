"""Measures the engines side by side, in one process, taking turns, so that what else the machine does hits all alike.

    python docs/performance/engine.py sentences.txt --max_seq_len 25
    python docs/performance/engine.py sentences.txt --engines native/fp32 native/bf16 native/int8 lite/int8

``sentences.txt`` has a sentence a line. Prints tokens per second (best round) and as a multiple of the original
server's way, which pads every sentence to max_seq_len; the dense layers' operations a second, in thousand millions, and
as a share of those of a product of matrices alone, by LiteRT or TensorFlow, whichever is best at it in that precision,
measured in the same rounds; milliseconds for one sentence of 12 tokens (median); and the cosine between each sentence's
vector and the exact one, least and mean. docs/performance.md holds results.

With ``--threads 1``, the default, seconds are the processor's own for this process: a busy machine changes them little.
"""
from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bert_serving.server import machine
from bert_serving.server.config import ServerConfig
from bert_serving.server.core.features import Features
from bert_serving.server.engine import artefact, backends, base
from bert_serving.server.engine.architectures import from_file
from bert_serving.server.engine.backends import graph
from bert_serving.server.engine.cache import user_cache
from bert_serving.server.engine.models import resolve
from bert_serving.server.engine.pooling import POOLER_STRATEGIES
from bert_serving.server.engine.spec import EncoderSpec

Encode = Callable[[list[Features]], np.ndarray]

ROWS, REPEAT = 512, 20
"""Of the product that says what a library can do, and how often it is computed in a round."""


def load(model_dir: str | None, max_seq_len: int, threads: int, engine: str,
         precision: str) -> tuple[base.EngineSettings, base.Engine]:
    config = ServerConfig(model_dir=model_dir, max_seq_len=max_seq_len, engine=engine, precision=precision)
    settings = resolve(config).settings
    path = artefact.cached(settings, user_cache("graphs")) or artefact.make(settings, user_cache("graphs"))["path"]
    settings = replace(settings, artefact=str(path), num_threads=threads, stages=())
    return settings, backends.create(settings)


def padded(engine: base.Engine, width: int) -> Encode:
    """The original's way: every sequence padded to max_seq_len, all of a batch in one run.

    About 4 % slower than a graph for that alone would be, by what brings tokens together for attention.
    """
    assert isinstance(engine, graph.GraphEngine)
    return lambda batch: engine._run(*graph.pad(graph.lay_out(batch, engine._spec), len(batch), width))


def product(spec: EncoderSpec, engine: str, precision: str, threads: int) -> Callable[[], object]:
    """The model's largest product, [ROWS, H] by [H, I], in the engine's library."""
    import tensorflow as tf
    random = np.random.default_rng(0)
    left, right = (random.standard_normal(shape, np.float32) for shape in (
        (ROWS, spec.hidden_size), (spec.hidden_size, spec.mlp.size)))
    if engine == "lite":
        from ai_edge_litert.interpreter import Interpreter
        function = tf.function(lambda inputs: inputs @ right).get_concrete_function(tf.TensorSpec(left.shape))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        if precision == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        interpreter = Interpreter(model_content=converter.convert(), num_threads=threads)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], left)
        return interpreter.invoke
    dtype = {"bf16": tf.bfloat16, "fp16": tf.float16}.get(precision, tf.float32)
    session = tf.compat.v1.Session(graph=tf.Graph(), config=tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1))
    with session.graph.as_default():
        tensors = [tf.compat.v1.get_variable(name, initializer=tf.cast(value, dtype))
                   for name, value in (("left", left), ("right", right))]
        session.run(tf.compat.v1.global_variables_initializer())
        run: Callable[[], object] = session.make_callable((tensors[0] @ tensors[1]).op)
    return run


def computes_in(precision: str) -> str:
    """Engine ``graph`` multiplies in fp32 where the processor has no instructions for the precision."""
    return precision if precision == "int8" or machine.speeds_up(precision) else "fp32"


def operations(spec: EncoderSpec, settings: base.EngineSettings) -> float:
    """Of the dense layers, for a token; attention comes on top of that."""
    layers = spec.layers_needed(settings.pooling_layer, settings.pooling_strategy in POOLER_STRATEGIES)
    return 2.0 * layers * spec.hidden_size * (4 * spec.hidden_size + 2 * spec.mlp.size)


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
    products: dict[str, Callable[[], object]] = {}
    for name in dict.fromkeys(["graph/fp32", *args.engines]):
        settings, made = load(args.model_dir, args.max_seq_len, args.threads, *name.split("/"))
        if name == "graph/fp32":
            engines["graph, padded"] = padded(made, args.max_seq_len)
        engines[name] = made.encode
        _, spec = from_file(settings.config_file)
        kind, precision = name.split("/")
        if kind != "native":                           # Its products are nothing that one could ask for alone.
            products[name] = product(spec, kind, computes_in(precision), args.threads)
    with open(args.file, encoding="utf-8") as file:
        texts = [line.strip() for line in file if line.strip()]
    np.random.default_rng(0).shuffle(texts)
    tokenizer = base.create_tokenizer(settings)
    sequences = base.features(texts[:args.batch * args.batches], tokenizer, settings)
    batches = [sequences[start:start + args.batch] for start in range(0, len(sequences), args.batch)]
    tokens = sum(map(len, sequences))
    one = next([sequence] for sequence in base.features(texts, tokenizer, settings) if len(sequence) == 12)

    exact = np.concatenate([engines["graph/fp32"](batch) for batch in batches]).astype(np.float64)
    best, fastest = dict.fromkeys(engines, float("inf")), defaultdict(lambda: float("inf"))
    alone: dict[str, list[float]] = {name: [] for name in engines}
    cosines = {}
    for name, encode in engines.items():
        vectors = np.concatenate([encode(batch) for batch in batches]).astype(np.float64)
        cosines[name] = (vectors * exact).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(exact, axis=1)
    for _ in range(args.rounds):
        for name, encode in engines.items():
            start = clock()
            for batch in batches:
                encode(batch)
            best[name] = min(best[name], clock() - start)
        for name, compute in products.items():
            precision = computes_in(name.split("/")[1])
            for _ in range(REPEAT):
                start = clock()
                compute()
                fastest[precision] = min(fastest[precision], clock() - start)
    for _ in range(40):
        for name, encode in engines.items():
            encode(one)
            start = clock()
            encode(one)
            alone[name].append(clock() - start)
    print(f"{len(sequences)} sentences, {tokens} tokens, mean {tokens / len(sequences):.1f}, "
          f"at most {args.max_seq_len}; batches of {args.batch}, {args.threads} threads")
    size = 2.0 * ROWS * spec.hidden_size * spec.mlp.size
    for name in engines:
        seconds = fastest.get(computes_in(name.partition("/")[2] or "fp32"))
        done = tokens * operations(spec, settings) / best[name]
        alike = f", {done * seconds / size:.0%} of {size / seconds / 1e9:.0f}" if seconds else ""
        print(f"| {name} | {tokens / best[name]:.0f} | {best['graph, padded'] / best[name]:.2f} | "
              f"{done / 1e9:.0f}{alike} | {np.median(alone[name]) * 1e3:.2f} | "
              f"{cosines[name].min():.6f} / {cosines[name].mean():.6f} |")


if __name__ == "__main__":
    main()
