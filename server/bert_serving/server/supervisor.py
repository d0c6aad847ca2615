"""Starts, watches, replaces and stops the children: what converts the model, the workers, the HTTP proxy."""
from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bert_serving.client.words import counted

from .core.messages import Fault, Ready, Stop, encode_to_worker
from .core.scheduler import Scheduler, WorkerSlot, WorkerState
from .core.scaling import Scaler
from .engine.artefact import ArtefactOrders
from .errors import BY_NAME, EngineError, StartError, WorkerStartError
from .launchers.ray_actors import ClusterOrders, Wanted
from .process import Child, Ending, ExitStatus, NotStarted
from .proxy.orders import ProxyOrders
from .stages.worker import WorkerOrders

logger = logging.getLogger(__name__)

MAX_FAILED_STARTS = 5
"""A worker that dies this often in a row before it is ready is given up."""

BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.25, 10.0
STOP_SECONDS = 2.0
"""Time for a child to end by itself once it is told to."""

PROXY_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
"""For a process of many threads: glibc would give each its own share of memory, and a store of pieces that nobody else
gets, and both fill up. See docs/security.md for what that came to."""

Watch = Callable[[int, Callable[[], None]], None]


@dataclass
class _Helper:
    """A process beside the workers that is replaced when it is lost, ever later.

    Attributes:
        what: it is, in words.
        make: starts it; raises OSError if there is no room.
        on_message: takes what it reports.
        due: when the next one is to be started; None: not at all.
        failures: how many of them were lost since one did as it should.
    """

    what: str
    make: Callable[[], Child]
    on_message: Callable[[dict[str, Any]], None]
    child: Child | None = None
    due: float | None = None
    failures: int = 0


