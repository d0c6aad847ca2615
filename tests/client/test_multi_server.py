"""Several servers are as good as one: whichever vanishes, refuses or comes back, each request is answered once."""
import asyncio
import contextlib
import threading

import numpy as np
import pytest
from bert_serving.client import BertClient, ConcurrentBertClient, calls, multi_server, protocol
from bert_serving.client.aio import AsyncBertClient
from bert_serving.client.channel import Deadline
from bert_serving.client.errors import (DeadlineError, OverloadedError, RequestError, UnauthorizedError,
                                        UnavailableError)
from bert_serving.client.multi_server import MultiServerChannel
from fake_server import Door, FakeServer, vectors

PATIENCE_MS = 20_000


@pytest.fixture
def servers():
    """Two servers like ours."""
    with FakeServer() as one, FakeServer() as other:
        yield one, other


def places(*servers):
    return ["127.0.0.1:%d:%d" % (server.port, server.port_out) for server in servers]


@pytest.fixture
def join():
    """Makes clients of several servers, and closes them at the end."""
    with contextlib.ExitStack() as stack:
        def join(*servers, timeout=PATIENCE_MS, **options):
            return stack.enter_context(BertClient(servers=places(*servers), timeout=timeout, **options))
        yield join


def texts(number):
    return ["text %d" % number, "and its neighbour"][:1 + number % 2]


def check_answers(client, number_of_id):
    """Whether fetch gives the right vectors of each request, once."""
    found = {}
    for response in client.fetch():
        assert response.id not in found
        found[response.id] = response.embedding
    assert found.keys() == number_of_id.keys()
    for request_id, number in number_of_id.items():
        np.testing.assert_array_equal(found[request_id], vectors(texts(number)))
    assert not client.pending_request and not client._channel.dispatch.waiting


def send(client, count):
    """Send so many requests; their numbers by their ids."""
    numbers = {}
    for number in range(count):
        client.encode(texts(number), blocking=False)
        numbers[client.request_id] = number
    return numbers


def come_true(client, condition):
    """Wait until what is seen of the servers is as it should be; a client at rest sees it when it is asked."""
    deadline = Deadline(PATIENCE_MS)
    while not condition():
        client._channel.wait(lambda: condition() or None, Deadline(5))
        client._channel.states()
        assert deadline.left()


def is_open(client, *expected):
    return lambda: tuple(lane.open for lane in client._channel.dispatch.lanes) == expected


# ---- spreading -------------------------------------------------------------------------------------------------------

def test_requests_are_spread(join, servers):
    client = join(*servers)
    for server in servers:
        server.hold()
    numbers = send(client, 20)
    held = [(server, server.next_held()) for server in servers for _ in range(10)]
    assert client.status["servers"] == [
        {"server": "127.0.0.1, ports %d and %d" % (server.port, server.port_out), "open": True, "unanswered": 10,
         "seen": "connected, with 10 requests that it has not answered"} for server in servers]
    for server, request in reversed(held):
        server.answer(request)
    check_answers(client, numbers)


def test_one_that_asks_for_one_thing_at_a_time_uses_all(join, servers):
    client = join(*servers)
    for number in range(6):
        np.testing.assert_array_equal(client.encode(texts(number)), vectors(texts(number)))
    assert [len(server.wait_for(3)) for server in servers] == [3, 3]


def test_all_that_a_client_can_do(join, servers):
    client = join(*servers, output_fmt="list")
    assert client.encode(["a b"]) == vectors(["a b"]).tolist()
    assert [client.encode(texts(number), blocking=False) for number in range(4)] == [None] * 4
    assert client.fetch_all() == [vectors(texts(number)).tolist() for number in range(4)]
    responses = sorted(client.encode_async(texts(number) for number in range(50)))
    assert [response.embedding for response in responses] == [vectors(texts(n)).tolist() for n in range(50)]
    assert client.encode(["a b"], show_tokens=False) == vectors(["a b"]).tolist()


def test_status_is_that_of_the_first_that_is_there(servers, join):
    servers[0].config["name"], servers[1].config["name"] = "first", "second"
    client = join(*servers)
    assert client.server_config["name"] == client.server_status["name"] == "first"
    servers[0].stop()
    come_true(client, is_open(client, False, True))
    assert client.server_config["name"] == client.server_status["name"] == "second"


def test_threads_share_a_client(join, servers):
    client = join(*servers)
    results = {}

    def work(first):
        for number in range(first, 100, 5):
            results[number] = client.encode(texts(number))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for number in range(100):
        np.testing.assert_array_equal(results[number], vectors(texts(number)))
    assert all(len(server.received) > 20 for server in servers)


