"""The LiteRT engine against a plain NumPy BERT on tiny models, and against reference vectors on a real one."""
import dataclasses
import json
import shutil
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest

from bert_serving.client.words import counted
from bert_serving.server.config import PoolingStrategy
from bert_serving.server.core.packing import LONG, Run, lay_out
from bert_serving.server.engine import artefact, backends, base
from bert_serving.server.engine.backends import lite
from bert_serving.server.engine.lite_model import ENCODER
from bert_serving.server.errors import EngineError

from ..conftest import TEXTS, compare


@pytest.fixture
def start(run):
    return lambda model_dir, **options: run(model_dir, engine="lite", **options)


# ---- tiny models -----------------------------------------------------------------------------------------------------

def test_max_seq_len_none(tiny, tiny_dir, start):
    running = start(tiny_dir, max_seq_len=None)
    assert max(map(len, running.features(TEXTS))) == 38
    compare(running, tiny())


def test_a_tensorflow_checkpoint(tiny, tmp_path, start):
    compare(start(tiny().write_tensorflow(tmp_path)), tiny())


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(tiny, tiny_dir, start, threads):
    running = start(tiny_dir)
    other = backends.create(dataclasses.replace(running.settings, num_threads=threads))
    assert np.array_equal(other.encode(running.features(TEXTS)), running.encode(TEXTS))
    assert other.describe() == f"LiteRT {lite.BACKEND.version()} on CPU, {counted(threads, 'thread')}, fp32"


# ---- whoever else is there -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [{}, {"pooling_strategy": PoolingStrategy.NONE}, {"precision": "int8"},
                                     {"pooling_strategy": PoolingStrategy.CLS_POOLED}, {"mask_cls_sep": True}], ids=str)
def test_batch_mates_change_nothing(tiny_dir, start, in_batches, options):
    """Not a bit, whatever the batch, and so wherever in which row a sentence is."""
    in_batches(start(tiny_dir, max_seq_len=None, **options), 40, np.array_equal)


@pytest.mark.parametrize("options", [{}, {"pooling_strategy": PoolingStrategy.NONE}, {"precision": "int8"},
                                     {"mask_cls_sep": True}], ids=str)
def test_long_sentences(tiny, tmp_path, start, options):
    """Right, and the same to the last bit whatever the batch, though those of more than LONG tokens go another way."""
    model = tiny(max_position_embeddings=200)
    running = start(model.write_hugging_face(tmp_path), max_seq_len=None, **options)
    words = np.random.default_rng(0).choice(["the", "quick", "brown", "fox", "unwanted", ",", "."], 400).tolist()
    lengths = [LONG - 1, 5, LONG, LONG + 1, 190, LONG + 1, 40]
    texts = [words[length:2 * length - 2] for length in lengths]
    assert [len(sequence) for sequence in running.features(texts)] == lengths
    together = running.encode(texts)
    alone = [running.encode([text]) for text in texts]
    assert np.array_equal(together, np.concatenate(alone))
    assert np.array_equal(running.encode(texts[::-1]), np.concatenate(alone[::-1]))
    if "precision" not in options:
        compare(running, model, texts, strategy=running.settings.pooling_strategy)


def test_nothing_is_loaded_in_a_job(tiny, tmp_path, start, monkeypatch):
    """A job that loads takes longer than it should, and its worker is taken for one that hangs."""
    running = start(tiny(max_position_embeddings=200).write_hugging_face(tmp_path), max_seq_len=None)
    monkeypatch.setattr(lite, "_Interpreter", None)
    assert running.encode(["the fox " * 90, "the"]).shape[0] == 2


def test_a_neighbour_in_the_same_row_is_not_seen(tiny_dir, start):
    running = start(tiny_dir)
    one, other, third = running.features(["the quick brown fox", "running, running.", "fox fox , fox ."])
    layout = lay_out(Run(20, [[0, 1], [1, 0]]), [one, other])
    replaced = lay_out(Run(20, [[0, 1], [1, 0]]), [one, third])
    vectors, changed = running.engine._vectors(layout), running.engine._vectors(replaced)
    assert np.array_equal(vectors[[0, 3]], changed[[0, 3]]) and np.array_equal(vectors[0], vectors[3])
    assert np.abs(vectors[1] - changed[1]).max() > 0.01


# ---- int8 ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["REDUCE_MEAN", "NONE", "CLS_POOLED"])
def test_int8(tiny, tiny_dir, start, name):
    running = start(tiny_dir, precision="int8", pooling_strategy=PoolingStrategy[name])
    exact = start(tiny_dir, pooling_strategy=PoolingStrategy[name])
    rows, expected = running.encode(TEXTS), exact.encode(TEXTS)
    assert (rows * expected).sum() / np.linalg.norm(rows) / np.linalg.norm(expected) > 0.99
    assert not np.array_equal(rows, expected) and "int8" in running.engine.describe()
    base.prove(running.engine, running.tokenizer, running.settings)


# ---- starting --------------------------------------------------------------------------------------------------------

def test_strategies_share_a_converted_model(tiny_dir, start):
    paths = {start(tiny_dir, pooling_strategy=PoolingStrategy[name], mask_cls_sep=masked).settings.artefact
             for name in ("REDUCE_MEAN", "NONE", "LAST_TOKEN") for masked in (False, True)}
    assert len(paths) == 1


def test_tensorflow_is_not_needed(tiny_dir, start, graphs):
    """Neither to find what was converted once, nor to run it."""
    settings = start(tiny_dir).settings
    code = ("import json, sys\n"
            "sys.modules['tensorflow'] = None\n"
            "from bert_serving.server.engine import artefact, backends, base, quiet\n"
            "settings = base.EngineSettings.from_json(json.load(sys.stdin))\n"
            "quiet.tensorflow_version = None\n"
            "assert str(artefact.cached(settings, sys.argv[1])) == settings.artefact\n"
            "base.prove(backends.create(settings), base.create_tokenizer(settings), settings)\n")
    done = subprocess.run([sys.executable, "-c", code, str(graphs)], text=True, capture_output=True, timeout=50,
                          input=json.dumps(settings.to_json()))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_damaged_model_is_refused(tiny_dir, start, tmp_path):
    settings = start(tiny_dir).settings
    shutil.copytree(settings.artefact, tmp_path / "model")
    with open(tmp_path / "model" / ENCODER, "r+b") as file:
        file.seek(100)
        file.write(b"\0\1\2\3")
    with pytest.raises(EngineError, match="is not used: .* differs; remove it, and it will be made again"):
        backends.create(dataclasses.replace(settings, artefact=str(tmp_path / "model")))


def test_no_litert(tiny_dir, start, monkeypatch):
    settings = start(tiny_dir).settings
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
        with pytest.raises(EngineError, match="LiteRT cannot be imported"):
            backends.create(settings)

    def version(name):
        raise metadata.PackageNotFoundError(name)
    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(EngineError, match="LiteRT is not installed; install"):
        backends.create(settings)


def test_the_cache_knows_what_a_model_depends_on(tiny_dir, start, tmp_path):
    settings = start(tiny_dir).settings
    path = artefact.artefact_path(settings, tmp_path)
    for other in ({"precision": "int8"}, {"pooling_layer": (-1,)}, {"engine": "graph"},
                  {"pooling_strategy": "CLS_POOLED"}):
        assert artefact.artefact_path(dataclasses.replace(settings, **other), tmp_path) != path
    for same in ({"pooling_layer": (1,)}, {"no_position_embeddings": True}, {"max_seq_len": 5}):
        assert artefact.artefact_path(dataclasses.replace(settings, **same), tmp_path) == path
