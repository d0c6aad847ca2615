"""The TensorFlow backend: a frozen graph in a session, on a CPU or a GPU, compiled with XLA if wanted.

Its artefact is the graph, with large weights in files of their own beside it, where it has nodes ImmutableConst.
Workers put variables in their place that are those files, mapped into memory: all share one copy, and TensorFlow does
not spend many seconds and gigabytes on optimizing a graph with constants of that size.
"""
from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_serving.client.words import counted

from ... import golden
from ...config import MB, PoolingStrategy
from ...core.features import Features
from ...core.packing import pool_mask
from ...errors import EngineError
from ..architectures import from_file
from ..base import Engine, EngineSettings
from ..cache import open_format, write_file
from ..graph_model import INPUTS, build_graph
from ..heads import HeadLayers, head_variables
from ..pooling import POOLER_STRATEGIES
from ..positions import table_rows
from ..quiet import import_tensorflow, tensorflow_version
from ..rows import array_file, write_array
from ..spec import EncoderSpec, TablePositions
from ..tf_encoder import COMPUTES
from ..weights import Checkpoint
from .base import Backend, Footprint

if TYPE_CHECKING:
    import tensorflow as tf

logger = logging.getLogger(__name__)

FORMAT = 7
"""To be raised with every change to the graph or to its files."""

GRAPH = "graph.pb"

OWN_FILE = 1 << 16
"""Weights of this many bytes or more are kept outside the graph."""

RUN_COST = 32
"""What one run of the graph costs beside its tokens, in tokens: so much padding is cheaper than another run.

Measured when all of a run was padded. Only attention is now, so larger runs may be better; that was not measured.
"""

MAX_TOKENS = 8192
"""Tokens of one run, padding included; bounds the memory that attention takes."""

XLA_LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""XLA compiles for each shape anew, so sequences are padded up to one of these, or to the longest possible."""


class GraphBackend(Backend):
    """TensorFlow, on CPUs and GPUs, and the only one with XLA and half precision."""

    name = "graph"
    about = "on CPUs and GPUs"
    precisions = frozenset({"fp32", "bf16", "fp16"})
    gpus = xla = measures_precision = True
    departures = COMPUTES

    def version(self) -> str:
        return tensorflow_version()

    def key(self, settings: EngineSettings, spec: EncoderSpec) -> dict[str, Any]:
        return {"format": FORMAT, "tensorflow": self.version(), "strategy": settings.pooling.name,
                "layers": None if settings.strategy in POOLER_STRATEGIES else settings.pooling_layer,
                "no_position_embeddings": settings.no_position_embeddings, "precision": settings.precision}

    def make(self, directory: Path, settings: EngineSettings, spec: EncoderSpec,
             checkpoint: Checkpoint) -> dict[str, Any]:
        graph = build_graph(spec, _constants(checkpoint, directory),
                            pooling=settings.pooling, layers=settings.pooling_layer,
                            precision=settings.precision, position_embeddings=not settings.no_position_embeddings)
        write_file(directory / GRAPH, graph.as_graph_def().SerializeToString(deterministic=True))
        for name in head_variables(spec, settings.strategy):
            write_array(directory, name, checkpoint.read_as(name))
        return {"format": FORMAT}

    def maker(self) -> str:
        return f"TensorFlow {self.version()}"

    def open(self, settings: EngineSettings) -> GraphEngine:
        return GraphEngine(settings)

    def check_device(self, device: int) -> str:
        return f"TensorFlow {tensorflow_on(device).__version__} sees GPU {device}"

    def extra(self, on_gpu: bool) -> str:
        return "gpu" if on_gpu else "cpu"

    def footprint(self, settings: EngineSettings) -> Footprint:
        return Footprint(worker=325 * MB, libraries=270 * MB, weights_are_shared=True, conversion=650 * MB,
                         conversion_factor=1.1)


BACKEND = GraphBackend()


def _constants(checkpoint: Checkpoint, directory: Path) -> Callable[..., tf.Tensor]:
    """Makes tensors of a checkpoint's variables; the large ones are read, written to a file, and forgotten."""
    import tensorflow as tf

    @cache
    def constant(name: str, dtype: tf.DType, *beside: str) -> tf.Tensor:
        array = checkpoint.read_as(name, dtype.as_numpy_dtype)
        if beside:
            array = np.concatenate([array, *(checkpoint.read_as(other, dtype.as_numpy_dtype) for other in beside)], -1)
        if array.nbytes < OWN_FILE:
            return tf.constant(array, name=name)
        file = f"{name.replace('/', '.')}.{dtype.name}"    # Forms of one graph may differ in their weights' type.
        write_file(directory / file, array.view(np.uint8).data)    # NumPy's buffers do not know bfloat16.
        return tf.raw_ops.ImmutableConst(dtype=dtype, shape=array.shape, memory_region_name=file, name=name)

    return constant


