"""The way in: every message is answered or ignored, and none ends the server; limits, repeats, deadlines, and more."""
import json

import numpy as np
import pytest
from bert_serving.client.errors import (BertServingError, DeadlineError, OverloadedError, RequestError, TooLargeError,
                                        UnauthorizedError, UnavailableError, UnprocessableError, WorkerLostError)
from bert_serving.client.pairs import Pair
from bert_serving.client.protocol import PROBE, Failure, Result, Status
from bert_serving.server.core.batching import Backlog
from bert_serving.server.core.messages import Fault, Rows
from bert_serving.server.core.scheduler import INTERACTIVE_SECONDS, QUIET_SECONDS, Scheduler
from bert_serving.server.core.sink import Sink
from bert_serving.server.core.statistics import Statistics
from bert_serving.server.core.ventilator import (ABANDONED_SECONDS, CONDEMNED_SECONDS, LEFT_SECONDS, MAX_CONDEMNED,
                                                 MAX_TIMEOUT_MS, MAX_INTERACTIVE, Caller, Limits, Ventilator)
from hypothesis import given
from hypothesis import strategies as st

from .conftest import LIMIT, Clients, rows_of


class Server:
    """A ventilator with everything behind it, one ready worker, and clients "a" and "b" that are subscribed."""

    def __init__(self, **limits):
        self.clients = Clients()
        self.clients.join(b"a", b"b")
        backlog = Backlog(max_batch_size=8, priority_batch_size=4, sequence_limit=LIMIT)
        self.scheduler = Scheduler(1, backlog, hang_seconds=60.0)
        self.scheduler.started(0)
        self.scheduler.ready(0)
        statistics = Statistics(0.0)
        self.ventilator = Ventilator(
            Limits(**{"max_message_bytes": 10_000, "max_bytes": 10**6, "max_size": 1000, **limits}), backlog,
            self.scheduler, Sink(statistics, None, 512), self.clients.outlet, statistics,
            lambda command, privileged: {"asked by": command.identity.decode("latin-1"),
                                         "in confidence": privileged})

    def send(self, *frames, now=0.0, caller=Caller(is_local=True)):
        self.publish(self.ventilator.receive(frames, now, caller), now)

    def answer(self, job, *lists, array=None, now=0.0, **values):
        """The worker has done a job."""
        self.publish(self.ventilator.rows(Rows(0, job.incarnation, job.job, rows_of(job.sequences) if array is None
                                               else array, *lists, **values), now), now)

    def expire(self, now):
        self.publish(self.ventilator.expire(now), now)

    def publish(self, replies, now=0.0):
        self.clients.publish(replies, self.ventilator.sink, now)

    def join(self, identity):
        for back in self.clients.join(identity):
            self.ventilator.come_back(back)

    def ask(self, texts, identity=b"a", number=1, now=0.0, **options):
        self.send(identity, json.dumps(texts).encode(), b"%d" % number, b"%d" % len(texts),
                  *([json.dumps(options).encode()] if options else []), now=now)

    def work(self, now=0.0):
        """Let the worker do all there is; texts that end with "raise" or "nan" do what they say."""
        while job := self.ventilator.next_job(now):
            if any(text.endswith("raise") for text in job.sequences):
                fault = Fault(0, 1, job.job, "internal", "ValueError: it raises")
                self.publish(self.ventilator.fault(fault, now), now)
            else:
                bad = [index for index, text in enumerate(job.sequences) if text.endswith("nan")]
                self.answer(job, bad=bad, now=now)

    def replies(self, identity=b"a"):
        return self.clients.replies_to(identity)

    def error(self, identity=b"a"):
        """The only reply, which is an error."""
        reply, = self.replies(identity)
        assert isinstance(reply, Failure)
        return reply.error

    def is_empty(self):
        ventilator = self.ventilator
        return not (ventilator.pending or ventilator.outstanding or ventilator.nbytes or ventilator.size
                    or ventilator.backlog or self.scheduler.flights)


@pytest.fixture
def server():
    return Server()


