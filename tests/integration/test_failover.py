"""A client of several servers loses nothing and gets nothing twice, although one of them is killed under load."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bert_serving.client import BertClient

from .conftest import eventually

NUM_REQUESTS = 300


def texts_of(request: int) -> list[str]:
    return [f"__sleep_2__ request{request} sentence{number}" for number in range(1 + request % 3)]


def place(server) -> str:
    return f"localhost:{server.port}:{server.port_out}"


@pytest.fixture
def client(serve, serve_echo):
    servers = [serve("-engine", "echo"), serve("-engine", "echo")]
    with BertClient(servers=[place(server.ready()) for server in servers], timeout=30_000) as client:
        client.processes = servers
        yield client


def test_one_of_two_servers_is_killed_under_load_and_comes_back(client, serve):
    one, other = client.processes
    with other.client() as alone:
        expected = [alone.encode(texts_of(request)) for request in range(0, NUM_REQUESTS, 10)]

    def work(first: int) -> dict[int, np.ndarray]:
        return {request: client.encode(texts_of(request)) for request in range(first, NUM_REQUESTS, 5)}

    with ThreadPoolExecutor(5) as pool:
        for request in range(NUM_REQUESTS):
            client.encode(texts_of(request), blocking=False)
        ids = sorted(client.pending_request)
        workers = [pool.submit(work, first) for first in range(5)]
        results = client.fetch()
        found = [next(results) for _ in range(20)]
        assert all(state["unanswered"] > 20 for state in client.status["servers"]), "both have work"
        one.process.kill()
        found.extend(results)
        threads = {}
        for worker in workers:
            threads.update(worker.result(40))

    assert sorted(response.id for response in found) == ids and len(ids) == NUM_REQUESTS, "0 lost, 0 doubled"
    fetched = {response.id: response.embedding for response in found}
    assert len(threads) == NUM_REQUESTS
    for request in range(NUM_REQUESTS):
        np.testing.assert_array_equal(threads[request], fetched[ids[request]])
        if request % 10 == 0:
            np.testing.assert_array_equal(threads[request], expected[request // 10])

    one.process.wait(10)
    assert [state["open"] for state in client.status["servers"]] == [False, True]
    serve("-engine", "echo", "-port", str(one.port), "-port_out", str(one.port_out)).ready()

    def is_back() -> bool:
        client.encode(["hello"])
        return client.status["servers"][0]["open"]

    assert eventually(is_back)


def test_a_server_that_stops_costs_nobody_an_error(client):
    """SIGTERM: what it refuses from then on goes to the other one."""
    one, _ = client.processes
    with ThreadPoolExecutor(4) as pool:
        begun = [pool.submit(client.encode, texts_of(request)) for request in range(200)]
        begun[20].result(20)
        assert one.stop() == 0
        for request, call in enumerate(begun):
            assert call.result(20).shape == (len(texts_of(request)), 768)
