"""Which model is served, what its files decide, and what is refused with which words; no TensorFlow runs here."""
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bert_serving.client.pairs import Pair
from bert_serving.server.config import FromModel, PoolingStrategy, ServerConfig, pooling_strategy
from bert_serving.server.engine import backends, base, library
from bert_serving.server.engine.models import find, resolve
from bert_serving.server.engine.tokenizer_files import is_cased
from bert_serving.server.errors import ConfigError, ModelError


def sidecar(directory, name, content):
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text(json.dumps(content))


def decided(model):
    return (model.config.max_seq_len, model.config.do_lower_case, model.config.pooling_layer,
            model.config.pooling_strategy.name)


# ---- what the files decide -------------------------------------------------------------------------------------------

def test_a_plain_checkpoint_has_the_originals_defaults(tiny, tmp_path):
    tiny().write_tensorflow(tmp_path)
    model = resolve(ServerConfig(model_dir=str(tmp_path)))
    assert decided(model) == (25, True, [-2], "REDUCE_MEAN")
    assert model.provenance.pop("special_tokens_in_text") == "vocab.txt"
    assert set(model.provenance.values()) == {"default"}
    assert (model.path, model.spec.num_layers, model.layers_kept) == (tmp_path, 3, 2)
    assert model.num_parameters == sum(array.size for name, array in tiny().weights.items() if "pooler" not in name)
    assert model.settings.checkpoint == str(tmp_path / "bert_model.ckpt")
    assert {name for name, value in vars(model.config).items() if isinstance(value, FromModel)} == {
        "ckpt_name", "config_name"}


@pytest.fixture
def sentence_dir(tiny, tmp_path):
    """As sentence-transformers saves a model."""
    tiny().write_hugging_face(tmp_path)
    sidecar(tmp_path, "modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""},
                                       {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}])
    sidecar(tmp_path, "1_Pooling/config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    sidecar(tmp_path, "sentence_bert_config.json", {"max_seq_length": 33, "do_lower_case": False})
    sidecar(tmp_path, "tokenizer_config.json", {"do_lower_case": False, "model_max_length": 37})
    return tmp_path


def test_sentence_transformers(sentence_dir):
    model = resolve(ServerConfig(model_dir=str(sentence_dir)))
    assert decided(model) == (33, False, [-1], "FIRST_TOKEN")
    assert model.provenance == {
        "max_seq_len": "sentence_bert_config.json", "do_lower_case": "tokenizer_config.json",
        "pooling_layer": "1_Pooling/config.json", "pooling_strategy": "1_Pooling/config.json",
        "normalize": "default", "prompt_name": "default", "num_labels": "default",
        "special_tokens_in_text": "vocab.txt"}
    assert model.settings.pooling_layer == (-1,) and model.settings.pooling_strategy == "FIRST_TOKEN"


def test_what_the_user_says_wins(sentence_dir):
    model = resolve(ServerConfig(model_dir=str(sentence_dir), max_seq_len=None, do_lower_case=True, pooling_layer=[-3],
                                 pooling_strategy=PoolingStrategy.REDUCE_MAX, normalize=True, prompt_name=None,
                                 special_tokens_in_text=True, num_labels=2))
    assert decided(model) == (None, True, [-3], "REDUCE_MAX")
    assert set(model.provenance.values()) == {"given"}
    assert model.settings.max_length == 40


def test_a_length_beyond_the_positions_is_cut_to_them(sentence_dir):
    sidecar(sentence_dir, "sentence_bert_config.json", {"max_seq_length": 512})
    assert resolve(ServerConfig(model_dir=str(sentence_dir))).config.max_seq_len == 40


def test_the_tokenizers_length_where_no_other_is_stated(sentence_dir):
    (sentence_dir / "sentence_bert_config.json").unlink()
    assert resolve(ServerConfig(model_dir=str(sentence_dir))).config.max_seq_len == 37
    sidecar(sentence_dir, "tokenizer_config.json", {"model_max_length": 1e30})
    assert resolve(ServerConfig(model_dir=str(sentence_dir))).config.max_seq_len == 40


def test_a_strategy_that_is_given_pools_the_layer_that_the_files_say(sentence_dir):
    model = resolve(ServerConfig(model_dir=str(sentence_dir), pooling_strategy=PoolingStrategy.REDUCE_MAX))
    assert decided(model) == (33, False, [-1], "REDUCE_MAX")
    assert model.provenance["pooling_layer"] == "1_Pooling/config.json"


def test_all_positions_where_the_files_of_a_sentence_model_state_no_length(sentence_dir):
    for name in ("sentence_bert_config.json", "tokenizer_config.json"):
        (sentence_dir / name).unlink()
    model = resolve(ServerConfig(model_dir=str(sentence_dir)))
    assert (model.config.max_seq_len, model.provenance["max_seq_len"]) == (40, "all positions of the model")


def test_a_tokenizers_length_alone_does_not_make_a_sentence_model(tiny, tmp_path):
    tiny().write_hugging_face(tmp_path)
    sidecar(tmp_path, "tokenizer_config.json", {"do_lower_case": False, "model_max_length": 37})
    assert decided(resolve(ServerConfig(model_dir=str(tmp_path)))) == (25, False, [-2], "REDUCE_MEAN")


@pytest.mark.parametrize("pooling, expected", [
    ({"pooling_mode_mean_tokens": True}, "REDUCE_MEAN"), ({"pooling_mode_max_tokens": True}, "REDUCE_MAX"),
    ({"pooling_mode_lasttoken": True}, "LAST_TOKEN"), ({"pooling_mode": "cls"}, "FIRST_TOKEN")])
def test_poolings_of_sentence_transformers(sentence_dir, pooling, expected):
    sidecar(sentence_dir, "1_Pooling/config.json", pooling)
    assert resolve(ServerConfig(model_dir=str(sentence_dir))).config.pooling_strategy.name == expected


@pytest.mark.parametrize("pooling, expected", [
    ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "REDUCE_MAX+REDUCE_MEAN"),
    ({"pooling_mode": ["mean", "max"]}, "REDUCE_MEAN+REDUCE_MAX"), ({"pooling_mode": ["cls"]}, "FIRST_TOKEN")])
