"""The library's builds that can run here, and encoders in them that answer within seconds or fail."""
import threading
from functools import cache

import numpy as np
import pytest

from bert_serving.server.engine.native import library
from bert_serving.server.engine.native.layout import KINDS, lay_out, tables
from bert_serving.server.engine.native.library import BUILDS, NativeEncoder
from bert_serving.server.engine.spec import RELATIVE
from bert_serving.server.precision import cpu_flags

VECTOR_KINDS, TILE_KINDS = ("fp32", "bf16", "int16", "int8"), ("split", "strict", "bf16", "int8")
COMPUTING = [(build, kind) for build in BUILDS
             for kind in (TILE_KINDS if build in ("amx", "tiles") else VECTOR_KINDS)]

SECONDS = 20
"""After which a call is taken for one that hangs; each takes milliseconds."""


@cache
def why_not(build):
    """Why a build cannot run here; None if it can."""
    # Makers are among the flags for speed alone.
    if lacking := sorted(flag for flag in BUILDS[build].flags - cpu_flags() if flag.islower()):
        return f"this processor has no {', '.join(lacking)}"
    if build == "amx" and not library.may_use_tiles():
        return "the kernel does not let this process use AMX"
    if not library.path_of(build).exists():
        return f"{library.path_of(build).name} was not compiled"
    return None


def load(build):
    if reason := why_not(build):
        pytest.skip(reason)
    return library.load(build)


@pytest.fixture(params=BUILDS)
def build(request):
    load(request.param)
    return request.param


@pytest.fixture(params=COMPUTING, ids="-".join)
def computing(request):
    """(build, kind)"""
    load(request.param[0])
    return request.param


class Bounded(NativeEncoder):
    """What hangs is left to itself and fails: pytest's own time limit cannot interrupt a call of the library.

    Args:
        alter: changes what the library is told of the encoder.
    """

    def __init__(self, *arguments, alter=lambda spec: None, **options):
        self._alter = alter
        super().__init__(*arguments, **options)

    def _describe(self, *arguments):
        spec = super()._describe(*arguments)
        self._alter(spec)
        return spec

    def encode(self, *arguments, **options):
        outcome = []

        def call():
            try:
                outcome.append(NativeEncoder.encode(self, *arguments, **options))
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(SECONDS)
        assert outcome, "the library hangs"
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]


def laid_out(spec, arrays, kind, shares=None):
    """What an encoder maps, by name, in memory."""
    result = dict(lay_out(spec, arrays.__getitem__, KINDS[kind], spec.num_layers - 1, shares))
    return result | {name: arrays[name] for name in (*tables(spec), RELATIVE) if name in arrays}


def encoder(build, kind, spec, mapped, outputs=None, threads=1, max_length=40, **options):
    return Bounded(load(build), spec, KINDS[kind], mapped, list(range(spec.num_layers)) if outputs is None else outputs,
                   max_length, threads, **options)


def starts_of(sequences):
    return np.cumsum([0, *map(len, sequences)]).astype(np.int32)
