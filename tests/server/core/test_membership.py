"""Hosts that bring workers: what makes them members, and what is taken from them."""
import numpy as np
import pytest
from bert_serving.server.core import membership as module
from bert_serving.server.core.batching import Backlog
from bert_serving.server.core.membership import Members, Reason, Reception
from bert_serving.server.core.messages import HEAD, Fault, Ready, encode_from_worker
from bert_serving.server.core.placement import CPU
from bert_serving.server.core.scheduler import CREDIT, MAX_TOKENS_PER_SECOND, Scheduler, WorkerState
from bert_serving.server.core.remote_messages import PROTOCOL, MembershipError, encode_proof
from bert_serving.server.core.remote_rows import VectorKind
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from .conftest import GOLDEN, WIDTH, about, make_pending, rows, who


class Room:
    """Members of a server that has ``own`` workers, the first of which has proved itself."""

    def __init__(self, own=0, learned=True, **kind):
        self.backlog = Backlog(8, 4, 25)
        self.scheduler = Scheduler(own, self.backlog, 60.0)
        self.lost = []
        self.members = Members(self.scheduler, 10.0, VectorKind(**kind), "2", 5, self.on_lost)
        for slot in range(own):
            self.scheduler.started(slot)
            self.scheduler.ready(slot)
        if own and learned:
            self.members.learn({"proof": encode_proof(GOLDEN)})

    def on_lost(self, slot):
        self.lost.append(slot)
        self.scheduler.lost(slot)

    def host(self, key="a", peer=None, now=0.0):
        peer = peer or f"peer of {key}".encode()
        assert self.members.join(peer, who(key), now) is None
        return self.members.hosts[peer]

    def flight(self, size=2):
        """A job that was handed out."""
        self.backlog.add(make_pending(len(self.scheduler.flights) + 1, size))
        return self.scheduler.next_flight(0.0)


@pytest.fixture
def room():
    return Room()


# ---- who joins -------------------------------------------------------------------------------------------------------

def test_who_joins_is_a_member_with_a_name_for_people(room):
    host = room.host("a", now=3.0)
    assert (host.key, host.name, host.heard, host.slots) == ("a", "host-a (process 7)", 3.0, {})
    assert room.members.hear(host.peer, 5.0) is host and host.heard == 5.0
    assert room.members.hear(b"a stranger", 5.0) is None


@pytest.mark.parametrize("values", [
    {}, who(host=7), who(name=None), who(pid="7"), who(pid=True), who(pid=-1), who(pid=10 ** 400)], ids=repr)
def test_who_does_not_say_who_it_is_does_not_join(room, values):
    with pytest.raises(MembershipError):
        room.members.join(b"p", values, 0.0)
    assert not room.members.hosts


@pytest.mark.parametrize("values, version", [
    (who(version="1"), "1"), (who(version="1\n" * 100), "1\\n" * 32), (who(version=[["x"]]), "an array"),
    (who(protocol=PROTOCOL + 1), "2"), (who(protocol=None), "2")],
    ids=["version", "lines", "list", "protocol", "no protocol"])
def test_who_is_of_another_version_is_refused(room, values, version):
    assert room.members.join(b"p", values, 0.0) == (Reason.VERSION, version)
    assert not room.members.hosts


def test_who_joins_again_takes_its_own_place(room):
    first = room.host("a", b"first")
    slots = [room.members.ready(first, about(number)).slot for number in (0, 1)]
    room.host("b", b"other")
    second = room.host("a", b"second")
    assert room.lost == slots and set(room.members.hosts) == {b"other", b"second"} and not room.members.places
    assert room.members.ready(second, about(1)).slot in slots


@pytest.mark.parametrize("key", ["a", "b"])
def test_who_joins_twice_on_one_connection_leaves_nothing_behind(room, key):
    slot = room.members.ready(room.host("a", b"one"), about()).slot
    room.host(key, b"one")
    assert room.lost == [slot] and not room.members.places


def test_who_is_refused_when_it_joins_again_is_no_member_any_more(room):
    slot = room.members.ready(room.host("a", b"one"), about()).slot
    assert room.members.join(b"one", who("a", version="3"), 1.0)
    assert room.lost == [slot] and not room.members.hosts


