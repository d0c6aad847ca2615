"""What is read of sentence-transformers' files: against directories that it saved, and against hand-made ones.

What is expected of hand-made directories was seen with sentence-transformers 6.2 or stands in its source.
"""
import itertools
import json
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert_serving.server.config import PoolingStrategy as P
from bert_serving.server.engine import modules
from bert_serving.server.engine.pipeline import Dense, LayerNorm, Normalize, Pipeline, Truncate, output_dimensions
from bert_serving.server.engine.pooling import pool
from bert_serving.server.errors import ModelError

MEAN = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True}
CLS = {"word_embedding_dimension": 8, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
DENSE = {"in_features": 8, "out_features": 4, "bias": True,
         "activation_function": "torch.nn.modules.activation.Tanh"}
NEW = {"Transformer": "base.modules.transformer", "Pooling": "sentence_transformer.modules.pooling",
       "Normalize": "base.modules.normalize"}


NUMBERS = itertools.count()


def listed(*kinds, new=False):
    """modules.json of "Kind:folder"."""
    def dotted(kind):
        return f"sentence_transformers.{NEW[kind] if new else 'models'}.{kind}"
    return [{"name": str(next(NUMBERS)), "path": kind.partition(":")[2], "type": dotted(kind.partition(":")[0])}
            for kind in kinds]


BOTH = listed("Transformer:", "Pooling:1_Pooling")


@pytest.fixture
def write(tmp_path):
    """Writes a directory: path -> JSON, or text as it is. By default the modules are Transformer and Pooling."""
    def write_all(files=(), **named):
        files = {"modules.json": BOTH, "1_Pooling/config.json": MEAN, **dict(files)}
        for name, content in files.items():
            if content is not None:
                path = tmp_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path
    return write_all


def refuses(directory, message, **how):
    with pytest.raises(ModelError, match=message) as caught:
        modules.read(directory, **how)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500 + len(str(directory))


# ---- directories that sentence-transformers saved --------------------------------------------------------------------

SAVED = {
    "bert-gelu-new": ((P.CLS_TOKEN,), [], {}),
    "bert-instructor": ((P.REDUCE_MAX, P.REDUCE_MEAN), [], {"title": "Represent the news title: "}),
    "bert-unigram": ((P.REDUCE_MEAN,), ["Normalize"], {"query": "query: ", "passage": "passage: "}),
    "distilbert": ((P.REDUCE_MEAN,), ["Dense(40, Tanh)"], {}),
    "gemma3_text": ((P.REDUCE_MEAN,), ["Dense(96, Identity)", "Dense(48, Identity)", "Normalize"], {
        "document": "title: none | text: ", "query": "task: search result | query: "}),
    "qwen3": ((P.LAST_TOKEN,), ["Normalize"], {
        "query": "Instruct: Given a question, find the passage that answers it\nQuery:"}),
}


@pytest.mark.parametrize("name", SAVED)
def test_what_sentence_transformers_saved(name, golden):
    files = modules.read(golden / "architectures" / name)
    poolings, stages, prompts = SAVED[name]
    assert files.poolings == poolings and [str(stage) for stage in files.stages] == stages
    assert {key: text for key, text in files.prompts.items() if text} == prompts
    assert files.max_seq_length == 64 and files.model_type == "SentenceTransformer"
    assert files.default_prompt_name == ("passage" if name == "bert-unigram" else None)
    assert files.include_prompt is (name != "bert-instructor")
    assert not files.do_lower_case and files.static is None and files.directory == files.root


@pytest.mark.parametrize("name", SAVED)
def test_the_vectors_are_those_of_sentence_transformers(name, golden):
    files, arrays = modules.read(golden / "architectures" / name), np.load(golden / "pipelines.npz")
    hidden, cu_seqlens = arrays[f"{name}/hidden"], arrays[f"{name}/cu_seqlens"]
    pooled = pool(files.poolings, hidden, cu_seqlens, None)
    vectors, expected = Pipeline(files.stages)(pooled), arrays[f"{name}/pooled"]
    assert vectors.dtype == np.float32 and vectors.shape == expected.shape
    assert output_dimensions(files.stages, pooled.shape[1]) == vectors.shape[1]
    assert np.abs(vectors - expected).max() < 2e-6


def test_a_saved_cross_encoder(golden):
    files = modules.read(golden / "architectures" / "modernbert-rerank")
    assert (files.model_type, files.poolings, files.stages, files.max_seq_length) == ("CrossEncoder", (), (), 64)


@pytest.mark.parametrize("name", ["bert-classify", "bert-rerank"])
def test_a_directory_of_transformers_says_nothing(name, golden):
    root = golden / "architectures" / name
    assert modules.read(root) == modules.SentenceFiles(root=root, directory=root)


def test_every_fact_has_its_file(golden):
    assert modules.read(golden / "architectures" / "bert-unigram").sources == {
        "directory": "modules.json", "poolings": "1_Pooling/config.json", "include_prompt": "1_Pooling/config.json",
        "prompts": "config_sentence_transformers.json", "default_prompt_name": "config_sentence_transformers.json",
        "max_seq_length": "sentence_bert_config.json", "do_lower_case": "sentence_bert_config.json"}
    assert [stage.source for stage in modules.read(golden / "architectures" / "gemma3_text").stages] == [
        "2_Dense/config.json", "3_Dense/config.json", "modules.json"]


# ---- pooling ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("config, expected", [
    ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True},
     (P.CLS_TOKEN, P.REDUCE_MAX, P.REDUCE_MEAN)),
    ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, (P.REDUCE_MAX, P.REDUCE_MEAN)),
    ({"pooling_mode_lasttoken": True, "pooling_mode_weightedmean_tokens": True,
      "pooling_mode_mean_sqrt_len_tokens": True}, (P.REDUCE_MEAN_SQRT_LEN, P.WEIGHTED_MEAN, P.LAST_TOKEN)),
    ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": None}, (P.REDUCE_MEAN,)),
    ({}, (P.REDUCE_MEAN,)),
    ({"pooling_mode": "cls"}, (P.CLS_TOKEN,)),
    ({"pooling_mode": ["mean", "max"]}, (P.REDUCE_MEAN, P.REDUCE_MAX)),
    ({"pooling_mode": ["lasttoken", "cls"]}, (P.LAST_TOKEN, P.CLS_TOKEN)),
    ({"pooling_mode": ["weightedmean"]}, (P.WEIGHTED_MEAN,)),
    ({"pooling_mode": "mean_sqrt_len_tokens"}, (P.REDUCE_MEAN_SQRT_LEN,)),
    ({"pooling_mode": "max", "pooling_mode_cls_token": True}, (P.REDUCE_MAX,)),
])
def test_poolings_in_their_order(write, config, expected):
    """Booleans in the fixed order of old releases; a list in its own."""
    assert modules.read(write({"1_Pooling/config.json": {"embedding_dimension": 8, **config}})).poolings == expected


