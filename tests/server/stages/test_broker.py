"""The loop, with real sockets on loopback and one step at a time: every event reaches the room that decides."""
import itertools
import json
import signal
import socket
from collections import deque

import numpy as np
import pytest
import zmq
from bert_serving.client import protocol
from bert_serving.client.errors import (OverloadedError, RequestError, UnauthorizedError, UnavailableError,
                                        UnprocessableError, WorkerLostError)
from bert_serving.server.core import messages
from bert_serving.server.core.batching import Backlog
from bert_serving.server.core.messages import Fault, Job, Ready, Rows
from bert_serving.server.core.outlet import Outlet
from bert_serving.server.core.scheduler import Scheduler, WorkerState
from bert_serving.server.core.sink import Reply, Sink
from bert_serving.server.core.statistics import Statistics
from bert_serving.server.core.ventilator import Limits, Ventilator
from bert_serving.server.errors import EngineError
from bert_serving.server.stages import broker as module
from bert_serving.server.stages import endpoints
from bert_serving.server.stages.broker import Broker


class FakeSupervisor:
    """Stands for the supervisor: remembers what it was told."""

    def __init__(self, scheduler):
        self.scheduler, self.failure, self.told, self.ticks = scheduler, None, [], []

    def start(self, watch, unwatch):
        self.told.append("start")

    def on_ready(self, message):
        self.told.append(message)
        self.scheduler.ready(message.slot)

    def on_start_fault(self, message):
        self.told.append(message)

    def tick(self, now):
        self.ticks.append(now)

    def stop(self):
        self.told.append("stop")


class Client:
    """The two sockets of a client."""

    def __init__(self, setup, identity, subscribe=True):
        self.identity = identity
        context = setup.client_context
        self.sender, self.receiver = context.socket(zmq.PUSH), context.socket(zmq.SUB)
        self.sender.connect(f"tcp://127.0.0.1:{setup.port}")
        if subscribe:
            self.receiver.subscribe(identity)
        self.receiver.connect(f"tcp://127.0.0.1:{setup.port_out}")

    def ask(self, texts, number=1):
        self.sender.send_multipart(protocol.encode_request(self.identity, number, texts))

    def command(self, name, number=1):
        self.sender.send_multipart(protocol.encode_command(self.identity, name, number))


class Setup:
    """A broker with its rooms, and one worker that the test plays."""

    def __init__(self, context, remote_workers=None):
        self.context = self.client_context = context
        front, self.port = endpoints.front(context, "127.0.0.1", 0, 10**6)
        outlet_socket, self.port_out = endpoints.outlet(context, "127.0.0.1", 0)
        results, pipe = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        results.bind("inproc://results")
        pipe.bind("inproc://jobs")
        backlog = Backlog(8, 4, 25)
        self.scheduler = Scheduler(1, backlog, 60.0)
        self.outlet = Outlet(10**7, 10**8, 30.0)
        statistics = Statistics(0.0)
        self.ventilator = Ventilator(Limits(max_message_bytes=10**6, max_bytes=10**7, max_size=10**4), backlog,
                                     self.scheduler, Sink(statistics, None, 512), self.outlet, statistics,
                                     lambda command, privileged: {"server_version": "1.10.0", "all": privileged})
        self.supervisor = FakeSupervisor(self.scheduler)
        self.broker = Broker(front, outlet_socket, results, [pipe], self.ventilator, self.outlet, self.supervisor,
                             remote_workers)
        self.jobs, self.to_results = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        self.to_results.connect("inproc://results")
        self.scheduler.started(0)

    def with_worker(self):
        self.jobs.connect("inproc://jobs")
        self.scheduler.ready(0)
        return self

    def until(self, condition, what):
        for _ in range(300):
            if result := condition():
                return result
            self.broker.step(20)
        raise AssertionError(f"{what} does not come")

    def client(self, identity, subscribe=True):
        client = Client(self, identity, subscribe)
        if subscribe:
            count = self.outlet.subscribers.get(identity, 0)
            self.until(lambda: self.outlet.subscribers.get(identity, 0) > count, "the subscription")
        return client

    def next_job(self):
        self.until(lambda: self.jobs.poll(0), "a job")
        return messages.decode_to_worker(self.jobs.recv_multipart())

    def say(self, message):
        """What the worker says."""
        self.to_results.send_multipart(messages.encode_from_worker(message))

    def do(self, job, width=4):
        self.say(Rows(job.slot, job.incarnation, job.job, vectors(job.sequences, width), num_tokens=5,
                      seconds={"compute": 1e-6}))

    def reply(self, client):
        self.until(lambda: client.receiver.poll(0), "a reply")
        return protocol.decode_reply(client.receiver.recv_multipart())

    def status(self, identity, values, now=0.0):
        """Have a reply published."""
        self.broker.publish([Reply(identity, protocol.encode_status(values, b"1"))], now)

    def quiet(self, client):
        """Whether nothing comes, though everything is done that there is."""
        for _ in range(5):
            self.broker.step(10)
        return not client.receiver.poll(0)


