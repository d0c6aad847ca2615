"""How much memory and disk a server will take, estimated from its model's shape and the number of workers.

The constants are what was measured on Linux, with the command and the date, in docs/doctor.md, "Memory".
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from ..config import PoolingStrategy
from ..engine.bert import variables
from ..engine.convert import has_long
from ..engine.freeze import head
from ..engine.models import Model
from ..engine.pooling import POOLER_STRATEGIES

MB = 1_000_000

SIZES = {"fp32": 4, "int8": 1, "bf16": 4, "fp16": 4}
"""Precision -> most bytes of one weight of the encoder in a worker's memory: with 16 bits it may compute in fp32."""

DISK_SIZES = {**SIZES, "bf16": 6, "fp16": 6}
"""The same in the cache, which has both."""

SERVER, PROXY = 40 * MB, 45 * MB
"""Of the broker and of the HTTP proxy: each process's own, and what it shares with others of its kind."""

LITE_WORKER, LITE_LIBRARIES = 60 * MB, 35 * MB
"""Of a worker with engine lite beside its weights, a batch in the making included; and of its libraries, once."""

GRAPH_WORKER, GRAPH_LIBRARIES = 325 * MB, 270 * MB
"""The same with engine graph, whose weights all workers share."""

CONVERSION = {"lite": (300 * MB, 12), "graph": (650 * MB, 1.1)}
"""Engine -> what the first start takes once, at its peak: bytes, and so many times the kept weights in fp32."""


@dataclass(frozen=True, slots=True)
class Need:
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


def estimate(model: Model, num_worker: int) -> Need:
    """For workers on CPUs of this host; there may be none."""
    config, settings = model.config, model.settings
    waiting = int((config.max_queue_mb + config.max_held_mb) * MB)
    processes = SERVER + (PROXY if config.http_port is not None else 0)
    if num_worker == 0:
        return Need(processes, 0, waiting, 0, "no workers on this host")
    if settings.engine == "echo":
        return Need(processes + num_worker * LITE_WORKER, 0, waiting, 0,
                    f"{num_worker} x {_mb(LITE_WORKER)} for workers without a model, {_mb(processes)} for the rest")
    embeddings, encoder = _numbers(model)
    copies = 2 if settings.engine == "lite" and has_long(settings) else 1
    weights = encoder * SIZES[settings.precision] * copies
    fixed, factor = CONVERSION[settings.engine]
    conversion = int(fixed + factor * 4 * (embeddings + encoder))
    disk = 4 * embeddings + encoder * DISK_SIZES[settings.precision] * copies
    if settings.engine == "lite":
        shared = 4 * embeddings + LITE_LIBRARIES + processes
        each = weights + LITE_WORKER
    else:
        shared = 4 * embeddings + weights + GRAPH_LIBRARIES + processes
        each = GRAPH_WORKER
    twice = ", twice, as there can be long sentences" if copies == 2 else ""
    how = (f"{num_worker} x {_mb(each)} for workers" + (f" (weights{twice})" if settings.engine == "lite" else "")
           + f", {_mb(shared)} that they share and for the rest")
    return Need(shared + num_worker * each, conversion, waiting, disk, how)


def _numbers(model: Model) -> tuple[int, int]:
    """How many numbers the embeddings hold, and the rest of what is computed."""
    settings = model.settings
    embeddings = encoder = 0
    pooler = PoolingStrategy[settings.pooling_strategy] in POOLER_STRATEGIES
    for name, shape in variables(model.bert, pooler=pooler, num_labels=head(settings)).items():
        layer = re.match(r"bert/encoder/layer_(\d+)/", name)
        if layer is None and name.startswith("bert/embeddings/"):
            embeddings += prod(shape)
        elif layer is None or int(layer[1]) < model.layers_kept:
            encoder += prod(shape)
    return embeddings, encoder


def _mb(size: int) -> str:
    return f"{size / MB:.0f} MB"
