"""Hosts that bring workers: their frames, what makes them members, and what is taken from them."""
import json
from dataclasses import replace

import numpy as np
import pytest
from bert_serving.server.core import membership as module
from bert_serving.server.core.batching import Backlog, Piece
from bert_serving.client.options import RequestOptions
from bert_serving.server.core.membership import (ALIVE, BYE, GONE, JOB, JOIN, KILL, LEAVE, PROTOCOL, READY, REFUSED,
                                                 WELCOME, WHO, Kind, Members, MembershipError, check_rows, decode,
                                                 decode_job, decode_proof, encode, encode_job, encode_proof,
                                                 readable)
from bert_serving.server.core.messages import HEAD, Fault, Job, Ready, Rows, decode_to_worker, encode_from_worker
from bert_serving.server.core.placement import CPU
from bert_serving.server.core.recovery import CREDIT, MAX_TOKENS_PER_SECOND, Fleet, Flight, WorkerState
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from .conftest import make_pending

GOLDEN = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
WIDTH = GOLDEN.shape[1]


def who(host="a", **values):
    return {"host": host, "name": f"host-{host}", "pid": 7, "version": "2", "protocol": PROTOCOL, **values}


def about(worker=0, proof=GOLDEN, **values):
    return {"worker": worker, "device": CPU, "num_threads": 2, "proof": encode_proof(proof), **values}


class Room:
    """Members of a server that has ``own`` workers, the first of which has proved itself."""

    def __init__(self, own=0, learned=True, **kind):
        self.backlog = Backlog(8, 4, 25)
        self.fleet = Fleet(own, self.backlog, 60.0)
        self.lost = []
        self.members = Members(self.fleet, 10.0, Kind(**kind), "2", 5, self.on_lost)
        for slot in range(own):
            self.fleet.started(slot)
            self.fleet.ready(slot)
        if own and learned:
            self.members.learn({"proof": encode_proof(GOLDEN)})

    def on_lost(self, slot):
        self.lost.append(slot)
        self.fleet.lost(slot)

    def host(self, key="a", peer=None, now=0.0):
        peer = peer or f"peer of {key}".encode()
        assert self.members.join(peer, who(key), now) is None
        return self.members.hosts[peer]

    def flight(self, size=2):
        """A job that was handed out."""
        self.backlog.add(make_pending(len(self.fleet.flights) + 1, size))
        return self.fleet.next_flight(0.0)


@pytest.fixture
def room():
    return Room()


# ---- frames ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, values", [
    (JOIN, who()), (ALIVE, {}), (READY, about()), (GONE, {"worker": 3, "how": "ended"}), (LEAVE, {}), (WHO, {}),
    (WELCOME, {"options": {"pooling_layer": [-2]}, "timeout": 10.0}), (REFUSED, {"reason": "nö"}),
    (KILL, {"worker": 1}), (BYE, {"reason": ""})])
def test_words_arrive_as_they_were_said(kind, values):
    frames = encode(kind, **values)
    assert decode(frames) == (kind, values)
    assert decode([memoryview(frame) for frame in frames]) == (kind, values)


@pytest.mark.parametrize("frames", [
    [], [b""], [b"\x0c"], [b"\xff"], [JOIN, b"{}", b"{}"], [JOB, b"{}"], [module.ANSWER], [b"\0\0"], [JOIN, b""],
    [JOIN, b"[]"], [JOIN, b"7"], [JOIN, b"{"], [JOIN, b"\xff"], [JOIN, b"[" * 100_000],
    [JOIN, b" " * (module.MAX_WORDS + 1)]], ids=lambda frames: f"{len(frames)}")
def test_what_is_no_word(frames):
    with pytest.raises(MembershipError):
        decode(frames)


def test_a_job_arrives_as_it_was_sent():
    frames = encode_job(3, Job(9, 2, 17, ["a", "b"], RequestOptions(tokens=True)))
    assert frames[0] == JOB
    number, head, rest = decode_job(frames)
    assert (number, decode_to_worker([head, *rest])) == (3, Job(9, 2, 17, ["a", "b"], RequestOptions(tokens=True)))


@pytest.mark.parametrize("place, frame", [(1, b""), (1, b"\0" * 5), (2, b""), (2, b"\0" * 20), (3, None), (4, b"")])
def test_what_is_no_job(place, frame):
    frames = encode_job(0, Job(0, 1, 1, ["a"]))
    frames[place:place + 1] = [] if frame is None else [frame]
    with pytest.raises(MembershipError):
        decode_job(frames)


