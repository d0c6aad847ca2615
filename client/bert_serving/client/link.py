"""A socket to the server that knows whether anyone is at the other end."""
from __future__ import annotations

import itertools
import math
import os
import sys
import threading
import time
import weakref
from typing import Any, Dict, List

import zmq

LINGER_MS = 1000
"""How long a closed socket goes on sending what is still unsent.

Not 0: libzmq 4.3.5 aborts the process when a socket without linger closes on a half-sent message.
"""

# The kernel asks a peer that has been idle for so many seconds whether it is there, and so many more times.
# ZeroMQ's own heartbeats would also cut the connection to a server that is only too busy to read, or sends much.
_OPTIONS = {"tcp_keepalive": 1, "tcp_keepalive_idle": 10, "tcp_keepalive_intvl": 10, "tcp_keepalive_cnt": 3}

# Older libzmq has no handshake events; a TCP connection is then the best that can be known.
_CONNECTED = zmq.EVENT_CONNECTED
_READY = getattr(zmq, "EVENT_HANDSHAKE_SUCCEEDED", _CONNECTED)
_LOST = zmq.EVENT_DISCONNECTED

_contexts: Dict[int, "zmq.Context[zmq.Socket[bytes]]"] = {}
_contexts_lock = threading.Lock()
_names = itertools.count()


def context() -> "zmq.Context[zmq.Socket[bytes]]":
    """The one context of this process. It is never terminated: ``term`` can hang, and exit does not need it."""
    with _contexts_lock:
        pid = os.getpid()
        if pid not in _contexts:  # a forked child must not touch its parent's, nor let go of it
            fresh = zmq.Context()
            fresh.set(zmq.MAX_SOCKETS, min(65535, fresh.get(zmq.SOCKET_LIMIT)))
            _contexts[pid] = fresh
        return _contexts[pid]


