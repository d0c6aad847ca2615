"""A model in each form that some peer reads, made when it is first wanted, and kept in the cache."""
from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.server.engine.architectures import from_file, from_values
from bert_serving.server.engine.cache import new_directory, sha256
from bert_serving.server.engine.command import convert, write_hugging_face
from bert_serving.server.engine.models import find, locate
from bert_serving.server.engine.spec import variables
from bert_serving.server.engine.weight_files import checkpoint_files
from bert_serving.server.engine.weights import Checkpoint
from bert_serving.server.errors import ModelError

from . import exports
from .environments import ENVIRONMENTS, PeerError, prepare, run

BASE = {"model_type": "bert", "vocab_size": 30522, "type_vocab_size": 2}
"""The configuration of BERT-base: 12 layers of 768. Without token types, the original takes 16 of them for granted."""

STEP_SECONDS = 900
"""Longest time for making one form of a model."""


class RandomCheckpoint(Checkpoint):
    """Weights as an untrained model has them: what they are does not change how long anything takes."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        architecture, spec = from_values(config)
        super().__init__("random weights", architecture, architecture.hugging_face)
        self.shapes = variables(spec)

    def read(self, name: str) -> np.ndarray:
        # A seed for each variable: they are the same in whatever order they are read.
        random = np.random.default_rng(list(self.shapes).index(name))
        return random.normal(1.0 if name.endswith("gamma") else 0.0, 0.04, self.shapes[name]).astype(np.float32)


def random_model(config: Mapping[str, Any], vocabulary: Path, directory: Path) -> None:
    """Write a model of that configuration, in Hugging Face's form, into a directory that exists."""
    checkpoint = RandomCheckpoint(config)
    write_hugging_face(checkpoint, list(checkpoint.shapes), directory)
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    (directory / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True,
                                                                 "tokenizer_class": "BertTokenizer"}))
    shutil.copyfile(vocabulary, directory / "vocab.txt")


def model_directory(name: str, folder: Path) -> Path:
    """The directory that --model means: ``minilm``, ``base`` for BERT-base with random weights, or a directory.

    Raises:
        ModelError: there is none.
    """
    if name != "base":
        return locate(name)
    directory = folder / "base"
    if not directory.is_dir():
        with new_directory(directory) as fresh:
            random_model(BASE, find(locate(None)).vocabulary, fresh)
    return directory


class Forms:
    """One model's forms.

    Args:
        directory: the model, in Hugging Face's form.
        cache: where forms and environments are kept.
    """

    def __init__(self, directory: Path, cache: Path) -> None:
        """
        Raises:
            ModelError: it is no model.
        """
        files = find(directory)
        weights, *_ = checkpoint_files(files.checkpoint)
        self.directory, self.vocabulary = directory, files.vocabulary
        _, self.spec = from_file(files.config_file)
        self._calibration = "[]"
        self._environments = cache / "environments"
        self._folder = cache / "models" / f"{directory.name}-{sha256(weights)[:12]}"

    def calibrate_with(self, sequences: Sequence[Sequence[int]]) -> None:
        """Token numbers of texts that OpenVINO's quantization takes its ranges from."""
        self._calibration = json.dumps(sequences)

    def path(self, form: str) -> Path:
        """
        Args:
            form: ``""`` is the model's directory; else a name from STEPS, a slash, and the name of a file.
        Raises:
            PeerError: it cannot be made.
        """
        if not form:
            return self.directory
        step, _, file = form.partition("/")
        directory = self._folder / (f"{step}-{hashlib.sha256(self._calibration.encode()).hexdigest()[:12]}"
                                    if step == "calibrated" else step)
        if not directory.is_dir():
            directory.parent.mkdir(parents=True, exist_ok=True)
            with new_directory(directory) as fresh:
                STEPS[step](self, fresh)
        return directory / file

    # ---- the steps ---------------------------------------------------------------------------------------------------

    def tensorflow(self, fresh: Path) -> None:
        try:
            convert(str(self.directory), fresh / "model", drop_modules=True)
        except ModelError as error:
            raise PeerError(error.message) from error

    def exported(self, fresh: Path) -> None:
        self._export("pytorch", "onnx", self.directory, fresh / "model.onnx")

    def fused(self, fresh: Path) -> None:
        self._export("pytorch", "optimize", self.path("exported/model.onnx"), fresh / "fp32.onnx",
                     fresh / "int8.onnx", self.spec.attention.heads, self.spec.hidden_size)

    def ctranslate2(self, fresh: Path) -> None:
        self._export("pytorch", "ctranslate2", self.directory, fresh / "model")

    def calibrated(self, fresh: Path) -> None:
        sequences = fresh / "sequences.json"
        sequences.write_text(self._calibration)
        self._export("openvino", "calibrate", self.path("exported/model.onnx"), sequences, fresh / "int8.xml")

    def _export(self, environment: str, *arguments: object) -> None:
        python = prepare(ENVIRONMENTS[environment], self._environments)
        run([str(python), exports.__file__, *map(str, arguments)], self._folder / f"{arguments[0]}.log", STEP_SECONDS)


STEPS: dict[str, Callable[[Forms, Path], None]] = {
    "tensorflow": Forms.tensorflow, "exported": Forms.exported, "fused": Forms.fused, "ctranslate2": Forms.ctranslate2,
    "calibrated": Forms.calibrated}
"""Name of a step -> what fills the directory of that name."""
