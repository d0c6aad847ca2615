"""The original's own clients, unmodified, each in an environment of its own, against our server."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("original_client.py")


@pytest.fixture(scope="module")
def environments(tmp_path_factory):
    """Version of the original's client -> an interpreter that has it; made once."""
    made: dict[str, Path] = {}

    def interpreter(version: str) -> Path:
        if version not in made:
            directory = tmp_path_factory.mktemp(f"original-{version}")
            venv.create(directory)
            made[version] = directory / "bin" / "python"
            installed = subprocess.run(
                [sys.executable, "-m", "pip", "--python", made[version], "install", "--quiet", "--no-compile",
                 "--disable-pip-version-check", f"bert-serving-client=={version}"], capture_output=True, text=True)
            if installed.returncode:
                pytest.skip(f"bert-serving-client {version} cannot be installed: {installed.stderr[-500:]}")
        return made[version]

    return interpreter


@pytest.mark.timeout(180)
@pytest.mark.parametrize("version", ["1.10.0", "1.7.5"])
def test_everything_that_an_original_client_can_ask_is_answered(environments, echo_server, version):
    assert ask(echo_server, environments(version)) == everything(version)


def ask(server, python, **variables) -> dict:
    """What an original client saw."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, SCRIPT, str(server.port), str(server.port_out)],
                          capture_output=True, text=True, timeout=120, env={**environ, **variables})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def everything(version: str) -> dict:
    """What it has to see."""
    return {
        "version": version,
        "encode": [3, 768],
        "alone_equals_together": True,
        "tokenized": [2, 768],
        "encode_async": [[2, 768]] * 5,
        "fetch_all": [10, 768],
        "fetch": -1 if version == "1.7.5" else 0,
        "large": [1000, 768],
        "status": ["1.10.0", True],
        "error": "data type 'bert-serving error bad_request: payload is an object; expected an array of strings or an "
                 "array of arrays of strings' not understood",
        "fresh_clients_answered": 100,
        "pool": [1, 768],
    }


@pytest.fixture(scope="module")
def python2() -> str:
    """An interpreter of Python 2.7: named by BERT_SERVING_PYTHON2, on the PATH, or one of pyenv's."""
    named = os.environ.get("BERT_SERVING_PYTHON2"), shutil.which("python2.7")
    for candidate in filter(None, (*named, *Path.home().glob(".pyenv/versions/2.7*/bin/python2.7"))):
        if not subprocess.run([candidate, "-c", "import pip"], capture_output=True).returncode:
            return str(candidate)
    pytest.skip("there is no Python 2.7 with pip here; BERT_SERVING_PYTHON2 can name one")


@pytest.mark.timeout(180)
def test_the_original_client_on_python_2(python2, echo_server, tmp_path):
    """For those who are still there: ours needs Python 3."""
    installed = subprocess.run([python2, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                                "--no-compile", "--target", str(tmp_path), "bert-serving-client==1.10.0"],
                               capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"bert-serving-client 1.10.0 cannot be installed on Python 2.7: {installed.stderr[-500:]}")
    expected = everything("1.10.0")
    expected["error"] = expected["error"].replace("'", '"')  # as the NumPy of then quotes
    assert ask(echo_server, python2, PYTHONPATH=str(tmp_path)) == expected


@pytest.mark.timeout(180)
@pytest.mark.parametrize("reported, version, works", [("1.10.0", "1.7.5", False), ("1.7.5", "1.10.0", False),
                                                      ("1.7.5", "1.7.5", True)])
def test_a_version_that_is_given_is_reported_to_all(environments, serve_echo, reported, version, works):
    server = serve_echo("-report_version", reported)
    code = f"from bert_serving.client import BertClient; print(BertClient(port={server.port}, " \
           f"port_out={server.port_out}, timeout=10000).encode(['hello']).shape)"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([environments(version), "-c", code], capture_output=True, text=True, timeout=60, env=environ)
    assert ("version" in done.stderr) != works and done.stdout == ("(1, 768)\n" if works else ""), done.stderr


def test_this_interpreter_has_our_client():
    import bert_serving.client
    assert not bert_serving.client.__version__.startswith("1."), sys.path