def test_who_is_silent_for_too_long(room):
    room.host("a", now=0.0)
    b = room.host("b", now=1.0)
    assert [host.key for host in room.members.silent(10.0)] == []
    assert [host.key for host in room.members.silent(10.5)] == ["a"]
    room.members.hear(b.peer, 20.0)
    for host in room.members.silent(21.0):
        room.members.forget(host.peer)
    assert [host.key for host in room.members.hosts.values()] == ["b"]


# ---- workers ---------------------------------------------------------------------------------------------------------

def test_a_worker_that_is_ready_has_a_place(room):
    host = room.host()
    slot = room.members.ready(host, about(4)).slot
    worker = room.scheduler.workers[slot]
    assert worker.state is WorkerState.READY and worker.is_remote and worker.credit == CREDIT
    assert host.slots == {4: slot} and room.members.places == {slot: (host.peer, 4)}
    assert room.members.about[slot] == {"device": CPU, "num_threads": 2}


def test_a_worker_on_a_gpu_may_hold_more(room):
    slot = room.members.ready(room.host(), about(device=1)).slot
    assert room.scheduler.workers[slot].credit == 5 and room.members.about[slot]["device"] == 1


@pytest.mark.parametrize("values", [
    {"device": "x" * 1000, "num_threads": [[]]}, {"device": 10 ** 400, "num_threads": -1},
    {"device": True, "num_threads": None}], ids=["long", "large", "none"])
def test_of_what_a_worker_says_only_what_is_known_is_kept(room, values):
    slot = room.members.ready(room.host(), about(more="x" * 1000, **values)).slot
    assert room.members.about[slot] == {"device": CPU, "num_threads": None}


def test_a_worker_that_is_ready_twice_is_another_process(room):
    host = room.host()
    first = room.members.ready(host, about()).slot
    flight = room.flight()
    second = room.members.ready(host, about()).slot
    assert room.lost == [first] and flight.job not in room.scheduler.flights
    assert host.slots == {0: second} and list(room.members.places) == [second]


@pytest.mark.parametrize("values", [
    {}, {"worker": None}, {"worker": -1}, {"worker": module.MAX_WORKERS}, {"worker": 1.0}, {"worker": True},
    {"worker": "x" * 1000}, {"worker": 1}], ids=repr)
def test_what_is_no_worker_gets_no_place(room, values):
    with pytest.raises(MembershipError) as error:
        room.members.ready(room.host(), values)
    assert len(str(error.value)) < 100 and not room.members.places


def test_those_who_compute_something_else_are_not_taken():
    room = Room(own=1)
    slot, refusal = room.members.ready(room.host(), about(proof=-GOLDEN))
    assert slot is None and refusal.reason is Reason.OTHER_VECTORS and refusal.detail
    assert not room.members.places and len(room.scheduler.workers) == 1


def test_without_workers_of_its_own_the_first_one_is_the_measure(room):
    assert room.members.ready(room.host("a"), about()).slot is not None
    assert room.members.ready(room.host("b"), about(proof=-GOLDEN)).refusal is not None
    assert room.members.learn(about(proof=-GOLDEN)) == []
    np.testing.assert_array_equal(room.members.golden, GOLDEN)


def test_the_measure_is_forgotten_with_the_last_who_has_it(room):
    first, second = room.host("a"), room.host("b")
    room.members.ready(first, about(proof=-GOLDEN))
    room.members.ready(second, about(proof=-GOLDEN))
    room.members.forget(first.peer)
    assert room.members.ready(room.host("c"), about()).refusal is not None, "the second is still there"
    room.members.forget(second.peer)
    assert room.members.ready(room.host("d"), about()).slot is not None


def test_the_measure_of_a_server_with_workers_of_its_own_stays():
    room = Room(own=1)
    host = room.host()
    room.members.ready(host, about())
    room.members.forget(host.peer)
    assert room.members.ready(room.host("b"), about(proof=-GOLDEN)).refusal is not None


@pytest.mark.parametrize("said, rate", [(500.0, 500.0), (1e300, MAX_TOKENS_PER_SECOND)] + [
    (wrong, 0.0) for wrong in (None, 0.0, -1.0, float("nan"), float("inf"), "500", True)])
