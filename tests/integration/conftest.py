"""Servers with options of their own."""
from __future__ import annotations

import threading
import time

import pytest

from ..conftest import RunningServer


def is_alive(pid: int) -> bool:
    """Whether there is a process of that id that is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition, seconds: float = 20) -> bool:
    """Whether a condition of the outside world comes true in time; for what sends no event."""
    until = time.monotonic() + seconds
    pause = threading.Event()
    while time.monotonic() < until:
        if condition():
            return True
        pause.wait(0.01)
    return False


@pytest.fixture
def serve():
    """Start servers with options; each is stopped at the end of the test. Ports are free ones unless given."""
    running = []

    def start(*options: str, **settings) -> RunningServer:
        ports = [] if "-port" in options else ["-port", "0", "-port_out", "0"]
        running.append(RunningServer(*ports, *options, **settings))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture
def serve_echo(serve):
    """Start servers with the echo engine, and wait until they are ready."""
    return lambda *options, **settings: serve("-engine", "echo", *options, **settings).ready()
