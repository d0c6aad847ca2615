"""The TensorFlow engine against a plain NumPy BERT on tiny models, and against reference vectors on a real one."""
import dataclasses
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client.pairs import split_text, split_tokens
from bert_serving.server.config import PoolingStrategy
from bert_serving.server.core.features import Features
from bert_serving.server.engine.command import convert
from bert_serving.server.engine import backends, base, graph_model
from bert_serving.server.engine.backends import graph
from bert_serving.server.engine.spec import EncoderSpec
from bert_serving.server.errors import EngineError

from ..conftest import NAMES, TEXTS, compare, labels

ALL = bool(os.environ.get("BERT_SERVING_TEST_ALL"))
"""Test every combination of what hardly knows of each other, which takes minutes more."""

COMPILED = NAMES if ALL else ["REDUCE_MEAN_MAX", "CLASSIFICATION", "NONE"]  # XLA takes seconds for each
LESS_EXACT = {"fp16": NAMES, "bf16": NAMES if ALL else ["REDUCE_MEAN_MAX", "CLASSIFICATION"]}


# ---- tiny models -----------------------------------------------------------------------------------------------------

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

@pytest.mark.parametrize("precision, name, xla", [
    *((precision, name, False) for precision, names in LESS_EXACT.items() for name in names),
    *((precision, name, True) for precision, name in ([(p, n) for p in LESS_EXACT for n in COMPILED] if ALL else
                                                      [("bf16", COMPILED[0])]))])
def test_precisions(tiny, tmp_path, run, name, precision, xla):
    answers, tolerance = {"fp16": (np.float16, 0.01), "bf16": (np.float32, 0.08)}[precision]
    model = tiny(num_labels=1 if name == "REGRESSION" else 3)
    running = run(model.write_hugging_face(tmp_path), pooling_strategy=PoolingStrategy[name], **labels(name),
                  precision=precision, xla=xla)
    assert running.encode(TEXTS).dtype == answers
    compare(running, model, strategy=name, tolerance=tolerance)
    base.prove(running.engine, running.tokenizer, running.settings)


@pytest.fixture
def choose(monkeypatch):
    """Have a form chosen, whatever the processor: what each takes is made up, by ``choose(form=seconds, ...)``."""
    def made_up(**seconds):
        def measured(trial, name, run, baseline=""):
            trial.seconds[name], trial._shown[name] = seconds[name], f"{1000 * seconds[name]:.1f} ms"
            tried.append(name)
            return True
        tried = []
        monkeypatch.setattr(graph, "rounds", lambda *args: True)
        monkeypatch.setattr(graph._Trial, "measure", measured)
        return tried
    return made_up


def times(precision, fast):
    """Seconds of each form, for that one to be chosen."""
    return {**dict.fromkeys(graph_model.FORMS[precision], 0.1), "float32": 0.02, fast: 0.01}


FORMS = [(precision, form) for precision, forms in graph_model.FORMS.items() if precision != "fp32" for form in forms
         if (precision, form) != ("bf16", "vectors")]     # That is for GPUs and XLA.


@pytest.mark.parametrize("name", NAMES if ALL else ["REDUCE_MEAN_MAX", "CLASSIFICATION"])
@pytest.mark.parametrize("precision, form", FORMS)
def test_each_form_computes_the_right_vectors(tiny, tmp_path, run, choose, name, precision, form):
    choose(**times(precision, form))
    tolerance = {"fp16": 0.01, "bf16": 0.1}[precision]
    model = tiny(num_labels=1 if name == "REGRESSION" else 3)
    running = run(model.write_hugging_face(tmp_path), pooling_strategy=PoolingStrategy[name], **labels(name),
                  precision=precision)
    assert running.engine.form == form
    assert running.encode(TEXTS).dtype == (np.float16 if precision == "fp16" else np.float32)
    compare(running, model, strategy=name, tolerance=1e-5 if (precision, form) == ("bf16", "float32") else tolerance)
    base.prove(running.engine, running.tokenizer, running.settings)


