"""What waits, and which of it goes next: everything once, in order, clients in turn, bulk with its share."""
from collections import Counter

import pytest
from bert_serving.client.pairs import Pair
from bert_serving.server.core.batching import FAST_SHARE, TURNS_PER_JOB, Backlog, Piece, estimate_tokens
from hypothesis import given
from hypothesis import strategies as st

from .conftest import LIMIT, make_pending

MAX_BATCH, PRIORITY = 16, 4


def make_backlog():
    return Backlog(MAX_BATCH, PRIORITY, LIMIT)


def add(backlog, uid, size=1, identity=b"client", words=1):
    request = make_pending(uid, size, identity, words)
    backlog.add(request)
    return request


def served(pieces):
    """Number of sequences for each client in a job."""
    counted = Counter()
    for piece in pieces:
        counted[piece.request.identity] += piece.count
    return counted


# ---- whatever comes --------------------------------------------------------------------------------------------------

requests = st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(1, 40), st.integers(0, 30))
takes = st.tuples(st.just("take"), st.integers(1, 400))
leaves = st.tuples(st.sampled_from(["leave", "come back"]), st.sampled_from([b"a", b"b", b"c"]))
steps = st.lists(requests | takes | leaves | st.just(("end", None)), max_size=40)


@given(steps)
def test_every_sequence_goes_out_once_in_order_within_the_limits(steps):
    backlog, accepted, ended, left, have_left, out = make_backlog(), [], set(), set(), set(), []

    def take(max_tokens):
        is_work = waiting() > 0
        pieces = backlog.take(max_tokens)
        assert bool(pieces) == is_work
        if pieces:
            assert sum(piece.count for piece in pieces) <= MAX_BATCH
            texts = [text for piece in pieces for text in piece.texts]
            tokens = estimate_tokens(texts, LIMIT)
            assert sum(tokens[:-1]) < max_tokens                       # cut at the first that reaches it
            assert sum(piece.tokens for piece in pieces) == sum(tokens)
            assert len({piece.request.size <= PRIORITY for piece in pieces}) == 1, "a job is of one class"
        out.extend(pieces)

    def waiting():
        return sum(request.size - request.taken for request in accepted if request.uid not in ended | left)

    for step in steps:
        if step[0] == "take":
            take(step[1])
        elif step[0] == "leave":
            backlog.leave(step[1])
            have_left.add(step[1])
            left |= {request.uid for request in accepted if request.identity == step[1]}
        elif step[0] == "come back":
            backlog.come_back(step[1])
            left -= {request.uid for request in accepted if request.identity == step[1]}
        elif step[0] == "end":
            if accepted:
                backlog.remove(accepted[-1])
                ended.add(accepted[-1].uid)
        else:
            accepted.append(add(backlog, len(accepted), step[1], step[0], step[2]))
        assert backlog.size == waiting() and bool(backlog) == (waiting() > 0)
        assert backlog.tokens == sum(
            sum(estimate_tokens(request.texts[request.taken:], LIMIT))
            for request in accepted if request.uid not in ended | left)
    while backlog:
        take(1000)
    while backlog.left:
        out.extend(backlog.take_left(1000))
    assert backlog.tokens == backlog.size == 0 and not backlog.fast.lanes and not backlog.bulk.lanes

    for request in accepted:
        texts = [text for piece in out if piece.request is request for text in piece.texts]
        assert texts == request.texts[:request.taken]
        assert request.uid in ended or request.taken == request.size
    for identity in {b"a", b"b", b"c"} - have_left:
        for is_fast in (True, False):
            order = [piece.request.uid for piece in out
                     if piece.request.identity == identity and (piece.request.size <= PRIORITY) == is_fast]
            assert order == sorted(order)