class Supervisor:
    """Starts, watches, replaces and stops the children.

    Attributes:
        failure: why the server cannot go on; None while it can.
        is_ready: every worker has been ready once, and the proxy too.
        http_port: the proxy's port, once it is ready.
    """

    def __init__(self, scheduler: Scheduler, worker_orders: list[WorkerOrders], *,
                 freeze_orders: ArtefactOrders | None, proxy_orders: ProxyOrders | None,
                 cluster_orders: ClusterOrders | None = None, scaler: Scaler | None = None, start_timeout: float,
                 on_worker_lost: Callable[[int, Ending], None], send_stop: Callable[[int, list[bytes]], bool],
                 on_ready: Callable[[], None], environ: dict[str, str]) -> None:
        """
        Args:
            worker_orders: for each slot what its worker is told, but for its incarnation.
            freeze_orders: what the freezing process is told; None: the graph is there, or none is needed.
            proxy_orders: what the proxy is told; None: there is none.
            cluster_orders: what the process is told that has a cluster's workers started; None: there is no cluster.
            scaler: says how many workers to ask the cluster for; None: as many as its orders say.
            start_timeout: seconds for each phase of the start.
            on_worker_lost: called with the slot of a worker that is gone, and how it ended.
            send_stop: sends frames to the worker of a slot; False if it is not there any more.
            on_ready: called when everything is ready for the first time.
            environ: variables to set for the children.
        """
        self.scheduler = scheduler
        self.worker_orders, self.freeze_orders, self.proxy_orders = worker_orders, freeze_orders, proxy_orders
        self.cluster_orders, self.scaler = cluster_orders, scaler
        self.start_timeout = start_timeout
        self.on_worker_lost, self.send_stop, self.announce_ready = on_worker_lost, send_stop, on_ready
        self.environ = environ
        self.failure: StartError | None = None
        self.is_ready = False
        self.http_port: int | None = None
        self.handles: dict[int, Child] = {}
        self.about: dict[int, dict[str, Any]] = {}
        self.freezer: Child | None = None
        self.proxy = _Helper("the HTTP proxy", self._make_proxy, self._on_proxy)
        self.cluster = _Helper("the process that asks the cluster for workers", self._make_cluster, self._on_cluster)
        self.frozen_graph: str | None = None
        self.num_processes = 0
        self._failed_starts = [0] * len(worker_orders)
        self._awaits_cluster = False
        self._reasons: dict[int, StartError] = {}
        self._due: dict[int, float] = {}
        self._start_ends: dict[int, float] = {}
        self._phase: tuple[str, float] | None = None
        self._seen: set[int] = set()
        self._stopping = False

    def start(self, watch: Watch, unwatch: Callable[[int], None]) -> None:
        """Begin the first phase; the rest follows as the children report."""
        self._watch, self._unwatch = watch, unwatch
        if self.freeze_orders is not None:
            self._begin_phase("the model to be converted")
            try:
                self.freezer = Child("bert_serving.server.engine.artefact", self.freeze_orders, piped_output=True,
                                     environ=self.environ)
            except OSError as error:
                self._fail(EngineError(f"the process that converts the model {NotStarted(error)}"))
                return
            self._listen(self.freezer, self._on_frozen, self._on_freezer_gone)
        else:
            self._start_workers()

    # ---- freezing the graph ------------------------------------------------------------------------------------------

    def _on_frozen(self, message: dict[str, Any]) -> None:
        if "error" in message:
            self._complain(message["error"], "the model cannot be converted")
            return
        logger.info("converted %s of %s in %.1f s: %.1f MB, kept in %s", message["layers_kept"],
                    counted(message["layers"], "layer"),
                    message["seconds"], message["bytes"] / 1e6, message["path"])
        if "removed" in message:
            logger.info("removed the %d least recently used converted %s to keep to -cache_mb", message["removed"],
                        "model" if message["removed"] == 1 else "models")
        self.frozen_graph = message["path"]
        self.worker_orders = [replace(orders, settings=replace(orders.settings, artefact=message["path"]))
                              for orders in self.worker_orders]
        self._start_workers()

    def _on_freezer_gone(self, how: ExitStatus) -> None:
        self.freezer = None
        if self.frozen_graph is None and not self._stopping:
            self._fail(EngineError(f"the process that converts the model {how}; its last lines above may say why"))

    # ---- workers -----------------------------------------------------------------------------------------------------

    def _start_workers(self) -> None:
        if self.cluster_orders is not None:
            self._begin_phase("a worker of the cluster to be ready")
            self._awaits_cluster = True
            self._start_helper(self.cluster)
            return
        if not self.worker_orders:
            self._start_proxy()  # those of other hosts come when they come
            return
        self._begin_phase("the workers to be ready")
        for slot in range(len(self.worker_orders)):
            self._start_worker(slot)

    def _start_worker(self, slot: int) -> None:
        self._due.pop(slot, None)
        incarnation = self.scheduler.started(slot)
        self._start_ends[slot] = time.monotonic() + self.start_timeout
        try:
            orders = replace(self.worker_orders[slot], incarnation=incarnation)
            handle = Child("bert_serving.server.stages.worker", orders, environ=self.environ)
        except OSError as error:  # no memory, or too many processes; there may be room again soon
            self.on_worker_lost(slot, NotStarted(error))
            self._not_ready(slot, NotStarted(error))
            return
        self.handles[slot] = handle
        self._watch(handle.sentinel, lambda: self._on_worker_gone(slot))

    def on_ready(self, message: Ready) -> None:
        """A worker has proved itself."""
        slot = message.slot
        if self.scheduler.workers[slot].state is not WorkerState.STARTING:
            return  # its last word: it is gone already
        self.scheduler.ready(slot, message.about.get("tokens_per_second", 0.0))
        self.about[slot] = message.about
        self._failed_starts[slot] = 0
        self._seen.add(slot)
        logger.info("worker %d is ready and listening after %.1f s: %s, process %d", slot, message.about["seconds"],
                    message.about["about"], message.about["pid"])
        if not self.is_ready and len(self._seen) == len(self.worker_orders):
            self._start_proxy()

    def on_start_fault(self, message: Fault) -> None:
        """A worker says why it cannot start; it ends by itself."""
        error = BY_NAME.get(message.code, WorkerStartError)
        self._reasons[message.slot] = error(message.message)

    def _on_worker_gone(self, slot: int) -> None:
        handle = self.handles.pop(slot)
        self._unwatch(handle.sentinel)
        how = handle.forget()
        was_ready = self.scheduler.workers[slot].state is WorkerState.READY
        self.on_worker_lost(slot, how)
        if self._stopping:
            return
        if was_ready:
            logger.warning("worker %d was lost (it %s); what it held is given again, and it is replaced", slot, how)
            self._start_worker(slot)
        else:
            self._not_ready(slot, how)

    def _not_ready(self, slot: int, how: Ending) -> None:
        """A worker has gone before it was ready: try again later, or give up."""
        reason = self._reasons.pop(slot, None)
        self._failed_starts[slot] += 1
        logger.warning("worker %d did not become ready (it %s)%s", slot, how, f": {reason}" if reason else "")
        if reason is not None and not self.is_ready:
            self._fail(reason)  # it knows why, so another attempt would end the same
        elif self._failed_starts[slot] >= MAX_FAILED_STARTS:
            self._give_up(slot, how, reason)
        else:
            self._due[slot] = _next_start(self._failed_starts[slot])

    def _give_up(self, slot: int, how: Ending, reason: StartError | None) -> None:
        text = f"worker {slot} did not become ready in {MAX_FAILED_STARTS} attempts (the last one {how})"
        if self.is_ready and any(worker.state is WorkerState.READY for worker in self.scheduler.workers):
            logger.error("%s; going on with %s, trying again now and then", text,
                         counted(self.scheduler.num_ready, "worker"))
            self._due[slot] = time.monotonic() + MAX_BACKOFF_SECONDS
        else:
            self._fail(reason or WorkerStartError(f"{text}; its last lines above may say why"))

    # ---- a cluster's workers -----------------------------------------------------------------------------------------

    def _make_cluster(self) -> Child:
        assert self.cluster_orders is not None
        return Child("bert_serving.server.launchers.ray_actors", self.cluster_orders, piped_output=True)

    def _on_cluster(self, message: dict[str, Any]) -> None:
        if "error" in message:
            self._complain(message["error"], "the cluster gives no workers")
        elif "placed" in message:
            self.cluster.failures = 0
            logger.info("asked the cluster for %s", counted(message["placed"], "worker"))

    def _scale(self, now: float) -> None:
        """Ask the cluster for more workers, or give some back."""
        scheduler = self.scheduler
        if self.scaler is None or self.cluster_orders is None or not self.is_ready:
            return
        has_work = scheduler.backlog or scheduler.suspects or scheduler.flights
        backlog = scheduler.seconds_of_backlog() if has_work else 0.0
        if self.scaler.decide(now, backlog, scheduler.num_ready):
            logger.info("wanted: %s, as what waits takes %.1f s with "
                        "%d", counted(self.scaler.wanted, "worker"), backlog,
                        scheduler.num_ready)
            # For the next such process, too.
            self.cluster_orders = replace(self.cluster_orders, workers=self.scaler.wanted)
            if self.cluster.child is not None:
                self.cluster.child.tell(Wanted(self.scaler.wanted))

    # ---- the HTTP proxy ----------------------------------------------------------------------------------------------

    def _start_proxy(self) -> None:
        if self.proxy_orders is None:
            self._all_ready()
            return
        self._begin_phase("the HTTP proxy to be ready")
        self._start_helper(self.proxy)

    def _make_proxy(self) -> Child:
        assert self.proxy_orders is not None
        return Child("bert_serving.server.proxy", self.proxy_orders, piped_output=True,
                     environ={**PROXY_ENVIRONMENT, **os.environ})

    def _on_proxy(self, message: dict[str, Any]) -> None:
        if "error" in message:
            self._complain(message["error"], "the HTTP proxy cannot start")
        elif message.get("ready"):
            self.http_port = message["http_port"]
            assert self.proxy_orders is not None
            self.proxy_orders = replace(self.proxy_orders, http_port=message["http_port"])  # the next one gets the same
            self.proxy.failures = 0
            if not self.is_ready:
                self._all_ready()

    # ---- both of them ------------------------------------------------------------------------------------------------

    def _start_helper(self, helper: _Helper) -> None:
        helper.due = None
        try:
            helper.child = helper.make()
        except OSError as error:
            self._on_helper_gone(helper, NotStarted(error))
            return
        self._listen(helper.child, helper.on_message, lambda how: self._on_helper_gone(helper, how))

    def _on_helper_gone(self, helper: _Helper, how: Ending) -> None:
        helper.child = None
        if self._stopping or self.failure is not None:
            return
        helper.failures += 1
        if not self.is_ready and helper.failures >= MAX_FAILED_STARTS:
            self._fail(StartError(f"{helper.what} {how}" if isinstance(how, NotStarted) else
                                  f"{helper.what} {how} before it was ready; its last lines above may say why"))
            return
        logger.warning("%s was lost (it %s); it is replaced", helper.what, how)
        helper.due = _next_start(helper.failures)

    def _complain(self, error: dict[str, str], of_what: str) -> None:
        """A child says what is wrong: the end of the start, or a line when the server is ready without it."""
        found = BY_NAME.get(error["name"], StartError)(error["message"])
        if not self.is_ready:
            self._fail(found)
        else:
            logger.error("%s: %s", of_what, found)

    # ---- all of them -------------------------------------------------------------------------------------------------

    def _listen(self, child: Child, on_message: Callable[[dict[str, Any]], None],
                on_gone: Callable[[ExitStatus], None]) -> None:
        """Watch a child that reports on its standard output."""
        output = child.output
        assert output is not None

        watching = True

        def read() -> bool:
            nonlocal watching
            messages = child.read_messages()
            if messages is None and watching:
                watching = False
                self._unwatch(output)
            for message in messages or ():
                on_message(message)
            return bool(messages)

        def readable() -> None:
            read()

        def gone() -> None:
            while read():
                pass  # its last words
            if watching:  # a process that it left behind keeps its output open
                self._unwatch(output)
            self._unwatch(child.sentinel)
            on_gone(child.forget())

        self._watch(output, readable)
        self._watch(child.sentinel, gone)

    def _all_ready(self) -> None:
        self.is_ready = True
        self._phase = None
        self.num_processes = len(self.handles) + (self.proxy.child is not None) + 1
        self.announce_ready()

    def _begin_phase(self, waiting_for: str) -> None:
        self._phase = (waiting_for, time.monotonic() + self.start_timeout)
        logger.info("waiting for %s", waiting_for)

    def _fail(self, error: StartError) -> None:
        if self.failure is None:
            self.failure = error

    def tick(self, now: float) -> None:
        """What is due by the clock: restarts, hung workers, a start that takes too long."""
        for slot in [slot for slot, due in self._due.items() if due <= now]:
            self._start_worker(slot)
        for helper in (self.proxy, self.cluster):
            if helper.due is not None and helper.due <= now:
                self._start_helper(helper)
        if self._awaits_cluster and self.scheduler.num_ready:
            self._awaits_cluster = False
            self._start_proxy()
        self._scale(now)
        for slot in self.scheduler.hung(now):
            handle = self.handles.get(slot)
            if handle is not None and self.scheduler.workers[slot].state is WorkerState.READY:
                oldest = self.scheduler.workers[slot].oldest
                assert oldest is not None, "an idle worker does not hang"
                logger.warning("worker %d has had a job of about %s for more than %.1f s; it is replaced", slot,
                               counted(oldest.tokens, "token"), self.scheduler.time_allowed(oldest))
                self.scheduler.give_up(slot, now)  # its sentinel tells the rest
                handle.kill()
        for slot, end in self._start_ends.items():
            if now > end and slot in self.handles and self.scheduler.workers[slot].state is WorkerState.STARTING:
                logger.warning("worker %d did not become ready in %g seconds", slot, self.start_timeout)
                self._start_ends[slot] = float("inf")  # once is enough; its sentinel tells the rest
                self.handles[slot].kill()
        if self._phase is not None and now > self._phase[1]:
            self._fail(WorkerStartError(f"waited {counted(self.start_timeout, 'second')} for {self._phase[0]}; "
                                        f"-start_timeout sets how long"))

    def stop(self) -> None:
        """Tell every child to end, and see to it that they do."""
        self._stopping = True
        for worker in self.scheduler.workers:
            if worker.slot in self.handles:
                self._stop_worker(worker)
        others: list[Child] = [child for child in (self.freezer, self.proxy.child) if child is not None]
        for child in others:
            child.signal(signal.SIGTERM)
        if self.cluster.child is not None:
            self.cluster.child.end_input()  # to a SIGTERM Ray says more than anybody wants to read
            others.append(self.cluster.child)
        end = time.monotonic() + STOP_SECONDS
        for child in [*self.handles.values(), *others]:
            if not child.wait(max(0.0, end - time.monotonic())):
                child.kill()
            child.forget()
        self.handles.clear()
        self.freezer = self.proxy.child = self.cluster.child = None

    def _stop_worker(self, worker: WorkerSlot) -> None:
        idle = worker.state is WorkerState.READY and not worker.flights
        if not idle or not self.send_stop(worker.slot, encode_to_worker(Stop(worker.slot, worker.incarnation))):
            self.handles[worker.slot].kill()


def _next_start(failures: int) -> float:
    """When to start a child again that was lost so many times in a row."""
    return time.monotonic() + min(BACKOFF_SECONDS * 2 ** (failures - 1), MAX_BACKOFF_SECONDS)
