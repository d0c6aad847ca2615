"""Connections over real sockets, with a loop that the test turns by hand: callers that are slow, many, or large."""
import json
import logging
import socket
import time

import pytest
from bert_serving.server.api_keys import ApiKeys
from bert_serving.server.proxy import connections
from bert_serving.server.proxy.connections import HEAD_BYTES, WINDOW_SECONDS, HttpChannel, HttpParser, Room, HttpServer
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import ClientDisconnected

KEY = "a-key-of-this-test"
HALF = b"POST /x HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000


class Later:
    """Stands for the threads: what waits for one is served when the test turns the loop."""

    def __init__(self):
        self.tasks = []

    def add_task(self, channel):
        self.tasks.append(channel)


class Served:
    """A server whose application answers with the number of bytes that it was sent."""

    def __init__(self, **limits):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.channels, self.later, self.callers = {}, Later(), []
        self.server = HttpServer(self.app, self.listener, self.later, channels=self.channels, **{
            "keys": ApiKeys(), "most_connections": 100, "most_body": 1_000_000, "most_held": 1_000_000, **limits})

    @staticmethod
    def app(environ, start_response):
        size = len(environ["wsgi.input"].read())
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"%d" % size]

    def call(self, sent=b""):
        """A caller that has sent this."""
        caller = socket.create_connection(self.listener.getsockname(), 20)
        caller.setblocking(False)
        self.callers.append(caller)
        while sent:
            try:
                sent = sent[caller.send(sent):]
            except BlockingIOError:
                pass
            self.turn()
        self.turn()
        return caller

    def turn(self, times=20):
        for _ in range(times):
            wasyncore.loop(timeout=0, use_poll=True, map=self.channels, count=1)
            while self.later.tasks:
                self.later.tasks.pop().service()

    def later_on(self, seconds):
        """As if so much time had gone by."""
        self.server.maintenance(time.time() + seconds)
        self.turn()

    def answer(self, caller):
        """What a caller got: (status, head, body), None for nothing, "closed" for the end alone."""
        self.turn()
        try:
            data = caller.recv(1 << 20)
        except BlockingIOError:
            return None
        if not data:
            return "closed"
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), head.decode(), body.decode()

    def close(self):
        for caller in self.callers:
            caller.close()
        self.turn()
        wasyncore.close_all(self.channels)
        self.listener.close()


@pytest.fixture
def serve():
    served = []

    def start(**limits):
        served.append(Served(**limits))
        return served[-1]

    yield start
    for one in served:
        one.close()


def get(path="/", *headers):
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: h", *headers, "", ""]).encode()


# ---- callers that are slow -------------------------------------------------------------------------------------------

CHUNKED = b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("sent", [b"GET / HT", HALF[:100], CHUNKED + b"5\r\n"])
def test_a_request_that_does_not_come_is_given_up_with_a_word(serve, sent):
    served = serve()
    caller = served.call(sent)
    served.later_on(WINDOW_SECONDS - 1)
    assert served.answer(caller) is None
    served.later_on(WINDOW_SECONDS + 1)
    status, head, body = served.answer(caller)
    assert status == 408 and "Connection: close" in head
    assert json.loads(body)["code"] == "deadline" and "came too slowly" in json.loads(body)["description"]
    assert served.answer(caller) == "closed"
    assert not served.server.active_channels


def test_a_head_that_trickles_is_given_up_too(serve):
    served = serve()
    caller = served.call(b"GET / HTTP/1.1\r\n")
    for _ in range(100):
        caller.send(b"X: " + b"y" * 200 + b"\r\n")
        served.turn(2)
    served.later_on(WINDOW_SECONDS + 1)
    assert served.answer(caller)[0] == 408


def test_a_slow_body_is_waited_for_as_long_as_it_comes(serve):
    served = serve()
    caller = served.call(HALF)
    served.later_on(WINDOW_SECONDS + 1)  # 50,000 bytes came in this window
    assert served.answer(caller) is None
    served.later_on(3 * WINDOW_SECONDS)  # and none in this one
    assert served.answer(caller)[0] == 408


