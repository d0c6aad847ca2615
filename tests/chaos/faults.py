"""What goes wrong: servers are restarted, workers are killed or stopped, connections are cut, garbage comes in."""
from __future__ import annotations

import json
import os
import random
import re
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import zmq

READY = re.compile(r"ready: port=(\d+) port_out=(\d+) ")
LEAKY = Path(__file__).with_name("leaky_server.py")


class Server:
    """A ``bert-serving-start`` that can be lost and started again, always on the same ports.

    Attributes:
        log: the file with what it says.
        kills: how many workers were killed or stopped here.
    """

    def __init__(self, *options: str, directory: str | None = None, leak: int = 0, start_seconds: float = 300,
                 program: Sequence[str] | None = None) -> None:
        """
        Args:
            *options: of bert-serving-start.
            directory: where its log is put.
            leak: bytes per second that it is made to lose, from outside the product's code.
            program: what Python runs instead of ``bert-serving-start``.
        """
        self.program = program or ([str(LEAKY), str(leak)] if leak else ["-m", "bert_serving.server.cli"])
        self.options, self.start_seconds = options, start_seconds
        self.port = self.port_out = 0
        number, path = tempfile.mkstemp(prefix="server-", suffix=".log", dir=directory)
        os.close(number)
        self.log = Path(path)
        self.kills = self.restarts = 0
        self.start()

    def start(self) -> None:
        """
        Raises:
            RuntimeError: it did not become ready.
        """
        from_here = self.log.stat().st_size
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, "-port", str(self.port), "-port_out", str(self.port_out),
                 *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + self.start_seconds
        while time.monotonic() < end:
            with open(self.log, errors="replace") as log:
                log.seek(from_here)
                found = READY.search(log.read())
            if found:
                self.port, self.port_out = int(found[1]), int(found[2])
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"the server did not become ready; its log is {self.log}")

    def restart(self, number: int) -> tuple[float, float]:
        """Send it a signal, wait for its end, start it again; from when to when it may have been away."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(60)
        self.start()
        self.restarts += 1
        return began, time.monotonic()

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat") as file:
                        before, _, after = file.read().rpartition(")")
                except OSError:
                    continue
                state, parent = after.split()[:2]
                if int(parent) == self.process.pid and state != "Z" and "(bert-worker" in before:
                    found.append(int(name))
        return sorted(found)

    def hurt_worker(self, number: int, rng: random.Random) -> int | None:
        """Send a signal to one of its workers; its process id, or None if there is none just now."""
        workers = self.workers()
        if not workers:
            return None
        pid = rng.choice(workers)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return None
        self.kills += 1
        return pid

    def check(self) -> None:
        """
        Raises:
            RuntimeError: it has ended by itself.
        """
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended by itself with code {self.process.returncode}; its log is {self.log}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Proxy:
    """Passes bytes between clients and a port of this host, until it cuts.

    Attributes:
        port: where clients connect.
        cuts: how many connections were cut.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.cuts = 0
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection(("127.0.0.1", self.target), 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            for source, sink in (pair, pair[::-1]):
                threading.Thread(target=self._pump, args=(source, sink, pair), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        self._end(pair)

    def _end(self, pair: tuple[socket.socket, socket.socket], reset: bool = False) -> None:
        with self._lock:
            known = pair in self._pairs
            self._pairs.discard(pair)
        if not known:
            return
        for end in pair:
            try:
                if reset:  # what is on its way is lost, and the other end gets a reset
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # It wakes the thread that reads. Without a reset, the other end is told that this was all.
                end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()

    def cut(self) -> None:
        """End every connection, with whatever is on its way."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self.cuts += 1
            self._end(pair, reset=True)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Garbage:
    """Sends to both ports what no client sends."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.sent = 0
        self._context = zmq.Context()

    def send(self, port: int, port_out: int) -> None:
        """One piece of it."""
        self.rng.choice([self.bytes, self.bytes, self.frames, self.frames, self.publish])(port, port_out)
        self.sent += 1

    def bytes(self, port: int, port_out: int) -> None:
        """Bytes that are not ZeroMQ, or begin as if they were."""
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
        data = self.rng.choice([b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", self.rng.randbytes(300), greeting[:20],
                                greeting + self.rng.randbytes(200), greeting + b"\x04\xff" + bytes(2) + b"\x7f" * 40])
        try:
            with socket.create_connection(("127.0.0.1", self.rng.choice([port, port_out])), 1) as connection:
                connection.sendall(data)
        except OSError:
            pass  # the server is away, or had enough

    def frames(self, port: int, port_out: int) -> None:
        """Messages that are not requests."""
        number = b"%d" % self.rng.randrange(1000)
        payloads = [b"", b"{", b"17", b"\xff\xfe", b"[]", b'["a", 1]', b"[" * 5000, b'{"a": 1}', b"null",
                    json.dumps(["text"]).encode(), self.rng.randbytes(2000)]
        message = self.rng.choice([
            [b"garbage", self.rng.choice(payloads), number,
             self.rng.choice([b"1", b"-1", b"10" * 30, b"x", b"1000000"])],
            [b"garbage", self.rng.choice(payloads), self.rng.choice([b"9" * 5000, b"", b"id"]), b"1"],
            [self.rng.choice([b"", b"\0", b"#@", b"x" * 300, b"\xff"]), b'["text"]', number, b"1"],
            [b"garbage"] * self.rng.randrange(1, 40),
            [b"garbage", b'["text"]', number, b"1", b"{]"],
            [b""],
        ])
        with self._context.socket(zmq.PUSH) as sender:
            sender.linger = 200
            sender.connect(f"tcp://127.0.0.1:{port}")
            sender.send_multipart(message)

    def publish(self, port: int, port_out: int) -> None:
        """To the port of results: subscriptions that are none, and things of one's own."""
        with self._context.socket(zmq.XSUB) as subscriber:
            subscriber.linger = 200
            subscriber.connect(f"tcp://127.0.0.1:{port_out}")
            for message in (b"", b"\x01", b"\x00nobody", b"\x01" + self.rng.randbytes(400), b"\x07x", b"words"):
                subscriber.send(message)
            subscriber.send_multipart([b"\x01a", b"b", b"c"])


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL" + bytes(16) + bytes(32)
"""How a ZeroMQ socket without keys begins."""

BEGINNINGS = (b"", GREETING[:1], GREETING[:11], GREETING, GREETING + b"\x04\x29\x05READY\x0bSocket")
"""What half-open connections say before they fall silent, in turn."""


class HalfOpen:
    """Connections that stop in the middle of their handshakes. One that the server ends is opened again.

    Attributes:
        opened: how many there have been.
    """

    def __init__(self, ports: Sequence[int], count: int) -> None:
        self.ports, self.count, self.opened = ports, count, 0
        self._selector = selectors.DefaultSelector()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._hold, daemon=True)

    @property
    def held(self) -> int:
        """How many there are."""
        return len(self._selector.get_map())

    def _hold(self) -> None:
        while not self._stopped.is_set():
            for _ in range(min(50, self.count - self.held)):
                self._open()
            for key, _ in self._selector.select(0.01):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                try:
                    if connection.recv(4096):
                        continue
                except OSError:
                    pass
                self._selector.unregister(connection)
                connection.close()

    def _open(self) -> None:
        try:
            connection = socket.create_connection(("127.0.0.1", self.ports[self.opened % len(self.ports)]), 10)
            connection.sendall(BEGINNINGS[self.opened % len(BEGINNINGS)])
        except OSError:
            return  # the server has enough; there will be another attempt
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        self.opened += 1

    def __enter__(self) -> HalfOpen:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        self._thread.join(10)
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
