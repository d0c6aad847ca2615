"""A link knows whether somebody is at the other end, and why it is not let in; it lets no message go that was sent."""
import os
import socket
import threading
import time

import pytest
import zmq
from bert_serving.client import link as link_module
from bert_serving.client.curve import Keys, KeysError
from bert_serving.client.link import context, greeting_of, is_news, receiving, sending, wait_for
from fake_server import Door


@pytest.fixture
def pull():
    with zmq.Context() as outside, outside.socket(zmq.PULL) as pull:
        pull.linger = 0
        pull.rcvtimeo = 20_000
        yield pull


def look_until(link, condition):
    """Waits for an event that comes from libzmq's own thread."""
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        link._monitor.poll(10)
        link.update()
    assert condition()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_one_context_for_all_that_is_never_replaced():
    assert context() is context() and not context().closed


def test_connected_lost_and_back(pull):
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    link = sending("127.0.0.1", port)
    look_until(link, lambda: link.connected)
    assert link.describe() == f"connected to port {port}"
    pull.close(0)
    look_until(link, lambda: not link.connected)
    assert link.describe() == f"lost the connection to port {port}"
    with zmq.Context() as outside, outside.socket(zmq.PULL) as again:
        again.bind(f"tcp://127.0.0.1:{port}")
        look_until(link, lambda: link.connections == 2)
        assert link.connected
    link.close()


def test_nobody_there():
    port = free_port()
    link = sending("127.0.0.1", port)
    link.update()
    assert link.describe() == f"never connected to port {port}"
    link.close()


def test_somebody_else_there(pull):
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    link = receiving("127.0.0.1", port, [b"me"], 0)  # as with port and port_out exchanged
    look_until(link, lambda: link.refused)
    assert "answers, but not as that one" in link.describe() and not link.connected
    link.close()


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6_address(pull, host):
    pull.ipv6 = True
    try:
        port = pull.bind_to_random_port("tcp://[::1]")
    except zmq.ZMQError:
        pytest.skip("this machine has no IPv6")
    link = sending(host, port)
    assert link.send([b"x"])
    assert pull.recv() == b"x"
    link.close()


def test_impossible_address_leaves_no_socket():
    before = context()._sockets if hasattr(context(), "_sockets") else ()
    count = len(before)
    with pytest.raises(zmq.ZMQError):
        sending("no host name", 1)
    assert len(before) == count


def test_full_queue_is_said_not_waited_for(monkeypatch):
    link = link_module.Link(zmq.PUSH, "127.0.0.1", free_port(), sndhwm=1)
    assert link.send([b"x"])
    assert not link.send([b"y"])
    monkeypatch.setattr(link_module, "LINGER_MS", 1)
    link.close()


def test_flush_waits_until_everything_has_left(pull, monkeypatch):
    port = free_port()
    link = sending("127.0.0.1", port)
    for number in range(100):
        assert link.send([b"%d" % number, bytes(10_000)])
    naps = []

    def nap(seconds):
        if not naps:
            pull.bind(f"tcp://127.0.0.1:{port}")  # the server comes up while close() waits
        naps.append(seconds)

    monkeypatch.setattr(link_module.time, "sleep", nap)
    link.close(flush=True)
    assert naps
    assert [int(pull.recv_multipart()[0]) for _ in range(100)] == list(range(100))


def test_flush_gives_up(monkeypatch):
    monkeypatch.setattr(link_module, "LINGER_MS", 20)
    link = sending("127.0.0.1", free_port())
    link.send([b"x"])
    link.close(flush=True)  # would hang if it waited for the message
    assert link.socket.closed


