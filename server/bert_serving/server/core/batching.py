"""What waits, and which of it goes next: two classes, clients in turn, jobs cut when a worker can take one.

A request is **fast** (at most ``priority_batch_size`` sentences) or **bulk**. Fast goes first, but while bulk waits it
gets one token for every ``FAST_SHARE`` of fast. Within a class, clients take turns, counted in estimated tokens
(deficit round robin), so that neither many nor large requests of one client hold up another. Slices are cut from
requests at the moment a job is formed, never earlier.

What a client left behind that has gone is **left**: it is nobody's turn, and done when nothing else is to be done.
"""
from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from bert_serving.client.options import DEFAULT, RequestOptions
from bert_serving.client.pairs import Pair, Text

from .assembly import Assembly

FAST_SHARE = 4
"""While both classes wait, fast gets this many times the tokens of bulk."""

TURNS_PER_JOB = 8
"""Fast clients that a full job has room for, if each has plenty waiting."""

CHARACTERS_PER_TOKEN = 4
"""Rough, for English word pieces; only the relation between texts matters."""


def estimate_tokens(texts: Sequence[Text], limit: int) -> list[int]:
    """About how many tokens each sequence will be, special tokens included, at most ``limit``.

    Args:
        texts: all strings, or all lists; or pairs of these, or among these.
    """
    sample = texts[0] if texts else ""
    each = CHARACTERS_PER_TOKEN if isinstance(sample.first if isinstance(sample, Pair) else sample, str) else 1
    tokens = [len(text) // each + 3 for text in texts]
    return [number if number < limit else limit for number in tokens]


@dataclass(eq=False, slots=True)
class Pending:
    """A request that was accepted and has not had its answer.

    Attributes:
        uid: the broker's own number for it; the client's request id is only echoed.
        texts: its sequences; ``size`` is how many.
        nbytes: what it counts against the limits.
        tokens: estimated, of all its sequences.
        arrived: when, on the broker's monotonic clock, in seconds.
        deadline: when its client stops waiting, on that clock; None: never.
        options: what its client wants beside the vectors; ``tokens`` is set, too, if the server shows them to all.
        taken, tokens_taken: sequences that have been cut into pieces so far, and their estimated tokens.
        num_tokens: of its sequences that have been computed so far.
        left: its client has gone, and may come back.
        finished: it has had its answer; whatever of it is still under way is of no use.
    """

    uid: int
    identity: bytes
    request_id: bytes
    texts: list[Text]
    nbytes: int
    tokens: int
    arrived: float
    deadline: float | None
    assembly: Assembly
    key: tuple[bytes, bytes, int] | None = None
    options: RequestOptions = DEFAULT
    taken: int = 0
    tokens_taken: int = 0
    num_tokens: int = 0
    left: bool = False
    finished: bool = False
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.texts)


@dataclass(eq=False, slots=True)
class Piece:
    """Consecutive sequences of one request: what is sent, awaited, and sent again if its worker dies.

    Attributes:
        strikes: how often a worker died while it ran this piece alone.
    """

    request: Pending
    offset: int
    count: int
    tokens: int
    strikes: int = 0

    @property
    def texts(self) -> list[Text]:
        return self.request.texts[self.offset:self.offset + self.count]

    def halves(self) -> tuple[Piece, Piece]:
        """The piece in two; only for pieces of at least two sequences."""
        half = self.count // 2
        tokens = self.tokens * half // self.count
        return (Piece(self.request, self.offset, half, tokens),
                Piece(self.request, self.offset + half, self.count - half, self.tokens - tokens))


@dataclass(slots=True)
class _Lane:
    """One client's requests of one class, in order of arrival, and what it may still take in its turn."""

    requests: OrderedDict[int, Pending] = field(default_factory=OrderedDict)
    deficit: int = 0

    def has_more_than(self, tokens: int) -> bool:
        for request in self.requests.values():
            tokens -= request.tokens - request.tokens_taken
            if tokens < 0:
                return True
        return False


