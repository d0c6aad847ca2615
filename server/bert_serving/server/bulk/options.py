"""The options of ``bert-serving-encode``: its own, and those of ``bert-serving-start`` for workers of its own."""
from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..config import ENVIRONMENT_PREFIX, ServerConfig, filled, get_args_parser, host_name, positive, seconds
from ..errors import ConfigError
from . import inputs, outputs

ADDRESS = ("port", "port_out", "curve_dir")
"""Options of a server that say where a client finds it, too."""

OWN_PLACE = ("host", "port", "port_out")
"""Options of a server that one of its own has no use for: it is for this job alone."""

STANDARD_INPUT = "-"


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """What is asked for, checked.

    Attributes:
        input: a file; None: standard input.
        format: of the input: a name in ``inputs.FORMATS``.
        column: where the text is, if there are columns.
        output: where the vectors go.
        address: ``ip``, ``port``, ``port_out`` and ``curve_dir`` of a server that runs; of an own one the ports are 0.
        own: options of a server to start; None: one runs.
        overwrite, in_flight, patience: see job.JobSpec.
        verbose: show what the own server logs.
    """

    input: Path | None
    format: str
    column: str
    output: Path
    address: dict[str, Any]
    own: ServerConfig | None
    overwrite: bool
    in_flight: int | None
    patience: float
    verbose: bool


def get_parser(environ: Mapping[str, str] = os.environ) -> argparse.ArgumentParser:
    """The parser of ``bert-serving-encode``."""
    parser = get_args_parser(environ)
    parser.prog = "bert-serving-encode"
    parser.usage = "%(prog)s INPUT OUTPUT [-own] [option ...]"
    parser.description = ("Encode a file: one vector a record, in the input's order. What was killed goes on where it "
                          "was, when the same command is given again.")
    parser.epilog = (f"The options of bert-serving-start can also be given in the environment, as {ENVIRONMENT_PREFIX}"
                     "PORT=5555.")
    parser.add_argument("input", metavar="INPUT", help="file with the texts; -: standard input")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="file for the vectors: "
                        f"{', '.join(outputs.SUFFIXES)}")
    group = parser.add_argument_group("What is encoded, and by whom")

    def add(name: str, help: str, **settings: Any) -> None:
        group.add_argument(f"-{name}", f"--{name}", help=help, **settings)

    add("format", f"of the input: {', '.join(inputs.FORMATS)}; default: as its name ends, text for standard input",
        choices=tuple(inputs.FORMATS), metavar="FORMAT")
    add("column", "where the text is, in formats with names (default: text)", type=filled, metavar="NAME")
    add("overwrite", "replace an output that is there, and begin anew what cannot go on", action="store_true")
    add("ip", "address of a running server, whose ports are -port and -port_out (default: localhost)",
        type=host_name)
    add("own", "start workers for this job, with the other options, and stop them at the end", action="store_true")
    add("in_flight", "requests of 1024 texts that are under way at a time; default: as many as keep the server's "
        "workers busy", type=positive)
    add("timeout", "seconds without a server until the job is given up; it goes on when the command is given again "
        "(default: 60)", type=seconds, default=60.0)
    return parser


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> BulkOptions:
    """
    Raises:
        ConfigError: options that do not go together.
    """
    parser = get_parser(environ)
    args = parser.parse_args(argv)
    config = ServerConfig.from_args(args)
    changed = [f"-{f.name}" for f in fields(ServerConfig)
               if f.name not in (*ADDRESS, "verbose") and getattr(args, f.name) != parser.get_default(f.name)]
    if args.own:
        if args.ip is not None:
            raise ConfigError("-ip names a server that runs, and -own starts one; leave one of them out")
        chosen = [f"-{name}" for name in OWN_PLACE if getattr(args, name) != parser.get_default(name)]
        if chosen:
            raise ConfigError(f"{', '.join(chosen)} cannot be chosen for workers of its own, which nobody else can "
                              "reach; leave it out")
        own = replace(config, host="127.0.0.1", port=0, port_out=0)
    elif changed:
        raise ConfigError(f"{', '.join(changed)} is for workers of its own, and a running server is asked; give -own, "
                          "or leave it out")
    else:
        own = None
    source = None if args.input == STANDARD_INPUT else Path(args.input)
    if args.output.suffix not in outputs.SUFFIXES:
        raise ConfigError(f"{args.output} does not end in a format; expected one of {', '.join(outputs.SUFFIXES)}")
    format = args.format or inputs.format_of(source)
    if args.column is not None and format in inputs.WITHOUT_COLUMN:
        raise ConfigError(f"-column is for formats with names, and the input is {format}; give -format, or leave it "
                          "out")
    return BulkOptions(
        input=source, format=format, column=args.column or "text", output=args.output,
        address={"ip": args.ip or "localhost", "port": config.port, "port_out": config.port_out,
                 "curve_dir": config.curve_dir or ""},
        own=own, overwrite=args.overwrite, in_flight=args.in_flight, patience=args.timeout, verbose=args.verbose)
