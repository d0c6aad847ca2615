"""The broker's loop: every socket, every child and the clock in one poll; each event goes to the room that decides.

Nothing is decided here. One loop, because one table of jobs in flight makes "answered once" simple, and because nothing
was faster (docs/decisions).
"""
from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NoReturn, Protocol

import zmq

from bert_serving.client.errors import UnavailableError
from bert_serving.client.protocol import COMMANDS, Buffer, asks_for_recent, recent_topic, topic
from bert_serving.client.words import counted

from ..core import messages
from ..core.messages import Fault, Job, Ready, Rows
from ..core.outlet import Outlet
from ..core.sink import Reply
from ..core.ventilator import Caller, Ventilator
from ..errors import StartError
from .remote_workers import RemoteWorkers
from .authenticator import Authenticator
from .endpoints import COPY_BELOW, MAX_AT_ONCE, NOBLOCK, SNDMORE, address_of, hand, receive
from .loop import Loop

logger = logging.getLogger(__name__)

RETRY_MS = 5
TICK_MS = 100
STOPPED_SECONDS = 0.3
"""A loop that comes round so late was stopped, with the whole machine as likely as not."""

QUIET_SECONDS, MAX_QUIET_SECONDS = 0.25, 1.0
"""A stopping server goes on refusing requests until none came for this long, but not for longer than that."""

SUBSCRIPTIONS = (b"\0", b"\1")
"""How messages on the outlet's socket begin: a subscription ends, or begins."""

NEIGHBOUR, STRANGER = Caller(is_local=True), Caller()

LOOPBACK = ("127.", "::1", "::ffff:127.")


class SupervisorProtocol(Protocol):
    """What the loop needs of the supervisor."""

    failure: StartError | None

    def start(self, watch: Callable[[int, Callable[[], None]], None], unwatch: Callable[[int], None]) -> None: ...
    def on_ready(self, message: Ready) -> None: ...
    def on_start_fault(self, message: Fault) -> None: ...
    def tick(self, now: float) -> None: ...
    def stop(self) -> None: ...


