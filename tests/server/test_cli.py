"""The commands: what they print and how they exit."""
import socket
import sys
import types

import pytest
import zmq
from bert_serving.server import cli, join, log
from bert_serving.server.benchmark import command as benchmark
from bert_serving.server.bulk import command as bulk
from bert_serving.server.config import ServerConfig
from bert_serving.server.doctor import command as doctor
from bert_serving.server.service import BertServer


@pytest.fixture
def served(monkeypatch):
    """What bert-serving-start would have served: configurations, and with which exit code it ended."""
    configurations, codes = [], []

    def serve(config):
        configurations.append(config)
        return 7

    service = types.ModuleType("service")
    service.serve = serve
    monkeypatch.setitem(sys.modules, "bert_serving.server.service", service)
    monkeypatch.setattr("bert_serving.server.stages.broker.exit_now", codes.append)
    monkeypatch.setattr(log, "set_up", lambda verbose: None)
    return configurations, codes


def test_start_serves_what_it_is_told_and_exits_with_the_servers_code(served):
    configurations, codes = served
    cli.main(["-engine", "echo", "-num_worker", "2"])
    config, = configurations
    assert isinstance(config, ServerConfig) and (config.engine, config.num_worker) == ("echo", 2)
    assert codes == [7]


@pytest.mark.parametrize("words, told", [
    (["-port", "9", "-port_out", "9"], "-port and -port_out are both 9"),
    (["-num_threads", "none"], "invalid whole number value: 'none'"),
    (["-host", ""], "-host is empty; expected"), (["-host", "http://host"], "the URL 'http://host'; expected"),
    (["-host", "host:5555"], "; give host, and 5555 as the port; * opens"),
    (["-xla=true"], "-xla takes no value, and got 'true'; give -xla alone, or leave it out"),
    (["--mask_cls_sep=false"], "-mask_cls_sep takes no value, and got 'false'; give"),
    (["-xla", "true"], "unrecognized arguments: true; flags take no value"),
    (["-no_such_option"], "unrecognized arguments: -no_such_option"),
], ids=" ".join)
def test_wrong_options_are_one_line_and_exit_code_2(served, capsys, words, told):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("bert-serving-start: error: ") and told in last
    assert served == ([], [])


@pytest.fixture
def listening():
    """(port, socket) of something that receives what clients send."""
    context = zmq.Context()
    receiver = context.socket(zmq.PULL)
    yield receiver.bind_to_random_port("tcp://127.0.0.1"), receiver
    context.destroy(linger=0)


@pytest.mark.parametrize("option", ["-port", "--port", "-port_in", "-port_data"])
def test_terminate_asks_the_server_to_stop(listening, capsys, option):
    port, receiver = listening
    assert cli.terminate(["-ip", "127.0.0.1", option, str(port)]) == 0
    assert receiver.poll(10_000)
    assert receiver.recv_multipart()[:4] == [b"0", b"TERMINATION", b"0", b"0"]
    assert str(port) in capsys.readouterr().out


@pytest.mark.parametrize("words, environ", [
    (["-token", "sesame"], {}), ([], {"BERT_SERVING_TERMINATE_TOKEN": "sesame"})])
def test_terminate_with_a_token(listening, monkeypatch, words, environ):
    port, receiver = listening
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert cli.terminate(["-ip", "127.0.0.1", "-port", str(port), *words]) == 0
    assert receiver.poll(10_000)
    assert receiver.recv_multipart()[4:] == [b"sesame"]