def test_the_time_in_which_a_request_is_answered_is_not_its_callers(serve):
    served = serve()
    caller = served.call(get() + HALF)
    assert served.answer(caller)[0] == 200
    channel, = served.server.active_channels.values()
    channel.requests.append(object())
    served.later_on(1000)
    channel.requests.clear()
    assert served.answer(caller) is None


def test_keep_alive_ends(serve):
    served = serve()
    caller = served.call(get())
    assert served.answer(caller)[0] == 200
    served.later_on(connections.IDLE_SECONDS - 1)
    assert served.answer(caller) is None
    served.later_on(connections.IDLE_SECONDS + 1)
    assert served.answer(caller) == "closed"


def test_who_does_not_read_is_closed(serve):
    served = serve()

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "30000000")])
        return [b"x" * 30_000_000]

    served.server.application = app
    caller = served.call(get())
    served.turn()
    assert len(served.server.active_channels) == 1
    served.later_on(connections.IDLE_SECONDS + 1)
    assert not served.server.active_channels
    caller.close()


@pytest.mark.parametrize("sent", [b"what is this\r\n\r\n", b"\0\r\n\r\n", b"GET / HTTP/1.1\r\nX\r\n\r\n", get()])
def test_who_hangs_up_while_it_is_answered_leaves_nothing(serve, sent, monkeypatch, caplog):
    def write(channel, data):
        raise ClientDisconnected

    monkeypatch.setattr(HttpChannel, "write_soon", write)
    served = serve()
    served.call(sent)
    assert not served.server.active_channels
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_what_is_sent_to_a_connection_that_was_just_closed_goes_nowhere(serve):
    served = serve()
    served.call()
    channel, = served.server.active_channels.values()
    channel.handle_close()
    channel.socket = None
    assert channel.send(b"x") == 0


def test_a_failure_of_our_own_costs_one_connection(serve, caplog, monkeypatch):
    monkeypatch.setattr(HttpChannel, "error_task_class", None)
    served = serve()
    assert served.answer(served.call(b"what is this\r\n\r\n")) == "closed"
    assert not served.server.active_channels
    assert "a connection failed for a reason of our own" in caplog.text


# ---- callers that are many -------------------------------------------------------------------------------------------

def test_who_was_waited_for_longest_makes_room(serve):
    served = serve(most_connections=3)
    first, second, third = served.call(b"GET / HT"), served.call(), served.call(b"GE")
    fourth = served.call(get())
    assert served.answer(fourth)[0] == 200
    status, _, body = served.answer(first)
    assert status == 408 and "3 connections, and others want" in body
    assert served.answer(second) is served.answer(third) is None
    served.call()
    assert served.answer(second) == "closed"  # it had not begun anything
    assert served.answer(third) is None
    assert len(served.server.active_channels) == 3


def test_nobody_who_is_served_makes_room(serve):
    served = serve(most_connections=2)
    callers = [served.call(), served.call()]
    channels = list(served.server.active_channels.values())
    for channel in channels:
        channel.requests.append(object())
    waiting = served.call(get())
    assert served.answer(waiting) is None and not served.server.readable()
    channels[0].requests.clear()
    assert served.answer(waiting)[0] == 200
    channels[1].requests.clear()
    assert served.answer(callers[0]) == "closed" and served.answer(callers[1]) is None


# ---- bodies ----------------------------------------------------------------------------------------------------------

def test_bodies_together_have_their_limit_and_the_oldest_goes(serve):
    served = serve(most_held=120_000)
    first, second = served.call(HALF), served.call(HALF)
    assert served.server.room.held == 100_000
    third = served.call(HALF)
    assert served.answer(first)[0] == 408
    assert served.answer(second) is served.answer(third) is None
    assert served.server.room.held == 100_000
    second.sendall(b"x" * 20_000)
    served.turn()
    second.sendall(b"x" * 30_000)
    assert served.answer(second)[::2] == (200, "100000")
    assert served.answer(third)[0] == 408
    assert served.server.room.held == 0


