"""Asks a server for vectors: several requests at a time, again where that helps, in pieces where a text is refused."""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from bert_serving.client.errors import (BertServingError, DeadlineError, OverloadedError, RequestError,
                                        UnauthorizedError)
from bert_serving.client.words import counted

from .. import golden
from .records import BulkError

MAX_CHARACTERS = 1_000_000
"""Of the texts of a request, where it has several: in JSON a character takes up to 12 bytes."""

TICK_MS = 5_000
"""How long an asker's client waits for one answer, before it is seen whether the server is there."""

PAUSE = 1.0
"""Seconds until a server that is stopping, or that gives no time, is asked again."""


class Client(Protocol):
    """What is needed of a BertClient."""

    timeout: int

    @property
    def request_id(self) -> int: ...

    @property
    def server_config(self) -> dict[str, Any]: ...

    def encode(self, texts: list[str], blocking: bool = True) -> Any: ...

    def fetch(self) -> Any: ...


@dataclass
class Answer:
    """The vectors of some texts, as they come in.

    Attributes:
        vectors: [number of texts, width]; what did not come is NaN.
        refused: index of a text -> why the server does not encode it.
        missing: how many are still to come.
    """

    vectors: np.ndarray
    missing: int
    refused: dict[int, str] = field(default_factory=dict)


@dataclass
class RequestPiece:
    """A request, or what is left of one: texts, and where their vectors go."""

    texts: Sequence[str]
    first: int
    answer: Answer

    def cut(self, start: int, end: int) -> RequestPiece:
        return RequestPiece(self.texts[start:end], self.first + start, self.answer)


def pieces(texts: Sequence[str], answer: Answer) -> list[RequestPiece]:
    """Requests of a size that a server takes."""
    made, start, size = [], 0, 0
    for index, text in enumerate(texts):
        if size + len(text) > MAX_CHARACTERS and index > start:
            made.append(RequestPiece(texts[start:index], start, answer))
            start, size = index, 0
        size += len(text)
    if start < len(texts):
        made.append(RequestPiece(texts[start:], start, answer))
    return made


class Asker:
    """One client, and the requests that it has under way."""

    def __init__(self, client: Client, canaries: np.ndarray, precision: str, most: int, patience: float,
                 clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        """
        Args:
            client: its timeout should be TICK_MS.
            canaries: [len(golden.SENTENCES), width], the vectors that these texts must have.
            precision: that they were computed in.
            most: requests under way at a time.
            patience: seconds without a server until it is given up.
        """
        self.client, self.canaries, self.precision = client, canaries, precision
        self.most, self.patience = most, patience
        self._clock, self._sleep = clock, sleep
        self._waiting: deque[RequestPiece] = deque()
        self._sent: dict[int, RequestPiece] = {}
        self._not_before = clock()
        self._silent_since: float | None = None

    def ask(self, texts: Sequence[str]) -> Answer:
        """Take texts on; :meth:`step` brings their vectors."""
        answer = Answer(np.full((len(texts), self.canaries.shape[1]), np.nan, self.canaries.dtype), len(texts))
        self._waiting.extend(pieces(texts, answer))
        return answer

    def step(self) -> None:
        """Send what there is to send, and take in one answer, or see that none comes.

        Raises:
            BulkError: the server is gone for too long, or is another one than before.
        """
        try:
            self._send()
            if not self._sent:
                self._sleep(max(0.0, self._not_before - self._clock()))
                return
            for response in self.client.fetch():
                self._silent_since = None
                self._take(self._sent.pop(response.id), response.embedding)
                return
            raise BulkError("a request was lost in this process")
        except UnauthorizedError as error:
            raise BulkError(error.message) from error
        except BertServingError as error:
            if isinstance(error, BulkError):
                raise
            if error.failed_request in self._sent:
                self._retry(self._sent.pop(error.failed_request), error)
            elif isinstance(error, DeadlineError):
                self._see_whether_it_lives(error)
            else:
                raise BulkError(error.message) from error

    def _send(self) -> None:
        if self._clock() < self._not_before:
            return
        while self._waiting and len(self._sent) < self.most:
            self.client.encode([*self._waiting[0].texts, golden.SENTENCES[0]], blocking=False)
            self._sent[self.client.request_id] = self._waiting.popleft()

    def _take(self, piece: RequestPiece, vectors: np.ndarray) -> None:
        expected = (len(piece.texts) + 1, self.canaries.shape[1])
        if vectors.shape != expected or vectors.dtype != self.canaries.dtype \
                or golden.difference(vectors[-1:], self.canaries[:1], self.precision) is not None:
            raise BulkError("the server's model has changed: its vectors are no longer those of the beginning of this "
                            "job; start the old one to go on, or begin anew with -overwrite")
        piece.answer.vectors[piece.first:piece.first + len(piece.texts)] = vectors[:-1]
        piece.answer.missing -= len(piece.texts)

    def _retry(self, piece: RequestPiece, error: BertServingError) -> None:
        if isinstance(error, RequestError):
            self._narrow_down(piece, error)
            return
        if not isinstance(error, OverloadedError):
            self._lose_patience(error)
        self._waiting.appendleft(piece)
        self._not_before = self._clock() + (PAUSE if error.retry_after is None else error.retry_after)

    def _narrow_down(self, piece: RequestPiece, error: RequestError) -> None:
        """Leave the text that is refused out; where the server does not say which one it is, find it by halves."""
        size, index = len(piece.texts), error.index
        if index == size:
            raise BulkError(f"the server refuses a plain sentence: {error.message}")
        if size == 1:
            index = 0
        if index is not None and 0 <= index < size:
            # Its message depends on the text's neighbours, and on whether it was sent before; a job's files must not.
            piece.answer.refused[piece.first + index] = f"the server refuses it: {error.code}"
            piece.answer.missing -= 1
            parts = [(0, index), (index + 1, size)]
        else:
            parts = [(0, size // 2), (size // 2, size)]
        self._waiting.extendleft(piece.cut(start, end) for start, end in reversed(parts) if start < end)

    def _see_whether_it_lives(self, error: DeadlineError) -> None:
        try:
            self.client.server_config
        except DeadlineError:
            self._lose_patience(error)
        else:
            self._silent_since = None  # it has much to do

    def _lose_patience(self, error: BertServingError) -> None:
        now = self._clock()
        self._silent_since = now if self._silent_since is None else self._silent_since
        if now - self._silent_since > self.patience:
            raise BulkError(f"no vectors from the server for {counted(self.patience, 'second')}: {error.message}; "
                            "when it is there again, the same command goes on from here")
