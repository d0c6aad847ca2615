"""ConcurrentBertClient: a fixed number of clients, shared by any number of threads."""
from __future__ import annotations

import contextlib
import threading
from typing import Any, Dict, Iterable, Iterator, List, Optional, Union

from .calls import Response, _clients
from .client import BertClient
from .errors import PoolExhaustedError, UnavailableError
from .words import every


class ConcurrentBertClient(BertClient):
    """At most ``max_concurrency`` requests at a time, from as many threads as there are; the others wait their turn.

    A single :class:`BertClient` may be shared by threads too; the pool is for limiting how much is asked at once.
    """

    def __init__(self, max_concurrency: int = 10, **kwargs: Any) -> None:
        """
        Args:
            max_concurrency: number of clients.
            **kwargs: arguments of :class:`BertClient`. ``timeout`` is also how long a call waits for a free client.
                ``identity`` becomes the beginning of each client's identity: they must differ, because their replies
                are told apart by it.
        """
        if max_concurrency < 1:
            raise ValueError("max_concurrency is %d; expected at least 1" % max_concurrency)
        identity = kwargs.pop("identity", None)
        if isinstance(identity, str):
            identity = identity.encode("utf-8")
        self._patience_ms = kwargs.get("timeout", -1)
        self._stopped = False
        self._all: List[BertClient] = []
        self._free: List[BertClient] = []
        self._changed = threading.Condition()
        try:
            for number in range(max_concurrency):
                # Of fixed width: on an original server no identity may begin another one's.
                own = b"%s-%05d" % (identity, number) if identity else None
                self._all.append(BertClient(identity=own, **kwargs))
        except BaseException:
            for client in self._all:
                client.close()
            raise
        self._free.extend(self._all)
        _clients.add(self)

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`BertClient.encode`, by a client that is free.

        Raises:
            PoolExhaustedError: no client became free within the timeout; it is a RuntimeError and a TimeoutError.
        """
        if not kwargs.get("blocking", True) or len(args) > 1 and not args[1]:
            raise NotImplementedError("a pool cannot fetch, so blocking=False would lose the result; use BertClient")
        with self._borrow() as client:
            return client.encode(*args, **kwargs)

    @property
    def server_config(self) -> Dict[str, Any]:
        """As :attr:`BertClient.server_config`."""
        with self._borrow() as client:
            return client.server_config

    @property
    def server_status(self) -> Dict[str, Any]:
        """As :attr:`BertClient.server_status`."""
        with self._borrow() as client:
            return client.server_status

    @property
    def status(self) -> Dict[str, Any]:
        """State of one of the clients."""
        with self._borrow() as client:
            return client.status

    def fetch(self, delay: float = .0) -> Iterator[Response]:
        """Not for a pool: use :class:`BertClient`."""
        raise NotImplementedError("a pool cannot fetch, since nobody knows which client sent; use BertClient")

    def fetch_all(self, sort: bool = True, concat: bool = False) -> Any:
        """Not for a pool: use :class:`BertClient`."""
        raise NotImplementedError("a pool cannot fetch, since nobody knows which client sent; use BertClient")

    def encode_async(self, batch_generator: Iterable[Any], max_num_batch: Optional[int] = None, delay: float = 0.1,
                     **kwargs: Any) -> Iterator[Response]:
        """Not for a pool: use :class:`BertClient`."""
        raise NotImplementedError("a pool cannot encode_async; use BertClient")

    def listen(self, max_num: Optional[int] = None) -> Iterator[Response]:
        """Not for a pool: use :class:`BertClient`."""
        raise NotImplementedError("a pool cannot listen, since each client has its own identity; use BertClient")

    def close(self) -> None:
        """Close all clients; those in use are closed when they come back."""
        with self._changed:
            self._stopped = True
            idle, self._free = self._free, []
            self._changed.notify_all()
        for client in idle:
            client.close()

    @contextlib.contextmanager
    def _borrow(self) -> Iterator[BertClient]:
        timeout: Optional[Union[int, float]] = self._patience_ms
        seconds = None if timeout is None or timeout < 0 else timeout / 1000
        with self._changed:
            if not self._changed.wait_for(lambda: self._free or self._stopped, seconds):
                raise PoolExhaustedError("%s stayed busy for %s ms; raise max_concurrency or timeout"
                                         % (every(len(self._all), "client"), timeout))
            if self._stopped:
                raise UnavailableError("this pool of clients is closed; make a new one")
            client = self._free.pop()
        try:
            yield client
        finally:
            with self._changed:
                stopped = self._stopped
                if not stopped:
                    self._free.append(client)
                    self._changed.notify()
            if stopped:
                client.close()

    def _after_fork(self) -> None:
        """In a forked child: the threads that had borrowed clients are gone, so all are free."""
        self._changed = threading.Condition()
        self._free = [] if self._stopped else list(self._all)
