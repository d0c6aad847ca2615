"""A server with -curve_dir: who has no key on its list gets no result, no status, and no end of it, but an error."""
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import zmq
from bert_serving.client import BertClient, ConcurrentBertClient
from bert_serving.client.curve import Keys, find
from bert_serving.client.errors import DeadlineError, UnauthorizedError
from bert_serving.client.protocol import encode_request, encode_termination, topic
from bert_serving.server import keys
from bert_serving.server.service import BertServer

from ..conftest import RunningServer
from ..server.engine.conftest import TinyBert
from .conftest import eventually
from .test_original_clients import environments  # noqa: F401
from .test_start import run

PATIENCE_MS = 20_000


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """The server's keys, with a client "alice" and another "bob"."""
    directory = tmp_path_factory.mktemp("keys") / "keys"
    keys.make(directory, ["alice", "bob"])
    return directory


@pytest.fixture(scope="module")
def server(directory):
    """For tests that leave it as it is."""
    server = RunningServer("-engine", "echo", "-port", "0", "-port_out", "0", "-http_port", "0",
                           "-curve_dir", str(directory))
    try:
        yield server.ready()
        assert server.stop() == 0, server.log
    finally:
        server.close()


def wrong(directory: Path, how: str) -> Keys | str:
    """What a client comes with that is not let in, as its ``curve_dir``."""
    alice = find(directory / "alice")
    return {"no key": "", "a wrong server's key": Keys(zmq.curve_keypair()[0], alice.public, alice.secret),
            "another private key": Keys(alice.server, alice.public, zmq.curve_keypair()[1]),
            "a key that is not listed": Keys(alice.server, *zmq.curve_keypair())}[how]


WRONG = ["no key", "a wrong server's key", "another private key", "a key that is not listed"]


# ---- who is let in ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("who", [".", "alice", "bob"])
def test_who_has_a_key_is_served(server, directory, who):
    with server.client(curve_dir=directory / who) as client:
        assert client.encode(["a", "b"]).shape == (2, 768)
        client.encode(["c"], blocking=False)
        assert client.fetch_all(concat=True).shape == (1, 768)
        assert client.server_status["curve_dir"] == str(directory)
    with ConcurrentBertClient(2, port=server.port, port_out=server.port_out, timeout=PATIENCE_MS,
                              curve_dir=str(directory / who)) as pool:
        assert pool.encode(["a"]).shape == (1, 768)


def test_large_results_and_requests_arrive_whole(server, directory):
    texts = [f"sentence {number}" for number in range(3000)]
    with server.client(curve_dir=directory / "alice") as client:
        vectors = client.encode(texts)
        np.testing.assert_array_equal(vectors[[0, -1]], client.encode([texts[0], texts[-1]]))


def test_server_and_clients_may_share_one_environment(serve_echo, directory):
    environ = {"BERT_SERVING_CURVE_DIR": str(directory)}
    server = serve_echo(environ=environ)
    call = (f"from bert_serving.client import BertClient; bc = BertClient(port={server.port}, "
            f"port_out={server.port_out}, timeout={PATIENCE_MS}); print(bc.encode(['a']).shape)")
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, timeout=50,
                          env={**os.environ, **environ})
    assert done.stdout.strip() == "(1, 768)", done.stderr