def test_a_worker_says_how_fast_it_is_and_is_believed_within_bounds(room, said, rate):
    slot = room.members.ready(room.host(), about(tokens_per_second=said)).slot
    assert room.scheduler.workers[slot].tokens_per_second == rate


@pytest.mark.parametrize("proof", [GOLDEN * np.nan, GOLDEN[:0], GOLDEN[:, :0]], ids=["nan", "no rows", "no width"])
def test_what_is_no_vector_does_not_become_the_measure(room, proof):
    assert room.members.ready(room.host("a"), about(proof=proof)).refusal == (
        Reason.OTHER_VECTORS, "they are no vectors")
    assert room.members.golden is None


def test_with_workers_of_its_own_these_are_the_measure_however_long_they_take():
    room = Room(own=1, learned=False)
    early, idle = room.host("early"), room.host("idle")
    assert room.members.ready(early, about(proof=-GOLDEN)) == Reception()
    assert room.members.learn(about()) == [early] and idle.peer in room.members.hosts
    assert room.members.ready(early, about(proof=-GOLDEN)).refusal is not None
    assert room.members.ready(early, about()).slot is not None
    assert room.members.learn(about(proof=-GOLDEN)) == [], "one is enough"
    np.testing.assert_array_equal(room.members.golden, GOLDEN)


def test_there_is_a_most_of_hosts(room, monkeypatch):
    monkeypatch.setattr(module, "MAX_HOSTS", 2)
    room.host("a"), room.host("b")
    assert room.members.join(b"another", who("c"), 0.0).reason is Reason.TOO_MANY_HOSTS
    with pytest.raises(MembershipError, match="does not say who it is"):
        room.members.join(b"another", who("c" * 65), 0.0)


def test_there_is_a_most_of_workers(room, monkeypatch):
    monkeypatch.setattr(module, "MAX_WORKERS", 2)
    host, other = room.host("a"), room.host("b")
    assert all(room.members.ready(host, about(number)).slot is not None for number in (0, 1))
    assert room.members.ready(other, about(0)).refusal.reason is Reason.TOO_MANY_WORKERS
    room.members.gone(host, {"worker": 1})
    assert room.members.ready(other, about(0)).slot is not None


def test_a_worker_that_is_gone_gives_back_its_place_and_what_it_held(room):
    host = room.host()
    slot = room.members.ready(host, about(1)).slot
    flight = room.flight()
    assert room.members.gone(host, {"worker": 1, "how": "ended"}) == slot
    assert room.scheduler.suspects and flight.job not in room.scheduler.flights and room.lost == [slot]
    assert room.members.gone(host, {"worker": 1}) is None and room.lost == [slot]
    with pytest.raises(MembershipError):
        room.members.gone(host, {})


def test_a_text_is_no_reason_for_a_link_that_breaks_however_often(room):
    """A worker that ends is: see recovery."""
    for number in range(5):
        host = room.host(f"{number}")
        room.members.ready(host, about())
        flight = room.flight(1) if not number else room.scheduler.next_flight(0.0)
        assert flight.pieces[0].strikes == 0 and flight.alone == bool(number)
        room.members.forget(host.peer)
    for number in range(5, 7):
        host = room.host(f"{number}")
        room.members.ready(host, about())
        flight = room.scheduler.next_flight(0.0)
        room.members.gone(host, about())
        assert flight.pieces[0].strikes == number - 4


def test_who_takes_a_place_that_was_anothers_begins_anew(room):
    host = room.host()
    slot = room.members.ready(host, about()).slot
    worker = room.scheduler.workers[slot]
    worker.tokens_per_second, worker.overhead, worker.num_jobs, worker.num_sequences = 5.0, 1.0, 3, 7
    incarnation = worker.incarnation
    room.members.forget(host.peer)
    assert room.members.ready(room.host("b"), about(device=0)).slot == slot
    assert (worker.tokens_per_second, worker.overhead, worker.num_jobs, worker.num_sequences, worker.restarts) == \
        (0.0, 0.0, 0, 0, 0)
    assert worker.incarnation > incarnation and worker.credit == 5


