"""A model's weights, whatever file they come in, under the names of :func:`spec.variables`.

TensorFlow 1 checkpoints are read, and Hugging Face's safetensors and torch files. Nothing a file says is executed. What
is missing, of the wrong shape, or left over is named.
"""
from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.client.words import counted

from ..errors import EngineError, ModelError
from .architectures.base import Architecture, Names
from .quiet import import_tensorflow
from .spec import WORDS, is_of_head
from .tensors import Safetensors, open_tensors
from .weight_files import is_hugging_face, listing, tensorflow_checkpoint_files

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
        """Find our variables among the file's own names and shapes.

        Raises:
            ModelError: there are several encoders in the file.
        """
        self._own, self._own_names = own, self.names.ours(own)
        self._prefix = self.names.prefix(own)
        if len(prefixes := self.names.prefixes(own)) > 1:
            raise ModelError(f"{self.path} holds {counted(len(prefixes), 'encoder')} (names of variables begin with "
                             f"{listing(prefix or 'no prefix' for prefix in prefixes)}), expected one; save one of "
                             "them with transformers' save_pretrained")
        self.shapes = {name: self.names.our_shape(name, own[theirs]) for name, theirs in self._own_names.items()}

    def own_name(self, name: str) -> str:
        """What one of our variables is called in this file, or would be."""
        return self._own_names.get(name) or ("" if is_of_head(name) else self._prefix) + self.names.theirs(name)

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

    def mapped(self, name: str) -> np.ndarray | None:
        """A variable where it lies in the file, which processes share; None if it is not there in fp32, as it is."""
        return None

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """
        Args:
            expected: our name -> shape of what the model consists of.
        Raises:
            ModelError: naming what is missing, misshapen, or part of an encoder that is not the expected one.
        """
        missing = list(dict.fromkeys(self.own_name(name) for name in expected if name not in self.shapes))
        misshapen = []
        for name, shape in expected.items():
            own, theirs = self._own.get(self.own_name(name)), self.names.their_shape(name, shape)
            if name in self.shapes and own is not None and own != theirs:
                misshapen.append(f"{self.own_name(name)} is {list(own)}, expected {list(theirs)}")
        misshapen = list(dict.fromkeys(misshapen))     # Variables that the file has as one are several of ours.
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


# ---- TensorFlow 1 ----------------------------------------------------------------------------------------------------

class TensorFlowCheckpoint(Checkpoint):
    """``PREFIX.index`` and ``PREFIX.data-00000-of-00001``; also what Google's fine-tuning scripts save."""

    def __init__(self, prefix: str | Path, architecture: Architecture) -> None:
        """
        Raises:
            ModelError: the files cannot be read.
            EngineError: TensorFlow is not there, which reads them.
        """
        super().__init__(prefix, architecture, architecture.tensorflow)
        try:
            tf = import_tensorflow()
        except ImportError as error:
            raise EngineError(f"cannot read the TensorFlow checkpoint {prefix} without TensorFlow ({error}); install "
                              "'./server[cpu]', or convert it where that is installed: bert-serving-model convert -to "
                              "hugging-face") from error
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


# ---- Hugging Face ----------------------------------------------------------------------------------------------------

class HuggingFaceCheckpoint(Checkpoint):
    """Hugging Face's safetensors or torch's files, one or several, memory-mapped. [out, in] matrices are transposed."""

    def __init__(self, path: str | Path, architecture: Architecture) -> None:
        """
        Raises:
            ModelError: the file cannot be read.
        """
        super().__init__(path, architecture, architecture.hugging_face)
        self._file = open_tensors(path)
        self._index(self._file.shapes)

    def read(self, name: str) -> np.ndarray:
        return np.ascontiguousarray(self.names.our_array(name, self._file.read(self.own_name(name))))

    def mapped(self, name: str) -> np.ndarray | None:
        own = self.own_name(name)
        if not isinstance(self._file, Safetensors):
            return None
        array, dtype = self._file.mapped(own)
        usable = dtype == "F32" and array.ctypes.data % 4 == 0 and array.shape == self.shapes[name]
        return array if usable and np.shares_memory(self.names.our_array(name, array), array) else None

    def hint(self) -> str:
        return "" if WORDS in self.shapes else f"; are these the weights of a {self.architecture.label} model?"


# ---- either ----------------------------------------------------------------------------------------------------------

def open_checkpoint(path: str | Path, architecture: Architecture) -> Checkpoint:
    """
    Raises:
        ModelError: the file cannot be read.
    """
    if is_hugging_face(path):
        return HuggingFaceCheckpoint(path, architecture)
    tensorflow_checkpoint_files(path)
    return TensorFlowCheckpoint(path, architecture)
