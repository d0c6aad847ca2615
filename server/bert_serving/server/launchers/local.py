"""Workers as processes of this machine."""
from __future__ import annotations

from typing import Any

from ..process import Child, environment_for


class LocalLauncher:
    """Each worker a child of the server's process."""

    def start(self, orders: dict[str, Any]) -> Child:
        return Child("bert_serving.server.stages.worker", orders,
                     environ=environment_for(orders["verbose"]))
