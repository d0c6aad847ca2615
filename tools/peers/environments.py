"""The peers' own Python environments: made once, kept in the user's cache, apart from this project's."""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten


class PeerError(Exception):
    """A peer cannot be had on this machine, or does not do what it is asked; the message says why."""


@dataclass(frozen=True)
class Environment:
    """
    Attributes:
        name: of its directory.
        packages: what pip installs.
        python: "3.6" where it must be that one; None: the one that runs this.
    """

    name: str
    packages: tuple[str, ...]
    python: str | None = None


ENVIRONMENTS = {environment.name: environment for environment in (
    Environment("pytorch", ("torch==2.13.0", "sentence-transformers", "onnx", "onnxruntime", "sympy", "ctranslate2")),
    Environment("onnxruntime", ("onnxruntime",)),
    Environment("openvino", ("openvino", "nncf")),
    Environment("ctranslate2", ("ctranslate2",)),
    Environment("infinity", ("infinity-emb[torch,server]", "torch==2.13.0")),
    Environment("tensorflow", ("tensorflow-cpu", "bert-serving-server==1.10.0")),
    Environment("original", ("tensorflow==1.12.0", "bert-serving-server==1.10.0"), "3.6"),
)}


def python_of(environment: Environment, folder: Path) -> Path:
    """Where the environment's Python is, or will be."""
    return folder / environment.name / "bin" / "python"


def prepare(environment: Environment, folder: Path, say: Callable[[str], None] = lambda line: None,
            timeout: float = 1800) -> Path:
    """Make the environment if it is not there.

    Args:
        folder: where environments are kept.
        say: is told that one is being made, which takes a while.
        timeout: longest time for pip, in seconds.
    Returns:
        Its Python.
    Raises:
        PeerError: it cannot be made, with the reason.
    """
    directory = folder / environment.name
    stamp = directory / "installed.json"
    wanted = {"packages": list(environment.packages)}
    if stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return python_of(environment, folder)
    interpreter = find_python(environment.python)
    say(f"making the environment {directory}: {', '.join(environment.packages)}")
    shutil.rmtree(directory, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{environment.name}.log"
    run([interpreter, "-m", "venv", str(directory)], log, timeout)
    if environment.python == "3.6":
        # The pip that comes with it takes packages for newer Pythons, and then complains.
        run([str(python_of(environment, folder)), "-m", "pip", "install", "pip==21.3.1"], log, timeout)
    run([str(python_of(environment, folder)), "-m", "pip", "install", *environment.packages], log, timeout)
    stamp.write_text(json.dumps(wanted))
    return python_of(environment, folder)


def find_python(version: str | None) -> str:
    """An interpreter of that version: on the path, or one of pyenv's; None is the one that runs this.

    Raises:
        PeerError: there is none.
    """
    if version is None:
        return sys.executable
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for candidate in (f"python{version}", *map(str, sorted(root.glob(f"versions/{version}.*/bin/python")))):
        # What is on the path may be a shim of pyenv's, which knows the name and has no such Python.
        if shutil.which(candidate) and not subprocess.run([candidate, "-c", ""], capture_output=True).returncode:
            return candidate
    raise PeerError(f"it needs Python {version}, which is not on this machine; looked for python{version}, and in "
                    f"{root}")


REASON = re.compile(r"ERROR: .*|(\w+\.)*\w*(Error|Exception): .*")
"""A line that says why a program failed, pip's or a Python traceback's."""

MAX_REASON = 160
"""Characters of such a line in the report; the log has all of it."""


def run(command: Sequence[str], log: Path, timeout: float) -> None:
    """Run a command to its end, its output going to the log.

    Raises:
        PeerError: it fails, or takes too long; with the line that says why.
    """
    try:
        with log.open("wb") as output:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                  timeout=timeout).returncode
    except subprocess.TimeoutExpired:
        raise PeerError(f"not done within {timeout:g} s: {' '.join(command)}; see {log}") from None
    except OSError as error:
        raise PeerError(f"cannot run {command[0]}: {error.strerror}") from error
    if code:
        lines = log.read_text(errors="replace").splitlines()
        reasons = [line for line in lines if REASON.fullmatch(line)] or [f"exit code {code}"]
        raise PeerError(f"{shorten(reasons[-1], MAX_REASON, placeholder=' ...')}; see {log}")
