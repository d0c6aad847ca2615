"""Rows become answers: each request's own, whole, once."""
import numpy as np
import pytest
from bert_serving.client.errors import BertServingError, OverloadedError, UnprocessableError
from bert_serving.client.options import RequestOptions
from bert_serving.client.protocol import Failure, Result, Status
from bert_serving.server.core.batching import Piece
from bert_serving.server.core.messages import Rows
from bert_serving.server.core.sink import Sink, show
from bert_serving.server.core.statistics import Statistics
from hypothesis import given
from hypothesis import strategies as st

from .conftest import decode, make_pending, rows_of


def pieces_of(request, *counts):
    """The request in pieces of so many sequences."""
    offsets = np.cumsum([0, *counts])
    return [Piece(request, int(offset), count, 5 * count) for offset, count in zip(offsets, counts)]


def job(*pieces):
    """(pieces, what a worker answers for them)"""
    return list(pieces), Rows(0, 1, 1, rows_of([text for piece in pieces for text in piece.texts]))


def to(replies, identity):
    """The replies to one client, decoded."""
    return [decode(reply.identity, reply.frames) for reply in replies if reply.identity == identity]


def requests_of(replies):
    return [reply.request for reply in replies]


@pytest.fixture
def sink():
    return Sink(Statistics(0.0), None, 512)


def test_a_job_of_several_requests_answers_each_with_its_own_rows(sink):
    one, two = make_pending(1, 2, b"a"), make_pending(2, 3, b"b")
    replies = sink.add(*job(*pieces_of(one, 2), *pieces_of(two, 3)))
    (first,), (second,) = to(replies, b"a"), to(replies, b"b")
    assert isinstance(first, Result) and first.request_id == 1 and first.tokens is None
    np.testing.assert_array_equal(first.embedding, rows_of(one.texts))
    np.testing.assert_array_equal(second.embedding, rows_of(two.texts))
    assert requests_of(replies) == [one, two]


@given(st.data())
def test_requests_in_any_pieces_any_jobs_any_order(data):
    sink, replies = Sink(Statistics(0.0), None, 512), []
    requests = [make_pending(uid, data.draw(st.integers(1, 6)), b"a") for uid in range(1, 4)]
    pieces = []
    for request in requests:
        counts = []
        while sum(counts) < request.size:
            counts.append(data.draw(st.integers(1, request.size - sum(counts))))
        pieces += pieces_of(request, *counts)
    pieces = data.draw(st.permutations(pieces))
    while pieces:
        count = data.draw(st.integers(1, len(pieces)))
        replies += sink.add(*job(*pieces[:count]))
        del pieces[:count]
    assert sorted(request.uid for request in requests_of(replies)) == [1, 2, 3]
    for reply in replies:
        result, = to([reply], b"a")
        assert result.request_id == reply.request.uid
        np.testing.assert_array_equal(result.embedding, rows_of(reply.request.texts))


def test_nothing_is_answered_before_it_is_whole(sink):
    request = make_pending(1, 4, b"a")
    first, second = pieces_of(request, 3, 1)
    assert sink.add(*job(second)) == [] and not request.finished
    assert requests_of(sink.add(*job(first))) == [request] and request.finished


def test_a_request_that_failed_in_the_middle_stays_failed_and_its_neighbours_do_not_notice(sink):
    failed, neighbour = make_pending(1, 4, b"a"), make_pending(2, 1, b"b")
    first, second = pieces_of(failed, 2, 2)
    assert sink.add(*job(first)) == []
    reply, = to([sink.fail(failed, UnprocessableError("text 3 cannot be encoded", index=3))], b"a")
    assert isinstance(reply, Failure) and reply.error.index == 3
    replies = sink.add(*job(second, *pieces_of(neighbour, 1)))
    assert sink.fail(failed, UnprocessableError("again")) is None
    assert requests_of(replies) == [neighbour]
    reply, = to(replies, b"b")
    np.testing.assert_array_equal(reply.embedding, rows_of(neighbour.texts))


