"""The command ``bert-serving-worker``: its options, its errors in one line, and the workers it hires."""
import argparse
import math
import os
import signal
import subprocess
import sys

import pytest
import zmq
from bert_serving.client.curve import ENVIRONMENT
from bert_serving.server import __version__, join
from bert_serving.server.config import ServerConfig
from bert_serving.server.core import remote_messages
from bert_serving.server.core.remote_messages import Welcome
from bert_serving.server.errors import ConfigError, StartError


@pytest.mark.parametrize("text, where", [
    ("host:5557", ("host", 5557)), ("10.0.0.1:1", ("10.0.0.1", 1)), ("[::1]:65535", ("[::1]", 65535)),
    ("::1:5557", ("::1", 5557))])
def test_addresses(text, where):
    assert join.address(text) == where


@pytest.mark.parametrize("text, told", [
    ("", "'' is no address"), ("host", "no address"), (":5557", "no address"), ("5557", "no address"),
    ("host:", "'' is no port"), ("host:0", "'0' is no port"), ("host:65536", "no port"), ("host:x", "no port"),
    ("host:-1", "no port"), ("tcp://host:5557/", "no port")])
def test_what_is_no_address(text, told):
    with pytest.raises(argparse.ArgumentTypeError, match=f"{told}.*; expected HOST:PORT, the server's -worker_port"):
        join.address(text)


def parse(*words):
    return join.get_worker_parser().parse_args(["-connect", "host:5557", *words])


def test_options():
    options = parse("--num_worker", "3", "-model_dir=x", "-curve_dir", "keys", "-patience", "2.5", "-cpu")
    assert (options.connect, options.num_worker, options.model_dir) == (("host", 5557), 3, "x")
    assert (options.curve_dir, options.patience, options.cpu) == ("keys", 2.5, True)


def test_defaults_are_those_of_a_server():
    options, config = parse(), ServerConfig()
    assert {name: getattr(options, name) for name in join.OPTIONS} == {
        name: getattr(config, name) for name in join.OPTIONS}
    assert options.patience == 300.0 and options.curve_dir is None


def test_what_the_server_decides_is_no_option(capsys):
    for option in ("-port", "-max_seq_len", "-pooling_strategy", "-worker_port"):
        with pytest.raises(SystemExit):
            parse(option, "1")
        assert "unrecognized arguments" in capsys.readouterr().err


def test_options_may_be_in_the_environment(monkeypatch):
    monkeypatch.setenv("BERT_SERVING_NUM_WORKER", "4")
    assert parse().num_worker == 4


# ---- mistakes --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words, told", [
    ([], "the following arguments are required: -connect"), (["-connect", "host"], "'host' is no address"),
    (["-connect", "h:1", "-num_worker", "0"], "-num_worker is 0, so nobody would compute"),
    (["-connect", "h:1", "-num_worker", "1-2"], "-num_worker is the range 1-2"),
    (["-connect", "h:1", "-patience", "-1"], "-patience"), (["-connect", "h:1", "-cpu", "-device_map", "0"], "-cpu"),
    (["-connect", "h:1", "-curve_dir", "/no/such"], "cannot read /no/such/client.key_secret")],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "")
def test_a_mistake_is_one_line_and_exit_code_2(capsys, words, told):
    with pytest.raises(SystemExit) as ended:
        join.main(words)
    assert ended.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("bert-serving-worker: error: ") and told in last


def run(*words, **environ):
    """(exit code, lines of the log) of the command."""
    done = subprocess.run([sys.executable, "-m", "bert_serving.server.join", *words], capture_output=True, text=True,
                          timeout=50, env={**os.environ, ENVIRONMENT: "", **environ})
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("connect, told", [
    ("127.0.0.1:1", "no server answers on 127.0.0.1:1 for 0.3 seconds")])
def test_where_no_server_is_it_says_so_and_ends(connect, told):
    code, lines = run("-connect", connect, "-patience", "0.3")
    assert code == 1 and told in lines[-2] and lines[-1].endswith("stopped") and len(lines) == 3


