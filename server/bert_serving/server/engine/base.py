"""The contract between a worker and whatever computes."""
from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import numpy as np

from ..core.features import Features, build_features
from ..core.tokenization import BaseTokenizer, Tokenizer, WordHashTokenizer
from ..errors import EngineError


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
        mask_cls_sep, no_special_token, no_position_embeddings, num_labels, precision, xla: as the options.
        frozen_graph: path of the frozen graph, or of the converted model, once it is made.
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
    precision: str = "fp32"
    xla: bool = False
    frozen_graph: str | None = None
    device: int = -1
    gpu_memory_fraction: float = 0.5
    num_threads: int = 1

    @property
    def fp16(self) -> bool:
        """Whether answers are in half precision too; those of other precisions are float32."""
        return self.precision == "fp16"

    @property
    def max_length(self) -> int:
        """Most tokens that a sequence can have."""
        return min(self.max_seq_len or self.max_position_embeddings, self.max_position_embeddings)

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


# ---- what there is ---------------------------------------------------------------------------------------------------

ENGINES = {"lite": ("lite", "LiteEngine"), "graph": ("graph", "GraphEngine"), "echo": ("echo", "EchoEngine")}
"""Name of an engine -> module of this folder and class; imported only when wanted, as TensorFlow is behind some."""


def create(settings: EngineSettings) -> Engine:
    """
    Raises:
        EngineError: the engine is unknown or cannot run here.
    """
    if settings.engine not in ENGINES:
        raise EngineError(f"{settings.engine!r} is not an engine; choose from {', '.join(ENGINES)}")
    module, name = ENGINES[settings.engine]
    engine: Engine = getattr(import_module(f".{module}", __package__), name)(settings)
    return engine


def create_tokenizer(settings: EngineSettings) -> BaseTokenizer:
    """
    Raises:
        ModelError: the vocabulary cannot be used.
    """
    if settings.vocabulary is None:
        return WordHashTokenizer()
    return Tokenizer(settings.vocabulary, settings.do_lower_case)


def features(texts: Sequence[str | Sequence[str]], tokenizer: BaseTokenizer,
             settings: EngineSettings) -> list[Features]:
    """Texts, or token lists, as the engine with these settings reads them."""
    return build_features(texts, tokenizer, max_length=settings.max_length, mask_cls_sep=settings.mask_cls_sep,
                          no_special_token=settings.no_special_token)


# ---- the self-test ---------------------------------------------------------------------------------------------------

PROOF: tuple[str, ...] = ("First do it", "then do it right, then do it better, and then write down what was done", "a",
                          "hello world ||| good day")

TOLERANCE = {"fp32": 1e-3, "int8": 1e-3, "bf16": 1e-1, "fp16": 5e-2}
"""Precision -> most that a value of a vector may change with the other sentences of the batch; as a share of the value
where that is above 1."""


def prove(engine: Engine, tokenizer: BaseTokenizer, settings: EngineSettings) -> np.ndarray:
    """Send a few sentences through the engine.

    Returns:
        Their vectors.
    Raises:
        EngineError: what comes out is not finite, of the wrong shape, or depends on the other sentences of the batch.
    """
    batch = features(PROOF, tokenizer, settings)
    together = engine.encode(batch)
    lengths = [len(sequence) for sequence in batch] if engine.token_level else [1] * len(batch)
    dtype = np.dtype(np.float16 if settings.fp16 else np.float32)
    if together.ndim != 2 or len(together) != sum(lengths) or together.dtype != dtype:
        raise EngineError(f"self-test: the engine answers {together.dtype} {together.shape} where {dtype} "
                          f"[{sum(lengths)}, ...] is expected")
    if not np.isfinite(together).all():
        raise EngineError("self-test: the engine answers vectors that are not finite; are the weights damaged?")
    tolerance = TOLERANCE[settings.precision]
    for i, rows in enumerate(np.split(together, np.cumsum(lengths)[:-1])):
        difference = np.abs(engine.encode(batch[i:i + 1]).astype(np.float64) - rows)
        if (difference > tolerance * np.maximum(1, np.abs(rows))).any():
            raise EngineError(f"self-test: a sentence's vector differs by {difference.max():.3g} from the one it has "
                              "in a batch")
    return together


def speed(engine: Engine, tokenizer: BaseTokenizer, settings: EngineSettings) -> float:
    """Tokens per second, from the sentences of the self-test once more; longer batches go faster."""
    started = time.perf_counter()
    batch = features(PROOF, tokenizer, settings)
    engine.encode(batch)
    return sum(map(len, batch)) / max(time.perf_counter() - started, 1e-9)