def test_a_pool(servers):
    with ConcurrentBertClient(max_concurrency=2, servers=places(*servers), timeout=PATIENCE_MS) as pool:
        for number in range(4):
            np.testing.assert_array_equal(pool.encode(texts(number)), vectors(texts(number)))
        assert len(pool.status["servers"]) == 2


# ---- servers that vanish and come back -------------------------------------------------------------------------------

def test_what_a_vanished_server_had_goes_to_another_one(join, servers):
    gone, other = servers
    client = join(*servers)
    for server in servers:
        server.hold()
    numbers = send(client, 20)
    for _ in range(10):
        gone.next_held()
    kept = [other.next_held() for _ in range(10)]
    other.go_on()
    gone.stop()
    for request in kept:
        other.answer(request)
    check_answers(client, numbers)
    assert len(set(other.ids())) == len(other.ids()) == 20, "nothing was sent twice to one server"


def test_a_server_that_comes_back_is_used_again(join, servers):
    client = join(*servers)
    servers[0].stop()
    for number in range(4):
        client.encode(texts(number))
    servers[0].received.clear()
    servers[0].start()
    come_true(client, is_open(client, True, True))
    before = client.request_id
    for number in range(4):
        client.encode(texts(number))
    # What was on its way when it stopped may reach it now, too; it was answered by the other one.
    assert len([request_id for request_id in servers[0].ids() if request_id > before]) == 2


def test_nobody_is_there_for_a_while(join, servers):
    """What is asked meanwhile waits for the first that comes back."""
    client = join(*servers)
    for server in servers:
        server.hold()
    numbers = send(client, 4)
    for server in servers:
        server.next_held()
        server.stop()
    come_true(client, is_open(client, False, False))
    client.encode(texts(4), blocking=False)
    numbers[client.request_id] = 4
    servers[1].received.clear()
    servers[1].go_on()
    servers[1].start()
    check_answers(client, numbers)
    assert sorted(servers[1].ids()) == sorted(numbers)


def test_a_late_answer_from_where_the_request_was_first_counts_once(join, servers):
    """Its connection for requests was lost, and it answers all the same; the other one answers, too."""
    first, other = servers
    client = join(first, other)
    first.hold()
    other.hold()
    numbers = send(client, 1)
    timeout_error = first.next_held()
    first.cut("port")
    come_true(client, lambda: not other.held.empty())
    again = other.next_held()
    assert again.request_id == timeout_error.request_id
    come_true(client, is_open(client, True, True))
    first.answer(timeout_error)
    check_answers(client, numbers)
    other.answer(again)
    first.go_on()
    other.go_on()
    numbers = send(client, 4)
    check_answers(client, numbers)


def test_a_client_may_begin_while_a_server_is_away(join, servers, monkeypatch):
    monkeypatch.setattr(calls, "_JOIN_MS", 1)
    servers[0].stop()
    client = join(*servers)
    np.testing.assert_array_equal(client.encode(["a"]), vectors(["a"]))
    assert "never connected" in client.status["servers"][0]["seen"]
    servers[0].start()
    come_true(client, is_open(client, True, True))


def test_all_gone_is_a_deadline_that_says_what_was_seen_of_each(join, servers):
    client = join(*servers)
    servers[0].stop()
    servers[1].stop()
    come_true(client, is_open(client, False, False))
    client.timeout = 20
    seen = "; ".join(r"127\.0\.0\.1, ports %d and %d: lost the connection to port %d[^;]*"
                     % (server.port, server.port_out, server.port) for server in servers)
    with pytest.raises(DeadlineError, match="no server did encode 1 text within 20 ms; " + seen):
        client.encode(["a"])
    assert not client.pending_request and not client._channel.dispatch.waiting


def test_what_the_client_asks_by_itself_is_not_pending(join, servers):
    client = join(*servers)
    silent = servers[0].handler
    servers[0].handler = lambda request: [] if request.command else silent(request)
    servers[0].restart()
    come_true(client, lambda: client._channel.members[0].hello)
    assert not client.pending_request and client.status["num_pending_request"] == 0
    client.encode(["a"])


def test_none_there_at_the_beginning(servers):
    for server in servers:
        server.stop()
    with pytest.raises(DeadlineError, match="no server did answer SHOW_CONFIG within 20 ms.*never connected"):
        BertClient(servers=places(*servers), timeout=20)


