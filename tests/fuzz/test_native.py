"""The native encoder's C interface: a short run of its fuzzer under ASan and UBSan, and that it sees a wrong bound."""
from __future__ import annotations

import pytest

from .__main__ import native_rows
from .native import encoder

TARGET = "native, plain"

pytestmark = [
    pytest.mark.timeout(240),  # a busy machine takes a while to compile
    pytest.mark.skipif(bool(encoder.why_not(TARGET)), reason=encoder.why_not(TARGET))]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return encoder.build(TARGET, "-O0", folder=tmp_path_factory.mktemp("built"))


def test_sizes_are_checked_and_bounds_are_kept(built):
    outcome = encoder.run(TARGET, built, seed=1, iterations=50)
    assert not outcome.failure, outcome.counts["stderr"]
    assert outcome.counts["iterations"] == 50
    assert outcome.counts["encoded"] >= 300 and outcome.counts["refused"] > 1000 and outcome.counts["accepted"] > 100


def test_what_a_run_finds_is_in_the_table(built, monkeypatch, tmp_path):
    """Something that is no library, for want of a bug."""
    wrong = encoder.Built(built.program, tmp_path / "missing.so")
    monkeypatch.setattr(encoder, "build", lambda target: wrong)
    (row,), (note,) = native_rows([TARGET], 1, 1, lambda line: None)
    assert row.passed is False and row.crashes == 1 and "missing.so" in note


def test_what_cannot_be_compiled_is_left_out_and_said_to_be(monkeypatch):
    monkeypatch.setattr(encoder, "why_not", lambda target: "there is no compiler")
    (row,), notes = native_rows([TARGET], 1, 1, lambda line: None)
    assert row.passed is None and row.memory == "there is no compiler" and not notes
