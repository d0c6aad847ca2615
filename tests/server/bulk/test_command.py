import io
import os
import signal
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from bert_serving.client.errors import DeadlineError
from bert_serving.server.bulk import command
from bert_serving.server.errors import ModelError

from .conftest import vector


@pytest.fixture
def fake_server(client, monkeypatch):
    """Every connection leads to the fake client; where to is in ``addresses``."""
    addresses = []

    @contextmanager
    def connect(**address):
        addresses.append(address)
        client.timeout = address["timeout"]
        yield client

    monkeypatch.setattr(command, "BertClient", connect)
    return SimpleNamespace(addresses=addresses, client=client)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("one\ntwo\n\n")
    return path


@pytest.fixture(autouse=True)
def own_handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_file_becomes_vectors(fake_server, source, capsys):
    output = source.with_suffix(".npy")
    assert command.main([str(source), str(output), "-port", "7", "-port_out", "8"]) == 0
    assert np.isfinite(np.load(output)).all(axis=1).tolist() == [True, True, False]
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1
    assert "3 rows, 2 different texts, 1 reject, listed in" in said.err and "a second" in said.err
    assert fake_server.addresses[0]["port"] == 7 and fake_server.client.timeout == command.TICK_MS


def test_a_server_that_is_not_there_is_waited_for_as_long_as_is_said(source, capsys):
    assert command.main([str(source), str(source) + ".npy", "-port", "1", "-port_out", "2", "-timeout", "0.05"]) == 1
    line, = capsys.readouterr().err.splitlines()
    assert "within 50 ms: never connected to port 1" in line and "-own starts one for this job" in line


def test_a_port_that_is_none_is_said_in_a_line(source, capsys):
    assert command.main([str(source), str(source) + ".npy", "-port", "0"]) == 1
    line, = capsys.readouterr().err.splitlines()
    assert line == "bert-serving-encode: error: port is 0; expected a number from 1 to 65535"


def test_standard_input_is_kept_while_it_is_needed(fake_server, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"text": "one"}\n{"text": "two"}')))
    assert command.main(["-", str(tmp_path / "out.npy"), "-format", "jsonl"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "out.npy.job.json"]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"text": "another"}')))
    assert command.main(["-", str(tmp_path / "out.npy"), "-format", "jsonl"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "out.npy.job.json"]


def test_a_second_process_does_not_write_over_the_standard_input_of_a_first(fake_server, tmp_path, monkeypatch, capsys):
    arguments, second = ["-", str(tmp_path / "out.npy")], []

    def fetch(fetch=fake_server.client.fetch):
        if not second:
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"three\n")))
            second.append(command.main(arguments))
        return fetch()

    monkeypatch.setattr(fake_server.client, "fetch", fetch)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"one\ntwo\n")))
    assert command.main(arguments) == 0 and second == [1]
    error, summary = capsys.readouterr().err.splitlines()
    assert "another process is at this job" in error and "2 rows" in summary
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), [vector("one"), vector("two")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "out.npy.job.json"]


def test_no_server_is_an_error_in_a_line(source, monkeypatch, capsys):
    def connect(**address):
        raise DeadlineError("no answer within 10 ms")

    monkeypatch.setattr(command, "BertClient", connect)
    assert command.main([str(source), str(source.with_suffix(".npy"))]) == 1
    error = capsys.readouterr().err
    assert error.startswith("bert-serving-encode: error: no answer within 10 ms") and "-own" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments, code, message", [
    (["nowhere.txt", "out.npy"], 1, "nowhere.txt is not there"),
    (["in.txt", "out.doc"], 2, "does not end in a format"),
    (["in.txt", "nowhere/out.npy"], 1, "no directory nowhere"),
])
def test_errors_are_a_line(source, monkeypatch, fake_server, capsys, arguments, code, message):
    monkeypatch.chdir(source.parent)
    assert command.main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("bert-serving-encode: error: ") and message in error and error.count("\n") == 1
    assert not fake_server.addresses, "it is said before anybody is asked"


def test_an_own_server_that_does_not_start_says_why(source, monkeypatch, capsys):
    import bert_serving.server.service

    def refuse(config):
        assert config.num_worker == 2
        raise ModelError("there is no model")

    monkeypatch.setattr(bert_serving.server.service, "BertServer", refuse)
    assert command.main([str(source), str(source.with_suffix(".npy")), "-own", "-num_worker", "2"]) == 3
    assert capsys.readouterr().err == "bert-serving-encode: error: there is no model\n"


def test_an_input_that_goes_away_is_an_error_in_a_line(source, fake_server, monkeypatch, capsys):
    monkeypatch.setattr(fake_server.client, "fetch", lambda fetch=fake_server.client.fetch: source.unlink() or fetch())
    assert command.main([str(source), str(source.with_suffix(".npy"))]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"bert-serving-encode: error: {source}: No such file") and error.count("\n") == 1


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it(source, fake_server, monkeypatch, capsys, number, code):
    monkeypatch.setattr(fake_server.client, "fetch", lambda: os.kill(os.getpid(), number) or iter(()))
    arguments = [str(source), str(source.with_suffix(".npy"))]
    if number == signal.SIGTERM:
        with pytest.raises(SystemExit) as end:
            command.main(arguments)
        assert end.value.code == code
    else:
        assert command.main(arguments) == code
        assert "goes on from here" in capsys.readouterr().err
