"""The command ``bert-serving-worker``: a host's workers compute for a server elsewhere."""
from __future__ import annotations

import argparse
import logging
import math
import os
import platform
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import zmq

from bert_serving.client import curve
from bert_serving.client.curve import Keys, KeysError
from bert_serving.client.hosts import check_host
from bert_serving.client.link import Link
from bert_serving.client.words import every

from .config import Parser, ServerConfig, filled, get_args_parser, port_number, seconds
from .errors import ConfigError, StartError
from .keys import WORKERS
from .process import Ending, raise_descriptor_limit, read_orders

if TYPE_CHECKING:
    from .core.remote_messages import Welcome

logger = logging.getLogger(__name__)

OPTIONS = ("model_dir", "graph_tmp_dir", "cache_mb", "num_worker", "num_threads", "cpu", "device_map", "drain_timeout",
           "start_timeout", "verbose")
"""Options that are those of bert-serving-start; all others the server has."""


def address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise argparse.ArgumentTypeError(f"{text!r} is no address; expected HOST:PORT, the server's -worker_port")
    try:
        number = port_number(port)
    except (ValueError, argparse.ArgumentTypeError):
        number = 0
    if not number:
        raise argparse.ArgumentTypeError(f"{port!r} is no port; expected HOST:PORT, the server's -worker_port")
    try:
        check_host("the host", host)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error} (HOST:PORT, the server's -worker_port)") from None
    return host, number


def get_worker_parser() -> argparse.ArgumentParser:
    """The parser of ``bert-serving-worker``."""
    parser = Parser(
        prog="bert-serving-worker", usage="%(prog)s -connect HOST:PORT [option ...]",
        description="Compute for a bert-serving server on another host, which has -worker_port. It says which model "
        "and how; here is said what of this host is used.",
        epilog="Every option that bert-serving-start has too can also be given in the environment, as there.",
        parents=[get_args_parser(only=OPTIONS)], conflict_handler="resolve")
    parser.add_argument("-connect", "--connect", type=address, required=True, metavar="HOST:PORT",
                        help="the server, and its -worker_port")
    parser.add_argument("-curve_dir", "--curve_dir", type=filled, help="directory with keys, for a server that has "
                        "-curve_dir: there made by bert-serving-keygen DIR NAME -worker; default: the one that "
                        f"{curve.ENVIRONMENT} names")
    parser.add_argument("-patience", "--patience", type=seconds, default=300.0, metavar="SECONDS",
                        help="how long to look for a server that cannot be reached, at first and whenever it is gone; "
                        "0: for ever (default: 300)")
    # For whoever starts it as a child: the keys come as orders, and it ends with its parent.
    parser.add_argument("-orders", action="store_true", help=argparse.SUPPRESS)
    return parser


class HostWorkers:
    """The workers of this host, for what a server's welcome says. See stages.agent.HostWorkersProtocol."""

    def __init__(self, welcome: Welcome, on_lost: Callable[[int, Ending], None],
                 options: argparse.Namespace) -> None:
        """
        Raises:
            StartError: they cannot be had.
        """
        from .core.batching import Backlog
        from .core.placement import CPU
        from .core.scheduler import Scheduler
        from .local_workers import LocalWorkers, place, place_again
        from .engine.models import resolve
        from .process import environment_for
        from .stages import endpoints
        from .supervisor import Supervisor

        self.run_directory = endpoints.RunDirectory()
        self.context = zmq.Context()
        own = {name: getattr(options, name) for name in OPTIONS if name != "model_dir" or options.model_dir is not None}
        try:
            config = _followed(welcome, own)
            where, plan = place(config)
            model = resolve(config, any(device != CPU for device in where.devices))
            where, plan = place_again(model, where, plan)
            self.local_workers = LocalWorkers(self.context, self.run_directory, model, where, plan, welcome.largest_job)
        except BaseException:
            self._discard()
            raise
        logger.info("model: %s%s", model.name, f" in {model.path}" if model.path else "")
        self.local_workers.show()
        self.results, self.pipes = self.local_workers.results, self.local_workers.pipes
        self.scheduler = Scheduler(len(self.pipes), Backlog(1, 1, 1), math.inf)
        self.supervisor = Supervisor(
            self.scheduler, self.local_workers.orders, freeze_orders=self.local_workers.freeze_orders,
            proxy_orders=None, start_timeout=config.start_timeout, on_worker_lost=on_lost,
            send_stop=lambda worker, frames: endpoints.hand(self.pipes[worker], frames),
            on_ready=lambda: logger.info(
                "%s %s ready", every(len(self.pipes), "worker"), "is" if len(self.pipes) == 1 else "are"),
            environ=environment_for(config.verbose))
        self.about = self.supervisor.about

    def kill(self, worker: int) -> None:
        """End a worker that hangs; the supervisor replaces it."""
        handle = self.supervisor.handles.get(worker)
        if handle is not None:
            handle.kill()

    def close(self) -> None:
        """Close the sockets, once the workers have been stopped."""
        self.local_workers.close()
        self._discard()

    def _discard(self) -> None:
        self.run_directory.remove()
        self.context.destroy(linger=0)


def _followed(welcome: Welcome, own: dict[str, Any]) -> ServerConfig:
    """
    Raises:
        ConfigError: they are no orders, or do not go together with this host's own options.
    """
    try:
        return ServerConfig.from_the_model(welcome.options, **own)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"what is ordered is not a server's: {type(error).__name__}: {error}") from error


