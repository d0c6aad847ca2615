"""What an architecture is: how a configuration becomes a spec, what variables are called, what goes around a text."""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from bert_serving.client.words import counted

from ...core.tokenization import InputTemplate
from ..spec import ACTIVATIONS, WORDS, EncoderSpec, is_of_head

MAX_SIZE, MAX_VOCABULARY, MAX_LAYERS = 100_000, 10_000_000, 1000
"""Of numbers in a configuration: far more than any model has, and little enough to count with."""

MAX_NUMBER = 1e30
"""A Python integer can be one that no float is."""

SAME_ACTIVATIONS = {"gelu_python": "gelu", "gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "swish": "silu",
                    "swiglu": "silu"}
"""Other names of ACTIVATIONS."""


# ---- configuration ---------------------------------------------------------------------------------------------------

def shown(value: Any) -> str:
    """A configuration's value for a message: true, false and null as JSON has them, and at most 100 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        return f"{value!r:.100}"
    except RecursionError:
        return "nested too deeply"


@dataclass(frozen=True)
class Values:
    """A model's ``config.json``, read key by key.

    Each method raises ValueError, naming the key that is missing or whose value cannot be.
    """

    values: Mapping[str, Any]

    def number(self, key: str, default: float | None = None, most: int = MAX_SIZE) -> int:
        """A whole number above 0."""
        value = self.real(key, default)
        if value != int(value):
            raise ValueError(f"{key} is {shown(value)}, expected a whole number")
        if value > most:
            raise ValueError(f"{key} is {shown(value)}, expected {most} at most")
        return int(value)

    def real(self, key: str, default: float | None = None) -> float:
        """A number above 0."""
        if key not in self.values and default is None:
            raise ValueError(f"{key} is missing")
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{key} is {shown(value)}, expected a number above 0")
        if value > MAX_NUMBER:
            raise ValueError(f"{key} is above {MAX_NUMBER:g}, which no model needs")
        return value

    def count(self, key: str, default: int = 0) -> int:
        """A whole number, which may be 0."""
        return 0 if self.values.get(key, default) == 0 else self.number(key, default)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"{key} is {shown(value)}, expected true or false")
        return value

    def activation(self, key: str, default: str = "gelu") -> str:
        value = self.values.get(key, default)
        value = SAME_ACTIVATIONS.get(value, value) if isinstance(value, str) else value
        if value not in ACTIVATIONS:
            raise ValueError(f"{key} is {shown(value)}; choose from {', '.join((*ACTIVATIONS, *SAME_ACTIVATIONS))}")
        return str(value)

    def theta(self, key: str, default: float, kind: str | None = None) -> float:
        """The base of rotary angles.

        Args:
            key: where it stands in older files.
            kind: of the layers that it is for, where today's files have one for each kind.
        """
        self.refuse("rope_scaling", None)              # Of both, it is what counts.
        self.refuse("partial_rotary_factor", 1, None)
        default, parameters = self.real(key, default), self.values.get("rope_parameters")
        if parameters is None:
            return default
        if not isinstance(parameters, dict):
            raise ValueError(f"rope_parameters is {shown(parameters)}, expected an object")
        if isinstance(parameters.get(kind), dict):
            parameters = parameters[kind]
        elif kind is not None and "rope_theta" in parameters:
            raise ValueError(f"rope_parameters has a rope_theta for all layers, expected one in {kind}")
        rope = Values(parameters)
        rope.refuse("rope_type", "default")
        rope.refuse("type", "default")
        rope.refuse("partial_rotary_factor", 1, None)
        return rope.real("rope_theta", default)

    def layer_types(self, layers: int, default: Callable[[int], bool]) -> list[bool]:
        """For each layer whether it sees the whole sequence.

        Args:
            default: what older files mean, which do not list it; given the layer's number from 0.
        """
        kinds = self.values.get("layer_types")
        if kinds is None:
            return [default(layer) for layer in range(layers)]
        if not isinstance(kinds, list) or len(kinds) != layers \
                or not all(kind in ("full_attention", "sliding_attention") for kind in kinds):
            raise ValueError(f"layer_types is {shown(kinds)}, expected full_attention or sliding_attention for each "
                             f"of {counted(layers, 'layer')}")
        return [kind == "full_attention" for kind in kinds]

    def refuse(self, key: str, *allowed: Any) -> None:
        """Every other value of this key is one that the encoder is not computed with."""
        if self.values.get(key, allowed[0]) not in allowed:
            raise ValueError(f"{key} is {shown(self.values[key])}, expected {' or '.join(map(shown, allowed))}")

    def heads(self, key: str, size_key: str, size: int, default: int | None = None) -> int:
        """Attention heads, which share ``size`` evenly."""
        heads = self.number(key, default)
        if size % heads:
            raise ValueError(f"{size_key} {size} is not a multiple of {key} {heads}")
        return heads


# ---- variables -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Names:
    """What the variables of :func:`spec.variables` are called in one kind of file.

    Attributes:
        table: (name in the file, our name), both with ``{n}`` where a layer's number is; both ways. Of several names
            in a file for one of ours the first is what is written.
        encoder: how names begin that are part of an encoder, after the file's prefix.
        ignored: names that are no weights, though files hold them.
        kernels_are_transposed: a ``kernel`` lies in the file as [out, in].
        has_prefix: whatever comes before the name of the word embeddings comes before all names of the encoder.
        parts: our name, with ``{n}``, of a variable that is one of several equal parts of the file's -> which one it
            is, from 0, and of how many. The parts follow one another along the outputs.
        norm_offset: what is added to the weights of norms.
        inner: what stands in the file between the parts of a layer's number that has two, which we write as "0.1".
    """

    table: Sequence[tuple[str, str]]
    encoder: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    kernels_are_transposed: bool = False
    has_prefix: bool = False
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    norm_offset: float = 0.0
    inner: str = ""

    def ours(self, names: Iterable[str]) -> dict[str, str]:
        """Our name -> the file's, for all that have one."""
        names = list(names)
        prefix = self.prefix(names)
        found = {}
        for name in names:
            bare = name.removeprefix(prefix)
            for pattern, ours in self._patterns:
                # A head is no part of the encoder: it has no prefix.
                if match := pattern.fullmatch(name if is_of_head(ours) else bare):
                    number = match["n"] if "{n}" in ours else ""
                    found[ours.format(n=number.replace(self.inner, ".") if self.inner else number)] = name
        return found

    def strangers(self, names: Iterable[str], known: Iterable[str]) -> Iterator[str]:
        """Names that look like part of an encoder, and are none of ``known``."""
        names, known = list(names), set(known)
        prefix = self.prefix(names)
        for name in names:
            bare = name.removeprefix(prefix)
            if name not in known and name.startswith(prefix) and bare.startswith(self.encoder) \
                    and bare not in self.ignored:
                yield name

    def prefix(self, names: Iterable[str]) -> str:
        return next(iter(self.prefixes(names)), "")

    def prefixes(self, names: Iterable[str]) -> list[str]:
        """What comes before the names of each encoder that is in the file."""
        words = self.theirs(WORDS)
        found = [name.removesuffix(words) for name in names if name.endswith(words)] if self.has_prefix else []
        return [prefix for prefix in found if not prefix or prefix.endswith(".")]

    def theirs(self, ours: str) -> str:
        """The file's name for one of ours."""
        number = NUMBER.search(ours)
        return self._names[_template(ours)].format(n=number[0].replace(".", self.inner or ".") if number else "")

    def is_transposed(self, ours: str) -> bool:
        return self.kernels_are_transposed and ours.endswith("/kernel")

    def our_shape(self, ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of a variable, given the one that it has in the file; what cannot be divided stays as it is."""
        _, count = self.parts.get(_template(ours), (0, 1))
        if count > 1 and shape and shape[0] % count == 0:
            shape = (shape[0] // count, *shape[1:])
        return shape[::-1] if self.is_transposed(ours) else shape

    def their_shape(self, ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The way back from :meth:`our_shape`."""
        shape = shape[::-1] if self.is_transposed(ours) else shape
        return (shape[0] * self.parts.get(_template(ours), (0, 1))[1], *shape[1:])

    def our_array(self, ours: str, array: np.ndarray) -> np.ndarray:
        """A variable, given what the file has."""
        part, count = self.parts.get(_template(ours), (0, 1))
        size = len(array) // count if count > 1 else 0
        array = array[part * size:(part + 1) * size] if count > 1 else array
        array = array.T if self.is_transposed(ours) else array
        return array.astype(np.float32) + np.float32(self.norm_offset) \
            if self.norm_offset and ours.endswith("/gamma") else array

    def their_arrays(self, read: Callable[[str], np.ndarray], ours: Iterable[str]) -> dict[str, np.ndarray]:
        """What the file has, by its names, given variables: the way back from :meth:`our_array`."""
        parts: dict[str, list[str]] = {}
        for name in sorted(ours, key=lambda name: self.parts.get(_template(name), (0, 1))):
            parts.setdefault(self.theirs(name), []).append(name)
        return {theirs: np.concatenate([self._their_part(name, read(name)) for name in names])
                for theirs, names in parts.items()}

    def _their_part(self, ours: str, array: np.ndarray) -> np.ndarray:
        array = array.T if self.is_transposed(ours) else array
        return array - np.float32(self.norm_offset) if self.norm_offset and ours.endswith("/gamma") else array

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], str]]:
        number = rf"(?P<n>\d+{re.escape(self.inner)}\d+)" if self.inner else r"(?P<n>\d+)"
        return [(re.compile(re.escape(theirs).replace(r"\{n\}", number)), ours) for theirs, ours in self.table]

    @cached_property
    def _names(self) -> dict[str, str]:
        names: dict[str, str] = {}
        for theirs, ours in self.table:
            names.setdefault(ours, theirs)
        return names


