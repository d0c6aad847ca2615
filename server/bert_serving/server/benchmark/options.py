"""The options of ``bert-serving-benchmark``: those of ``bert-serving-start``, and what to measure."""
from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..config import (ENVIRONMENT_PREFIX, ServerConfig, filled, get_args_parser, host_name, positive, seconds,
                      sequence_length)
from ..errors import ConfigError
from .load import WARM_UP, Load
from .served import to_json
from .sweeps import SWEEPS, Setting

NUM_WORDS = 25
"""Words of a random sentence, where they are not the sweep's subject: the original's max_seq_len."""

PORTS = ("port", "port_out")
CURVE_DIR = "curve_dir"
"""Means clients and servers alike."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is to be measured, checked.

    Attributes:
        tests: name of a sweep -> its values.
        running: ``ip``, ``port``, ``port_out`` and ``curve_dir`` of a server that runs; None: servers are started.
        server: options of the servers that are started, as plain JSON values.
        load: for how long each client does what it does.
        usual: what has the same value wherever it is not the sweep's subject.
        sentence_file, vocab_file: what is sent; None: see sentences.
        num_run: measurements of each setting.
        start_seconds: how long a server may take until it is ready.
        output_dir: where files go; None: there are none.
        plot: whether pictures are among them.
    """

    tests: Mapping[str, Sequence[int]]
    running: dict[str, Any] | None
    server: dict[str, Any]
    load: Load
    usual: Setting
    sentence_file: str | None
    vocab_file: str | None
    num_run: int
    start_seconds: float
    output_dir: str | None
    plot: bool


def length(text: str) -> int:
    value = sequence_length(text)
    if value is None:
        raise argparse.ArgumentTypeError("NONE is no length to fill; expected whole numbers above 3")
    return value


TYPES = {"max_seq_len": length, "pooling_layer": int}
"""What the values of a sweep are, if not whole numbers from 1."""


