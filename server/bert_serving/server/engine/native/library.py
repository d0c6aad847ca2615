"""The library of server/native, for one processor's instructions, and an encoder in it: called through ctypes."""
from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import EngineError
from .. import positions
from ..positions import thetas
from ..spec import (POSITIONS, RELATIVE, TOKEN_TYPES, WORDS, DisentangledPositions, EncoderSpec, RelativePositions,
                    RotaryPositions, TablePositions)
from .layout import ACTIVATIONS, LOG2_E, PLACEMENTS, Kind, sizes

VERSION = 2
"""Of the library's interface, server/native/spec.h."""

TOKENS, MEAN, FIRST = range(3)
"""How the library pools a sequence: not at all, the mean of its tokens, its first token."""


# ---- structures, as in server/native/spec.h --------------------------------------------------------------------------

class Array(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_int64)]


MATRIX = ("panels", "bias", "scale", "sums", "shares")


class Matrix(ctypes.Structure):
    _fields_ = [(name, Array) for name in MATRIX]


class Norm(ctypes.Structure):
    _fields_ = [("gamma", Array), ("beta", Array)]


class Layer(ctypes.Structure):
    _fields_ = [*((name, Matrix) for name in ("qkv", "output", "up", "gate", "down")),
                *((name, Norm) for name in ("attention_norm", "attention_output_norm", "mlp_norm", "mlp_output_norm",
                                            "query_norm", "key_norm")),
                ("table_keys", Array), ("table_queries", Array), ("window", ctypes.c_int32),
                ("angles", ctypes.c_int32)]


class Spec(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int32) for name in (
                    "size", "kind", "vocab", "embedding", "token_types", "position_rows", "first_position", "pad_id",
                    "hidden", "layers", "heads", "key_value_heads", "head_size", "inner", "inner_block", "placement",
                    "activation", "rms", "causal", "max_length", "num_outputs", "num_angles", "table_rows")),
                ("eps", ctypes.c_float), ("embedding_scale", ctypes.c_float),
                *((name, Array) for name in ("words", "types", "positions")),
                ("embedding_norm", Norm), ("final_norm", Norm), ("projection", Matrix),
                *((name, Array) for name in ("relative", "places", "cosines", "sines", "outputs")),
                ("layer", ctypes.POINTER(Layer))]


class Batch(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int32) for name in ("size", "sequences", "tokens", "pooling")),
                *((name, ctypes.c_void_p) for name in ("ids", "types", "starts", "seen", "pooled", "out"))]


# ---- the library -----------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Build:
    """The library for some instructions.

    Attributes:
        name: of its file, libnative_NAME.so.
        flags: words that Linux tells of a processor, all of which it takes.
        precisions: precision -> the kind of numbers that it computes it in.
        taken: the engine takes it; else it is for tests.
    """

    name: str
    flags: frozenset[str]
    precisions: Mapping[str, str]
    taken: bool = True


AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd", "avx512_vnni", "fma", "avx2"})
TILES = {"fp32": "split", "bf16": "bf16", "int8": "int8"}
BUILDS = {build.name: build for build in (
    Build(name="amx", flags=AVX512 | {"avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"}, precisions=TILES),
    # On AMD's processors products of bf16 numbers are as fast as those of whole ones; on Intel's, a third as fast.
    Build(name="avx512bf16", flags=AVX512 | {"avx512_bf16", "AuthenticAMD"},
          precisions={"fp32": "fp32", "bf16": "bf16", "int8": "int8"}),
    Build(name="avx512", flags=AVX512, precisions={"fp32": "fp32", "bf16": "int16", "int8": "int8"}),
    Build(name="plain", flags=frozenset(), precisions={"fp32": "fp32", "bf16": "bf16", "int8": "int8"}, taken=False),
    Build(name="tiles", flags=frozenset(), precisions=TILES, taken=False),
)}
"""Best first; setup compiles each from the same source."""


