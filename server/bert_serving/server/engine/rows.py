"""What backends share that compute rows of packed sequences: embeddings in, the layers wanted out, NumPy around it.

Looking up embeddings and pooling are NumPy's; what is between them is the backend's :meth:`RowEngine.run`.
"""
from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import PoolingStrategy
from ..core.features import Features
from ..core.packing import LONG, Layout, lay_out, plan
from . import positions
from .architectures import from_file
from .base import Engine, EngineSettings
from .cache import open_format, write_file
from .heads import HeadLayers, head_variables, read_by_head
from .pooling import POOLER_STRATEGIES, POOLING, pool
from .spec import (POSITIONS, RELATIVE, TOKEN_TYPES, WORDS, DisentangledPositions, EncoderSpec, RelativePositions,
                   TablePositions, variables)

Read = Callable[[str], np.ndarray]
"""Gives the variable of that name, float32."""

FIRST_ANGLES = 512
"""Positions whose rotary angles are kept from the start; of the millions that a configuration may speak of, more are
when there is a sequence that has so many."""

UNSEEN = np.float32(-30000.0)
"""Added to the attention scores of tokens that may not be seen; what they weigh becomes 0."""


# ---- the artefact ----------------------------------------------------------------------------------------------------

def arrays_for(spec: EncoderSpec, strategy: PoolingStrategy) -> tuple[str, ...]:
    """The variables that NumPy needs."""
    known = variables(spec)
    looked_up = [WORDS, TOKEN_TYPES, POSITIONS, *([RELATIVE] if isinstance(spec.positions, RelativePositions) else [])]
    return (*(name for name in looked_up if name in known), *head_variables(spec, strategy))


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


def query_key_value(read: Read, name: str, spec: EncoderSpec) -> tuple[np.ndarray, np.ndarray | None]:
    """Kernel and bias of one product for query, key and value; the scores' scale is in the query's, unless that is
    normalized afterwards."""
    scale = np.float32(1 if spec.attention.qk_norm else spec.scale)

    def joined(part: str) -> np.ndarray:
        return np.concatenate([read(f"{name}/query/{part}") * scale, read(f"{name}/key/{part}"),
                               read(f"{name}/value/{part}")], axis=-1)

    return joined("kernel"), joined("bias") if spec.attention.bias else None


