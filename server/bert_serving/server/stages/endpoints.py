"""Addresses and sockets: every ZeroMQ option that the server sets is set here."""
from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import zmq

from ..errors import ConfigError, PortError

logger = logging.getLogger(__name__)

FRONT_RCVHWM = 32
OUTLET_SNDHWM = 16
"""Messages that libzmq keeps for one subscriber; more are held by the outlet, which counts bytes."""

SUBSCRIPTION_BYTES = 1024
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 30_000, 90_000
PREFIX = "bert-serving-"

# Enum arithmetic on every frame is measurable; ints are not.
NOBLOCK, SNDMORE = int(zmq.NOBLOCK), int(zmq.SNDMORE)


class RunDirectory:
    """Names for the sockets between broker and workers, and what is left of them on disk.

    On Linux they are abstract: nothing on disk. Elsewhere, and where ZEROMQ_SOCK_TMP_DIR is set, they are files in a
    private directory that carries this process's id, is removed at the end, and swept at the next start if it was not.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        parent = os.environ.get("ZEROMQ_SOCK_TMP_DIR")
        if parent is not None and not os.path.isdir(parent):
            raise ConfigError(f"ZEROMQ_SOCK_TMP_DIR is {parent!r}, which is not a directory; create it or unset it")
        if parent is not None or not sys.platform.startswith("linux"):
            sweep(Path(parent or tempfile.gettempdir()))
            try:
                self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
            except OSError as error:
                raise ConfigError(f"cannot make a directory for sockets: {error}; ZEROMQ_SOCK_TMP_DIR says where") \
                    from error

    def endpoint(self, name: str) -> str:
        if self.path is None:
            return f"ipc://@{PREFIX}{uuid.uuid4().hex}-{name}"
        return f"ipc://{self.path / name}"

    def remove(self) -> None:
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove run directories of processes that are gone."""
    for path in parent.glob(f"{PREFIX}[0-9]*-*"):
        pid = path.name.removeprefix(PREFIX).split("-")[0]
        if pid.isdigit() and path.is_dir() and path.stat().st_uid == os.getuid() and not _is_alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
            logger.info("removed %s, left by an earlier server", path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def front(context: zmq.Context[Any], host: str, port: int, max_message_bytes: int) -> tuple[zmq.Socket[Any], int]:
    """The socket that receives requests, and its port.

    Raises:
        PortError: it cannot be bound.
    """
    socket = context.socket(zmq.PULL)
    socket.rcvhwm = FRONT_RCVHWM
    # Above the limit for which clients get an error, so that they do get it; libzmq closes the connection silently.
    socket.maxmsgsize = 4 * max_message_bytes
    _keep_alive(socket)
    return socket, _bind(socket, host, port, "-port")


def outlet(context: zmq.Context[Any], host: str, port: int) -> tuple[zmq.Socket[Any], int]:
    """The socket that publishes results, and its port. Manual: we say which topic a subscription registers.

    Raises:
        PortError: it cannot be bound.
    """
    socket = context.socket(zmq.XPUB)
    socket.setsockopt(zmq.XPUB_MANUAL, 1)
    socket.setsockopt(zmq.XPUB_NODROP, 1)
    socket.sndhwm = OUTLET_SNDHWM
    socket.maxmsgsize = SUBSCRIPTION_BYTES
    _keep_alive(socket)
    return socket, _bind(socket, host, port, "-port_out")


def _keep_alive(socket: zmq.Socket[Any]) -> None:
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.heartbeat_ivl, socket.heartbeat_timeout = HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS


def _bind(socket: zmq.Socket[Any], host: str, port: int, option: str) -> int:
    """Bind to ``host:port``; the port, which is another one if 0 was asked for."""
    try:
        socket.bind(f"tcp://{host}:{port or '*'}")
    except zmq.ZMQError as error:
        socket.close(linger=0)
        if error.errno == zmq.EADDRINUSE:
            raise PortError(f"port {port} ({option}) is in use on {host}; stop what listens there, or give {option} "
                            f"another number") from error
        raise PortError(f"cannot bind {option} {port} on {host!r}: {error.strerror}; see -host") from error
    return int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])


def pipe(context: zmq.Context[Any], endpoint: str) -> zmq.Socket[Any]:
    """The broker's end of one worker's pipe; the next incarnation of the worker reads from the same.

    Raises:
        PortError: it cannot be bound.
    """
    socket = context.socket(zmq.PUSH)
    socket.sndhwm = 0  # what a worker may hold is limited by its credit
    socket.linger = 0
    _inner_bind(socket, endpoint)
    return socket


def results(context: zmq.Context[Any], endpoint: str) -> zmq.Socket[Any]:
    """Where all workers send their rows.

    Raises:
        PortError: it cannot be bound.
    """
    socket = context.socket(zmq.PULL)
    socket.rcvhwm = 64
    _inner_bind(socket, endpoint)
    return socket


def _inner_bind(socket: zmq.Socket[Any], endpoint: str) -> None:
    if endpoint.startswith("ipc://@"):
        # Any local user can connect to an abstract socket: take peers of our own user only.
        socket.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise PortError(f"cannot bind {endpoint}: {error.strerror}; is ZEROMQ_SOCK_TMP_DIR a directory with a short "
                        f"name that can be written to?") from error


def worker_end(context: zmq.Context[Any], jobs: str, results_to: str) -> tuple[zmq.Socket[Any], zmq.Socket[Any]]:
    """A worker's sockets: (jobs PULL, results PUSH)."""
    job_socket = context.socket(zmq.PULL)
    job_socket.rcvhwm = 16
    job_socket.linger = 0
    job_socket.connect(jobs)
    result_socket = context.socket(zmq.PUSH)
    result_socket.linger = 1000
    result_socket.connect(results_to)
    return job_socket, result_socket
