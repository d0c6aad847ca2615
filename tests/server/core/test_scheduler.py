"""Workers die, hang and fail; every accepted request still has exactly one answer, and nobody pays for a neighbour.

The first half is one machine of ventilator, scheduler and sink, to which all happens in any order. The second half
names the rules one by one.
"""
import json
from collections import Counter

import numpy as np
import pytest
from bert_serving.client.errors import DeadlineError, UnprocessableError
from bert_serving.client.protocol import Failure, Result
from bert_serving.server.core.batching import Backlog, Piece
from bert_serving.server.core.messages import Fault, Rows
from bert_serving.server.core.scheduler import (ALARM_SECONDS, FAR_SECONDS, HANG_FACTOR, INTERACTIVE_SECONDS,
                                                INTERACTIVE_WINDOW, MAX_JOB_TOKENS, MAX_STRIKES, MAX_TOKENS_PER_SECOND,
                                                MIN_JOB_TOKENS, QUIET_SECONDS, TARGET_SECONDS, TRANSITIONS,
                                                TURN_SECONDS, Scheduler, WorkerState)
from bert_serving.server.core.sink import Sink
from bert_serving.server.core.statistics import Statistics
from bert_serving.server.core.ventilator import Limits, Ventilator
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from .conftest import LIMIT, Clients, make_pending, rows_of

# ---- everything at once ----------------------------------------------------------------------------------------------


