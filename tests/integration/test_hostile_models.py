"""Model files that are damaged, or made to do harm: the start ends with one line and an exit code, whatever dies."""
from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ..server.engine.conftest import TinyBert

pytestmark = pytest.mark.timeout(180)  # TensorFlow is loaded, in a process of its own, and machines are busy


@pytest.fixture
def start(tmp_path):
    """Start a server on a model that it cannot serve; (exit code, last line of its log, all of it)."""
    def start(model, *options, **environ):
        done = subprocess.run(
            [sys.executable, "-m", "bert_serving.server.cli", "-port", "0", "-port_out", "0", "-model_dir", str(model),
             "-graph_tmp_dir", str(tmp_path / "cache"), "-cpu", *options],
            capture_output=True, text=True, timeout=170, env={**os.environ, **environ})
        return done.returncode, done.stderr.strip().splitlines()[-2:], done.stderr

    return start


@pytest.fixture
def crashing(tmp_path):
    """The environment in which a module's import ends the process, as a crash of its native code would."""
    def crashing(module, number):
        path = tmp_path / "crashing" / module.replace(".", "/")
        path.parent.mkdir(parents=True)
        for parent in path.parents:
            if parent == tmp_path / "crashing":
                break
            (parent / "__init__.py").touch()
        path.with_suffix(".py").write_text(f"import os, signal\nos.kill(os.getpid(), signal.{number})\n")
        return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "crashing"), os.environ.get("PYTHONPATH", "")])}

    return crashing


def errors(log):
    return [line for line in log.splitlines() if line.startswith("E ")]


@pytest.mark.parametrize("engine", ["lite", "graph"])
def test_a_parser_that_crashes_ends_the_start_with_a_line(tmp_path, start, crashing, engine):
    """The checkpoint's reader and the converter are TensorFlow's, in C++: they run in the freezer's process."""
    model = TinyBert().write_hugging_face(tmp_path / "model")
    code, last, log = start(model, "-engine", engine, **crashing("tensorflow", "SIGSEGV"))
    assert code == 5 and "Traceback" not in log
    line, = errors(log)
    assert "the process that converts the model was killed by SIGSEGV" in line
    assert line in last


def test_an_engine_that_crashes_ends_the_start_with_a_line(tmp_path, start, crashing):
    """The graph is run by C++, in the workers' processes."""
    model = TinyBert().write_hugging_face(tmp_path / "model")
    code, last, log = start(model, "-engine", "lite", **crashing("ai_edge_litert.interpreter", "SIGABRT"))
    assert code == 6 and "Traceback" not in log
    line, = errors(log)
    assert "was killed by SIGABRT" in line and line in last


SPOILS = {"noise": lambda index: b"\xff" * 500,
          "footer": lambda index: b"\x57\xfb\x80\x8b\x24\x75\x47\xdb".rjust(500, b"\xff")}
if os.environ.get("BERT_SERVING_TEST_ALL"):  # TensorFlow is loaded for each
    SPOILS |= {"empty": lambda index: b"", "flipped": lambda index: index[:-1] + b"\0"}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_a_damaged_checkpoint_ends_the_start_with_a_line(tmp_path, start, spoil):
    model = TinyBert()
    (tmp_path / "model").mkdir()
    model._write(tmp_path / "model", "bert_config.json", model.config)
    (tmp_path / "model" / "bert_model.ckpt.index").write_bytes(spoil(b"\0" * 200))
    (tmp_path / "model" / "bert_model.ckpt.data-00000-of-00001").write_bytes(b"\0" * 1000)
    code, last, log = start(tmp_path / "model")
    assert code == 3 and "Traceback" not in log
    line, = errors(log)
    assert "cannot read the checkpoint" in line and line in last


@pytest.mark.parametrize("change, said", [
    ({"num_hidden_layers": 10 ** 15}, "num_hidden_layers is 1000000000000000, expected 1000 at most"),
    ({"hidden_size": 99_996}, "has variables of another shape")])
def test_a_configuration_of_terabytes_ends_the_start_at_once(tmp_path, start, change, said):
    model = TinyBert().write_hugging_face(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **change}))
    code, last, log = start(model)
    assert code == 3 and said in last[-1] and "Traceback" not in log