class WorkerLink(Link):
    """A connection to a server's port for workers, whose keys are not those of clients."""

    def explain(self, finding: str) -> str:
        where = f"the server at {self.host}, port {self.port},"
        take = ("a worker's are made by: bert-serving-keygen DIR NAME -worker, DIR being the server's -curve_dir; give "
                "the folder NAME here as -curve_dir")
        if self.keys is None:
            return f"{where} lets in only workers with a key; {take}"
        if finding == "UNKNOWN":
            return (f"{where} does not know this key, {self.keys.public.decode('ascii')}, which is not among its "
                    f"{WORKERS}/*.key; {take}")
        if finding == "CURVE":
            return (f"{where} has not the key that {self.keys.origin} has for it: is that the number of its "
                    "-worker_port, and server.key the right server's?")
        return super().explain(finding)


def connection(where: tuple[str, int], keys: Keys | None) -> Link:
    """A new connection to the server's port for workers.

    Raises:
        StartError: it cannot even be tried.
    """
    # No limit: what the workers have out is limited. Soon again: whoever lost the connection wants it back.
    try:
        return WorkerLink(zmq.DEALER, *where, keys, sndhwm=0, reconnect_ivl=100, reconnect_ivl_max=1000,
                          connect_timeout=2000)
    except (zmq.ZMQError, KeysError) as error:
        raise StartError(f"cannot connect to {where[0]}:{where[1]}: {error}") from error


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Join a server and work for it until SIGTERM or Ctrl-C."""
    parser = get_worker_parser()
    options = parser.parse_args(argv)
    try:
        if options.num_worker == 0:
            raise ConfigError("-num_worker is 0, so nobody would compute; give a number from 1")
        ServerConfig(**{name: getattr(options, name) for name in OPTIONS})
        if options.orders:
            from .launchers.ray_actors import HostOrders
            keys = read_orders("bert-host", HostOrders).curve
        else:
            keys = curve.find(options.curve_dir, warn=lambda message: print(f"warning: {message}", file=sys.stderr))
    except (ConfigError, KeysError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    from . import __version__, log
    from .core.remote_messages import PROTOCOL
    from .stages.agent import Agent
    from .stages.broker import exit_now
    log.set_up(options.verbose, log.Stage.HOST)
    raise_descriptor_limit()
    who = {"host": uuid.uuid4().hex, "version": __version__, "protocol": PROTOCOL,
           "name": socket.gethostname(), "pid": os.getpid()}
    logger.info("bert-serving-server %s on Python %s; looking for a server on %s:%d", __version__,
                platform.python_version(), *options.connect)
    code = 0
    try:
        agent = Agent(lambda: connection(options.connect, keys), who,
                      lambda welcome, on_lost: HostWorkers(welcome, on_lost, options), options.patience or math.inf)
        if options.orders:
            agent.watch(0, agent.on_parent_gone)
        signal.signal(signal.SIGTERM, agent.on_signal)
        signal.signal(signal.SIGINT, agent.on_signal)
        agent.run(options.drain_timeout)
    except StartError as error:
        logger.error("%s", error)
        code = error.exit_code
    logger.info("stopped")
    exit_now(code)


if __name__ == "__main__":
    # Under its own name, for whoever compares classes.
    from bert_serving.server import join
    join.main()
