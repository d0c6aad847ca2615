"""The TensorFlow engine: the frozen graph in a session, on a CPU or a GPU, compiled with XLA if wanted."""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_serving.client.words import counted

from ..config import PoolingStrategy
from ..core.features import Features
from ..errors import EngineError
from .base import Engine, EngineSettings
from .bert import INPUTS
from .cache import open_format
from .freeze import FORMAT, GRAPH
from .quiet import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

RUN_COST = 32
"""What one run of the graph costs beside its tokens, in tokens: so much padding is cheaper than another run.

Measured when all of a run was padded. Only attention is now, so larger runs may be better; that was not measured.
"""

MOST_TOKENS = 8192
"""Tokens of one run, padding included; bounds the memory that attention takes."""

XLA_LENGTHS = (16, 32, 64, 128, 256, 512)
"""XLA compiles for each shape anew, so sequences are padded up to one of these, or to the longest possible."""


class GraphEngine(Engine):
    """Runs a frozen graph. Only attention pads, sequences of like length to the longest of them."""

    def __init__(self, settings: EngineSettings) -> None:
        """
        Raises:
            EngineError: the graph is damaged, or the device is not there.
        """
        self.settings = settings
        self.token_level = settings.pooling_strategy == PoolingStrategy.NONE.name
        tf = tensorflow_on(settings.device)
        self._version = tf.__version__
        assert settings.frozen_graph
        directory = Path(settings.frozen_graph)
        open_format(directory, FORMAT)
        graph_def = tf.compat.v1.GraphDef.FromString((directory / GRAPH).read_bytes())
        try:
            self._run = _session(tf, graph_def, directory, settings)
        except tf.errors.OpError as error:
            raise EngineError(f"TensorFlow cannot load the graph: {str(error).splitlines()[0]}") from error

    def encode(self, batch: Sequence[Features]) -> np.ndarray:
        lengths = np.fromiter(map(len, batch), np.int32, len(batch))
        runs = []
        for indices in plan(lengths):
            inputs = lay_out([batch[i] for i in indices])
            if self.settings.xla:
                inputs = pad(inputs, *xla_shape(len(indices), int(lengths[indices[0]]), self.settings.max_length))
            runs.append((indices, self._run(*inputs)))
        if self.token_level:
            return _tokens(runs, lengths)
        result = np.empty((len(batch), runs[0][1].shape[-1]), runs[0][1].dtype)
        for indices, vectors in runs:
            result[indices] = vectors[:len(indices)]
        return result

    def describe(self) -> str:
        settings = self.settings
        device = "CPU" if settings.device < 0 else f"GPU {settings.device}"
        return (f"TensorFlow {self._version} on {device}, {counted(settings.num_threads, 'thread')}, "
                f"{settings.precision}{', xla' if settings.xla else ''}")


# ---- batches ---------------------------------------------------------------------------------------------------------

