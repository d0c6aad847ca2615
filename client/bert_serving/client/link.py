"""A socket to the server that knows whether anyone is at the other end, and lets it in."""
from __future__ import annotations

import itertools
import math
import os
import socket
import sys
import threading
import time
import weakref
from typing import Any, Dict, List, Optional, Sequence

import zmq

from .curve import ENVIRONMENT, Keys, KeysError

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
_FAILED = getattr(zmq, "EVENT_HANDSHAKE_FAILED_NO_DETAIL", 0)
_MISFIT = getattr(zmq, "EVENT_HANDSHAKE_FAILED_PROTOCOL", 0)
_UNKNOWN = getattr(zmq, "EVENT_HANDSHAKE_FAILED_AUTH", 0)
_OTHER_MECHANISM = getattr(zmq, "PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH", -1)

_SUSPICIOUS, _VERY_SUSPICIOUS = 3, 32
"""So many handshakes that fail in a row, and each so many after them, are a reason to look at who listens there."""

_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00"
"""How a peer of ZMTP 3 begins: a signature and its version. The other one then tells all of its own greeting."""

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
        monitor_fd: a file descriptor that is readable when :meth:`update` has something to see.
        port: where it connects to.
        connected: whether there is a peer, as of the last :meth:`update`.
        connections: how many times a connection was made.
        refused: the last peer spoke, but not ZeroMQ, or was not the kind of socket that belongs here.
        unauthorized: why the server does not let this client in, and what to do; empty as long as that is not known.
    """

    def __init__(self, kind: int, host: str, port: int, keys: Optional[Keys] = None,
                 subscriptions: Sequence[bytes] = (), **options: Any) -> None:
        """Start to connect; that goes on in the background for as long as it takes.

        Args:
            kind: ``zmq.PUSH`` or ``zmq.SUB``.
            host: name or address of the server.
            port: TCP port.
            keys: for a server that lets nobody in without.
            subscriptions: of a SUB socket.
            **options: socket options by their pyzmq attribute names, set before connecting.
        Raises:
            KeysError: there are keys, and this ZeroMQ cannot use them.
        """
        if keys is not None:
            if not zmq.has("curve"):
                raise KeysError("this pyzmq was built without CURVE, which curve_dir needs; install one from PyPI")
            options.update(curve_serverkey=keys.server, curve_publickey=keys.public, curve_secretkey=keys.secret)
        self.host, self.port, self.keys = host.strip("[]"), port, keys
        self.connected = False
        self.connections = 0
        self.refused = False
        self.unauthorized = ""
        self._failures = 0  # handshakes that failed since the last that did not
        self.socket = context().socket(kind)
        self._monitor = context().socket(zmq.PAIR)
        # Holds the sockets, so that they cannot be collected before this link, and in the wrong order.
        self._finalizer = weakref.finalize(self, _close, self.socket, self._monitor)
        self._finalizer.atexit = False  # some daemon thread may be using them then
        try:
            self._monitor.rcvhwm = 0  # a full queue of events would block libzmq's only I/O thread
            self.socket.linger = LINGER_MS
            if ":" in self.host:
                host = "[%s]" % self.host
                self.socket.ipv6 = True
            for name, value in dict(_OPTIONS, **options).items():
                setattr(self.socket, name, value)
            for subscription in subscriptions:
                self.socket.setsockopt(zmq.SUBSCRIBE, subscription)
            _monitor(self.socket, self._monitor,
                     _CONNECTED | _READY | _LOST | _FAILED | _MISFIT | _UNKNOWN)
            self.monitor_fd = int(self._monitor.getsockopt(zmq.FD))
            self.update()  # libzmq signals to a reader that has found nothing before
            self.socket.connect("tcp://%s:%s" % (host, port))
        except BaseException:
            self.close()
            raise

    def update(self) -> None:
        """Bring ``connected``, ``connections``, ``refused`` and ``unauthorized`` up to date."""
        try:
            while True:  # to the end: ``monitor_fd`` tells only of what comes after it
                # [event (16 bits) value (32 bits), address]; pyzmq's own reader of it costs an import of asyncio.
                frame = self._monitor.recv_multipart(zmq.NOBLOCK)[0]
                event, value = (int.from_bytes(part, sys.byteorder) for part in (frame[:2], frame[2:6]))
                if event & _READY:
                    self.connected, self.refused, self.unauthorized = True, False, ""
                    self.connections += 1
                    self._failures = 0
                elif event & _LOST:
                    # Without a handshake before it: not ZeroMQ, or not the kind of socket that answers this kind.
                    self.connected, self.refused = False, not self.connected
                elif event & _UNKNOWN:
                    self.unauthorized = self.explain("UNKNOWN")
                elif event & _MISFIT and (self.keys is not None or value == _OTHER_MECHANISM):
                    self.unauthorized = self.explain("" if value == _OTHER_MECHANISM else "CURVE")
                elif event & _FAILED:
                    self._failures += 1
                    if self._failures == _SUSPICIOUS or self._failures % _VERY_SUSPICIOUS == 0:
                        self._suspect()
        except zmq.Again:
            pass

    def _suspect(self) -> None:
        """See whether handshakes fail for want of the right keys.

        libzmq says so only where it hears it; a server that hangs up first could as well be none, or one that starts.
        """
        mechanism = greeting_of(self.host, self.port)
        if mechanism is not None and (self.keys is not None or mechanism != "NULL"):
            self.unauthorized = self.explain(mechanism)

    def explain(self, finding: str) -> str:
        """Why the server does not let this end in, and what to do.

        Args:
            finding: the server's mechanism as it greets; UNKNOWN: it has refused our key; empty: it has not our one.
        """
        where = "the server at %s, port %s," % (self.host, self.port)
        if self.keys is None:
            return ("%s lets in only clients with a key: give curve_dir, a directory made by bert-serving-keygen, "
                    "or set %s" % (where, ENVIRONMENT))
        if finding == "UNKNOWN":
            return ("%s does not know this client's key, %s: put it among the server's clients/*.key, and make a new "
                    "client" % (where, self.keys.public.decode("ascii")))
        if finding == "CURVE":
            return ("%s has not the key that %s has for it: fetch its server.key if it is the right server, and see "
                    "that port and port_out are not exchanged" % (where, self.keys.origin))
        return ("%s does without keys, so nothing would be encrypted: start it with -curve_dir, or leave curve_dir and "
                "%s out" % (where, ENVIRONMENT))

    def wait_connected(self, seconds: float) -> None:
        """Return when there is a peer, or it does not let this client in, or after so many seconds."""
        poller = zmq.Poller()
        poller.register(self.monitor_fd, zmq.POLLIN)
        end = time.monotonic() + seconds
        self.update()
        while not self.connected and not self.unauthorized and time.monotonic() < end:
            poller.poll(math.ceil(max(0.0, end - time.monotonic()) * 1000))
            self.update()

    def describe(self) -> str:
        """What the last :meth:`update` says about the connection, as part of a sentence."""
        if self.connected:
            return "connected to port %s" % self.port
        if self.connections:
            return "lost the connection to port %s" % self.port
        if self.refused:
            return "port %s answers, but not as that one of a bert-serving server does" % self.port
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


def _monitor(watched: "zmq.Socket[bytes]", pair: "zmq.Socket[bytes]", events: int) -> None:
    address = "inproc://bert-serving-client-%d" % next(_names)
    watched.monitor(address, events)
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


def greeting_of(host: str, port: int, seconds: float = 0.5) -> Optional[str]:
    """The security mechanism that a ZeroMQ socket of version 3 announces; None if nobody greets so there."""
    try:
        with socket.create_connection((host, port), seconds) as connection:
            connection.sendall(_GREETING)
            greeting = b""
            while len(greeting) < 32:  # signature 10, version 2, mechanism 20, and what does not matter here
                received = connection.recv(64)
                if not received:
                    return None
                greeting += received
    except OSError:
        return None
    if greeting[0] != 0xff or greeting[10] < 3:
        return None
    return greeting[12:32].rstrip(b"\0").decode("ascii", "replace")


def sending(host: str, port: int, max_unsent: int = 1000, keys: Optional[Keys] = None) -> Link:
    """A link that takes requests to the server; it holds so many that are not sent yet, with 0 any number."""
    return Link(zmq.PUSH, host, port, keys, sndhwm=max_unsent)


def receiving(host: str, port: int, subscriptions: Sequence[bytes], max_unread: int,
              keys: Optional[Keys] = None) -> Link:
    """A link that brings what the server publishes to these; it holds so many messages, with 0 any number."""
    return Link(zmq.SUB, host, port, keys, subscriptions, rcvhwm=max_unread)


def wait_for(seconds: float, senders: Sequence[Link], receivers: Sequence[Link], room: bool = False) -> bool:
    """Sleep until there is a message or news of a connection, at most so many seconds.

    Args:
        seconds: the most.
        senders: their sockets are looked at only with ``room``: somebody else may be sending.
        receivers: the messages'.
        room: return also when one of ``senders`` takes another message.
    Returns:
        Whether there is news.
    """
    poller = zmq.Poller()
    for receiver in receivers:
        poller.register(receiver.socket, zmq.POLLIN)
        poller.register(receiver.monitor_fd, zmq.POLLIN)
    for sender in senders:
        poller.register(sender.monitor_fd, zmq.POLLIN)
        if room:
            poller.register(sender.socket, zmq.POLLOUT)
    return any(isinstance(found, int) for found, _ in poller.poll(math.ceil(seconds * 1000)))


def is_news(*links: Link) -> bool:
    """Whether there is news of a connection."""
    poller = zmq.Poller()
    for link in links:
        poller.register(link.monitor_fd, zmq.POLLIN)
    return bool(poller.poll(0))
