"""The door to the clients: who is subscribed, what is held for whom, and for how long.

A result waits here until its identity has subscribed and its socket has room; it is dropped only over a stated limit or
after a stated time, and every drop is counted. The socket itself belongs to the broker: ``send`` hands frames to it.
"""
from __future__ import annotations

import heapq
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bert_serving.client.protocol import MAX_IDENTITY, TERMINATOR, Buffer, topic
from bert_serving.client.words import counted

logger = logging.getLogger(__name__)

SUBSCRIBED, UNSUBSCRIBED = 1, 0

HELD_OVERHEAD = 1024
"""Bytes that keeping a result costs beside its own."""


@dataclass(slots=True)
class _Held:
    """What waits for one identity: (expiry, bytes, frames), oldest first; ``due`` is when to look for expired ones."""

    due: float
    queue: deque[tuple[float, int, list[Buffer]]] = field(default_factory=deque)
    nbytes: int = 0


class Outlet:
    """Publishes to identities.

    Attributes:
        subscribers: identity -> number of connections subscribed to it.
        blocked: identities whose connection refused a message for lack of room: retry from time to time, since an
            XPUB socket never tells when a subscriber can take more.
    """

    def __init__(self, send: Callable[[list[Buffer]], bool], max_client_bytes: int, max_bytes: int,
                 hold_seconds: float) -> None:
        """
        Args:
            send: publishes frames, topic first; False if a subscriber's pipe is full and nothing was sent.
            max_client_bytes: most that is held for one identity.
            max_bytes: most that is held in all.
            hold_seconds: how long a result is held.
        """
        self.send = send
        self.max_client_bytes, self.max_bytes, self.hold_seconds = max_client_bytes, max_bytes, hold_seconds
        self.subscribers: dict[bytes, int] = {}
        self.held: dict[bytes, _Held] = {}
        self.blocked: set[bytes] = set()
        self._left: OrderedDict[bytes, float] = OrderedDict()  # identity -> when its last subscriber left
        self._due: list[tuple[float, bytes]] = []  # a heap of (when to look, identity)
        self.held_bytes = 0
        self.counts = {"sent": 0, "held": 0, "dropped": 0, "expired": 0}

    def subscription(self, message: bytes, now: float) -> tuple[bool, bytes] | None:
        """A subscription message from the socket.

        Returns:
            (subscribe, topic) to register with the socket, or None if the message is refused: the empty identity
            would hear everybody, and one with a terminator could hear another one's topic.
        """
        if len(message) < 2 or len(message) - 1 > MAX_IDENTITY or message[0] > SUBSCRIBED:
            return None
        identity = message[1:]
        if TERMINATOR in identity:
            return None
        subscribe = message[0] == SUBSCRIBED
        count = self.subscribers.get(identity, 0) + (1 if subscribe else -1)
        self._left.pop(identity, None)
        if count > 0:
            self.subscribers[identity] = count
        elif self.subscribers.pop(identity, None) is not None:
            self._left[identity] = now
        return subscribe, topic(identity)

    def gone(self, since: float) -> set[bytes]:
        """Identities whose last subscriber left at ``since`` or before, and none has come back; each is told once."""
        identities = set()
        while self._left and next(iter(self._left.values())) <= since:
            identities.add(self._left.popitem(last=False)[0])
        return identities

    def publish(self, identity: bytes, frames: Sequence[Buffer], now: float) -> bool:
        """Send to ``identity``, or hold until it can be sent.

        Returns:
            False if it was dropped, because too much is held.
        """
        if identity in self.subscribers and identity not in self.held:
            if self.send([topic(identity), *frames]):
                self.counts["sent"] += 1
                return True
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
        held.queue.append((now + self.hold_seconds, nbytes, [bytes(frame) for frame in frames]))
        held.nbytes += nbytes
        self.held_bytes += nbytes
        self.counts["held"] += 1
        return True

    def deliver(self, identity: bytes) -> None:
        """Send what is held for ``identity``, as far as it is subscribed and has room."""
        held = self.held.get(identity)
        self.blocked.discard(identity)
        if held is None or identity not in self.subscribers:
            return
        while held.queue:
            if not self.send([topic(identity), *held.queue[0][2]]):
                self.blocked.add(identity)
                return
            self.counts["sent"] += 1
            self._forget_first(held)
        del self.held[identity]

    def retry(self) -> None:
        """Try the blocked again; call every few milliseconds while there are any."""
        for identity in list(self.blocked):
            self.deliver(identity)

    def expire(self, now: float) -> None:
        """Forget what has been held for too long."""
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
        _, nbytes, _ = held.queue.popleft()
        held.nbytes -= nbytes
        self.held_bytes -= nbytes
