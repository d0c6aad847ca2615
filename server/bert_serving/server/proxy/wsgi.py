"""One waitress server: what it is told, how it binds, who waits for whom, how it ends."""
from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from bert_serving.client import BertClient, ConcurrentBertClient, curve
from waitress import wasyncore
from waitress.task import ThreadedTaskDispatcher

from ..errors import ConfigError, PortError
from ..api_keys import Keys
from .app import PROBES, Options, create_app
from .connections import Channel, Server
from .openai import Model

logger = logging.getLogger(__name__)

FILES = 200
"""That the proxy needs for other things than connections: its clients' sockets above all."""

SPARE_THREADS = 4
"""More than there are pooled clients, so that some requests can wait for a client, and be refused, meanwhile."""

PROBE_THREADS = 4
"""For questions of health alone, so that they are answered however many requests wait."""

MOST_HELD = 1 << 28
"""Bytes of bodies that all connections together may hold; four of the largest, if that is more."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the proxy is told.

    Attributes:
        ip, port, port_out: where the server is.
        host, http_port: what to bind; port 0 is any free one.
        max_connect: requests handled at the same time, each by a client of its own.
        patience: longest wait for one of those clients, in seconds.
        cors: origins that browsers may call from.
        api_keys: one of them has to come with every request; none: anybody may call.
        max_message_mb: largest body of a request, in megabytes.
        timeout: longest wait for the server's answer, in seconds.
        probe_timeout: the same, when it is asked how it is.
        curve: keys for the server, the fields of :class:`bert_serving.client.curve.Keys`; None: it needs none.
        private: keys of the status reply that are not for everybody who may ask for it over HTTP.
        model: what is served; the fields of :class:`.openai.Model`.
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
    api_keys: Sequence[str] = field(default=(), repr=False)
    max_message_mb: float = 64
    timeout: float = 300
    probe_timeout: float = 5
    curve: dict[str, str] | None = field(default=None, repr=False)
    private: Sequence[str] = ()
    model: dict[str, Any] = field(default_factory=dict)
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


def most_connections(max_connect: int) -> int:
    """Connections that are open at the same time: many, since those in keep-alive need no thread, but not more than the
    files that this process may open allow, two for a connection."""
    wanted = max(1000, 4 * max_connect)
    try:
        import resource
    except ImportError:
        return wanted
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + FILES
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        allowed = needed if most == resource.RLIM_INFINITY else min(needed, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    return wanted if allowed == resource.RLIM_INFINITY else max(16, min(wanted, (allowed - FILES) // 2))


class Proxy:
    """One waitress server and the way it ends."""

    def __init__(self, settings: Settings) -> None:
        """Binds; raises PortError where that is impossible."""
        self.settings = settings
        self.stopping = threading.Event()
        listener = bind(settings.host, settings.http_port)
        self.http_port: int = listener.getsockname()[1]
        server: dict[str, Any] = {"ip": settings.ip, "port": settings.port, "port_out": settings.port_out,
                                  "ignore_all_checks": True,
                                  # Without keys it does without, whatever the environment says.
                                  "curve_dir": curve.Keys.from_json(settings.curve) if settings.curve else ""}
        self.client = ConcurrentBertClient(max_concurrency=settings.max_connect, timeout=int(settings.timeout * 1000),
                                           **server)
        self.probe = BertClient(timeout=int(settings.probe_timeout * 1000), **server)
        keys = Keys(settings.api_keys)
        app = create_app(self.client, self.probe, Options(
            cors=settings.cors, keys=keys, max_connect=settings.max_connect, patience=settings.patience,
            max_message_mb=settings.max_message_mb, private=settings.private, model=Model(**settings.model)),
            self.stopping)
        self.channels: dict[int, Any] = {}
        most_body = app.config["MAX_CONTENT_LENGTH"]
        self.server = Server(
            app, listener, Lanes(settings.max_connect + SPARE_THREADS), channels=self.channels, keys=keys,
            most_connections=most_connections(settings.max_connect), most_body=most_body,
            most_held=max(MOST_HELD, 4 * most_body))
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a warning for each request that waits

    def serve(self) -> None:
        """Answer requests until ``stop``, then those that have begun, for ``drain_timeout`` seconds at most."""
        while not self.stopping.is_set():
            wasyncore.loop(timeout=1, use_poll=True, map=self.channels, count=1)
        wasyncore.dispatcher.close(self.server)  # the listening socket alone; its trigger still wakes the loop
        deadline = time.monotonic() + self.settings.drain_timeout
        while self._busy() and time.monotonic() < deadline:
            wasyncore.loop(timeout=0.1, use_poll=True, map=self.channels, count=1)
        self.client.close()
        self.probe.close()

    def stop(self) -> None:
        """Make ``serve`` return; may be called from a signal handler and from any thread."""
        self.stopping.set()
        self.server.pull_trigger()

    def _busy(self) -> bool:
        return any(channel.requests or channel.total_outbufs_len
                   for channel in list(self.server.active_channels.values()))


class Lanes:
    """Two of waitress's dispatchers: probes have threads of their own, and never wait behind requests."""

    def __init__(self, threads: int) -> None:
        self.requests, self.probes = ThreadedTaskDispatcher(), ThreadedTaskDispatcher()
        self.requests.set_thread_count(threads)
        self.probes.set_thread_count(PROBE_THREADS)

    def add_task(self, channel: Channel) -> None:
        """The first request of the channel is next."""
        lane = self.probes if getattr(channel.requests[0], "path", "") in PROBES else self.requests
        lane.add_task(channel)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """Let the threads end."""
        self.probes.shutdown(cancel_pending, timeout)
        ended: bool = self.requests.shutdown(cancel_pending, timeout)
        return ended