class RecoveryMachine(RuleBasedStateMachine):
    """A server without sockets and processes. What a text does to its worker is the last word of it."""

    @initialize(num_worker=st.integers(1, 3), credit=st.integers(1, 3))
    def begin(self, num_worker, credit):
        self.now = 0.0
        self.clients = Clients()
        self.clients.join(b"a", b"b", b"c")
        backlog = Backlog(max_batch_size=6, priority_batch_size=2, sequence_limit=LIMIT)
        self.scheduler = Scheduler(num_worker, backlog, hang_seconds=60.0, credit=credit)
        statistics = Statistics(0.0)
        self.ventilator = Ventilator(Limits(max_message_bytes=10**6, max_bytes=10**6, max_size=10**4), backlog,
                                     self.scheduler, Sink(statistics, None, 512), self.clients.outlet, statistics,
                                     lambda name, privileged: {})
        self.held = [[] for _ in range(num_worker)]        # jobs that each worker has, oldest first
        self.lost_jobs = []                                # jobs whose rows may still come
        self.away = {}                                     # identity -> since when
        self.requests = {}                                 # number -> (identity, texts, has a deadline)
        for worker in self.scheduler.workers:
            self.scheduler.started(worker.slot)
            self.scheduler.ready(worker.slot)

    def publish(self, replies):
        self.clients.publish(replies, self.ventilator.sink, self.now)

    # What happens.

    @rule(identity=st.sampled_from([b"a", b"b", b"c"]),
          kinds=st.lists(st.sampled_from(["fine"] * 8 + ["die", "raise", "nan"]), min_size=1, max_size=9),
          timeout=st.sampled_from([None, None, None, 5000]))
    def request(self, identity, kinds, timeout):
        number = len(self.requests) + 1
        texts = [f"{number}/{index} {kind}" for index, kind in enumerate(kinds)]
        self.requests[number] = identity, texts, timeout is not None
        options = [json.dumps({"timeout": timeout}).encode()] if timeout else []
        self.publish(self.ventilator.receive(
            [identity, json.dumps(texts).encode(), b"%d" % number, b"%d" % len(texts), *options], self.now))

    @rule()
    def dispatch(self):
        while job := self.ventilator.next_job(self.now):
            assert self.scheduler.workers[job.slot].state is WorkerState.READY
            assert 0 < len(job.sequences) <= 6
            self.held[job.slot].append(job)

    @rule(slot=st.integers(0, 2))
    def work(self, slot):
        """A worker does the oldest of its jobs, or dies of it."""
        if slot >= len(self.held) or not self.held[slot]:
            return
        self.now += 0.01
        job = self.held[slot][0]
        kinds = [text.rpartition(" ")[2] for text in job.sequences]
        if "die" in kinds:
            self.lose(slot)
            return
        self.held[slot].pop(0)
        if "raise" in kinds:
            fault = Fault(slot, job.incarnation, job.job, "internal", "it raises")
            self.publish(self.ventilator.fault(fault, self.now))
            return
        self.answer(job, [index for index, kind in enumerate(kinds) if kind == "nan"])

    def answer(self, job, bad):
        rows = Rows(job.slot, job.incarnation, job.job, rows_of(job.sequences), num_tokens=10,
                    seconds={"compute": 0.001}, bad=bad)
        self.publish(self.ventilator.rows(rows, self.now))

    def lose(self, slot):
        self.lost_jobs += self.held[slot]
        self.held[slot].clear()
        self.publish(self.ventilator.lost(slot, self.now))

    @rule(slot=st.integers(0, 2))
    def kill(self, slot):
        """Somebody else kills a worker, but not again and again the same innocent's."""
        if slot < len(self.held) and self.scheduler.workers[slot].state is not WorkerState.LOST:
            if not any(flight.alone and flight.pieces[0].strikes + 1 >= MAX_STRIKES
                       for flight in self.scheduler.workers[slot].flights.values()):
                self.lose(slot)

    @rule(slot=st.integers(0, 2))
    def start_or_get_ready(self, slot):
        if slot < len(self.held):
            state = self.scheduler.workers[slot].state
            if state is WorkerState.LOST:
                self.scheduler.started(slot)
            elif state is WorkerState.LEAVING and not self.held[slot]:
                self.lose(slot)
            elif state is WorkerState.STARTING:
                self.scheduler.ready(slot)

    @rule(credit=st.integers(1, 3))
    def join(self, credit):
        """A worker of another host comes."""
        if len(self.held) < 3:
            slot = self.scheduler.add(credit)
            self.held.append([])
            self.scheduler.started(slot)
            self.scheduler.ready(slot)

    @rule(slot=st.integers(0, 2))
    def leave(self, slot):
        if slot < len(self.held) and self.scheduler.workers[slot].state is WorkerState.READY:
            self.scheduler.leave(slot)

    @rule(data=st.data())
    def late_rows(self, data):
        """What a dead worker had sent arrives after all."""
        if self.lost_jobs:
            job = data.draw(st.sampled_from(self.lost_jobs))
            self.answer(job, [])

    @rule(slot=st.integers(0, 2))
    def job_finds_nobody(self, slot):
        """A worker is gone when its newest job is handed over; its death is noticed later."""
        if slot < len(self.held) and self.held[slot]:
            self.scheduler.unsent(self.held[slot][-1].job)

    @rule(seconds=st.sampled_from([0.1, 2.0]))
    def time_passes(self, seconds):
        self.now += seconds
        for identity in [identity for identity, since in self.away.items() if self.now - since > 5]:
            self.come_or_go(identity)
        self.publish(self.ventilator.expire(self.now))

    @rule(identity=st.sampled_from([b"a", b"b", b"c"]))
    def come_or_go(self, identity):
        """A client's connection breaks, or is there again."""
        if self.away.pop(identity, None) is not None:
            for back in self.clients.join(identity):
                self.ventilator.come_back(back)
        else:
            self.away[identity] = self.now
            self.clients.outlet.subscription(b"\0" + identity, self.now)

    # What is always so.

    @invariant()
    def credit_and_quarantine(self):
        if not hasattr(self, "scheduler"):
            return
        scheduler = self.scheduler
        assert {job for worker in scheduler.workers for job in worker.flights} == set(scheduler.flights)
        alone = [flight for flight in scheduler.flights.values() if flight.alone]
        assert len(alone) <= 1, "suspects run on one worker at a time"
        for flight in alone:
            assert len(flight.pieces) == 1 and len(scheduler.workers[flight.slot].flights) == 1
        for worker in scheduler.workers:
            assert len(worker.flights) <= worker.credit
            assert worker.state in (WorkerState.READY, WorkerState.LEAVING) or not worker.flights
        suspects = [id(piece.request) for piece in scheduler.suspects if not piece.request.finished]
        assert not suspects or self.ventilator.pending

    @invariant()
    def answers_are_single_and_right(self):
        for number, (identity, texts, expires) in getattr(self, "requests", {}).items():
            replies = self.clients.replies_to(identity, number)
            assert len(replies) <= 1
            for reply in replies:
                self.check(reply, texts, expires)

    def check(self, reply, texts, expires):
        guilty = {index for index, text in enumerate(texts) if not text.endswith("fine")}
        if isinstance(reply, Result):
            assert not guilty
            np.testing.assert_array_equal(reply.embedding, rows_of(texts))
        elif isinstance(reply.error, DeadlineError):
            assert expires
        else:
            assert isinstance(reply.error, UnprocessableError) and reply.error.index in guilty, reply.error

    def teardown(self):
        """Let everything come to its end."""
        if not hasattr(self, "scheduler"):
            return
        for identity in list(self.away):
            self.come_or_go(identity)
        for _ in range(3000):
            if not self.ventilator.pending:
                break
            for slot in range(len(self.held)):
                self.start_or_get_ready(slot)
                self.dispatch()
                self.credit_and_quarantine()
                self.work(slot)
        assert not self.ventilator.pending, "somebody waits for ever"
        for number, (identity, texts, expires) in self.requests.items():
            reply, = self.clients.replies_to(identity, number)
            self.check(reply, texts, expires)
        self.dispatch()
        assert not self.scheduler.backlog and not self.scheduler.backlog.left and self.scheduler.backlog.tokens == 0
        assert self.ventilator.nbytes == self.ventilator.size == 0 and not self.ventilator.outstanding
        assert all(piece.request.finished for piece in self.scheduler.suspects)


RecoveryMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRecovery = RecoveryMachine.TestCase


# ---- rule by rule ----------------------------------------------------------------------------------------------------

def make_scheduler(num_worker=1, ready=True, **options):
    scheduler = Scheduler(num_worker, Backlog(8, 8, LIMIT), **{"hang_seconds": 60.0, **options})
    scheduler.tokens_per_second = 1e6
    for slot in range(num_worker):
        scheduler.started(slot)
        if ready:
            scheduler.ready(slot)
    return scheduler


def restart(scheduler, slot=0):
    scheduler.started(slot)
    scheduler.ready(slot)


