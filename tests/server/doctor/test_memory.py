"""The estimates of memory, against sums that can be done by hand, and against what was measured."""
from dataclasses import replace

import pytest
from bert_serving.server.config import MB, ServerConfig
from bert_serving.server.doctor.memory import PROXY, SERVER, estimate
from bert_serving.server.engine.backends import backend
from bert_serving.server.engine.base import EngineSettings
from bert_serving.server.engine.models import resolve
from bert_serving.server.engine.spec import EncoderSpec

LITE, GRAPH, NATIVE = (backend(name).footprint(EngineSettings(engine=name, hidden_size=32))
                       for name in ("lite", "graph", "native"))

EMBEDDINGS = 32 * (16 + 2 + 40) + 2 * 32
LAYER = 4 * (32 * 32 + 32) + (32 * 48 + 48) + (48 * 32 + 32) + 4 * 32
"""Numbers in the tiny model: two layers of three are computed, as the default is the last but one."""


@pytest.fixture
def model(tiny_dir):
    return lambda **options: resolve(ServerConfig(model_dir=str(tiny_dir), **options))


def test_engine_lite_has_its_weights_in_every_worker(model):
    one, three = (estimate(model(engine="lite"), number) for number in (1, 3))
    assert one.serving == 4 * EMBEDDINGS + LITE.libraries + SERVER + 4 * 2 * LAYER + LITE.worker
    assert three.serving - one.serving == 2 * (4 * 2 * LAYER + LITE.worker)
    assert one.disk == 4 * (EMBEDDINGS + 2 * LAYER)


def test_engine_graph_shares_them(model):
    one, two = (estimate(model(engine="graph"), number) for number in (1, 2))
    assert one.serving == 4 * (EMBEDDINGS + 2 * LAYER) + GRAPH.libraries + SERVER + GRAPH.worker
    assert two.serving - one.serving == GRAPH.worker


def test_engine_native_maps_them_once_in_their_own_size(model):
    for precision, size in (("fp32", 4), ("bf16", 2), ("int8", 1)):
        one, two = (estimate(model(engine="native", precision=precision), number) for number in (1, 2))
        assert one.serving == 4 * EMBEDDINGS + size * 2 * LAYER + NATIVE.libraries + SERVER + NATIVE.worker
        assert two.serving - one.serving == NATIVE.worker
        assert one.disk == 4 * EMBEDDINGS + size * 2 * LAYER
    both = replace(one_model := model(engine="native"), settings=replace(one_model.settings, num_threads=2))
    assert estimate(both, 1).serving - estimate(one_model, 1).serving == 256 * (32 * 32 + 4096)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_may_be_computed_in_fp32_and_both_are_kept(model, precision):
    need, exact = (estimate(model(engine="graph", precision=name), 1) for name in (precision, "fp32"))
    assert need.serving == exact.serving
    assert need.disk == 4 * EMBEDDINGS + (4 + 2) * 2 * LAYER


def test_precision_http_and_queues_count(model):
    plain = estimate(model(engine="lite"), 1)
    assert plain.serving - estimate(model(engine="lite", precision="int8"), 1).serving == 3 * 2 * LAYER
    assert estimate(model(engine="lite", http_port=0), 1).serving - plain.serving == PROXY
    assert plain.waiting == (256 + 512) * MB
    assert estimate(model(engine="lite", max_queue_mb=1.5, max_held_mb=2), 1).waiting == 3.5 * MB


def test_a_server_without_a_model():
    need = estimate(resolve(ServerConfig(engine="echo")), 2)
    assert (need.serving, need.conversion, need.disk) == (SERVER + 2 * LITE.worker, 0, 0)


BASE = EncoderSpec(vocab_size=30522)


@pytest.mark.parametrize("engine, num_worker, measured", [("lite", 1, 698), ("lite", 2, 1052), ("graph", 1, 918),
                                                          ("graph", 2, 1183), ("native", 1, 406),
                                                          ("native", 2, 444)])
def test_it_is_near_what_was_measured(model, engine, num_worker, measured):
    """Workers with BERT-base's shape: docs/performance.md, "Start and memory"."""
    base = replace(model(engine=engine), spec=BASE, layers_kept=11)
    workers = (estimate(base, num_worker).serving - SERVER) / MB
    assert measured * 0.65 < workers < measured * 1.25


def test_the_conversion_takes_many_times_the_weights(model):
    """4631, 982 and 973 MB were measured: docs/doctor.md, "Memory"."""
    for engine, measured in (("lite", 4631), ("graph", 982), ("native", 973)):
        base = replace(model(engine=engine), spec=BASE, layers_kept=11)
        assert measured < estimate(base, 1).conversion / MB < measured * 1.15
