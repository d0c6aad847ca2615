"""The backend for CPUs: the converted encoder on LiteRT, several sentences to a row. It serves without TensorFlow."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.client.words import counted

from ...config import MB
from ...core.packing import LONG, Layout
from ...errors import EngineError
from .. import rows
from ..base import EngineSettings
from ..lite_model import ALONE, ENCODER, FORMAT, write_encoders
from ..quiet import installed, quiet_stderr, tensorflow_version
from ..rows import RowEngine, attention_bias, token_bias
from ..spec import EncoderSpec
from ..tf_encoder import COMPUTES
from ..weights import Checkpoint
from .base import Backend, Footprint


class LiteBackend(Backend):
    """LiteRT (TensorFlow Lite with XNNPACK). TensorFlow makes its artefact, in a process of its own."""

    name = "lite"
    about = "the fastest on CPUs"
    precisions = frozenset({"fp32", "int8"})
    departures = COMPUTES

    def version(self) -> str:
        return installed("LiteRT is not installed; install ai-edge-litert or './server[cpu]'", "ai-edge-litert")

    def key(self, settings: EngineSettings, spec: EncoderSpec) -> dict[str, Any]:
        # It does not depend on TensorFlow's version, for a server without TensorFlow to find it.
        return {**rows.key(settings, spec), "format": FORMAT, "alone": rows.has_long(settings)}

    def make(self, directory: Path, settings: EngineSettings, spec: EncoderSpec,
             checkpoint: Checkpoint) -> dict[str, Any]:
        outputs = rows.outputs(settings, spec)
        write_encoders(directory, spec, checkpoint.read_as, layers=outputs, precision=settings.precision,
                       alone=rows.has_long(settings))
        rows.write_arrays(directory, settings, spec, checkpoint.read_as)
        return {"format": FORMAT, "outputs": outputs}

    def maker(self) -> str:
        return f"TensorFlow {tensorflow_version()}"

    def open(self, settings: EngineSettings) -> LiteEngine:
        return LiteEngine(settings)

    def extra(self, on_gpu: bool) -> str:
        return "cpu"

    def footprint(self, settings: EngineSettings) -> Footprint:
        return Footprint(worker=60 * MB, libraries=35 * MB, copies=2 if rows.has_long(settings) else 1,
                         conversion=300 * MB, conversion_factor=12)


BACKEND = LiteBackend()


class LiteEngine(RowEngine):
    """Runs a converted encoder; all shapes share its weights. Long sequences have another one, and a second copy.

    A sequence's vector is the same, bit for bit, whatever batch it is in.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """
        Raises:
            EngineError: the converted model is damaged, or LiteRT is not installed.
        """
        super().__init__(settings, FORMAT)
        self._encoder = _Interpreter(self._directory / ENCODER, settings.num_threads, (1, 1, 8, 8))
        # Loaded here and not with the first long sequence: that would be paid, and could be taken for a hang, in a job.
        self._alone = (_Interpreter(self._directory / ALONE, settings.num_threads, (1, 1, 1, LONG))
                       if rows.has_long(settings) else None)

    def run(self, layout: Layout, embeddings: np.ndarray) -> list[np.ndarray]:
        if layout.alone:
            assert self._alone is not None, "the settings say that no sequence is so long"
            return self._alone.run(embeddings, token_bias(layout))
        return self._encoder.run(embeddings, attention_bias(layout))

    def describe(self) -> str:
        return (f"LiteRT {BACKEND.version()} on CPU, {counted(self.settings.num_threads, 'thread')}, "
                f"{self.settings.precision}")


class _Interpreter:
    """LiteRT with the encoder in it. The weights are laid out for the processor once; another shape costs little."""

    def __init__(self, path: Path, num_threads: int, bias: tuple[int, ...]) -> None:
        """
        Args:
            bias: shape to prepare for, see :meth:`run`.
        Raises:
            EngineError: LiteRT is not there, or cannot run the model.
        """
        BACKEND.version()
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
        """The outputs, float32 [R * C, H] each, for what the encoder takes (see :func:`lite_model.convert`)."""
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