def test_wait_for_a_message_or_for_room(pull):
    with zmq.Context() as outside, outside.socket(zmq.PUB) as pub:
        pub.linger = 0
        receiver = receiving("127.0.0.1", pub.bind_to_random_port("tcp://127.0.0.1"), [b"me"], 0)
        assert receiver.receive(9) == []
        sender = sending("127.0.0.1", pull.bind_to_random_port("tcp://127.0.0.1"))
        wait_for(20, [sender], [receiver], room=True)  # there is room at once
        stop = threading.Event()

        def publish():
            while not stop.wait(0.001):
                pub.send_multipart([b"me", b"hello"])

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            while not receiver.socket.poll(0):
                wait_for(20, [sender], [receiver])
                for link in (sender, receiver):
                    link.update()
            assert receiver.receive(1) == [[b"me", b"hello"]]
        finally:
            stop.set()
            thread.join()
        receiver.close()
        sender.close()


def test_wait_for_news_of_the_connection(pull):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # so that nobody else listens there
        receiver = receiving("127.0.0.1", deaf.getsockname()[1], [b"me"], 0)
        sender = sending("127.0.0.1", free_port())
        pull.bind(f"tcp://127.0.0.1:{sender.port}")
        while not sender.connected:
            assert wait_for(20, [sender], [receiver]) and is_news(sender) and not is_news(receiver)
            sender.update()
        assert not is_news(sender, receiver)  # the handshake's end was the last there is
        sender.close()
        receiver.close()


def test_an_idle_peer_is_asked_for_by_the_kernel(pull):
    link = sending("127.0.0.1", free_port())
    assert link.socket.tcp_keepalive == 1
    assert link.socket.tcp_keepalive_idle + link.socket.tcp_keepalive_intvl * link.socket.tcp_keepalive_cnt <= 60
    assert link.socket.heartbeat_ivl == 0  # it would cut the connection to one that is merely busy
    link.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # this process has threads, which is the point
def test_child_has_a_context_of_its_own():
    parent = context()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if context() is not parent else 1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("let_go", [lambda link: link.close(), lambda link: None], ids=["close", "collected"])
def test_end_of_one_link_never_stops_the_others(pull, let_go):
    """It connects only after its end. The event, with nobody left to hear it, would block libzmq's only I/O thread."""
    port = free_port()
    link = sending("127.0.0.1", port)
    link.send([b"unsent"])
    let_go(link)
    del link
    pull.bind(f"tcp://127.0.0.1:{port}")
    assert pull.recv() == b"unsent"
    other = sending("127.0.0.1", port)
    look_until(other, lambda: other.connected)
    other.close()


# ---- keys ------------------------------------------------------------------------------------------------------------

@pytest.fixture
def door():
    return Door()


@pytest.fixture
def guarded(pull, door):
    """Port of a socket that lets in those only whom the door does."""
    authenticator = door.open(pull.context, pull)
    yield pull.bind_to_random_port("tcp://127.0.0.1")
    authenticator.stop()


def test_the_right_keys(pull, guarded, door):
    link = sending("127.0.0.1", guarded, keys=door.keys)
    look_until(link, lambda: link.connected)
    assert link.send([b"x"]) and pull.recv() == b"x" and not link.unauthorized
    link.close()


def refusal(port, keys):
    """Why a link is not let in; however often libzmq connects again, it stays so."""
    link = sending("127.0.0.1", port, keys=keys)
    look_until(link, lambda: link.unauthorized)
    assert not link.connected and link.unauthorized.startswith(f"the server at 127.0.0.1, port {port}, ")
    link.close()
    return link.unauthorized


@pytest.mark.parametrize("attempt", range(5))  # either end may be the first to hang up
def test_a_server_that_wants_keys(guarded, attempt):
    assert "lets in only clients with a key: give curve_dir" in refusal(guarded, None)


@pytest.mark.parametrize("attempt", range(5))
def test_a_server_that_has_no_keys(pull, door, attempt):
    assert "does without keys" in refusal(pull.bind_to_random_port("tcp://127.0.0.1"), door.keys)


