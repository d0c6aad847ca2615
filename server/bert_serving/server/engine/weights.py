"""A model's weights, whatever file they come in, under the names of :func:`spec.variables`.

Two formats are read: TensorFlow 1 checkpoints, and Hugging Face's safetensors. Nothing here unpickles anything. What is
missing, of the wrong shape, or left over is named.
"""
from __future__ import annotations

import json
import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError
from .architectures.base import Architecture, Names
from .quiet import import_tensorflow
from .spec import HEAD, WORDS

Shapes = dict[str, tuple[int, ...]]


class Checkpoint(ABC):
    """A file of weights.

    Attributes:
        path: the file, or the prefix of the files, for messages.
        shapes: our name -> shape of every variable that has one, in our layout.
    """

    path: str
    shapes: Shapes

    def __init__(self, path: str | Path, architecture: Architecture, names: Names | None) -> None:
        """
        Args:
            names: what the architecture's variables are called in this kind of file; None: there is no such file.
        Raises:
            ModelError: the architecture has no such files.
        """
        self.path, self.architecture = str(path), architecture
        if names is None:
            raise ModelError(f"{path} is a TensorFlow checkpoint, and {architecture.label} models come as "
                             "model.safetensors; save the model with transformers' save_pretrained")
        self.names = names

    def _index(self, own: Mapping[str, tuple[int, ...]]) -> None:
        """Find our variables among the file's own names and shapes."""
        self._own, self._own_names = own, self.names.ours(own)
        self._prefix = self.names.prefix(own)
        self.shapes = {name: own[theirs][::-1] if self.names.is_transposed(name) else own[theirs]
                       for name, theirs in self._own_names.items()}

    def own_name(self, name: str) -> str:
        """What one of our variables is called in this file, or would be."""
        return self._own_names.get(name) or (self._prefix if name not in HEAD else "") + self.names.theirs(name)

    @abstractmethod
    def read(self, name: str) -> np.ndarray:
        """
        Returns:
            float32, of the variable's shape.
        Raises:
            ModelError: the file is damaged.
        """

    def read_as(self, name: str, dtype: Any = np.float32) -> np.ndarray:
        """
        Returns:
            A contiguous array of that type.
        Raises:
            ModelError: the file is damaged, or holds values that are not finite.
        """
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(self.read(name), dtype)
        if not np.isfinite(array).all():
            raise ModelError(f"{self.own_name(name)} of {self.path} holds values that are not finite"
                             f"{' in half precision' if array.dtype == np.float16 else ''}")
        return array

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """
        Args:
            expected: our name -> shape of what the model consists of.
        Raises:
            ModelError: naming what is missing, misshapen, or part of an encoder that is not the expected one.
        """
        missing = [self.own_name(name) for name in expected if name not in self.shapes]
        misshapen = []
        for name, shape in expected.items():
            if self.shapes.get(name, shape) != shape:
                own = shape[::-1] if self.names.is_transposed(name) else shape
                misshapen.append(f"{self.own_name(name)} is {list(self._own[self.own_name(name)])}, "
                                 f"expected {list(own)}")
        known = [self.own_name(name) for name in expected]
        unknown = [name for name in sorted(self.names.strangers(self._own, known))
                   if name.rpartition("/")[0] not in self._own and not SLOT.search(name)]
        for fault, names in (("lacks", missing), ("has variables of another shape:", misshapen),
                             ("has variables that the configuration has no place for:", unknown)):
            if names:
                raise ModelError(f"{self.path} {fault} {listing(names)}{self.hint() if names is missing else ''}")

    def hint(self) -> str:
        """What may explain that variables are missing."""
        return ""


SLOT = re.compile(r"[/.](adam|lamb|momentum|exponentialmovingaverage)[^/]*$", re.IGNORECASE)
"""Ends the name of what an optimizer keeps beside a variable."""