def test_several_poolings_are_joined_in_the_references_order(sentence_dir, pooling, expected):
    sidecar(sentence_dir, "1_Pooling/config.json", pooling)
    assert resolve(ServerConfig(model_dir=str(sentence_dir))).settings.pooling_strategy == expected


def test_a_pooling_that_does_not_exist_here(sentence_dir):
    sidecar(sentence_dir, "1_Pooling/config.json", {"pooling_mode": "?"})
    refuse(ModelError, r"1_Pooling/config.json: pooling_mode is '\?'; expected cls, .*; or give -pooling_strategy",
           model_dir=str(sentence_dir))
    model = resolve(ServerConfig(model_dir=str(sentence_dir), pooling_strategy=PoolingStrategy.REDUCE_MEAN))
    assert model.settings.pooling_strategy == "REDUCE_MEAN"


def test_the_older_layout_of_sentence_transformers(sentence_dir):
    folder = sentence_dir / "0_Transformer"
    folder.mkdir()
    for name in ("config.json", "vocab.txt", "model.safetensors", "sentence_bert_config.json", "tokenizer_config.json"):
        (sentence_dir / name).rename(folder / name)
    sidecar(sentence_dir, "modules.json", [{"type": "sentence_transformers.models.Transformer",
                                            "path": "0_Transformer"},
                                           {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}])
    model = resolve(ServerConfig(model_dir=str(sentence_dir)))
    assert decided(model) == (33, False, [-1], "FIRST_TOKEN")
    assert model.settings.checkpoint == str(folder / "model.safetensors")


def test_modules_do_not_lead_out_of_the_directory(sentence_dir):
    sidecar(sentence_dir, "modules.json", [{"type": "sentence_transformers.models.Transformer", "path": "../../.."}])
    with pytest.raises(ModelError, match="the path '../../..' is not in the model's directory"):
        find(sentence_dir)


# ---- what follows the pooling ----------------------------------------------------------------------------------------

@pytest.fixture
def with_modules(sentence_dir):
    """Lists modules behind the pooling; keys of config_sentence_transformers.json may follow."""
    def write(*kinds, **about):
        for kind in kinds:
            if kind == "Dense":
                sidecar(sentence_dir, "Dense/config.json", {
                    "in_features": 32, "out_features": 8, "bias": False,
                    "activation_function": "torch.nn.modules.linear.Identity"})
                save_file({"linear.weight": np.zeros((8, 32), np.float32)},
                          str(sentence_dir / "Dense" / "model.safetensors"))
        listed = [("Transformer", ""), ("Pooling", "1_Pooling"), *((kind, kind) for kind in kinds)]
        sidecar(sentence_dir, "modules.json", [
            {"type": f"sentence_transformers.models.{kind}", "name": str(index), "path": path}
            for index, (kind, path) in enumerate(listed)])
        if about:
            sidecar(sentence_dir, "config_sentence_transformers.json", about)
        return sentence_dir
    return write


def stages(directory, **options):
    """Names of the stages, and what was decided of -normalize."""
    model = resolve(ServerConfig(model_dir=str(directory), **options))
    names = [type(stage).__name__ for stage in model.settings.stages]
    return names, model.config.normalize, model.provenance["normalize"]


@pytest.mark.parametrize("listed, about, options, expected", [
    ([], {}, {}, ([], False, "default")),
    ([], {}, {"normalize": True}, (["Normalize"], True, "given")),
    (["Normalize"], {}, {}, (["Normalize"], True, "modules.json")),
    (["Normalize"], {}, {"normalize": True}, (["Normalize"], True, "given")),
    (["Normalize"], {}, {"normalize": False}, ([], False, "given")),
    (["Dense"], {}, {"normalize": True}, (["Dense", "Normalize"], True, "given")),
    (["Dense", "Normalize"], {}, {"normalize": False}, (["Dense"], False, "given")),
    # The first of the dimensions of a vector of length 1 have no length 1.
    (["Normalize"], {"truncate_dim": 4}, {}, (["Normalize", "Truncate"], False, "default")),
    (["Normalize"], {"truncate_dim": 4}, {"normalize": False}, (["Normalize", "Truncate"], False, "given")),
    (["Normalize"], {"truncate_dim": 4}, {"normalize": True}, (["Normalize", "Truncate", "Normalize"], True, "given")),
], ids=str)
def test_normalize(with_modules, listed, about, options, expected):
    assert stages(with_modules(*listed, **about), **options) == expected


@pytest.mark.parametrize("strategy, what", [("NONE", "token vectors"), ("REGRESSION", "scores")])
def test_normalize_does_not_go_with_everything(tiny, sentence_dir, strategy, what):
    tiny(num_labels=1).write_hugging_face(sentence_dir)
    options = {"model_dir": str(sentence_dir), "pooling_strategy": PoolingStrategy[strategy]}
    refuse(ConfigError, f"-normalize yes does not go with -pooling_strategy {strategy}, which gives {what}",
           normalize=True, **options)
    assert resolve(ServerConfig(normalize=False, **options)).config.normalize is False


@pytest.mark.parametrize("options, fits", [
    ({}, True), ({"pooling_layer": [-1, -2]}, False), ({"pooling_strategy": PoolingStrategy.REDUCE_MEAN_MAX}, False),
    ({"pooling_strategy": pooling_strategy("CLS_TOKEN+REDUCE_MEAN")}, False),
    ({"pooling_strategy": PoolingStrategy.CLS_POOLED}, True)], ids=str)