NUMBER = re.compile(r"(?<=^layers/)[\d.]+")


def _template(ours: str) -> str:
    return NUMBER.sub("{n}", ours)


def dense(theirs: str, ours: str, kernel: str = "weight") -> tuple[tuple[str, str], ...]:
    """Rows of a table of names for a product with a bias.

    Args:
        kernel: what comes after the name, and its separator, for the matrix.
    """
    separator = "/" if "/" in theirs else "."
    return ((f"{theirs}{separator}{kernel}", f"{ours}/kernel"), (f"{theirs}{separator}bias", f"{ours}/bias"))


def norm(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Rows of a table of names for a norm, under today's names and those of older files."""
    return ((f"{theirs}.weight", f"{ours}/gamma"), (f"{theirs}.bias", f"{ours}/beta"),
            (f"{theirs}.gamma", f"{ours}/gamma"), (f"{theirs}.beta", f"{ours}/beta"))


def fused(*ours: str) -> dict[str, tuple[int, int]]:
    """``Names.parts`` for products that files hold as one, in this order."""
    return {f"{name}/{part}": (number, len(ours)) for number, name in enumerate(ours) for part in ("kernel", "bias")}


QUERY_KEY_VALUE = fused(*(f"layers/{{n}}/attention/{name}" for name in ("query", "key", "value")))


# ---- the contract ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One row of the table of architectures. Nothing outside it asks for a model's type.

    Attributes:
        model_type: its name in ``config.json``.
        label: its name for people.
        spec: makes the encoder's spec of ``config.json``; raises ValueError, naming what cannot be served.
        hugging_face: names in safetensors files.
        tensorflow: names in TensorFlow 1 checkpoints; None: there are no such checkpoints.
        template: special tokens around one text and around the two of a pair.
        is_decoder: such models mostly generate text: one is served if it says how it makes embeddings.
        reads_own_code: ``spec`` also reads what the code of the model's authors wrote, which ``auto_map`` names: the
            encoder is the same.
        unnamed_defaults: values of keys that a configuration without a model_type may leave out; it is not Hugging
            Face's.
    """

    model_type: str
    label: str
    spec: Callable[[Values], EncoderSpec]
    hugging_face: Names
    tensorflow: Names | None = None
    template: InputTemplate = field(default_factory=InputTemplate)
    is_decoder: bool = False
    reads_own_code: bool = False
    unnamed_defaults: Mapping[str, Any] = field(default_factory=dict)
