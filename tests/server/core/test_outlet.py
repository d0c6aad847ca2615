"""The door to the clients, against a model: right person, right order, within the limits, not for ever."""
from collections import Counter, defaultdict, deque

import numpy as np
import pytest
from bert_serving.client.protocol import MAX_IDENTITY, encode_status
from bert_serving.server.core.outlet import BEGINNING_SECONDS, HELD_OVERHEAD, MAX_RECENT, Outlet
from bert_serving.server.stages.endpoints import OUTLET_SNDHWM
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from .conftest import Clients, Network

IDENTITIES = [b"a", b"ab"]
"""One is the beginning of another, as "client1" and "client10" are."""


class OutletMachine(RuleBasedStateMachine):
    """Clients come, go and stop reading while results are published for them."""

    @initialize(max_client=st.integers(1, 4), max_all=st.integers(1, 6))
    def begin(self, max_client, max_all):
        unit = HELD_OVERHEAD + 10
        self.limits = max_client * unit, max_all * unit
        self.network = Network(max_client_bytes=self.limits[0], max_bytes=self.limits[1], hold_seconds=10.0)
        self.outlet, self.full = self.network.outlet, self.network.full
        self.now = 0.0
        self.number = 0
        self.connections = Counter()
        self.left = {}                         # identity -> when its last connection went
        self.just_left = {}                    # the same, of those that were not told of
        self.waiting = defaultdict(deque)      # identity -> (number, when it was published)
        self.gone = Counter()                  # dropped, expired

    @property
    def got(self):
        """(identity, number) of all that was sent."""
        return [(identity, int(bytes(frames[0]))) for identity, frames in self.network.sent]

    def expect_delivery(self, identity):
        """What the model says is delivered now."""
        delivered = []
        while self.waiting[identity] and self.connections[identity] and identity not in self.full:
            delivered.append((identity, self.waiting[identity].popleft()[0]))
        return delivered

    identities = st.sampled_from(IDENTITIES)

    @rule(identity=identities, paddings=st.lists(st.integers(0, 40), min_size=1, max_size=3))
    def publish(self, identity, paddings):
        for padding in paddings:
            self.publish_one(identity, padding)

    def publish_one(self, identity, padding):
        self.number += 1
        frames = [b"%d" % self.number, b"x" * padding]
        nbytes = sum(map(len, frames)) + HELD_OVERHEAD
        before = len(self.got)
        taken = self.network.post(identity, frames, self.now)
        if self.connections[identity] and identity not in self.full and not self.waiting[identity]:
            assert taken and self.got[before:] == [(identity, self.number)]
        else:
            assert len(self.got) == before, "out of turn"
            held = self.outlet.held.get(identity)
            if taken:
                self.waiting[identity].append((self.number, self.now))
            else:
                self.gone["dropped"] += 1
                assert (held.nbytes if held else 0) + nbytes > self.limits[0] \
                    or self.outlet.held_bytes + nbytes > self.limits[1], "dropped though there was room"

    @rule(identity=identities)
    def subscribe(self, identity):
        is_back = identity in self.left
        assert self.outlet.subscription(b"\1" + identity, self.now) == (True, identity + b"\0", is_back)
        self.connections[identity] += 1
        self.left.pop(identity, None)
        self.just_left.pop(identity, None)
        before = len(self.got)
        self.network.deliver(identity, self.now)
        assert self.got[before:] == self.expect_delivery(identity)

    @rule(identity=identities)
    def leave(self, identity):
        if self.connections[identity]:
            assert self.outlet.subscription(b"\0" + identity, self.now) == (False, identity + b"\0", False)
            self.connections[identity] -= 1
            self.left.pop(identity, None)
            self.just_left.pop(identity, None)
            if not self.connections[identity]:
                self.left[identity] = self.just_left[identity] = self.now

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0]))
    def who_is_gone(self, seconds):
        expected = {identity for identity, when in self.left.items() if when <= self.now - seconds}
        assert self.outlet.gone(self.now - seconds) == expected
        for identity in expected:
            del self.left[identity]

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0]))
    def who_has_left(self, seconds):
        expected = {identity for identity, when in self.just_left.items() if when <= self.now - seconds}
        assert self.outlet.left(self.now - seconds) == expected
        for identity in expected:
            del self.just_left[identity]

    @rule(identity=identities)
    def stop_reading_or_go_on(self, identity):
        self.full.symmetric_difference_update({identity})

    @rule()
    def retry(self):
        blocked = set(self.outlet.blocked)
        before = len(self.got)
        self.network.retry(self.now)
        expected = {identity: self.expect_delivery(identity) for identity in blocked}
        for identity in IDENTITIES:
            assert [got for got in self.got[before:] if got[0] == identity] == expected.get(identity, [])

    @rule(seconds=st.sampled_from([1.0, 4.0, 10.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.outlet.expire(self.now)
        for queue in self.waiting.values():
            while queue and queue[0][1] + 10.0 <= self.now:
                queue.popleft()
                self.gone["expired"] += 1

    @invariant()
    def within_limits_and_accounted_for(self):
        outlet = self.outlet
        assert {identity: len(held.queue) for identity, held in outlet.held.items()} \
            == {identity: len(queue) for identity, queue in self.waiting.items() if queue}
        assert outlet.held_bytes == sum(held.nbytes for held in outlet.held.values()) <= self.limits[1]
        assert all(held.nbytes <= self.limits[0] for held in outlet.held.values())
        assert outlet.counts["dropped"] == self.gone["dropped"] and outlet.counts["expired"] == self.gone["expired"]
        assert outlet.counts["sent"] == len(self.got)
        assert len(self.got) + sum(map(len, self.waiting.values())) + self.gone.total() == self.number
        assert outlet.subscribers == {identity: count for identity, count in self.connections.items() if count}
        assert outlet.deliverable() == any(self.connections[identity] for identity in outlet.held)
        # Who is held up while subscribed is retried, so that nobody is forgotten.
        assert {identity for identity in outlet.held if self.connections[identity]} <= outlet.blocked

    def teardown(self):
        for identity in IDENTITIES:
            numbers = [number for receiver, number in (self.got if hasattr(self, "network") else ())
                       if receiver == identity]
            assert numbers == sorted(set(numbers)), "each once, in order"


OutletMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestOutlet = OutletMachine.TestCase


@pytest.mark.parametrize("message", [
    b"", b"\1", b"\0", b"\2a", b"\xffa", b"\1a\0", b"\1\0", b"\1a\0b", b"\1" + b"x" * (MAX_IDENTITY + 1)], ids=repr)
def test_subscriptions_that_could_hear_others_are_refused(message):
    outlet = Outlet(100, 100, 1.0)
    assert outlet.subscription(message, 0.0) is None and not outlet.subscribers


def test_an_unsubscription_without_subscription_changes_nothing():
    outlet = Outlet(100, 100, 1.0)
    outlet.subscription(b"\0a", 0.0)
    outlet.subscription(b"\1a", 0.0)
    assert outlet.subscribers == {b"a": 1}


def test_what_comes_later_does_not_overtake_what_is_held():
    clients = Clients()
    clients.join(b"a")
    clients.full.add(b"a")
    clients.post(b"a", encode_status({}, b"1"), 0.0)
    clients.full.clear()                         # it reads again, but nobody has tried yet
    clients.post(b"a", encode_status({}, b"2"), 0.0)
    assert not clients.received
    clients.retry()
    assert [reply.request_id for reply in clients.replies_to(b"a")] == [1, 2]


def test_each_result_expires_at_its_own_time():
    clients = Clients(hold_seconds=10.0)
    for number in (1, 2, 3):
        clients.post(b"a", encode_status({}, b"%d" % number), float(number))
    clients.outlet.expire(12.5)
    assert clients.outlet.counts["expired"] == 2
    clients.join(b"a")
    assert [reply.request_id for reply in clients.replies_to(b"a")] == [3]
    clients.post(b"b", encode_status({}, b"4"), 5.0)
    clients.post(b"b", encode_status({}, b"5"), 6.0)
    clients.outlet.expire(15.5)
    clients.outlet.expire(16.0)
    assert clients.outlet.counts["expired"] == 4 and not clients.outlet.held


def test_room_that_was_made_can_be_used_again():
    clients = Clients(max_client_bytes=2 * (HELD_OVERHEAD + 50))
    for number in (1, 2):
        assert clients.post(b"a", encode_status({}, b"%d" % number), 0.0)
    assert not clients.post(b"a", encode_status({}, b"3"), 0.0)
    clients.limit = 1
    clients.join(b"a")
    assert [reply.request_id for reply in clients.replies_to(b"a")] == [1]
    assert clients.post(b"a", encode_status({}, b"4"), 0.0)


def test_what_is_held_does_not_keep_its_whole_job_alive():
    job = np.zeros((1000, 100), np.float32)
    outlet = Outlet(10**6, 10**6, 1.0)
    assert outlet.hold(b"a", [b"{}", job[:1].data.cast("B"), b"1"], 0.0, is_result=True)
    (_, _, frames, _), = outlet.held[b"a"].queue
    assert not any(isinstance(frame, memoryview) for frame in frames)


def test_time_to_forget_costs_no_look_at_what_is_not_due():
    """Thousands may be held; every tenth of a second somebody asks what has expired."""
    outlet = Outlet(10**6, 10**9, 10.0)
    for number in range(1000):
        assert outlet.hold(b"%d" % number, [b"x"], 1.0, is_result=True)

    class Untouchable(dict):
        def items(self):
            raise AssertionError("looks at everything")
        __iter__ = values = keys = items

    outlet.held = Untouchable(outlet.held)
    outlet.expire(10.9)
    assert len(outlet.held) == 1000
    outlet.expire(11.0)
    assert len(outlet.held) == 0 == outlet.held_bytes


# ---- an identity that is just beginning ------------------------------------------------------------------------------

class Beginning:
    """Publishes results to one subscriber of an identity, and counts what a later one would get."""

    def __init__(self, **limits):
        self.network, self.number = Network(**limits), 0
        self.outlet = self.network.outlet
        self.network.join(b"a")

    def publish(self, *times, identity=b"a", size=0, is_result=True):
        for now in times:
            self.number += 1
            self.network.post(identity, [b"x" * size, b"%d" % self.number], now, is_result)
        return self

    def again(self, now, identity=b"a"):
        """Numbers of what is to be sent again."""
        self.outlet.expire(now)
        return [int(frames[-1]) for frames in self.outlet.recent(identity)]


def test_the_first_results_of_an_identity_can_be_had_again_for_a_while():
    beginning = Beginning().publish(1.0, 2.0, 10.9)
    assert beginning.again(10.9) == [1, 2, 3] == beginning.again(10.9)
    assert beginning.again(1.0 + BEGINNING_SECONDS) == [] and beginning.outlet.recent_bytes == 0


def test_it_begins_anew_after_a_silence_and_not_while_it_goes_on():
    beginning = Beginning().publish(*(0.5 * number for number in range(60)))
    assert beginning.again(30.0) == []
    beginning.publish(29.5 + BEGINNING_SECONDS)
    assert beginning.again(30.0 + BEGINNING_SECONDS) == [61]


def test_results_alone_are_kept_and_those_of_an_identity_for_that_one():
    beginning = Beginning().publish(1.0, is_result=False).publish(1.0)
    beginning.outlet.subscription(b"\1ab", 1.0)
    beginning.publish(1.0, identity=b"ab")
    assert (beginning.again(2.0), beginning.again(2.0, b"ab"), beginning.again(2.0, b"b")) == ([2], [3], [])


def test_what_was_held_is_kept_once_it_was_sent():
    beginning = Beginning().publish(1.0, identity=b"b")
    assert beginning.again(1.0, b"b") == []
    beginning.outlet.subscription(b"\1b", 20.0)
    beginning.network.deliver(b"b", 20.0)
    assert beginning.again(21.0, b"b") == [1]


def test_not_more_are_kept_than_a_new_connection_takes():
    beginning = Beginning().publish(*[1.0] * 50)
    assert beginning.again(1.0) == list(range(1, MAX_RECENT + 1))
    assert MAX_RECENT < OUTLET_SNDHWM


@pytest.mark.parametrize("limits, kept", [({"max_client_bytes": 4 * 3 * (HELD_OVERHEAD + 101)}, [1, 2, 3]),
                                          ({"max_bytes": 8 * 2 * (HELD_OVERHEAD + 101)}, [1, 2])])
def test_what_is_kept_is_a_share_of_what_may_be_held(limits, kept):
    beginning = Beginning(**limits).publish(*[1.0] * 9, size=100)
    assert beginning.again(1.0) == kept
    assert beginning.outlet.recent_bytes == len(kept) * (HELD_OVERHEAD + 101)
    beginning.publish(1.0)
    assert beginning.again(1.0) == kept, "a small one after those that had no room would be out of order"
    assert beginning.outlet.held_bytes == 0, "what is held has its own room"


def test_nothing_is_left_of_identities_that_are_gone():
    beginning = Beginning()
    for number in range(100):
        identity = b"%d" % number
        beginning.outlet.subscription(b"\1" + identity, 1.0)
        beginning.publish(1.0, identity=identity)
        beginning.outlet.subscription(b"\0" + identity, 1.0)
    beginning.outlet.expire(1.0 + BEGINNING_SECONDS)
    assert not beginning.outlet._recent and not beginning.outlet._last_result and beginning.outlet.recent_bytes == 0