@pytest.mark.parametrize("config, message", [
    ({"pooling_mode": "median"}, "pooling_mode is 'median'; expected cls, max, mean, .* or lasttoken; or give -pool"),
    ({"pooling_mode": []}, r"pooling_mode is \[\]; expected cls"),
    ({"pooling_mode": None}, "pooling_mode is None"),
    ({"pooling_mode": ["mean", 3]}, "pooling_mode is .*3"),
    ({"pooling_mode": ["mean"] * 100000}, "names mean twice"),
    ({"pooling_mode_mean_tokens": "yes"}, "pooling_mode_mean_tokens is 'yes'; expected true or false"),
    ({"pooling_mode_median_tokens": True}, "sets 'pooling_mode_median_tokens' to True, which is not supported"),
    ({"include_prompt": 0}, "include_prompt is 0; expected true or false"),
])
def test_poolings_that_are_none(write, config, message):
    refuses(write({"1_Pooling/config.json": config}), r"1_Pooling/config\.json.*" + message)


def test_a_given_pooling_overrules(write):
    directory = write({"1_Pooling/config.json": {"pooling_mode": "median", "include_prompt": False}})
    files = modules.read(directory, pooling_given=True)
    assert files.poolings == () and not files.include_prompt
    assert modules.read(write({"modules.json": listed("Transformer:")}), pooling_given=True).poolings == ()


