"""ConcurrentBertClient: callers take turns, and a client always comes back."""
import os
import queue
import threading

import numpy as np
import pytest
from bert_serving.client import BertClient, ConcurrentBertClient, protocol
from bert_serving.client.errors import OverloadedError, PoolExhaustedError, UnauthorizedError, UnavailableError
from bert_serving.client.link import context
from fake_server import FakeServer, vectors

PATIENCE_MS = 20_000


@pytest.fixture
def pool_of(server):
    pools = []

    def pool_of(size, timeout=PATIENCE_MS, **options):
        pools.append(ConcurrentBertClient(size, **server.address, timeout=timeout, **options))
        return pools[-1]

    yield pool_of
    for pool in pools:
        pool.close()


def open_sockets():
    return sum(not socket.closed for socket in context()._sockets)


def test_it_is_a_client(pool_of, server):
    pool = pool_of(2, output_fmt="list")
    assert isinstance(pool, BertClient)
    assert pool.encode(["ab"]) == vectors(["ab"]).tolist()
    assert pool.encode([["a", "b"]], True, True) == vectors([["a", "b"]]).tolist()
    assert pool.status["output_fmt"] == "list"
    assert pool.server_config["max_seq_len"] == pool.server_status["max_seq_len"] == 25


def test_ten_by_default(server):
    with ConcurrentBertClient(**server.address, timeout=PATIENCE_MS):
        server.wait_for(10, "SHOW_CONFIG")
        assert len({message.identity for message in server.received}) == 10


def test_every_method_of_a_client_works(pool_of):
    pool = pool_of(3)
    assert pool.encode(["a"], blocking=False) is None and pool.encode(["bc"], False) is None
    assert sorted(response.embedding[0].tolist() for response in pool.fetch()) == \
        sorted(vectors([text])[0].tolist() for text in ("a", "bc"))
    pool.encode(["d"], blocking=False)
    np.testing.assert_array_equal(pool.fetch_all(concat=True), vectors(["d"]))
    assert pool.fetch_all() is None
    found = [response.embedding for response in pool.encode_async([["e"], ["f", "g"]])]
    assert sorted(map(len, found)) == [1, 2]


def test_it_hears_what_is_published_to_its_identity(pool_of, server):
    pool, heard = pool_of(2), queue.Queue()

    def listen():
        for response in pool.listen():
            heard.put(response)

    listener = threading.Thread(target=listen)
    listener.start()
    with BertClient(**server.address, timeout=PATIENCE_MS, identity=pool.identity) as other:
        while heard.empty():  # until the listener is there, nobody hears
            other.encode(["ab"])
    np.testing.assert_array_equal(heard.get(timeout=20).embedding, vectors(["ab"]))
    pool.close()
    listener.join(20)
    assert not listener.is_alive()


def test_every_property_of_a_client_is_there(pool_of, server):
    pool = pool_of(2)
    names = [name for name in dir(BertClient) if isinstance(getattr(BertClient, name), property)]
    assert {"identity", "sender", "receiver", "status", "server_config"} <= set(names)
    for name in names:
        getattr(pool, name)
    assert (pool.ip, pool.port, pool.port_out) == tuple(server.address[name] for name in ("ip", "port", "port_out"))
    assert pool.identity in {message.identity for message in server.received}


def test_what_does_not_wait_for_vectors_takes_no_turn(pool_of, server):
    server.hold()
    pool = pool_of(1)
    thread = threading.Thread(target=pool.encode, args=(["a"],))
    thread.start()
    request = server.next_held()
    pool.encode(["b"], blocking=False)
    server.answer(server.next_held())
    np.testing.assert_array_equal(pool.fetch_all(concat=True), vectors(["b"]))
    assert pool.server_status["max_seq_len"] == 25
    server.answer(request)
    thread.join(20)


@pytest.mark.parametrize("identity", ["web", b"web"])
def test_identities_differ_and_none_begins_another(pool_of, server, identity):
    pool_of(12, identity=identity)
    identities = {message.identity for message in server.received}
    assert len(identities) == 12 and all(name.startswith(b"web-") for name in identities)
    assert not any(one != other and one.startswith(other) for one in identities for other in identities)


