"""The command behind ``make peers``."""
from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from ...core.tokenization import Tokenizer
from ...engine.cache import user_cache
from ...errors import StartError
from ...machine import allowed_cores, speeds_up
from ..load import BenchmarkError
from ..sentences import read_lines
from . import catalogue, engines, host, report
from .catalogue import PEERS, Peer
from .docstrings import docstring_sentences
from .driver import EngineProcess, cosines, take_turns
from .environments import ENVIRONMENTS, PeerError, prepare
from .models import Forms, model_directory
from .workloads import KINDS, Workload, choose

CALIBRATION = ((KINDS["mixed"], 200), (KINDS["160"], 40))
"""Kinds and numbers of texts that OpenVINO's quantization takes its ranges from; others than those measured."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---- engines ---------------------------------------------------------------------------------------------------------

def start(peer: Peer, forms: Forms, cache: Path, threads: int) -> EngineProcess:
    """
    Raises:
        PeerError: it cannot be had.
    """
    if peer.precision == "bf16" and not speeds_up("bf16"):
        raise PeerError("this processor has no instructions for bf16")
    python = str(prepare(ENVIRONMENTS[peer.environment], cache / "environments", say) if peer.environment
                 else sys.executable)
    options = {"file": str(forms.path(peer.form)), "threads": threads, "precision": peer.precision}
    return EngineProcess([python, engines.__file__, peer.engine, json.dumps(options)], cache / f"{peer.name}.log",
                         env={"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"})


def compare(processes: dict[str, EngineProcess], workload: Workload, rounds: int, rows: dict[str, report.Row],
            failed: Callable[[str, PeerError], None]) -> None:
    """Let the engines compute a workload in turns, and note in their rows what was found."""
    vectors = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, process in list(processes.items()):
            try:
                process.load(workload, Path(folder))
                vectors[name] = process.vectors(workload, Path(folder))       # warms it up, too
            except PeerError as error:
                failed(name, error)
    turns = {name: partial(processes[name].seconds, workload) for name in vectors}
    for name, seconds in take_turns(turns, rounds, failed).items():
        rows[name].seconds[workload.kind.name] = seconds
        if catalogue.EXACT in vectors:
            rows[name].cosines[workload.kind.name] = cosines(vectors[name], vectors[catalogue.EXACT])


def compare_engines(args: argparse.Namespace, forms: Forms, workloads: Sequence[Workload]) -> dict[str, Any]:
    """Everything on engines, as plain values and as ``markdown``."""
    rows: dict[str, report.Row] = {}
    absent = dict(catalogue.NOT_FROM_A_REGISTRY)
    with ExitStack() as stack:
        processes: dict[str, EngineProcess] = {}

        def failed(name: str, error: PeerError) -> None:
            absent[PEERS[name].title] = str(error)
            processes.pop(name, None)
            say(f"{name}: {error}")

        for name in args.peers:
            peer = PEERS[name]
            try:
                processes[name] = process = start(peer, forms, args.cache, args.threads)
            except PeerError as error:
                failed(name, error)
                continue
            stack.callback(process.close)
            rows[name] = report.Row(peer.title, peer.precision, process.about)
            say(f"{name}: {process.about}")
        for workload in workloads:
            say(f"{workload.kind.name}: {workload}")
            compare(processes, workload, args.rounds, rows, failed)
    tokens = {workload.kind.name: workload.tokens for workload in workloads}
    text = "\n\n".join([
        "\n".join(f"- {workload.kind.name}: {workload}" for workload in workloads),
        report.engines(rows, tokens, catalogue.OWN, catalogue.BASE), report.ran(rows, absent)])
    return {"rows": {name: asdict(row) for name, row in rows.items()}, "tokens": tokens, "absent": absent,
            "markdown": text}


# ---- the command -----------------------------------------------------------------------------------------------------

def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if not set(chosen) <= set(known):
            raise argparse.ArgumentTypeError(f"{text!r} has unknown names; expected some of {','.join(known)}")
        return chosen
    return parse


def positive(of: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = of(text)
        if value <= 0:
            raise ValueError
        return value
    parse.__name__ = "positive number"
    return parse


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make peers", description="Compare this project with what a user would take instead, side by side.")
    parser.add_argument("--model", default="minilm",
                        help="minilm, base (BERT-base with random weights), or a directory (default: minilm)")
    parser.add_argument("--sentences", metavar="FILE",
                        help="a sentence a line (default: those of the docstrings in Python's standard library)")
    parser.add_argument("--peers", type=names([*PEERS]), default=[*PEERS], help=f"some of {','.join(PEERS)}")
    parser.add_argument("--workloads", type=names([*KINDS]), default=[*KINDS], help=f"some of {','.join(KINDS)}")
    parser.add_argument("--rounds", type=positive(int), default=5, help="how often each measures (default: 5)")
    parser.add_argument("--scale", type=positive(float), default=1.0,
                        help="tokens of a workload as a multiple of 4096 (default: 1)")
    parser.add_argument("--threads", type=positive(int), default=allowed_cores(),
                        help="threads of each engine (default: the cores that this process may use)")
    parser.add_argument("--cache", type=Path, default=user_cache("peers"),
                        help="where environments and converted models are kept (default: the user's cache)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write the tables and all figures there, too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    args.cache = args.cache.absolute()
    try:
        texts = read_lines(args.sentences) if args.sentences else docstring_sentences()
        directory = model_directory(args.model, args.cache / "models")
        forms = Forms(directory, args.cache)
        tokenizer = Tokenizer(str(forms.vocabulary), True)
        workloads = [choose(KINDS[name], texts, tokenizer, scale=args.scale) for name in args.workloads]
        # From the other end of the texts: what is measured is not what was calibrated with.
        forms.calibrate_with([sequence for kind, count in CALIBRATION
                              for sequence in choose(kind, texts[::-1], tokenizer, count=count).sequences])
        result = compare_engines(args, forms, workloads)
    except (BenchmarkError, StartError, PeerError) as error:
        say(f"make peers: {error}")
        return 1
    head = (f"Model {directory.name}, {args.threads} threads, {args.rounds} rounds, "
            f"{args.sentences and Path(args.sentences).name or 'docstrings'}; {host.describe()}; {date.today()}")
    page = f"{head}\n\n{result.pop('markdown')}\n"
    print(page)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / f"engines-{directory.name}.md").write_text(page)
        (args.output / f"engines-{directory.name}.json").write_text(json.dumps({"about": head, **result}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
