"""How much memory and disk a server will take, estimated from its model's shape and the number of workers.

The constants are what was measured on Linux, with the command and the date, in docs/doctor.md, "Memory".
"""
from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..config import MB
from ..engine import backends
from ..engine.artefact import head
from ..engine.models import Model
from ..engine.pooling import POOLER_STRATEGIES
from ..engine.spec import layer_of, variables
from ..precision import PRECISIONS

SERVER, PROXY = 40 * MB, 45 * MB
"""Of the broker and of the HTTP proxy: each process's own, and what it shares with others of its kind."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """
    Attributes:
        serving: bytes of memory of all processes, while queues are empty.
        conversion: ... of the process that converts the model at a first start, at its peak.
        waiting: ... that requests and results may take beside that, before clients are refused.
        disk: bytes that the converted model takes in the cache.
        how: the estimate of ``serving`` in words.
    """

    serving: int
    conversion: int
    waiting: int
    disk: int
    how: str


def estimate(model: Model, num_worker: int) -> MemoryNeed:
    """For workers on CPUs of this host; there may be none."""
    config, settings = model.config, model.settings
    waiting = int((config.max_queue_mb + config.max_held_mb) * MB)
    processes = SERVER + (PROXY if config.http_port is not None else 0)
    if num_worker == 0:
        return MemoryNeed(processes, 0, waiting, 0, "no workers on this host")
    backend = backends.backend(settings.engine)
    footprint = backend.footprint(settings)
    if not backend.encodes:
        return MemoryNeed(processes + footprint.libraries + num_worker * footprint.worker, 0, waiting, 0,
                          f"{num_worker} x {_mb(footprint.worker)} for workers"
                          + (f", {_mb(footprint.libraries)} that they share" if footprint.libraries else
                             " without a model") + f", {_mb(processes)} for the rest")
    embeddings, encoder = _numbers(model)
    precision = PRECISIONS[settings.precision]
    weights = encoder * (footprint.weight_bytes or precision.weight_bytes) * footprint.copies
    conversion = int(footprint.conversion + footprint.conversion_factor * 4 * (embeddings + encoder))
    disk = 4 * embeddings + encoder * (footprint.weight_bytes or precision.stored_bytes) * footprint.copies
    shared = footprint.libraries + processes + 4 * embeddings + (weights if footprint.weights_are_shared else 0)
    each = footprint.worker + (0 if footprint.weights_are_shared else weights)
    twice = ", twice, as there can be long sentences" if footprint.copies == 2 else ""
    how = (f"{num_worker} x {_mb(each)} for workers" + ("" if footprint.weights_are_shared else f" (weights{twice})")
           + f", {_mb(shared)} that they share and for the rest")
    return MemoryNeed(shared + num_worker * each, conversion, waiting, disk, how)


def _numbers(model: Model) -> tuple[int, int]:
    """How many numbers the embeddings hold, and the rest of what is computed."""
    settings = model.settings
    embeddings = encoder = 0
    pooler = settings.strategy in POOLER_STRATEGIES
    for name, shape in variables(model.spec, pooler=pooler, num_labels=head(settings)).items():
        layer = layer_of(name)
        if name.startswith("embeddings/"):
            embeddings += prod(shape)
        elif layer is None or layer < model.layers_kept:
            encoder += prod(shape)
    return embeddings, encoder


def _mb(size: int) -> str:
    return f"{size / MB:.0f} MB"
