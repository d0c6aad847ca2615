import os
import select
import sys
from pathlib import Path

import pytest
from tools.peers import servers
from tools.peers.environments import PeerError
from tools.peers.servers import PeerServer, answers, free_ports
from bert_serving.server.config import get_args_parser

FAKE_SERVER = Path(__file__).parent / "fake_server.py"


@pytest.fixture
def start(tmp_path):
    """Starts a fake server; see fake_server.py."""
    def start(*behaviour, is_ready=answers, start_seconds=30):
        port, = free_ports(1)
        return PeerServer([sys.executable, str(FAKE_SERVER), str(port), *behaviour],
                          {"url": f"http://127.0.0.1:{port}/embeddings"}, is_ready, tmp_path / "own",
                          {"HELLO": "there"}, start_seconds)
    return start


@pytest.mark.parametrize("behaviour", [(), ("deaf",)])
def test_it_is_ready_and_goes_with_all_of_its_processes(start, tmp_path, behaviour):
    with start(*behaviour) as server:
        watched = [os.pidfd_open(int(pid)) for pid in (tmp_path / "own" / "pids").read_text().split()]
        assert answers(server.address) and not select.select(watched, [], [], 0)[0]
        server.check()
    try:
        for process in watched:
            assert select.select([process], [], [], 20)[0], "it is still there"
    finally:
        for process in watched:
            os.close(process)
    with pytest.raises(PeerError):
        server.check()


def test_one_that_ends_says_where_to_look(start, tmp_path):
    with pytest.raises(PeerError, match="exit code 3; see .*log"):
        start("ends")
    assert "what went wrong in full" in (tmp_path / "own" / "log").read_text()


def test_one_that_is_never_ready_is_not_waited_for(start, tmp_path):
    asked = []

    def is_ready(address):
        asked.append((tmp_path / "own" / "pids").exists())
        return False

    with pytest.raises(PeerError, match="not ready after 0 s"):
        start(is_ready=is_ready, start_seconds=0)
    assert asked


def test_ports_are_different_and_free():
    assert len(set(free_ports(3))) == 3
    assert not answers({"url": f"http://127.0.0.1:{free_ports(1)[0]}/embeddings"})


def test_over_zeromq(echo_server):
    assert answers({"ip": "127.0.0.1", "port": echo_server.port, "port_out": echo_server.port_out})


def test_nobody_answers_over_zeromq(monkeypatch):
    monkeypatch.setattr(servers, "ATTEMPT_MS", 100)
    port, port_out = free_ports(2)
    assert not answers({"ip": "127.0.0.1", "port": port, "port_out": port_out})


@pytest.fixture
def commands(monkeypatch):
    commands = []
    monkeypatch.setattr(servers, "PeerServer", lambda command, *rest: commands.append((command, *rest)))
    return commands


def test_the_original_is_started_as_its_users_do(commands, tmp_path):
    servers.original(Path("/env/bin/python"), Path("/model"), 25, tmp_path)
    (command, address, *_), = commands
    assert command[0] == "/env/bin/python"
    words = " ".join(command[3:])
    assert "-model_dir /model -max_seq_len 25 -pooling_layer -1 -num_worker 1 -cpu" in words
    assert f"-port {address['port']} -port_out {address['port_out']}" in words


@pytest.mark.parametrize("is_http", [False, True])
def test_ours_is_started_as_its_users_do(commands, tmp_path, is_http):
    servers.own(Path("/model"), 25, "int8", is_http, tmp_path)
    (command, address, *_), = commands
    config = get_args_parser({}).parse_args(command[3:])
    assert (config.model_dir, config.max_seq_len, config.precision) == ("/model", 25, "int8")
    assert address == {"url": f"http://127.0.0.1:{config.http_port}/v1/embeddings"} if is_http else \
        (address["port"], address["port_out"], config.http_port) == (config.port, config.port_out, None)


def test_infinity_is_told_to_stay_at_home(commands, tmp_path):
    servers.infinity(Path("/env/bin/python"), Path("/model"), 2, tmp_path)
    (command, address, _, _, env), = commands
    assert command[0] == "/env/bin/infinity_emb" and f":{command[-1]}/" in address["url"]
    assert env["INFINITY_ANONYMOUS_USAGE_STATS"] == "0" and env["OMP_NUM_THREADS"] == "2"
    assert env["HF_HUB_OFFLINE"] == "1"
