"""Labels and scores: against CrossEncoder where it saved the directory, and by transformers' rules elsewhere."""
import json

import numpy as np
import pytest

from bert_serving.server.engine import classifier, heads, modules
from bert_serving.server.engine.classifier import Classifier
from bert_serving.server.errors import ModelError

HEAD = {"architectures": ["BertForSequenceClassification"]}
ONE, THREE = {"id2label": {"0": "score"}}, {"id2label": {"0": "no", "1": "maybe", "2": "yes"}}
CE = {"model_type": "CrossEncoder"}


@pytest.fixture
def read(tmp_path):
    """What is read of a config.json and a config_sentence_transformers.json."""
    def write_and_read(config, model=None, listed=None):
        (tmp_path / "config.json").write_text(json.dumps(config))
        for name, content in (("config_sentence_transformers.json", model), ("modules.json", listed)):
            if content is not None:
                (tmp_path / name).write_text(json.dumps(content))
        return classifier.read(modules.read(tmp_path))
    return write_and_read


# ---- saved directories -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, activation, source", [
    ("bert-rerank", "identity", "config.json sentence_transformers.activation_fn"),
    ("xlm-roberta-rerank", "sigmoid", "transformers (default)"),
    ("modernbert-rerank", "sigmoid", "config_sentence_transformers.json activation_fn"),
])
def test_rerankers_score_as_cross_encoder_does(name, activation, source, golden):
    found, arrays = classifier.read(modules.read(golden / "architectures" / name)), np.load(golden / "pipelines.npz")
    assert (found.labels, found.activation, found.activation_source) == (("LABEL_0",), activation, source)
    assert len(found.labels) == 1 and found.labels_source == "config.json id2label"
    scores = heads.scores(arrays[f"{name}/logits"], found.activation)
    assert scores.shape == (7, 1) and scores.dtype == np.float32
    assert np.abs(scores[:, 0] - arrays[f"{name}/scores"]).max() < 2e-6


def test_classes_get_probabilities(golden):
    """CrossEncoder, which did not save it, would give the logits; transformers' pipeline gives the softmax."""
    found = classifier.read(modules.read(golden / "architectures" / "bert-classify"))
    arrays = np.load(golden / "pipelines.npz")
    logits = arrays["bert-classify/scores"].astype(np.float64)
    assert found.labels == ("contradiction", "entailment", "neutral")
    odds = np.exp(logits)
    scores = heads.scores(arrays["bert-classify/logits"], found.activation)
    assert np.abs(scores - odds / odds.sum(1, keepdims=True)).max() < 2e-6 and np.allclose(scores.sum(1), 1)


@pytest.mark.parametrize("name", ["bert-unigram", "distilbert", "bert-gelu-new"])
def test_encoders_are_no_classifiers(name, golden):
    assert classifier.read(modules.read(golden / "architectures" / name)) is None


