"""What a backend makes of a model before it serves: a cached directory, made once and used by all workers.

As a program it makes one, in a process of its own, for the library's memory to go with it::

    echo '{"settings": {...}, "cache_dir": "...", "cache_mb": 4096}' | python -m bert_serving.server.engine.artefact

prints one line of JSON: ``{"path", "layers_kept", "layers", "seconds", "bytes"}``, with ``"removed"`` where others had
to make room, or ``{"error": {"name", "message"}}`` with exit code 1.
"""
from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import MB, PoolingStrategy
from ..errors import EngineError, ModelError, StartError
from ..orders import Orders
from ..process import read_orders, report, reserve_output
from . import eviction
from .architectures import from_file
from .backends import backend
from .base import EngineSettings
from .cache import new_directory, read_manifest, sha256, write_manifest
from .pooling import HEAD_STRATEGIES, POOLER_STRATEGIES
from .spec import HEAD, EncoderSpec, layer_of, variables
from .weight_files import checkpoint_files
from .weights import Checkpoint, open_checkpoint


@dataclass(frozen=True)
class ArtefactOrders(Orders):
    """What the process is told that makes an artefact: the arguments of :func:`make`."""

    settings: EngineSettings
    cache_dir: str
    cache_mb: int = 0


def cached(settings: EngineSettings, cache_dir: str | Path) -> Path | None:
    """The artefact for these settings, if there is one and it is intact. Imports no library.

    Raises:
        ModelError: the model's files cannot be read.
        EngineError: the backend's library is not installed.
    """
    path = artefact_path(settings, cache_dir)
    return path if read_manifest(path) else None


def artefact_path(settings: EngineSettings, cache_dir: str | Path) -> Path:
    """Where the artefact for these settings is to be: named after all that it depends on."""
    assert settings.checkpoint and settings.config_file
    try:
        weights = [sha256(path) for path in checkpoint_files(settings.checkpoint)]
    except OSError as error:
        raise ModelError(f"cannot read the weights {settings.checkpoint}: {error.strerror}") from error
    architecture, spec = from_file(settings.config_file)
    content = {"weights": weights, "byteorder": sys.byteorder, "architecture": architecture.model_type,
               "names": repr((architecture.hugging_face, architecture.tensorflow)),
               "spec": repr(spec), "num_labels": head(settings), "backend": settings.engine,
               "key": backend(settings.engine).key(settings, spec)}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Path(cache_dir).expanduser() / digest[:32]


def head(settings: EngineSettings) -> int | None:
    """Labels that the fine-tuned model's head must have; None if the strategy does not read it."""
    strategy = settings.strategy
    if strategy not in HEAD_STRATEGIES:
        return None
    return settings.num_labels if strategy is PoolingStrategy.CLASSIFICATION else 1


def check_weights(settings: EngineSettings, checkpoint: Checkpoint, spec: EncoderSpec) -> None:
    """
    Raises:
        ModelError: naming the variables that are missing, misshapen or left over.
    """
    strategy, label = settings.strategy, checkpoint.architecture.label
    if strategy in HEAD_STRATEGIES and spec.head is None:
        raise ModelError(f"-pooling_strategy {strategy} needs a classifier or reranker, which this server does not "
                         f"compute for {label} models; give another strategy")
    pooler = strategy in POOLER_STRATEGIES - HEAD_STRATEGIES
    if pooler and not spec.pooler:
        raise ModelError(f"{label} models have no pooler, which -pooling_strategy {strategy} reads; give another one")
    expected = variables(spec, pooler=pooler, num_labels=head(settings))
    if head(settings) is not None and HEAD[0] not in checkpoint.shapes:
        raise ModelError(f"{checkpoint.path} lacks {checkpoint.own_name(HEAD[0])}; strategy {strategy} needs a model "
                         "that is fine-tuned for it, see -tuned_model_dir")
    found = checkpoint.shapes.get(HEAD[0], (0,))[0]
    if strategy is PoolingStrategy.CLASSIFICATION and found != settings.num_labels:
        raise ModelError(f"{checkpoint.path} has {found} classes; give -num_labels {found}")
    checkpoint.check(expected)


