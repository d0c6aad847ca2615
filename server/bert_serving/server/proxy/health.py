"""Whether the server is well: not only there, but giving the right vectors."""
from __future__ import annotations

import threading
import time
from typing import Any, Protocol

import numpy as np
from bert_serving.client.errors import BertServingError, DeadlineError, UnavailableError

from ..golden import SENTENCES, difference
from ..precision import PRECISIONS

FRESH_SECONDS = 1.0
"""So old may an answer be that is given again; and so long does a question wait for an earlier one."""


class ProbeClient(Protocol):
    """A BertClient, apart from the pool, so that a probe does not wait behind requests."""

    def encode(self, texts: Any) -> Any: ...

    @property
    def server_status(self) -> dict[str, Any]: ...


class Readiness:
    """Sends golden sentences through the server, one time after the other, however many ask."""

    def __init__(self, client: ProbeClient) -> None:
        self.client = client
        self.expected: np.ndarray | None = None
        self.precision = next(iter(PRECISIONS))
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._last = float("-inf")
        self._begun = 0.0

    def check(self) -> float:
        """How long the golden sentences took, in seconds.

        Raises:
            BertServingError: they did not come back, or not as they should.
        """
        if not self._lock.acquire(timeout=FRESH_SECONDS):
            waited = time.monotonic() - self._begun
            raise UnavailableError(f"golden sentences were sent {waited:.1f} seconds ago and are not back yet")
        try:
            self._begun = time.monotonic()
            if self._begun - self._last > FRESH_SECONDS:
                self._compare(self._ask())
                self._last = time.monotonic()
                self._seconds = self._last - self._begun
            return self._seconds
        finally:
            self._lock.release()

    def _ask(self) -> np.ndarray:
        try:
            return np.asarray(self.client.encode(list(SENTENCES)))
        except DeadlineError as error:
            raise UnavailableError(f"golden sentences did not come back: {error}") from error
        except BertServingError as error:
            raise UnavailableError(f"golden sentences were not encoded: {error}") from error

    def _compare(self, vectors: np.ndarray) -> None:
        if len(vectors) != len(SENTENCES) or not np.isfinite(vectors).all():
            raise UnavailableError("golden sentences came back as vectors that are not finite")
        if self.expected is None:
            self.precision = str(self.client.server_status.get("precision", self.precision))
            self.expected = vectors
            return
        # Token vectors, [sentences, tokens, D], are compared one by one, too. The worker may be another than then.
        width = self.expected.shape[-1]
        found = difference(vectors.reshape(-1, vectors.shape[-1]), self.expected.reshape(-1, width), self.precision)
        if found is not None:
            raise UnavailableError(f"golden sentences came back as other vectors than the first time: {found}")
