import numpy as np
import pytest

from bert_serving.client.errors import (BertServingError, DeadlineError, OverloadedError, RequestError, TooLargeError,
                                        UnauthorizedError, UnavailableError, WorkerLostError)
from bert_serving.server.bulk import asking
from bert_serving.server.bulk.asking import Asker
from bert_serving.server.bulk.records import BulkError
from bert_serving.server.golden import SENTENCES

from .conftest import vector


class Clock:
    """Time passes only where somebody sleeps."""

    def __init__(self):
        self.now, self.slept = 100.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def asker(client, clock):
    canaries = np.stack([vector(text) for text in SENTENCES])
    return Asker(client, canaries, "fp32", 3, patience=10.0, clock=clock, sleep=clock.sleep)


def finish(asker, *answers):
    for _ in range(1000):
        if not any(answer.missing for answer in answers):
            return
        asker.step()
    raise AssertionError("it goes on for ever")


def check(answer, texts, refused=()):
    assert sorted(answer.refused) == sorted(refused)
    for index, text in enumerate(texts):
        expected = np.full(4, np.nan) if index in refused else vector(text)
        np.testing.assert_array_equal(answer.vectors[index], expected)


@pytest.mark.parametrize("newest_first", [False, True])
def test_answers_find_their_texts_in_any_order(client, asker, newest_first):
    client.newest_first = newest_first
    lists = [[f"{number} {index}" for index in range(number + 1)] for number in range(7)]
    answers = [asker.ask(texts) for texts in lists]
    finish(asker, *answers)
    for answer, texts in zip(answers, lists):
        check(answer, texts)
    assert client.most == 3 and all(asked[-1] == SENTENCES[0] for asked in client.asked)


def test_nothing_to_ask_is_answered(asker, client):
    assert asker.ask([]).missing == 0 and not client.asked


@pytest.mark.parametrize("bad", [[0], [5], [9], [2, 3, 7], list(range(10))], ids=str)
def test_texts_that_are_refused_are_left_out(client, asker, bad):
    texts = [f"poison {index}" if index in bad else f"text {index}" for index in range(10)]
    answer = asker.ask(texts)
    finish(asker, answer)
    check(answer, texts, bad)
    assert set(answer.refused.values()) == {"the server refuses it: unprocessable"}


def test_a_request_that_is_too_large_is_halved_until_one_text_is_left(client, asker):
    whole = client._vectors
    texts = [f"text {index}" for index in range(8)]

    def fetch():
        number, asked = client._waiting.popitem()
        if "text 5" in asked:
            error = TooLargeError("too large")
            error.failed_request = number
            raise error
        yield type("Response", (), {"id": number, "embedding": whole(asked)})

    client.fetch = fetch
    answer = asker.ask(texts)
    finish(asker, answer)
    check(answer, texts, [5])
    assert answer.refused[5] == "the server refuses it: too_large"


def test_long_texts_go_in_several_requests(client, asker, monkeypatch):
    monkeypatch.setattr(asking, "MAX_CHARACTERS", 20)
    texts = ["a" * 12, "b" * 12, "c" * 50, "d", "e"]
    answer = asker.ask(texts)
    finish(asker, answer)
    check(answer, texts)
    assert [len(asked) - 1 for asked in client.asked] == [1, 1, 1, 2]


def test_an_overloaded_server_is_left_alone_for_as_long_as_it_says(client, asker, clock):
    client.failures.extend([OverloadedError("full", retry_after=3.5), OverloadedError("full", retry_after=0.5)])
    answer = asker.ask(["text"])
    finish(asker, answer)
    check(answer, ["text"])
    assert clock.slept == [3.5, 0.5] and len(client.asked) == 3


@pytest.mark.parametrize("error", [UnavailableError, WorkerLostError, BertServingError])
def test_what_may_pass_is_tried_again_until_patience_ends(client, asker, clock, error):
    client.failures.extend([error("stopping")] * 3)
    finish(asker, asker.ask(["text"]))
    assert clock.slept == [1.0] * 3
    client.failures.extend([error("stopping")] * 50)
    with pytest.raises(BulkError, match="no vectors from the server for 10 seconds: stopping; .* goes on from here"):
        finish(asker, asker.ask(["text"]))
    assert len(clock.slept) == 3 + 11


def test_a_server_that_has_much_to_do_is_waited_for_and_one_that_is_gone_is_not(client, asker, clock):
    def late(*, gone):
        client.is_alive = not gone
        clock.now += 5.0
        return DeadlineError("no answer")

    answer = asker.ask(["text"])
    for _ in range(20):
        client.failures.append(late(gone=False))
        asker.step()
    for _ in range(3):
        client.failures.append(late(gone=True))
        asker.step()
    client.failures.append(late(gone=True))
    with pytest.raises(BulkError, match="no vectors from the server for 10 seconds"):
        asker.step()
    assert answer.missing == 1 and len(client.asked) == 1, "the client itself sends again"


@pytest.mark.parametrize("error, message", [
    (UnauthorizedError("no key"), "no key"), (RequestError("mad", index=1), "refuses a plain sentence: mad")])
def test_what_cannot_be_mended_ends_the_job(client, asker, error, message):
    client.failures.append(error)
    with pytest.raises(BulkError, match=message):
        finish(asker, asker.ask(["text"]))


def test_another_model_is_noticed_in_its_first_answer(client, asker):
    finish(asker, asker.ask(["text"]))
    client.seed = 1
    with pytest.raises(BulkError, match="the server's model has changed"):
        finish(asker, asker.ask(["other text"]))
