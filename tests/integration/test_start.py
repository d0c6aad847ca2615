"""Starting and stopping by command: it serves, or it ends with one line that names the cause."""
from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.request

import pytest

from bert_serving.server import machine
from bert_serving.server.engine.backends import Requirements, choose


ON_CPUS = "engine: {0.name} ({1})".format(*choose("auto", Requirements()))
"""What -engine auto takes without a GPU, and why; which one depends on the processor."""


def run(*options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bert_serving.server.cli", *options], capture_output=True, text=True,
                          timeout=50, env={**os.environ, **environ})


def test_the_log_tells_what_a_user_wants_to_know(serve_echo):
    server = serve_echo("-num_worker", "2")
    for wanted in ("model: ", "max_seq_len: 25", "pooling_layer: -2", "pooling_strategy: REDUCE_MEAN",
                   "plan: 2 workers with ", "as -num_worker says", "worker 0: CPU (",
                   "listening on 127.0.0.1: port", "worker 1 is ready and listening",
                   "all set, ready to serve request!"):
        assert wanted in server.log
    assert server.stop() == 0


def test_workers_and_threads_may_be_left_out_or_given(serve_echo):
    server = serve_echo()
    assert "plan: 1 worker with " in server.log
    with server.client() as client:
        assert client.server_status["num_worker"] == 1
    server = serve_echo("-num_worker", "2", "-num_threads", "3")
    assert "plan: 2 workers with 3 threads each (as -num_worker and -num_threads say; " in server.log
    with server.client() as client:
        assert [worker["threads"] for worker in client.server_status["workers"]] == [3, 3]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_precision_without_instructions_is_said_to_be_slow(serve_echo, precision):
    server = serve_echo("-precision", precision)
    assert (f"this processor has no instructions for {precision}: " in server.log) != machine.speeds_up(precision)


def test_a_used_port_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("-engine", "echo", "-port", port, "-port_out", "0")
    assert done.returncode == 4
    assert f"port {port} (-port) is in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_used_http_port_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("-engine", "echo", "-port", "0", "-port_out", "0", "-http_port", port)
    assert done.returncode == 4
    assert port in done.stderr.splitlines()[-2] + done.stderr.splitlines()[-1]


@pytest.mark.parametrize("options, said", [
    (["-max_seq_len", "2"], "expected a whole number above 3, or NONE"),
    (["-max_seq_len", "many"], "expected a whole number above 3, or NONE"),
    (["-pooling_strategy", "MEAN"], "'MEAN' is not a pooling strategy; choose from NONE"),
    (["-port", "99999"], "99999 is not a port"),
    (["-port", "7000", "-port_out", "7000"], "-port and -port_out are both 7000"),
    (["-gpu_memory_fraction", "1.5"], "1.5 is not a fraction"),
    (["-num_worker", "0"], "-num_worker is 0, so nobody would compute"),
    (["-cpu", "-device_map", "0"], "-cpu and -device_map exclude each other"),
    (["-no_such_option"], "-no_such_option"),
])
def test_wrong_options_are_refused_with_the_reason(options, said):
    done = run("-engine", "echo", *options)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("options, said", [
    (["-model_dir", "/no/such/directory"], "/no/such/directory"),
    (["-model_dir", "EMPTY"], "EMPTY"),
])
def test_a_model_that_is_not_there_is_named(tmp_path, options, said):
    (tmp_path / "EMPTY").mkdir()
    options = [str(tmp_path / option) if option == "EMPTY" else option for option in options]
    done = run("-cpu", "-port", "0", "-port_out", "0", *options)
    assert done.returncode == 3
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_explicit_gpu_that_is_not_there_is_refused(tmp_path):
    done = run("-port", "0", "-port_out", "0", "-device_map", "0", PATH=str(tmp_path))
    assert done.returncode == 2
    assert "-device_map asks for GPU 0 but found no GPU" in done.stderr.splitlines()[-1]


def test_an_explicit_gpu_that_the_driver_lacks_is_refused(tmp_path):
    fake_nvidia_smi(tmp_path, [(0, 3.0, 100), (1, 95.0, 15000)])
    done = run("-port", "0", "-port_out", "0", "-device_map", "1", "2", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 2
    assert "-device_map asks for GPU 2 but found GPU 0, 1" in done.stderr.splitlines()[-1]


def fake_nvidia_smi(directory, gpus):
    """An nvidia-smi that tells of GPUs: (id, load in per cent, memory used in MB of 16000)."""
    lines = [f"{gpu}, GPU-uuid-{gpu}, {load}, 16000, {used}, {16000 - used}, 550.1, Fake T4, 123{gpu}, Disabled, "
             "Disabled, 45" for gpu, load, used in gpus]
    path = directory / "nvidia-smi"
    path.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def terminate(*options: str) -> subprocess.CompletedProcess[str]:
    """Run bert-serving-terminate."""
    code = "import sys; from bert_serving.server.cli import terminate; sys.exit(terminate())"
    return subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, timeout=30)


def test_terminate_stops_the_server_of_this_host(serve_echo):
    server = serve_echo("-http_port", "0")
    done = terminate("-port", str(server.port))
    assert done.returncode == 0, done.stderr
    assert server.process.wait(30) == 0


