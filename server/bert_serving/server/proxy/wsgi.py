"""One waitress server: what it is told, how it binds, who waits for whom, how it ends."""
from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from dataclasses import dataclass, field, fields
from typing import Any

from bert_serving.client import BertClient, ConcurrentBertClient
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import BaseWSGIServer, create_server
from waitress.task import ErrorTask, ThreadedTaskDispatcher
from waitress.utilities import RequestEntityTooLarge

from ..errors import ConfigError, PortError
from .answers import body_too_large, error_body
from .app import PROBES, Options, create_app
from .openai import Model

logger = logging.getLogger(__name__)

SPARE_THREADS = 4
"""More than there are pooled clients, so that some requests can wait for a client, and be refused, meanwhile."""

PROBE_THREADS = 4
"""For questions of health alone, so that they are answered however many requests wait."""

PATIENT_BYTES = 10 ** 9
"""A body that is too large is read to its end up to here: who is still sending does not look for an answer."""

LARGE_ANSWER = 1 << 22
"""Bytes from which an answer waits for its reader in a file, not in memory."""


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
        probe_timeout: the same, when it is asked how it is.
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
    max_message_mb: float = 64
    timeout: float = 300
    probe_timeout: float = 5
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


class Proxy:
    """One waitress server and the way it ends."""

    def __init__(self, settings: Settings) -> None:
        """Binds; raises PortError where that is impossible."""
        self.settings = settings
        self.stopping = threading.Event()
        listener = bind(settings.host, settings.http_port)
        self.http_port: int = listener.getsockname()[1]
        server: dict[str, Any] = {"ip": settings.ip, "port": settings.port, "port_out": settings.port_out,
                                  "ignore_all_checks": True}
        self.client = ConcurrentBertClient(max_concurrency=settings.max_connect, timeout=int(settings.timeout * 1000),
                                           **server)
        self.probe = BertClient(timeout=int(settings.probe_timeout * 1000), **server)
        app = create_app(self.client, self.probe, Options(
            cors=settings.cors, max_connect=settings.max_connect, patience=settings.patience,
            max_message_mb=settings.max_message_mb, model=Model(**settings.model)), self.stopping)
        self.channels: dict[int, Any] = {}
        # Connections may wait in keep-alive without a thread, so more of them than threads do no harm.
        self.server: BaseWSGIServer = create_server(
            app, map=self.channels, sockets=[listener], _dispatcher=Lanes(settings.max_connect + SPARE_THREADS),
            connection_limit=max(1000, 4 * settings.max_connect), ident=None,
            max_request_body_size=app.config["MAX_CONTENT_LENGTH"] + 1, channel_request_lookahead=1,
            outbuf_overflow=LARGE_ANSWER, outbuf_high_watermark=1 << 62)
        self.server.channel_class = Channel
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


class Parser(HTTPRequestParser):
    """Reads a body that is too large to its end, and throws it away: who gets the answer while it is still sending
    mostly sees a broken connection instead."""

    left = 0
    expect_continue: bool

    def received(self, data: bytes) -> int:
        if self.left:
            used = min(self.left, len(data))
            self.left -= used
            self.completed = not self.left
            return used
        used = super().received(data)
        if isinstance(self.error, RequestEntityTooLarge) and not self.chunked:
            if self.expect_continue:  # it asked first, and sends nothing if it is refused
                self.expect_continue = False
            elif self.content_length <= PATIENT_BYTES:
                self.left, self.completed = self.content_length, False
        return used


class Refusal(ErrorTask):
    """What is no HTTP, or too large, is answered in JSON too."""

    def execute(self) -> None:
        error = self.request.error
        if isinstance(error, RequestEntityTooLarge):
            refused = body_too_large(self.request.adj.max_request_body_size - 1)
            kind, wire = type(refused).__name__, refused.to_wire()
        else:
            kind, wire = type(error).__name__, {"message": f"{error.reason}: {error.body}"}
        path = getattr(self.request, "path", "")
        body = json.dumps(error_body(path, error.code, kind, wire)).encode("ascii")
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)
        logger.info("client=%s path=%s status=%d", self.channel.addr[0], json.dumps(path), error.code)


class Channel(HTTPChannel):
    """A connection."""

    parser_class = Parser
    error_task_class = Refusal
