"""Connections of the HTTP proxy on waitress: what a caller may take of memory, disk and time, and what it is told.

Waitress reads requests without a thread and hands whole ones to threads. By itself it stops to listen at its limit of
connections, waits for a caller that sends something now and then for ever, and keeps whatever is sent. Here the caller
that has kept the server waiting longest makes room for others, and a stranger's body is not kept.
"""
from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from threading import Lock
from typing import Any

from bert_serving.client.errors import BertServingError, DeadlineError, OverloadedError
from bert_serving.client.words import counted
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask
from waitress.utilities import BadRequest, Error, RequestEntityTooLarge

from ..api_keys import ApiKeys
from .answers import body_too_large, error_body

logger = logging.getLogger(__name__)

PATIENT_BYTES = 10 ** 9
"""A body that is too large is read to its end up to here: who is still sending does not look for an answer."""

LARGE_ANSWER = 1 << 22
"""Bytes from which an answer waits for its reader in a file, not in memory."""

HEAD_BYTES = 1 << 15
"""Most bytes of a request's first line and headers."""

WINDOW_SECONDS, WINDOW_BYTES = 20.0, 20_000
"""A head has to be whole within the time; so many bytes of a body have to come in each such time, or its rest."""

IDLE_SECONDS = 120.0
"""So long a connection may wait for its next request, or for its caller to take more of an answer."""


class TooSlow(Error):
    """Waitress's kind of error, for a request that does not come."""

    code, reason = 408, "Request Timeout"


class TooMuch(Error):
    """... and for a body that there is no room for at the moment."""

    code, reason = 429, "Too Many Requests"


class Nowhere:
    """Takes the place of the buffer that a body is collected in, and keeps nothing."""

    def append(self, data: bytes) -> None:
        pass

    def __len__(self) -> int:
        return 0

    def getfile(self) -> BytesIO:
        return BytesIO()

    def close(self) -> None:
        pass


class Room:
    """Bytes of bodies that all connections together hold.

    Attributes:
        most: beyond it, whose body has been coming for longest makes room.
        held: the bytes at the moment.
        evict: finds that one, and ends it, unless it is the parser that is given; whether there was one.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self.evict: Callable[[HttpParser], bool] = lambda parser: False
        self._lock = Lock()  # requests end in threads

    def resolve(self, parser: HttpParser, size: int) -> None:
        """A parser's body now takes so many bytes."""
        with self._lock:
            self.held += size - parser.held
            parser.held = size

    def has_room(self, parser: HttpParser) -> bool:
        """Whether this one may go on, after others were sent away if need be."""
        while self.held > self.most:
            if not self.evict(parser):
                return False
        return True


class HttpParser(HTTPRequestParser):
    """Reads one request.

    Of a body that is too large, or for which there is no room, the rest is read and thrown away: who gets the answer
    while it is still sending mostly sees a broken connection instead. A body that comes without a key is thrown away,
    too; its request goes on without it, to be refused like every other.

    Attributes:
        held: bytes of ``room`` that it has taken.
        left: bytes that are still to be thrown away.
    """

    expect_continue: bool
    body_rcv: Any
    path = ""
    """Also of what has no first line that can be read: waitress logs it when the caller has hung up."""

    def __init__(self, adj: Adjustments, keys: ApiKeys, room: Room) -> None:
        super().__init__(adj)
        self.keys, self.room = keys, room
        self.held = self.left = 0

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if self.body_rcv is not None and not self.keys.accept(self.headers.get("AUTHORIZATION", ""),
                                                              self.headers.get("X_API_KEY", "")):
            self._keep_nothing()

    def received(self, data: bytes) -> int:
        if self.left:
            used = min(self.left, len(data))
            self.left -= used
            self.completed = not self.left
            return used
        used = super().received(data)
        if isinstance(self.error, RequestEntityTooLarge) and not self.chunked:
            self._throw_away(self.content_length)
        elif self.body_rcv is not None and self.error is None:
            self._check_body()
        return used

    def _check_body(self) -> None:
        self.room.resolve(self, len(self.body_rcv))
        if self.completed:
            return
        if not self.room.has_room(self):
            self._refuse(TooMuch("bodies of other requests take all the room that there is; try again"))
        elif self.chunked and len(self.body_rcv.control_line) + len(self.body_rcv.trailer) > HEAD_BYTES:
            self._refuse(BadRequest("a chunk's first line, or what follows the last chunk, does not end"))

    def _refuse(self, error: Error) -> None:
        self.error, self.completed = error, True
        self._keep_nothing()
        if not self.chunked:
            self._throw_away(self.content_length - self.body_bytes_received)

    def _keep_nothing(self) -> None:
        self.body_rcv.buf.close()
        self.body_rcv.buf = Nowhere()
        self.room.resolve(self, 0)

    def _throw_away(self, size: int) -> None:
        if self.expect_continue:  # it asked first, and sends nothing if it is refused
            self.expect_continue = False
        elif size <= PATIENT_BYTES:
            self.left, self.completed = size, False

    def close(self) -> None:
        self.room.resolve(self, 0)
        super().close()


