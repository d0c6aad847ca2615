"""Fixtures that several rooms share; keep them few."""
import re
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass

import pytest

READY = re.compile(r"ready: port=(\d+) port_out=(\d+) http_port=(\d+|None) seconds=")


@dataclass(frozen=True)
class EchoServer:
    """Where a running server listens."""

    port: int
    port_out: int
    http_port: int


@pytest.fixture(scope="session")
def echo_server():
    """A real ``bert-serving-start`` with the echo engine (no model) on free ports, HTTP included.

    At the end it is asked to stop, and has to do so with exit code 0.
    """
    with tempfile.TemporaryFile("w+") as log:
        # The log goes on through a pipe, so that the line it waits for can be awaited without polling.
        process = subprocess.Popen(
            [sys.executable, "-m", "bert_serving.server.cli", "-engine", "echo",
             "-port", "0", "-port_out", "0", "-http_port", "0"], stderr=subprocess.PIPE, text=True)
        found, ready = [], threading.Event()

        def follow():
            for line in process.stderr:
                log.write(line)
                match = READY.search(line)
                if match:
                    found.append(match)
                    ready.set()
            ready.set()

        follower = threading.Thread(target=follow)
        follower.start()
        try:
            assert ready.wait(30) and found, "no ready line; the server's log:\n" + _read(log)
            yield EchoServer(*(int(number) for number in found[0].groups()))
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, "the server's log:\n" + _read(log)
        finally:
            process.kill()
            process.wait()
            follower.join(10)
            process.stderr.close()


def _read(log):
    log.seek(0)
    return log.read()
