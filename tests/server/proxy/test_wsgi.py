"""The HTTP proxy behind real waitress on a free port, with a client that answers what the test says."""
import http.client
import json
import socket
import threading

import numpy as np
import pytest
from bert_serving.client.curve import Keys
from bert_serving.client.protocol import PROBE
from bert_serving.server.errors import PortError
from bert_serving.server.proxy import wsgi
from bert_serving.server.proxy.wsgi import Proxy, bind

from .conftest import told


class GatedClient:
    """Stands for a ConcurrentBertClient; ``encode`` answers once the gate is open."""

    def __init__(self, **kwargs):
        self.kwargs, self.begun, self.gate, self.closed = kwargs, threading.Event(), threading.Event(), False

    def encode(self, texts, *, is_tokenized=False):
        self.begun.set()
        assert self.gate.wait(20)
        return np.ones((len(texts), 1))

    @property
    def status(self):
        return {"num_request": 1}

    def close(self):
        self.closed = True


@pytest.fixture
def served(monkeypatch):
    """A proxy that answers in a thread of its own; yields (proxy, thread)."""
    monkeypatch.setattr(wsgi, "ConcurrentBertClient", GatedClient)
    monkeypatch.setattr(wsgi, "BertClient", GatedClient)
    proxy = Proxy(told(http_max_connect=2, drain_timeout=20))
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    yield proxy, thread
    proxy.client.gate.set()
    proxy.stop()
    thread.join(20)
    assert not thread.is_alive()
    proxy.server.task_dispatcher.shutdown()
    for channel in list(proxy.channels.values()):
        channel.close()


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    return response, body


def post(port, body):
    """A connection on which an encode request was sent; its answer is still to be read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/encode", json.dumps(body), {"Content-Type": "application/json"})
    return connection


def test_answers_on_the_port_it_reports(served):
    proxy, _ = served
    response, body = get(proxy.http_port, "/status/client")
    assert (response.status, body) == (200, {"num_request": 1, "status": 200})
    assert "waitress" not in (response.headers["Server"] or "").lower()


def test_the_client_is_made_as_the_orders_say(served):
    proxy, _ = served
    assert proxy.client.kwargs == {"max_concurrency": 2, "ip": "127.0.0.1", "port": 1, "port_out": 2,
                                   "ignore_all_checks": True, "timeout": 300_000, "curve_dir": ""}


def test_it_comes_in_with_the_keys_that_it_is_given_and_shows_none(monkeypatch):
    monkeypatch.setattr(wsgi, "ConcurrentBertClient", GatedClient)
    monkeypatch.setattr(wsgi, "BertClient", GatedClient)
    keys = Keys(b"1" * 40, b"2" * 40, b"3" * 40)
    orders = told(curve=keys)
    assert "3" * 40 not in repr(orders)
    proxy = Proxy(orders)
    assert proxy.client.kwargs["curve_dir"] == proxy.probe.kwargs["curve_dir"] == keys
    assert proxy.probe.kwargs["identity"].startswith(PROBE) and "identity" not in proxy.client.kwargs
    proxy.server.close()
    proxy.server.task_dispatcher.shutdown()


def test_stop_answers_what_has_begun_and_refuses_the_rest(served):
    proxy, thread = served
    first = post(proxy.http_port, {"id": 1, "texts": ["a"] * 3})
    assert proxy.client.begun.wait(20)
    idle = http.client.HTTPConnection("127.0.0.1", proxy.http_port, timeout=20)
    idle.request("GET", "/status/client")
    idle.getresponse().read()
    proxy.stop()
    idle.request("GET", "/status/client")
    assert idle.getresponse().status == 503
    idle.close()
    proxy.client.gate.set()
    response = first.getresponse()
    assert (response.status, json.loads(response.read())["result"]) == (200, [[1.0]] * 3)
    first.close()
    thread.join(20)
    assert not thread.is_alive()
    assert proxy.client.closed
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.http_port), 5)


def test_stop_waits_no_longer_than_drain_timeout(monkeypatch):
    monkeypatch.setattr(wsgi, "ConcurrentBertClient", GatedClient)
    monkeypatch.setattr(wsgi, "BertClient", GatedClient)
    proxy = Proxy(told(drain_timeout=0.1))
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    connection = post(proxy.http_port, {"id": 1, "texts": ["a"]})
    assert proxy.client.begun.wait(20)
    proxy.stop()
    thread.join(20)
    assert not thread.is_alive()
    proxy.client.gate.set()
    proxy.server.task_dispatcher.shutdown()
    for channel in list(proxy.channels.values()):
        channel.close()
    connection.close()


def test_more_requests_than_clients_wait_their_turn(served):
    proxy, _ = served
    connections = [post(proxy.http_port, {"id": number, "texts": ["a"]}) for number in range(20)]
    proxy.client.gate.set()
    for number, connection in enumerate(connections):
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["id"]) == (200, number)
        connection.close()


def test_probes_do_not_wait_behind_requests(served):
    proxy, _ = served
    more_than_threads = range(2 + wsgi.SPARE_THREADS + 1)
    connections = [post(proxy.http_port, {"id": number, "texts": ["a"]}) for number in more_than_threads]
    assert proxy.client.begun.wait(20)
    for _ in range(2 * wsgi.PROBE_THREADS):
        assert get(proxy.http_port, "/livez")[1] == {"alive": True, "status": 200}
    proxy.client.gate.set()
    for connection in connections:
        assert connection.getresponse().status == 200
        connection.close()


# ---- bind ------------------------------------------------------------------------------------------------------------

def test_bind_to_a_port_in_use():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortError, match=rf"^-http_port {port} cannot be bound on 127\.0\.0\.1 \(Address already"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_bind_to_an_address_of_another_machine(host):
    with pytest.raises(PortError, match=host):
        bind(host, 0)


@pytest.mark.parametrize("host, address", [("*", "0.0.0.0"), ("0.0.0.0", "0.0.0.0"), ("localhost", "127.0.0.1")])
def test_bind_to_every_address(host, address):
    with bind(host, 0) as listener:
        assert listener.getsockname()[0] in (address, "::1")
        assert listener.getsockname()[1] > 0
