"""One engine behind one pipe, with inproc sockets: each job is answered, with rows or with what is wrong."""
import threading
from queue import SimpleQueue
from types import SimpleNamespace

import numpy as np
import pytest
import zmq
from bert_serving.client.errors import UnprocessableError
from bert_serving.client.options import RequestOptions
from bert_serving.client.pairs import Pair
from bert_serving.server import golden
from bert_serving.server.core import messages
from bert_serving.server.core.remote_messages import decode_proof
from bert_serving.server.core.messages import Fault, Job, Ready, Rows, Stop
from bert_serving.server.engine.base import EngineSettings, features
from bert_serving.server.engine.backends.echo import EchoEngine
from bert_serving.server.errors import EngineError
from bert_serving.server.stages import worker as module
from bert_serving.server.stages.worker import Worker
from hypothesis import given
from hypothesis import strategies as st


class Bench:
    """A worker and the broker's ends of its sockets. Its engine remembers what it computed."""

    def __init__(self, context, load=True, device_is_a_must=True, **settings):
        self.pipe, self.results = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        jobs, to_results = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        for here, there, name in ((self.pipe, jobs, "jobs"), (self.results, to_results, "results")):
            here.bind(f"inproc://{name}")
            there.connect(f"inproc://{name}")
        self.settings = EngineSettings(**{"engine": "echo", "hidden_size": 8, **settings})
        self.worker = Worker(jobs, to_results, 3, 7, self.settings, device_is_a_must)
        self.computed = []
        if load:
            self.worker.load()
            assert isinstance(self.heard(), Ready)
            self.watch(self.worker.engine)

    def watch(self, engine):
        encode = engine.encode

        def watched(batch):
            self.computed.append(len(batch))
            return encode(batch)
        engine.encode = watched

    def heard(self):
        assert self.results.poll(0), "the worker says nothing"
        return messages.decode_from_worker(self.results.recv_multipart())

    def give(self, sequences, incarnation=7, job=11, show_tokens=False):
        job = Job(3, incarnation, job, sequences, RequestOptions(tokens=show_tokens))
        self.pipe.send_multipart(messages.encode_to_worker(job))
        assert self.worker.step() is True

    def answer(self, sequences, show_tokens=False):
        """What the worker answers."""
        self.give(sequences, show_tokens=show_tokens)
        answer = self.heard()
        assert (answer.slot, answer.incarnation, answer.job) == (3, 7, 11)
        return answer

    def expected(self, texts):
        """[n, D], each text by itself."""
        engine = EchoEngine(self.settings)
        return np.concatenate([engine.encode(features([text], self.worker.tokenizer, self.settings)) for text in texts])


@pytest.fixture
def bench(context):
    return lambda **settings: Bench(context, **settings)


TEXTS = ["first do it", "then do it right", Pair("hello", "world"), "", ["already", "cut"], "then do it better " * 20]


def test_it_says_when_it_is_ready_and_what_it_is(bench):
    one = bench(load=False)
    one.worker.load()
    ready = one.heard()
    assert (ready.slot, ready.incarnation) == (3, 7)
    assert {"pid", "device", "num_threads", "about", "seconds"} <= set(ready.about)
    assert ready.about["tokens_per_second"] > 0
    assert "echo" in ready.about["about"]


def test_its_vectors_of_the_golden_sentences_are_its_proof(bench):
    one = bench(load=False)
    one.worker.load()
    about = one.heard().about
    np.testing.assert_array_equal(decode_proof(about["proof"]), one.expected(golden.TEXTS))
    assert (about["device"], about["num_threads"]) == (one.settings.device, one.settings.num_threads)


def test_rows_in_the_jobs_order(bench):
    one = bench()
    rows = one.answer(TEXTS)
    np.testing.assert_array_equal(rows.array, one.expected(TEXTS))
    assert rows.bad == [] and rows.tokens is None and rows.lengths is None
    assert rows.num_tokens > 0 and set(rows.seconds) == {"tokenize", "compute"}


def test_identical_texts_are_computed_once(bench):
    one = bench()
    texts = ["a", "b", "a", ["a"], "a", ["a"], "b", Pair("a", "b"), ["a", "b"], Pair("a", "b"), Pair(["a"], ["b"]), "b"]
    rows = one.answer(texts)
    assert one.computed == [6], "a text, a list of tokens and a pair are different things"
    np.testing.assert_array_equal(rows.array, one.expected(texts))


