"""The way to the server: one pool of clients, and the turns of those who want one."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Any, Protocol

import numpy as np
from bert_serving.client.checks import check_input
from bert_serving.client.errors import BertServingError, PoolExhaustedError, RequestError
from bert_serving.client.words import counted, json_kind
from flask import request

from .answers import WrongBody


class ClientGoneError(Exception):
    """Who asked has hung up."""


class PooledClient(Protocol):
    """What the routes need of a ConcurrentBertClient made with ``output_fmt='ndarray'``."""

    def encode(self, texts: Any, *, is_tokenized: bool = False, show_tokens: bool = False,
               input: str | None = None) -> Any: ...

    @property
    def status(self) -> dict[str, Any]: ...

    @property
    def server_status(self) -> dict[str, Any]: ...


class Gate:
    """Lets ``max_connect`` requests at a time ask the client, and the others wait for a while."""

    def __init__(self, client: PooledClient, max_connect: int, patience: float) -> None:
        """
        Args:
            client: called from ``max_connect`` threads at a time.
            patience: how long a request waits for its turn, in seconds, before it is refused.
        """
        self.client, self.max_connect, self.patience = client, max_connect, patience
        self._turns = BoundedSemaphore(max_connect)

    @contextmanager
    def turn(self) -> Iterator[PooledClient]:
        """The client, for one request.

        Raises:
            PoolExhaustedError: nobody's turn ended in time.
            ClientGoneError: nobody waits for the answer any more.
        """
        if not self._turns.acquire(timeout=self.patience):
            raise PoolExhaustedError(
                f"Too many concurrent connections: {counted(self.max_connect, 'request')} in progress, as many as "
                f"-http_max_connect allows, and none ended within {counted(self.patience, 'second')}; try again, or "
                "raise it")
        try:
            has_gone = request.environ.get("waitress.client_disconnected")
            if has_gone is not None and has_gone():
                raise ClientGoneError
            yield self.client
        finally:
            self._turns.release()

    def encode(self, texts: Any, is_tokenized: bool = False, param: str = "texts") -> np.ndarray:
        """The texts' vectors.

        Args:
            param: what the texts are called in the request.
        """
        with self.turn() as client, _refusals(param, texts, is_tokenized):
            vectors: np.ndarray = client.encode(texts, is_tokenized=is_tokenized)
            return vectors

    def encode_with_tokens(self, texts: Any, is_tokenized: bool, param: str = "texts",
                           input: str | None = None) -> tuple[np.ndarray, list[list[str]]]:
        """The texts' vectors and their tokens, special ones included.

        Args:
            param: what the texts are called in the request.
            input: as RequestOptions.input; None: bars in a text make it a pair.
        """
        with self.turn() as client, _refusals(param, texts, is_tokenized):
            vectors, tokens = client.encode(texts, is_tokenized=is_tokenized, show_tokens=True, input=input)
            return vectors, tokens


@contextmanager
def _refusals(param: str, texts: Any, is_tokenized: bool) -> Iterator[None]:
    """What the client says of texts that it does not send, as an answer, in the words of JSON."""
    try:
        try:
            yield
        except (TypeError, ValueError):
            check_input(texts, is_tokenized, json_kind)
            raise
    except BertServingError as error:
        if type(error) is not RequestError:
            raise
        index = {} if error.index is None else {"index": error.index}
        raise WrongBody(error.message, "ValueError", param, **index) from error
    except (TypeError, ValueError) as error:
        raise WrongBody(str(error), type(error).__name__, param) from error
