"""A client survives its server: whatever is outstanding when it dies is answered by the next one, right and once."""
from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ..conftest import RunningServer

NUM_REQUESTS = 100


def texts_of(request: int) -> list[str]:
    return [f"__sleep_5__ request{request} sentence{number}" for number in range(1 + request % 3)]


@pytest.fixture
def again(serve):
    """Starts a server on the ports of one that has ended."""
    return lambda server: serve("-engine", "echo", "-port", str(server.port), "-port_out", str(server.port_out)).ready()


@pytest.fixture(scope="module")
def expected():
    """The vectors of each request, from a server that nothing happens to."""
    server = RunningServer("-engine", "echo", "-port", "0", "-port_out", "0").ready()
    try:
        with server.client() as client:
            yield [client.encode(texts_of(request)) for request in range(NUM_REQUESTS)]
    finally:
        server.close()


def kill(server):
    server.process.kill()
    server.process.wait(10)


def drain(server):
    assert server.stop() == 0


@pytest.mark.parametrize("end", [kill, drain])
def test_everything_outstanding_is_answered_once_and_in_order(serve_echo, again, expected, end):
    server = serve_echo()
    with server.client() as client:
        for request in range(NUM_REQUESTS):
            client.encode(texts_of(request), blocking=False)
        results = client.fetch()
        found = {response.id: response.embedding for response in (next(results) for _ in range(5))}
        if end is drain:
            client.server_status  # what was sent before it has arrived: a server that drains refuses what comes later
        end(server)
        again(server)
        rest = list(results)
        assert len(rest) == NUM_REQUESTS - 5
        found.update((response.id, response.embedding) for response in rest)
        for request, request_id in enumerate(sorted(found)):
            np.testing.assert_array_equal(found[request_id], expected[request])
        assert len(found) == NUM_REQUESTS and not client.pending_request
        np.testing.assert_array_equal(client.encode(texts_of(7)), expected[7])


def test_clients_in_the_middle_of_their_work_notice_nothing(serve_echo, again, expected):
    server = serve_echo()
    begun = threading.Semaphore(0)

    def work(first: int) -> None:
        with server.client(timeout=40_000) as client:
            for request in range(first, NUM_REQUESTS, 5):
                np.testing.assert_array_equal(client.encode(texts_of(request)), expected[request])
                begun.release()

    with ThreadPoolExecutor(5) as pool:
        clients = [pool.submit(work, first) for first in range(5)]
        successors = server
        for _ in range(2):
            for _ in range(15):
                assert begun.acquire(timeout=20)
            kill(successors)
            successors = again(server)
        for client in clients:
            client.result(40)


def test_a_timeout_is_not_longer_for_a_restart(serve_echo):
    server = serve_echo()
    with server.client() as client:
        kill(server)
        client.timeout = 100
        with pytest.raises(TimeoutError, match="lost the connection"):
            client.encode(["anybody?"])
