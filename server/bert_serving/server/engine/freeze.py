"""The frozen graph: a model's weights and the computation in one cached directory, made once and used by all workers.

As a program it makes one, in a process of its own, for TensorFlow's memory to go with it::

    echo '{"settings": {...}, "cache_dir": "...", "cache_mb": 4096}' | python -m bert_serving.server.engine.freeze

prints one line of JSON: ``{"path", "layers_kept", "layers", "seconds", "bytes"}``, with ``"removed"`` where others had
to make room, or
``{"error": {"name", "message"}}`` with exit code 1.

Large weights lie in files of their own beside the graph, where it has nodes ImmutableConst. Workers put variables in
their place that are those files, mapped into memory: all share one copy, and TensorFlow does not spend many seconds and
gigabytes on optimizing a graph with constants of that size.
"""
from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import PoolingStrategy
from ..errors import EngineError, ModelError, StartError
from ..process import read_orders
from . import convert, eviction
from .base import EngineSettings
from .bert import BertConfig, build_graph, layers_needed, variables
from .cache import new_directory, read_manifest, sha256, write_file, write_manifest
from .pooling import HEAD_STRATEGIES, POOLER_STRATEGIES
from .quiet import import_tensorflow
from .weights import Checkpoint, checkpoint_files, open_checkpoint

if TYPE_CHECKING:
    import tensorflow as tf

FORMAT = 4
"""To be raised with every change to the graph or to its files."""

GRAPH = "graph.pb"

OWN_FILE = 1 << 16
"""Weights of this many bytes or more are kept outside the graph."""


def cached_graph(settings: EngineSettings, cache_dir: str | Path) -> Path | None:
    """The frozen graph for these settings, if there is one and it is intact. Needs no TensorFlow.

    Raises:
        ModelError: the model's files cannot be read.
        EngineError: TensorFlow is not installed.
    """
    path = graph_path(settings, cache_dir)
    return path if read_manifest(path) else None


def graph_path(settings: EngineSettings, cache_dir: str | Path) -> Path:
    """Where the frozen graph for these settings is to be: named after all that it depends on."""
    assert settings.checkpoint and settings.config_file
    try:
        weights = [sha256(path) for path in checkpoint_files(settings.checkpoint)]
    except OSError as error:
        raise ModelError(f"cannot read the weights {settings.checkpoint}: {error.strerror}") from error
    strategy = PoolingStrategy[settings.pooling_strategy]
    config = BertConfig.from_file(settings.config_file)
    content: dict[str, Any] = {"weights": weights, "byteorder": sys.byteorder, "config": asdict(config),
                               "num_labels": head(settings)}
    if settings.engine == "lite":
        # It does not depend on TensorFlow's version, for a server without TensorFlow to find it.
        content |= {"lite": convert.FORMAT, "precision": settings.precision,
                    "outputs": convert.outputs(settings, config), "arrays": convert.arrays_for(strategy),
                    "alone": convert.has_long(settings)}
    else:
        content |= {
            "format": FORMAT, "tensorflow": tensorflow_version(), "strategy": strategy.name,
            "layers": None if strategy in POOLER_STRATEGIES else settings.pooling_layer,
            "no_position_embeddings": settings.no_position_embeddings, "precision": settings.precision}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Path(cache_dir).expanduser() / digest[:32]


def head(settings: EngineSettings) -> int | None:
    """Rows that the fine-tuned model's output_weights must have; None if the strategy does not read them."""
    strategy = PoolingStrategy[settings.pooling_strategy]
    if strategy not in HEAD_STRATEGIES:
        return None
    return settings.num_labels if strategy is PoolingStrategy.CLASSIFICATION else 1


def tensorflow_version() -> str:
    """The installed TensorFlow's version, found without importing it.

    Raises:
        EngineError: there is none.
    """
    for name in ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tensorflow-intel", "tensorflow-macos",
                 "tensorflow-rocm", "tensorflow-cpu-aws", "tf-nightly", "tf-nightly-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise EngineError("TensorFlow is not installed; install './server[cpu]' (or [gpu])")