def test_a_request_is_answered(server):
    server.ask(["7/0", "7/1"], number=7)
    server.work()
    reply, = server.replies()
    assert isinstance(reply, Result) and reply.request_id == 7
    np.testing.assert_array_equal(reply.embedding, rows_of(["7/0", "7/1"]))
    assert server.is_empty()


@pytest.mark.parametrize("name", [b"SHOW_CONFIG", b"SHOW_STATUS"])
def test_commands_are_answered(server, name):
    server.send(b"a", name, b"3", b"0")
    reply, = server.replies()
    assert reply == Status(3, {"asked by": "a", "in confidence": True})


@pytest.mark.parametrize("draining", [False, True])
def test_a_command_is_never_refused(server, draining):
    """The original's constructor would fail with a KeyError where it expects a version."""
    server.ventilator.draining = draining
    server.ventilator.limits = Limits(max_message_bytes=100, max_bytes=1, max_size=1)
    server.ask(["1/0"], identity=b"b")
    server.send(b"a", b"SHOW_CONFIG", b"3", b"0")
    assert isinstance(server.replies()[0], Status)


# ---- what is wrong ---------------------------------------------------------------------------------------------------

MALFORMED = {
    "not JSON": [b"{nope", b"1", b"1"],
    "not JSON, and many": [b"{nope", b"1", b"100000"],
    "not UTF-8": [b'["\xff\xfe"]', b"1", b"1"],
    "nothing": [b"", b"1", b"0"],
    "null": [b"null", b"1", b"1"],
    "a number": [b"5", b"1", b"1"],
    "a string as long as it says": [b'"abc"', b"1", b"3"],
    "an object as long as it says": [b'{"a": 1}', b"1", b"1"],
    "no sentence": [b"[]", b"1", b"0"],
    "numbers": [b"[1, 2]", b"1", b"2"],
    "a number of 5000 digits": [b"[%s]" % (b"9" * 5000), b"1", b"1"],
    "strings and lists": [b'["a", ["b"]]', b"1", b"2"],
    "a string and null": [b'["a", null]', b"1", b"2"],
    "lists of lists": [b'[[["a"]]]', b"1", b"1"],
    "lists of numbers": [b"[[1]]", b"1", b"1"],
    "nested without end": [b"[" * 4000, b"1", b"1"],
    "fewer than it says": [b'["a"]', b"1", b"2"],
    "more than it says": [b'["a", "b"]', b"1", b"1"],
    "a million millions": [b'["a"]', b"1", b"1000000000000"],
    "length of 5000 digits": [b'["a"]', b"1", b"9" * 5000],
    "length that is no number": [b'["a"]', b"1", b"one"],
    "length below zero": [b'["a"]', b"1", b"-1"],
    "length that is empty": [b'["a"]', b"1", b""],
    "length in other digits": [b'["a"]', b"1", "١".encode()],
    "id that is no number": [b'["a"]', b"id", b"1"],
    "id of 5000 digits": [b'["a"]', b"9" * 5000, b"1"],
    "id that is empty": [b'["a"]', b"", b"1"],
    "REGISTER": [b"REGISTER", b"1", b"1"],
    "TOKENS": [b"TOKENS", b"1", b"1"],
    "one frame": [],
    "two frames": [b'["a"]'],
    "three frames, as before 1.5.7": [b'["a"]', b"1"],
    "six frames": [b'["a"]', b"1", b"1", b"{}", b"{}"],
    "options that are not JSON": [b'["a"]', b"1", b"1", b"{"],
    "options that are no object": [b'["a"]', b"1", b"1", b"[1]"],
    "options that there are not": [b'["a"]', b"1", b"1", b'{"normalise": true}'],
    "a timeout that has passed": [b'["a"]', b"1", b"1", b'{"timeout": -1}'],
    "pairs that are none": [b'["a"]', b"1", b"1", b'{"input": "pairs"}'],
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_requests_are_answered_with_what_is_wrong(server, case):
    server.send(b"a", *MALFORMED[case])
    assert isinstance(server.error(), RequestError)
    assert server.is_empty() and server.ventilator.counts["refused"] == 1
    server.ask(["1/0"], number=2)
    server.work()
    assert isinstance(server.replies()[-1], Result), "and the next request is none the worse"


@pytest.mark.parametrize("identity", [b"", b"\0", b"a\0b", b"x" * 256, b"x" * 9000], ids=lambda name: str(name[:5]))
def test_who_cannot_be_answered_is_ignored(server, identity):
    server.ask(["1/0"], identity=identity)
    server.send(identity, b"SHOW_CONFIG", b"1", b"0")
    server.send(identity, b"x" * 20_000, b"1", b"1")          # too large besides
    assert not server.clients.received and server.is_empty() and not server.clients.outlet.held


@pytest.mark.parametrize("identity", [b"cli#7", b"cli@0", "клиент".encode(), b"\xff\xfe", b"x" * 255, b"a b\n"],
                         ids=lambda name: repr(name)[:9])
def test_any_other_identity_is_served(server, identity):
    server.join(identity)
    server.send(identity, b"SHOW_CONFIG", b"1", b"0")
    server.ask(["1/0"], identity=identity, number=2)
    server.work()
    config, result = server.replies(identity)
    assert isinstance(config, Status) and isinstance(result, Result)


@pytest.mark.parametrize("texts", [["", " "], ["\ud800 lone surrogate"], [[]], [["a", ""], []], ["a" * 5000]], ids=repr)
def test_odd_texts_are_texts(server, texts):
    server.ask(texts)
    assert server.ventilator.next_job(0.0).sequences == texts


FRAMES = st.sampled_from([b"a", b"", b"1", b"0", b"SHOW_CONFIG", b"SHOW_STATUS", b"TERMINATION", b"REGISTER", b'["a"]',
                          b'[["a"]]', b"[", b"{}", b'{"timeout": 1}', b"\0", b"9" * 400]) | st.binary(max_size=20)


@given(st.lists(FRAMES, max_size=6))
def test_no_message_whatever_raises(frames):
    server = Server()
    server.send(*frames, caller=Caller())
    assert not server.ventilator.termination_wanted
    assert len(server.ventilator.pending) <= 1


OPTIONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2))


