"""Processes of clients, ours and the original's, whose events go to a checker."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ORIGINAL_VERSION = "1.10.0"


class Clients:
    """One process of clients, running until told to stop."""

    def __init__(self, kind: str, mode: str, names: Sequence[str], take: Callable[[list[Any]], None], *,
                 interpreter: str | Path = sys.executable, **order: Any) -> None:
        """
        Args:
            kind: "ours", "original" or "raw".
            mode: a method of ``driver.Clients``; of no meaning for "raw".
            names: one client each.
            take: gets the events, one at a time, from a thread of this object's.
            interpreter: runs the script; one that has the original's client for kind "original".
            **order: the rest of what the script is told.
        """
        self.kind, self.mode, self.names = kind, mode, names
        order = {"mode": mode, "names": list(names), "original": kind == "original", "largest": 128, "curve_dir": "",
                 **order}
        environ = {name: value for name, value in os.environ.items() if kind != "original" or name != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [str(interpreter), str(HERE / ("raw.py" if kind == "raw" else "driver.py")), json.dumps(order)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)
        self.timeout = order["timeout"] / 1000
        now = time.monotonic()
        for name in names:
            take(["client", now, name, kind == "ours"])
        self._take = take
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._take(json.loads(line))

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def pause(self) -> None:
        """Stop the process itself: it does not read its sockets any more."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def ask_to_stop(self) -> None:
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it has ended.

        Raises:
            RuntimeError: it did not, or ended with an error.
        """
        try:
            code = self.process.wait(2 * self.timeout + 20 if seconds is None else seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)  # it writes where its threads are
            time.sleep(0.5)
            self.process.kill()
            raise RuntimeError(f"the {self.kind} clients {', '.join(self.names)} ({self.mode}) did not end") from None
        self._reader.join(30)
        if code:
            raise RuntimeError(f"the {self.kind} clients {', '.join(self.names)} ({self.mode}) ended with code {code}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(10)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                pass


def original_interpreter(cache: Path | None = None) -> Path:
    """An interpreter that has the original's client; made at the first call, and kept in the user's cache.

    Raises:
        RuntimeError: it cannot be made here.
    """
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bert-serving" / "chaos"
    directory = cache / f"client-{ORIGINAL_VERSION}-python{sys.version_info[0]}.{sys.version_info[1]}"
    interpreter = directory / "bin" / "python"
    if (directory / "installed").exists():
        return interpreter
    try:
        venv.create(directory, with_pip=True, clear=True)
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                        f"bert-serving-client=={ORIGINAL_VERSION}"], check=True, capture_output=True, text=True,
                       timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        raise RuntimeError(f"the original's client {ORIGINAL_VERSION} cannot be installed here: {reason}") from error
    (directory / "installed").touch()
    return interpreter
