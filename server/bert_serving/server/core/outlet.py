"""The door to the clients: who is subscribed, what is held for whom, and for how long.

A result waits here until its identity has subscribed and its socket has room; it is dropped only over a stated limit or
after a stated time, and every drop is counted. The socket itself belongs to the broker, which sends a reply if
``open_topic`` allows it and reports back: ``sent``, or ``hold`` if the socket had no room. For replies that are held it
asks ``next_held`` and reports ``delivered`` or ``block``.
"""
from __future__ import annotations

import heapq
import logging
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bert_serving.client.protocol import MAX_IDENTITY, TERMINATOR, Buffer, topic
from bert_serving.client.words import counted

logger = logging.getLogger(__name__)

SUBSCRIBED, UNSUBSCRIBED = 1, 0

HELD_OVERHEAD = 1024
"""Bytes that keeping a result costs beside its own."""


BEGINNING_SECONDS = 10.0
"""So long are the results of an identity that is just beginning kept for whoever subscribes to it after they were sent.
It begins with its first result, and with one after as long a silence."""

MAX_RECENT = 12
"""Results that are kept so: fewer than a new connection takes at once."""

RECENT_SHARE, RECENT_SHARE_IN_ALL = 4, 8
"""They may be this part of what may be held for one identity, and in all."""


class Change(NamedTuple):
    """What a subscription message changes.

    Attributes:
        subscribe: whether the socket is to register the topic, or to remove it.
        topic: of the identity.
        is_back: the identity is subscribed again after its last subscriber had left.
    """

    subscribe: bool
    topic: bytes
    is_back: bool


@dataclass(slots=True)
class _Held:
    """What waits for one identity: (expiry, bytes, frames, whether it is a result), oldest first; ``due`` is when to
    look for expired ones."""

    due: float
    queue: deque[tuple[float, int, list[Buffer], bool]] = field(default_factory=deque)
    nbytes: int = 0


@dataclass(slots=True)
class _Recent:
    """The first results of an identity that is just beginning; nothing more once it is full."""

    until: float
    results: list[list[Buffer]] = field(default_factory=list)
    nbytes: int = 0
    is_full: bool = False


