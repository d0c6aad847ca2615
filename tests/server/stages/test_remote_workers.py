"""The port for workers of other hosts, with real sockets on loopback and one step at a time."""
import logging
import time

import numpy as np
import pytest
import zmq
from bert_serving.server.core import remote_messages as remote
from bert_serving.server.core.batching import Backlog
from bert_serving.server.core.membership import Members, Reason, Refusal
from bert_serving.server.core.messages import HEAD, Fault, Job, Rows, encode_from_worker
from bert_serving.server.core.remote_messages import Welcome, encode, encode_proof
from bert_serving.server.core.remote_rows import VectorKind
from bert_serving.server.core.scheduler import Scheduler, WorkerState
from bert_serving.server.stages import endpoints
from bert_serving.server.stages.remote_workers import RemoteWorkers, in_words

from ..core.conftest import make_pending

GOLDEN = np.arange(1, 9, dtype=np.float32).reshape(2, 4)


class Host:
    """A host that the test plays: the socket of its connection."""

    def __init__(self, setup, key="a"):
        self.setup, self.key = setup, key
        self.socket = setup.context.socket(zmq.DEALER)
        self.socket.connect(f"tcp://127.0.0.1:{setup.port}")

    def say(self, kind, **values):
        self.socket.send_multipart(encode(kind, **values))
        return self

    def join(self, **values):
        return self.say(remote.JOIN, **{"host": self.key, "name": f"host-{self.key}", "pid": 7, "version": "2",
                                        "protocol": remote.PROTOCOL, **values})

    def ready(self, worker=0, proof=GOLDEN):
        return self.say(remote.READY, worker=worker, proof=encode_proof(proof), device=-1, num_threads=1,
                        about="echo")

    def frames(self):
        self.setup.until(lambda: self.socket.poll(0), "a message")
        return self.socket.recv_multipart()

    def hear(self, *kinds):
        """The next word of one of these kinds; signs of life are not waited for, but come."""
        while True:
            kind, values = remote.decode(self.frames())
            if kind != remote.ALIVE or kind in kinds:
                assert kind in kinds, (kind, values)
                return values

    def member(self):
        """It has joined, and has a worker."""
        self.join().hear(remote.WELCOME)
        before = len(self.setup.members.places)
        self.ready()
        self.setup.until(lambda: len(self.setup.members.places) > before, "the worker")
        return self

    def answer(self, head, array, **values):
        _, slot, incarnation, job = HEAD.unpack(head)
        self.socket.send_multipart([remote.ANSWER, *encode_from_worker(Rows(
            slot, incarnation, job, array, num_tokens=3, seconds={"compute": 0.1}, counts=[3] * len(array),
            **values))])

    def job(self):
        """(worker, head) of a job that comes."""
        while (frames := self.frames())[0] == remote.ALIVE:
            pass
        assert frames[0] == remote.JOB, frames
        number, head, _ = remote.decode_job(frames)
        return number, head


class Setup:
    """The port, and those who have joined."""

    def __init__(self, context, own=0):
        self.context = context
        socket, self.port = endpoints.remote_workers(context, "127.0.0.1", 0, 1_000_000)
        self.backlog = Backlog(8, 4, 25)
        self.scheduler = Scheduler(own, self.backlog, 60.0)
        self.members = Members(self.scheduler, 8.0, VectorKind(), "2", 5, self.scheduler.lost)
        self.admitted, self.taken = True, []
        self.remote_workers = RemoteWorkers(socket, self.members, Welcome({}, 7, 8.0),
                                            lambda frame: self.admitted)

    def step(self, timeout_ms=20):
        if self.remote_workers.socket.poll(timeout_ms):
            self.remote_workers.on_message(self.taken.append)

    def until(self, condition, what):
        for _ in range(300):
            if result := condition():
                return result
            self.step()
        raise AssertionError(f"{what} does not come")

    def tick(self, seconds=0.0):
        """Let so much time pass since hosts were heard of."""
        for host in self.members.hosts.values():
            host.heard -= seconds
        self.remote_workers._next_alive = 0.0
        self.remote_workers.tick(time.monotonic())

    def give(self, size=1):
        """Hand out a job; its flight, and whether it went."""
        self.backlog.add(make_pending(len(self.scheduler.flights) + 1, size))
        flight = self.scheduler.next_flight(time.monotonic())
        return flight, self.remote_workers.give(Job(flight.slot, 1, flight.job, ["x"] * size))


@pytest.fixture
def setup(context, caplog):
    caplog.set_level(logging.INFO)
    return Setup(context)


