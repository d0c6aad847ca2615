"""The server as an object: from options to a running broker with its children."""
from __future__ import annotations

import argparse
import logging
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any

import zmq

from bert_serving.client import curve, protocol
from bert_serving.client.errors import DeadlineError, UnauthorizedError
from bert_serving.client.hosts import check_host
from bert_serving.client.link import sending
from bert_serving.client.options import NAMES as REQUEST_OPTIONS
from bert_serving.client.words import counted

from . import __version__, api_keys, keys
from .config import MB, PoolingStrategy, ServerConfig, WorkerRange
from .core.batching import Backlog
from .core.outlet import Outlet
from .core.membership import Members
from .core.placement import CPU, MAX_THREADS
from .core.scheduler import CREDIT, Scheduler
from .core.remote_messages import Welcome
from .core.remote_rows import VectorKind
from .core.scaling import Scaler
from .core.sink import Sink
from .core.statistics import Statistics
from .core.ventilator import Limits, Ventilator
from .local_workers import LocalWorkers, largest_job, largest_result, place, place_again
from .engine import backends
from .engine.base import EngineSettings
from .engine.models import resolve
from .engine.pooling import HEAD_STRATEGIES
from .engine.quiet import tensorflow_version
from .engine.weight_files import listing
from .errors import EngineError, StartError
from .launchers import ray_actors
from .launchers.ray_actors import ClusterOrders
from .orders import pick
from .process import environment_for
from .proxy.orders import HttpOptions, ProxyOrders
from .proxy.orders import ServedModel as ServedModel
from .stages import endpoints
from .stages.remote_workers import RemoteWorkers
from .stages.broker import Broker
from .stages.authenticator import Authenticator
from .supervisor import Supervisor

logger = logging.getLogger(__name__)

ANY_HOST = ("*", "0.0.0.0")

INNER = ("ventilator -> worker", "worker -> sink")
"""Keys of the status reply with addresses that mean nothing on another host."""


