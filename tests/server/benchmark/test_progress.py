"""The bar in a terminal, and the lines elsewhere."""
import io

import pytest
from bert_serving.server.benchmark.progress import BenchmarkProgress, minutes


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    """A clock that shows what it is set to."""
    def clock():
        return clock.seconds
    clock.seconds = 0
    return clock


def test_bar(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    progress = BenchmarkProgress(4, stream, clock)
    progress.begin("num_client 1")
    assert progress.line() == "[------------------------] 0/4  num_client 1  0:00"
    clock.seconds = 65
    progress.end("fast")
    assert progress.line() == "[######------------------] 1/4  num_client 1  1:05, about 3:15 left"
    assert stream.getvalue().endswith("\r\x1b[K" + progress.line()) and "\n" not in stream.getvalue()
    progress.say("by the way")
    assert stream.getvalue().endswith("\r\x1b[Kby the way\n\r\x1b[K" + progress.line())
    progress.clear()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_a_bar_is_no_wider_than_the_terminal(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    BenchmarkProgress(4, stream, clock).begin("something with a very long name")
    assert len(stream.getvalue().removeprefix("\r\x1b[K")) == 29


def test_lines(clock):
    stream = io.StringIO()
    progress = BenchmarkProgress(4, stream, clock)
    progress.begin("num_client 1")
    progress.tick()
    assert stream.getvalue() == ""
    progress.end("fast")
    progress.skip(2)
    progress.begin("num_client 4")
    progress.say("by the way")
    progress.end("slow")
    assert stream.getvalue() == "1/4 num_client 1: fast\nby the way\n2/2 num_client 4: slow\n"


def test_nothing_to_do_is_no_error(clock):
    progress = BenchmarkProgress(1, io.StringIO(), clock)
    progress.skip(1)
    assert "0/0" in progress.line()


@pytest.mark.parametrize("seconds, shown", [(0, "0:00"), (59.9, "0:59"), (65, "1:05"), (3600, "60:00")])
def test_minutes(seconds, shown):
    assert minutes(seconds) == shown