def launch_all(scheduler, now=0.0):
    flights = []
    while flight := scheduler.next_flight(now):
        flights.append(flight)
    return flights


def uids(flight):
    return [piece.request.uid for piece in flight.pieces]


def test_states():
    assert set(TRANSITIONS) == set(WorkerState)
    worker = make_scheduler(ready=False).workers[0]
    with pytest.raises(AssertionError):
        worker.enter(WorkerState.STARTING)
    worker.enter(WorkerState.READY)
    worker.enter(WorkerState.LEAVING)
    with pytest.raises(AssertionError):
        worker.enter(WorkerState.READY)


def test_a_worker_gets_nothing_before_it_is_ready():
    scheduler = make_scheduler(ready=False)
    scheduler.backlog.add(make_pending(1))
    assert scheduler.next_flight(0.0) is None
    scheduler.ready(0)
    assert uids(scheduler.next_flight(0.0)) == [1]


def test_idle_workers_come_first():
    scheduler = make_scheduler(2)
    slots = []
    for uid in (1, 2, 3, 4):
        scheduler.backlog.add(make_pending(uid))
        slots.append(scheduler.next_flight(0.0).slot)
    assert sorted(slots[:2]) == [0, 1] and sorted(slots[2:]) == [0, 1]


def test_idle_workers_share_what_waits():
    scheduler = make_scheduler(3, credit=1)
    for uid in range(6):
        scheduler.backlog.add(make_pending(uid))
    assert [(flight.slot, len(flight.pieces)) for flight in launch_all(scheduler)] == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("size, share", [(1, 2), (8, 4)])
def test_a_share_is_left_for_who_will_be_done_before(size, share):
    scheduler = make_scheduler(2, ready=False, credit=1)
    scheduler.ready(0)
    scheduler.backlog.add(make_pending(0, size))
    scheduler.next_flight(0.0)
    scheduler.ready(1)
    for uid in range(1, 5):
        scheduler.backlog.add(make_pending(uid))
    assert [len(flight.pieces) for flight in launch_all(scheduler)] == [share]


@pytest.mark.parametrize("credit", [1, 2, 5])
def test_credit(credit):
    scheduler = make_scheduler(credit=credit)
    for uid in range(100):
        scheduler.backlog.add(make_pending(uid, 2))
    assert len(launch_all(scheduler)) == credit
    scheduler.landed(min(scheduler.flights), 1.0, 10, 1e-6)
    assert len(launch_all(scheduler)) == 1


@pytest.mark.parametrize("size", [1, 9])
def test_nothing_waits_behind_a_long_job(size):
    """Another worker, or this one, may be free sooner for it; the gap between two jobs costs next to nothing."""
    scheduler = make_scheduler()
    scheduler.tokens_per_second = 10.0
    scheduler.backlog.add(make_pending(1, 8))
    scheduler.next_flight(0.0)
    scheduler.backlog.add(make_pending(2, size))
    assert scheduler.next_flight(0.0) is None


def test_what_a_lost_worker_held_runs_alone_one_at_a_time_and_without_a_strike():
    scheduler = make_scheduler(2, ready=False)
    scheduler.ready(0)
    for uid in range(3):
        scheduler.backlog.add(make_pending(uid))
    flight = scheduler.next_flight(0.0)
    scheduler.ready(1)
    assert uids(flight) == [0, 1, 2]
    assert scheduler.lost(flight.slot) == []
    for uid in range(3):
        alone, = launch_all(scheduler)
        assert alone.alone and uids(alone) == [uid] and alone.pieces[0].strikes == 0
        scheduler.backlog.add(make_pending(10 + uid))
        assert launch_all(scheduler) == [], "nothing is beside it"
        scheduler.landed(alone.job, 0.0)
        other, = launch_all(scheduler)
        assert not other.alone and uids(other) == [10 + uid], "others have their turn first"
        scheduler.landed(other.job, 0.0)


def test_suspects_and_others_take_turns_on_the_only_worker():
    scheduler = make_scheduler(credit=1)
    scheduler.backlog.add(make_pending(1))
    scheduler.next_flight(0.0)
    assert scheduler.lost(0) == []
    restart(scheduler)
    for uid in range(2, 200):
        scheduler.backlog.add(make_pending(uid, 8))
    scheduler.suspects.extend(Piece(make_pending(uid, 1), 0, 1, 3) for uid in range(1000, 1200))
    now, whose = 50.0, []
    for _ in range(120):
        flight, = launch_all(scheduler, now)
        whose.append(flight.alone)
        now += TURN_SECONDS / 4
        scheduler.landed(flight.job, now)
    assert not whose[0], "who waited for the worker that was lost comes first"
    turns = ["".join("os"[alone] for alone in whose[start:start + 8]) for start in range(0, 120, 8)]
    assert set(turns) == {"oooossss"}


def test_a_turn_of_suspects_has_one_of_them_however_long_the_others_job_takes():
    scheduler = make_scheduler(credit=2)
    scheduler.suspects.extend(Piece(make_pending(uid, 1), 0, 1, 3) for uid in range(1000, 1009))
    now, whose = 0.0, []
    for uid in range(1, 30):
        scheduler.backlog.add(make_pending(uid, 8))
        for flight in launch_all(scheduler, now):
            whose.append(flight.alone)
        now += 3 * TURN_SECONDS
        for job in list(scheduler.flights):
            scheduler.landed(job, now)
    assert whose.count(True) == 9