class Service:
    """One server: made from options, run once, by one thread."""

    def __init__(self, config: ServerConfig, on_ready: Callable[[Service], None] = lambda service: None) -> None:
        """
        Args:
            on_ready: called once, with this object, when every worker is ready.
        Raises:
            StartError: the model, a port or an option is wrong.
        """
        self.started = time.monotonic()
        self.start_time = datetime.now()
        self.asked_engine, self.announce_ready = config.engine, on_ready
        # What is quickly found to be wrong comes first: devices, ports, then the model.
        with ExitStack() as undo:
            self.run_directory = endpoints.RunDirectory()
            undo.callback(self.run_directory.remove)
            self.context = zmq.Context()
            undo.callback(self.context.destroy, linger=0)
            self.placement, self.plan = place(config)
            if config.launcher == "local":
                config = replace(config, num_worker=len(self.plan.threads))
            else:
                ray_actors.check_installed()
                if config.worker_port is None:
                    config = replace(config, worker_port=0)
            self.keys = keys.load(config.curve_dir) if config.curve_dir else None
            front, outlet_socket, self.authenticator = self._bind(config)
            if self.authenticator is not None:
                undo.callback(self.authenticator.close)
            self.api_keys = api_keys.collect(config.api_key, config.api_key_file)
            self.model = resolve(config, any(device != CPU for device in self.placement.devices))
            self.placement, self.plan = place_again(self.model, self.placement, self.plan)
            self.largest_job = largest_job(config)
            self.config = self.model.config
            self.local_workers = LocalWorkers(self.context, self.run_directory, self.model, self.placement, self.plan,
                                              self.largest_job)
            undo.callback(self.local_workers.release)
            worker_socket = self._open_remote_workers(config)
            self.tensorflow_version = _tensorflow_version()
            self._build_rooms()
            self.broker = Broker(front, outlet_socket, self.local_workers.results, self.local_workers.pipes,
                                 self.ventilator, self.outlet, self.supervisor, self._remote_workers(worker_socket),
                                 self.authenticator)
            undo.pop_all()

    def _bind(self, config: ServerConfig) -> tuple[zmq.Socket[Any], zmq.Socket[Any], Authenticator | None]:
        """Sockets for requests and results, and who guards them."""
        # libzmq asks the authenticator from the moment that a port is bound.
        authenticator = Authenticator(self.context, self.keys) if self.keys is not None else None
        guard = authenticator.guard if authenticator is not None else None
        front, self.port = endpoints.front(self.context, config.host, config.port, int(config.max_message_mb * MB),
                                           guard)
        outlet_socket, self.port_out = endpoints.outlet(self.context, config.host, config.port_out, guard)
        return front, outlet_socket, authenticator

    def _open_remote_workers(self, asked: ServerConfig) -> zmq.Socket[Any] | None:
        """The socket for workers of other hosts, if any may come."""
        self.worker_port: int | None = None
        if asked.worker_port is None:
            return None
        socket, self.worker_port = endpoints.remote_workers(
            self.context, asked.host, asked.worker_port,
            largest_result(self.largest_job, self.model.config, self.model.settings),
            self.authenticator.guard_workers if self.authenticator is not None else None)
        return socket

    def _build_rooms(self) -> None:
        """Make everything that the broker needs beside its sockets."""
        config, settings = self.config, self.model.settings
        sequence_limit = settings.max_seq_len or settings.max_position_embeddings
        backlog = Backlog(config.max_batch_size, config.priority_batch_size, sequence_limit)
        on_gpu = any(device != CPU for device in self.placement.devices)
        hang_seconds, floor = config.hang_seconds(on_gpu)
        credit = config.prefetch_size if on_gpu else CREDIT
        self.scheduler = Scheduler(len(self.plan.threads), backlog, hang_seconds, credit, floor)
        self.outlet = Outlet(int(config.max_held_client_mb * MB), int(config.max_held_mb * MB), config.hold_timeout)
        self.statistics = Statistics(self.started)
        longest = settings.max_position_embeddings
        sink = Sink(self.statistics, longest if config.fixed_embed_length else settings.max_seq_len, longest)
        limits = Limits(max_message_bytes=int(config.max_message_mb * MB), max_bytes=int(config.max_queue_mb * MB),
                        max_size=config.max_queue_size, terminate_token=(config.terminate_token or "").encode())
        self.ventilator = Ventilator(limits, backlog, self.scheduler, sink, self.outlet, self.statistics, self.describe,
                                     config.show_tokens_to_client)
        self.supervisor = self._supervisor(settings)
        kind = VectorKind(settings.precision, settings.pooling_strategy == "NONE", settings.max_length)
        self.members = Members(self.scheduler, config.worker_timeout, kind, __version__, config.prefetch_size,
                               self._worker_lost)

    def _remote_workers(self, socket: zmq.Socket[Any] | None) -> RemoteWorkers | None:
        """Who talks to workers of other hosts."""
        if socket is None:
            return None
        welcome = Welcome(self.model.config.of_the_model(self.asked_engine), self.largest_job,
                          self.config.worker_timeout)
        authenticator = self.authenticator
        return RemoteWorkers(socket, self.members, welcome,
                             lambda frame: authenticator is None
                             or authenticator.workers.admits(authenticator.key_of(frame)))

    def _supervisor(self, settings: EngineSettings) -> Supervisor:
        config = self.config
        return Supervisor(
            self.scheduler, self.local_workers.orders, freeze_orders=self.local_workers.freeze_orders,
            proxy_orders=self._proxy_orders(settings), cluster_orders=self._cluster_orders(), scaler=self._scaler(),
            start_timeout=config.start_timeout, on_worker_lost=lambda slot, how: self._worker_lost(slot),
            send_stop=lambda slot, frames: endpoints.hand(self.local_workers.pipes[slot], frames), on_ready=self._ready,
            environ=environment_for(config.verbose))

    def _proxy_orders(self, settings: EngineSettings) -> ProxyOrders | None:
        """What the HTTP proxy is told, if there is one."""
        config = self.config
        if config.http_port is None:
            return None
        return ProxyOrders(
            ip=connectable(config.host), port=self.port, port_out=self.port_out,
            host="0.0.0.0" if config.host == "*" else config.host, http_port=config.http_port,
            options=pick(HttpOptions, config), api_keys=tuple(self.api_keys),
            curve=self.keys.proxy if self.keys is not None else None, private=(*config.private_names(), *INNER),
            model=ServedModel(name=self.model.name, created=int(self.start_time.timestamp()),
                              tokenizer=settings.tokenizer, adds_special=not settings.no_special_token,
                              token_level=settings.pooling_strategy == "NONE",
                              gives_scores=settings.strategy in HEAD_STRATEGIES))

    def _cluster_orders(self) -> ClusterOrders | None:
        """What the process is told that has workers started on a cluster, if there is one."""
        config = self.config
        if config.launcher != "ray":
            return None
        arguments = ["-start_timeout", str(config.start_timeout), "-drain_timeout", str(config.drain_timeout),
                     "-patience", str(config.start_timeout)]
        count = config.num_worker
        able = backends.possible(replace(config, engine=self.asked_engine))
        return ClusterOrders(
            connect=f"{'' if config.host in ANY_HOST else config.host}:{self.worker_port}",
            workers=count.least if isinstance(count, WorkerRange) else count,
            cpus=config.num_threads or (MAX_THREADS if any(found.encodes for found in able) else 1),
            cpu=config.cpu or not any(found.gpus for found in able),
            arguments=(*arguments, "-verbose") if config.verbose else tuple(arguments),
            curve=self.keys.launched if self.keys is not None else None, verbose=config.verbose)

    def _scaler(self) -> Scaler | None:
        config, count = self.config, self.config.num_worker
        if not isinstance(count, WorkerRange):
            return None
        return Scaler(count.least, count.most, config.scale_backlog, config.scale_idle)

    def _worker_lost(self, slot: int) -> None:
        self.broker.on_worker_lost(slot)

    def _ready(self) -> None:
        logger.info("all set, ready to serve request!")
        if not self.local_workers.pipes and not self.scheduler.num_ready:
            logger.info("there is no worker on this host: requests wait until one of another host joins")
        logger.info("ready: port=%d port_out=%d http_port=%s seconds=%.2f", self.port, self.port_out,
                    self.supervisor.http_port, time.monotonic() - self.started)
        self.announce_ready(self)

    def run(self) -> None:
        """Serve until asked to stop.

        Raises:
            StartError: the server cannot start, or cannot go on.
        """
        self._show_banner()
        try:
            self.broker.run(self.config.drain_timeout)
        finally:
            self.broker.close(self.context)
            self.local_workers.release()
            self.run_directory.remove()
            logger.info("stopped")

    def _show_banner(self) -> None:
        model = self.model
        logger.info("bert-serving-server %s on Python %s", __version__, platform.python_version())
        logger.info("model: %s%s", model.name, f" in {model.path}" if model.path else "")
        if self.config.tuned_model_dir:
            logger.info("weights: %s, in place of those of the model (-tuned_model_dir)", model.settings.checkpoint)
        num_layers = model.spec.num_layers
        logger.info("layers: %d of %d kept, %d pruned", model.layers_kept, num_layers, num_layers - model.layers_kept)
        for name, source in sorted(model.provenance.items()):
            value = getattr(self.config, name)
            if name == "num_labels" and not model.labels and source == "default":
                continue                               # Nothing has labels.
            shown = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            logger.info("%s: %s (%s)", name, "NONE" if value is None else shown, source)
        for stage in model.settings.stages:
            logger.info("after the pooling: %s (%s)", stage, stage.source)
        if model.labels:
            logger.info("labels: %s; scores: %s", listing(model.labels, 12), model.settings.scores)
        self.local_workers.show()
        logger.info("listening on %s: port %d for requests, %d for results", self.config.host, self.port, self.port_out)
        if self.worker_port is not None:
            logger.info("workers of other hosts join on port %d: bert-serving-worker -connect HOST:%d",
                        self.worker_port, self.worker_port)
        self._log_access_warnings()

    def _log_access_warnings(self) -> None:
        authenticator = self.authenticator
        clients, workers = (authenticator.clients.allow_list, authenticator.workers.allow_list) if authenticator else (
            None, None)
        for level, line in access_warnings(self.config, clients, bool(self.api_keys), workers):
            logger.log(level, "%s", line)

    def describe(self, command: protocol.Command, privileged: bool) -> dict[str, Any]:
        """The values of a config or status reply: everything that original clients read, and our own.

        Args:
            command: what is answered.
            privileged: who asks may see what is private; old clients need the keys, so that these are always there.
        """
        now = time.monotonic()
        ventilator, scheduler = self.ventilator, self.scheduler
        runtime = {
            "client": command.identity.decode("ascii", "backslashreplace"),
            "num_process": self.supervisor.num_processes,
            "ventilator -> worker": self.local_workers.job_endpoints,
            "worker -> sink": self.local_workers.result_endpoint,
            "ventilator <-> sink": "inside one process",
            "server_current_time": str(datetime.now()),
            "num_concurrent_socket": len(self.local_workers.job_endpoints),
            "statistic": self.statistics.to_status(now),
        }
        static = {
            "tensorflow_version": self.tensorflow_version.split("."),
            "python_version": sys.version,
            "server_version": self.config.report_version or original_version(command.request_id),
            "pyzmq_version": zmq.pyzmq_version(),
            "zmq_version": zmq.zmq_version(),
            "server_start_time": str(self.start_time),
        }
        ours = {
            "bert_serving_version": __version__,
            "protocol_version": protocol.PROTOCOL_VERSION,
            "request_options": list(REQUEST_OPTIONS),
            "port": self.port, "port_out": self.port_out, "http_port": self.supervisor.http_port,
            "ready": self.supervisor.is_ready,
            "model_name": self.model.name, "hidden_size": self.model.settings.hidden_size,
            "stages": [{"stage": str(stage), "source": stage.source} for stage in self.model.settings.stages],
            "labels": list(self.model.labels), "scores": self.model.settings.scores,
            "device_map": [device for device in self.placement.devices if device != CPU],
            "queue": {
                "requests": len(ventilator.pending), "sentences": ventilator.size, "bytes": ventilator.nbytes,
                "seconds": round(scheduler.seconds_of_backlog(), 3) if ventilator.pending else 0.0,
                "held_bytes": self.outlet.held_bytes,
            },
            "results": dict(self.outlet.counts),
            "counts": {**ventilator.counts, **self.outlet.counts, "redispatched": scheduler.num_redispatched},
            "tokens_per_second": round(scheduler.tokens_per_second, 1),
            **self.statistics.to_ours(),
            "worker_port": self.worker_port,
            "workers": self._workers(privileged),
        }
        status = {**runtime, **self.config.to_status(), **static, **ours}
        if not privileged:
            status.update(dict.fromkeys([*self.config.private_names(), *INNER]))
        return status

    def _workers(self, privileged: bool) -> list[dict[str, Any]]:
        """Of the status reply: every worker of this host, and those of other hosts that are there."""
        found = []
        for worker in self.scheduler.workers:
            place = self.members.places.get(worker.slot)
            if worker.is_remote and place is None:
                continue
            about = self.members.about[worker.slot] if place is not None else {
                "device": self.placement.devices[worker.slot], "num_threads": self.plan.threads[worker.slot]}
            host = self.members.hosts[place[0]].name if place is not None else None
            found.append({
                "slot": worker.slot, "state": worker.state.value,
                "device": about.get("device"), "threads": about.get("num_threads"),
                "jobs": worker.num_jobs, "sentences": worker.num_sequences, "restarts": worker.restarts,
                "out": len(worker.flights), "remote": worker.is_remote, "host": host if privileged else None,
                "tokens_per_second": round(worker.tokens_per_second, 1)})
        return found


