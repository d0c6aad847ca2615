"""What the tests of ``make peers`` share: engines that cost nothing, and workloads by hand."""
import sys
from pathlib import Path

import pytest
from tools.peers import driver
from tools.peers.driver import EngineProcess
from tools.peers.workloads import WorkloadKind, Workload

FAKE_ENGINE = Path(__file__).parent / "fake_engine.py"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(driver, "PAUSE", 0)


@pytest.fixture
def start(tmp_path):
    """Starts a fake engine; see fake_engine.py for what it can do wrong."""
    processes = []

    def start(*behaviour, timeout=20):
        processes.append(EngineProcess([sys.executable, str(FAKE_ENGINE), *behaviour], tmp_path / "engine.log",
                                       timeout=timeout))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


@pytest.fixture
def make_workload():
    def make_workload(*sequences, name="short", repeat=1):
        kind = WorkloadKind(name=name, about="numbers", longest=9, max_seq_len=9, repeat=repeat)
        return Workload(kind, [str(sequence) for sequence in sequences], [list(sequence) for sequence in sequences])
    return make_workload
