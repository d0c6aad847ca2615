"""The connection of one client, shared by its threads: whoever waits for a reply reads for all, one at a time."""
from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import Any, Callable, Deque, Iterable, Iterator, List, Optional, Tuple, TypeVar

from .curve import Keys
from .errors import DeadlineError, UnauthorizedError, UnavailableError
from .exchange import Exchange
from .link import Link, is_news, receiving, sending, wait_for

T = TypeVar("T")

_SLICE = 0.1
"""Longest sleep in a socket, in seconds: so soon does a reading thread notice that the client was closed."""

_MAX_READ = 100
"""Messages read at once before waiting threads get their turn."""


_disowned: "List[Channel]" = []
"""Kept for ever, so that no destructor touches their sockets."""


class Deadline:
    """A timeout that is running, or that never runs out."""

    def __init__(self, timeout_ms: Optional[float]) -> None:
        self.timeout_ms = timeout_ms
        self._seconds = None if timeout_ms is None or timeout_ms < 0 else timeout_ms / 1000
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._end = None if self._seconds is None else time.monotonic() + self._seconds

    def left(self) -> float:
        """Seconds, not below 0; infinite if there is no limit."""
        return float("inf") if self._end is None else max(0.0, self._end - time.monotonic())


class Channel:
    """Two sockets, the exchange that knows what they carry, and the locks that let threads share them.

    Attributes:
        exchange: look into it and change it only inside :meth:`changing`, or in the ``ready`` of :meth:`wait`.
        closed: for good.
        repeats: what has no answer is sent again when the connection was lost and is there again, under the same ids.
            Only for servers that take a repeated id for the same request.
        on_change: called whenever a waiting call should look again; with the locks held, so it must be brief.
    """

    def __init__(self, host: str, port: int, port_out: int, exchange: Exchange, max_unread: int,
                 max_unsent: int = 1000, keys: Optional[Keys] = None) -> None:
        """Nothing is opened before :meth:`links` is first called, be it by another method.

        Args:
            host: name or address of the server.
            port: where it receives.
            port_out: where it publishes.
            exchange: a fresh one.
            max_unread: how many messages may wait in the receiving socket; 0 for no limit.
            max_unsent: how many messages may wait in the sending socket; 0 for no limit, and :meth:`post` never waits.
            keys: for a server that lets nobody in without.
        """
        self.exchange = exchange
        self._address = (host, port, port_out)
        self._keys = keys
        self._max_unread, self._max_unsent = max_unread, max_unsent
        self._links: Optional[Tuple[Link, Link]] = None
        self.closed = False
        self.repeats = False
        self.on_change: Callable[[], None] = lambda: None
        self._reconnections = 0
        self._made = (1, 1)                # connections of sender and receiver, when last both were there
        self._again: Deque[int] = deque()  # ids to be sent again
        self._renew_locks()

    def links(self) -> Tuple[Link, Link]:
        """Sender and receiver, opened if they are not.

        Raises:
            UnavailableError: the channel was closed.
        """
        with self._inbox:
            if self.closed:
                raise UnavailableError("this client is closed; make a new one")
            if self._links is None:
                host, port, port_out = self._address
                receiver = receiving(host, port_out, self.exchange.subscriptions, max_unread=self._max_unread,
                                     keys=self._keys)
                try:
                    self._links = sending(host, port, max_unsent=self._max_unsent, keys=self._keys), receiver
                except BaseException:
                    receiver.close()
                    raise
            return self._links

    @contextmanager
    def changing(self) -> Iterator[Exchange]:
        """The exchange, for oneself; whoever waits looks again afterwards."""
        with self._inbox:
            yield self.exchange
            self._tell()

    def post(self, request_id: int, frames: List[bytes], deadline: Deadline, **expectation: Any) -> None:
        """Send a message whose reply is expected.

        Args:
            request_id: from the exchange.
            frames: the message.
            deadline: of the wait for room in the socket.
            **expectation: further arguments of :meth:`Exchange.expect`.
        """
        self.links()
        with self.changing() as exchange:
            self._update()  # so that this request does not count as one from before a reconnection
            exchange.expect(request_id, frames, **expectation)
        try:
            self._send(frames, deadline)
        except BaseException:
            self.abandon([request_id])
            raise

    def wait(self, ready: Callable[[], Optional[T]], *deadlines: Deadline, steadfast: bool = False) -> Optional[T]:
        """What ``ready`` gives, as soon as it is not None; None when one of the deadlines has passed.

        Args:
            ready: looks into the exchange; called again whenever something has changed there.
            *deadlines: the earliest counts.
            steadfast: wait on, though the server does not let this client in.
        Raises:
            UnavailableError: the channel was closed, and ``ready`` had nothing.
            UnauthorizedError: the server does not let this client in, and ``ready`` had nothing.
        """
        self.links()
        with self._inbox:
            last_look = False
            while True:
                value = self._value(ready, steadfast)
                if value is not None or last_look:
                    return value
                left = min(deadline.left() for deadline in deadlines)
                last_look = not left
                if self._reading or not self._expecting:
                    self._inbox.wait(min(left, threading.TIMEOUT_MAX))
                elif self._again and self._outbox.acquire(blocking=False):  # whoever has the outbox does it as well
                    try:
                        if not self._send_again():
                            self._read(min(left, _SLICE), room=True)
                    finally:
                        self._outbox.release()
                else:
                    self._read(min(left, _SLICE))

    def peek(self, ready: Callable[[], Optional[T]], otherwise: Callable[[], None]) -> Optional[T]:
        """What ``ready`` gives now. If it is None ``otherwise`` is called, and nothing can change in between.

        Raises:
            UnavailableError, UnauthorizedError: as :meth:`wait`.
        """
        with self._inbox:
            value = self._value(ready)
            if value is None:
                otherwise()
            return value

    def abandon(self, ids: Iterable[int]) -> None:
        """Forget requests."""
        with self.changing() as exchange:
            for request_id in ids:
                exchange.abandon(request_id)

    def is_connected(self) -> bool:
        """Whether there is a server that receives."""
        with self._inbox:
            if self._links is None:
                return False
            self._update()
            return self._links[0].connected

    def reconnections(self) -> int:
        """How often the connection was lost and was there again; since the last time the server may be another one."""
        with self._inbox:
            self._update()
            return self._reconnections

    def timeout_error(self, what: str, deadline: Deadline) -> DeadlineError:
        """The error for a wait that was too long: says who, where, how long, and what was seen of the server.

        Args:
            what: what the server did not do.
            deadline: that of the wait.
        """
        return DeadlineError("the server at %s, ports %s and %s, did not %s within %s ms: %s" % (
            *self._address, what, deadline.timeout_ms, self._in_sight()))

    def waits(self) -> str:
        """What to tell whoever wonders why nothing happens: who is waited for, and what was seen of it."""
        return "still waiting for the server at %s, ports %s and %s: %s" % (*self._address, self._in_sight())

    def _in_sight(self) -> str:
        with self._inbox:
            self._update()
            links = self._links or ()
            seen = " and ".join(link.describe() for link in links) or "the client was closed"
        if links and all(link.connected for link in links):
            return seen + "; no answer; the server is slow or stuck: raise the timeout, or send less at once"
        if links and all(link.refused for link in links):
            return seen + "; are port and port_out exchanged?"
        return seen + "; is the server running, are ip, port and port_out right, is the network open?"

    def close(self) -> None:
        """Close the sockets. What is still unsent gets a second to leave; what is unanswered is given up."""
        with self._inbox:
            self.closed = True
            self._tell()
            while self._reading:  # its thread notices within a slice
                self._inbox.wait()
        with self._outbox, self._inbox:  # a thread that sends notices as soon
            pairs = self._let_go()
            unanswered = bool(self.exchange.outstanding)
        for sender, receiver in pairs:
            receiver.close()
            sender.close(flush=unanswered)

    def disown(self) -> None:
        """In a forked child: close without touching the sockets, which are the parent's."""
        self.closed = True
        self._renew_locks()  # some thread that does not exist here may hold them
        _disowned.append(self)

    def _let_go(self) -> List[Tuple[Link, Link]]:
        """The links, to be closed. Called with both locks held."""
        links, self._links = self._links, None
        return [] if links is None else [links]

    @property
    def _expecting(self) -> bool:
        """Whether anything that arrives could be of interest. Called with the inbox held."""
        return self.exchange.expecting

    def _renew_locks(self) -> None:
        self._reading = False  # a thread has the receiver and the monitors, without holding the inbox
        self._inbox = threading.Condition(threading.Lock())  # guards all but the sender
        self._outbox = threading.Lock()                      # guards the sender; waited for only without the inbox

    def _tell(self) -> None:
        """Make those who wait look again. Called with the inbox held."""
        self._inbox.notify_all()
        self.on_change()

    def _value(self, ready: Callable[[], Optional[T]], steadfast: bool = False) -> Optional[T]:
        """What ``ready`` gives; if that is something, it may concern others too. Called with the inbox held."""
        value = ready()
        if value is not None:
            self._tell()
        elif self.closed:
            raise UnavailableError("this client was closed while a call waited")
        elif not steadfast:
            self._insist_on_admission()
        return value

    def _insist_on_admission(self) -> None:
        """Raises UnauthorizedError if the server does not let this client in. Called with the inbox held."""
        if self.unauthorized:
            raise UnauthorizedError(self.unauthorized)

    @property
    def unauthorized(self) -> str:
        """Why the server does not let this client in; empty if it does, or if that is not known."""
        return next((link.unauthorized for link in self._links or () if link.unauthorized), "")

    def _send(self, frames: List[bytes], deadline: Deadline) -> None:
        left = deadline.left()
        if not self._outbox.acquire(timeout=-1 if left == float("inf") else left):
            raise self.timeout_error("take a request", deadline)
        try:
            while True:
                sender, _ = self.links()
                with self._inbox:
                    self._insist_on_admission()
                    is_next = self._send_again()
                if is_next and sender.send(frames):
                    return
                left = min(_SLICE, deadline.left())
                if not left:
                    raise self.timeout_error("take a request", deadline)
                with self._inbox:
                    if not self._reading:
                        # The server may be waiting for its results to be read before it takes more.
                        self._read(left, room=True)
                        continue
                    self._inbox.wait(left)
        finally:
            self._outbox.release()

    def _send_again(self) -> bool:
        """Send what is due again, as far as there is room; whether nothing is left. Called with both locks held."""
        while self._again and self._links is not None:
            asked = self.exchange.outstanding.get(self._again[0])
            if asked is not None and not self._links[0].send(asked.frames):
                return False
            self._again.popleft()
        return True

    def _read(self, seconds: float, room: bool = False) -> None:
        """Take in what arrives within ``seconds``; return also for news of the connection. Called with the inbox held.

        The inbox is open to other threads meanwhile.

        Args:
            seconds: the most to wait.
            room: return also when the sender has room; the outbox is held.
        """
        if self._links is None:
            return
        sender, receiver = self._links
        messages: List[List[bytes]] = []
        has_events = True
        self._reading = True
        self._inbox.release()
        try:
            has_events = wait_for(seconds, [sender], [receiver], room)
            messages = receiver.receive(_MAX_READ)
        finally:
            self._inbox.acquire()
            self._reading = False
            for message in messages:
                self.exchange.receive(message)
            if has_events:
                self._update()
            self._tell()

    def _update(self) -> None:
        """See whether the connection was lost and is there again. Called with the inbox held.

        A thread that reads does it for all.
        """
        if self._links is None or self._reading:
            return
        sender, receiver = self._links
        if is_news(sender, receiver):
            sender.update()
            receiver.update()
        made = (sender.connections, receiver.connections)
        # Both: an answer to what is sent again has to find its way back.
        if made != self._made and sender.connected and receiver.connected:
            self._made = made
            self._reconnections += 1
            if self.repeats:
                self._again = deque(self.exchange.outstanding)
