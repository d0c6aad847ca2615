"""The cache's frozen graphs: who uses them, which are removed, and that none is removed that is in use."""
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading

import pytest

from bert_serving.server.config import ServerConfig
from bert_serving.server.engine import artefact
from bert_serving.server.engine.cache import new_directory, read_manifest, write_file, write_manifest
from bert_serving.server.engine.eviction import Lease, describe, entries, prune
from bert_serving.server.engine.models import resolve

NAMES = ["a" * 32, "b" * 32, "c" * 32]


def make(directory, name, nbytes=1000, used=None):
    """A frozen graph of about that size, last used at that time."""
    with new_directory(directory / name) as fresh:
        write_file(fresh / "graph.pb", b"x" * nbytes)
        write_manifest(fresh, {"format": 3, "made_from": {"engine": "graph", "precision": "fp32"}})
    if used is not None:
        Lease(directory / name).release()
        os.utime(directory / f"{name}.used", (used, used))
    return directory / name


def names(found):
    return [entry.path.name for entry in found]


@pytest.fixture
def three(tmp_path):
    """Three graphs; the second was used last, the third first."""
    for name, used in zip(NAMES, (2000, 3000, 1000)):
        make(tmp_path, name, used=used)
    return tmp_path


def test_the_least_recently_used_comes_first(three):
    found = entries(three)
    assert names(found) == [NAMES[2], NAMES[0], NAMES[1]]
    assert [entry.used for entry in found] == [1000, 2000, 3000] and not any(entry.in_use for entry in found)
    assert all(1000 < entry.nbytes < 1500 for entry in found)


def test_a_mark_does_not_break_the_seal(three):
    assert read_manifest(three / NAMES[0]) is not None
    assert stat.S_IMODE((three / f"{NAMES[0]}.used").stat().st_mode) == 0o600


@pytest.mark.parametrize("how, left", [
    ({}, []), ({"keep_bytes": 0}, []), ({"keep_bytes": 1500}, [1]), ({"keep_bytes": 3000}, [0, 1]),
    ({"keep_bytes": 9000}, [2, 0, 1]), ({"before": 1500}, [0, 1]), ({"before": 0}, [2, 0, 1]),
    ({"keep_bytes": 3000, "before": 2500}, [1])], ids=str)
def test_prune(three, how, left):
    before = entries(three)
    removed, spared = prune(three, **how)
    assert names(entries(three)) == [NAMES[number] for number in left] and not spared
    assert names(removed) == [entry.path.name for entry in before if not entry.path.exists()]
    assert sorted(os.listdir(three)) == sorted([*(NAMES[number] for number in left),
                                                *(f"{NAMES[number]}.used" for number in left)])


def test_what_is_in_use_stays(three):
    lease = Lease(three / NAMES[2])
    assert [entry.in_use for entry in entries(three) if entry.path.name == NAMES[2]] == [True]
    removed, spared = prune(three)
    assert sorted(names(removed)) == NAMES[:2] and names(spared) == [NAMES[2]]
    assert read_manifest(three / NAMES[2]) is not None
    lease.release()
    lease.release()
    assert names(prune(three)[0]) == [NAMES[2]] and os.listdir(three) == []


def test_several_may_use_one(three):
    leases = [Lease(three / NAMES[0]) for _ in range(2)]
    leases[0].release()
    assert names(prune(three)[1]) == [NAMES[0]]
    leases[1].release()


