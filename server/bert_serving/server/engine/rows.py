"""What backends share that compute rows of packed sequences: embeddings in, the layers wanted out, NumPy around it.

Looking up embeddings and pooling are NumPy's; what is between them is the backend's :meth:`RowEngine.run`.
"""
from __future__ import annotations

import io
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import PoolingStrategy
from ..core.features import Features
from ..core.packing import LONG, Layout, lay_out, plan
from .architectures import from_file
from .base import Engine, EngineSettings
from .cache import open_format, write_file
from .pooling import HEAD_STRATEGIES, POOLER_STRATEGIES, POOLING
from .spec import HEAD, POOLER, POSITIONS, TOKEN_TYPES, WORDS, EncoderSpec, variables

Read = Callable[[str], np.ndarray]
"""Gives the variable of that name, float32."""

UNSEEN = np.float32(-30000.0)
"""Added to the attention scores of tokens that may not be seen; what they weigh becomes 0."""


# ---- the artefact ----------------------------------------------------------------------------------------------------

def arrays_for(spec: EncoderSpec, strategy: PoolingStrategy) -> tuple[str, ...]:
    """The variables that NumPy needs."""
    known = variables(spec)
    return (*(name for name in (WORDS, TOKEN_TYPES, POSITIONS) if name in known),
            *(POOLER if strategy in POOLER_STRATEGIES else ()), *(HEAD if strategy in HEAD_STRATEGIES else ()))


def wanted_layers(settings: EngineSettings, spec: EncoderSpec) -> list[int]:
    """The encoder layers, from 0, whose outputs are pooled, in the order wished for; the pooler reads the last."""
    if settings.strategy in POOLER_STRATEGIES:
        return [spec.num_layers - 1]
    return [spec.layer_index(layer) for layer in settings.pooling_layer]


def outputs(settings: EngineSettings, spec: EncoderSpec) -> list[int]:
    """The layers that the encoder is to give: those wanted, each once, ascending."""
    return sorted(set(wanted_layers(settings, spec)))


def has_long(settings: EngineSettings) -> bool:
    """Whether there can be sequences that have rows of their own."""
    return settings.max_length > LONG


def key(settings: EngineSettings, spec: EncoderSpec) -> dict[str, Any]:
    """What such an artefact depends on, beside the weights, the spec and whatever makes it."""
    return {"precision": settings.precision, "outputs": outputs(settings, spec),
            "arrays": arrays_for(spec, settings.strategy)}


