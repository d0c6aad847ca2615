"""Workers as processes of this machine."""
from __future__ import annotations

from ..process import Child, environment_for
from ..stages.worker import WorkerOrders


class LocalLauncher:
    """Each worker a child of the server's process."""

    def start(self, orders: WorkerOrders) -> Child:
        return Child("bert_serving.server.stages.worker", orders, environ=environment_for(orders.verbose))