@pytest.mark.parametrize("array", [GOLDEN, GOLDEN.astype(np.float16), GOLDEN[:, ::2], np.zeros((3, 0), np.float32)])
def test_a_proof_arrives_as_it_was_made(array):
    np.testing.assert_array_equal(decode_proof(json.loads(json.dumps(encode_proof(array)))), array)


@pytest.mark.parametrize("proof", [
    None, 7, [], {}, {"rows": ""}, {"rows": "AAAA", "shape": [1, 1]}, {"rows": "?", "shape": [1, 1]},
    {"rows": "AAAAAA==", "shape": [1]}, {"rows": "AAAAAA==", "shape": [2, 2]},
    {"rows": "AAAAAA==", "shape": [1e99, 1]}, {"rows": "AAAAAA==", "shape": [None, 1]}, {"rows": 7, "shape": [1, 1]},
    {"rows": "é", "shape": [1, 1]}, {"rows": "AAAAAA==", "shape": [float("nan"), 1]}], ids=repr)
def test_what_is_no_proof(proof):
    with pytest.raises(MembershipError, match="golden"):
        decode_proof(proof)


@pytest.mark.parametrize("value, told", [
    ("plain", "plain"), ("two\nlines\x1b[1m", "two\\nlines\\x1b[1m"), ("ü" * 100, "\\xfc" * 64), ("\ud800", "\\ud800"),
    (None, "null"), ({"a": 1}, "an object")], ids=repr)
def test_what_others_say_is_made_fit_for_the_log(value, told):
    assert readable(value) == told


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


@pytest.mark.parametrize("values, told", [
    (who(version="1"), "it is bert-serving-server 1, this server is 2; install the same on both"),
    (who(version="1\n" * 100), "\\n"), (who(version=[["x"]]), "an array"), (who(protocol=PROTOCOL + 1), "install"),
    (who(protocol=None), "install")], ids=["version", "lines", "list", "protocol", "no protocol"])
def test_who_is_of_another_version_is_refused(room, values, told):
    reason = room.members.join(b"p", values, 0.0)
    assert told in reason and "\n" not in reason and len(reason) < 300
    assert not room.members.hosts


def test_who_joins_again_takes_its_own_place(room):
    first = room.host("a", b"first")
    slots = [room.members.ready(first, about(number)) for number in (0, 1)]
    room.host("b", b"other")
    second = room.host("a", b"second")
    assert room.lost == slots and set(room.members.hosts) == {b"other", b"second"} and not room.members.places
    assert room.members.ready(second, about(1)) in slots


@pytest.mark.parametrize("key", ["a", "b"])
def test_who_joins_twice_on_one_connection_leaves_nothing_behind(room, key):
    slot = room.members.ready(room.host("a", b"one"), about())
    room.host(key, b"one")
    assert room.lost == [slot] and not room.members.places


def test_who_is_refused_when_it_joins_again_is_no_member_any_more(room):
    slot = room.members.ready(room.host("a", b"one"), about())
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
    slot = room.members.ready(host, about(4))
    worker = room.fleet.workers[slot]
    assert worker.state is WorkerState.READY and worker.is_remote and worker.credit == CREDIT
    assert host.slots == {4: slot} and room.members.places == {slot: (host.peer, 4)}
    assert room.members.about[slot] == {"device": CPU, "num_threads": 2}


def test_a_worker_on_a_gpu_may_hold_more(room):
    slot = room.members.ready(room.host(), about(device=1))
    assert room.fleet.workers[slot].credit == 5 and room.members.about[slot]["device"] == 1


@pytest.mark.parametrize("values", [
    {"device": "x" * 1000, "num_threads": [[]]}, {"device": 10 ** 400, "num_threads": -1},
    {"device": True, "num_threads": None}], ids=["long", "large", "none"])
def test_of_what_a_worker_says_only_what_is_known_is_kept(room, values):
    slot = room.members.ready(room.host(), about(more="x" * 1000, **values))
    assert room.members.about[slot] == {"device": CPU, "num_threads": None}


def test_a_worker_that_is_ready_twice_is_another_process(room):
    host = room.host()
    first = room.members.ready(host, about())
    flight = room.flight()
    second = room.members.ready(host, about())
    assert room.lost == [first] and flight.job not in room.fleet.flights
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
    told = room.members.ready(room.host(), about(proof=-GOLDEN))
    assert told.startswith("its vectors of the golden sentences are not this server's: ") and "same model" in told
    assert not room.members.places and len(room.fleet.workers) == 1


