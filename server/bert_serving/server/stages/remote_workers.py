"""The broker's port for workers of other hosts: what they say goes to core.membership, and jobs go out to them."""
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from bert_serving.client.words import counted

from ..core import remote_messages
from ..core.membership import MAX_HOSTS, Host, Members, Reason, Refusal
from ..core.messages import Fault, Job, Rows
from ..core.remote_messages import MAX_WORKERS, MembershipError, Welcome, decode, encode, encode_job, readable
from .endpoints import COPY_BELOW, MAX_AT_ONCE, NOBLOCK, address_of, receive
from .refusals import Refusals

logger = logging.getLogger(__name__)


def in_words(refusal: Refusal, version: str) -> str:
    """Why a host or a worker of it is refused, for its log and ours.

    Args:
        version: of this server.
    """
    return {
        Reason.VERSION: f"it is bert-serving-server {refusal.detail}, this server is {version}; install the same on "
                        "both",
        Reason.TOO_MANY_HOSTS: f"the server has {MAX_HOSTS} hosts with workers, which is the most",
        Reason.TOO_MANY_WORKERS: f"the server has {MAX_WORKERS} workers of other hosts, which is the most",
        Reason.OTHER_VECTORS: f"its vectors of the golden sentences are not this server's: {refusal.detail}; has it "
                              "the same model?",
    }[refusal.reason]


