"""Rows become answers: each request's own, whole, once."""
import numpy as np
import pytest
from bert_serving.client.errors import BertServingError, OverloadedError, UnprocessableError
from bert_serving.client.options import RequestOptions
from bert_serving.client.protocol import Failure, Result, Status
from bert_serving.server.core.batching import Piece
from bert_serving.server.core.messages import Rows
from bert_serving.server.core.sink import Sink, show
from hypothesis import given
from hypothesis import strategies as st

from .conftest import Clients, make_pending, rows_of


def pieces_of(request, *counts):
    """The request in pieces of so many sequences."""
    offsets = np.cumsum([0, *counts])
    return [Piece(request, int(offset), count, 5 * count) for offset, count in zip(offsets, counts)]


def job(*pieces):
    """(pieces, what a worker answers for them)"""
    return list(pieces), Rows(0, 1, 1, rows_of([text for piece in pieces for text in piece.texts]))


@pytest.fixture
def finished():
    return []


@pytest.fixture
def sink(clients, finished):
    return Sink(clients.outlet, None, 512, finished.append)


def test_a_job_of_several_requests_answers_each_with_its_own_rows(sink, clients, finished):
    one, two = make_pending(1, 2, b"a"), make_pending(2, 3, b"b")
    sink.add(*job(*pieces_of(one, 2), *pieces_of(two, 3)), 0.0)
    (first,), (second,) = clients.replies_to(b"a"), clients.replies_to(b"b")
    assert isinstance(first, Result) and first.request_id == 1 and first.tokens is None
    np.testing.assert_array_equal(first.embedding, rows_of(one.texts))
    np.testing.assert_array_equal(second.embedding, rows_of(two.texts))
    assert finished == [one, two]


@given(st.data())
def test_requests_in_any_pieces_any_jobs_any_order(data):
    clients, finished = Clients().join(b"a"), []
    sink = Sink(clients.outlet, None, 512, finished.append)
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
        sink.add(*job(*pieces[:count]), 0.0)
        del pieces[:count]
    assert sorted(request.uid for request in finished) == [1, 2, 3]
    for request in requests:
        reply, = clients.replies_to(b"a", request.uid)
        np.testing.assert_array_equal(reply.embedding, rows_of(request.texts))


def test_nothing_is_answered_before_it_is_whole(sink, clients, finished):
    request = make_pending(1, 4, b"a")
    first, second = pieces_of(request, 3, 1)
    sink.add(*job(second), 0.0)
    assert not clients.received and not finished and not request.finished
    sink.add(*job(first), 0.0)
    assert len(clients.received) == 1 and finished == [request] and request.finished


def test_a_request_that_failed_in_the_middle_stays_failed_and_its_neighbours_do_not_notice(sink, clients, finished):
    failed, neighbour = make_pending(1, 4, b"a"), make_pending(2, 1, b"b")
    first, second = pieces_of(failed, 2, 2)
    sink.add(*job(first), 0.0)
    sink.fail(failed, UnprocessableError("text 3 cannot be encoded", index=3), 0.0)
    sink.add(*job(second, *pieces_of(neighbour, 1)), 0.0)
    sink.fail(failed, UnprocessableError("again"), 0.0)
    reply, = clients.replies_to(b"a")
    assert isinstance(reply, Failure) and reply.error.index == 3
    reply, = clients.replies_to(b"b")
    np.testing.assert_array_equal(reply.embedding, rows_of(neighbour.texts))
    assert finished == [failed, neighbour]


def test_an_error_after_the_answer_is_not_sent(sink, clients):
    request = make_pending(1, 1, b"a")
    sink.add(*job(*pieces_of(request, 1)), 0.0)
    sink.fail(request, BertServingError("too late"), 0.0)
    assert len(clients.replies_to(b"a")) == 1


def test_token_level_rows_and_tokens_find_their_requests(sink, clients):
    one, two = make_pending(1, 1, b"a"), make_pending(2, 2, b"b")
    one.options = RequestOptions(tokens=True)
    array = np.arange(14, dtype=np.float32).reshape(7, 2)
    sink.add([*pieces_of(one, 1), *pieces_of(two, 2)], Rows(
        0, 1, 1, array, [2, 3, 2], [0, 1, 0], [2, 2, 2], [["t"], ["u", "v"], ["w"]]), 0.0)
    first, = clients.replies_to(b"a")
    np.testing.assert_array_equal(first.embedding, [array[:2]])
    assert first.tokens == [["t"]]
    second, = clients.replies_to(b"b")
    np.testing.assert_array_equal(second.embedding, [array[2:5], [*array[5:7], [0, 0]]])
    assert second.tokens is None, "it did not ask for them"


def test_how_requests_end_is_told_once_each(clients):
    ended, answered = [], []
    sink = Sink(clients.outlet, None, 512)
    sink.on_ended, sink.on_answered = lambda *values: ended.append(values), answered.append
    good, failed, left = make_pending(1, 3, b"a"), make_pending(2, 2, b"a"), make_pending(3, 4, b"b")
    pieces = pieces_of(good, 2, 1)
    for piece, counts in zip(pieces, ([4, 5], [6])):
        sink.add([piece], Rows(0, 1, 1, rows_of(piece.texts), counts=counts), 1.5)
    piece, _ = pieces_of(failed, 1, 1)
    sink.add([piece], Rows(0, 1, 1, rows_of(piece.texts), counts=[7]), 2.0)
    for _ in range(2):
        sink.fail(failed, UnprocessableError("text 1 cannot be encoded", index=1), 2.0)
        sink.abandon(left)
    assert ended == [("ok", 3, 15), ("unprocessable", 2, 7), ("abandoned", 4, 0)]
    assert answered == [1.5]


def test_status_and_refusals_leave_by_the_same_door(sink, clients):
    sink.answer(b"a", b"7", {"server_version": "1.10.0"}, 0.0)
    sink.refuse(b"a", b"8", OverloadedError("full", retry_after=2.5), 0.0)
    status, refusal = clients.replies_to(b"a")
    assert isinstance(status, Status) and status.values == {"server_version": "1.10.0"} and status.request_id == 7
    assert isinstance(refusal.error, OverloadedError) and refusal.error.retry_after == 2.5


def test_a_result_that_cannot_be_kept_becomes_an_error_that_can():
    """Whoever subscribes or reads too late for his vectors learns that, instead of waiting for ever."""
    clients = Clients(max_client_bytes=3000)
    sink = Sink(clients.outlet, None, 512)
    request = make_pending(1, 500, b"late")
    sink.add(*job(*pieces_of(request, 500)), 0.0)
    clients.join(b"late")
    reply, = clients.replies_to(b"late")
    assert isinstance(reply.error, OverloadedError) and reply.request_id == 1


@pytest.mark.parametrize("name, shown", [
    (b"client7", "client7"), (b"0f8fad5b-d9cb-469f-a165-70867728950e", "0f8fad5b..."), ("ä".encode(), r"\xc3\xa4"),
    (b"a\nb", r"a\nb"), (b"\x1b[2J", r"\x1b[2J"), (b"", "")])
def test_names_are_short_and_printable_in_the_log(name, shown):
    assert show(name) == shown


@given(st.binary(max_size=300))
def test_no_name_breaks_the_log(name):
    shown = show(name)
    assert shown.isprintable() and shown.isascii() and len(shown) <= 12