@given(st.lists(st.sampled_from(["a", "b", "c", ["a"], ["a", "b"], Pair("a", "b"), Pair(["a"], ["b"])]), max_size=12))
def test_distinct(texts):
    distinct, places = module._distinct(texts)
    assert [distinct[place] for place in (range(len(texts)) if places is None else places)] == texts
    assert all(distinct.index(text) == index for index, text in enumerate(distinct))


def test_tokens_if_they_are_to_be_shown(bench):
    one = bench()
    rows = one.answer(["hello world", "a", "hello world"], show_tokens=True)
    assert rows.tokens == [["[CLS]", "hello", "world", "[SEP]"], ["[CLS]", "a", "[SEP]"],
                           ["[CLS]", "hello", "world", "[SEP]"]]
    assert one.answer(["hello world"]).tokens is None


def test_tokens_are_counted_for_each_sequence_and_computed_once_for_equal_ones(bench):
    rows = bench().answer(["hello world", "a", "hello world"])
    assert rows.counts == [4, 3, 4] and rows.num_tokens == 7


def test_token_level_rows_lie_end_to_end(bench):
    one = bench(pooling_strategy="NONE")
    texts = ["hello world", "a", "hello world", Pair("one", "two")]
    rows = one.answer(texts)
    assert one.computed == [3]
    assert (rows.lengths, rows.contents, rows.specials) == ([4, 3, 4, 5], [2, 1, 2, 2], [2, 2, 2, 3])
    np.testing.assert_array_equal(rows.array, one.expected(texts))


def test_token_level_without_special_tokens(bench):
    one = bench(pooling_strategy="NONE", no_special_token=True)
    rows = one.answer([["hello", "world"], "hello world", [], Pair(["a"], ["b"])])
    assert (rows.lengths, rows.contents, rows.specials) == ([2, 4, 2, 5], [2, 2, 0, 2], [2, 2, 2, 3])
    assert len(rows.array) == 13


@pytest.mark.parametrize("strategy", ["REDUCE_MEAN", "NONE"])
@pytest.mark.parametrize("texts, bad", [
    (["fine", "a __nan__ text", "good"], [1]), (["__nan__", "fine", "__nan__", "x __nan__"], [0, 2, 3]),
    (["fine"], [])])
def test_vectors_that_are_not_finite_are_reported(bench, strategy, texts, bad):
    one = bench(pooling_strategy=strategy)
    assert one.answer(texts).bad == bad


def test_an_exception_is_an_answer_and_the_worker_goes_on(bench):
    one = bench()
    fault = one.answer(["fine", "please __raise__"])
    assert isinstance(fault, Fault) and fault.code == "internal" and "__raise__" in fault.message
    assert isinstance(one.answer(["fine"]), Rows)


def test_an_error_that_names_its_text_keeps_its_name(bench):
    one = bench()

    def refuse(batch):
        raise UnprocessableError("text 1 is beyond words", index=1)

    one.worker.engine.encode = refuse
    assert one.answer(["a", "b"]) == Fault(3, 7, 11, "unprocessable", "text 1 is beyond words", 1)


def test_a_jobs_text_is_not_in_the_log(bench, caplog):
    caplog.set_level("DEBUG")
    bench().answer(["a secret", "__raise__"])
    assert "job 11 failed" in caplog.text and "secret" not in caplog.text


def test_a_lone_surrogate_is_a_text(bench):
    answer = bench().answer(["\ud800 alone"])
    assert isinstance(answer, (Rows, Fault))


def test_what_was_meant_for_its_predecessor_is_not_done(bench):
    one = bench()
    one.give(["fine"], incarnation=6)
    assert not one.results.poll(0) and not one.computed


def test_stop(bench):
    one = bench()
    one.pipe.send_multipart(messages.encode_to_worker(Stop(3, 7)))
    assert one.worker.step() is False


def test_large_rows_arrive_whole(bench):
    one = bench(hidden_size=768)
    texts = [f"word{number}" for number in range(200)]
    rows = one.answer(texts)
    assert rows.array.nbytes > 65536
    np.testing.assert_array_equal(rows.array, one.expected(texts))


# ---- loading ---------------------------------------------------------------------------------------------------------

def test_an_engine_that_computes_nonsense_does_not_get_ready(bench, monkeypatch):
    class Broken(EchoEngine):
        def encode(self, batch):
            return super().encode(batch) * np.nan

    monkeypatch.setattr(module, "create", Broken)
    one = bench(load=False)
    with pytest.raises(EngineError, match="not finite"):
        one.worker.load()
    assert not one.results.poll(0)


