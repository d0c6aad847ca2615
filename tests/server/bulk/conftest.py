"""A client without a server: it answers at once, with vectors that tell their texts apart."""
from __future__ import annotations

from collections import deque
from zlib import crc32

import numpy as np
import pytest

from bert_serving.client.client import Response
from bert_serving.client.errors import DeadlineError, UnprocessableError

WIDTH = 4
CONFIG = {"model_name": "fake", "max_seq_len": 25, "pooling_layer": [-2], "pooling_strategy": 2, "engine": "echo",
          "precision": "fp32", "num_worker": 1, "max_batch_size": 256}


def vector(text: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(crc32(text.encode()) + seed).standard_normal(WIDTH).astype(np.float32)


class FakeClient:
    """Answers in the order that ``turns`` says, or else in that of the requests.

    Attributes:
        asked: the texts of every request.
        failures: raised instead of the next answers; None: answer.
        seed: another one is another model.
    """

    def __init__(self) -> None:
        self.request_id = 0
        self.timeout = -1
        self.asked: list[list[str]] = []
        self.failures: deque[Exception | None] = deque()
        self.seed = 0
        self.is_alive = True
        self.newest_first = False
        self.most = 0
        self._waiting: dict[int, list[str]] = {}

    @property
    def server_config(self) -> dict:
        if not self.is_alive:
            raise DeadlineError("nobody there")
        return dict(CONFIG)

    def encode(self, texts: list[str], blocking: bool = True):
        self.request_id += 1
        if blocking:
            return self._vectors(texts)
        self.asked.append(list(texts))
        self._waiting[self.request_id] = texts
        self.most = max(self.most, len(self._waiting))
        return None

    def fetch(self):
        failure = self.failures.popleft() if self.failures else None
        if isinstance(failure, DeadlineError):
            raise failure
        order = list(self._waiting)
        number = order[-1 if self.newest_first else 0]
        texts = self._waiting.pop(number)
        if failure is None:
            failure = next((UnprocessableError(f"text {index} cannot be", index=index)
                            for index, text in enumerate(texts) if "poison" in text), None)
        if failure is not None:
            failure.failed_request = number
            raise failure
        yield Response(number, self._vectors(texts), None)

    def _vectors(self, texts: list[str]) -> np.ndarray:
        return np.stack([vector(text, self.seed) for text in texts])


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()
