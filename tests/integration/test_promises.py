"""What the design promises to every client, each under its own name, on real processes."""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zmq

from bert_serving.client.errors import BertServingError, UnprocessableError

from .conftest import eventually, is_alive


def texts_of(request: int, size: int) -> list[str]:
    return [f"request{request} sentence{number}" for number in range(size)]


def test_rows_come_in_request_order_whatever_the_size(serve_echo):
    server = serve_echo("-num_worker", "2", "-max_batch_size", "7")
    with server.client() as client:
        alone = {text: client.encode([text])[0] for text in texts_of(0, 50)}
        for size in (1, 6, 7, 8, 50):
            texts = texts_of(0, size)
            np.testing.assert_array_equal(client.encode(texts), [alone[text] for text in texts])


def test_killed_workers_lose_nothing_and_double_nothing(serve_echo):
    server = serve_echo("-num_worker", "2", "-max_batch_size", "16")
    stop = threading.Event()
    answered = []

    def work(number: int) -> int:
        done = 0
        with server.client() as client:
            while not stop.is_set():
                texts = texts_of(number * 1000 + done, 1 + done % 40)
                vectors = client.encode(texts)
                assert vectors.shape == (len(texts), 768)
                np.testing.assert_array_equal(vectors[-1], client.encode(texts[-1:])[0])
                done += 1
                answered.append(number)
        return done

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(work, number) for number in range(6)]
        try:
            for _ in range(6):
                before = len(answered)
                for pid in server.workers()[:1]:
                    os.kill(pid, signal.SIGKILL)
                server.wait_for("was lost")
                server.wait_for("is ready and listening")
                assert eventually(lambda: len(answered) > before + 20)
        finally:
            stop.set()
        assert all(client.result(30) > 0 for client in clients)
    with server.client() as client:
        status = client.server_status
    assert status["queue"]["requests"] == 0
    assert sum(worker["restarts"] for worker in status["workers"]) == 6


def test_a_hung_worker_is_replaced_and_its_work_done(serve_echo):
    server = serve_echo("-num_worker", "2", "-job_timeout", "0.5")
    for pid in server.workers():
        os.kill(pid, signal.SIGSTOP)
    with server.client() as client:
        assert client.encode(["still there?"]).shape == (1, 768)
    server.wait_for("it is replaced")


def test_a_poisonous_text_fails_its_own_request_only(serve_echo):
    server = serve_echo("-num_worker", "2")
    neighbours = []

    def work(number: int) -> None:
        with server.client() as client:
            for turn in range(30):
                neighbours.append(client.encode(texts_of(number * 100 + turn, 3)).shape)

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(work, number) for number in range(4)]
        with server.client(timeout=50_000) as client:
            with pytest.raises(UnprocessableError) as caught:
                client.encode(["good", "also good", "__die__ now", "good too"])
            assert caught.value.index == 2
            # It is remembered for a while, and costs no more workers.
            with pytest.raises(UnprocessableError):
                client.encode(["__die__ now"])
        for future in clients:
            future.result(40)
    assert neighbours == [(3, 768)] * 120


def test_a_text_that_hangs_its_worker_holds_up_nobody_for_long(serve_echo):
    server = serve_echo()
    waits, stop = [], threading.Event()

    def work(size: int) -> None:
        with server.client(timeout=60_000) as client:
            while not stop.is_set():
                began = time.monotonic()
                client.encode(texts_of(len(waits), size))
                waits.append(time.monotonic() - began)

    with ThreadPoolExecutor(2) as pool:
        neighbours = [pool.submit(work, size) for size in (1, 40)]
        try:
            with server.client(timeout=60_000) as client:
                began = time.monotonic()
                with pytest.raises(UnprocessableError) as caught:
                    client.encode(["good", "__hang__ now", "also good"])
                refused = time.monotonic() - began
                np.testing.assert_array_equal(client.encode(["also good", "good"])[::-1],
                                              client.encode(["good", "also good"]))
        finally:
            stop.set()
        for neighbour in neighbours:
            neighbour.result(60)
    assert caught.value.index == 1
    # Some ten seconds and some two on a machine without other work; with 30 seconds for each try it would be minutes.
    assert refused < 40 and max(waits) < 20


