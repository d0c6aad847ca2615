"""The door that CURVE closes: ZeroMQ asks here whom to let in, and tells here who did not get that far.

ZeroMQ's authentication protocol (ZAP, RFC 27): libzmq asks at a socket of a fixed name inside the process, once for
each connection, and holds the handshake until it is answered.
"""
from __future__ import annotations

import errno
import logging
import socket as sockets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import zmq
from zmq.utils import z85

from ..keys import WORKERS, AllowList, ServerKeys
from . import endpoints
from .endpoints import MAX_AT_ONCE, NOBLOCK, ZAP_DOMAIN, ZAP_DOMAIN_OF_WORKERS
from .refusals import Refusals

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0
"""How soon a key that was put on the list, or taken off it, counts."""

SOMEBODY = "somebody"
"""Whose address could not be learned before the connection was gone."""

REASONS: dict[int, str] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "it comes without a key: an original client, or one without curve_dir",
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "it expects another server: its server.key is not the one of -curve_dir",
}
"""Error of a handshake that did not come to the question for the client's key -> what that means."""

HUNG_UP = "it hung up in the handshake: it comes without a key, or is no client"
"""Who is quick to see that we want a key leaves no other sign. Who does not even read our greeting, as many a program
that looks whether a port is open, is no matter, unless it was gone before the greeting came."""


class AllowedKeys:
    """Who is let in at one kind of port, by the keys in a directory.

    Attributes:
        kind: what they are, for the log.
        refusals: those who were not let in.
    """

    def __init__(self, allow_list: AllowList, kind: str, own_key: str = "") -> None:
        """
        Args:
            own_key: public key of somebody of ours who is on no list.
        """
        self.allow_list, self.kind, self.own_key = allow_list, kind, own_key
        self.refusals = Refusals()

    def admits(self, key: str) -> bool:
        return key in self.allow_list.names or bool(key) and key == self.own_key

    def refresh(self) -> Mapping[str, str]:
        """Read the list again; who was on it before."""
        before = self.allow_list.names
        self.allow_list.refresh()
        return before


class Authenticator:
    """Sockets: ``zap`` REP, and a PAIR for each guarded socket, which tells of its connections.

    Attributes:
        clients, workers: who is let in at the ports for clients, and at that for workers.
    """

    def __init__(self, context: zmq.Context[Any], keys: ServerKeys) -> None:
        """Before any socket is bound that it is to guard."""
        self.context, self.keys = context, keys
        self.clients = AllowedKeys(AllowList(keys.directory), "client", keys.proxy.public.decode("ascii"))
        self.workers = AllowedKeys(AllowList(keys.directory, WORKERS), "worker host",
                                   keys.launched.public.decode("ascii"))
        self.rooms = {ZAP_DOMAIN: self.clients}
        self.zap = endpoints.zap(context)
        self.monitors: dict[zmq.Socket[Any], zmq.Socket[Any]] = {}  # what each tells of -> where it is heard
        self._addresses: dict[int, str] = {}                        # descriptor of a connection -> its peer
        self._next_refresh = 0.0
        self.clients.refresh()

    def guard(self, socket: zmq.Socket[Any]) -> None:
        """Let no client into this socket, which is not bound yet, whose key is not on the list."""
        self.monitors[socket] = endpoints.guard(self.context, socket, self.keys.secret)

    def guard_workers(self, socket: zmq.Socket[Any]) -> None:
        """Likewise for the socket that workers of other hosts come to: they have a list of their own."""
        self.rooms[ZAP_DOMAIN_OF_WORKERS] = self.workers
        self.workers.refresh()
        self.monitors[socket] = endpoints.guard(self.context, socket, self.keys.secret, ZAP_DOMAIN_OF_WORKERS)

    def sources(self) -> Iterator[tuple[zmq.Socket[Any], Callable[[], None]]]:
        """What the loop has to watch, and what to call when there is something."""
        yield self.zap, self.on_zap_request
        for monitor in self.monitors.values():
            yield monitor, partial(self.on_monitor_event, monitor)

    def on_zap_request(self) -> None:
        """Somebody wants to come in."""
        for _ in range(MAX_AT_ONCE):
            try:
                version, request_id, domain, address, _, mechanism, *credentials = self.zap.recv_multipart(NOBLOCK)
            except zmq.Again:
                return
            key = z85.encode(credentials[0]).decode("ascii") if mechanism == b"CURVE" and credentials else ""
            room = self.rooms[domain]
            admitted = room.admits(key)
            self.zap.send_multipart([version, request_id, b"200" if admitted else b"400",
                                     b"OK" if admitted else b"unknown key", key.encode() if admitted else b"", b""])
            if not admitted:
                self._refused(address.decode("ascii", "replace"),
                              f"its key {key} is not in {room.allow_list.directory}", room)

    def on_monitor_event(self, monitor: zmq.Socket[Any]) -> None:
        """Connections have come or gone."""
        events = list(_read(monitor))
        ended = {value for event, value in events if event == zmq.EVENT_DISCONNECTED}
        why = None
        for event, value in events:
            if event == zmq.EVENT_ACCEPTED and value not in ended:
                self._addresses[value] = _peer(value)
            elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                why = REASONS.get(value)
            elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and value == errno.EPIPE:
                why = HUNG_UP
            elif event == zmq.EVENT_DISCONNECTED:
                # libzmq tells why, and then of whom.
                address = self._addresses.pop(value, SOMEBODY)
                if why is not None:
                    self._refused(address, why)
                why = None

    def _refused(self, address: str, why: str, room: AllowedKeys | None = None) -> None:
        line = (room or self.clients).refusals.line(address, why, time.monotonic())
        if line is not None:
            logger.warning("%s", line)

    def key_of(self, frame: zmq.Frame) -> str:
        """The public key that the sender of a message came in with."""
        return str(frame.get("User-Id"))

    def tick(self, now: float) -> None:
        """Look at the list from time to time."""
        if now < self._next_refresh:
            return
        self._next_refresh = now + REFRESH_SECONDS
        for room in self.rooms.values():
            before = room.refresh()
            now_listed = room.allow_list.names
            for key, name in now_listed.items():
                if key not in before:
                    logger.info("%s %s is let in from now on", room.kind, name)
            for key, name in before.items():
                if key not in now_listed:
                    logger.info("%s %s is not let in any more", room.kind, name)

    def close(self) -> None:
        """Hear no more; before the guarded sockets are closed."""
        # In this order: an event that finds no monitor at the other end would block libzmq's I/O thread.
        for socket, monitor in self.monitors.items():
            socket.disable_monitor()
            monitor.close(linger=0)
        self.zap.close(linger=0)


def _read(monitor: zmq.Socket[Any]) -> Iterator[tuple[int, int]]:
    """(event, value) of all that waits."""
    while True:
        try:
            frame = monitor.recv_multipart(NOBLOCK)[0]
        except zmq.Again:
            return
        yield int.from_bytes(frame[:2], sys.byteorder), int.from_bytes(frame[2:6], sys.byteorder)


def _peer(descriptor: int) -> str:
    """The address at the other end of a connection that is libzmq's."""
    try:
        with sockets.fromfd(descriptor, sockets.AF_INET, sockets.SOCK_STREAM) as connection:
            return str(connection.getpeername()[0])
    except (OSError, IndexError):  # it has gone already
        return SOMEBODY