@pytest.mark.parametrize("asked_for", [True, False])
def test_a_gpu_that_cannot_be_used_is_done_without_unless_it_was_asked_for(bench, monkeypatch, asked_for):
    def only_on_cpu(settings):
        if settings.device >= 0:
            raise EngineError("this TensorFlow is for CPUs")
        return EchoEngine(settings)

    monkeypatch.setattr(module, "create", only_on_cpu)
    one = bench(load=False, device=0, device_is_a_must=asked_for)
    if asked_for:
        with pytest.raises(EngineError):
            one.worker.load()
    else:
        one.worker.load()
        assert one.heard().about["device"] == -1


# ---- an engine that overlaps -----------------------------------------------------------------------------------------

SMALL, MEDIUM, LARGE = ([f"word{number} of {size}" for number in range(size)]
                        for size in (module.HANDED_OVER - 1, 40, 400))


class Overlapping(Bench):
    """Its engine overlaps, says what it begins to compute, and waits to be let go on, unless ``is_free``."""

    def __init__(self, context, is_free=False, **settings):
        self.is_free = is_free
        self.events, self.begun, self.may_go_on = [], SimpleQueue(), SimpleQueue()
        super().__init__(context, **settings)
        encode = self.worker.tokenizer.encode

        def tokenize(texts, limit):
            self.events.append(("tokenized", len(texts)))
            if any("__untokenizable__" in text for text in texts):
                raise ValueError("beyond words")
            return encode(texts, limit)
        self.worker.tokenizer.encode = tokenize

    def watch(self, engine):
        encode = engine.encode

        def watched(batch):
            self.begun.put(threading.current_thread())
            if not self.is_free:
                self.may_go_on.get()
            self.computed.append(len(batch))
            self.events.append(("computed", len(batch)))
            return encode(batch)
        engine.encode = watched

    def go_on(self, times=1):
        for _ in range(times):
            self.may_go_on.put(None)

    def heard(self):
        assert self.results.poll(30_000), "the worker says nothing"
        return messages.decode_from_worker(self.results.recv_multipart())

    def heard_all(self, count):
        return {answer.job: answer for answer in (self.heard() for _ in range(count))}

    def end(self, at_once=True):
        self.worker.thread.close(at_once)
        self.go_on(100)
        self.worker.stop()


@pytest.fixture
def overlapping(context, monkeypatch):
    monkeypatch.setattr(EchoEngine, "overlaps", True)
    benches = []

    def make(**settings):
        benches.append(Overlapping(context, **settings))
        return benches[-1]

    yield make
    for one in benches:
        one.end()


def test_an_engine_that_does_not_overlap_has_no_second_thread(bench):
    assert bench().worker.thread is None


def test_the_next_job_is_tokenized_while_one_is_computed(overlapping):
    one = overlapping()
    one.give(MEDIUM, job=1)
    one.begun.get()
    one.give(TEXTS, job=2)
    assert one.events == [("tokenized", 40), ("tokenized", 6)] and not one.results.poll(0)
    one.go_on(2)
    answers = [one.heard(), one.heard()]
    assert [answer.job for answer in answers] == [1, 2]
    for answer, texts in zip(answers, (MEDIUM, TEXTS)):
        np.testing.assert_array_equal(answer.array, one.expected(texts))


def test_a_small_job_alone_wakes_no_other_thread(overlapping):
    one = overlapping(is_free=True)
    one.give(SMALL)
    assert one.begun.get() is threading.current_thread() and isinstance(one.heard(), Rows)
    one.give(MEDIUM)
    assert one.begun.get() is not threading.current_thread() and isinstance(one.heard(), Rows)
    one.worker.thread.wait_idle()
    one.give(SMALL)
    assert one.begun.get() is threading.current_thread() and isinstance(one.heard(), Rows)


def test_a_small_job_behind_a_larger_one_waits_for_its_turn(overlapping):
    one = overlapping()
    for job, texts in enumerate((MEDIUM, ["a"], MEDIUM, ["b"]), 1):
        one.give(texts, job=job)
    assert one.computed == []
    one.go_on(4)
    assert list(one.heard_all(4)) == [1, 2, 3, 4] and one.computed == [40, 1, 40, 1]