def test_who_is_killed_uses_nothing(three):
    code = ("import sys, time; from pathlib import Path; from bert_serving.server.engine.eviction import Lease; "
            "lease = Lease(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()")
    process = subprocess.Popen([sys.executable, "-c", code, str(three / NAMES[0])], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        assert names(prune(three)[1]) == [NAMES[0]]
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        assert names(prune(three)[0]) == [NAMES[0]]
    finally:
        process.kill()
        process.communicate()


def test_a_lease_is_of_what_is_still_to_be_made(tmp_path):
    lease = Lease(tmp_path / "deep" / NAMES[0])
    prune(tmp_path / "deep")
    make(tmp_path / "deep", NAMES[0])
    assert names(prune(tmp_path / "deep")[1]) == [NAMES[0]]
    lease.release()


def test_what_was_left_unfinished_goes_too(three):
    (three / f".{NAMES[0]}.x1").mkdir()
    (three / f".{NAMES[0]}.x1" / "file").write_bytes(b"half")
    (three / f"{'d' * 32}.used").touch()
    lease = Lease(three / NAMES[0])
    prune(three, before=0)
    assert (three / f".{NAMES[0]}.x1").exists(), "it may be in the making"
    assert not (three / f"{'d' * 32}.used").exists()
    lease.release()
    assert any("left unfinished" in describe(entry) for entry in entries(three))
    prune(three)
    assert os.listdir(three) == []


def test_what_is_no_frozen_graph_is_left_alone(tmp_path):
    (tmp_path / NAMES[0]).mkdir()                      # of another program, by chance
    (tmp_path / NAMES[1]).mkdir()
    (tmp_path / NAMES[1] / "manifest.json").write_text("[]")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis.used").touch()
    make(tmp_path / "elsewhere", NAMES[2])
    (tmp_path / NAMES[2]).symlink_to(tmp_path / "elsewhere" / NAMES[2])
    there = sorted(os.listdir(tmp_path))
    assert prune(tmp_path) == ([], []) == prune(tmp_path / "no" / "where")
    assert sorted(os.listdir(tmp_path)) == there and (tmp_path / "elsewhere" / NAMES[2]).is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_has_no_marks(three):
    shutil.rmtree(three / NAMES[0])
    three.chmod(0o500)
    try:
        Lease(three / "e" / NAMES[0]).release()
        assert len(prune(three)[1]) == 2
    finally:
        three.chmod(0o700)


def test_a_lease_that_cannot_be_had_is_none(tmp_path):
    (tmp_path / "file").touch()
    Lease(tmp_path / "file" / NAMES[0]).release()


def test_leases_and_pruning_at_once(tmp_path):
    """Whoever has a lease and then finds a graph keeps it, whatever is pruned meanwhile."""
    end, lost = threading.Event(), []

    def pruning():
        while not end.is_set():
            prune(tmp_path)

    thread = threading.Thread(target=pruning)
    thread.start()
    try:
        for _ in range(100):
            lease = Lease(tmp_path / NAMES[0])
            if read_manifest(tmp_path / NAMES[0]) is None:
                make(tmp_path, NAMES[0])
            if read_manifest(tmp_path / NAMES[0]) is None:
                lost.append(1)
            lease.release()
    finally:
        end.set()
        thread.join(20)
    assert not lost


def test_a_lock_on_a_mark_that_was_removed_meanwhile_is_worth_nothing(three, monkeypatch):
    lock, calls = fcntl.flock, []

    def flock(descriptor, how):
        calls.append(how)
        if len(calls) == 1:
            (three / f"{NAMES[0]}.used").unlink()      # by another process, between opening and locking
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    lease = Lease(three / NAMES[0])
    assert len(calls) == 2
    assert names(prune(three)[1]) == [NAMES[0]]
    lease.release()


# ---- what is made of a model -----------------------------------------------------------------------------------------

def test_a_new_graph_makes_room(tiny_dir, tmp_path):
    for name, used in zip(NAMES, (2000, 3000, 1000)):
        make(tmp_path, name, 1_000_000, used)
    settings = resolve(ServerConfig(model_dir=str(tiny_dir), engine="graph")).settings
    lease = Lease(tmp_path / NAMES[2])
    result = artefact.make(settings, tmp_path, 3)
    assert result["removed"] == 1
    assert {entry.path.name for entry in entries(tmp_path)} == {NAMES[1], NAMES[2], os.path.basename(result["path"])}
    lease.release()
    assert artefact.make(settings, tmp_path, 1)["removed"] == 2, "the new one stays, whatever its size"
    entry, = entries(tmp_path)
    assert str(entry.path) == result["path"] and not entry.in_use
    assert describe(entry).endswith(f"graph fp32, REDUCE_MEAN of layers -2: {settings.checkpoint}")
    assert "removed" not in artefact.make(settings, tmp_path)
