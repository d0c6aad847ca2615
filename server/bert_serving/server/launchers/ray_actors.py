"""Workers on a Ray cluster: this process asks Ray for places, and Ray keeps them; data goes over ZeroMQ alone.

As a script it is a child of the server. Its orders are :class:`ClusterOrders`, and later lines of its standard input
:class:`Wanted`; it ends with that input. It reports on its standard
output: ``{"placed": how many}``, or ``{"error": {"name", "message"}}`` before it ends.
"""
from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from bert_serving.client.curve import Keys
from bert_serving.client.words import counted

from .. import log
from ..errors import ConfigError, StartError, WorkerStartError
from ..orders import Orders
from ..process import Child, ExitStatus, read_orders, report, reserve_output

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
MAX_FAILED = 3
"""So many workers that end one after the other, none having stayed, are given up."""

STAYED_SECONDS = 30.0
LEAVE_SECONDS = 60.0
KNOCK_SECONDS = 10.0

MISSING = "-launcher ray takes Ray, which is missing: pip install './server[ray]'"


def check_installed() -> None:
    """
    Raises:
        ConfigError: Ray is not.
    """
    if find_spec("ray") is None:
        raise ConfigError(MISSING)


@dataclass(frozen=True, kw_only=True)
class ClusterOrders(Orders):
    """What the process is told that has workers started on a cluster.

    Attributes:
        connect: HOST:PORT of the server's port for workers; no HOST: this node's address.
        workers: how many.
        cpus: for each.
        cpu: no GPUs.
        arguments: of ``bert-serving-worker``.
        curve: the workers' keys for the server; None: it needs none.
        verbose: log at DEBUG.
    """

    connect: str
    workers: int
    cpus: int
    cpu: bool
    arguments: tuple[str, ...]
    curve: Keys | None = field(repr=False)
    verbose: bool


@dataclass(frozen=True)
class Wanted(Orders):
    """How many workers the cluster is asked for from now on."""

    workers: int


@dataclass(frozen=True)
class HostOrders(Orders):
    """What a ``bert-serving-worker`` is told that a process starts: its keys for the server; None: it needs none."""

    curve: Keys | None = field(repr=False)


class Place:
    """What runs as a Ray actor: one ``bert-serving-worker``, on whatever node Ray has put it."""

    def __init__(self, arguments: list[str], orders: HostOrders) -> None:
        import ray
        gpus = [str(int(gpu)) for gpu in ray.get_gpu_ids()]
        devices = ["-device_map", *gpus] if gpus else ["-cpu"]
        self.child = Child("bert_serving.server.join", orders, arguments=[*arguments, "-orders", *devices])

    def wait(self) -> ExitStatus:
        """Return when it has ended: how."""
        while not self.child.wait(3600):
            pass
        return self.child.forget()

    def leave(self) -> None:
        """Ask it to end what it has, and go."""
        self.child.signal(signal.SIGTERM)


