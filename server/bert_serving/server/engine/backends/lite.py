"""The backend for CPUs: the converted encoder on LiteRT, several sentences to a row. It serves without TensorFlow."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.client.words import counted

from ...config import MB
from ...core.packing import LONG
from ...errors import EngineError
from .. import rows
from ..base import EngineSettings
from ..lite_model import ALONE, ENCODER, FORMAT, write_encoders
from ..quiet import installed, quiet_stderr, tensorflow_version
from ..rows import RowEngine, sample_layout
from ..spec import EncoderSpec
from ..tf_encoder import COMPUTES
from ..weights import Checkpoint
from .base import Backend, Footprint


class LiteBackend(Backend):
    """LiteRT (TensorFlow Lite with XNNPACK). TensorFlow makes its artefact, in a process of its own."""

    name = "lite"
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
        self._encoder = self._interpreter(ENCODER, min(8, settings.max_length), alone=False)
        self._alone = self._interpreter(ALONE, LONG, alone=True) if rows.has_long(settings) else None

    def _interpreter(self, file: str, width: int, alone: bool) -> _Interpreter:
        """An encoder, prepared for a row of that width.

        Prepared here and not with the first long sequence: that would be paid, and could be taken for a hang, in a job.
        """
        shapes = {name: array.shape
                  for name, array in self.inputs.of(sample_layout(self.spec, 1, width, alone)).items()}
        return _Interpreter(self._directory / file, self.settings.num_threads, shapes)

    def run(self, inputs: dict[str, np.ndarray], alone: bool) -> list[np.ndarray]:
        if alone:
            assert self._alone is not None, "the settings say that no sequence is so long"
            return self._alone.run(inputs)
        return self._encoder.run(inputs)

    def describe(self) -> str:
        return (f"LiteRT {BACKEND.version()} on CPU, {counted(self.settings.num_threads, 'thread')}, "
                f"{self.settings.precision}")


class _Interpreter:
    """LiteRT with the encoder in it. The weights are laid out for the processor once; another shape costs little."""

    def __init__(self, path: Path, num_threads: int, shapes: dict[str, tuple[int, ...]]) -> None:
        """
        Args:
            shapes: of its inputs, to prepare for.
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
                inputs = {detail["name"].partition(":")[0]: detail["index"]
                          for detail in self._interpreter.get_input_details()}
                # An input that no layer up to the last one wanted reads has left the model.
                self._inputs = {name: inputs[name] for name in shapes if name in inputs}
                self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]
                self._resize({name: shapes[name] for name in self._inputs})
        except (ValueError, RuntimeError, KeyError) as error:
            raise EngineError(f"LiteRT cannot load the model: {error}") from error

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs, float32 [R * C, H] each, for what the encoder takes (see :func:`rows.input_shapes`)."""
        shapes = {name: inputs[name].shape for name in self._inputs}
        if shapes != self._shapes:
            self._resize(shapes)
        for name, index in self._inputs.items():
            self._interpreter.set_tensor(index, inputs[name])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def _resize(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Prepare for inputs of these shapes."""
        for name, shape in shapes.items():
            self._interpreter.resize_tensor_input(self._inputs[name], shape)
        self._interpreter.allocate_tensors()
        self._shapes = shapes