def test_a_suspect_is_not_kept_waiting_for_others_where_they_have_a_worker():
    scheduler = make_scheduler(2, credit=1)
    scheduler.backlog.add(make_pending(1))
    scheduler.lost(scheduler.next_flight(0.0).slot)
    restart(scheduler)
    for uid in range(2, 30):
        scheduler.backlog.add(make_pending(uid, 8))
    assert sorted(flight.alone for flight in launch_all(scheduler)) == [False, True]


def test_the_others_go_on_while_one_worker_is_the_quarantine():
    scheduler = make_scheduler(3)
    scheduler.backlog.add(make_pending(1))
    scheduler.lost(scheduler.next_flight(0.0).slot)
    for uid in (2, 3, 4):
        scheduler.backlog.add(make_pending(uid))
    alone, other = launch_all(scheduler)
    assert alone.alone and uids(alone) == [1]
    assert not other.alone and other.slot != alone.slot


def test_the_quarantine_waits_for_what_its_worker_still_has():
    scheduler = make_scheduler(2, credit=1)
    scheduler.backlog.add(make_pending(1))
    first = scheduler.next_flight(0.0)
    scheduler.backlog.add(make_pending(2))
    second = scheduler.next_flight(0.0)
    scheduler.lost(first.slot)
    scheduler.backlog.add(make_pending(3))
    assert scheduler.next_flight(0.0) is None            # the other worker has no credit left
    scheduler.landed(second.job, 0.0)
    other = scheduler.next_flight(0.0)
    assert uids(other) == [3], "it is the only worker, and others come first"
    scheduler.backlog.add(make_pending(4))
    assert scheduler.next_flight(TURN_SECONDS) is None
    scheduler.landed(other.job, TURN_SECONDS)
    assert uids(scheduler.next_flight(TURN_SECONDS)) == [1]


def test_what_kills_its_worker_alone_too_often_is_guilty():
    scheduler = make_scheduler()
    scheduler.backlog.add(make_pending(1))
    scheduler.next_flight(0.0)
    assert scheduler.lost(0) == []                       # it may have been innocent
    for strike in range(1, MAX_STRIKES + 1):
        restart(scheduler)
        flight = scheduler.next_flight(0.0)
        assert flight.alone
        guilty = scheduler.lost(0)
        assert [piece.request.uid for piece in guilty] == ([1] if strike == MAX_STRIKES else [])
    assert not scheduler.suspects and scheduler.quarantine is None


def test_a_piece_that_kills_alone_is_halved_until_one_text_is_guilty():
    scheduler = make_scheduler()
    scheduler.backlog.add(make_pending(1, 8))
    scheduler.next_flight(0.0)
    scheduler.lost(0)
    deaths, guilty, done = 0, [], []
    while not guilty:
        if scheduler.workers[0].state is WorkerState.LOST:
            restart(scheduler)
        flight = scheduler.next_flight(0.0)
        piece, = flight.pieces
        if piece.offset <= 5 < piece.offset + piece.count:
            guilty = scheduler.lost(0)
            deaths += 1
        else:
            done += range(piece.offset, piece.offset + piece.count)
            scheduler.landed(flight.job, 0.0)
    assert (guilty[0].offset, guilty[0].count) == (5, 1)
    assert deaths == 3 + MAX_STRIKES                 # 8, 4, 2 sequences, then the one text alone
    assert 5 not in done and len(done) == len(set(done))


def test_no_strike_when_the_job_could_not_be_handed_over():
    scheduler = make_scheduler()
    scheduler.backlog.add(make_pending(1))
    scheduler.next_flight(0.0)
    scheduler.lost(0)
    for _ in range(3 * MAX_STRIKES):
        restart(scheduler)
        scheduler.unsent(scheduler.next_flight(0.0).job)
        assert scheduler.lost(0) == []
    assert scheduler.suspects[0].strikes == 0


def test_a_fault_of_a_merged_job_runs_its_pieces_alone():
    scheduler = make_scheduler()
    for uid in (1, 2):
        scheduler.backlog.add(make_pending(uid))
    flight = scheduler.next_flight(0.0)
    scheduler.landed(flight.job, 0.0)
    assert scheduler.failed(flight) == []
    alone = scheduler.next_flight(0.0)
    assert alone.alone and uids(alone) == [1]
    scheduler.landed(alone.job, 0.0)
    assert [piece.request.uid for piece in scheduler.failed(alone)] == [1]     # its own worker says so: no doubt
    assert uids(scheduler.next_flight(0.0)) == [2]


def test_suspects_whose_request_is_over_are_forgotten():
    scheduler = make_scheduler()
    requests = [make_pending(uid) for uid in (1, 2)]
    for request in requests:
        scheduler.backlog.add(request)
    scheduler.next_flight(0.0)
    scheduler.lost(0)
    restart(scheduler)
    for request in requests:
        request.finished = True
    assert scheduler.next_flight(0.0) is None
    scheduler.backlog.add(make_pending(3))
    assert uids(scheduler.next_flight(0.0)) == [3] and scheduler.quarantine is None


