"""Addresses and sockets: ports that are taken are told, nothing is left on disk, strangers stay outside."""
import os
import socket
import subprocess
import sys

import pytest
import zmq
from bert_serving.server.errors import ConfigError, PortError
from bert_serving.server.stages import endpoints
from bert_serving.server.stages.endpoints import RunDirectory


@pytest.fixture
def gone_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# ---- ports -----------------------------------------------------------------------------------------------------------

OPENERS = {
    "-port": lambda context, host, port, guard=None: endpoints.front(context, host, port, 1000, guard),
    "-port_out": endpoints.outlet,
}


@pytest.mark.parametrize("option", OPENERS)
def test_port_zero_is_any_free_one(context, option):
    opened, port = OPENERS[option](context, "127.0.0.1", 0)
    assert 1024 <= port <= 65535
    assert opened.getsockopt_string(zmq.LAST_ENDPOINT) == f"tcp://127.0.0.1:{port}"


@pytest.mark.parametrize("option", OPENERS)
def test_a_port_in_use_is_named_with_its_option(context, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = rf"port {port} \({option}\) is in use on 127.0.0.1.* give {option} another"
        with pytest.raises(PortError, match=told):
            OPENERS[option](context, "127.0.0.1", port)


@pytest.mark.parametrize("option", OPENERS)
@pytest.mark.parametrize("host", ["no-such-interface", "300.1.1.1", ""])
def test_a_host_that_is_none_is_named(context, option, host):
    with pytest.raises(PortError, match=f"cannot bind {option} 0 on {host!r}.*; give -host an IPv4 address"):
        OPENERS[option](context, host, 0)


def test_what_is_too_large_for_an_answer_does_not_get_in(context):
    """Up to four times the limit a request gets in, and gets an error; beyond that libzmq drops the connection."""
    front, _ = endpoints.front(context, "127.0.0.1", 0, 1000)
    assert front.maxmsgsize == 4000
    outlet, _ = endpoints.outlet(context, "127.0.0.1", 0)
    assert 256 < outlet.maxmsgsize <= 4096, "only subscriptions arrive there"


@pytest.mark.parametrize("option", OPENERS)
def test_who_says_nothing_is_not_kept(context, option):
    """A connection without a handshake ends by itself, and a peer that vanishes is noticed."""
    opened, _ = OPENERS[option](context, "127.0.0.1", 0)
    assert opened.handshake_ivl == endpoints.HANDSHAKE_MS <= 10_000
    assert opened.backlog >= 1000
    # By TCP alone: libzmq's own heartbeats end the process when a peer goes whose messages still wait; see KEEPALIVE.
    assert opened.heartbeat_ivl == 0 and opened.tcp_keepalive == 1
    assert opened.tcp_keepalive_idle + 4 * opened.tcp_keepalive_intvl == 90


@pytest.mark.parametrize("option", OPENERS)
def test_a_silent_connection_ends_by_itself(context, option, monkeypatch):
    monkeypatch.setattr(endpoints, "HANDSHAKE_MS", 50)
    _, port = OPENERS[option](context, "127.0.0.1", 0)
    for says in (b"", b"\xff" + bytes(8) + b"\x7f\x03\x00"):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as silent:
            silent.sendall(says)
            while silent.recv(1000):
                pass  # its greeting, and then the end


@pytest.mark.parametrize("option", OPENERS)
def test_the_guard_sees_a_socket_before_it_is_bound(context, option):
    seen = []
    opened, _ = OPENERS[option](context, "127.0.0.1", 0, lambda socket: seen.append(
        (socket, socket.getsockopt_string(zmq.LAST_ENDPOINT))))
    assert seen == [(opened, "")]


def test_a_guarded_socket_lets_nobody_in_unless_somebody_answers(context):
    guarded = context.socket(zmq.PULL)
    monitor = endpoints.guard(context, guarded, zmq.curve_keypair()[1])
    assert guarded.curve_server and guarded.zap_domain and guarded.getsockopt(zmq.ZAP_ENFORCE_DOMAIN)
    assert monitor.rcvhwm == 0
    guarded.disable_monitor()


def test_there_is_one_place_where_zeromq_asks(context):
    assert endpoints.zap(context).getsockopt_string(zmq.LAST_ENDPOINT) == "inproc://zeromq.zap.01"


def test_results_are_refused_rather_than_lost(context):
    """A subscriber that does not read blocks its own topic; its results come back to be held."""
    outlet, port = endpoints.outlet(context, "127.0.0.1", 0)
    reader = context.socket(zmq.SUB)
    reader.rcvhwm = 1
    reader.rcvbuf = 4096
    reader.subscribe(b"a")
    reader.connect(f"tcp://127.0.0.1:{port}")
    assert outlet.poll(10_000)
    assert outlet.recv() == b"\1a"
    outlet.setsockopt(zmq.SUBSCRIBE, b"a\0")
    with pytest.raises(zmq.Again):
        for _ in range(10_000):
            outlet.send_multipart([b"a\0", bytes(10_000)], zmq.NOBLOCK)


def test_only_the_registered_topic_is_served(context):
    """A client subscribes to its bare identity; what the server registers for it is another thing."""
    outlet, port = endpoints.outlet(context, "127.0.0.1", 0)
    reader = context.socket(zmq.SUB)
    reader.subscribe(b"a")
    reader.connect(f"tcp://127.0.0.1:{port}")
    assert outlet.poll(10_000)
    outlet.recv()
    outlet.setsockopt(zmq.SUBSCRIBE, b"a\0")
    for topic in (b"ab\0", b"a", b"a\0"):
        outlet.send_multipart([topic, b"for " + topic])
    assert reader.poll(10_000)
    assert reader.recv_multipart() == [b"a\0", b"for a\0"]
    assert not reader.poll(0)


# ---- inner sockets ---------------------------------------------------------------------------------------------------

def test_broker_and_worker_meet(context, monkeypatch):
    monkeypatch.delenv("ZEROMQ_SOCK_TMP_DIR", raising=False)
    run = RunDirectory()
    jobs, results = run.endpoint("jobs-0"), run.endpoint("results")
    pipe, rows = endpoints.pipe(context, jobs), endpoints.results(context, results)
    worker_jobs, worker_results = endpoints.worker_end(context, jobs, results)
    pipe.send(b"job")
    assert worker_jobs.poll(10_000) and worker_jobs.recv() == b"job"
    worker_results.send(b"rows")
    assert rows.poll(10_000) and rows.recv() == b"rows"


def test_inner_frames_are_limited_too(context):
    run = RunDirectory()
    jobs, results = run.endpoint("jobs-0"), run.endpoint("results")
    pipe, rows = endpoints.pipe(context, jobs), endpoints.results(context, results, 1000)
    worker_jobs, worker_results = endpoints.worker_end(context, jobs, results, 1000)
    assert 0 < pipe.maxmsgsize < 10_000 and rows.maxmsgsize == worker_jobs.maxmsgsize == 1000
    worker_results.send(bytes(1000))
    assert rows.poll(10_000) and len(rows.recv()) == 1000
    run.remove()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_on_linux_nothing_is_on_disk(monkeypatch, short_path):
    monkeypatch.delenv("ZEROMQ_SOCK_TMP_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(short_path))
    run = RunDirectory()
    one, other = run.endpoint("results"), run.endpoint("results")
    assert one.startswith("ipc://@") and one != other, "names that nobody can guess or meet"
    run.remove()
    assert not list(short_path.iterdir())


def test_the_directory_that_one_asks_for(monkeypatch, short_path, context):
    monkeypatch.setenv("ZEROMQ_SOCK_TMP_DIR", str(short_path))
    run = RunDirectory()
    inside, = short_path.iterdir()
    assert inside.stat().st_mode & 0o777 == 0o700, "for this user alone"
    endpoint = run.endpoint("results")
    assert endpoint == f"ipc://{inside}/results"
    endpoints.results(context, endpoint)
    assert (inside / "results").is_socket()
    run.remove()
    assert not list(short_path.iterdir())


@pytest.mark.parametrize("name", ["missing", "file", ""])
def test_a_directory_that_is_none(monkeypatch, tmp_path, name):
    (tmp_path / "file").write_text("")
    path = str(tmp_path / name) if name else ""
    monkeypatch.setenv("ZEROMQ_SOCK_TMP_DIR", path)
    with pytest.raises(ConfigError, match="ZEROMQ_SOCK_TMP_DIR is .*not a directory"):
        RunDirectory()


def test_a_directory_that_cannot_be_written_to(monkeypatch, short_path):
    def refuse(**settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(endpoints.tempfile, "mkdtemp", refuse)
    monkeypatch.setenv("ZEROMQ_SOCK_TMP_DIR", str(short_path))
    with pytest.raises(ConfigError, match="Permission denied.*ZEROMQ_SOCK_TMP_DIR"):
        RunDirectory()


def test_a_directory_whose_name_is_too_long_for_sockets(monkeypatch, tmp_path, context):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("ZEROMQ_SOCK_TMP_DIR", str(long))
    run = RunDirectory()
    with pytest.raises(PortError, match="ZEROMQ_SOCK_TMP_DIR"):
        endpoints.results(context, run.endpoint("results"))


def test_what_dead_servers_left_is_swept_and_nothing_else(monkeypatch, short_path, gone_pid):
    left = short_path / f"bert-serving-{gone_pid}-abc"
    left.mkdir()
    (left / "results").write_text("")
    keep = [short_path / name for name in (f"bert-serving-{os.getpid()}-abc", "bert-serving-x-abc", "other-1-abc",
                                           "bert-serving-1-abc")]
    for path in keep:
        path.mkdir()
    file = short_path / f"bert-serving-{gone_pid}-file"
    file.write_text("")
    monkeypatch.setenv("ZEROMQ_SOCK_TMP_DIR", str(short_path))
    run = RunDirectory()
    assert not left.exists()
    assert all(path.exists() for path in [*keep, file, run.path])


def test_sweeping_needs_no_home_and_no_name(monkeypatch, short_path, gone_pid):
    """Containers run as users without either."""
    left = short_path / f"bert-serving-{gone_pid}-abc"
    left.mkdir()
    monkeypatch.setenv("HOME", "/no/such/home")
    monkeypatch.delenv("USER", raising=False)
    endpoints.sweep(short_path)
    assert not left.exists()
