"""TensorFlow tells its life story while it is imported, in lines that no setting turns off; here nobody hears it."""
from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from ..errors import EngineError

STDERR = 2


@contextmanager
def quiet_stderr(*telling: type[BaseException]) -> Iterator[None]:
    """Keep back what this process, C libraries included, writes to standard error; show it if the block raises.

    Args:
        telling: what is raised of these says it all, and nothing is shown.
    """
    sys.stderr.flush()
    kept_open = os.dup(STDERR)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), STDERR)
        try:
            yield
        except telling:
            raise
        except BaseException:
            kept.seek(0)
            os.write(kept_open, kept.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept_open, STDERR)
            os.close(kept_open)


def import_tensorflow() -> ModuleType:
    """TensorFlow, without Keras.

    TensorFlow imports Keras as its last act, to have its optimizers registered, and Keras what it finds of
    scikit-learn, pandas and Matplotlib: up to half of the seconds that it takes, for what no engine uses. It does
    without where there is none.

    Raises:
        ImportError: it is not installed, or cannot be loaded.
    """
    with quiet_stderr(), _hidden("keras"):
        import tensorflow
    module: ModuleType = tensorflow
    return module


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Let a module that is not imported yet look as if it were not installed."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def tensorflow_version() -> str:
    """The installed TensorFlow's version, found without importing it.

    Raises:
        EngineError: there is none.
    """
    return installed("TensorFlow is not installed; install './server[cpu]' (or [gpu])",
                     "tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tensorflow-intel", "tensorflow-macos",
                     "tensorflow-rocm", "tensorflow-cpu-aws", "tf-nightly", "tf-nightly-cpu")


def installed(otherwise: str, *packages: str) -> str:
    """The version of the first of these packages that is installed, found without importing it.

    Raises:
        EngineError: none is; ``otherwise`` is what it says.
    """
    from importlib import metadata  # which imports what reads mail, for workers without a use for it

    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    raise EngineError(otherwise)
