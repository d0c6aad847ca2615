"""The table of architectures: which models can be read, each one file in this folder.

A new one is a file with an ``ARCHITECTURE`` and a row here; what it computes is an :class:`..spec.EncoderSpec`.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ...core.files import read_json
from ...errors import ModelError
from ..spec import EncoderSpec, RotaryPositions
from .base import Architecture, Values, shown

ARCHITECTURES = ("bert", "albert", "camembert", "deberta-v2", "distilbert", "electra", "eurobert", "gemma3_text", "gte",
                 "jina_embeddings_v3", "modernbert", "mpnet", "nomic_bert", "qwen3", "roberta", "xlm-roberta")
"""``model_type`` of ``config.json``, which is also the module, with "_" for "-"; where a file names none, the first."""

CLASSES = ("Model", "ForMaskedLM", "ForPreTraining", "ForCausalLM", "ForSequenceClassification",
           "ForTokenClassification", "ForQuestionAnswering", "ForNextSentencePrediction", "ForMultipleChoice")
"""How names of ``architectures`` end whose encoder is the model's without more: others add something to its output."""


def architecture(model_type: str) -> Architecture:
    """
    Raises:
        ValueError: there is none of that name.
    """
    if model_type not in ARCHITECTURES:
        raise ValueError(f"model_type is {shown(model_type)}; this server computes {', '.join(ARCHITECTURES)}")
    found: Architecture = import_module(f".{model_type.replace('-', '_')}", __package__).ARCHITECTURE
    return found


def from_values(values: Mapping[str, Any]) -> tuple[Architecture, EncoderSpec]:
    """What a configuration describes. Keys that the architecture does not know are ignored.

    Raises:
        ValueError: naming the key that is missing or whose value cannot be.
    """
    model_type = values.get("model_type", ARCHITECTURES[0])
    if not isinstance(model_type, str):
        raise ValueError(f"model_type is {shown(model_type)}, expected one of {', '.join(ARCHITECTURES)}")
    found = architecture(model_type)
    _refuse_other_classes(values, found)
    spec = found.spec(Values(complete(values, found)))
    if isinstance(spec.positions, RotaryPositions) and spec.head_size % 2:
        raise ValueError(f"the head size is {spec.head_size}, expected an even number: rotary positions "
                         "turn pairs")
    return found, spec


def _refuse_other_classes(values: Mapping[str, Any], found: Architecture) -> None:
    """
    Raises:
        ValueError: the model is more than its encoder, or another one: its class is none of transformers' own.
    """
    auto_map, names = values.get("auto_map"), values.get("architectures")
    if auto_map is not None and not isinstance(auto_map, dict):
        raise ValueError(f"auto_map is {shown(auto_map)}, expected an object")
    for key, name in (auto_map or {}).items():
        if key.startswith(("AutoModel", "AutoConfig")) and not found.reads_own_code:
            raise ValueError(f"auto_map names code of the model's own, {shown(name)}, which is not run; if the model "
                             f"is {found.label} as transformers has it, remove auto_map")
    if names is not None and not isinstance(names, list):
        raise ValueError(f"architectures is {shown(names)}, expected an array of names")
    for name in names or ():
        if not isinstance(name, str) or not re.fullmatch(rf"\w+({'|'.join(CLASSES)})", name):
            raise ValueError(f"architectures names the class {shown(name)}, which this server does not compute; "
                             f"expected a name that ends with {', '.join(CLASSES[:-1])} or {CLASSES[-1]}; to serve the "
                             "encoder alone, remove architectures")
        # Hugging Face's before 2020. A RoBERTa's would be taken for a BERT's, whose positions begin elsewhere.
        if "model_type" not in values and not re.match("(TF|Flax)?Bert", name):
            raise ValueError(f"there is no model_type, and architectures has {shown(name)}; add the model_type")


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
