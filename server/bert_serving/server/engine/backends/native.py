"""The backend of our own, server/native: for CPUs with AVX-512 or AMX. It takes tokens end to end, without padding."""
from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.client.words import counted

from ...config import MB, PoolingStrategy
from ...core.features import Features, PlainBatch
from ...core.packing import pool_mask
from ...errors import EngineError
from ...precision import cpu_flags
from .. import rows
from ..architectures import from_file
from ..base import Engine, EngineSettings
from ..cache import open_format, write_file
from ..heads import HeadLayers, head_variables, read_by_head
from ..native import library
from ..native.layout import KINDS, lay_out, padded, tables
from ..native.library import BUILDS, FIRST, MEAN, TOKENS, Build, NativeEncoder
from ..pooling import POOLER_STRATEGIES, pool
from ..rows import Read
from ..spec import RELATIVE, Departure, EncoderSpec, RelativePositions
from ..tensors import Safetensors
from ..weights import Checkpoint
from .base import Backend, Footprint

FORMAT = 2
"""To be raised with every change to what is laid out, or to how."""

WEIGHTS, INDEX = "weights.bin", "index.json"
"""All that the library maps, and where each array is in it."""

BUILD, NONE = "NATIVE_BUILD", "none"
"""For tests: environment variable that names one of library.BUILDS to be taken, fit for the processor or not, or none.
"""

PLACE = 4096
"""Arrays begin at multiples of that: pages, for each to be mapped alone."""


class NativeBackend(Backend):
    """Our own library. Of a Hugging Face model it needs nothing else."""

    name = "native"
    precisions = frozenset({"fp32", "bf16", "int8"})
    departures = frozenset(Departure)

    def version(self) -> str:
        return library.load(build().name).instructions

    def key(self, settings: EngineSettings, spec: EncoderSpec) -> dict[str, Any]:
        return {**rows.key(settings, spec), "format": FORMAT, "kind": build().precisions[settings.precision]}

    def maker(self) -> str:
        return f"NumPy {np.__version__}"

    def make(self, directory: Path, settings: EngineSettings, spec: EncoderSpec,
             checkpoint: Checkpoint) -> dict[str, Any]:
        outputs, kind, read = rows.outputs(settings, spec), build().precisions[settings.precision], checkpoint.read_as
        last = outputs[-1]
        if kind == "split" and not is_exact(spec, read, last, settings.strategy):
            kind = "strict"
        shares = shares_of(spec, read, last) if settings.precision == "int8" else None
        _write(directory, lay_out(spec, read, KINDS[kind], last, shares))
        mapped = {}
        for name in tables(spec):
            array = read(name)                         # which says so, if it holds what is not finite
            if checkpoint.mapped(name) is not None:
                mapped[name] = checkpoint.own_name(name)
            else:
                rows.write_array(directory, name, array)
        for name in _small(spec, settings.strategy):
            rows.write_array(directory, name, read(name))
        return {"format": FORMAT, "outputs": outputs, "kind": kind, "mapped": mapped}

    def open(self, settings: EngineSettings) -> NativeEngine:
        return NativeEngine(settings)

    def footprint(self, settings: EngineSettings) -> Footprint:
        # Each thread keeps the rows of a chunk, a sequence at least: see lay_out in server/native/encoder.h.
        rows = settings.num_threads * max(256, settings.max_length) * (32 * settings.hidden_size + 4096)
        return Footprint(worker=35 * MB + rows, libraries=15 * MB, weights_are_shared=True,
                         weight_bytes={"fp32": 4, "bf16": 2, "int8": 1}[settings.precision],
                         conversion=100 * MB, conversion_factor=2.5)


BACKEND = NativeBackend()


@cache
def build() -> Build:
    """The library's build for this processor.

    Raises:
        EngineError: there is none.
    """
    if name := os.environ.get(BUILD):
        if name not in (NONE, *BUILDS):
            raise EngineError(f"{BUILD} is {name!r}; choose from {', '.join((NONE, *BUILDS))}")
        found = [BUILDS[name]] if name != NONE else []
    else:
        flags = cpu_flags()
        found = [candidate for candidate in BUILDS.values() if candidate.taken and candidate.flags <= flags]
        found = [candidate for candidate in found if candidate.name != "amx" or library.may_use_tiles()]
    if not found:
        raise EngineError("this processor has no AVX-512 with VNNI" if name != NONE else f"{BUILD} is {NONE}")
    there = [candidate for candidate in found if library.path_of(candidate.name).exists()]
    if not there:
        raise EngineError("its library was not compiled; install a C++17 compiler and the server again")
    return there[0]