# ---- joining ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, values", [
    (remote.ALIVE, {}), (remote.READY, {"worker": 0}), (remote.GONE, {"worker": 0}),
    (remote.LEAVE, {})], ids=["alive", "ready", "gone", "leave"])
def test_who_has_not_joined_is_asked_who_it_is(setup, kind, values):
    assert Host(setup).say(kind, **values).hear(remote.WHO) == {}
    assert not setup.members.hosts


def test_an_answer_of_one_who_was_given_up_is_a_reason_to_ask(setup, caplog):
    host = Host(setup)
    host.answer(HEAD.pack(5, 0, 1, 1), GOLDEN)
    host.hear(remote.WHO)
    assert not caplog.records and not setup.taken


def test_who_joins_gets_its_orders_and_signs_of_life(setup, caplog):
    host = Host(setup).join()
    assert host.hear(remote.WELCOME) == {"options": {}, "largest_job": 7, "timeout": 8.0}
    setup.tick()
    host.hear(remote.ALIVE)
    assert caplog.messages == ["host-a (process 7) has joined"]


@pytest.mark.parametrize("values, told", [
    ({"version": "1"}, "bert-serving-server 1, this server is 2"), ({"protocol": 99}, "install the same")],
    ids=["version", "protocol"])
def test_who_does_not_fit_is_refused(setup, caplog, values, told):
    assert told in Host(setup).join(**values).hear(remote.REFUSED)["reason"]
    assert not setup.members.hosts
    assert caplog.messages[0].startswith("refused 127.0.0.1: workers of host-a: ")


def test_whose_key_was_taken_off_the_list_is_refused(setup):
    setup.admitted = False
    assert "key" in Host(setup).join().hear(remote.REFUSED)["reason"]
    assert not setup.members.hosts


@pytest.mark.parametrize("frames", [
    [b""], [b"\xff"], [b"x" * 10_000], [b"\0", b"{"], [b"\0", b"[]"], [b"\0", b"{}"], [b"\0"] * 9, [b"", b"", b""],
    [remote.JOB, b"", b"", b""], encode(remote.JOIN, host="a\nb")], ids=range(10))
def test_nonsense_of_strangers_changes_nothing_and_fills_no_log(setup, caplog, frames):
    stranger = Host(setup)
    for _ in range(5):
        stranger.socket.send_multipart(frames)
    Host(setup, "b").member()
    assert len(setup.members.hosts) == 1
    lines = [line for line in caplog.messages if "refused" in line]
    assert len(lines) == 1 and lines[0].isprintable() and len(lines[0]) < 300


def test_the_address_of_a_stranger_is_in_the_log(setup, caplog):
    Host(setup).socket.send_multipart([b"\xff"])
    setup.until(lambda: caplog.messages, "the line")
    assert caplog.messages[0].startswith("refused 127.0.0.1: it sent a message of kind ")


# ---- workers ---------------------------------------------------------------------------------------------------------

def test_a_worker_that_is_ready_gets_jobs_and_answers_them(setup, caplog):
    host = Host(setup).member()
    flight, went = setup.give(2)
    assert went
    worker, head = host.job()
    assert worker == 0 and HEAD.unpack(head)[3] == flight.job
    host.answer(head, np.ones((2, 4), np.float32))
    answer, = setup.until(lambda: setup.taken, "the answer")
    assert answer.job == flight.job and answer.counts == [3, 3]
    assert "worker 0, on host-a (process 7), is ready: echo" in caplog.messages


def test_a_fault_is_passed_on(setup):
    host = Host(setup).member()
    flight, _ = setup.give()
    host.job()
    host.socket.send_multipart([remote.ANSWER, *encode_from_worker(Fault(9, 9, flight.job, "internal", "no"))])
    assert setup.until(lambda: setup.taken, "the answer") == [Fault(9, 9, flight.job, "internal", "no")]


def test_a_worker_that_computes_something_else_is_refused_with_its_host(setup, caplog):
    Host(setup, "first").member()
    host = Host(setup).join()
    host.hear(remote.WELCOME)
    assert "same model" in host.ready(3, -GOLDEN).hear(remote.REFUSED)["reason"]
    assert len(setup.members.hosts) == 1
    assert caplog.messages[-1].startswith("refused worker 3 of host-a (process 7): its vectors of the golden sentences")


