"""The engine for CPUs: the converted encoder on LiteRT, several sentences to a row. Never imports TensorFlow."""
from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.client.words import counted

from ..config import PoolingStrategy
from ..core.features import Features
from ..core.packing import LONG, Layout, lay_out, plan
from ..errors import EngineError
from .base import Engine, EngineSettings
from .bert import BertConfig
from .cache import open_format
from .convert import ALONE, EMBEDDINGS, ENCODER, FORMAT, HEAD, POOLER, array_file, arrays_for, wanted_layers
from .pooling import HEAD_STRATEGIES, POOLER_STRATEGIES, POOLING
from .quiet import quiet_stderr

UNSEEN = np.float32(-30000.0)
"""Added to the attention scores of tokens that may not be seen; what they weigh becomes 0."""


class LiteEngine(Engine):
    """Runs a converted encoder; all shapes share its weights. Long sentences have another one, loaded with the first.

    A sentence's vector is the same, bit for bit, whatever batch it is in.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """
        Raises:
            EngineError: the converted model is damaged, or LiteRT is not installed.
        """
        self.settings = settings
        self.strategy = PoolingStrategy[settings.pooling_strategy]
        self.token_level = self.strategy is PoolingStrategy.NONE
        assert settings.frozen_graph and settings.config_file
        self._directory = directory = Path(settings.frozen_graph)
        manifest = open_format(directory, FORMAT)
        self._arrays = {name: np.load(directory / array_file(name), mmap_mode="r", allow_pickle=False)
                        for name in arrays_for(self.strategy)}
        self._layers = [manifest["outputs"].index(layer)
                        for layer in wanted_layers(settings, BertConfig.from_file(settings.config_file))]
        self._encoder = _Interpreter(directory / ENCODER, settings.num_threads, (1, 1, 8, 8))

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

    def describe(self) -> str:
        return (f"LiteRT {litert_version()} on CPU, {counted(self.settings.num_threads, 'thread')}, "
                f"{self.settings.precision}")

    @cached_property
    def _alone(self) -> _Interpreter:
        """The encoder for long sentences. It has its own copy of the weights, so it is loaded when there is one."""
        return _Interpreter(self._directory / ALONE, self.settings.num_threads, (1, 1, 1, LONG))

    def _vectors(self, layout: Layout) -> np.ndarray:
        """The vectors of a run's sentences, in its order."""
        if layout.alone:
            outputs = self._alone.run(self._embed(layout), token_bias(layout))
        else:
            outputs = self._encoder.run(self._embed(layout), attention_bias(layout))
        if self.strategy in POOLER_STRATEGIES:
            return self._pool(outputs[self._layers[0]][layout.places[layout.cu_seqlens[:-1]]])
        chosen = [outputs[layer][layout.places] for layer in self._layers]                            # [T, H] each
        hidden = chosen[0] if len(chosen) == 1 else np.concatenate(chosen, axis=1)
        return POOLING[self.strategy](hidden, layout.cu_seqlens, layout.input_mask)

    def _embed(self, layout: Layout) -> np.ndarray:
        """float32 [R * C, H], not yet normalized."""
        words, types, positions = (self._arrays[name] for name in EMBEDDINGS)
        hidden = words[layout.input_ids.ravel()] + types[layout.token_type_ids.ravel()]
        if not self.settings.no_position_embeddings:
            hidden += positions[layout.position_ids.ravel()]
        return hidden

    def _pool(self, first: np.ndarray) -> np.ndarray:
        """BERT's pooler, and a fine-tuned model's head: [B, H] -> [B, D]."""
        # One sentence at a time: a product of matrices may depend, in its last bit, on how many rows there are.
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
    """float32 [R, 1, C, C], what is added to the scores: each token sees its own sentence's, hidden ones excepted."""
    owner = layout.owner
    apart = owner[:, :, None] != owner[:, None, :]
    if layout.hidden is not None:
        apart |= layout.hidden[:, None, :]
    return np.where(apart, UNSEEN, np.float32(0))[:, None]


def token_bias(layout: Layout) -> np.ndarray:
    """float32 [R, 1, 1, C], the same where one sentence fills a row: only hidden tokens may not be seen."""
    if layout.hidden is None:
        return np.zeros((len(layout.owner), 1, 1, layout.owner.shape[1]), np.float32)
    return np.where(layout.hidden, UNSEEN, np.float32(0))[:, None, None]


def litert_version() -> str:
    """The installed LiteRT's version.

    Raises:
        EngineError: there is none.
    """
    try:
        return metadata.version("ai-edge-litert")
    except metadata.PackageNotFoundError:
        raise EngineError("LiteRT is not installed; install ai-edge-litert or './server[cpu]'") from None


def has_litert() -> bool:
    try:
        return bool(litert_version())
    except EngineError:
        return False


class _Interpreter:
    """LiteRT with the encoder in it. The weights are laid out for the processor once; another shape costs little."""

    def __init__(self, path: Path, num_threads: int, bias: tuple[int, ...]) -> None:
        """
        Args:
            bias: shape to prepare for, see :meth:`run`.
        Raises:
            EngineError: LiteRT is not there, or cannot run the model.
        """
        litert_version()
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise EngineError(f"LiteRT cannot be imported: {error}") from error
        try:
            with quiet_stderr():                       # It says that it has a delegate, once a process.
                self._interpreter: Any = Interpreter(model_path=str(path), num_threads=num_threads)
                inputs = {detail["name"].partition(":")[0]: detail for detail in self._interpreter.get_input_details()}
                self._inputs = {name: detail["index"] for name, detail in inputs.items()}
                self._hidden_size = int(inputs["embeddings"]["shape_signature"][1])
                self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]
                self._resize(bias)
        except (ValueError, RuntimeError, KeyError) as error:
            raise EngineError(f"LiteRT cannot load the model: {error}") from error

    def run(self, embeddings: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
        """The outputs, float32 [R * C, H] each, for what the encoder takes (see :func:`convert.convert`)."""
        if bias.shape != self._shape:
            self._resize(bias.shape)
        self._interpreter.set_tensor(self._inputs["embeddings"], embeddings)
        self._interpreter.set_tensor(self._inputs["bias"], bias)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def _resize(self, bias: tuple[int, ...]) -> None:
        """Prepare for a bias of this shape, [R, 1, C or 1, C], and the embeddings that go with it."""
        self._interpreter.resize_tensor_input(self._inputs["embeddings"], [bias[0] * bias[3], self._hidden_size])
        self._interpreter.resize_tensor_input(self._inputs["bias"], bias)
        self._interpreter.allocate_tensors()
        self._shape = bias