def test_without_room_a_body_is_refused_and_read_to_its_end(serve):
    served = serve(most_held=120_000)
    served.server.room.held += 100_000  # requests that wait for a thread: they cannot be sent away
    caller = served.call(HALF)
    assert served.answer(caller) is None
    caller.sendall(b"x" * 50_000)
    status, head, body = served.answer(caller)
    assert status == 429 and "Retry-After: 1" in head
    assert json.loads(body)["code"] == "overloaded"
    assert served.server.room.held == 100_000


def test_room_comes_back_however_a_request_ends(serve):
    served = serve()
    assert served.answer(served.call(HALF + b"x" * 50_000))[::2] == (200, "100000")
    assert served.server.room.held == 0
    served.call(HALF).close()
    served.turn()
    assert served.server.room.held == 0
    caller = served.call(CHUNKED + b"c350\r\n" + b"x" * 50_000)
    assert served.server.room.held == 50_000
    caller.sendall(b"\r\n0\r\n\r\n")
    assert served.answer(caller)[::2] == (200, "50000")
    assert served.server.room.held == 0


@pytest.mark.parametrize("line", [b"5" * 200_000, b"5;" + b"x" * 200_000, b"1\r\na\r\n0\r\nX: " + b"y" * 200_000])
def test_a_chunked_body_s_lines_end(serve, line):
    served = serve()
    caller = served.call(CHUNKED + line)
    status, _, body = served.answer(caller)
    assert status == 400 and "does not end" in body


def test_a_head_has_its_limit(serve):
    served = serve()
    assert served.answer(served.call(get("/", "X: " + "y" * (HEAD_BYTES - 100))))[0] == 200
    assert served.answer(served.call(get("/", "X: " + "y" * HEAD_BYTES)))[0] == 431


# ---- keys ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("length", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("header, size", [
    ("X-Other: 1", "0"), (f"Authorization: Bearer {KEY}x", "0"), (f"Authorization: Bearer {KEY}", "5"),
    (f"X-API-Key: {KEY}", "5")])
def test_a_stranger_s_body_is_not_kept(serve, header, size, length):
    served = serve(keys=ApiKeys([KEY]))
    body = b"hello" if b"Content" in length else b"5\r\nhello\r\n0\r\n\r\n"
    request = b"POST /x HTTP/1.1\r\n" + header.encode() + b"\r\n" + length + b"\r\n\r\n" + body
    caller = served.call(request + get("/", header))
    status, _, answer = served.answer(caller)
    assert (status, answer[:len(size)]) == (200, size)
    assert "200 OK" in answer, "the connection goes on"


# ---- the parser ------------------------------------------------------------------------------------------------------

def parser_of(most_body):
    return HttpParser(Adjustments(max_request_body_size=most_body + 1), ApiKeys(), Room(most_body))


def feed(header, size, at_once):
    """A parser that has read a request of that many bytes, and none of the next one."""
    parser = parser_of(1_000_000)
    stream = b"POST /encode HTTP/1.1\r\n" + header + b"\r\n\r\n" + b"x" * size + b"GET"
    at = 0
    while not parser.completed:
        at += parser.received(stream[at:at + at_once])
    assert stream[at:] == b"GET"
    return parser


@pytest.mark.parametrize("size, at_once", [(1_000_001, 1000), (5_000_000, 65536)])
def test_a_body_that_is_too_large_is_read_to_its_end(size, at_once):
    parser = feed(b"Content-Length: %d" % size, size, at_once)
    assert parser.error.code == 413 and parser.room.held == 0


@pytest.mark.parametrize("head", [b"Expect: 100-continue\r\nContent-Length: 5000000", b"Content-Length: 9999999999999"])
def test_a_body_that_is_not_read(head):
    parser = parser_of(1_000_000)
    request = b"POST /encode HTTP/1.1\r\n" + head + b"\r\n\r\n"
    assert parser.received(request + b"x") == len(request)
    assert parser.completed and parser.error.code == 413 and not parser.expect_continue


def test_a_body_that_is_not_too_large():
    parser = feed(b"Content-Length: 1000000", 1_000_000, 65536)
    assert parser.error is None
    parser.close()
    assert parser.room.held == 0
