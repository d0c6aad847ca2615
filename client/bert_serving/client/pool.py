"""ConcurrentBertClient: a client that limits how many calls of ``encode`` run at once."""
from __future__ import annotations

import contextlib
import threading
from typing import Any, Iterator, List, Optional, Union

from .calls import Inputs
from .client import BertClient
from .errors import PoolExhaustedError, UnavailableError
from .words import every


class ConcurrentBertClient(BertClient):
    """A :class:`BertClient` in which at most ``max_concurrency`` calls of :meth:`encode` wait for vectors at a time.

    Any number of threads may call it; the others wait their turn. Each running call has a connection and an identity
    of its own, so that the server treats them as so many clients. Connections are made by the constructor.

    All other methods and properties are those of the first connection: ``encode(..., blocking=False)``, :meth:`fetch`,
    :meth:`fetch_all`, :meth:`encode_async`, :meth:`listen`, ``identity``, ``status``. They take no turn.

    A single :class:`BertClient` may be shared by threads too; this one is for limiting how much is asked at once.
    """

    def __init__(self, max_concurrency: int = 10, **kwargs: Any) -> None:
        """
        Args:
            max_concurrency: number of connections.
            **kwargs: arguments of :class:`BertClient`. ``timeout`` is also how long a call waits for its turn.
                ``identity`` becomes the beginning of each connection's identity: they must differ, because their
                replies are told apart by it.
        Raises:
            ValueError: ``max_concurrency`` is below 1.
        """
        if max_concurrency < 1:
            raise ValueError("max_concurrency is %d; expected at least 1" % max_concurrency)
        identity = kwargs.pop("identity", None)
        if isinstance(identity, str):
            identity = identity.encode("utf-8")
        # Of fixed width: on an original server no identity may begin another one's.
        identities = [b"%s-%05d" % (identity, number) if identity else None for number in range(max_concurrency)]
        self._stopped = False
        self._others: List[BertClient] = []
        self._free = [0]  # numbers of clients: 0 is this one, the others are those of _others
        self._changed = threading.Condition()
        super().__init__(identity=identities[0], **kwargs)
        try:
            for own in identities[1:]:
                self._others.append(BertClient(identity=own, **kwargs))
                self._free.append(len(self._others))
        except BaseException:
            self.close()
            raise

    def encode(self, texts: Inputs, blocking: bool = True, is_tokenized: bool = False,
               show_tokens: bool = False, *, input: Optional[str] = None) -> Any:
        """As :meth:`BertClient.encode`, once it is this call's turn. With ``blocking=False`` it takes no turn.

        Raises:
            PoolExhaustedError: no turn came within the timeout; it is a RuntimeError and a TimeoutError.
            UnavailableError: the client was closed.
        """
        if not blocking:
            return super().encode(texts, blocking, is_tokenized, show_tokens, input=input)
        with self._borrow() as client:
            return BertClient.encode(client, texts, blocking, is_tokenized, show_tokens, input=input)

    def close(self) -> None:
        """End all connections; one that a call of ``encode`` has is ended when that call returns."""
        with self._changed:
            self._stopped = True
            idle, self._free = self._free, []
            self._changed.notify_all()
        for number in idle:
            BertClient.close(self._client(number))

    def _client(self, number: int) -> BertClient:
        return self._others[number - 1] if number else self

    @contextlib.contextmanager
    def _borrow(self) -> Iterator[BertClient]:
        timeout: Optional[Union[int, float]] = self.timeout
        seconds = None if timeout is None or timeout < 0 else timeout / 1000
        with self._changed:
            if not self._changed.wait_for(lambda: self._free or self._stopped, seconds):
                raise PoolExhaustedError("%s stayed busy for %s ms; raise max_concurrency or timeout"
                                         % (every(len(self._others) + 1, "client"), timeout))
            if self._stopped:
                raise UnavailableError("this pool of clients is closed; make a new one")
            number = self._free.pop()
        try:
            yield self._client(number)
        finally:
            with self._changed:
                stopped = self._stopped
                if not stopped:
                    self._free.append(number)
                    self._changed.notify()
            if stopped:
                BertClient.close(self._client(number))

    def _after_fork(self) -> None:
        """In a forked child: the threads that had borrowed clients are gone, so all are free."""
        super()._after_fork()
        self._changed = threading.Condition()
        self._free = [] if self._stopped else list(range(len(self._others) + 1))
