"""What a BERT configuration describes, in Google's and in Hugging Face's form. Weights are in test_weights.py."""
import json

import pytest

from bert_serving.server.engine.architectures import complete, from_file, from_values
from bert_serving.server.engine.architectures.bert import ARCHITECTURE
from bert_serving.server.engine.spec import Attention, Embeddings, EncoderSpec, Mlp, Norm, TablePositions
from bert_serving.server.errors import ModelError


def write(path, **values):
    path.write_text(json.dumps(values))
    return path


def test_defaults_are_googles(tmp_path):
    architecture, spec = from_file(write(tmp_path / "bert_config.json", vocab_size=30522, unknown_key=1,
                                         directionality="bidi"))
    assert architecture is ARCHITECTURE and spec == EncoderSpec(
        vocab_size=30522, hidden_size=768, num_layers=12, attention=Attention(heads=12),
        mlp=Mlp(size=3072, activation="gelu"), positions=TablePositions(rows=512),
        embeddings=Embeddings(token_types=16), norm=Norm(eps=1e-12))


def test_defaults_of_hugging_face(tmp_path):
    _, spec = from_file(write(tmp_path / "config.json", model_type="bert", vocab_size=9, layer_norm_eps=1e-6))
    assert spec.embeddings.token_types == 2 and spec.norm.eps == 1e-6


def test_an_older_file_of_hugging_face_has_no_model_type(tmp_path):
    architecture, _ = from_file(write(tmp_path / "config.json", vocab_size=9, architectures=["BertForMaskedLM"]))
    assert architecture is ARCHITECTURE


def test_a_configuration_with_all_spelt_out_means_the_same():
    for values in ({"vocab_size": 9}, {"vocab_size": 9, "model_type": "bert"}):
        assert from_values(complete(values, ARCHITECTURE)) == from_values(values)


@pytest.mark.parametrize("values, message", [
    ({}, "vocab_size is missing"),
    ({"vocab_size": 0}, "vocab_size is 0, expected a number above 0"),
    ({"vocab_size": True}, "vocab_size is true"),
    ({"vocab_size": "many"}, "vocab_size is 'many'"),
    ({"vocab_size": 9, "hidden_size": 30.5}, "hidden_size is 30.5, expected a whole number"),
    ({"vocab_size": 9, "num_hidden_layers": None}, "num_hidden_layers is null"),
    ({"vocab_size": 9, "hidden_size": 30}, "hidden_size 30 is not a multiple of num_attention_heads 12"),
    ({"vocab_size": 9, "hidden_act": "mish"}, "hidden_act is 'mish'; choose from gelu, "),
    ({"vocab_size": 9, "layer_norm_eps": -1}, "layer_norm_eps is -1"),
    ({"vocab_size": 9, "architectures": ["RobertaModel"]}, "there is no model_type, and architectures has 'Roberta"),
    ({"vocab_size": 9, "model_type": "t5"}, "model_type is 't5'; this server computes bert, albert, "),
    ({"vocab_size": 9, "position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
])
def test_bad_values_name_file_and_key(tmp_path, values, message):
    path = write(tmp_path / "bert_config.json", **values)
    with pytest.raises(ModelError) as caught:
        from_file(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("content, message", [
    (b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"[1]", "is not a JSON object"), (None, "cannot read")])
def test_files_that_are_no_configuration(tmp_path, content, message):
    if content is not None:
        (tmp_path / "bert_config.json").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        from_file(tmp_path / "bert_config.json")