class _Class:
    """Requests of one class: a ring of lanes, one a client; the first one's turn it is."""

    def __init__(self) -> None:
        self.lanes: OrderedDict[bytes, _Lane] = OrderedDict()
        self.tokens = 0
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self.lanes)

    def add(self, request: Pending) -> None:
        lane = self.lanes.get(request.identity)
        if lane is None:
            lane = self.lanes[request.identity] = _Lane()
        lane.requests[request.uid] = request
        self.tokens += request.tokens - request.tokens_taken
        self.size += request.size - request.taken

    def remove(self, request: Pending) -> None:
        """Forget what waits of a request."""
        lane = self.lanes.get(request.identity)
        if lane is None or lane.requests.pop(request.uid, None) is None:
            return
        self.tokens -= request.tokens - request.tokens_taken
        self.size -= request.size - request.taken
        if not lane.requests:
            del self.lanes[request.identity]

    def pop(self, identity: bytes) -> list[Pending]:
        """What waits of one client's, which is forgotten here."""
        requests = list(self.lanes[identity].requests.values()) if identity in self.lanes else []
        for request in requests:
            self.remove(request)
        return requests

    def take(self, max_size: int, max_tokens: int, turn: int, sequence_limit: int) -> list[Piece]:
        """Slices of waiting requests, clients in turn, until ``max_size`` sequences or ``max_tokens`` are reached.

        Args:
            turn: what a client may take before it is the next one's turn, in tokens. A sequence counts for at least
                its share of a full job, so that many short ones take no more of a job than a few long ones.
        """
        pieces: list[Piece] = []
        size = tokens = 0
        while self.lanes and size < max_size and (tokens < max_tokens or not pieces):
            identity, lane = next(iter(self.lanes.items()))
            if lane.deficit <= 0:  # else it is in the middle of its turn: the last job was full
                lane.deficit += turn
            while lane.requests and lane.deficit > 0 and size < max_size and (tokens < max_tokens or not pieces):
                request = next(iter(lane.requests.values()))
                piece = self._cut(request, max_size - size, max(1, max_tokens - tokens), sequence_limit)
                pieces.append(piece)
                size += piece.count
                tokens += piece.tokens
                lane.deficit -= max(piece.tokens, piece.count * max_tokens // max_size)
                if request.taken == request.size:
                    lane.requests.popitem(last=False)
            if not lane.requests:
                del self.lanes[identity]
            elif lane.deficit <= 0:
                self.lanes.move_to_end(identity)
        return pieces

    def _cut(self, request: Pending, max_size: int, max_tokens: int, sequence_limit: int) -> Piece:
        start, left = request.taken, request.size - request.taken
        if left <= max_size and request.tokens <= max_tokens and start == 0:
            count, tokens = left, request.tokens
        else:
            totals = list(accumulate(estimate_tokens(request.texts[start:start + max_size], sequence_limit)))
            count = min(bisect_left(totals, max_tokens) + 1, len(totals))
            tokens = totals[count - 1]
        request.taken += count
        request.tokens_taken += tokens
        self.size -= count
        self.tokens -= tokens
        return Piece(request, start, count, tokens)


class Backlog:
    """Everything that waits for a worker.

    Attributes:
        left: what clients that have gone left behind; it counts for nothing but ``take_left``.
        last_added: when the last request was added, on the broker's clock.
    """

    def __init__(self, max_batch_size: int, priority_batch_size: int, sequence_limit: int) -> None:
        """
        Args:
            max_batch_size: most sequences in a job.
            priority_batch_size: most sentences of a fast request.
            sequence_limit: longest sequence in tokens.
        """
        self.max_batch_size = max_batch_size
        self.priority_batch_size = priority_batch_size
        self.sequence_limit = sequence_limit
        self.fast, self.bulk, self.left = _Class(), _Class(), _Class()
        self.last_added = float("-inf")
        self._fast_tokens_left = 0

    def __bool__(self) -> bool:
        return bool(self.fast or self.bulk)

    @property
    def tokens(self) -> int:
        """Estimated tokens that wait."""
        return self.fast.tokens + self.bulk.tokens

    @property
    def size(self) -> int:
        """Sequences that wait."""
        return self.fast.size + self.bulk.size

    def _class_of(self, request: Pending) -> _Class:
        if request.left:
            return self.left
        return self.fast if self.is_fast(request) else self.bulk

    def is_fast(self, request: Pending) -> bool:
        """Whether it is of the class that goes first."""
        return request.size <= self.priority_batch_size

    def add(self, request: Pending) -> None:
        self.last_added = request.arrived
        self._class_of(request).add(request)

    def leave(self, identity: bytes) -> None:
        """A client has gone: what it has here by now waits for all others'."""
        for request in self.fast.pop(identity) + self.bulk.pop(identity):
            request.left = True
            self.left.add(request)

    def come_back(self, identity: bytes) -> None:
        """A client is there again: its requests are like any others."""
        requests = self.left.pop(identity)
        if requests:
            requests += self.fast.pop(identity) + self.bulk.pop(identity)  # which came later
        for request in requests:
            request.left = False
            self._class_of(request).add(request)

    def remove(self, request: Pending) -> None:
        """Forget what waits of a request that has had its answer, so that it costs neither memory nor time."""
        if request.taken < request.size:
            self._class_of(request).remove(request)

    def bulk_is_next(self) -> bool:
        """Whether the next job is a bulk one."""
        return bool(self.bulk) and (not self.fast or self._fast_tokens_left < 0)

    def mixes_in_a_flood(self, max_tokens: int) -> bool:
        """Whether the next job is a fast one of several clients, of whom one alone could fill half of it."""
        return not self.bulk_is_next() and len(self.fast.lanes) > 1 and any(
            lane.has_more_than(max_tokens // 2) for lane in self.fast.lanes.values())

    def take(self, max_tokens: int) -> list[Piece]:
        """The next job's pieces, of one class; empty if nothing waits."""
        if self.bulk_is_next():
            pieces = self.bulk.take(self.max_batch_size, max_tokens, max_tokens, self.sequence_limit)
            due = FAST_SHARE * sum(piece.tokens for piece in pieces)
            self._fast_tokens_left = min(self._fast_tokens_left + due, due)  # what fast did not use is not saved up
            return pieces
        turn = max(1, max_tokens // TURNS_PER_JOB)
        pieces = self.fast.take(self.max_batch_size, max_tokens, turn, self.sequence_limit)
        if self.bulk:
            self._fast_tokens_left -= sum(piece.tokens for piece in pieces)
        return pieces

    def take_left(self, max_tokens: int) -> list[Piece]:
        """The pieces of a job of what clients left behind that have gone; empty if there is nothing."""
        return self.left.take(self.max_batch_size, max_tokens, max_tokens, self.sequence_limit)
