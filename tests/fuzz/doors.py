"""A real server with the echo engine under fire at all its ports, beside ordinary clients whose answers are checked."""
from __future__ import annotations

import http.client
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bert_serving.client import BertClient

from ..chaos import memory
from ..chaos.driver import fingerprints, texts_of
from ..chaos.history import Verdict
from ..chaos.model import EchoModel
from ..chaos.scenarios import GROWTH, Settings, Stage

from .codecs import Found

HERE = Path(__file__).parent
HTTP_PORT = re.compile(r"ready: .* http_port=(\d+)")
WORKER_PORT = re.compile(r"workers of other hosts join on port (\d+)")
LOST = re.compile(r"(worker \d+|the HTTP proxy) was lost|Traceback|a reason of our own|ended by itself")
"""In the server's log: what hostile input must not bring about."""

OPTIONS = ("-http_port", "0", "-max_message_mb", "2", "-max_queue_mb", "64", "-max_held_mb", "16",
           "-max_held_client_mb", "4", "-hold_timeout", "2", "-worker_port", "0", "-worker_timeout", "3")
"""Small limits, so that a short run reaches them, and memory its size."""

DOORS = {  # row of the table: (door of flood.py, whose port)
    "port for requests": ("requests", "port"),
    "port for results": ("subscriptions", "port_out"),
    "ZMTP, requests": ("raw", "port"),
    "ZMTP, results": ("raw", "port_out"),
    "port for workers": ("hosts", "worker_port"),
    "ZMTP, workers": ("raw", "worker_port"),
    "HTTP": ("http", "http_port"),
}


FAST = ("port for requests", "port for results")
"""Doors at which messages need no connection of their own: they get what is asked for by number."""

TOGETHER, PACE = "all at once", 200.0
"""The last phase, and messages a second at each door in it. Above that libzmq's port for results, and with it the
broker, has no time for others: see "What is not guarded" in SECURITY.md."""


WARM_SECONDS = 60
"""In a shorter phase buffers and caches still reach their size, so that only a large leak is told from that."""


@dataclass
class Siege:
    """What came of it.

    Attributes:
        sent: row -> messages.
        wrong: row -> answers that should not have been.
        crashes: what was lost, in lines.
        verdict: of the clients' history.
        revived: how often a process that sends was ended by its own libzmq, and started again.
        growth: process -> (slope, bytes that the lower bound has it grow by, most that it may), of the worst phase.
    """

    seconds: float = 0.0
    sent: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)
    revived: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    growth: dict[str, tuple[memory.Slope, float, float]] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)
    last: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        return not self.crashes and not any(self.wrong.values()) and self.verdict.clean and \
            all(grown < most for _, grown, most in self.growth.values())


