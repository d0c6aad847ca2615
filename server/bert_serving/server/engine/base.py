"""The contract between a worker and whatever computes."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..core.features import Features


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What an engine needs to know; plain JSON values, so that it can cross a process border.

    Attributes:
        engine: name of the engine, a key of ``ENGINES``.
        model_dir: directory with the model's configuration and vocabulary (None for echo).
        checkpoint: prefix of a TF1 checkpoint, or path of a safetensors file (None for echo).
        vocabulary: path of vocab.txt (None for echo).
        do_lower_case: lower-case and strip accents.
        max_seq_len: longest sequence in tokens; None: bounded by max_position_embeddings alone.
        max_position_embeddings: the model's own limit on the length, in tokens.
        hidden_size: length of one token's vector in one layer.
        pooling_layer: indices into the encoder's layers, as -1 for the last.
        pooling_strategy: name of a config.PoolingStrategy.
        mask_cls_sep, no_special_token, no_position_embeddings, num_labels, fp16, xla: as the options.
        frozen_graph: path of the frozen graph, once it is made.
        device: -1 for the CPU, else the id of a GPU.
        gpu_memory_fraction: share of that GPU's memory.
        num_threads: threads for this engine's computation.
    """

    engine: str
    model_dir: str | None = None
    config_file: str | None = None
    checkpoint: str | None = None
    vocabulary: str | None = None
    do_lower_case: bool = True
    max_seq_len: int | None = 25
    max_position_embeddings: int = 512
    hidden_size: int = 768
    pooling_layer: tuple[int, ...] = (-2,)
    pooling_strategy: str = "REDUCE_MEAN"
    mask_cls_sep: bool = False
    no_special_token: bool = False
    no_position_embeddings: bool = False
    num_labels: int = 2
    fp16: bool = False
    xla: bool = False
    frozen_graph: str | None = None
    device: int = -1
    gpu_memory_fraction: float = 0.5
    num_threads: int = 1

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EngineSettings:
        return cls(**{**values, "pooling_layer": tuple(values["pooling_layer"])})


class Engine(ABC):
    """Computes vectors for sequences. One instance lives in one worker and is used from one thread."""

    token_level: bool = False
    """True when the answer has a row per token (strategy NONE) instead of a row per sequence."""

    @abstractmethod
    def encode(self, batch: Sequence[Features]) -> np.ndarray:
        """The vectors of a batch.

        Args:
            batch: B sequences of any lengths.
        Returns:
            float32 or float16 [B, D], in the batch's order; if ``token_level``, [sum of lengths, D], the sequences'
            tokens end to end, rows that ``input_mask`` hides being 0.
        """

    def describe(self) -> str:
        """What runs where, for the log: device, threads, library version."""
        return type(self).__name__