# ---- leaving ---------------------------------------------------------------------------------------------------------

def test_who_leaves_ends_what_it_has_and_gets_no_more(room):
    host, other = room.host("a"), room.host("b")
    slot = room.members.ready(host, about()).slot
    flight = room.flight()
    room.members.leave(host)
    assert not room.members.is_done(host) and room.flight() is None
    assert room.members.ready(host, about(1)) == Reception(), "it comes too late, and that is no matter"
    room.scheduler.landed(flight.job, 1.0)
    assert room.members.is_done(host) and not room.members.is_done(other)
    assert room.members.forget(host.peer) == [slot]
    room.members.leave(other)
    assert room.members.is_done(other)


def test_who_leaves_twice(room):
    host = room.host()
    room.members.ready(host, about())
    room.members.leave(host)
    room.members.leave(host)
    assert room.members.is_done(host)


# ---- answers ---------------------------------------------------------------------------------------------------------

def test_an_answer_to_a_job_is_taken(room):
    host = room.host()
    room.members.ready(host, about())
    flight = room.flight()
    answer = room.members.answer(host, encode_from_worker(rows(flight)))
    assert answer.job == flight.job and answer.counts == [3, 3]
    np.testing.assert_array_equal(answer.array, np.ones((2, WIDTH)))


def test_a_fault_is_an_answer_too_and_fit_for_the_log(room):
    host = room.host()
    room.members.ready(host, about())
    flight = room.flight()
    fault = Fault(flight.slot, 1, flight.job, "internal\n", "why\n" * 1000, None)
    answer = room.members.answer(host, encode_from_worker(fault))
    assert answer.code == "internal\\n" and "\n" not in answer.message and len(answer.message) <= 1000


def test_an_answer_that_comes_too_late_is_nothing(room):
    host = room.host()
    room.members.ready(host, about())
    flight = room.flight()
    room.scheduler.landed(flight.job, 1.0)
    assert room.members.answer(host, encode_from_worker(rows(flight))) is None


def test_nobody_answers_for_others():
    room = Room(own=1)
    host, other = room.host("a"), room.host("b")
    room.members.ready(host, about())
    room.members.ready(other, about())
    flights = {flight.slot: flight for flight in (room.flight(), room.flight(), room.flight())}
    assert len(flights) == 3
    for slot, flight in flights.items():
        frames = encode_from_worker(rows(flight, sum(piece.count for piece in flight.pieces)))
        if slot in host.slots.values():
            assert room.members.answer(host, frames)
        else:
            with pytest.raises(MembershipError, match="which it does not have"):
                room.members.answer(host, frames)


@pytest.mark.parametrize("frames", [
    [], [b""], [HEAD.pack(5, 0, 1, 1)], [HEAD.pack(5, 0, 1, 1), b"{}", b""], [HEAD.pack(5, 0, 1, 1), b"[]", b""],
    [HEAD.pack(99, 0, 1, 1), b"{}"], [HEAD.pack(4, 0, 1, 1), b"{}"], [HEAD.pack(4, 0, 1, 1), b"\xff"],
    [HEAD.pack(5, 0, 1, 1), b'{"dtype": "O", "shape": [1], "num_tokens": 1, "seconds": {}}', b"\0" * 8],
    [HEAD.pack(5, 0, 1, 1), b'{"dtype": "f4", "shape": [9, 9], "num_tokens": 1, "seconds": {}}', b"\0" * 8],
    [HEAD.pack(5, 0, 1, 1), b"[" * 100_000, b""], encode_from_worker(Ready(0, 1, {}))], ids=range(12))
def test_what_is_no_answer(room, frames):
    host = room.host()
    room.members.ready(host, about())
    room.flight()
    with pytest.raises(MembershipError) as error:
        room.members.answer(host, frames)
    assert len(str(error.value)) < 400


# ---- whatever comes --------------------------------------------------------------------------------------------------