def check_weights(settings: EngineSettings, checkpoint: Checkpoint, config: BertConfig) -> None:
    """
    Raises:
        ModelError: naming the variables that are missing, misshapen or left over.
    """
    strategy = PoolingStrategy[settings.pooling_strategy]
    expected = variables(config, pooler=strategy in POOLER_STRATEGIES, num_labels=head(settings))
    if head(settings) is not None and "output_weights" not in checkpoint.shapes:
        raise ModelError(f"{checkpoint.path} lacks output_weights; strategy {strategy} needs a model that is "
                         "fine-tuned for it, see -tuned_model_dir")
    found = checkpoint.shapes.get("output_weights", (0,))[0]
    if strategy is PoolingStrategy.CLASSIFICATION and found != settings.num_labels:
        raise ModelError(f"{checkpoint.path} has {found} classes; give -num_labels {found}")
    checkpoint.check(expected)


def freeze(settings: EngineSettings, cache_dir: str | Path, cache_mb: int = 0) -> dict[str, Any]:
    """Make the frozen graph for these settings, in place of what may be there.

    Args:
        cache_mb: if the cache takes more megabytes then, the least recently used graphs are removed; 0: no limit.
    Returns:
        path, layers_kept, layers, seconds and bytes; removed, where others had to make room: how many they were.
    Raises:
        ModelError: the model's files do not make a model.
        EngineError: the cache cannot be written, or TensorFlow is not installed.
    """
    start = time.monotonic()
    assert settings.checkpoint and settings.config_file
    config = BertConfig.from_file(settings.config_file)
    strategy = PoolingStrategy[settings.pooling_strategy]
    checkpoint = open_checkpoint(settings.checkpoint)
    check_weights(settings, checkpoint, config)
    target = graph_path(settings, cache_dir)
    about: dict[str, Any] = {
        "layers": config.num_hidden_layers,
        "layers_kept": layers_needed(config, settings.pooling_layer, strategy in POOLER_STRATEGIES)}
    lease = eviction.Lease(target)
    try:
        with new_directory(target) as directory:
            if settings.engine == "lite":
                outputs = convert.outputs(settings, config)
                seal = {"format": convert.FORMAT, "outputs": outputs}
                convert.write_lite(directory, config, checkpoint.read_as, layers=outputs, precision=settings.precision,
                                   arrays=convert.arrays_for(strategy), alone=convert.has_long(settings))
            else:
                seal = {"format": FORMAT}
                graph = build_graph(config, _constants(checkpoint, directory), strategy=strategy,
                                    layers=settings.pooling_layer, precision=settings.precision,
                                    position_embeddings=not settings.no_position_embeddings)
                write_file(directory / GRAPH, graph.as_graph_def().SerializeToString(deterministic=True))
            size = sum(path.stat().st_size for path in directory.iterdir())
            write_manifest(directory, {**seal, **about, "bytes": size, "made_from": _made_from(settings)})
        removed, _ = eviction.prune(target.parent, keep_bytes=cache_mb * eviction.MB) if cache_mb else ([], [])
    except OSError as error:
        raise cannot_write(target.parent, error) from error
    finally:
        lease.release()
    return {"path": str(target), **about, "bytes": size, "seconds": round(time.monotonic() - start, 3),
            **({"removed": len(removed)} if removed else {})}


def _made_from(settings: EngineSettings) -> dict[str, Any]:
    """What tells a frozen graph from others, for people."""
    return {"checkpoint": settings.checkpoint, "engine": settings.engine, "precision": settings.precision,
            "pooling_strategy": settings.pooling_strategy, "pooling_layer": list(settings.pooling_layer),
            "no_position_embeddings": settings.no_position_embeddings and settings.engine == "graph"}


def cannot_write(cache_dir: Path, error: OSError) -> EngineError:
    return EngineError(f"cannot write the frozen graph to {cache_dir}: {error.strerror or error}; see -graph_tmp_dir")


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


def main() -> int:
    # Standard output belongs to the answer alone, whatever libraries print meanwhile.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    try:
        request = read_orders("bert-freeze")
        tensorflow_version()
        import_tensorflow()
        result = freeze(EngineSettings.from_json(request["settings"]), request["cache_dir"],
                        request.get("cache_mb", 0))
    except StartError as error:
        result = {"error": {"name": type(error).__name__, "message": str(error)}}
    except ImportError as error:
        result = {"error": {"name": "EngineError", "message": f"TensorFlow cannot be imported: {error}"}}
    except MemoryError:
        result = {"error": {"name": "EngineError", "message": "not enough memory to freeze the graph"}}
    except Exception as error:                         # The outer edge of a process: the caller must learn of it.
        result = {"error": {"name": "EngineError", "message": f"cannot freeze the graph: {error!r}"}}
    print(json.dumps(result), file=answer, flush=True)
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main())
