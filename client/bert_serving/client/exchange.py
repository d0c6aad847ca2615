"""What one client asked, what came back, and who may take it: bookkeeping without sockets or a clock.

The life of a request::

    number() -> expect() -> receive() -> take() or take_first() or take_all()
                   |            |
                abandon()    abandon()        a later reply is dropped

A request either has one waiter, who takes the reply by its id, or is *collectable*: whoever fetches first gets it.
"""
from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Callable, Deque, Dict, List, Optional, Sequence, Set, Union

from .errors import BertServingError
from .protocol import (Buffer, Failure, ProtocolError, Result, Status, decode_reply, recent_subscription, recent_topic,
                       topic)
from .words import counted

Reply = Union[Result, Status, Failure]

_MAX_EARLY, _MAX_EARLY_BYTES = 1000, 64 << 20
"""Results kept for a first tap: so many, and of vectors so many bytes; the latest is kept whatever its size."""

_MAX_HEARD = 1000
"""Ids that are remembered; more than a server sends again."""


@dataclass(frozen=True)
class Asked:
    """A message whose reply is expected.

    Attributes:
        frames: as they were sent, so that they can be sent again.
        size: number of rows the result must have; None for a command, whose answer is a status.
    """

    frames: List[bytes]
    size: Optional[int]


