"""The TensorFlow engine against a plain NumPy BERT on tiny models, and against reference vectors on a real one."""
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.config import PoolingStrategy
from bert_serving.server.engine.command import convert
from bert_serving.server.engine import base, freeze, graph
from bert_serving.server.errors import EngineError

TEXTS = ["the quick brown fox", "unwanted running, the fox.", "the", "the fox ||| quick, brown",
         ["the", "##ing", "fox"], ["[MASK]", "|||", "fox"], "", "the quick brown fox " * 9]
NAMES = [strategy.name for strategy in PoolingStrategy]


def compare(running, model, texts=TEXTS, tolerance=1e-5, **how):
    features = running.features(texts)
    rows = running.engine.encode(features)
    expected = [model.vector(sequence, **how) for sequence in features]
    expected = np.concatenate(expected) if running.engine.token_level else np.stack(expected)
    assert rows.shape == expected.shape
    assert np.abs(rows - expected)[np.abs(expected) < 1e29].max() < tolerance
    huge = np.abs(expected) > 1e29
    assert np.allclose(rows[huge], expected[huge])


# ---- tiny models -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("masked", [False, True], ids=["", "mask_cls_sep"])
@pytest.mark.parametrize("name", NAMES)
def test_strategies(tiny, tmp_path, run, name, masked):
    model = tiny(num_labels=1 if name == "REGRESSION" else 3)
    running = run(model.write_hugging_face(tmp_path), pooling_strategy=PoolingStrategy[name], num_labels=3,
                  mask_cls_sep=masked)
    compare(running, model, strategy=name)


@pytest.mark.parametrize("layers", [[-1], [-2], [-3], [0], [2], [-2, -1], [-1, -3, 1]])
def test_layers(tiny, tiny_dir, run, layers):
    compare(run(tiny_dir, pooling_layer=layers), tiny(), layers=layers)


def test_no_position_embeddings(tiny, tiny_dir, run):
    running = run(tiny_dir, no_position_embeddings=True)
    compare(running, tiny(), positions=False)
    one, other = running.encode(["the the quick fox", "the quick the fox"])
    assert np.abs(one - other).max() < 1e-5


def test_no_special_token(tiny, tiny_dir, run):
    compare(run(tiny_dir, no_special_token=True), tiny())


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "tanh", "linear"])
def test_activations(tiny, tmp_path, run, activation):
    model = tiny(hidden_act=activation)
    compare(run(model.write_hugging_face(tmp_path)), model)


def test_max_seq_len_none(tiny, tiny_dir, run):
    running = run(tiny_dir, max_seq_len=None)
    assert max(map(len, running.features(TEXTS))) == 38
    compare(running, tiny())
    assert max(map(len, running.features(["the " * 99]))) == 40


def test_all_masked_sequences_do_not_depend_on_the_batch(tiny_dir, run):
    """Every token of an empty sentence is hidden: its vector must not be made of padding."""
    for name in ("CLS_TOKEN", "SEP_TOKEN", "REDUCE_MAX", "REDUCE_MEAN"):
        running = run(tiny_dir, pooling_strategy=PoolingStrategy[name], mask_cls_sep=True)
        alone, = running.encode([""])
        for length in range(1, 8):
            assert np.allclose(running.encode(["the " * length, ""])[1], alone, atol=1e-5), name


# ---- precision and compilation ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_fp16(tiny, tmp_path, run, name):
    model = tiny(num_labels=1 if name == "REGRESSION" else 3)
    running = run(model.write_hugging_face(tmp_path), pooling_strategy=PoolingStrategy[name], num_labels=3, fp16=True)
    assert running.encode(TEXTS).dtype == np.float16
    compare(running, model, strategy=name, tolerance=0.03)


@pytest.mark.parametrize("name", ["REDUCE_MAX", "REDUCE_MEAN_MAX", "NONE", "LAST_TOKEN"])
def test_fp16_is_finite_where_all_is_masked(tiny_dir, run, name):
    running = run(tiny_dir, pooling_strategy=PoolingStrategy[name], fp16=True, mask_cls_sep=True)
    assert np.isfinite(running.encode(["", "the", ""])).all()


@pytest.mark.parametrize("name", NAMES)
def test_xla(tiny, tmp_path, run, name):
    model = tiny(num_labels=1 if name == "REGRESSION" else 3)
    running = run(model.write_hugging_face(tmp_path), pooling_strategy=PoolingStrategy[name], num_labels=3, xla=True)
    compare(running, model, strategy=name)


