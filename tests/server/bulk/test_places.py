import json
import os
from pathlib import Path

import pytest

from bert_serving.server.bulk import places
from bert_serving.server.bulk.places import Places, content_digest, discard, publish, stamp, write_record, write_rejects


@pytest.fixture
def finished(tmp_path):
    """A job whose files are whole."""
    there = Places(tmp_path / "out.npy")
    there.directory.mkdir()
    for name in ("journal", "journal-wal", "vectors", "rejects", "record", "input"):
        (there.directory / name).write_text(name)
    return there


def check(there):
    assert sorted(path.name for path in there.output.parent.iterdir()) == [
        "out.npy", "out.npy.job.json", "out.npy.rejects.jsonl"]
    assert [path.read_text() for path in (there.output, there.record, there.rejects)] == [
        "vectors", "record", "rejects"]


def test_finished_files_go_to_their_places(finished):
    finished.output.write_text("older")
    publish(finished)
    check(finished)


def test_no_rejects_replace_those_of_the_job_before(finished):
    (finished.directory / "rejects").write_text("")
    finished.rejects.write_text("older")
    publish(finished)
    assert sorted(path.name for path in finished.output.parent.iterdir()) == ["out.npy", "out.npy.job.json"]


def test_what_is_not_the_jobs_stays(finished):
    (finished.directory / "letters").write_text("dear")
    publish(finished)
    assert [path.name for path in finished.directory.iterdir()] == ["letters"]


def test_a_formats_result_is_what_becomes_the_output(tmp_path):
    there = Places(tmp_path / "out.jsonl")
    there.directory.mkdir()
    for name in ("vectors", "result"):
        (there.directory / name).write_text(name)
    publish(there)
    assert there.output.read_text() == "result" and not there.directory.exists()


class Killed(BaseException):
    """As kill -9 would: nothing catches it."""


class Mortal:
    """Lets so many changes of the file system happen, and no more."""

    def __init__(self, changes):
        self.left = changes

    def limit(self, change):
        def limited(*args, **kwargs):
            if not self.left:
                raise Killed
            self.left -= 1
            return change(*args, **kwargs)
        return limited


@pytest.mark.parametrize("changes", range(12))
def test_it_may_end_after_any_change_and_goes_on_from_there(finished, monkeypatch, changes):
    mortal = Mortal(changes)
    with monkeypatch.context() as patched:
        for owner, name in ((os, "replace"), (Path, "unlink"), (Path, "rmdir")):
            patched.setattr(owner, name, mortal.limit(getattr(owner, name)))
        if changes == 11:
            publish(finished)
            assert not mortal.left, "or there are more places to end at"
        else:
            with pytest.raises(Killed):
                publish(finished)
            rest = [path.name for path in finished.directory.iterdir()]
            assert "journal" in rest or not rest, "the journal goes last"
    if finished.directory.exists():
        publish(finished)
    check(finished)


def test_an_empty_directory_can_be_discarded(tmp_path):
    (tmp_path / "out.npy.part").mkdir()
    discard(tmp_path / "out.npy.part")
    assert not list(tmp_path.iterdir())


def test_a_stamp_tells_of_every_change(tmp_path):
    path = tmp_path / "input"
    path.write_text("one")
    stamps = [stamp(path)]
    path.write_text("two!")
    stamps.append(stamp(path))
    os.utime(path, ns=(1, 1))
    stamps.append(stamp(path))
    (tmp_path / "other").write_text("two!")
    os.utime(tmp_path / "other", ns=(1, 1))
    (tmp_path / "other").replace(path)
    stamps.append(stamp(path))
    assert len(set(map(tuple, stamps))) == 4 and stamp(path) == stamps[-1]


def test_a_digest_is_of_all_of_the_content(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "BLOCK", 4)
    path = tmp_path / "input"
    digests = set()
    for content in ("", "aaaabbbb", "aaaabbbc", "baaabbbb"):
        path.write_text(content)
        digests.add(content_digest(path))
    assert len(digests) == 4


def test_rejects_and_record_are_json(tmp_path):
    write_rejects(tmp_path / "rejects", [(0, 1, "é"), (5, 9, "blank")])
    lines = (tmp_path / "rejects").read_text(encoding="utf-8").splitlines()
    assert list(map(json.loads, lines)) == [{"line": 1, "row": 0, "reason": "é"},
                                            {"line": 9, "row": 5, "reason": "blank"}]
    write_record(tmp_path / "record", {"input": {"é": 1}})
    assert json.loads((tmp_path / "record").read_text(encoding="utf-8")) == {"input": {"é": 1}}
