"""Workers of other hosts, which are network namespaces here: links are cut, hosts die, and nobody loses an answer."""
from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bert_serving.client.errors import UnauthorizedError
from bert_serving.server import keys

from ..conftest import RunningProgram
from ..server.engine.conftest import WORDS, TinyBert
from .conftest import eventually

CUTS = int(os.environ.get("BERT_SERVING_TEST_CUTS", "4"))
"""How often a link is cut in the test of that."""

READY = r"worker (\d+), on (.*) \(process (\d+)\), is ready"


class Network:
    """Hosts, each at the end of a link of its own to this one."""

    def __init__(self, number: int) -> None:
        self.names = [f"bs-{os.getpid()}-{index}" for index in range(number)]
        self.hosts: list[str] = []

    def __enter__(self) -> Network:
        try:
            for index, name in enumerate(self.names):
                _ip("netns", "add", name)
                self.hosts.append(name)
                near = f"bs{os.getpid() % 100000}v{index}"
                _ip("link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", name)
                _ip("address", "add", f"{self.address(index)}/30", "dev", near)
                _ip("link", "set", near, "up")
                _ip("-n", name, "address", "add", f"{self.subnet(index)}.2/30", "dev", "eth0")
                _ip("-n", name, "link", "set", "lo", "up")
                self.restore(index)
        except BaseException:
            self.__exit__()
            raise
        return self

    def subnet(self, index: int) -> str:
        """Of those that RFC 2544 keeps for tests of networks."""
        return f"198.{18 + os.getpid() % 2}.{os.getpid() // 2 % 250 + index}"

    def address(self, index: int) -> str:
        """Of this host, as seen from that one."""
        return f"{self.subnet(index)}.1"

    def cut(self, index: int) -> None:
        _ip("-n", self.hosts[index], "link", "set", "eth0", "down")

    def restore(self, index: int) -> None:
        _ip("-n", self.hosts[index], "link", "set", "eth0", "up")

    def __exit__(self, *_: object) -> None:
        for name in self.hosts:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def network():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("to make network namespaces takes root and the command ip (Debian's iproute2)")
    try:
        with Network(2) as made:
            yield made
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces can be made here: {error.stderr.decode().strip()}")


@pytest.fixture
def join():
    """Start hosts with workers; each is stopped at the end of the test."""
    running = []

    def start(connect: str, *options: str, namespace: str | None = None, **settings) -> RunningProgram:
        command = [sys.executable, "-m", "bert_serving.server.join", "-connect", connect, *options]
        if namespace is not None:
            command = ["ip", "netns", "exec", namespace, *command]
        running.append(RunningProgram(command, **settings))
        return running[-1]

    yield start
    for program in running:
        program.close()


def port_of(server) -> int:
    with server.client() as client:
        return client.server_status["worker_port"]


class Traffic:
    """Clients that go on asking, and check each answer.

    Attributes:
        answered: requests of each client.
        longest: seconds that the slowest answer took; to be set to 0 when a new phase begins.
    """

    def __init__(self, server, clients: int = 4) -> None:
        self.server, self.answered, self.stop = server, [0] * clients, threading.Event()
        self.longest = 0.0
        with server.client() as client:
            self.known = {text: client.encode([text])[0] for text in (f"sentence {number}" for number in range(50))}
        self.pool = ThreadPoolExecutor(clients)
        self.futures = [self.pool.submit(self._ask, number) for number in range(clients)]

    def _ask(self, number: int) -> None:
        choose = random.Random(number)
        with self.server.client(timeout=50_000) as client:
            while not self.stop.is_set():
                texts = choose.choices(list(self.known), k=choose.choice((1, 3, 40)))
                begun = time.monotonic()
                vectors = client.encode(texts)
                self.longest = max(self.longest, time.monotonic() - begun)
                np.testing.assert_array_equal(vectors, [self.known[text] for text in texts])
                self.answered[number] += 1

    def goes_on(self, seconds: float = 20) -> bool:
        """Whether every client gets another answer in time."""
        before = list(self.answered)
        return eventually(lambda: all(now > then for now, then in zip(self.answered, before)), seconds)

    def end(self) -> None:
        """Every request that was made has its answer."""
        self.stop.set()
        for future in self.futures:
            future.result(50)
        self.pool.shutdown()


@pytest.mark.timeout(120 + 10 * CUTS)
def test_nothing_is_lost_when_links_are_cut(serve_echo, network, join):
    server = serve_echo("-host", "0.0.0.0", "-worker_port", "0", "-num_worker", "0", "-worker_timeout", "1")
    port = port_of(server)
    hosts = [join(f"{network.address(index)}:{port}", "-num_worker", "1", namespace=network.hosts[index])
             for index in range(2)]
    for _ in hosts:
        server.wait_for(READY)
    traffic = Traffic(server)
    choose = random.Random(CUTS)
    for number in range(CUTS):
        index = number % 2
        network.cut(index)
        if choose.random() < 0.7:
            server.wait_for("was not heard of for")
        assert traffic.goes_on(), server.log
        network.restore(index)
        if choose.random() < 0.7:
            server.wait_for(READY)
    traffic.end()
    for host in hosts:
        assert host.stop(signal.SIGTERM) == 0, host.log


