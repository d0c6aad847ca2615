import io

import pytest

from bert_serving.server.bulk.progress import BulkProgress, hours


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_now_and_then_where_there_is_no_terminal():
    now, stream = [0.0], io.StringIO()
    progress = BulkProgress(100, 20, stream, lambda: now[0])
    for now[0] in (10.0, 29.0, 31.0, 50.0):
        progress.add(10)
    progress.close()
    assert stream.getvalue() == "50 of 100 rows, 1 a second, about 0:51 left\n"
    assert progress.seconds == 50.0 and progress.done == 60


def test_a_bar_on_a_terminal():
    pytest.importorskip("tqdm")
    stream = Terminal()
    progress = BulkProgress(100, 20, stream)
    progress.add(80)
    progress.close()
    assert "100/100" in stream.getvalue() and "20%" in stream.getvalue()


def test_lines_on_a_terminal_without_tqdm(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    now, stream = [0.0], Terminal()
    progress = BulkProgress(100, 0, stream, lambda: now[0])
    now[0] = 40.0
    progress.add(10)
    progress.close()
    assert stream.getvalue() == "10 of 100 rows, 0 a second, about 6:00 left\n"


@pytest.mark.parametrize("seconds, shown", [(5.9, "0:05"), (65, "1:05"), (7265, "2:01:05")])
def test_hours(seconds, shown):
    assert hours(seconds) == shown
