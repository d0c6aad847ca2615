"""The client: two lines of code from sentences to vectors."""
from typing import TYPE_CHECKING, Any

__version__ = "2.0.0"

from .client import BertClient, Response
from .errors import (BertServingError, DeadlineError, OverloadedError, PoolExhaustedError, RequestError, TooLargeError,
                     UnauthorizedError, UnavailableError, UnprocessableError, WorkerLostError)
from .pool import ConcurrentBertClient

if TYPE_CHECKING:
    from .aio import AsyncBertClient

__all__ = [
    "__version__", "AsyncBertClient", "BertClient", "ConcurrentBertClient", "Response",
    "BertServingError", "DeadlineError", "OverloadedError", "PoolExhaustedError", "RequestError", "TooLargeError",
    "UnauthorizedError", "UnavailableError", "UnprocessableError", "WorkerLostError",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncBertClient":  # asyncio takes its time to import, and most do without
        from .aio import AsyncBertClient
        return AsyncBertClient
    raise AttributeError("module %r has no attribute %r" % (__name__, name))
