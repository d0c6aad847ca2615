"""The whole command, with engines that cost nothing."""
import json
import re
import sys
from pathlib import Path

import pytest
from bert_serving.server.benchmark.peers import __main__ as command, engines
from bert_serving.server.benchmark.peers.environments import PeerError
from bert_serving.server.benchmark.peers.models import random_model
from bert_serving.server.engine.bert import BertConfig

FAKE_ENGINE = Path(__file__).parent / "fake_engine.py"
SECONDS = {"original": "4", "own": "1", "pytorch": "2", "onnxruntime": "dies", "openvino": "broken"}


@pytest.fixture
def model(tmp_path):
    words = [chr(ord("a") + i) for i in range(26)]
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    (tmp_path / "tiny").mkdir()
    random_model(BertConfig(vocab_size=31, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                            intermediate_size=8, type_vocab_size=2), tmp_path / "vocab.txt", tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """Runs the command with fake engines in fake environments; none for OpenVINO, which cannot be installed."""
    def prepare(environment, folder, say):
        if environment.name == "tensorflow":
            raise PeerError("ERROR: no matching distribution found")
        return sys.executable

    class Process(command.EngineProcess):
        def __init__(self, arguments, log, env):
            assert arguments[1] == engines.__file__ and json.loads(arguments[3])["threads"] == 1
            super().__init__([arguments[0], str(FAKE_ENGINE), SECONDS[arguments[2]]], log, env)

    monkeypatch.setattr(command, "prepare", prepare)
    monkeypatch.setattr(command.Forms, "path", lambda self, form: Path(form))
    monkeypatch.setattr(command, "EngineProcess", Process)

    (tmp_path / "cache").mkdir()
    (tmp_path / "many.txt").write_text("".join(f"{'a ' * (1 + i * 7 % 23)}{i}.\n" for i in range(2000)))

    def run(*arguments, sentences="many.txt"):
        return command.main(["--model", str(model), "--cache", str(tmp_path / "cache"), "--threads", "1",
                             "--scale", "0.1", *(["--sentences", str(tmp_path / sentences)] if sentences else []),
                             *arguments])

    return run


def test_all_of_it(run, tmp_path, capsys):
    assert run("--rounds", "2", "--output", str(tmp_path / "out"), sentences=None) == 0
    printed = capsys.readouterr()
    page = (tmp_path / "out" / "engines-tiny.md").read_text()
    assert page == printed.out.removesuffix("\n")
    assert "Model tiny, 1 threads, 2 rounds, docstrings; " in page
    assert "| sentence-transformers on PyTorch | 2.00 (2.00-2.00) | 2.00 (2.00-2.00) |" in page
    for missing in ("the original's graph, padded, on TensorFlow: ERROR: no matching distribution found",
                    "ONNX Runtime: it ended with exit code 3", "OpenVINO: ImportError: no such library",
                    "text-embeddings-inference: it comes as container images"):
        assert f"- not run: {missing}" in page
    result = json.loads((tmp_path / "out" / "engines-tiny.json").read_text())
    assert result["rows"]["pytorch"]["seconds"]["short"] == [2, 2]
    assert result["rows"]["own-int8"]["cosines"]["mixed"] == pytest.approx([1, 1])
    assert "pytorch: fake engine 2" in printed.err


def test_some_of_it(run, capsys):
    assert run("--rounds", "1", "--peers", "own-fp32,pytorch", "--workloads", "one") == 0
    printed = capsys.readouterr().out
    assert "1000.00 ms" in printed and "short" not in printed.split("\n- ")[1]


@pytest.mark.parametrize("arguments, message", [
    (("--peers", "tei"), "'tei' has unknown names; expected some of original-graph,own-fp32"),
    (("--workloads", "long"), "'long' has unknown names; expected some of short,mixed"),
    (("--rounds", "0"), "--rounds: invalid positive number value: '0'")])
def test_wrong_options(run, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content, message", [(None, "cannot read .*sentences.txt: No such file"),
                                              ("just a few words", "too few sentences for workload short")])
def test_wrong_files(run, tmp_path, capsys, content, message):
    if content:
        (tmp_path / "sentences.txt").write_text(content)
    assert run(sentences="sentences.txt") == 1
    assert re.search(f"^make peers: .*{message}", capsys.readouterr().err)