def test_rows_of_a_job_that_was_given_up_are_doubles():
    scheduler = make_scheduler()
    scheduler.backlog.add(make_pending(1))
    flight = scheduler.next_flight(0.0)
    scheduler.lost(0)
    assert scheduler.landed(flight.job, 0.0) is None
    restart(scheduler)
    assert scheduler.next_flight(0.0).job != flight.job


def test_messages_of_an_earlier_process_are_told_apart():
    scheduler = make_scheduler()
    assert scheduler.is_current(0, 1)
    scheduler.lost(0)
    scheduler.started(0)
    assert scheduler.is_current(0, 2) and not scheduler.is_current(0, 1) and not scheduler.is_current(7, 1)


# ---- hanging ---------------------------------------------------------------------------------------------------------

def test_a_worker_hangs_when_its_oldest_job_takes_far_too_long():
    scheduler = make_scheduler(hang_seconds=60.0)
    for uid in range(9):
        scheduler.backlog.add(make_pending(uid))
    first, second = launch_all(scheduler, now=100.0)
    assert scheduler.hung(160.0) == []
    assert scheduler.hung(160.1) == [0]
    scheduler.landed(first.job, 160.2)
    assert scheduler.hung(220.1) == [], "the second job's time begins when the first is done"
    assert scheduler.hung(220.3) == [0]


def test_long_jobs_have_long_times():
    scheduler = make_scheduler(hang_seconds=1.0)
    scheduler.tokens_per_second = 10.0
    scheduler.backlog.add(make_pending(1, 8))
    flight = scheduler.next_flight(0.0)
    expected = flight.tokens / 10.0
    assert scheduler.hung(HANG_FACTOR * expected) == [] and scheduler.hung(HANG_FACTOR * expected + 0.1) == [0]


def hang(scheduler, now):
    """Work on it until a worker hangs, which is ended; how long that was, and what was found guilty."""
    flight, = launch_all(scheduler, now)
    allowed = scheduler.time_allowed(flight)
    assert scheduler.hung(now + allowed - 0.01) == [] and scheduler.hung(now + allowed + 0.01) == [0]
    scheduler.give_up(0, now + allowed)
    assert scheduler.hung(now + allowed + 0.01) == [], "once is enough"
    guilty = scheduler.lost(0)
    restart(scheduler)
    return allowed, guilty


def test_a_known_rate_makes_the_limit_short_and_suspects_have_less():
    scheduler = make_scheduler(hang_seconds=30.0, floor_seconds=1.5)
    scheduler.tokens_per_second = 0.0
    scheduler.backlog.add(make_pending(1))
    assert scheduler.time_allowed(scheduler.next_flight(0.0)) == 30.0
    scheduler.landed(1, 0.1, 10, 0.001)
    scheduler.backlog.add(make_pending(2, 3))
    tries = [hang(scheduler, 1.0)]
    while not tries[-1][1]:
        tries.append(hang(scheduler, 1.0))
    assert tries[-1][1][0].request.uid == 2
    limits = [allowed for allowed, _ in tries]
    assert limits[:-1] == [pytest.approx(1.5)] + [pytest.approx(0.75)] * (len(limits) - 2)
    assert limits[-1] == pytest.approx(2.5), "what is about to be refused has a little longer"


def test_a_job_that_hangs_by_itself_is_halved_without_another_try():
    scheduler = make_scheduler(hang_seconds=30.0, floor_seconds=1.5)
    scheduler.backlog.add(make_pending(1, 8))
    hang(scheduler, 0.0)
    assert [piece.count for piece in scheduler.suspects] == [4, 4]


def test_what_the_hanging_worker_has_not_begun_comes_first():
    scheduler = make_scheduler(hang_seconds=30.0, floor_seconds=1.5)
    for uid in (1, 2):
        scheduler.backlog.add(make_pending(uid))
        scheduler.next_flight(0.0)
    scheduler.give_up(0, 5.0)
    scheduler.lost(0)
    assert [piece.request.uid for piece in scheduler.suspects] == [2, 1]
    assert [piece.strikes for piece in scheduler.suspects] == [0, 1]


def test_false_alarms_make_the_limit_longer_for_a_while():
    """Workers that were merely slow, as on a machine with other work: none of what they had is guilty."""
    scheduler = make_scheduler(hang_seconds=30.0, floor_seconds=1.5)
    limits = []
    for uid in range(1, 8):
        scheduler.backlog.add(make_pending(uid))
        limits.append(hang(scheduler, 1.0)[0])
        scheduler.landed(scheduler.next_flight(1.0).job, 1.0)
    assert limits == pytest.approx([1.5, 3.0, 6.0, 12.0, 24.0, 30.0, 30.0])
    assert scheduler.hung(ALARM_SECONDS + 60.0) == []
    scheduler.backlog.add(make_pending(9))
    assert hang(scheduler, ALARM_SECONDS + 60.0)[0] == pytest.approx(1.5)


