"""The fuzzer: hostile input for every door, made from a seed, while ordinary clients go on working and are checked.

``python -m tests.fuzz`` (or ``make fuzz``) runs it and prints a table; the tests beside it run a short version, play
again whatever once broke something (``corpus``), and hold the fuzzer itself to its word with bugs that are planted.

Three kinds of targets: decoders, called in a process of their own (``codecs.py``), the ports of a real server with the
echo engine (``doors.py``), and the native encoder's C interface, under sanitizers (``native``). What is sent begins as
what is right and has something spoiled (``generate.py``); ``guided.py`` lets atheris, where it is installed, look for
what reaches new code.

This module is the program: it fires at every target, prints the table, and ends with code 1 if one did not stand it.
"""
from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server.native.variants import CompileError

from ..chaos import memory
from ..chaos.scenarios import GROWTH
from . import guided, report
from .codecs import TARGETS, Found, Trace
from .doors import DOORS, Siege, besiege
from .native import encoder
from .report import Row

ROOT = Path(__file__).parents[2]
CRASHES = ROOT / "build" / "fuzz"
DOORS_SHARE = 0.2
"""Of the messages, what the ports of the server get; the decoders get the rest."""
ALL = [*TARGETS, *encoder.TARGETS, *DOORS]
JOBS = 2
"""Builds of the native encoder that are compiled, or run, at a time."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Hostile input for every door, made from a seed.")
    parser.add_argument("--messages", type=int, default=200_000, help="in all, at least (default: 200,000)")
    parser.add_argument("--seconds", type=float, default=30, help="for the server's ports, at least (default: 30)")
    parser.add_argument("--seed", type=int, help="repeat a run's input (default: from the clock)")
    parser.add_argument("--only", nargs="+", choices=ALL, metavar="TARGET", default=ALL, help=f"of {'; '.join(ALL)}")
    parser.add_argument("--native", type=float, default=4, metavar="SECONDS",
                        help="for each build of the native encoder (default: 4); the first time they are compiled")
    parser.add_argument("--guided", type=float, default=0, metavar="SECONDS",
                        help="let atheris look for what reaches new code, so long for each decoder")
    parser.add_argument("--planted", choices=("crash", "leak", "wrong"), help="plant a bug, to see it found")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", default=CRASHES, help="where input that broke something "
                        "is kept (default: build/fuzz)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="... and there, for the documentation")
    return parser.parse_args(argv)


def fire(name: str, messages: int, seed: int, planted: str | None) -> tuple[Row, list[Found]]:
    """One decoder, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        order = {"target": name, "messages": messages, "seed": seed, "trace": f"{folder}/trace", "planted": planted}
        done = subprocess.run([sys.executable, "-m", "tests.fuzz.codecs", json.dumps(order)], cwd=ROOT,
                              capture_output=True, text=True)
        if done.returncode:
            how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"code {done.returncode}"
            last = Trace.read(f"{folder}/trace") if Path(folder, "trace").exists() else []
            what = f"the process ended with {how}: {done.stderr.strip()[-300:]}"
            return Row(name, 0, 1, 0, "unknown", 0, False), [Found(name, True, what, last)]
    answer = json.loads(done.stdout)
    found = [Found.from_json(one) for one in answer["found"]]
    crashes = sum(one.is_crash for one in found)
    grown, words = growth(answer["times"], answer["memory"])
    return Row(name, messages, crashes, len(found) - crashes, words, answer["seconds"],
               not found and grown < GROWTH), found


def growth(times: list[float], values: list[int]) -> tuple[float, str]:
    """Bytes by which the lower bound of the slope has it grow, and all of that in words."""
    try:
        slope = memory.slope(times, values)
    except ValueError as error:
        return 0.0, str(error)
    grown = slope.low * (times[-1] - times[0]) * (1 - memory.WARM_UP)
    return grown, words_of(slope, grown, GROWTH)


def words_of(slope: memory.Slope, grown: float, most: float) -> str:
    return f"{slope.value / 1e3:+.1f} kB/s ({slope.low / 1e3:+.1f} to {slope.high / 1e3:+.1f})" + \
        (f", GREW by {grown / 1e6:.1f} MB" if grown >= most else "")