def vectors(texts, width=4):
    """float32 [n, width]: a text's length, and nothing else."""
    array = np.zeros((len(texts), width), np.float32)
    array[:, 0] = [len(text) for text in texts]
    return array


def running(setup, num_remote=0):
    for _ in range(num_remote):
        slot = setup.scheduler.add()
        setup.scheduler.started(slot)
        setup.scheduler.ready(slot)
    yield setup
    setup.broker.close_waker()


@pytest.fixture
def setup(context):
    yield from running(Setup(context))


# ---- clients ---------------------------------------------------------------------------------------------------------

def test_from_request_to_result(setup):
    client = setup.with_worker().client(b"a")
    client.ask(["x", "yy", "zzz"], 7)
    job = setup.next_job()
    assert isinstance(job, Job) and (job.slot, job.incarnation, job.sequences) == (0, 1, ["x", "yy", "zzz"])
    setup.do(job)
    result = setup.reply(client)
    assert result.request_id == 7
    np.testing.assert_array_equal(result.embedding, vectors(["x", "yy", "zzz"]))
    assert not setup.scheduler.flights and not setup.ventilator.pending


def test_large_results_arrive_whole(setup):
    client = setup.with_worker().client(b"a")
    client.ask(["x", "yy"])
    setup.do(setup.next_job(), width=100_000)
    np.testing.assert_array_equal(setup.reply(client).embedding, vectors(["x", "yy"], 100_000))


def test_a_result_waits_for_its_client_to_subscribe(setup):
    client = setup.with_worker().client(b"a", subscribe=False)
    client.ask(["x"])
    setup.do(setup.next_job())
    setup.until(lambda: setup.outlet.held, "the result")
    client.receiver.subscribe(b"a")
    assert setup.reply(client).request_id == 1 and not setup.outlet.held


def test_nobody_hears_what_is_for_others(setup):
    setup.with_worker()
    short, long, everything = setup.client(b"a"), setup.client(b"ab"), setup.client(b"", subscribe=False)
    everything.receiver.subscribe(b"")
    long.ask(["x"])
    setup.do(setup.next_job())
    setup.reply(long)
    assert setup.quiet(short) and setup.quiet(everything)


def test_all_who_share_an_identity_hear_it(setup):
    setup.with_worker()
    one, other = setup.client(b"a"), setup.client(b"a")
    one.ask(["x"])
    setup.do(setup.next_job())
    assert setup.reply(one).request_id == setup.reply(other).request_id == 1


def test_who_comes_late_hears_what_was_published_and_nobody_else_hears_it_again(setup):
    setup.with_worker()
    speaker, neighbour, stranger = setup.client(b"a"), setup.client(b"a"), setup.client(b"a\1")
    longer = setup.client(b"ab")
    for number in (1, 2):
        speaker.ask(["x"], number)
        setup.do(setup.next_job())
        assert setup.reply(speaker).request_id == setup.reply(neighbour).request_id == number
    late = setup.client(b"a", subscribe=False)
    late.receiver.subscribe(b"a")
    late.receiver.subscribe(protocol.recent_subscription(b"a"))
    assert [setup.reply(late).request_id for _ in range(2)] == [1, 2]
    speaker.ask(["x"], 3)
    setup.do(setup.next_job())
    assert [setup.reply(client).request_id for client in (speaker, neighbour, late)] == [3, 3, 3]
    assert all(setup.quiet(client) for client in (speaker, neighbour, late, stranger, longer))
    assert setup.outlet.subscribers[b"a"] == 3


@pytest.mark.parametrize("subscription", [b"\0recent", b"a\0", b"a\0Recent", b"a\0recent\0", b"b\0recent", b"a\1"],
                         ids=repr)