class Outlet:
    """Decides what can be sent to which identity, and holds the rest.

    Attributes:
        subscribers: identity -> number of connections subscribed to it.
        blocked: identities whose connection refused a message for lack of room: retry from time to time, since an
            XPUB socket never tells when a subscriber can take more.
    """

    def __init__(self, max_client_bytes: int, max_bytes: int, hold_seconds: float) -> None:
        """
        Args:
            max_client_bytes: most that is held for one identity.
            max_bytes: most that is held in all.
            hold_seconds: how long a result is held.
        """
        self.max_client_bytes, self.max_bytes, self.hold_seconds = max_client_bytes, max_bytes, hold_seconds
        self.subscribers: dict[bytes, int] = {}
        self.held: dict[bytes, _Held] = {}
        self.blocked: set[bytes] = set()
        self._left: OrderedDict[bytes, float] = OrderedDict()  # identity -> when its last subscriber left
        self._just_left: OrderedDict[bytes, float] = OrderedDict()  # those of them that ``left`` has not told
        self._due: list[tuple[float, bytes]] = []  # a heap of (when to look, identity)
        self._recent: OrderedDict[bytes, _Recent] = OrderedDict()  # the one that ends first comes first
        self._last_result: dict[bytes, float] = {}  # identity that is subscribed -> when it was sent a result
        self.held_bytes = self.recent_bytes = 0
        self.counts = {"sent": 0, "held": 0, "dropped": 0, "expired": 0}

    def subscription(self, message: bytes, now: float) -> Change | None:
        """A subscription message from the socket.

        Returns:
            What to register with the socket, or None if the message is refused: the empty identity would hear
            everybody, and one with a terminator could hear another one's topic.
        """
        if len(message) < 2 or len(message) - 1 > MAX_IDENTITY or message[0] > SUBSCRIBED:
            return None
        identity = message[1:]
        if TERMINATOR in identity:
            return None
        subscribe = message[0] == SUBSCRIBED
        count = self.subscribers.get(identity, 0) + (1 if subscribe else -1)
        self._just_left.pop(identity, None)
        had_left = self._left.pop(identity, None) is not None
        if count > 0:
            self.subscribers[identity] = count
        elif self.subscribers.pop(identity, None) is not None:
            self._left[identity] = self._just_left[identity] = now
            self._last_result.pop(identity, None)
        return Change(subscribe, topic(identity), had_left and count > 0)

    def gone(self, since: float) -> set[bytes]:
        """Identities whose last subscriber left at ``since`` or before, and none has come back; each is told once."""
        return _until(self._left, since)

    def left(self, since: float) -> set[bytes]:
        """The same, independently of ``gone``, for who asks earlier."""
        return _until(self._just_left, since)

    def open_topic(self, identity: bytes) -> bytes | None:
        """The topic under which a reply may be sent at once; None: it has to be held, because ``identity`` is not
        subscribed, or something waits before it."""
        return identity + TERMINATOR if identity in self.subscribers and identity not in self.held else None

    def sent(self, identity: bytes, frames: Sequence[Buffer], now: float, is_result: bool) -> None:
        """The socket has taken a reply.

        Args:
            is_result: those who share the identity are to hear it, too.
        """
        self.counts["sent"] += 1
        if is_result:
            self._keep(identity, frames, now)

    def hold(self, identity: bytes, frames: Sequence[Buffer], now: float, is_result: bool) -> bool:
        """Keep a reply that cannot be sent yet; False if it is dropped, because too much is held."""
        if identity in self.subscribers:
            self.blocked.add(identity)
        nbytes = sum(map(len, frames)) + HELD_OVERHEAD
        held = self.held.get(identity)
        if (held.nbytes if held else 0) + nbytes > self.max_client_bytes or self.held_bytes + nbytes > self.max_bytes:
            self.counts["dropped"] += 1
            logger.warning("dropped a result of %s: %s held already for a client that does not read",
                           counted(nbytes, "byte"), counted(held.nbytes if held else self.held_bytes, "byte"))
            return False
        if held is None:
            held = self.held[identity] = _Held(now + self.hold_seconds)
            heapq.heappush(self._due, (held.due, identity))
        # Copied, because vectors are a view of their whole job's, and would keep all of that.
        held.queue.append((now + self.hold_seconds, nbytes, [bytes(frame) for frame in frames], is_result))
        held.nbytes += nbytes
        self.held_bytes += nbytes
        self.counts["held"] += 1
        return True

    def next_held(self, identity: bytes) -> Sequence[Buffer] | None:
        """Frames of the oldest reply that is held for ``identity``; None: there is none, or nobody is subscribed.

        Try to send them, and report ``delivered`` or ``block`` before asking again.
        """
        self.blocked.discard(identity)
        held = self.held.get(identity)
        return held.queue[0][2] if held is not None and identity in self.subscribers else None

    def delivered(self, identity: bytes, now: float) -> None:
        """The socket has taken the oldest reply that was held for ``identity``."""
        held = self.held[identity]
        _, _, frames, is_result = held.queue[0]
        self.sent(identity, frames, now, is_result)
        self._forget_first(held)
        if not held.queue:
            del self.held[identity]

    def block(self, identity: bytes) -> None:
        """The socket had no room for the oldest reply that is held for ``identity``."""
        self.blocked.add(identity)

    def recent(self, identity: bytes) -> Sequence[Sequence[Buffer]]:
        """The frames of each result that an identity that is just beginning was sent, oldest first."""
        recent = self._recent.get(identity)
        return recent.results if recent is not None else ()

    def _keep(self, identity: bytes, frames: Sequence[Buffer], now: float) -> None:
        """Keep a result that was just sent, if its identity is just beginning."""
        last = self._last_result.get(identity)
        self._last_result[identity] = now
        recent = self._recent.get(identity)
        if recent is None:
            if last is not None and now - last < BEGINNING_SECONDS:
                return
            recent = self._recent[identity] = _Recent(now + BEGINNING_SECONDS)
        if recent.is_full:
            return
        nbytes = sum(map(len, frames)) + HELD_OVERHEAD
        if (len(recent.results) == MAX_RECENT or recent.nbytes + nbytes > self.max_client_bytes // RECENT_SHARE
                or self.recent_bytes + nbytes > self.max_bytes // RECENT_SHARE_IN_ALL):
            recent.is_full = True
            return
        recent.results.append([bytes(frame) for frame in frames])
        recent.nbytes += nbytes
        self.recent_bytes += nbytes

    def expire(self, now: float) -> None:
        """Forget what has been held for too long, and what identities that are not beginning any more were sent."""
        while self._recent and next(iter(self._recent.values())).until <= now:
            self.recent_bytes -= self._recent.popitem(last=False)[1].nbytes
        while self._due and self._due[0][0] <= now:
            due, identity = heapq.heappop(self._due)
            held = self.held.get(identity)
            if held is None or held.due != due:
                continue  # delivered since
            while held.queue and held.queue[0][0] <= now:
                self._forget_first(held)
                self.counts["expired"] += 1
            if held.queue:
                held.due = held.queue[0][0]
                heapq.heappush(self._due, (held.due, identity))
            else:
                del self.held[identity]
                self.blocked.discard(identity)

    def deliverable(self) -> bool:
        """Whether something is held for an identity that is subscribed."""
        return any(identity in self.subscribers for identity in self.held)

    def _forget_first(self, held: _Held) -> None:
        _, nbytes, _, _ = held.queue.popleft()
        held.nbytes -= nbytes
        self.held_bytes -= nbytes


def _until(times: OrderedDict[bytes, float], since: float) -> set[bytes]:
    """Take out those of ``since`` or before; times are in their order."""
    identities = set()
    while times and next(iter(times.values())) <= since:
        identities.add(times.popitem(last=False)[0])
    return identities