def test_a_key_that_the_server_does_not_know(guarded, door):
    told = refusal(guarded, door.stranger)
    assert f"does not know this client's key, {door.stranger.public.decode()}" in told
    assert door.stranger.secret.decode() not in told


def test_another_server_than_expected(guarded, door):
    other = Keys(door.stranger.public, door.keys.public, door.keys.secret, "the-directory")
    assert "has not the key that the-directory has for it" in refusal(guarded, other)


@pytest.mark.parametrize("with_keys, told", [(False, "lets in only clients with a key"), (True, "has not the key")])
def test_who_hangs_up_first_is_looked_at(guarded, door, with_keys, told):
    """libzmq does not tell why then, if it is quick enough."""
    link = sending("127.0.0.1", free_port(), keys=door.keys if with_keys else None)
    link.port = guarded
    link._suspect()
    assert told in link.unauthorized
    link.close()


class Closing:
    """Takes connections and closes them at once, as a proxy does whose server is not there."""

    def __init__(self, says=b""):
        self.says, self.closed = says, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(self.says)
            self.closed += 1

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(10)


@pytest.mark.parametrize("with_keys", [False, True])
def test_who_hangs_up_without_a_greeting_is_waited_for(door, with_keys):
    closing = Closing()
    link = sending("127.0.0.1", closing.port, keys=door.keys if with_keys else None)
    look_until(link, lambda: link._failures > 2 * link_module._SUSPICIOUS)
    assert not link.unauthorized
    link.close()
    closing.close()


def test_let_in_after_all(door):
    """The right server comes back to where another one was meanwhile."""
    with zmq.Context() as outside:
        with outside.socket(zmq.PULL) as wrong:
            wrong.curve_server, wrong.curve_secretkey = True, zmq.curve_keypair()[1]
            port = wrong.bind_to_random_port("tcp://127.0.0.1")
            link = sending("127.0.0.1", port, keys=door.keys)
            look_until(link, lambda: link.unauthorized)
        with outside.socket(zmq.PULL) as right:
            right.curve_server, right.curve_secretkey = True, door.secret
            until = time.monotonic() + 20
            while not binds(right, port):
                assert time.monotonic() < until
                link._monitor.poll(10)
            look_until(link, lambda: link.connected)
            assert not link.unauthorized
        link.close()


def binds(socket, port):
    """Whether the port is free again."""
    try:
        socket.bind(f"tcp://127.0.0.1:{port}")
    except zmq.ZMQError:
        return False
    return True


def test_what_a_peer_greets_with(pull, guarded):
    assert greeting_of("127.0.0.1", guarded) == "CURVE"
    with zmq.Context() as outside, outside.socket(zmq.XPUB) as plain:
        assert greeting_of("127.0.0.1", plain.bind_to_random_port("tcp://127.0.0.1")) == "NULL"
    assert greeting_of("127.0.0.1", free_port()) is None


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", b"\xff" + bytes(70)])
def test_who_greets_otherwise(says):
    closing = Closing(says)
    assert greeting_of("127.0.0.1", closing.port) is None
    closing.close()


def test_who_says_nothing_is_not_waited_for_long():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert greeting_of("127.0.0.1", silent.getsockname()[1], seconds=0.05) is None


def test_a_zeromq_without_curve_is_named(door, monkeypatch):
    monkeypatch.setattr(zmq, "has", lambda name: False)
    with pytest.raises(KeysError, match="built without CURVE"):
        sending("127.0.0.1", 1, keys=door.keys)


def test_meet(pull, guarded, door):
    for keys, is_let_in in ((door.keys, True), (door.stranger, False)):
        link = sending("127.0.0.1", guarded, keys=keys)
        link.wait_connected(20)
        assert link.connected == is_let_in and bool(link.unauthorized) != is_let_in
        link.close()
    link = sending("127.0.0.1", free_port())
    link.wait_connected(0.01)
    assert not link.connected and not link.unauthorized
    link.close()
