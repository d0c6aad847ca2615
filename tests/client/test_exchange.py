"""Whatever order replies come in, whoever takes them gets those that are his, once."""
import itertools

import numpy as np
import pytest
from bert_serving.client import exchange as module
from bert_serving.client import protocol
from bert_serving.client.errors import BertServingError, OverloadedError
from bert_serving.client.exchange import Exchange
from bert_serving.client.protocol import Failure, Result, Status
from hypothesis import given
from hypothesis import strategies as st

ME = b"me"


def result(request_id, rows=1, identity=ME, value=None):
    vectors = np.full((rows, 2), request_id if value is None else value, dtype=np.float32)
    return [protocol.topic(identity),
            *protocol.encode_result("float32", vectors.shape, vectors.tobytes(), b"%d" % request_id)]


def status(request_id, identity=ME):
    return [protocol.topic(identity), *protocol.encode_status({"n": request_id}, b"%d" % request_id)]


def failure(request_id, error):
    return [protocol.topic(ME), *protocol.encode_error(error, b"%d" % request_id)]


def ask(exchange, collect=False, size=1, group=None):
    request_id = exchange.number()
    exchange.expect(request_id, [ME, b"[]", b"%d" % request_id, b"1"], size, collect, group)
    return request_id


def is_empty(exchange):
    return not (exchange.outstanding or exchange.answered or exchange.collected or exchange.collectable
                or exchange.pending)


def test_ids_count_from_one():
    exchange = Exchange(ME)
    assert [exchange.number(), exchange.number()] == [1, 2]
    assert (exchange.last_id, exchange.num_asked) == (2, 2)


def test_ids_can_start_elsewhere():
    exchange = Exchange(ME, last_id=1000)
    assert exchange.num_asked == 0
    assert exchange.number() == 1001
    assert exchange.num_asked == 1


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3, 4])))
def test_waiters_and_fetchers_get_their_own_in_any_order(order):
    exchange = Exchange(ME)
    for collect in (True, False, True, False):
        ask(exchange, collect)
    for request_id in order:
        exchange.receive(result(request_id))
    assert [exchange.take(2).request_id, exchange.take(4).request_id] == [2, 4]
    fetched = [exchange.take_first().request_id, exchange.take_first().request_id]
    assert fetched == [request_id for request_id in order if request_id in (1, 3)]  # in the order of arrival
    assert exchange.take_first() is None and exchange.take(2) is None
    assert is_empty(exchange)


@given(st.permutations(range(1, 7)), st.sets(st.integers(1, 6)), st.sets(st.integers(1, 6)))
def test_nothing_is_lost_doubled_or_mixed_up(order, collected, abandoned):
    exchange = Exchange(ME)
    for request_id in range(1, 7):
        assert ask(exchange, collect=request_id in collected) == request_id
    for request_id in abandoned:
        exchange.abandon(request_id)
    for request_id in order + order:  # everything comes twice
        exchange.receive(result(request_id))
    taken = [exchange.take(request_id) for request_id in range(1, 7)]
    taken = [reply for reply in taken if reply] + list(iter(exchange.take_first, None))
    assert sorted(reply.request_id for reply in taken) == [i for i in range(1, 7) if i not in abandoned]
    assert all((reply.embedding == reply.request_id).all() for reply in taken)
    assert is_empty(exchange)


def test_a_waiter_does_not_take_what_is_for_fetching():
    exchange = Exchange(ME)
    request_id = ask(exchange, collect=True)
    exchange.receive(result(request_id))
    assert exchange.take(request_id) is None
    assert exchange.take_first().request_id == request_id


def test_late_reply_of_an_abandoned_request_is_dropped():
    exchange = Exchange(ME)
    request_id = ask(exchange)
    exchange.abandon(request_id)
    exchange.receive(result(request_id))
    assert is_empty(exchange)


def test_abandoning_after_the_reply_drops_it_too():
    exchange = Exchange(ME)
    one, other = ask(exchange), ask(exchange, collect=True)
    for request_id in (one, other):
        exchange.receive(result(request_id))
        exchange.abandon(request_id)
    assert is_empty(exchange)


@pytest.mark.parametrize("identity", [b"me2", b"m", b"", b"other", b"me\0more"])
def test_only_the_whole_identity_is_ours(identity):
    exchange = Exchange(ME)
    request_id = ask(exchange)
    exchange.receive([identity, *result(request_id)[1:]])
    assert request_id in exchange.outstanding