@given(OPTIONS)
def test_no_options_whatever_raise(value):
    server = Server()
    server.ask(["1/0"], timeout=value)
    server.ask(["1/0"], identity=b"b", unknown=value)
    server.expire(0.0)
    server.work()
    assert len(server.replies(b"a")) == len(server.replies(b"b")) == 1


# ---- limits ----------------------------------------------------------------------------------------------------------

def test_too_large_a_request(server):
    server.ask(["x" * 20_000], number=5)
    assert isinstance(server.error(), TooLargeError) and server.replies()[0].request_id == 5
    assert server.is_empty()


def test_too_large_a_request_id_is_not_sent_back(server):
    server.send(b"a", b'["a"]', b"1" * 20_000, b"1")
    (_, frames), = server.clients.sent
    assert sum(map(len, frames)) < 1000


def test_more_sentences_than_may_ever_wait():
    server = Server(max_size=10)
    server.ask(["x"] * 11)
    assert isinstance(server.error(), TooLargeError)


@pytest.mark.parametrize("limits", [{"max_size": 10}, {"max_bytes": 65}])
def test_over_the_limit_clients_are_told_when_to_come_back(limits):
    server = Server(**limits)
    server.scheduler.tokens_per_second = 10.0
    server.ask(["1/0", "1/1", "1/2", "1/3", "1/4", "1/5"], number=1)
    server.ask(["2/0", "2/1", "2/2", "2/3", "2/4", "2/5"], identity=b"b", number=2)
    error = server.error(b"b")
    assert isinstance(error, OverloadedError) and error.retry_after >= 0.1
    server.work()
    assert isinstance(server.replies()[0], Result) and server.is_empty()
    server.ask(["2/0"], identity=b"b", number=3)
    server.work()
    assert isinstance(server.replies(b"b")[-1], Result), "there is room again"


