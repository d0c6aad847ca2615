import sys

import pytest
from tools.peers import environments
from tools.peers.environments import ENVIRONMENTS, Environment, PeerError, find_python, prepare

SMALL = Environment("small", ("something==1.0",))


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """What would have been run; nothing is."""
    commands = []

    def run(command, log, timeout):
        commands.append(command[1:])
        (tmp_path / "small").mkdir(exist_ok=True)

    monkeypatch.setattr(environments, "run", run)
    return commands


def test_it_is_made_once(commands, tmp_path):
    said = []
    python = prepare(SMALL, tmp_path, said.append)
    assert python == tmp_path / "small" / "bin" / "python"
    assert commands == [["-m", "venv", str(tmp_path / "small")], ["-m", "pip", "install", "something==1.0"]]
    assert len(said) == 1 and "something==1.0" in said[0]
    assert prepare(SMALL, tmp_path) == python
    assert len(commands) == 2


def test_it_is_made_again_for_other_packages(commands, tmp_path):
    prepare(SMALL, tmp_path)
    (tmp_path / "small" / "rest").touch()
    prepare(Environment("small", ("something==2.0",)), tmp_path)
    assert commands[-1][-1] == "something==2.0"
    assert not (tmp_path / "small" / "rest").exists()


def test_half_of_one_is_made_again(monkeypatch, tmp_path):
    def run(command, log, timeout):
        (tmp_path / "small").mkdir(exist_ok=True)
        if "pip" in command:
            raise PeerError("ERROR: no matching distribution")

    monkeypatch.setattr(environments, "run", run)
    for _ in range(2):
        with pytest.raises(PeerError, match="no matching"):
            prepare(SMALL, tmp_path)


def test_an_old_python_gets_a_pip_that_knows_it(commands, tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "find_python", lambda version: "python3.6")
    prepare(Environment("small", ("old",), "3.6"), tmp_path)
    assert [command[-1] for command in commands[1:]] == ["pip==21.3.1", "old"]


@pytest.fixture
def write_python(tmp_path, monkeypatch):
    """Writes a program that ends with some exit code; pyenv is in ``tmp_path``, and so is the path."""
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    def write(name, code):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\nexit {code}\n")
        path.chmod(0o755)
        return str(path)

    return write


def test_this_python():
    assert find_python(None) == sys.executable


def test_one_on_the_path(write_python):
    write_python("python2.0", 0)
    assert find_python("2.0") == "python2.0"


def test_one_of_pyenv_whatever_its_shim_says(write_python):
    write_python("python2.0", 127)
    real = write_python("versions/2.0.1/bin/python", 0)
    assert find_python("2.0") == real


def test_none(write_python):
    write_python("versions/2.1.1/bin/python", 0)
    with pytest.raises(PeerError, match="needs Python 2.0, which is not on this machine; looked for"):
        find_python("2.0")


@pytest.mark.parametrize("program, reason", [
    ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
    ("print('ERROR: nothing found\\n[notice] a newer pip'); exit(1)", "ERROR: nothing found"),
    ("raise ValueError('no: ' + 'ab, ' * 99)", "ValueError: no: " + "ab, " * 34 + "ab, ..."),
    ("exit(4)", "exit code 4")])
def test_a_failure_has_its_reason(tmp_path, program, reason):
    with pytest.raises(PeerError) as failure:
        environments.run([sys.executable, "-c", program], tmp_path / "log", 30)
    assert str(failure.value) == f"{reason}; see {tmp_path / 'log'}"


def test_what_takes_too_long_or_is_not_there(tmp_path):
    with pytest.raises(PeerError, match="not done within 0.1 s"):
        environments.run([sys.executable, "-c", "import time; time.sleep(30)"], tmp_path / "log", 0.1)
    with pytest.raises(PeerError, match="cannot run"):
        environments.run([str(tmp_path / "nowhere")], tmp_path / "log", 1)


def test_output_goes_to_the_log(tmp_path):
    environments.run([sys.executable, "-c", "print('hello')"], tmp_path / "log", 30)
    assert (tmp_path / "log").read_text() == "hello\n"


def test_environments_have_their_own_folders():
    assert all(name == environment.name and environment.packages for name, environment in ENVIRONMENTS.items())
