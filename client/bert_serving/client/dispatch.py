"""Which of several servers gets a request: bookkeeping without sockets or a clock.

The life of a request::

    add() -> next() -> answered()
      ^         |
      |         |-- declined()     the server is full or stops: to one that has not declined, while there is one
      '---------'-- lost()         its connection is gone: all that it had goes to others

A request goes to the server with the fewest unanswered sentences, so that a slower one gets less; among equals to the
one whose last turn is longest ago, so that a caller who asks for one thing at a time uses all of them. One that
declined, or let a request run out of time, comes last for a while.
"""
from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Set, Tuple

MAX_UNANSWERED = 1000
"""So many requests may be with one server; the others wait here, where they need no second sending when it is lost."""


@dataclass
class Lane:
    """What one server has.

    Attributes:
        open: it takes requests.
        unanswered: id -> number of sentences; also of requests that nobody waits for any more, as the server does not
            know that.
        load: the sum of those numbers.
        rests_until: time before which others are preferred.
        turn: number of its last turn.
    """

    open: bool = False
    unanswered: Dict[int, int] = field(default_factory=dict)
    load: int = 0
    rests_until: float = 0.0
    turn: int = 0

    def give(self, request_id: int, size: int, turn: int) -> None:
        """It gets a request."""
        self.unanswered[request_id] = size
        self.load += size
        self.turn = turn if size else self.turn

    def take(self, request_id: int) -> None:
        """It no longer has a request."""
        self.load -= self.unanswered.pop(request_id, 0)


class Dispatch:
    """Requests of one client, and the servers that have them.

    Attributes:
        lanes: one for each server, in the order of the user's list.
        waiting: ids that no server has, the next one first.
    """

    def __init__(self, num_servers: int) -> None:
        self.lanes: List[Lane] = [Lane() for _ in range(num_servers)]
        self.waiting: OrderedDict[int, None] = OrderedDict()
        self._sizes: Dict[int, int] = {}          # of what is not answered
        self._declined: Dict[int, Set[int]] = {}  # id -> servers that sent it back
        self._turn = 0

    def add(self, request_id: int, size: int) -> None:
        """A new request; of size 0 a command, which the first open server of the list gets."""
        self._sizes[request_id] = size
        self.waiting[request_id] = None

    def next(self, now: float) -> Optional[Tuple[int, int]]:
        """(id, index of the server) of what is to be sent now; None if nothing waits, or no server can take it."""
        for request_id in self.waiting:
            server = self._choice(request_id, now)
            if server is None:
                return None
            del self.waiting[request_id]
            size = self._sizes[request_id]
            self._turn += bool(size)
            self.lanes[server].give(request_id, size, self._turn)
            return request_id, server
        return None

    def answered(self, request_id: int, server: int) -> None:
        """A server replied, in time or not."""
        lane = self.lanes[server]
        lane.take(request_id)
        if lane.rests_until == float("inf"):
            lane.rests_until = 0.0
        self._forget(request_id)

    def declined(self, request_id: int, server: int, rests_until: float, ends: bool = False) -> bool:
        """A server sent back a request that is not answered: whether another one gets it, or has it already.

        Args:
            request_id: of the request.
            server: index of the server.
            rests_until: time before which others should be preferred to it.
            ends: it sends everything back, because it ends; then the request can also wait for one that is away.
        """
        lane = self.lanes[server]
        if request_id not in lane.unanswered:
            return True
        lane.rests_until = rests_until
        declined = self._declined.setdefault(request_id, set())
        declined.add(server)
        if not any(other.open or ends for index, other in enumerate(self.lanes) if index not in declined):
            return False
        lane.take(request_id)
        self._wait_first(request_id)
        return True

    def opened(self, server: int) -> None:
        """A server takes requests from now on."""
        self.lanes[server].open = True

    def lost(self, server: int) -> None:
        """A server takes no more requests, and will not answer those it has."""
        lane, self.lanes[server] = self.lanes[server], Lane(turn=self.lanes[server].turn)
        for request_id in reversed(list(lane.unanswered)):
            if request_id in self._sizes:
                self._wait_first(request_id)
        for declined in self._declined.values():
            declined.discard(server)  # it will be another one when it comes back

    def abandon(self, request_id: int) -> None:
        """Nobody waits for a request any more. A server that has it may be stuck: until it replies it comes last."""
        for lane in self.lanes:
            if request_id in lane.unanswered:
                lane.rests_until = float("inf")
        self._forget(request_id)

    def _choice(self, request_id: int, now: float) -> Optional[int]:
        able = [index for index, lane in enumerate(self.lanes) if lane.open]
        declined = self._declined.get(request_id, ())
        fresh = [index for index in able if index not in declined]
        free = [index for index in fresh or [index for index in able if self.lanes[index].rests_until <= now]
                if len(self.lanes[index].unanswered) < MAX_UNANSWERED]
        if not free:
            return None
        if not self._sizes[request_id]:
            return free[0]
        lanes = self.lanes
        return min(free, key=lambda index: (lanes[index].rests_until > now, lanes[index].load, lanes[index].turn))

    def _wait_first(self, request_id: int) -> None:
        self.waiting[request_id] = None
        self.waiting.move_to_end(request_id, last=False)

    def _forget(self, request_id: int) -> None:
        self._sizes.pop(request_id, None)
        self._declined.pop(request_id, None)
        self.waiting.pop(request_id, None)