def test_an_alarm_that_found_a_guilty_text_was_no_false_one():
    scheduler = make_scheduler(hang_seconds=30.0, floor_seconds=1.5)
    scheduler.backlog.add(make_pending(1))
    while not hang(scheduler, 1.0)[1]:
        pass
    scheduler.backlog.add(make_pending(2))
    assert hang(scheduler, 1.0)[0] == pytest.approx(1.5)


def test_a_limit_that_was_given_is_the_least_for_suspects_too():
    scheduler = make_scheduler(hang_seconds=60.0)
    scheduler.backlog.add(make_pending(1, 3))
    for _ in range(4):
        assert hang(scheduler, 0.0)[0] == 60.0


def test_workers_of_other_hosts_have_longer():
    scheduler = make_scheduler(0, hang_seconds=30.0, floor_seconds=1.5)
    scheduler.started(scheduler.add())
    scheduler.ready(0, tokens_per_second=1000.0)
    limits = []
    for uid in (1, 2):
        scheduler.backlog.add(make_pending(uid))
        flight = scheduler.next_flight(0.0)
        limits.append(scheduler.time_allowed(flight))
        scheduler.landed(flight.job, 0.1, 10, 0.01, 0.01)
    assert limits == [30.0, FAR_SECONDS]


def test_a_huge_text_has_the_time_that_reading_it_takes():
    scheduler = make_scheduler(hang_seconds=30.0, floor_seconds=1.5)
    scheduler.tokens_per_second = 1e6
    limits = []
    for uid, words in ((1, 1), (2, 10_000), (3, 4_000_000)):
        scheduler.backlog.add(make_pending(uid, words=words))
        flight, = launch_all(scheduler, 0.0)
        limits.append(scheduler.time_allowed(flight))
        scheduler.landed(flight.job, 0.0)
    assert limits[0] == limits[1] == 1.5 and 30.0 < limits[2] < 60.0


def test_the_time_that_the_machine_was_stopped_counts_for_no_job():
    scheduler = make_scheduler(hang_seconds=2.0)
    for uid in (1, 2):
        scheduler.backlog.add(make_pending(uid))
        scheduler.next_flight(0.0)
    scheduler.excuse(3600.0)
    assert scheduler.hung(3601.9) == [] and scheduler.hung(3602.1) == [0]


def test_idle_workers_do_not_hang():
    assert make_scheduler(3).hung(1e9) == []


# ---- the measured rate -----------------------------------------------------------------------------------------------

def test_jobs_are_cut_by_the_measured_rate_within_bounds():
    scheduler = make_scheduler()
    sizes = []
    for rate in (0.001, 1.0, 10_000.0, 1e12):
        scheduler.tokens_per_second = rate
        sizes.append(scheduler.job_tokens(scheduler.workers[0], 0.5))
    assert sizes == [MIN_JOB_TOKENS, MIN_JOB_TOKENS, 5_000, MAX_JOB_TOKENS]


def test_jobs_are_short_while_somebody_interactive_is_about():
    scheduler = make_scheduler()
    assert scheduler.target_seconds(100.0) == TARGET_SECONDS
    scheduler.interactive(100.0)
    assert scheduler.target_seconds(100.0 + INTERACTIVE_WINDOW) == INTERACTIVE_SECONDS
    assert scheduler.target_seconds(100.1 + INTERACTIVE_WINDOW) == TARGET_SECONDS


@pytest.mark.parametrize("sizes, share", [
    ({b"flood": 200, b"single": 1}, 0.5), ({b"flood": 200}, 1.0),
    ({b"client %d" % number: 2 for number in range(100)}, 1.0)],
    ids=["a flood and another", "a flood", "many"])
def test_a_job_that_has_others_beside_a_flood_is_shorter(sizes, share):
    """They wait for the one before, and for all of this one."""
    scheduler = make_scheduler()
    scheduler.backlog.max_batch_size = 10**6
    scheduler.tokens_per_second = 10_000.0
    scheduler.interactive(0.0)
    for identity, count in sizes.items():
        for number in range(count):
            scheduler.backlog.add(make_pending(number, 1, identity))
    flight = scheduler.next_flight(0.0)
    assert flight.tokens == pytest.approx(10_000.0 * INTERACTIVE_SECONDS * share, rel=0.1)
    assert {piece.request.identity for piece in flight.pieces} >= set(sizes) - {b"flood"} or len(sizes) == 100


@pytest.mark.parametrize("overhead", [0.0, 0.01, 0.04, 0.2])
def test_short_jobs_come_to_their_time_whatever_each_costs_beside_its_tokens(overhead):
    """A rate that is measured on short jobs makes the next ones shorter: not without end."""
    scheduler = make_scheduler()
    scheduler.backlog.max_batch_size = 10**6
    scheduler.tokens_per_second, speed = 0.0, 20_000.0
    scheduler.backlog.add(make_pending(1, 20_000))
    scheduler.interactive(0.0)
    now = 0.0
    for _ in range(200):
        flight = scheduler.next_flight(now)
        seconds = overhead + flight.tokens / speed
        now += seconds
        scheduler.landed(flight.job, now, flight.tokens, seconds)
        scheduler.interactive(now)
        scheduler.backlog.add(make_pending(int(now * 1e6) + 2, 1000))
    least = overhead + MIN_JOB_TOKENS / speed
    assert max(0.9 * INTERACTIVE_SECONDS, least) <= seconds <= max(1.2 * INTERACTIVE_SECONDS, least + 0.01)


