"""One waitress server: what it is told, how it binds, who waits for whom, how it ends."""
from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from typing import Any

from bert_serving.client import BertClient, ConcurrentBertClient
from bert_serving.client.protocol import PROBE
from waitress import wasyncore
from waitress.task import ThreadedTaskDispatcher

from ..errors import PortError
from ..api_keys import ApiKeys
from .app import PROBES, create_app
from .connections import HttpChannel, HttpServer
from .orders import ProxyOrders

logger = logging.getLogger(__name__)

FILES = 200
"""That the proxy needs for other things than connections: its clients' sockets above all."""

SPARE_THREADS = 4
"""More than there are pooled clients, so that some requests can wait for a client, and be refused, meanwhile."""

PROBE_THREADS = 4
"""For questions of health alone, so that they are answered however many requests wait."""

MAX_HELD = 1 << 28
"""Bytes of bodies that all connections together may hold; four of the largest, if that is more."""


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

    def __init__(self, orders: ProxyOrders) -> None:
        """Binds; raises PortError where that is impossible."""
        self.orders, max_connect = orders, orders.options.http_max_connect
        self.stopping = threading.Event()
        listener = bind(orders.host, orders.http_port)
        self.http_port: int = listener.getsockname()[1]
        server: dict[str, Any] = {"ip": orders.ip, "port": orders.port, "port_out": orders.port_out,
                                  "ignore_all_checks": True,
                                  # Without keys it does without, whatever the environment says.
                                  "curve_dir": orders.curve or ""}
        self.client = ConcurrentBertClient(max_concurrency=max_connect, timeout=int(orders.timeout * 1000), **server)
        self.probe = BertClient(timeout=int(orders.probe_timeout * 1000),
                                identity=PROBE + secrets.token_hex(8).encode(), **server)
        app = create_app(self.client, self.probe, orders, self.stopping)
        self.channels: dict[int, Any] = {}
        most_body = app.config["MAX_CONTENT_LENGTH"]
        self.server = HttpServer(
            app, listener, Lanes(max_connect + SPARE_THREADS), channels=self.channels, keys=ApiKeys(orders.api_keys),
            most_connections=most_connections(max_connect), most_body=most_body,
            most_held=max(MAX_HELD, 4 * most_body))
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a warning for each request that waits

    def serve(self) -> None:
        """Answer requests until ``stop``, then those that have begun, for ``drain_timeout`` seconds at most."""
        while not self.stopping.is_set():
            wasyncore.loop(timeout=1, use_poll=True, map=self.channels, count=1)
        wasyncore.dispatcher.close(self.server)  # the listening socket alone; its trigger still wakes the loop
        deadline = time.monotonic() + self.orders.drain_timeout
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

    def add_task(self, channel: HttpChannel) -> None:
        """The first request of the channel is next."""
        lane = self.probes if getattr(channel.requests[0], "path", "") in PROBES else self.requests
        lane.add_task(channel)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """Let the threads end."""
        self.probes.shutdown(cancel_pending, timeout)
        ended: bool = self.requests.shutdown(cancel_pending, timeout)
        return ended