# ---- the function ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("config, model, activation", [
    ({**ONE}, None, "sigmoid"), ({**THREE}, None, "softmax"),
    ({**THREE, "problem_type": "single_label_classification"}, None, "softmax"),
    ({**ONE, "problem_type": "single_label_classification"}, None, "sigmoid"),
    ({**THREE, "problem_type": "multi_label_classification"}, None, "sigmoid"),
    ({**ONE, "problem_type": "multi_label_classification"}, None, "sigmoid"),
    ({**ONE, "problem_type": "regression"}, None, "identity"),
    ({**THREE, "problem_type": "regression"}, None, "identity"),
    ({**ONE}, CE, "sigmoid"), ({**THREE}, CE, "identity"),
    ({**THREE, "sentence_transformers": {"version": "4.1.0"}}, None, "identity"),
    ({**THREE, "sbert_ce_default_activation_function": None}, None, "identity"),
    ({**ONE, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, None, "identity"),
    ({**ONE, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
      "sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, None, "identity"),
    ({**ONE, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
     {**CE, "activation_fn": "torch.nn.modules.activation.Sigmoid"}, "sigmoid"),
    ({**THREE}, {**CE, "activation_fn": "torch.nn.modules.activation.Softmax"}, "softmax"),
    ({**THREE, "problem_type": "multi_label_classification"}, {**CE, "activation_fn": "torch.nn.Identity"}, "identity"),
])
def test_the_function(read, config, model, activation):
    """Fault 5 of the survey of directories: several labels at once, and one label."""
    assert read({**HEAD, **config}, model).activation == activation


@pytest.mark.parametrize("config, model, message", [
    ({**THREE, "problem_type": "ranking"}, None, "problem_type is 'ranking'; expected single_label_classification, m"),
    ({**ONE, "sentence_transformers": {"activation_fn": "custom.Fn"}}, None,
     "sentence_transformers.activation_fn is 'custom.Fn'; expected torch.nn's Identity, Sigmoid, Softmax"),
    ({**ONE, "sentence_transformers": {"activation_fn": 5}}, None, "activation_fn is 5; expected the name"),
    ({**ONE, "sentence_transformers": []}, None, "sentence_transformers is .*; expected an object"),
    ({**ONE}, {**CE, "activation_fn": "torch.nn.modules.activation.Tanh"}, "activation_fn is .*Tanh'; expected"),
    ({**ONE}, {**CE, "activation_fn": "torch.nn.modules.activation.Softmax"}, "gives 1 for every text with one label"),
    ({"architectures": ["BertModel"]}, CE, "says CrossEncoder, and .* has the architectures .*BertModel"),
    ({"architectures": None}, CE, "expected a name that ends with ForSequenceClassification"),
])
def test_functions_that_are_not_computed(read, config, model, message):
    with pytest.raises(ModelError, match=message):
        read({**HEAD, **config}, model)


# ---- labels ----------------------------------------------------------------------------------------------------------

def test_labels(read):
    assert read({**HEAD, **THREE}).labels == ("no", "maybe", "yes")
    assert read({**HEAD, "id2label": {"1": "b", "0": 7}}).labels == ("7", "b")
    found = read({**HEAD, "num_labels": 3})
    assert (found.labels, found.labels_source) == (("LABEL_0", "LABEL_1", "LABEL_2"), "config.json num_labels")
    found = read(HEAD)
    assert (found.labels, found.labels_source) == (("LABEL_0", "LABEL_1"), "config.json (default)")


@pytest.mark.parametrize("config, message", [
    ({"id2label": {"0": "a", "2": "c"}}, r"id2label\[1\] is None; expected a name for each number from 0 to 1"),
    ({"id2label": {"zero": "a"}}, r"id2label\[0\] is None"), ({"id2label": {"0": None}}, r"id2label\[0\] is None"),
    ({"id2label": {"0": ["x"]}}, r"id2label\[0\] is .*x"), ({"id2label": {"0": True}}, r"id2label\[0\] is True"),
    ({"id2label": {"0": "x" * 1001}}, r"id2label\[0\] is 'xxx"), ({"id2label": {"0": "\udc00"}}, r"id2label\[0\] is "),
    ({"id2label": {"-1": "a"}}, r"id2label\[0\] is None"), ({"id2label": {}}, "id2label is .*; expected an object"),
    ({"id2label": ["a", "b"]}, "id2label is .*; expected an object"),
    ({"id2label": {str(n): "x" for n in range(100_001)}}, "expected an object of 1 to 100000 names"),
    ({"num_labels": 10**9}, "num_labels is 1000000000; expected a whole number from 1 to 100000"),
    ({"num_labels": 0}, "num_labels is 0"), ({"num_labels": "3"}, "num_labels is '3'"),
    ({"num_labels": 2, **THREE}, "num_labels is 2, and id2label has 3; expected the same number"),
])
def test_labels_that_are_none(read, config, message):
    with pytest.raises(ModelError, match=message) as caught:
        read({**HEAD, **config})
    assert "\n" not in str(caught.value) and "config.json" in str(caught.value)


# ---- which directories -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("architectures", [["BertModel"], ["BertForTokenClassification"], [], None, "x", [5]])
def test_other_heads_are_not_classifiers(read, architectures):
    assert read({"architectures": architectures}) is None


def test_modules_json_makes_it_an_encoder(read, tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    kinds = [{"name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
             for index, (kind, path) in enumerate((("Transformer", ""), ("Pooling", "1_Pooling")))]
    assert read({**HEAD, **ONE}, listed=kinds) is None


def test_it_crosses_to_another_process(read):
    found = read({**HEAD, **THREE})
    assert Classifier.from_json(json.loads(json.dumps(found.to_json()))) == found
