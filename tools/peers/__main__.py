"""The command behind ``make peers``."""
from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from bert_serving.client.words import counted
from bert_serving.server.benchmark.load import BenchmarkError
from bert_serving.server.benchmark.sentences import read_lines
from bert_serving.server.config import ServerConfig
from bert_serving.server.core.tokenization import BaseTokenizer
from bert_serving.server.engine.base import create_tokenizer
from bert_serving.server.engine.cache import user_cache
from bert_serving.server.engine.models import resolve
from bert_serving.server.errors import StartError
from bert_serving.server.machine import allowed_cores
from bert_serving.server.process import exit_on_sigterm

from . import catalogue, host, report
from .catalogue import PEERS
from .docstrings import docstring_sentences
from .engine_rounds import compare_engines
from .environments import PeerError
from .models import Forms, model_directory
from .server_rounds import BULK, TRAFFIC, alone, compare_servers
from .workloads import KINDS, choose

CALIBRATION = ((KINDS["mixed"], 200), (KINDS["160"], 40))
"""Kinds and numbers of texts that OpenVINO's quantization takes its ranges from; others than those measured."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---- the parts -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class PeersRun:
    """What all parts of one call of the command share."""

    args: argparse.Namespace
    texts: list[str]
    forms: Forms
    tokenizer: BaseTokenizer

    def engines(self) -> tuple[str, dict[str, Any]]:
        """Markdown, and the figures as plain values."""
        args = self.args
        workloads = [choose(KINDS[name], self.texts, self.tokenizer, scale=args.scale) for name in args.workloads]
        # From the other end of the texts: what is measured is not what was calibrated with.
        self.forms.calibrate_with([sequence for kind, count in CALIBRATION for sequence in choose(
            kind, self.texts[::-1], self.tokenizer, count=count).sequences])
        rows, absent = compare_engines(args.peers, workloads, self.forms, args.cache, args.threads, args.rounds, say)
        absent |= catalogue.NOT_FROM_A_REGISTRY
        tokens = {workload.kind.name: workload.tokens for workload in workloads}
        parts = ["\n".join(f"- {workload.kind.name}: {workload}" for workload in workloads),
                 report.engines(rows, tokens, catalogue.OWN, catalogue.OTHERS, catalogue.BASE),
                 report.ran(rows, absent)]
        return "\n\n".join(parts), _plain(rows, absent) | {"tokens": tokens}

    def servers(self) -> tuple[str, dict[str, Any]]:
        """Markdown, and the figures as plain values."""
        args = self.args
        texts = choose(KINDS["short"], self.texts, self.tokenizer, count=BULK)
        one = choose(KINDS["one"], self.texts, self.tokenizer)
        rows, absent = compare_servers(args.servers, texts, one, self.forms, args.cache, args.threads, args.rounds, say)
        absent |= catalogue.NOT_FROM_A_REGISTRY
        engine_of = {server.name: alone(server.engine) for server in catalogue.SERVERS.values() if server.engine}
        parts = [f"-max_seq_len {texts.kind.max_seq_len}; {texts}",
                 "\n".join(f"- {name}: {traffic.about}" for name, traffic in TRAFFIC.items()),
                 report.servers(rows, {name: traffic.is_latency for name, traffic in TRAFFIC.items()},
                                catalogue.ORIGINAL, engine_of), report.ran(rows, absent)]
        return "\n\n".join(parts), _plain(rows, absent)


def _plain(rows: Mapping[str, report.Row], absent: Mapping[str, str]) -> dict[str, Any]:
    return {"rows": {name: asdict(row) for name, row in rows.items()}, "absent": dict(absent)}


PARTS = {"engines": PeersRun.engines, "servers": PeersRun.servers}


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
    parser.add_argument("--parts", type=names([*PARTS]), default=[*PARTS], help=f"some of {','.join(PARTS)}")
    parser.add_argument("--servers", type=names([*catalogue.SERVERS]), default=[*catalogue.SERVERS],
                        help=f"some of {','.join(catalogue.SERVERS)}")
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


@contextmanager
def temporary_files_removed() -> Iterator[None]:
    """Give the processes started meanwhile a temporary directory that goes at the end: the original leaves its frozen
    graph there at every start, and others their caches."""
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="bert-serving-peers-", ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


@temporary_files_removed()
def main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    exit_on_sigterm()
    args.cache = args.cache.absolute()
    try:
        with scratch():
            return _run(args)
    except (BenchmarkError, StartError, PeerError) as error:
        say(f"make peers: {error}")
        return 1
    except KeyboardInterrupt:
        say("make peers: interrupted")
        return 130


@contextmanager
def scratch() -> Iterator[None]:
    """A temporary directory for this process and all that it starts, pip and peers included.

    Peers leave files there when they are ended, and some of them always; it is removed with all that is in it.
    """
    before, given = tempfile.tempdir, os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="bert-serving-peers-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
            if given is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = given


def _run(args: argparse.Namespace) -> int:
    texts = read_lines(args.sentences) if args.sentences else docstring_sentences()
    directory = model_directory(args.model, args.cache / "models")
    forms = Forms(directory, args.cache)
    tokenizer = create_tokenizer(resolve(ServerConfig(model_dir=str(directory), cpu=True)).settings)
    run = PeersRun(args, texts, forms, tokenizer)
    head = (f"Model {directory.name}, {counted(args.threads, 'thread')}, {counted(args.rounds, 'round')}, "
            f"sentences of {Path(args.sentences).name if args.sentences else 'docstrings'}; {host.describe()}; "
            f"{date.today()}")
    for part in args.parts:
        text, values = PARTS[part](run)
        page = f"{head}\n\n{text}\n"
        print(page, flush=True)
        if args.output:
            args.output.mkdir(parents=True, exist_ok=True)
            name = f"{part}-{directory.name}"
            (args.output / f"{name}.md").write_text(page, encoding="utf-8")
            (args.output / f"{name}.json").write_text(json.dumps({"about": head, **values}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