FLOOD = """
import sys
from bert_serving.client import BertClient
with BertClient(port=int(sys.argv[1]), port_out=int(sys.argv[2])) as client:
    client.encode([f"__sleep_3__ flood {number}" for number in range(20_000)], blocking=False)
    client.server_status  # it has arrived
    print("sent", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def start_flood():
    """Start processes of a client that has a minute of work waiting; they are killed at the end of the test."""
    running = []

    def start(server) -> subprocess.Popen:
        running.append(subprocess.Popen([sys.executable, "-c", FLOOD, str(server.port), str(server.port_out)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout.readline() == "sent\n"
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_a_single_sentence_does_not_wait_for_long_jobs_of_a_flood(serve_echo, start_flood):
    server = serve_echo()
    waits = []
    with server.client() as client:
        client.encode(["__sleep_3__ first"])
        start_flood(server)
        for number in range(20):
            began = time.monotonic()
            client.encode([f"__sleep_3__ {number}"])
            waits.append(time.monotonic() - began)
    # The flood's jobs take half a second where nobody is held up by them.
    assert sorted(waits)[10] < 0.25, waits


def test_what_a_killed_client_left_costs_others_nothing(serve_echo, start_flood):
    server = serve_echo()
    with server.client() as client:
        flood = start_flood(server)

        def done() -> int:
            worker, = client.server_status["workers"]
            return worker["sentences"]

        def only_ours() -> bool:
            before = done()
            for number in range(20):
                client.encode([f"__sleep_3__ {number}"])
            return done() - before == 20

        assert not only_ours()
        flood.kill()
        flood.wait()
        assert eventually(only_ours, 8), "it is as if the client were still there"
        assert client.server_status["queue"]["requests"] == 1, "it might come back"


@pytest.mark.parametrize("word", ["__raise__", "__nan__"])
def test_a_text_that_raises_or_gives_no_vector_is_named(serve_echo, word):
    server = serve_echo()
    with server.client() as client:
        with pytest.raises(UnprocessableError) as caught:
            client.encode(["good", word, "good too", "fine"])
        assert caught.value.index == 1
        assert client.encode(["good"]).shape == (1, 768)
    assert server.process.poll() is None


def test_the_end_of_the_server_takes_every_process_along(serve_echo):
    server = serve_echo("-num_worker", "2", "-http_port", "0")
    children = server.children()
    assert len(children) == 3
    server.process.kill()
    server.process.wait(10)
    assert eventually(lambda: not any(map(is_alive, children)))
    for port in (server.port, server.port_out, server.http_port):
        assert eventually(lambda: can_be_bound(port))


def can_be_bound(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_sigterm_drains_and_leaves_nothing(serve_echo, short_path):
    server = serve_echo("-num_worker", "2", environ={"ZEROMQ_SOCK_TMP_DIR": str(short_path)})
    children = server.children()
    assert list(short_path.iterdir())
    with server.client() as client:
        for number in range(40):
            client.encode([f"__sleep_20__ {number}"], blocking=False)
        assert eventually(lambda: len(client.pending_request) == 40)
        client.server_status  # everything sent before it has arrived
        assert server.stop() == 0
        assert len(client.fetch_all()) == 40
    assert not any(map(is_alive, children))
    assert not list(short_path.iterdir())


def test_a_second_sigterm_ends_at_once(serve_echo):
    server = serve_echo("-job_timeout", "60")
    with server.client() as client:
        client.encode(["__hang__"], blocking=False)
        client.server_status
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("finishing 1 request first")
        assert server.stop() == 0
        with pytest.raises((BertServingError, TimeoutError)):
            client.fetch_all()
    assert "1 request ended with an error" in server.log


def test_what_a_killed_server_left_is_swept_at_the_next_start(serve_echo, short_path):
    environ = {"ZEROMQ_SOCK_TMP_DIR": str(short_path)}
    first = serve_echo(environ=environ)
    first.process.kill()
    first.process.wait()
    left = list(short_path.iterdir())
    assert left
    second = serve_echo(environ=environ)
    assert not any(path.exists() for path in left)
    assert second.stop() == 0


def test_no_client_hears_another_ones_vectors(serve_echo):
    server = serve_echo()
    context = zmq.Context()
    spies = []
    for topic in (b"", b"ali", b"alice2", b"alice\0"):
        spy = context.socket(zmq.SUB)
        spy.linger = 0
        spy.subscribe(topic)
        spy.connect(f"tcp://127.0.0.1:{server.port_out}")
        spies.append(spy)
    with server.client(identity="alice2") as marker, server.client(identity="alice") as alice:
        for _ in range(20):
            assert alice.encode(["secret"]).shape == (1, 768)
        # This one is for a spy to hear; when it has, it has heard all that it ever would.
        marker.encode(["for the subscriber of alice2"])
        assert spies[2].poll(10_000)
        heard = []
        for spy in spies:
            while spy.poll(0):
                heard.append(spy.recv_multipart()[0])
    assert set(heard) == {b"alice2\0"}
    context.destroy(linger=0)


def test_clients_that_share_an_identity_all_hear(serve_echo):
    server = serve_echo()
    with server.client(identity="group") as passive, server.client(identity="group") as active:
        heard = passive.listen()
        vectors = active.encode(["for all of us"])
        np.testing.assert_array_equal(next(heard).embedding, vectors)


def test_a_client_that_does_not_read_costs_the_others_nothing(serve_echo):
    server = serve_echo()
    with server.client() as lazy, server.client() as busy:
        for number in range(2000):
            lazy.encode([f"unread {number}"], blocking=False)
        for number in range(50):
            assert busy.encode([f"read {number}"]).shape == (1, 768)
        assert len(lazy.fetch_all()) == 2000


def test_a_client_that_gave_up_gets_no_late_answer(serve_echo):
    server = serve_echo()
    with server.client() as client:
        client.timeout = 50
        with pytest.raises(TimeoutError):
            client.encode(["__sleep_300__ slow"])
        client.timeout = 20_000
        expected = client.encode(["another"])
        np.testing.assert_array_equal(client.encode(["another"]), expected)


def test_a_restarted_server_serves_the_clients_of_the_old_one(serve_echo, serve):
    server = serve_echo()
    with server.client() as client:
        before = client.encode(["hello"])
        server.stop()
        again = serve("-engine", "echo", "-port", str(server.port), "-port_out", str(server.port_out)).ready()
        assert again.port == server.port
        np.testing.assert_array_equal(client.encode(["hello"]), before)


def test_the_server_is_an_object_too():
    # In a process of its own: the test run's threads and signal handlers are none of its business.
    code = """
from bert_serving.client import BertClient
from bert_serving.server import BertServer, get_args_parser
from bert_serving.server.graph import PoolingStrategy
from bert_serving.server.helper import get_args_parser
args = get_args_parser().parse_args(["-engine", "echo", "-port", "0", "-port_out", "0"])
for _ in range(2):
    with BertServer(args) as server:
        with BertClient(port=server.port, port_out=server.port_out, timeout=10000) as client:
            print(client.encode(["hello"]).shape)
server = BertServer(args)
server.start()
server.is_ready.wait()
BertServer.shutdown(port=server.port)
server.join()
print(server.is_alive())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code],
                          capture_output=True, text=True, timeout=40)
    assert done.stdout.split("\n") == ["(1, 768)", "(1, 768)", "False", ""], done.stderr