def test_one_client_gets_half_of_the_queue_at_most():
    server = Server(max_size=10)
    for number in range(6):
        server.ask([f"{number}/0"], number=number)
    assert server.ventilator.size == 5
    error = server.error()
    assert isinstance(error, OverloadedError) and "its half of the queue, 5 sentences" in str(error)
    server.ask(["9/0", "9/1"], identity=b"b", number=9)
    server.work()
    assert isinstance(server.replies(b"b")[-1], Result), "another one's request is accepted"
    assert server.is_empty() and not server.ventilator.shares


def test_one_request_alone_may_exceed_the_bytes():
    """Else it could never be sent, though it is within the limit of one message."""
    server = Server(max_bytes=5)
    server.ask(["1/0"])
    server.work()
    assert isinstance(server.replies()[0], Result)


# ---- the same request again ------------------------------------------------------------------------------------------

def test_a_repeated_request_is_computed_and_answered_once(server):
    server.ask(["1/0"])
    server.ask(["1/0"])
    server.work()
    server.ventilator.next_job(0.0)
    assert len(server.replies()) == 1 and server.ventilator.counts["accepted"] == 1 and server.is_empty()


def test_a_request_repeated_after_its_answer_is_answered_again(server):
    for _ in range(2):
        server.ask(["1/0"])
        server.work()
    assert len(server.replies()) == 2


def test_one_id_for_different_texts_is_two_requests(server):
    """Two clients share an identity, and both count from one."""
    server.ask(["1/0"])
    server.ask(["2/0"])
    server.work()
    assert sorted(reply.embedding[0, 0] for reply in server.replies()) == [1, 2]


def test_one_id_for_different_options_is_two_requests(server):
    server.ask([["1", "0"]])
    server.ask([["1", "0"]], input="pairs")
    assert [text for job in iter(lambda: server.ventilator.next_job(0.0), None) for text in job.sequences] \
        == [["1", "0"], Pair("1", "0")]


def test_one_id_of_different_clients_is_two_requests(server):
    server.ask(["1/0"], identity=b"a")
    server.ask(["1/0"], identity=b"b")
    server.work()
    assert len(server.replies(b"a")) == len(server.replies(b"b")) == 1


# ---- time ------------------------------------------------------------------------------------------------------------

def test_a_request_past_its_deadline_is_not_computed(server):
    server.ask(["1/0"], number=1, timeout=500)
    server.ask(["2/0"], number=2)
    server.expire(0.499)
    assert not server.replies()
    server.expire(0.5)
    assert isinstance(server.error(), DeadlineError) and server.ventilator.counts["expired"] == 1
    assert server.ventilator.next_job(1.0).sequences == ["2/0"]


def test_a_request_that_expires_while_it_is_computed_has_one_answer(server):
    server.ask(["1/0"], timeout=500)
    job = server.ventilator.next_job(0.1)
    server.expire(0.6)
    server.answer(job, now=0.7)
    assert isinstance(server.error(), DeadlineError) and server.is_empty()


@pytest.mark.parametrize("timeout", [None, float("inf"), MAX_TIMEOUT_MS * 2, 10 ** 400],
                         ids=lambda timeout: str(timeout)[:8])
def test_timeouts_that_are_none(server, timeout):
    server.ask(["1/0"], timeout=timeout)
    server.expire(1e12)
    server.work()
    assert isinstance(server.replies()[0], Result)


def test_expired_requests_leave_nothing_behind_wherever_they_wait(server):
    for number in range(50):
        server.ask([f"{number}/{index}" for index in range(1 + number % 9)], number=number, timeout=100)
    job = server.ventilator.next_job(0.0)
    server.expire(1.0)
    assert not server.ventilator.backlog and not server.ventilator.pending and server.ventilator.nbytes == 0
    server.answer(job, now=1.0)
    assert server.is_empty() and len(server.replies()) == 50


def test_deadlines_of_answered_requests_are_forgotten(server):
    for number in range(3000):
        server.ask([f"{number}/0"], number=number, timeout=10**8)
        server.work()
    server.expire(0.0)
    assert len(server.ventilator._deadlines) < 1500


