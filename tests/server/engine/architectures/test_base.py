"""Names of variables in files, and ours: both ways, with a prefix, and what has none."""
import pytest

from bert_serving.server.engine.architectures import ARCHITECTURES, architecture, from_values
from bert_serving.server.engine.architectures.base import Names, dense, norm, shown

NAMES = Names((("words.weight", "embeddings/words"), *dense("layer.{n}.up", "layers/{n}/mlp/up"),
               *norm("layer.{n}.norm", "layers/{n}/mlp/norm"), ("classifier.weight", "head/weights")),
              encoder=("words.", "layer."), ignored=("layer.positions",), kernels_are_transposed=True, has_prefix=True)
FILE = ["m.words.weight", "m.layer.3.up.weight", "m.layer.3.up.bias", "m.layer.3.norm.gamma", "classifier.weight"]


def test_ours():
    assert NAMES.ours(FILE) == {
        "embeddings/words": "m.words.weight", "layers/3/mlp/up/kernel": "m.layer.3.up.weight",
        "layers/3/mlp/up/bias": "m.layer.3.up.bias", "layers/3/mlp/norm/gamma": "m.layer.3.norm.gamma",
        "head/weights": "classifier.weight"}


def test_a_name_is_a_part_after_a_full_stop():
    assert NAMES.prefixes(["m.words.weight", "swords.weight", "words.weight"]) == ["m.", ""]


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
    with pytest.raises(ValueError, match="model_type is 'abacus'; this server computes bert, albert, "):
        architecture("abacus")


# ---- classes ---------------------------------------------------------------------------------------------------------

OWN_CODE = {"auto_map": {"AutoConfig": "configuration.Mine", "AutoModel": "modeling.Mine"}}


@pytest.mark.parametrize("names", [
    None, [], ["BertModel"], ["BertForMaskedLM"], ["BertForPreTraining"], ["BertForSequenceClassification"],
    ["BertForTokenClassification"], ["BertForQuestionAnswering"], ["BertForNextSentencePrediction"],
    ["BertForMultipleChoice"], ["Gemma3ForCausalLM"], ["TFBertModel"]])
def test_classes_that_have_a_plain_encoder(names):
    assert from_values({"model_type": "bert", "vocab_size": 9, "architectures": names}) == from_values(
        {"model_type": "bert", "vocab_size": 9})


@pytest.mark.parametrize("names, what", [
    (["HF_ColBERT"], "'HF_ColBERT'"), (["BertModel", "BertForSparseRetrieval"], "'BertForSparseRetrieval'"),
    (["BertModelWithHeads"], "'BertModelWithHeads'"), (["Model"], "'Model'"), ([None], "null"), ([["x"]], r"\['x'\]")])
def test_classes_that_add_what_is_not_computed(names, what):
    with pytest.raises(ValueError, match=f"^architectures names the class {what}, which .* remove architec"):
        from_values({"vocab_size": 9, "architectures": names})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_code_of_the_models_own_is_refused_unless_the_architecture_reads_what_it_wrote(name):
    values = {"model_type": name, "vocab_size": 9, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
              "intermediate_size": 9, "max_position_embeddings": 64, "type_vocab_size": 1}
    if name in ("eurobert", "gte", "nomic_bert"):
        assert from_values({**values, **OWN_CODE})[0].model_type == name
    else:
        with pytest.raises(ValueError, match="^auto_map names code of the model's own, 'configuration.Mine', which"):
            from_values({**values, **OWN_CODE})


def test_code_of_the_tokenizers_own_is_the_tokenizers_matter():
    from_values({"vocab_size": 9, "auto_map": {"AutoTokenizer": ["tokenization.Mine", None]}})


@pytest.mark.parametrize("change, message", [
    ({"architectures": "BertModel"}, "architectures is 'BertModel', expected an array"),
    ({"auto_map": ["x"]}, r"auto_map is \['x'\], expected an object"),
    ({"model_type": ["bert"]}, r"model_type is \['bert'\], expected one of bert, albert, ")])
def test_values_of_another_shape(change, message):
    with pytest.raises(ValueError, match=message):
        from_values({"vocab_size": 9, **change})


def test_values_are_shown_as_json_has_them_and_shortened():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    assert [shown(value) for value in (None, True, False, 1.5, "a\n")] == ["null", "true", "false", "1.5", r"'a\n'"]
    assert len(shown("x" * 10_000)) == 100
    assert shown(nested) == "nested too deeply"
