"""The backend for static models: a table of token vectors in a file that all workers map, and the mean. NumPy alone."""
from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from bert_serving.client.words import counted

from ...config import MB
from ...core.features import Features
from ...errors import EngineError, ModelError
from ..base import Engine, EngineSettings
from ..static_model import Table
from .base import Backend, Footprint, Requirements


class StaticBackend(Backend):
    """It needs no artefact: the table is taken as it lies in the model's file."""

    name = "static"
    precisions = frozenset({"fp32"})

    def objection(self, wanted: Requirements) -> str | None:
        if wanted.spec is not None:
            return "is for static models, and this is an encoder"
        return super().objection(wanted)

    def version(self) -> str:
        return ""

    def open(self, settings: EngineSettings) -> StaticEngine:
        return StaticEngine(settings)

    def footprint(self, settings: EngineSettings) -> Footprint:
        # The table is in the file's own type.
        return Footprint(worker=70 * MB, libraries=os.path.getsize(settings.checkpoint) if settings.checkpoint else 0)


BACKEND = StaticBackend()


class StaticEngine(Engine):
    """The mean of a text's token vectors; of a text without tokens, 0.

    A text's vector is the same, bit for bit, whatever batch it is in.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """
        Raises:
            EngineError: the table cannot be read any more.
        """
        assert settings.checkpoint
        self.settings = settings
        try:
            self._table = Table(settings.checkpoint)
        except ModelError as error:
            raise EngineError(error.message) from error

    def encode(self, batch: Sequence[Features]) -> np.ndarray:
        # The first tokens of all texts are looked up at once, then the second ones, and so on.
        lengths = np.array([len(features.input_ids) for features in batch])
        ids = np.concatenate([features.input_ids for features in batch])
        longest_first = np.argsort(-lengths, kind="stable")
        starts = (np.cumsum(lengths) - lengths)[longest_first]
        counts = len(batch) - np.searchsorted(np.sort(lengths), np.arange(lengths.max()), side="right")
        sums = np.zeros((len(batch), self._table.dimensions), np.float32)
        for position, count in enumerate(counts.tolist()):  # so many texts have a token there
            sums[:count] += self._table.vectors(ids[starts[:count] + position])
        vectors = np.empty_like(sums)
        vectors[longest_first] = sums
        vectors /= np.maximum(lengths, 1).astype(np.float32)[:, None]
        return vectors

    def describe(self) -> str:
        table = self._table
        return (f"a table of {counted(table.vocab_size, 'token')}, {counted(table.dimensions, 'dimension')}, "
                f"{table.num_bytes / MB:.0f} MB")
