"""The table of backends: what each says of itself, what all compute alike, and which one is taken."""
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from bert_serving.server.config import PoolingStrategy, ServerConfig
from bert_serving.server.engine import backends
from bert_serving.server.engine.backends import BACKENDS, backend, check_usable, choose, possible
from bert_serving.server.engine.backends.base import Requirements
from bert_serving.server.engine.base import EngineSettings
from bert_serving.server.engine.architectures import from_file
from bert_serving.server.engine.spec import EncoderSpec, Norm, RotaryPositions
from bert_serving.server.errors import ConfigError, EngineError
from bert_serving.server.precision import PRECISIONS

from ..conftest import NAMES, compare, labels

ROTARY = EncoderSpec(vocab_size=9, positions=RotaryPositions(thetas=(1e4,), max_length=9), norm=Norm(rms=True))


# ---- rows ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.usefixtures("any_native_build")
def test_a_row_says_what_it_can(name):
    found = backend(name)
    assert found.name == name and found.about and found.precisions <= set(PRECISIONS)
    assert isinstance(found.version(), str) and found.footprint(EngineSettings(engine=name)).worker > 0
    assert found.is_automatic <= found.needs_model


def test_every_engine_can_be_asked_for():
    choices = next(f.metadata["choices"] for f in fields(ServerConfig) if f.name == "engine")
    assert set(choices) == {"auto", *BACKENDS}


def test_every_precision_has_a_backend():
    able = [backend(name) for name in BACKENDS if backend(name).is_automatic]
    assert set().union(*(found.precisions for found in able)) == set(PRECISIONS)


def test_an_unknown_engine():
    with pytest.raises(EngineError, match=f"'abacus' is not an engine; choose from {', '.join(BACKENDS)}"):
        backends.create(EngineSettings(engine="abacus"))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.usefixtures("any_native_build")
def test_what_needs_no_artefact_has_no_key(name):
    found = backend(name)
    assert (found.key(EngineSettings(engine=name), EncoderSpec(vocab_size=9)) is None) == (not found.encodes)


@pytest.mark.parametrize("name", [name for name in BACKENDS if backend(name).encodes])
@pytest.mark.parametrize("other", [{"pooling_layer": (-1,)}, {"pooling_strategy": "CLS_POOLED"}], ids=str)
@pytest.mark.usefixtures("any_native_build")
def test_every_key_depends_on_what_is_pooled(name, other):
    """Else what was made for other layers would be opened."""
    settings, spec = EngineSettings(engine=name), EncoderSpec(vocab_size=9)
    found = backend(name)
    assert found.key(replace(settings, **other), spec) != found.key(settings, spec)


@pytest.mark.parametrize("name", [name for name in BACKENDS if backend(name).encodes])
def test_no_departure_is_listed_without_a_model_that_has_it(name):
    """test_reference.py compares every model with a reference, on every backend that does not object."""
    computed = set()
    for file in (Path(__file__).parents[3] / "data" / "golden" / "architectures").glob("*/config.json"):
        _, spec = from_file(file)
        if backend(name).objection(Requirements(spec=spec)) is None:
            computed |= spec.departures
    assert backend(name).departures == computed


# ---- what every one computes, against a plain NumPy BERT -------------------------------------------------------------

@pytest.fixture(params=[name for name in BACKENDS if backend(name).encodes])
def start(request, run, any_native_build):
    """Starts the backend's engine."""
    if reason := backend(request.param).missing():
        pytest.skip(f"{request.param} {reason}")
    return lambda model_dir, **options: run(model_dir, engine=request.param, **options)


@pytest.mark.parametrize("masked", [False, True], ids=["", "mask_cls_sep"])
@pytest.mark.parametrize("name", NAMES)
def test_strategies(tiny, tmp_path, start, name, masked):
    model = tiny(num_labels=1 if name == "REGRESSION" else 3)
    running = start(model.write_hugging_face(tmp_path), pooling_strategy=PoolingStrategy[name], **labels(name),
                    mask_cls_sep=masked)
    assert compare(running, model, strategy=name).dtype == np.float32


@pytest.mark.parametrize("layers", [[-1], [-2], [-3], [0], [2], [-2, -1], [-1, -3, 1], [-1, -1]])
def test_layers(tiny, tiny_dir, start, layers):
    compare(start(tiny_dir, pooling_layer=layers), tiny(), layers=layers)


def test_no_position_embeddings(tiny, tiny_dir, start):
    running = start(tiny_dir, no_position_embeddings=True)
    compare(running, tiny(), positions=False)
    one, other = running.encode(["the the quick fox", "the quick the fox"])
    assert np.abs(one - other).max() < 1e-5


def test_no_special_token(tiny, tiny_dir, start):
    compare(start(tiny_dir, no_special_token=True), tiny())


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "tanh", "linear"])
def test_activations(tiny, tmp_path, start, activation):
    model = tiny(hidden_act=activation)
    compare(start(model.write_hugging_face(tmp_path)), model)


# ---- objections ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, wanted, objection", [
    ("lite", {}, None), ("lite", {"precision": "int8"}, None),
    ("lite", {"precision": "fp16"}, "has no -precision fp16"),
    ("lite", {"xla": True}, "does without -xla"), ("lite", {"gpu": True}, "is for CPUs"),
    ("lite", {"spec": ROTARY}, None), ("onnx", {"spec": ROTARY}, "does not compute RMS norm, rotary positions"),
    ("graph", {"precision": "int8"}, "has no -precision int8"),
    ("graph", {"gpu": True, "xla": True, "precision": "bf16"}, None),
    ("graph", {"spec": ROTARY}, None),
    ("echo", {"precision": "fp16", "spec": ROTARY}, None), ("echo", {"precision": "int8"}, "has no -precision int8"),
    ("echo", {"gpu": True}, "computes nothing")])