def test_a_dense_module_gets_the_dimensions_that_it_expects(with_modules, options, fits):
    directory = with_modules("Dense")
    if fits:
        assert stages(directory, **options)[0] == ["Dense"]
    else:
        refuse(ModelError, "Dense/config.json: Dense expects 32 dimensions, and gets 64 from", model_dir=str(directory),
               **options)


def test_a_module_whose_weights_cannot_be_read_ends_the_start(with_modules):
    directory = with_modules("Dense")
    (directory / "Dense" / "model.safetensors").write_bytes(b"x" * 100)
    refuse(ModelError, "cannot read the weights .*Dense/model.safetensors", model_dir=str(directory))


def test_token_vectors_go_through_no_module(with_modules, caplog):
    caplog.set_level("INFO")
    found = stages(with_modules("Dense", "Normalize"), pooling_strategy=PoolingStrategy.NONE)
    assert found == ([], False, "as -pooling_strategy NONE is")
    assert "Dense(8, Identity), Normalize (Dense/config.json, modules.json) apply to pooled vectors only" in caplog.text


def test_what_follows_the_pooling_can_be_shown(with_modules):
    model = resolve(ServerConfig(model_dir=str(with_modules("Dense", "Normalize", truncate_dim=4))))
    assert [(str(stage), stage.source) for stage in model.settings.stages] == [
        ("Dense(8, Identity)", "Dense/config.json"), ("Normalize", "modules.json"),
        ("Truncate(4)", "config_sentence_transformers.json")]


# ---- prompts ---------------------------------------------------------------------------------------------------------

PROMPTS = {"prompts": {"query": "the fox: ", "passage": "brown "}, "default_prompt_name": "query"}


@pytest.mark.parametrize("options, name, prompt, source", [
    ({}, "query", "the fox: ", "config_sentence_transformers.json"),
    ({"prompt_name": "passage"}, "passage", "brown ", "given"), ({"prompt_name": None}, None, "", "given")], ids=str)
def test_prompts(with_modules, options, name, prompt, source):
    model = resolve(ServerConfig(model_dir=str(with_modules(**PROMPTS)), **options))
    assert (model.config.prompt_name, model.provenance["prompt_name"]) == (name, source)
    assert model.settings.tokenizer.prompt == prompt
    features, = base.features(["quick"], base.create_tokenizer(model.settings), model.settings)
    assert len(features) == 3 + len(prompt.replace(":", " :").split())


def test_a_prompt_that_the_model_does_not_have(with_modules, tiny_dir):
    refuse(ConfigError, "-prompt_name nope: the model has no such prompt; choose from query, passage$",
           model_dir=str(with_modules(**PROMPTS)), prompt_name="nope")
    refuse(ConfigError, "-prompt_name query: .* it has none at all", model_dir=str(tiny_dir), prompt_name="query")


