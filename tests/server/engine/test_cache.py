"""Cached directories are whole or not there."""
import os
import stat
import threading
from pathlib import Path

import pytest

from bert_serving.server.engine.cache import (MANIFEST, SealError, new_directory, open_format, open_sealed,
                                              read_manifest, sha256, user_cache, write_file, write_manifest)
from bert_serving.server.errors import EngineError


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


def sealed(path):
    with new_directory(path) as directory:
        fill(directory)
    assert read_manifest(path)
    return path


@pytest.mark.parametrize("spoil, said", [
    (lambda path: (path / "file").write_bytes(b"CONTENT"), "file is not what it was: its checksum differs"),
    (lambda path: (path / "deep" / "file").unlink(), "file is missing"),
    (lambda path: write_file(path / "more", b""), "more was added"),
    (lambda path: (path / MANIFEST).write_text("{"), "manifest.json is missing or damaged"),
    (lambda path: (path / MANIFEST).write_text("{}"), "manifest.json is missing or damaged"),
    (lambda path: (path / MANIFEST).write_text("[]"), "manifest.json is missing or damaged"),
    (lambda path: (path / MANIFEST).write_text('{"files": []}'), "manifest.json is missing or damaged"),
    (lambda path: (path / MANIFEST).write_text('{"files": {"../../x": "0"}}'), "is missing"),
    (lambda path: (path / MANIFEST).write_text("[" * 100_000), "manifest.json is missing or damaged"),
    (lambda path: (path / MANIFEST).write_bytes(b"\xff"), "manifest.json is missing or damaged"),
    (lambda path: (path / MANIFEST).unlink(), "manifest.json is missing or damaged"),
    (lambda path: (path / "file").chmod(0o620), "file in it has mode 0620: other users may write to it"),
    (lambda path: (path / "deep").chmod(0o702), "deep in it has mode 0702"),
    (lambda path: path.chmod(0o770), "it has mode 0770"),
    (lambda path: path.parent.chmod(0o777), "every user may write to"),
    (lambda path: (path / "file").rename(path.parent / "f") and (path / "file").symlink_to(path.parent / "f"),
     "file in it is a link"),
    (lambda path: path.rename(path.parent / "t") and path.symlink_to(path.parent / "t"), "it is a link"),
    (lambda path: os.mkfifo(path / "pipe"), "pipe in it is a link or another special file"),
])
def test_damage_and_strangers_are_noticed(tmp_path, caplog, spoil, said):
    target = sealed(tmp_path / "target")
    spoil(target)
    with pytest.raises(SealError, match=said):
        open_sealed(target)
    assert read_manifest(target) is None
    assert said in caplog.text


def test_a_folder_that_all_may_write_to_but_not_take_from_is_fine(tmp_path):
    target = sealed(tmp_path / "target")
    tmp_path.chmod(0o1777)  # like /tmp
    assert read_manifest(target)


@pytest.mark.parametrize("owner, is_fine", [(0, True), (12345, False)])
def test_only_this_user_and_root_may_own_it(tmp_path, monkeypatch, owner, is_fine):
    target = sealed(tmp_path / "target")
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(target / "file", owner, -1)
    if is_fine:
        assert open_sealed(target)
    else:
        with pytest.raises(SealError, match="file in it belongs to another user .12345."):
            open_sealed(target)
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    assert open_sealed(target), "its owner may use it, whose other files are root's"


def test_what_is_not_there_is_no_damage(tmp_path, caplog):
    assert read_manifest(tmp_path / "nothing") is None
    assert caplog.text == ""
    with pytest.raises(FileNotFoundError):
        open_sealed(tmp_path / "nothing")


def test_files_are_never_written_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "link", b"x")


def test_what_an_engine_does_not_take(tmp_path):
    with new_directory(tmp_path / "made") as directory:
        write_manifest(directory, {"format": 2})
    assert open_format(tmp_path / "made", 2)["format"] == 2
    with pytest.raises(EngineError, match="another version's; remove it"):
        open_format(tmp_path / "made", 3)
    with pytest.raises(EngineError, match="is not used: .*; remove it"):
        open_format(tmp_path / "not there", 2)