def _tensorflow_version() -> str:
    try:
        return tensorflow_version()
    except EngineError:  # the echo engine does without
        return "none"


def access_warnings(config: ServerConfig, allow_list: keys.AllowList | None, has_api_keys: bool,
                    workers: keys.AllowList | None = None) -> Iterator[tuple[int, str]]:
    """What to say of the doors that are open: (level of the log, line).

    Args:
        allow_list: who has a key; None without -curve_dir.
        has_api_keys: whether callers of the HTTP port need one.
        workers: which other hosts have one.
    """
    if allow_list is not None:
        listed = len(allow_list.names)
        yield (logging.INFO if listed else logging.WARNING,
               f"only the {counted(listed, 'client')} whose keys are in {allow_list.directory} are let in"
               f"{'' if listed else '; bert-serving-keygen adds one'}")
        if config.worker_port is not None and config.launcher == "local" and workers is not None and not workers.names:
            yield logging.WARNING, (f"no worker of another host is let in yet: bert-serving-keygen {config.curve_dir} "
                                    "NAME -worker adds one")
    elif not _is_loopback(config.host):
        joins, who = ("", "") if config.worker_port is None else (" and join as a worker", " and workers")
        yield logging.WARNING, (f"every host that reaches {config.host} can use this server{joins}, and nothing is "
                                f"encrypted; -curve_dir lets in only clients{who} with a key")
    if config.api_key_file and api_keys.is_open_to_others(config.api_key_file):
        yield logging.WARNING, (f"every user of this machine can read -api_key_file {config.api_key_file}; chmod 600 "
                                "it")
    if config.http_port is not None and not has_api_keys and not _is_loopback(config.host):
        yield logging.WARNING, "every host that reaches the HTTP port can use it; -api_key_file asks for a key"


