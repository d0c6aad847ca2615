"""The native encoder under sanitizers: compiles and runs its library and ``fuzz.cpp``, which says what has to hold."""
from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from server.native import variants

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BUILT = ROOT / "build" / "fuzz-native"

SMALLER = ["-DINLINE=static inline", "-DUNROLL=", "-fno-inline", "-g1"]
"""Else a build with sanitizers takes minutes to compile: each of its loads and sums is a check."""
ADDRESS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
THREAD = ["-fsanitize=thread"]


@dataclass(frozen=True)
class Target:
    """A build of the library.

    Attributes:
        flags: of a processor, that it takes.
        work: how large batches are: millions of products of two numbers.
    """

    variant: str
    sanitizers: list[str]
    flags: frozenset[str] = frozenset()
    work: float = 0.5


TARGETS = {
    "native, plain": Target("plain", ADDRESS),
    "native, tiles": Target("tiles", ADDRESS, work=0.1),
    "native, AVX-512": Target("avx512bf16", ADDRESS, work=4, flags=frozenset({
        "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd", "avx512_vnni", "avx512_bf16"})),
    "native, threads": Target("plain", THREAD),
}


@dataclass(frozen=True)
class Built:
    program: Path
    library: Path


@dataclass(frozen=True)
class Outcome:
    """
    Attributes:
        failure: what was wrong, and how to repeat it; empty if nothing was.
        counts: what ``fuzz.cpp`` printed.
    """

    failure: str
    counts: dict[str, Any]


@cache
def why_not(target: str) -> str:
    """Why it cannot be compiled and run here; empty if it can."""
    chosen = TARGETS[target]
    try:
        compiler = variants.find_compiler()
        if chosen.variant not in variants.variants_for(compiler):
            return f"{compiler.command[0]} does not compile for x86-64"
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            (Path(folder) / "empty.cpp").write_text("int main() { return 0; }\n")
            variants.run([*compiler.command, *chosen.sanitizers, f"{folder}/empty.cpp", "-o", f"{folder}/empty"],
                         os.environ)
            variants.run([f"{folder}/empty"], os.environ)
    except variants.CompileError as error:
        return f"no compiler with {' '.join(chosen.sanitizers)}: {error}"
    try:
        words = frozenset(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        words = frozenset()
    missing = chosen.flags - words
    return f"this processor lacks {', '.join(sorted(missing))}" if missing else ""


def build(target: str, optimize: str = "-O1", sources: Path = variants.SOURCES, folder: Path = BUILT) -> Built:
    """Compile what was not compiled from the same sources in the same way.

    Args:
        sources: folder of the library's; another one than the project's for tests of the fuzzer.
    Raises:
        CompileError: the compiler failed.
    """
    chosen, compiler = TARGETS[target], variants.find_compiler()
    library = variants.flags_of(chosen.variant, [optimize, *SMALLER, *chosen.sanitizers, "-include",
                                                 str(HERE / "memory.h"), "-I", str(sources)])
    program = ["-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-pthread", *chosen.sanitizers, "-I", str(sources)]
    headers = [*sorted(sources.glob("*.h")), HERE / "memory.h"]

    def made(flags: list[str], source: Path, read: list[Path], suffix: str) -> Path:
        digest = hashlib.sha256(repr((compiler, flags)).encode())
        for path in (source, *read):
            digest.update(path.read_bytes())
        path = folder / f"{chosen.variant}-{digest.hexdigest()[:16]}{suffix}"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
            variants.run([*compiler.command, *flags, str(source), "-o", str(partial), "-ldl"], os.environ)
            os.replace(partial, path)
        return path

    return Built(made(program, HERE / "fuzz.cpp", [sources / "spec.h"], ""),
                 made(library, sources / "native.cpp", headers, ".so"))


def run(target: str, built: Built, seed: int, seconds: float | None = None, iterations: int | None = None) -> Outcome:
    """Until there were so many iterations, or so many seconds are over."""
    command = [str(built.program), str(built.library), "--seed", str(seed), "--work", str(TARGETS[target].work)]
    if seconds is not None:
        command += ["--seconds", str(seconds)]
    if iterations is not None:
        command += ["--iterations", str(iterations)]
    options = {"ASAN_OPTIONS": "allocator_may_return_null=1:quarantine_size_mb=32",
               "UBSAN_OPTIONS": "print_stacktrace=1", "TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env={**os.environ, **options})
    if done.returncode == 0:
        return Outcome("", json.loads(done.stdout))
    lines = done.stderr.strip().splitlines()
    told = next((line for line in lines if "ERROR: " in line or "runtime error: " in line or "WARNING: " in line
                 or line.startswith("fuzz: ")), f"code {done.returncode}")
    return Outcome(f"{told.strip()}; {lines[-1] if lines else ''}; repeat it with {' '.join(command[:2])}",
                   {"iterations": 0, "seconds": 0.0, "stderr": done.stderr})