def test_what_a_client_asked_is_not_computed_once_it_is_long_gone(server):
    server.ask(["1/0"], identity=b"a")
    server.ask(["2/0"], identity=b"b", number=2)
    server.clients.outlet.subscription(b"\0a", 10.0)
    server.expire(10.0 + ABANDONED_SECONDS - 0.1)
    assert len(server.ventilator.pending) == 2
    server.expire(10.0 + ABANDONED_SECONDS)
    assert server.ventilator.counts["abandoned"] == 1
    assert server.ventilator.next_job(30.0).sequences == ["2/0"]


def test_a_client_that_comes_back_is_not_gone(server):
    server.ask(["1/0"])
    server.clients.outlet.subscription(b"\0a", 10.0)
    server.join(b"a")
    server.expire(100.0)
    server.work()
    assert isinstance(server.replies()[0], Result)


def test_what_a_client_left_behind_waits_for_all_others(server):
    for number in range(3):
        server.ask([f"{number}/{place}" for place in range(8)], number=number)
    server.clients.outlet.subscription(b"\0a", 10.0)
    server.expire(10.0 + LEFT_SECONDS)
    for number in range(5):
        server.ask([f"{number}/0"], identity=b"b", number=number, now=11.0)
    jobs = []
    while job := server.ventilator.next_job(11.0):
        jobs += job.sequences
        server.answer(job, now=11.0)
    assert jobs == [f"{number}/0" for number in range(5)] and len(server.ventilator.pending) == 3
    server.work(now=11.1 + QUIET_SECONDS)
    assert server.is_empty(), "nobody else wanted anything"
    server.join(b"a")
    assert [type(reply) for reply in server.replies()] == [Result] * 3, "and it has come back for it"


def test_who_comes_back_has_its_turn_again(server):
    server.ask([f"1/{place}" for place in range(8)])
    job = server.ventilator.next_job(0.0)
    server.ask([f"2/{place}" for place in range(8)], number=2)
    server.clients.outlet.subscription(b"\0a", 10.0)
    server.expire(10.0 + LEFT_SECONDS)
    server.answer(job, now=11.0)
    server.ask(["3/0"], identity=b"b", number=3, now=11.0)
    server.work(now=11.0)
    assert len(server.ventilator.pending) == 1
    server.join(b"a")
    server.work(now=11.0)
    assert server.is_empty() and len(server.replies()) == 2


def test_what_is_sent_for_somebody_who_has_left_is_computed_as_ever(server):
    """One program asks, another one listens under the same identity, later."""
    server.clients.outlet.subscription(b"\0a", 10.0)
    server.expire(10.0 + LEFT_SECONDS)
    server.ask(["1/0"], now=12.0)
    server.work(now=12.0)
    assert server.is_empty()


# ---- who is about ----------------------------------------------------------------------------------------------------

def is_about(server):
    return server.scheduler.target_seconds(0.0) == INTERACTIVE_SECONDS


def test_a_small_request_is_interactive(server):
    server.ask([f"1/{place}" for place in range(4)])
    assert is_about(server)


def test_a_probe_is_not_interactive(server):
    server.ask(["1/0"], identity=PROBE + b"x")
    assert not is_about(server)


def test_bulk_is_not_interactive_and_hides_nobody(server):
    for number in range(90):
        server.ask([f"{number}/{place}" for place in range(5)], number=number)
    assert not is_about(server)
    server.ask(["90/0"], number=90)
    assert is_about(server), "a proxy has clients of every kind"


def test_a_flood_of_small_requests_is_not_interactive(server):
    for number in range(MAX_INTERACTIVE):
        server.ask([f"{number}/0"], number=number)
    server.scheduler.interactive(float("-inf"))
    for number in range(MAX_INTERACTIVE, 200):
        server.ask([f"{number}/0"], number=number)
    assert not is_about(server)
    server.ask(["1/0"], identity=b"b")
    assert is_about(server)
    server.work()
    server.scheduler.interactive(float("-inf"))
    server.ask(["201/0"], number=201)
    assert is_about(server), "its flood is over"