class Refusal(ErrorTask):
    """What is no HTTP, too large or too slow is answered in JSON, too."""

    def execute(self) -> None:
        headers, body = refusal(self.request)
        self.status = f"{self.request.error.code} {self.request.error.reason}"
        self.response_headers += headers
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)
        log_refusal(self.channel, self.request)


def refusal(request: HttpParser) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body of the answer to a request that has an ``error``."""
    error = request.error
    refused: BertServingError | None = None
    if isinstance(error, RequestEntityTooLarge):
        refused = body_too_large(request.adj.max_request_body_size - 1)
    elif isinstance(error, TooSlow):
        refused = DeadlineError(error.body)
    elif isinstance(error, TooMuch):
        refused = OverloadedError(error.body, retry_after=1.0)
    if refused is None:
        kind, wire = type(error).__name__, {"message": f"{error.reason}: {error.body}"}
    else:
        kind, wire = type(refused).__name__, refused.to_wire()
    headers = [("Content-Type", "application/json")]
    if isinstance(error, TooMuch):
        headers.append(("Retry-After", "1"))
    return headers, json.dumps(error_body(request.path, error.code, kind, wire)).encode("ascii")


def log_refusal(channel: HttpChannel, request: HttpParser) -> None:
    logger.info("client=%s path=%s status=%d", channel.addr[0], json.dumps(request.path), request.error.code)


class HttpChannel(HTTPChannel):
    """A connection.

    Attributes:
        since: when the server began to wait for what this caller does now, in seconds since 1970, as waitress counts.
    """

    error_task_class = Refusal
    requests: list[HttpParser]
    request: HttpParser | None

    def __init__(self, server: HttpServer, *args: Any, **kwargs: Any) -> None:
        self.parser_class = partial(HttpParser, keys=server.keys, room=server.room)
        self._begin()
        super().__init__(server, *args, **kwargs)

    def _begin(self) -> None:
        self.since = self._window = time.time()
        self._window_bytes = 0

    def received(self, data: bytes) -> bool:
        if self.request is None:
            self._begin()
        self._window_bytes += len(data)
        more: bool = super().received(data)
        return more

    def send(self, data: bytes, do_close: bool = True) -> int:
        try:
            return int(super().send(data, do_close=do_close))
        except AttributeError:
            if self.socket is not None:
                raise
            return 0  # the loop closed it while a thread was about to send

    def service(self) -> None:
        try:
            super().service()
        except Exception:
            # A request that stays would keep this connection, and its place among them, for ever.
            logger.exception("a connection failed for a reason of our own")
            with self.requests_lock:
                self.requests, self.will_close = [], True
            self.server.pull_trigger()
        self._begin()

    @property
    def is_waiting(self) -> bool:
        """Whether it is the caller's turn: to send a request, or the rest of one, or to take the rest of an answer."""
        return not self.requests

    def check_pace(self, now: float) -> None:
        """Give up on a caller that is too slow; to be called every second or so."""
        if not self.is_waiting:
            return
        if self.request is None or self.total_outbufs_len:
            if now - self.last_activity > IDLE_SECONDS:
                self.handle_close()
        elif now - self._window >= WINDOW_SECONDS:
            if self._window_bytes < WINDOW_BYTES or not self.request.headers_finished:
                self.give_up(f"the request came too slowly: its head has to be whole within {WINDOW_SECONDS:g} "
                             f"seconds, then {WINDOW_BYTES} bytes have to come in each {WINDOW_SECONDS:g} seconds")
            self._window, self._window_bytes = now, 0

    def give_up(self, why: str) -> None:
        """Close it; who has begun a request is told why, as far as that goes without waiting."""
        request = self.request
        if request is not None and not self.total_outbufs_len:
            request.error = TooSlow(why)
            headers, body = refusal(request)
            lines = [f"HTTP/1.1 {TooSlow.code} {TooSlow.reason}", *map(": ".join, headers),
                     f"Content-Length: {len(body)}", "Connection: close"]
            try:
                self.socket.send("\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body)
            except OSError:
                pass
            log_refusal(self, request)
        self.handle_close()

    def handle_close(self) -> None:
        super().handle_close()
        for request in [*self.requests, self.request]:
            if request is not None:
                request.close()


class HttpServer(TcpWSGIServer):
    """Listens; every connection is one of its ``active_channels``."""

    active_channels: dict[int, HttpChannel]
    channel_class = HttpChannel
    next_channel_cleanup: float

    def __init__(self, app: Any, listener: socket.socket, dispatcher: Any, *, channels: dict[int, Any], keys: ApiKeys,
                 most_connections: int, most_body: int, most_held: int) -> None:
        """
        Args:
            listener: a bound socket.
            channels: the map of waitress's loop.
            keys: who sends none of them sends its body in vain.
            most_connections: when there are more, who was waited for longest is sent away.
            most_body: bytes of the largest body.
            most_held: bytes of all bodies together.
        """
        adj = Adjustments(
            ident=None, max_request_body_size=most_body + 1, max_request_header_size=HEAD_BYTES,
            channel_request_lookahead=1, outbuf_overflow=LARGE_ANSWER, outbuf_high_watermark=1 << 62,
            cleanup_interval=1, backlog=1024)
        self.keys, self.most_connections, self.room = keys, most_connections, Room(most_held)
        self.room.evict = self._evict_body
        super().__init__(app, map=channels, _sock=listener, dispatcher=dispatcher, adj=adj, bind_socket=False,
                         sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()))

    def readable(self) -> bool:
        now = time.time()
        if now >= self.next_channel_cleanup:
            self.next_channel_cleanup = now + self.adj.cleanup_interval
            self.maintenance(now)
        return self.accepting and (len(self.active_channels) < self.most_connections or self._slowest() is not None)

    def maintenance(self, now: float) -> None:
        for channel in list(self.active_channels.values()):
            channel.check_pace(now)

    def handle_accept(self) -> None:
        if len(self.active_channels) >= self.most_connections:
            slowest = self._slowest()
            if slowest is not None:
                slowest.give_up(f"there are {counted(self.most_connections, 'connection')}, and others want to be "
                                "served")
        super().handle_accept()

    def _slowest(self) -> HttpChannel | None:
        """The connection whose caller has kept us waiting longest."""
        return min((channel for channel in self.active_channels.values() if channel.is_waiting),
                   key=lambda channel: channel.since, default=None)

    def _evict_body(self, but: HttpParser) -> bool:
        coming = [channel for channel in self.active_channels.values()
                  if channel.request is not None and channel.request.held and channel.request is not but]
        if coming:
            min(coming, key=lambda channel: channel.since).give_up("others need the room that its body takes")
        return bool(coming)