@pytest.mark.parametrize("kinds, config, expected", [
    (("Transformer:", "Pooling:pooling"), {"pooling/config.json": CLS}, P.CLS_TOKEN),
    (("Transformer:", "Pooling:2_Pooling"), {"2_Pooling/config.json": MEAN, "1_Pooling/config.json": CLS},
     P.REDUCE_MEAN),
])
@pytest.mark.parametrize("new", [False, True])
def test_folders_are_those_of_modules_json(write, kinds, config, expected, new):
    """Fault 6 of the survey of directories: a pooling elsewhere, and a stale one."""
    files = modules.read(write({"modules.json": listed(*kinds, new=new), **config}))
    assert files.poolings == (expected,) and files.sources["poolings"] == next(iter(config))


def test_a_pooling_that_nothing_lists_counts(write):
    files = modules.read(write({"modules.json": None, "1_Pooling/config.json": CLS}))
    assert files.poolings == (P.CLS_TOKEN,) and files.sources["poolings"] == "1_Pooling/config.json"


def test_prompts_out_of_the_pooling(write):
    no_prompt = {**MEAN, "include_prompt": False}
    prompts = {"config_sentence_transformers.json": {"prompts": {"query": "query: "}}}
    assert not modules.read(write({"1_Pooling/config.json": no_prompt, **prompts})).include_prompt
    refuses(write({"1_Pooling/config.json": {**CLS, "include_prompt": False}, **prompts}),
            "cls pooling and include_prompt false")


# ---- further modules -------------------------------------------------------------------------------------------------

@pytest.fixture
def with_stage(write):
    """A directory with one more module, and its files."""
    def write_it(kind, config, weights="model.safetensors"):
        return write({"modules.json": [*BOTH, *listed(f"{kind}:2_{kind}")], f"2_{kind}/config.json": config,
                      **({f"2_{kind}/{weights}": "weights"} if weights else {})})
    return write_it


def test_dense(with_stage, tmp_path):
    """Fault 2: its dimensions are those that come out."""
    stage, = modules.read(with_stage("Dense", DENSE)).stages
    assert stage == Dense(weights=str(tmp_path / "2_Dense" / "model.safetensors"), in_features=8, out_features=4,
                          activation="Tanh", source="2_Dense/config.json")
    assert output_dimensions([stage], 8) == 4


@pytest.mark.parametrize("change, expected", [
    ({"activation_function": "torch.nn.modules.linear.Identity", "bias": False}, ("Identity", False, False)),
    ({"activation_function": "torch.nn.GELU"}, ("GELU", True, False)),
    ({"use_residual": True, "module_input_name": "sentence_embedding"}, ("Tanh", True, True)),
])
def test_settings_of_dense(with_stage, change, expected):
    stage, = modules.read(with_stage("Dense", {**DENSE, **change})).stages
    assert (stage.activation, stage.bias, stage.residual) == expected


def test_dense_defaults_to_tanh(with_stage):
    stage, = modules.read(with_stage("Dense", {"in_features": 8, "out_features": 4})).stages
    assert (stage.activation, stage.bias) == ("Tanh", True)


def test_weights_of_older_releases(with_stage):
    stage, = modules.read(with_stage("Dense", DENSE, "pytorch_model.bin")).stages
    assert stage.weights.endswith("2_Dense/pytorch_model.bin")


def test_layer_norm(with_stage, tmp_path):
    stage, = modules.read(with_stage("LayerNorm", {"dimension": 8})).stages
    assert stage == LayerNorm(weights=str(tmp_path / "2_LayerNorm" / "model.safetensors"), dimension=8,
                              source="2_LayerNorm/config.json")


def test_normalize_needs_no_folder_and_dropout_does_nothing(write):
    files = modules.read(write({"modules.json": [*BOTH, *listed("Normalize:2_Normalize", "Dropout:3_Dropout")]}))
    assert files.stages == (Normalize(source="modules.json"),)