def test_an_error_after_the_answer_is_not_sent(sink):
    request = make_pending(1, 1, b"a")
    assert len(sink.add(*job(*pieces_of(request, 1)))) == 1
    assert sink.fail(request, BertServingError("too late")) is None


def test_rows_after_the_answer_are_not_sent(sink):
    pieces = pieces_of(make_pending(1, 1, b"a"), 1)
    assert len(sink.add(*job(*pieces))) == 1
    assert sink.add(*job(*pieces)) == []


def test_token_level_rows_and_tokens_find_their_requests(sink):
    one, two = make_pending(1, 1, b"a"), make_pending(2, 2, b"b")
    one.options = RequestOptions(tokens=True)
    array = np.arange(14, dtype=np.float32).reshape(7, 2)
    replies = sink.add([*pieces_of(one, 1), *pieces_of(two, 2)], Rows(
        0, 1, 1, array, [2, 3, 2], [0, 1, 0], [2, 2, 2], [["t"], ["u", "v"], ["w"]]))
    first, = to(replies, b"a")
    np.testing.assert_array_equal(first.embedding, [array[:2]])
    assert first.tokens == [["t"]]
    second, = to(replies, b"b")
    np.testing.assert_array_equal(second.embedding, [array[2:5], [*array[5:7], [0, 0]]])
    assert second.tokens is None, "it did not ask for them"


def test_how_requests_end_is_counted_once_each(sink):
    good, failed, left = make_pending(1, 3, b"a"), make_pending(2, 2, b"a"), make_pending(3, 4, b"b")
    pieces = pieces_of(good, 2, 1)
    for piece, counts in zip(pieces, ([4, 5], [6])):
        for reply in sink.add([piece], Rows(0, 1, 1, rows_of(piece.texts), counts=counts)):
            sink.answered(reply.request, 1.5)
    piece, _ = pieces_of(failed, 1, 1)
    sink.add([piece], Rows(0, 1, 1, rows_of(piece.texts), counts=[7]))
    for _ in range(2):
        sink.fail(failed, UnprocessableError("text 1 cannot be encoded", index=1))
        sink.abandon(left)
    assert sink.statistics.outcomes == {"ok": [1, 3, 15], "unprocessable": [1, 2, 7], "abandoned": [1, 4, 0]}
    assert sink.statistics.answering.sum == 1.5


def test_status_and_refusals_leave_by_the_same_door(sink):
    status, refusal = to([sink.answer(b"a", b"7", {"server_version": "1.10.0"}),
                          sink.refuse(b"a", b"8", OverloadedError("full", retry_after=2.5))], b"a")
    assert isinstance(status, Status) and status.values == {"server_version": "1.10.0"} and status.request_id == 7
    assert isinstance(refusal.error, OverloadedError) and refusal.error.retry_after == 2.5


def test_a_result_that_is_dropped_becomes_an_error(sink):
    """Whoever reads too late for his vectors learns that, instead of waiting for ever."""
    request = make_pending(1, 500, b"late")
    result, = sink.add(*job(*pieces_of(request, 500)))
    reply = sink.dropped(result.request, 4000)
    error, = to([reply], b"late")
    assert isinstance(error.error, OverloadedError) and error.request_id == 1 and "0.0 MB" in str(error.error)
    assert reply.request is None, "there is nothing more to hear of it"
    assert {name: ended[0] for name, ended in sink.statistics.outcomes.items()} == {"ok": 0, "overloaded": 1}


@pytest.mark.parametrize("name, shown", [
    (b"client7", "client7"), (b"0f8fad5b-d9cb-469f-a165-70867728950e", "0f8fad5b..."), ("ä".encode(), r"\xc3\xa4"),
    (b"a\nb", r"a\nb"), (b"\x1b[2J", r"\x1b[2J"), (b"", "")])
def test_names_are_short_and_printable_in_the_log(name, shown):
    assert show(name) == shown


@given(st.binary(max_size=300))
def test_no_name_breaks_the_log(name):
    shown = show(name)
    assert shown.isprintable() and shown.isascii() and len(shown) <= 12
