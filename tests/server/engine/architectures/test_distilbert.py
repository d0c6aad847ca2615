"""DistilBERT: what its files say. Its vectors are in test_reference.py."""
import json
import shutil

import pytest

from bert_serving.server.config import PoolingStrategy, ServerConfig
from bert_serving.server.engine.architectures import from_file
from bert_serving.server.engine.command import convert
from bert_serving.server.engine.models import resolve
from bert_serving.server.errors import ModelError


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
    ({"vocab_size": 9, "activation": "mish"}, "activation is .mish.; choose from gelu"),
    ({"vocab_size": 9, "dim": 30}, "dim 30 is not a multiple of n_heads 12")])
def test_what_it_refuses(tmp_path, values, message):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "distilbert", **values}))
    with pytest.raises(ModelError, match=message):
        from_file(tmp_path / "config.json")


def test_it_has_no_pooler(model_dir):
    with pytest.raises(ModelError, match="DistilBERT models have no pooler, which -pooling_strategy CLS_POOLED reads"):
        resolve(ServerConfig(model_dir=str(model_dir), pooling_strategy=PoolingStrategy.CLS_POOLED))


def test_there_are_no_tensorflow_checkpoints_of_it(model_dir, tmp_path):
    with pytest.raises(ModelError, match="no TensorFlow 1 checkpoints of DistilBERT models; give -to hugging-face"):
        convert(str(model_dir), tmp_path / "converted")
    again = convert(str(model_dir), tmp_path / "again", "hugging-face")
    assert from_file(again / "config.json") == from_file(model_dir / "config.json")
