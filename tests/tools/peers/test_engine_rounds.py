import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tools.peers import engine_rounds, engines, report
from tools.peers.catalogue import PEERS
from tools.peers.engine_rounds import compare_engines
from tools.peers.environments import PeerError
from bert_serving.server.errors import ConfigError

FAKE_ENGINE = Path(__file__).parent / "fake_engine.py"
SECONDS = {"original": "4", "own": "1", "pytorch": "2", "onnxruntime": "dies", "openvino": "broken",
           "ctranslate2": "3"}


class Forms:
    spec = None

    def path(self, form):
        return Path("/forms") / form


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Compares fake engines in fake environments; TensorFlow cannot be installed, no processor has bf16, and -engine
    auto takes native.
    """
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
    monkeypatch.setattr(engine_rounds.backends, "choose", lambda engine, wanted:
                        (SimpleNamespace(name="native" if engine == "auto" else engine), "why"))

    def compare(*workloads, names=PEERS, rounds=2, **precisions):
        says.update(precisions)
        rows, absent = compare_engines(list(names), workloads, Forms(), tmp_path, 1, rounds, said.append)
        return rows, absent, said

    return compare


def test_who_is_there_is_measured(compare, make_workload):
    rows, _, said = compare(make_workload([101, 5, 102], [7]), make_workload([1], name="one", repeat=5))
    assert set(rows) == {"own-fp32", "own-bf16", "own-int8", "own-lite-fp32", "own-lite-int8", "pytorch",
                         "ctranslate2-fp32", "ctranslate2-fp32-mkl", "ctranslate2-int8"}
    assert [rows[name].title for name in ("own-fp32", "own-bf16", "own-lite-int8")] == [
        "bert-as-service, native", "bert-as-service, native", "bert-as-service, lite"]
    assert rows["pytorch"].seconds == {"short": [2, 2], "one": [2, 2]}
    assert rows["own-int8"].cosines["short"] == pytest.approx((1, 1))
    assert rows["own-fp32"].about == "fake engine 1" and "pytorch: fake engine 2; computes in fp32" in said


def test_who_is_not_there_is_named_with_the_reason(compare, make_workload):
    _, absent, _ = compare(make_workload([1]))
    for title, reason in {
            "the original's graph, padded, on TensorFlow, asked for fp32": "ERROR: no matching distribution found",
            "OpenVINO, asked for fp32": "ImportError: no such library",
            "ONNX Runtime, asked for fp32": "it ended with exit code 3",
            "OpenVINO, asked for bf16": "this processor has no instructions for bf16",
            f"{PEERS['openvino-int8-bf16'].title}, asked for int8": "this processor has no instructions for bf16"
    }.items():
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
    text = report.engines(rows, {"short": 1}, ["own-int8"], ["ctranslate2-int8"], "own-int8")
    assert re.search(r"\| CTranslate2 +\| +fp32 +\|", text)
    # It is nobody to compare int8 with.
    assert text.count("CTranslate2") == 1 and "than, at int8" not in text


# ---- the engines of this project on this machine ---------------------------------------------------------------------

@pytest.fixture
def takes(monkeypatch):
    """Lets -engine auto take what is said for a precision; for others there is none."""
    def takes(**engines):
        def choose(engine, wanted):
            assert wanted.spec == "spec"
            if engine == "auto" and wanted.precision not in engines:
                raise ConfigError(f"no engine can do -precision {wanted.precision}")
            return SimpleNamespace(name=engines[wanted.precision] if engine == "auto" else engine), "why"
        monkeypatch.setattr(engine_rounds.backends, "choose", choose)
    return takes


def test_rows_have_the_engine_that_auto_takes(takes):
    takes(fp32="native", bf16="native", int8="lite")
    for name, backend in {"own-fp32": "native", "own-bf16": "native", "own-int8": "lite"}.items():
        peer = engine_rounds.here(PEERS[name], "spec")
        assert (peer.backend, peer.title) == (backend, f"bert-as-service, {backend}")


def test_the_other_engine_has_a_row_where_it_is_not_the_default(takes):
    takes(fp32="native", int8="lite")
    assert engine_rounds.here(PEERS["own-lite-fp32"], "spec") == PEERS["own-lite-fp32"]
    with pytest.raises(PeerError, match="-engine auto takes lite, which has a row already"):
        engine_rounds.here(PEERS["own-lite-int8"], "spec")


def test_without_an_engine_there_is_no_row(takes):
    takes(fp32="lite", bf16="graph")
    with pytest.raises(PeerError, match="no engine can do -precision int8"):
        engine_rounds.here(PEERS["own-int8"], "spec")
    with pytest.raises(PeerError, match="-engine auto takes graph for it, whose precision is not read here"):
        engine_rounds.here(PEERS["own-bf16"], "spec")


def test_the_engine_the_hint_and_the_environment_are_passed_on(takes, monkeypatch, tmp_path):
    takes(bf16="native")
    asked = []
    monkeypatch.setattr(engine_rounds, "EngineProcess", lambda command, log, env: asked.append(
        {**json.loads(command[3]), "mkl": env.get("CT2_USE_MKL")}))
    monkeypatch.setattr(engine_rounds, "prepare", lambda *rest: "python")
    others = [PEERS[name] for name in ("openvino-int8-bf16", "ctranslate2-fp32-mkl")]
    for peer in (engine_rounds.here(PEERS["own-bf16"], "spec"), *others):
        engine_rounds.start(peer, Forms(), tmp_path, 1, None)
    assert [tuple(options[name] for name in ("precision", "backend", "hint", "mkl")) for options in asked] == [
        ("bf16", "native", None, None), ("int8", "auto", "bf16", None), ("fp32", "auto", None, "1")]
