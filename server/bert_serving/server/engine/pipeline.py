"""What follows an encoder and its pooling, in NumPy, the same behind every backend.

A :class:`Stage` says what is computed, and crosses to the worker process; a :class:`Pipeline` holds the weights and
computes it. The names are those of sentence-transformers, which these stages agree with.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import numpy as np

from bert_serving.client.words import counted

from ..errors import ModelError
from .tensors import open_tensors
from .weight_files import listing

MAX_DIMENSIONS = 1 << 16
"""Of a vector. More is a mistake in a file, or an attack on the memory."""

MAX_WEIGHTS = 1 << 28
"""Numbers of a stage's weights, of which every worker has its own copy. A file of nothing but holes can claim more."""


# ---- what is computed ------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step from vectors to vectors. Plain values: a field of ``Orders`` can be ``tuple[Stage, ...]``.

    Attributes:
        source: the file that asks for it, relative to the model's directory.
    """

    KINDS: ClassVar[dict[str, type[Stage]]] = {}

    source: str = ""

    def __init_subclass__(cls) -> None:
        Stage.KINDS[cls.__name__] = cls

    def __str__(self) -> str:
        return type(self).__name__

    def dimensions(self, dimensions: int) -> int:
        """Dimensions of what comes out, of those that go in.

        Raises:
            ModelError: the stage expects other ones.
        """
        return dimensions

    def load(self) -> Callable[[np.ndarray], np.ndarray]:
        """Read the weights, if there are any.

        Returns:
            The computation: float32 [B, D] -> float32 [B, D'].
        Raises:
            ModelError: the weights cannot be read, or have other shapes.
        """
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        return {"stage": type(self).__name__, **{f.name: getattr(self, f.name) for f in fields(self)}}

    @classmethod
    def from_json(cls, values: Any) -> Stage:
        """
        Raises:
            LookupError, TypeError: it is no stage.
        """
        values = dict(values)
        return Stage.KINDS[values.pop("stage")](**values)

    def _expect(self, expected: int, dimensions: int) -> None:
        if dimensions != expected:
            raise ModelError(f"{self.source}: {type(self).__name__} expects {counted(expected, 'dimension')}, and gets "
                             f"{dimensions} from what is before it")


@dataclass(frozen=True, kw_only=True)
class Dense(Stage):
    """activation(x W^T + b), and x again where it is residual.

    Attributes:
        weights: path of the file: ``linear.weight`` [out_features, in_features], ``linear.bias`` [out_features].
        in_features, out_features: dimensions.
        bias: whether there is one.
        activation: a key of ACTIVATIONS.
        residual: whether the input is added to the output, by ``residual.weight`` if the dimensions differ.
    """

    weights: str
    in_features: int
    out_features: int
    bias: bool = True
    activation: str = "Tanh"
    residual: bool = False

    def __str__(self) -> str:
        return f"Dense({self.out_features}, {self.activation})"

    def dimensions(self, dimensions: int) -> int:
        self._expect(self.in_features, dimensions)
        return self.out_features

    def load(self) -> Callable[[np.ndarray], np.ndarray]:
        matrix = (self.out_features, self.in_features)
        projects = self.residual and self.in_features != self.out_features
        arrays = read_arrays(self.weights, {
            "linear.weight": matrix, **({"linear.bias": matrix[:1]} if self.bias else {}),
            **({"residual.weight": matrix} if projects else {})})
        weight, bias = _transposed(arrays["linear.weight"]), arrays.get("linear.bias")
        residual = _transposed(arrays["residual.weight"]) if projects else None
        activation = ACTIVATIONS[self.activation]

        def compute(vectors: np.ndarray) -> np.ndarray:
            result = matmul(vectors, weight)
            if bias is not None:
                result += bias
            result = activation(result)
            if self.residual:
                result = result + (vectors if residual is None else matmul(vectors, residual))
            return result
        return compute


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Stage):
    """(x - mean) / sqrt(variance + eps) * weight + bias.

    Attributes:
        weights: path of the file: ``norm.weight`` and ``norm.bias``, both [dimension].
        dimension: of the vectors.
        eps: added to the variance.
    """

    weights: str
    dimension: int
    eps: float = 1e-5

    def dimensions(self, dimensions: int) -> int:
        self._expect(self.dimension, dimensions)
        return dimensions

    def load(self) -> Callable[[np.ndarray], np.ndarray]:
        arrays = read_arrays(self.weights, {"norm.weight": (self.dimension,), "norm.bias": (self.dimension,)})
        return partial(layer_norm, gamma=arrays["norm.weight"], beta=arrays["norm.bias"], eps=self.eps)


@dataclass(frozen=True, kw_only=True)
class Normalize(Stage):
    """x / max(norm of x, 1e-12): length 1, but the zero vector stays as it is."""

    def load(self) -> Callable[[np.ndarray], np.ndarray]:
        return normalize


@dataclass(frozen=True, kw_only=True)
class Truncate(Stage):
    """The first ``size`` dimensions, as of Matryoshka models. What is left of a unit vector is shorter than 1.

    Attributes:
        size: dimensions that are kept; all, if there are fewer.
    """

    size: int

    def __str__(self) -> str:
        return f"Truncate({self.size})"

    def dimensions(self, dimensions: int) -> int:
        return min(dimensions, self.size)

    def load(self) -> Callable[[np.ndarray], np.ndarray]:
        return lambda vectors: np.ascontiguousarray(vectors[:, :self.size])


def output_dimensions(stages: Iterable[Stage], dimensions: int) -> int:
    """Dimensions of the vectors that clients get.

    Args:
        dimensions: of the pooled vectors.
    Raises:
        ModelError: a stage expects other ones than it gets.
    """
    for stage in stages:
        dimensions = stage.dimensions(dimensions)
    return dimensions


def skipped_for_tokens(stages: Sequence[Stage]) -> str:
    """What to tell who asks for a vector per token, which these stages do not apply to; "" if there are none.

    sentence-transformers' ``output_value="token_embeddings"`` leaves them out as well.
    """
    if not stages:
        return ""
    return (f"-pooling_strategy NONE gives the token vectors of the encoder; {listing(map(str, stages))} "
            f"({listing(dict.fromkeys(stage.source for stage in stages))}) apply to pooled vectors only")


# ---- the computation -------------------------------------------------------------------------------------------------

class Pipeline:
    """Stages with their weights. A row of the result does not depend, to the last bit, on the other rows."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        """
        Raises:
            ModelError: weights cannot be read, or have other shapes.
        """
        self.stages = tuple(stages)
        self._computations = [stage.load() for stage in stages]

    def __bool__(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self.stages)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [B, D] -> float32 [B, D']; the argument is left as it is."""
        for compute in self._computations:
            vectors = compute(vectors)
        return vectors


def matmul(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """[B, D] x [D, N] -> [B, N], a row at a time.

    A product of matrices may depend, in its last bit, on how many rows there are.
    """
    result: np.ndarray = np.matmul(vectors[:, None, :], matrix)[:, 0]
    return result


def layer_norm(vectors: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float) -> np.ndarray:
    """float32 [B, D], each row by a layer norm."""
    wide = vectors.astype(np.float64)
    wide -= wide.mean(axis=1, keepdims=True)
    wide /= np.sqrt((wide * wide).mean(axis=1, keepdims=True) + eps)
    result: np.ndarray = (wide * gamma + beta).astype(np.float32)
    return result


def normalize(vectors: np.ndarray) -> np.ndarray:
    """float32 [B, D], each row of length 1, but a row of zeros, which stays one."""
    wide = vectors.astype(np.float64)
    norms = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    result: np.ndarray = (wide / np.maximum(norms, 1e-12)).astype(np.float32)
    return result


def _transposed(matrix: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(matrix.T)


def _gelu(x: np.ndarray) -> np.ndarray:
    # NumPy has no erf; such stages are rare, and vectors are few beside tokens.
    erf = np.array([math.erf(value) for value in (x * math.sqrt(0.5)).ravel()], x.dtype).reshape(x.shape)
    return x * x.dtype.type(0.5) * (1 + erf)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    odds = np.exp(-np.abs(x))
    result: np.ndarray = np.where(x >= 0, x.dtype.type(1), odds) / (1 + odds)
    return result


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, np.zeros((), x.dtype))


def _selu(x: np.ndarray) -> np.ndarray:
    alpha, scale = x.dtype.type(1.6732632423543772), x.dtype.type(1.0507009873554805)
    result: np.ndarray = scale * np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0)))
    return result


ACTIVATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "GELU": _gelu,
    "SiLU": lambda x: x * sigmoid(x),
    "Sigmoid": sigmoid,
    "LeakyReLU": lambda x: np.where(x >= 0, x, x * np.float32(0.01)),
    "ELU": lambda x: np.where(x >= 0, x, np.expm1(np.minimum(x, 0))),
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "Softplus": _softplus,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Hardtanh": lambda x: np.clip(x, -1, 1),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "SELU": _selu,
    "CELU": lambda x: np.where(x >= 0, x, np.expm1(np.minimum(x, 0))),
    "Hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "Hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "LogSigmoid": lambda x: -_softplus(-x),
    "Tanhshrink": lambda x: x - np.tanh(x),
    "Softshrink": lambda x: x - np.clip(x, -0.5, 0.5),
    "Hardshrink": lambda x: np.where(np.abs(x) > 0.5, x, 0),
}
"""By the names of torch.nn's classes, with their defaults; element by element."""


# ---- the weights -----------------------------------------------------------------------------------------------------

def read_arrays(path: str, expected: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The arrays of a small file of weights.

    Args:
        path: a safetensors file.
        expected: name -> shape of everything that the file holds.
    Returns:
        Name -> float32 array.
    Raises:
        ModelError: the file cannot be read, lacks an array, or holds others, or other shapes or types.
    """
    file = open_tensors(path)
    check_shapes(path, file.shapes, expected)
    if (numbers := sum(map(math.prod, expected.values()))) > MAX_WEIGHTS:
        raise ModelError(f"{path} has {counted(numbers, 'number')}, expected {MAX_WEIGHTS} at most")
    result = {name: np.ascontiguousarray(file.read(name)) for name in expected}
    for name, array in result.items():
        if not np.isfinite(array).all():
            raise ModelError(f"{name} of {path} holds values that are not finite")
    return result


def check_shapes(path: str, own: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """
    Raises:
        ModelError: arrays are missing, left over, or of other shapes.
    """
    missing, unknown = expected.keys() - own.keys(), own.keys() - expected.keys()
    for fault, names in (("lacks", missing), ("holds what its config.json does not speak of:", unknown)):
        if names:
            raise ModelError(f"{path} {fault} {listing(sorted(names))}")
    for name, shape in expected.items():
        if own[name] != shape:
            raise ModelError(f"{path}: {name} is {list(own[name])[:8]}, expected {list(shape)}")
