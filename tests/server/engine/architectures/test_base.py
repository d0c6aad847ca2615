"""Names of variables in files, and ours: both ways, with a prefix, and what has none."""
import pytest

from bert_serving.server.engine.architectures import ARCHITECTURES, architecture
from bert_serving.server.engine.architectures.base import Names, dense, norm

NAMES = Names((("words.weight", "embeddings/words"), *dense("layer.{n}.up", "layers/{n}/mlp/up"),
               *norm("layer.{n}.norm", "layers/{n}/mlp/norm"), ("classifier.weight", "head/weights")),
              encoder=("words.", "layer."), ignored=("layer.positions",), kernels_are_transposed=True, has_prefix=True)
FILE = ["m.words.weight", "m.layer.3.up.weight", "m.layer.3.up.bias", "m.layer.3.norm.gamma", "classifier.weight"]


def test_ours():
    assert NAMES.ours(FILE) == {
        "embeddings/words": "m.words.weight", "layers/3/mlp/up/kernel": "m.layer.3.up.weight",
        "layers/3/mlp/up/bias": "m.layer.3.up.bias", "layers/3/mlp/norm/gamma": "m.layer.3.norm.gamma",
        "head/weights": "classifier.weight"}


def test_theirs_is_the_name_of_today():
    assert NAMES.theirs("layers/11/mlp/norm/gamma") == "layer.11.norm.weight"
    assert NAMES.theirs("head/weights") == "classifier.weight"


def test_kernels_alone_are_transposed():
    assert NAMES.is_transposed("layers/0/mlp/up/kernel") and not NAMES.is_transposed("embeddings/words")


def test_strangers_look_like_a_part_of_the_encoder():
    others = ["m.layer.3.gate.weight", "m.layer.positions", "m.head.weight", "layer.1.up.weight"]
    assert list(NAMES.strangers([*FILE, *others], FILE)) == ["m.layer.3.gate.weight"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_row_is_an_architecture(name):
    found = architecture(name)
    assert found.model_type == name and found.label
    for names in (found.hugging_face, found.tensorflow):
        assert names is None or names.ours([names.theirs("embeddings/words")]) == {
            "embeddings/words": names.theirs("embeddings/words")}


def test_there_are_no_others():
    with pytest.raises(ValueError, match="model_type is 'abacus'; this server computes bert, distilbert"):
        architecture("abacus")