def _is_loopback(host: str) -> bool:
    return host in ("127.0.0.1", "localhost", "::1")


def connectable(host: str) -> str:
    """The address by which a process of this machine reaches what is bound to ``host``."""
    return "127.0.0.1" if host in ANY_HOST else host


class BertServer(threading.Thread):
    """A server in a thread of this process; its workers are processes of their own.

    ::

        with BertServer(get_args_parser().parse_args(["-port", "5555"])):
            ...  # ready here

    Attributes:
        is_ready: set when every worker is ready.
        error: why it ended, if it ended by a failure.
        port, port_out: the ports in use.
    """

    def __init__(self, args: argparse.Namespace | ServerConfig) -> None:
        """
        Args:
            args: as ``get_args_parser().parse_args()`` gives them, or a ServerConfig.
        Raises:
            StartError: the model, a port or an option is wrong.
        """
        super().__init__(name="bert-server")
        self.is_ready = threading.Event()
        self.error: StartError | None = None
        self._settled = threading.Event()
        self.service = Service(ServerConfig.from_args(args), self._on_ready)
        self.port, self.port_out = self.service.port, self.service.port_out

    def _on_ready(self, service: Service) -> None:
        self.is_ready.set()
        self._settled.set()

    def run(self) -> None:
        try:
            self.service.run()
        except StartError as error:
            self.error = error
            logger.error("%s", error)
        finally:
            self._settled.set()

    def wait(self) -> None:
        """Return when the server is ready.

        Raises:
            StartError: it ended before.
        """
        self._settled.wait()
        if not self.is_ready.is_set():
            raise self.error or StartError("the server was stopped before it was ready")

    def close(self) -> None:
        """Finish what was accepted, stop every process, free the ports."""
        self.service.broker.stop()
        if self.is_alive():
            self.join()

    def __enter__(self) -> BertServer:
        self.start()
        try:
            self.wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    @staticmethod
    def shutdown(args: argparse.Namespace | None = None, *, ip: str = "localhost", port: int = 5555,
                 timeout: int = 5000, token: str = "", curve_dir: curve.CurveDir = None) -> None:
        """Ask the server at ``ip:port`` to stop; it honours that from its own host, or with its -terminate_token.

        Args:
            args: an object with ``ip``, ``port`` and ``timeout``, as the original took; or give them by name.
            timeout: milliseconds to reach it.
            token: the server's -terminate_token.
            curve_dir: as of a BertClient.
        Raises:
            ValueError: ``ip`` cannot be a host.
            DeadlineError: nothing listens there.
            UnauthorizedError: the server does not let us in.
        """
        ip, port = getattr(args, "ip", ip), getattr(args, "port", port)
        timeout, token = getattr(args, "timeout", timeout), getattr(args, "token", token)
        check_host("ip", ip)
        own = curve.find(getattr(args, "curve_dir", curve_dir))
        link = sending(ip, port, keys=own)
        try:
            link.wait_connected(timeout / 1000)
            if link.unauthorized:
                raise UnauthorizedError(link.unauthorized)
            if not link.connected:
                raise DeadlineError(f"no server answers on {ip}:{port} within {timeout} ms")
            link.send(protocol.encode_termination(token.encode()))
        finally:
            link.close(flush=link.connected)


def original_version(request_id: bytes) -> str:
    """The version that an original client compares with its own.

    Its first request asks for it. Clients up to 1.7.9 number their requests from 0, later ones from 1.
    """
    return "1.7.5" if request_id == b"0" else "1.10.0"


def serve(config: ServerConfig, on_service: Callable[[Service], None] = lambda service: None) -> int:
    """Run a server in this thread, the process's main one, until it is told to stop; the process's exit code."""
    try:
        service = Service(config)
        signal.signal(signal.SIGTERM, service.broker.on_signal)
        signal.signal(signal.SIGINT, service.broker.on_signal)
        on_service(service)
        service.run()
    except StartError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


__all__ = ["BertServer", "PoolingStrategy", "Service", "serve"]