def get_parser(environ: Mapping[str, str] = os.environ) -> argparse.ArgumentParser:
    """The parser of ``bert-serving-benchmark``."""
    parser = get_args_parser(environ)
    parser.prog = "bert-serving-benchmark"
    parser.epilog = ("The options of bert-serving-start can also be given in the environment, as "
                     f"{ENVIRONMENT_PREFIX}CPU=1.")
    parser.usage = "%(prog)s [-tests NAME ...] [option ...]"
    parser.description = ("Measure how fast a server answers, while one number takes several values: "
                          f"{', '.join(SWEEPS)}. Servers are started with the options below, on free ports, unless "
                          "-ip names one that runs.")
    for name in PORTS:
        if parser.get_default(name) == ServerConfig.__dataclass_fields__[name].default:
            parser.set_defaults(**{name: None})  # tells "not given" from "given"
    group = parser.add_argument_group("What is measured")

    def add(name: str, help: str, **settings: Any) -> None:
        group.add_argument(f"-{name}", f"--{name}", help=help.replace("%", "%%"), **settings)

    add("tests", "which of them; default: all (with -ip: those that need no option of the server)", nargs="+",
        choices=tuple(SWEEPS), metavar="NAME")
    for name, sweep in SWEEPS.items():
        add(f"test_{name}", f"{sweep.help}; without a value: leave this test out (default: "
            f"{' '.join(map(str, sweep.values))})", nargs="*", type=TYPES.get(name, positive), metavar="N")
    add("ip", "address of a running server, whose ports are -port and -port_out (default: 5555 and 5556)",
        type=host_name)
    add("num_client", "clients, a process each (default: 1)", type=positive, default=1)
    add("client_batch_size", "sentences in a request (default: 256)", type=positive, default=256)
    add("client_sentence_file", "send the lines of this file; default: random sentences", type=filled)
    add("client_vocab_file", "make random sentences of this file's words; default: common English words",
        type=filled)
    add("num_words", f"words of a random sentence (default: {NUM_WORDS}; in the test of max_seq_len, that many)",
        type=positive)
    how_long = group.add_mutually_exclusive_group()
    how_long.add_argument("-seconds", "--seconds", type=seconds, default=5.0,
                          help="seconds that a measurement takes; the requests under way are finished (default: 5)")
    how_long.add_argument("-num_repeat", "--num_repeat", type=positive,
                          help=f"end it after so many requests of each client instead; the first {WARM_UP} do not "
                          "count")
    add("num_run", "measurements of each setting; they take turns (default: 3)", type=positive, default=3)
    add("wait_till_ready", "seconds that a server may take until it is ready (default: 300)", type=seconds,
        default=300.0)
    add("output_dir", "write benchmark.md and benchmark.json into this directory", type=filled)
    add("plot", "draw a picture of each test into it too; needs matplotlib", action="store_true")
    return parser


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Benchmark:
    """
    Raises:
        SystemExit: an option is unknown, or its value is wrong; it has been said.
        ConfigError: options that do not go together.
    """
    parser = get_parser(environ)
    args = parser.parse_args(argv)
    config = ServerConfig.from_args(args)
    server = {name: value for name, value in to_json(config).items() if value is not None or name not in PORTS}
    running = None
    if args.ip is not None:
        changed = [f"-{f.name}" for f in fields(ServerConfig)
                   if f.name not in (*PORTS, CURVE_DIR) and getattr(args, f.name) != parser.get_default(f.name)]
        if changed:
            raise ConfigError(f"-ip names a server that runs, so {', '.join(changed)} cannot be set; leave one of them "
                              "out")
        ports = {name: ServerConfig.__dataclass_fields__[name].default for name in PORTS}
        running = {"ip": args.ip, **ports, **{name: server[name] for name in PORTS if name in server},
                   CURVE_DIR: config.curve_dir or ""}
    if args.num_repeat is not None and args.num_repeat <= WARM_UP:
        raise ConfigError(f"-num_repeat is {args.num_repeat}, and the first {WARM_UP} do not count; expected "
                          f"{WARM_UP + 1} or more")
    if args.client_sentence_file and (args.client_vocab_file or args.num_words):
        raise ConfigError("-client_sentence_file leaves nothing to -client_vocab_file and -num_words, which are for "
                          "random sentences; give one or the other")
    if args.plot and not args.output_dir:
        raise ConfigError("-plot needs -output_dir, the directory that the pictures go to")
    return Benchmark(
        tests=_tests(args), running=running, server=server,
        load=Load(size=args.client_batch_size, seconds=args.seconds, num_repeat=args.num_repeat),
        usual=Setting(num_client=args.num_client, size=args.client_batch_size, num_words=args.num_words or NUM_WORDS),
        sentence_file=args.client_sentence_file, vocab_file=args.client_vocab_file, num_run=args.num_run,
        start_seconds=args.wait_till_ready, output_dir=args.output_dir, plot=args.plot)


def _tests(args: argparse.Namespace) -> dict[str, Sequence[int]]:
    given = {name: values for name in SWEEPS if (values := getattr(args, f"test_{name}")) is not None}
    wanted = args.tests or [name for name, sweep in SWEEPS.items()
                            if args.ip is None or not sweep.of_server or given.get(name)]
    for name in wanted:
        if args.ip is not None and SWEEPS[name].of_server and given.get(name) != []:
            raise ConfigError(f"the test of {name} starts servers of its own, and -ip names one that runs; leave one "
                              "of them out")
    for name, values in given.items():
        if values and name not in wanted:
            raise ConfigError(f"-test_{name} has values, but -tests leaves {name} out; add it, or leave them out")
    tests = {name: given.get(name, SWEEPS[name].values) for name in wanted}
    tests = {name: values for name, values in tests.items() if values}
    if not tests:
        raise ConfigError(f"there is nothing to measure; choose from {', '.join(SWEEPS)}")
    return tests