def test_who_does_not_know_the_identity_hears_nothing_again(setup, subscription):
    speaker = setup.with_worker().client(b"a")
    speaker.ask(["x"])
    setup.do(setup.next_job())
    setup.reply(speaker)
    late = setup.client(b"", subscribe=False)
    late.receiver.subscribe(b"")
    late.receiver.subscribe(subscription)
    assert setup.quiet(late)
    speaker.ask(["x"], 2)
    setup.do(setup.next_job())
    setup.reply(speaker)
    assert setup.quiet(late)


@pytest.mark.parametrize("junk", [[b"\2junk"], [b""], [b"\2", b"in", b"parts"], [b"\2", b"\1a"]], ids=repr)
def test_nobody_hears_others_though_a_stranger_crosses_the_subscriptions(setup, junk):
    """libzmq 4.3.5 takes subscriptions behind a published message for those of the next connection in the row."""
    peers = [setup.context.socket(zmq.XSUB) for _ in range(3)]
    for peer in peers:
        peer.connect(f"tcp://127.0.0.1:{setup.port_out}")
        peer.send(b"\1known")
    setup.until(lambda: setup.outlet.subscribers.get(b"known") == 3, "the connections")
    stranger, one, other = peers
    stranger.send_multipart(junk)
    one.send(b"\1one")
    other.send(b"\1other")
    setup.until(lambda: setup.broker.outlet_socket.poll(20) == 0, "silence")
    for identity in (b"one", b"other"):
        setup.status(identity, {"for": identity.decode()})
    setup.quiet(Silence)
    for name, peer in (("stranger", stranger), ("one", one), ("other", other)):
        while peer.poll(50):
            assert json.loads(peer.recv_multipart()[1]) == {"for": name}


class Silence:
    """A client that hears nothing."""

    class receiver:
        @staticmethod
        def poll(timeout):
            return 0


def test_who_leaves_is_no_subscriber_any_more(setup):
    client = setup.client(b"a")
    client.receiver.close(0)
    setup.until(lambda: not setup.outlet.subscribers, "the end of the subscription")


def test_commands_are_answered_without_a_worker(setup):
    client = setup.client(b"a")
    client.command(b"SHOW_CONFIG", 3)
    assert setup.reply(client) == protocol.Status(3, {"server_version": "1.10.0", "all": True})


def test_bad_requests_are_answered(setup):
    client = setup.client(b"a")
    client.sender.send_multipart([b"a", b"{", b"1", b"1"])
    assert isinstance(setup.reply(client).error, RequestError)


def test_nonsense_on_the_ports_changes_nothing(setup):
    for port in (setup.port, setup.port_out):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(range(256)))
            setup.broker.step(10)
    pusher = setup.context.socket(zmq.PUSH)
    pusher.connect(f"tcp://127.0.0.1:{setup.port}")
    for frames in ([b""], [b""] * 50, [b"\0", b"\0", b"\0", b"\0"], [b"x" * 300, b"[]", b"1", b"0"]):
        pusher.send_multipart(frames)
    publisher = setup.context.socket(zmq.XSUB)
    publisher.connect(f"tcp://127.0.0.1:{setup.port_out}")
    for frames in ([b"\1"], [b"\1a\0b"], [b"\2", b"user", b"message"], [b""], [b"\1" + b"x" * 300], [b"\0never"]):
        publisher.send_multipart(frames)
    numbers = itertools.count()
    setup.until(lambda: setup.outlet.subscribers or publisher.send(b"\1last %d" % next(numbers)), "the end of it")
    client = setup.with_worker().client(b"a")
    client.ask(["x"])
    setup.do(setup.next_job())
    assert setup.reply(client).request_id == 1
    assert {identity[:5] for identity in setup.outlet.subscribers} == {b"a", b"last "}


def test_a_client_of_this_host_may_stop_the_server(setup):
    client = setup.client(b"a")
    client.sender.send_multipart(protocol.encode_termination())
    setup.until(lambda: setup.ventilator.termination_wanted, "the wish")


def test_a_client_of_another_host_may_not(setup, monkeypatch):
    monkeypatch.setattr(module, "LOOPBACK", ("no such address",))
    client = setup.client(b"a")
    client.command(b"TERMINATION")
    assert isinstance(setup.reply(client).error, UnauthorizedError) and not setup.ventilator.termination_wanted