def native_rows(targets: list[str], seconds: float, seed: int,
                say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """A row for each build of the native encoder; and what was found, with the command that repeats it."""
    def attempt(name: str) -> tuple[Row, list[str]]:
        if reason := encoder.why_not(name):
            return Row(name, 0, 0, 0, reason, 0, None), []
        start = time.monotonic()
        try:
            outcome = encoder.run(name, encoder.build(name), seed, seconds)
        except CompileError as error:
            return Row(name, 0, 1, 0, "", time.monotonic() - start, False), [f"{name}: {error}"]
        counts = outcome.counts
        calls = sum(counts.get(key, 0) for key in ("encoded", "refused", "accepted"))
        notes = [f"{name}: {outcome.failure}"] if outcome.failure else []
        return Row(name, calls, len(notes), 0, "", counts["seconds"], not notes), notes

    rows, notes = [], []
    with ThreadPoolExecutor(JOBS) as pool:
        for row, found in pool.map(attempt, targets):
            rows.append(row)
            notes += found
            say("  ".join(row.cells()))
    return rows, notes


def siege_rows(siege: Siege) -> list[Row]:
    """A row for each door, one for the clients meanwhile, and one for each of the server's processes."""
    rows = [Row(name, sent, 0, siege.wrong[name], "", siege.seconds, not siege.wrong[name])
            for name, sent in siege.sent.items()]
    verdict = siege.verdict
    wrong = sum(getattr(verdict, name) for name in verdict.FAULTS)
    rows.append(Row(f"ordinary clients ({verdict.requests:,} requests, {verdict.answered:,} sentences)", 0,
                    len(siege.crashes), wrong, "", siege.seconds, verdict.clean and not siege.crashes))
    rows += [Row(f"  {name}", 0, 0, 0, words_of(slope, grown, most), siege.seconds, grown < most)
             for name, (slope, grown, most) in siege.growth.items()]
    return rows


def main(argv: Sequence[str] | None = None, say: Callable[[str], None] = lambda line: print(line, flush=True)) -> int:
    args = arguments(argv)
    seed = int(time.time()) % 1_000_000 if args.seed is None else args.seed
    say(f"seed {seed}")
    start = time.monotonic()
    codecs = [name for name in args.only if name in TARGETS]
    doors = [name for name in args.only if name in DOORS]
    share = (DOORS_SHARE if doors else 0.0) if codecs else 1.0
    rows: list[Row] = []
    found: list[Found] = []
    for name in codecs:
        row, here = fire(name, int(args.messages * (1 - share) / len(codecs)) + 1, seed, args.planted)
        rows.append(row)
        found += here
        say("  ".join(row.cells()))
    if args.guided:
        guided_rows, here = guided.run(codecs, args.guided, seed, say)
        rows += guided_rows
        found += here
    more, notes = native_rows([name for name in args.only if name in encoder.TARGETS], args.native, seed, say)
    rows += more
    if doors:
        folder = tempfile.mkdtemp(prefix="fuzz-")
        siege = besiege(args.seconds, int(args.messages * share), seed, folder, rows=doors, planted=args.planted,
                        say=say)
        rows += siege_rows(siege)
        found += siege.found
        if siege.revived:
            notes.append(f"a process that sends was ended by its own libzmq {siege.revived} times, and started again")
        notes += [*siege.crashes[:20], *siege.verdict.examples]
        if siege.is_clean:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            (Path(folder) / "last.json").write_text(json.dumps(siege.last))
            notes.append(f"the server's log, and what was sent last, are in {folder}")
    rows.append(report.total(rows, time.monotonic() - start))
    say("\n" + report.terminal(rows))
    for one in found:
        notes.append(f"{one.target}: {one.what}; kept as {one.keep(args.keep)}, for tests/fuzz/corpus")
    for note in notes:
        say(f"  {note}")
    if args.json:
        args.json.write_text(json.dumps(report.as_json(rows, {"seed": seed}), indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(report.markdown(rows) + "\n")
    if rows[-1].passed:
        return 0
    say(f"failed; seed {seed}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
