"""``make chaos``: run the scenarios, print what was seen, end with code 1 if a promise was broken."""
from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bert_serving.server.config import ENGINES
from bert_serving.server.keys import make as make_keys
from bert_serving.server.process import raise_descriptor_limit

from . import report
from .clients import original_interpreter
from .model import EchoModel
from .scenarios import SCENARIOS, Outcome, Settings
from .history import Verdict


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description="Break what can break, and check every answer.")
    parser.add_argument("--seconds", type=float, default=20, help="length of the whole run, about (default: 20)")
    parser.add_argument("--sentences", type=int, default=0, help="let the storm go on until it has had so many")
    parser.add_argument("--seed", type=int, help="repeat a run's choices (default: from the clock)")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="SCENARIO", default=list(SCENARIOS),
                        help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--kill-every", type=float, default=2, help="seconds between two workers' ends (default: 2)")
    parser.add_argument("--restart-every", type=float, default=60,
                        help="seconds between two restarts in the storm (default: 60, more often in a short run)")
    parser.add_argument("--timeout", type=int, help="milliseconds after which our own client counts an answer as lost "
                        "(default: 20,000; 60,000 in a run of minutes)")
    parser.add_argument("--engine", choices=[name for name in ENGINES if name != "echo"], help="run the scenario with "
                        "a real model, the default one, on this engine")
    parser.add_argument("--planted", choices=("drop", "double", "swap", "reorder", "leak"),
                        help="plant a bug, to see it found")
    parser.add_argument("--every", type=int, default=1000, help="how many results a planted bug strikes one of")
    parser.add_argument("--curve", action="store_true", help="let all servers and clients use keys")
    parser.add_argument("--original", metavar="PYTHON", help="an interpreter that has the original's client; default: "
                        "one is made, and kept in the user's cache; 'none': do without")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, for the documentation")
    args = parser.parse_args(argv)
    if args.curve and args.planted not in (None, "leak"):
        parser.error(f"--planted {args.planted} sits between server and clients, which --curve prevents")
    return args


def find_original(wanted: str | None) -> Path | str:
    if wanted == "none":
        return "without the original's client"
    if wanted is not None:
        return Path(wanted)
    try:
        return original_interpreter()
    except RuntimeError as error:
        return str(error)


def run(settings: Settings, names: Sequence[str]) -> list[Outcome]:
    """Run scenarios one after the other; one that breaks off is one that failed."""
    outcomes = []
    for name in names:
        began = time.monotonic()
        try:
            outcomes.append(SCENARIOS[name](settings))
        except (RuntimeError, AssertionError, OSError) as error:
            outcomes.append(Outcome(name, Verdict(), f"broke off: {error}", "to end", False))
        settings.say(f"{name}: {report.row(outcomes[-1])['verdict']} after {time.monotonic() - began:.1f} s")
    return outcomes


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    seed = int(time.time()) % 1_000_000 if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    raise_descriptor_limit()
    original = find_original("none" if args.curve else args.original)  # which has no keys
    if isinstance(original, str):
        print(f"notice: {original}; its scenarios are left out", flush=True)
    directory = tempfile.mkdtemp(prefix="chaos-")
    keys = Path(directory) / "everybody"
    if args.curve:
        make_keys(keys)
    is_long = args.seconds > 120 or args.sentences > 200_000
    settings = Settings(
        seconds=args.seconds, seed=seed, expect=EchoModel(), sentences=args.sentences, kill_every=args.kill_every,
        restart_every=args.restart_every, timeout=args.timeout or (60_000 if is_long else 20_000),
        engine=args.engine, planted=args.planted, every=args.every, original=original, directory=directory,
        keys=str(keys) if args.curve else None,
        say=lambda line: print(line, flush=True))
    outcomes = run(settings, args.only)
    print("\n" + report.terminal(outcomes))
    if args.json:
        args.json.write_text(report.as_json(outcomes, {"seed": seed, "arguments": sys.argv[1:]}) + "\n")
    if args.markdown:
        args.markdown.write_text(report.markdown(outcomes) + "\n")
    failed = [outcome.name for outcome in outcomes if outcome.passed is False]
    if failed:
        print(f"\nfailed: {', '.join(failed)}; seed {seed}; the servers' logs are in {directory}")
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
