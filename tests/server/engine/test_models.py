"""Which model is served, what its files decide, and what is refused with which words; no TensorFlow runs here."""
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from bert_serving.server.config import FromModel, PoolingStrategy, ServerConfig
from bert_serving.server.engine import backends, base, library
from bert_serving.server.engine.models import find, is_cased, resolve
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
        "pooling_layer": "1_Pooling/config.json", "pooling_strategy": "1_Pooling/config.json"}
    assert model.settings.pooling_layer == (-1,) and model.settings.pooling_strategy == "FIRST_TOKEN"


def test_what_the_user_says_wins(sentence_dir):
    model = resolve(ServerConfig(model_dir=str(sentence_dir), max_seq_len=None, do_lower_case=True, pooling_layer=[-3],
                                 pooling_strategy=PoolingStrategy.NONE))
    assert decided(model) == (None, True, [-3], "NONE")
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


@pytest.mark.parametrize("pooling", [{"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
                                     {"pooling_mode_weightedmean_tokens": True}, {"pooling_mode": "?"}])
def test_a_pooling_that_does_not_exist_here(sentence_dir, pooling, caplog):
    sidecar(sentence_dir, "1_Pooling/config.json", pooling)
    assert resolve(ServerConfig(model_dir=str(sentence_dir))).config.pooling_strategy.name == "REDUCE_MEAN"
    assert "asks for a pooling that does not exist here" in caplog.text


def test_the_older_layout_of_sentence_transformers(sentence_dir):
    folder = sentence_dir / "0_Transformer"
    folder.mkdir()
    for name in ("config.json", "vocab.txt", "model.safetensors", "sentence_bert_config.json", "tokenizer_config.json"):
        (sentence_dir / name).rename(folder / name)
    sidecar(sentence_dir, "modules.json", [{"type": "sentence_transformers.models.Transformer",
                                            "path": "0_Transformer"}])
    model = resolve(ServerConfig(model_dir=str(sentence_dir)))
    assert decided(model) == (33, False, [-1], "FIRST_TOKEN")
    assert model.settings.checkpoint == str(folder / "model.safetensors")


def test_modules_do_not_lead_out_of_the_directory(sentence_dir):
    sidecar(sentence_dir, "modules.json", [{"type": "x.Transformer", "path": "../../.."}])
    assert find(sentence_dir).directory == sentence_dir


def test_modules_that_are_not_computed_are_named(sentence_dir, caplog):
    sidecar(sentence_dir, "modules.json", [{"type": "sentence_transformers.models." + name, "path": ""}
                                           for name in ("Transformer", "Pooling", "Dense", "Normalize")])
    resolve(ServerConfig(model_dir=str(sentence_dir)))
    assert "lists Dense, which this server does not compute" in caplog.text


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


def test_a_pooler_does_not_care_about_the_default_layer(tiny, tmp_path):
    tiny(num_hidden_layers=1).write_hugging_face(tmp_path)
    refuse(ConfigError, "-pooling_layer -2 does not exist", model_dir=str(tmp_path))
    model = resolve(ServerConfig(model_dir=str(tmp_path), pooling_strategy=PoolingStrategy.CLS_POOLED))
    assert model.layers_kept == 1


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


def pipe(path):
    os.mkfifo(path)


def nested(path):
    path.parent.mkdir(exist_ok=True)
    path.write_text('[{"a":' * 50_000)


@pytest.mark.parametrize("spoil, message", [
    (lambda d: (d / "vocab.txt").unlink(), "has no vocab.txt; it holds config.json, model.safetensors"),
    (lambda d: (d / "vocab.txt").write_text("a\nb\n"), r"vocab.txt lacks \[CLS\], \[SEP\], \[UNK\]"),
    (lambda d: (d / "vocab.txt").write_text((d / "vocab.txt").read_text() + "one\nmore\n"),
     "vocab.txt has 18 tokens, but the model only 16"),
    (lambda d: (d / "config.json").write_text("{"), "config.json is not JSON"),
    (lambda d: (d / "config.json").write_text("[" * 100_000), "config.json is not JSON: it is nested too deeply"),
    (lambda d: change(d / "config.json", num_hidden_layers=10 ** 12), "num_hidden_layers is 1000000000000, expected"),
    (lambda d: change(d / "config.json", hidden_size=2 ** 40), "hidden_size is 1099511627776, expected 100000 at most"),
    (lambda d: change(d / "config.json", vocab_size=2 ** 62), "vocab_size is .*, expected 10000000 at most"),
    (lambda d: change(d / "config.json", max_position_embeddings=1e300), "max_position_embeddings is 1e.300, expected"),
    (lambda d: change(d / "config.json", num_attention_heads=-1), "num_attention_heads is -1, expected a number above"),
    (lambda d: change(d / "config.json", intermediate_size="3072"), "intermediate_size is '3072', expected a number"),
    (lambda d: change(d / "config.json", vocab_size=float("nan")), "vocab_size is nan, expected a number above 0"),
    (lambda d: (d / "vocab.txt").write_bytes(b"\x80\x81" * 1000), "vocab.txt is not UTF-8 text"),
    (lambda d: (d / "vocab.txt").write_bytes(b"\0" * 1_000_000), r"vocab.txt lacks \[CLS\]"),
    (lambda d: (d / "vocab.txt").write_text("[CLS]\n[SEP]\n[UNK]\n" + "a" * 5_000_000 + "\n" * 99), "102 tokens"),
    (lambda d: (d / "vocab.txt").write_text("[CLS]\n[SEP]\n[UNK]\n" + "a\n" * 1000), "has 1003 tokens"),
    (lambda d: huge(d / "vocab.txt"), "cannot read the vocabulary .*more than 100 MB"),
    (lambda d: pipe(d / "sentence_bert_config.json"), "cannot read .*sentence_bert_config.json: .*no regular file"),
    (lambda d: (d / "sentence_bert_config.json").write_text('{"max_seq_length": -5}'), "_length of .* is -5, ex"),
    (lambda d: (d / "sentence_bert_config.json").write_text('{"max_seq_length": "9"}'), "_length of .* is '9', e"),
    (lambda d: (d / "sentence_bert_config.json").write_text('{"max_seq_length": NaN}'), "_length of .* is nan, e"),
    (lambda d: nested(d / "1_Pooling" / "config.json"), "cannot read .*1_Pooling/config.json: it is nested too deeply"),
    (lambda d: nested(d / "modules.json"), "cannot read .*modules.json: it is nested too deeply"),
    (lambda d: (d / "model.safetensors").unlink(), r"no checkpoint .*bert_model.ckpt .*holds config.json, vocab.txt"),
    (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "pytorch_model.bin only, which is a pickle"),
    (lambda d: (d / "model.safetensors").rename(d / "model.safetensors.index.json"), "in several safetensors files"),
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


def test_a_vocabulary_smaller_than_the_model(tiny, tmp_path, caplog):
    directory = tiny().write_hugging_face(tmp_path)
    (directory / "vocab.txt").write_text("\n".join(tiny().words[:-1]))
    resolve(ServerConfig(model_dir=str(directory)))
    assert "has 15 tokens, the model 16" in caplog.text


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
    assert backends.create(model.settings).describe().startswith("echo")
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

@pytest.mark.parametrize("options, on_gpu, engine, reason", [
    ({}, False, "lite", "the fastest on CPUs"), ({}, True, "graph", "lite is for CPUs"),
    ({"xla": True}, False, "graph", "lite does without -xla"),
    ({"fp16": True}, False, "graph", "lite has no -precision fp16"),
    ({"precision": "bf16"}, False, "graph", "lite has no -precision bf16"),
    ({"precision": "fp32"}, False, "lite", "the fastest on CPUs"),
    ({"precision": "int8"}, False, "lite", "the fastest on CPUs")], ids=str)
def test_engine_auto(tiny_dir, options, on_gpu, engine, reason):
    model = resolve(ServerConfig(model_dir=str(tiny_dir), engine="auto", **options), on_gpu)
    assert (model.settings.engine, model.engine_reason) == (engine, reason)
    assert model.config.engine == engine
    assert model.settings.precision == model.config.precision == (options.get("precision") or (
        "fp16" if options.get("fp16") else "fp32"))


@pytest.mark.parametrize("engine", ["lite", "graph", "echo"])
def test_an_engine_that_is_given(tiny_dir, engine):
    model = resolve(ServerConfig(model_dir=str(tiny_dir), engine=engine), on_gpu=engine != "lite")
    assert (model.settings.engine, model.engine_reason) == (engine, "given")


def test_engine_auto_without_litert(tiny_dir, monkeypatch):
    monkeypatch.setattr(backends.backend("lite"), "missing", lambda: "cannot be used: install ai-edge-litert")
    model = resolve(ServerConfig(model_dir=str(tiny_dir), engine="auto"))
    assert model.settings.engine == "graph" and "ai-edge-litert" in model.engine_reason
