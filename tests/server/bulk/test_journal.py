import subprocess
import sys

import pytest

from bert_serving.server.bulk.journal import Journal, digest
from bert_serving.server.bulk.records import START, BulkError, Position

HERE, THERE = Position(3, 30, 4), Position(5, 50, 6)


def test_what_was_noted_is_there_after_a_reopening(tmp_path):
    journal = Journal(tmp_path / "journal")
    assert (journal.job, journal.position, journal.is_computed) == (None, START, False)
    journal.begin({"input": [1, 2]})
    journal.advance(HERE, {digest("a"): 0, digest("b"): 1}, [(2, 3, "blank")])
    journal.advance(THERE, {digest("c"): 4}, [])
    journal.close()
    journal = Journal(tmp_path / "journal")
    assert (journal.job, journal.position, journal.is_computed) == ({"input": [1, 2]}, THERE, False)
    assert journal.rows_of([digest("b"), digest("c"), digest("d")]) == {digest("b"): 1, digest("c"): 4}
    assert (journal.reason(2), journal.reason(1)) == ("blank", None)
    assert list(journal.rejects()) == [(2, 3, "blank")] and not list(journal.rejects(3, 5))
    assert journal.counts() == {"rows": 5, "texts": 3, "rejects": 1}
    journal.set_computed()
    assert (tmp_path / "journal-wal").stat().st_size == 0, "all is in the file that is removed last"
    journal.begin({"input": [3]})
    for _ in range(2):
        assert (journal.job, journal.position, journal.is_computed) == ({"input": [3]}, START, False)
        assert journal.counts() == {"rows": 0, "texts": 0, "rejects": 0}, "nothing is left of an earlier job"
        journal.close()
        journal = Journal(tmp_path / "journal")
    journal.close()


def test_a_killed_process_leaves_whole_steps(tmp_path):
    """The second step is under way, not finished, when the process goes."""
    program = f"""
import os
from bert_serving.server.bulk.journal import Journal
from bert_serving.server.bulk.records import Position
journal = Journal({str(tmp_path / "journal")!r})
journal.advance(Position(3, 30, 4), {{b"one": 0}}, [])
def rejects():
    yield 4, 5, "half"
    os.kill(os.getpid(), 9)
journal.advance(Position(5, 50, 6), {{b"two": 3}}, rejects())
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == -9
    journal = Journal(tmp_path / "journal")
    assert journal.position == HERE and journal.rows_of([b"one", b"two"]) == {b"one": 0}
    assert not list(journal.rejects())
    journal.close()


def test_a_second_process_is_kept_away(tmp_path):
    journal = Journal(tmp_path / "journal")
    try:
        with pytest.raises(BulkError, match="another process is at this job"):
            Journal(tmp_path / "journal")
    finally:
        journal.close()


def test_what_is_no_journal_is_said_so(tmp_path):
    (tmp_path / "journal").write_bytes(b"something else entirely" * 100)
    with pytest.raises(BulkError, match="is no journal"):
        Journal(tmp_path / "journal")
    with pytest.raises(BulkError, match="cannot use"):
        Journal(tmp_path / "nowhere" / "journal")
