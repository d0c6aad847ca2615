"""Files of named arrays, as Hugging Face's models have them: safetensors and torch's, one file or several.

bfloat16, float16 and float64 become float32. Nothing here executes what a file says.
"""
from __future__ import annotations

import json
import math
import os
import struct
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.client.words import counted

from ..errors import ModelError
from .tensor_file import TensorFile, widened
from .weight_files import INDEX, is_safetensors, listing, printable, shards, unreadable, weight_map


def open_tensors(path: str | Path) -> TensorFile:
    """
    Args:
        path: a safetensors file, one of torch's, or the index of several.
    Raises:
        ModelError: it cannot be read.
    """
    if str(path).endswith(INDEX):
        return ShardedTensors(path)
    if is_safetensors(path):
        return Safetensors(path)
    from .pickle_weights import PickledTensors

    return PickledTensors(path)


class Safetensors(TensorFile):
    """A safetensors file, memory-mapped."""

    def __init__(self, path: str | Path) -> None:
        """
        Raises:
            ModelError: it cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        self.path = str(path)
        try:
            self._file = safe_open(self.path, framework="numpy")
            self.shapes = {name: tuple(self._file.get_slice(name).get_shape()) for name in self._file.keys()}
        except (SafetensorError, OSError) as error:
            raise _cut_off(self.path) or unreadable(self.path, error) from error

    def array(self, name: str) -> np.ndarray:
        from safetensors import SafetensorError

        try:
            dtype = self._file.get_slice(name).get_dtype()
            if dtype == "BF16":
                return self._bfloat16(name)
            if dtype not in ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"):
                raise ModelError(f"{printable(name)} of the weights {self.path} is of type {dtype}, expected F32, F16, "
                                 "BF16 or F64; a quantized model cannot be served, its original can")
            return self._file.get_tensor(name)
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise ModelError(f"cannot read {printable(name)} of the weights {self.path}: {error}") from error

    def mapped(self, name: str) -> tuple[np.ndarray, str]:
        """The numbers where they lie in the file, which all processes share.

        Returns:
            Not to be changed, bfloat16 as uint16; and the type, a key of MAPPED.
        Raises:
            ModelError: they are of another type.
        """
        dtype = self._file.get_slice(name).get_dtype()
        if dtype not in MAPPED:
            raise ModelError(f"{printable(name)} of the weights {self.path} is of type {dtype}, expected "
                             f"{', '.join(MAPPED)}")
        shape, offset = self._place(name)
        return np.asarray(np.memmap(self.path, MAPPED[dtype], "r", offset, shape)), dtype

    def _bfloat16(self, name: str) -> np.ndarray:
        """safe_open has checked the file, but has no bfloat16 for NumPy."""
        shape, offset = self._place(name)
        return widened(np.fromfile(self.path, "<u2", math.prod(shape), offset=offset)).reshape(shape)

    def _place(self, name: str) -> tuple[tuple[int, ...], int]:
        """Shape of an array, and at which byte of the file it begins."""
        entries, start = self._header
        return tuple(entries[name]["shape"]), start + entries[name]["data_offsets"][0]

    @cached_property
    def _header(self) -> tuple[dict[str, Any], int]:
        return _header(self.path)


MAX_HEADER = 100_000_000
"""Bytes of a safetensors file's header, as the library has it."""


def _header(path: str) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of each array, and where the numbers begin.

    Raises:
        OSError, ValueError, struct.error: it is damaged.
    """
    with open(path, "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        if size >= MAX_HEADER:
            raise ValueError("the header is too large")
        return json.loads(file.read(size)), 8 + size


MAPPED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1"}
"""Types of :meth:`Safetensors.mapped`."""


def _cut_off(path: str) -> ModelError | None:
    """What to say of a file whose header describes more than there is: half of a download."""
    try:
        header, start = _header(path)
        described = start + max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        there = os.stat(path).st_size
        if there < described:
            return ModelError(f"the weights {path} are cut off: the file has {counted(there, 'byte')}, and its header "
                              f"describes {described}; download it again")
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, struct.error):
        pass
    return None


class ShardedTensors(TensorFile):
    """Several files with an index, ``model.safetensors.index.json`` or ``pytorch_model.bin.index.json``."""

    def __init__(self, path: str | Path) -> None:
        """
        Raises:
            ModelError: the index or a file cannot be read, a file is missing, or lacks what the index says is in it.
        """
        self.path = str(path)
        table = weight_map(path)
        files = {file: open_tensors(file) for file in shards(path, table)}
        self._places = {name: file for file in files.values() for name in file.shapes}
        for name, path in table.items():
            self._places[name] = files[path]
        lacking = [name for name, file in self._places.items() if name not in file.shapes]
        if lacking:
            raise ModelError(f"{self.path} says that {listing(lacking)} {'is' if len(lacking) == 1 else 'are'} in "
                             f"{Path(self._places[lacking[0]].path).name}, which lacks "
                             f"{'it' if len(lacking) == 1 else 'them'}; the files are of different models")
        self.shapes = {name: file.shapes[name] for name, file in self._places.items()}

    def array(self, name: str) -> np.ndarray:
        return self._places[name].array(name)

    def read(self, name: str) -> np.ndarray:
        return self._places[name].read(name)
