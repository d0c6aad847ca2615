"""A client of several servers loses nothing and gets nothing twice, although one of them is killed under load."""
from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bert_serving.client import BertClient
from bert_serving.client.aio import AsyncBertClient

from ..conftest import RunningServer
from .conftest import eventually

NUM_REQUESTS = 300
ENDS = int(os.environ.get("BERT_SERVING_TEST_ENDS", "0"))


def texts_of(request: int) -> list[str]:
    return [f"__sleep_2__ request{request} sentence{number}" for number in range(1 + request % 3)]


def place(server) -> str:
    return f"localhost:{server.port}:{server.port_out}"


def start(*ports: int) -> RunningServer:
    port, port_out = map(str, ports or (0, 0))
    return RunningServer("-engine", "echo", "-port", port, "-port_out", port_out)


@pytest.fixture(scope="module")
def servers():
    """Two, for tests that end one and put another in its place."""
    running = [start(), start()]
    try:
        for server in running:
            server.ready()
        yield running
    finally:
        for server in running:
            server.close()


@pytest.fixture
def client(servers):
    with BertClient(servers=[place(server) for server in servers], timeout=30_000) as client:
        yield client


def test_one_of_two_servers_is_killed_under_load_and_comes_back(client, servers):
    one, other = servers
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

    one.close()
    assert [state["open"] for state in client.status["servers"]] == [False, True]
    servers[0] = start(one.port, one.port_out)
    servers[0].ready()

    def is_back() -> bool:
        client.encode(["hello"])
        return client.status["servers"][0]["open"]

    assert eventually(is_back)


def test_a_server_that_stops_costs_nobody_an_error(client, servers):
    """SIGTERM: what it refuses from then on goes to the other one."""
    with ThreadPoolExecutor(4) as pool:
        begun = [pool.submit(client.encode, texts_of(request)) for request in range(200)]
        begun[20].result(20)
        assert servers[1].stop() == 0
        for request, call in enumerate(begun):
            assert call.result(20).shape == (len(texts_of(request)), 768)


@pytest.mark.skipif(not ENDS, reason="BERT_SERVING_TEST_ENDS says how often a server ends; docs/faults.md has it")
@pytest.mark.timeout(60 + 10 * ENDS)
def test_servers_end_again_and_again(client, servers):
    """By kill -9 or SIGTERM, one of two or both: threads, tasks, and one who fetches, get each answer once."""
    with servers[0].client() as alone:
        expected = [alone.encode(texts_of(request)) for request in range(50)]
    over = threading.Event()

    def ask(number: int) -> int:
        for count in itertools.count():
            if over.is_set():
                return count
            np.testing.assert_array_equal(client.encode(texts_of(number)), expected[number])

    def fetch() -> int:
        count = 0
        with BertClient(servers=[place(server) for server in servers], timeout=30_000) as own:
            while not over.is_set():
                for request in range(50):
                    own.encode(texts_of(request), blocking=False)
                ids = sorted(own.pending_request)
                found = {response.id: response.embedding for response in own.fetch()}
                assert sorted(found) == ids and len(ids) == 50
                for request, request_id in enumerate(ids):
                    np.testing.assert_array_equal(found[request_id], expected[request])
                count += len(found)
        return count

    async def tasks() -> int:
        async def one(own: AsyncBertClient, number: int) -> int:
            for count in itertools.count():
                if over.is_set():
                    return count
                np.testing.assert_array_equal(await own.encode(texts_of(number)), expected[number])

        async with AsyncBertClient(servers=[place(server) for server in servers], timeout=30_000) as own:
            return sum(await asyncio.gather(*(one(own, number) for number in range(10))))

    choice = random.Random(7)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(ask, number) for number in range(5)]
        calls += [pool.submit(fetch), pool.submit(lambda: asyncio.run(tasks()))]
        try:
            for _ in range(ENDS):
                over.wait(choice.uniform(0.2, 1))
                for index in choice.choice([[0], [1], [0, 1]]):
                    end = servers[index]
                    end.process.send_signal(choice.choice([signal.SIGKILL, signal.SIGTERM]))
                    end.process.wait(40)
                    end.close()
                    servers[index] = start(end.port, end.port_out)
                    servers[index].ready()
        finally:
            over.set()
        print(f"{sum(call.result(40) for call in calls)} answers, each right and once; servers ended {ENDS} times")
