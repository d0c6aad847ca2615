"""Collects rows until a request is whole, then publishes it once. Errors and status replies leave by the same door."""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from bert_serving.client import protocol
from bert_serving.client.errors import BertServingError, OverloadedError

from .assembly import Slice
from .batching import Pending, Piece
from .messages import Rows, dtype_name
from .outlet import Outlet
from .statistics import ABANDONED, OK

logger = logging.getLogger(__name__)


class Sink:
    """Answers requests: each exactly once."""

    def __init__(self, outlet: Outlet, width: int | None, max_width: int,
                 on_finished: Callable[[Pending], None] = lambda request: None) -> None:
        """
        Args:
            outlet: the door to the clients.
            width: length of token-level results; None: the longest sequence of each request.
            max_width: the model's longest sequence, in tokens.
            on_finished: called once for every request that has had its answer.
        """
        # For the statistics: how a request ended, its sentences and its computed tokens; how long an answer took.
        self.outlet = outlet
        self.width, self.max_width = width, max_width
        self.on_finished = on_finished
        self.on_ended: Callable[[str, int, int], None] = lambda outcome, size, tokens: None
        self.on_answered: Callable[[float], None] = lambda seconds: None

    def add(self, pieces: list[Piece], rows: Rows, now: float) -> None:
        """Rows of a job, whose sequences are the pieces' in their order."""
        sequence = row = 0
        for piece in pieces:
            end = sequence + piece.count
            end_row = row + sum(rows.lengths[sequence:end]) if rows.lengths else end
            request = piece.request
            if not request.finished:
                request.num_tokens += sum(rows.counts[sequence:end])
                request.assembly.add(piece.offset, piece.count, Slice(
                    rows.array[row:end_row],
                    rows.lengths and rows.lengths[sequence:end], rows.contents and rows.contents[sequence:end],
                    rows.specials and rows.specials[sequence:end], rows.tokens and rows.tokens[sequence:end]))
                if request.assembly.is_complete:
                    self._publish(request, now)
            sequence, row = end, end_row

    def _publish(self, request: Pending, now: float) -> None:
        array = np.ascontiguousarray(request.assembly.result(self.width, self.max_width))
        self._finish(request)
        if not self.outlet.publish(request.identity, protocol.encode_result(
                dtype_name(array.dtype), array.shape, array.data.cast("B"), request.request_id,
                request.assembly.tokens() if request.options.tokens else None), now, is_result=True):
            self._say(request, OverloadedError(
                f"the result of {array.nbytes / 1e6:.1f} MB was dropped; too much is waiting for clients that do not "
                f"read; read results as they come, or ask for less at a time"), now)
            return
        self.on_ended(OK, request.size, request.num_tokens)
        self.on_answered(now - request.arrived)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("answered client=%s request=%s size=%d after %.1f ms", show(request.identity),
                         show(request.request_id), request.size, (now - request.arrived) * 1e3)

    def fail(self, request: Pending, error: BertServingError, now: float) -> None:
        """End a request with an error, unless it has had its answer."""
        if not request.finished:
            self._finish(request)
            self._say(request, error, now)

    def _say(self, request: Pending, error: BertServingError, now: float) -> None:
        self.on_ended(error.code, request.size, request.num_tokens)
        self.refuse(request.identity, request.request_id, error, now)

    def refuse(self, identity: bytes, request_id: bytes, error: BertServingError, now: float) -> None:
        """Answer a request that was never accepted."""
        logger.warning("refused client=%s request=%s: %s: %s", show(identity), show(request_id), error.code, error)
        self.outlet.publish(identity, protocol.encode_error(error, request_id), now)

    def answer(self, identity: bytes, request_id: bytes, values: dict[str, Any], now: float) -> None:
        """Answer a command."""
        self.outlet.publish(identity, protocol.encode_status(values, request_id), now)

    def abandon(self, request: Pending) -> None:
        """End a request whose client has stopped waiting, without an answer."""
        if not request.finished:
            self._finish(request)
            self.on_ended(ABANDONED, request.size, request.num_tokens)

    def _finish(self, request: Pending) -> None:
        request.finished = True
        self.on_finished(request)


def show(name: bytes) -> str:
    """An identity or request id for people to read: short, printable, and not enough of it to subscribe with."""
    text = repr(bytes(name))[2:-1]  # with every control character escaped, so that nobody writes our log for us
    return text if len(text) <= 12 else text[:8] + "..."
