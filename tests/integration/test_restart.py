"""A client survives its server: whatever is outstanding when it dies is answered by the next one, right and once."""
from __future__ import annotations

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bert_serving.client.aio import AsyncBertClient

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


def connect(server):
    return AsyncBertClient(port=server.port, port_out=server.port_out, timeout=40_000)


def test_tasks_notice_nothing_of_a_killed_worker(serve_echo, expected):
    server = serve_echo("-num_worker", "2")

    async def main():
        async with connect(server) as client:
            tasks = [asyncio.ensure_future(client.encode(texts_of(number % NUM_REQUESTS))) for number in range(200)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            os.kill(server.workers()[0], signal.SIGKILL)
            for number, vectors in enumerate(await asyncio.gather(*tasks)):
                np.testing.assert_array_equal(vectors, expected[number % NUM_REQUESTS])
            assert not client.pending_request

    asyncio.run(main())
    assert "was lost" in server.log


def test_tasks_notice_nothing_of_a_killed_server(serve_echo, again, expected):
    server = serve_echo()

    async def main():
        async with connect(server) as client:
            tasks = [asyncio.ensure_future(client.encode(texts_of(request))) for request in range(NUM_REQUESTS)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            kill(server)
            again(server)  # the loop stands still meanwhile, and need not run for the connection to come back
            for vectors, right in zip(await asyncio.gather(*tasks), expected):
                np.testing.assert_array_equal(vectors, right)
            assert not client.pending_request

    asyncio.run(main())
