"""Kills a bulk job again and again, and compares what it makes with what an undisturbed one makes, byte by byte.

    cd tests && python -m chaos.bulk --lines 1000000 --kills 100

The server, with the echo engine, stays; the job is killed with SIGKILL at random moments, and started again with the
same command. Should it finish before it was killed often enough, it begins anew. Prints how much memory the undisturbed
job's process took at most, and whether all files were the same each time. Neither may fail: its exit code says so.
"""
from __future__ import annotations

import argparse
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from bert_serving.server.config import ServerConfig
from bert_serving.server.service import BertServer

POISON = "__raise__ number"
"""Begins a text that the echo engine refuses."""

MAX_BYTES = 300_000_000
"""More memory than this no job's process may take, however long its input is."""


def write_input(path: Path, lines: int, seed: int, poison: int = 3) -> None:
    """Text with many sentences twice, lines that are none, and some that the server refuses."""
    drawn = random.Random(seed)
    refused = {drawn.randrange(lines): number % 2 for number in range(poison)}
    with open(path, "wb") as file:
        for number in range(lines):
            chance = drawn.random()
            if number in refused:
                file.write(f"{POISON} {refused[number]}\n".encode())
            elif chance < 0.001:
                file.write(drawn.choice([b"\n", b"\xff\xfe\n", b"  \n"]))
            else:
                words = [drawn.choice("one two three four five six seven eight nine ten".split())
                         for _ in range(drawn.randrange(3, 12))]
                file.write(f"{' '.join(words)} {drawn.randrange(lines)}\n".encode())


def start(source: Path, output: Path, ports: Sequence[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "bert_serving.server.bulk.command", str(source), str(output), "-ip", "127.0.0.1",
         "-port", str(ports[0]), "-port_out", str(ports[1])], stderr=subprocess.PIPE)


def finish(job: subprocess.Popen[bytes]) -> None:
    """Wait for its end.

    Raises:
        RuntimeError: it failed.
    """
    with job.stderr:
        said = job.stderr.read().decode()
    if job.wait():
        raise RuntimeError(f"the job ended with {job.returncode}: {said}")


def digests(output: Path) -> dict[str, str]:
    """Suffix of each of a job's files -> digest of its content."""
    made = {}
    for path in sorted(output.parent.glob(output.name + "*")):
        digest = blake2b()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        made[path.name.removeprefix(output.name)] = digest.hexdigest()
    return made


def kill_until(source: Path, output: Path, ports: Sequence[int], kills: int, seconds: float, expected: dict[str, str],
               drawn: random.Random) -> tuple[int, int]:
    """Kill jobs so often, and let each come to its end; how many were killed, and how many ended.

    Args:
        seconds: that an undisturbed job takes.
    Raises:
        AssertionError: files are not as expected.
    """
    killed = ended = 0
    begun = time.monotonic()
    start_seconds = 0.0
    while True:
        job = start(source, output, ports)
        if killed < kills:
            try:
                # Long enough on average that the whole is about done when it was killed for the last time.
                job.wait(drawn.uniform(0, 2 * (start_seconds + seconds / kills)))
            except subprocess.TimeoutExpired:
                job.send_signal(signal.SIGKILL)
                job.wait()
                job.stderr.close()
                killed += 1
                # What a run gets done is what is left after its start.
                start_seconds = min(1.0, (time.monotonic() - begun) / killed)
                continue
        finish(job)
        ended += 1
        found = digests(output)
        assert found == expected, f"after {killed} kills {sorted(set(found.items()) ^ set(expected.items()))}"
        if killed >= kills:
            return killed, ended
        for suffix in found:
            output.with_name(output.name + suffix).unlink()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Kill a bulk job again and again.")
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="out.npy", help="its suffix is the format")
    parser.add_argument("--directory", help="for the files, which need twice the room of the vectors")
    args = parser.parse_args(argv)
    echo = ServerConfig(engine="echo", port=0, port_out=0)
    with tempfile.TemporaryDirectory(dir=args.directory) as directory, BertServer(echo) as server:
        ports, source, drawn = (server.port, server.port_out), Path(directory) / "in.txt", random.Random(args.seed)
        write_input(source, args.lines, args.seed)
        alone, disturbed = Path(directory) / "alone", Path(directory) / "disturbed"
        alone.mkdir()
        disturbed.mkdir()
        begun = time.monotonic()
        finish(start(source, alone / args.output, ports))
        seconds = time.monotonic() - begun
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # the server's own have not ended
        print(f"{args.lines} lines undisturbed: {seconds:.0f} s, {args.lines / seconds:.0f} a second, at most "
              f"{most / 1e6:.0f} MB of memory", flush=True)
        if most > MAX_BYTES:
            raise SystemExit(f"the job's process took {most / 1e6:.0f} MB of memory; {MAX_BYTES / 1e6:.0f} MB are "
                             "the most that it may take")
        begun = time.monotonic()
        killed, ended = kill_until(source, disturbed / args.output, ports, args.kills, seconds,
                                   digests(alone / args.output), drawn)
        print(f"killed {killed} times, finished {ended} times, all files the same each time; "
              f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