@pytest.mark.parametrize("seconds, form", [
    ({"float32": 0.02, "vectors": 0.01, "unfused": 0.015}, "vectors"),
    ({"float32": 0.02, "vectors": 0.7, "unfused": 0.01}, "unfused"),
    ({"float32": 0.02, "vectors": 0.7, "unfused": 0.7}, "float32"),
    ({"float32": 0.02, "vectors": 0.025}, "vectors"),     # Within what a busy machine makes of it.
    ({"float32": 0.02, "fused": 0.031}, "float32"), ({"float32": 0.02}, "float32")], ids=str)
def test_the_form_is_the_fastest(seconds, form):
    assert graph.choose_form(seconds, "float32") == form
    assert seconds[form] <= graph.TOO_SLOW * seconds["float32"]


@pytest.mark.parametrize("seconds, form, tried, level, said", [
    ({"float32": 0.014, "vectors": 0.01}, "vectors", ["float32", "vectors"], logging.INFO,
     "computing with products and activations in fp16 (104 tokens: fp32: 14.0 ms; products and activations in fp16: "
     "10.0 ms)"),
    ({"float32": 0.014, "vectors": 0.62, "unfused": 0.009}, "unfused", ["float32", "vectors", "unfused"], logging.INFO,
     "computing with products in fp16, all else in fp32 (104 tokens: "),
    ({"float32": 0.014, "vectors": 0.62, "unfused": 0.62}, "float32", ["float32", "vectors", "unfused"],
     logging.WARNING, "-precision fp16 does not pay on this processor, so the worker computes in fp32 (104 tokens: "
     "fp32: 14.0 ms; products and activations in fp16: 620.0 ms; "),
    # In doubt both are measured again.
    ({"float32": 0.014, "vectors": 0.03, "unfused": 0.01}, "unfused",
     ["float32", "vectors", "float32", "vectors", "unfused"], logging.INFO, "computing with products in fp16, ")])
def test_the_log_says_which_form_was_chosen_and_why(tiny_dir, run, choose, caplog, seconds, form, tried, level, said):
    caplog.set_level(logging.INFO)
    expected, tried = tried, choose(**seconds)
    running = run(tiny_dir, precision="fp16")
    assert (running.engine.form, tried) == (form, expected)
    assert [record.levelno for record in caplog.records if record.message.startswith(said)] == [level]
    assert ("fp16 computed in fp32" in running.engine.describe()) == (form == "float32")
    assert running.encode(TEXTS).dtype == np.float16


def test_a_form_with_wrong_vectors_is_not_chosen(tiny_dir, run, caplog, monkeypatch):
    original = graph._Session.run

    def wrong(session, form, compiled=False):
        right = original(session, form, compiled)
        return right if form == "float32" else lambda *inputs: right(*inputs) * np.nan
    monkeypatch.setattr(graph._Session, "run", wrong)
    running = run(tiny_dir, precision="fp16")
    assert running.engine.form == "float32" and np.isfinite(running.encode(TEXTS)).all()
    assert sum("their vectors are wrong on this processor" in line for line in caplog.messages) == 2


@pytest.mark.parametrize("most, runs", [(1e9, 1 + 2 * (graph.ROUNDS + 1)), (0, 2), (-1e9, 1)])
def test_a_slow_form_is_soon_given_up(most, runs):
    """After one run where that is plainly too slow, else after the first sample that is."""
    done = []
    assert graph.seconds_of(done.append, 2, most) >= 0
    assert done == [0, *[0, 1] * graph.ROUNDS * 2][:runs]


@pytest.mark.parametrize("xla_seconds", [0.5, 0.01])
def test_a_slow_xla_is_said_to_be_slow(tiny_dir, run, caplog, choose, xla_seconds):
    choose(**{"fp32 without -xla": 0.01, "-xla": xla_seconds})
    assert run(tiny_dir, precision="bf16", xla=True).engine.form == "vectors"
    assert ("-xla with -precision bf16 is slow on this processor (8 tokens: fp32 without -xla: 10.0 ms; -xla: 500.0 ms)"
            in caplog.text) == (xla_seconds == 0.5)


