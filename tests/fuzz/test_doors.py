"""A short siege of a real server, and that a siege sees what is planted."""
from __future__ import annotations

import json
import random
import socket
from pathlib import Path

import pytest

from . import generate
from .__main__ import main
from .codecs import Found
from .doors import DOORS, besiege

CORPUS = Path(__file__).with_name("corpus")

pytestmark = pytest.mark.timeout(180)  # clients, floods and server share a busy machine


def test_a_short_siege(tmp_path):
    siege = besiege(5, 0, 1, str(tmp_path), say=str)
    assert siege.is_clean, (siege.crashes, siege.verdict.examples, siege.wrong, siege.growth)
    assert all(siege.sent.values()) and sum(siege.sent.values()) > 1000
    assert siege.verdict.answered > 100


@pytest.mark.parametrize("planted, row", [("crash", "port for requests"), ("wrong", "port for results")])
def test_a_planted_bug_is_seen(tmp_path, planted, row):
    siege = besiege(4, 0, 1, str(tmp_path), planted=planted, rows=[row], timeout=2500, say=str)
    assert not siege.is_clean
    if planted == "crash":
        assert any("ZeroDivisionError" in line or "ended by itself" in line for line in siege.crashes), siege.crashes
    else:
        assert siege.verdict.misrouted or siege.verdict.disordered or siege.verdict.wrong, siege.verdict


def test_a_planted_leak_is_seen(tmp_path):
    siege = besiege(8, 0, 1, str(tmp_path), planted="leak", rows=["port for requests"], say=str)
    assert not siege.is_clean and siege.growth["broker"][1] > siege.growth["broker"][2], siege.growth


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_what_broke_a_door_once(path, echo_server):
    found = Found.from_json(json.loads(path.read_text()))
    if found.target not in DOORS:
        return
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", getattr(echo_server, DOORS[found.target][1])), 20) as peer:
            peer.sendall(b"".join(found.frames))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with echo_server.client() as client:
        assert client.encode(["hello"]).shape == (1, 768)
    assert "reason of our own" not in echo_server.log


@pytest.mark.parametrize("make", [generate.http, generate.zmtp])
def test_raw_input_is_the_same_for_the_same_seed(make):
    first, again = ([make(random.Random(number)) for number in range(50)] for _ in range(2))
    assert first == again


def test_the_program_prints_its_seed_and_a_table_and_keeps_what_broke(capsys, tmp_path):
    code = main(["--seed", "41", "--messages", "20000", "--only", "requests", "jobs", "--planted", "crash", "--keep",
                 str(tmp_path / "kept"), "--json", str(tmp_path / "found.json"), "--markdown", str(tmp_path / "f.md")])
    out = capsys.readouterr().out
    assert code == 1 and out.startswith("seed 41\n") and "failed; seed 41" in out
    assert "ZeroDivisionError: planted" in out
    kept = [json.loads(path.read_text()) for path in (tmp_path / "kept").iterdir()]
    assert {one["target"] for one in kept} == {"requests", "jobs"}
    assert json.loads((tmp_path / "found.json").read_text())["seed"] == 41
    assert "| requests | 10,001 | 1 |" in (tmp_path / "f.md").read_text()
    assert main(["--seed", "41", "--messages", "2000", "--only", "jobs"]) == 0