class GraphEngine(Engine):
    """Runs a frozen graph. Only attention pads, sequences of like length to the longest of them.

    Attributes:
        form: one of the precision's FORMS, the one that it computes with.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """
        Raises:
            EngineError: the graph is damaged, or the device is not there.
        """
        self.settings = settings
        self.token_level = settings.strategy is PoolingStrategy.NONE
        tf = tensorflow_on(settings.device)
        self._version = tf.__version__
        assert settings.artefact and settings.config_file
        directory = Path(settings.artefact)
        open_format(directory, FORMAT)
        _, self._spec = from_file(settings.config_file)
        self._head = None
        if settings.strategy in POOLER_STRATEGIES:
            arrays = {name: np.load(directory / array_file(name), allow_pickle=False)
                      for name in head_variables(self._spec, settings.strategy)}
            self._head = HeadLayers(self._spec, settings.strategy, arrays, settings.scores)
        graph_def = tf.compat.v1.GraphDef.FromString((directory / GRAPH).read_bytes())
        try:
            self._run, self.form = _choose(_Session(tf, graph_def, directory, settings), settings)
        except tf.errors.OpError as error:
            raise EngineError(f"TensorFlow cannot load the graph: {str(error).splitlines()[0]}") from error

    def encode(self, batch: Sequence[Features]) -> np.ndarray:
        lengths = np.fromiter(map(len, batch), np.int32, len(batch))
        runs = []
        for indices in plan(lengths):
            runs.append((indices, self._run(*lay_out([batch[i] for i in indices], self._spec))))
        if self.token_level:
            return _tokens(runs, lengths)
        if self._head is not None:
            runs = [(indices, self._head(vectors.astype(np.float32)).astype(vectors.dtype))
                    for indices, vectors in runs]
        result = np.empty((len(batch), runs[0][1].shape[-1]), runs[0][1].dtype)
        for indices, vectors in runs:
            result[indices] = vectors
        return result

    def describe(self) -> str:
        settings = self.settings
        device = "CPU" if settings.device < 0 else f"GPU {settings.device}"
        return (f"TensorFlow {self._version} on {device}, {counted(settings.num_threads, 'thread')}, "
                f"{settings.precision}"
                f"{' computed in fp32' if self.form == 'float32' else ''}{', xla' if settings.xla else ''}")


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
        if i > start and (padding > RUN_COST + tokens // 8 or tokens > MAX_TOKENS):
            groups.append(order[start:i])
            start, padding = i, 0
    groups.append(order[start:])
    return groups


def lay_out(batch: Sequence[Features], spec: EncoderSpec) -> list[np.ndarray]:
    """The graph's INPUTS for these sequences."""
    ids, types, mask = (np.concatenate([getattr(features, name) for features in batch], dtype=np.int32)
                        for name in ("input_ids", "token_type_ids", "input_mask"))
    return _inputs(spec, ids, types, mask, pool_mask(batch, mask), np.fromiter(map(len, batch), np.int32, len(batch)))


def _inputs(spec: EncoderSpec, ids: np.ndarray, types: np.ndarray, mask: np.ndarray, pooled: np.ndarray,
            lengths: np.ndarray) -> list[np.ndarray]:
    """The graph's INPUTS for sequences of these lengths, whose tokens follow each other."""
    width = int(lengths.max())
    is_token = np.arange(width) < lengths[:, None]                                                    # [B, L]
    places = np.flatnonzero(is_token).astype(np.int32)
    tokens = np.zeros((len(lengths), width), np.int32)
    tokens[is_token] = np.arange(len(ids))
    position_ids = places % width
    if isinstance(spec.positions, TablePositions):
        position_ids = table_rows(spec, ids, position_ids, np.concatenate([[0], np.cumsum(lengths)]))
    return [ids, types, position_ids, mask, pooled, places, tokens, lengths]