class Library:
    """One build, loaded.

    Attributes:
        instructions: what it computes by, in words.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            EngineError: it cannot be loaded, or is another version's.
        """
        try:
            self._calls = ctypes.CDLL(str(path))
            version = self._calls.native_version()
        except (OSError, AttributeError) as error:
            raise EngineError(f"{path} cannot be loaded: {error}") from error
        if version != VERSION:
            raise EngineError(f"{path} is of version {version}, expected {VERSION}; install the server again")
        self._calls.native_instructions.restype = ctypes.c_char_p
        self._calls.native_open.argtypes = [ctypes.POINTER(Spec), ctypes.c_int, ctypes.POINTER(ctypes.c_void_p),
                                            ctypes.c_char_p, ctypes.c_int]
        self._calls.native_encode.argtypes = [ctypes.c_void_p, ctypes.POINTER(Batch), ctypes.c_void_p, ctypes.c_char_p,
                                              ctypes.c_int]
        self._calls.native_close.argtypes = [ctypes.c_void_p]
        self._calls.native_close.restype = None
        self.instructions = self._calls.native_instructions().decode()

    def computes(self, kind: Kind) -> bool:
        return bool(self._calls.native_computes(kind.number))

    def call(self, name: str, *arguments: Any) -> None:
        """
        Raises:
            EngineError: with the library's sentence.
        """
        error = ctypes.create_string_buffer(512)
        if getattr(self._calls, f"native_{name}")(*arguments, error, len(error)):
            raise EngineError(f"native: {error.value.decode(errors='replace')}")

    def close(self, encoder: ctypes.c_void_p) -> None:
        self._calls.native_close(encoder)


def may_use_tiles() -> bool:
    """Whether the kernel lets this process use AMX; it is asked for its leave, which holds for the process's life."""
    if not sys.platform.startswith("linux"):
        return False
    arch_prctl, request, tile_data = 158, 0x1023, 18   # ARCH_REQ_XCOMP_PERM, of Linux 5.16, for XTILEDATA
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request, tile_data) == 0)


def path_of(build: str) -> Path:
    return Path(__file__).parent / f"libnative_{build}.so"


@cache
def load(build: str) -> Library:
    """
    Raises:
        EngineError: it was not built, or cannot be loaded.
    """
    return Library(path_of(build))


# ---- an encoder ------------------------------------------------------------------------------------------------------

