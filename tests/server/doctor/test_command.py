"""The command: what it prints, how it ends, and that it looks before it imports."""
import subprocess
import sys

import pytest
from bert_serving.server.doctor import command, libraries
from bert_serving.server.doctor.findings import problem


def test_a_line_for_each_thing_and_exit_code_0(capsys):
    assert command.main(["-engine", "echo", "-port", "0", "-port_out", "0"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith("bert-serving-start would start like this")
    assert all(line.split()[0] in ("ok", "warning") for line in lines)
    topics = [line.split()[1] for line in lines]
    for topic in ("python", "packages", "libraries", "sockets", "cores", "devices", "keys", "port", "http", "doors",
                  "model", "engine", "memory", "files"):
        assert topic in topics


@pytest.mark.parametrize("words, told", [
    (["-port", "7", "-port_out", "7"],
     "problem  options    -port and -port_out are both 7; give them different numbers"),
    (["-port", "0", "-port_out", "0", "-model_dir", "/no/such/model/there"],
     "problem  model      -model_dir /no/such/model/there: there is no such directory, nor a model of that name; "
     "bert-serving-model list shows the names"),
])
def test_a_problem_and_exit_code_1(capsys, words, told):
    assert command.main(words) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert told in lines
    assert last.startswith("bert-serving-start would not start like this: 1 problem")


def test_options_that_are_none_are_refused_as_by_the_start(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["-no_such_option"])
    assert end.value.code == 2
    assert capsys.readouterr().err == ("bert-serving-doctor: error: unrecognized arguments: -no_such_option; "
                                       "-h shows all options\n")


def test_what_is_missing_is_said_instead_of_a_traceback(capsys, monkeypatch):
    monkeypatch.setattr(libraries, "check_libraries", lambda: [problem("libraries", "numpy is missing")])
    assert command.main(["-engine", "echo"]) == 1
    assert "problem  libraries  numpy is missing\n" in capsys.readouterr().out


def test_it_works_beside_another_version_of_the_client():
    """That of 1.x has the same name, but not what the server imports."""
    program = ("import sys; sys.modules['bert_serving.client.errors'] = None; "
               "from importlib import metadata; version = metadata.version; "
               "metadata.version = lambda name: '1.10.0' if name == 'bert-serving-client' else version(name); "
               "from bert_serving.server.doctor.command import main; sys.exit(main([]))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1, done.stderr
    assert "problem  packages   bert-serving-server is" in done.stdout and "1.10.0" in done.stdout
    assert done.stderr == ""