def test_without_workers_of_its_own_the_first_one_is_the_measure(room):
    assert isinstance(room.members.ready(room.host("a"), about()), int)
    assert isinstance(room.members.ready(room.host("b"), about(proof=-GOLDEN)), str)
    assert room.members.learn(about(proof=-GOLDEN)) == []
    np.testing.assert_array_equal(room.members.golden, GOLDEN)


def test_the_measure_is_forgotten_with_the_last_who_has_it(room):
    first, second = room.host("a"), room.host("b")
    room.members.ready(first, about(proof=-GOLDEN))
    room.members.ready(second, about(proof=-GOLDEN))
    room.members.forget(first.peer)
    assert isinstance(room.members.ready(room.host("c"), about()), str), "the second is still there"
    room.members.forget(second.peer)
    assert isinstance(room.members.ready(room.host("d"), about()), int)


def test_the_measure_of_a_server_with_workers_of_its_own_stays():
    room = Room(own=1)
    host = room.host()
    room.members.ready(host, about())
    room.members.forget(host.peer)
    assert isinstance(room.members.ready(room.host("b"), about(proof=-GOLDEN)), str)


@pytest.mark.parametrize("said, rate", [(500.0, 500.0), (1e300, MAX_TOKENS_PER_SECOND)] + [
    (wrong, 0.0) for wrong in (None, 0.0, -1.0, float("nan"), float("inf"), "500", True)])
def test_a_worker_says_how_fast_it_is_and_is_believed_within_bounds(room, said, rate):
    slot = room.members.ready(room.host(), about(tokens_per_second=said))
    assert room.fleet.workers[slot].tokens_per_second == rate


@pytest.mark.parametrize("proof", [GOLDEN * np.nan, GOLDEN[:0], GOLDEN[:, :0]], ids=["nan", "no rows", "no width"])
def test_what_is_no_vector_does_not_become_the_measure(room, proof):
    assert "no vectors" in room.members.ready(room.host("a"), about(proof=proof))
    assert room.members.golden is None


def test_with_workers_of_its_own_these_are_the_measure_however_long_they_take():
    room = Room(own=1, learned=False)
    early, idle = room.host("early"), room.host("idle")
    assert room.members.ready(early, about(proof=-GOLDEN)) is None
    assert room.members.learn(about()) == [early] and idle.peer in room.members.hosts
    assert isinstance(room.members.ready(early, about(proof=-GOLDEN)), str)
    assert isinstance(room.members.ready(early, about()), int)
    assert room.members.learn(about(proof=-GOLDEN)) == [], "one is enough"
    np.testing.assert_array_equal(room.members.golden, GOLDEN)


def test_there_is_a_most_of_hosts(room, monkeypatch):
    monkeypatch.setattr(module, "MAX_HOSTS", 2)
    room.host("a"), room.host("b")
    assert "which is the most" in room.members.join(b"another", who("c"), 0.0)
    with pytest.raises(MembershipError, match="does not say who it is"):
        room.members.join(b"another", who("c" * 65), 0.0)


def test_there_is_a_most_of_workers(room, monkeypatch):
    monkeypatch.setattr(module, "MAX_WORKERS", 2)
    host, other = room.host("a"), room.host("b")
    assert all(isinstance(room.members.ready(host, about(number)), int) for number in (0, 1))
    assert "the most" in room.members.ready(other, about(0))
    room.members.gone(host, {"worker": 1})
    assert isinstance(room.members.ready(other, about(0)), int)


def test_a_worker_that_is_gone_gives_back_its_place_and_what_it_held(room):
    host = room.host()
    slot = room.members.ready(host, about(1))
    flight = room.flight()
    assert room.members.gone(host, {"worker": 1, "how": "ended"}) == slot
    assert room.fleet.suspects and flight.job not in room.fleet.flights and room.lost == [slot]
    assert room.members.gone(host, {"worker": 1}) is None and room.lost == [slot]
    with pytest.raises(MembershipError):
        room.members.gone(host, {})


