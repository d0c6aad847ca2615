"""A simulated server does what can be worked out by hand, and never more than its threads, workers and cores can."""
import importlib.util
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from bert_serving.server.core.scheduler import INTERACTIVE_SECONDS, MIN_JOB_TOKENS, TARGET_SECONDS, Scheduler
from hypothesis import given, settings
from hypothesis import strategies as st

SPEC = importlib.util.spec_from_file_location(
    "simulated_saturation", Path(__file__).parents[2] / "docs/performance/saturation.py")
saturation = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)  # where its dataclasses look for themselves
SPEC.loader.exec_module(saturation)
MEASURED, Cost, Costs, Counts, Plan = (
    saturation.MEASURED, saturation.Cost, saturation.Costs, saturation.Counts, saturation.Plan)
fit, main, simulate, table, with_wake = (
    saturation.fit, saturation.main, saturation.simulate, saturation.table, saturation.with_wake)

FREE = Costs(Cost(), Cost())


@pytest.mark.parametrize("workers, size", [(1, 1), (1, 40), (3, 16)])
def test_slow_workers_are_what_limits(workers, size):
    outcome = simulate(FREE, Plan(clients=8 * workers, size=size, workers=workers, speed=100), 60)
    assert outcome.speed == pytest.approx(100 * workers, rel=0.1)
    assert outcome.workers > 0.9 and outcome.loop == outcome.io == 0


def test_a_full_loop_is_what_limits():
    costs = Costs(Cost(request=100e-6, sentence=10e-6), Cost(request=10e-6))
    outcome = simulate(costs, Plan(clients=64, size=5, workers=4), 400)
    assert outcome.speed == pytest.approx(5 / 150e-6, rel=0.05)
    assert outcome.loop == pytest.approx(1, rel=0.05) and outcome.io == pytest.approx(10 / 150, rel=0.1)


def test_bytes_are_the_other_threads():
    costs = Costs(Cost(), Cost(byte_in=1e-9, byte_out=2e-9))
    outcome = simulate(costs, Plan(clients=16, size=10, workers=1, bytes_in=100, bytes_out=1000), 300)
    assert outcome.speed == pytest.approx(1 / (100e-9 + 2000e-9), rel=0.05) and outcome.io > 0.95


def test_small_requests_share_jobs():
    """While a worker computes, what comes waits, and goes together."""
    costs = Costs(Cost(job=1e-3), Cost())
    outcome = simulate(costs, Plan(clients=64, size=1, workers=1, speed=5000), 400)
    assert outcome.batch > 16
    assert outcome.speed > 4000, "a job for each request would be 1000 at most"


def test_jobs_are_no_larger_than_they_may_be():
    assert simulate(FREE, Plan(clients=8, size=100, workers=1, max_batch_size=30, speed=1e4), 50).batch <= 30


@pytest.mark.parametrize("priority_batch_size, seconds", [(16, INTERACTIVE_SECONDS), (1, TARGET_SECONDS)])
def test_a_job_takes_as_long_as_the_scheduler_says(priority_batch_size, seconds):
    """Short while the requests are fast ones, long where all are bulk."""
    plan = Plan(clients=400, size=4, workers=1, speed=1000, priority_batch_size=priority_batch_size,
                max_batch_size=10_000)
    assert simulate(FREE, plan, 3000).batch == pytest.approx(1000 * seconds, rel=0.1)


def test_the_scheduler_cuts_the_jobs(monkeypatch):
    """What core decides is what is simulated: there is no second scheduler here that would differ from it."""
    monkeypatch.setattr(Scheduler, "job_tokens", lambda self, worker, seconds: MIN_JOB_TOKENS)
    plan = Plan(clients=64, size=16, workers=1, speed=1e4, tokens=8)
    assert simulate(FREE, plan, 50).batch == MIN_JOB_TOKENS / plan.tokens


def test_a_client_alone_waits_for_everything():
    costs = Costs(Cost(request=1e-3), Cost(request=2e-3), Cost(job=3e-3), Cost(request=4e-3))
    outcome = simulate(costs, Plan(clients=1, size=1, workers=1, speed=100), 10)
    assert outcome.speed == pytest.approx(1 / (1e-3 + 2e-3 + 3e-3 + 4e-3 + 10e-3))


def test_waking_takes_its_time():
    plan = Plan(clients=1, size=1, workers=1)
    costs = Costs(Cost(request=1e-4), Cost(request=1e-4))
    slower = with_wake(costs, plan, 1000.0)
    assert slower.wake > 0 and simulate(slower, plan, 20).speed == pytest.approx(1000)
    assert with_wake(costs, plan, 1e9).wake == 0, "it cannot be faster than its threads"


