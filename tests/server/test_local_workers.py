"""The workers of one host: where they run, what each is told, and where it is heard."""
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import zmq
from bert_serving.server import local_workers as module
from bert_serving.server import machine
from bert_serving.server.config import MB, ServerConfig
from bert_serving.server.core.placement import CPU, Gpu, CorePlan
from bert_serving.server.local_workers import LocalWorkers, largest_job, largest_result, place, place_again
from bert_serving.server.engine.base import EngineSettings
from bert_serving.server.engine.models import resolve
from bert_serving.server.stages import endpoints


STATIC = Path(__file__).parents[1] / "data" / "golden" / "static" / "model2vec"


def configure(**options):
    return ServerConfig(**{"engine": "echo", "num_worker": 2, **options})


# ---- where they run --------------------------------------------------------------------------------------------------

def test_workers_that_compute_nothing_run_on_cpus():
    where, plan = place(configure(num_worker=3))
    assert where.devices == [CPU] * 3 and len(plan.threads) == 3 and "echo" in where.reason


@pytest.mark.parametrize("options", [{"engine": "lite"}, {"engine": "auto", "precision": "int8"}], ids=repr)
def test_what_is_for_cpus_asks_for_no_gpu(monkeypatch, options):
    monkeypatch.setattr(machine, "gpus", lambda: pytest.fail("it was asked for"))
    where, _ = place(configure(**options))
    assert where.devices == [CPU] * 2


def test_cpus_may_be_asked_for(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: pytest.fail("it was asked for"))
    assert place(configure(engine="graph", cpu=True))[0].devices == [CPU] * 2


@pytest.mark.parametrize("options", [{"num_worker": 0, "worker_port": 0}, {"launcher": "ray", "host": "127.0.0.1"}],
                         ids=repr)
def test_without_workers_here_no_gpu_is_asked_for(monkeypatch, options):
    monkeypatch.setattr(machine, "gpus", lambda: pytest.fail("it was asked for"))
    assert place(configure(**{"engine": "auto", **options}))[0].devices == []


def test_a_server_may_do_without_workers_of_its_own():
    where, plan = place(configure(num_worker=0, worker_port=0))
    assert where.devices == [] and plan.threads == [] and not where.warning and not plan.warning


@pytest.mark.parametrize("options, why, asked, devices", [
    ({}, None, [3], [3, 3]), ({}, "sees no GPU 3", [3], [CPU, CPU]),
    # The engine is the same on CPUs, or it is the user's wish: then the worker finds out.
    ({"engine": "graph"}, "sees no GPU 3", [], [3, 3]), ({"precision": "fp16"}, "sees no GPU 3", [], [3, 3]),
    ({"device_map": [3]}, "sees no GPU 3", [], [3, 3]), ({"cpu": True}, "sees no GPU 3", [], [CPU, CPU])], ids=str)
def test_a_gpu_is_given_only_if_tensorflow_can_use_it(monkeypatch, caplog, options, why, asked, devices):
    questions = []
    monkeypatch.setattr(machine, "gpus", lambda: [Gpu(3, "T4", 0.0, 0.0)])
    monkeypatch.setattr(module.gpu, "why_unusable", lambda engine, device: questions.append(device) or why)
    where, _ = place(configure(engine=options.pop("engine", "auto"), **options))
    assert (where.devices, questions) == (devices, asked)
    if asked and why:
        assert caplog.messages == ["sees no GPU 3; going on without: on the CPU"]
        assert where.reason == "engine graph cannot use GPU 3, which nvidia-smi shows"


def test_a_static_model_leaves_a_gpu_that_was_meant_for_an_encoder(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: [Gpu(3, "T4", 0.0, 0.0)])
    monkeypatch.setattr(module.gpu, "why_unusable", lambda engine, device: None)
    config = configure(engine="auto", model_dir=str(STATIC))
    where, plan = place(config)
    assert where.devices == [3, 3]
    where, plan = place_again(resolve(config, on_gpu=True), where, plan)
    assert (where.devices, where.reason, len(plan.threads)) == ([CPU] * 2, "engine static is for CPUs", 2)
    assert place_again(resolve(configure()), where, plan) == (where, plan)


def test_a_static_model_has_nothing_frozen(make):
    workers = make(engine="auto", model_dir=str(STATIC))
    assert workers.freeze_orders is None and {orders.settings.artefact for orders in workers.orders} == {None}


def test_without_a_usable_gpu_the_cores_say_how_many_workers_there_are(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: [Gpu(0, "T4", 0.0, 0.0)])
    monkeypatch.setattr(machine, "allowed_cores", lambda: 8)
    for why, threads in ((None, [8]), ("sees none", [4, 4])):
        monkeypatch.setattr(module.gpu, "why_unusable", lambda engine, device: why)
        assert place(configure(engine="auto", num_worker=None))[1].threads == threads


# ---- how large things get --------------------------------------------------------------------------------------------