def test_xla_really_compiles(tiny_dir, run, tmp_path):
    settings = run(tiny_dir).settings
    program = ("import json, sys\n"
               "from bert_serving.server.engine import base\n"
               "settings = base.EngineSettings.from_json(json.load(sys.stdin))\n"
               "base.prove(base.create(settings), base.create_tokenizer(settings), settings)\n")
    for xla in (False, True):
        dump = tmp_path / str(xla)
        subprocess.run([sys.executable, "-c", program], check=True, text=True, timeout=55,
                       input=json.dumps(dataclasses.replace(settings, xla=xla).to_json()),
                       env={**os.environ, "XLA_FLAGS": f"--xla_dump_to={dump}"})
        assert (dump.exists() and any(dump.glob("*.txt"))) == xla


def test_xla_shapes_are_few():
    shapes = {graph.xla_shape(rows, width, 25) for rows in range(1, 257) for width in range(1, 26)}
    assert len(shapes) == 18 and all(width in (16, 25) for _, width in shapes)
    assert all(graph.xla_shape(rows, width, 512) >= (rows, width) for rows in (1, 3, 64) for width in (1, 17, 512))


# ---- devices ---------------------------------------------------------------------------------------------------------

def test_weights_as_variables(tiny, tiny_dir, run):
    """What a GPU gets, on the CPU: there, weights are no mapped files."""
    import tensorflow as tf
    running = run(tiny_dir)
    directory = Path(running.settings.frozen_graph)
    graph_def = tf.compat.v1.GraphDef.FromString((directory / freeze.GRAPH).read_bytes())
    running.engine._run = graph._session(tf, graph_def, directory, dataclasses.replace(running.settings, device=0))
    compare(running, tiny())