class Broker(Loop):
    """Ventilator, sink and supervisor, joined.

    Sockets: ``front`` PULL and ``outlet_socket`` XPUB toward clients, ``results`` PULL and one PUSH of ``pipes`` for
    each worker.
    """

    def __init__(self, front: zmq.Socket[Any], outlet_socket: zmq.Socket[Any], results: zmq.Socket[Any],
                 pipes: list[zmq.Socket[Any]], ventilator: Ventilator, outlet: Outlet, supervisor: SupervisorProtocol,
                 remote_workers: RemoteWorkers | None = None, authenticator: Authenticator | None = None) -> None:
        """
        Args:
            remote_workers: for workers of other hosts; None: there are none.
            authenticator: guards the clients' sockets; None: they are open to all who reach them.
        """
        super().__init__()
        self.ventilator, self.outlet, self.supervisor = ventilator, outlet, supervisor
        self.remote_workers, self.authenticator = remote_workers, authenticator
        self.front, self.outlet_socket, self.results, self.pipes = front, outlet_socket, results, pipes
        self._last_tick = self._last_retry = 0.0
        self._crossed = False
        for source, handler in ((front, self.on_request), (outlet_socket, self.on_subscription),
                                (results, self.on_result)):
            self.watch(source, handler)
        for source, handler in authenticator.sources() if authenticator is not None else ():
            self.watch(source, handler)
        if remote_workers is not None:
            self.watch(remote_workers.socket, partial(remote_workers.on_message, self.on_answer))

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def step(self, timeout_ms: int = TICK_MS) -> None:
        """Handle whatever is waiting; return after at most ``timeout_ms``."""
        if self.outlet.blocked:
            timeout_ms = min(timeout_ms, RETRY_MS)
        due = self.ventilator.scheduler.seconds_until_next(time.monotonic())
        if due is not None:
            timeout_ms = min(timeout_ms, int(due * 1e3) + 1)
        self.handle(timeout_ms)
        self.dispatch()
        now = time.monotonic()
        if self.outlet.blocked and now - self._last_retry >= RETRY_MS / 1e3:
            self._last_retry = now
            for identity in list(self.outlet.blocked):
                self.deliver(identity, now)
        if now - self._last_tick >= TICK_MS / 1e3:
            if self._last_tick and now - self._last_tick > STOPPED_SECONDS:
                self.ventilator.scheduler.excuse(now - self._last_tick)
            self._last_tick = now
            self.outlet.expire(now)
            self.publish(self.ventilator.expire(now), now)
            self.drain_results()  # an answer that waits here is no worker that hangs
            self.supervisor.tick(now)
            if self.authenticator is not None:
                self.authenticator.tick(now)
            if self.remote_workers is not None:
                self.remote_workers.tick(now)

    def run(self, drain_seconds: float) -> None:
        """Serve until asked to stop, then finish what there is.

        Args:
            drain_seconds: most time for the requests that were accepted before.
        Raises:
            StartError: the server cannot go on; every request that waited has been told.
        """
        try:
            self.supervisor.start(self.watch, self.unwatch)
            while not self._stop_asked and self.supervisor.failure is None and not self.ventilator.termination_wanted:
                self.step()
            self.ventilator.draining = True
            if self.supervisor.failure is None:
                self.drain(time.monotonic() + drain_seconds)
            self.finish(self.supervisor.failure)
        finally:
            self.supervisor.stop()
        if self.supervisor.failure is not None:
            raise self.supervisor.failure

    def drain(self, until: float) -> None:
        """Go on until every accepted request has had its answer, or time is up, or somebody insists."""
        if self.ventilator.pending:
            logger.info("stopping: finishing %s first", counted(len(self.ventilator.pending), "request"))
        while self.ventilator.pending and time.monotonic() < until and self._stop_asked < 2 \
                and self.supervisor.failure is None:
            self.step()

    def finish(self, failure: StartError | None) -> None:
        """Fail what is left, and refuse what still comes until it is quiet."""
        now = time.monotonic()
        left = len(self.ventilator.pending)
        if failure is not None:
            self.publish(self.ventilator.no_worker(str(failure)), now)
        else:
            self.publish(self.ventilator.fail_all(UnavailableError("the server stopped before it got to this request")),
                         now)
        if left:
            logger.warning("%s ended with an error", counted(left, "request"))
        if self._stop_asked > 1:
            return
        end = now + MAX_QUIET_SECONDS
        quiet = now + QUIET_SECONDS
        while now < min(quiet, end) or (now < end and self.outlet.deliverable()):
            refused = self.ventilator.counts["refused"]
            self.step(20)
            now = time.monotonic()
            if self.ventilator.counts["refused"] > refused:
                quiet = now + QUIET_SECONDS

    def close(self, context: zmq.Context[Any]) -> None:
        """Free the ports and give the last replies three seconds to leave."""
        if self.authenticator is not None:
            self.authenticator.close()
        for socket in (self.front, self.outlet_socket):
            socket.unbind(socket.getsockopt_string(zmq.LAST_ENDPOINT))
        # LINGER 0 would abort the process if a client leaves in the middle of a large reply (libzmq 4.3.5).
        self.front.close(linger=100)
        self.outlet_socket.close(linger=3000)
        self.results.close(linger=100)
        if self.remote_workers is not None:
            self.remote_workers.close()
        for pipe in self.pipes:
            pipe.close(linger=100)
        self.close_waker()
        # term() waits for the linger, and now and then for ever: let a thread wait that nobody waits for.
        waiting = threading.Thread(target=context.term, daemon=True)
        waiting.start()
        waiting.join(4)

    # ---- clients -----------------------------------------------------------------------------------------------------

    def on_request(self) -> None:
        now = time.monotonic()
        for _ in range(MAX_AT_ONCE):
            received = receive(self.front)
            if received is None:
                return
            frames = [frame.bytes for frame in received]
            replies = self.ventilator.receive(frames, now, self._caller(received[0], frames))
            if replies:
                self.publish(replies, now)

    def _caller(self, first: zmq.Frame, frames: list[bytes]) -> Caller:
        """Who sent a message; where somebody is matters for commands only."""
        is_local = len(frames) > 1 and frames[1] in COMMANDS and _is_loopback(first)
        if self.authenticator is None:
            return NEIGHBOUR if is_local else STRANGER
        key = self.authenticator.key_of(first)
        return Caller(is_local, has_key=True, is_expelled=not self.authenticator.clients.admits(key))

    def on_subscription(self) -> None:
        socket = self.outlet_socket
        for _ in range(MAX_AT_ONCE):
            # One at a time: the option applies to the connection that the last message came from.
            try:
                message = socket.recv(NOBLOCK)
            except zmq.Again:
                self._crossed = False
                return
            if message[:1] not in SUBSCRIPTIONS:
                # No client of ours publishes to us. After such a message libzmq 4.3.5 takes each subscription that
                # waits behind it for one of the next connection in the row, who would then hear what is for another:
                # until none waits, nobody is registered.
                self._crossed = True
                logger.warning("a message on the port for results that is no subscription: somebody tampers with it")
                continue
            if self._crossed and message[0]:
                continue
            now = time.monotonic()
            change = self.outlet.subscription(message, now)
            if change is not None and change.is_back:
                self.ventilator.come_back(message[1:])
            if self._crossed:
                continue
            if change is None:
                identity = asks_for_recent(message[1:])
                if identity is not None and message[0]:
                    self._send_again(identity)
                continue
            socket.setsockopt(zmq.SUBSCRIBE if change.subscribe else zmq.UNSUBSCRIBE, change.topic)
            if change.subscribe:
                self.deliver(message[1:], now)

    def _send_again(self, identity: bytes) -> None:
        """Give the connection that the last message came from what its identity was sent lately, and nobody else.

        It is registered for what comes after that, too: its other subscription may be still on its way.
        """
        socket, own = self.outlet_socket, recent_topic(identity)
        socket.setsockopt(zmq.SUBSCRIBE, topic(identity))
        socket.setsockopt(zmq.SUBSCRIBE, own)
        for frames in self.outlet.recent(identity):
            if not self.send(own, frames):
                break  # it does not read
        socket.setsockopt(zmq.UNSUBSCRIBE, own)

    def publish(self, replies: Iterable[Reply], now: float) -> None:
        """Send replies; the outlet holds what cannot be sent yet, and the sink hears what became of a result."""
        outlet, sink = self.outlet, self.ventilator.sink
        for identity, frames, request in replies:
            is_result = request is not None
            subject = outlet.open_topic(identity)
            if subject is not None and self.send(subject, frames):
                outlet.sent(identity, frames, now, is_result)
            elif not outlet.hold(identity, frames, now, is_result):
                if request is not None:
                    self.publish([sink.dropped(request, sum(map(len, frames)))], now)
                continue
            if request is not None:
                sink.answered(request, now)

    def deliver(self, identity: bytes, now: float) -> None:
        """Send what is held for a client, as far as it has room."""
        while (frames := self.outlet.next_held(identity)) is not None:
            if not self.send(topic(identity), frames):
                self.outlet.block(identity)
                return
            self.outlet.delivered(identity, now)

    def send(self, subject: bytes, frames: Sequence[Buffer]) -> bool:
        """Publish frames under a topic; False if a subscriber's pipe is full, and nothing was sent."""
        try:
            self.outlet_socket.send(subject, NOBLOCK | SNDMORE)
        except zmq.Again:
            return False
        for frame in frames[:-1]:
            self.outlet_socket.send(frame, SNDMORE, copy=len(frame) < COPY_BELOW)
        self.outlet_socket.send(frames[-1])
        return True

    # ---- workers -----------------------------------------------------------------------------------------------------

    def on_result(self) -> None:
        for _ in range(MAX_AT_ONCE):
            received = receive(self.results)
            if received is None:
                return
            # The vectors are the third frame; they are read where libzmq put them.
            self.on_message(messages.decode_from_worker([frame.buffer for frame in received]))

    def drain_results(self) -> None:
        """Take what has arrived from workers, before one is declared lost."""
        while int(self.results.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self.on_result()

    def on_answer(self, answer: Rows | Fault) -> None:
        """What a job came to."""
        now = time.monotonic()
        if isinstance(answer, Rows):
            self.publish(self.ventilator.rows(answer, now), now)
            self.ventilator.statistics.publishing.observe(time.monotonic() - now)
        else:
            self.publish(self.ventilator.fault(answer, now), now)

    def on_worker_lost(self, slot: int) -> None:
        """A worker is gone; what it has sent before counts."""
        self.drain_results()
        now = time.monotonic()
        self.publish(self.ventilator.lost(slot, now), now)

    def on_message(self, message: messages.FromWorker) -> None:
        if isinstance(message, Rows):
            self.on_answer(message)
        elif not self.ventilator.scheduler.is_current(message.slot, message.incarnation):
            return
        elif isinstance(message, Ready):
            self.supervisor.on_ready(message)
            if self.remote_workers is not None:
                self.remote_workers.learn(message.about)
        elif message.job:
            self.on_answer(message)
        else:
            self.supervisor.on_start_fault(message)

    def dispatch(self) -> None:
        """Hand out jobs while there are jobs and workers for them."""
        now = time.monotonic()
        while True:
            job = self.ventilator.next_job(now)
            if job is None:
                return
            if not self.give(job):
                # There is room for more than the credit, so the worker has just gone. We shall hear of it.
                self.ventilator.scheduler.unsent(job.job)

    def give(self, job: Job) -> bool:
        """Hand a job to its worker, wherever that is; False if nobody is there."""
        if job.slot < len(self.pipes):
            return hand(self.pipes[job.slot], messages.encode_to_worker(job))
        return self.remote_workers is not None and self.remote_workers.give(job)


def _is_loopback(frame: zmq.Frame) -> bool:
    return address_of(frame).startswith(LOOPBACK)


def exit_now(code: int) -> NoReturn:
    """End this process without waiting for libzmq's threads, which do not always end."""
    logging.shutdown()
    os._exit(code)