@pytest.mark.parametrize("size", [1, 20])
def test_who_comes_back_finds_its_requests_in_their_order(size):
    backlog = make_backlog()
    add(backlog, 1, size)
    add(backlog, 2, size, b"other")
    backlog.leave(b"client")
    add(backlog, 3, size)
    backlog.come_back(b"client")
    uids = []
    while backlog:
        uids += [piece.request.uid for piece in backlog.take(PLENTY) if piece.request.identity == b"client"]
    assert list(dict.fromkeys(uids)) == [1, 3] and not backlog.left


@given(st.integers(2, 300))
def test_halves_are_the_whole(count):
    request = make_pending(1, count + 3)
    first, second = Piece(request, 3, count, 10 * count, strikes=2).halves()
    assert first.texts + second.texts == request.texts[3:]
    assert abs(first.count - second.count) <= 1
    assert first.tokens + second.tokens == 10 * count
    assert first.strikes == second.strikes == 0


# ---- turns -----------------------------------------------------------------------------------------------------------

PLENTY = 100_000
"""More tokens than a job of MAX_BATCH sequences can have."""


def test_requests_of_many_clients_share_a_job():
    backlog = make_backlog()
    for number in range(MAX_BATCH):
        add(backlog, number, 1, b"client %d" % number)
    assert len(served(backlog.take(PLENTY))) == MAX_BATCH and not backlog


@pytest.mark.parametrize("words", [0, 20])
@pytest.mark.parametrize("max_tokens", [64, 1024, PLENTY])
def test_a_flood_of_small_requests_does_not_hold_up_another_client(words, max_tokens):
    backlog = make_backlog()
    for number in range(1000):
        add(backlog, number, 1, b"flood", words)
    for _ in range(5):
        backlog.take(max_tokens)
    add(backlog, 2000, 1, b"polite")
    first_two = served(backlog.take(max_tokens)) + served(backlog.take(max_tokens))
    assert first_two[b"polite"] == 1


@pytest.mark.parametrize("max_tokens", [64, 1024, PLENTY])
def test_a_million_sentences_do_not_hold_up_another_clients_one(max_tokens):
    backlog = make_backlog()
    request = make_pending(1, 1, b"flood")
    request.texts *= 1_000_000
    request.size *= 1_000_000
    request.tokens *= 1_000_000
    backlog.add(request)
    backlog.take(max_tokens)
    add(backlog, 2, 1, b"polite")
    assert served(backlog.take(max_tokens)) == {b"polite": 1}


@pytest.mark.parametrize("words", [(1, 1), (0, 30), (30, 0)], ids=str)
@pytest.mark.parametrize("max_tokens", [64, 1000, PLENTY])
def test_bulk_clients_take_turns_whatever_their_sentences(words, max_tokens):
    backlog = make_backlog()
    for number in range(20):
        add(backlog, number, 99, b"a", words[0])
    backlog.take(max_tokens)
    for number in range(20):
        add(backlog, 100 + number, 99, b"b", words[1])
    jobs = [set(served(backlog.take(max_tokens))) for _ in range(60)]
    for three in zip(jobs, jobs[1:], jobs[2:]):
        assert set().union(*three) == {b"a", b"b"}


