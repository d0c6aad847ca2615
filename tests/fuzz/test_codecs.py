"""A short run against every decoder, and that a run sees what is planted."""
from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from . import codecs, generate, planted
from .__main__ import fire
from .codecs import TARGETS, Found, Target, Trace, shrink, trouble

CORPUS = Path(__file__).with_name("corpus")


@pytest.mark.filterwarnings("ignore:Data type alias:DeprecationWarning")  # NumPy's, for a worker's odd dtype
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_finds_nothing(name):
    answer = codecs.fire(name, 2000, seed=1)
    assert answer["found"] == [], [one["what"] for one in answer["found"]]


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_what_broke_something_once(path):
    found = Found.from_json(json.loads(path.read_text()))
    if found.target in TARGETS:
        assert trouble(TARGETS[found.target], found.frames) is None, found.what


@pytest.mark.parametrize("name", TARGETS)
def test_the_same_seed_makes_the_same_input(name):
    one, other = random.Random(7), random.Random(7)
    made = [TARGETS[name].make(one)[0] for _ in range(200)]
    assert made == [TARGETS[name].make(other)[0] for _ in range(200)]
    assert len({tuple(frames) for frames in made}) > 100


def test_right_and_spoiled_input_are_both_made():
    rng = random.Random(3)
    made = [TARGETS["requests"].make(rng) for _ in range(2000)]
    decoded = sum(trouble(Target(lambda rng: ([], None), _must_be_refused), frames) is not None for frames, _ in made)
    assert 200 < decoded < 1800


def _must_be_refused(frames, right):
    try:
        codecs.protocol.decode_request(frames)
    except codecs.protocol.ProtocolError:
        return
    raise AssertionError("it was decoded")


def test_nothing_that_is_made_stops_a_server():
    rng = random.Random(5)
    for _ in range(5000):
        frames = generate.without_termination(generate.spoil(rng, generate.request(rng)))
        assert frames[1:2] != [codecs.protocol.TERMINATION]


# ---- it sees -----------------------------------------------------------------------------------------------------

def test_a_planted_crash_is_found_and_made_small():
    answer = codecs.fire("requests", 20_000, 1, target=planted.spoiled(TARGETS["requests"], "crash"))
    one, = [Found.from_json(found) for found in answer["found"]]
    assert one.is_crash and "ZeroDivisionError: planted" in one.what and "planted.py:" in one.what
    assert sum(map(len, one.frames)) < 30


def test_a_planted_wrong_answer_is_found():
    answer = codecs.fire("replies", 5000, 1, target=planted.spoiled(TARGETS["replies"], "wrong"))
    assert [found["is_crash"] for found in answer["found"]] == [False]


@pytest.mark.parametrize("kind, crashes", [("crash", 1), ("leak", 0)])
def test_a_row_of_the_table_says_so(kind, crashes):
    row, found = fire("requests", 10_000, 1, kind)
    assert row.passed is False and row.crashes == crashes == len(found)
    assert ("GREW" in row.memory) == (kind == "leak")


def test_a_process_that_dies_leaves_what_it_looked_at(monkeypatch, tmp_path):
    trace = tmp_path / "trace"
    frames = [b"", b"a" * 1000, b"\0"]
    Trace(str(trace)).note(frames)
    assert Trace.read(str(trace)) == frames
    row, found = fire("no such target", 10, 1, None)
    assert row.passed is False and row.crashes == 1 and "KeyError" in found[0].what


def test_shrinking_keeps_the_trouble():
    def check(frames, right):
        if any(b"bad" in frame for frame in frames):
            raise ZeroDivisionError

    small = shrink(Target(lambda rng: ([], None), check), [b"good", b"so" * 100 + b"bad" + b"ly" * 77, b"good"])
    assert small == [b"bad"]


def test_what_is_found_is_kept(tmp_path):
    found = Found("requests", True, "why", [b"\xff", b""])
    assert Found.from_json(json.loads(found.keep(tmp_path / "new").read_text())) == found