def test_objections(name, wanted, objection):
    found = backend(name).objection(Requirements(**wanted))
    assert found is None if objection is None else found.startswith(objection)


@pytest.mark.parametrize("words, message", [
    ({"engine": "graph", "precision": "int8"}, "-engine graph has no -precision int8; .*, or give {int8}$"),
    ({"engine": "lite", "xla": True}, "-engine lite does without -xla; leave that out, or give -engine graph"),
    ({"engine": "lite", "fp16": True}, "-engine lite has no -precision fp16; leave that out, or give -engine graph"),
    ({"engine": "lite", "device_map": [0]}, "-engine lite is for CPUs; leave that out, or give -engine graph"),
    ({"engine": "echo", "precision": "bf16"}, "-engine echo has no -precision bf16; .*, or give {bf16}$"),
    ({"engine": "native", "fp16": True}, "-engine native has no -precision fp16; .*, or give -engine graph"),
    ({"precision": "int8", "xla": True},
     "no engine can do .*: native does without -xla; lite does without -xla; graph has no -precision int8"),
    ({"precision": "int8", "device_map": [0]},
     "no engine .*: native is for CPUs; lite is for CPUs; graph has no -precision int8")
], ids=str)
def test_options_that_no_backend_can_follow(has_native, words, message):
    able = {"int8": "-engine lite", "bf16": "-engine graph"}
    if has_native:
        able = {name: f"-engine native or {engine}" for name, engine in able.items()}
    with pytest.raises(ConfigError, match=message.format(**able)):
        possible(ServerConfig(**words))


@pytest.mark.parametrize("words, names", [
    ({}, ["native", "lite", "graph"]), ({"xla": True}, ["graph"]), ({"precision": "int8"}, ["native", "lite"]),
    ({"precision": "bf16"}, ["native", "graph"]), ({"engine": "echo"}, ["echo"])])
def test_who_may_serve(has_native, words, names):
    found = [found.name for found in possible(ServerConfig(**words))]
    able = [name for name in names if has_native or name != "native"]
    assert [name for name in found if name in ("native", "lite", "graph", "echo")] == able
    assert found == sorted(found, key=BACKENDS.index), "the best first"


def test_the_first_without_an_objection_is_taken_and_the_reason_names_the_others(has_native):
    found, why = choose("auto", Requirements(gpu=True))
    assert (found.name, why) == ("graph", "native is for CPUs; lite is for CPUs")
    with pytest.raises(ConfigError, match="no engine .*: native is for CPUs; lite is for CPUs; graph has no"):
        choose("auto", Requirements(gpu=True, precision="int8"))
    with pytest.raises(ConfigError, match="-engine onnx does not compute RMS norm, rotary positions; leave that out"):
        choose("onnx", Requirements(spec=ROTARY))


def test_the_best_engine_is_taken_where_it_can_run(has_native):
    found, why = choose("auto", Requirements())
    assert (found.name, why) == (("native", "our own, on CPUs with AVX-512 or AMX") if has_native
                                 else ("lite", "native cannot be used: NATIVE_BUILD is none"))
    # One that is asked for may be for workers of other hosts, which can run it.
    assert choose("native", Requirements()) == (backend("native"), "given")


def test_a_library_that_is_missing_is_passed_over(monkeypatch, native_build):
    native_build("none")

    def missing():
        raise EngineError("LiteRT is not installed; install it")
    monkeypatch.setattr(backend("lite"), "version", missing)
    found, why = choose("auto", Requirements())
    assert (found.name, why) == ("graph", "native cannot be used: NATIVE_BUILD is none; "
                                          "lite cannot be used: LiteRT is not installed; install it")
    # One that is asked for may be for workers of other hosts, which have it.
    assert choose("lite", Requirements()) == (backend("lite"), "given")


def test_a_library_that_would_do_is_named_with_its_extra(monkeypatch):
    def missing():
        raise EngineError("it is not installed")
    for name in ("lite", "graph"):
        monkeypatch.setattr(backend(name), "version", missing)
    monkeypatch.setattr(backend("native"), "missing", lambda: "cannot be used: this processor has no AVX-512 with VNNI")
    for wanted, line in (
            (Requirements(spec=EncoderSpec(vocab_size=9)), "native cannot be used: this processor has no AVX-512 with "
             "VNNI; install './server[cpu]' for engine lite, which can"),
            (Requirements(precision="fp16"), "native has no -precision fp16; lite has no -precision fp16; static has "
             "no -precision fp16; install './server[cpu]' for engine graph, which can"),
            (Requirements(gpu=True, spec=EncoderSpec(vocab_size=9)),
             "native is for CPUs; lite is for CPUs; install './server[gpu]' for engine graph, which can")):
        with pytest.raises(ConfigError) as caught:
            choose("auto", wanted)
        assert caught.value.message == f"no engine that is installed can do what these options ask for: {line}"


def test_an_engine_that_is_given_and_cannot_be_used(monkeypatch):
    monkeypatch.setattr(backend("native"), "missing", lambda: "cannot be used: this processor has no AVX-512 with VNNI")
    with pytest.raises(EngineError, match="-engine native cannot be used: this processor .*; -engine auto would take"):
        check_usable(backend("native"))
