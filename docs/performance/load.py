"""Load for a server that costs next to nothing itself: many clients in one thread, without libzmq.

Each client has its two connections, as every client has, and one request out at a time. They speak ZMTP 3.0 (ZeroMQ's
protocol, https://rfc.zeromq.org/spec/23/) over plain sockets: a request is one call of the kernel, and no thread is
woken that the server could have used. On Linux only (epoll).

    python docs/performance/load.py PORT PORT_OUT --clients 32 --sentences 1
"""
from __future__ import annotations

import argparse
import json
import select
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4
"""Flags of a ZMTP frame."""

PING = b"\x04PING"

MAX_WAIT = 60.0
"""Seconds without any answer after which something is wrong."""


@dataclass(frozen=True)
class Measured:
    """What a run of the load saw.

    Attributes:
        requests: answered in the time that counts.
        sentences: of these requests.
        seconds: how long that was.
        latencies: of each of these requests, in seconds, sorted.
        processor: seconds of processor that the load itself took.
    """

    requests: int
    sentences: int
    seconds: float
    latencies: list[float]
    processor: float

    def latency(self, share: float) -> float:
        """Seconds within which this share of the requests was answered."""
        return self.latencies[min(int(share * len(self.latencies)), len(self.latencies) - 1)]


def frame(content: bytes, flags: int = 0) -> bytes:
    if len(content) < 256:
        return bytes((flags, len(content))) + content
    return bytes((flags | LONG,)) + len(content).to_bytes(8, "big") + content


def read_exactly(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        more = connection.recv(size - len(content))
        if not more:
            raise ConnectionError("the server hung up; is this the right port?")
        content += more
    return content


def connect(port: int, kind: bytes) -> socket.socket:
    """A connection whose handshake is done; ``kind`` is the socket's type, as PUSH."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(GREETING)
    read_exactly(connection, len(GREETING))
    about = b"\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    connection.sendall(frame(b"\x05READY" + about, COMMAND))
    read_exactly(connection, read_exactly(connection, 2)[1])
    connection.settimeout(MAX_WAIT)
    return connection


class Caller:
    """One client."""

    def __init__(self, port: int, port_out: int, identity: bytes, requests: Sequence[Sequence[str]]) -> None:
        """
        Args:
            requests: the texts of each request; it goes round them.
        """
        self.pushing = connect(port, b"PUSH")
        self.subscribed = connect(port_out, b"SUB")
        self.subscribed.sendall(frame(b"\1" + identity))
        self.topic = identity + b"\0"
        self.sizes = [len(texts) for texts in requests]
        self.heads = [frame(identity, MORE) + frame(json.dumps(texts).encode("ascii"), MORE) for texts in requests]
        self.number = 0
        self.buffer = bytearray(1 << 16)
        self.filled = 0
        self.asked = 0.0

    def ask(self, now: float) -> None:
        """Send the next request."""
        turn = self.number % len(self.heads)
        self.number += 1
        self.asked = now
        self.pushing.sendall(b"%b%b%b" % (self.heads[turn], frame(b"%09d" % self.number, MORE),
                                          frame(b"%d" % self.sizes[turn])))

    def hear(self) -> bool:
        """Read what has come; True once the answer is whole.

        Raises:
            RuntimeError: it is no answer to the last request, or an error.
        """
        if self.filled == len(self.buffer):
            self.buffer.extend(bytes(len(self.buffer)))
        arrived = self.subscribed.recv_into(memoryview(self.buffer)[self.filled:])
        if not arrived:
            raise ConnectionError("the server hung up")
        self.filled += arrived
        buffer, at, frames = self.buffer, 0, []
        while at + 2 <= self.filled:
            flags, size, start = buffer[at], buffer[at + 1], at + 2
            if flags & LONG:
                if at + 9 > self.filled:
                    break
                size, start = int.from_bytes(buffer[at + 1:at + 9], "big"), at + 9
            at = start + size
            if at > self.filled:
                break
            if flags & COMMAND:
                if buffer.startswith(PING, start):       # The server asks whether we live; after the 2 bytes of a time
                    # comes what it wants to have back.
                    self.subscribed.sendall(frame(b"\x04PONG" + buffer[start + 7:at], COMMAND))
            else:
                frames.append((start, at))
                if not flags & MORE:
                    self._check(frames)
                    self.filled = 0
                    return True
        return False

    def _check(self, frames: list[tuple[int, int]]) -> None:
        topic, header, vectors, number = (bytes(self.buffer[start:min(end, start + 300)]) for start, end in frames)
        if topic != self.topic or not vectors or number != b"%09d" % self.number or frames[-1][1] != self.filled:
            raise RuntimeError(f"not the answer to request {self.number}: {topic!r} {header!r} {number!r}")

    def close(self) -> None:
        self.pushing.close()
        self.subscribed.close()


def run(port: int, port_out: int, requests: Sequence[Sequence[Sequence[str]]], seconds: float,
        warm_up: float = 0.5) -> Measured:
    """Let clients ask, each its next request as soon as it has its answer.

    Args:
        requests: for each client, the texts of each of its requests.
        seconds: how long to measure, after ``warm_up``.
    """
    with ExitStack() as stack:
        # Identities of this run alone: a server may not have noticed yet that the last run's connections are gone.
        callers = [stack.enter_context(closing(Caller(port, port_out, str(uuid.uuid4()).encode(), own)))
                   for own in requests]
        poll = stack.enter_context(select.epoll())
        waiting = {caller.subscribed.fileno(): caller for caller in callers}
        for number in waiting:
            poll.register(number, select.EPOLLIN)
        latencies: list[float] = []
        sentences, begun, now = 0, False, 0.0
        begin, processor = time.perf_counter() + warm_up, 0.0
        for caller in callers:
            caller.ask(time.perf_counter())
        while now < begin + seconds:
            ready = poll.poll(MAX_WAIT)
            if not ready:
                raise RuntimeError(f"no answer for {MAX_WAIT:.0f} seconds")
            for number, _ in ready:
                caller = waiting[number]
                if not caller.hear():
                    continue
                now = time.perf_counter()
                if begun:
                    latencies.append(now - caller.asked)
                    sentences += caller.sizes[(caller.number - 1) % len(caller.sizes)]
                elif now >= begin:
                    begun, begin, processor = True, now, time.process_time()
                caller.ask(now)
        processor = time.process_time() - processor
        for caller in callers:                           # The last answers, so that nothing is left to compute.
            while not caller.hear():
                pass
    return Measured(len(latencies), sentences, now - begin, sorted(latencies), processor)


def main() -> None:
    parser = argparse.ArgumentParser(description="Put load on a server on this machine.")
    parser.add_argument("port", type=int)
    parser.add_argument("port_out", type=int)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--sentences", type=int, default=1, help="of each request")
    parser.add_argument("--seconds", type=float, default=4)
    args = parser.parse_args()
    texts = [["how can i reset the password of my account please"] * args.sentences]
    measured = run(args.port, args.port_out, [texts] * args.clients, args.seconds)
    print(f"{args.clients} clients, {args.sentences} sentences each: "
          f"{measured.requests / measured.seconds:.0f} requests/s, {measured.sentences / measured.seconds:.0f} "
          f"sentences/s; half within {measured.latency(.5) * 1e3:.2f} ms, 99 % within "
          f"{measured.latency(.99) * 1e3:.2f} ms; the load took {measured.processor / measured.seconds:.0%} of a core")


if __name__ == "__main__":
    main()
