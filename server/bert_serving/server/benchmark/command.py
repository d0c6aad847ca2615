"""The command ``bert-serving-benchmark``: makes the measurements, and shows and keeps what they found."""
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from bert_serving.client import BertClient
from bert_serving.client.errors import BertServingError, DeadlineError
from bert_serving.client.words import counted

from .. import machine
from ..errors import StartError
from ..process import exit_on_sigterm
from . import plots, sentences
from .load import BenchmarkError, Crowd
from .options import Benchmark, parse
from .progress import BenchmarkProgress
from .report import Point, BenchmarkResult, figure, markdown, to_json
from .served import Served
from .sweeps import Setting, settings

CONNECT_MS = 10_000
"""How long a server may take to say what it is."""


class Servers:
    """The one server that is there at a time: the one that runs, or one with the options that are asked for."""

    def __init__(self, benchmark: Benchmark, warn: Callable[[str], None], tick: Callable[[], None]) -> None:
        self.benchmark, self.warn, self.tick = benchmark, warn, tick
        self._served: Served | None = None
        self._options: Mapping[str, Any] = {}

    def address(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Where a server with these options listens; another one is stopped.

        Raises:
            StartError: it cannot start.
        """
        if self.benchmark.running is not None:
            return self.benchmark.running
        if self._served is None or self._options != options:
            self.close()
            self._options = options
            self._served = Served({**self.benchmark.server, **options}, self.benchmark.start_seconds, self.warn,
                                  self.tick)
        return self._served.address

    def check(self) -> None:
        """
        Raises:
            BertServingError: the server is gone.
        """
        self.tick()
        if self._served is not None:
            self._served.check()

    def close(self) -> None:
        if self._served is not None:
            self._served.close()
            self._served = None

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


class Texts:
    """The sentences that clients send."""

    def __init__(self, benchmark: Benchmark) -> None:
        """
        Raises:
            BenchmarkError: a file cannot be used.
        """
        self.lines = sentences.read_lines(benchmark.sentence_file) if benchmark.sentence_file else None
        self.words = sentences.read_words(benchmark.vocab_file) if benchmark.vocab_file else sentences.WORDS

    def describe(self) -> str:
        if self.lines is not None:
            return f"{counted(len(self.lines), 'sentence')} of a file"
        return f"random sentences out of {counted(len(self.words), 'different word')}"

    def shares(self, setting: Setting) -> list[list[str]]:
        """Each client's sentences."""
        texts = self.lines or sentences.random_sentences(
            self.words, setting.num_words, setting.num_client * sentences.num_texts(setting.size))
        return sentences.shares(texts, setting.num_client, setting.size)


class Session:
    """One call of the command: the measurements in their order."""

    def __init__(self, benchmark: Benchmark, texts: Texts, progress: BenchmarkProgress) -> None:
        self.benchmark, self.texts, self.progress = benchmark, texts, progress
        self.results: list[BenchmarkResult] = []
        self._warned: set[str] = set()

    def run(self) -> None:
        """Make all measurements; show each table as soon as it is full.

        Raises:
            BertServingError: it cannot go on.
        """
        with Servers(self.benchmark, self._warn, self.progress.tick) as servers, Crowd() as crowd:
            for name, values in self.benchmark.tests.items():
                result = BenchmarkResult(name, list(map(Point, settings(name, values, self.benchmark.usual))))
                self._sweep(result, servers, crowd)
                self._show(result)

    def _warn(self, line: str) -> None:
        """Show what a server warns of, once: the next server will warn of it again."""
        if line not in self._warned:
            self._warned.add(line)
            self.progress.say(line)

    def _sweep(self, result: BenchmarkResult, servers: Servers, crowd: Crowd) -> None:
        refusal: StartError | None = None
        for number in range(self.benchmark.num_run):
            for point in result.points:
                setting = point.setting
                if setting.value in result.left_out:
                    continue
                self.progress.begin(f"{result.name} {setting.value}, run {number + 1} of {self.benchmark.num_run}")
                try:
                    address = servers.address(setting.server)
                except StartError as error:
                    if number:
                        raise  # it could start before
                    refusal = error
                    result.left_out[setting.value] = str(error)
                    self.progress.skip(self.benchmark.num_run)
                    continue
                if not result.server:
                    result.server = status(address)
                texts, load = self.texts.shares(setting), replace(self.benchmark.load, size=setting.size)
                run = crowd.measure(address, load, texts, servers.check)
                point.runs.append(run)
                self.progress.end(f"{figure(run.speed)} sentences/s")
        if refusal is not None and not result.measured:
            raise refusal

    def _show(self, result: BenchmarkResult) -> None:
        self.progress.clear()
        head = [] if self.results else [about(result.server, self.texts.describe())]
        self.results.append(result)
        print("\n\n".join([*head, markdown(result)]) + "\n", flush=True)
        if self.benchmark.output_dir:
            self._write(Path(self.benchmark.output_dir))

    def _write(self, directory: Path) -> None:
        """Everything so far, so that nothing is lost when the next sweep is interrupted."""
        line = about(self.results[0].server, self.texts.describe())
        tables = "\n\n".join([line, *map(markdown, self.results)])
        (directory / "benchmark.md").write_text(tables + "\n", encoding="utf-8")
        values = to_json({"about": line}, self.results)
        (directory / "benchmark.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        if self.benchmark.plot:
            plots.draw(self.results[-1], line, directory / f"{self.results[-1].name}.png")


def status(address: Mapping[str, Any]) -> dict[str, Any]:
    """What a server says of itself.

    Raises:
        BenchmarkError: nothing answers.
    """
    try:
        with BertClient(**address, timeout=CONNECT_MS, ignore_all_checks=True) as client:
            return client.server_config
    except DeadlineError as error:
        raise BenchmarkError(f"no server answers on {address['ip']}, ports {address['port']} and {address['port_out']}"
                             f"; is it there? {error}") from error
    except ValueError as error:  # a port is none
        raise BenchmarkError(str(error)) from error


def about(server: Mapping[str, Any], texts: str) -> str:
    """One line on what was measured, where and when."""
    version = server.get("bert_serving_version") or server.get("server_version", "?")
    model = server.get("model_name") or server.get("model_dir")
    precision = server.get("precision") or ("fp16" if server.get("fp16") else "fp32")
    return (f"bert-serving {version}, {model}, {precision}; {texts}; {counted(machine.allowed_cores(), 'core')} for "
            f"servers and clients; {datetime.now().date()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print tables; the exit code."""
    try:
        benchmark = parse(argv)
        texts = Texts(benchmark)
        if benchmark.plot:
            plots.check()
        if benchmark.output_dir:
            make_directory(benchmark.output_dir)
        if benchmark.running:
            status(benchmark.running)
        exit_on_sigterm()
        progress = BenchmarkProgress(benchmark.num_run * sum(map(len, benchmark.tests.values())))
        try:
            Session(benchmark, texts, progress).run()
        finally:
            progress.clear()
    except BertServingError as error:
        print(f"bert-serving-benchmark: error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, StartError) else 1
    except KeyboardInterrupt:
        print("bert-serving-benchmark: interrupted", file=sys.stderr)
        return 130
    return 0


def make_directory(path: str) -> None:
    """
    Raises:
        BenchmarkError: it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchmarkError(f"cannot make the directory {path}: {error.strerror or error}") from error


if __name__ == "__main__":
    raise SystemExit(main())
