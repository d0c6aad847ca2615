"""A model's weights, whatever file they come in, under the names that Google's checkpoints use.

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
from .quiet import import_tensorflow

Shapes = dict[str, tuple[int, ...]]


class Checkpoint(ABC):
    """A file of weights.

    Attributes:
        path: the file, or the prefix of the files, for messages.
        shapes: name -> shape of every variable, names and layout being Google's.
    """

    path: str
    shapes: Shapes

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
            raise ModelError(f"{name} of {self.path} holds values that are not finite"
                             f"{' in half precision' if array.dtype == np.float16 else ''}")
        return array

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """
        Args:
            expected: name -> shape of what the model consists of.
        Raises:
            ModelError: naming what is missing, misshapen, or part of an encoder that is not the expected one.
        """
        missing = [name for name in expected if name not in self.shapes]
        misshapen = [f"{name} is {list(self.shapes[name])}, expected {list(shape)}"
                     for name, shape in expected.items() if self.shapes.get(name, shape) != shape]
        unknown = [name for name in sorted(self.shapes) if name not in expected and self._matters(name)]
        for fault, names in (("lacks", missing), ("has variables of another shape:", misshapen),
                             ("has variables that the configuration has no place for:", unknown)):
            if names:
                raise ModelError(f"{self.path} {fault} {listing(names)}{self.hint() if names is missing else ''}")

    def hint(self) -> str:
        """What may explain that variables are missing."""
        return ""

    def _matters(self, name: str) -> bool:
        """True for a variable that looks like a part of the encoder: no training head, no optimizer's slot."""
        return name.startswith(("bert/embeddings/", "bert/encoder/")) and name.rpartition("/")[0] not in self.shapes \
            and not SLOT.search(name)


SLOT = re.compile(r"/(adam|lamb|momentum|exponentialmovingaverage)[^/]*$", re.IGNORECASE)
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

    def __init__(self, prefix: str | Path) -> None:
        """
        Raises:
            ModelError: the files cannot be read.
        """
        tf = import_tensorflow()
        self.path = str(prefix)
        with self._damage():
            self._reader = tf.train.load_checkpoint(self.path)
            self.shapes = {name: tuple(shape) for name, shape in self._reader.get_variable_to_shape_map().items()}

    def read(self, name: str) -> np.ndarray:
        with self._damage():
            return np.asarray(self._reader.get_tensor(name), np.float32)

    def hint(self) -> str:
        if "_CHECKPOINTABLE_OBJECT_GRAPH" in self.shapes:
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

    def __init__(self, path: str | Path) -> None:
        """
        Raises:
            ModelError: the file cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        self.path = str(path)
        try:
            self._file = safe_open(self.path, framework="numpy")
            own = {name: tuple(self._file.get_slice(name).get_shape()) for name in self._file.keys()}
        except (SafetensorError, OSError) as error:
            raise ModelError(f"cannot read the weights {self.path}: {error}") from error
        self._own_names = google_names(own)
        self.shapes = {google: own[name][::-1] if _is_kernel(google) else own[name]
                       for google, name in self._own_names.items()}

    def read(self, name: str) -> np.ndarray:
        from safetensors import SafetensorError

        own_name = self._own_names[name]
        try:
            if self._file.get_slice(own_name).get_dtype() == "BF16":
                array = _bfloat16(self.path, own_name)
            else:
                array = self._file.get_tensor(own_name)
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise ModelError(f"cannot read {own_name} of the weights {self.path}: {error}") from error
        return np.ascontiguousarray(array.T if _is_kernel(name) else array, np.float32)

    def hint(self) -> str:
        return "" if "bert/embeddings/word_embeddings" in self.shapes else \
            "; are these the weights of a BERT model?"


HUGGING_FACE_NAMES = (
    (r"embeddings\.(word|position|token_type)_embeddings\.weight", r"bert/embeddings/\1_embeddings"),
    (r"embeddings\.LayerNorm\.(?:weight|gamma)", r"bert/embeddings/LayerNorm/gamma"),
    (r"embeddings\.LayerNorm\.(?:bias|beta)", r"bert/embeddings/LayerNorm/beta"),
    (r"encoder\.layer\.(\d+)\.attention\.self\.(\w+)\.weight", r"bert/encoder/layer_\1/attention/self/\2/kernel"),
    (r"encoder\.layer\.(\d+)\.attention\.self\.(\w+)\.bias", r"bert/encoder/layer_\1/attention/self/\2/bias"),
    (r"encoder\.layer\.(\d+)\.(attention\.output|output)\.LayerNorm\.(?:weight|gamma)",
     r"bert/encoder/layer_\1/\2/LayerNorm/gamma"),
    (r"encoder\.layer\.(\d+)\.(attention\.output|output)\.LayerNorm\.(?:bias|beta)",
     r"bert/encoder/layer_\1/\2/LayerNorm/beta"),
    (r"encoder\.layer\.(\d+)\.(attention\.output|intermediate|output)\.dense\.weight",
     r"bert/encoder/layer_\1/\2/dense/kernel"),
    (r"encoder\.layer\.(\d+)\.(attention\.output|intermediate|output)\.dense\.bias",
     r"bert/encoder/layer_\1/\2/dense/bias"),
    (r"pooler\.dense\.weight", r"bert/pooler/dense/kernel"),
    (r"pooler\.dense\.bias", r"bert/pooler/dense/bias"),
)
"""Hugging Face's name (a pattern), Google's name."""

BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
"""Not weights, though older files hold them."""

WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"


def google_names(names: Iterable[str]) -> dict[str, str]:
    """Google's name -> Hugging Face's. Of a name that has no equal, the dots become slashes."""
    names = list(names)
    prefix = next((name.removesuffix(WORD_EMBEDDINGS) for name in names if name.endswith(WORD_EMBEDDINGS)), "")
    result = {}
    for name in names:
        bare = name.removeprefix(prefix)
        if bare in BUFFERS:
            continue
        for pattern, google in HUGGING_FACE_NAMES:
            match = re.fullmatch(pattern, bare)
            if match:
                result[match.expand(google).replace(".", "/")] = name
                break
        else:
            if name in ("classifier.weight", "classifier.bias"):
                result["output_weights" if name.endswith("weight") else "output_bias"] = name
            elif bare.startswith(("embeddings.", "encoder.")) and name.startswith(prefix):
                result["bert/" + bare.replace(".", "/")] = name
            else:
                result[name.replace(".", "/")] = name
    return result


def hugging_face_name(name: str) -> str:
    """The Hugging Face name of a variable that :func:`bert.variables` names."""
    if name.startswith("output_"):
        return "classifier." + name.removeprefix("output_").replace("weights", "weight")
    name = re.sub(r"/layer_(\d+)/", r"/layer/\1/", name.removeprefix("bert/")).replace("/", ".")
    if name.startswith("embeddings.") and name.endswith("_embeddings"):
        return f"{name}.weight"
    return re.sub(r"\.(kernel|gamma)$", ".weight", re.sub(r"\.beta$", ".bias", name))


def _is_kernel(name: str) -> bool:
    return name.endswith("/kernel")


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


def open_checkpoint(path: str | Path) -> Checkpoint:
    """
    Raises:
        ModelError: the file cannot be read.
    """
    if is_safetensors(path):
        return SafetensorsCheckpoint(path)
    tensorflow_checkpoint_files(path)
    return TensorFlowCheckpoint(path)


def checkpoint_files(path: str | Path) -> list[Path]:
    """The files that hold the weights.

    Raises:
        ModelError: some are not there.
    """
    return [Path(path)] if is_safetensors(path) else tensorflow_checkpoint_files(path)