@pytest.mark.parametrize("change, message", [
    ({"activation_function": "custom.Swish"}, "activation_function is 'custom.Swish'; expected torch.nn's Identity, T"),
    ({"activation_function": "torch.nn.modules.activation.PReLU"}, "activation_function is .*PReLU'; expected"),
    ({"activation_function": "torch.load"}, "activation_function is 'torch.load'; expected"),
    ({"activation_function": None}, "activation_function is None; expected the name"),
    ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'; expected sentence_embedding"),
    ({"module_output_name": "scores"}, "module_output_name is 'scores'; expected sentence_embedding"),
    ({"in_features": 10**12}, "in_features is 10+; expected a whole number from 1 to 65536"),
    ({"out_features": 0}, "out_features is 0; expected a whole number"),
    ({"out_features": True}, "out_features is True"),
    ({"bias": "no"}, "bias is 'no'; expected true or false"),
    ({"rank": 4}, "sets 'rank' to 4, which is not supported"),
])
def test_a_dense_that_is_not_computed(with_stage, change, message):
    refuses(with_stage("Dense", {**DENSE, **change}), r"2_Dense/config\.json.*" + message)


def test_missing_files_of_a_module(with_stage, write):
    refuses(with_stage("Dense", DENSE, None), "Dense: .*2_Dense has no model.safetensors; fetch the directory again")
    refuses(write({"modules.json": listed("Transformer:", "Pooling:9_Pooling")}),
            "modules.json: Pooling is in '9_Pooling', and there is no .*9_Pooling/config.json")
    refuses(write({"modules.json": listed("Transformer:0_Transformer", "Pooling:1_Pooling")}),
            "Transformer is in '0_Transformer', and there is no such folder")
    refuses(write({"modules.json": listed("Transformer:", "Pooling:"), "config.json": MEAN}),
            "Pooling is in the model's own directory, whose config.json is the encoder's")


@pytest.mark.parametrize("kinds, message", [
    (("Pooling:1_Pooling", "Transformer:"), "Pooling is listed before Transformer"),
    (("Transformer:", "Transformer:"), "Transformer is listed after another encoder"),
    (("Transformer:", "StaticEmbedding:"), "StaticEmbedding is listed after another encoder"),
    (("Transformer:", "Pooling:1_Pooling", "Pooling:1_Pooling"), "Pooling is listed after pooling is done; expected"),
    (("Transformer:", "Normalize:2_Normalize", "Pooling:1_Pooling"), "Normalize is listed before Pooling"),
    (("Transformer:",), "lists no Pooling, .*; give -pooling_strategy"),
    (("Normalize:1",), "Normalize is listed before Transformer"),
    (("Transformer:", "Asym:1_Asym"), r"lists 'Asym' \(different modules .*\), which is not computed here"),
    (("Router:",), "lists 'Router'"),
    (("Transformer:", "WeightedLayerPooling:1"), "lists 'WeightedLayerPooling' .a learned sum of the encoder's layers"),
    (("Transformer:", "SpladePooling:1"), "lists 'SpladePooling' .sparse vectors"),
    (("BERT:0_BERT", "Pooling:1_Pooling"), "lists 'BERT' .a module of releases before 1.0"),
    (("Transformer:", "CNN:1_CNN"), "lists 'CNN', which is not computed here; supported are Transformer, Pooling"),
    (("WordEmbeddings:0",), "lists 'WordEmbeddings'"), (("BoW:0",), "lists 'BoW'"), (("CLIPModel:",), "of images"),
    (("Transformer:", "LSTM:1"), "lists 'LSTM'"), (("Transformer:", "WordWeights:1"), "lists 'WordWeights'"),
    (("Transformer:", "Quantum:1"), "lists 'Quantum', which"),
])
def test_modules_that_do_not_make_a_pipeline(write, kinds, message):
    refuses(write({"modules.json": listed(*kinds)}), r"modules\.json.*" + message)


