"""The model's configuration and what follows from it. The computation itself is in test_graph.py."""
import json

import pytest

from bert_serving.server.engine.bert import BertConfig, layers_needed, variables
from bert_serving.server.errors import ModelError

CONFIG = BertConfig(vocab_size=100)


def write(path, **values):
    path.write_text(json.dumps(values))
    return path


def test_defaults_are_googles(tmp_path):
    config = BertConfig.from_file(write(tmp_path / "bert_config.json", vocab_size=30522, unknown_key=1,
                                        directionality="bidi"))
    assert config == BertConfig(
        vocab_size=30522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
        hidden_act="gelu", max_position_embeddings=512, type_vocab_size=16, layer_norm_eps=1e-12)


def test_defaults_of_hugging_face(tmp_path):
    config = BertConfig.from_file(write(tmp_path / "config.json", model_type="bert", vocab_size=9, layer_norm_eps=1e-6))
    assert config.type_vocab_size == 2 and config.layer_norm_eps == 1e-6


@pytest.mark.parametrize("values, message", [
    ({}, "vocab_size is missing"),
    ({"vocab_size": 0}, "vocab_size is 0, expected a number above 0"),
    ({"vocab_size": True}, "vocab_size is True"),
    ({"vocab_size": "many"}, "vocab_size is 'many'"),
    ({"vocab_size": 9, "hidden_size": 30.5}, "hidden_size is 30.5, expected a whole number"),
    ({"vocab_size": 9, "num_hidden_layers": None}, "num_hidden_layers is None"),
    ({"vocab_size": 9, "hidden_size": 30}, "hidden_size 30 is not a multiple of num_attention_heads 12"),
    ({"vocab_size": 9, "hidden_act": "swish"}, "hidden_act is 'swish'; choose from gelu, "),
    ({"vocab_size": 9, "layer_norm_eps": -1}, "layer_norm_eps is -1"),
    ({"vocab_size": 9, "model_type": "mpnet"}, "model_type is 'mpnet'; only 'bert'"),
    ({"vocab_size": 9, "position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
])
def test_bad_values_name_file_and_key(tmp_path, values, message):
    path = write(tmp_path / "bert_config.json", **values)
    with pytest.raises(ModelError) as caught:
        BertConfig.from_file(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("content, message", [
    (b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"[1]", "is not a JSON object"), (None, "cannot read")])
def test_files_that_are_no_configuration(tmp_path, content, message):
    if content is not None:
        (tmp_path / "bert_config.json").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        BertConfig.from_file(tmp_path / "bert_config.json")


@pytest.mark.parametrize("layer, index", [(-1, 11), (-12, 0), (0, 0), (11, 11)])
def test_layer_index(layer, index):
    assert CONFIG.layer_index(layer) == index


@pytest.mark.parametrize("layer", [-13, 12])
def test_layers_that_do_not_exist(layer):
    with pytest.raises(ValueError, match=rf"-pooling_layer {layer} does not exist in a model of 12 layers; "
                                         r"expected -12 \(first\) to -1 \(last\)"):
        CONFIG.layer_index(layer)


@pytest.mark.parametrize("layers, pooler, expected", [([-2], False, 11), ([-12], False, 1), ([0, 3], False, 4),
                                                      ([-12], True, 12), ([-2, -1], False, 12)])
def test_layers_needed(layers, pooler, expected):
    assert layers_needed(CONFIG, layers, pooler) == expected


def test_variables_of_bert_base():
    """110 million parameters, as the paper says."""
    from math import prod
    shapes = variables(BertConfig(vocab_size=30522, type_vocab_size=2), pooler=True)
    assert sum(map(prod, shapes.values())) == 109_482_240
    assert len(shapes) == 199
    assert shapes["bert/encoder/layer_11/intermediate/dense/kernel"] == (768, 3072)
    assert shapes["bert/embeddings/LayerNorm/gamma"] == (768,)


def test_variables_of_a_tiny_model(tiny):
    assert {name: array.shape for name, array in tiny(num_labels=3).weights.items()} == variables(
        BertConfig(**tiny().config), pooler=True, num_labels=3)