def test_who_is_ready_before_the_servers_own_workers_is_measured_when_they_are(context):
    setup = Setup(context, own=1)
    early, idle = Host(setup, "early").join(), Host(setup, "idle").join()
    early.hear(remote.WELCOME)
    idle.hear(remote.WELCOME)
    host = next(host for host in setup.members.hosts.values() if host.key == "early")
    early.ready()
    setup.until(lambda: host.unheard, "the worker")
    assert not setup.members.places
    setup.remote_workers.learn({"proof": encode_proof(GOLDEN)})
    early.hear(remote.WHO)
    assert [host.key for host in setup.members.hosts.values()] == ["idle"]
    early.member()
    assert not idle.socket.poll(50)


def test_a_worker_that_is_gone_gives_back_what_it_held(setup, caplog):
    host = Host(setup).member()
    setup.give()
    host.say(remote.GONE, worker=0, how="killed\nby SIGKILL")
    setup.until(lambda: setup.scheduler.suspects, "what it held")
    assert not setup.members.places
    assert "worker 0, on host-a (process 7), was lost (killed\\nby SIGKILL); what it held is given again" in \
        caplog.messages
    host.say(remote.GONE, worker=0).say(remote.GONE, worker=5).ready()
    setup.until(lambda: setup.members.places, "the next one")


@pytest.mark.parametrize("frames", [
    [remote.ANSWER], [remote.ANSWER, b"", b""], [remote.ANSWER, HEAD.pack(5, 0, 1, 1), b"{}", b""],
    encode(remote.READY, worker=-1), encode(remote.GONE), encode(remote.WELCOME), encode(remote.KILL),
    [remote.JOB, b"", b"", b""], [b""], [b"\xff"], [remote.READY, b"{" * 1000]], ids=range(11))
def test_nonsense_of_a_member_ends_its_membership_alone(setup, caplog, frames):
    other, host = Host(setup, "other").member(), Host(setup).member()
    setup.give()
    setup.give()
    host.socket.send_multipart(frames)
    setup.until(lambda: len(setup.members.hosts) == 1, "the end")
    assert [member.key for member in setup.members.hosts.values()] == ["other"]
    assert "expelled" in caplog.messages[-2] and caplog.messages[-1] == "1 worker fewer; what they held is given again"
    assert all(line.isprintable() and len(line) < 500 for line in caplog.messages)
    assert len(setup.scheduler.suspects) == 1 and len(setup.scheduler.flights) == 1
    _, head = other.job()
    other.answer(head, np.ones((1, 4), np.float32))
    setup.until(lambda: setup.taken, "the other one's answer")


def test_who_is_expelled_is_told_why(setup):
    host = Host(setup).member()
    host.socket.send_multipart([b"\xff"])
    assert host.hear(remote.REFUSED)["reason"].startswith("it sent a message of kind")


# ---- who goes --------------------------------------------------------------------------------------------------------

def test_who_is_silent_counts_as_lost_and_is_asked_when_it_comes_back(setup, caplog):
    silent, other = Host(setup, "silent").member(), Host(setup, "other").member()
    setup.give()
    setup.give()
    setup.tick(6.0)
    other.say(remote.ALIVE)
    heard = setup.members.hosts
    setup.until(lambda: any(time.monotonic() - host.heard < 5 for host in heard.values()), "the sign of life")
    setup.tick(3.0)
    assert [host.key for host in setup.members.hosts.values()] == ["other"] and len(setup.scheduler.suspects) == 1
    assert any("host-silent (process 7) was not heard of for" in line for line in caplog.messages)
    silent.job()
    silent.say(remote.ALIVE)
    while remote.decode(silent.frames())[0] != remote.WHO:
        pass
    silent.member()


def test_a_connection_that_is_gone_is_noticed_by_the_next_job(setup, caplog):
    host = Host(setup).member()
    host.socket.close(0)
    setup.until(lambda: not setup.remote_workers._send(next(iter(setup.members.hosts)), [remote.ALIVE]), "the end")
    flight, went = setup.give()
    assert not went
    setup.scheduler.unsent(flight.job)  # as the broker does
    setup.tick()
    assert not setup.members.hosts and len(setup.scheduler.suspects) == 1
    assert caplog.messages[-2:] == ["the connection to host-a (process 7) is gone",
                                    "1 worker fewer; what they held is given again"]


def test_a_connection_that_is_gone_is_noticed_by_signs_of_life(setup, caplog):
    Host(setup).member().socket.close(0)
    setup.until(lambda: setup.tick() or not setup.members.hosts, "the end")
    assert "the connection to host-a (process 7) is gone" in caplog.messages


def test_a_job_for_nobody_goes_nowhere(setup):
    assert not setup.remote_workers.give(Job(7, 1, 1, ["x"]))
    setup.tick()


