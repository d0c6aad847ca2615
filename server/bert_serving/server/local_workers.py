"""The workers of one host: where they run, what each is told, and where it is heard."""
from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import zmq

from . import machine
from .config import MB, ServerConfig
from .core import placement
from .core.placement import CPU, Placement, CorePlan
from .engine import artefact, backends, gpu
from .engine.base import EngineSettings
from .engine.cache import read_manifest
from .engine.eviction import Lease
from .engine.models import Model
from .precision import PRECISIONS
from .stages import endpoints
from .stages.worker import WorkerOrders

logger = logging.getLogger(__name__)

JOB_GROWTH = 4
"""A request's text may take so many times its bytes in a job, where every character is ASCII."""


def place(config: ServerConfig) -> tuple[Placement, CorePlan]:
    """Where the workers run, and how they share the cores.

    Raises:
        ConfigError: a device that is asked for is not there, or is of no use.
    """
    found = backends.possible(config)
    if config.launcher == "ray":
        return Placement([], "Ray decides"), CorePlan([], f"-num_worker {config.num_worker} on Ray, none on this host")
    if config.num_worker == 0:
        return Placement([], "there are none"), CorePlan([], "no worker on this host, as -num_worker says")
    devices = _devices(config, found)
    by_cores = all(backend.needs_model for backend in found) and devices(1).devices == [CPU]
    plan = placement.share_out(machine.allowed_cores(), config.num_worker, config.num_threads, by_cores)
    return devices(len(plan.threads)), plan


def _devices(config: ServerConfig, found: list[backends.Backend]) -> Callable[[int], Placement]:
    """Number of workers -> where they run, with one of these backends."""
    if not any(backend.gpus for backend in found):
        names = [backend.name for backend in found if backend.encodes] or [backend.name for backend in found]
        reason = f"{'engines' if len(names) > 1 else 'engine'} {' and '.join(names)} " + (
            f"{'are' if len(names) > 1 else 'is'} for CPUs" if all(backend.needs_model for backend in found) else
            "computes nothing")
        return lambda num_worker: Placement([CPU] * num_worker, reason)
    looked = [] if config.cpu else machine.gpus()
    one = placement.place(1, config.cpu, config.device_map, looked)
    wanted = backends.requirements(config)
    (there, _), (here, _) = (backends.choose(config.engine, replace(wanted, gpu=on_gpu)) for on_gpu in (True, False))
    # Only where CPUs have another engine: the others find out for themselves, and a library takes seconds to import.
    if one.devices != [CPU] and not one.explicit and there is not here:
        why = gpu.why_unusable(there.name, one.devices[0])
        if why is not None:
            logger.warning("%s; going on without: on the CPU", why)
            reason = f"engine {there.name} cannot use GPU {one.devices[0]}, which nvidia-smi shows"
            return lambda num_worker: Placement([CPU] * num_worker, reason)
    return lambda num_worker: placement.place(num_worker, config.cpu, config.device_map, looked)


def place_again(model: Model, where: Placement, plan: CorePlan) -> tuple[Placement, CorePlan]:
    """Where the workers run, once it is known what the model is: a static model has no use for a GPU."""
    if backends.backend(model.settings.engine).gpus or all(device == CPU for device in where.devices):
        return where, plan
    return place(replace(model.config, num_worker=len(plan.threads)))


def slow_precision(precision: str) -> str | None:
    """What to expect of a precision that this processor has no instructions for, unmeasured; None if it has."""
    advice = PRECISIONS[precision].without_features
    if not advice or machine.speeds_up(precision):
        return None
    return f"this processor has no instructions for {precision}: {advice}"


def largest_job(config: ServerConfig) -> int:
    """Most bytes of a job."""
    return MB + JOB_GROWTH * int(max(config.max_queue_mb, config.max_message_mb) * MB)


def largest_result(largest: int, config: ServerConfig, settings: EngineSettings) -> int:
    """Most bytes of a job's rows: every token of every sequence, in every layer that is pooled, mean and max.

    Args:
        largest: most bytes of a job.
    """
    width = max(2 * settings.hidden_size * len(settings.pooling_layer), settings.num_labels)
    return largest + config.max_batch_size * settings.max_length * width * 4


class LocalWorkers:
    """Sockets for the workers, and the orders for each.

    Sockets: ``results`` PULL, and one PUSH of ``pipes`` for each worker.

    Attributes:
        freeze_orders: what the freezing process is told; None: the graph is there, or none is needed.
        orders: for each worker what it is told, but for its incarnation.
    """

    def __init__(self, context: zmq.Context[Any], run_directory: endpoints.RunDirectory, model: Model,
                 where: Placement, plan: CorePlan, largest: int) -> None:
        """
        Args:
            largest: most bytes of a job.
        Raises:
            PortError: a socket cannot be bound.
            EngineError: the engine's library is not installed.
        """
        config, settings = model.config, model.settings
        self.model, self.placement, self.plan = model, where, plan
        self.result_endpoint = run_directory.endpoint("results")
        self.job_endpoints = [run_directory.endpoint(f"jobs-{slot}") for slot in range(len(plan.threads))]
        self.results = endpoints.results(context, self.result_endpoint, largest_result(largest, config, settings))
        self.pipes = [endpoints.pipe(context, endpoint) for endpoint in self.job_endpoints]
        graph: Path | None = None
        self._lease: Lease | None = None
        self.freeze_orders: artefact.ArtefactOrders | None = None
        backend = backends.backend(settings.engine)
        if backend.encodes and self.pipes:
            backends.check_usable(backend)
            graph = artefact.artefact_path(settings, model.cache_dir)
            # From before it is looked for until the end: a worker that is restarted needs it again.
            self._lease = Lease(graph)
            if read_manifest(graph) is None:
                backend.maker()                        # which says so if it is not installed
                graph = None
                self.freeze_orders = artefact.ArtefactOrders(settings, str(model.cache_dir), config.cache_mb)
            else:
                logger.info("taking the converted model from %s", graph)
        self.orders = [WorkerOrders(
            slot=slot, jobs=endpoint, results=self.result_endpoint, largest_job=largest, verbose=config.verbose,
            device_is_a_must=where.explicit,
            settings=replace(settings, artefact=str(graph) if graph else None, device=device, num_threads=threads),
        ) for slot, (endpoint, device, threads) in enumerate(zip(self.job_endpoints, where.devices, plan.threads))]

    def show(self) -> None:
        """Tell the log what computes, and where."""
        model, settings = self.model, self.model.settings
        logger.log(logging.WARNING if self.plan.warning else logging.INFO, "plan: %s", self.plan.reason)
        for slot, device in enumerate(self.placement.devices):
            logger.log(logging.WARNING if self.placement.warning else logging.INFO, "worker %d: %s (%s)", slot,
                       "CPU" if device == CPU else f"GPU {device}", self.placement.reason)
        logger.info("engine: %s (%s), %s", settings.engine, model.engine_reason, settings.precision)
        # Workers of some engines measure, and say it themselves.
        guess = CPU in self.placement.devices and not backends.backend(settings.engine).measures_precision
        if guess and (slow := slow_precision(settings.precision)):
            logger.warning("%s", slow)

    def close(self) -> None:
        """Close the sockets, and let go of the frozen graph."""
        for socket in (self.results, *self.pipes):
            socket.close(linger=100)
        self.release()

    def release(self) -> None:
        """Let go of the frozen graph: the workers have ended."""
        if self._lease is not None:
            self._lease.release()
