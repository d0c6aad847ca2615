"""The client: two lines of code from sentences to vectors."""
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "2.0.0"

from .errors import (BertServingError, DeadlineError, OverloadedError, PoolExhaustedError, RequestError, TooLargeError,
                     UnauthorizedError, UnavailableError, UnprocessableError, WorkerLostError)

if TYPE_CHECKING:
    from .aio import AsyncBertClient
    from .client import BertClient, Response
    from .pool import ConcurrentBertClient

__all__ = [
    "__version__", "AsyncBertClient", "BertClient", "ConcurrentBertClient", "Response",
    "BertServingError", "DeadlineError", "OverloadedError", "PoolExhaustedError", "RequestError", "TooLargeError",
    "UnauthorizedError", "UnavailableError", "UnprocessableError", "WorkerLostError",
]


LATER = {"AsyncBertClient": "aio", "BertClient": "client", "Response": "client", "ConcurrentBertClient": "pool"}
"""Name -> module. Workers of a server need none of these, nor what they import."""


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError("module %r has no attribute %r" % (__name__, name))
    found = globals()[name] = getattr(import_module("." + LATER[name], __name__), name)
    return found