def test_the_rate_is_of_estimated_tokens_as_jobs_are():
    """Of Chinese a character is a token, where a quarter is estimated: a job is not to take four times as long."""
    scheduler = make_scheduler()
    scheduler.tokens_per_second = 0.0
    for uid in range(60):
        scheduler.backlog.add(make_pending(uid))
        flight = scheduler.next_flight(0.0)
        # Half of them are computed, as the others are the same.
        scheduler.landed(flight.job, 0.0, num_tokens=2 * flight.tokens, seconds=0.1, counted=4 * flight.tokens)
    assert scheduler.tokens_per_second == pytest.approx(20 * flight.tokens)
    assert scheduler.rate(scheduler.workers[0]) == pytest.approx(5 * flight.tokens, rel=0.01)


def test_the_self_test_says_how_fast_until_jobs_do():
    scheduler = make_scheduler(ready=False)
    scheduler.tokens_per_second = 0.0
    scheduler.ready(0, tokens_per_second=500.0)
    assert scheduler.rate(scheduler.workers[0]) == 500.0
    scheduler.backlog.add(make_pending(1))
    scheduler.landed(scheduler.next_flight(0.0).job, 1.0, 1000, 1.0)
    known = scheduler.rate(scheduler.workers[0])
    assert known > 500.0
    scheduler.lost(0)
    scheduler.started(0)
    scheduler.ready(0, tokens_per_second=500.0)
    assert scheduler.rate(scheduler.workers[0]) == known


def test_what_clients_left_behind_is_done_when_nobody_else_wants_anything():
    scheduler = make_scheduler()
    scheduler.interactive(0.0)
    scheduler.backlog.add(make_pending(1, 20, b"gone"))
    scheduler.backlog.leave(b"gone")
    assert not scheduler.backlog and scheduler.backlog.tokens == scheduler.backlog.size == 0
    assert scheduler.next_flight(QUIET_SECONDS) is None
    scheduler.backlog.add(make_pending(2, 1))
    assert [uids(flight) for flight in launch_all(scheduler, QUIET_SECONDS)] == [[2]]
    assert launch_all(scheduler, 5.0) == [], "a worker that is idle does it"
    scheduler.landed(min(scheduler.flights), 5.0)
    assert [uids(flight) for flight in launch_all(scheduler, 5.0)] == [[1]]


def test_a_far_worker_is_given_the_next_job_when_it_has_little_left_to_do():
    scheduler = make_scheduler(1)
    far = scheduler.add()
    scheduler.started(far)
    scheduler.ready(far, tokens_per_second=100.0)
    scheduler.workers[0].enter(WorkerState.LEAVING)
    scheduler.workers[far].overhead = 0.05
    scheduler.backlog.add(make_pending(1, 8))
    seconds = scheduler.next_flight(0.0).tokens / 100.0
    assert scheduler.seconds_until_next(0.0) is None, "nothing waits"
    scheduler.backlog.add(make_pending(2, 8))
    assert scheduler.next_flight(0.0) is None
    wait = scheduler.seconds_until_next(0.1)
    assert 0.1 + wait == pytest.approx(seconds - 0.05, abs=0.005)
    assert scheduler.next_flight(0.1 + wait + 0.001).slot == far
    assert scheduler.seconds_until_next(1.0) is None, "it has all that it may"


def test_the_rate_follows_what_workers_measure():
    scheduler = make_scheduler()
    scheduler.tokens_per_second = 0.0
    for _ in range(50):
        scheduler.backlog.add(make_pending(1))
        scheduler.landed(scheduler.next_flight(0.0).job, 0.0, num_tokens=500, seconds=0.5)
    assert scheduler.tokens_per_second == pytest.approx(1000.0)


def test_many_tiny_jobs_do_not_make_long_ones_look_short():
    scheduler = make_scheduler()
    scheduler.tokens_per_second = 0.0
    for _ in range(30):
        for num_tokens, seconds in [(1000, 0.1)] + 20 * [(10, 0.00001)]:
            scheduler.backlog.add(make_pending(1))
            scheduler.landed(scheduler.next_flight(0.0).job, 0.0, num_tokens=num_tokens, seconds=seconds)
    assert scheduler.tokens_per_second == pytest.approx(1200 / 0.1002, rel=0.05)


def test_a_worker_that_leaves_ends_what_it_has_and_gets_no_more():
    scheduler = make_scheduler(2)
    scheduler.backlog.add(make_pending(1, 1))
    held = scheduler.next_flight(0.0)
    scheduler.leave(held.slot)
    scheduler.backlog.add(make_pending(2, 1))
    assert scheduler.next_flight(0.0).slot != held.slot and scheduler.next_flight(0.0) is None
    assert scheduler.landed(held.job, 1.0) is held and scheduler.workers[held.slot].state is WorkerState.LEAVING


