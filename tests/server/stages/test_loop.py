"""A loop without anything of its own: what is handled, and how it is woken and told to end."""
import signal
import threading

import pytest
import zmq
from bert_serving.server.stages.loop import Loop


@pytest.fixture
def loop():
    made = Loop()
    yield made
    made.close_waker()


@pytest.fixture
def ends(context, loop):
    """Two sockets that can be read."""
    found = []
    for name in ("inproc://one", "inproc://two"):
        pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        pull.bind(name)
        push.connect(name)
        push.send(b"")
        found.append(pull)
    return found


def test_each_source_has_its_handler_until_it_is_watched_no_more(loop, ends):
    handled = []
    for end in ends:
        loop.watch(end, lambda end=end: handled.append(end.recv()))
    loop.unwatch(ends[0])
    loop.handle(1000)
    loop.handle(0)
    assert handled == [b""] and ends[0].poll(0) and not ends[1].poll(0)


def test_a_handler_may_end_the_watch_of_what_is_next(loop, ends):
    handled = []

    def handle(end, other):
        handled.append(end)
        loop.unwatch(other)

    loop.watch(ends[0], lambda: handle(*ends))
    loop.watch(ends[1], lambda: handle(*reversed(ends)))
    loop.handle(1000)
    assert len(handled) == 1


def test_stop_wakes_it_from_another_thread_however_often(loop):
    threads = [threading.Thread(target=loop.stop) for _ in range(500)]
    for thread in threads:
        thread.start()
    loop.handle(20_000)
    for thread in threads:
        thread.join()
    assert loop._stop_asked == 500


@pytest.mark.parametrize("number, asked", [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_ctrl_c_is_as_good_as_two_signals(loop, number, asked):
    loop.on_signal(number, None)
    assert loop._stop_asked == asked


def test_nothing_to_wake_is_no_matter(loop):
    loop.on_wake()


def test_stop_after_the_end_is_no_matter(loop):
    loop.close_waker()
    loop.stop()
