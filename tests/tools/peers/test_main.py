"""The whole command, on figures that nobody had to measure."""
import contextlib
import json
import re
import subprocess
import sys
import tempfile

import pytest
from tools.peers import __main__ as command
from tools.peers.environments import PeerError
from tools.peers.models import random_model
from tools.peers.report import Row


@pytest.fixture
def model(tmp_path):
    words = [chr(ord("a") + i) for i in range(26)]
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    (tmp_path / "tiny").mkdir()
    random_model({"model_type": "bert", "vocab_size": 31, "hidden_size": 8, "num_hidden_layers": 1,
                  "num_attention_heads": 1, "intermediate_size": 8}, tmp_path / "vocab.txt", tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """Runs the command; engines and servers are not there, their figures are."""
    def compare_engines(names, workloads, forms, cache, threads, rounds, say):
        assert cache.is_absolute() and forms.directory == model
        seconds = {workload.kind.name: [float(threads)] * rounds for workload in workloads}
        return {name: Row(name, "fp32", "fake", seconds) for name in names}, {"another": "it is not there"}

    def compare_servers(names, texts, one, forms, cache, threads, rounds, say):
        assert len(texts.sequences) == command.BULK and len(one.sequences) == 1
        return {name: Row(name, "fp32", "fake", {"bulk": [0.01] * rounds}) for name in names}, {}

    monkeypatch.setattr(command, "compare_engines", compare_engines)
    monkeypatch.setattr(command, "compare_servers", compare_servers)
    (tmp_path / "many.txt").write_text("".join(f"{'a ' * (1 + i * 7 % 23)}{i}.\n" for i in range(6000)))

    def run(*arguments, sentences="many.txt"):
        return command.main(["--model", str(model), "--cache", str(tmp_path / "cache"), "--threads", "2",
                             "--scale", "0.1", *(["--sentences", str(tmp_path / sentences)] if sentences else []),
                             *arguments])

    return run


def test_all_of_it(run, tmp_path, capsys):
    assert run("--rounds", "2", "--output", str(tmp_path / "out"), sentences=None) == 0
    pages = [(tmp_path / "out" / f"{part}-tiny.md").read_text() for part in ("engines", "servers")]
    assert capsys.readouterr().out == "".join(f"{page}\n" for page in pages)
    for page in pages:
        assert page.startswith("Model tiny, 2 threads, 2 rounds, sentences of docstrings; ")
        assert "- not run: text-embeddings-inference: it comes as container images" in page
    assert "- not run: another: it is not there" in pages[0]
    assert "100, 1.00 (1.00-1.00)" in pages[1]
    values = json.loads((tmp_path / "out" / "engines-tiny.json").read_text())
    assert values["rows"]["pytorch"]["seconds"]["short"] == [2, 2] and values["tokens"]["one"] == 12


def test_some_of_it(run, capsys):
    assert run("--parts", "engines", "--rounds", "1", "--peers", "own-fp32,pytorch", "--workloads", "one") == 0
    printed = capsys.readouterr().out
    assert "2000.00 ms" in printed and "short" not in printed and "bulk" not in printed


@pytest.mark.parametrize("arguments, message", [
    (("--peers", "tei"), "'tei' has unknown names; expected some of original-graph,own-fp32"),
    (("--servers", "tei"), "'tei' has unknown names; expected some of original,own-fp32"),
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


@pytest.mark.parametrize("error, code, line", [(PeerError("no pip"), 1, "make peers: no pip"),
                                               (KeyboardInterrupt(), 130, "make peers: interrupted")])
def test_an_end_before_the_end(run, monkeypatch, capsys, error, code, line):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(command, "compare_engines", fail)
    assert run() == code
    assert capsys.readouterr().err.splitlines()[-1] == line


@pytest.mark.parametrize("error", [None, PeerError("no pip"), KeyboardInterrupt(), SystemExit(143), ValueError("x")],
                         ids=["end", "error", "Ctrl-C", "SIGTERM", "fault"])
def test_what_peers_leave_in_the_temporary_directory_is_removed(run, monkeypatch, tmp_path, error):
    outer = tmp_path / "tmp"
    outer.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(outer))
    compare = command.compare_engines

    def litter(*arguments):
        tempfile.mkdtemp()
        # A program of another environment, which is killed.
        subprocess.run([sys.executable, "-c", "import os, signal, tempfile; tempfile.mkdtemp(); "
                        "os.kill(os.getpid(), signal.SIGKILL)"])
        inside, = outer.iterdir()
        assert len(list(inside.iterdir())) == 2
        if error:
            raise error
        return compare(*arguments)

    monkeypatch.setattr(command, "compare_engines", litter)
    with contextlib.suppress(SystemExit, ValueError):
        run("--parts", "engines", "--rounds", "1")
    assert not list(outer.iterdir()) and tempfile.gettempdir() == str(outer)