@given(st.integers(2, 40), st.sampled_from([64, 1024, PLENTY]))
def test_a_newcomer_waits_for_one_turn_of_each_other_client(num_clients, max_tokens):
    backlog = make_backlog()
    for number in range(60 * num_clients):
        add(backlog, number, 1, b"client %d" % (number % num_clients))
    backlog.take(max_tokens)
    add(backlog, 9999, 1, b"newcomer")
    jobs = 1
    while not served(backlog.take(max_tokens))[b"newcomer"]:
        jobs += 1
    per_job = min(MAX_BATCH, max_tokens // estimate_tokens(["0/0 word"], LIMIT)[0])
    turn = max(1, per_job // TURNS_PER_JOB)
    assert jobs <= 2 + num_clients * (turn + 1) / per_job


def test_who_takes_long_sentences_gets_fewer_of_them():
    backlog = make_backlog()
    for number in range(500):
        add(backlog, number, 1, b"long", words=30)
        add(backlog, 1000 + number, 1, b"short", words=4)
    tokens = Counter()
    for _ in range(20):
        for piece in backlog.take(8 * LIMIT):
            tokens[piece.request.identity] += piece.tokens
    assert 0.6 < tokens[b"long"] / tokens[b"short"] < 1.7


# ---- classes ---------------------------------------------------------------------------------------------------------

def test_fast_goes_before_bulk():
    backlog = make_backlog()
    add(backlog, 1, PRIORITY + 1)
    add(backlog, 2, PRIORITY)
    assert [piece.request.uid for piece in backlog.take(PLENTY)] == [2]
    assert [piece.request.uid for piece in backlog.take(PLENTY)] == [1]


@pytest.mark.parametrize("fast_words, bulk_words", [(1, 1), (0, 30), (30, 0)])
@pytest.mark.parametrize("max_tokens", [64, 1024, PLENTY])
def test_bulk_has_its_share_while_fast_never_ends(fast_words, bulk_words, max_tokens):
    backlog = make_backlog()
    number = 0
    tokens = Counter()
    add(backlog, 0, 100_000, b"bulk", bulk_words)
    largest = 0
    for _ in range(300):
        while backlog.fast.size < 2 * MAX_BATCH:
            number += 1
            add(backlog, number, 1, b"fast", fast_words)
        pieces = backlog.take(max_tokens)
        job = sum(piece.tokens for piece in pieces)
        largest = max(largest, job)
        tokens[pieces[0].request.identity] += job
    assert tokens[b"fast"] <= FAST_SHARE * tokens[b"bulk"] + 2 * largest
    assert tokens[b"fast"] >= FAST_SHARE * (tokens[b"bulk"] - 2 * largest)


def test_what_fast_did_not_use_is_not_saved_up():
    backlog = make_backlog()
    add(backlog, 0, 2000, b"bulk")
    for _ in range(50):
        backlog.take(PLENTY)                     # fast has nothing to do with its share
    for number in range(1, 400):
        add(backlog, number, 1, b"fast")
    jobs = [served(backlog.take(PLENTY)) for _ in range(FAST_SHARE + 2)]
    assert any(b"bulk" in job for job in jobs)


# ---- costs -----------------------------------------------------------------------------------------------------------

def test_requests_that_are_over_leave_nothing_behind():
    backlog = make_backlog()
    waiting = [add(backlog, number, 1 + number % 30, b"client %d" % (number % 7)) for number in range(200)]
    for request in waiting:
        backlog.remove(request)
        backlog.remove(request)                  # once is enough, twice does no harm
    assert not backlog and backlog.size == backlog.tokens == 0
    assert not backlog.fast.lanes and not backlog.bulk.lanes
    assert backlog.take(PLENTY) == []


@pytest.mark.parametrize("text, tokens", [
    ("", 3), ("abcd", 4), ("a" * 40, 13), ("a" * 1000, LIMIT), ([], 3), (["a", "b"], 5), (["a"] * 100, LIMIT)])
def test_estimated_tokens(text, tokens):
    assert estimate_tokens([text, text], LIMIT) == [tokens, tokens]


@pytest.mark.parametrize("texts, expected", [
    (["x" * 40, "x" * 400], [13, 100]), ([["x"] * 10, ["x"] * 400], [13, 100]), ([], []),
    ([Pair("x" * 20, "x" * 20), "x" * 40], [13, 13]), (["x" * 40, Pair("x" * 20, "x" * 20)], [13, 13]),
    ([Pair(["x"] * 4, ["x"] * 6), ["x"] * 10], [13, 13]), ([["x"] * 10, Pair(["x"] * 4, ["x"] * 6)], [13, 13])])
def test_a_pair_is_as_long_as_its_halves(texts, expected):
    assert estimate_tokens(texts, 100) == expected