def test_the_rate_is_in_tokens_as_they_are_estimated(server):
    server.ask([f"1/{place} " + 4 * "word " for place in range(4)])
    job = server.ventilator.next_job(0.0)
    flight = server.scheduler.flights[job.job]
    server.answer(job, num_tokens=100, counts=[50] * 4,
                  seconds={"tokenize": 0.5, "compute": 0.5}, now=1.0)
    assert server.scheduler.workers[0].tokens_per_second == 100.0, "tokenizing takes time, too"
    assert 0.5 < server.scheduler.rate(server.scheduler.workers[0]) / 100.0 < 1.0, "it has begun to learn"
    assert flight.tokens < 100


# ---- who asks --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("command", [b"SHOW_CONFIG", b"SHOW_STATUS"])
@pytest.mark.parametrize("caller, is_told_all", [
    (Caller(), False), (Caller(is_local=True), True), (Caller(has_key=True), True)])
def test_status_tells_all_to_those_on_this_host_or_with_a_key(server, command, caller, is_told_all):
    server.send(b"a", command, b"1", b"0", caller=caller)
    reply, = server.replies()
    assert reply.values == {"asked by": "a", "in confidence": is_told_all}


@pytest.mark.parametrize("payload, length", [(b"SHOW_CONFIG", b"0"), (b'["x"]', b"1"), (b"TERMINATION", b"0")])
def test_who_was_expelled_gets_an_error_and_nothing_else(server, payload, length):
    server = Server(terminate_token=b"word")
    server.send(b"a", payload, b"1", length, b"word" if payload == b"TERMINATION" else b"{}",
                caller=Caller(is_local=True, has_key=True, is_expelled=True))
    assert isinstance(server.error(), UnauthorizedError)
    assert server.is_empty() and not server.ventilator.termination_wanted


# ---- stopping --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("frames", [[b"0", b"TERMINATION", b"0", b"0"], [b"", b"TERMINATION", b"", b""]])
def test_a_client_of_this_host_may_stop_the_server(server, frames):
    server.send(*frames)
    assert server.ventilator.termination_wanted


def test_a_client_of_another_host_may_not(server):
    server.send(b"a", b"TERMINATION", b"0", b"0", caller=Caller())
    assert not server.ventilator.termination_wanted and isinstance(server.error(), UnauthorizedError)


def test_a_client_of_another_host_may_not_though_it_has_a_key(server):
    server.send(b"a", b"TERMINATION", b"0", b"0", caller=Caller(has_key=True))
    assert not server.ventilator.termination_wanted and isinstance(server.error(), UnauthorizedError)


@pytest.mark.parametrize("expected, given, stops", [
    (b"secret", b"secret", True), (b"secret", b"other", False), (b"secret", b"", False), (b"", b"", False),
    (b"", b"secret", False)], ids=repr)
def test_unless_it_has_the_token(expected, given, stops):
    server = Server(terminate_token=expected)
    server.send(b"a", b"TERMINATION", b"0", b"0", given, caller=Caller())
    assert server.ventilator.termination_wanted == stops


def test_a_stopping_server_finishes_what_it_has_and_refuses_the_rest(server):
    server.ask(["1/0"], number=1)
    server.ventilator.draining = True
    server.ask(["2/0"], number=2)
    server.work()
    refused, result = server.replies()
    assert isinstance(refused.error, UnavailableError) and refused.request_id == 2
    assert isinstance(result, Result) and result.request_id == 1


def test_at_the_end_everybody_is_told(server):
    for number in range(1, 6):
        server.ask([f"{number}/{index}" for index in range(6)], number=number)
    job = server.ventilator.next_job(0.0)
    server.publish(server.ventilator.no_worker("it broke"))
    assert sorted(reply.request_id for reply in server.replies()) == [1, 2, 3, 4, 5]
    assert all(isinstance(reply.error, WorkerLostError) and "it broke" in str(reply.error)
               for reply in server.replies())
    server.answer(job, now=1.0)
    assert len(server.replies()) == 5 and server.is_empty()


# ---- texts that cannot be encoded ------------------------------------------------------------------------------------

