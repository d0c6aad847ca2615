"""The pooler and heads, against float64; what the reference gives with trained ones is in test_reference.py."""
import math

import numpy as np
import pytest

from bert_serving.server.config import PoolingStrategy
from bert_serving.server.engine import heads
from bert_serving.server.engine.spec import EncoderSpec, Head, Norm, variables

POOLED = np.random.default_rng(0).normal(0, 1, (5, 12)).astype(np.float32)
ACTIVATIONS = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), "linear": lambda x: x,
               "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
               "silu": lambda x: x / (1 + np.exp(-x)),
               "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))}


def make(strategy, head, scores=None, bias=True):
    spec = EncoderSpec(vocab_size=9, hidden_size=12, head=head, norm=Norm(bias=bias))
    names = heads.head_variables(spec, PoolingStrategy[strategy])
    shapes = variables(spec, pooler=True, num_labels=3)
    random = np.random.default_rng(1)
    arrays = {name: random.normal(0, 0.5, shapes[name]).astype(np.float32) for name in names}
    return heads.HeadLayers(spec, PoolingStrategy[strategy], arrays, scores), arrays


def logits(arrays, activation, dense="head/dense", norm=False):
    w = {name: array.astype(np.float64) for name, array in arrays.items()}
    hidden = ACTIVATIONS[activation](POOLED @ w[f"{dense}/kernel"] + w.get(f"{dense}/bias", 0))
    if norm:
        hidden = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-12)
        hidden = hidden * w["head/norm/gamma"] + w.get("head/norm/beta", 0)
    return hidden if "head/weights" not in w else hidden @ w["head/weights"].T + w["head/bias"]


def test_the_pooler():
    compute, arrays = make("CLS_POOLED", Head())
    assert set(arrays) == {"pooler/kernel", "pooler/bias"}, "whatever the head is"
    assert np.abs(compute(POOLED) - logits(arrays, "tanh", "pooler")).max() < 1e-5


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("more", [{}, {"bias": False, "norm": True}], ids=str)
def test_heads(activation, more):
    compute, arrays = make("CLASSIFICATION", Head(activation=activation, **more), "identity")
    expected = logits(arrays, activation, norm="norm" in more)
    assert ("head/dense/bias" in arrays) == (not more)
    assert np.abs(compute(POOLED) - expected).max() < 1e-5 * max(1, np.abs(expected).max())


def test_a_norm_without_bias():
    compute, arrays = make("CLASSIFICATION", Head(norm=True), "identity", bias=False)
    assert "head/norm/beta" not in arrays
    assert np.abs(compute(POOLED) - logits(arrays, "tanh", norm=True)).max() < 1e-5


@pytest.mark.parametrize("strategy, scores, function", [
    ("CLASSIFICATION", None, "softmax"), ("REGRESSION", None, "sigmoid"), ("CLASSIFICATION", "sigmoid", "sigmoid"),
    ("REGRESSION", "identity", "identity")])
def test_scores(strategy, scores, function):
    compute, arrays = make(strategy, Head(pooler=True), scores)
    raw = logits(arrays, "tanh", "pooler")
    odds = np.exp(raw - raw.max(1, keepdims=True))
    expected = {"softmax": odds / odds.sum(1, keepdims=True), "sigmoid": 1 / (1 + np.exp(-raw)), "identity": raw}
    assert np.abs(compute(POOLED) - expected[function]).max() < 1e-5


def test_scores_of_large_logits_are_finite():
    large = np.array([[1e4, -1e4, 0]], np.float32)
    assert heads.scores(large, "softmax").tolist() == [[1, 0, 0]]
    assert heads.scores(large, "sigmoid").tolist() == [[1, 0, 0.5]]


def test_a_row_does_not_depend_on_the_others():
    compute, _ = make("CLASSIFICATION", Head(activation="gelu", norm=True))
    assert np.array_equal(compute(POOLED), np.concatenate([compute(POOLED[i:i + 1]) for i in range(len(POOLED))]))


def test_what_the_head_reads():
    mean, first = (EncoderSpec(vocab_size=9, head=Head(mean=mean)) for mean in (True, False))
    assert heads.read_by_head(mean, PoolingStrategy.CLASSIFICATION) is PoolingStrategy.REDUCE_MEAN
    assert heads.read_by_head(first, PoolingStrategy.CLASSIFICATION) is PoolingStrategy.FIRST_TOKEN
    assert heads.read_by_head(mean, PoolingStrategy.CLS_POOLED) is PoolingStrategy.FIRST_TOKEN
