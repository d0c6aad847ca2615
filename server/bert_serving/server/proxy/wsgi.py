"""One waitress server: what it is told, how it binds, how it ends."""
from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass, fields
from typing import Any

from bert_serving.client import ConcurrentBertClient
from waitress import wasyncore
from waitress.server import BaseWSGIServer, create_server

from ..errors import ConfigError, PortError
from .app import create_app

SPARE_THREADS = 4
"""More than there are pooled clients, so that some requests can wait for a client, and be refused, meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the proxy is told.

    Attributes:
        ip, port, port_out: where the server is.
        host, http_port: what to bind; port 0 is any free one.
        max_connect: requests handled at the same time, each by a client of its own.
        patience: longest wait for one of those clients, in seconds.
        cors: origin that browsers may call from.
        max_message_mb: largest body of a request, in megabytes.
        timeout: longest wait for the server's answer, in seconds.
        drain_timeout: longest time that requests may take once the proxy is to end, in seconds.
        verbose: log at DEBUG.
    """

    port: int
    port_out: int
    http_port: int
    ip: str = "127.0.0.1"
    host: str = "127.0.0.1"
    max_connect: int = 10
    patience: float = 10
    cors: str = "*"
    max_message_mb: float = 64
    timeout: float = 300
    drain_timeout: float = 30
    verbose: bool = False

    @classmethod
    def from_orders(cls, orders: dict[str, Any]) -> Settings:
        """Raises ConfigError if a field is missing; what every child process is told beside them is left alone."""
        try:
            return cls(**{f.name: orders[f.name] for f in fields(cls) if f.name in orders})
        except TypeError as error:
            raise ConfigError(f"the HTTP proxy's orders are incomplete: {error}") from error


def bind(host: str, port: int) -> socket.socket:
    """A bound TCP socket; ``*`` is every IPv4 address.

    Raises:
        PortError: the port is taken, or the address is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            "0.0.0.0" if host == "*" else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere the option would let two servers share the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            # Another socket may be bound to this port with the same option; only one of them can listen.
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise PortError(f"-http_port {port} cannot be bound on {host} ({error.strerror or error}); "
                        "give another one, or 0 for any free one") from error
    return listener


class Proxy:
    """One waitress server and the way it ends."""

    def __init__(self, settings: Settings) -> None:
        """Binds; raises PortError where that is impossible."""
        self.settings = settings
        self.stopping = threading.Event()
        listener = bind(settings.host, settings.http_port)
        self.http_port: int = listener.getsockname()[1]
        self.client = ConcurrentBertClient(
            max_concurrency=settings.max_connect, ip=settings.ip, port=settings.port, port_out=settings.port_out,
            output_fmt="list", ignore_all_checks=True, timeout=int(settings.timeout * 1000))
        app = create_app(self.client, settings.cors, settings.max_connect, settings.patience,
                         settings.max_message_mb, self.stopping)
        self.channels: dict[int, Any] = {}
        # Connections may wait in keep-alive without a thread, so more of them than threads do no harm.
        self.server: BaseWSGIServer = create_server(
            app, map=self.channels, sockets=[listener], threads=settings.max_connect + SPARE_THREADS,
            connection_limit=max(1000, 4 * settings.max_connect), ident=None)

    def serve(self) -> None:
        """Answer requests until ``stop``, then those that have begun, for ``drain_timeout`` seconds at most."""
        while not self.stopping.is_set():
            wasyncore.loop(timeout=1, map=self.channels, count=1)
        wasyncore.dispatcher.close(self.server)  # the listening socket alone; its trigger still wakes the loop
        deadline = time.monotonic() + self.settings.drain_timeout
        while self._busy() and time.monotonic() < deadline:
            wasyncore.loop(timeout=0.1, map=self.channels, count=1)
        self.client.close()

    def stop(self) -> None:
        """Make ``serve`` return; may be called from a signal handler and from any thread."""
        self.stopping.set()
        self.server.pull_trigger()

    def _busy(self) -> bool:
        return any(channel.requests or channel.total_outbufs_len
                   for channel in list(self.server.active_channels.values()))