class Flooder:
    """A ``flood.py``, and what it says."""

    def __init__(self, row: str, port: int, seed: int, pace: float, siege: Siege) -> None:
        self.row, self.port, self.seed, self.pace, self.siege = row, port, seed, pace, siege
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.flood", json.dumps(
                {"door": DOORS[row][0], "port": port, "seed": seed, "pace": pace})],
            cwd=HERE.parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        siege = self.siege
        assert self.process.stdout is not None
        for line in self.process.stdout:
            kind, *rest = json.loads(line)
            if kind == "sent":
                siege.sent[self.row] += rest[0]
            elif kind == "wrong":
                siege.wrong[self.row] += 1
                if siege.wrong[self.row] < 5:
                    siege.found.append(Found(self.row, False, rest[0], [b64decode(frame) for frame in rest[1]]))
            else:
                siege.last[self.row] = rest[0]

    def again(self) -> Flooder:
        """Another one in its place, if it is gone: it abuses its own libzmq, too, which may end it."""
        if self.process.poll() != -signal.SIGABRT:
            return self
        self._reader.join(20)
        self._close()
        self.siege.revived += 1
        return Flooder(self.row, self.port, self.seed + 1000, self.pace, self.siege)

    def _close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()

    def stop(self) -> None:
        """Let it end.

        Raises:
            RuntimeError: it ended before, or does not end.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        has_ended = self.process.poll()
        if has_ended is None:
            self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"what floods the {self.row} did not end") from None
        finally:
            self._reader.join(20)
            self._close()
        if has_ended is not None and not self.siege.wrong[self.row]:
            raise RuntimeError(f"what floods the {self.row} ended with code {has_ended}")


class Host:
    """An ordinary ``bert-serving-worker`` that joins the server and works for it, whatever others do at that port."""

    def __init__(self, port: int, log: Path) -> None:
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bert_serving.server.join", "-connect", f"127.0.0.1:{port}", "-num_worker", "1"],
                stdin=subprocess.DEVNULL, stderr=file)

    def stop(self) -> list[str]:
        """Let it leave; what went wrong with it, in lines."""
        has_ended = self.process.poll()
        if has_ended is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        log = self.log.read_text(errors="replace")
        troubles = [f"the host: {line}" for line in log.splitlines() if line.startswith("E ") or LOST.search(line)]
        if has_ended is not None or code:
            how = "by itself " if has_ended is not None else ""
            troubles.append(f"the host ended {how}with code {code}: {log[-300:]}")
        return troubles


class HttpClient:
    """An ordinary caller of ``/encode``, whose answers go to the checker, too."""

    def __init__(self, name: str, port: int, take: Callable[[list[Any]], None], seed: int) -> None:
        self.name, self.port, self.take = name, port, take
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        take(["client", time.monotonic(), name, True])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            texts = texts_of(self.name, number, int(64 ** self._rng.random()))
            self.take(["asked", time.monotonic(), self.name, number, len(texts), None])
            self.take([*self._ask(texts, number)])
            number += 1
            self._stop.wait(0.01)

    def _ask(self, texts: list[str], number: int) -> Sequence[Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/encode", json.dumps({"id": number, "texts": texts}),
                               {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            return "failed", time.monotonic(), self.name, number, "http", repr(error), None
        finally:
            connection.close()
        if response.status != 200 or answer["id"] != number:
            return "failed", time.monotonic(), self.name, number, str(response.status), str(answer)[:200], None
        rows = np.array(answer["result"], np.float32)
        return "answered", time.monotonic(), self.name, number, fingerprints(rows)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(90)


def besiege(seconds: float, messages: int, seed: int, directory: str, *, rows: Sequence[str] = tuple(DOORS),
            planted: str | None = None, timeout: int = 60_000, say: Callable[[str], None] = print) -> Siege:
    """One door after the other, then all at once: until both the time is over and so many messages were sent.

    Args:
        timeout: milliseconds after which an ordinary client counts an answer as lost.
    Raises:
        RuntimeError: it could not be done; a server that falls is no such thing.
    """
    siege = Siege(sent=dict.fromkeys(rows, 0), wrong=dict.fromkeys(rows, 0))
    settings = Settings(seconds=seconds, seed=seed, expect=EchoModel(), directory=directory, timeout=timeout,
                        say=say)
    program = [str(HERE / "planted.py"), planted] if planted else None
    phases = [[row] for row in rows] + ([list(rows)] if len(rows) > 1 else [])
    quota = messages / max(1, len([row for row in rows if row in FAST]))
    with Stage(settings, "siege", *OPTIONS, program=program) as stage:
        server = stage.server
        http_port = int(HTTP_PORT.findall(server.log.read_text(errors="replace"))[-1])
        worker_port = int(WORKER_PORT.findall(server.log.read_text(errors="replace"))[-1])
        ports = {"port": server.port, "port_out": server.port_out, "http_port": http_port, "worker_port": worker_port}
        host = Host(worker_port, Path(directory) / "host.log")
        stage.start("ours", "mixed", ["ours0", "ours1"], largest=64)
        stage.start("raw", "", ["raw0"], window=2, largest=64)
        caller = HttpClient("http0", http_port, stage.take, seed)
        if not stage.wait_for(lambda: stage.answered() > 100 or server.process.poll() is not None, 60):
            raise RuntimeError("the clients are not answered, before anything was done to the server")
        _fill_dictionaries(server.port, server.port_out)
        start = time.monotonic()
        for number, phase in enumerate(phases):
            if server.process.poll() is not None:
                break
            flooders = [Flooder(row, ports[DOORS[row][1]], seed + number, PACE if len(phase) > 1 else 0, siege)
                        for row in phase]
            _watch_phase(siege, flooders, stage, seconds / len(phases),
                         quota if phase[0] in FAST and len(phase) == 1 else 0)
            say(f"{phase[0] if len(phase) == 1 else TOGETHER}: {sum(siege.sent.values()):,} messages sent so far, "
                f"{stage.answered():,} sentences answered")
        siege.seconds = time.monotonic() - start
        caller.stop()
        siege.crashes += host.stop()
        try:
            siege.verdict = stage.finish()
        except RuntimeError as error:
            siege.crashes.append(str(error))
        log = server.log.read_text(errors="replace")
    siege.crashes += [line for line in log.splitlines() if LOST.search(line)]
    return siege


def _watch_phase(siege: Siege, flooders: list[Flooder], stage: Stage, seconds: float, quota: float) -> None:
    """Let them flood for as long as they should, and see whether the server's processes grow meanwhile."""
    server = stage.server
    pids = {"broker": server.process.pid, **_children(server.process.pid)}
    every = min(1.0, seconds / 100)
    samplers = {name: memory.Sampler(lambda pid=pid: pid, every) for name, pid in pids.items()}
    sent = dict(siege.sent)
    stage.wait_for(lambda: all(siege.sent[flooder.row] > sent[flooder.row] for flooder in flooders)
                   or server.process.poll() is not None, 30)
    row, begin = flooders[0].row, time.monotonic()
    with ExitStack() as stack:
        for sampler in samplers.values():
            stack.enter_context(sampler)
        while (time.monotonic() - begin < seconds or siege.sent[row] < quota) and server.process.poll() is None \
                and all(flooder.process.poll() in (None, -signal.SIGABRT) for flooder in flooders):
            flooders = [flooder.again() for flooder in flooders]
            time.sleep(0.05)
    for flooder in flooders:
        try:
            flooder.stop()
        except RuntimeError as error:
            siege.crashes.append(str(error))
    most = GROWTH if time.monotonic() - begin > WARM_SECONDS else 20 * GROWTH
    for name, sampler in samplers.items():
        try:
            slope = memory.slope(sampler.times, sampler.memory)
        except ValueError:
            continue
        grown = slope.low * (sampler.times[-1] - sampler.times[0]) * (1 - memory.WARM_UP)
        if name not in siege.growth or grown / most > siege.growth[name][1] / siege.growth[name][2]:
            siege.growth[name] = slope, grown, most


def _fill_dictionaries(port: int, port_out: int) -> None:
    """Each worker's echo engine remembers 65,536 words; while they come in, that would look like a leak."""
    with BertClient(port=port, port_out=port_out, timeout=60_000) as client:
        for part in range(4):
            client.encode([" ".join(f"w{part}.{sentence}.{word}" for word in range(23)) for sentence in range(3000)])


def _children(pid: int) -> dict[str, int]:
    """Name, with a number -> process id of the server's workers and HTTP proxy."""
    listed = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    found = [line.split(None, 1) for line in sorted(listed.splitlines())]
    return {f"{name} {number}": int(child) for number, (child, name) in enumerate(found) if name.startswith("bert-")}