def test_a_text_is_no_reason_for_a_link_that_breaks_however_often(room):
    """A worker that ends is: see recovery."""
    for number in range(5):
        host = room.host(f"{number}")
        room.members.ready(host, about())
        flight = room.flight(1) if not number else room.fleet.next_flight(0.0)
        assert flight.pieces[0].strikes == 0 and flight.alone == bool(number)
        room.members.forget(host.peer)
    for number in range(5, 7):
        host = room.host(f"{number}")
        room.members.ready(host, about())
        flight = room.fleet.next_flight(0.0)
        room.members.gone(host, about())
        assert flight.pieces[0].strikes == number - 4


def test_who_takes_a_place_that_was_anothers_begins_anew(room):
    host = room.host()
    slot = room.members.ready(host, about())
    worker = room.fleet.workers[slot]
    worker.tokens_per_second, worker.overhead, worker.num_jobs, worker.num_sequences = 5.0, 1.0, 3, 7
    incarnation = worker.incarnation
    room.members.forget(host.peer)
    assert room.members.ready(room.host("b"), about(device=0)) == slot
    assert (worker.tokens_per_second, worker.overhead, worker.num_jobs, worker.num_sequences, worker.restarts) == \
        (0.0, 0.0, 0, 0, 0)
    assert worker.incarnation > incarnation and worker.credit == 5


# ---- leaving ---------------------------------------------------------------------------------------------------------

def test_who_leaves_ends_what_it_has_and_gets_no_more(room):
    host, other = room.host("a"), room.host("b")
    slot = room.members.ready(host, about())
    flight = room.flight()
    room.members.leave(host)
    assert not room.members.is_done(host) and room.flight() is None
    assert room.members.ready(host, about(1)) is None, "it comes too late, and that is no matter"
    room.fleet.landed(flight.job, 1.0)
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

def rows(flight, count=2, **values):
    array = np.ones((count, WIDTH), np.float32)
    return Rows(**{"slot": flight.slot, "incarnation": 1, "job": flight.job, "array": array, "num_tokens": 6,
                   "seconds": {"compute": 0.5}, "counts": [3] * count, **values})


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
    room.fleet.landed(flight.job, 1.0)
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


PIECE = [Piece(make_pending(1, 2), 0, 2, 6)]
PIECE_WITH_TOKENS = [Piece(replace(make_pending(1, 2), options=RequestOptions(tokens=True)), 0, 2, 6)]
FLIGHT = Flight(1, 0, PIECE, 6, False)
TOKEN_LEVEL = Kind(token_level=True, longest=4)


@pytest.mark.parametrize("values, told", [
    ({"array": np.ones((2, 3), np.float32)}, "vectors"), ({"array": np.ones((3, 4), np.float32)}, "vectors"),
    ({"array": np.ones((2, 4), np.float16)}, "vectors"), ({"array": np.ones((2, 4), ">f4")}, "vectors"),
    ({"array": np.ones((2, 4), np.int32)}, "vectors"), ({"array": np.ones(8, np.float32)}, "vectors"),
    ({"array": np.ones((2, 2, 2), np.float32)}, "vectors"),
    ({"counts": [3]}, "counts"), ({"counts": [3, -1]}, "counts"), ({"counts": [3, 1.0]}, "counts"),
    ({"counts": [3, True]}, "counts"), ({"counts": "ab"}, "counts"), ({"counts": [3, 10 ** 400]}, "counts"),
    ({"lengths": [1, 1]}, "NONE"), ({"specials": [1, 1]}, "NONE"), ({"lengths": []}, "NONE"), ({"contents": 0}, "NONE"),
    ({"bad": [2]}, "places"), ({"bad": [-1]}, "places"), ({"bad": ["0"]}, "places"), ({"bad": {"0": 1}}, "places"),
    ({"array": np.array([[1, 2, 3, np.nan], [1, 2, 3, 4]], np.float32)}, "not finite"),
    ({"array": np.array([[1, 2, 3, np.inf], [1, 2, 3, 4]], np.float32), "bad": [1]}, "not finite"),
    ({"num_tokens": 2 ** 20}, "measurements"), ({"num_tokens": -1}, "measurements"),
    ({"num_tokens": 10 ** 400}, "measurements"),
    ({"num_tokens": None}, "measurements"), ({"seconds": {"compute": float("nan")}}, "measurements"),
    ({"seconds": {"compute": float("inf")}}, "measurements"), ({"seconds": {"compute": -1.0}}, "measurements"),
    ({"seconds": {"compute": "1"}}, "measurements"), ({"seconds": [1.0]}, "measurements")], ids=repr)
