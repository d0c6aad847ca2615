"""The contract between a worker and whatever computes."""
from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import numpy as np
from bert_serving.client.pairs import Pair

from .. import golden
from ..config import Pooling, PoolingStrategy, pooling_strategy
from ..core import tokenizer_settings
from ..core.features import Features, build_features
from ..core.tokenization import BaseTokenizer, WordHashTokenizer
from ..core.tokenizer_settings import TokenizerSettings
from ..errors import EngineError
from ..orders import Orders
from ..precision import PRECISIONS
from .pipeline import Stage


def setting(default: Any = MISSING, *, artefact: bool = False, vectors: bool | tuple[str, ...] = False) -> Any:
    """A field of :class:`EngineSettings`.

    Args:
        artefact: what a backend makes of the model may depend on it.
        vectors: another value gives other vectors; names are what a server's status says it with.
    """
    return field(default=default, metadata={"artefact": artefact, "vectors": vectors})


@dataclass(frozen=True, kw_only=True)
class EngineSettings(Orders):
    """What an engine needs to know; plain JSON values, so that it can cross a process border.

    Each field says what depends on it: from that follow VECTOR_OPTIONS, a test compares the artefacts' keys with it,
    and another one fails for a field that says nothing and is not excused there by name.

    Attributes:
        engine: name of its backend.
        model_dir: directory with the model's configuration and vocabulary (None for echo).
        checkpoint: prefix of a TF1 checkpoint, or path of a file of weights or of the index of several (None for echo).
        tokenizer: None: words are numbered (echo).
        max_seq_len: longest sequence in tokens; None: bounded by max_position_embeddings alone.
        max_position_embeddings: the model's own limit on the length, in tokens.
        hidden_size: length of one token's vector in one layer.
        pooling_layer: indices into the encoder's layers, as -1 for the last.
        pooling_strategy: name of a config.Pooling.
        include_prompt: pooling sees the tokens of a prompt.
        stages: what follows the pooling.
        scores: what is made of a head's logits, one of heads.SCORES; None: what the strategy says.
        mask_cls_sep, no_special_token, no_position_embeddings, num_labels, precision, xla: as the options.
        artefact: path of what the engine's backend made of the model, once it is made.
        device: -1 for the CPU, else the id of a GPU.
        gpu_memory_fraction: share of that GPU's memory.
        num_threads: threads for this engine's computation.
    """

    engine: str = setting(artefact=True)
    model_dir: str | None = setting(None, vectors=("model_name",))
    config_file: str | None = setting(None, artefact=True)
    checkpoint: str | None = setting(None, artefact=True, vectors=("ckpt_name",))
    tokenizer: TokenizerSettings | None = setting(
        None, vectors=("do_lower_case", "prompt_name", "special_tokens_in_text"))
    max_seq_len: int | None = setting(25, artefact=True, vectors=True)
    max_position_embeddings: int = setting(512, artefact=True)
    hidden_size: int = setting(768, vectors=True)
    pooling_layer: tuple[int, ...] = setting((-2,), artefact=True, vectors=True)
    pooling_strategy: str = setting("REDUCE_MEAN", artefact=True, vectors=True)
    include_prompt: bool = True
    stages: tuple[Stage, ...] = setting((), vectors=("normalize",))
    scores: str | None = None
    mask_cls_sep: bool = setting(False, vectors=True)
    no_special_token: bool = setting(False, vectors=True)
    no_position_embeddings: bool = setting(False, artefact=True, vectors=True)
    num_labels: int = setting(2, artefact=True, vectors=True)
    precision: str = setting("fp32", artefact=True, vectors=True)
    xla: bool = False
    artefact: str | None = None
    device: int = -1
    gpu_memory_fraction: float = 0.5
    num_threads: int = 1

    @property
    def pooling(self) -> Pooling:
        return pooling_strategy(self.pooling_strategy)

    @property
    def strategy(self) -> PoolingStrategy:
        """How token vectors are pooled; of several strategies, the first: NONE, and a head's, are never among several.
        """
        return self.pooling.strategies[0]

    @property
    def answer_dtype(self) -> np.dtype[Any]:
        """Of the vectors that leave the engine."""
        return np.dtype(PRECISIONS[self.precision].answer_dtype)

    @property
    def max_length(self) -> int:
        """Most tokens that a sequence can have."""
        return min(self.max_seq_len or self.max_position_embeddings, self.max_position_embeddings)


VECTOR_OPTIONS = (*(name for f in fields(EngineSettings) if (names := f.metadata.get("vectors"))
                    for name in ((f.name,) if names is True else names)), "fixed_embed_length")
"""What of a server's status its vectors depend on; the last one, beyond the engine, pads those of tokens."""


class Engine(ABC):
    """Computes vectors for sequences. One instance lives in one worker and is used from one thread at a time."""

    token_level: bool = False
    """True when the answer has a row per token (strategy NONE) instead of a row per sequence."""

    overlaps: bool = False
    """True when Python goes on in other threads while this one computes, whichever thread it computes in."""

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


def create_tokenizer(settings: EngineSettings) -> BaseTokenizer:
    """
    Raises:
        ModelError: its file cannot be used.
    """
    if settings.tokenizer is None:
        return WordHashTokenizer()
    return tokenizer_settings.create_tokenizer(settings.tokenizer)


def features(texts: Sequence[str | Sequence[str] | Pair], tokenizer: BaseTokenizer,
             settings: EngineSettings) -> Sequence[Features]:
    """Texts, token lists and pairs of either, as the engine with these settings reads them."""
    return build_features(texts, tokenizer, max_length=settings.max_length, mask_cls_sep=settings.mask_cls_sep,
                          no_special_token=settings.no_special_token, include_prompt=settings.include_prompt)


# ---- the self-test ---------------------------------------------------------------------------------------------------

def prove(engine: Engine, tokenizer: BaseTokenizer, settings: EngineSettings) -> np.ndarray:
    """Send the golden sentences through the engine.

    Returns:
        Their vectors.
    Raises:
        EngineError: what comes out is not finite, of the wrong shape, or depends on the other sentences of the batch.
    """
    batch = features(golden.TEXTS, tokenizer, settings)
    together = engine.encode(batch)
    lengths = [len(sequence) for sequence in batch] if engine.token_level else [1] * len(batch)
    dtype = settings.answer_dtype
    if together.ndim != 2 or len(together) != sum(lengths) or together.dtype != dtype:
        raise EngineError(f"self-test: the engine answers {together.dtype} {together.shape} where {dtype} "
                          f"[{sum(lengths)}, ...] is expected")
    if not np.isfinite(together).all():
        raise EngineError("self-test: the engine answers vectors that are not finite; are the weights damaged?")
    for i, rows in enumerate(np.split(together, np.cumsum(lengths)[:-1])):
        found = golden.difference(engine.encode(batch[i:i + 1]), rows, settings.precision, same_engine=True)
        if found is not None:
            raise EngineError(f"self-test: a sentence's vector depends on the other sentences of its batch: {found}")
    return together


def speed(engine: Engine, tokenizer: BaseTokenizer, settings: EngineSettings) -> float:
    """Tokens per second, from the sentences of the self-test once more; longer batches go faster."""
    started = time.perf_counter()
    batch = features(golden.TEXTS, tokenizer, settings)
    engine.encode(batch)
    return sum(map(len, batch)) / max(time.perf_counter() - started, 1e-9)