@pytest.mark.parametrize("topic", [ME, ME + b"\0"])
def test_topic_with_and_without_terminator_is_ours(topic):
    exchange = Exchange(ME)
    request_id = ask(exchange)
    exchange.receive([topic, *result(request_id)[1:]])
    assert exchange.take(request_id).request_id == request_id


def test_reply_to_a_clone_is_not_taken():
    exchange = Exchange(ME, last_id=500)
    request_id = ask(exchange, collect=True)
    exchange.receive(result(7))
    assert exchange.take_first() is None
    exchange.receive(result(request_id))
    assert exchange.take_first().request_id == request_id
    assert is_empty(exchange)


@pytest.mark.parametrize("reply, complaint", [(result(1, rows=3), "3 rows where 2"), (status(1), "a status where vec")])
def test_reply_that_cannot_be_the_answer_becomes_a_failure(reply, complaint):
    exchange = Exchange(ME)
    ask(exchange, size=2)
    exchange.receive(reply)
    assert complaint in str(exchange.take(1).error)


def test_command_is_not_answered_by_vectors():
    exchange = Exchange(ME)
    ask(exchange, size=None)
    exchange.receive(result(1))
    assert "vectors where a status" in str(exchange.take(1).error)


def test_command_gets_its_status():
    exchange = Exchange(ME)
    ask(exchange, size=None)
    exchange.receive(status(1))
    assert exchange.take(1) == Status(1, {"n": 1})


def test_unreadable_answer_fails_its_request_instead_of_leaving_it_waiting():
    exchange = Exchange(ME)
    ask(exchange)
    exchange.receive([ME, b"{", b"", b"1"])
    reply = exchange.take(1)
    assert type(reply.error) is BertServingError and "unreadable" in str(reply.error)


@given(st.lists(st.binary(max_size=8), max_size=5))
def test_no_message_raises(frames):
    exchange = Exchange(ME)
    ask(exchange)
    exchange.receive([ME, *frames])
    exchange.receive(frames)


def test_failures_and_results_are_separated():
    exchange = Exchange(ME)
    for _ in range(3):
        ask(exchange, collect=True)
    exchange.receive(result(3))
    exchange.receive(failure(1, OverloadedError("full", retry_after=2)))
    exchange.receive(result(2))
    failed = exchange.take_failure()
    assert isinstance(failed, Failure) and failed.request_id == 1 and failed.error.retry_after == 2
    assert exchange.take_failure() is None
    assert [reply.request_id for reply in exchange.take_all()] == [3, 2]
    assert is_empty(exchange)


def test_put_back_undoes_taking():
    exchange = Exchange(ME)
    ask(exchange, collect=True)
    exchange.receive(result(1))
    taken = exchange.take_all()
    exchange.put_back(taken)
    assert exchange.pending == {1}
    assert exchange.take_first() is taken[0]
    assert is_empty(exchange)


def test_group_is_taken_apart_from_the_rest():
    exchange, group = Exchange(ME), set()
    outside, inside = ask(exchange, collect=True), ask(exchange, collect=True, group=group)
    exchange.receive(result(outside))
    assert exchange.take_first(group) is None
    exchange.receive(result(inside))
    assert group == {inside}
    assert exchange.take_first(group).request_id == inside
    assert not group
    assert exchange.take_first().request_id == outside


def test_group_notices_what_others_take():
    exchange, group = Exchange(ME), set()
    for _ in range(2):
        ask(exchange, collect=True, group=group)
    exchange.receive(result(1))
    exchange.take_first()
    exchange.abandon(2)
    assert not group


def test_tap_hears_everything_for_the_identity():
    exchange = Exchange(ME)
    tap = exchange.tap()
    assert exchange.expecting
    waiting, fetched = ask(exchange), ask(exchange, collect=True)
    for request_id in (waiting, fetched, 999):
        exchange.receive(result(request_id))
    exchange.receive(result(waiting, identity=b"other"))
    exchange.receive(status(998))
    assert [heard.request_id for heard in tap] == [waiting, fetched, 999]
    assert isinstance(exchange.take(waiting), Result)  # its waiter gets it all the same
    assert exchange.take_first() is None               # but hearing is fetching
    exchange.untap(tap)
    exchange.receive(result(1000))
    assert len(tap) == 3 and not exchange.expecting
    assert is_empty(exchange)


def test_failure_is_not_lost_to_a_tap():
    exchange = Exchange(ME)
    exchange.tap()
    ask(exchange, collect=True)
    exchange.receive(failure(1, OverloadedError("full")))
    assert isinstance(exchange.take_first(), Failure)