@pytest.mark.parametrize("trouble", ["raise", "nan"])
def test_the_guilty_texts_request_fails_and_no_other(server, trouble):
    server.ask(["1/0", "1/1", f"1/2 {trouble}", "1/3"], number=1)
    server.ask(["2/0", "2/1"], identity=b"b", number=2)
    server.work()
    error = server.error(b"a")
    assert isinstance(error, UnprocessableError) and error.index == 2
    reply, = server.replies(b"b")
    np.testing.assert_array_equal(reply.embedding, rows_of(["2/0", "2/1"]))
    assert server.is_empty()


def test_neighbours_of_a_vector_that_is_not_finite_are_answered_from_the_same_job(server):
    server.ask(["1/0", "1/1"], identity=b"a", number=1)
    server.ask(["2/0", "2/1 nan"], identity=b"b", number=2)
    server.ask(["3/0", "3/1"], identity=b"a", number=3)
    job = server.ventilator.next_job(0.0)
    order = [text[0] for text in job.sequences]
    assert sorted(order) == list("112233")
    server.answer(job, bad=[job.sequences.index("2/1 nan")])
    for reply in server.replies():
        np.testing.assert_array_equal(reply.embedding, rows_of([f"{reply.request_id}/0", f"{reply.request_id}/1"]))
    assert len(server.replies()) == 2 and not server.replies(b"b")


def test_token_rows_beside_a_bad_text_are_cut_by_their_lengths(server):
    server.ask(["1/0 nan"], number=1)
    server.ask(["2/0", "2/1"], number=2, tokens=True)
    job = server.ventilator.next_job(0.0)
    assert job.sequences == ["1/0 nan", "2/0", "2/1"]
    array = np.arange(14, dtype=np.float32).reshape(7, 2)
    server.answer(job, [2, 3, 2], [0, 1, 0], [2, 2, 2], [["x"], ["y"], ["z"]],
                  bad=[0], array=array)
    reply, = server.replies()
    np.testing.assert_array_equal(reply.embedding, [array[2:5], [*array[5:7], [0, 0]]])
    assert reply.tokens == [["y"], ["z"]]


def test_a_condemned_text_is_refused_for_a_while(server):
    server.ask(["1/0 raise"], number=1)
    server.work()
    for identity, number in [(b"a", 2), (b"b", 3)]:
        server.ask(["1/1", "1/0 raise"], identity=identity, number=number, now=1.0)
        reply = server.replies(identity)[-1]
        assert isinstance(reply.error, UnprocessableError) and reply.error.index == 1
    assert server.ventilator.counts["condemned"] == 2 and server.is_empty()
    server.ask(["1/0 raise"], number=4, now=CONDEMNED_SECONDS)
    assert len(server.ventilator.pending) == 1


def test_a_text_that_is_a_list_is_condemned_as_a_list(server):
    server.ask([["1", "0"]])
    job = server.ventilator.next_job(0.0)
    server.publish(server.ventilator.fault(Fault(0, 1, job.job, "internal", "it raises"), 0.0))
    server.ask([["1", "0"]], identity=b"b")
    assert isinstance(server.error(b"b"), UnprocessableError)


@pytest.mark.parametrize("again, is_the_same", [
    ({"texts": [["1 x", "0\n"]], "input": "pairs"}, True), ({"texts": [["1 x", "0\n"]]}, False),
    ({"texts": ["1 x ||| 0\n"], "input": "texts"}, False), ({"texts": [["1 x", "0"]], "input": "pairs"}, False)])
def test_a_pair_is_condemned_as_a_pair(server, again, is_the_same):
    server.ask([["1 x", "0\n"]], input="pairs")
    job = server.ventilator.next_job(0.0)
    server.ventilator.fault(Fault(0, 1, job.job, "internal", "it raises"), 0.0)
    server.ask(identity=b"b", **again)
    assert bool(server.replies(b"b")) is is_the_same


def test_memory_for_condemned_texts_is_bounded_in_number_and_time(server):
    for number in range(MAX_CONDEMNED + 10):
        server.ventilator.condemned[b"%d" % number] = float(number)
    server.ask(["1/0 raise"], now=1.0)
    server.work(now=1.0)
    assert len(server.ventilator.condemned) <= MAX_CONDEMNED
    server.expire(1e9)
    assert not server.ventilator.condemned