def test_rows_that_do_not_fit_the_job(values, told):
    check_rows(rows(FLIGHT), PIECE, WIDTH, Kind())
    with pytest.raises(MembershipError, match=told):
        check_rows(rows(FLIGHT, **values), PIECE, WIDTH, Kind())


def test_rows_in_half_precision():
    check_rows(rows(FLIGHT, array=np.ones((2, 4), np.float16)), PIECE, WIDTH, Kind("fp16"))
    with pytest.raises(MembershipError):
        check_rows(rows(FLIGHT), PIECE, WIDTH, Kind("fp16"))


@pytest.mark.parametrize("values", [
    {"lengths": None}, {"lengths": [3]}, {"lengths": [3, 2], "contents": None}, {"specials": None},
    {"lengths": [2, 2]}, {"lengths": [4, 2]}, {"contents": [0, 0]}, {"contents": [10 ** 400, 1]}, {"specials": [0, 0]},
    {"lengths": [5, 0], "contents": [5, 0]}, {"lengths": [5, 0], "contents": [3, 0]}, {"lengths": [6, -1]}], ids=repr)
def test_rows_of_tokens_that_do_not_fit_the_job(values):
    right = {"lengths": [3, 2], "contents": [1, 0], "specials": [2, 2], "array": np.ones((5, 4), np.float32)}
    check_rows(rows(FLIGHT, **right), PIECE, WIDTH, TOKEN_LEVEL)
    with pytest.raises(MembershipError):
        check_rows(rows(FLIGHT, **{**right, **values}), PIECE, WIDTH, TOKEN_LEVEL)


@pytest.mark.parametrize("tokens", [None, [["a"]], [["a"], "b"], [["a"], [1]], {"a": []}], ids=repr)
def test_tokens_that_are_wanted_have_to_be_there(tokens):
    check_rows(rows(FLIGHT, tokens=[["a"], []]), PIECE_WITH_TOKENS, WIDTH, Kind())
    with pytest.raises(MembershipError, match="the tokens"):
        check_rows(rows(FLIGHT, tokens=tokens), PIECE_WITH_TOKENS, WIDTH, Kind())


@pytest.mark.parametrize("tokens", [[["a"]], float("inf"), 7, "ab", [], 0], ids=repr)
def test_tokens_that_nobody_wants_may_be_missing_but_not_anything(tokens):
    check_rows(rows(FLIGHT), PIECE, WIDTH, Kind())
    with pytest.raises(MembershipError, match="the tokens"):
        check_rows(rows(FLIGHT, tokens=tokens), PIECE, WIDTH, Kind())


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
        got = self.members.ready(host, about(number, GOLDEN if right else -GOLDEN))
        if host.leaving:
            assert got is None
        elif not right:
            assert isinstance(got, str)
        else:
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
        while self.room.fleet.next_flight(self.now) is not None:
            pass

    @precondition(lambda self: self.room.fleet.flights)
    @rule(data=st.data())
    def answer(self, data):
        flight = self.room.fleet.flights[data.draw(st.sampled_from(sorted(self.room.fleet.flights)))]
        frames = encode_from_worker(rows(flight, sum(piece.count for piece in flight.pieces)))
        owner = self.members.places.get(flight.slot, (None,))[0]
        for host in self.members.hosts.values():
            if host.peer == owner:
                assert self.members.answer(host, frames).job == flight.job
            else:
                with pytest.raises(MembershipError):
                    self.members.answer(host, frames)
        self.room.fleet.landed(flight.job, self.now)

    @invariant()
    def every_place_is_one_workers(self):
        members, fleet = self.members, self.room.fleet
        listed = [(slot, (host.peer, number)) for host in members.hosts.values() for number, slot in host.slots.items()]
        assert len(listed) == len(members.places) and dict(listed) == members.places
        assert set(members.about) == set(members.places)
        remote = {worker.slot for worker in fleet.workers if worker.is_remote}
        assert remote == set(members.places) | set(members._free) and len(remote) == len(members.places) + len(
            members._free)

    @invariant()
    def who_is_gone_has_nothing(self):
        for worker in self.room.fleet.workers:
            if worker.is_remote:
                there = worker.slot in self.members.places
                assert there == (worker.state in (WorkerState.READY, WorkerState.LEAVING))
                assert there or not worker.flights
                if there:
                    host = self.members.hosts[self.members.places[worker.slot][0]]
                    assert host.leaving == (worker.state is WorkerState.LEAVING)


TestHosts = HostsMachine.TestCase
TestHosts.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
