"""The vectors that a client gets, against an independent implementation's and the original server's own.

tests/data/golden/README.md says where the arrays are from. Values go up to about 5; both references were found to
differ by up to 8e-6 from each other.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zmq

from bert_serving.client import protocol

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
REFERENCE = np.load(GOLDEN / "minilm.npz")
SENTENCES = [item["text"] for item in json.loads((GOLDEN / "sentences.json").read_text("utf-8"))]
ORIGINAL = GOLDEN / "original-1.7.5"
TOLERANCE = 2e-5

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]


class Asker:
    """Sends any list of texts, also such that our client refuses to send: empty token lists, control characters."""

    def __init__(self, server) -> None:
        self.context = zmq.Context()
        self.push, self.sub = self.context.socket(zmq.PUSH), self.context.socket(zmq.SUB)
        self.sub.subscribe(b"golden")
        for end, port in ((self.push, server.port), (self.sub, server.port_out)):
            end.linger = 0
            end.connect(f"tcp://127.0.0.1:{port}")
        self.request_id = 0

    def ask(self, texts) -> protocol.Result:
        self.request_id += 1
        self.push.send_multipart(protocol.encode_request(b"golden", self.request_id, texts))
        assert self.sub.poll(60_000), "no answer"
        reply = protocol.decode_reply(self.sub.recv_multipart())
        assert isinstance(reply, protocol.Result) and reply.request_id == self.request_id, reply
        return reply

    def close(self) -> None:
        self.context.destroy(linger=0)


def answers(server, texts) -> tuple[np.ndarray, list[list[str]] | None]:
    """Vectors and tokens of texts and token lists, which travel in requests of their own."""
    asker = Asker(server)
    try:
        replies = [asker.ask([text for text in texts if isinstance(text, kind)]) for kind in (str, list)
                   if any(isinstance(text, kind) for text in texts)]
    finally:
        asker.close()
    tokens = [reply.tokens for reply in replies]
    return (np.concatenate([reply.embedding for reply in replies]),
            None if tokens[0] is None else [row for part in tokens for row in part])


def options_for(key: str) -> list[str]:
    """The options of a configuration named as in the reference: ``[mask_cls_sep/]STRATEGY[/LAYERS]``."""
    masked = key.startswith("mask_cls_sep/")
    strategy, _, layers = key.removeprefix("mask_cls_sep/").partition("/")
    return ["-pooling_strategy", strategy, *(["-pooling_layer", *layers.split(",")] if layers else []),
            *(["-mask_cls_sep"] if masked else [])]


EVERY_KEY = sorted(set(REFERENCE.files) - {"tokens"})
KEYS = EVERY_KEY if os.environ.get("BERT_SERVING_TEST_ALL") else sorted({*EVERY_KEY[::2], "NONE/-2"})
"""Each strategy, with and without masks; all combinations with layers if asked."""


# Two servers start together, which is most of what these tests wait for.
@pytest.mark.parametrize("keys", [KEYS[start:start + 2] for start in range(0, len(KEYS), 2)], ids=" and ".join)
def test_vectors_and_tokens_equal_the_reference(serve, keys):
    assert [isinstance(text, list) for text in SENTENCES] == sorted(isinstance(text, list) for text in SENTENCES)
    servers = [serve("-cpu", "-normalize", "no", "-max_seq_len", "25", "-show_tokens_to_client", *options_for(key))
               for key in keys]
    for key, server in zip(keys, servers):
        vectors, tokens = answers(server.ready(120), SENTENCES)
        np.testing.assert_allclose(vectors, REFERENCE[key], rtol=0, atol=TOLERANCE)
        assert [" ".join(row) for row in tokens] == REFERENCE["tokens"].tolist()


@pytest.fixture(scope="module")
def tf1_checkpoint(tmp_path_factory):
    """The default model as a TensorFlow 1 checkpoint, made by our own command."""
    directory = tmp_path_factory.mktemp("tf1") / "minilm"
    done = subprocess.run([sys.executable, "-m", "bert_serving.server.engine.command", "convert", "all-MiniLM-L6-v2",
                           str(directory), "-drop_modules"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.parametrize("name", ["REDUCE_MEAN", "NONE", "mean_layers_-4-1", "max_masked"])
def test_a_tensorflow_checkpoint_gives_what_the_original_server_gave(serve, tf1_checkpoint, name):
    options = dict(line.split("\t") for line in (ORIGINAL / "args.txt").read_text().splitlines())[name].split()
    # The original's defaults, where the model's own files say otherwise.
    defaults = ["-max_seq_len", "25", "-pooling_layer", "-2", "-pooling_strategy", "REDUCE_MEAN"]
    server = serve("-cpu", "-model_dir", str(tf1_checkpoint), *defaults, *options).ready(120)
    inputs = json.loads((ORIGINAL / "inputs.json").read_text("utf-8"))
    recorded = np.load(ORIGINAL / f"{name}.npz")
    for kind in recorded.files:
        # The original skipped blank lines; its rows are those of the others.
        texts = [text for text in inputs[kind] if text]
        vectors, _ = answers(server, texts)
        np.testing.assert_allclose(vectors, recorded[kind], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("options, dtype, least, strategy", [
    (["-fp16"], np.float16, 0.99999, "REDUCE_MEAN"),
    (["-precision", "bf16", "-engine", "graph"], np.float32, 0.9999, "REDUCE_MAX"),
    (["-precision", "bf16"], np.float32, 0.9999, "REDUCE_MAX"),
    (["-precision", "int8"], np.float32, 0.996, "REDUCE_MEAN")], ids=["fp16", "bf16 on graph", "bf16", "int8"])
def test_precisions_are_near_fp32(serve, options, dtype, least, strategy):
    server = serve("-cpu", "-max_seq_len", "25", "-pooling_strategy", strategy, "-pooling_layer", "-2",
                   *options).ready(120)
    vectors, _ = answers(server, SENTENCES)
    assert vectors.dtype == dtype
    expected = REFERENCE[f"{strategy}/-2"]
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1) * np.linalg.norm(expected, axis=1)
    assert ((vectors * expected).sum(1) / norms).min() > least
    chosen = [line for line in server.log.splitlines()
              if "WORKER-" in line and ("computing with products " in line or "so the worker computes in fp32" in line)]
    workers = len(server.log.split(" is ready and listening")) - 1
    assert len(chosen) == (workers if "engine: graph" in server.log else 0), chosen


def test_xla_changes_nothing(serve):
    layer = "-1" if os.environ.get("BERT_SERVING_TEST_ALL") else "-6"  # that is, six to compile, or the first one
    server = serve("-cpu", "-normalize", "no", "-max_seq_len", "25", "-pooling_layer", layer, "-xla").ready(150)
    vectors, _ = answers(server, SENTENCES)
    np.testing.assert_allclose(vectors, REFERENCE[f"REDUCE_MEAN/{layer}"], rtol=0, atol=TOLERANCE)
