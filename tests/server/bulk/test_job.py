import io
import json
import math
import sqlite3
import sys

import numpy as np
import pytest

from bert_serving.client.errors import OverloadedError
from bert_serving.server.bulk import job as jobs
from bert_serving.server.bulk.inputs import about, open_input
from bert_serving.server.bulk.job import BulkJob, JobSpec, probe
from bert_serving.server.bulk.places import Places
from bert_serving.server.bulk.progress import BulkProgress
from bert_serving.server.bulk.records import BulkError

from .conftest import CONFIG, FakeClient, vector

TEXTS = ["one", "two", "", "one", "poison", "three"]
REJECTS = [2, 4]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    write(path, TEXTS)
    return path


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text, "title": "title"}) + "\n" for text in texts))


def run(source, client, output="out.npy", column="text", **wishes):
    spec = JobSpec(open_input(source, "jsonl", column), about("jsonl", column), source.with_name(output),
                   **wishes)
    return BulkJob(spec).run(client, probe(client), lambda total, done: BulkProgress(total, done, io.StringIO()))


def names(source):
    return sorted(path.name for path in source.parent.iterdir())


def test_a_job_leaves_vectors_rejects_and_a_record(source, client):
    outcome = run(source, client)
    assert names(source) == ["in.jsonl", "out.npy", "out.npy.job.json", "out.npy.rejects.jsonl"]
    found = np.load(source.with_name("out.npy"))
    for row, text in enumerate(TEXTS):
        np.testing.assert_array_equal(found[row], np.full(4, np.nan) if row in REJECTS else vector(text))
    rejects = source.with_name("out.npy.rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in rejects] == [3, 5]
    record = json.loads(source.with_name("out.npy.job.json").read_text())
    assert record["counts"] == {"rows": 6, "texts": 4, "rejects": 2} == outcome.counts
    assert record["server"]["model_name"] == "fake" and record["input"]["column"] == "text"
    assert record["server"]["pooling_strategy"] == "REDUCE_MEAN"
    assert "out.npy: 6 rows, 4 different texts, 2 rejects, listed in" in outcome.summary(Places(source.with_name(
        "out.npy")))


def test_a_finished_job_is_known_again(source, client):
    run(source, client)
    before = source.with_name("out.npy").stat()
    source.with_name("out.npy.part").mkdir()  # killed just before the end of the end
    asked = len(client.asked)
    outcome = run(source, client)
    assert outcome.was_done and outcome.counts["rows"] == 6 and "was there already" in outcome.summary(Places(source))
    assert source.with_name("out.npy").stat() == before and len(client.asked) == asked
    assert names(source) == ["in.jsonl", "out.npy", "out.npy.job.json", "out.npy.rejects.jsonl"]
    assert not run(source, client, overwrite=True).was_done and len(client.asked) > asked


def test_what_is_there_and_not_ours_is_left_alone(source, client):
    source.with_name("out.npy").write_text("precious")
    with pytest.raises(BulkError, match="out.npy is there already; give another name, or -overwrite"):
        run(source, client)
    assert source.with_name("out.npy").read_text() == "precious" and names(source) == ["in.jsonl", "out.npy"]
    run(source, client, overwrite=True)
    assert np.load(source.with_name("out.npy")).shape == (6, 4)


@pytest.mark.parametrize("where, message", [
    ("content", "the input's content is another"), ("column", "column was text, and is title"),
    ("precision", "precision was fp32, and is int8"), ("model", "the server's model gives other vectors"),
    ("width", "vectors had 4 numbers of float32, and have 2 of float32"),
])
@pytest.mark.parametrize("finished", [True, False])
def test_what_changed_since_is_named(source, client, monkeypatch, where, message, finished):
    if finished:
        run(source, client)
    else:
        begin(source, FakeClient())
    asked = len(client.asked)
    column = "text"
    if where == "content":
        write(source, ["four", *TEXTS[1:]])
    elif where == "column":
        column = "title"
    elif where == "precision":
        monkeypatch.setitem(CONFIG, "precision", "int8")
    elif where == "model":
        client.seed = 1
    else:
        monkeypatch.setattr(client, "_vectors", lambda texts: np.ones((len(texts), 2), np.float32))
    with pytest.raises(BulkError, match=message):
        run(source, client, column=column)
    assert len(client.asked) == asked, "nothing was asked for in vain"
    if where != "width":
        run(source, client, column=column, overwrite=True)
        assert np.load(source.with_name("out.npy")).shape == (6, 4)
        assert not source.with_name("out.npy.part").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_job_of_a_server_that_said_less_goes_on(source, client, monkeypatch, finished):
    """A server of today has options that one of an older version had not, nor the job that it began."""
    monkeypatch.delitem(CONFIG, "normalize", raising=False)
    if finished:
        run(source, client)
    else:
        begin(source, FakeClient())
    monkeypatch.setitem(CONFIG, "normalize", False)
    assert run(source, client).was_done == finished
    monkeypatch.setitem(CONFIG, "normalize", True)


def begin(source, client, output="out.npy", **wishes):
    """Begin a job, and be killed in its first answer."""
    class Killed(BaseException):
        pass

    def fetch():
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(client, "fetch", fetch)
        with pytest.raises(Killed):
            run(source, client, output, **wishes)


def test_another_job_does_not_take_the_files_of_one_that_was_killed_at_its_very_end(source, client, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(places):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "publish", killed)
        with pytest.raises(Killed):
            run(source, client)
    with pytest.raises(BulkError, match="holds the beginning of another job: column was text, and is title"):
        run(source, FakeClient(), column="title")
    run(source, FakeClient(), column="title", overwrite=True)
    np.testing.assert_array_equal(np.load(source.with_name("out.npy")), [vector("title")] * len(TEXTS))


def test_a_job_that_is_killed_while_it_forgets_another_takes_nothing_from_it(source, client, monkeypatch):
    class Killed(BaseException):
        pass

    class Connection(sqlite3.Connection):
        """Is killed after so many statements."""

        def execute(self, *args):
            done = super().execute(*args)
            count()
            return done

        def executemany(self, *args):
            done = super().executemany(*args)
            count()
            return done

    def killed(*args):
        raise Killed

    def count():
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    def connect(*args, connect=sqlite3.connect, **kwargs):
        connections.append(connect(*args, factory=Connection, **kwargs))
        return connections[-1]

    def agree(*args, agree=BulkJob._agree):
        nonlocal left
        left = kills  # from here on
        seen = agree(*args)
        left = math.inf
        return seen

    connections = []
    kills, ended = 0, False
    while not ended:
        left = math.inf
        write(source, ["a", "b"])
        with monkeypatch.context() as patched:
            patched.setattr(jobs, "write_rejects", killed)
            with pytest.raises(Killed):
                run(source, FakeClient())
        write(source, ["x", "y", "a"])
        with monkeypatch.context() as patched:
            patched.setattr(sqlite3, "connect", connect)
            patched.setattr(BulkJob, "_agree", agree)
            try:
                run(source, client, overwrite=True)
                ended = True
            except Killed:
                kills += 1
            connections.pop().close()
        outcome = run(source, client, overwrite=True)
        np.testing.assert_array_equal(np.load(source.with_name("out.npy")), [vector(text) for text in "xya"],
                                      err_msg=f"killed after {kills} statements")
        assert outcome.counts == {"rows": 3, "texts": 3, "rejects": 0}
        source.with_name("out.npy").unlink()
    assert kills == 7, "BEGIN, three tables, the job, COMMIT, and what is read again"


def test_a_touched_input_of_the_same_content_is_the_same(source, client):
    begin(source, FakeClient())
    source.touch()
    run(source, client)
    assert source.with_name("out.npy").exists()


@pytest.mark.parametrize("output", ["out.npy", "out.jsonl", "out.parquet"])
def test_a_job_that_ends_anywhere_goes_on_to_the_same_bytes(source, client, monkeypatch, output):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    undisturbed = source.parent / "undisturbed"
    undisturbed.mkdir()
    spec = JobSpec(open_input(source, "jsonl", "text"), about("jsonl", "text"), undisturbed / output)
    BulkJob(spec).run(client, probe(client), lambda total, done: BulkProgress(total, done, io.StringIO()))

    class Killed(BaseException):
        pass

    for owner, name in ((jobs.VectorFile, "write"), (jobs.Journal, "advance"), (jobs, "write_rejects"),
                        (jobs, "write_record"), (jobs.Journal, "set_computed"), (jobs, "publish")):
        for before in (True, False):
            original = getattr(owner, name)

            def killed(*args, **kwargs):
                if not before:
                    original(*args, **kwargs)
                raise Killed

            with monkeypatch.context() as patched:
                patched.setattr(owner, name, killed)
                try:
                    run(source, FakeClient(), output)
                except Killed:
                    pass
    run(source, FakeClient(), output)
    for path in undisturbed.iterdir():
        assert source.with_name(path.name).read_bytes() == path.read_bytes()
    assert not source.with_name(output + ".part").exists()


def test_an_output_that_comes_up_in_the_meantime_is_not_replaced(source, client):
    begin(source, FakeClient())
    source.with_name("out.npy").write_text("precious")
    with pytest.raises(BulkError, match="has come up in the meantime"):
        run(source, client)
    assert source.with_name("out.npy").read_text() == "precious"
    source.with_name("out.npy").unlink()
    asked = len(client.asked)
    run(source, client)
    assert len(client.asked) == asked and np.load(source.with_name("out.npy")).shape == (6, 4)


def test_stale_rejects_go_with_the_job_that_left_them(source, client):
    run(source, client)
    write(source, ["fine"])
    run(source, client, overwrite=True)
    assert names(source) == ["in.jsonl", "out.npy", "out.npy.job.json"]


def test_places_that_cannot_be_are_said_so(source, client):
    with pytest.raises(BulkError, match="no directory .*nowhere"):
        BulkJob(JobSpec(open_input(source, "jsonl", "text"), {}, source.with_name("nowhere") / "out.npy"))
    source.with_name("out.npy").mkdir()
    with pytest.raises(BulkError, match="is a directory"):
        run(source, client)


def test_a_missing_library_is_missed_before_anything_is_begun(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BulkError, match="pyarrow"):
        BulkJob(JobSpec(open_input(source, "jsonl", "text"), about("jsonl", "text"), source.with_name("out.parquet")))


def test_an_input_is_not_written_over(source, client):
    with pytest.raises(BulkError, match="in.jsonl is the input, too"):
        run(source, client, output="in.jsonl", overwrite=True)


def test_a_server_that_is_overloaded_is_met_later(client, monkeypatch):
    answers, slept = [OverloadedError("full", retry_after=2.5), OverloadedError("full"), None], []

    def vectors(texts, original=client._vectors):
        error = answers.pop(0)
        if error is not None:
            raise error
        return original(texts)

    monkeypatch.setattr(client, "_vectors", vectors)
    assert probe(client, slept.append).canaries.shape == (6, 4) and slept == [2.5, 1.0]


def test_a_vector_a_token_is_refused(client, monkeypatch):
    monkeypatch.setattr(client, "_vectors", lambda texts: np.ones((len(texts), 5, 4), np.float32))
    with pytest.raises(BulkError, match=r"a vector for each token, an array of shape \(6, 5, 4\).*than REDUCE_MEAN"):
        probe(client)


@pytest.mark.parametrize("workers, joined, chunks", [
    (1, 0, 4), (16, 0, 8), ("1-16", 2, 8), (None, 16, 8), (1000, 0, 32)])
def test_so_much_is_under_way_that_no_worker_waits(client, monkeypatch, workers, joined, chunks):
    monkeypatch.setitem(CONFIG, "num_worker", workers)
    monkeypatch.setitem(CONFIG, "workers", [{"state": "ready"}] * joined)
    assert probe(client).num_chunks == chunks