def test_one_that_is_silent_gets_nothing_while_another_answers(join, servers):
    client = join(*servers)
    servers[0].hold()
    client.timeout = 50
    with pytest.raises(DeadlineError, match="connected, with 1 request that it has not answered"):
        client.encode(["a"])
    client.timeout = PATIENCE_MS
    for number in range(3):
        client.encode(texts(number))
    assert len(servers[0].ids()) == 1
    servers[0].go_on()
    servers[0].answer(servers[0].next_held())
    while len(servers[0].ids()) == 1:  # the late answer is read while another one is waited for
        client.encode(["b"])


@pytest.mark.parametrize("patience_ms", [5, PATIENCE_MS])
def test_more_than_may_wait(join, servers, patience_ms):
    client = join(servers[0])
    client._channel._max_unsent = 2
    servers[0].stop()
    come_true(client, is_open(client, False))
    numbers = send(client, 2)
    client.timeout = patience_ms
    if patience_ms == 5:
        with pytest.raises(DeadlineError, match="no server did take a request within 5 ms"):
            client.encode(["a"], blocking=False)
        servers[0].start()
    else:
        starting = threading.Thread(target=servers[0].start)
        starting.start()
        client.encode(texts(2), blocking=False)
        numbers[client.request_id] = 2
        starting.join(10)
    client.timeout = PATIENCE_MS
    check_answers(client, numbers)


# ---- servers that refuse ---------------------------------------------------------------------------------------------

def refusing(server, error):
    """Let a server refuse every encode request."""
    def handler(request):
        if request.command:
            return server.reply(request)
        return [failed(error, request)]
    server.handler = handler


def failed(error, request):
    """Frames of an error, without the topic."""
    return protocol.encode_error(error, request.request_id)


@pytest.mark.parametrize("error", [OverloadedError("full", retry_after=60.0), UnavailableError("stopping")])
def test_another_one_is_asked_when_one_refuses(join, servers, error):
    refusing(servers[0], error)
    client = join(*servers)
    for number in range(6):
        np.testing.assert_array_equal(client.encode(texts(number)), vectors(texts(number)))
    assert len(servers[0].ids()) == 1, "and it is left in peace for a while"
    assert len(servers[1].ids()) == 6


@pytest.mark.parametrize("error", [OverloadedError("full"), UnavailableError("stopping")])
def test_what_all_refuse_is_raised(join, servers, error):
    for server in servers:
        refusing(server, error)
    client = join(*servers)
    with pytest.raises(type(error), match=error.message):
        client.encode(["a"])
    assert [len(server.ids()) for server in servers] == [1, 1]
    assert not client.pending_request


def test_one_that_stops_while_the_other_is_away(join, servers):
    """As when servers are restarted one after the other: the request waits for the one that comes back."""
    client = join(*servers)
    servers[1].stop()
    come_true(client, is_open(client, True, False))
    refusing(servers[0], UnavailableError("stopping"))
    client.encode(texts(1), blocking=False)
    come_true(client, lambda: client._channel.dispatch.waiting)
    servers[1].start()
    check_answers(client, {client.request_id: 1})


def test_other_errors_are_answers(join, servers):
    for server in servers:
        refusing(server, RequestError("no text"))
    with pytest.raises(RequestError, match="no text"):
        join(*servers).encode(["a"])
    assert sum(len(server.ids()) for server in servers) == 1


# ---- servers that do not belong together -----------------------------------------------------------------------------

def test_servers_of_other_vectors_are_refused(servers):
    servers[0].config.update(model_name="one")
    servers[1].config.update(model_name="another", max_seq_len=40)
    with pytest.raises(ValueError, match=r"gives other vectors than 127\.0\.0\.1, ports \d+ and \d+: model_name is \w+ "
                       r"instead of \w+, max_seq_len is \d\d instead of \d\d; servers of one client"):
        BertClient(servers=places(*servers), timeout=PATIENCE_MS)


def test_without_checks_too(join, servers):
    servers[1].config.update(max_seq_len=40)
    client = join(*servers, ignore_all_checks=True)
    with pytest.raises(ValueError, match="other vectors"):
        client.encode(["a"])