def test_a_job_that_cannot_be_tokenized_beside_another_one_is_answered_in_its_turn(overlapping, caplog):
    one = overlapping()
    for job, texts in enumerate((MEDIUM, ["a secret __untokenizable__"], ["fine"]), 1):
        one.give(texts, job=job)
    one.go_on(2)
    answers = one.heard_all(3)
    assert list(answers) == [1, 2, 3]
    assert answers[2] == Fault(3, 7, 2, "internal", "ValueError: beyond words")
    assert isinstance(answers[1], Rows) and isinstance(answers[3], Rows)
    assert "job 2 failed" in caplog.text and "secret" not in caplog.text


def test_a_job_that_cannot_be_computed_leaves_the_one_that_is_tokenized_ahead_alone(overlapping):
    one = overlapping()
    one.give([*MEDIUM, "__raise__"], job=1)
    one.give(TEXTS, job=2)
    one.go_on(2)
    answers = one.heard_all(2)
    assert list(answers) == [1, 2] and "__raise__" in answers[1].message
    np.testing.assert_array_equal(answers[2].array, one.expected(TEXTS))


@pytest.mark.parametrize("strategy", ["REDUCE_MEAN", "NONE"])
def test_rows_of_the_second_thread(overlapping, strategy):
    one = overlapping(is_free=True, pooling_strategy=strategy)
    texts = [*LARGE, *LARGE[::-7], Pair("a", "b"), "a __nan__ text", ["cut", "already"], "a __nan__ text"]
    rows = one.answer(texts, show_tokens=True)
    assert one.begun.get() is not threading.current_thread()
    assert rows.bad == [len(texts) - 3, len(texts) - 1] and len(rows.counts) == len(texts) == len(rows.tokens)
    np.testing.assert_array_equal(rows.array, one.expected(texts))


def test_seconds_tokenized_beside_another_job_are_none_of_the_next_ones(overlapping, monkeypatch):
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(module, "time", clock)
    one = overlapping()
    encode, tokenize = one.worker.engine.encode, one.worker.tokenizer.encode

    def slow_encode(batch):
        vectors = encode(batch)
        clock.now += 1
        return vectors

    def slow_tokenize(texts, limit):
        clock.now += 5
        return tokenize(texts, limit)
    one.worker.engine.encode, one.worker.tokenizer.encode = slow_encode, slow_tokenize
    one.give(MEDIUM, job=1)
    one.begun.get()
    one.give(MEDIUM, job=2)
    one.go_on(2)
    answers = one.heard_all(2)
    assert answers[1].seconds == {"tokenize": 5, "compute": 6} and answers[2].seconds == {"tokenize": 0, "compute": 1}


def test_what_was_meant_for_its_predecessor_is_not_done_beside_another_job_either(overlapping):
    one = overlapping()
    one.give(MEDIUM, job=1)
    one.give(["fine"], job=2, incarnation=6)
    one.go_on(2)
    assert one.heard().job == 1
    one.worker.thread.wait_idle()
    assert not one.results.poll(0) and one.computed == [40]


def test_a_stop_comes_after_the_job_that_is_tokenized_ahead(overlapping):
    one = overlapping()
    one.give(MEDIUM, job=1)
    one.give(TEXTS, job=2)
    one.pipe.send_multipart(messages.encode_to_worker(Stop(3, 7)))
    assert one.worker.step() is False
    one.go_on(2)
    one.worker.stop()
    assert list(one.heard_all(2)) == [1, 2]


def test_a_stop_at_once_comes_before_the_job_that_is_tokenized_ahead(overlapping):
    one = overlapping()
    one.give(MEDIUM, job=1)
    one.begun.get()
    one.give(TEXTS, job=2)
    one.end(at_once=True)
    assert one.heard().job == 1 and not one.results.poll(0) and one.computed == [40]


def test_a_huge_job_is_not_read_before_the_one_before_is_done(overlapping, monkeypatch):
    """To read it holds up the thread that computes: the job before would seem to hang."""
    monkeypatch.setattr(module, "MAX_AHEAD_BYTES", 5000)
    one = overlapping()
    wait = one.worker.thread.wait_idle

    def wait_idle():
        one.events.append("waits")
        one.go_on()
        wait()
    monkeypatch.setattr(one.worker.thread, "wait_idle", wait_idle)
    one.give(MEDIUM, job=1)
    one.begun.get()
    one.give(LARGE, job=2)
    one.go_on()
    assert list(one.heard_all(2)) == [1, 2]
    assert one.events == [("tokenized", 40), "waits", ("computed", 40), ("tokenized", 400), ("computed", 400)]
