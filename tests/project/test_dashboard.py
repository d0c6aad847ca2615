"""The dashboard reads only what a real status reply has, and loads nothing from elsewhere."""
import json
import re
import urllib.request
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "plugin/dashboard/index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def status(echo_server):
    with urllib.request.urlopen(f"http://127.0.0.1:{echo_server.http_port}/status/server", timeout=20) as response:
        return json.load(response)


PATHS = sorted(set(re.findall(r"status((?:\.\w+)+)", PAGE)))


@pytest.mark.parametrize("path", PATHS)
def test_key_is_in_a_status_reply(path, status):
    value = status
    for key in path.split(".")[1:]:
        if isinstance(value, (list, str)):
            assert key in ("filter", "reduce", "slice"), f"{key} of a {type(value).__name__}"
            return
        assert key in value, f"the page reads status{path}"
        value = value[key]


@pytest.mark.parametrize("key", sorted(set(re.findall(r"worker\.(\w+)", PAGE))))
def test_key_is_in_each_worker(key, status):
    assert status["workers"]
    for worker in status["workers"]:
        assert key in worker


def test_keys_are_found():
    assert ".statistic.num_data_request" in PATHS
    assert len(PATHS) >= 12


def test_nothing_comes_from_elsewhere():
    assert not re.findall(r"""(?:src|href)\s*=|@import|url\(""", PAGE)
    assert re.findall(r"https?://[^\s\"'`]+", PAGE) == ["http://localhost:8125"]
