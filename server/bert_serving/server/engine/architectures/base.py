"""What an architecture is: how a configuration becomes a spec, what variables are called, what goes around a text."""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...core.tokenization import InputTemplate
from ..spec import ACTIVATIONS, HEAD, WORDS, EncoderSpec

MAX_SIZE = 100_000
"""Of most numbers in a configuration: far more than any model has, and little enough to count with."""


# ---- configuration ---------------------------------------------------------------------------------------------------

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
            raise ValueError(f"{key} is {value!r}, expected a whole number")
        if value > most:
            raise ValueError(f"{key} is {value!r}, expected {most} at most")
        return int(value)

    def real(self, key: str, default: float | None = None) -> float:
        """A number above 0."""
        if key not in self.values and default is None:
            raise ValueError(f"{key} is missing")
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{key} is {value!r}, expected a number above 0")
        return value

    def activation(self, key: str, default: str = "gelu") -> str:
        value = self.values.get(key, default)
        if value not in ACTIVATIONS:
            raise ValueError(f"{key} is {value!r}; choose from {', '.join(ACTIVATIONS)}")
        return str(value)

    def refuse(self, key: str, *allowed: Any) -> None:
        """Every other value of this key is one that the encoder is not computed with."""
        if self.values.get(key, allowed[0]) not in allowed:
            raise ValueError(f"{key} is {self.values[key]!r}, expected {' or '.join(map(repr, allowed))}")

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
    """

    table: Sequence[tuple[str, str]]
    encoder: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    kernels_are_transposed: bool = False
    has_prefix: bool = False

    def ours(self, names: Iterable[str]) -> dict[str, str]:
        """Our name -> the file's, for all that have one."""
        names = list(names)
        prefix = self.prefix(names)
        found = {}
        for name in names:
            bare = name.removeprefix(prefix)
            for pattern, ours in self._patterns:
                # A head is no part of the encoder: it has no prefix.
                if match := pattern.fullmatch(name if ours in HEAD else bare):
                    found[ours.format(n=match["n"]) if "{n}" in ours else ours] = name
                    break
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
        words = self.theirs(WORDS)
        if not self.has_prefix:
            return ""
        return next((name.removesuffix(words) for name in names if name.endswith(words)), "")

    def theirs(self, ours: str) -> str:
        """The file's name for one of ours."""
        number = re.search(r"(?<=^layers/)\d+", ours)
        template = re.sub(r"^layers/\d+", "layers/{n}", ours)
        return self._names[template].format(n=number[0] if number else "")

    def is_transposed(self, ours: str) -> bool:
        return self.kernels_are_transposed and ours.endswith("/kernel")

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], str]]:
        return [(re.compile(re.escape(theirs).replace(r"\{n\}", r"(?P<n>\d+)")), ours) for theirs, ours in self.table]

    @cached_property
    def _names(self) -> dict[str, str]:
        names: dict[str, str] = {}
        for theirs, ours in self.table:
            names.setdefault(ours, theirs)
        return names


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
        unnamed_defaults: values of keys that a configuration without a model_type may leave out; it is not Hugging
            Face's.
    """

    model_type: str
    label: str
    spec: Callable[[Values], EncoderSpec]
    hugging_face: Names
    tensorflow: Names | None = None
    template: InputTemplate = field(default_factory=InputTemplate)
    unnamed_defaults: Mapping[str, Any] = field(default_factory=dict)