def test_terminate_where_nobody_listens_says_so(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert cli.terminate(["-ip", "127.0.0.1", "-port", str(port), "-timeout", "50"]) == 1
    captured = capsys.readouterr()
    assert not captured.out and captured.err.startswith("bert-serving-terminate: error: ") and str(port) in captured.err


def test_terminate_wants_to_know_the_port(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.terminate([])
    assert ended.value.code == 2 and "-port" in capsys.readouterr().err


def test_keygen_makes_keys_and_says_for_whom(tmp_path, capsys):
    assert cli.keygen([str(tmp_path / "keys"), "alice"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"made {tmp_path / 'keys'}: for the server, and clients on its host",
        f"made {tmp_path / 'keys' / 'alice'}: for the client alice"]
    assert cli.keygen([str(tmp_path / "keys"), "bob"]) == 0
    assert capsys.readouterr().out == f"made {tmp_path / 'keys' / 'bob'}: for the client bob\n"


def test_keygen_makes_keys_of_hosts_with_workers(tmp_path, capsys):
    assert cli.keygen([str(tmp_path / "keys"), "gpu-7", "-worker"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"made {tmp_path / 'keys' / 'gpu-7'}: for the worker host gpu-7"
    assert (tmp_path / "keys" / "workers" / "gpu-7.key").exists()


def test_keygen_writes_over_nothing(tmp_path, capsys):
    for code in (0, 2):
        assert cli.keygen([str(tmp_path / "keys")]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("bert-serving-keygen: error: ") and "is there already" in captured.err


def test_terminate_says_when_it_is_not_let_in(tmp_path, capsys):
    context = zmq.Context()
    receiver = context.socket(zmq.PULL)
    receiver.curve_server, receiver.curve_secretkey = True, zmq.curve_keypair()[1]
    port = receiver.bind_to_random_port("tcp://127.0.0.1")
    assert cli.keygen([str(tmp_path / "keys")]) == 0
    for words, told in (([], "lets in only clients with a key"),
                        (["-curve_dir", str(tmp_path / "keys")], f"has not the key that {tmp_path / 'keys'} has"),
                        (["-curve_dir", str(tmp_path)], "cannot read")):
        assert cli.terminate(["-port", str(port), *words]) == 1
        assert told in capsys.readouterr().err
    context.destroy(linger=0)


COMMANDS = {
    "bert-serving-terminate": (cli.terminate, ["-port", "5555"]), "bert-serving-worker": (join.main, []),
    "bert-serving-encode": (bulk.main, ["in.txt", "out.npy"]), "bert-serving-benchmark": (benchmark.main, [])}
"""Command that takes an address -> its program, and the options that it must have."""


@pytest.mark.parametrize("host, said", [
    ("", "expected"), (" ", "the host is blank; expected"), ("tcp://host", "the URL 'tcp://host'; expected"),
    ("a/b", "the host is 'a/b'; expected")])
@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_host_is_a_line(name, host, said, capsys):
    command, options = COMMANDS[name]
    where = ["-connect", f"{host}:5557"] if name == "bert-serving-worker" else ["-ip", host]
    with pytest.raises(SystemExit) as ended:
        command([*where, *options])
    assert ended.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"{name}: error: argument ") and said in last and "HOST" in last.upper()


def test_a_host_that_cannot_be_shuts_nothing_down():
    with pytest.raises(ValueError, match="ip is the URL 'http://host'"):
        BertServer.shutdown(ip="http://host", port=5555)


@pytest.mark.parametrize("command, words", [
    (cli.main, ["-verbose=1"]), (cli.keygen, ["keys", "-worker=true"]), (join.main, ["-cpu=yes", "-connect", "a:1"]),
    (bulk.main, ["in.txt", "out.npy", "-own=true"]), (benchmark.main, ["-plot=true"]),
    (doctor.main, ["-xla=true"])], ids=["start", "keygen", "worker", "encode", "benchmark", "doctor"])
def test_a_flag_with_a_value_is_told_what_to_write(command, words, capsys):
    with pytest.raises(SystemExit) as ended:
        command(words)
    assert ended.value.code == 2
    flag, value = next(word for word in words if "=" in word).split("=")
    *_, last = capsys.readouterr().err.splitlines()
    assert f"error: {flag} takes no value, and got '{value}'; give {flag} alone, or leave it out" in last
