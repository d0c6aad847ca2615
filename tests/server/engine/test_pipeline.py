"""Each stage's formula, its weights in every type, and that a row never depends on its neighbours."""
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server.engine import pipeline
from bert_serving.server.engine.pipeline import Dense, LayerNorm, Normalize, Pipeline, Stage, Truncate
from bert_serving.server.errors import ConfigError, ModelError
from bert_serving.server.orders import Orders

WEIGHT = np.array([[1, 0, -1], [0.5, 2, 0]], np.float32)
BIAS = np.array([0.25, -1], np.float32)
X = np.array([[1, 2, 3], [-1, 0, 0.5]], np.float32)


@pytest.fixture
def save(tmp_path):
    """Writes weights, and gives their path."""
    def write(**arrays):
        from safetensors.numpy import save_file
        path = tmp_path / "model.safetensors"
        save_file({name.replace("__", "."): array for name, array in arrays.items()}, path)
        return str(path)
    return write


@pytest.fixture
def dense(save):
    def make(dtype=np.float32, **settings):
        path = save(linear__weight=WEIGHT.astype(dtype), linear__bias=BIAS.astype(dtype))
        return Dense(weights=path, in_features=3, out_features=2, **{"activation": "Identity", **settings})
    return make


# ---- formulas --------------------------------------------------------------------------------------------------------

def test_dense(dense):
    assert np.array_equal(Pipeline([dense()])(X), X @ WEIGHT.T + BIAS)
    assert np.allclose(Pipeline([dense(activation="Tanh")])(X), np.tanh(X @ WEIGHT.T + BIAS))


def test_dense_without_bias(save):
    stage = Dense(weights=save(linear__weight=WEIGHT), in_features=3, out_features=2, bias=False, activation="Identity")
    assert np.array_equal(Pipeline([stage])(X), X @ WEIGHT.T)


def test_dense_with_its_input_added(save):
    square, other = np.eye(3, dtype=np.float32) * 2, np.ones((2, 3), np.float32)
    stage = Dense(weights=save(linear__weight=square), in_features=3, out_features=3, bias=False, activation="ReLU",
                  residual=True)
    assert np.array_equal(Pipeline([stage])(X), np.maximum(2 * X, 0) + X)
    stage = Dense(weights=save(linear__weight=WEIGHT, linear__bias=BIAS, residual__weight=other), in_features=3,
                  out_features=2, activation="Identity", residual=True)
    assert np.array_equal(Pipeline([stage])(X), X @ WEIGHT.T + BIAS + X @ other.T)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_are_widened(dense, dtype):
    rows = Pipeline([dense(dtype)])(X)
    assert rows.dtype == np.float32 and np.array_equal(rows, X @ WEIGHT.T + BIAS)


def test_bfloat16(tmp_path, dense):
    """Written by hand: NumPy has no such type. All these values are exact in it."""
    arrays = {"linear.bias": BIAS, "linear.weight": WEIGHT}
    data = b"".join((array.view(np.uint32) >> 16).astype("<u2").tobytes() for array in arrays.values())
    header = json.dumps({"linear.bias": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
                         "linear.weight": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [4, 16]}}).encode()
    stage = dense()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    assert np.array_equal(Pipeline([stage])(X), X @ WEIGHT.T + BIAS)


def test_layer_norm(save):
    weight, bias = np.array([1, 2, 3], np.float32), np.array([0, 0.5, 1], np.float32)
    stage = LayerNorm(weights=save(norm__weight=weight, norm__bias=bias), dimension=3)
    centred = X - X.mean(1, keepdims=True)
    expected = centred / np.sqrt(X.var(1, keepdims=True) + 1e-5) * weight + bias
    assert np.allclose(Pipeline([stage])(X), expected, atol=1e-6) and Pipeline([stage])(X).dtype == np.float32


def test_normalize():
    rows = Pipeline([Normalize()])(np.array([[3, 4], [0, 0], [1e-20, 0], [1e30, 0]], np.float32))
    assert np.allclose(rows, [[0.6, 0.8], [0, 0], [1e-8, 0], [1, 0]], atol=1e-12) and rows.dtype == np.float32


def test_truncate():
    assert np.array_equal(Pipeline([Truncate(size=2)])(X), X[:, :2])
    assert np.array_equal(Pipeline([Truncate(size=9)])(X), X)