def test_unanswered_are_kept_as_they_were_sent_oldest_first():
    exchange = Exchange(ME)
    first, second, third = (ask(exchange, collect) for collect in (False, True, False))
    exchange.receive(result(second))
    assert [int(frames[2]) for frames in exchange.unanswered()] == [first, third]


def test_pending_stays_the_same_object():
    exchange = Exchange(ME)
    pending = exchange.pending
    ask(exchange)
    assert pending == {1}
    exchange.receive(result(1))
    assert pending == {1}  # until it is taken
    exchange.take(1)
    assert pending == set() and pending is exchange.pending


# ---- several servers -------------------------------------------------------------------------------------------------

def test_a_failure_that_is_passed_on_leaves_the_request_outstanding():
    exchange = Exchange(ME)
    request_id = ask(exchange)
    full = failure(request_id, OverloadedError("full"))
    seen = []
    assert exchange.receive(full, lambda failure: not seen.append(failure.error.message)) is None
    assert seen == ["full"] and request_id in exchange.outstanding
    assert exchange.receive(result(request_id), lambda failure: True) == request_id
    assert exchange.receive(full, lambda failure: not seen.append("again")) == request_id, "it is answered"
    assert seen == ["full"] and isinstance(exchange.take(request_id), Result)
    assert is_empty(exchange)


def test_a_failure_that_is_not_passed_on_is_the_answer():
    exchange = Exchange(ME)
    request_id = ask(exchange)
    assert exchange.receive(failure(request_id, OverloadedError("full")), lambda failure: False) == request_id
    assert isinstance(exchange.take(request_id), Failure)


def test_what_is_none_of_ours_is_finished_with_nothing():
    exchange = Exchange(ME)
    assert exchange.receive(result(1, identity=b"you")) is None
    assert exchange.receive([]) is None


# ---- an identity that others share -----------------------------------------------------------------------------------

def again(request_id, **what):
    """A result that the server sends again, since this client has subscribed."""
    return [protocol.recent_topic(ME), *result(request_id, **what)[1:]]


def heard(tap):
    return [reply.request_id for reply in tap]


def test_the_first_tap_begins_with_what_came_before_it():
    exchange = Exchange(ME, last_id=1000, shared=True)
    exchange.expect(exchange.number(), [ME, b"SHOW_CONFIG", b"1001", b"0"])
    for message in (again(1), again(2), status(1001), result(3)):
        exchange.receive(message)
    assert exchange.take(1001).values == {"n": 1001}
    tap = exchange.tap()
    exchange.receive(result(4))
    assert heard(tap) == [1, 2, 3, 4]
    exchange.untap(tap)
    assert heard(exchange.tap()) == [], "once"


def test_nothing_is_kept_for_who_asks_itself_nor_for_whose_identity_is_its_own():
    for exchange in (Exchange(ME, last_id=1000, shared=True), Exchange(ME, last_id=1000)):
        ask(exchange)
        exchange.receive(result(1))
        assert heard(exchange.tap()) == []


def test_what_is_kept_is_bounded():
    exchange = Exchange(ME, last_id=10**6, shared=True)
    for number in range(3000):
        exchange.receive(result(number))
    assert len(exchange._heard) == 1000 and heard(exchange.tap()) == list(range(2000, 3000))


def test_what_is_kept_is_bounded_in_bytes(monkeypatch):
    exchange = Exchange(ME, last_id=10**6, shared=True)
    monkeypatch.setattr(module, "_MAX_EARLY_BYTES", 3 * 2 * 4)  # three vectors of two float32
    for number in range(10):
        exchange.receive(result(number))
    assert heard(exchange.tap()) == [7, 8, 9]


def test_a_result_that_was_heard_is_not_heard_again():
    exchange = Exchange(ME, last_id=1000, shared=True)
    tap = exchange.tap()
    for message in (result(1), again(1), again(2), again(1), again(2), result(3), again(3)):
        exchange.receive(message)
    assert heard(tap) == [1, 2, 3]
    exchange.receive(result(1))
    assert heard(tap) == [1, 2, 3, 1], "a client that was started again counts from the beginning"


def test_a_result_that_is_sent_again_answers_once():
    exchange = Exchange(ME, last_id=1000, shared=True)
    first = ask(exchange)
    exchange.receive(again(first))
    assert exchange.take(first).request_id == first
    exchange.receive(result(first))
    assert is_empty(exchange)


def test_only_who_shares_an_identity_asks_for_what_was_published():
    assert Exchange(ME).subscriptions == [ME]
    assert Exchange(ME, shared=True).subscriptions == [ME, b"me\0recent"]
    assert protocol.asks_for_recent(b"me\0recent") == ME