@pytest.mark.parametrize("cores, other_cores, each_second", [(1, None, 5000), (None, 1, 5000), (2, 1, 5000)])
def test_cores_are_shared(cores, other_cores, each_second):
    """Each of four threads takes 100 us, two of them on either side."""
    each = Cost(request=100e-6)
    outcome = simulate(Costs(each, each, each, each), Plan(
        clients=64, size=1, workers=1, client_threads=1, cores=cores, other_cores=other_cores), 500)
    assert outcome.speed == pytest.approx(each_second, rel=0.1)


@settings(max_examples=25, deadline=None)
@given(clients=st.integers(1, 12), size=st.integers(1, 300), workers=st.integers(1, 5), batch=st.integers(1, 300),
       cores=st.sampled_from([None, 1]), speed=st.sampled_from([50.0, 5000.0, float("inf")]),
       threads=st.sampled_from([None, 1]))
def test_nobody_does_more_than_is_possible(clients, size, workers, cores, batch, speed, threads):
    """And nothing gets lost: as many requests as asked for are answered."""
    plan = Plan(clients=clients, size=size, workers=workers, cores=cores, max_batch_size=batch, speed=speed,
                client_threads=threads)
    outcome = simulate(MEASURED, plan, 30)
    assert 0 < outcome.speed and 0 < outcome.loop <= 1.1 and 0 < outcome.io <= 1.1
    assert outcome.batch <= batch and outcome.workers <= 1.3, "work that began before the time that counts"


@pytest.mark.parametrize("wrong", [{"clients": 0}, {"size": 0}, {"workers": 0}, {"speed": 0}, {"speed": float("nan")}])
def test_nobody_there(wrong):
    with pytest.raises(ValueError, match="at least one of everything"):
        simulate(FREE, replace(Plan(clients=1, size=1, workers=1), **wrong))


def test_a_sentence_has_special_tokens():
    with pytest.raises(ValueError, match="at least 3 tokens for a sentence"):
        simulate(FREE, Plan(clients=1, size=1, workers=1, tokens=2))


def test_costs_are_found_again():
    cost = Cost(request=50e-6, sentence=2e-6, job=100e-6, byte_in=0.0, byte_out=1e-9)
    seen = [Counts(1000, 1000 * size, jobs, 1000 * size * text, 1000 * size * 3072 * layers)
            for size, jobs, text, layers in ((1, 1000, 50, 1), (1, 100, 50, 1), (16, 300, 50, 1), (16, 300, 200, 1),
                                             (16, 300, 50, 4), (256, 1000, 50, 1))]
    found = fit(seen, [counts.seconds(cost) for counts in seen])
    for name, value in asdict(cost).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-3, abs=1e-12), name


def test_no_cost_is_below_zero():
    """Whatever was measured: noise makes costs that explain it best without this."""
    random = np.random.default_rng(0)
    for _ in range(20):
        seen = [Counts(*values) for values in random.uniform(1, 1000, size=(7, 5))]
        found = asdict(fit(seen, random.uniform(0.1, 1, size=7)))
        assert min(found.values()) >= 0 and max(found.values()) > 0


def test_the_table():
    text = table(MEASURED, [1, 16], [1000], [1, 4], 384)
    assert text.splitlines()[0] == "| sentences a request | a worker's sentences/s | 1 worker | 4 workers |"
    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == ["| 1", "| 16"]


def speed_of(output):
    """What the one number of a table says."""
    return float(output.splitlines()[-1].split(" | ")[2].split(" ")[0])


def test_the_command(capsys, tmp_path):
    few = ["--size", "1", "--speed", "1000", "--workers", "2"]
    assert main(few) == 0
    usual = speed_of(capsys.readouterr().out)
    file = tmp_path / "costs.json"
    file.write_text(json.dumps(asdict(replace(MEASURED, loop=Cost(request=1e-2)))))
    assert main([*few, "--costs", str(file)]) == 0
    assert usual > 1000 > 110 > speed_of(capsys.readouterr().out), "100 requests a second are what such a loop can do"


@pytest.mark.parametrize("content", ["", "[]", '{"loop": {}}', '{"loop": 1, "io": 1, "wake": 1}'])
def test_costs_that_are_none(content, tmp_path, capsys):
    file = tmp_path / "costs.json"
    file.write_text(content)
    with pytest.raises(SystemExit):
        main(["--costs", str(file)])
    assert "is not what capacity.py --output writes" in capsys.readouterr().err