class NativeEncoder:
    """An encoder in a library. The arrays stay mapped while it lives.

    Args:
        arrays: what layout.lay_out gave, and the tables, by name.
        outputs: layers wanted, from 0, in the order wanted.
        max_length: most tokens of a sequence.
    """

    def __init__(self, library: Library, spec: EncoderSpec, kind: Kind, arrays: Mapping[str, np.ndarray],
                 outputs: Sequence[int], max_length: int, threads: int, position_embeddings: bool = True) -> None:
        """
        Raises:
            EngineError: the arrays do not make such an encoder.
        """
        self._library, self._spec, self._size = library, spec, sizes(spec)
        self._columns = spec.hidden_size * len(outputs)
        self._kept: list[Any] = [arrays]
        self._arrays = arrays
        given = self._describe(kind, list(outputs), max_length, position_embeddings)
        self._encoder = ctypes.c_void_p()
        library.call("open", ctypes.byref(given), threads, ctypes.byref(self._encoder))

    def __del__(self) -> None:
        if getattr(self, "_encoder", None):
            self._library.close(self._encoder)
            self._encoder = ctypes.c_void_p()

    def encode(self, ids: np.ndarray, types: np.ndarray | None, starts: np.ndarray, pooling: int,
               seen: np.ndarray | None = None, pooled: np.ndarray | None = None,
               largest: np.ndarray | None = None) -> np.ndarray:
        """
        Args:
            ids, types: int32 [T], sequences end to end.
            starts: int32 [B + 1]; starts[-1] == T.
            pooling: TOKENS, MEAN or FIRST.
            seen: uint8 [T], 0 for tokens that attention leaves out; None: it sees all.
            pooled: uint8 [T], 0 for tokens that the mean leaves out; None: all are in.
            largest: float32 [layers, 2, padded H], to be raised to the largest inputs of QKV and of the MLP.
        Returns:
            float32 [B, D], or [T, D]; D: the layers wanted, beside each other.
        Raises:
            EngineError: an array does not fit.
        """
        rows = len(ids) if pooling == TOKENS else len(starts) - 1
        out = np.empty((rows, self._columns), np.float32)
        arrays = (ids, types, starts, seen, pooled, out)
        for array, dtype in zip(arrays, (np.int32, np.int32, np.int32, np.uint8, np.uint8, np.float32)):
            assert array is None or array.dtype == dtype and array.flags.c_contiguous
        batch = Batch(ctypes.sizeof(Batch), len(starts) - 1, len(ids), pooling,
                      *(None if array is None else array.ctypes.data for array in arrays))
        self._library.call("encode", self._encoder, ctypes.byref(batch),
                           None if largest is None else largest.ctypes.data)
        return out

    # ---- the description ---------------------------------------------------------------------------------------------

    def _describe(self, kind: Kind, outputs: list[int], max_length: int, position_embeddings: bool) -> Spec:
        spec, size = self._spec, self._size
        table = spec.positions if isinstance(spec.positions, TablePositions) and position_embeddings else None
        angles = thetas(spec)
        result = Spec(
            size=ctypes.sizeof(Spec), kind=kind.number, vocab=spec.vocab_size,
            embedding=spec.embeddings.size or spec.hidden_size, token_types=spec.embeddings.token_types,
            position_rows=table.rows if table else 0, first_position=table.first if table else 0,
            pad_id=-1 if table is None or table.pad_id is None else table.pad_id,
            hidden=spec.hidden_size, layers=spec.num_layers, heads=spec.attention.heads,
            key_value_heads=spec.key_value_heads, head_size=spec.head_size, inner=size.inner,
            inner_block=size.inner_block, placement=PLACEMENTS[spec.norm.placement],
            activation=ACTIVATIONS[spec.mlp.activation], rms=spec.norm.rms, causal=spec.attention.causal,
            max_length=max_length, num_outputs=len(outputs), num_angles=len(angles), eps=spec.norm.eps,
            embedding_scale=spec.embeddings.scale)
        result.words, result.types = self._array(WORDS), self._array(TOKEN_TYPES)
        result.positions = self._array(POSITIONS) if table else Array()
        result.embedding_norm, result.final_norm = self._norm("embedding_norm"), self._norm("final_norm")
        result.projection = self._matrix("projection")
        if isinstance(spec.positions, RelativePositions):
            result.relative = self._keep(relative_biases(spec.positions, self._arrays[RELATIVE], max_length))
        if isinstance(spec.positions, DisentangledPositions):
            result.table_rows = 2 * spec.positions.buckets
            distances = np.arange(1 - max_length, max_length)
            result.places = self._keep(positions.disentangled_rows(spec.positions, distances))
        if angles:
            cosines, sines = zip(*(positions.rotary_table(theta, spec.head_size, max_length) for theta in angles))
            result.cosines, result.sines = self._keep(np.stack(cosines)), self._keep(np.stack(sines))
        result.outputs = self._keep(np.array(outputs, np.int32))
        layers = (Layer * spec.num_layers)()
        for number in range(1 + max(outputs)):
            layers[number] = self._layer(number, angles)
        self._kept.append(layers)
        result.layer = ctypes.cast(layers, ctypes.POINTER(Layer))
        return result

    def _layer(self, number: int, angles: list[float]) -> Layer:
        spec, name = self._spec, f"layers/{self._spec.weights_of(number)}"
        window = spec.window(number)
        theta = spec.positions.thetas[number] if isinstance(spec.positions, RotaryPositions) else None
        layer = Layer(window=-1 if window is None else window, angles=-1 if theta is None else angles.index(theta))
        for field, kind, *_ in Layer._fields_:
            if kind is Matrix:
                setattr(layer, field, self._matrix(f"{name}/{field}"))
            elif kind is Norm:
                setattr(layer, field, self._norm(f"{name}/{field}"))
            elif kind is Array:
                setattr(layer, field, self._array(f"{name}/{field}"))
        return layer

    def _matrix(self, name: str) -> Matrix:
        return Matrix(*(self._array(f"{name}/{part}") for part in MATRIX))

    def _norm(self, name: str) -> Norm:
        return Norm(self._array(f"{name}/gamma"), self._array(f"{name}/beta"))

    def _array(self, name: str) -> Array:
        return described(self._arrays[name]) if name in self._arrays else Array()

    def _keep(self, array: np.ndarray) -> Array:
        array = np.ascontiguousarray(array)
        self._kept.append(array)
        return described(array)


def described(array: np.ndarray) -> Array:
    assert array.flags.c_contiguous
    return Array(array.ctypes.data, array.nbytes)


def relative_biases(relative: RelativePositions, table: np.ndarray, max_length: int) -> np.ndarray:
    """float32 [A, 2 * max_length - 1], for key - query from 1 - max_length on, as the library's scores take it."""
    rows = positions.buckets(relative, np.arange(max_length - 1, -max_length, -1))
    return np.ascontiguousarray((table[rows] * LOG2_E).T, np.float32)
