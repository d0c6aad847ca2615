"""Servers, ours and others', each in its environment, started as their users do, and stopped."""
from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bert_serving.client import BertClient
from bert_serving.client.errors import BertServingError
from bert_serving.server.benchmark.embeddings import EmbeddingsClient
from bert_serving.server.process import ExitStatus

from .environments import PeerError

START_SECONDS = 300.0
STOP_SECONDS = 20.0
ATTEMPT_MS = 2000


class PeerServer:
    """A server in a session of its own, ready to be asked; all of its processes end with it.

    Attributes:
        address: as Crowd takes it.
    """

    def __init__(self, command: Sequence[str], address: dict[str, Any], is_ready: Callable[[dict[str, Any]], bool],
                 folder: Path, env: Mapping[str, str] | None = None, start_seconds: float = START_SECONDS) -> None:
        """
        Args:
            is_ready: asks for a first vector; False while there is none.
            folder: its own; where its log goes, and its temporary files may.
        Raises:
            PeerError: it does not get ready.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.address, self._log = address, folder / "log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                             cwd=folder, start_new_session=True, env={**os.environ, **(env or {})})
        until = time.monotonic() + start_seconds
        try:
            while not is_ready(address):
                if self._process.poll() is not None:
                    raise PeerError(f"it {ExitStatus.of(self._process.returncode)}; see {self._log}")
                if time.monotonic() > until:
                    raise PeerError(f"not ready after {start_seconds:g} s; see {self._log}")
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """
        Raises:
            PeerError: it has ended.
        """
        if self._process.poll() is not None:
            raise PeerError(f"it {ExitStatus.of(self._process.returncode)}; see {self._log}")

    def close(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(STOP_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        try:
            # Its workers may be slower than it is, or may not listen.
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        for left in self._log.parent.iterdir():        # The original leaves its sockets, for one.
            if left != self._log:
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()

    def __enter__(self) -> PeerServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; for servers that cannot choose their own."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def answers(address: dict[str, Any]) -> bool:
    """Whether a server, ZeroMQ's or HTTP's, gives vectors."""
    try:
        if "url" in address:
            with EmbeddingsClient(address["url"], ATTEMPT_MS) as http:
                http.encode(["ready"])
        else:
            with BertClient(**address, timeout=ATTEMPT_MS, ignore_all_checks=True) as client:
                client.encode(["ready"])
    except BertServingError:
        return False
    return True


# ---- who there is ----------------------------------------------------------------------------------------------------

START = "from bert_serving.server.cli import main; main()"
"""``bert-serving-start``, whosoever it is."""


def original(python: Path, model_dir: Path, max_seq_len: int, folder: Path) -> PeerServer:
    """bert-serving-server 1.10.0, one worker, the last layer's mean, all else as it comes."""
    port, port_out = free_ports(2)
    command = [str(python), "-c", START, "-model_dir", str(model_dir), "-max_seq_len", str(max_seq_len),
               "-pooling_layer", "-1", "-num_worker", "1", "-cpu", "-port", str(port), "-port_out", str(port_out)]
    env = {"ZEROMQ_SOCK_TMP_DIR": str(folder)}
    return PeerServer(command, {"ip": "127.0.0.1", "port": port, "port_out": port_out}, answers, folder, env)


def own(model_dir: Path, max_seq_len: int, precision: str, is_http: bool, folder: Path) -> PeerServer:
    """This project's, the last layer's mean, all else as it comes."""
    port, port_out, http_port = free_ports(3)
    command = [sys.executable, "-c", START, "-model_dir", str(model_dir), "-max_seq_len", str(max_seq_len),
               "-pooling_layer", "-1", "-pooling_strategy", "REDUCE_MEAN", "-precision", precision, "-cpu",
               "-port", str(port), "-port_out", str(port_out)]
    address: dict[str, Any] = {"ip": "127.0.0.1", "port": port, "port_out": port_out}
    if is_http:
        command += ["-http_port", str(http_port)]
        address = {"url": f"http://127.0.0.1:{http_port}/v1/embeddings"}
    return PeerServer(command, address, answers, folder)


def infinity(python: Path, model_dir: Path, threads: int, folder: Path) -> PeerServer:
    """infinity with PyTorch, over HTTP."""
    port, = free_ports(1)
    command = [str(python.parent / "infinity_emb"), "v2", "--model-id", str(model_dir), "--engine", "torch",
               "--device", "cpu", "--no-bettertransformer", "--log-level", "warning", "--host", "127.0.0.1",
               "--port", str(port)]
    env = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    return PeerServer(command, {"url": f"http://127.0.0.1:{port}/embeddings"}, answers, folder, env)