def plan(lengths: np.ndarray) -> list[np.ndarray]:
    """Which sequences to run together so that attention pads little: indices, the longest sequence first.

    Args:
        lengths: int [B].
    """
    order = np.argsort(-lengths, kind="stable")
    groups, start, padding = [], 0, 0
    for i, length in enumerate(lengths[order].tolist()):
        longest = int(lengths[order[start]])
        padding += longest - length
        tokens = (i + 1 - start) * longest
        if i > start and (padding > RUN_COST + tokens // 8 or tokens > MOST_TOKENS):
            groups.append(order[start:i])
            start, padding = i, 0
    groups.append(order[start:])
    return groups


def lay_out(batch: Sequence[Features]) -> list[np.ndarray]:
    """The graph's INPUTS for these sequences."""
    ids, types, mask = (np.concatenate([getattr(features, name) for features in batch], dtype=np.int32)
                        for name in ("input_ids", "token_type_ids", "input_mask"))
    lengths = np.fromiter(map(len, batch), np.int32, len(batch))
    width = int(lengths.max())
    is_token = np.arange(width) < lengths[:, None]                                                    # [B, L]
    places = np.flatnonzero(is_token).astype(np.int32)
    tokens = np.zeros((len(batch), width), np.int32)
    tokens[is_token] = np.arange(len(ids))
    return [ids, types, places % width, mask, places, tokens, lengths]


def pad(inputs: list[np.ndarray], rows: int, width: int) -> list[np.ndarray]:
    """INPUTS for that many sequences, all of that length: those that there are, and whatever.

    What is added is computed in vain: each sequence sees ``lengths`` of its tokens only.
    """
    ids, types, positions, mask, places, tokens, lengths = inputs
    total, (sequences, longest) = rows * width, tokens.shape
    *flat, places = (np.pad(array, (0, total - len(ids)))
                     for array in (ids, types, positions, mask, places // longest * width + places % longest))
    tokens = np.pad(tokens, ((0, rows - sequences), (0, width - longest)))
    return [*flat, places, tokens, np.pad(lengths, (0, rows - sequences), constant_values=1)]


def xla_shape(rows: int, width: int, max_length: int) -> tuple[int, int]:
    """One of a few shapes, at least that large: rows a power of two, a width from XLA_LENGTHS."""
    wider = next((length for length in XLA_LENGTHS if length >= width), max_length)
    return 1 << (rows - 1).bit_length(), min(wider, max_length)


def _tokens(runs: Sequence[tuple[np.ndarray, np.ndarray]], lengths: np.ndarray) -> np.ndarray:
    """Rows of all tokens in the batch's order, without padding, from runs of [rows, width, D]."""
    ends = np.cumsum(lengths)
    sample = runs[0][1]
    result = np.empty((ends[-1], sample.shape[-1]), sample.dtype)
    for indices, vectors in runs:
        for i, rows in zip(indices, vectors):
            result[ends[i] - lengths[i]:ends[i]] = rows[:lengths[i]]
    return result


# ---- TensorFlow ------------------------------------------------------------------------------------------------------

def tensorflow_on(device: int) -> Any:
    """TensorFlow, seeing only that GPU, or none for -1.

    Raises:
        EngineError: it is not installed, or sees no such GPU.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        tf = import_tensorflow()
    except ImportError as error:
        raise EngineError(f"TensorFlow cannot be imported: {error}; install './server[cpu]' (or [gpu])") from error
    if device >= 0 and not tf.config.list_physical_devices("GPU"):
        raise EngineError(f"TensorFlow {tf.__version__} sees no GPU {device}; check its driver and that this "
                          "TensorFlow is built for GPUs, or run with -cpu")
    return tf


def _session(tf: Any, graph_def: tf.compat.v1.GraphDef, directory: Path,
             settings: EngineSettings) -> Callable[..., np.ndarray]:
    """A function from the graph's INPUTS to its vectors."""
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=settings.num_threads, inter_op_parallelism_threads=1, allow_soft_placement=True,
        device_count={"GPU": 0 if settings.device < 0 else 1})
    config.gpu_options.allow_growth = True
    config.gpu_options.per_process_gpu_memory_fraction = settings.gpu_memory_fraction
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=config)
    with graph.as_default():
        form = "vectors"
        if settings.precision == "bf16" and settings.device < 0 and not settings.xla:
            form = "fused" if rounds(tf, session) else "emulated"
        feeds, vectors = _with_variables(tf, graph_def, directory, session, form, compiled=settings.xla)
        run: Callable[..., np.ndarray] = session.make_callable(vectors, feeds)
    return run


def rounds(tf: Any, session: tf.compat.v1.Session) -> bool:
    """Whether TensorFlow rounds a product in bf16 to the nearest number, as it does on processors that have bf16.

    On others it cuts the last digits off, which makes all numbers smaller: three times the error, over the layers.
    """
    row, column = (tf.compat.v1.placeholder(tf.bfloat16, shape) for shape in ([1, 2], [2, 1]))
    product = tf.matmul(row, column)
    # bf16 has no number between 1 and 1 + 2 ** -7.
    return bool(session.run(product, {row: [[1, 1]], column: [[1], [1.5 * 2 ** -8]]}) > 1)


def _with_variables(tf: Any, graph_def: tf.compat.v1.GraphDef, directory: Path, session: tf.compat.v1.Session,
                    form: str, compiled: bool) -> tuple[list[tf.Tensor], tf.Tensor]:
    """The graph with its weights as variables, which can live on a GPU, and which XLA can read.

    On a CPU they are the mapped files themselves: TensorFlow takes an array whose memory is aligned, as a file's pages
    are, without copying it. (ImmutableConst maps them too, but TensorFlow replaces it by a copy.)

    Returns:
        The tensors to feed, and the result of that form.
    """
    feeds = [tf.compat.v1.placeholder(tf.int32, [None] * rank, name) for name, rank in INPUTS.items()]
    variables = {}
    for node in graph_def.node:
        if node.op == "ImmutableConst":
            dtype = tf.as_dtype(node.attr["dtype"].type)
            shape = tf.TensorShape(node.attr["shape"].shape)
            value = tf.compat.v1.placeholder(dtype, shape)
            variable = tf.compat.v1.get_variable(node.name.replace("/", "."), initializer=value, use_resource=True)
            file = os.fsdecode(node.attr["memory_region_name"].s)
            array = np.memmap(directory / file, dtype.as_numpy_dtype, "r", shape=tuple(shape.as_list()))
            session.run(variable.initializer, {value: array})
            variables[f"{node.name}:0"] = variable

    def compute(*inputs: tf.Tensor) -> list[tf.Tensor]:
        replaced = {f"{name}:0": tensor for name, tensor in zip(INPUTS, inputs)}
        replaced |= {name: variable.read_value() for name, variable in variables.items()}
        results: list[tf.Tensor] = tf.graph_util.import_graph_def(graph_def, input_map=replaced, name="",
                                                                  return_elements=[f"{form}:0"])
        return results

    if compiled:
        compute = tf.function(compute, jit_compile=True, autograph=False)
    return feeds, compute(*feeds)[0]
