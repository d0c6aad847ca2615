"""Collects rows until a request is whole; makes each reply once. Errors and status replies leave by the same door."""
from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_serving.client import protocol
from bert_serving.client.errors import BertServingError, OverloadedError
from bert_serving.client.protocol import Buffer

from .assembly import Slice
from .batching import Pending, Piece
from .messages import Rows, dtype_name
from .statistics import ABANDONED, OK, Statistics

logger = logging.getLogger(__name__)


class Reply(NamedTuple):
    """What is to be published.

    Attributes:
        identity: of the client that it is for.
        frames: of the reply, without the topic.
        request: whose result it is; None: it is an error, or the reply to a command. Of a result the sink has to hear
            what became of it: ``answered``, or ``dropped``.
    """

    identity: bytes
    frames: Sequence[Buffer]
    request: Pending | None = None


class Sink:
    """Makes the replies to requests: to each exactly one."""

    def __init__(self, statistics: Statistics, width: int | None, max_width: int) -> None:
        """
        Args:
            statistics: is told how each request ended.
            width: length of token-level results; None: the longest sequence of each request.
            max_width: the model's longest sequence, in tokens.
        """
        self.statistics, self.width, self.max_width = statistics, width, max_width

    def add(self, pieces: list[Piece], rows: Rows, spoilt: Collection[int] = ()) -> list[Reply]:
        """Rows of a job, whose sequences are the pieces' in their order.

        Args:
            spoilt: indices of pieces whose rows are of no use.
        Returns:
            The results of the requests that are whole now.
        """
        replies = []
        sequence = row = 0
        for index, piece in enumerate(pieces):
            end = sequence + piece.count
            end_row = row + sum(rows.lengths[sequence:end]) if rows.lengths else end
            request = piece.request
            if index not in spoilt and not request.finished:
                request.num_tokens += sum(rows.counts[sequence:end])
                request.assembly.add(piece.offset, piece.count, Slice(
                    rows.array[row:end_row],
                    rows.lengths and rows.lengths[sequence:end], rows.contents and rows.contents[sequence:end],
                    rows.specials and rows.specials[sequence:end], rows.tokens and rows.tokens[sequence:end]))
                if request.assembly.is_complete:
                    request.finished = True
                    replies.append(self._result(request))
            sequence, row = end, end_row
        return replies

    def _result(self, request: Pending) -> Reply:
        array = np.ascontiguousarray(request.assembly.result(self.width, self.max_width))
        return Reply(request.identity, protocol.encode_result(
            dtype_name(array.dtype), array.shape, array.data.cast("B"), request.request_id,
            request.assembly.tokens() if request.options.tokens else None), request)

    def answered(self, request: Pending, now: float) -> None:
        """A request's result was sent, or is held for its client."""
        self.statistics.ended(OK, request.size, request.num_tokens)
        self.statistics.answering.observe(now - request.arrived)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("answered client=%s request=%s size=%d after %.1f ms", show(request.identity),
                         show(request.request_id), request.size, (now - request.arrived) * 1e3)

    def dropped(self, request: Pending, nbytes: int) -> Reply:
        """A request's result was dropped; the error to be published in its place.

        Args:
            nbytes: of the result.
        """
        return self._error(request, OverloadedError(
            f"the result of {nbytes / 1e6:.1f} MB was dropped; too much is waiting for clients that do not "
            f"read; read results as they come, or ask for less at a time"))

    def fail(self, request: Pending, error: BertServingError) -> Reply | None:
        """End a request with an error; None if it has had its answer."""
        if request.finished:
            return None
        request.finished = True
        return self._error(request, error)

    def _error(self, request: Pending, error: BertServingError) -> Reply:
        self.statistics.ended(error.code, request.size, request.num_tokens)
        return self.refuse(request.identity, request.request_id, error)

    def refuse(self, identity: bytes, request_id: bytes, error: BertServingError) -> Reply:
        """The reply to a request that was never accepted."""
        logger.warning("refused client=%s request=%s: %s: %s", show(identity), show(request_id), error.code, error)
        return Reply(identity, protocol.encode_error(error, request_id))

    def answer(self, identity: bytes, request_id: bytes, values: dict[str, Any]) -> Reply:
        """The reply to a command."""
        return Reply(identity, protocol.encode_status(values, request_id))

    def abandon(self, request: Pending) -> None:
        """End a request whose client has stopped waiting, without an answer."""
        if not request.finished:
            request.finished = True
            self.statistics.ended(ABANDONED, request.size, request.num_tokens)


def show(name: bytes) -> str:
    """An identity or request id for people to read: short, printable, and not enough of it to subscribe with."""
    text = repr(bytes(name))[2:-1]  # with every control character escaped, so that nobody writes our log for us
    return text if len(text) <= 12 else text[:8] + "..."
