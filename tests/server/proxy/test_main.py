"""The HTTP proxy as a process: what it says, how it ends. No server is needed: its clients connect to silence."""
import http.client
import os
import select
import signal
import socket
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
from bert_serving.server.orders import NoOrders
from bert_serving.server.process import Child

from .conftest import told

ORDERS = told(http_max_connect=1, patience=0, drain_timeout=5)


@pytest.fixture
def start():
    """Starts proxies, with ORDERS unless told otherwise; what still runs at the end is killed."""
    started = []

    def start(orders=ORDERS, environ=None):
        child = Child("bert_serving.server.proxy", orders, piped_output=True, environ=environ)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.forget()


def says(child):
    """The proxy's next message."""
    while not (messages := child.read_messages()):
        assert messages is not None, "the proxy ended without a word"
        assert select.select([child.output], [], [], 20)[0], "the proxy says nothing"
    assert len(messages) == 1
    return messages[0]


def ready(child):
    """The port of a proxy that answers."""
    message = says(child)
    assert message == {"ready": True, "http_port": message["http_port"]}
    assert not busy(message["http_port"])
    return message["http_port"]


def busy(port):
    """Whether the only pooled client is encoding: everything else is refused then."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/status/client", timeout=20).close()
    except urllib.error.HTTPError as error:
        with error:
            assert error.code == 429
        return True
    return False


def test_sigterm_ends_it(start):
    child = start()
    port = ready(child)
    os.kill(child.pid, signal.SIGTERM)
    assert child.popen.wait(20) == 0
    assert child.read_messages() is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


def test_the_end_of_its_standard_input_ends_it(start):
    child = start()
    ready(child)
    child.popen.stdin.close()
    assert child.popen.wait(20) == 0


def test_a_second_signal_ends_it_at_once(start):
    """A request that nobody answers would keep it for its whole drain_timeout."""
    child = start(replace(ORDERS, drain_timeout=1000))
    port = ready(child)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/encode", '{"id": 1, "texts": ["a"]}', {"Content-Type": "application/json"})
    while not busy(port):
        pass
    os.kill(child.pid, signal.SIGTERM)
    assert not child.wait(0.5)
    os.kill(child.pid, signal.SIGTERM)
    assert child.popen.wait(20) == 0
    connection.close()


def test_a_port_in_use(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        child = start(replace(ORDERS, http_port=port))
        error = says(child)["error"]
        assert child.popen.wait(20) == 4
    assert error["name"] == "PortError"
    assert error["message"].startswith(f"-http_port {port} cannot be bound on 127.0.0.1 (Address already in use)")


def test_orders_that_are_none(start):
    child = start(NoOrders())
    error = says(child)["error"]
    assert error["name"] == "ConfigError" and error["message"].startswith("ProxyOrders.ip is missing; expected ip, ")
    assert child.popen.wait(20) == 2


def test_without_flask(start, tmp_path):
    (tmp_path / "flask.py").write_text("raise ImportError('No module named flask', name='flask')")
    child = start(environ={"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])})
    assert says(child) == {"error": {"name": "StartError", "message": (
        "-http_port needs the package flask; install it with: pip install './server[http]'")}}
    assert child.popen.wait(20) == 1
