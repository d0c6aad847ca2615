"""DistilBERT, against what Hugging Face's transformers computes: tests/data/golden/architectures."""
import json
import shutil

import numpy as np
import pytest

from bert_serving.server.config import PoolingStrategy, ServerConfig
from bert_serving.server.core.features import Features
from bert_serving.server.engine.architectures import from_file
from bert_serving.server.engine.command import convert
from bert_serving.server.engine.models import resolve
from bert_serving.server.errors import ModelError

TOLERANCE = 2e-5
"""Of a hidden state; as a share of it where it is above 1."""


@pytest.fixture(scope="module")
def reference(golden):
    return np.load(golden / "architectures" / "distilbert" / "reference.npz")


@pytest.fixture(scope="module")
def model_dir(golden, tmp_path_factory):
    """The golden model, with a vocab.txt made of its tokenizer.json."""
    directory = tmp_path_factory.mktemp("distilbert") / "model"
    shutil.copytree(golden / "architectures" / "distilbert", directory)
    vocabulary = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    (directory / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n", encoding="utf-8")
    return directory


def test_what_it_describes(model_dir):
    architecture, spec = from_file(model_dir / "config.json")
    assert architecture.label == "DistilBERT"
    assert (spec.hidden_size, spec.num_layers, spec.attention.heads, spec.mlp.size) == (64, 3, 4, 128)
    assert not spec.embeddings.token_types and not spec.pooler and spec.max_length == 128


@pytest.mark.parametrize("values, message", [
    ({"vocab_size": 9, "activation": "swish"}, "activation is .swish.; choose from gelu"),
    ({"vocab_size": 9, "dim": 30}, "dim 30 is not a multiple of n_heads 12")])
def test_what_it_refuses(tmp_path, values, message):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "distilbert", **values}))
    with pytest.raises(ModelError, match=message):
        from_file(tmp_path / "config.json")


@pytest.mark.parametrize("engine", ["lite", "graph", "onnx"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_every_layer_is_the_references(run, model_dir, reference, engine, layer):
    if engine == "onnx":
        pytest.importorskip("onnxruntime")
    running = run(model_dir, engine, pooling_layer=[layer], pooling_strategy=PoolingStrategy.NONE, max_seq_len=64)
    offsets = reference["offsets"]
    sequences = [reference["input_ids"][start:end].astype(np.int32) for start, end in zip(offsets, offsets[1:])]
    batch = [Features(ids, np.ones_like(ids), np.ones_like(ids), 2, running.tokenizer) for ids in sequences]
    expected = reference["hidden_states"][layer + 1]
    difference = np.abs(running.engine.encode(batch) - expected) / np.maximum(1, np.abs(expected))
    assert difference.max() < TOLERANCE


@pytest.mark.parametrize("strategy", ["CLS_POOLED", "CLASSIFICATION"])
def test_it_has_no_pooler(model_dir, strategy):
    with pytest.raises(ModelError, match=f"DistilBERT models have no pooler, which -pooling_strategy {strategy} reads"):
        resolve(ServerConfig(model_dir=str(model_dir), pooling_strategy=PoolingStrategy[strategy]))


def test_there_are_no_tensorflow_checkpoints_of_it(model_dir, tmp_path):
    with pytest.raises(ModelError, match="no TensorFlow 1 checkpoints of DistilBERT models; give -to hugging-face"):
        convert(str(model_dir), tmp_path / "converted")
    again = convert(str(model_dir), tmp_path / "again", "hugging-face")
    assert from_file(again / "config.json") == from_file(model_dir / "config.json")