def listing(names: Iterable[str], most: int = 4) -> str:
    """ "a, b, c and 9 more" """
    names = list(names)
    # They come from files that anybody may have written, and go into a line of the log.
    shown = ", ".join(name if name.isprintable() and len(name) <= 200 else f"{name[:200]!r}" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


# ---- TensorFlow 1 ----------------------------------------------------------------------------------------------------

class TensorFlowCheckpoint(Checkpoint):
    """``PREFIX.index`` and ``PREFIX.data-00000-of-00001``; also what Google's fine-tuning scripts save."""

    def __init__(self, prefix: str | Path, architecture: Architecture) -> None:
        """
        Raises:
            ModelError: the files cannot be read.
        """
        super().__init__(prefix, architecture, architecture.tensorflow)
        tf = import_tensorflow()
        with self._damage():
            self._reader = tf.train.load_checkpoint(self.path)
            self._index({name: tuple(shape) for name, shape in self._reader.get_variable_to_shape_map().items()})

    def read(self, name: str) -> np.ndarray:
        with self._damage():
            return np.asarray(self._reader.get_tensor(self.own_name(name)), np.float32)

    def hint(self) -> str:
        if "_CHECKPOINTABLE_OBJECT_GRAPH" in self._own:
            return "; it is a TensorFlow 2 object checkpoint, expected one of TensorFlow 1, as Google's BERT has"
        return ""

    @contextmanager
    def _damage(self) -> Iterator[None]:
        import tensorflow as tf

        try:
            yield
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError, TypeError) as error:
            raise ModelError(f"cannot read the checkpoint {self.path}: {str(error).splitlines()[0]}") from error


def tensorflow_checkpoint_files(prefix: str | Path) -> list[Path]:
    """The files of a checkpoint: its index, then all of its data. Needs no TensorFlow.

    Raises:
        ModelError: some are not there.
    """
    prefix = Path(prefix)
    index = Path(f"{prefix}.index")
    if not index.is_file():
        others = sorted(path.name for path in prefix.parent.glob("*") if path.is_file()) \
            if prefix.parent.is_dir() else []
        raise ModelError(f"there is no checkpoint {prefix} (no {index.name}); "
                         f"{prefix.parent} holds {listing(others, 12) or 'nothing'}")
    data = sorted(prefix.parent.glob(f"{_escaped(prefix.name)}.data-*-of-*"))
    totals = {path.name.rpartition("-")[2] for path in data}
    if len(totals) != 1 or not totals <= {f"{len(data):05d}"}:
        raise ModelError(f"the checkpoint {prefix} is incomplete: beside {index.name} there is "
                         f"{listing([path.name for path in data]) or 'no data file'}")
    return [index, *data]


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


# ---- safetensors -----------------------------------------------------------------------------------------------------

class SafetensorsCheckpoint(Checkpoint):
    """Hugging Face's ``model.safetensors``, memory-mapped. Its [out, in] matrices are transposed."""

    def __init__(self, path: str | Path, architecture: Architecture) -> None:
        """
        Raises:
            ModelError: the file cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        super().__init__(path, architecture, architecture.hugging_face)
        try:
            self._file = safe_open(self.path, framework="numpy")
            own = {name: tuple(self._file.get_slice(name).get_shape()) for name in self._file.keys()}
        except (SafetensorError, OSError) as error:
            raise ModelError(f"cannot read the weights {self.path}: {error}") from error
        self._index(own)

    def read(self, name: str) -> np.ndarray:
        from safetensors import SafetensorError

        own_name = self.own_name(name)
        try:
            if self._file.get_slice(own_name).get_dtype() == "BF16":
                array = _bfloat16(self.path, own_name)
            else:
                array = self._file.get_tensor(own_name)
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise ModelError(f"cannot read {own_name} of the weights {self.path}: {error}") from error
        return np.ascontiguousarray(array.T if self.names.is_transposed(name) else array, np.float32)

    def hint(self) -> str:
        return "" if WORDS in self.shapes else f"; are these the weights of a {self.architecture.label} model?"


def _bfloat16(path: str, name: str) -> np.ndarray:
    """bfloat16 is the upper half of float32; NumPy itself does not know it. safe_open has checked the file."""
    with open(path, "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(size))[name]
        file.seek(8 + size + entry["data_offsets"][0])
        halves = np.fromfile(file, "<u2", int(np.prod(entry["shape"], dtype=np.int64)))
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


# ---- either ----------------------------------------------------------------------------------------------------------

def is_safetensors(path: str | Path) -> bool:
    return str(path).endswith(".safetensors")


def open_checkpoint(path: str | Path, architecture: Architecture) -> Checkpoint:
    """
    Raises:
        ModelError: the file cannot be read.
    """
    if is_safetensors(path):
        return SafetensorsCheckpoint(path, architecture)
    tensorflow_checkpoint_files(path)
    return TensorFlowCheckpoint(path, architecture)


def checkpoint_files(path: str | Path) -> list[Path]:
    """The files that hold the weights.

    Raises:
        ModelError: some are not there.
    """
    return [Path(path)] if is_safetensors(path) else tensorflow_checkpoint_files(path)