def test_keys_that_this_zeromq_cannot_use_are_named(monkeypatch):
    def fail(*arguments, **options):
        raise join.KeysError("this pyzmq was built without CURVE")
    monkeypatch.setattr(join, "WorkerLink", fail)
    with pytest.raises(StartError, match="cannot connect to host:1: this pyzmq was built without CURVE"):
        join.connection(("host", 1), None)


# ---- the workers -----------------------------------------------------------------------------------------------------

def welcome(**options):
    return Welcome({**ServerConfig(engine="echo").of_the_model("echo"), **options}, 1000, 8.0)


@pytest.fixture
def start_workers():
    hired = []

    def host_workers(welcome, *words):
        hired.append(join.HostWorkers(welcome, lambda worker: None, parse("-num_worker", "2", *words)))
        return hired[-1]

    yield host_workers
    for one in hired:
        one.close()


def test_workers_are_hired_for_the_servers_orders(start_workers):
    host_workers = start_workers(welcome(max_seq_len=11, precision="fp16"), "-num_threads", "3")
    assert len(host_workers.pipes) == len(host_workers.scheduler.workers) == len(host_workers.local_workers.orders) == 2
    for told in host_workers.local_workers.orders:
        assert (told.settings.max_seq_len, told.settings.precision) == (11, "fp16")
        assert (told.settings.num_threads, told.largest_job) == (3, 1000)
    assert math.isinf(host_workers.scheduler.hang_seconds), "whether they hang is for the server to say"


@pytest.mark.parametrize("wrong, told", [
    ({"no_such_option": 1}, "the server's options differ from this version's: .*no_such_option"),
    ({"pooling_strategy": "BEST"}, "not a server's: .*BEST"),
    ({"model_dir": "/no/such/model", "engine": "lite"}, "/no/such/model")], ids=repr)
def test_orders_that_cannot_be_followed_leave_nothing_behind(start_workers, wrong, told, monkeypatch):
    destroyed = []
    monkeypatch.setattr(join.HostWorkers, "_discard", lambda self: destroyed.append(self.context.destroy(linger=0)))
    with pytest.raises(StartError, match=told):
        start_workers(welcome(**wrong))
    assert len(destroyed) == 1


def test_orders_without_options_are_none(start_workers):
    with pytest.raises(ConfigError, match="the server's options differ"):
        start_workers(Welcome({}, 1000, 8.0))


def test_the_hosts_own_model_directory_wins(start_workers):
    with pytest.raises(StartError, match="/ours"):
        start_workers(welcome(model_dir="/theirs", engine="lite"), "-model_dir", "/ours")


def test_who_is_not_there_cannot_be_killed_and_hears_nothing(start_workers):
    host_workers = start_workers(welcome())
    host_workers.kill(0)
    assert not host_workers.supervisor.send_stop(0, [b"a job"])


# ---- all of it -------------------------------------------------------------------------------------------------------

def test_it_joins_works_and_leaves():
    """With a server that the test plays."""
    context = zmq.Context()
    server = context.socket(zmq.ROUTER)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    process = subprocess.Popen([sys.executable, "-m", "bert_serving.server.join", "-connect", f"127.0.0.1:{port}",
                                "-num_worker", "1"], stderr=subprocess.PIPE, text=True)

    def hear(kind):
        while True:
            assert server.poll(30_000), f"no {kind!r} comes"
            peer, *frames = server.recv_multipart()
            heard, values = remote_messages.decode(frames)
            if heard == kind:
                return peer, values
            assert heard in (remote_messages.ALIVE, remote_messages.JOIN)

    try:
        peer, who = hear(remote_messages.JOIN)
        assert (who["version"], who["protocol"], who["pid"]) == (__version__, remote_messages.PROTOCOL, process.pid)
        server.send_multipart([peer, *remote_messages.encode(remote_messages.WELCOME, **welcome().to_json())])
        _, ready = hear(remote_messages.READY)
        assert ready["worker"] == 0 and remote_messages.decode_proof(ready["proof"]).shape[1] == 768
        process.send_signal(signal.SIGTERM)
        hear(remote_messages.LEAVE)
        server.send_multipart([peer, *remote_messages.encode(remote_messages.BYE, reason="it has left")])
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0 and log.splitlines()[-1].endswith("stopped"), log
        assert "Traceback" not in log
    finally:
        process.kill()
        process.communicate()
        context.destroy(linger=0)
