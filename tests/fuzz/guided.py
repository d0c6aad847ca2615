"""Coverage-guided fuzzing of the decoders with atheris where it is installed; else it is said that this was left out.

    python -m tests.fuzz.guided TARGET SEED SECONDS

is one process with one target: libFuzzer ends it when it finds something.
"""
from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from .codecs import TARGETS, Found, trouble
from .generate import Frames
from .report import Row

ROOT = Path(__file__).parents[2]
RUNS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
EDGES = re.compile(r"cov: (\d+) ft: (\d+)")
MISSING = "atheris is not installed: pip install atheris"


def frames_of(data: bytes) -> Frames:
    """Frames from a fuzzer's bytes: a byte of number, two of length for each; what is left is the last frame."""
    frames: Frames = []
    count, at = (data[0] % 8 if data else 0), 1
    for _ in range(count):
        size = int.from_bytes(data[at:at + 2], "little")
        frames.append(data[at + 2:at + 2 + size])
        at += 2 + size
    return [*frames, data[at:]]


def bytes_of(frames: Frames) -> bytes:
    """What ``frames_of`` takes apart into these, if there are eight at most."""
    *first, last = frames or [b""]
    return bytes((len(first) % 8,)) + b"".join(len(frame).to_bytes(2, "little") + frame for frame in first) + last


def run(names: Sequence[str], seconds: float, seed: int, say: Callable[[str], None]) -> tuple[list[Row], list[Found]]:
    """A row for each target."""
    if importlib.util.find_spec("atheris") is None:
        say(f"left out: the coverage-guided step; {MISSING}")
        return [Row("guided", 0, 0, 0, MISSING, 0, None)], []
    rows, found = [], []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            done = subprocess.run(
                [sys.executable, "-m", "tests.fuzz.guided", name, str(seed), str(seconds), folder], cwd=ROOT,
                capture_output=True, text=True, errors="replace")
            broken = sorted(Path(folder).glob("broken-*"))
            frames = frames_of(broken[0].read_bytes()) if broken else []
        runs, edges = RUNS.findall(done.stderr), EDGES.findall(done.stderr)
        passed = done.returncode == 0
        if not passed:
            met = trouble(TARGETS[name], frames) or (True, f"code {done.returncode}: {done.stderr.strip()[-300:]}")
            found.append(Found(name, *met, frames))
        rows.append(Row(f"{name}, guided", int(runs[-1]) if runs else 0, int(not passed), 0,
                        f"{edges[-1][0]} edges" if edges else "", seconds, passed))
        say("  ".join(rows[-1].cells()))
    return rows, found


def main(name: str, seed: str, seconds: str, folder: str) -> None:
    import random

    import atheris

    with atheris.instrument_imports(include=["bert_serving", "waitress"]):
        for module in [module for module in sys.modules if module.startswith(("bert_serving", "waitress"))]:
            del sys.modules[module]  # what has been imported is not counted
        for module in [module for module in sys.modules if module.startswith("tests.") and module != "tests.fuzz"]:
            del sys.modules[module]
        from tests.fuzz import codecs

    target, rng = codecs.TARGETS[name], random.Random(int(seed))
    corpus = Path(folder) / "corpus"
    corpus.mkdir()
    for number in range(200):
        (corpus / str(number)).write_bytes(bytes_of(target.make(rng)[0][:8]))

    def check(data: bytes) -> None:
        target.check(frames_of(data), None)

    atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={float(seconds):.0f}", f"-seed={int(seed) + 1}",
                   "-max_len=4096", "-print_final_stats=1", "-rss_limit_mb=2048", "-timeout=20",
                   f"-artifact_prefix={folder}/broken-"], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
