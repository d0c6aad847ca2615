"""The table of backends: the libraries that compute, each one file in this folder, best first.

A new one is a file with a ``BACKEND`` and a row of config.ENGINES. Modules are imported when they are asked for;
libraries when something is computed.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module

import numpy as np

from ...config import ENGINES, ServerConfig
from ...core.features import Features
from ...errors import ConfigError, EngineError
from ..base import Engine, EngineSettings
from ..pipeline import Pipeline
from .base import Backend as Backend
from .base import Requirements as Requirements

BACKENDS = tuple(ENGINES)
"""Values of -engine, which are also the modules. ``auto`` takes the first that can do what is wanted."""


def backend(name: str) -> Backend:
    """
    Raises:
        EngineError: there is none of that name.
    """
    if name not in BACKENDS:
        raise EngineError(f"{name!r} is not an engine; choose from {', '.join(BACKENDS)}")
    found: Backend = import_module(f".{name}", __package__).BACKEND
    return found


def check_usable(found: Backend) -> None:
    """
    Raises:
        EngineError: its library is not there; -engine auto would not have taken it.
    """
    if missing := found.missing():
        raise EngineError(f"-engine {found.name} {missing}; -engine auto would take another one")


def create(settings: EngineSettings) -> Engine:
    """
    Raises:
        EngineError: the engine is unknown or cannot run here.
        ModelError: the weights of a stage after the pooling cannot be read.
    """
    engine = backend(settings.engine).open(settings)
    pipeline = Pipeline(settings.stages)
    return StagedEngine(engine, pipeline) if pipeline else engine


class StagedEngine(Engine):
    """An engine, and what follows its pooling."""

    def __init__(self, engine: Engine, pipeline: Pipeline) -> None:
        self._engine, self._pipeline = engine, pipeline
        self.overlaps = engine.overlaps

    def encode(self, batch: Sequence[Features]) -> np.ndarray:
        vectors = self._engine.encode(batch)
        return self._pipeline(vectors.astype(np.float32, copy=False)).astype(vectors.dtype, copy=False)

    def describe(self) -> str:
        return self._engine.describe()


# ---- which one -------------------------------------------------------------------------------------------------------

def choose(engine: str, wanted: Requirements) -> tuple[Backend, str]:
    """The backend that -engine means, and why it is this one.

    Raises:
        ConfigError: it cannot do what is wanted, or none can.
    """
    if engine != "auto":
        return _given(engine, wanted), "given"
    refused: list[str] = []
    for found in _automatic():
        objection = _objection(found, wanted)
        if objection is None:
            return found, "; ".join(refused) or found.about
        refused.append(f"{found.name} {objection}")
    raise ConfigError(_none(wanted))


def requirements(config: ServerConfig) -> Requirements:
    """What these options ask of a backend, whatever the model is."""
    return Requirements(precision=str(config.precision), gpu=bool(config.device_map), xla=config.xla)


def possible(config: ServerConfig) -> list[Backend]:
    """The backends that may serve with these options, whatever the model is.

    Raises:
        ConfigError: there is none.
    """
    wanted = requirements(config)
    if config.engine != "auto":
        return [_given(config.engine, wanted)]
    choose(config.engine, wanted)
    return _able(wanted)


def _given(engine: str, wanted: Requirements) -> Backend:
    found = backend(engine)
    if objection := found.objection(wanted):
        able = " or ".join(f"-engine {other.name}" for other in _able(wanted))
        raise ConfigError(f"-engine {engine} {objection}; leave that out" + (f", or give {able}" if able else ""))
    return found


def _automatic() -> Iterator[Backend]:
    return (found for found in map(backend, BACKENDS) if found.is_automatic)


def _none(wanted: Requirements) -> str:
    """Why no backend can do what is wanted, or which extra brings one that can."""
    missing = [found for found in _automatic() if found.objection(wanted) is None and found.extra(wanted.gpu)]
    refused = "; ".join(f"{found.name} {_objection(found, wanted)}" for found in _automatic()
                        if found not in missing and (found.encodes or wanted.spec is None))
    if not missing:
        return f"no engine can do what these options ask for: {refused}"
    return (f"no engine that is installed can do what these options ask for: {refused}; install "
            f"'./server[{missing[0].extra(wanted.gpu)}]' for engine {missing[0].name}, which can")


def _objection(found: Backend, wanted: Requirements) -> str | None:
    return found.objection(wanted) or found.missing()


def _able(wanted: Requirements) -> list[Backend]:
    return [found for found in _automatic() if _objection(found, wanted) is None]