class RemoteWorkers:
    """Sockets: ``socket`` ROUTER, to which each host connects."""

    def __init__(self, socket: zmq.Socket[Any], members: Members, welcome: Welcome,
                 may_join: Callable[[zmq.Frame], bool]) -> None:
        """
        Args:
            welcome: what every host is told when it joins.
            may_join: whether who sent this frame still may; with keys, one may have been taken off the list.
        """
        self.socket, self.members, self.welcome, self.may_join = socket, members, welcome, may_join
        self._every = min(remote_messages.ALIVE_SECONDS, members.timeout / 4)
        self._next_alive = 0.0
        self._strangers = Refusals()
        self._unreachable: set[bytes] = set()

    def learn(self, about: dict[str, Any]) -> None:
        """A worker of this server has proved itself; see Members."""
        for host in self.members.learn(about):
            self.members.forget(host.peer)
            self._send(host.peer, encode(remote_messages.WHO))

    def on_message(self, take: Callable[[Rows | Fault], None]) -> None:
        """Hosts have said something.

        Args:
            take: is given workers' answers.
        """
        for _ in range(MAX_AT_ONCE):
            received = receive(self.socket)
            if received is None:
                return
            peer, now = received[0].bytes, time.monotonic()
            frames = [frame.buffer for frame in received[1:]]
            host = self.members.hear(peer, now)
            try:
                if not frames or bytes(frames[0]) != remote_messages.ANSWER:
                    self._hear(peer, host, frames, received[0], now)
                elif host is None:  # it was given up meanwhile, and so were its jobs
                    self._send(peer, encode(remote_messages.WHO))
                else:
                    answer = self.members.answer(host, frames[1:])
                    if answer is not None:
                        take(answer)
            except MembershipError as error:
                self._expel(host, received[0], f"it sent {error}", now)

    def _hear(self, peer: bytes, host: Host | None, frames: Sequence[memoryview], frame: zmq.Frame,
              now: float) -> None:
        kind, values = decode(frames)
        if kind == remote_messages.JOIN:
            self._join(peer, values, frame, now)
        elif host is None:
            self._send(peer, encode(remote_messages.WHO))
        elif kind == remote_messages.READY:
            self._ready(host, values)
        elif kind == remote_messages.GONE:
            slot = self.members.gone(host, values)
            if slot is not None:
                logger.warning("worker %d, on %s, was lost (%s); what it held is given again", slot, host.name,
                               readable(values.get("how"), 200))
        elif kind == remote_messages.LEAVE:
            logger.info("%s leaves, with %s", host.name, counted(len(host.slots), "worker"))
            self.members.leave(host)
        elif kind != remote_messages.ALIVE:
            raise MembershipError(f"a message of kind {kind!r}, which is ours to send")

    def _join(self, peer: bytes, values: dict[str, Any], frame: zmq.Frame, now: float) -> None:
        if not self.may_join(frame):
            self._send(peer, encode(remote_messages.REFUSED, reason="its key is not on the server's list"))
            return
        refusal = self.members.join(peer, values, now)
        if refusal is not None:
            reason = in_words(refusal, self.members.version)
            self._warn_of(frame, f"workers of {readable(values.get('name'))}: {reason}", now)
            self._send(peer, encode(remote_messages.REFUSED, reason=reason))
            return
        logger.info("%s has joined", self.members.hosts[peer].name)
        self._send(peer, encode(remote_messages.WELCOME, **self.welcome.to_json()))

    def _ready(self, host: Host, values: dict[str, Any]) -> None:
        slot, refusal = self.members.ready(host, values)
        if refusal is not None:
            reason = in_words(refusal, self.members.version)
            logger.warning("refused worker %d of %s: %s", values["worker"], host.name, reason)
            self._send(host.peer, encode(remote_messages.REFUSED, reason=reason))
            self._forget(host)
        elif slot is not None:
            logger.info("worker %d, on %s, is ready: %s", slot, host.name, readable(values.get("about"), 200))

    def _expel(self, host: Host | None, frame: zmq.Frame, why: str, now: float) -> None:
        if host is None:
            self._warn_of(frame, why, now)
            return
        logger.warning("%s is expelled: %s", host.name, why)
        self._send(host.peer, encode(remote_messages.REFUSED, reason=why[:200]))
        self._forget(host)

    def _warn_of(self, frame: zmq.Frame, why: str, now: float) -> None:
        """Tell the log of a stranger on this port, unless it heard of too many lately."""
        line = self._strangers.line(address_of(frame) or "somebody", why, now)
        if line is not None:
            logger.warning("%s", line)

    def _forget(self, host: Host) -> None:
        slots = self.members.forget(host.peer)
        if slots:
            logger.warning("%s fewer; what they held is given again", counted(len(slots), "worker"))

    # ---- out ---------------------------------------------------------------------------------------------------------

    def give(self, job: Job) -> bool:
        """Send a job to a remote worker without waiting; False if its host is gone."""
        place = self.members.places.get(job.slot)
        if place is None:
            return False
        if not self._send(place[0], encode_job(place[1], job)):
            self._unreachable.add(place[0])
            return False
        return True

    def tick(self, now: float) -> None:
        """What is due by the clock: signs of life, hosts that are silent, workers that hang, hosts that may go."""
        for host in self.members.silent(now):
            logger.warning("%s was not heard of for %.1f s: it counts as lost", host.name, now - host.heard)
            self._forget(host)
        self._forget_unreachable()
        scheduler = self.members.scheduler
        for slot in scheduler.hung(now):
            if slot in self.members.places:
                self._end_hung(slot, now)
        for host in [host for host in self.members.hosts.values() if self.members.is_done(host)]:
            logger.info("%s has left", host.name)
            self._send(host.peer, encode(remote_messages.BYE, reason="all that this host had to do is done"))
            self.members.forget(host.peer)
        if now >= self._next_alive:
            self._next_alive = now + self._every
            self._unreachable.update(peer for peer in self.members.hosts
                                     if not self._send(peer, encode(remote_messages.ALIVE)))
            self._forget_unreachable()

    def _end_hung(self, slot: int, now: float) -> None:
        """Have its host end a worker; if that does not come about, do without it."""
        scheduler, (peer, number) = self.members.scheduler, self.members.places[slot]
        oldest = scheduler.workers[slot].oldest
        assert oldest is not None, "an idle worker does not hang"
        if oldest.hung:
            logger.warning("worker %d still hangs, though its host was told to end it: what it held is given again",
                           slot)
            self.members.gone(self.members.hosts[peer], {"worker": number})
            return
        allowed = scheduler.time_allowed(oldest)
        why = f"it has had a job of about {counted(oldest.tokens, 'token')} for {allowed:.1f} s"
        logger.warning("worker %d hangs: %s; its host is told to replace it", slot, why)
        scheduler.give_up(slot, now)
        oldest.since = now - scheduler.time_allowed(oldest) + self.members.timeout  # so long its host has for that
        self._send(peer, encode(remote_messages.KILL, worker=number, why=why))

    def _forget_unreachable(self) -> None:
        for peer in self._unreachable & self.members.hosts.keys():
            host = self.members.hosts[peer]
            logger.warning("the connection to %s is gone", host.name)
            self._forget(host)
        self._unreachable.clear()

    def close(self) -> None:
        """Tell every host that this server stops."""
        for peer in self.members.hosts:
            self._send(peer, encode(remote_messages.BYE, reason="the server stops"))
        self.socket.close(linger=1000)

    def _send(self, peer: bytes, frames: Sequence[bytes]) -> bool:
        try:
            self.socket.send_multipart([peer, *frames], NOBLOCK, copy=len(frames[-1]) < COPY_BELOW)
        except zmq.ZMQError:  # EHOSTUNREACH: the connection is gone; EAGAIN: it takes nothing, which is as good as gone
            return False
        return True
