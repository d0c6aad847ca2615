"""A link knows whether somebody is at the other end, and lets no message go that was sent."""
import os
import socket
import threading
import time

import pytest
import zmq
from bert_serving.client import link as link_module
from bert_serving.client.link import context, is_news, receiving, sending, wait_for


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
        link.look()
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
    link.look()
    assert link.describe() == f"never connected to port {port}"
    link.close()


def test_somebody_else_there(pull):
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    link = receiving("127.0.0.1", port, b"me", 0)  # as with port and port_out exchanged
    look_until(link, lambda: link.refused)
    assert "is not the expected one" in link.describe() and not link.connected
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
        receiver = receiving("127.0.0.1", pub.bind_to_random_port("tcp://127.0.0.1"), b"me", 0)
        assert receiver.receive(9) == []
        sender = sending("127.0.0.1", pull.bind_to_random_port("tcp://127.0.0.1"))
        wait_for(20, sender, receiver, room=True)  # there is room at once
        stop = threading.Event()

        def publish():
            while not stop.wait(0.001):
                pub.send_multipart([b"me", b"hello"])

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            while not receiver.socket.poll(0):
                wait_for(20, sender, receiver)
                for link in (sender, receiver):
                    link.look()
            assert receiver.receive(1) == [[b"me", b"hello"]]
        finally:
            stop.set()
            thread.join()
        receiver.close()
        sender.close()


def test_wait_for_news_of_the_connection(pull):
    port = free_port()
    sender, receiver = sending("127.0.0.1", port), receiving("127.0.0.1", free_port(), b"me", 0)
    began = time.monotonic()
    pull.bind(f"tcp://127.0.0.1:{port}")
    while not sender.connected:
        assert wait_for(20, sender, receiver) and is_news(sender) and not is_news(receiver)
        sender.look()
        assert not is_news(sender, receiver)
    assert time.monotonic() - began < 10
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
