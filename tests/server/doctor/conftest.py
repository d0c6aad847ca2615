"""A tiny model, and a cache of its own for every test."""
import pytest

from ..engine.conftest import TinyBert


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """A model in Hugging Face's format, not to be changed."""
    return TinyBert().write_hugging_face(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing of this user's is found or written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"
