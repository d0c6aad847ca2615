"""The tree of errors: who must act decides the branch, and every class knows its wire code and HTTP status.

::

    BertServingError                      internal       500
    ├── RequestError (ValueError)         bad_request    400   the request cannot be encoded as it is
    │   ├── TooLargeError                 too_large      413   ... because it is too big
    │   └── UnprocessableError            unprocessable  422   ... because of one of its texts (see ``index``)
    ├── UnauthorizedError                 unauthorized   401   the server does not know this client
    ├── OverloadedError                   overloaded     429   try again after ``retry_after`` seconds
    ├── UnavailableError                  unavailable    503   the server is stopping
    │   └── WorkerLostError               worker_lost    503   no worker could finish the request
    └── DeadlineError (TimeoutError)      deadline       504   no answer within the time given
        └── PoolExhaustedError (RuntimeError)                  every pooled client stayed busy

A server sends ``code`` and ``message``; :func:`from_wire` makes the exception that a client raises.
"""
from __future__ import annotations

from typing import Any, Dict, Optional, Type


class BertServingError(Exception):
    """Whatever these packages raise on purpose; on its own: the server failed, and it is not the caller's fault."""

    code = "internal"
    http_status = 500

    failed_request: Optional[int] = None
    """Id of the request that failed, on the errors that a client raises for one."""

    def __init__(self, message: str, *, index: Optional[int] = None, retry_after: Optional[float] = None) -> None:
        """
        Args:
            message: what was found, what was expected and what to do, in one line.
            index: position in the request of the text that is to blame, from 0.
            retry_after: seconds after which another attempt makes sense.
        """
        super().__init__(message)
        self.message = message
        self.index = index
        self.retry_after = retry_after

    def to_wire(self) -> Dict[str, Any]:
        """The JSON object that travels: code and message, index and retry_after where they are known."""
        wire: Dict[str, Any] = {"code": self.code, "message": self.message}
        if self.index is not None:
            wire["index"] = self.index
        if self.retry_after is not None:
            wire["retry_after"] = self.retry_after
        return wire


class RequestError(BertServingError, ValueError):
    """The request cannot be encoded as it is; sending it again will not help."""

    code, http_status = "bad_request", 400


class TooLargeError(RequestError):
    """The request is larger than the server accepts; send it in smaller pieces."""

    code, http_status = "too_large", 413


class UnprocessableError(RequestError):
    """One text of the request cannot be encoded; ``index`` says which."""

    code, http_status = "unprocessable", 422


class UnauthorizedError(BertServingError):
    """The server does not accept this client or this command from it."""

    code, http_status = "unauthorized", 401


class OverloadedError(BertServingError):
    """The server's queue is full; ``retry_after`` says when to come back, in seconds."""

    code, http_status = "overloaded", 429


class UnavailableError(BertServingError):
    """The server is stopping, or cannot work; another server or a later attempt may succeed."""

    code, http_status = "unavailable", 503


class WorkerLostError(UnavailableError):
    """The workers that held this request died; another attempt may succeed."""

    code, http_status = "worker_lost", 503


class DeadlineError(BertServingError, TimeoutError):
    """No answer came within the time that was given."""

    code, http_status = "deadline", 504


class PoolExhaustedError(DeadlineError, RuntimeError):
    """Every client of a pool stayed busy for the whole timeout."""


BY_CODE: Dict[str, Type[BertServingError]] = {
    error.code: error
    for error in (BertServingError, RequestError, TooLargeError, UnprocessableError, UnauthorizedError,
                  OverloadedError, UnavailableError, WorkerLostError, DeadlineError)
}


def from_wire(wire: Dict[str, Any]) -> BertServingError:
    """The exception for an error object from the wire; an unknown code gives a plain BertServingError."""
    error = BY_CODE.get(str(wire.get("code")), BertServingError)
    index, retry_after = wire.get("index"), wire.get("retry_after")
    # An integer of JSON may be too large for a float; then it is no time to come back at either.
    return error(str(wire.get("message", "the server gave no reason")),
                 index=index if isinstance(index, int) else None,
                 retry_after=float(retry_after) if isinstance(retry_after, (int, float)) and 0 <= retry_after < 1e9
                 else None)