@pytest.mark.parametrize("entries, message", [
    ([], "lists 0 modules; expected 1 to 64"),
    (BOTH * 100, "lists 200 modules"),
    ([7], "entry 0 is no module; expected an object with type and path"),
    ([{"path": ""}], "entry 0 is no module"),
    ([{"type": ["x"], "path": ""}], "entry 0 is no module"),
    ([*BOTH, {**BOTH[1], "path": "2"}], r"entry 2 has the name '\d+'; expected one of its own"),
    ([{"type": "custom_st.Transformer", "path": ""}], "'custom_st.Transformer', which is code of the model's own"),
    ([{"type": "pylate.models.Dense.Dense", "path": ""}], "code of the model's own, and no model's code is run here"),
    ([{"type": "sentence_transformersx.Pooling", "path": ""}], "code of the model's own"),
    ([{"type": "Pooling", "path": ""}], "code of the model's own"),
    ([{"type": "sentence_transformers.models.Transformer", "path": 7}], "a path is 7; expected a string"),
    ({"0": BOTH[0]}, "is not a JSON array"),
    ("[" * 100000, "cannot read .*modules.json: it is nested too deeply"),
    ("[1", "cannot read .*modules.json"),
    ("[" + "1" * 10000 + "]", "cannot read .*modules.json"),
    (" " * 1_000_001, r"modules.json has 1\.0 MB; expected at most 1"),
])
def test_a_damaged_list(write, entries, message):
    refuses(write({"modules.json": entries}), message)


@pytest.mark.parametrize("folder", ["..", "../other", "a/../../b", "/etc", "C:\\x", "..\\x", "a\0b", "x" * 5000, "out"])
def test_no_folder_leaves_the_directory(write, tmp_path_factory, folder):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "config.json").write_text(json.dumps(MEAN))
    directory = write({"modules.json": listed("Transformer:", f"Pooling:{folder}")})
    (directory / "out").symlink_to(outside)
    refuses(directory, "the path .* is not in the model's directory; expected a folder there")


def test_files_may_be_links_as_in_the_hubs_cache(write, tmp_path_factory):
    blob = tmp_path_factory.mktemp("blobs") / "0123"
    blob.write_text(json.dumps(CLS))
    directory = write({"1_Pooling/config.json": None})
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").symlink_to(blob)
    assert modules.read(directory).poolings == (P.CLS_TOKEN,)


def test_a_static_model(write):
    entries = listed("StaticEmbedding:0_StaticEmbedding", "Normalize:1_Normalize")
    directory = write({"modules.json": entries, "0_StaticEmbedding/tokenizer.json": {}})
    files = modules.read(directory)
    assert files.static == directory / "0_StaticEmbedding" and files.poolings == ()
    assert files.stages == (Normalize(source="modules.json"),)
    assert modules.read(write({"modules.json": listed("StaticEmbedding:.")})).static == directory


# ---- prompts, dimensions, type ---------------------------------------------------------------------------------------

def test_default_prompt(write):
    """Fault 3."""
    files = modules.read(write({"config_sentence_transformers.json": {
        "prompts": {"query": "query: ", "none": None}, "default_prompt_name": "query"}}))
    assert files.default_prompt_name == "query" and files.prompts == {"query": "query: ", "none": ""}
    files = modules.read(write({"config_sentence_transformers.json": {"prompts": {"query": "query: "}}}))
    assert files.default_prompt_name is None


def test_truncate_dim(write):
    """Fault 3: after everything else, so that a unit vector does not stay one; as encode() does it."""
    files = modules.read(write({"config_sentence_transformers.json": {"truncate_dim": 3},
                                "modules.json": [*BOTH, *listed("Normalize:2_Normalize")]}))
    assert files.truncate_dim == 3 and [str(stage) for stage in files.stages] == ["Normalize", "Truncate(3)"]
    assert files.stages[-1] == Truncate(size=3, source="config_sentence_transformers.json")
    assert output_dimensions(files.stages, 8) == 3 and output_dimensions(files.stages, 2) == 2