@pytest.mark.parametrize("include, num_prompt", [(True, 0), (False, 4)])
def test_pooling_sees_a_prompt_or_does_not(with_modules, include, num_prompt):
    directory = with_modules(**PROMPTS)
    sidecar(directory, "1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "include_prompt": include})
    model = resolve(ServerConfig(model_dir=str(directory)))
    assert model.settings.include_prompt is include
    features, = base.features(["quick"], base.create_tokenizer(model.settings), model.settings)
    assert features.num_prompt == num_prompt


# ---- heads -----------------------------------------------------------------------------------------------------------

CLASSIFIER = {"architectures": ["BertForSequenceClassification"]}


@pytest.fixture
def classifier_dir(tiny, tmp_path):
    """A model with a head of so many labels, as transformers saves it."""
    def write(labels, **config):
        names = {str(index): f"class {index}" for index in range(labels)}
        return tiny(num_labels=labels).write_hugging_face(
            tmp_path / "classifier", config={**CLASSIFIER, "id2label": names, **config})
    return write


@pytest.mark.parametrize("labels, config, strategy, num_labels, scores", [
    (1, {}, "REGRESSION", 2, "sigmoid"), (1, {"problem_type": "regression"}, "REGRESSION", 2, "identity"),
    (3, {}, "CLASSIFICATION", 3, "softmax"),
    (3, {"problem_type": "multi_label_classification"}, "CLASSIFICATION", 3, "sigmoid")], ids=str)
def test_a_head_is_what_the_files_say(classifier_dir, labels, config, strategy, num_labels, scores):
    model = resolve(ServerConfig(model_dir=str(classifier_dir(labels, **config))))
    assert (model.settings.pooling_strategy, model.settings.num_labels, model.settings.scores) == (
        strategy, num_labels, scores)
    assert model.labels == tuple(f"class {index}" for index in range(labels))
    assert model.config.pooling_layer == [-1]
    source = "config.json problem_type" if config else "transformers (default)"
    assert model.provenance["pooling_strategy"] == source
    assert model.provenance["num_labels"] == ("config.json id2label" if labels > 1 else "default")


def test_the_encoder_of_a_classifier_can_be_asked_for(classifier_dir):
    model = resolve(ServerConfig(model_dir=str(classifier_dir(3)), pooling_strategy=PoolingStrategy.REDUCE_MEAN))
    assert decided(model) == (25, True, [-2], "REDUCE_MEAN")
    assert (model.labels, model.settings.scores, model.settings.num_labels) == ((), None, 2)


def test_a_strategy_that_does_not_fit_the_head(classifier_dir):
    refuse(ConfigError, r"-pooling_strategy CLASSIFICATION: the model has one class \(config.json id2label\), .*give "
           "REGRESSION", model_dir=str(classifier_dir(1)), pooling_strategy=PoolingStrategy.CLASSIFICATION)
    refuse(ConfigError, r"-pooling_strategy REGRESSION: the model has 3 classes \(config.json id2label\); give "
           "CLASSIFICATION", model_dir=str(classifier_dir(3)), pooling_strategy=PoolingStrategy.REGRESSION)
    refuse(ModelError, "has 3 classes; give -num_labels 3", model_dir=str(classifier_dir(3)),
           pooling_strategy=PoolingStrategy.CLASSIFICATION, num_labels=4)


@pytest.mark.parametrize("tokenizer, length, source", [
    ({"model_max_length": 37}, 37, "tokenizer_config.json"), ({"model_max_length": 512}, 40, "tokenizer_config.json"),
    ({"model_max_length": 1e30}, 40, "all positions of the model"), ({}, 40, "all positions of the model")], ids=str)
def test_the_length_of_a_classifier(classifier_dir, tokenizer, length, source):
    directory = classifier_dir(3)
    sidecar(directory, "tokenizer_config.json", tokenizer)
    model = resolve(ServerConfig(model_dir=str(directory)))
    assert (model.config.max_seq_len, model.provenance["max_seq_len"]) == (length, source)


# ---- other architectures ---------------------------------------------------------------------------------------------

def copied(golden, name, target):
    """A tiny model of another architecture, to be changed."""
    return Path(shutil.copytree(golden / "architectures" / name, target / name))


def test_a_decoder_is_served_when_it_is_said_how(golden, tmp_path):
    directory = copied(golden, "qwen3", tmp_path)
    assert decided(resolve(ServerConfig(model_dir=str(directory))))[2:] == ([-1], "LAST_TOKEN")
    shutil.rmtree(directory / "1_Pooling")
    (directory / "modules.json").unlink()
    refuse(ModelError, r"model_type 'qwen3' mostly generate text, .* no modules.json .* give its -pooling_strategy",
           model_dir=str(directory))
    model = resolve(ServerConfig(model_dir=str(directory), pooling_strategy=PoolingStrategy.LAST_TOKEN,
                                 pooling_layer=[-1]))
    assert model.settings.pooling_strategy == "LAST_TOKEN"


def test_an_architecture_without_heads(golden):
    refuse(ModelError, "^-pooling_strategy REGRESSION needs a classifier or reranker, which .* for GTE models; give",
           model_dir=str(golden / "architectures" / "gte"), pooling_strategy=PoolingStrategy.REGRESSION)


def test_positions_that_cannot_be_left_out(golden, tiny_dir):
    refuse(ConfigError, "-no_position_embeddings leaves out a table .*, and this model has other positions",
           model_dir=str(golden / "architectures" / "nomic_bert"), no_position_embeddings=True)
    assert resolve(ServerConfig(model_dir=str(tiny_dir), no_position_embeddings=True)).settings.no_position_embeddings


def test_one_token_type_is_that_of_pairs_too(tiny, tmp_path):
    one, two = (resolve(ServerConfig(model_dir=str(tiny(type_vocab_size=types).write_hugging_face(
        tmp_path / str(types))))) for types in (1, 2))
    for model, types in ((one, [0] * 5), (two, [0, 0, 0, 1, 1])):
        features, = base.features([Pair("the", "fox")], base.create_tokenizer(model.settings), model.settings)
        assert features.token_type_ids.tolist() == types


@pytest.mark.parametrize("name", [
    *(f"architectures/{name}" for name in (
        "albert", "bert-instructor", "bert-rerank", "bert-unigram", "bert-wordpiece", "deberta-v2", "distilbert",
        "distilbert-classify", "gemma3_text", "jina_embeddings_v3", "modernbert-rerank", "mpnet", "nomic_bert",
        "qwen3", "roberta", "xlm-roberta", "xlm-roberta-classify")),
    *(f"static/{name}" for name in ("model2vec", "model2vec-int8", "sentence-transformers", "stages"))])
def test_another_host_computes_the_same(golden, name):
    model = resolve(ServerConfig(model_dir=str(golden / name)))
    sent = json.loads(json.dumps(model.config.of_the_model("auto")))
    there = resolve(ServerConfig.from_the_model(sent))
    assert there.settings == model.settings and there.labels == model.labels


# ---- the families of the README --------------------------------------------------------------------------------------

QUIRKS = {"directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3,
          "pooler_size_per_head": 128, "pooler_type": "first_token_transform"}
PLAIN = {"attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1, "initializer_range": 0.02}
SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LOWER = "the a hello world ##s cafe"
MIXED = "the a Hello World ##s café The A HE ##LL"
FAMILIES = {
    "uncased_L-12_H-768_A-12": (LOWER, PLAIN, 2, "Hello Café!", "hello cafe [UNK]"),
    "uncased_L-24_H-1024_A-16": (LOWER, PLAIN, 4, "Hello Café!", "hello cafe [UNK]"),
    "cased_L-12_H-768_A-12": (MIXED, PLAIN, 2, "Hello Café café", "Hello [UNK] café"),
    "cased_L-24_H-1024_A-16": (MIXED, PLAIN, 4, "Hello Café café", "Hello [UNK] café"),
    "multi_cased_L-12_H-768_A-12": (MIXED + " 你 好 не Не", QUIRKS, 2, "Не 你好 hello", "Не 你 好 [UNK]"),
    "multilingual_L-12_H-768_A-12": (LOWER + " 你 好 не", QUIRKS, 2, "Не 你好 HELLO", "не 你 好 hello"),
    "chinese_L-12_H-768_A-12": ("<S> <T> 你 好 么 ##s hello", QUIRKS, 2, "你好么 Hellos", "你 好 么 hello ##s"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families(tiny, tmp_path, run, family):
    """Small ones of each, with the vocabulary's style and the quirks of the configuration that Google published."""
    words, quirks, layers, text, tokens = FAMILIES[family]
    model = tiny(words=SPECIAL + words.split(), num_hidden_layers=layers)
    model.write_tensorflow(tmp_path / family, config={**PLAIN, **quirks})
    running = run(tmp_path / family)
    assert resolve(ServerConfig(model_dir=str(tmp_path / family))).name == family
    features, = running.features([text])
    assert " ".join(features.tokens) == f"[CLS] {tokens} [SEP]"
    assert np.abs(running.engine.encode([features])[0] - model.vector(features)).max() < 1e-5


def test_case_is_seen_in_the_vocabulary(tiny, tmp_path):
    tiny(words=SPECIAL + MIXED.split()).write_tensorflow(tmp_path)
    model = resolve(ServerConfig(model_dir=str(tmp_path)))
    assert model.config.do_lower_case is False
    assert model.provenance["do_lower_case"] == "vocab.txt, which has upper-case words"
    assert resolve(ServerConfig(model_dir=str(tmp_path), do_lower_case=True)).config.do_lower_case is True


def test_a_few_upper_case_words_do_not_make_a_cased_vocabulary():
    words = [f"word{number}" for number in range(1000)] + ["[UNK]", "<S>", "Oh"]
    assert not is_cased(dict.fromkeys(words, 0))
    assert is_cased(dict.fromkeys(words + [f"Word{number}" for number in range(20)], 0))


# ---- fine-tuned models -----------------------------------------------------------------------------------------------

def test_a_fine_tuned_checkpoint_replaces_only_the_weights(tiny, tmp_path, run):
    tiny().write_tensorflow(tmp_path / "base")
    tuned = tiny(seed=5, num_labels=3)
    tuned.write_tensorflow(tmp_path / "tuned", "model.ckpt-343")
    for name in ("bert_config.json", "vocab.txt"):
        (tmp_path / "tuned" / name).write_text("not to be read")
    for strategy, labels in (("REDUCE_MEAN", {}), ("CLASSIFICATION", {"num_labels": 3})):
        running = run(tmp_path / "base", tuned_model_dir=str(tmp_path / "tuned"), ckpt_name="model.ckpt-343",
                      pooling_strategy=PoolingStrategy[strategy], **labels)
        features, = running.features(["the fox"])
        assert np.abs(running.engine.encode([features])[0] - tuned.vector(features, strategy)).max() < 1e-5


def test_a_fine_tuned_hugging_face_model(tiny, tmp_path, run):
    tiny().write_tensorflow(tmp_path / "base")
    tuned = tiny(seed=5, num_labels=1)
    tuned.write_hugging_face(tmp_path / "tuned", prefix="bert.")
    running = run(tmp_path / "base", tuned_model_dir=str(tmp_path / "tuned"),
                  pooling_strategy=PoolingStrategy.REGRESSION)
    features, = running.features(["the fox"])
    assert np.abs(running.engine.encode([features])[0] - tuned.vector(features, "REGRESSION")).max() < 1e-5


# ---- refusals --------------------------------------------------------------------------------------------------------

def refuse(error, message, **options):
    began = time.process_time()
    with pytest.raises(error, match=message) as caught:
        resolve(ServerConfig(**options))
    assert time.process_time() - began < 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options, message", [
    ({"max_seq_len": 41}, "-max_seq_len 41 is beyond the model's 40 positions"),
    ({"pooling_layer": [-4]}, r"-pooling_layer -4 does not exist in a model of 3 layers; expected -3 \(first\) "
     r"to -1 \(last\), or 0 \(first\) to 2 \(last\)"),
    ({"pooling_layer": [-1, 3]}, "-pooling_layer 3 does not exist"),
    ({"pooling_strategy": PoolingStrategy.CLS_POOLED, "pooling_layer": [7]}, "-pooling_layer 7 does not exist"),
    ({"pooling_strategy": PoolingStrategy.CLS_POOLED, "pooling_layer": [-2]},
     "-pooling_layer -2 cannot be pooled with -pooling_strategy CLS_POOLED, which reads the last layer; give -1"),
    ({"pooling_strategy": PoolingStrategy.CLS_POOLED, "pooling_layer": [-1, -1]}, "-pooling_layer -1 -1 cannot be"),
    ({"num_labels": 3}, "-num_labels is for -pooling_strategy CLASSIFICATION"),
    ({"fixed_embed_length": True, "max_seq_len": None}, "-fixed_embed_length is for -pooling_strategy NONE with"),
    ({"fixed_embed_length": True, "pooling_strategy": PoolingStrategy.NONE}, "-fixed_embed_length is for"),
])
def test_options_that_do_not_go_with_the_model(tiny_dir, options, message):
    refuse(ConfigError, message, model_dir=str(tiny_dir), **options)


@pytest.mark.parametrize("given, layer", [(0, 0), (1, 1), (-3, 0), (-1, 2), (2, 2)])
def test_a_layer_counts_from_the_start_or_from_the_end(tiny_dir, given, layer):
    model = resolve(ServerConfig(model_dir=str(tiny_dir), pooling_layer=[given]))
    assert model.layers_kept == layer + 1 and model.spec.layer_index(given) == layer


@pytest.mark.parametrize("given", [None, -1, 2])
def test_a_pooler_reads_the_last_layer(tiny_dir, given):
    options = {} if given is None else {"pooling_layer": [given]}
    model = resolve(ServerConfig(model_dir=str(tiny_dir), pooling_strategy=PoolingStrategy.CLS_POOLED, **options))
    assert model.config.pooling_layer == [given or -1] and model.layers_kept == 3
    again = ServerConfig.from_the_model(model.config.of_the_model("auto"))
    assert resolve(again).settings == model.settings, "another host takes what was decided here"


@pytest.mark.parametrize("options, message", [
    ({"config_name": "nope"}, "-config_name nope: .* has no such file, and holds config.json, model.safetensors, "),
    ({"config_name": "bert_config.json"}, "-config_name bert_config.json: .* has no such file"),
    ({"ckpt_name": "nope"}, "-ckpt_name nope: there is no checkpoint .*; .* holds config.json, model.safetensors, "),
    ({"ckpt_name": "bert_model.ckpt"}, "-ckpt_name bert_model.ckpt: there is no checkpoint"),
    ({"ckpt_name": "nope.safetensors"}, "-ckpt_name nope.safetensors: .* has no such file, and holds config.json"),
])
def test_a_file_that_is_named_and_not_there(tiny_dir, options, message):
    refuse(ModelError, message, model_dir=str(tiny_dir), **options)


def test_files_that_are_named(tiny, tiny_dir, tmp_path):
    tiny().write_tensorflow(tmp_path)
    for directory, names in ((tiny_dir, ("config.json", "model.safetensors")),
                             (tmp_path, ("bert_config.json", "bert_model.ckpt"))):
        for options in ({}, dict(zip(("config_name", "ckpt_name"), names))):
            files = find(directory, ServerConfig(**options))
            assert (files.config_file.name, files.checkpoint.name) == names


def test_another_host_may_have_the_files_in_another_format(tiny, tiny_dir, tmp_path):
    tiny().write_tensorflow(tmp_path)
    sent = resolve(ServerConfig(model_dir=str(tiny_dir))).config.of_the_model("auto")
    there = resolve(ServerConfig.from_the_model(sent, model_dir=str(tmp_path)))
    assert there.settings.checkpoint == str(tmp_path / "bert_model.ckpt")


def test_the_layer_of_a_model_that_has_but_one(tiny, tmp_path):
    tiny(num_hidden_layers=1).write_hugging_face(tmp_path)
    model = resolve(ServerConfig(model_dir=str(tmp_path)))
    assert (model.config.pooling_layer, model.provenance["pooling_layer"]) == ([-1], "the only one")
    refuse(ConfigError, "-pooling_layer -2 does not exist", model_dir=str(tmp_path), pooling_layer=[-2])


@pytest.mark.parametrize("path, message", [
    ("nowhere", "-model_dir .*nowhere: there is no such directory, nor a model of that name"),
    ("a/file", "-model_dir .*file is a file, expected a directory"),
    ("empty", r"has neither bert_config.json \(Google's format\) nor config.json .*; it holds nothing"),
])
def test_directories_that_are_none(tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    refuse(ModelError, message, model_dir=str(tmp_path / path))


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def huge(path):
    with open(path, "wb") as file:
        file.truncate(100_000_001)  # takes no room


def huge_tokenizer(path):
    path.write_text('{"version": "1.0"}')
    os.truncate(path, 200_000_000)


def only(directory, name):
    for path in list(directory.iterdir()):
        path.unlink()
    (directory / name).touch()


def pipe(path):
    os.mkfifo(path)


def nested(path):
    path.parent.mkdir(exist_ok=True)
    path.write_text('[{"a":' * 50_000)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def adapter_alone(directory):
    for path in list(directory.iterdir()):
        path.unlink()
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')


def into(directory, folder):
    files = list(directory.iterdir())
    folder.mkdir(parents=True)
    for path in files:
        path.rename(folder / path.name)


@pytest.mark.parametrize("spoil, message", [
    (lambda d: (d / "vocab.txt").unlink(), "has neither tokenizer.json nor vocab.txt; it holds config.json, model.saf"),
    (lambda d: (d / "vocab.txt").write_text("a\nb\n"), r"vocab.txt lacks \[CLS\], \[SEP\], \[UNK\]"),
    (lambda d: (d / "vocab.txt").write_text((d / "vocab.txt").read_text() + "one\nmore\n"),
     "vocab.txt has ids up to 17, but the model's vocab_size is 16; it is another model's vocabulary"),
    (lambda d: (d / "config.json").write_text("{"), "config.json is not JSON"),
    (lambda d: (d / "config.json").write_text("[" * 100_000), "config.json is not JSON: it is nested too deeply"),
    (lambda d: change(d / "config.json", num_hidden_layers=10 ** 12), "num_hidden_layers is 1000000000000, expected"),
    (lambda d: change(d / "config.json", hidden_size=2 ** 40), "hidden_size is 1099511627776, expected 100000 at most"),
    (lambda d: change(d / "config.json", vocab_size=2 ** 62), "vocab_size is .*, expected 10000000 at most"),
    (lambda d: change(d / "config.json", max_position_embeddings=1e300),
     "max_position_embeddings is above 1e.30, which no model needs"),
    (lambda d: change(d / "config.json", num_attention_heads=-1), "num_attention_heads is -1, expected a number above"),
    (lambda d: change(d / "config.json", intermediate_size="3072"), "intermediate_size is '3072', expected a number"),
    (lambda d: change(d / "config.json", vocab_size=float("nan")), "vocab_size is nan, expected a number above 0"),
    (lambda d: change(d / "config.json", hidden_size="x" * 9999), "hidden_size is 'x{99}, expected a number"),
    (lambda d: change(d / "config.json", position_embedding_type=["x"] * 9999), "is .{100}, expected 'absolute'$"),
    (lambda d: change(d / "config.json", model_type=None), "model_type is null, expected one of bert, albert, "),
    (lambda d: change(d / "config.json", model_type="x\n" * 9999), r"model_type is '(x.n){33}; this server computes "),
    (lambda d: change(d / "config.json", model_type="gpt2"), "model_type is 'gpt2'; this server computes bert, albert"),
    (lambda d: change(d / "config.json", model_type="vit"), "model_type is 'vit'; this server computes bert, albert"),
    (lambda d: change(d / "config.json", is_decoder=True), "is_decoder is true, expected false"),
    (lambda d: change(d / "config.json", architectures=["HF_ColBERT"]), "architectures names the class 'HF_ColBERT', "),
    (lambda d: change(d / "config.json", auto_map={"AutoModel": "x.Y"}), "auto_map names code of the model's own,"),
    (lambda d: change(d / "config.json", auto_map={"AutoTokenizer": ["x.Y", None]}), "auto_map: the tokenizer is code"),
    (lambda d: huge_tokenizer(d / "tokenizer.json"), "tokenizer.json has 200.0 MB, a tokenizer at most 48"),
    (lambda d: only(d, "saved_model.pb"), "saved_model.pb .a TensorFlow SavedModel. is not supported: save the "),
    (lambda d: only(d, "model.gguf"), "it holds model.gguf; model.gguf .GGUF. is not supported: save the model with"),
    (lambda d: (d / "vocab.txt").write_bytes(b"\x80\x81" * 1000), "vocab.txt is not UTF-8 text"),
    (lambda d: (d / "vocab.txt").write_bytes(b"\0" * 1_000_000), r"vocab.txt lacks \[CLS\]"),
    (lambda d: (d / "vocab.txt").write_text("[CLS]\n[SEP]\n[UNK]\n" + "a" * 5_000_000 + "\n" * 99 + "b"), "up to 102"),
    (lambda d: (d / "vocab.txt").write_text("[CLS]\n[SEP]\n[UNK]\n" + "a\n" * 1000), "up to 1002"),
    (lambda d: huge(d / "vocab.txt"), "cannot read the vocabulary .*more than 100 MB"),
    (lambda d: pipe(d / "sentence_bert_config.json"), "cannot read .*sentence_bert_config.json: .*no regular file"),
    (lambda d: (d / "sentence_bert_config.json").write_text('{"max_seq_length": -5}'), "_length of .* is -5, ex"),
    (lambda d: (d / "sentence_bert_config.json").write_text('{"max_seq_length": "9"}'), "_length of .* is '9', e"),
    (lambda d: (d / "sentence_bert_config.json").write_text('{"max_seq_length": NaN}'), "_length of .* is nan, e"),
    (lambda d: nested(d / "1_Pooling" / "config.json"), "cannot read .*1_Pooling/config.json: it is nested too deeply"),
    (lambda d: nested(d / "modules.json"), "cannot read .*modules.json: it is nested too deeply"),
    (lambda d: (d / "model.safetensors").unlink(), "no model.safetensors or pytorch_model.bin; it holds config.json"),
    (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "is safetensors, not torch's; name it model"),
    (lambda d: (d / "model.safetensors").rename(d / "model.safetensors.index.json"), "cannot read the weights .*index"),
    (lambda d: (d / "config.json").write_text(POINTER), "config.json is a Git LFS pointer, not the file itself; run"),
    (lambda d: (d / "vocab.txt").write_text(POINTER), "vocab.txt is a Git LFS pointer, not the file itself; run"),
    (lambda d: (d / "tokenizer.json").write_text(POINTER), "tokenizer.json is a Git LFS pointer, not the file itself"),
    (lambda d: (d / "model.safetensors").write_text(POINTER), "model.safetensors is a Git LFS pointer, not the file"),
    (lambda d: (d / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}'),
     "is an adapter for some/base, no model; merge the two"),
    (lambda d: adapter_alone(d), "is an adapter for some/base, no model; merge the two"),
    (lambda d: into(d, d / "inner"), r"has neither bert_config.json .*; it holds inner; give /.*/inner$"),
    (lambda d: into(d, d / "snapshots" / "abc"), r"has neither bert_config.json .*; give /.*/snapshots/abc$"),
    (lambda d: (d / "model.safetensors").write_bytes(b"x"), "cannot read the weights"),
    (lambda d: (d / "tokenizer_config.json").write_text("["), "cannot read .*tokenizer_config.json"),
    (lambda d: (d / "tokenizer_config.json").write_text("[]"), "tokenizer_config.json is not a JSON object"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_broken_directories_are_refused_at_once(tiny, tmp_path, spoil, message):
    spoil(tiny().write_hugging_face(tmp_path))
    refuse(ModelError, message, model_dir=str(tmp_path))


def test_safetensors_are_checked_at_once(tiny, tmp_path):
    model = tiny()
    del model.weights["bert/encoder/layer_2/output/dense/bias"]
    refuse(ModelError, "lacks encoder.layer.2.output.dense.bias",
           model_dir=str(model.write_hugging_face(tmp_path)))


def test_a_missing_fine_tuned_checkpoint(tiny_dir, tmp_path):
    refuse(ModelError, "-tuned_model_dir /no/where: there is no such directory", model_dir=str(tiny_dir),
           tuned_model_dir="/no/where")
    (tmp_path / "model.ckpt-100.index").touch()
    refuse(ModelError, r"no checkpoint .*model.ckpt-343 .*; .* holds model.ckpt-100.index", model_dir=str(tiny_dir),
           tuned_model_dir=str(tmp_path), ckpt_name="model.ckpt-343")


def test_labels_are_checked_at_once(tiny, tmp_path):
    directory = str(tiny(num_labels=5).write_hugging_face(tmp_path))
    refuse(ModelError, "has 5 classes; give -num_labels 5", model_dir=directory,
           pooling_strategy=PoolingStrategy.CLASSIFICATION)


def with_rows(tiny, path, tokens, rows):
    """A model of so many rows of word embeddings, and a vocabulary of so many tokens."""
    model = tiny(words=[*tiny().words, *map(str, range(rows - 16))])
    directory = model.write_hugging_face(path)
    (directory / "vocab.txt").write_text("\n".join(model.words[:tokens]))
    return str(directory)


@pytest.mark.parametrize("tokens, rows, is_said", [(16, 80, False), (1000, 1064, False), (1000, 1065, True)])
def test_a_vocabulary_smaller_than_the_model(tiny, tmp_path, caplog, tokens, rows, is_said):
    """A few rows more are padding, as many published models have."""
    resolve(ServerConfig(model_dir=with_rows(tiny, tmp_path, tokens, rows)))
    said = f"has {tokens} tokens, the model's vocab_size is {rows}; check that it is this model's tokenizer"
    assert (said in caplog.text) is is_said


def test_a_vocabulary_of_another_model(tiny, tmp_path):
    refuse(ModelError, "vocab.txt has 16 tokens, but the model's vocab_size is 81; it is another model's tokenizer",
           model_dir=with_rows(tiny, tmp_path, 16, 81))


def test_empty_lines_at_the_end_of_a_vocabulary_are_no_tokens(tiny, tmp_path):
    directory = tiny().write_hugging_face(tmp_path)
    (directory / "vocab.txt").write_text((directory / "vocab.txt").read_text() + "\n \n")
    resolve(ServerConfig(model_dir=str(directory)))


# ---- names -----------------------------------------------------------------------------------------------------------

def test_without_a_directory_it_is_the_default_model(tiny_dir, monkeypatch):
    asked = []
    monkeypatch.setattr(library, "get", lambda name: asked.append(name) or tiny_dir)
    assert resolve(ServerConfig()).name == "all-MiniLM-L6-v2"
    resolve(ServerConfig(model_dir="minilm"))
    resolve(ServerConfig(model_dir="organisation/some-model.v2"))
    assert asked == ["all-MiniLM-L6-v2", "minilm", "organisation/some-model.v2"]


def test_a_directory_wins_over_a_name(tiny, tmp_path, monkeypatch):
    tiny().write_hugging_face(tmp_path / "minilm")
    monkeypatch.chdir(tmp_path)
    assert resolve(ServerConfig(model_dir="minilm")).path == tmp_path / "minilm"


# ---- without a model -------------------------------------------------------------------------------------------------

def test_echo():
    model = resolve(ServerConfig(engine="echo"))
    assert (model.name, model.path, decided(model)) == ("echo", None, (25, True, [-2], "REDUCE_MEAN"))
    assert backends.create(model.settings).describe().startswith("no model")
    refuse(ConfigError, "-pooling_layer -13 does not exist in a model of 12 layers", engine="echo", pooling_layer=[-13])
    refuse(ConfigError, "-max_seq_len 513 is beyond", engine="echo", max_seq_len=513)


def test_echo_with_a_models_vocabulary(tiny_dir):
    model = resolve(ServerConfig(engine="echo", model_dir=str(tiny_dir)))
    features, = base.features(["unwanted"], base.create_tokenizer(model.settings), model.settings)
    assert features.tokens == ["[CLS]", "un", "##want", "##ed", "[SEP]"]
    assert backends.create(model.settings).encode([features]).shape == (1, 32)


def test_resolving_does_without_tensorflow(tiny_dir):
    code = ("import sys\nsys.modules['tensorflow'] = None\n"
            "from bert_serving.server.config import ServerConfig\n"
            "from bert_serving.server.engine.models import resolve\n"
            "resolve(ServerConfig(model_dir=sys.argv[1]))\n")
    subprocess.run([sys.executable, "-c", code, str(tiny_dir)], check=True)


# ---- which engine ----------------------------------------------------------------------------------------------------

UNFIT = "native cannot be used: NATIVE_BUILD is none"
OURS = ("native", "our own, on CPUs with AVX-512 or AMX")


@pytest.mark.parametrize("options, on_gpu, without, found", [
    ({}, False, ("lite", UNFIT), OURS), ({"precision": "fp32"}, False, ("lite", UNFIT), OURS),
    ({"precision": "int8"}, False, ("lite", UNFIT), OURS),
    ({"precision": "bf16"}, False, ("graph", f"{UNFIT}; lite has no -precision bf16"), OURS),
    ({}, True, ("graph", "native is for CPUs; lite is for CPUs"), None),
    ({"xla": True}, False, ("graph", "native does without -xla; lite does without -xla"), None),
    ({"fp16": True}, False, ("graph", "native has no -precision fp16; lite has no -precision fp16"), None)], ids=str)
def test_engine_auto(tiny_dir, has_native, options, on_gpu, without, found):
    engine, reason = found if has_native and found else without
    model = resolve(ServerConfig(model_dir=str(tiny_dir), engine="auto", **options), on_gpu)
    assert (model.settings.engine, model.engine_reason) == (engine, reason)
    assert model.config.engine == engine
    assert model.settings.precision == model.config.precision == (options.get("precision") or (
        "fp16" if options.get("fp16") else "fp32"))


@pytest.mark.parametrize("engine", ["native", "lite", "graph", "echo"])
def test_an_engine_that_is_given(tiny_dir, has_native, engine):
    model = resolve(ServerConfig(model_dir=str(tiny_dir), engine=engine), on_gpu=engine in ("graph", "echo"))
    assert (model.settings.engine, model.engine_reason) == (engine, "given")


def test_engine_auto_without_litert(tiny_dir, native_build, monkeypatch):
    native_build("none")
    monkeypatch.setattr(backends.backend("lite"), "missing", lambda: "cannot be used: install ai-edge-litert")
    model = resolve(ServerConfig(model_dir=str(tiny_dir), engine="auto"))
    assert model.settings.engine == "graph" and "ai-edge-litert" in model.engine_reason
