"""What reads the last layer: BERT's pooler, and the heads of models that are fine-tuned to classify. In NumPy."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from ..config import PoolingStrategy
from .pipeline import ACTIVATIONS, matmul, sigmoid
from .pooling import HEAD_STRATEGIES, POOLER_STRATEGIES
from .spec import HEAD, HEAD_DENSE, HEAD_NORM, POOLER, EncoderSpec, Head

SCORES = ("softmax", "sigmoid", "identity")
"""What is made of logits."""


def _head(spec: EncoderSpec, strategy: PoolingStrategy) -> Head:
    """What one of POOLER_STRATEGIES computes: the pooler alone, or the model's own head."""
    if strategy not in HEAD_STRATEGIES:
        return Head(pooler=True)
    assert spec.head is not None                       # artefact.check_weights
    return spec.head


def read_by_head(spec: EncoderSpec, strategy: PoolingStrategy) -> PoolingStrategy:
    """How the last layer is pooled for one of POOLER_STRATEGIES."""
    return PoolingStrategy.REDUCE_MEAN if _head(spec, strategy).mean else PoolingStrategy.FIRST_TOKEN


def head_variables(spec: EncoderSpec, strategy: PoolingStrategy) -> tuple[str, ...]:
    """The variables that :class:`HeadLayers` takes; none for a strategy that is not one of POOLER_STRATEGIES."""
    if strategy not in POOLER_STRATEGIES:
        return ()
    head = _head(spec, strategy)
    dense = POOLER if head.pooler else (f"{HEAD_DENSE}/kernel", *((f"{HEAD_DENSE}/bias",) if head.bias else ()))
    norm = (f"{HEAD_NORM}/gamma", *((f"{HEAD_NORM}/beta",) if spec.norm.bias else ())) if head.norm else ()
    return (*dense, *norm, *(HEAD if strategy in HEAD_STRATEGIES else ()))


class HeadLayers:
    """BERT's pooler, or a fine-tuned model's head: float32 [B, H] -> [B, H], or [B, num_labels].

    A row of the result does not depend, to the last bit, on the other rows.

    Args:
        arrays: float32, :func:`head_variables`.
        scores: one of SCORES, what is made of a head's logits; None: what the strategy says.
    """

    def __init__(self, spec: EncoderSpec, strategy: PoolingStrategy, arrays: Mapping[str, np.ndarray],
                 scores: str | None = None) -> None:
        self._eps, self._strategy, self._arrays = np.float32(spec.norm.eps), strategy, arrays
        self._scores = scores or ("sigmoid" if strategy is PoolingStrategy.REGRESSION else "softmax")
        self._head = _head(spec, strategy)

    def __call__(self, pooled: np.ndarray) -> np.ndarray:
        name = "pooler" if self._head.pooler else HEAD_DENSE
        dense = matmul(pooled, self._arrays[f"{name}/kernel"])
        if self._head.bias:
            dense += self._arrays[f"{name}/bias"]
        dense = ACTIVATION[self._head.activation](dense)
        if self._head.norm:
            centred = dense - dense.mean(axis=1, keepdims=True)
            variance = (centred * centred).mean(axis=1, keepdims=True)
            dense = centred / np.sqrt(variance + self._eps) * self._arrays[f"{HEAD_NORM}/gamma"]
            dense += self._arrays.get(f"{HEAD_NORM}/beta", np.float32(0))
        if self._strategy not in HEAD_STRATEGIES:
            return dense
        logits: np.ndarray = matmul(dense, self._arrays[HEAD[0]].T) + self._arrays[HEAD[1]]
        return scores(logits, self._scores)


def scores(logits: np.ndarray, function: str) -> np.ndarray:
    """
    Args:
        logits: float [B, labels].
        function: one of SCORES.
    Returns:
        float32 [B, labels]. A row does not depend on the others.
    """
    if function == "sigmoid":
        logits = sigmoid(logits)
    elif function == "softmax":
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        logits = odds / odds.sum(axis=1, keepdims=True)
    return logits.astype(np.float32)


ACTIVATION: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": ACTIVATIONS["GELU"], "relu": ACTIVATIONS["ReLU"], "silu": ACTIVATIONS["SiLU"], "tanh": np.tanh,
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + 0.044715 * x * x * x))),
    "linear": ACTIVATIONS["Identity"],
}
"""By the names of spec.ACTIVATIONS, element by element."""