@pytest.mark.parametrize("answer", [False, True])
def test_bf16_that_is_not_rounded_is_not_used(tiny_dir, run, caplog, choose, monkeypatch, answer):
    choose(float32=0.1, fused=0.01)
    monkeypatch.setattr(graph, "rounds", lambda *args: answer)
    assert run(tiny_dir, precision="bf16").engine.form == ("fused" if answer else "float32")
    assert ("TensorFlow is not exact in bf16 on this processor" in caplog.text) != answer


def test_a_processor_that_does_not_round_is_found_out():
    import tensorflow as tf
    product = tf.matmul(tf.constant([[1, 1]], tf.bfloat16), tf.constant([[1], [1.5 * 2 ** -8]], tf.bfloat16))
    is_rounded = float(product[0, 0]) > 1
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        assert graph.rounds(tf, session) == is_rounded


def test_nothing_can_become_a_part_of_an_unfused_product(tiny_dir, run):
    import tensorflow as tf
    directory = Path(run(tiny_dir, precision="fp16").settings.artefact)
    graph_def = tf.compat.v1.GraphDef.FromString((directory / graph.GRAPH).read_bytes())
    nodes = graph._part(graph_def, "unfused").node
    half = [node.name for node in nodes if node.op == "MatMul" and node.attr["T"].type == tf.float16.as_datatype_enum]
    assert len(half) == 2 * 4                          # Of two layers; query, key and value are one.
    assert {node.op for node in nodes if node.input and node.input[0] in half} == {"Cast"}
    assert not [node for node in graph._part(graph_def, "float32").node if node.op == "MatMul"
                and node.attr["T"].type != tf.float32.as_datatype_enum]


