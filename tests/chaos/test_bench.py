"""The bench as a whole, on real servers: it fails for each bug that is planted, and passes without one."""
from __future__ import annotations

import pytest

from . import report, scenarios
from .__main__ import arguments, main, run
from .faults import Server
from .history import Verdict
from .model import EchoModel
from .scenarios import SCENARIOS, Outcome, Settings


@pytest.fixture
def steady(tmp_path):
    """A short run of one scenario with a planted bug."""
    def start(planted=None, **options):
        settings = Settings(seconds=options.pop("seconds", 6), seed=7, expect=EchoModel(), timeout=2500,
                            every=options.pop("every", 40),
                            planted=planted, directory=str(tmp_path), say=lambda line: None, **options)
        outcome, = run(settings, ["steady"])
        return outcome
    return start


def test_without_a_bug_it_passes(steady):
    outcome = steady()
    assert outcome.passed, report.terminal([outcome])
    assert outcome.verdict.requests > 100


@pytest.mark.parametrize("planted, blamed", [
    ("drop", {"lost"}), ("double", {"doubled"}), ("swap", {"misrouted"}), ("reorder", {"disordered"})])
def test_a_planted_bug_makes_it_fail(steady, planted, blamed):
    # Who closes at once, or is ours, hears of no double.
    outcome = steady(planted, every=8 if planted == "double" else 40)
    assert outcome.passed is False
    found = {name for name in Verdict.FAULTS if getattr(outcome.verdict, name)}
    # What is kept to be swapped when the run ends is never passed on.
    assert blamed <= found <= blamed | ({"lost"} if planted == "swap" else set()), report.terminal([outcome])


def test_a_planted_leak_makes_it_fail(steady):
    outcome = steady("leak", leak=20_000_000, seconds=14)
    assert outcome.verdict.clean and outcome.passed is False, report.terminal([outcome])


def test_the_program_prints_its_seed_and_ends_with_a_verdict(capsys, tmp_path):
    code = main(["--seed", "41", "--seconds", "5", "--only", "steady", "--original", "none",
                 "--json", str(tmp_path / "found.json"), "--markdown", str(tmp_path / "found.md")])
    out = capsys.readouterr().out
    assert out.startswith("seed 41\n")
    assert "steady" in out and "verdict" in out
    assert code == ("FAILED" in out)
    assert '"seed": 41' in (tmp_path / "found.json").read_text()
    assert "| steady |" in (tmp_path / "found.md").read_text()


def test_a_server_that_ends_by_itself_has_failed(steady, monkeypatch):
    def hurt(self, number, rng):
        self.process.kill()
        self.process.wait()

    monkeypatch.setattr(Server, "hurt_worker", hurt)
    outcome = steady()
    assert outcome.passed is False and "ended by itself with code -9" in outcome.figure


def test_a_scenario_that_breaks_off_has_failed(monkeypatch):
    def broken(settings):
        raise RuntimeError("no server")

    monkeypatch.setitem(SCENARIOS, "steady", broken)
    outcome, = run(Settings(seconds=1, seed=1, expect=str, say=lambda line: None), ["steady"])
    assert outcome == Outcome("steady", Verdict(), "broke off: no server", "to end", False)


def test_with_keys_everything_is_as_without(capsys):
    assert main(["--curve", "--seconds", "5", "--only", "steady", "cuts"]) == 0, capsys.readouterr().out


def test_what_sits_between_server_and_clients_cannot_read_what_has_keys(capsys):
    with pytest.raises(SystemExit):
        arguments(["--curve", "--planted", "drop"])
    assert "which --curve prevents" in capsys.readouterr().err


def test_half_open_connections_that_cost_something_are_noticed(monkeypatch, tmp_path):
    settings = Settings(seconds=3, seed=7, expect=EchoModel(), directory=str(tmp_path), say=lambda line: None)
    outcome, = run(settings, ["halfopen"])
    assert outcome.verdict.clean and "1000 held for 3 times" in outcome.figure
    monkeypatch.setattr(scenarios, "HALF_OPEN_SHARE", -1)
    outcome, = run(settings, ["halfopen"])
    assert outcome.passed is False


@pytest.mark.parametrize("name, constant, impossible", [
    ("flood", "FLOOD_MS", -10_000), ("hang", "REFUSED_SECONDS", 1.0)])
def test_what_takes_too_long_is_noticed(monkeypatch, tmp_path, name, constant, impossible):
    settings = Settings(seconds=3, seed=7, expect=EchoModel(), directory=str(tmp_path), say=lambda line: None)
    monkeypatch.setattr(scenarios, constant, impossible)
    outcome, = run(settings, [name])
    assert outcome.verdict.clean and outcome.passed is False, report.terminal([outcome])


def test_every_scenario_is_run_by_default():
    assert arguments([]).only == list(SCENARIOS)
