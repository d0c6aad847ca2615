"""What the original's documentation shows, as it is printed there, with our client."""
from __future__ import annotations

import queue
import threading

import pytest

SIZES = [1, 2, 3]


@pytest.fixture
def connect(echo_server):
    """Makes clients; they are closed at the end."""
    clients = []

    def connect(**options):
        clients.append(echo_server.client(**options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def start():
    """Runs something in a thread, which has to be done at the end; ask for it before ``connect``."""
    threads = []

    def start(call, *arguments):
        threads.append(threading.Thread(target=call, args=arguments))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_asynchronous_encoding(connect):
    bc = connect()

    def text_gen():
        for size in SIZES:
            yield ["one sentence"] * size

    printed = []
    for j in bc.encode_async(text_gen()):
        printed.append("received %d x %d" % (j.shape[0], j.shape[1]))
    assert sorted(printed) == ["received %d x 768" % size for size in SIZES]


def test_fetching_later(connect):
    bc = connect()
    for size in SIZES:
        bc.encode(["one sentence"] * size, blocking=False)
    assert sorted("received %d x %d" % (j.shape[0], j.shape[1]) for j in bc.fetch()) == \
        ["received %d x 768" % size for size in SIZES]


def clones(connect, start, identity: str | bytes, heard: queue.Queue[tuple[int, str]]) -> list[threading.Thread]:
    """Two clones of a client, each listening in a thread."""
    def client_clone(id, idx):
        bc = connect(identity=id)
        for j in bc.listen():
            heard.put((idx, "received %d x %d" % (j.shape[0], j.shape[1])))

    return [start(client_clone, identity, idx) for idx in range(2)]


def collect(heard: queue.Queue[tuple[int, str]]) -> list[list[str]]:
    """What each of two clones has heard, once it is six things in all."""
    by_clone: list[list[str]] = [[], []]
    for _ in range(6):
        idx, line = heard.get(timeout=20)
        by_clone[idx].append(line)
    return by_clone


@pytest.mark.parametrize("attempt", range(20))
@pytest.mark.parametrize("late", [False, True])
def test_broadcast_is_heard_by_all_clones_however_late_they_subscribe(start, connect, late, attempt):
    heard: queue.Queue[tuple[int, str]] = queue.Queue()
    bc = connect()
    if not late:
        clones(connect, start, bc.identity, heard)
    for size in SIZES:
        bc.encode(["one sentence"] * size)
    if late:
        clones(connect, start, bc.identity, heard)
    assert collect(heard) == [["received %d x 768" % size for size in SIZES]] * 2
    bc.encode(["one sentence"] * 9)
    assert sorted(heard.get(timeout=20) for _ in range(2)) == [(idx, "received 9 x 768") for idx in range(2)]
    assert heard.empty(), "nothing is heard twice"