def test_a_host_of_many_workers_gets_all_its_jobs_at_once(setup):
    """More than libzmq keeps for a connection unless it is told otherwise, and it reads none meanwhile."""
    host = Host(setup).member()
    peer = next(iter(setup.members.hosts))
    assert all(setup.remote_workers._send(peer, remote.encode_job(0, Job(0, 1, job, ["x"]))) for job in range(4000))
    assert host.job()


def test_strangers_who_do_not_read_do_not_fill_the_memory(setup, monkeypatch):
    monkeypatch.setattr(endpoints, "REMOTE_WORKERS_SNDHWM", 10)
    limited = Setup(setup.context)
    stranger = limited.context.socket(zmq.DEALER)
    stranger.rcvhwm, stranger.sndhwm = 1, 0
    stranger.connect(f"tcp://127.0.0.1:{limited.port}")
    asked = []
    send = limited.remote_workers._send
    limited.remote_workers._send = lambda peer, frames: asked.append(send(peer, frames))
    # What the kernel keeps for a connection is some megabytes; a WHO has a few bytes.
    for _ in range(400_000):
        stranger.send(remote.ALIVE)
        if not len(asked) % 64:
            limited.step(0)
        if False in asked:
            break
    limited.until(lambda: False in asked, "the limit")


def test_a_worker_that_hangs_is_to_be_replaced(setup, caplog):
    host = Host(setup).member()
    flight, _ = setup.give()
    host.job()
    flight.since -= 1000.0
    setup.tick()
    told = host.hear(remote.KILL)
    assert told["worker"] == 0 and "tokens for" in told["why"]
    setup.tick()
    assert sum("hangs" in line for line in caplog.messages) == 1, "once is enough"


def test_a_worker_that_its_host_does_not_end_is_done_without(setup, caplog):
    host = Host(setup).member()
    flight, _ = setup.give()
    host.job()
    for _ in range(2):
        flight.since -= 1000.0
        setup.tick()
    assert "still hangs" in caplog.text and not setup.scheduler.flights and setup.scheduler.suspects


def test_a_worker_of_this_server_that_hangs_is_no_matter_here(context):
    setup = Setup(context, own=1)
    setup.scheduler.started(0)
    setup.scheduler.ready(0)
    setup.backlog.add(make_pending(1, 1))
    setup.scheduler.next_flight(0.0).since -= 1000.0
    setup.tick()


def test_who_leaves_ends_what_it_has_and_is_let_go(setup, caplog):
    host = Host(setup).member()
    flight, _ = setup.give()
    _, head = host.job()
    host.say(remote.LEAVE)
    setup.until(lambda: setup.scheduler.workers[0].state is WorkerState.LEAVING, "the wish")
    setup.tick()
    host.ready(1)
    assert setup.members.hosts
    host.answer(head, np.ones((1, 4), np.float32))
    setup.until(lambda: setup.taken, "the answer")
    setup.scheduler.landed(flight.job, 1.0)  # as the broker does
    setup.tick()
    assert host.hear(remote.BYE)["reason"] == "all that this host had to do is done"
    assert not setup.members.hosts and not setup.scheduler.suspects
    assert caplog.messages[-2:] == ["host-a (process 7) leaves, with 1 worker", "host-a (process 7) has left"]


def test_everybody_is_told_when_the_server_stops(setup):
    hosts = [Host(setup, key).member() for key in "ab"]
    setup.remote_workers.close()
    for host in hosts:
        assert host.socket.poll(5000)
        assert remote.decode(host.socket.recv_multipart()) == (remote.BYE, {"reason": "the server stops"})


def test_many_messages_are_taken_in_portions(setup):
    """So that clients have their turn."""
    host = Host(setup).member()
    for _ in range(300):
        host.say(remote.ALIVE)
    steps = 0
    host.say(remote.LEAVE)
    while not next(iter(setup.members.hosts.values())).leaving:
        setup.step()
        steps += 1
    assert steps >= 300 // 64


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.name)
def test_every_refusal_has_words_for_people(reason):
    told = in_words(Refusal(reason, "7.0"), "8.0")
    assert told and "\n" not in told and len(told) < 200
    assert {Reason.VERSION: "it is bert-serving-server 7.0, this server is 8.0; install the same on both",
            Reason.TOO_MANY_HOSTS: "which is the most", Reason.TOO_MANY_WORKERS: "which is the most",
            Reason.OTHER_VECTORS: "this server's: 7.0; has it the same model?"}[reason] in told
