"""An engine without a model: a token's vector is a fixed function of its id. For tests, load tests and checkers."""
from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import numpy as np

from bert_serving.client.words import counted

from ...config import MB, PoolingStrategy
from ...core.features import Features
from ..base import Engine, EngineSettings
from ..pooling import HEAD_STRATEGIES, POOLER_STRATEGIES, POOLING
from .base import Backend, Footprint

NUM_LAYERS = 12
"""Layers that an echo "model" has, so that -pooling_layer can be told apart."""

MAX_HARMLESS = 4096
"""Words that are remembered, so that not each one has to be looked at again and again."""

PERIOD = 4093
"""Ids that far apart have equal vectors but for component 0; a prime."""


class EchoBackend(Backend):
    """No library at all."""

    name = "echo"
    precisions = frozenset({"fp32", "fp16"})

    def version(self) -> str:
        return ""

    def open(self, settings: EngineSettings) -> EchoEngine:
        return EchoEngine(settings)

    def footprint(self, settings: EngineSettings) -> Footprint:
        return Footprint(worker=60 * MB)


BACKEND = EchoBackend()


class EchoEngine(Engine):
    """See :func:`echo_vectors` for what it answers.

    These words in a text make trouble, to test what the server does about it: ``__die__`` kills the process,
    ``__hang__`` never comes back, ``__raise__`` raises, ``__nan__`` gives a vector of NaN, ``__sleep_250__`` takes
    250 ms.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.strategy = settings.strategy
        self.token_level = self.strategy is PoolingStrategy.NONE
        self._table = _table(settings.hidden_size)
        self._harmless: set[int] = set()  # ids of words that make no trouble

    def encode(self, batch: Sequence[Features]) -> np.ndarray:
        nans = []
        for i, features in enumerate(batch):
            ids = features.input_ids.tolist()
            if self._harmless.issuperset(ids):
                continue
            trouble = [token for token in features.tokens if token.startswith("__") and token.endswith("__")]
            if not trouble:
                if len(self._harmless) > MAX_HARMLESS:
                    self._harmless.clear()
                self._harmless.update(ids)
            elif any([act(token) for token in trouble]):
                nans.append(i)
        rows = self._encode(batch)
        if nans and self.token_level:
            rows[np.repeat(np.isin(np.arange(len(batch)), nans), [len(features) for features in batch])] = np.nan
        elif nans:
            rows[nans] = np.nan
        return rows

    def _encode(self, batch: Sequence[Features]) -> np.ndarray:
        settings = self.settings
        ids = np.concatenate([features.input_ids for features in batch])
        mask = None
        if settings.mask_cls_sep:
            mask = np.concatenate([features.input_mask for features in batch])
        cu_seqlens = np.concatenate([[0], np.cumsum([len(features) for features in batch])])
        return echo_vectors(ids, cu_seqlens, mask, strategy=self.strategy, layers=settings.pooling_layer,
                            num_labels=settings.num_labels, fp16=settings.answer_dtype == np.float16, table=self._table)

    def describe(self) -> str:
        return f"no model, {counted(self.settings.hidden_size, 'dimension')}"


def act(word: str) -> bool:
    """Do what a fault word says; True if the vector is to be NaN."""
    if word == "__die__":
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    elif word == "__hang__":
        while True:
            time.sleep(3600)
    elif word == "__raise__":
        raise RuntimeError("the text says __raise__")
    elif word.startswith("__sleep_") and word[8:-2].isdecimal():
        time.sleep(int(word[8:-2]) / 1000)
    return word == "__nan__"


def echo_vector(ids: Sequence[int], mask: Sequence[int] | None = None, *,
                strategy: PoolingStrategy = PoolingStrategy.REDUCE_MEAN, layers: Sequence[int] = (-2,),
                hidden_size: int = 768, num_labels: int = 2, fp16: bool = False) -> np.ndarray:
    """What the engine answers for one sequence of ids (special tokens included): [D]; [T, D] for strategy NONE."""
    rows = echo_vectors(np.asarray(ids), np.array([0, len(ids)]), None if mask is None else np.asarray(mask),
                        strategy=strategy, layers=layers, num_labels=num_labels, fp16=fp16, table=_table(hidden_size))
    return rows if strategy is PoolingStrategy.NONE else rows[0]


def echo_vectors(ids: np.ndarray, cu_seqlens: np.ndarray, mask: np.ndarray | None, *, strategy: PoolingStrategy,
                 layers: Sequence[int], num_labels: int, fp16: bool, table: np.ndarray) -> np.ndarray:
    """The vectors of B sequences that lie end to end.

    A token's vector in a layer: component 0 is its id (below 2048 with ``fp16``, which holds no more), the others come
    from a fixed table at a place that depends on id and layer.

    Args:
        ids: int [T]. cu_seqlens: int [B+1]. mask: int [T], or None for all ones.
        table: what _table() made for this hidden_size.
    """
    if strategy in POOLER_STRATEGIES:
        # There is no pooler here; a mean has the right shape, and tells texts apart.
        hidden = POOLING[PoolingStrategy.REDUCE_MEAN](_hidden(ids, -1, table, fp16), cu_seqlens, mask)
        if strategy in HEAD_STRATEGIES:
            logits = hidden[:, 1:1 + (num_labels if strategy is PoolingStrategy.CLASSIFICATION else 1)]
            odds = np.exp(logits)
            hidden = odds / (odds.sum(1, keepdims=True) if strategy is PoolingStrategy.CLASSIFICATION else 1 + odds)
    else:
        hidden = np.concatenate([_hidden(ids, layer, table, fp16) for layer in layers], axis=1) \
            if len(layers) > 1 else _hidden(ids, layers[0], table, fp16)
        hidden = POOLING[strategy](hidden, cu_seqlens, mask)
    return np.clip(hidden, -65504, 65504).astype(np.float16) if fp16 else hidden


def _hidden(ids: np.ndarray, layer: int, table: np.ndarray, fp16: bool) -> np.ndarray:
    """float32 [T, H]"""
    hidden = table[(ids + 911 * (layer % NUM_LAYERS)) % PERIOD]
    hidden[:, 0] = ids % 2048 if fp16 else ids
    return hidden


def _table(hidden_size: int) -> np.ndarray:
    """float32 [PERIOD, H], a view in which each row is the one above, moved by one.

    All values are multiples of 1/256 in [-1, 1), so that sums are exact in any order.
    """
    numbers = np.arange(PERIOD + hidden_size, dtype=np.uint64)
    noise = (numbers * np.uint64(2654435761) % np.uint64(1 << 32)) >> np.uint64(15)
    values = (noise % np.uint64(512)).astype(np.float32) / 256 - 1
    return np.lib.stride_tricks.sliding_window_view(values, hidden_size)[:PERIOD]
