"""What the supervisor asks of whoever starts workers."""
from __future__ import annotations

from typing import Protocol

from ..process import ExitStatus
from ..stages.worker import WorkerOrders


class Handle(Protocol):
    """A worker that was started.

    Attributes:
        sentinel: file descriptor that becomes readable when the worker is gone.
        pid: its process id.
    """

    sentinel: int
    pid: int

    def kill(self) -> None:
        """End it now."""

    def wait(self, seconds: float) -> bool:
        """Whether it is gone, after at most ``seconds``."""

    def forget(self) -> ExitStatus:
        """Free what is left of a worker that is gone; how it ended."""


class Launcher(Protocol):
    """Starts workers somewhere."""

    def start(self, orders: WorkerOrders) -> Handle:
        """Start a worker with these orders."""
