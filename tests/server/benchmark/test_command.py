"""The whole command, with the echo engine."""
import json
import os
import signal
import subprocess
import sys

import pytest
from bert_serving.server.benchmark import command, plots
from bert_serving.server.benchmark.load import BenchmarkError

QUICK = ["-engine", "echo", "-seconds", "0", "-client_batch_size", "4"]


def run(*words):
    return command.main([*QUICK, *words])


@pytest.fixture(autouse=True)
def signals():
    """Leave the handlers as they were."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def rows(output, name):
    """The table of a sweep: its first column."""
    lines = output.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| `{name}`"))
    found = []
    for line in lines[start + 2:]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert all(float(cell) > 0 for cell in cells[1:])
        found.append(int(cells[0]))
    return found


@pytest.mark.parametrize("name, values, setting", [
    ("max_seq_len", [8, 16], "num_client 1, client_batch_size 4"),
    ("client_batch_size", [1, 8], "num_client 1, num_worker 1"),
    ("num_client", [1, 3], "client_batch_size 4, num_worker 1"),
    ("max_batch_size", [2, 8], "num_client 1, client_batch_size 8"),
    ("pooling_layer", [-1, -2], "num_client 1"),
    ("num_worker", [1, 2], "num_client 4, client_batch_size 4"),
])
def test_every_sweep(capsys, name, values, setting):
    assert run("-tests", name, f"-test_{name}", *map(str, values), "-num_run", "1") == 0
    output = capsys.readouterr()
    assert rows(output.out, name) == values
    assert f"With {setting}" in output.out
    assert len(output.err.splitlines()) == 2 and f"1/2 {name} {values[0]}, run 1 of 1: " in output.err


def test_what_is_kept(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    directory = tmp_path / "new" / "directory"
    assert run("-tests", "num_client", "client_batch_size", "-test_num_client", "2", "-test_client_batch_size", "1",
               "3", "-num_run", "2", "-output_dir", str(directory), "-plot") == 0
    assert sorted(path.name for path in directory.iterdir()) == [
        "benchmark.json", "benchmark.md", "client_batch_size.png", "num_client.png"]
    output = capsys.readouterr().out
    assert (directory / "benchmark.md").read_text(encoding="utf-8").split() == output.split()
    values = json.loads((directory / "benchmark.json").read_text(encoding="utf-8"))
    assert [sweep["name"] for sweep in values["sweeps"]] == ["num_client", "client_batch_size"]
    assert all(len(point["runs"]) == 2 for sweep in values["sweeps"] for point in sweep["points"])
    assert values["about"] in output


def test_values_that_the_server_refuses_are_left_out(capsys):
    assert run("-tests", "pooling_layer", "-test_pooling_layer", "-13", "-1", "-num_run", "2") == 0
    output = capsys.readouterr()
    assert rows(output.out, "pooling_layer") == [-1]
    assert "Left out: pooling_layer -13: -pooling_layer -13 does not exist" in output.out
    assert output.err.splitlines()[-1].startswith("2/2 pooling_layer -1, run 2 of 2: ")


def test_a_warning_of_every_server_is_shown_once(capsys):
    assert run("-tests", "pooling_layer", "-test_pooling_layer", "-1", "-2", "-host", "0.0.0.0", "-num_run", "1") == 0
    assert capsys.readouterr().err.count("every host that reaches 0.0.0.0 can use this server") == 1


def test_a_server_that_never_starts_ends_it(capsys):
    assert run("-tests", "pooling_layer", "-test_pooling_layer", "-13", "-14") == 2
    assert capsys.readouterr().err.splitlines() == [
        "bert-serving-benchmark: error: -pooling_layer -14 does not exist in a model of 12 layers; expected -12 "
        "(first) to -1 (last), or 0 (first) to 11 (last)"]


def test_a_running_server_and_sentences_of_a_file(capsys, address, tmp_path):
    (tmp_path / "file").write_text("one sentence\nanother\n", encoding="utf-8")
    words = [word for name, value in address.items() for word in (f"-{name}", str(value))]
    assert command.main([*words, "-seconds", "0", "-test_client_batch_size", "1", "-test_num_client",
                         "-client_sentence_file", str(tmp_path / "file")]) == 0
    output = capsys.readouterr().out
    assert "2 sentences of a file" in output and rows(output, "client_batch_size") == [1]


@pytest.mark.parametrize("words, code, said", [
    (["-plot"], 2, "-plot needs -output_dir"),
    (["-client_sentence_file", "/no/such/file"], 1, "cannot read /no/such/file"),
    (["-output_dir", "/dev/null/x"], 1, "cannot make the directory /dev/null/x: Not a directory"),
])
def test_what_cannot_work_is_one_line(capsys, words, code, said):
    assert run(*words) == code
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("bert-serving-benchmark: error: ") and said in line


def test_a_plot_without_matplotlib(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    assert run("-plot", "-output_dir", str(tmp_path / "x")) == 1
    line, = capsys.readouterr().err.splitlines()
    assert "-plot needs matplotlib" in line and not (tmp_path / "x").exists()


def test_no_server_where_one_should_be(monkeypatch):
    monkeypatch.setattr(command, "CONNECT_MS", 50)
    with pytest.raises(BenchmarkError, match="no server answers on 127.0.0.1, ports 1 and 2"):
        command.status({"ip": "127.0.0.1", "port": 1, "port_out": 2})


def test_a_port_that_is_none_is_said_in_a_line(capsys):
    assert command.main(["-ip", "127.0.0.1", "-port", "0", "-port_out", "2", "-tests", "num_client"]) == 1
    line, = capsys.readouterr().err.splitlines()
    assert line == "bert-serving-benchmark: error: port is 0; expected a number from 1 to 65535"


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_end_by_signal_leaves_no_process(number, code):
    process = subprocess.Popen(
        [sys.executable, "-m", "bert_serving.server.benchmark.command", "-engine", "echo", "-tests", "num_client",
         "-test_num_client", "2", "1", "-client_batch_size", "4", "-seconds", "0.1", "-num_run", "100000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert "1/200000" in process.stderr.readline()
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
        children = list(map(int, listed.stdout.split()))
        assert len(children) == 3
        process.send_signal(number)
        output, errors = process.communicate(timeout=40)
    assert process.returncode == code and "Traceback" not in errors
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
