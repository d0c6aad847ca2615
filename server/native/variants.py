"""The libraries that native.cpp becomes: one for each instruction set, from the same source with other flags.

``setup.py`` compiles all of them into the package. Tests and fuzzers compile one with flags of their own::

    compile_variant(find_compiler(), "plain", target, extra=["-fsanitize=address"])
"""
from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).resolve().parent

COMMON = ["-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno",
          "-pthread", "-Wall", "-Wextra"]
TESTED = ["-O2"]
"""Of what only tests run: -O3 takes three times as long to compile."""

AVX512 = ["-O3", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512cd", "-mfma", "-mavx2",
          "-mprefer-vector-width=512"]
AVX512BF16 = [*AVX512, "-mavx512bf16"]

VARIANTS = {
    "plain": TESTED,  # every machine
    "tiles": [*TESTED, "-DNATIVE_TILES=1", "-DNATIVE_EMULATED=1"],  # AMX's tile operations in plain C++, for tests
    "avx512": AVX512,
    "avx512bf16": AVX512BF16,
    "amx": [*AVX512BF16, "-mamx-tile", "-mamx-bf16", "-mamx-int8", "-DNATIVE_TILES=1"],
}
"""Name -> flags beside the common ones. Machine flags, those with -m, are for x86-64 only."""

JOBS = 2
"""Libraries that are compiled at a time."""


class CompileError(Exception):
    """There is no compiler, or it failed. Its text is one line."""

    def __init__(self, reason: str, output: str = "") -> None:
        super().__init__(reason)
        self.output = output
        """All that the compiler said."""


class Compiler(NamedTuple):
    command: list[str]
    version: str
    """Its name and version."""
    is_x86_64: bool
    """Whether it compiles for x86-64."""


def library_name(variant: str) -> str:
    """The same on every platform, without the Python ABI: ctypes loads it by path."""
    return f"libnative_{variant}.so"


def find_compiler(environ: Mapping[str, str] = os.environ) -> Compiler:
    """``$CXX``, or else the first of c++, g++ and clang++ that there is.

    Raises:
        CompileError: there is none, or it does not run.
    """
    command = shlex.split(environ.get("CXX", ""))
    if not command:
        command = [name for name in ("c++", "g++", "clang++") if shutil.which(name, path=environ.get("PATH"))][:1]
    if not command:
        raise CompileError("there is no c++, g++ or clang++ here, and $CXX names none")
    machine = run([*command, "-dumpmachine"], environ).stdout.strip()  # gcc and clang know both options
    version = run([*command, "--version"], environ).stdout.partition("\n")[0].strip()
    return Compiler(command, version, machine.startswith(("x86_64", "amd64")))


def variants_for(compiler: Compiler) -> list[str]:
    return [name for name, flags in VARIANTS.items()
            if compiler.is_x86_64 or not any(flag.startswith("-m") for flag in flags)]


def flags_of(variant: str, extra: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> list[str]:
    """``$CXXFLAGS`` and then ``extra`` overrule the table."""
    return [*COMMON, *VARIANTS[variant], *shlex.split(environ.get("CXXFLAGS", "")), *extra]


def compile_variant(compiler: Compiler, variant: str, target: Path, extra: Sequence[str] = (),
                    environ: Mapping[str, str] = os.environ) -> str:
    """Compile one library; what the compiler said, such as warnings. A failure leaves an older ``target`` as it is.

    Raises:
        CompileError: the compiler failed.
    """
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = run([*compiler.command, *flags_of(variant, extra, environ), "native.cpp", "-o", str(partial.resolve())],
                   environ)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return done.stderr


def compile_changed(compiler: Compiler, variant: str, folder: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Compile one library into ``folder``, unless the one there was made of the same sources in the same way."""
    target = folder / library_name(variant)
    recipe = target.with_suffix(".recipe")
    digest = hashlib.sha256(repr((compiler, flags_of(variant, (), environ))).encode())
    for path in sorted(path for path in SOURCES.iterdir() if path.suffix in (".cpp", ".h")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    if not target.is_file() or not recipe.is_file() or recipe.read_text(encoding="ascii") != digest.hexdigest():
        recipe.unlink(missing_ok=True)
        compile_variant(compiler, variant, target, (), environ)
        recipe.write_text(digest.hexdigest(), encoding="ascii")
    return target


def compile_all(folder: Path, environ: Mapping[str, str] = os.environ) -> tuple[dict[str, Path], str]:
    """Compile into ``folder`` what this machine's compiler can. Nothing is raised for what it cannot.

    Returns:
        the libraries by variant, and one line that says which there are and which are missing, and why.
    """
    try:
        compiler = find_compiler(environ)
    except CompileError as error:
        return {}, (f"native encoder: not compiled, -engine native will not run: {error}. For it install g++ (11 or "
                    "later) or clang++ (15 or later), then this package again, with pip's --force-reinstall "
                    "--no-cache-dir")

    def attempt(variant: str) -> Path | CompileError:
        try:
            return compile_changed(compiler, variant, folder, environ)
        except CompileError as error:
            return error

    variants = variants_for(compiler)
    with ThreadPoolExecutor(JOBS) as pool:
        results = dict(zip(variants, pool.map(attempt, variants)))
    made = {variant: result for variant, result in results.items() if isinstance(result, Path)}
    reasons: dict[str, list[str]] = {}
    for variant, result in results.items():
        if isinstance(result, CompileError):
            reasons.setdefault(str(result), []).append(variant)
    line = f"native encoder: compiled {', '.join(made) or 'nothing'} with {compiler.version}"
    return made, "; ".join([line, *(f"left out {', '.join(names)}: {reason}" for reason, names in reasons.items())])


def run(command: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Beside the sources, so that no path of this machine gets into what is made.

    Raises:
        CompileError: it could not be started, or failed.
    """
    try:
        # The C locale, so that the first error can be found in what it says.
        done = subprocess.run(command, cwd=SOURCES, env={**environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise CompileError(f"{command[0]} cannot be started ({error.strerror})") from error
    if done.returncode:
        output = done.stderr + done.stdout
        first = next((line for line in output.splitlines() if re.search(r"\berror: ", line)), "")
        reason = first.strip()[:200] or f"exit code {done.returncode}"
        raise CompileError(f"{command[0]} failed ({reason})", output)
    return done
