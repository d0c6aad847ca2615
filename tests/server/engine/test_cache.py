"""Cached directories are whole or not there."""
import os
import stat
import threading
from pathlib import Path

import pytest

from bert_serving.server.engine.cache import (MANIFEST, new_directory, read_manifest, sha256, user_cache, write_file,
                                              write_manifest)


def fill(directory, content=b"content"):
    write_file(directory / "file", content)
    (directory / "deep").mkdir()
    write_file(directory / "deep" / "file", content)
    write_manifest(directory, {"about": content.decode()})


def test_user_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache("graphs") == tmp_path / "bert-serving" / "graphs"
    for unusable in ("", "relative"):                  # as the XDG specification wants it
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert user_cache("graphs") == Path.home() / ".cache" / "bert-serving" / "graphs"


def test_a_new_directory_is_for_this_user_only(tmp_path):
    target = tmp_path / "a" / "b"
    with new_directory(target) as directory:
        fill(directory)
        assert not target.exists()
    assert read_manifest(target) == {"about": "content", "files": {"deep/file": sha256(target / "file"),
                                                                   "file": sha256(target / "file")}}
    for path, mode in ((tmp_path / "a", 0o700), (target, 0o700), (target / "file", 0o600), (target / MANIFEST, 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert os.listdir(tmp_path / "a") == ["b"]


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_directory(tmp_path / "target") as directory:
        fill(directory)
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_the_new_replaces_the_old(tmp_path):
    for content in (b"old", b"new"):
        with new_directory(tmp_path / "target") as directory:
            fill(directory, content)
    assert read_manifest(tmp_path / "target")["about"] == "new"
    assert os.listdir(tmp_path) == ["target"]


def test_many_at_once(tmp_path):
    def work(number):
        with new_directory(tmp_path / "target") as directory:
            fill(directory, str(number).encode())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_manifest(tmp_path / "target") is not None
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("spoil", [
    lambda path: (path / "file").write_bytes(b"CONTENT"),
    lambda path: (path / "deep" / "file").unlink(),
    lambda path: (path / MANIFEST).write_text("{"),
    lambda path: (path / MANIFEST).write_text("{}"),
    lambda path: (path / MANIFEST).write_text("[]"),
    lambda path: (path / MANIFEST).write_text('{"files": []}'),
    lambda path: (path / MANIFEST).unlink(),
])
def test_damage_is_noticed(tmp_path, spoil):
    with new_directory(tmp_path / "target") as directory:
        fill(directory)
    assert read_manifest(tmp_path / "target")
    spoil(tmp_path / "target")
    assert read_manifest(tmp_path / "target") is None


def test_files_are_never_written_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "link", b"x")
