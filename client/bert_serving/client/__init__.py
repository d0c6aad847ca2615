"""The client: two lines of code from sentences to vectors."""
__version__ = "2.0.0"

from .client import BertClient, Response
from .errors import (BertServingError, DeadlineError, OverloadedError, PoolExhaustedError, RequestError, TooLargeError,
                     UnauthorizedError, UnavailableError, UnprocessableError, WorkerLostError)
from .pool import ConcurrentBertClient

__all__ = [
    "__version__", "BertClient", "ConcurrentBertClient", "Response",
    "BertServingError", "DeadlineError", "OverloadedError", "PoolExhaustedError", "RequestError", "TooLargeError",
    "UnauthorizedError", "UnavailableError", "UnprocessableError", "WorkerLostError",
]