def test_terminate_says_when_there_is_nothing_to_stop():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = terminate("-port", str(port), "-timeout", "200")
    assert done.returncode == 1
    assert f"no server answers on localhost:{port}" in done.stderr


def test_ctrl_c_ends_it_without_a_traceback(serve_echo):
    server = serve_echo()
    assert server.stop(signal.SIGINT) == 0
    assert "Traceback" not in server.log


def test_status_has_every_key_of_the_original(serve_echo):
    server = serve_echo("-http_port", "0")
    with server.client() as client:
        client.encode(["one", "two"])
        status = client.server_status
    keys = """client num_process server_current_time device_map num_concurrent_socket statistic ckpt_name config_name
    cors cpu fp16 gpu_memory_fraction graph_tmp_dir http_max_connect http_port mask_cls_sep max_batch_size max_seq_len
    model_dir num_worker pooling_layer pooling_strategy port port_out prefetch_size priority_batch_size tuned_model_dir
    verbose xla do_lower_case fixed_embed_length no_position_embeddings no_special_token show_tokens_to_client
    num_labels tensorflow_version python_version server_version pyzmq_version zmq_version server_start_time""".split()
    assert set(keys) | {"ventilator -> worker", "worker -> sink", "ventilator <-> sink"} <= set(status)
    assert (status["pooling_strategy"], status["pooling_layer"], status["max_seq_len"]) == (2, [-2], 25)
    assert status["port"] == server.port and status["num_process"] == 3
    counted = status["statistic"]
    assert counted["num_data_request"] == 1 and counted["num_total_seq"] == 2
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/status/server", timeout=10) as answer:
        assert json.load(answer)["statistic"]["num_data_request"] == 1


def test_a_token_level_result_has_the_promised_width(serve_echo):
    texts = ["one two three", "four", "five six ||| seven"]
    with serve_echo("-pooling_strategy", "NONE").client() as client:
        assert client.encode(texts).shape == (3, 25, 768)
    with serve_echo("-pooling_strategy", "NONE", "-max_seq_len", "NONE").client(check_length=False) as client:
        assert client.encode(texts).shape == (3, 6, 768)
        assert client.encode(texts[:2]).shape == (2, 5, 768)
    with serve_echo("-pooling_strategy", "NONE", "-max_seq_len", "NONE", "-fixed_embed_length").client(
            check_length=False) as client:
        assert client.encode(texts).shape == (3, 512, 768)


def test_tokens_are_shown_to_who_asks(serve_echo):
    with serve_echo("-show_tokens_to_client").client() as client:
        vectors, tokens = client.encode(["hello world", "bye"], show_tokens=True)
    assert vectors.shape == (2, 768)
    assert tokens == [["[CLS]", "hello", "world", "[SEP]"], ["[CLS]", "bye", "[SEP]"]]


@pytest.mark.model
@pytest.mark.timeout(180)
@pytest.mark.parametrize("options, engine, computes", [([], ON_CPUS, "(native: .*|lite: LiteRT .*) on CPU"),
                                                       (["-engine", "graph"], "engine: graph (given)",
                                                        "TensorFlow .* on CPU")], ids=["auto", "graph"])
def test_a_gpu_that_tensorflow_cannot_use_is_done_without(serve, tmp_path, options, engine, computes):
    """By the engine that is the fastest on CPUs, unless another one was asked for."""
    fake_nvidia_smi(tmp_path, [(0, 3.0, 100)])
    server = serve("-max_seq_len", "25", *options, environ={"PATH": f"{tmp_path}:{os.environ['PATH']}"}).ready(120)
    assert len(re.findall(r"sees no GPU 0; .*; going on without: on the CPU", server.log)) == 1
    assert engine in server.log
    assert re.search(f"worker 0 is ready and listening after .*: {computes}", server.log)
    with server.client() as client:
        assert client.encode(["hello world"]).shape == (1, 384)


@pytest.mark.model
@pytest.mark.timeout(120)
def test_a_gpu_that_was_asked_for_is_a_must(serve, tmp_path):
    fake_nvidia_smi(tmp_path, [(0, 3.0, 100)])
    asked = serve("-max_seq_len", "25", "-device_map", "0", environ={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert asked.process.wait(60) == 5
    asked.wait_for("E .* sees no GPU 0")


@pytest.mark.model
@pytest.mark.timeout(120)
@pytest.mark.parametrize("driver", ["hangs", "is not there"])
def test_a_start_takes_a_driver_as_it_is(serve, tmp_path, driver):
    """Nor does it need what reads of GPUs, where there is none."""
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    if driver == "hangs":
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 1000\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    else:
        for name in ("GPUtil", "setuptools"):
            (tmp_path / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n")
        environ = {"PYTHONPATH": str(tmp_path), "PATH": str(tmp_path)}
    server = serve("-max_seq_len", "25", environ=environ).ready(90)
    assert ("nvidia-smi has not answered within " in server.log) == (driver == "hangs")
    assert "cannot be imported" not in server.log
    assert ON_CPUS in server.log
    with server.client() as client:
        assert client.encode(["hello world"]).shape == (1, 384)