def pad(inputs: Sequence[np.ndarray], rows: int, width: int) -> list[np.ndarray]:
    """INPUTS for that many sequences, all of that length: those that there are, and whatever.

    What is added is computed in vain: each sequence sees ``lengths`` of its tokens only.
    """
    ids, types, positions, mask, pooled, places, tokens, lengths = inputs
    total, (sequences, longest) = rows * width, tokens.shape
    *flat, places = (np.pad(array, (0, total - len(ids)))
                     for array in (ids, types, positions, mask, pooled, places // longest * width + places % longest))
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


class _Session:
    """A TensorFlow session with the graph's weights as variables, which can live on a GPU, and which XLA can read.

    On a CPU they are the mapped files themselves: TensorFlow takes an array whose memory is aligned, as a file's pages
    are, without copying it. (ImmutableConst maps them too, but TensorFlow replaces it by a copy.)
    """

    def __init__(self, tf: Any, graph_def: tf.compat.v1.GraphDef, directory: Path, settings: EngineSettings) -> None:
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=settings.num_threads, inter_op_parallelism_threads=1,
            allow_soft_placement=True, device_count={"GPU": 0 if settings.device < 0 else 1})
        config.gpu_options.allow_growth = True
        config.gpu_options.per_process_gpu_memory_fraction = settings.gpu_memory_fraction
        self.tf, self._directory, self._max_length = tf, directory, settings.max_length
        self._graph_def = graph_def
        self._variables: dict[str, Any] = {}
        self.graph = tf.Graph()
        self.session = tf.compat.v1.Session(graph=self.graph, config=config)
        with self.graph.as_default():
            self.feeds = {name: tf.compat.v1.placeholder(tf.int32, [None] * rank, name)
                          for name, rank in INPUTS.items()}

    def run(self, form: str, compiled: bool = False) -> Callable[..., np.ndarray]:
        """A function from the graph's INPUTS to its result of that form."""
        with self.graph.as_default():
            result = self.result(form, compiled)
            run: Callable[..., np.ndarray] = self.session.make_callable(result, list(self.feeds.values()))
        if not compiled:
            return run

        def padded(*inputs: np.ndarray) -> np.ndarray:
            rows, width = inputs[-2].shape             # Of the tokens; XLA compiles for each shape anew.
            vectors = run(*pad(inputs, *xla_shape(rows, width, self._max_length)))[:rows]
            return vectors[:, :width] if vectors.ndim == 3 else vectors

        return padded

    def result(self, form: str, compiled: bool = False) -> tf.Tensor:
        """The result of that form, its weights being loaded."""
        part = _part(self._graph_def, form)
        names = [node.name for node in part.node]
        inputs = [name for name in INPUTS if name in names]
        variables = self._load([node for node in part.node if node.op == "ImmutableConst"])

        def compute(*tensors: tf.Tensor) -> list[tf.Tensor]:
            replaced = {f"{name}:0": tensor for name, tensor in zip(inputs, tensors)}
            replaced |= {f"{name}:0": variable.read_value() for name, variable in variables.items()}
            results: list[tf.Tensor] = self.tf.graph_util.import_graph_def(part, input_map=replaced, name="",
                                                                           return_elements=[f"{form}:0"])
            return results

        if compiled:
            compute = self.tf.function(compute, jit_compile=True, autograph=False)
        return compute(*(self.feeds[name] for name in inputs))[0]

    def keep(self, form: str) -> None:
        """Forget the weights that this form does not need."""
        needed = {node.name for node in _part(self._graph_def, form).node}
        with self.graph.as_default():
            self.session.run([self.tf.raw_ops.DestroyResourceOp(resource=self._variables.pop(name).handle)
                              for name in self._variables.keys() - needed])

    def _load(self, nodes: Sequence[tf.compat.v1.NodeDef]) -> dict[str, Any]:
        """Name -> variable, for these nodes, in place of which it is."""
        tf, initializers, arrays = self.tf, [], {}
        for node in nodes:
            if node.name not in self._variables:
                dtype = tf.as_dtype(node.attr["dtype"].type)
                shape = tf.TensorShape(node.attr["shape"].shape)
                value = tf.compat.v1.placeholder(dtype, shape)
                variable = tf.compat.v1.get_variable(node.name.replace("/", "."), initializer=value, use_resource=True)
                file = self._directory / os.fsdecode(node.attr["memory_region_name"].s)
                arrays[value] = np.memmap(file, dtype.as_numpy_dtype, "r", shape=tuple(shape.as_list()))
                initializers.append(variable.initializer)
                self._variables[node.name] = variable
        self.session.run(initializers, arrays)         # At once: each run of a graph that has grown takes its time.
        return {node.name: self._variables[node.name] for node in nodes}


def _part(graph_def: tf.compat.v1.GraphDef, form: str) -> tf.compat.v1.GraphDef:
    """Those nodes of a graph that the result of this form depends on."""
    nodes, wanted, needed = {node.name: node for node in graph_def.node}, [form], set()
    while wanted:
        name = wanted.pop()
        if name not in needed:
            needed.add(name)
            wanted += [source.removeprefix("^").partition(":")[0] for source in nodes[name].input]
    part = type(graph_def)(versions=graph_def.versions)
    part.node.extend(node for node in graph_def.node if node.name in needed)
    return part


def rounds(tf: Any, session: tf.compat.v1.Session) -> bool:
    """Whether TensorFlow rounds a product in bf16 to the nearest number, as it does on processors that have bf16.

    On others it cuts the last digits off, which makes all numbers smaller: three times the error, over the layers.
    """
    row, column = (tf.compat.v1.placeholder(tf.bfloat16, shape) for shape in ([1, 2], [2, 1]))
    product = tf.matmul(row, column)
    # bf16 has no number between 1 and 1 + 2 ** -7.
    return bool(session.run(product, {row: [[1, 1]], column: [[1], [1.5 * 2 ** -8]]}) > 1)


# ---- the form to compute with ----------------------------------------------------------------------------------------

IN_WORDS = {"vectors": "products and activations in {}", "fused": "products and activations in {}",
            "unfused": "products in {}, all else in fp32", "float32": "fp32"}

SLACK = 1.5
"""A form in 16 bits may take so many times what float32 takes. It reads half the weights, and what two starts on a busy
machine measure should lead to the same form."""

TOO_SLOW = 2.0
"""What takes so many times what fp32 takes is worth a warning."""

ABANDON = 4.0
"""A form that takes so many times what float32 takes is measured no further."""

PREPARATION_SECONDS = 0.5
"""Most that the first run of a form may take beside its computation, for TensorFlow to prepare it."""

ROUNDS = 2
SAMPLES = ((1, 8), (8, 12))
"""Batches to measure with: (sentences, tokens of each)."""


def choose_form(seconds: Mapping[str, float], baseline: str) -> str:
    """The form to compute with, given what each takes for the same batches.

    Args:
        seconds: of each form that may be chosen, the baseline among them.
        baseline: the form that takes what fp32 takes.
    """
    fastest = min((form for form in seconds if form != baseline), key=seconds.__getitem__, default=baseline)
    return fastest if seconds[fastest] <= SLACK * seconds[baseline] else baseline


def seconds_of(run: Callable[[int], object], samples: int, most: float = math.inf) -> float:
    """What it takes to run each of the samples once, at best of a few rounds.

    Args:
        run: takes the number of a sample, from 0.
        most: who takes longer is measured no further, and the answer is what it took until then.
    """
    started = time.perf_counter()
    run(0)
    first = time.perf_counter() - started
    if first > most + PREPARATION_SECONDS:
        return first
    best = math.inf
    for number in range(ROUNDS + 1):
        started = time.perf_counter()
        for sample in range(samples):
            run(sample)
            taken = time.perf_counter() - started
            if taken > most:
                return taken
        # The first round reads weights from the disk.
        best = min(best, taken) if number else best
    return best


class _Trial:
    """Runs forms in turn, on the same batches of nothing in particular.

    Attributes:
        seconds: what each form took, by name.
    """

    def __init__(self, settings: EngineSettings, samples: Sequence[tuple[int, int]] = SAMPLES) -> None:
        assert settings.config_file
        _, spec = from_file(settings.config_file)
        self.samples = [_sample(rows, min(width, settings.max_length), spec) for rows, width in samples]
        self.tokens = sum(len(sample[0]) for sample in self.samples)
        self.seconds: dict[str, float] = {}
        self._shown: dict[str, str] = {}
        self._precision = settings.precision

    def measure(self, name: str, run: Callable[..., np.ndarray], baseline: str = "") -> bool:
        """Note what it takes, at best; whether its vectors agree with those of the baseline, measured before."""
        vectors: dict[int, np.ndarray] = {}

        def once(sample: int) -> None:
            vectors[sample] = run(*self.samples[sample])

        most = ABANDON * self.seconds[baseline] if baseline else math.inf
        seconds = min(seconds_of(once, len(self.samples), most), self.seconds.get(name, math.inf))
        self.seconds[name] = seconds
        self._shown[name] = f"{'over ' if seconds > most else ''}{1000 * seconds:.1f} ms"
        if not baseline:
            self._expected = vectors
        return all(self._agree(rows, self._expected[sample]) for sample, rows in vectors.items())

    def _agree(self, rows: np.ndarray, expected: np.ndarray) -> bool:
        return golden.difference(rows, expected, self._precision, same_engine=True) is None

    def choose(self, forms: Sequence[str]) -> str:
        """One of these, see :func:`choose_form`."""
        return choose_form({form: self.seconds[form] for form in forms}, "float32")

    def took(self, precision: str = "") -> str:
        """What each form took, in words."""
        each = "; ".join(f"{IN_WORDS.get(name, name).format(precision)}: {shown}"
                         for name, shown in self._shown.items())
        return f"{counted(self.tokens, 'token')}: {each}"


def _sample(rows: int, width: int, spec: EncoderSpec) -> list[np.ndarray]:
    """The graph's INPUTS for so many sequences of that length."""
    total = rows * width
    return _inputs(spec, np.arange(total, dtype=np.int32) * 37 % spec.vocab_size, np.zeros(total, np.int32),
                   np.ones(total, np.int32), np.ones(total, np.int32), np.full(rows, width, np.int32))


def _choose(session: _Session, settings: EngineSettings) -> tuple[Callable[..., np.ndarray], str]:
    """What computes the vectors, and the form that it is."""
    precision = settings.precision
    if settings.device >= 0:
        return session.run("vectors", settings.xla), "vectors"
    if settings.xla:
        return _compiled(session, settings), "vectors"
    if precision == "fp32":
        return session.run("vectors"), "vectors"
    candidates = ["vectors", "unfused"] if precision == "fp16" else ["fused"]
    if precision == "bf16":
        with session.graph.as_default():
            if not rounds(session.tf, session.session):
                logger.warning("TensorFlow is not exact in bf16 on this processor, so the worker computes in fp32; "
                               "-precision fp32 is no slower, and with engine lite faster")
                return session.run("float32"), "float32"
    trial, runs = _Trial(settings), {"float32": session.run("float32")}
    trial.measure("float32", runs["float32"])
    agreeing = ["float32"]
    for form in candidates:
        runs[form] = session.run(form)
        if not trial.measure(form, runs[form], "float32"):
            logger.warning("%s are not used: their vectors are wrong on this processor",
                           IN_WORDS[form].format(precision))
            continue
        agreeing.append(form)
        if SLACK < trial.seconds[form] / trial.seconds["float32"] < ABANDON:    # Something else may have held it up.
            trial.measure("float32", runs["float32"])
            trial.measure(form, runs[form], "float32")
        if trial.choose(agreeing) == form:
            break                                      # The next one does less in 16 bits.
    form = trial.choose(agreeing)
    if form == "float32":
        logger.warning("-precision %s does not pay on this processor, so the worker computes in fp32 (%s); -precision "
                       "fp32 is no slower, and with engine lite faster", precision, trial.took(precision))
    else:
        logger.info("computing with %s (%s)", IN_WORDS[form].format(precision), trial.took(precision))
    session.keep(form)
    return runs[form], form


def _compiled(session: _Session, settings: EngineSettings) -> Callable[..., np.ndarray]:
    """The graph compiled by XLA, as it was asked for; if that is slow, the log says so."""
    run = session.run("vectors", compiled=True)

    trial = _Trial(settings, SAMPLES[:1])              # XLA compiles for seconds for each.
    trial.measure("fp32 without -xla", session.run("vectors" if settings.precision == "fp32" else "float32"))
    run(*trial.samples[0])
    trial.measure("-xla", run, "fp32 without -xla")
    if trial.seconds["-xla"] > TOO_SLOW * trial.seconds["fp32 without -xla"]:
        logger.warning("-xla with -precision %s is slow on this processor (%s); leave it out, and -precision fp32",
                       settings.precision, trial.took())
    session.keep("vectors")
    return run
