"""What a sequence-classification directory says of itself: labels, and how logits become scores.

Two libraries save such directories, and apply different functions to the same logits:

==========================================  ==========================  ==================  ==========================
saved by                                    its files name a function   one label           several labels
==========================================  ==========================  ==================  ==========================
CrossEncoder of sentence-transformers       that one                    sigmoid             identity: the logits
transformers: ``problem_type`` is null      -                           sigmoid             softmax
``single_label_classification``             -                           sigmoid             softmax
``multi_label_classification``              -                           sigmoid             sigmoid
``regression``                              -                           identity            identity
==========================================  ==========================  ==================  ==========================

So a classifier with three labels that transformers saved answers with probabilities, as transformers' pipeline does,
though CrossEncoder, if it were made to load that directory, would give the logits.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..orders import Orders
from .modules import CROSS_ENCODER, MAX_CONFIG_BYTES, SentenceFiles, activation_name, is_text, read_object

MAX_LABELS = 100_000
MAX_LABEL = 1000
"""Characters of a label."""

ACTIVATIONS = {"Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "softmax"}
"""torch.nn's names -> ours."""

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")


@dataclass(frozen=True, kw_only=True)
class Classifier(Orders):
    """
    Attributes:
        labels: names of the classes, in the order of the logits.
        activation: one of heads.SCORES; "softmax" only for several labels.
        labels_source, activation_source: where each is from, relative to the model's directory; ends with a key, or
            with "(default)".
    """

    labels: tuple[str, ...]
    activation: str
    labels_source: str = ""
    activation_source: str = ""


def read(files: SentenceFiles) -> Classifier | None:
    """
    Args:
        files: what modules.read says of the directory.
    Returns:
        None: it is no sequence classifier: by its config.json, or because modules.json makes it a SentenceTransformer.
    Raises:
        ModelError: a file is damaged, or asks for something that is not computed here.
    """
    path = files.directory / "config.json"
    values = read_object(path, MAX_CONFIG_BYTES) or {}
    architectures = values.get("architectures")
    is_classifier = isinstance(architectures, list) and any(
        isinstance(name, str) and name.endswith("ForSequenceClassification") for name in architectures)
    if files.model_type == CROSS_ENCODER and not is_classifier:
        raise ModelError(f"{files.root / files.sources['model_type']} says CrossEncoder, and {path} has the "
                         f"architectures {architectures!r:.200}; expected a name that ends with "
                         "ForSequenceClassification")
    if not is_classifier or ("directory" in files.sources and files.model_type != CROSS_ENCODER):
        return None
    source = path.relative_to(files.root).as_posix()
    labels, labels_key = _labels(path, values)
    activation, activation_source = _activation(files, path, source, values, len(labels))
    return Classifier(labels=labels, activation=activation, labels_source=f"{source} {labels_key}",
                      activation_source=activation_source)


def _labels(path: Path, values: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """Names, and the key that has them.

    Raises:
        ModelError: they are none.
    """
    names, number = values.get("id2label"), values.get("num_labels")
    if number is not None and (type(number) is not int or not 1 <= number <= MAX_LABELS):
        raise ModelError(f"{path}: num_labels is {number!r:.50}; expected a whole number from 1 to {MAX_LABELS}")
    if names is None:
        # Transformers leaves both out where they are its defaults.
        return tuple(f"LABEL_{index}" for index in range(number or 2)), "num_labels" if number else "(default)"
    if not isinstance(names, dict) or not 1 <= len(names) <= MAX_LABELS:
        raise ModelError(f"{path}: id2label is {names!r:.100}; expected an object of 1 to {MAX_LABELS} names")
    if number is not None and number != len(names):
        raise ModelError(f"{path}: num_labels is {number}, and id2label has {len(names)}; expected the same number")
    result = []
    for index in range(len(names)):
        name = names.get(str(index))
        name = str(name) if type(name) is int else name
        if not isinstance(name, str) or len(name) > MAX_LABEL or not is_text(name):
            raise ModelError(f"{path}: id2label[{index}] is {name!r:.100}; expected a name for each number from 0 to "
                             f"{len(names) - 1}")
        result.append(name)
    return tuple(result), "id2label"


def _activation(files: SentenceFiles, path: Path, source: str, values: dict[str, Any],
                labels: int) -> tuple[str, str]:
    """
    Returns:
        Name of the activation, and what says so.
    Raises:
        ModelError: it is not computed here.
    """
    own = values.get("sentence_transformers")
    if own is not None and not isinstance(own, dict):
        raise ModelError(f"{path}: sentence_transformers is {own!r:.100}; expected an object")
    model_file = files.root / "config_sentence_transformers.json"
    model = (read_object(model_file) or {}) if files.model_type == CROSS_ENCODER else {}
    for where, key, value, said_by in (
            (model_file, "activation_fn", model.get("activation_fn"), f"{model_file.name} activation_fn"),
            (path, "sentence_transformers.activation_fn", (own or {}).get("activation_fn"),
             f"{source} sentence_transformers.activation_fn"),
            (path, "sbert_ce_default_activation_function", values.get("sbert_ce_default_activation_function"),
             f"{source} sbert_ce_default_activation_function")):
        if value is None:
            continue
        activation = ACTIVATIONS.get(activation_name(where, key, value))
        if activation is None:
            raise ModelError(f"{where}: {key} is {value!r:.200}; expected torch.nn's {', '.join(ACTIVATIONS)}")
        if activation == "softmax" and labels == 1:
            raise ModelError(f"{where}: {key} is {value!r:.200}, which gives 1 for every text with one label; "
                             "expected Sigmoid or Identity")
        return activation, said_by
    if files.model_type == CROSS_ENCODER or own is not None or "sbert_ce_default_activation_function" in values:
        return "sigmoid" if labels == 1 else "identity", "CrossEncoder (default)"
    problem = values.get("problem_type")
    if problem not in (None, *PROBLEM_TYPES):
        raise ModelError(f"{path}: problem_type is {problem!r:.100}; expected {', '.join(PROBLEM_TYPES)}")
    said_by = f"{source} problem_type" if problem else "transformers (default)"
    if problem == "regression":
        return "identity", said_by
    return "sigmoid" if labels == 1 or problem == "multi_label_classification" else "softmax", said_by