def open_weights(settings: EngineSettings) -> tuple[EncoderSpec, Checkpoint]:
    """What the configuration describes, and the weights, which have all that it names.

    Raises:
        ModelError: the files do not make a model.
    """
    assert settings.checkpoint and settings.config_file
    architecture, spec = from_file(settings.config_file)
    checkpoint = open_checkpoint(settings.checkpoint, architecture)
    check_weights(settings, checkpoint, spec)
    return spec, checkpoint


def check_values(settings: EngineSettings) -> None:
    """Read the variables that an engine reads.

    Raises:
        ModelError: the files do not make a model, or hold values that are not finite.
    """
    spec, checkpoint = open_weights(settings)
    pooler = settings.strategy in POOLER_STRATEGIES
    kept = spec.layers_needed(settings.pooling_layer, pooler)
    for name in variables(spec, pooler=pooler, num_labels=head(settings)):
        if (layer_of(name) or 0) < kept and name in checkpoint.shapes:
            checkpoint.read_as(name)


def make(settings: EngineSettings, cache_dir: str | Path, cache_mb: int = 0) -> dict[str, Any]:
    """Make the artefact for these settings, in place of what may be there.

    Args:
        cache_mb: if the cache takes more megabytes then, the least recently used are removed; 0: no limit.
    Returns:
        path, layers_kept, layers, seconds and bytes; removed, where others had to make room: how many they were.
    Raises:
        ModelError: the model's files do not make a model.
        EngineError: the cache cannot be written, or the backend's library is not installed.
    """
    start = time.monotonic()
    spec, checkpoint = open_weights(settings)
    target = artefact_path(settings, cache_dir)
    pooler = settings.strategy in POOLER_STRATEGIES
    about: dict[str, Any] = {"layers": spec.num_layers,
                             "layers_kept": spec.layers_needed(settings.pooling_layer, pooler)}
    lease = eviction.Lease(target)
    try:
        with new_directory(target) as directory:
            seal = backend(settings.engine).make(directory, settings, spec, checkpoint)
            size = sum(path.stat().st_size for path in directory.iterdir())
            write_manifest(directory, {**seal, **about, "bytes": size, "made_from": _made_from(settings)})
        removed, _ = eviction.prune(target.parent, keep_bytes=cache_mb * MB) if cache_mb else ([], [])
    except OSError as error:
        raise cannot_write(target.parent, error) from error
    finally:
        lease.release()
    return {"path": str(target), **about, "bytes": size, "seconds": round(time.monotonic() - start, 3),
            **({"removed": len(removed)} if removed else {})}


def _made_from(settings: EngineSettings) -> dict[str, Any]:
    """What tells an artefact from others, for people."""
    return {"checkpoint": settings.checkpoint, "engine": settings.engine, "precision": settings.precision,
            "pooling_strategy": settings.pooling_strategy, "pooling_layer": list(settings.pooling_layer),
            "no_position_embeddings": settings.no_position_embeddings}


def cannot_write(cache_dir: Path, error: OSError) -> EngineError:
    return EngineError(f"cannot write the converted model to {cache_dir}: {error.strerror or error}; see "
                       "-graph_tmp_dir")


def main() -> int:
    answer = reserve_output()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    try:
        orders = read_orders("bert-freeze", ArtefactOrders)
        result = make(orders.settings, orders.cache_dir, orders.cache_mb)
    except StartError as error:
        result = {"error": {"name": type(error).__name__, "message": str(error)}}
    except ImportError as error:
        result = {"error": {"name": "EngineError", "message": f"a library cannot be imported: {error}"}}
    except MemoryError:
        result = {"error": {"name": "EngineError", "message": "not enough memory to convert the model"}}
    except Exception as error:                         # The outer edge of a process: the caller must learn of it.
        result = {"error": {"name": "EngineError", "message": f"cannot convert the model: {error!r}"}}
    report(result, answer)
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main())
