"""One engine in a process of its own, run by the Python of that engine's environment.

    python engines.py onnxruntime '{"file": "minilm.onnx", "threads": 2}'

It is run as a file, not as a module of this package: a peer's environment has neither this package nor what it needs.
NumPy is all that they share. Requests and answers are lines of JSON on standard input and output:

    (at the start)                                      {"ready": "onnxruntime 1.27.0", "precision": "fp32"}
    {"do": "load", "name": "short",
     "file": "a.json", "max_seq_len": 25}               {}
    {"do": "run", "name": "short", "repeat": 1}         {"seconds": [0.83]}
    {"do": "write", "name": "short", "file": "a.npy"}   {}

A file of sequences is JSON: lists of token numbers. ``run`` times all of them, ``repeat`` times over; ``write`` saves
their vectors, float32 [sequences, D]. ``precision`` is what the runtime says that the matrix products are computed in,
never what was asked for; several are joined by a plus. Whatever goes wrong ends the process, with the reason as
``{"error": "..."}``.
"""
from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import numpy as np

Tokens = Sequence[int]

Compute = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""int64 [B, L] token numbers and [B, L] mask -> float32 [B, D], the mean of each sequence's tokens."""

BATCH = 32
"""Sequences of a batch: sentence-transformers' default."""


# ---- padding, which is how the peers compute -------------------------------------------------------------------------

def batches(lengths: Sequence[int], size: int, by_length: bool) -> Iterator[np.ndarray]:
    """Indices of the sequences that go together, ``size`` of them; the longest first, if they go by length."""
    order = np.argsort(-np.asarray(lengths), kind="stable") if by_length else np.arange(len(lengths))
    for start in range(0, len(order), size):
        yield order[start:start + size]