FUSED_OPERATIONS = """
import json, sys
import numpy as np
from pathlib import Path
from bert_serving.server.engine import backends, base
from bert_serving.server.engine.backends import graph
from bert_serving.server.engine.quiet import import_tensorflow
tf = import_tensorflow()
for line in sys.stdin:
    settings = base.EngineSettings.from_json(json.loads(line))
    directory = Path(settings.artefact)
    graph_def = tf.compat.v1.GraphDef.FromString((directory / graph.GRAPH).read_bytes())
    session = graph._Session(tf, graph_def, directory, settings)
    with session.graph.as_default():
        vectors = session.result("vectors")
    metadata = tf.compat.v1.RunMetadata()
    session.session.run(vectors, {feed: np.zeros([1] * feed.shape.rank, np.int32) for feed in session.feeds.values()},
                        tf.compat.v1.RunOptions(output_partition_graphs=True), metadata)
    print(*{operation.decode() for part in metadata.partition_graphs for node in part.node
            for operation in node.attr["fused_ops"].list.s})
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN is for x86")
@pytest.mark.parametrize("onednn, expected", [
    ("1", {"gelu": "GeluExact", "gelu_new": "GeluApproximate"}), ("0", {"gelu": "BiasAdd"})])
def test_tensorflow_knows_how_to_fuse(tiny, tmp_path, run, onednn, expected):
    """It has to recognize what we write: where it uses oneDNN, much of the speed comes of that."""
    settings = [run(tiny(hidden_act=activation).write_hugging_face(tmp_path / activation)).settings.to_json()
                for activation in expected]
    done = subprocess.run([sys.executable, "-c", FUSED_OPERATIONS], text=True, capture_output=True, timeout=50,
                          input="\n".join(map(json.dumps, settings)),
                          env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn})
    assert done.returncode == 0, done.stderr
    for operation, fused in zip(expected.values(), done.stdout.splitlines(), strict=True):
        assert operation in fused.split()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["REDUCE_MAX", "REDUCE_MEAN_MAX", "NONE", "LAST_TOKEN"])
def test_answers_are_finite_where_all_is_masked(tiny_dir, run, name, precision):
    running = run(tiny_dir, pooling_strategy=PoolingStrategy[name], precision=precision, mask_cls_sep=True)
    assert np.isfinite(running.encode(["", "the", ""])).all()


@pytest.mark.parametrize("name", COMPILED)
def test_xla(tiny, tmp_path, run, name):
    model = tiny(num_labels=1 if name == "REGRESSION" else 3)
    running = run(model.write_hugging_face(tmp_path), pooling_strategy=PoolingStrategy[name], **labels(name), xla=True)
    compare(running, model, strategy=name)


def test_xla_really_compiles(tiny_dir, run, tmp_path):
    settings = run(tiny_dir).settings
    program = ("import json, sys\n"
               "from bert_serving.server.engine import backends, base\n"
               "settings = base.EngineSettings.from_json(json.load(sys.stdin))\n"
               "base.prove(backends.create(settings), base.create_tokenizer(settings), settings)\n")
    for xla in (False, True) if ALL else (True,):
        dump = tmp_path / str(xla)
        subprocess.run([sys.executable, "-c", program], check=True, text=True, timeout=55,
                       input=json.dumps(dataclasses.replace(settings, xla=xla).to_json()),
                       env={**os.environ, "XLA_FLAGS": f"--xla_dump_to={dump}"})
        assert (dump.exists() and any(dump.glob("*.txt"))) == xla


def test_xla_shapes_are_few():
    shapes = {graph.xla_shape(rows, width, 25) for rows in range(1, 257) for width in range(1, 26)}
    assert len(shapes) == 18 and all(width in (16, 25) for _, width in shapes)
    assert all(graph.xla_shape(rows, width, 512) >= (rows, width) for rows in (1, 3, 64) for width in (1, 17, 512))
    assert graph.xla_shape(1, 513, 32768) == (1, 1024), "attention takes the square of the length"


# ---- devices ---------------------------------------------------------------------------------------------------------

@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="a Linux kernel tells what is mapped")
@pytest.mark.parametrize("precision, form", [("fp32", "vectors"), *FORMS])
def test_weights_are_mapped_files(tiny, tmp_path, run, choose, precision, form):
    """All workers share their pages: TensorFlow computes with these files, not with a copy of them."""
    choose(**times(precision, form))
    model = tiny(hidden_size=256, num_attention_heads=4, intermediate_size=256, num_hidden_layers=2)
    running = run(model.write_hugging_face(tmp_path), precision=precision, pooling_layer=[-1])
    dtype = "float32" if "32" in (precision[-2:], form[-2:]) else {"bf16": "bfloat16", "fp16": "float16"}[precision]
    kernels = [path for path in Path(running.settings.artefact).iterdir() if ".kernel." in f"{path.name}."]
    files = [path for path in kernels if path.name.endswith(f".{dtype}")]
    assert len(files) == 2 * 4                         # Query, key and value are one.
    assert len(kernels) == len(files) * (1 if precision == "fp32" else 2)
    running.encode(TEXTS)
    maps = Path("/proc/self/smaps").read_text()
    assert not [path for path in kernels if path not in files and str(path) in maps], "those of other forms are let go"
    for path in files:
        _, _, after = maps.partition(f"{path}\n")
        assert after, f"{path} is not mapped"
        used = dict(line.split(":") for line in after.splitlines()[:12] if ": " in line)
        assert int(used["Rss"].split()[0]) * 1024 == path.stat().st_size


@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-5), ("bf16", 0.1), ("fp16", 0.01)])
def test_what_a_gpu_gets_on_the_cpu(tiny, tiny_dir, run, precision, tolerance):
    import tensorflow as tf
    running = run(tiny_dir, precision=precision)
    directory = Path(running.settings.artefact)
    graph_def = tf.compat.v1.GraphDef.FromString((directory / graph.GRAPH).read_bytes())
    settings = dataclasses.replace(running.settings, device=0)
    running.engine._run, form = graph._choose(graph._Session(tf, graph_def, directory, settings), settings)
    assert form == "vectors"
    compare(running, tiny(), tolerance=tolerance)


def test_a_gpu_gets_the_weights_of_one_form_only(tiny, tmp_path, run, choose):
    import tensorflow as tf
    model = tiny(hidden_size=256, num_attention_heads=4, intermediate_size=256, num_hidden_layers=2)
    choose(**times("fp16", "float32"))
    running = run(model.write_hugging_face(tmp_path), precision="fp16", pooling_layer=[-1])
    directory = Path(running.settings.artefact)
    graph_def = tf.compat.v1.GraphDef.FromString((directory / graph.GRAPH).read_bytes())
    settings = dataclasses.replace(running.settings, device=0)
    session = graph._Session(tf, graph_def, directory, settings)
    graph._choose(session, settings)
    assert {variable.dtype for name, variable in session._variables.items() if "kernel" in name} == {tf.float16}


def test_a_gpu_that_is_not_there(tiny_dir, run, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    settings = dataclasses.replace(run(tiny_dir).settings, device=7)
    with pytest.raises(EngineError, match=r"TensorFlow .* sees no GPU 7; .* -cpu"):
        backends.create(settings)


def test_describe(tiny_dir, run):
    assert run(tiny_dir).engine.describe().endswith("on CPU, 1 thread, fp32")
    assert run(tiny_dir, xla=True).engine.describe().endswith("on CPU, 1 thread, fp32, xla")


def test_a_damaged_graph_is_refused(tiny_dir, run, tmp_path):
    settings = run(tiny_dir).settings
    shutil.copytree(settings.artefact, tmp_path / "graph")
    with open(tmp_path / "graph" / graph.GRAPH, "r+b") as file:
        file.seek(100)
        file.write(b"\0\1\2\3")
    with pytest.raises(EngineError, match="is not used: .* differs; remove it, and it will be made again"):
        backends.create(dataclasses.replace(settings, artefact=str(tmp_path / "graph")))


# ---- batches ---------------------------------------------------------------------------------------------------------

@given(lengths=st.lists(st.integers(1, 512), min_size=1, max_size=300))
def test_plan(lengths):
    lengths = np.array(lengths)
    groups = graph.plan(lengths)
    assert Counter(np.concatenate(groups).tolist()) == Counter(range(len(lengths)))
    for group in groups:
        longest = lengths[group].max()
        assert longest == lengths[group[0]]
        assert len(group) * longest <= graph.MAX_TOKENS
        assert (longest - lengths[group]).sum() <= graph.RUN_COST + len(group) * longest / 8


def test_plan_does_not_split_what_is_alike():
    assert len(graph.plan(np.full(256, 25))) == 1
    assert len(graph.plan(np.array([3, 25]))) == 1
    assert len(graph.plan(np.array([3] * 50 + [25] * 50))) == 2


def test_plan_bounds_the_tokens_of_a_run():
    assert [len(group) for group in graph.plan(np.full(40, 512))] == [16, 16, 8]


SPEC = EncoderSpec(vocab_size=9)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_tokens_lie_end_to_end_and_beside_each_other(lengths):
    batch = [Features(*np.arange(3 * length, dtype=np.int32).reshape(3, length), [], 2) for length in lengths]
    ids, types, positions, mask, pooled, places, tokens, _ = graph.lay_out(batch, SPEC)
    for values, name in ((ids, "input_ids"), (types, "token_type_ids"), (mask, "input_mask")):
        assert values.tolist() == [value for features in batch for value in getattr(features, name)]
    assert positions.tolist() == [position for length in lengths for position in range(length)]
    assert tokens.shape == (len(lengths), max(lengths))
    assert tokens.ravel()[places].tolist() == list(range(sum(lengths)))
    for row, length in enumerate(lengths):
        assert np.array_equal(ids[tokens[row, :length]], batch[row].input_ids)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=9), rows=st.integers(0, 3), width=st.integers(0, 3))
def test_padded_inputs_hold_the_same(lengths, rows, width):
    batch = [Features(*np.arange(3 * length, dtype=np.int32).reshape(3, length), [], 2) for length in lengths]
    inputs = graph.lay_out(batch, SPEC)
    shape = (len(lengths) + rows, max(lengths) + width)
    ids, types, positions, mask, pooled, places, tokens, padded = graph.pad(inputs, *shape)
    total = sum(lengths)
    assert tokens.shape == shape
    assert {len(array) for array in (ids, types, positions, mask, pooled, places)} == {np.prod(shape)}
    for array, before in zip((ids, types, positions, mask, pooled), inputs):
        assert np.array_equal(array[:total], before)
    assert tokens.ravel()[places[:total]].tolist() == list(range(total))
    assert padded.tolist() == lengths + [1] * rows


@pytest.mark.timeout(180)  # XLA compiles for each of some twenty shapes, on a machine that may be busy
@pytest.mark.parametrize("options, bound", [
    ({}, 1e-5), ({"pooling_strategy": PoolingStrategy.NONE}, 1e-5), ({"mask_cls_sep": True}, 1e-5),
    ({"pooling_strategy": PoolingStrategy.CLS_POOLED}, 1e-5), ({"precision": "bf16"}, 0.05),
    ({"precision": "fp16"}, 0.005),
    *([({"xla": True}, 1e-5)] if ALL else [])], ids=str)
def test_batch_mates_change_little(tiny_dir, run, in_batches, options, bound):
    """A sentence's vector is the same within a bound, whoever else is in the batch; values are up to 3 here."""
    in_batches(run(tiny_dir, max_seq_len=40, **options), 25,
               lambda rows, alone: np.abs(rows - alone).max() <= bound)