def test_http_is_served_through_a_key_that_lies_nowhere(server, directory):
    body = json.dumps({"id": 1, "texts": ["a"]}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{server.http_port}/encode", body,
                                   {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=20) as answer:
        assert len(json.load(answer)["result"][0]) == 768
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/status/server", timeout=20) as answer:
        status = json.load(answer)
    assert "curve_dir" in status and not status["curve_dir"] and str(directory) not in json.dumps(status)
    assert "127.0.0.1" not in "".join(line for line in server.lines if "refused" in line and "its key" in line)


# ---- who is not ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", WRONG)
@pytest.mark.parametrize("ask", [lambda client: client.encode(["a"]), lambda client: client.server_status],
                         ids=["result", "status"])
def test_no_result_and_no_status_but_an_error(server, directory, how, ask):
    """Within the deadline, and with none as well."""
    for timeout in (PATIENCE_MS, -1):
        with pytest.raises(UnauthorizedError):
            with BertClient(port=server.port, port_out=server.port_out, timeout=timeout, ignore_all_checks=True,
                            curve_dir=wrong(directory, how)) as client:
                ask(client)


@pytest.mark.parametrize("how", WRONG)
def test_no_termination_but_an_error(server, directory, how):
    with pytest.raises(UnauthorizedError):
        BertServer.shutdown(port=server.port, timeout=PATIENCE_MS, curve_dir=wrong(directory, how))
    with server.client(curve_dir=directory) as client:
        assert client.encode(["still there"]).shape == (1, 768)


@pytest.mark.parametrize("how", WRONG)
def test_nothing_that_is_sent_without_a_client_of_ours_gets_in(server, directory, how):
    """A result for an identity that is listened to from inside shows what got in: nothing."""
    context = zmq.Context()
    with server.client(curve_dir=directory / "alice", identity="victim") as victim:
        before = victim.server_status["counts"]["accepted"]
        sender, receiver = context.socket(zmq.PUSH), context.socket(zmq.SUB)
        own = wrong(directory, how)
        for own_socket, port in ((sender, server.port), (receiver, server.port_out)):
            own_socket.linger = 0
            if isinstance(own, Keys):
                own_socket.curve_serverkey, own_socket.curve_publickey = own.server, own.public
                own_socket.curve_secretkey = own.secret
            own_socket.connect(f"tcp://127.0.0.1:{port}")
        for wanted in (b"", b"victim", topic(b"victim")):
            receiver.subscribe(wanted)
        for _ in range(20):
            for frames in (encode_request(b"victim", 999_999, ["from outside"]), encode_termination()):
                with suppress(zmq.Again):  # who is refused for good has nobody to send to
                    sender.send_multipart(frames, zmq.NOBLOCK)
            victim.encode(["from inside"])
        assert victim.server_status["counts"]["accepted"] == before + 20
        assert not receiver.poll(0)
    context.destroy(linger=0)


def test_a_client_with_a_key_reads_nothing_of_others(server, directory):
    """Whatever it subscribes to, as long as it does not know their names."""
    bob = find(directory / "bob")
    context = zmq.Context()
    spy = context.socket(zmq.XSUB)
    spy.curve_serverkey, spy.curve_publickey, spy.curve_secretkey = bob.server, bob.public, bob.secret
    spy.connect(f"tcp://127.0.0.1:{server.port_out}")
    for wanted in (b"", b"\0", b"a", b"al", b"\0alice"):
        spy.send(b"\1" + wanted)
    spy.send(b"\1spy")
    with server.client(curve_dir=directory / "alice", identity="alice") as alice, \
            server.client(curve_dir=directory / "bob", identity="spy") as known:
        for _ in range(20):
            alice.encode(["a secret"])
        known.encode(["for the spy itself"])  # its subscriptions have arrived, then
    assert spy.poll(20_000)
    while spy.poll(100):
        assert spy.recv_multipart()[0] == topic(b"spy")
    context.destroy(linger=0)


@pytest.mark.timeout(180)
def test_an_original_client_gets_nothing_and_disturbs_nobody(server, directory, environments):  # noqa: F811
    script = ("import sys; from bert_serving.client import BertClient\n"
              "try:\n    BertClient(port=int(sys.argv[1]), port_out=int(sys.argv[2]), timeout=1500)\n"
              "except TimeoutError: print('nothing')")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    original = subprocess.Popen([environments("1.10.0"), "-c", script, str(server.port), str(server.port_out)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    with server.client(curve_dir=directory) as client:
        while original.poll() is None:
            assert client.encode(["a"]).shape == (1, 768)
    out, err = original.communicate()
    assert out.strip() == "nothing", err


def test_the_log_says_who_was_refused_and_no_secret(server, directory):
    unlisted = wrong(directory, "a key that is not listed")
    with pytest.raises(UnauthorizedError):
        server.client(curve_dir=unlisted)
    assert eventually(lambda: f"its key {unlisted.public.decode()} is not in {directory}" in server.log)
    secrets = [unlisted.secret, keys.load(str(directory)).secret, find(directory).secret]
    assert not [secret for secret in secrets if secret.decode() in server.log]


def test_no_secret_is_seen_by_ps(server, directory):
    processes = ",".join(map(str, [server.process.pid, *server.children()]))
    shown = subprocess.run(["ps", "-ww", "-o", "args=", "-p", processes], capture_output=True, text=True).stdout
    assert "bert_serving.server.proxy" in shown and "secret" not in shown
    assert keys.load(str(directory)).secret.decode() not in shown


def test_a_client_with_keys_is_told_that_the_server_has_none(echo_server, directory):
    with pytest.raises(UnauthorizedError, match="does without keys, so nothing would be encrypted"):
        echo_server.client(curve_dir=directory, timeout=-1)
    with echo_server.client() as client:
        assert client.encode(["a"]).shape == (1, 768)


# ---- the list --------------------------------------------------------------------------------------------------------

def test_without_a_list_nobody_is_let_in(serve_echo, tmp_path):
    keys.make(tmp_path / "keys")
    (tmp_path / "keys" / "clients" / "local.key").unlink()
    server = serve_echo("-curve_dir", str(tmp_path / "keys"))
    assert "only the 0 clients whose keys are in" in server.log
    with pytest.raises(UnauthorizedError, match="does not know this client's key"):
        server.client(curve_dir=tmp_path / "keys")


def test_clients_come_and_go_without_a_restart(serve_echo, tmp_path):
    directory = tmp_path / "keys"
    keys.make(directory)
    server = serve_echo("-curve_dir", str(directory))
    keys.make(directory, ["carol"])
    server.wait_for("client carol is let in from now on")
    with server.client(curve_dir=directory / "carol", timeout=-1) as carol:
        assert carol.encode(["a"]).shape == (1, 768)
        (directory / "clients" / "carol.key").unlink()
        server.wait_for("client carol is not let in any more")
        for ask in (lambda: carol.encode(["a"]), lambda: carol.server_status):
            with pytest.raises(UnauthorizedError, match="not on the server's list any more"):
                ask()
        with pytest.raises(UnauthorizedError, match="does not know this client's key"):
            server.client(curve_dir=directory / "carol", timeout=-1)
    with server.client(curve_dir=directory) as local:
        assert local.encode(["a"]).shape == (1, 768)


def test_terminate_with_a_key(serve_echo, directory):
    server = serve_echo("-curve_dir", str(directory), "-http_port", "0")
    BertServer.shutdown(port=server.port, curve_dir=directory / "bob")
    assert server.process.wait(30) == 0


# ---- from elsewhere --------------------------------------------------------------------------------------------------

def own_address() -> str | None:
    """An address of this machine that is not the loopback; None if it has none. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            address = probe.getsockname()[0]
        except OSError:
            return None
    return None if address.startswith("127.") else address


@pytest.mark.parametrize("guarded", [False, True])
def test_from_another_address_no_paths_and_no_end_without_the_token(serve_echo, directory, guarded, tmp_path):
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but the loopback")
    model_dir = str(TinyBert().write_hugging_face(tmp_path / "model"))
    server = serve_echo("-host", "0.0.0.0", *(["-curve_dir", str(directory)] if guarded else []),
                        environ={"BERT_SERVING_TERMINATE_TOKEN": "sesame", "BERT_SERVING_MODEL_DIR": model_dir})
    curve_dir = directory / "alice" if guarded else ""
    with server.client(ip=address, curve_dir=curve_dir) as client:
        status = client.server_status
        assert status["model_dir"] == (model_dir if guarded else None)
        assert bool(status["ventilator -> worker"]) is guarded and "worker -> sink" in status
        for token in ("", "wrong"):
            BertServer.shutdown(ip=address, port=server.port, curve_dir=curve_dir, token=token)
            server.wait_for("only clients on the server's own host, or with its -terminate_token")
        assert client.encode(["still there"]).shape == (1, 32)
    with server.client(curve_dir=curve_dir) as local:
        assert local.server_status["model_dir"] == model_dir
    BertServer.shutdown(ip=address, port=server.port, curve_dir=curve_dir, token="sesame")
    assert server.process.wait(30) == 0


@pytest.mark.parametrize("host, guarded, warns", [
    ("127.0.0.1", False, False), ("0.0.0.0", False, True), ("0.0.0.0", True, False)])
def test_open_doors_are_warned_of(serve_echo, directory, host, guarded, warns):
    server = serve_echo("-host", host, *(["-curve_dir", str(directory)] if guarded else []))
    assert ("every host that reaches 0.0.0.0 can use this server, and nothing is encrypted" in server.log) is warns
    assert ("only the 3 clients whose keys are in" in server.log) is guarded


def test_a_directory_without_keys_is_named(tmp_path):
    done = run("-engine", "echo", "-port", "0", "-port_out", "0", "-curve_dir", str(tmp_path))
    assert done.returncode == 2
    assert f"has no server.key_secret; make one: bert-serving-keygen {tmp_path}" in done.stderr.splitlines()[-1]


def test_a_client_waits_for_a_server_that_is_not_there_yet(directory):
    """Keys or not, that is no refusal."""
    began = time.monotonic()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(DeadlineError):
            BertClient(port=free.getsockname()[1], port_out=free.getsockname()[1], timeout=300, curve_dir=directory)
    assert time.monotonic() - began >= 0.3
