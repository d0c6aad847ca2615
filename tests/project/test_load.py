"""The load of docs/performance: it speaks the wire without libzmq, and sees when an answer is none."""
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "docs/performance/load.py"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it waits with epoll")


@pytest.fixture(scope="module")
def load():
    spec = importlib.util.spec_from_file_location("load", PATH)
    module = sys.modules["load"] = importlib.util.module_from_spec(spec)  # where its dataclass looks for itself
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("sentences", [1, 300])
def test_it_measures(echo_server, sentences):
    done = subprocess.run(
        [sys.executable, str(PATH), str(echo_server.port), str(echo_server.port_out), "--clients", "3", "--sentences",
         str(sentences), "--seconds", "0.2"], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert f"3 clients, {sentences} sentences each: " in done.stdout


def test_a_server_is_measured():
    done = subprocess.run([sys.executable, str(PATH.with_name("server.py")), "echo", "--cases", "2x3", "--rounds", "1",
                           "--seconds", "0.2"], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "\n| 2 | 3 | " in done.stdout and " loop" in done.stdout


def test_every_answer_counts_once(echo_server, load):
    with echo_server.client() as client:
        before = client.server_status["outcomes"]["ok"]
        measured = load.run(echo_server.port, echo_server.port_out, [[["a"], ["b", "c"]]] * 2, seconds=0.2, warm_up=0)
        after = client.server_status["outcomes"]["ok"]
    assert measured.requests == len(measured.latencies) and measured.requests <= measured.sentences
    # Those that only begin and end the measurement are not in it: the first answer, and one of each client.
    assert after["requests"] - before["requests"] == measured.requests + 3
    assert 0 < measured.latency(0) <= measured.latency(.5) <= measured.latency(1)


def test_an_error_is_no_answer(echo_server, load):
    with pytest.raises(RuntimeError, match="not the answer to request 1: .*unprocessable"):
        load.run(echo_server.port, echo_server.port_out, [[["__raise__"]]], seconds=0.1)