def query_key_value(read: Read, name: str, head_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of one product for query, key and value; the scores' scale is in the query's."""
    scale = np.float32(1 / math.sqrt(head_size))
    kernel, bias = (np.concatenate([read(f"{name}/query/{part}") * scale, read(f"{name}/key/{part}"),
                                    read(f"{name}/value/{part}")], axis=-1) for part in ("kernel", "bias"))
    return kernel, bias


def write_arrays(directory: Path, settings: EngineSettings, spec: EncoderSpec, read: Read) -> None:
    """Write the variables that NumPy needs."""
    for name in arrays_for(spec, settings.strategy):
        write_array(directory, name, read(name))


def write_array(directory: Path, name: str, array: np.ndarray) -> None:
    """Write a variable as it is, where :func:`array_file` says."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_file(directory / array_file(name), content.getbuffer())


def array_file(name: str) -> str:
    """The file in which a variable is kept as it is."""
    return name.replace("/", ".") + ".npy"


# ---- the engine ------------------------------------------------------------------------------------------------------

class RowEngine(Engine):
    """Several sequences to a row, so that hardly any of what is computed is padding.

    A sequence's vector is the same, bit for bit, whatever batch it is in, if :meth:`run` gives the same rows.
    """

    def __init__(self, settings: EngineSettings, version: int) -> None:
        """
        Args:
            version: of the artefact's format.
        Raises:
            EngineError: the artefact is damaged.
        """
        self.settings = settings
        self.strategy = settings.strategy
        self.token_level = self.strategy is PoolingStrategy.NONE
        assert settings.artefact and settings.config_file
        self._directory = directory = Path(settings.artefact)
        manifest = open_format(directory, version)
        _, self.spec = from_file(settings.config_file)
        self._arrays = {name: np.load(directory / array_file(name), mmap_mode="r", allow_pickle=False)
                        for name in arrays_for(self.spec, self.strategy)}
        self._layers = [manifest["outputs"].index(layer) for layer in wanted_layers(settings, self.spec)]

    @abstractmethod
    def run(self, layout: Layout, embeddings: np.ndarray) -> list[np.ndarray]:
        """
        Args:
            layout: R rows of C tokens.
            embeddings: float32 [R * C, E], the sum of the tables: not normalized, scaled or projected. E is the width
                of the tables, which is H unless the spec projects.
        Returns:
            The layers that the artefact's manifest names as ``outputs``, float32 [R * C, H] each.
        """

    def encode(self, batch: Sequence[Features]) -> np.ndarray:
        lengths = [len(features) for features in batch]
        runs = plan(lengths)
        if len(runs) == 1 and len(batch) == 1:
            return self._vectors(lay_out(runs[0], batch))
        result: np.ndarray | None = None
        starts = np.concatenate([[0], np.cumsum(lengths)]) if self.token_level else np.arange(len(batch) + 1)
        for run in runs:
            layout = lay_out(run, batch)
            vectors = self._vectors(layout)
            if result is None:
                result = np.empty((starts[-1], vectors.shape[1]), np.float32)
            if self.token_level:
                for number, index in enumerate(layout.order):
                    result[starts[index]:starts[index + 1]] = vectors[layout.cu_seqlens[number]:
                                                                      layout.cu_seqlens[number + 1]]
            else:
                result[layout.order] = vectors
        assert result is not None
        return result

    def _vectors(self, layout: Layout) -> np.ndarray:
        """The vectors of a run's sequences, in its order."""
        outputs = self.run(layout, self._embed(layout))
        if self.strategy in POOLER_STRATEGIES:
            return self._pool(outputs[self._layers[0]][layout.places[layout.cu_seqlens[:-1]]])
        chosen = [outputs[layer][layout.places] for layer in self._layers]                            # [T, H] each
        hidden = chosen[0] if len(chosen) == 1 else np.concatenate(chosen, axis=1)
        return POOLING[self.strategy](hidden, layout.cu_seqlens, layout.input_mask)

    def _embed(self, layout: Layout) -> np.ndarray:
        """float32 [R * C, E], the sum of the tables."""
        hidden: np.ndarray = self._arrays[WORDS][layout.input_ids.ravel()]
        if TOKEN_TYPES in self._arrays:
            hidden += self._arrays[TOKEN_TYPES][layout.token_type_ids.ravel()]
        if POSITIONS in self._arrays and not self.settings.no_position_embeddings:
            hidden += self._arrays[POSITIONS][layout.position_ids.ravel() + self.spec.first_position]
        return hidden

    def _pool(self, first: np.ndarray) -> np.ndarray:
        """BERT's pooler, and a fine-tuned model's head: [B, H] -> [B, D]."""
        # One sequence at a time: a product of matrices may depend, in its last bit, on how many rows there are.
        kernel, bias = (self._arrays[name] for name in POOLER)
        pooled = np.stack([np.tanh(row @ kernel + bias) for row in first])
        if self.strategy not in HEAD_STRATEGIES:
            return pooled
        weights, bias = (self._arrays[name] for name in HEAD)
        logits = np.stack([weights @ row + bias for row in pooled])
        if self.strategy is PoolingStrategy.REGRESSION:
            return 1 / (1 + np.exp(-logits))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)


def attention_bias(layout: Layout) -> np.ndarray:
    """float32 [R, 1, C, C], what is added to the scores: each token sees its own sequence's, hidden ones excepted."""
    owner = layout.owner
    apart = owner[:, :, None] != owner[:, None, :]
    if layout.hidden is not None:
        apart |= layout.hidden[:, None, :]
    return np.where(apart, UNSEEN, np.float32(0))[:, None]


def token_bias(layout: Layout) -> np.ndarray:
    """float32 [R, 1, 1, C], the same where one sequence fills a row: only hidden tokens may not be seen."""
    if layout.hidden is None:
        return np.zeros((len(layout.owner), 1, 1, layout.owner.shape[1]), np.float32)
    return np.where(layout.hidden, UNSEEN, np.float32(0))[:, None, None]
