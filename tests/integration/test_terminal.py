"""Every command on a terminal, where log lines have colours: lines, and not the tracebacks of lines."""
from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from importlib.metadata import distribution
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent

LOG_LINE = r"[IWE] \d\d:\d\d:\d\d\.\d\d\d \x1b\[\d+m%s(-\d+)? *\x1b\[0m "

ECHO = ["-engine", "echo"]

COMMANDS = {
    "bert-serving-start": ([*ECHO, "-port", "0", "-port_out", "0", "-http_port", "0"],
                           [LOG_LINE % "SERVER" + "ready: ", LOG_LINE % "PROXY"]),
    "bert-serving-worker": (["-connect", "127.0.0.1:1", "-patience", "1"],
                            [LOG_LINE % "HOST" + "no server answers on 127.0.0.1:1"]),
    "bert-serving-encode": (["in.txt", "out.npy", "-own", *ECHO, "-verbose"],
                            [LOG_LINE % "SERVER" + "ready: ", "2 rows"]),
    "bert-serving-benchmark": ([*ECHO, "-verbose", "-seconds", "0", "-num_run", "1", "-tests", "num_client",
                                "-test_num_client", "1", "-client_batch_size", "4"],
                               [LOG_LINE % "SERVER" + "ready: ", "`num_client`"]),
    "bert-serving-doctor": ([*ECHO, "-port", "0", "-port_out", "0"], ["engine"]),
    "bert-serving-terminate": (["-port", "1", "-timeout", "200"], ["bert-serving-terminate: error: "]),
    "bert-serving-keygen": (["keys", "alice"], ["keys/alice"]),
    "bert-serving-model": (["list"], ["MiniLM"]),
}
"""Command -> its arguments, and what its output has to show."""

LINGERING = {"bert-serving-start": "ready: port="}
"""Command that does not end by itself -> after what to end it."""


def on_terminal(command: list[str], directory: Path, until: str | None, seconds: float = 50) -> str:
    """What a command writes to a terminal of its own.

    Args:
        until: a command that does not end by itself is interrupted once it has written this.
    """
    controller, terminal = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=directory,
                               env={**environ, "TERM": "xterm-256color"})
    os.close(terminal)
    written, end = b"", time.monotonic() + seconds
    try:
        while select.select([controller], [], [], max(0.0, end - time.monotonic()))[0]:
            try:
                received = os.read(controller, 65536)
            except OSError:  # nobody has the terminal any more
                break
            if not received:
                break
            written += received
            if until is not None and until.encode() in written:
                process.send_signal(signal.SIGINT)
                until = None
        else:
            pytest.fail(f"no end after {seconds} s: {written.decode(errors='replace')}")
        process.wait(20)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(controller)
    return written.decode().replace("\r\n", "\n")


def redirected(command: list[str], directory: Path, until: str | None) -> str:
    """What a command writes to a file, with colours because FORCE_COLOR asks for them."""
    environ = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               cwd=directory, text=True, env={**environ, "FORCE_COLOR": "1"})
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if until is not None and until in line:
                process.send_signal(signal.SIGINT)
                until = None
        process.wait(20)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    return "".join(lines)


def test_no_command_is_left_out():
    commands = {script.name for package in ("bert-serving-server", "bert-serving-client")
                for script in distribution(package).entry_points if script.group == "console_scripts"}
    assert commands == set(COMMANDS)


@pytest.mark.parametrize("way", [on_terminal, redirected])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_writes_lines_on_a_terminal(command, way, tmp_path):
    if not (BIN / command).exists():
        pytest.skip(f"{command} is not installed beside {sys.executable}")
    (tmp_path / "in.txt").write_text("first\nsecond\n")
    arguments, expected = COMMANDS[command]
    written = way([str(BIN / command), *arguments], tmp_path, LINGERING.get(command))
    assert "Logging error" not in written and "Traceback" not in written, written
    for pattern in expected:
        assert re.search(pattern, written), f"{pattern!r} is not in:\n{written}"
