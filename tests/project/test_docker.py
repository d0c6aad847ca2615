"""The container's files: what the entry point makes of its arguments, with a stand-in for the server's command."""
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from bert_serving.server.config import ServerConfig, get_args_parser

ROOT = Path(__file__).parents[2]
ENTRYPOINT = ROOT / "docker/entrypoint.sh"


@pytest.fixture
def enter(tmp_path):
    """Runs the entry point; gives the arguments that the server's command got."""
    stand_in = tmp_path / "bert-serving-start"
    stand_in.write_text('#!/bin/sh\necho $$\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)

    def enter(*arguments, **variables):
        process = subprocess.Popen(
            [str(ENTRYPOINT), *arguments], stdout=subprocess.PIPE, text=True,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "MODEL_DIR": str(tmp_path / "none"), **variables})
        output, _ = process.communicate(timeout=20)
        pid, *given = output.splitlines()
        assert int(pid) == process.pid, "the server has to take the shell's place, or signals do not reach it"
        ServerConfig.from_args(get_args_parser({}).parse_args(given))
        return given

    return enter


ALWAYS = ["-host", "0.0.0.0", "-http_port", "8125"]


@pytest.mark.parametrize("arguments, variables, given", [
    ([], {}, []),
    (["2"], {}, ["-num_worker", "2"]),
    (["2", "-cpu"], {}, ["-num_worker", "2", "-cpu"]),
    (["-max_seq_len", "64", "-cpu"], {"NUM_WORKER": "3"}, ["-num_worker", "3", "-max_seq_len", "64", "-cpu"]),
    (["-terminate_token", "a b"], {}, ["-terminate_token", "a b"]),
])
def test_arguments(enter, arguments, variables, given):
    assert enter(*arguments, **variables) == ALWAYS + given


def test_a_mounted_model_is_served(enter, tmp_path):
    model = tmp_path / "my model"
    model.mkdir()
    assert "-model_dir" not in enter(MODEL_DIR=str(model))
    (model / "vocab.txt").touch()
    assert enter("-cpu", MODEL_DIR=str(model)) == [*ALWAYS, "-model_dir", str(model), "-cpu"]


def test_dockerfile():
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    for source in re.findall(r"^COPY (\S+)", text, re.MULTILINE):
        assert (ROOT / source).exists()
    assert ENTRYPOINT.stat().st_mode & stat.S_IXOTH
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)