def test_a_host_that_is_killed_and_one_that_leaves_lose_nothing(serve_echo, join):
    server = serve_echo("-worker_port", "0", "-num_worker", "1")
    port = port_of(server)
    killed, leaves = join(f"127.0.0.1:{port}"), join(f"127.0.0.1:{port}")
    for _ in (killed, leaves):
        server.wait_for(READY)
    traffic = Traffic(server)
    assert traffic.goes_on()
    killed.process.kill()
    server.wait_for("is gone|fewer")
    assert traffic.goes_on()
    assert leaves.stop(signal.SIGTERM) == 0, leaves.log
    server.wait_for("has left")
    assert traffic.goes_on()
    traffic.end()
    with server.client() as client:
        status = client.server_status
    assert [worker["remote"] for worker in status["workers"]] == [False]


# ---- who may join ----------------------------------------------------------------------------------------------------

def test_only_hosts_with_a_listed_workers_key_join(serve_echo, join, tmp_path):
    directory = tmp_path / "keys"
    keys.make(directory, ["alice"])
    keys.make(directory, ["gpu", "forgotten"], are_workers=True)
    (directory / "workers" / "forgotten.key").unlink()
    server = serve_echo("-worker_port", "0", "-num_worker", "0", "-curve_dir", str(directory))
    with server.client(curve_dir=directory) as client:
        connect = f"127.0.0.1:{client.server_status['worker_port']}"
        refused = {who: join(connect, "-patience", "30", *(["-curve_dir", str(directory / who)] if who else []))
                   for who in ("alice", "forgotten", "")}
        listed = join(connect, "-num_worker", "1", "-curve_dir", str(directory / "gpu"))
        for who, host in refused.items():
            assert host.process.wait(40) == 1, host.log
            told = ("does not know this key, .*workers/.*-worker" if who else
                    "lets in only workers with a key.*keygen DIR NAME -worker")
            error, = [line for line in host.lines if line.startswith("E ")]
            assert re.search(told, error), host.log
        server.wait_for(READY)
        assert client.encode(["a text"]).shape == (1, 768)
        with pytest.raises(UnauthorizedError):
            server.client(curve_dir=directory / "gpu").fetch()
        server.wait_for("is not in .*/clients")
        assert len([line for line in server.lines if "is not in" in line and "/workers" in line]) == 2, server.log
        assert len([line for line in server.lines if "is not in" in line and "/clients" in line]) == 1, server.log
    assert listed.stop() == 0, listed.log


def tiny_model(path, words: str) -> str:
    """A model whose echo depends on the order of its words."""
    return str(TinyBert([*WORDS[:5], *words.split()]).write_hugging_face(path))


def test_a_host_with_another_model_is_refused_in_one_line(serve_echo, join, tmp_path):
    ours = tiny_model(tmp_path / "ours", "first do it then right hello world")
    other = tiny_model(tmp_path / "other", "world hello right then it do first")
    server = serve_echo("-worker_port", "0", "-num_worker", "1", "-model_dir", ours)
    connect = f"127.0.0.1:{port_of(server)}"
    wrong, right = join(connect, "-model_dir", other, "-num_worker", "1"), join(connect, "-num_worker", "1")
    assert wrong.process.wait(40) == 1, wrong.log
    error, = [line for line in wrong.lines if line.startswith("E ")]
    assert "its vectors of the golden sentences are not this server's: the least alike have a cosine of" in error
    assert "refused worker 0 of" in server.log
    assert f"process {right.process.pid}" in server.wait_for(READY)[0]


# ---- who comes back --------------------------------------------------------------------------------------------------

def test_a_host_replaces_its_workers_and_finds_its_server_again(serve_echo, join):
    options = "-num_worker", "0", "-job_timeout", "1", "-worker_timeout", "2"
    server = serve_echo("-worker_port", "0", *options)
    port = port_of(server)
    host = join(f"127.0.0.1:{port}", "-num_worker", "1")
    with server.client(timeout=40_000) as client:
        expected = client.encode(["a text", "another"])
        server.wait_for(READY)
        for signum, told in ((signal.SIGKILL, "was lost"), (signal.SIGSTOP, "hangs")):
            worker, = host.workers()
            os.kill(worker, signum)
            np.testing.assert_array_equal(client.encode(["a text", "another"]), expected)
            server.wait_for(told)
            server.wait_for(READY)
            assert host.workers() not in ([], [worker])
    before = host.workers()
    server.process.kill()  # it has no time for a goodbye
    server.process.wait(10)
    again = serve_echo("-port", str(server.port), "-port_out", str(server.port_out), "-worker_port", str(port),
                       *options)
    again.wait_for(READY)
    with again.client(timeout=40_000) as client:
        np.testing.assert_array_equal(client.encode(["a text", "another"]), expected)
    assert host.workers() == before
    assert again.stop() == 0, again.log
    host.wait_for("goodbye from the server: the server stops")
    assert host.stop() == 0, host.log
