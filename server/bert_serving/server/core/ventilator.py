"""Receives requests, refuses what is wrong or too much, queues the rest, and hands out jobs."""
from __future__ import annotations

import hashlib
import hmac
import heapq
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bert_serving.client import protocol
from bert_serving.client.errors import (BertServingError, DeadlineError, OverloadedError, TooLargeError,
                                        UnauthorizedError, UnavailableError, UnprocessableError, WorkerLostError)
from bert_serving.client.options import DEFAULT, RequestOptions
from bert_serving.client.pairs import Text
from bert_serving.client.protocol import ProtocolError
from bert_serving.client.words import counted

from .assembly import Assembly
from .batching import Backlog, Pending, Piece, estimate_tokens
from .messages import Fault, Job, Rows, dump
from .outlet import Outlet
from .scheduler import Scheduler
from .sink import Reply, Sink, show
from .statistics import Statistics

logger = logging.getLogger(__name__)

WITH_TOKENS = RequestOptions(tokens=True)
"""Of a job in which somebody wants the tokens: the vectors are the same, so the others' sequences may be in it."""

CONDEMNED_SECONDS = 600.0
MAX_CONDEMNED = 10_000

MAX_TIMEOUT_MS = 1e9
"""Eleven days: who waits longer waits for ever."""

ABANDONED_SECONDS = 15.0
"""A client whose connection is gone for so long will not come back for what it asked."""

LEFT_SECONDS = 0.5
"""What a client has waiting whose connection is gone for so long is not computed before anybody else's. A connection
that was cut comes back sooner."""

MAX_INTERACTIVE = 32
"""Who has more fast requests than so many out does not wait for each of them, but for all."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may wait.

    Attributes:
        max_message_bytes: largest request.
        max_bytes: most bytes of requests that wait or are computed.
        max_size: most sentences of them.
        terminate_token: what lets a client of another host end the server; empty: nothing does.
    """

    max_message_bytes: int
    max_bytes: int
    max_size: int
    terminate_token: bytes = b""


class Caller(NamedTuple):
    """What is known of whoever sent a message.

    Attributes:
        is_local: it is on this host; said of commands only.
        has_key: it was let in by its key.
        is_expelled: its key has been taken off the list since.
    """

    is_local: bool = False
    has_key: bool = False
    is_expelled: bool = False


@dataclass(slots=True)
class Share:
    """What one client has waiting or being computed; of its requests ``fast`` are fast ones."""

    requests: int = 0
    size: int = 0
    nbytes: int = 0
    fast: int = 0

    def add(self, requests: int, size: int, nbytes: int, fast: int) -> None:
        self.requests += requests
        self.size += size
        self.nbytes += nbytes
        self.fast += fast