class Cluster:
    """The places that this server has on a Ray cluster."""

    def __init__(self, orders: ClusterOrders) -> None:
        """
        Raises:
            ConfigError: Ray is not installed.
            StartError: there is no cluster, or none that can reach the server.
        """
        try:
            import ray
        except ImportError as error:
            raise ConfigError(MISSING) from error
        self.ray = ray
        _knock(os.environ.get("RAY_ADDRESS", ""))
        try:
            ray.init(namespace="bert-serving", log_to_driver=True, logging_level=logging.WARNING,
                     include_dashboard=False)
        except Exception as error:  # Ray raises whatever its layers do
            raise StartError(f"Ray cannot be reached: {str(error).strip().splitlines()[0][:300]}; RAY_ADDRESS names a "
                             "cluster") from error
        here = ray.util.get_node_ip_address()
        host, _, port = orders.connect.rpartition(":")
        elsewhere = sorted({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]} - {here, "127.0.0.1"})
        if host.startswith("127.") and elsewhere:
            raise ConfigError(f"-host is {host}, which other nodes of the cluster ({elsewhere[0]}) cannot reach; give "
                              f"-host {here}")
        self.orders = HostOrders(orders.curve)
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0 and not orders.cpu
        largest = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
        cpus = int(min(orders.cpus, largest))
        self.needs = {"num_gpus": 1, "num_cpus": 1} if has_gpus else {"num_cpus": cpus}
        self.arguments = ["-connect", f"{host or here}:{port}", "-num_worker", "1", "-num_threads", str(cpus),
                          *orders.arguments]
        logger.info("on Ray: %s; each worker takes %s",
                    counted(sum(node["Alive"] for node in ray.nodes()), "node"),
                    "a GPU" if has_gpus else counted(cpus, "CPU"))
        # Whoever is lost is replaced here, at once: Ray itself takes its time to be sure that a node is gone.
        self.actor = ray.remote(max_restarts=0, max_concurrency=2, **self.needs)(Place)
        self.places: dict[Any, tuple[Any, float]] = {}    # what its wait() will give -> (actor, since when)
        self.leaving: dict[Any, tuple[Any, float]] = {}   # likewise, of those that are to go -> (actor, until when)
        self.failed = 0

    def adjust(self, wanted: int, now: float) -> None:
        """Ask Ray for more places, or give some back: the newest first."""
        while len(self.places) < wanted:
            actor = self.actor.remote(self.arguments, self.orders)
            self.places[actor.wait.remote()] = actor, now
        while len(self.places) > wanted:
            ending, (actor, _) = self.places.popitem()
            actor.leave.remote()
            self.leaving[ending] = actor, now + LEAVE_SECONDS

    def look(self, seconds: float) -> None:
        """See what has ended; places are made again by ``adjust``.

        Raises:
            WorkerStartError: workers end whenever they are started.
        """
        endings = [*self.places, *self.leaving]
        if not endings:
            time.sleep(seconds)
            return
        for ended in self.ray.wait(endings, num_returns=1, timeout=seconds)[0]:
            is_leaving = ended in self.leaving
            actor, since = (self.leaving if is_leaving else self.places).pop(ended)
            try:
                how = self.ray.get(ended)
            except self.ray.exceptions.RayError as error:  # its node is gone, or the actor was killed
                how = None
                if not is_leaving:
                    logger.warning("Ray has lost a worker (%s); another one takes its place", type(error).__name__)
            self.ray.kill(actor)
            if is_leaving or how is None:
                continue
            self.failed = 1 if time.monotonic() - since > STAYED_SECONDS else self.failed + 1
            logger.warning("a worker on Ray %s; another one takes its place", how)
            if self.failed >= MAX_FAILED:
                raise WorkerStartError(f"{MAX_FAILED} workers on Ray ended one after the other (the last one {how}); "
                                       "its last lines above may say why")
        now = time.monotonic()
        for ending in [ending for ending, (_, until) in self.leaving.items() if until < now]:
            self.ray.kill(self.leaving.pop(ending)[0])

    def close(self) -> None:
        """Give everything back."""
        for actor, _ in [*self.places.values(), *self.leaving.values()]:
            self.ray.kill(actor)
        self.ray.shutdown()


def _knock(address: str) -> None:
    """See whether anybody is there; Ray itself tries for minutes.

    Raises:
        StartError: nobody is.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()
    except OSError as error:
        raise StartError(f"there is no Ray cluster at {address}, which RAY_ADDRESS names: {error.strerror or error}; "
                         "start one with 'ray start --head', or unset RAY_ADDRESS for one on this host") from error


def main() -> None:
    orders = read_orders("bert-ray", ClusterOrders)
    output = reserve_output()
    log.set_up(orders.verbose, log.Stage.RAY)
    wanted, placed, received, cluster = orders.workers, -1, b"", None
    try:
        cluster = Cluster(orders)
        while True:
            if select.select([0], [], [], 0)[0]:
                read = os.read(0, 65536)
                if not read:  # the server stops, or is gone
                    return
                *lines, received = (received + read).split(b"\n")
                for line in lines:
                    wanted = Wanted.from_json(json.loads(line)).workers
            cluster.adjust(wanted, time.monotonic())
            if placed != len(cluster.places):
                placed = len(cluster.places)
                report({"placed": placed}, output)
            cluster.look(LOOK_SECONDS)
    except StartError as error:
        report({"error": {"name": type(error).__name__, "message": str(error)}}, output)
        sys.exit(error.exit_code)
    finally:
        if cluster is not None:
            cluster.close()


if __name__ == "__main__":
    # Under its own name, for Ray, which takes the class to other processes.
    from bert_serving.server.launchers import ray_actors
    ray_actors.main()
