"""What a backend is: a library that computes encoders, what it can do, and what it makes of a model first."""
from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config import ENGINES
from ...errors import EngineError
from ..base import Engine, EngineSettings
from ..spec import ACTIVATIONS, Departure, EncoderSpec
from ..weights import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What a backend is to do.

    Attributes:
        precision: a name of precision.PRECISIONS.
        gpu: some worker computes on a GPU.
        xla: the computation is to be compiled with XLA.
        spec: of the encoder; None: it is not known yet, or there is none.
    """

    precision: str = "fp32"
    gpu: bool = False
    xla: bool = False
    spec: EncoderSpec | None = None


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Memory beside the weights, as measured on Linux: see docs/doctor.md, "Memory".

    Attributes:
        worker: bytes of each worker, a batch in the making included.
        libraries: bytes that all workers share.
        copies: of the encoder's weights that a worker holds.
        weights_are_shared: all workers map one copy of them.
        weight_bytes: of one weight of a matrix product, in memory and in the artefact; None: as the table of precisions
            says.
        conversion: bytes that making the artefact takes at its peak ...
        conversion_factor: ... and so many times the kept weights in fp32.
    """

    worker: int
    libraries: int = 0
    copies: int = 1
    weights_are_shared: bool = False
    weight_bytes: int | None = None
    conversion: int = 0
    conversion_factor: float = 0.0


class Backend(ABC):
    """One row of the table of backends. Nothing outside it names the library.

    Attributes:
        name: the value of -engine.
        precisions: names of those that it computes in.
        gpus: it can compute on GPUs.
        xla: it can compile with XLA.
        departures: what it computes beside BERT's own form.
        activations: of the MLP that it computes.
        measures_precision: its workers measure what a precision takes here, and say so where it does not pay.
    """

    name: str
    precisions: frozenset[str]
    gpus = False
    xla = False
    departures: frozenset[Departure] = frozenset()
    activations: frozenset[str] = frozenset(ACTIVATIONS)
    measures_precision = False

    @property
    def about(self) -> str:
        """What it is, or why -engine auto takes it, in a few words."""
        return ENGINES[self.name].about

    @property
    def needs_model(self) -> bool:
        """Whether it computes a model; else it invents vectors."""
        return ENGINES[self.name].computes

    @property
    def encodes(self) -> bool:
        """Whether it computes encoders, on several threads, from an artefact."""
        return ENGINES[self.name].encodes

    @property
    def is_automatic(self) -> bool:
        """Whether -engine auto may choose it."""
        return ENGINES[self.name].is_automatic

    def objection(self, wanted: Requirements) -> str | None:
        """Why it cannot do what is wanted, to be read after its name; None if it can."""
        spec = wanted.spec
        if wanted.precision not in self.precisions:
            return f"has no -precision {wanted.precision}"
        if wanted.gpu and not self.gpus:
            return "is for CPUs" if self.needs_model else "computes nothing, so it has no use for a GPU"
        if wanted.xla and not self.xla:
            return "does without -xla"
        if spec is not None and self.encodes:
            if beyond := sorted(departure.value for departure in spec.departures - self.departures):
                return f"does not compute {', '.join(beyond)}"
            if spec.mlp.activation not in self.activations:
                return f"does not compute the activation {spec.mlp.activation}"
        return None

    def missing(self) -> str | None:
        """Why its library cannot be used, to be read after its name; None if it is installed."""
        try:
            self.version()
        except EngineError as error:
            return f"cannot be used: {error.message}"
        return None

    @abstractmethod
    def version(self) -> str:
        """Of its library, found without importing it.

        Raises:
            EngineError: it is not installed; says how to install it.
        """

    def key(self, settings: EngineSettings, spec: EncoderSpec) -> dict[str, Any] | None:
        """JSON values that name its artefact, beside the weights and the spec; None: it needs no artefact."""
        return None

    def make(self, directory: Path, settings: EngineSettings, spec: EncoderSpec,
             checkpoint: Checkpoint) -> dict[str, Any]:
        """Fill a directory with all that :meth:`open` needs.

        Returns:
            What its manifest is to say; ``format`` is the version of what is in there.
        Raises:
            EngineError: the library cannot be used, or does not compute such an encoder.
            ModelError: the weights cannot be read.
            OSError: the files cannot be written.
        """
        raise NotImplementedError(f"{self.name} needs no artefact")

    def maker(self) -> str:
        """The library, and its version, that :meth:`make` takes.

        Raises:
            EngineError: it is not installed.
        """
        raise NotImplementedError(f"{self.name} needs no artefact")

    @abstractmethod
    def open(self, settings: EngineSettings) -> Engine:
        """
        Raises:
            EngineError: the artefact is damaged, or the engine cannot run here.
        """

    def check_device(self, device: int) -> str:
        """That its library sees a GPU, in words; asked only where it is to compute there, as it may take seconds.

        Raises:
            EngineError: it does not.
        """
        raise EngineError(f"engine {self.name} is for CPUs")

    def extra(self, on_gpu: bool) -> str | None:
        """The extra of bert-serving-server that installs its library; None: it takes none."""
        return None

    @abstractmethod
    def footprint(self, settings: EngineSettings) -> Footprint: ...
