"""The loop of a host whose workers compute for a server elsewhere: it joins, passes jobs on, and brings the answers."""
from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import zmq

from bert_serving.client.link import Link
from bert_serving.client.words import counted

from ..core import remote_messages
from ..core.remote_messages import MembershipError, Welcome, readable
from ..core.messages import HEAD, Fault, Ready, Rows, decode_from_worker, readdress
from ..core.scheduler import Scheduler, WorkerState
from ..errors import StartError
from ..process import Ending
from .broker import SupervisorProtocol
from .endpoints import MAX_AT_ONCE, hand, receive
from .loop import Loop

logger = logging.getLogger(__name__)

TICK_MS = 100


class Refused(StartError):
    """The server does not want this host."""


class HostWorkersProtocol(Protocol):
    """The workers of this host."""

    @property
    def supervisor(self) -> SupervisorProtocol: ...

    scheduler: Scheduler
    about: dict[int, dict[str, Any]]
    results: zmq.Socket[Any]
    pipes: list[zmq.Socket[Any]]

    def kill(self, worker: int) -> None: ...
    def close(self) -> None: ...


class Agent(Loop):
    """Sockets: ``link`` DEALER to the server; and those of its workers, as the broker's."""

    def __init__(self, connect: Callable[[], Link], who: dict[str, Any],
                 start_workers: Callable[[Welcome, Callable[[int, Ending], None]], HostWorkersProtocol],
                 patience: float) -> None:
        """
        Args:
            connect: opens a connection to the server.
            who: what this host says of itself when it joins.
            start_workers: makes the workers that the server's welcome asks for; is given what to call when one is lost.
            patience: seconds to look for a server that cannot be reached; infinite: for ever.
        """
        super().__init__()
        self.connect, self.who, self.start_workers, self.patience = connect, who, start_workers, patience
        self.link = connect()
        self.host_workers: HostWorkersProtocol | None = None
        self.welcome: Welcome | None = None
        self.joined = False
        self.done = False
        # For each worker: our number of a job -> head of its message from the server. Its own numbers begin anew when
        # it is started again, while a worker may still have a job of before.
        self.outstanding: list[dict[int, bytes]] = []
        self._next_job = 1
        self.timeout = 10.0
        self._leaving = False
        self._next_alive = self._next_tick = 0.0
        self._heard = self._since = time.monotonic()
        self.watch(self.link.socket, self.on_server)

    def unwatch(self, source: Any) -> None:
        if source in self.handlers:  # else it is one of workers that were sent away
            super().unwatch(source)

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def run(self, drain_seconds: float) -> None:
        """Work until asked to stop, then end what there is and leave.

        Args:
            drain_seconds: most time for the jobs that the workers have then.
        Raises:
            StartError: the workers cannot start, the server does not want them, or cannot be reached.
        """
        try:
            while not self._stop_asked and not self.done:
                self.step()
            if self.joined and not self.done and self._stop_asked < 2:
                logger.info("leaving: finishing %s first", counted(sum(map(len, self.outstanding)), "job"))
                self._leaving = True
                self.say(remote_messages.LEAVE)
                end = time.monotonic() + drain_seconds
                while not self.done and self.joined and self._stop_asked < 2 and time.monotonic() < end:
                    self.step()
        finally:
            self.close()

    def close(self) -> None:
        """End the workers, and the connection once everything is said."""
        if self.host_workers is not None:
            self.host_workers.supervisor.stop()
            self.host_workers.close()
        self.link.close(flush=self.joined)
        self.close_waker()

    def step(self, timeout_ms: int = TICK_MS) -> None:
        """Handle whatever is waiting; return after at most ``timeout_ms``.

        Raises:
            StartError: it cannot go on.
        """
        self.handle(timeout_ms)
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_MS / 1e3
            self.tick(now)

    def tick(self, now: float) -> None:
        """What is due by the clock."""
        self.link.update()
        if self.link.unauthorized:
            raise Refused(self.link.unauthorized)
        if now - self._heard > self.timeout:
            self._look_again(now)
        if now - self._since > self.patience:
            raise StartError(f"no server answers on {self.link.host}:{self.link.port} for "
                             f"{counted(self.patience, 'second')} ({self.link.describe()}); is that its -worker_port? "
                             "-patience sets how long to wait")
        if now >= self._next_alive:
            self._next_alive = now + min(remote_messages.ALIVE_SECONDS, self.timeout / 4)
            if self.joined:
                self.say(remote_messages.ALIVE)
            elif self.link.connected and not self._leaving:
                self.say(remote_messages.JOIN, **self.who)
        if self.host_workers is not None:
            self.host_workers.supervisor.tick(now)
            if self.host_workers.supervisor.failure is not None:
                raise self.host_workers.supervisor.failure

    def on_parent_gone(self) -> None:
        """Standard input is readable: who started this process has ended."""
        self._stop_asked = 2

    def say(self, kind: bytes, **values: Any) -> bool:
        """Send to the server without waiting; False if there is none."""
        return self.link.send(remote_messages.encode(kind, **values))

    def _look_again(self, now: float) -> None:
        """Nothing was heard: take another connection, since this one may go on waiting for what the network lost."""
        if self.joined:
            logger.warning("nothing was heard of the server for %.1f s: looking for it again", now - self._heard)
        self._outside()
        self.unwatch(self.link.socket)
        self.link.close(flush=False)
        self.link = self.connect()
        self.watch(self.link.socket, self.on_server)
        self._heard, self._next_alive = now, 0.0

    def _outside(self) -> None:
        """The server has given up this host, or will: nobody waits for what its workers have."""
        if self.joined:
            self._since = time.monotonic()
        self.joined = False
        for jobs in self.outstanding:
            jobs.clear()

    # ---- the server --------------------------------------------------------------------------------------------------

    def on_server(self) -> None:
        for _ in range(MAX_AT_ONCE):
            received = receive(self.link.socket)
            if received is None or self.done:
                return
            self._heard = time.monotonic()
            try:
                self._on_message([frame.bytes for frame in received])
            except MembershipError as error:
                raise Refused(f"what listens on {self.link.host}:{self.link.port} is no server's -worker_port: it sent "
                              f"{error}") from error

    def _on_message(self, frames: list[bytes]) -> None:
        if frames[0] == remote_messages.JOB:
            self._pass_on(*remote_messages.decode_job(frames))
        else:
            self._on_word(*remote_messages.decode(frames))

    def _on_word(self, kind: bytes, values: dict[str, Any]) -> None:
        if kind == remote_messages.WHO:
            self._outside()
            self._next_alive = 0.0
        elif kind == remote_messages.WELCOME:
            self._on_welcome(Welcome.read(values))
        elif kind == remote_messages.REFUSED:
            raise Refused(f"the server does not want this host's workers: {readable(values.get('reason'), 500)}")
        elif kind == remote_messages.KILL and self.host_workers is not None:
            worker = remote_messages.worker_number(values)
            logger.warning("worker %d hangs, as the server says (%s); it is replaced", worker,
                           readable(values.get("why"), 200))
            if worker < len(self.host_workers.pipes):
                self.host_workers.kill(worker)
        elif kind == remote_messages.BYE:
            logger.info("goodbye from the server: %s", readable(values.get("reason"), 200))
            self.done = self._leaving
            self._outside()

    def _on_welcome(self, welcome: Welcome) -> None:
        """The server takes this host, and says what its workers have to do."""
        self._outside()
        self.joined = True
        self._since = float("inf")
        self.timeout = welcome.timeout
        if welcome != self.welcome:
            self._start_workers(welcome)
            self._heard = time.monotonic()  # a model that is fetched takes its time
        else:
            logger.info("joined again")
        assert self.host_workers is not None
        for worker in self.host_workers.scheduler.workers:
            if worker.state is WorkerState.READY:
                self._announce(worker.slot)

    def _start_workers(self, welcome: Welcome) -> None:
        if self.host_workers is not None:
            logger.info("the server has other orders now: starting other workers")
            for source in [source for source in self.handlers
                           if source not in (0, self.waker.fileno(), self.link.socket)]:
                self.unwatch(source)
            before, self.host_workers = self.host_workers, None
            before.supervisor.stop()
            before.close()
        self.host_workers = self.start_workers(welcome, self._lost)
        self.welcome = welcome
        self.outstanding = [{} for _ in self.host_workers.pipes]
        self.watch(self.host_workers.results, self.on_answer)
        self.host_workers.supervisor.start(self.watch, self.unwatch)

    def _announce(self, worker: int) -> None:
        assert self.host_workers is not None
        self.say(remote_messages.READY, worker=worker, **self.host_workers.about[worker])

    # ---- its workers -------------------------------------------------------------------------------------------------

    def _pass_on(self, number: int, head: bytes, rest: list[bytes]) -> None:
        """Give a job to its worker, under that worker's own name."""
        if self.host_workers is None or not self.joined:
            return
        if number >= len(self.host_workers.pipes):
            raise MembershipError(f"a job for worker {number} of {len(self.host_workers.pipes)}")
        job, self._next_job = self._next_job, self._next_job + 1
        incarnation = self.host_workers.scheduler.workers[number].incarnation
        # Else the worker has just gone, and the server is told so.
        if hand(self.host_workers.pipes[number], [readdress(head, number, incarnation, job), *rest]):
            self.outstanding[number][job] = head

    def on_answer(self) -> None:
        assert self.host_workers is not None
        for _ in range(MAX_AT_ONCE):
            received = receive(self.host_workers.results)
            if received is None:
                return
            kind, number, incarnation, job = HEAD.unpack(received[0].buffer)
            head = self.outstanding[number].pop(job, None) if job else None
            if head is not None:
                self._bring(HEAD.pack(kind, *HEAD.unpack_from(head)[1:]), received[1:])
            elif not job and self.host_workers.scheduler.is_current(number, incarnation):
                self._on_own_word(decode_from_worker([frame.buffer for frame in received]))

    def _bring(self, head: bytes, rest: list[zmq.Frame]) -> None:
        # There is always room: what workers may have out is limited, and a server that does not read is given up.
        self.link.socket.send(remote_messages.ANSWER, zmq.SNDMORE)
        self.link.socket.send(head, zmq.SNDMORE)
        self.link.socket.send_multipart(rest, copy=False)

    def _on_own_word(self, message: Ready | Fault | Rows) -> None:
        assert self.host_workers is not None
        if isinstance(message, Ready):
            self.host_workers.supervisor.on_ready(message)
            if self.joined and not self._leaving \
                    and self.host_workers.scheduler.workers[message.slot].state is WorkerState.READY:
                self._announce(message.slot)
        elif isinstance(message, Fault):
            self.host_workers.supervisor.on_start_fault(message)

    def _lost(self, worker: int, how: Ending) -> None:
        """A worker is gone; the supervisor replaces it."""
        assert self.host_workers is not None
        while int(self.host_workers.results.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self.on_answer()  # its last rows count
        self.outstanding[worker].clear()
        self.host_workers.scheduler.lost(worker)
        if self.joined:
            self.say(remote_messages.GONE, worker=worker, how=f"it {how}")
