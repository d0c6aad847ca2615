"""Whether TensorFlow can use a GPU, asked in a process of its own: what it takes to ask goes with that process.

As a program it answers one line of JSON, ``{"error": null}`` or why not, for ``{"device": id of the GPU}``::

    echo '{"device": 0}' | python -m bert_serving.server.engine.gpu
"""
from __future__ import annotations

import json
import os

from ..errors import EngineError
from ..process import ask, environment_for, read_orders
from .graph import tensorflow_on

MAX_SECONDS = 60.0
"""Time for TensorFlow's import and for the driver."""


def why_unusable(device: int, seconds: float = MAX_SECONDS) -> str | None:
    """Why TensorFlow cannot use that GPU; None: it can."""
    try:
        answer = ask("bert_serving.server.engine.gpu", {"device": device}, seconds, environ=environment_for(False))
    except OSError as error:
        return f"TensorFlow could not be asked for GPU {device}: {error}"
    if answer is None:
        return f"TensorFlow gave no answer about GPU {device} within {seconds:g} s, or ended; is its driver in order?"
    reason: str | None = answer["error"]
    return reason


def main() -> None:
    # Standard output belongs to the answer alone, whatever libraries print meanwhile.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    message = None
    try:
        tensorflow_on(read_orders("bert-gpu")["device"])
    except EngineError as error:
        message = error.message
    print(json.dumps({"error": message}), file=answer, flush=True)


if __name__ == "__main__":
    main()
