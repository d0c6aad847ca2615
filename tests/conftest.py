"""Fixtures that several rooms share; keep them few."""
from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bert_serving.client import BertClient

# Who is started by a shell in the background ignores SIGINT, and so would every program that is started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

READY = re.compile(r"ready: port=(\d+) port_out=(\d+) http_port=(\d+|None) seconds=")


class RunningProgram:
    """A command of ours and what it says.

    Attributes:
        lines: every line of its log so far.
    """

    def __init__(self, command: list[str], environ: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                                        env={**os.environ, **(environ or {})})
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()

    def _follow(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)
            self._new.put(line)
        self._new.put(None)

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """The match in the first line from here on that matches; fails when there is none in time."""
        until = time.monotonic() + seconds
        while True:
            try:
                line = self._new.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"no line matches {pattern!r}; the log:\n{self.log}")
            match = re.search(pattern, line)
            if match:
                return match

    def children(self) -> list[int]:
        """Process ids of its children."""
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]

    def workers(self) -> list[int]:
        """Process ids of its workers, by their name."""
        return [pid for pid in self.children() if _name(pid).startswith("bert-worker")]

    def stop(self, number: int = signal.SIGTERM, seconds: float = 40) -> int:
        """Send it a signal and wait; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._follower.join(10)
        self.process.stderr.close()


class RunningServer(RunningProgram):
    """A ``bert-serving-start``."""

    def __init__(self, *options: str, environ: dict[str, str] | None = None) -> None:
        super().__init__([sys.executable, "-m", "bert_serving.server.cli", *options], environ)

    def ready(self, seconds: float = 60) -> RunningServer:
        port, port_out, http_port = self.wait_for(READY.pattern, seconds).groups()
        self.port, self.port_out = int(port), int(port_out)
        self.http_port = None if http_port == "None" else int(http_port)
        return self

    def client(self, **options) -> BertClient:
        return BertClient(port=self.port, port_out=self.port_out, **{"timeout": 20_000, **options})


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose name leaves room for a socket's."""
    return tmp_path_factory.mktemp("s", numbered=True)


@pytest.fixture(scope="session")
def echo_server():
    """A real server with the echo engine (no model) on free ports, HTTP included, for tests that leave it as it is.

    At the end it is asked to stop, and has to do so with exit code 0.
    """
    server = RunningServer("-engine", "echo", "-port", "0", "-port_out", "0", "-http_port", "0")
    try:
        yield server.ready()
        assert server.stop() == 0, server.log
    finally:
        server.close()