@pytest.mark.parametrize("config, message", [
    ({"model_type": "SparseEncoder"}, r"'SparseEncoder' \(SPLADE: sparse vectors\), which is not computed here; exp"),
    ({"model_type": "MultiVectorEncoder"}, r"'MultiVectorEncoder' \(ColBERT: a vector per token\)"),
    ({"model_type": ["x"]}, "model_type is "),
    ({"truncate_dim": -1}, "truncate_dim is -1; expected a whole number from 1"),
    ({"truncate_dim": 1.5}, "truncate_dim is 1.5"),
    ({"truncate_dim": True}, "truncate_dim is True"),
    ({"default_prompt_name": "query"}, "default_prompt_name is 'query'; expected one of prompts, which are none"),
    ({"default_prompt_name": ["q"], "prompts": {"a": "b"}}, "expected one of prompts, which are a"),
    ({"prompts": ["query: "]}, "prompts is .*; expected an object of strings"),
    ({"prompts": {"query": 5}}, "the prompt 'query' is 5; expected a text"),
    ({"prompts": {"query": "x" * 70000}}, "the prompt 'query' is 'xxx.*; expected a text of at most 65536"),
    ({"prompts": {"query": "\ud800"}}, "the prompt 'query' is .*; expected a text"),
    ([], "is not a JSON object"),
])
def test_what_the_model_config_may_not_say(write, config, message):
    refuses(write({"config_sentence_transformers.json": config}), r"config_sentence_transformers\.json.*" + message)


def test_a_cross_encoder_has_no_pooling(write):
    config = {"config_sentence_transformers.json": {"model_type": "CrossEncoder"}}
    assert modules.read(write({"modules.json": listed("Transformer:"), **config})).model_type == "CrossEncoder"
    assert modules.read(write({"modules.json": None, **config})).poolings == ()
    refuses(write(config), "Pooling is listed for a CrossEncoder")
    refuses(write({"modules.json": listed("Transformer:"), "sentence_bert_config.json": {
        "transformer_task": "text-generation"}, **config}),
            "transformer_task is 'text-generation'; expected sequence-classification")


# ---- the Transformer's own file --------------------------------------------------------------------------------------

@pytest.mark.parametrize("files, expected, source", [
    ({"sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": False}}, 128, "sentence_bert_config.json"),
    ({"sentence_bert_config.json": {"max_seq_length": None}, "tokenizer_config.json": {"model_max_length": 99}}, 99,
     "tokenizer_config.json"),
    ({"tokenizer_config.json": {"model_max_length": 1e30}}, None, None),
    ({"tokenizer_config.json": {"model_max_length": 1000000000000000019884624838656}}, None, None),
    ({}, None, None),
    ({"sentence_bert_config.json": {}, "sentence_xlnet_config.json": {"max_seq_length": 7}}, 7,
     "sentence_xlnet_config.json"),
    ({"sentence_bert_config.json": {"max_seq_length": 128, "tokenizer_args": {"model_max_length": 32}}}, 32,
     "sentence_bert_config.json"),
    *[({f"sentence_{name}_config.json": {"max_seq_length": 50}}, 50, f"sentence_{name}_config.json")
      for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")],
])
def test_length(write, files, expected, source):
    """Fault 7: a directory that states no length gets all positions, which is None here."""
    read = modules.read(write(files))
    assert read.model_type == "SentenceTransformer"
    assert read.max_seq_length == expected and read.sources.get("max_seq_length") == source


def test_the_transformers_folder_comes_first(write):
    entries = {"modules.json": listed("Transformer:0_Transformer", "Pooling:1_Pooling"),
               "0_Transformer/config.json": {}, "sentence_bert_config.json": {"max_seq_length": 11}}
    files = modules.read(write(entries))
    assert files.directory == files.root / "0_Transformer" and files.max_seq_length == 11
    files = modules.read(write({**entries, "0_Transformer/sentence_bert_config.json": {"max_seq_length": 22}}))
    assert files.max_seq_length == 22
    assert files.sources["max_seq_length"] == "0_Transformer/sentence_bert_config.json"