def test_at_most_so_many_at_a_time_and_all_are_served(pool_of, server):
    server.hold()
    pool, results = pool_of(2), {}

    def call(text):
        results[text] = pool.encode([text])

    threads = [threading.Thread(target=call, args=(text,)) for text in "abcdef"]
    for thread in threads:
        thread.start()
    waiting = [server.next_held(), server.next_held()]
    for number in range(6):
        assert len(server.wait_for(0)) <= number + 2
        server.answer(waiting.pop())
        if number < 4:
            waiting.append(server.next_held())
    for thread in threads:
        thread.join(20)
    assert all(np.array_equal(results[text], vectors([text])) for text in "abcdef")


def test_no_client_becomes_free(pool_of, server):
    server.hold()
    pool = pool_of(1)
    thread = threading.Thread(target=pool.encode, args=(["a"],))
    thread.start()
    request = server.next_held()
    pool.timeout = 5
    with pytest.raises(PoolExhaustedError, match="the only client stayed busy for 5 ms") as caught:
        pool.encode(["b"])
    assert isinstance(caught.value, (RuntimeError, TimeoutError))
    server.answer(request)
    thread.join(20)


def test_client_comes_back_after_an_error(pool_of, server):
    pool = pool_of(1)
    server.handler = lambda request: [protocol.encode_error(OverloadedError("full"), request.request_id)]
    for _ in range(3):
        with pytest.raises(OverloadedError):
            pool.encode(["a"])
        with pytest.raises(TypeError):
            pool.encode("a")
    server.handler = server.reply
    assert np.array_equal(pool.encode(["a"]), vectors(["a"]))


def test_close_closes_those_in_use_when_they_come_back(server):
    before = open_sockets()
    server.hold()
    pool = ConcurrentBertClient(2, **server.address, timeout=PATIENCE_MS)
    outcome = []

    def call():
        try:
            outcome.append(pool.encode(["a"]))
        except UnavailableError as error:
            outcome.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    requests = [server.next_held(), server.next_held()]
    pool.close()
    for request in requests:
        server.answer(request)
    for thread in threads:
        thread.join(20)
    assert sum(isinstance(result, np.ndarray) for result in outcome) == 2
    assert sum(isinstance(result, UnavailableError) for result in outcome) == 1  # the one that had to wait
    assert open_sockets() == before
    with pytest.raises(UnavailableError, match="closed"):
        pool.encode(["a"])


def test_constructor_closes_what_it_made_when_it_raises():
    with FakeServer() as server:
        def refuse_the_third(request):
            return server.reply(request) if len(server.received) < 2 else [
                protocol.encode_error(OverloadedError("full"), request.request_id)]

        server.handler = refuse_the_third
        before = open_sockets()
        with pytest.raises(OverloadedError):
            ConcurrentBertClient(3, **server.address, timeout=PATIENCE_MS)
        assert open_sockets() == before


def test_empty_pool_is_refused():
    with pytest.raises(ValueError, match="max_concurrency is 0"):
        ConcurrentBertClient(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_process_has_all_clients_free(pool_of, server):
    server.hold()
    pool = pool_of(1)
    thread = threading.Thread(target=pool.encode, args=(["parent"],))
    thread.start()
    request = server.next_held()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert np.array_equal(pool.encode(["child"]), vectors(["child"]))
            status = 0
        finally:
            os._exit(status)
    server.answer(server.next_held())
    assert os.waitpid(pid, 0)[1] == 0
    server.answer(request)
    thread.join(20)


def test_keys(guarded):
    with ConcurrentBertClient(2, **guarded.address, timeout=PATIENCE_MS, curve_dir=guarded.door.keys) as pool:
        np.testing.assert_array_equal(pool.encode(["a"]), vectors(["a"]))
    before = open_sockets()
    with pytest.raises(UnauthorizedError):
        ConcurrentBertClient(2, **guarded.address)
    assert open_sockets() == before
