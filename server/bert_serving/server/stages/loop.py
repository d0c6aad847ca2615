"""What each poll loop has: who handles what comes from where, and a way to end it from outside."""
from __future__ import annotations

import signal
import socket as sockets
from collections.abc import Callable
from typing import Any

import zmq


class Loop:
    """Sockets and descriptors with their handlers. One thread runs it; ``stop`` is for every thread."""

    def __init__(self) -> None:
        self.waker, self._wake_end = sockets.socketpair()
        self.waker.setblocking(False)
        self._wake_end.setblocking(False)
        self.poller = zmq.Poller()
        self.handlers: dict[Any, Callable[[], None]] = {}
        self._stop_asked = 0
        self.watch(self.waker.fileno(), self.on_wake)

    def watch(self, source: Any, handler: Callable[[], None]) -> None:
        self.handlers[source] = handler
        self.poller.register(source, zmq.POLLIN)

    def unwatch(self, source: Any) -> None:
        del self.handlers[source]
        self.poller.unregister(source)

    def handle(self, timeout_ms: int) -> None:
        """Handle whatever is waiting; return after at most ``timeout_ms``."""
        for source, _ in self.poller.poll(timeout_ms):
            if source in self.handlers:  # an earlier handler may have ended its watch
                self.handlers[source]()

    def stop(self) -> None:
        """Ask the loop to end; safe from any thread and from a signal handler. A second time: at once."""
        self._stop_asked += 1
        try:
            self._wake_end.send(b"\0")
        except (BlockingIOError, OSError):
            pass  # it has been woken already, or has ended

    def on_signal(self, number: int, frame: Any) -> None:
        """For signal.signal: SIGTERM ends when all is done, a second one or SIGINT at once."""
        if number == signal.SIGINT:
            self._stop_asked += 1
        self.stop()

    def on_wake(self) -> None:
        try:
            self.waker.recv(64)
        except BlockingIOError:
            pass

    def close_waker(self) -> None:
        self.waker.close()
        self._wake_end.close()