def test_the_quarantine_passes_on_when_its_worker_has_left():
    scheduler = make_scheduler(2)
    scheduler.suspects.extend(Piece(make_pending(uid, 1), 0, 1, 3) for uid in (1, 2))
    first = scheduler.next_flight(0.0)
    scheduler.leave(first.slot)
    assert scheduler.next_flight(0.0) is None, "suspects run on one worker at a time"
    scheduler.landed(first.job, 0.0)
    assert scheduler.next_flight(0.0).slot == 1 - first.slot


def test_work_is_shared_by_how_fast_each_is():
    scheduler = make_scheduler(2)
    scheduler.workers[0].tokens_per_second, scheduler.workers[1].tokens_per_second = 30_000.0, 10_000.0
    scheduler.backlog.add(make_pending(1, 8))
    sizes = {flight.slot: sum(piece.count for piece in flight.pieces)
             for flight in (scheduler.next_flight(0.0), scheduler.next_flight(0.0))}
    assert sizes == {0: 6, 1: 2}


def test_the_nearer_of_two_gets_a_short_job_and_the_far_one_a_job_in_advance():
    scheduler = make_scheduler(1)
    far = scheduler.add()
    scheduler.started(far)
    scheduler.ready(far)
    scheduler.workers[far].overhead = 0.05
    scheduler.backlog.add(make_pending(1, 1))
    assert scheduler.next_flight(0.0).slot == 0
    scheduler.workers[0].enter(WorkerState.LEAVING)
    scheduler.tokens_per_second = 2000.0
    for uid in (2, 3):
        scheduler.backlog.add(make_pending(uid, 4))
        assert scheduler.next_flight(0.0).slot == far, "one waits there while the other is computed"


def test_the_way_to_a_remote_worker_is_measured():
    scheduler = make_scheduler(1)
    far = scheduler.add()
    scheduler.started(far)
    scheduler.ready(far)
    for slot in (0, far):
        scheduler.workers[1 - slot].enter(WorkerState.LEAVING)
        scheduler.backlog.add(make_pending(slot + 1, 1))
        flight = scheduler.next_flight(0.0)
        scheduler.landed(flight.job, 0.5, num_tokens=100, seconds=0.3, busy=0.4)
        scheduler.workers[1 - slot].state = WorkerState.READY
    assert scheduler.workers[0].overhead == 0.0 and scheduler.workers[far].overhead == pytest.approx(0.1)
    assert scheduler.workers[0].tokens_per_second == pytest.approx(250.0), "what it tokenizes takes time, too"


@pytest.mark.parametrize("seconds, rate", [(1e-300, MAX_TOKENS_PER_SECOND), (0.1, 1000.0), (1e9, 200.0)])
def test_what_a_remote_worker_says_of_its_speed_is_believed_within_bounds(seconds, rate):
    scheduler = make_scheduler(0)
    far = scheduler.add()
    scheduler.started(far)
    scheduler.ready(far)
    for uid in (1, 2):
        scheduler.backlog.add(make_pending(uid, 1))
        scheduler.landed(scheduler.next_flight(0.0).job, 0.5, num_tokens=100, seconds=seconds)
    assert scheduler.workers[far].tokens_per_second == pytest.approx(rate)


def test_seconds_of_backlog():
    scheduler = make_scheduler(2)
    scheduler.tokens_per_second = 0.0
    assert scheduler.seconds_of_backlog() == 1.0         # nothing is known yet
    scheduler.tokens_per_second = 100.0
    request = make_pending(1, 8)
    scheduler.backlog.add(request)
    assert scheduler.seconds_of_backlog() == pytest.approx(request.tokens / 200.0)
    scheduler.next_flight(0.0)
    assert scheduler.seconds_of_backlog() == pytest.approx(request.tokens / 200.0)


def test_counts_of_a_worker():
    scheduler = make_scheduler()
    scheduler.backlog.add(make_pending(1, 3))
    scheduler.landed(scheduler.next_flight(0.0).job, 0.0)
    scheduler.lost(0)
    worker = scheduler.workers[0]
    assert (worker.num_jobs, worker.num_sequences, worker.restarts) == (1, 3, 1)


def test_strikes_are_the_pieces_own():
    assert Counter(piece.strikes for piece in Piece(make_pending(1, 2), 0, 2, 10, strikes=1).halves()) == {0: 2}


def test_failure_is_told_with_the_guilty_texts_place():
    clients = Clients()
    clients.join(b"a")
    statistics = Statistics(0.0)
    backlog = Backlog(8, 8, LIMIT)
    scheduler = Scheduler(1, backlog, 60.0)
    ventilator = Ventilator(Limits(max_message_bytes=10**6, max_bytes=10**6, max_size=100), backlog, scheduler,
                            Sink(statistics, None, 512), clients.outlet, statistics,
                            lambda name, privileged: {})
    restart(scheduler)
    ventilator.receive([b"a", b'["1/0 fine", "1/1 nan"]', b"1", b"2"], 0.0)
    for _ in range(10):
        job = ventilator.next_job(0.0)
        if job is None:
            break
        bad = [index for index, text in enumerate(job.sequences) if text.endswith("nan")]
        clients.publish(ventilator.rows(Rows(0, 1, job.job, rows_of(job.sequences), bad=bad), 0.0), ventilator.sink)
    reply, = clients.replies_to(b"a")
    assert isinstance(reply, Failure) and reply.error.index == 1 and "not finite" in reply.error.message