class Exchange:
    """One client's requests and replies.

    Attributes:
        identity: replies to any other identity are not ours.
        last_id: the id given out last.
        outstanding: id -> what was asked and has no reply yet, in the order asked.
        answered: id -> reply that waits for the one caller who knows the id.
        collected: id -> reply that waits for whoever fetches, in the order of arrival.
        collectable: ids, replied or not, of requests for whoever fetches.
        pending: ids of all that was asked and not yet taken; the same set object for ever.
        subscriptions: what the receiving socket has to subscribe to.
    """

    def __init__(self, identity: bytes, last_id: int = 0, shared: bool = False) -> None:
        """
        Args:
            identity: the client's.
            last_id: ids start after it. Clients that share an identity must start far from each other: their replies
                reach them all, and the id is all there is to tell them apart.
            shared: other clients may have this identity, so that a tap is to begin with what was published shortly
                before. Results are kept for it until this client asks for some itself.
        """
        self.identity = identity
        self.last_id = last_id
        self.outstanding: Dict[int, Asked] = {}
        self.answered: Dict[int, Reply] = {}
        self.collected: OrderedDict[int, Reply] = OrderedDict()
        self.collectable: Set[int] = set()
        self.pending: Set[int] = set()
        self._first_id = last_id + 1
        self._recent_topic = recent_topic(identity)
        self._topics = (identity, topic(identity), self._recent_topic)
        self.subscriptions = [identity, recent_subscription(identity)] if shared else [identity]
        self._early: Optional[Deque[Result]] = deque() if shared else None
        self._early_bytes = 0
        self._heard: OrderedDict[int, None] = OrderedDict()  # ids of results, lest a tap gets one again
        self._groups: Dict[int, Set[int]] = {}
        self._failed: OrderedDict[int, Failure] = OrderedDict()  # the failures among the collected
        self._taps: List[Deque[Result]] = []

    @property
    def num_asked(self) -> int:
        """How many ids were given out."""
        return self.last_id + 1 - self._first_id

    # ---- out ---------------------------------------------------------------------------------------------------------

    def number(self) -> int:
        """A request id that was never used."""
        self.last_id += 1
        return self.last_id

    def expect(self, request_id: int, frames: List[bytes], size: Optional[int] = None,
               collect: bool = False, group: Optional[Set[int]] = None) -> None:
        """Note a request, before it is sent: its reply may be faster than the return of ``send``.

        Args:
            request_id: from :meth:`number`.
            frames: what is sent.
            size: how many sentences; None for a command.
            collect: the reply is for whoever fetches, not for one waiter.
            group: a set that holds the ids of some collectable requests until they are taken; this one joins it.
        """
        if size is not None:
            self._early = None
        self.outstanding[request_id] = Asked(frames, size)
        self.pending.add(request_id)
        if collect:
            self.collectable.add(request_id)
            if group is not None:
                group.add(request_id)
                self._groups[request_id] = group

    def abandon(self, request_id: int) -> None:
        """Forget a request; its reply, if one comes, is dropped."""
        self.outstanding.pop(request_id, None)
        self.answered.pop(request_id, None)
        self.collected.pop(request_id, None)
        self._leave(request_id)

    def unanswered(self) -> List[List[bytes]]:
        """Frames of everything that has no reply yet, oldest first: what a restarted server must get again."""
        return [asked.frames for asked in self.outstanding.values()]

    # ---- back --------------------------------------------------------------------------------------------------------

    def receive(self, frames: Sequence[Buffer], passed_on: Optional[Callable[[Failure], bool]] = None) -> Optional[int]:
        """File a message from the server; whatever is not an answer to something outstanding is dropped.

        Args:
            frames: the message.
            passed_on: says of a failure whether another server gets the request; then it stays outstanding.
        Returns:
            The id of the request that the server has finished with; None if it is none of ours, or was passed on.
        """
        # SUB matches by prefix, so from an original server c1 also hears c10: compare the whole identity.
        if not frames or bytes(frames[0]) not in self._topics:
            return None
        try:
            reply = decode_reply(frames)
        except ProtocolError as error:
            reply = Failure(int(error.request_id), BertServingError("the server's answer is unreadable: %s" % error))
        request_id = reply.request_id
        asked = self.outstanding.get(request_id)
        heard = False
        if isinstance(reply, Result) and self._is_news(reply, again=bytes(frames[0]) == self._recent_topic):
            heard = bool(self._taps)
            for queue in self._taps:
                queue.append(reply)
            if self._early is not None:
                self._keep_early(self._early, reply)
        if asked is None:
            return request_id  # late, a duplicate, or for another client with this identity
        if passed_on is not None and isinstance(reply, Failure) and passed_on(reply):
            return None
        reply = _fitting(reply, asked)
        del self.outstanding[request_id]
        if request_id not in self.collectable:
            self.answered[request_id] = reply
        elif heard and isinstance(reply, Result):
            self._leave(request_id)
        else:
            self.collected[request_id] = reply
            if isinstance(reply, Failure):
                self._failed[request_id] = reply
        return request_id

    def take(self, request_id: int) -> Optional[Reply]:
        """The reply to a request that has a waiter, once; None if it is not there."""
        reply = self.answered.pop(request_id, None)
        if reply is not None:
            self._leave(request_id)
        return reply

    def take_first(self, group: Optional[Set[int]] = None) -> Optional[Reply]:
        """The reply that came first among the collectable ones (of ``group``, if given); None if none is there."""
        for request_id, reply in self.collected.items():
            if group is None or request_id in group:
                del self.collected[request_id]
                self._leave(request_id)
                return reply
        return None

    def take_all(self) -> List[Result]:
        """All collected results in the order of arrival. Only for when no failure is among the replies."""
        results = [reply for reply in self.collected.values() if isinstance(reply, Result)]
        for result in results:
            del self.collected[result.request_id]
            self._leave(result.request_id)
        return results

    def take_failure(self) -> Optional[Failure]:
        """The failure that came first among the collectable replies; the results stay."""
        for request_id, failure in self._failed.items():
            del self.collected[request_id]
            self._leave(request_id)
            return failure
        return None

    def put_back(self, results: Sequence[Result]) -> None:
        """Undo :meth:`take_all`."""
        for result in results:
            self.collected[result.request_id] = result
            self.collectable.add(result.request_id)
            self.pending.add(result.request_id)

    # ---- listening ---------------------------------------------------------------------------------------------------

    def tap(self) -> Deque[Result]:
        """A queue that from now on gets every result published to this identity, whoever asked for it.

        The first one begins with what was heard so far, where the identity is shared and nothing was asked yet. While
        there is a tap, results of own collectable requests go there instead of waiting for a fetch.
        """
        queue: Deque[Result] = deque(self._early or ())
        self._early = None
        self._taps.append(queue)
        return queue

    def untap(self, queue: Deque[Result]) -> None:
        """End a tap."""
        self._taps = [tap for tap in self._taps if tap is not queue]

    def _is_news(self, result: Result, again: bool) -> bool:
        """Whether a result is to be heard.

        Args:
            again: the server sends it because this client subscribed, and may have sent it before.
        """
        if len(self.subscriptions) == 1:  # nothing is sent again to a client whose identity is its own
            return True
        is_known = result.request_id in self._heard
        self._heard[result.request_id] = None
        self._heard.move_to_end(result.request_id)
        if len(self._heard) > _MAX_HEARD:
            self._heard.popitem(last=False)
        return not (again and is_known)

    def _keep_early(self, early: Deque[Result], result: Result) -> None:
        early.append(result)
        self._early_bytes += result.embedding.nbytes
        while len(early) > _MAX_EARLY or self._early_bytes > _MAX_EARLY_BYTES and len(early) > 1:
            self._early_bytes -= early.popleft().embedding.nbytes

    @property
    def expecting(self) -> bool:
        """Whether anything that arrives could be of interest."""
        return bool(self.outstanding or self._taps)

    def _leave(self, request_id: int) -> None:
        self.pending.discard(request_id)
        self.collectable.discard(request_id)
        self._failed.pop(request_id, None)
        group = self._groups.pop(request_id, None)
        if group is not None:
            group.discard(request_id)


def _fitting(reply: Reply, asked: Asked) -> Reply:
    """``reply`` itself if it can be the answer to what was asked, else a failure that says why not."""
    if isinstance(reply, Failure):
        return reply
    if asked.size is None:
        if isinstance(reply, Status):
            return reply
        found, expected = "vectors", "a status"
    elif isinstance(reply, Result):
        rows = reply.embedding.shape[0] if reply.embedding.ndim else 0
        if rows == asked.size:
            return reply
        found, expected = counted(rows, "row"), "%d" % asked.size
    else:
        found, expected = "a status", "vectors"
    return Failure(reply.request_id, BertServingError(
        "the server answered %s where %s were expected; do two clients share the identity?" % (found, expected)))