def test_stages_follow_each_other(dense):
    rows = Pipeline([dense(), Normalize(), Truncate(size=1)])(X)
    expected = X @ WEIGHT.T + BIAS
    assert np.allclose(rows, (expected / np.linalg.norm(expected, axis=1, keepdims=True))[:, :1], atol=1e-7)


def test_the_argument_is_left_as_it_is(dense):
    before = X.copy()
    Pipeline([Normalize(), dense(activation="GELU"), Normalize()])(X)
    assert np.array_equal(before, X)


def test_no_stages():
    assert not Pipeline([]) and Pipeline([Normalize()])
    assert Pipeline([])(X) is X


@pytest.mark.parametrize("name, at_minus_one, at_two", [
    ("Identity", -1, 2), ("Tanh", -0.76159416, 0.96402758), ("ReLU", 0, 2), ("GELU", -0.15865525, 1.95449974),
    ("SiLU", -0.26894142, 1.76159416), ("Sigmoid", 0.26894142, 0.88079708), ("LeakyReLU", -0.01, 2),
    ("ELU", -0.63212056, 2), ("Mish", -0.30340146, 1.94395896), ("Softplus", 0.31326169, 2.12692801),
    ("Softsign", -0.5, 2 / 3), ("Hardtanh", -1, 1), ("ReLU6", 0, 2), ("SELU", -1.11133075, 2.10140204),
    ("CELU", -0.63212056, 2), ("Hardswish", -1 / 3, 5 / 3), ("Hardsigmoid", 1 / 3, 5 / 6),
    ("LogSigmoid", -1.31326175, -0.12692802), ("Tanhshrink", -0.23840582, 1.03597236), ("Softshrink", -0.5, 1.5),
    ("Hardshrink", -1, 2)])
def test_activations(name, at_minus_one, at_two):
    """The values are those of torch.nn."""
    values = pipeline.ACTIVATIONS[name](np.array([[-1, 2]], np.float32))
    assert values.dtype == np.float32 and np.allclose(values, [[at_minus_one, at_two]], atol=1e-7)


def test_all_activations_are_tested():
    cases, = [mark.args[1] for mark in test_activations.pytestmark]
    assert {case[0] for case in cases} == set(pipeline.ACTIVATIONS)


@pytest.mark.parametrize("name", pipeline.ACTIVATIONS)
def test_activations_of_great_values(name):
    """No overflow on the way: warnings are errors here."""
    values = pipeline.ACTIVATIONS[name](np.array([[-1e30, -200, 200, 1e30]], np.float32))
    assert values.dtype == np.float32 and np.isfinite(values).all()


# ---- a row and its neighbours ----------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 70), start=st.integers(0, 69), size=st.sampled_from([3, 48, 384]), seed=st.integers(0, 99))
def test_a_row_does_not_depend_on_the_others(tmp_path_factory, rows, start, size, seed):
    from safetensors.numpy import save_file
    random = np.random.default_rng(seed)
    directory = tmp_path_factory.mktemp("weights")
    save_file({"linear.weight": random.normal(0, 1, (size, size)).astype(np.float32),
               "linear.bias": random.normal(0, 1, size).astype(np.float32)}, directory / "dense.safetensors")
    save_file({"norm.weight": random.normal(0, 1, size).astype(np.float32),
               "norm.bias": random.normal(0, 1, size).astype(np.float32)}, directory / "norm.safetensors")
    compute = Pipeline([
        Dense(weights=str(directory / "dense.safetensors"), in_features=size, out_features=size, activation="SiLU"),
        LayerNorm(weights=str(directory / "norm.safetensors"), dimension=size), Normalize()])
    vectors = random.normal(0, 1, (70, size)).astype(np.float32)
    chosen = np.arange(start, start + rows) % 70
    assert compute(vectors[chosen]).tobytes() == compute(vectors)[chosen].tobytes()


@pytest.mark.parametrize("size", [384, 768])
def test_a_row_alone_has_the_bits_that_it_has_among_others(save, size):
    """Where BLAS, left to itself, takes another way for one row than for several."""
    random = np.random.default_rng(1)
    stage = Dense(weights=save(linear__weight=random.normal(0, 1, (size, size)).astype(np.float32)), in_features=size,
                  out_features=size, bias=False, activation="Identity")
    compute, vectors = Pipeline([stage]), random.normal(0, 1, (64, size)).astype(np.float32)
    together = compute(vectors)
    for row in range(0, 64, 7):
        assert compute(vectors[row:row + 1]).tobytes() == together[row:row + 1].tobytes()
        assert compute(vectors[row:row + 5]).tobytes() == together[row:row + 5].tobytes()