def _renew_lock() -> None:
    global _contexts_lock
    _contexts_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Link:
    """One connecting socket and the monitor of its connection.

    Attributes:
        socket: the ZeroMQ socket.
        news: a file descriptor that is readable when :meth:`look` has something to see.
        port: where it connects to.
        connected: whether there is a peer, as of the last :meth:`look`.
        connections: how many times a connection was made.
        refused: the last peer spoke, but not ZeroMQ, or was not the kind of socket that belongs here.
    """

    def __init__(self, kind: int, host: str, port: int, **options: Any) -> None:
        """Start to connect; that goes on in the background for as long as it takes.

        Args:
            kind: ``zmq.PUSH`` or ``zmq.SUB``.
            host: name or address of the server.
            port: TCP port.
            **options: socket options by their pyzmq attribute names, set before connecting.
        """
        self.port = port
        self.connected = False
        self.connections = 0
        self.refused = False
        self.socket = context().socket(kind)
        self._monitor = context().socket(zmq.PAIR)
        # Holds the sockets, so that they cannot be collected before this link, and in the wrong order.
        self._finalizer = weakref.finalize(self, _close, self.socket, self._monitor)
        self._finalizer.atexit = False  # some daemon thread may be using them then
        try:
            self._monitor.rcvhwm = 0  # a full queue of events would block libzmq's only I/O thread
            self.socket.linger = LINGER_MS
            if ":" in host:
                host = "[%s]" % host.strip("[]")
                self.socket.ipv6 = True
            for name, value in dict(_OPTIONS, **options).items():
                setattr(self.socket, name, value)
            _monitor(self.socket, self._monitor, _CONNECTED | _READY | _LOST)
            self.news = int(self._monitor.getsockopt(zmq.FD))
            self.look()  # libzmq signals to a reader that has found nothing before
            self.socket.connect("tcp://%s:%s" % (host, port))
        except BaseException:
            self.close()
            raise

    def look(self) -> None:
        """Bring ``connected``, ``connections`` and ``refused`` up to date."""
        try:
            while True:  # to the end: ``news`` tells only of what comes after it
                # [event (16 bits) value (32 bits), address]; pyzmq's own reader of it costs an import of asyncio.
                event = int.from_bytes(self._monitor.recv_multipart(zmq.NOBLOCK)[0][:2], sys.byteorder)
                if event & _READY:
                    self.connected, self.refused = True, False
                    self.connections += 1
                elif event & _LOST:
                    # Without a handshake before it: not ZeroMQ, or not the kind of socket that answers this kind.
                    self.connected, self.refused = False, not self.connected
        except zmq.Again:
            pass

    def describe(self) -> str:
        """What the last :meth:`look` says about the connection, as part of a sentence."""
        if self.connected:
            return "connected to port %s" % self.port
        if self.connections:
            return "lost the connection to port %s" % self.port
        if self.refused:
            return "port %s is not the expected one of a bert-serving server" % self.port
        return "never connected to port %s" % self.port

    def send(self, frames: List[bytes]) -> bool:
        """Queue a message for the server; False if the queue is full."""
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, limit: int) -> List[List[bytes]]:
        """Messages that have arrived, at most ``limit``."""
        messages: List[List[bytes]] = []
        try:
            while len(messages) < limit:
                messages.append(self.socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            pass
        return messages

    def close(self, flush: bool = False) -> None:
        """Close the socket.

        Args:
            flush: wait, at most LINGER_MS, until everything sent has left this process. Without it sending goes on in
                the background, as long as the process lives.
        """
        if self._finalizer.detach():
            _close(self.socket, self._monitor, flush)


def _monitor(socket: "zmq.Socket[bytes]", pair: "zmq.Socket[bytes]", events: int) -> None:
    address = "inproc://bert-serving-client-%d" % next(_names)
    socket.monitor(address, events)
    pair.connect(address)


def _close(socket: "zmq.Socket[bytes]", monitor: "zmq.Socket[bytes]", flush: bool = False) -> None:
    # In this order: an event that finds no monitor at the other end blocks libzmq's I/O thread, and so every client.
    socket.disable_monitor()
    monitor.close(0)
    if not flush:
        socket.close(LINGER_MS)
        return
    # A closed socket lives on until nothing is left to send, and that is told by its end of a monitor only. This one
    # waits for an event that a connecting socket never has.
    with context().socket(zmq.PAIR) as last:
        last.linger = 0
        _monitor(socket, last, zmq.EVENT_ACCEPTED)
        socket.close(LINGER_MS)
        end = time.monotonic() + LINGER_MS / 1000
        while last.poll(0, zmq.POLLOUT) and time.monotonic() < end:
            time.sleep(0.001)


def sending(host: str, port: int, max_unsent: int = 1000) -> Link:
    """A link that takes requests to the server; it holds so many that are not sent yet, with 0 any number."""
    return Link(zmq.PUSH, host, port, sndhwm=max_unsent)


def receiving(host: str, port: int, identity: bytes, max_unread: int) -> Link:
    """A link that brings what the server publishes to ``identity``; it holds so many messages, with 0 any number."""
    return Link(zmq.SUB, host, port, subscribe=identity, rcvhwm=max_unread)


def wait_for(seconds: float, sender: Link, receiver: Link, room: bool = False) -> bool:
    """Sleep until there is a message or news of a connection, at most so many seconds.

    Args:
        seconds: the most.
        sender: its socket is looked at only with ``room``: somebody else may be sending.
        receiver: the messages'.
        room: return also when ``sender`` takes another message.
    Returns:
        Whether there is news.
    """
    poller = zmq.Poller()
    poller.register(receiver.socket, zmq.POLLIN)
    for link in (sender, receiver):
        poller.register(link.news, zmq.POLLIN)
    if room:
        poller.register(sender.socket, zmq.POLLOUT)
    return any(isinstance(found, int) for found, _ in poller.poll(math.ceil(seconds * 1000)))


def is_news(*links: Link) -> bool:
    """Whether there is news of a connection."""
    poller = zmq.Poller()
    for link in links:
        poller.register(link.news, zmq.POLLIN)
    return bool(poller.poll(0))
