"""The connections of one client to several servers of the same vectors, as if they were one server.

One exchange knows what was asked, so that whichever server answers first has answered, and all calls of a client work
as they do with one server. Which server gets what is decided in :mod:`.dispatch`.
"""
from __future__ import annotations

import functools
import itertools
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from .channel import Channel, Deadline
from .checks import Address, difference, is_ours
from .curve import Keys
from .dispatch import Dispatch
from .errors import DeadlineError, OverloadedError, UnavailableError
from .exchange import Exchange
from .link import Link, is_news, receiving, sending, wait_for
from .protocol import SHOW_CONFIG, Failure, Status, encode_command
from .words import counted

_REST = 1.0
"""A server that declined a request without saying when to come back is not preferred for so many seconds."""

_MAX_READ = 100

_HELLOS = 10 ** 17
"""The ids of what this module asks begin so far from those of requests, whose numbers users see."""


class Member:
    """One of the servers, and what is known of it.

    Attributes:
        objection: why it gets no requests, though it is there; empty if that is not known.
        hello: id of the question what it serves, while that is not answered; else 0. It is asked with every connection.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.links: Optional[Tuple[Link, Link]] = None
        self.objection = ""
        self.hello = 0
        self._seen = (0, 0)  # the connections of sender and receiver, when last both were there

    def __str__(self) -> str:
        return "%s, ports %s and %s" % self.address

    @property
    def connected(self) -> bool:
        """Whether there is a server that receives and publishes."""
        return self.links is not None and all(link.connected for link in self.links)

    @property
    def unauthorized(self) -> str:
        """Why it does not let this client in; empty if it does, or if that is not known."""
        return next((link.unauthorized for link in self.links or () if link.unauthorized), "")

    def is_newly_connected(self) -> bool:
        """Whether there is a connection that was not there the last time; the server may be another one."""
        if self.links is None or not self.connected:
            return False
        before, self._seen = self._seen, (self.links[0].connections, self.links[1].connections)
        return before != self._seen


class MultiServerChannel(Channel):
    """A channel to several servers. All of it is guarded by the inbox: sending never waits for anything.

    A server gets requests from the moment it said what it serves, until its connection is lost.

    Attributes:
        members: the servers, in the order of the user's list.
        dispatch: which of them has which request.
    """

    def __init__(self, addresses: Sequence[Address], exchange: Exchange, max_unread: int, max_unsent: int = 1000,
                 keys: Optional[Keys] = None, check: Callable[[Dict[str, Any]], None] = lambda config: None) -> None:
        """
        Args:
            addresses: of the servers.
            exchange: as :class:`Channel`, as the rest.
            max_unread: for each receiving socket.
            max_unsent: how many requests may wait for a server before :meth:`post` waits; 0 for no limit.
            keys: those of all servers.
            check: raises AttributeError if a server of that configuration cannot be understood.
        """
        host, port, port_out = addresses[0]
        super().__init__(host=host, port=port, port_out=port_out, exchange=exchange, max_unread=max_unread,
                         max_unsent=max_unsent, keys=keys)
        self.members = [Member(address) for address in addresses]
        self.dispatch = Dispatch(len(addresses))
        self._check = check
        self._hellos = itertools.count(_HELLOS + exchange.last_id)
        self._model: Optional[Tuple[Member, Dict[str, Any]]] = None  # the first that fitted; the others must be alike

    # ---- what a channel does -----------------------------------------------------------------------------------------

    def links(self) -> Tuple[Link, Link]:
        """Sender and receiver of the first server; those of all are opened if they are not."""
        with self._inbox:
            if self.closed:
                raise UnavailableError("this client is closed; make a new one")
            if self._links is None:
                try:
                    for member in self.members:
                        host, port, port_out = member.address
                        receiver = receiving(host, port_out, self.exchange.subscriptions, max_unread=self._max_unread,
                                             keys=self._keys)
                        try:
                            member.links = sending(host, port, max_unsent=0, keys=self._keys), receiver
                        except BaseException:
                            receiver.close()
                            raise
                except BaseException:
                    for sender, receiver in self._let_go():
                        sender.close()
                        receiver.close()
                    raise
                self._links = self.members[0].links
            assert self._links is not None
            return self._links

    def post(self, request_id: int, frames: List[bytes], deadline: Deadline, **expectation: Any) -> None:
        """As :meth:`Channel.post`; which server gets it is seen when one can take it."""
        self.links()
        with self.changing() as exchange:
            self._update()
            exchange.expect(request_id, frames, **expectation)
            self.dispatch.add(request_id, expectation.get("size") or 0)
            self._hand_out()
            is_full = self._is_full()
        if not is_full:
            return
        try:
            if self.wait(lambda: True if not self._is_full() else None, deadline) is None:
                raise self.timeout_error("take a request", deadline)
        except BaseException:
            self.abandon([request_id])
            raise

    def abandon(self, ids: Any) -> None:
        """Forget requests."""
        with self.changing() as exchange:
            for request_id in ids:
                exchange.abandon(request_id)
                self.dispatch.abandon(request_id)

    def is_connected(self) -> bool:
        """Whether there is a server that takes requests."""
        with self._inbox:
            self._update()
            return any(lane.open for lane in self.dispatch.lanes)

    def reconnections(self) -> int:
        """None that a call has to care for: whoever connects anew is asked here what it serves."""
        return 0

    @property
    def unauthorized(self) -> str:
        """Why none of the servers lets this client in; empty if one does, or may."""
        reasons = [member.unauthorized for member in self.members]
        return "; ".join(reasons) if all(reasons) else ""

    def timeout_error(self, what: str, deadline: Deadline) -> DeadlineError:
        """As :meth:`Channel.timeout_error`, with what was seen of each server."""
        return DeadlineError("no server did %s within %s ms; %s" % (what, deadline.timeout_ms, self._in_sight()))

    def waits(self) -> str:
        return "still waiting for one of the servers; %s" % self._in_sight()

    def _in_sight(self) -> str:
        with self._inbox:
            self._update()
            return "; ".join("%s: %s" % (state["server"], state["seen"]) for state in self._states())

    # ---- what is known of the servers --------------------------------------------------------------------------------

    def states(self) -> List[Dict[str, Any]]:
        """For each server: ``server``, where it is; ``open``, whether it gets requests; ``unanswered``, how many of
        them it has; ``seen``, what is known of it in words."""
        with self._inbox:
            self._update()
            return self._states()

    def objections(self) -> List[str]:
        """Why servers that are there get no requests; a line each. For the ``ready`` of :meth:`wait`."""
        return ["%s: %s" % (member, member.objection) for member in self.members if member.objection]

    def is_settled(self) -> bool:
        """Whether every server is known to be usable, or not. For the ``ready`` of :meth:`wait`."""
        return all(lane.open or member.objection or member.unauthorized
                   for lane, member in zip(self.dispatch.lanes, self.members))

    def _states(self) -> List[Dict[str, Any]]:
        return [{"server": str(member), "open": lane.open, "unanswered": len(lane.unanswered),
                 "seen": self._seen(member, len(lane.unanswered))}
                for member, lane in zip(self.members, self.dispatch.lanes)]

    def _seen(self, member: Member, unanswered: int) -> str:
        if member.links is None:
            return "the client was closed" if self.closed else "not contacted yet"
        if member.unauthorized or member.objection:
            return member.unauthorized or member.objection
        if not member.connected:
            return " and ".join(link.describe() for link in member.links)
        if member.hello:
            return "connected, but it did not say what it serves"
        return "connected, with %s that it has not answered" % counted(unanswered, "request")

    # ---- how it is done; called with the inbox held ------------------------------------------------------------------

    def _is_full(self) -> bool:
        return bool(self._max_unsent) and len(self.dispatch.waiting) > self._max_unsent

    @property
    def _expecting(self) -> bool:
        return self.exchange.expecting or not self.is_settled()

    def _let_go(self) -> List[Tuple[Link, Link]]:
        pairs = [member.links for member in self.members if member.links is not None]
        for member in self.members:
            member.links = None
        self._links = None
        return pairs

    def _read(self, seconds: float, room: bool = False) -> None:
        pairs = [(index, member.links) for index, member in enumerate(self.members) if member.links is not None]
        has_events = True
        messages: List[Tuple[int, List[bytes]]] = []
        self._reading = True
        self._inbox.release()
        try:
            senders, receivers = [sender for _, (sender, _) in pairs], [receiver for _, (_, receiver) in pairs]
            has_events = wait_for(seconds, senders, receivers)
            for index, (_, receiver) in pairs:
                messages.extend((index, message) for message in receiver.receive(_MAX_READ))
        finally:
            self._inbox.acquire()
            self._reading = False
            for index, message in messages:
                self._receive(index, message)
            if has_events:
                self._update()
            self._hand_out()
            self._tell()

    def _receive(self, index: int, message: List[bytes]) -> None:
        request_id = self.exchange.receive(message, functools.partial(self._passes_on, index))
        if request_id is None:
            return
        if request_id == self.members[index].hello:
            self._meet(index)
        else:
            self.dispatch.answered(request_id, index)

    def _passes_on(self, index: int, failure: Failure) -> bool:
        """Whether the request that a server has refused goes to another one."""
        if failure.request_id >= _HELLOS or not isinstance(failure.error, (OverloadedError, UnavailableError)):
            return False
        pause = failure.error.retry_after
        return self.dispatch.declined(failure.request_id, index, time.monotonic() + (_REST if pause is None else pause),
                                      ends=isinstance(failure.error, UnavailableError))

    def _update(self) -> None:
        if self._reading:  # its thread looks for all
            return
        links = [link for member in self.members for link in member.links or ()]
        if not links or not is_news(*links):
            return
        for link in links:
            link.update()
        for index, member in enumerate(self.members):
            if member.is_newly_connected():
                self._lose(index)
                self._greet(member)
            elif not member.connected:
                self._lose(index)
        self._hand_out()

    def _lose(self, index: int) -> None:
        """A server is gone, or is another one now: what it had is for the next that can take it."""
        member = self.members[index]
        self.exchange.abandon(member.hello)
        member.hello = 0
        member.objection = ""
        self.dispatch.lost(index)

    def _greet(self, member: Member) -> None:
        assert member.links is not None
        member.hello = next(self._hellos)
        frames = encode_command(self.exchange.identity, SHOW_CONFIG, member.hello)
        self.exchange.expect(member.hello, frames)
        self.exchange.pending.discard(member.hello)  # the user has not asked
        member.links[0].send(frames)

    def _meet(self, index: int) -> None:
        """A server said what it serves."""
        member = self.members[index]
        reply = self.exchange.take(member.hello)
        member.hello = 0
        if isinstance(reply, Status):
            member.objection = self._objection(reply.values)
            if not member.objection:
                self._model = self._model or (member, reply.values)
                self.dispatch.opened(index)
        elif isinstance(reply, Failure):
            member.objection = "it does not say what it serves: %s" % reply.error

    def _objection(self, config: Dict[str, Any]) -> str:
        if not is_ours(config):
            return ("it has version %s, and cannot be one of several servers before 2.0; use BertClient(ip=...)"
                    % config.get("server_version"))
        try:
            self._check(config)
        except AttributeError as error:
            return str(error)
        if self._model is not None:
            model, other = self._model
            found = difference(config, other)
            if found:
                return "it gives other vectors than %s: %s; servers of one client have to be alike" % (model, found)
        return ""

    def _hand_out(self) -> None:
        """Send what waits, as far as there are servers for it."""
        if not self.dispatch.waiting or self._links is None:
            return
        now = time.monotonic()
        while True:
            found = self.dispatch.next(now)
            if found is None:
                return
            request_id, index = found
            links = self.members[index].links
            assert links is not None
            # There is always room. What is sent to one that is gone stays in its socket, and may be computed again
            # when it is back; whichever answer comes first counts.
            links[0].send(self.exchange.outstanding[request_id].frames)