def test_lower_casing(write):
    assert modules.read(write({"sentence_bert_config.json": {"do_lower_case": True}})).do_lower_case


def test_what_today_writes_of_a_transformer(write):
    text = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    config = {"transformer_task": "feature-extraction", "modality_config": text, "unpad_inputs": True,
              "module_output_name": "token_embeddings", "model_args": {"dtype": "bfloat16"}, "processing_kwargs": {}}
    assert modules.read(write({"sentence_bert_config.json": config})).poolings == (P.REDUCE_MEAN,)


@pytest.mark.parametrize("config, message", [
    ({"max_seq_length": 3}, "max_seq_length of .* is 3, expected a whole number above 3"),
    ({"max_seq_length": "512"}, "max_seq_length of .* is '512'"),
    ({"max_seq_length": True}, "max_seq_length of .* is True"),
    ({"do_lower_case": "yes"}, "config.json: do_lower_case is 'yes'; expected true or false"),
    ({"transformer_task": "fill-mask"}, "config.json: transformer_task is 'fill-mask'; expected feature-extraction"),
    ({"transformer_task": "sequence-classification"}, "expected feature-extraction"),
    ({"module_output_name": "sentence_embedding"}, "config.json: module_output_name is .*; expected token_embeddings"),
    ({"modality_config": {"image": {}}}, "config.json: modality_config is .*; expected an object with text"),
    ({"modality_config": {"text": {"method": "get_text_features", "method_output_name": "pooler_output"}}},
     "modality_config.text is .*; expected"),
    ({"model_args": {"is_decoder": True}}, "sets 'model_args.is_decoder' to True, which is not supported"),
    ({"config_kwargs": [1]}, "config_kwargs is .*; expected an object"),
    ({"query_length": 32}, "sets 'query_length' to 32"),
    ({"tokenizer_name_or_path": "bert-base-uncased"}, "sets 'tokenizer_name_or_path'"),
    ([1], "is not a JSON object"),
])
def test_what_a_transformer_may_not_say(write, config, message):
    refuses(write({"sentence_bert_config.json": config}), message)


def test_nan_is_no_length(write):
    refuses(write({"sentence_bert_config.json": '{"max_seq_length": NaN}'}), "is nan, expected a whole number")
    assert modules.read(write({"sentence_bert_config.json": '{"max_seq_length": Infinity}'})).max_seq_length == 1 << 30


# ---- strangers -------------------------------------------------------------------------------------------------------

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
                    max_leaves=6)
KEYS = st.sampled_from(["type", "path", "name", "pooling_mode", "include_prompt", "pooling_mode_mean_tokens", "prompts",
                        "default_prompt_name", "truncate_dim", "model_type", "max_seq_length", "do_lower_case",
                        "model_args", "modality_config", "transformer_task", "in_features", "activation_function"])
OBJECTS = st.dictionaries(KEYS, JSON | st.sampled_from(["mean", ["mean", "max"], "CrossEncoder"]), max_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(model=JSON | OBJECTS, sentence=JSON | OBJECTS, pooling=JSON | OBJECTS, entry=JSON | OBJECTS, hand=st.booleans())
def test_whatever_stands_in_the_files_is_read_or_refused(write, model, sentence, pooling, entry, hand):
    directory = write({"config_sentence_transformers.json": model, "sentence_bert_config.json": sentence,
                       "1_Pooling/config.json": pooling, "modules.json": [*BOTH, entry] if entry is not None else BOTH})
    try:
        files = modules.read(directory, pooling_given=hand)
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        assert files.default_prompt_name is None or files.default_prompt_name in files.prompts


def test_reading_needs_no_weights_library(write):
    """It is read before anything is decided, and the default model's start is not to pay for it."""
    import subprocess
    code = ("import sys; from pathlib import Path; from bert_serving.server.engine import modules, classifier; "
            f"modules.read(Path({str(write())!r})); "
            "assert not {'tensorflow', 'safetensors', 'torch'} & sys.modules.keys()")
    subprocess.run([sys.executable, "-c", code], check=True)