def test_a_lost_workers_requests_are_given_again(server):
    server.ask(["1/0"])
    server.ventilator.next_job(0.0)
    server.publish(server.ventilator.lost(0, 0.0))
    assert server.ventilator.next_job(0.0) is None
    server.scheduler.started(0)
    server.scheduler.ready(0)
    job = server.ventilator.next_job(0.0)
    assert job.sequences == ["1/0"] and job.incarnation == 2
    server.answer(job)
    assert isinstance(server.replies()[0], Result)


def test_errors_are_answers_with_a_code(server):
    server.ask([1])
    assert isinstance(server.error(), BertServingError) and server.error().code == "bad_request"


def test_statistics_count_what_came(server):
    server.ask(["1/0", "1/1"])
    server.send(b"a", b"SHOW_STATUS", b"2", b"0")
    values = server.ventilator.statistics.to_status(1.0)
    assert (values["num_data_request"], values["num_total_seq"], values["num_sys_request"]) == (1, 2, 1)


# ---- what the texts are ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("texts, kind, expected", [
    (["a ||| b", "c", "a ||| b\nc"], None, [Pair("a", "b"), "c", "a ||| b\nc"]),
    ([["a", "|||", "b"], ["c"]], None, [Pair(["a"], ["b"]), ["c"]]),
    (["a ||| b", "c"], "texts", ["a ||| b", "c"]),
    ([["a", "|||", "b"], ["c"]], "tokens", [["a", "|||", "b"], ["c"]]),
    ([["a ||| b", "c\n"]], "pairs", [Pair("a ||| b", "c\n")]),
    ([[["a"], ["b", "|||"]]], "pairs", [Pair(["a"], ["b", "|||"])]),
])
def test_workers_get_what_the_client_said(server, texts, kind, expected):
    server.ask(texts, **({"input": kind} if kind else {}))
    assert server.ventilator.next_job(0.0).sequences == expected


# ---- what is told of it ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("wanted, shown", [(True, True), (False, False)])
def test_tokens_for_who_asks_for_them(server, wanted, shown):
    server.ask(["1/0"], tokens=wanted)
    job = server.ventilator.next_job(0.0)
    assert job.options.tokens is shown


def test_a_job_shows_tokens_if_one_of_its_requests_wants_them_and_only_that_one_gets_them(server):
    server.ask(["1/0"], b"a", tokens=True)
    server.ask(["2/0"], b"b")
    job = server.ventilator.next_job(0.0)
    assert job.options.tokens and len(job.sequences) == 2
    server.answer(job, tokens=[[text] for text in job.sequences])
    assert server.replies(b"a")[0].tokens == [["1/0"]]
    assert server.replies(b"b")[0].tokens is None


def test_a_server_that_shows_tokens_shows_them_to_all(server):
    server.ventilator.show_tokens = True
    server.ask(["1/0"], tokens=False)
    assert server.ventilator.next_job(0.0).options.tokens


def test_waiting_is_from_the_arrival_until_the_worker_has_it(server):
    server.ask(["1/0"], now=1.0)
    job = server.ventilator.next_job(2.0)
    server.answer(job, num_tokens=3, counts=[3], now=4.0)
    statistics = server.ventilator.statistics
    assert (statistics.waiting.sum, statistics.answering.sum) == (1.0, 3.0)
    assert statistics.outcomes == {"ok": [1, 1, 3]}


def test_every_end_of_a_request_is_counted_once(server):
    server.ask(["1/0", "1/1 nan"])
    server.ask(["2/0"] * 1100, b"b")
    server.send(b"a", b"junk", b"9", b"1")
    server.send(b"", b"junk")
    server.work()
    assert server.ventilator.statistics.outcomes == {
        "ok": [0, 0, 0], "too_large": [1, 1100, 0], "bad_request": [2, 0, 0], "unprocessable": [1, 2, 0]}
