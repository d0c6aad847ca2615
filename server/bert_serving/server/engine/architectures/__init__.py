"""The table of architectures: which models can be read, each one file in this folder.

A new one is a file with an ``ARCHITECTURE`` and a row here; what it computes is an :class:`..spec.EncoderSpec`.
"""
from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ...core.files import read_json
from ...errors import ModelError
from ..spec import EncoderSpec
from .base import Architecture, Values

ARCHITECTURES = ("bert", "distilbert")
"""``model_type`` of ``config.json``, which is also the module; the first is meant where a file names none."""


def architecture(model_type: str) -> Architecture:
    """
    Raises:
        ValueError: there is none of that name.
    """
    if model_type not in ARCHITECTURES:
        raise ValueError(f"model_type is {model_type!r}; this server computes {', '.join(ARCHITECTURES)}")
    found: Architecture = import_module(f".{model_type}", __package__).ARCHITECTURE
    return found


def from_values(values: Mapping[str, Any]) -> tuple[Architecture, EncoderSpec]:
    """What a configuration describes. Keys that the architecture does not know are ignored.

    Raises:
        ValueError: naming the key that is missing or whose value cannot be.
    """
    found = architecture(str(values.get("model_type", ARCHITECTURES[0])))
    return found, found.spec(Values(complete(values, found)))


def complete(values: Mapping[str, Any], found: Architecture) -> dict[str, Any]:
    """A configuration with its model_type, and what its absence means, spelt out."""
    defaults = found.unnamed_defaults if "model_type" not in values else {}
    return {**defaults, **values, "model_type": found.model_type}


def from_file(path: str | Path) -> tuple[Architecture, EncoderSpec]:
    """As :func:`from_values`, of a model's configuration file.

    Raises:
        ModelError: the file cannot be read, or does not describe a model that can be served.
    """
    try:
        values = read_json(path)
    except OSError as error:
        raise ModelError(f"cannot read the model's configuration {path}: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"the model's configuration {path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"the model's configuration {path} is not a JSON object")
    try:
        return from_values(values)
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
