"""docs/performance/capacity.py in small: a server is measured, and the simulation says about what was measured."""
import importlib.util
import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs/performance"
BESIDE = ("load", "saturation", "server")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the load waits with epoll")


@pytest.fixture
def capacity(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("capacity", FOLDER / "capacity.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "capacity", module)  # where its dataclasses look for themselves
    for name in BESIDE:  # those beside it; whoever has others of these names gets them back
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec.loader.exec_module(module)
    before = os.sched_getaffinity(0)
    yield module
    os.sched_setaffinity(0, before)
    for name in BESIDE:
        sys.modules.pop(name, None)


def test_what_is_simulated_is_about_what_is_measured(capacity):
    """Tests beside this one take the machine away by turns, so only what is wrong by far is seen."""
    cases = [capacity.ALONE, capacity.Case(4, 64), capacity.Case(8, 8)]
    if len(capacity.CORES) < 2:
        pytest.skip("one core for the server, and one for workers and clients")
    seen = capacity.rounds(cases, 1, 0.2)
    costs = capacity.calibrate(seen[:2])
    assert costs.loop.request + costs.loop.job > 10e-6 and max(costs.client.request, costs.client.job) > 0
    found = capacity.compare(costs, seen)
    assert [case for case, _, _ in found] == cases
    for case, (measured,), outcome in found:
        assert 1 / 20 < outcome.speed / measured < 20, case
    assert 0 <= seen[0].foreign <= 1
