"""What breaks things does break them: the proxy passes everything until it cuts."""
import socket
import threading
import time

import pytest

from .faults import BEGINNINGS, HalfOpen, Proxy


@pytest.fixture
def echo():
    """The port of a server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                pass

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def ask(connection, data):
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    got = b""
    while len(got) < len(data):
        part = connection.recv(65536)
        if not part:
            break
        got += part
    sender.join()
    return got


def test_everything_passes(echo):
    with Proxy(echo) as proxy, socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
        data = bytes(range(256)) * 4096
        assert ask(connection, data) == data


def test_a_cut_is_the_end_of_each_connection_and_not_of_the_proxy(echo):
    with Proxy(echo) as proxy:
        address = ("127.0.0.1", proxy.port)
        with socket.create_connection(address, 10) as first, socket.create_connection(address, 10) as second:
            assert ask(first, b"hello") == ask(second, b"hello") == b"hello"
            proxy.cut()
            assert proxy.cuts == 2
            for connection in (first, second):
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)
        with socket.create_connection(address, 10) as third:
            assert ask(third, b"again") == b"again"


def test_nobody_behind_it():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Proxy(port) as proxy, socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
        assert connection.recv(1) == b""


def test_half_open_connections_are_held_and_opened_again():
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=100) for _ in range(2)]
    ports = [listener.getsockname()[1] for listener in listeners]
    try:
        with HalfOpen(ports, 10) as half_open:
            taken = [listener.accept()[0] for _ in range(5) for listener in listeners]
            said = sorted(taken[number].recv(1000) for number, text in enumerate(BEGINNINGS * 2) if text)
            assert said == sorted(text for text in BEGINNINGS * 2 if text)
            taken.pop(0).close()
            taken.append(listeners[0].accept()[0])
            end = time.monotonic() + 10
            while half_open.held < 10:
                assert time.monotonic() < end
        for connection in taken:
            connection.settimeout(10)
            while connection.recv(1000):
                pass  # and then the end
            connection.close()
        assert half_open.opened == 11
    finally:
        for listener in listeners:
            listener.close()