def test_a_job_holds_the_largest_request_whatever_is_in_it():
    assert largest_job(configure(max_queue_mb=3.0, max_message_mb=2.0)) == 13 * MB
    assert largest_job(configure(max_queue_mb=1.0, max_message_mb=2.0)) == 9 * MB


@pytest.mark.parametrize("settings, width", [
    ({"hidden_size": 8}, 16), ({"hidden_size": 8, "pooling_layer": (-2, -3)}, 32),
    ({"hidden_size": 1, "num_labels": 90}, 90)], ids=repr)
def test_a_result_holds_every_token_of_every_sequence(settings, width):
    config, settings = configure(max_batch_size=5), EngineSettings(**{"engine": "echo", "max_seq_len": 25, **settings})
    assert largest_result(100, config, settings) == 100 + 5 * 25 * width * 4


# ---- sockets and orders ----------------------------------------------------------------------------------------------

@pytest.fixture
def make():
    context, run_directory, made = zmq.Context(), endpoints.RunDirectory(), []

    def local_workers(**options):
        config = configure(**options)
        made.append(LocalWorkers(context, run_directory, resolve(config, False), *place(config), 1000))
        return made[-1]

    yield local_workers
    for one in made:
        one.close()
    run_directory.remove()
    context.destroy(linger=0)


def test_every_worker_has_its_own_pipe_and_orders(make):
    local_workers = make(num_threads=3, verbose=True)
    assert local_workers.freeze_orders is None
    assert len(local_workers.pipes) == len(set(local_workers.job_endpoints)) == 2
    for endpoint, orders in zip(local_workers.job_endpoints, local_workers.orders):
        assert (orders.jobs, orders.results) == (endpoint, local_workers.result_endpoint)
        assert (orders.largest_job, orders.verbose, orders.device_is_a_must) == (1000, True, False)
        assert (orders.settings.engine, orders.settings.device, orders.settings.num_threads) == ("echo", CPU, 3)
    assert [orders.slot for orders in local_workers.orders] == [0, 1]


def test_what_goes_in_at_one_end_comes_out_at_the_other(make):
    local_workers = make()
    context = zmq.Context()
    jobs, results = endpoints.worker_end(context, local_workers.job_endpoints[1], local_workers.result_endpoint, 1000)
    local_workers.pipes[1].send(b"a job")
    assert jobs.poll(5000) and jobs.recv() == b"a job"
    results.send(b"rows")
    assert local_workers.results.poll(5000) and local_workers.results.recv() == b"rows"
    for socket in (jobs, results):
        socket.close(0)
    context.term()


def test_without_workers_nothing_is_frozen(make, monkeypatch):
    monkeypatch.setattr(module.artefact, "artefact_path", lambda *arguments: pytest.fail("nobody would run it"))
    local_workers = make(num_worker=0, worker_port=0)
    assert local_workers.pipes == local_workers.orders == [] and local_workers.freeze_orders is None


def test_closed_it_has_no_sockets(make):
    local_workers = make()
    local_workers.close()
    assert all(socket.closed for socket in (local_workers.results, *local_workers.pipes))


# ---- what the log is told --------------------------------------------------------------------------------------------

def test_the_log_tells_where_each_worker_runs(make, caplog):
    caplog.set_level(logging.INFO)
    make().show()
    assert any(line.startswith("worker 1: CPU (") for line in caplog.messages)
    assert any(line.startswith("engine: echo (") for line in caplog.messages)


def test_the_log_warns_of_more_threads_than_cores(make, caplog):
    local_workers = make()
    local_workers.plan = CorePlan(local_workers.plan.threads, "too many threads", True)
    local_workers.show()
    assert "plan: too many threads" in caplog.messages


@pytest.mark.parametrize("aided", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "int8", "bf16", "fp16"])
def test_a_precision_that_the_processor_does_not_help_with(monkeypatch, precision, aided):
    monkeypatch.setattr(machine, "speeds_up", lambda precision: aided)
    line = module.slow_precision(precision)
    assert (line is None) == (aided or precision == "fp32")
    assert line is None or line.startswith(f"this processor has no instructions for {precision}: ")


@pytest.mark.parametrize("aided", [False, True])
def test_the_log_warns_of_a_precision_that_the_processor_does_not_help_with(make, caplog, monkeypatch, aided):
    monkeypatch.setattr(machine, "speeds_up", lambda precision: aided)
    make(precision="fp16").show()
    assert ("no instructions for fp16: fp32 is faster" in caplog.text) != aided


def test_nothing_is_guessed_of_what_the_workers_measure(make, caplog, monkeypatch):
    monkeypatch.setattr(machine, "speeds_up", lambda precision: False)
    local_workers = make(precision="fp16")
    local_workers.model = replace(local_workers.model, settings=replace(local_workers.model.settings, engine="graph"))
    local_workers.show()
    assert "no instructions" not in caplog.text
