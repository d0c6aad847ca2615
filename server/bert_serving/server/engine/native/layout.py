"""An encoder's variables, laid out as the library reads them: see server/native/layout.h, which says why so."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..pipeline import layer_norm
from ..rows import Read
from ..spec import (FINAL_NORM, POSITIONS, PROJECTION, RELATIVE, RELATIVE_NORM, TOKEN_TYPES, WORDS,
                    DisentangledPositions, EncoderSpec, Placement, variables)
from ..tensor_file import widened

LOG2_E = np.float32(math.log2(math.e))
"""Attention's scores come times that: the library takes powers of two."""

INNER = 512
"""Most columns of the MLP that are computed at a time."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """In what numbers products are computed.

    Attributes:
        number: of NativeKind in server/native/spec.h.
        per_line: numbers of a row in 64 bytes.
        parts: bf16 numbers whose sum is one weight.
        by_range: a column's numbers are whole ones within its own range.
    """

    number: int
    per_line: int
    parts: int = 1
    by_range: bool = False


KINDS = {
    "fp32": Kind(number=0, per_line=16),
    "bf16": Kind(number=1, per_line=32),
    "int16": Kind(number=2, per_line=32, by_range=True),
    "int8": Kind(number=3, per_line=64, by_range=True),
    "split": Kind(number=4, per_line=32, parts=2),
    "strict": Kind(number=5, per_line=32, parts=3),
}
"""``split`` and ``strict`` compute fp32 as sums of two, and of three, numbers in bf16."""


def padded(size: int, to: int = 64) -> int:
    return -(-size // to) * to


# ---- sizes -----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Sizes:
    """Of a spec, padded: see server/native/spec.h."""

    width: int
    head: int
    queries: int
    inner: int
    inner_block: int


def sizes(spec: EncoderSpec) -> Sizes:
    head, inner = padded(spec.head_size, 32), padded(spec.mlp.size)
    return Sizes(width=padded(spec.hidden_size), head=head, queries=padded(spec.attention.heads * head), inner=inner,
                 inner_block=padded(-(-inner // -(-inner // INNER))))


# ---- numbers ---------------------------------------------------------------------------------------------------------

def bfloat16(values: np.ndarray) -> np.ndarray:
    """uint16, the upper halves of finite float32, rounded to the nearest, a tie to the even one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    halves: np.ndarray = ((bits + (0x7fff + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return halves


def largest_word(rows: int) -> int:
    """As in server/native/layout.h: the largest of 16-bit numbers whose products over so many rows fit 32 bits."""
    return 2047 if rows <= 384 else 1448 if rows <= 768 else int(math.sqrt(2147483647.0 / rows))


def word_scale(kernel: np.ndarray) -> np.ndarray:
    """float32 [N], what the numbers of each column are multiplied with."""
    scale: np.ndarray = np.maximum(np.abs(kernel).max(axis=0), 1e-20) / np.float32(largest_word(len(kernel)))
    return scale


def byte_scale(kernel: np.ndarray) -> np.ndarray:
    """float32 [N]: of eleven ranges of a column, some of which cut off its largest weights, the one with the least
    squared error."""
    most = np.maximum(np.abs(kernel).max(axis=0), np.float32(1e-20))
    best, least = most, np.full(most.shape, np.inf)
    for step in range(11):
        scale = most * np.float32((0.75 + 0.025 * step) / 127)
        error = np.square(np.clip(np.rint(kernel / scale), -127, 127) * scale - kernel).sum(axis=0, dtype=np.float64)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best.astype(np.float32)


def panels(kernel: np.ndarray, kind: Kind) -> np.ndarray:
    """Panels of 32 columns, each step by step: four bytes of every column.

    Args:
        kernel: [K, N] of numbers as the kind has them, fp32 where it has parts; K and N are multiples of 64 and of 32.
    """
    if kind.parts > 1:
        rows, columns = kernel.shape
        rest, parts = kernel, []
        for _ in range(kind.parts):
            halves = bfloat16(rest)
            parts.append(panels(halves, KINDS["bf16"]).reshape(columns // 32, rows // kind.per_line, 1, -1))
            rest = rest - widened(halves)
        return np.concatenate(parts, axis=2)
    rows, columns = kernel.shape
    step = kind.per_line // 16
    return np.ascontiguousarray(kernel.reshape(rows // step, step, columns // 32, 32).transpose(2, 0, 3, 1))


def matrix(kernel: np.ndarray, bias: np.ndarray | None, kind: Kind, block: int | None = None,
           shares: np.ndarray | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """A product's arrays, by the names of NativeMatrix in server/native/spec.h.

    Args:
        kernel: float32 [K, N], padded.
        block: rows of which each has ranges of its own; None: all together.
        shares: float32 [K], what inputs are multiplied with before they are brought to 8 bits.
    """
    if shares is not None:
        kernel = kernel / shares[:, None]
        yield "shares", shares
    if bias is not None:
        yield "bias", bias
    if not kind.by_range:
        numbers = kernel if kind.number == 0 or kind.parts > 1 else bfloat16(kernel)
        yield "panels", panels(numbers, kind)
        return
    scales, sums, numbers = [], [], np.empty(kernel.shape, np.int8 if kind.per_line == 64 else np.int16)
    for start in range(0, len(kernel), block or len(kernel)):
        part = kernel[start:start + (block or len(kernel))]
        scale = byte_scale(part) if kind.per_line == 64 else word_scale(part)
        most = 127 if kind.per_line == 64 else largest_word(len(part))
        whole = np.clip(np.rint(part / scale), -most, most)
        numbers[start:start + len(part)] = whole
        scales.append(scale)
        sums.append((whole.sum(axis=0, dtype=np.float64) * scale).astype(np.float32))
    yield "panels", panels(numbers, kind)
    yield "scale", np.stack(scales).astype(np.float32)
    if kind.per_line == 64:
        yield "sums", np.stack(sums)


# ---- padding ---------------------------------------------------------------------------------------------------------

def filled(array: np.ndarray, size: int, axis: int = -1) -> np.ndarray:
    """With zeros at the end of an axis."""
    extra = [(0, 0)] * array.ndim
    extra[axis] = (0, size - array.shape[axis])
    return np.pad(array, extra) if extra[axis][1] else array


def heads_filled(array: np.ndarray, heads: int, size: int, axis: int) -> np.ndarray:
    """With zeros at the end of each head, which are beside each other on the first or the last axis."""
    axis %= array.ndim
    shape = array.shape
    split = array.reshape(*shape[:axis], heads, shape[axis] // heads, *shape[axis + 1:])
    return filled(split, size, axis + 1).reshape(*shape[:axis], heads * size, *shape[axis + 1:])


# ---- the variables ---------------------------------------------------------------------------------------------------

def lay_out(spec: EncoderSpec, read: Read, kind: Kind, last_layer: int,
            shares: Mapping[str, np.ndarray] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Name -> array of all that the library maps, but for the tables of :func:`tables`.

    Args:
        last_layer: the last that is computed, from 0.
        shares: 1 / rows.shared_out() of "layers/N/qkv" and "layers/N/up"; none: inputs are taken as they are.
    """
    size, known = sizes(spec), variables(spec)
    shares = shares or {}

    def norm(name: str, ours: str, width: int, scale: float = 1.0) -> Iterator[tuple[str, np.ndarray]]:
        for part in ("gamma", "beta"):
            if f"{name}/{part}" in known:
                yield f"{ours}/{part}", filled(read(f"{name}/{part}") * np.float32(scale), width)

    def product(ours: str, kernel: np.ndarray, bias: np.ndarray | None,
                block: int | None = None) -> Iterator[tuple[str, np.ndarray]]:
        for part, array in matrix(kernel, bias, kind, block, shares.get(ours)):
            yield f"{ours}/{part}", array

    def bias_of(name: str, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
        return change(read(f"{name}/bias")) if f"{name}/bias" in known else None

    yield from norm("embeddings/norm", "embedding_norm", padded(spec.embeddings.size or spec.hidden_size))
    yield from norm(FINAL_NORM, "final_norm", size.width)
    if spec.projects:
        kernel = filled(filled(read(f"{PROJECTION}/kernel"), size.width), padded(spec.embeddings.size or 0), 0)
        yield from product("projection", kernel, bias_of(PROJECTION, lambda bias: filled(bias, size.width)))
    heads, shared = spec.attention.heads, spec.key_value_heads
    scale = float(LOG2_E) * spec.scale
    for number in dict.fromkeys(spec.weights_of(layer) for layer in range(last_layer + 1)):
        name, attention = f"layers/{number}", f"layers/{number}/attention"
        kernels, biases = [], []
        for part, count in (("query", heads), ("key", shared), ("value", shared)):
            factor = np.float32(scale if part == "query" and not spec.attention.qk_norm else 1)
            kernels.append(heads_filled(read(f"{attention}/{part}/kernel") * factor, count, size.head, -1))
            if spec.attention.bias:
                biases.append(heads_filled(read(f"{attention}/{part}/bias") * factor, count, size.head, -1))
        yield from product(f"{name}/qkv", filled(np.concatenate(kernels, axis=1), size.width, 0),
                           np.concatenate(biases) if biases else None)
        kernel = heads_filled(read(f"{attention}/output/kernel"), heads, size.head, 0)
        yield from product(f"{name}/output", filled(filled(kernel, size.queries, 0), size.width),
                           bias_of(f"{attention}/output", lambda bias: filled(bias, size.width)))
        for part in ("up", "gate"):
            if f"{name}/mlp/{part}/kernel" in known:
                kernel = filled(filled(read(f"{name}/mlp/{part}/kernel"), size.inner), size.width, 0)
                yield from product(f"{name}/{part}", kernel,
                                   bias_of(f"{name}/mlp/{part}", lambda bias: filled(bias, size.inner)))
        kernel = filled(filled(read(f"{name}/mlp/down/kernel"), size.width), size.inner, 0)
        yield from product(f"{name}/down", kernel, bias_of(f"{name}/mlp/down", lambda bias: filled(bias, size.width)),
                           size.inner_block)
        if isinstance(spec.positions, DisentangledPositions):
            table = layer_norm(read(RELATIVE), read(f"{RELATIVE_NORM}/gamma"), read(f"{RELATIVE_NORM}/beta"),
                               spec.norm.eps)
            for part, ours, times in (("key", "table_keys", 1.0), ("query", "table_queries", scale)):
                rows = table @ read(f"{attention}/{part}/kernel") + read(f"{attention}/{part}/bias")
                by_head = (rows * np.float32(times)).reshape(len(rows), heads, spec.head_size).transpose(1, 0, 2)
                yield f"{name}/{ours}", np.ascontiguousarray(filled(by_head, size.head), np.float32)
        yield from norm(f"{attention}/norm", f"{name}/attention_norm", size.width)
        yield from norm(f"{attention}/output_norm", f"{name}/attention_output_norm", size.width)
        yield from norm(f"{name}/mlp/norm", f"{name}/mlp_norm", size.width)
        yield from norm(f"{name}/mlp/output_norm", f"{name}/mlp_output_norm", size.width)
        yield from norm(f"{attention}/query_norm", f"{name}/query_norm", size.head, scale)
        yield from norm(f"{attention}/key_norm", f"{name}/key_norm", size.head)


def tables(spec: EncoderSpec) -> tuple[str, ...]:
    """The variables that are looked up row by row, as they are."""
    known = variables(spec)
    return tuple(name for name in (WORDS, TOKEN_TYPES, POSITIONS) if name in known)


PLACEMENTS = {Placement.AFTER: 0, Placement.BEFORE: 1, Placement.AROUND: 2}
ACTIVATIONS = {"linear": 0, "gelu": 1, "gelu_new": 2, "relu": 3, "silu": 4, "tanh": 5}
"""As in server/native: by the names of spec.ACTIVATIONS."""