class FakeDoor:
    """A door that lets everybody in, until somebody is expelled."""

    def __init__(self):
        self.clients, self.expelled, self.looks = self, False, 0

    def key_of(self, frame):
        return "the key"

    def admits(self, key):
        return key == "the key" and not self.expelled

    def tick(self, now):
        self.looks += 1


@pytest.fixture
def authenticator(setup):
    setup.broker.authenticator = FakeDoor()
    return setup.broker.authenticator


def test_who_has_a_key_may_know_all_wherever_it_is(setup, monkeypatch):
    monkeypatch.setattr(module, "LOOPBACK", ("no such address",))
    client = setup.client(b"a")
    for number, guarded in enumerate((False, True)):
        setup.broker.authenticator = FakeDoor() if guarded else None
        client.command(b"SHOW_STATUS", number)
        assert setup.reply(client).values["all"] is guarded
    client.command(b"TERMINATION")
    assert isinstance(setup.reply(client).error, UnauthorizedError) and not setup.ventilator.termination_wanted


def test_who_was_expelled_gets_nothing_from_now_on(setup, authenticator):
    client = setup.with_worker().client(b"a")
    client.ask(["x"])
    setup.do(setup.next_job())
    setup.reply(client)
    authenticator.expelled = True
    client.ask(["x"])
    client.command(b"SHOW_STATUS")
    client.command(b"TERMINATION")
    for _ in range(3):
        assert isinstance(setup.reply(client).error, UnauthorizedError)
    assert not setup.ventilator.pending and not setup.ventilator.termination_wanted


def test_the_door_looks_at_its_list_by_the_clock(setup, authenticator, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    for _ in range(3):
        setup.broker.step(0)
    assert authenticator.looks == 1
    now[0] += 1.5 * module.TICK_MS / 1e3
    setup.broker.step(0)
    assert authenticator.looks == 2


@pytest.mark.parametrize("address, loopback", [
    ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False),
    ("::ffff:10.0.0.1", False), ("1270.0.0.1", False), ("", False), (None, False)])
def test_addresses_of_this_host(address, loopback):
    class Frame:
        def get(self, name):
            assert name == "Peer-Address"
            if address is None:
                raise zmq.ZMQError(zmq.EINVAL)
            return address

    assert module._is_loopback(Frame()) == loopback


@pytest.fixture
def full(setup):
    setup.broker.send = Full(setup.broker.send)
    return setup.broker.send


def test_a_client_that_does_not_read_is_held_up_alone(setup, full):
    setup.with_worker()
    stalled, other = setup.client(b"stalled"), setup.client(b"other")
    full.identities = {b"stalled"}
    for number in (1, 2):
        stalled.ask(["x"], number)
        setup.do(setup.next_job())
    setup.until(lambda: setup.outlet.blocked, "the refusal")
    other.ask(["yy"])
    setup.do(setup.next_job())
    setup.reply(other)
    full.identities = set()
    assert [setup.reply(stalled).request_id for _ in range(2)] == [1, 2]


class Full:
    """A broker's ``send`` that refuses for some identities."""

    def __init__(self, send):
        self.send, self.identities, self.refused = send, set(), 0

    def __call__(self, subject, frames):
        if any(subject in (protocol.topic(identity), protocol.recent_topic(identity)) for identity in self.identities):
            self.refused += 1
            return False
        return self.send(subject, frames)


def test_a_result_that_cannot_be_kept_becomes_an_error_that_can(setup):
    setup.outlet.max_client_bytes = 3000
    client = setup.with_worker().client(b"late", subscribe=False)
    client.ask(["x"] * 3)
    setup.do(setup.next_job(), width=1000)
    setup.until(lambda: setup.outlet.held, "the error")
    client.receiver.subscribe(b"late")
    assert isinstance(setup.reply(client).error, OverloadedError)
    outcomes = setup.ventilator.statistics.outcomes
    assert (outcomes["ok"][0], outcomes["overloaded"][0]) == (0, 1), "counted once, as what it came to"
    assert setup.quiet(client) and not setup.ventilator.pending


def test_a_result_that_is_held_counts_as_answered(setup):
    client = setup.with_worker().client(b"late", subscribe=False)
    client.ask(["x"])
    setup.do(setup.next_job())
    setup.until(lambda: setup.outlet.held, "the result")
    assert setup.ventilator.statistics.outcomes["ok"][0] == 1


