"""Items are handled one after the other, beside whoever gives them."""
import threading
import weakref
from queue import SimpleQueue

import pytest
from bert_serving.server.stages import compute_thread as module
from bert_serving.server.stages.compute_thread import ComputeThread


class Gate:
    """A handler that says what it begins with, and waits to be let go on."""

    def __init__(self):
        self.begun, self.may_go_on, self.done = SimpleQueue(), SimpleQueue(), []

    def __call__(self, item):
        self.begun.put(item)
        self.may_go_on.get()
        self.done.append(item)


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def thread(gate):
    thread = ComputeThread(gate)
    yield thread
    for _ in range(10):
        gate.may_go_on.put(None)
    thread.close(at_once=True)
    thread.join()


def test_in_the_order_given_and_one_at_a_time(gate, thread):
    assert thread.is_idle
    for item in "abc":
        thread.give(item)
    for item, done in zip("abc", ([], ["a"], ["a", "b"])):
        assert gate.begun.get() == item and gate.done == done and gate.begun.empty()
        assert not thread.is_idle
        gate.may_go_on.put(None)
    thread.wait_idle()
    assert thread.is_idle and gate.done == ["a", "b", "c"]


def test_it_is_busy_until_its_last_item_has_been_handled(gate, thread):
    thread.give("a")
    assert not thread.is_idle
    gate.begun.get()
    waiting = threading.Thread(target=thread.wait_idle)
    waiting.start()
    assert not thread.is_idle and waiting.is_alive()
    gate.may_go_on.put(None)
    waiting.join()
    assert thread.is_idle and gate.done == ["a"]


def test_who_waits_for_an_idle_thread_does_not_wait(thread):
    thread.wait_idle()


def test_its_end_comes_after_what_was_given(gate, thread):
    for item in "ab":
        thread.give(item)
        gate.may_go_on.put(None)
    thread.close()
    thread.join()
    assert gate.done == ["a", "b"]


def test_an_end_at_once_comes_after_what_is_being_handled(gate, thread):
    for item in "abc":
        thread.give(item)
    gate.begun.get()
    thread.close(at_once=True)
    gate.may_go_on.put(None)
    thread.join()
    assert gate.done == ["a"] and gate.begun.empty()


def test_an_item_is_forgotten_when_it_has_been_handled():
    """Rows of megabytes are not kept until the next job comes."""
    class Item:
        pass

    item = Item()
    left = weakref.ref(item)
    thread = ComputeThread(lambda item: None)
    thread.give(item)
    del item
    thread.wait_idle()
    assert left() is None
    thread.close()
    thread.join()


def test_a_handler_that_fails_ends_the_process(monkeypatch, caplog):
    ended = SimpleQueue()
    monkeypatch.setattr(module.os, "_exit", ended.put)
    monkeypatch.setattr(module.logging, "shutdown", lambda: None)

    def fail(item):
        raise RuntimeError(f"no {item}")

    thread = ComputeThread(fail)
    thread.give("luck")
    assert ended.get() == 1 and "no luck" in caplog.text
