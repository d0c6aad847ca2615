"""``bert-serving-doctor``: takes the options of ``bert-serving-start``, and says whether that would start."""
from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .findings import Finding, Level, conclusion, problem

if TYPE_CHECKING:
    import argparse


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line a finding; 0 if a server would start, 1 if not, 2 for options that are none."""
    findings = []
    for finding in _findings(argv):
        print(finding, flush=True)
        findings.append(finding)
    code, line = conclusion(findings)
    print(line)
    return code


def _parser() -> argparse.ArgumentParser:
    from ..config import get_args_parser

    parser = get_args_parser()
    parser.prog = "bert-serving-doctor"
    parser.description = ("Say whether bert-serving-start with the same options would start on this machine, with one "
                          "line for each thing that it needs: ok, warning or problem, the cause and the cure.")
    return parser


def _findings(argv: Sequence[str] | None) -> Iterator[Finding]:
    try:
        args = _parser().parse_args(argv)
    except ImportError:  # of the client, which is missing or another version's: what follows says so
        args = None
    # Only now, so that -h answers at once.
    from .libraries import check_libraries, check_packages

    basics = []
    for check in (check_packages, check_libraries):
        for finding in check():
            yield finding
            basics.append(finding)
    if args is None or any(finding.level is Level.PROBLEM for finding in basics):
        return  # the rest would end in tracebacks
    from ..config import ServerConfig
    from ..errors import ConfigError
    from .checks import Examination

    try:
        config = ServerConfig.from_args(args)
    except ConfigError as error:
        yield problem("options", error.message)
        return
    yield from Examination(config).findings()


if __name__ == "__main__":
    sys.exit(main())