class Ventilator:
    """The requests' way from the wire to the workers, and back to the sink.

    Whoever tells it of something publishes the replies that it returns.
    """

    def __init__(self, limits: Limits, backlog: Backlog, scheduler: Scheduler, sink: Sink, outlet: Outlet,
                 statistics: Statistics, describe: Callable[[protocol.Command, bool], dict[str, Any]],
                 show_tokens: bool = False) -> None:
        """
        Args:
            outlet: knows whose clients have left.
            describe: the values of the reply to a command, and whether who asks may know all of them.
            show_tokens: send every request's tokens, whether it asks for them or not.
        """
        self.limits, self.backlog, self.scheduler = limits, backlog, scheduler
        self.sink, self.outlet, self.statistics = sink, outlet, statistics
        self.describe, self.show_tokens = describe, show_tokens
        self.pending: dict[int, Pending] = {}
        self.outstanding: dict[tuple[bytes, bytes, int], Pending] = {}
        self.nbytes = self.size = 0
        self.shares: dict[bytes, Share] = {}
        self.draining = False
        self.termination_wanted = False
        self.condemned: OrderedDict[bytes, float] = OrderedDict()
        self.counts = {"accepted": 0, "refused": 0, "expired": 0, "abandoned": 0, "condemned": 0}
        self._next_uid = 1
        self._deadlines: list[tuple[float, int]] = []  # a heap of (deadline, uid)

    # ---- in ----------------------------------------------------------------------------------------------------------

    def receive(self, frames: Sequence[bytes], now: float, caller: Caller = Caller()) -> Sequence[Reply]:
        """One message from a client; what is to be published at once."""
        nbytes = sum(map(len, frames))
        try:
            if nbytes > self.limits.max_message_bytes and len(frames) > 2:
                raise TooLargeError(f"a request of {nbytes / 1e6:.1f} MB; the server accepts "
                                    f"{self.limits.max_message_bytes / 1e6:.1f} MB; send it in smaller pieces")
            message = protocol.decode_request(frames)
        except TooLargeError as error:
            return self._refuse(frames[0], frames[2][:protocol.MAX_IDENTITY], error)
        except ProtocolError as error:
            if error.identity:
                return self._refuse(error.identity, error.request_id, error)
            self.counts["refused"] += 1
            self.statistics.ended(error.code, 0, 0)
            logger.warning("ignored a message that cannot be answered: %s", error)
            return ()
        if caller.is_expelled:
            return self._refuse(message.identity, message.request_id,
                                UnauthorizedError("this client's key is not on the server's list any more"))
        if isinstance(message, protocol.Command):
            return self._command(message, caller)
        return self._request(message, hash(tuple(map(bytes, frames[1::3]))), now)

    def _refuse(self, identity: bytes, request_id: bytes, error: BertServingError, size: int = 0) -> Sequence[Reply]:
        self.counts["refused"] += 1
        self.statistics.ended(error.code, size, 0)
        if 0 < len(identity) <= protocol.MAX_IDENTITY and protocol.TERMINATOR not in identity:
            return (self.sink.refuse(identity, request_id, error),)
        return ()

    def _command(self, command: protocol.Command, caller: Caller) -> Sequence[Reply]:
        if command.name != protocol.TERMINATION:
            self.statistics.command(command.identity)
            return (self.sink.answer(command.identity, command.request_id,
                                     self.describe(command, caller.is_local or caller.has_key)),)
        if caller.is_local or self._knows_token(command):
            logger.info("asked to stop by a client %s", "on this host" if caller.is_local else "that knows the token")
            self.termination_wanted = True
            return ()
        return self._refuse(command.identity, command.request_id, UnauthorizedError(
            "only clients on the server's own host, or with its -terminate_token, may stop it"))

    def _knows_token(self, command: protocol.Command) -> bool:
        token = self.limits.terminate_token
        return bool(token) and hmac.compare_digest(command.token, token)

    def _request(self, message: protocol.Request, content_hash: int, now: float) -> Sequence[Reply]:
        """
        Args:
            content_hash: of the request's payload and options, as they came.
        """
        self.statistics.request(message.identity, len(message.texts), now)
        # Two clients that share an identity may use one request id for different texts: those are two requests.
        key = (message.identity, message.request_id, content_hash)
        if key in self.outstanding:
            # Sent again by a client that saw the connection go: the answer to the first answers both.
            logger.debug("repeated client=%s request=%s", show(message.identity), show(message.request_id))
            return ()
        error = self._objection(message, now)
        if error is not None:
            return self._refuse(message.identity, message.request_id, error, len(message.texts))
        options = message.options
        if self.show_tokens and not options.tokens:
            options = replace(options, tokens=True)
        limit = self.backlog.sequence_limit
        request = Pending(
            self._next_uid, message.identity, message.request_id, message.texts, message.nbytes,
            sum(estimate_tokens(message.texts, limit)), now, _deadline(options.timeout, now),
            Assembly(len(message.texts)), key, options)
        self._next_uid += 1
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, request.uid))
        self.pending[request.uid] = self.outstanding[key] = request
        self.nbytes += request.nbytes
        self.size += request.size
        share = self.shares.get(request.identity)
        if share is None:
            share = self.shares[request.identity] = Share()
        is_fast = self.backlog.is_fast(request)
        share.add(1, request.size, request.nbytes, is_fast)
        if is_fast and share.fast <= MAX_INTERACTIVE and not request.identity.startswith(protocol.PROBE):
            self.scheduler.interactive(now)
        self.counts["accepted"] += 1
        self.backlog.add(request)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("accepted client=%s request=%s size=%d", show(request.identity), show(request.request_id),
                         request.size)
        return ()

    def _objection(self, message: protocol.Request, now: float) -> BertServingError | None:
        """Why a well-formed request is not accepted; None if it is."""
        if self.draining:
            return UnavailableError("the server is stopping; send the request again later, or to another server")
        if len(message.texts) > self.limits.max_size:
            return TooLargeError(f"a request of {counted(len(message.texts), 'sentence')}; the server accepts "
                                 f"{self.limits.max_size}; send it in smaller pieces")
        if self.pending and (self.nbytes + message.nbytes > self.limits.max_bytes
                             or self.size + len(message.texts) > self.limits.max_size):
            return self._overloaded(f"the queue is full with {counted(self.size, 'sentence')} of "
                                    f"{self.nbytes / 1e6:.1f} MB")
        share = self.shares.get(message.identity)
        if share is not None and (share.nbytes + message.nbytes > self.limits.max_bytes / 2
                                  or share.size + len(message.texts) > self.limits.max_size / 2):
            # The other half is for the others: one that floods the server must not keep them out.
            return self._overloaded(f"this client has its half of the queue, {counted(share.size, 'sentence')} of "
                                    f"{share.nbytes / 1e6:.1f} MB")
        if self.condemned:
            for index, text in enumerate(message.texts):
                if self.condemned.get(_digest(text), now) > now:
                    self.counts["condemned"] += 1
                    return UnprocessableError(f"text {index} could not be encoded when it was last sent, "
                                              f"and is refused for now", index=index)
        return None

    def _overloaded(self, reason: str) -> OverloadedError:
        seconds = max(0.1, round(self.scheduler.seconds_of_backlog(), 1))
        return OverloadedError(f"{reason}; try again in {counted(seconds, 'second')}", retry_after=seconds)

    def come_back(self, identity: bytes) -> None:
        """A client is there again after its last connection was gone."""
        self.backlog.come_back(identity)

    def _finished(self, request: Pending) -> None:
        """Forget a request that has had its answer, or that nobody waits for."""
        if self.pending.pop(request.uid, None) is not None:
            self.nbytes -= request.nbytes
            self.size -= request.size
            share = self.shares[request.identity]
            share.add(-1, -request.size, -request.nbytes, -self.backlog.is_fast(request))
            if not share.requests:
                del self.shares[request.identity]
            if request.key is not None:
                self.outstanding.pop(request.key, None)
            self.backlog.remove(request)

    # ---- out and back ------------------------------------------------------------------------------------------------

    def next_job(self, now: float) -> Job | None:
        """A job for a worker that can take one; None if there is none."""
        flight = self.scheduler.next_flight(now)
        if flight is None:
            return None
        worker = self.scheduler.workers[flight.slot]
        return Job(flight.slot, worker.incarnation, flight.job,
                   [text for piece in flight.pieces for text in piece.texts],
                   WITH_TOKENS if any(piece.request.options.tokens for piece in flight.pieces) else DEFAULT)

    def rows(self, rows: Rows, now: float) -> Sequence[Reply]:
        """A job is done; the results of the requests that it completes."""
        flight = self.scheduler.landed(rows.job, now, rows.num_tokens, rows.seconds.get("compute", 0.0),
                                       sum(rows.seconds.values()), sum(rows.counts))
        if flight is None:
            return ()
        self.statistics.job(rows.counts, rows.num_tokens, rows.seconds)
        for piece in flight.pieces:
            self.statistics.waiting.observe((flight.since or now) - piece.request.arrived)
        if not rows.bad:
            return self._finish(self.sink.add(flight.pieces, rows))
        # Texts whose vectors are not finite: what stands beside them is fine, unless it is of the same piece.
        replies: list[Reply] = []
        bad, sequence, spoilt = set(rows.bad), 0, set()
        for index, piece in enumerate(flight.pieces):
            if not bad.isdisjoint(range(sequence, sequence + piece.count)):
                spoilt.add(index)
                if not piece.request.finished and self.scheduler.suspect(piece, flight):
                    replies += self._condemn(piece, "its vector is not finite", now)
            sequence += piece.count
        return [*replies, *self._finish(self.sink.add(flight.pieces, rows, spoilt))]

    def _finish(self, replies: list[Reply]) -> list[Reply]:
        """Forget the requests whose results these are."""
        for reply in replies:
            if reply.request is not None:
                self._finished(reply.request)
        return replies

    def fault(self, fault: Fault, now: float) -> Sequence[Reply]:
        """A worker could not do a job; an error for each text that is to blame."""
        flight = self.scheduler.landed(fault.job, now)
        if flight is None:
            return ()
        logger.warning("job %d of %s failed on worker %d: %s", fault.job,
                       counted(sum(piece.count for piece in flight.pieces), "sequence"), fault.slot, fault.message)
        return [reply for piece in self.scheduler.failed(flight) for reply in self._condemn(piece, fault.message, now)]

    def lost(self, slot: int, now: float) -> Sequence[Reply]:
        """A worker is gone; an error for each text that is to blame."""
        return [reply for piece in self.scheduler.lost(slot) for reply in self._condemn(
            piece, f"it ended {counted(piece.strikes, 'worker')}, each time alone", now)]

    def _condemn(self, piece: Piece, reason: str, now: float) -> Sequence[Reply]:
        self.condemned[_digest(piece.texts[0])] = now + CONDEMNED_SECONDS
        while len(self.condemned) > MAX_CONDEMNED:
            self.condemned.popitem(last=False)
        return self._fail(piece.request, UnprocessableError(
            f"text {piece.offset} cannot be encoded: {reason}", index=piece.offset))

    def _fail(self, request: Pending, error: BertServingError) -> Sequence[Reply]:
        reply = self.sink.fail(request, error)
        if reply is None:
            return ()
        self._finished(request)
        return (reply,)

    # ---- time --------------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> Sequence[Reply]:
        """Forget requests whose clients have stopped waiting or have gone, before they are computed.

        Returns:
            An error for each whose deadline has passed.
        """
        replies: list[Reply] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            request = self.pending.get(heapq.heappop(self._deadlines)[1])
            if request is not None:
                self.counts["expired"] += 1
                replies += self._fail(request, DeadlineError("the request's own deadline passed before it was "
                                                             "computed"))
        if len(self._deadlines) > 2 * len(self.pending) + 1000:  # most are of requests that were answered in time
            self._deadlines = [(deadline, uid) for deadline, uid in self._deadlines if uid in self.pending]
            heapq.heapify(self._deadlines)
        for identity in self.outlet.left(now - LEFT_SECONDS):
            self.backlog.leave(identity)
        gone = self.outlet.gone(now - ABANDONED_SECONDS)
        if gone:
            for request in [request for request in self.pending.values() if request.identity in gone]:
                self.counts["abandoned"] += 1
                self.sink.abandon(request)
                self._finished(request)
        while self.condemned and next(iter(self.condemned.values())) <= now:
            self.condemned.popitem(last=False)
        return replies

    def fail_all(self, error: BertServingError) -> Sequence[Reply]:
        """End every request with ``error``."""
        replies = [reply for request in list(self.pending.values()) for reply in self._fail(request, error)]
        self.scheduler.suspects.clear()
        return replies

    def no_worker(self, reason: str) -> Sequence[Reply]:
        """No worker will come back."""
        return self.fail_all(WorkerLostError(f"no worker is left: {reason}"))


def _deadline(timeout_ms: float | None, now: float) -> float | None:
    """When a client that waits for ``timeout_ms`` stops waiting; None: never."""
    if timeout_ms is None or timeout_ms > MAX_TIMEOUT_MS:
        return None
    return now + timeout_ms / 1e3


def _digest(text: Text) -> bytes:
    return hashlib.blake2b(dump(text), digest_size=16).digest()
