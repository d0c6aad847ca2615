import json
import re
import sys
from pathlib import Path

import pytest
from tools.peers import engine_rounds, engines, report
from tools.peers.catalogue import PEERS
from tools.peers.engine_rounds import compare_engines
from tools.peers.environments import PeerError

FAKE_ENGINE = Path(__file__).parent / "fake_engine.py"
SECONDS = {"original": "4", "own": "1", "pytorch": "2", "onnxruntime": "dies", "openvino": "broken",
           "ctranslate2": "3"}


class Forms:
    def path(self, form):
        return Path("/forms") / form


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Compares fake engines in fake environments; TensorFlow cannot be installed, and no processor has bf16."""
    said, says = [], {}

    def prepare(environment, folder, say):
        if environment.name == "tensorflow":
            raise PeerError("ERROR: no matching distribution found")
        assert folder == tmp_path / "environments"
        return sys.executable

    class Process(engine_rounds.EngineProcess):
        def __init__(self, arguments, log, env):
            options = json.loads(arguments[3])
            assert arguments[1] == engines.__file__ and options["threads"] == 1
            assert options["file"].startswith("/forms")
            super().__init__([arguments[0], str(FAKE_ENGINE), SECONDS[arguments[2]],
                              says.get(arguments[2], options["precision"])], log, env)

    monkeypatch.setattr(engine_rounds, "prepare", prepare)
    monkeypatch.setattr(engine_rounds, "EngineProcess", Process)
    monkeypatch.setattr(engine_rounds, "speeds_up", lambda precision: precision != "bf16")

    def compare(*workloads, names=PEERS, rounds=2, **precisions):
        says.update(precisions)
        rows, absent = compare_engines(list(names), workloads, Forms(), tmp_path, 1, rounds, said.append)
        return rows, absent, said

    return compare


def test_who_is_there_is_measured(compare, make_workload):
    rows, _, said = compare(make_workload([101, 5, 102], [7]), make_workload([1], name="one", repeat=5))
    assert set(rows) == {"own-fp32", "own-int8", "pytorch", "ctranslate2-fp32", "ctranslate2-int8"}
    assert rows["pytorch"].seconds == {"short": [2, 2], "one": [2, 2]}
    assert rows["own-int8"].cosines["short"] == pytest.approx((1, 1))
    assert rows["own-fp32"].about == "fake engine 1" and "pytorch: fake engine 2; computes in fp32" in said


def test_who_is_not_there_is_named_with_the_reason(compare, make_workload):
    _, absent, _ = compare(make_workload([1]))
    for title, reason in {
            "the original's graph, padded, on TensorFlow, asked for fp32": "ERROR: no matching distribution found",
            "OpenVINO, asked for fp32": "ImportError: no such library",
            "ONNX Runtime, asked for fp32": "it ended with exit code 3",
            "OpenVINO, asked for bf16": "this processor has no instructions for bf16"}.items():
        assert absent[title].startswith(reason)


def test_without_the_exact_one_there_are_no_cosines(compare, make_workload):
    rows, absent, _ = compare(make_workload([1]), names=["pytorch"])
    assert not absent and not rows["pytorch"].cosines and rows["pytorch"].seconds


def test_all_processes_are_gone_afterwards(compare, make_workload, monkeypatch):
    processes = []
    start = engine_rounds.start
    monkeypatch.setattr(engine_rounds, "start", lambda *a: processes.append(start(*a)) or processes[-1])
    compare(make_workload([1]), names=["own-fp32", "onnxruntime-fp32", "pytorch"])
    assert len(processes) == 3
    for process in processes:
        with pytest.raises(ValueError):
            process.ask(do="run")


def test_the_precision_is_what_the_runtime_says_not_what_it_was_asked_for(compare, make_workload):
    rows, _, said = compare(make_workload([1]), names=["own-int8", "ctranslate2-int8"], ctranslate2="fp32")
    assert {name: row.precision for name, row in rows.items()} == {"own-int8": "int8", "ctranslate2-int8": "fp32"}
    assert "ctranslate2-int8: fake engine 3; computes in fp32, and not in int8, which was asked for" in said
    text = report.engines(rows, {"short": 1}, ["own-int8"], "own-int8")
    assert re.search(r"\| CTranslate2 +\| +fp32 +\|", text)
    # It is nobody to compare int8 with.
    assert "CTranslate2" not in text[text.index("than, at int8"):]