class HostsMachine(RuleBasedStateMachine):
    """Hosts that join, get ready, lose workers, leave, fall silent and join again, with work going on."""

    def __init__(self):
        super().__init__()
        self.room = Room(own=1)
        self.now = 0.0
        self.connections = {}   # key of a host -> number of its last connection
        self.requests = 0

    @property
    def members(self):
        return self.room.members

    def some(self, data):
        return data.draw(st.sampled_from(sorted(self.members.hosts)))

    there = precondition(lambda self: self.members.hosts)

    @rule(key=st.sampled_from("abc"), again=st.booleans())
    def join(self, key, again):
        """On a new connection, or once more on the one it has."""
        number = self.connections[key] = self.connections.get(key, 0) + (0 if again and key in self.connections else 1)
        peer = f"{key}{number}".encode()
        assert self.members.join(peer, who(key), self.now) is None
        assert [host.peer for host in self.members.hosts.values() if host.key == key] == [peer]

    @there
    @rule(data=st.data(), number=st.integers(0, 2), right=st.booleans())
    def ready(self, data, number, right):
        host = self.members.hosts[self.some(data)]
        free, places = set(self.members._free), len(self.members.places)
        got, refusal = self.members.ready(host, about(number, GOLDEN if right else -GOLDEN))
        if host.leaving:
            assert got is None and refusal is None
        elif not right:
            assert got is None and refusal.reason is Reason.OTHER_VECTORS
        else:
            assert refusal is None
            assert host.slots[number] == got and self.members.places[got] == (host.peer, number)
            assert not free or got in free or len(self.members.places) == places, "a place that is free is taken first"

    @there
    @rule(data=st.data(), number=st.integers(0, 2))
    def gone(self, data, number):
        host = self.members.hosts[self.some(data)]
        assert self.members.gone(host, {"worker": number}) not in self.members.places

    @there
    @rule(data=st.data())
    def leave(self, data):
        self.members.leave(self.members.hosts[self.some(data)])

    @rule()
    def those_who_are_done_go(self):
        for host in [host for host in self.members.hosts.values() if self.members.is_done(host)]:
            self.members.forget(host.peer)

    @rule(data=st.data(), seconds=st.sampled_from([1.0, 6.0]))
    def time_passes(self, data, seconds):
        """Some are heard of, some are not."""
        self.now += seconds
        for peer in sorted(self.members.hosts):
            if data.draw(st.booleans()):
                self.members.hear(peer, self.now)
        for host in self.members.silent(self.now):
            self.members.forget(host.peer)

    @rule(size=st.integers(1, 3))
    def work_comes(self, size):
        self.requests += 1
        self.room.backlog.add(make_pending(self.requests, size))
        while self.room.scheduler.next_flight(self.now) is not None:
            pass

    @precondition(lambda self: self.room.scheduler.flights)
    @rule(data=st.data())
    def answer(self, data):
        flight = self.room.scheduler.flights[data.draw(st.sampled_from(sorted(self.room.scheduler.flights)))]
        frames = encode_from_worker(rows(flight, sum(piece.count for piece in flight.pieces)))
        owner = self.members.places.get(flight.slot, (None,))[0]
        for host in self.members.hosts.values():
            if host.peer == owner:
                assert self.members.answer(host, frames).job == flight.job
            else:
                with pytest.raises(MembershipError):
                    self.members.answer(host, frames)
        self.room.scheduler.landed(flight.job, self.now)

    @invariant()
    def every_place_is_one_workers(self):
        members, scheduler = self.members, self.room.scheduler
        listed = [(slot, (host.peer, number)) for host in members.hosts.values() for number, slot in host.slots.items()]
        assert len(listed) == len(members.places) and dict(listed) == members.places
        assert set(members.about) == set(members.places)
        remote = {worker.slot for worker in scheduler.workers if worker.is_remote}
        assert remote == set(members.places) | set(members._free) and len(remote) == len(members.places) + len(
            members._free)

    @invariant()
    def who_is_gone_has_nothing(self):
        for worker in self.room.scheduler.workers:
            if worker.is_remote:
                there = worker.slot in self.members.places
                assert there == (worker.state in (WorkerState.READY, WorkerState.LEAVING))
                assert there or not worker.flights
                if there:
                    host = self.members.hosts[self.members.places[worker.slot][0]]
                    assert host.leaving == (worker.state is WorkerState.LEAVING)


TestHosts = HostsMachine.TestCase
TestHosts.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