def padded(sequences: Sequence[Tokens], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Token numbers and mask, int64 [B, width] each."""
    ids, mask = np.zeros((2, len(sequences), width), np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, :len(sequence)] = sequence
        mask[row, :len(sequence)] = 1
    return ids, mask


def mean(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean of each sequence's tokens: float32 [B, L, D] and [B, L] -> [B, D]."""
    weights = mask.astype(np.float32)
    total: np.ndarray = np.matmul(weights[:, None, :], hidden)[:, 0]
    return total / weights.sum(1, keepdims=True)


class Padding:
    """An engine that computes rectangles: sequences of like length together, padded to the longest of them.

    Args:
        compute: computes a rectangle.
        size: sequences of a batch.
        to_most: pad to max_seq_len instead, and take the sequences as they come.
    """

    def __init__(self, compute: Compute, size: int = BATCH, to_most: bool = False) -> None:
        self.compute, self.size, self.to_most = compute, size, to_most

    def prepare(self, sequences: list[Tokens], max_seq_len: int) -> tuple[list[Tokens], int]:
        return sequences, max_seq_len

    def encode(self, prepared: tuple[list[Tokens], int]) -> np.ndarray:
        sequences, max_seq_len = prepared
        lengths = [len(sequence) for sequence in sequences]
        result: np.ndarray | None = None
        for indices in batches(lengths, self.size, by_length=not self.to_most):
            width = max_seq_len if self.to_most else max(lengths[i] for i in indices)
            vectors = self.compute(*padded([sequences[i] for i in indices], width))
            if result is None:
                result = np.empty((len(sequences), vectors.shape[1]), np.float32)
            result[indices] = vectors
        assert result is not None
        return result


# ---- the engines -----------------------------------------------------------------------------------------------------
# Each takes the options of its command line, imports its library, and returns an engine, what runs, and the precision
# that its runtime reports.

Ready = tuple[Any, str, str]

TINY = np.array([[101, 7592, 102]], np.int64)
"""Token numbers of a sentence that shows what a runtime does."""

NAMES = {"float32": "fp32", "float": "fp32", "f32": "fp32", "bfloat16": "bf16", "float16": "fp16", "f16": "fp16",
         "i8": "int8", "u8": "int8", "uint8": "int8", "split": "fp32 as 2 x bf16", "strict": "fp32 as 3 x bf16"}
"""The runtimes' own names of types -> ours; a name that is missing here stays as it is."""


def stated(types: Iterable[Any]) -> str:
    """The precision of the matrix products whose types a runtime reports, the most frequent first.

    Raises:
        ValueError: it reports none.
    """
    names = [str(kind).replace("torch.", "").lower() for kind in types]
    counts = Counter(NAMES.get(name, name) for name in names)
    if not counts:
        raise ValueError("the runtime reports no matrix product, so its precision is unknown")
    return "+".join(name for name, _ in counts.most_common())


def pytorch(options: dict[str, Any]) -> Ready:
    """sentence-transformers' model, from token numbers on, as its ``encode`` calls it."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(options["threads"])
    dtype = {"bf16": torch.bfloat16}.get(options["precision"], torch.float32)
    model = SentenceTransformer(options["file"], device="cpu", model_kwargs={"dtype": dtype})
    model.eval()

    def compute(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            result = model({"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)})
            vectors: np.ndarray = result["sentence_embedding"].float().numpy()
        return vectors

    about = f"torch {torch.__version__}, sentence-transformers {_version('sentence-transformers')}"
    return Padding(compute), about, stated(_linear_types(torch, model, compute))


def _linear_types(torch: Any, model: Any, compute: Compute) -> list[Any]:
    """The types that PyTorch's linear layers give in a run: autocast changes these, and not the parameters."""
    types: list[Any] = []
    hooks = [layer.register_forward_hook(lambda layer, inputs, output: types.append(output.dtype))
             for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    compute(TINY, np.ones_like(TINY))
    for hook in hooks:
        hook.remove()
    # With this setting, oneDNN may compute products of fp32 in bf16.
    if torch.get_float32_matmul_precision() == "medium":
        types = ["bf16" if kind == torch.float32 else kind for kind in types]
    return types


def onnxruntime(options: dict[str, Any]) -> Ready:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options["threads"]
    session = ort.InferenceSession(options["file"], settings, providers=["CPUExecutionProvider"])

    def compute(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return mean(session.run(None, {"input_ids": ids, "attention_mask": mask})[0], mask)

    return Padding(compute), f"onnxruntime {ort.__version__}", stated(_profiled_types(ort, options["file"]))


def _profiled_types(ort: Any, file: str) -> list[str]:
    """The type of each matrix product that ONNX Runtime runs, from its own profile of a run."""
    settings = ort.SessionOptions()
    settings.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        settings.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
        session.run(None, {"input_ids": TINY, "attention_mask": np.ones_like(TINY)})
        events = json.loads(Path(session.end_profiling()).read_text())
    types: list[str] = []
    for event in events:
        arguments = event.get("args", {})
        if PRODUCT.search(arguments.get("op_name", "")) and "input_type_shape" in arguments:
            kinds = {kind for shaped in arguments["input_type_shape"] for kind in shaped}
            # An operator in 8 bits may take activations in fp32, and quantizes them; others have masks in integers.
            types += [kind for kind in ("int8", "uint8", "bfloat16", "float16", "float") if kind in kinds][:1]
    return types


PRODUCT = re.compile(r"MatMul|Gemm|Attention$")
"""ONNX operators that are matrix products, quantized and fused ones too."""


def ctranslate2(options: dict[str, Any]) -> Ready:
    import ctranslate2 as ct2

    encoder = ct2.Encoder(options["file"], device="cpu", compute_type={"fp32": "float32", "bf16": "bfloat16"}.get(
        options["precision"], options["precision"]), intra_threads=options["threads"], inter_threads=1)

    def compute(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        lengths = np.ascontiguousarray(mask.sum(1), np.int32)
        output = encoder.forward_batch(ct2.StorageView.from_array(ids.astype(np.int32)),
                                       ct2.StorageView.from_array(lengths))
        return mean(np.asarray(output.last_hidden_state), mask)

    # "int8_float32": the type of the products, then that of everything else.
    return Padding(compute), f"ctranslate2 {ct2.__version__}", stated([encoder.compute_type.partition("_")[0]])


def openvino(options: dict[str, Any]) -> Ready:
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": options["threads"], "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "bf16" if "bf16" in (options["precision"], options.get("hint")) else "f32"}
    compiled = ov.Core().compile_model(options["file"], "CPU", settings)
    request = compiled.create_infer_request()

    def compute(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": ids, "attention_mask": mask}
        return mean(request.infer(inputs, share_inputs=True, share_outputs=True)[0], mask)

    compute(TINY, np.ones_like(TINY))                  # The graph that is executed is known after a run.
    return Padding(compute), f"openvino {ov.__version__.partition('-')[0]}", stated(_executed_types(compiled))


def _executed_types(compiled: Any) -> list[str]:
    """The types in which OpenVINO executes its matrix products."""
    executed = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops()]
    return [_text(info["runtimePrecision"]) for info in executed
            if "layerType" in info and "runtimePrecision" in info and _text(info["layerType"]) in PRODUCTS]


PRODUCTS = {"FullyConnected", "MatMul"}
"""Types of layers of OpenVINO's executed graphs."""


def _text(value: Any) -> str:
    """Of OpenVINO's values of any type, or of text."""
    return str(value.astype(str) if hasattr(value, "astype") else value)


def original(options: dict[str, Any]) -> Ready:
    """The original server's own modeling.py on today's TensorFlow, padded to max_seq_len as the original server does.

    Two functions that it calls are gone since: both are written here with the operations that they consisted of.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    tf = tensorflow.compat.v1

    def dense(x: Any, units: int, activation: Any = None, name: str = "dense", kernel_initializer: Any = None) -> Any:
        with tf.variable_scope(name):
            y = tf.nn.bias_add(tf.matmul(x, tf.get_variable("kernel", [x.shape[-1], units], tf.float32)),
                               tf.get_variable("bias", [units], tf.float32))
        return activation(y) if activation else y

    def layer_norm(inputs: Any, begin_norm_axis: int, begin_params_axis: int, scope: Any) -> Any:
        with tf.variable_scope(scope, "LayerNorm"):
            beta = tf.get_variable("beta", inputs.shape[-1:], tf.float32)
            gamma = tf.get_variable("gamma", inputs.shape[-1:], tf.float32)
        average, variance = tf.nn.moments(inputs, [begin_norm_axis], keepdims=True)
        return tf.nn.batch_normalization(inputs, average, variance, beta, gamma, 1e-12)

    tf.layers = SimpleNamespace(dense=dense)
    tf.contrib = SimpleNamespace(layers=SimpleNamespace(layer_norm=layer_norm))
    sys.modules["tensorflow"] = tf
    path = Path(str(metadata.distribution("bert-serving-server").locate_file("bert_serving/server/bert/modeling.py")))
    # Its package would be imported with it, and with that all that the old server needs.
    spec = importlib.util.spec_from_file_location("modeling", path)
    assert spec and spec.loader
    modeling = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(modeling)
    run, types = _original_graph(tf, modeling, Path(options["file"]), options["threads"])
    return Padding(run, 256, to_most=True), f"tensorflow {tensorflow.__version__}", stated(types)


def _original_graph(tf: Any, modeling: Any, directory: Path, threads: int) -> tuple[Compute, list[str]]:
    """The frozen graph of a directory with a checkpoint, last layer, REDUCE_MEAN; and its matrix products' types."""
    graph = tf.Graph()
    with graph.as_default():
        ids, mask, types = (tf.placeholder(tf.int32, (None, None)) for _ in range(3))
        config = modeling.BertConfig.from_json_file(str(directory / "bert_config.json"))
        model = modeling.BertModel(config=config, is_training=False, input_ids=ids, input_mask=mask,
                                   token_type_ids=types, use_one_hot_embeddings=False)
        weights = tf.expand_dims(tf.cast(mask, tf.float32), -1)
        pooled = tf.reduce_sum(model.all_encoder_layers[-1] * weights, 1) / (tf.reduce_sum(weights, 1) + 1e-10)
        pooled = tf.identity(pooled, "final_encodes")
        with tf.Session() as session:
            used = [variable for variable in tf.trainable_variables() if "pooler" not in variable.name]
            tf.train.Saver(used).restore(session, str(directory / "bert_model.ckpt"))
            frozen = tf.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["final_encodes"])
    with tf.Graph().as_default() as final:
        names = [tensor.name for tensor in (ids, mask, types)]
        *feeds, fetch = tf.import_graph_def(frozen, name="", return_elements=[*names, pooled.name])
    settings = tf.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)
    run = tf.Session(graph=final, config=settings).make_callable(fetch, feeds)
    types = [tf.as_dtype(node.attr["T"].type).name for node in frozen.node if node.op in ("MatMul", "BatchMatMulV2")]
    return lambda ids, mask: run(ids.astype(np.int32), mask.astype(np.int32), np.zeros(ids.shape, np.int32)), types


class Own:
    """This project's engine, from token numbers on, as a worker calls it."""

    def __init__(self, engine: Any, features: Any) -> None:
        self.engine, self.features = engine, features

    def prepare(self, sequences: list[Tokens], max_seq_len: int) -> list[Any]:
        return [self.features(np.array(sequence, np.int32)) for sequence in sequences]

    def encode(self, sequences: list[Any]) -> np.ndarray:
        # As many as a job of the server has: see -max_batch_size.
        jobs = [self.engine.encode(sequences[start:start + 256]) for start in range(0, len(sequences), 256)]
        return np.concatenate(jobs) if len(jobs) > 1 else jobs[0]


def own(options: dict[str, Any]) -> Ready:
    from dataclasses import replace

    from bert_serving.server.config import ServerConfig
    from bert_serving.server.core.features import Features
    from bert_serving.server.engine import artefact, backends, base
    from bert_serving.server.engine.models import resolve

    model = resolve(ServerConfig(model_dir=options["file"], max_seq_len=None, pooling_layer=(-1,), cpu=True,
                                 engine=options.get("backend", "auto"), precision=options["precision"]))
    types_of = WEIGHT_TYPES[model.settings.engine]
    path = artefact.cached(model.settings, model.cache_dir)
    if path is None:
        path = Path(artefact.make(model.settings, model.cache_dir)["path"])
    engine = backends.create(replace(model.settings, artefact=str(path), num_threads=options["threads"]))
    tokenizer = base.create_tokenizer(model.settings)

    def features(ids: np.ndarray) -> Features:
        return Features(ids, np.zeros_like(ids), np.ones_like(ids), 2, tokenizer)

    return Own(engine, features), engine.describe(), stated(types_of(path))


def _lite_types(directory: Path) -> list[str]:
    """The types of the weights that LiteRT says its matrix products take."""
    from ai_edge_litert.interpreter import Interpreter
    from bert_serving.server.engine.lite_model import ENCODER

    tensors = Interpreter(str(directory / ENCODER)).get_tensor_details()
    largest = max(int(np.prod(tensor["shape"])) for tensor in tensors if len(tensor["shape"]) == 2)
    return [np.dtype(tensor["dtype"]).name for tensor in tensors
            if len(tensor["shape"]) == 2 and int(np.prod(tensor["shape"])) == largest]


def _native_types(directory: Path) -> list[str]:
    """The kind of numbers that the weights were laid out in; the library computes in no other."""
    from bert_serving.server.engine.cache import open_sealed

    return [open_sealed(directory)["kind"]]


WEIGHT_TYPES: dict[str, Callable[[Path], list[str]]] = {"native": _native_types, "lite": _lite_types}
"""Value of -engine -> what tells the types of the matrix products from the engine's artefact."""


ENGINES: dict[str, Callable[[dict[str, Any]], Ready]] = {
    "pytorch": pytorch, "onnxruntime": onnxruntime, "openvino": openvino, "ctranslate2": ctranslate2,
    "original": original, "own": own}
"""Name on the command line -> what makes the engine from the options there, and says what it is."""


def _version(package: str) -> str:
    return metadata.version(package)


# ---- requests and answers --------------------------------------------------------------------------------------------

def serve(engine: Any, requests: TextIO, answer: Callable[[dict[str, Any]], None],
          clock: Callable[[], float] = time.perf_counter) -> None:
    """Answer requests until there are no more.

    Args:
        engine: has ``prepare``, from lists of token numbers and max_seq_len to whatever it reads, and ``encode``, from
            that to float32 [B, D].
    """
    loaded: dict[str, Any] = {}
    for line in requests:
        request = json.loads(line)
        if request["do"] == "load":
            loaded[request["name"]] = engine.prepare(json.loads(Path(request["file"]).read_text()),
                                                     request["max_seq_len"])
            answer({})
        elif request["do"] == "write":
            np.save(request["file"], engine.encode(loaded[request["name"]]).astype(np.float32))
            answer({})
        elif request["do"] == "run":
            seconds = []
            for _ in range(request["repeat"]):
                start = clock()
                engine.encode(loaded[request["name"]])
                seconds.append(clock() - start)
            answer({"seconds": seconds})


def main() -> None:
    # Standard output belongs to the answers alone, whatever libraries print meanwhile.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=channel, flush=True)

    try:
        engine, about, precision = ENGINES[sys.argv[1]](json.loads(sys.argv[2]))
        answer({"ready": about, "precision": precision})
        serve(engine, sys.stdin, answer)
    except Exception as error:                         # The outer edge of a process: the driver must learn of it.
        answer({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
        raise


if __name__ == "__main__":
    main()