def test_who_does_not_read_is_not_waited_for_when_it_asks_for_what_was_sent_lately(setup, full):
    speaker = setup.with_worker().client(b"a")
    for number in (1, 2, 3):
        speaker.ask(["x"], number)
        setup.do(setup.next_job())
        setup.reply(speaker)
    full.identities = {b"a"}
    late = setup.client(b"a", subscribe=False)
    late.receiver.subscribe(protocol.recent_subscription(b"a"))
    setup.until(lambda: full.refused, "the refusal")
    assert setup.quiet(late) and full.refused == 1 and not setup.outlet.blocked


def test_who_comes_back_has_its_turn_again(setup, monkeypatch):
    back = []
    monkeypatch.setattr(setup.ventilator, "come_back", back.append)
    setup.client(b"a").receiver.close(0)
    setup.until(lambda: not setup.outlet.subscribers, "the end of the subscription")
    assert not back
    setup.client(b"a")
    setup.client(b"a")
    assert back == [b"a"]


def test_a_blocked_client_costs_other_steps_nothing(setup, full, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    setup.client(b"a")
    full.identities = {b"a"}
    setup.status(b"a", {}, now[0])
    setup.broker.step(0)
    refused, ticks = full.refused, len(setup.supervisor.ticks)
    for _ in range(20):
        setup.broker.step(0)
    assert (full.refused, len(setup.supervisor.ticks)) == (refused, ticks)
    now[0] += 1.5 * module.RETRY_MS / 1e3
    setup.broker.step(0)
    assert full.refused == refused + 1
    now[0] += 1.5 * module.TICK_MS / 1e3
    setup.broker.step(0)
    assert len(setup.supervisor.ticks) == ticks + 1


# ---- workers ---------------------------------------------------------------------------------------------------------

def test_the_supervisor_hears_of_workers_that_get_ready_or_do_not(setup):
    setup.say(Fault(0, 1, 0, "EngineError", "no memory"))
    setup.say(Ready(0, 1, {"about": "fake"}))
    setup.until(lambda: len(setup.supervisor.told) == 2, "the news")
    assert setup.supervisor.told == [Fault(0, 1, 0, "EngineError", "no memory"), Ready(0, 1, {"about": "fake"})]
    assert setup.scheduler.workers[0].state is WorkerState.READY


class FakeRemoteWorkers:
    """Workers of other hosts: remembers what it was given."""

    def __init__(self, context):
        self.given, self.learned, self.ticks, self.is_there = [], [], 0, True
        self.socket, self.other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        self.socket.bind("inproc://remote-workers")
        self.other.connect("inproc://remote-workers")

    def give(self, job):
        self.given.append(job)
        return self.is_there

    def learn(self, about):
        self.learned.append(about)

    def tick(self, now):
        self.ticks += 1

    def on_message(self, take):
        take(messages.decode_from_worker(self.socket.recv_multipart()))


@pytest.fixture
def remote_workers(context):
    return FakeRemoteWorkers(context)


@pytest.fixture
def joined(context, remote_workers):
    """A broker that has a worker on another host."""
    yield from running(Setup(context, remote_workers), 1)


def test_jobs_of_workers_elsewhere_go_there_and_their_answers_count(joined, remote_workers):
    client = joined.client(b"a")
    client.ask(["x"], 7)
    joined.until(lambda: remote_workers.given, "the job")
    job, = remote_workers.given
    remote_workers.other.send_multipart(messages.encode_from_worker(
        Rows(job.slot, job.incarnation, job.job, vectors(["x"]), num_tokens=3, seconds={"compute": 0.1})))
    assert joined.reply(client).request_id == 7 and remote_workers.ticks


def test_a_fault_of_a_worker_elsewhere_counts_too(joined, remote_workers):
    client = joined.client(b"a")
    client.ask(["x"])
    joined.until(lambda: remote_workers.given, "the job")
    job, = remote_workers.given
    fault = Fault(job.slot, 1, job.job, "internal", "it fails")
    remote_workers.other.send_multipart(messages.encode_from_worker(fault))
    assert isinstance(joined.reply(client).error, UnprocessableError)


def test_a_job_that_cannot_be_handed_over_is_no_fault_of_its_text(joined, remote_workers):
    client = joined.client(b"a")
    remote_workers.is_there = False
    client.ask(["x"])
    joined.until(lambda: remote_workers.given, "the job")
    flight, = joined.scheduler.flights.values()
    assert not flight.alone
    joined.scheduler.lost(flight.slot)
    joined.with_worker()
    joined.do(joined.next_job())
    assert joined.reply(client).request_id == 1


def test_what_a_worker_of_this_host_has_proved_is_the_measure_elsewhere(joined, remote_workers):
    joined.say(Ready(0, 1, {"proof": "golden"}))
    joined.until(lambda: remote_workers.learned, "the news")
    assert remote_workers.learned == [{"proof": "golden"}]


def test_the_loop_looks_again_when_a_worker_elsewhere_has_little_left_to_do(joined, remote_workers, monkeypatch):
    waits = []
    monkeypatch.setattr(joined.broker, "handle", waits.append)
    monkeypatch.setattr(joined.scheduler, "seconds_until_next", lambda now: due)
    for due in (None, 10.0, 0.0205, 0.0):
        joined.broker.step(100)
    assert waits == [100, 100, 21, 1]


def test_a_loop_that_was_stopped_excuses_the_jobs(setup, monkeypatch):
    excused, now = [], 100.0
    monkeypatch.setattr(setup.scheduler, "excuse", excused.append)
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    for now in (100.0, 100.2, 100.45, 161.0, 161.2, 161.7):
        setup.broker.step(0)
    assert excused == [pytest.approx(60.55), pytest.approx(0.5)]


def test_answers_that_wait_are_taken_before_anybody_is_found_to_hang(setup, monkeypatch):
    """As after something that kept the loop busy: the worker has answered, and nobody has looked."""
    waiting, client = [], setup.with_worker().client(b"me")
    client.ask(["a text"])
    setup.do(setup.next_job())
    assert setup.broker.results.poll(5000)
    monkeypatch.setattr(setup.broker, "handle", lambda timeout_ms: None)
    monkeypatch.setattr(setup.supervisor, "tick", lambda now: waiting.append(len(setup.scheduler.flights)))
    setup.broker._last_tick = 0.0
    setup.broker.step(0)
    assert waiting == [0]


def test_without_others_nobody_takes_their_jobs(setup):
    assert not setup.broker.give(Job(9, 1, 1, ["x"]))


def test_words_of_an_earlier_process_are_not_heard(setup):
    client = setup.client(b"a")
    setup.scheduler.lost(0)
    setup.scheduler.started(0)
    setup.say(Ready(0, 1, {}))
    setup.say(Fault(0, 1, 0, "EngineError", "no memory"))
    setup.quiet(client)
    assert not setup.supervisor.told and setup.scheduler.workers[0].state is WorkerState.STARTING


def test_rows_of_an_earlier_process_count_if_its_job_is_still_awaited(setup):
    client = setup.with_worker().client(b"a")
    client.ask(["x"])
    job = setup.next_job()
    setup.do(job)
    setup.broker.on_worker_lost(0)
    assert setup.reply(client).request_id == 1
    setup.do(job)
    assert setup.quiet(client)


def test_a_fault_leads_to_an_error(setup):
    client = setup.with_worker().client(b"a")
    client.ask(["x"])
    job = setup.next_job()
    setup.say(Fault(0, 1, job.job, "internal", "it raises"))
    error = setup.reply(client).error
    assert isinstance(error, UnprocessableError) and error.index == 0


def test_a_worker_that_is_just_gone_does_not_stop_the_loop(setup):
    client = setup.client(b"a")
    setup.scheduler.ready(0)                             # but nobody is at the other end of its pipe
    for number in range(5):
        client.ask(["x"], number)
    setup.until(lambda: setup.scheduler.flights, "the attempt")
    assert not any(flight.alone for flight in setup.scheduler.flights.values())
    client.command(b"SHOW_CONFIG", 9)
    assert setup.reply(client).request_id == 9
    assert not setup.broker.give(Job(0, 1, 1, ["x"]))


def test_many_jobs_in_one_go(setup):
    client = setup.with_worker().client(b"a")
    for number in range(100):
        client.ask([f"{number}"], number)
    replies = deque()
    while len(replies) < 100:
        if setup.jobs.poll(0):
            setup.do(messages.decode_to_worker(setup.jobs.recv_multipart()))
        setup.broker.step(20)
        while client.receiver.poll(0):
            replies.append(protocol.decode_reply(client.receiver.recv_multipart()).request_id)
    assert sorted(replies) == list(range(100))


# ---- the loop --------------------------------------------------------------------------------------------------------

def test_a_watch_that_an_earlier_event_has_ended_is_not_called(setup):
    pairs = [socket.socketpair() for _ in range(2)]
    called = []
    try:
        for (here, there), (other, _) in zip(pairs, reversed(pairs)):
            def handler(here=here, other=other):
                called.append(here)
                for one in (here, other):
                    setup.broker.unwatch(one.fileno())
            setup.broker.watch(here.fileno(), handler)
            there.send(b"x")
        setup.broker.step(0)
        setup.broker.step(0)
        assert len(called) == 1
    finally:
        for pair in pairs:
            for one in pair:
                one.close()


def test_stop_wakes_the_loop(setup):
    setup.broker.stop()
    assert dict(setup.broker.poller.poll(0)) == {setup.broker.waker.fileno(): zmq.POLLIN}
    for _ in range(100_000):                         # however often: it never blocks
        setup.broker.stop()
    setup.broker.step(0)


@pytest.fixture
def hasty(monkeypatch):
    """No long silence at the end."""
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(module, "MAX_QUIET_SECONDS", 0.2)


def test_run_until_asked_to_stop(setup, hasty):
    setup.broker.stop()
    setup.broker.run(drain_seconds=10.0)
    assert setup.supervisor.told == ["start", "stop"]


def test_what_was_accepted_is_finished_first(setup, hasty):
    client = setup.with_worker().client(b"a")
    client.ask(["x"])
    job = setup.next_job()
    setup.do(job)
    setup.broker.stop()
    setup.broker.run(drain_seconds=10.0)
    assert setup.reply(client).request_id == 1 and not setup.ventilator.pending


@pytest.mark.parametrize("insist", [False, True])
def test_what_cannot_be_finished_in_time_is_told(setup, hasty, insist):
    client = setup.with_worker().client(b"a")
    client.ask(["x"])
    setup.next_job()
    setup.broker.stop()
    if insist:
        setup.broker.stop()
    setup.broker.run(drain_seconds=60.0 if insist else 0.0)
    assert isinstance(setup.reply(client).error, UnavailableError)


def test_what_comes_while_stopping_is_refused(setup, monkeypatch):
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.2)
    client = setup.with_worker().client(b"a")
    setup.broker.stop()
    client.ask(["x"])
    setup.broker.run(drain_seconds=10.0)
    assert isinstance(setup.reply(client).error, UnavailableError)