def test_a_gpu_that_is_not_there(tiny_dir, run, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    settings = dataclasses.replace(run(tiny_dir).settings, device=7)
    with pytest.raises(EngineError, match=r"TensorFlow .* sees no GPU 7; .* -cpu"):
        base.create(settings)


def test_describe(tiny_dir, run):
    assert run(tiny_dir, fp16=True).engine.describe().endswith("on CPU, 1 threads, fp16")


def test_a_damaged_graph_is_refused(tiny_dir, run, tmp_path):
    settings = run(tiny_dir).settings
    shutil.copytree(settings.frozen_graph, tmp_path / "graph")
    with open(tmp_path / "graph" / freeze.GRAPH, "r+b") as file:
        file.seek(100)
        file.write(b"\0\1\2\3")
    with pytest.raises(EngineError, match="is not used: .* differs; remove it, and it will be made again"):
        base.create(dataclasses.replace(settings, frozen_graph=str(tmp_path / "graph")))


# ---- batches ---------------------------------------------------------------------------------------------------------

@given(lengths=st.lists(st.integers(1, 512), min_size=1, max_size=300))
def test_plan(lengths):
    lengths = np.array(lengths)
    groups = graph.plan(lengths)
    assert Counter(np.concatenate(groups).tolist()) == Counter(range(len(lengths)))
    for group in groups:
        longest = lengths[group].max()
        assert longest == lengths[group[0]]
        assert len(group) * longest <= graph.MOST_TOKENS
        assert (longest - lengths[group]).sum() <= graph.RUN_COST + len(group) * longest / 8


def test_plan_does_not_split_what_is_alike():
    assert len(graph.plan(np.full(256, 25))) == 1
    assert len(graph.plan(np.array([3, 25]))) == 1
    assert len(graph.plan(np.array([3] * 50 + [25] * 50))) == 2


def test_plan_bounds_the_tokens_of_a_run():
    assert [len(group) for group in graph.plan(np.full(40, 512))] == [16, 16, 8]


@pytest.mark.parametrize("options", [{}, {"pooling_strategy": PoolingStrategy.NONE}, {"xla": True}], ids=str)
def test_any_batch_equals_each_alone(tiny_dir, run, options):
    running = run(tiny_dir, **options)
    random = np.random.default_rng(0)
    for size in (1, 2, 7, 60):
        texts = [" ".join(random.choice(["the", "quick", "fox", "unwanted"], random.integers(1, 30)))
                 for _ in range(size)]
        together = running.encode(texts)
        alone = np.concatenate([running.encode([text]) for text in texts])
        assert np.abs(together - alone).max() < 1e-5


# ---- the default model -----------------------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def converted(default_model, tmp_path_factory):
    """The default model in Google's format."""
    return convert(str(default_model), tmp_path_factory.mktemp("converted") / "minilm")


def golden_cases():
    for strategy in ("REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN"):
        for layers in ("-2", "-1", "-6", "-2,-1"):
            yield f"{strategy}/{layers}"
    yield "NONE/-2"
    yield "CLS_POOLED"
    for strategy in ("REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "NONE"):
        yield f"mask_cls_sep/{strategy}/-2"


@pytest.mark.model
@pytest.mark.parametrize("key", list(golden_cases()))
def test_golden(default_model, golden, run, key):
    """Hugging Face transformers in float64."""
    arrays = np.load(golden / "minilm.npz")
    texts = [item["text"] for item in json.loads((golden / "sentences.json").read_text(encoding="utf-8"))]
    masked, key_ = key.startswith("mask_cls_sep/"), key.removeprefix("mask_cls_sep/")
    strategy, _, layers = key_.partition("/")
    running = run(default_model, max_seq_len=25, pooling_strategy=PoolingStrategy[strategy], mask_cls_sep=masked,
                  pooling_layer=[int(layer) for layer in layers.split(",")] if layers else [-2])
    features = running.features(texts)
    assert [" ".join(sequence.tokens) for sequence in features] == arrays["tokens"].tolist()
    check(running.engine.encode(features), features, arrays[key])


ORIGINAL = {"mean_-1": {"pooling_layer": [-1]}, "mean_layers_-4-1": {"pooling_layer": [-4, -3, -2, -1]},
            "mean_masked": {"mask_cls_sep": True}, "max_masked": {"pooling_strategy": PoolingStrategy.REDUCE_MAX,
                                                                  "mask_cls_sep": True},
            "none_masked": {"pooling_strategy": PoolingStrategy.NONE, "mask_cls_sep": True}, "fp16": {"fp16": True}}
ORIGINAL |= {name: {"pooling_strategy": PoolingStrategy[name]}
             for name in ("REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN", "NONE")}
"""File -> options that the original ran with. "sep_masked" holds its fault, and nothing to agree with."""


@pytest.mark.model
@pytest.mark.parametrize("name", ORIGINAL)
def test_original(converted, golden, run, name):
    """The original server, 1.7.5 on TensorFlow 1.12, with the same kind of checkpoint."""
    options = {"max_seq_len": 25, "pooling_layer": [-2], "pooling_strategy": PoolingStrategy.REDUCE_MEAN,
               **ORIGINAL[name]}
    running = run(converted, **options)
    arrays = np.load(golden / "original-1.7.5" / f"{name}.npz")
    inputs = json.loads((golden / "original-1.7.5" / "inputs.json").read_text(encoding="utf-8"))
    for kind, texts in inputs.items():
        features = running.features(texts)
        check(running.engine.encode(features), features, arrays[kind], 0.02 if options.get("fp16") else 2e-5)


def check(rows, features, expected, tolerance=2e-5):
    """Rows equal the expected; the expected of NONE are padded with zeros."""
    if expected.ndim == 3:
        assert all((np.abs(padded[len(sequence):]) == 0).all() for sequence, padded in zip(features, expected))
        expected = np.concatenate([padded[:len(sequence)] for sequence, padded in zip(features, expected)])
    assert rows.shape == expected.shape and rows.dtype == expected.dtype
    rows, expected = rows.astype(np.float64), expected.astype(np.float64)
    nothing = expected < -1e29                         # The maximum over no token.
    assert np.array_equal(nothing, rows < -1e29)
    assert np.abs(rows - expected)[~nothing].max() <= tolerance


@pytest.mark.model
def test_the_default_model_as_it_wants_to_be_used(default_model, run):
    running = run(default_model)
    assert (running.settings.pooling_layer, running.settings.max_seq_len) == ((-1,), 256)
    base.prove(running.engine, running.tokenizer, running.settings)
    one, other, third = running.encode(["A man is playing a guitar.", "Someone plays the guitar.",
                                        "The stock market fell sharply today."])
    assert np.corrcoef(one, other)[0, 1] > 0.8 > 0.2 > np.corrcoef(one, third)[0, 1]