def shared_out(largest: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """What inputs of a product are divided by, and its weights multiplied with, so that large channels, which in 8 bits
    would leave few values to all others, are shared out between both: Xiao et al., "SmoothQuant", 2022
    (https://arxiv.org/abs/2211.10438).

    Args:
        largest: float32 [K], how large each input becomes. kernel: float32 [K, N].
    Returns:
        float32 [K], 1 in the geometric mean.
    """
    scale = np.sqrt(np.maximum(largest, 1e-6) / np.maximum(np.abs(kernel).max(axis=1), 1e-6))
    return (scale / np.exp(np.log(scale).mean())).astype(np.float32)


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


# ---- what the encoder takes ------------------------------------------------------------------------------------------

def input_shapes(spec: EncoderSpec) -> dict[str, tuple[str, list[int | None]]]:
    """The inputs of an encoder over R rows of C tokens, by name: their type, and their shape, None being free.

    - ``embeddings`` [R * C, E], the sum of the tables, not normalized; E is the width of the tables
    - ``bias`` [R, 1, C, C], what is added to the attention scores; [R, 1, 1, C] where one sequence fills a row, unless
      it is causal
    - ``bias_N`` [R, 1, C, C] for layers in which a token sees N tokens to either side
    - ``cosine_N``, ``sine_N`` [R * C, D / 2] for the N-th of the rotary thetas
    - ``relative`` [1, A, C, C], the biases of distances
    - ``relative_rows`` [2 * C - 1], see :meth:`tf_encoder.Encoder.relative_rows`
    """
    width = spec.embeddings.size or spec.hidden_size
    shapes: dict[str, tuple[str, list[int | None]]] = {"embeddings": ("float32", [None, width]),
                                                       "bias": ("float32", [None, 1, None, None])}
    shapes |= {f"bias_{window}": ("float32", [None, 1, None, None]) for window in _windows(spec)}
    for number, _ in enumerate(positions.thetas(spec)):
        shapes |= {f"{name}_{number}": ("float32", [None, spec.head_size // 2]) for name in ("cosine", "sine")}
    if isinstance(spec.positions, RelativePositions):
        shapes["relative"] = ("float32", [1, spec.attention.heads, None, None])
    if isinstance(spec.positions, DisentangledPositions):
        shapes["relative_rows"] = ("int32", [None])
    return shapes


def _windows(spec: EncoderSpec) -> list[int]:
    return sorted({window for window in spec.attention.windows if window is not None})


class Inputs:
    """Makes what :func:`input_shapes` names, of a layout.

    Args:
        arrays: the variables of :func:`arrays_for`.
        max_length: most tokens of a sequence.
        position_embeddings: those of the table are added, if there is one.
    """

    def __init__(self, spec: EncoderSpec, arrays: Mapping[str, np.ndarray], max_length: int,
                 position_embeddings: bool = True) -> None:
        self._spec, self._arrays = spec, arrays
        self._has_table = position_embeddings and isinstance(spec.positions, TablePositions)
        self._max_length, self._angles = max_length, self._rotary_tables(min(max_length, FIRST_ANGLES))

    def _rotary_tables(self, length: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return [positions.rotary_table(theta, self._spec.head_size, length) for theta in positions.thetas(self._spec)]

    def of(self, layout: Layout) -> dict[str, np.ndarray]:
        spec, width = self._spec, layout.owner.shape[1]
        inputs = {"embeddings": self._embed(layout), **self._biases(layout)}
        place = layout.position_ids.ravel()
        if self._angles and width > len(self._angles[0][0]):
            self._angles = self._rotary_tables(min(self._max_length, 2 * width))
        for number, (cosine, sine) in enumerate(self._angles):
            inputs |= {f"cosine_{number}": cosine[place], f"sine_{number}": sine[place]}
        if isinstance(spec.positions, RelativePositions):
            inputs["relative"] = self._relative_biases(spec.positions, width)
        if isinstance(spec.positions, DisentangledPositions):
            inputs["relative_rows"] = positions.disentangled_rows(spec.positions, np.arange(width - 1, -width, -1))
        return inputs

    def _relative_biases(self, relative: RelativePositions, width: int) -> np.ndarray:
        """The table's biases, float32 [1, A, C, C]."""
        # A row's biases are those of the row above, moved by one: each distance's bucket is looked for once.
        rows = positions.buckets(relative, np.arange(width - 1, -width, -1))
        by_distance = self._arrays[RELATIVE][rows].T                                                  # [A, 2 * C - 1]
        moved = np.lib.stride_tricks.sliding_window_view(by_distance, width, axis=1)[:, ::-1]         # [A, C, C]
        return np.ascontiguousarray(moved[None])

    def _embed(self, layout: Layout) -> np.ndarray:
        """float32 [R * C, E], the sum of the tables."""
        hidden: np.ndarray = self._arrays[WORDS][layout.input_ids.ravel()]
        if self._spec.embeddings.scale != 1:
            hidden *= np.float32(self._spec.embeddings.scale)
        if TOKEN_TYPES in self._arrays:
            hidden += self._arrays[TOKEN_TYPES][layout.token_type_ids.ravel()]
        if self._has_table:
            rows = np.zeros(layout.position_ids.size, np.int32)
            rows[layout.places] = positions.table_rows(
                self._spec, layout.input_ids.ravel()[layout.places], layout.position_ids.ravel()[layout.places],
                layout.cu_seqlens)
            hidden += self._arrays[POSITIONS][rows]
        return hidden

    def _biases(self, layout: Layout) -> dict[str, np.ndarray]:
        causal, windows = self._spec.attention.causal, _windows(self._spec)
        if not causal and not windows:
            return {"bias": token_bias(layout) if layout.alone else attention_bias(layout)}
        distance = positions.distances(layout.owner.shape[1])
        later = distance < 0 if causal else np.zeros_like(distance, bool)
        return {"bias": attention_bias(layout, later) if causal or not layout.alone else token_bias(layout),
                **{f"bias_{window}": attention_bias(layout, later | (abs(distance) > window)) for window in windows}}


def sample_layout(spec: EncoderSpec, rows: int, width: int, alone: bool = False) -> Layout:
    """Sequences of any words, each filling a row."""
    shape = (rows, width)
    return Layout(input_ids=np.random.default_rng(0).integers(0, spec.vocab_size, shape, np.int32),
                  token_type_ids=np.zeros(shape, np.int32),
                  position_ids=np.tile(np.arange(width, dtype=np.int32), (rows, 1)),
                  owner=np.repeat(np.arange(rows, dtype=np.int32)[:, None], width, axis=1), hidden=None,
                  order=np.arange(rows), places=np.arange(rows * width),
                  cu_seqlens=np.arange(0, rows * width + 1, width), pool_mask=None, alone=alone)


def sample_inputs(spec: EncoderSpec, read: Read) -> dict[str, np.ndarray]:
    """Inputs of the encoder for sequences of any words."""
    width = min(32, spec.max_length)
    arrays = {name: read(name) for name in arrays_for(spec, PoolingStrategy.NONE)}
    return Inputs(spec, arrays, width).of(sample_layout(spec, 16, width))


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
        self.inputs = Inputs(self.spec, self._arrays, settings.max_length, not settings.no_position_embeddings)
        self._head = (HeadLayers(self.spec, self.strategy, self._arrays, settings.scores)
                      if self.strategy in POOLER_STRATEGIES else None)

    @abstractmethod
    def run(self, inputs: dict[str, np.ndarray], alone: bool) -> list[np.ndarray]:
        """
        Args:
            inputs: those of :func:`input_shapes` for R rows of C tokens.
            alone: one sentence fills the one row.
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
        outputs = self.run(self.inputs.of(layout), layout.alone)
        chosen = [outputs[layer][layout.places] for layer in self._layers]                            # [T, H] each
        hidden = chosen[0] if len(chosen) == 1 else np.concatenate(chosen, axis=1)
        if self._head is None:
            return pool(self.settings.pooling.strategies, hidden, layout.cu_seqlens, layout.pool_mask)
        return self._head(POOLING[read_by_head(self.spec, self.strategy)](hidden, layout.cu_seqlens, layout.pool_mask))


def attention_bias(layout: Layout, beyond: np.ndarray | None = None) -> np.ndarray:
    """float32 [R, 1, C, C], what is added to the scores: each token sees its own sequence's, hidden ones excepted.

    Args:
        beyond: bool [C, C], what a token (row) cannot see, however it is. One that could see hidden tokens alone sees
            these.
    """
    owner = layout.owner
    apart = owner[:, :, None] != owner[:, None, :]
    if beyond is not None:
        apart |= beyond
    if layout.hidden is not None:
        unseen = apart | layout.hidden[:, None, :]
        apart = unseen if beyond is None else np.where(unseen.all(-1, keepdims=True), apart, unseen)
    return np.where(apart, UNSEEN, np.float32(0))[:, None]


def token_bias(layout: Layout) -> np.ndarray:
    """float32 [R, 1, 1, C], the same where one sequence fills a row: only hidden tokens may not be seen."""
    if layout.hidden is None:
        return np.zeros((len(layout.owner), 1, 1, layout.owner.shape[1]), np.float32)
    return np.where(layout.hidden, UNSEEN, np.float32(0))[:, None, None]
