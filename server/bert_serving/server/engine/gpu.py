"""Whether a backend can use a GPU, asked in a process of its own: what it takes to ask goes with that process.

As a program it answers one line of JSON, ``{"error": null}`` or why not, for a backend and the id of a GPU::

    echo '{"engine": "graph", "device": 0}' | python -m bert_serving.server.engine.gpu
"""
from __future__ import annotations

from dataclasses import dataclass

from ..errors import EngineError
from ..orders import Orders
from ..process import ask, environment_for, read_orders, report, reserve_output
from .backends import backend

MAX_SECONDS = 60.0
"""Time for the library's import and for the driver."""


@dataclass(frozen=True)
class GpuOrders(Orders):
    """What is asked.

    Attributes:
        engine: name of its backend.
        device: id of the GPU.
    """

    engine: str
    device: int


def why_unusable(engine: str, device: int, seconds: float = MAX_SECONDS) -> str | None:
    """Why that engine cannot use that GPU; None: it can."""
    try:
        answer = ask("bert_serving.server.engine.gpu", GpuOrders(engine, device), seconds,
                     environ=environment_for(False))
    except OSError as error:
        return f"engine {engine} could not be asked for GPU {device}: {error}"
    if answer is None:
        return (f"engine {engine} gave no answer about GPU {device} within {seconds:g} s, or ended; is the driver in "
                "order?")
    reason: str | None = answer["error"]
    return reason


def main() -> None:
    answer = reserve_output()
    message = None
    try:
        orders = read_orders("bert-gpu", GpuOrders)
        backend(orders.engine).check_device(orders.device)
    except EngineError as error:
        message = error.message
    report({"error": message}, answer)


if __name__ == "__main__":
    main()
