"""Whatever arrives: a clear answer to who sent it, and nobody else notices."""
from __future__ import annotations

import json
import socket

import pytest
import zmq

from bert_serving.client import BertClient


class RawClient:
    """Sends any frames; hears what is published to one identity."""

    def __init__(self, server, identity: bytes = b"raw") -> None:
        self.context = zmq.Context()
        self.identity = identity
        self.push, self.sub = self.context.socket(zmq.PUSH), self.context.socket(zmq.SUB)
        for end, port in ((self.push, server.port), (self.sub, server.port_out)):
            end.linger = 0
            end.connect(f"tcp://127.0.0.1:{port}")
        self.sub.subscribe(identity)

    def ask(self, *frames: bytes) -> dict:
        """The header of the answer."""
        self.push.send_multipart([self.identity, *frames])
        assert self.sub.poll(10_000), "no answer"
        answer = self.sub.recv_multipart()
        assert answer[0] == self.identity + b"\0"
        return json.loads(answer[1])

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture(scope="module")
def server(echo_server):
    return echo_server


@pytest.fixture
def raw(server):
    client = RawClient(server)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def bystander(server):
    """An ordinary client, before, during and after."""
    with BertClient(port=server.port, port_out=server.port_out, timeout=10_000) as client:
        before = client.encode(["nothing happened"])
        yield client
        assert (client.encode(["nothing happened"]) == before).all()


@pytest.mark.parametrize("frames, code, said", [
    ([b"[]", b"1", b"0"], "bad_request", "empty array"),
    ([b'["a", 1]', b"1", b"2"], "bad_request", "element 1 is an integer"),
    ([b'["a", ["b"]]', b"1", b"2"], "bad_request", "element 1 is an array but element 0 is a string"),
    ([b"[1, 2]", b"1", b"2"], "bad_request", "element 0 is an integer"),
    ([b'[["a", 5]]', b"1", b"1"], "bad_request", "element 0 holds an integer"),
    ([b'{"a": 1}', b"1", b"1"], "bad_request", "payload is an object"),
    ([b'"text"', b"1", b"4"], "bad_request", "payload is a string"),
    ([b"5", b"1", b"1"], "bad_request", "payload is an integer"),
    ([b'["a"', b"1", b"1"], "bad_request", "not UTF-8 JSON"),
    ([b'["\xff"]', b"1", b"1"], "bad_request", "not UTF-8 JSON"),
    ([b"[" * 100_000, b"1", b"1"], "bad_request", "not UTF-8 JSON"),
    ([b"[" + b"9" * 5000 + b"]", b"1", b"1"], "bad_request", ""),
    ([b'["a"]', b"1", b"2"], "bad_request", "says 2 sentences but the payload holds 1"),
    ([b'["a", "b"]', b"1", b"1"], "bad_request", "says 1 sentence but the payload holds 2"),
    ([b'["a"]', b"1", b"1000000000000"], "bad_request", "says 1000000000000 sentences"),
    ([b'["a"]', b"1", b"many"], "bad_request", "length frame is not a decimal number"),
    ([b'["a"]', b"1", b"-1"], "bad_request", "length frame is not a decimal number"),
    ([b'["a"]', b"1"], "bad_request", "3 frames"),
    ([b'["a"]', b"1", b"1", b"{}", b"more"], "bad_request", "6 frames"),
    ([b'["a"]', b"1", b"1", b"no json"], "bad_request", "options frame is not JSON"),
    ([b"REGISTER", b"1", b"0"], "bad_request", "not UTF-8 JSON"),
])
def test_malformed_requests_are_answered(raw, frames, code, said):
    header = raw.ask(*frames)
    assert header["error"]["code"] == code
    assert said in header["error"]["message"]
    # What an original client makes a data type of, and so shows to its user.
    assert header["dtype"].startswith(f"bert-serving error {code}: ")
    assert "," not in header["dtype"] and header["dtype"].isascii()


@pytest.mark.parametrize("request_id", [b"abc", b"9" * 5000, b""])
def test_odd_request_ids_are_answered_under_them(raw, request_id):
    assert "request id" in raw.ask(b'["a"]', request_id, b"1")["error"]["message"]


@pytest.mark.parametrize("identity", [b"with#hash", b"with@sign", "Zoë".encode(), b"\xff\xfe", b"x" * 255])
def test_any_identity_without_nul_is_served(server, identity):
    client = RawClient(server, identity)
    try:
        assert client.ask(b"SHOW_CONFIG", b"1", b"0")["max_seq_len"] == 25
        assert client.ask(b'["hello"]', b"2", b"1")["shape"] == [1, 768]
        assert client.ask(b'["hello"' + b', "x"' * 299 + b"]", b"3", b"300")["shape"] == [300, 768]
    finally:
        client.close()


def test_identities_that_cannot_be_topics_are_ignored(server, raw):
    for identity in (b"", b"with\0nul", b"x" * 256):
        raw.push.send_multipart([identity, b'["a"]', b"1", b"1"])
    raw.push.send(b"one frame only")
    raw.push.send_multipart([b"two", b"frames"])
    assert raw.ask(b'["a"]', b"9", b"1")["shape"] == [1, 768]


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud800", "a" * 1_000_000, "a " * 500_000, "||| ", "\U0010ffff"])
def test_odd_texts_get_vectors(raw, text):
    assert raw.ask(json.dumps(["one", text, "three"]).encode(), b"1", b"3")["shape"] == [3, 768]


def test_tokenized_oddities_get_vectors(raw):
    assert raw.ask(json.dumps([[], ["", "|||"], ["\ud800"], ["a"] * 100_000]).encode(), b"1", b"4")["shape"] == [4, 768]


def test_strangers_on_both_ports_disturb_nobody(server, bystander):
    for port in (server.port, server.port_out):
        for line in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 500, b"\x00", b"\xff\0\0\0\0\0\0\0\x01\x7f" * 50):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
                stranger.sendall(line)
        assert bystander.encode(["hello"]).shape == (1, 768)


def test_junk_on_the_result_port_disturbs_nobody(server, bystander):
    context = zmq.Context()
    junk = context.socket(zmq.XSUB)
    junk.linger = 0
    junk.connect(f"tcp://127.0.0.1:{server.port_out}")
    for message in (b"", b"\x01", b"\x00", b"\x02hello", b"\x01" + b"x" * 300, b"\x01a\0b", b"\x00never subscribed"):
        junk.send(message)
    junk.send_multipart([b"\x01a", b"b", b"c"])
    assert bystander.encode(["hello"]).shape == (1, 768)
    context.destroy(linger=0)