def test_a_failure_is_told_to_those_who_wait_and_raised(setup, hasty):
    client = setup.client(b"a")
    client.ask(["x"])
    setup.until(lambda: setup.ventilator.pending, "the request")
    setup.supervisor.failure = EngineError("the GPU fell off")
    with pytest.raises(EngineError, match="the GPU fell off"):
        setup.broker.run(drain_seconds=10.0)
    error = setup.reply(client).error
    assert isinstance(error, WorkerLostError) and "the GPU fell off" in str(error)
    assert setup.supervisor.told == ["start", "stop"]


def test_our_own_mistake_leaves_no_children(setup):
    def mistake(now):
        raise RuntimeError("our own mistake")

    setup.supervisor.tick = mistake
    with pytest.raises(RuntimeError):
        setup.broker.run(drain_seconds=0.0)
    assert setup.supervisor.told[-1] == "stop"


@pytest.mark.parametrize("signals, asked", [
    ([signal.SIGTERM], 1), ([signal.SIGTERM, signal.SIGTERM], 2), ([signal.SIGINT], 2)])
def test_signals(setup, signals, asked):
    for number in signals:
        setup.broker.on_signal(number, None)
    assert setup.broker._stop_asked == asked


def test_close_frees_the_ports_and_lets_the_last_replies_leave(setup):
    elsewhere = zmq.Context()
    try:
        setup.client_context = elsewhere
        client = setup.client(b"a")
        setup.status(b"a", {"last": "words"})
        for own in (setup.jobs, setup.to_results):
            own.close(0)
        setup.broker.close(setup.context)
        assert setup.context.closed
        for port in (setup.port, setup.port_out):
            socket.create_server(("127.0.0.1", port)).close()
        assert client.receiver.poll(10_000)
        assert json.loads(client.receiver.recv_multipart()[1]) == {"last": "words"}
    finally:
        elsewhere.destroy(linger=0)