# ---- the default model -----------------------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def converted(default_model, tmp_path_factory):
    """The default model in Google's format."""
    return convert(str(default_model), tmp_path_factory.mktemp("converted") / "minilm", drop_modules=True)


def golden_cases():
    for strategy in ("REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN"):
        for layers in ("-2", "-1", "-6", "-2,-1"):
            yield f"{strategy}/{layers}"
    yield "NONE/-2"
    yield "CLS_POOLED"
    for strategy in ("REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "NONE"):
        yield f"mask_cls_sep/{strategy}/-2"


def cut(text):
    """As an engine gets it from a server: a pair is a value there."""
    return split_text(text) if isinstance(text, str) else split_tokens(text)


def golden_texts(golden):
    return [cut(item["text"]) for item in json.loads((golden / "sentences.json").read_text(encoding="utf-8"))]


@pytest.mark.model
@pytest.mark.parametrize("key", list(golden_cases())[::1 if ALL else 6])
def test_golden(default_model, golden, run, key):
    """Hugging Face transformers in float64. Each of these cases is also asked of a server, in tests/integration."""
    arrays = np.load(golden / "minilm.npz")
    texts = golden_texts(golden)
    masked, key_ = key.startswith("mask_cls_sep/"), key.removeprefix("mask_cls_sep/")
    strategy, _, layers = key_.partition("/")
    running = run(default_model, max_seq_len=25, pooling_strategy=PoolingStrategy[strategy], mask_cls_sep=masked,
                  normalize=False,
                  **({"pooling_layer": [int(layer) for layer in layers.split(",")]} if layers else {}))
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
@pytest.mark.parametrize("name", list(ORIGINAL)[::1 if ALL else 2])
def test_original(converted, golden, run, name):
    """The original server, 1.7.5 on TensorFlow 1.12, with the same kind of checkpoint."""
    options = {"max_seq_len": 25, "pooling_layer": [-2], "pooling_strategy": PoolingStrategy.REDUCE_MEAN,
               **ORIGINAL[name]}
    running = run(converted, **options)
    arrays = np.load(golden / "original-1.7.5" / f"{name}.npz")
    inputs = json.loads((golden / "original-1.7.5" / "inputs.json").read_text(encoding="utf-8"))
    for kind, texts in inputs.items():
        features = running.features([cut(text) for text in texts])
        check(running.engine.encode(features), features, arrays[kind], 0.02 if options.get("fp16") else 2e-5)


@pytest.mark.model
@pytest.mark.parametrize("xla", [False, True] if ALL else [False], ids=lambda xla: "xla" if xla else "")
@pytest.mark.parametrize("precision, least", [("bf16", 0.9999), ("fp16", 0.99999)])
def test_cosines_of_the_precisions(default_model, golden, run, precision, least, xla):
    arrays = np.load(golden / "minilm.npz")
    texts = golden_texts(golden)
    for layer in ("-1", "-2"):
        running = run(default_model, max_seq_len=25, pooling_layer=[int(layer)], precision=precision, xla=xla,
                      normalize=False)
        rows, expected = running.encode(texts).astype(np.float64), arrays[f"REDUCE_MEAN/{layer}"]
        cosines = (rows * expected).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(expected, axis=1)
        assert cosines.min() >= least, (layer, cosines.min())


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
