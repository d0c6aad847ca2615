"""The coverage-guided step: frames and bytes go both ways; it runs where atheris is, and says so where it is not."""
from __future__ import annotations

import importlib.util
import random

import pytest

from . import guided
from .codecs import TARGETS


def test_frames_and_bytes():
    rng = random.Random(1)
    for name in ("requests", "replies", "jobs", "rows"):
        for _ in range(200):
            frames = TARGETS[name].make(rng)[0][:8] or [b""]
            if all(len(frame) < 65536 for frame in frames):
                assert guided.frames_of(guided.bytes_of(frames)) == frames
    assert guided.frames_of(b"") == [b""]
    assert guided.frames_of(b"\7\xff") == [b""] * 8


def test_without_atheris_it_is_left_out_and_said_to_be(monkeypatch):
    monkeypatch.setattr(guided.importlib.util, "find_spec", lambda name: None)
    said = []
    rows, found = guided.run(["requests"], 1, 1, said.append)
    assert rows[0].passed is None and rows[0].memory == guided.MISSING and not found
    assert guided.MISSING in said[0]


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason=guided.MISSING)
@pytest.mark.timeout(120)
def test_a_short_guided_run():
    rows, found = guided.run(["requests"], 2, 1, lambda line: None)
    assert rows[0].passed and rows[0].messages > 100 and not found