def test_one_that_comes_back_with_another_model_is_not_used(join, servers):
    client = join(*servers)
    servers[0].config.update(pooling_layer=[-1])
    servers[0].received.clear()
    servers[0].restart()
    come_true(client, lambda: client._channel.objections())
    with pytest.warns(UserWarning, match=r"not used any more.*pooling_layer is \[-1\] instead of \[-2\]"):
        client.encode(["a"])
    client.encode(["a"])  # and that is said once
    assert not servers[0].ids()
    servers[1].stop()
    client.timeout = 20
    with pytest.raises(DeadlineError, match="other vectors"):
        client.encode(["a"])
    servers[0].config.update(pooling_layer=[-2])
    servers[0].restart()
    client.timeout = PATIENCE_MS
    np.testing.assert_array_equal(client.encode(["a"]), vectors(["a"]))


def test_servers_before_2_are_refused():
    with FakeServer("1.10.0") as old, pytest.raises(ValueError, match="version 1.10.0, and cannot be one of several"):
        BertClient(servers=places(old), timeout=PATIENCE_MS)


def test_servers_of_a_later_protocol_are_refused(join, servers):
    servers[0].config["protocol_version"] = 99
    with pytest.raises(ValueError, match="speaks protocol 99"):
        BertClient(servers=places(servers[0]), timeout=PATIENCE_MS)
    join(servers[0], check_version=False).encode(["a"])


def test_a_server_that_does_not_say_what_it_serves(servers):
    servers[0].handler = lambda request: [failed(UnavailableError("not today"), request)]
    with pytest.raises(ValueError, match="it does not say what it serves: not today"):
        BertClient(servers=places(servers[0]), timeout=PATIENCE_MS)


def test_keys(guarded, servers):
    """One server that lets nobody in without a key is left out; several such ones are an error."""
    with BertClient(servers=places(guarded, servers[0]), timeout=PATIENCE_MS) as client:
        client.encode(["a"])
        assert "a key" in client.status["servers"][0]["seen"]
    with FakeServer(door=Door()) as stranger, pytest.raises(UnauthorizedError, match="; the server at 127"):
        BertClient(servers=places(guarded, stranger), timeout=PATIENCE_MS)


# ---- what belongs to every client ------------------------------------------------------------------------------------

def test_a_list_or_one_server(servers):
    with pytest.raises(ValueError, match="both ip"):
        BertClient(ip="10.0.0.7", servers=places(*servers))


def test_closing(join, servers):
    client = join(*servers)
    servers[0].hold()
    servers[1].hold()
    errors = []

    def call():
        try:
            client.encode(["a"])
        except UnavailableError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    servers[0].next_held()
    client.close()
    thread.join(20)
    assert errors
    with pytest.raises(UnavailableError, match="closed"):
        client.encode(["a"])
    assert client.status["servers"][0]["seen"] == "the client was closed"


def test_nothing_is_opened_by_a_constructor(servers):
    channel = calls.Calls(servers=places(*servers))._channel
    assert isinstance(channel, MultiServerChannel) and channel._links is None
    assert "not contacted yet" in str(channel.timeout_error("do it", Deadline(5)))


def test_what_cannot_be_opened_leaves_nothing_open(servers, monkeypatch):
    channel = calls.Calls(servers=places(*servers))._channel
    opened = []
    really = multi_server.sending

    def sending(*arguments, **options):
        if opened:
            raise OSError("no more sockets")
        opened.append(really(*arguments, **options))
        return opened[0]

    monkeypatch.setattr(multi_server, "sending", sending)
    with pytest.raises(OSError, match="no more"):
        channel.links()
    assert opened[0].socket.closed and channel._links is None


# ---- asyncio ---------------------------------------------------------------------------------------------------------

def test_tasks_notice_nothing_of_a_vanished_server(servers):
    gone, other = servers

    async def main():
        async with AsyncBertClient(servers=places(*servers), timeout=PATIENCE_MS) as client:
            gone.hold()
            tasks = [asyncio.ensure_future(client.encode(texts(number))) for number in range(40)]
            await asyncio.get_running_loop().run_in_executor(None, gone.next_held)
            await asyncio.get_running_loop().run_in_executor(None, gone.stop)
            for number, rows in enumerate(await asyncio.gather(*tasks)):
                np.testing.assert_array_equal(rows, vectors(texts(number)))
            assert not client.pending_request

    asyncio.run(asyncio.wait_for(main(), 40))


def test_a_task_that_sends_without_end_does_not_block_the_loop(servers):
    """Nobody is there, and sending returns all the same."""
    async def main():
        client = AsyncBertClient(servers=places(*servers), timeout=PATIENCE_MS)
        async with client:
            for server in servers:
                server.stop()
            for _ in range(1100):
                await client.encode(["a"], blocking=False)
            servers[0].start()
            assert len(await client.fetch_all()) == 1100

    asyncio.run(asyncio.wait_for(main(), 40))