# ---- the artefact ----------------------------------------------------------------------------------------------------

def _small(spec: EncoderSpec, strategy: PoolingStrategy) -> tuple[str, ...]:
    """The variables that Python reads."""
    return (*([RELATIVE] if isinstance(spec.positions, RelativePositions) else []), *head_variables(spec, strategy))


def _write(directory: Path, arrays: Iterator[tuple[str, np.ndarray]]) -> None:
    index = {}
    with open(os.open(directory / WEIGHTS, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for name, array in arrays:
            file.seek(padded(file.tell(), PLACE))
            index[name] = {"offset": file.tell(), "dtype": array.dtype.str, "shape": array.shape}
            file.write(np.ascontiguousarray(array).data)
    write_file(directory / INDEX, json.dumps(index).encode("ascii"))


def _read(directory: Path) -> dict[str, np.ndarray]:
    """The arrays, mapped; every process shares them."""
    index = json.loads((directory / INDEX).read_bytes())
    whole = np.memmap(directory / WEIGHTS, np.uint8, "r")
    arrays = {}
    for name, place in index.items():
        dtype, count = np.dtype(place["dtype"]), int(np.prod(place["shape"]))
        arrays[name] = np.frombuffer(whole, dtype, count, place["offset"]).reshape(place["shape"])
    return arrays


TRIED = 512
"""Tokens from which is learned what a model's nature is."""


class _Trial:
    """An encoder in memory that computes sequences of any words.

    What there is to learn of a model so is its nature: any words show it as well as real text does.
    """

    def __init__(self, spec: EncoderSpec, read: Read, kind: str, last_layer: int, length: int) -> None:
        arrays = dict(lay_out(spec, read, KINDS[kind], last_layer))
        arrays |= {name: read(name) for name in (*tables(spec), *_small(spec, PoolingStrategy.NONE))}
        self._length = min(length, spec.max_length)
        self._words = np.random.default_rng(0).integers(0, spec.vocab_size, TRIED // length * self._length, np.int32)
        self._encoder = NativeEncoder(library.load(build().name), spec, KINDS[kind], arrays, [last_layer],
                                      self._length, 1)

    def run(self, pooling: int, largest: np.ndarray | None = None) -> np.ndarray:
        starts = np.arange(0, len(self._words) + 1, self._length, dtype=np.int32)
        return self._encoder.encode(self._words, None, starts, pooling, largest=largest)


LARGEST_ERROR = 2e-5
"""Of a value, as a share of it where it is above 1, up to which fp32 is computed as sums of two numbers in bf16."""

MEANS = frozenset({PoolingStrategy.REDUCE_MEAN, PoolingStrategy.REDUCE_MEAN_SQRT_LEN, PoolingStrategy.WEIGHTED_MEAN})


def is_exact(spec: EncoderSpec, read: Read, last_layer: int, strategy: PoolingStrategy) -> bool:
    """Whether sums of two numbers in bf16 are enough for fp32, which depends on the weights; else it takes three."""
    pooling = MEAN if strategy in MEANS else TOKENS
    # Short texts, since errors of many tokens even out in a mean.
    found, expected = (_Trial(spec, read, kind, last_layer, 8).run(pooling) for kind in ("split", "strict"))
    return bool((np.abs(found - expected) <= LARGEST_ERROR * np.maximum(1, np.abs(expected))).all())


def shares_of(spec: EncoderSpec, read: Read, last_layer: int) -> dict[str, np.ndarray]:
    """What inputs that are normalized are multiplied with, and their products' weights divided by: see
    rows.shared_out."""
    loaded = library.load(build().name)
    kind = next(name for name in ("fp32", "split") if loaded.computes(KINDS[name]))
    largest = np.zeros((spec.num_layers, 2, padded(spec.hidden_size)), np.float32)
    _Trial(spec, read, kind, last_layer, 32).run(TOKENS, largest)
    shares: dict[str, np.ndarray] = {}
    for number in dict.fromkeys(spec.weights_of(layer) for layer in range(last_layer + 1)):
        name = f"layers/{number}"
        most = largest[[layer for layer in range(last_layer + 1) if spec.weights_of(layer) == number]].max(axis=0)
        up = ("mlp/up", "mlp/gate") if spec.mlp.gated else ("mlp/up",)
        for inputs, ours, kernels in ((most[0], ("qkv",), [f"attention/{part}" for part in ("query", "key", "value")]),
                                      (most[1], ("up", "gate")[:len(up)], up)):
            kernel = np.concatenate([read(f"{name}/{part}/kernel") for part in kernels], axis=1)
            share = np.ones(len(inputs), np.float32)
            share[:spec.hidden_size] = 1 / rows.shared_out(inputs[:spec.hidden_size], kernel)
            shares |= {f"{name}/{product}": share for product in ours}
    return shares


# ---- the engine ------------------------------------------------------------------------------------------------------

class NativeEngine(Engine):
    """Runs the library. A sequence's vector is the same, bit for bit, whatever batch it is in."""

    overlaps = True

    def __init__(self, settings: EngineSettings) -> None:
        """
        Raises:
            EngineError: the artefact is damaged, or the library cannot run here.
        """
        self.settings = settings
        self.strategy = settings.strategy
        self.token_level = self.strategy is PoolingStrategy.NONE
        assert settings.artefact and settings.config_file and settings.checkpoint
        directory = Path(settings.artefact)
        manifest = open_format(directory, FORMAT)
        _, self.spec = from_file(settings.config_file)
        arrays = _read(directory)
        small = _small(self.spec, self.strategy)
        for name in (*tables(self.spec), *small):
            if name not in manifest["mapped"]:
                arrays[name] = np.load(directory / rows.array_file(name), mmap_mode="r", allow_pickle=False)
        if manifest["mapped"]:
            file = Safetensors(settings.checkpoint)
            arrays |= {name: file.mapped(own)[0] for name, own in manifest["mapped"].items()}
        self._encoder = NativeEncoder(
            library.load(build().name), self.spec, KINDS[manifest["kind"]], arrays,
            rows.wanted_layers(settings, self.spec), settings.max_length, settings.num_threads,
            not settings.no_position_embeddings)
        self._head = (HeadLayers(self.spec, self.strategy, arrays, settings.scores)
                      if self.strategy in POOLER_STRATEGIES else None)
        self._has_types = bool(self.spec.embeddings.token_types)
        pooled = read_by_head(self.spec, self.strategy) if self._head else self.strategy
        alone = len(settings.pooling.strategies) == 1
        self._pooling = {PoolingStrategy.REDUCE_MEAN: MEAN, PoolingStrategy.FIRST_TOKEN: FIRST}.get(pooled, TOKENS) \
            if alone else TOKENS

    def encode(self, batch: Sequence[Features]) -> np.ndarray:
        if isinstance(batch, PlainBatch):
            return self._encode(batch.input_ids, None, batch.starts)
        ids = np.concatenate([features.input_ids for features in batch])
        types = np.concatenate([features.token_type_ids for features in batch]) if self._has_types else None
        starts = np.zeros(len(batch) + 1, np.int32)
        np.cumsum([len(features) for features in batch], out=starts[1:])
        mask = np.concatenate([features.input_mask for features in batch])
        pooled: np.ndarray | None = pool_mask(batch, mask)
        assert pooled is not None
        if pooled.all():
            pooled = None
        seen = None if pooled is None or mask.all() else mask.astype(np.uint8)
        return self._encode(ids, types, starts, seen, pooled)

    def _encode(self, ids: np.ndarray, types: np.ndarray | None, starts: np.ndarray, seen: np.ndarray | None = None,
                pooled: np.ndarray | None = None) -> np.ndarray:
        """
        Args:
            seen, pooled: what attention and pooling see; None: all.
        """
        weights = pooled.astype(np.uint8) if pooled is not None and self._pooling == MEAN else None
        vectors = self._encoder.encode(ids, types, starts, self._pooling, seen, weights)
        if self._head is not None:
            return self._head(vectors)
        if self._pooling != TOKENS:
            return vectors
        return pool(self.settings.pooling.strategies, vectors, starts, pooled)

    def describe(self) -> str:
        return (f"{BACKEND.version()} on CPU, {counted(self.settings.num_threads, 'thread')}, "
                f"{self.settings.precision}")