# ---- dimensions, orders ----------------------------------------------------------------------------------------------

def test_dimensions(dense):
    stages = [dense(), Normalize(), Truncate(size=1)]
    assert pipeline.output_dimensions(stages, 3) == 1 == Pipeline(stages)(X).shape[1]
    with pytest.raises(ModelError, match="2_Dense/config.json: Dense expects 3 dimensions, and gets 4 from what is b"):
        pipeline.output_dimensions([dense(source="2_Dense/config.json")], 4)
    with pytest.raises(ModelError, match="LayerNorm expects 5 dimensions, and gets 2"):
        pipeline.output_dimensions([dense(), LayerNorm(weights="", dimension=5)], 3)


def test_token_vectors_get_no_stages(dense):
    assert pipeline.skipped_for_tokens([]) == ""
    stages = [dense(source="2_Dense/config.json"), Normalize(source="modules.json")]
    assert pipeline.skipped_for_tokens(stages) == (
        "-pooling_strategy NONE gives the token vectors of the encoder; Dense(2, Identity), Normalize "
        "(2_Dense/config.json, modules.json) apply to pooled vectors only")


def test_stages_cross_to_another_process(dense):
    from dataclasses import dataclass

    global TestOrders

    @dataclass(frozen=True)
    class TestOrders(Orders):
        stages: "tuple[Stage, ...]" = ()

    orders = TestOrders((dense(), LayerNorm(weights="x", dimension=3), Normalize(source="m"), Truncate(size=2)))
    there = json.loads(json.dumps(orders.to_json()))
    assert TestOrders.from_json(there) == orders
    for broken in ({"stage": "Quantum"}, {"stage": "Truncate", "wrong": 1}, {}, 7):
        with pytest.raises(ConfigError, match=r"TestOrders.stages\[0\] is"):
            TestOrders.from_json({"stages": [broken]})


# ---- files -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arrays, message", [
    ({"linear__weight": WEIGHT}, "lacks linear.bias"),
    ({"linear__weight": WEIGHT, "linear__bias": BIAS, "extra": BIAS}, "its config.json does not speak of: extra"),
    ({"linear__weight": WEIGHT.T.copy(), "linear__bias": BIAS}, r"linear.weight is \[3, 2\], expected \[2, 3\]"),
    ({"linear__weight": WEIGHT.astype(np.int32), "linear__bias": BIAS}, "linear.weight of .* is int32, expected float"),
    ({"linear__weight": WEIGHT * np.float32("nan"), "linear__bias": BIAS}, "linear.weight of .* not finite"),
])
def test_weights_that_do_not_fit(save, arrays, message):
    stage = Dense(weights=save(**arrays), in_features=3, out_features=2)
    with pytest.raises(ModelError, match=message):
        Pipeline([stage])


@pytest.mark.parametrize("content, message", [
    (b"", "/model.safetensors is empty; download it again$"),
    (b"version https://git-lfs.github.com/spec/v1\n", "/model.safetensors is a Git LFS pointer, not the file itself; "),
    (b"\xff" * 100, "cannot read the weights .*model.safetensors: [^\n]*$"),
    ((1 << 60).to_bytes(8, "little") + b"{}", "cannot read the weights .*model.safetensors: [^\n]*$")])
def test_damaged_weights(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        Pipeline([Dense(weights=str(tmp_path / "model.safetensors"), in_features=3, out_features=2)])


def test_weights_that_claim_more_than_a_worker_should_hold(save, monkeypatch):
    monkeypatch.setattr(pipeline, "MAX_WEIGHTS", 5)
    path = save(norm__weight=np.ones(3, np.float32), norm__bias=np.ones(3, np.float32))
    with pytest.raises(ModelError, match="has 6 numbers, expected 5 at most"):
        Pipeline([LayerNorm(weights=path, dimension=3)])


def test_missing_weights(tmp_path):
    with pytest.raises(ModelError, match="cannot read the weights .*nothing"):
        Pipeline([Dense(weights=str(tmp_path / "nothing.safetensors"), in_features=3, out_features=2)])
