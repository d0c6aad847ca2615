"""The backend of ONNX Runtime, on CPUs: the encoder as an ONNX graph, written without any other library's help."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.client.words import counted

from ...config import MB
from ...errors import EngineError
from .. import rows
from ..base import EngineSettings
from ..cache import write_file
from ..quiet import installed
from ..rows import Read, RowEngine
from ..spec import ACTIVATIONS, Departure, EncoderSpec
from ..weights import Checkpoint
from .base import Backend, Footprint

FORMAT = 1
"""To be raised with every change to the graph or to its files."""

OPSET, IR_VERSION = 20, 9
"""The first with Gelu, and the file format that goes with it."""

MODEL = "encoder.onnx"


class OnnxBackend(Backend):
    """ONNX Runtime. Taken where it is asked for: on the machines that were measured, ``lite`` is faster."""

    name = "onnx"
    precisions = frozenset({"fp32"})
    departures = frozenset({Departure.NO_TOKEN_TYPES, Departure.POSITION_OFFSET})
    activations = frozenset(ACTIVATIONS) - {"silu"}

    def version(self) -> str:
        return installed("ONNX Runtime is not installed; install './server[onnx]'", "onnxruntime")

    def maker(self) -> str:
        version = installed("onnx, which writes the graph, is not installed; install './server[onnx]'", "onnx")
        return f"onnx {version}"

    def key(self, settings: EngineSettings, spec: EncoderSpec) -> dict[str, Any]:
        return {**rows.key(settings, spec), "format": FORMAT}

    def make(self, directory: Path, settings: EngineSettings, spec: EncoderSpec,
             checkpoint: Checkpoint) -> dict[str, Any]:
        self.maker()
        outputs = rows.outputs(settings, spec)
        write_file(directory / MODEL, Graph(spec, checkpoint.read_as).build(outputs))
        rows.write_arrays(directory, settings, spec, checkpoint.read_as)
        return {"format": FORMAT, "outputs": outputs}

    def open(self, settings: EngineSettings) -> OnnxEngine:
        return OnnxEngine(settings)

    def extra(self, on_gpu: bool) -> str:
        return "onnx"

    def footprint(self, settings: EngineSettings) -> Footprint:
        return Footprint(worker=100 * MB, libraries=40 * MB, conversion=100 * MB, conversion_factor=4)


BACKEND = OnnxBackend()


class OnnxEngine(RowEngine):
    """Runs the graph in a session; rows of one sequence give a bias that is the same for all its tokens."""

    def __init__(self, settings: EngineSettings) -> None:
        """
        Raises:
            EngineError: the artefact is damaged, or ONNX Runtime is not installed or cannot load it.
        """
        super().__init__(settings, FORMAT)
        BACKEND.version()
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(f"ONNX Runtime cannot be imported: {error}") from error

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = settings.num_threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(self._directory / MODEL), options,
                                                              providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class
            raise EngineError(f"ONNX Runtime cannot load the model: {error}") from error

    def run(self, inputs: dict[str, np.ndarray], alone: bool) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self._session.run(None, inputs)
        return outputs

    def describe(self) -> str:
        return (f"ONNX Runtime {BACKEND.version()} on CPU, {counted(self.settings.num_threads, 'thread')}, "
                f"{self.settings.precision}")


class Graph:
    """The encoder over rows of packed sequences, as an ONNX graph. Shapes are as in :mod:`spec`; R rows of C tokens.

    Its inputs are ``embeddings``, float32 [R * C, H], not yet normalized, and ``bias``, float32 [R, 1, C or 1, C], what
    is added to the attention scores; its outputs are the layers, float32 [R * C, H] each.
    """

    def __init__(self, spec: EncoderSpec, read: Read) -> None:
        self.spec, self._read = spec, read
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def build(self, layers: list[int]) -> bytes:
        """The serialized model that gives these layers, from 0, ascending; those above the last are left out."""
        from onnx import TensorProto, helper

        hidden = self._norm("embeddings", "embeddings/norm")
        outputs = []
        # [R, C, 3, A, D] of [R * C, 3H], with R and C of the bias.
        shape = self._node("Shape", "bias")
        rows, width = (self._node("Gather", shape, self._constant(np.array([axis]))) for axis in (0, 3))
        tail = self._constant(np.array([3, self.spec.attention.heads, self.spec.head_size]))
        split = self._node("Concat", rows, width, tail, axis=0)
        for number in range(1 + layers[-1]):
            hidden = self._layer(f"layers/{number}", hidden, split)
            if number in layers:
                outputs.append(self._node("Identity", hidden))
        size = self.spec.hidden_size
        graph = helper.make_graph(
            self._nodes, "encoder",
            [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["tokens", size]),
             helper.make_tensor_value_info("bias", TensorProto.FLOAT, ["rows", 1, "seen_by", "width"])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", size]) for name in outputs],
            self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        data: bytes = model.SerializeToString()
        return data

    def _layer(self, name: str, hidden: str, split: str) -> str:
        attended = self._dense(self._attention(f"{name}/attention", hidden, split), f"{name}/attention/output")
        hidden = self._norm(self._node("Add", attended, hidden), f"{name}/attention/norm")
        inner = self._activate(self._dense(hidden, f"{name}/mlp/up"))
        return self._norm(self._node("Add", self._dense(inner, f"{name}/mlp/down"), hidden), f"{name}/mlp/norm")

    def _attention(self, name: str, hidden: str, split: str) -> str:
        kernel, bias = rows.query_key_value(self._read, name, self.spec)
        assert bias is not None
        projected = self._node("Reshape", self._product(hidden, kernel, bias), split)                 # [R, C, 3, A, D]
        query, key, value = (self._node("Squeeze", part, self._constant(np.array([0]))) for part in self._split(
            self._node("Transpose", projected, perm=[2, 0, 3, 1, 4])))                                # [R, A, C, D]
        scores = self._node("MatMul", query, self._node("Transpose", key, perm=[0, 1, 3, 2]))         # [R, A, C, C]
        weights = self._node("Softmax", self._node("Add", scores, "bias"), axis=-1)
        context = self._node("Transpose", self._node("MatMul", weights, value), perm=[0, 2, 1, 3])    # [R, C, A, D]
        shape = self._constant(np.array([-1, self.spec.attention.heads * self.spec.head_size]))
        return self._node("Reshape", context, shape)                                                  # [R * C, H]

    def _activate(self, inputs: str) -> str:
        match self.spec.mlp.activation:
            case "gelu":
                return self._node("Gelu", inputs)
            case "gelu_new":
                return self._node("Gelu", inputs, approximate="tanh")
            case "relu":
                return self._node("Relu", inputs)
            case "tanh":
                return self._node("Tanh", inputs)
        return inputs

    def _norm(self, inputs: str, name: str) -> str:
        gamma, beta = (self._constant(self._read(f"{name}/{part}")) for part in ("gamma", "beta"))
        return self._node("LayerNormalization", inputs, gamma, beta, axis=-1, epsilon=self.spec.norm.eps)

    def _dense(self, inputs: str, name: str) -> str:
        return self._product(inputs, self._read(f"{name}/kernel"), self._read(f"{name}/bias"))

    def _product(self, inputs: str, kernel: np.ndarray, bias: np.ndarray) -> str:
        return self._node("Gemm", inputs, self._constant(kernel), self._constant(bias))

    def _split(self, inputs: str) -> list[str]:
        """Its three parts along the first axis."""
        from onnx import helper

        outputs = [f"{inputs}.{part}" for part in range(3)]
        self._nodes.append(helper.make_node("Split", [inputs], outputs, axis=0, num_outputs=3))
        return outputs

    def _node(self, operation: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"{operation}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operation, list(inputs), [output], **attributes))
        return output

    def _constant(self, array: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name
