"""A thread that does one thing after the other, so that whoever gives them can prepare the next one meanwhile."""
from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ComputeThread(Generic[T]):
    """Handles items in the order given. One other thread gives them; without any, this one sleeps.

    Once :attr:`is_idle` is true, all that the handler did is done, until the next item is given.
    """

    def __init__(self, handle: Callable[[T], None]) -> None:
        """
        Args:
            handle: called with each item, in this thread. What it raises ends the process.
        """
        self._handle = handle
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._is_busy = self._closed = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Nothing is being handled, and nothing waits."""
        return not self._items and not self._is_busy

    def give(self, item: T) -> None:
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def wait_idle(self) -> None:
        """Wait until all that was given has been handled."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_idle)

    def close(self, at_once: bool = False) -> None:
        """End when all that was given has been handled.

        Args:
            at_once: when what is being handled has been; the rest is dropped.
        """
        with self._changed:
            self._closed = True
            if at_once:
                self._items.clear()
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the end, once it is closed."""
        self._thread.join()

    def _next(self) -> list[T]:
        """Wait for an item; none if there will be none any more."""
        with self._changed:
            self._is_busy = False
            if not self._items:
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._items or self._closed)
            self._is_busy = bool(self._items)
            return [self._items.popleft()] if self._items else []

    def _run(self) -> None:
        try:
            while item := self._next():
                self._handle(item.pop())
        except BaseException:
            logger.critical("the thread that computes has failed", exc_info=True)
            logging.shutdown()
            os._exit(1)
