"""Addresses and sockets: every ZeroMQ option that the server sets is set here."""
from __future__ import annotations

import itertools
import logging
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zmq

from ..errors import ConfigError, PortError

logger = logging.getLogger(__name__)

FRONT_RCVHWM = 32
OUTLET_SNDHWM = 16
"""Messages that libzmq keeps for one subscriber; more are held by the outlet, which counts bytes."""

REMOTE_WORKERS_SNDHWM = 10_000
"""Messages that libzmq keeps for one host: more than all the jobs that its workers may hold, but not without end for
strangers who ask and do not read."""

SUBSCRIPTION_BYTES = 1024
KEEPALIVE = {zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 30, zmq.TCP_KEEPALIVE_INTVL: 15, zmq.TCP_KEEPALIVE_CNT: 4,
             zmq.TCP_MAXRT: 90_000}
"""A peer that vanished is noticed after a minute and a half. Not by ZeroMQ's own heartbeats: libzmq 4.3.5 ends the
process when one is due on a connection that was lost before all that had come over it was read (!_io_error)."""

HANDSHAKE_MS = 10_000
"""Who connects and then says nothing, or stops in the middle, is disconnected after so long."""

BACKLOG = 1024
"""Connections that the kernel may take before libzmq does; the kernel has a limit of its own, too."""

PREFIX = "bert-serving-"
ZAP, ZAP_DOMAIN, ZAP_DOMAIN_OF_WORKERS = "inproc://zeromq.zap.01", b"bert-serving", b"bert-serving-workers"
_monitors = itertools.count()

MAX_AT_ONCE = 64
"""Messages taken from one socket before the others have their turn."""

COPY_BELOW = 65536
"""Bytes below which libzmq copies a frame faster than it shares it."""

Guard = Callable[["zmq.Socket[Any]"], None]
"""Closes a socket to strangers before it is bound."""

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


def front(context: zmq.Context[Any], host: str, port: int, max_message_bytes: int,
          guard: Guard | None = None) -> tuple[zmq.Socket[Any], int]:
    """The socket that receives requests, and its port.

    Args:
        guard: is given the socket before it is bound.
    Raises:
        PortError: it cannot be bound.
    """
    socket = context.socket(zmq.PULL)
    socket.rcvhwm = FRONT_RCVHWM
    # Above the limit for which clients get an error, so that they do get it; libzmq closes the connection silently.
    socket.maxmsgsize = 4 * max_message_bytes
    return socket, _bind(socket, host, port, "-port", guard)


def outlet(context: zmq.Context[Any], host: str, port: int,
           guard: Guard | None = None) -> tuple[zmq.Socket[Any], int]:
    """The socket that publishes results, and its port. Manual: we say which topic a subscription registers.

    Args:
        guard: is given the socket before it is bound.
    Raises:
        PortError: it cannot be bound.
    """
    socket = context.socket(zmq.XPUB)
    socket.setsockopt(zmq.XPUB_MANUAL, 1)
    socket.setsockopt(zmq.XPUB_NODROP, 1)
    socket.sndhwm = OUTLET_SNDHWM
    socket.maxmsgsize = SUBSCRIPTION_BYTES
    return socket, _bind(socket, host, port, "-port_out", guard)


def remote_workers(context: zmq.Context[Any], host: str, port: int, largest: int,
                   guard: Guard | None = None) -> tuple[zmq.Socket[Any], int]:
    """The socket for workers of other hosts, and its port.

    Args:
        largest: most bytes of one frame.
        guard: is given the socket before it is bound.
    Raises:
        PortError: it cannot be bound.
    """
    socket = context.socket(zmq.ROUTER)
    socket.router_mandatory = True  # to be told when a host is gone
    socket.sndhwm, socket.rcvhwm = REMOTE_WORKERS_SNDHWM, FRONT_RCVHWM
    socket.maxmsgsize = largest
    return socket, _bind(socket, host, port, "-worker_port", guard)


def _bind(socket: zmq.Socket[Any], host: str, port: int, option: str, guard: Guard | None) -> int:
    """Bind to ``host:port``; the port, which is another one if 0 was asked for."""
    for keepalive, value in KEEPALIVE.items():
        socket.setsockopt(keepalive, value)
    socket.handshake_ivl, socket.backlog = HANDSHAKE_MS, BACKLOG
    if guard is not None:
        guard(socket)
    try:
        socket.bind(f"tcp://{host}:{port or '*'}")
    except zmq.ZMQError as error:
        socket.close(linger=0)
        if error.errno == zmq.EADDRINUSE:
            raise PortError(f"port {port} ({option}) is in use on {host}; stop what listens there, or give {option} "
                            f"another number") from error
        raise PortError(f"cannot bind {option} {port} on {host!r}: {zmq.strerror(error.errno or 0)}; give -host "
                        "an IPv4 address or name of this machine, or * for all its networks") from error
    return int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])


def zap(context: zmq.Context[Any]) -> zmq.Socket[Any]:
    """Where libzmq asks whether to let somebody in."""
    socket = context.socket(zmq.REP)
    socket.linger = 0
    socket.bind(ZAP)
    return socket


def guard(context: zmq.Context[Any], socket: zmq.Socket[Any], secret_key: bytes,
          domain: bytes = ZAP_DOMAIN) -> zmq.Socket[Any]:
    """Have a socket speak CURVE only, with those alone who are admitted at ``zap``.

    Args:
        domain: which is asked for there.
    Returns:
        A socket that tells of its connections.
    """
    socket.curve_server = True
    socket.curve_secretkey = secret_key
    # With a domain that is enforced nobody is let in while nobody answers; without it everybody would be.
    socket.zap_domain = domain
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    monitor = context.socket(zmq.PAIR)
    monitor.linger = 0
    monitor.rcvhwm = 0  # a full queue of events would block libzmq's only I/O thread
    address = f"inproc://monitor-{next(_monitors)}"
    socket.monitor(address, zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
                   | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_DISCONNECTED)
    monitor.connect(address)
    return monitor


def pipe(context: zmq.Context[Any], endpoint: str) -> zmq.Socket[Any]:
    """The broker's end of one worker's pipe; the next incarnation of the worker reads from the same.

    Raises:
        PortError: it cannot be bound.
    """
    socket = context.socket(zmq.PUSH)
    socket.sndhwm = 0  # what a worker may hold is limited by its credit
    socket.linger = 0
    socket.maxmsgsize = SUBSCRIPTION_BYTES  # nothing is to come from there
    _inner_bind(socket, endpoint)
    return socket


def results(context: zmq.Context[Any], endpoint: str, largest: int = -1) -> zmq.Socket[Any]:
    """Where all workers send their rows.

    Args:
        largest: most bytes of one frame; -1: any number.
    Raises:
        PortError: it cannot be bound.
    """
    socket = context.socket(zmq.PULL)
    socket.rcvhwm = 64
    socket.maxmsgsize = largest
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


def worker_end(context: zmq.Context[Any], jobs: str, results_to: str,
               largest: int = -1) -> tuple[zmq.Socket[Any], zmq.Socket[Any]]:
    """A worker's sockets: (jobs PULL, results PUSH).

    Args:
        largest: most bytes of one frame of a job; -1: any number.
    """
    job_socket = context.socket(zmq.PULL)
    job_socket.maxmsgsize = largest
    job_socket.rcvhwm = 16
    job_socket.linger = 0
    job_socket.connect(jobs)
    result_socket = context.socket(zmq.PUSH)
    result_socket.linger = 1000
    result_socket.connect(results_to)
    return job_socket, result_socket


def receive(socket: zmq.Socket[Any]) -> list[zmq.Frame] | None:
    """The frames of a message that waits; None if none does.

    As frames, of which each knows whether another one follows: to ask the socket that takes longer than the rest.
    """
    try:
        frames = [socket.recv(NOBLOCK, copy=False)]
    except zmq.Again:
        return None
    while frames[-1].more:
        frames.append(socket.recv(NOBLOCK, copy=False))
    return frames


def address_of(frame: zmq.Frame) -> str:
    """The address of the host that a message came from; empty if that is not known."""
    try:
        address = frame.get("Peer-Address")
    except zmq.ZMQError:
        return ""
    return address if isinstance(address, str) else ""


def hand(pipe: zmq.Socket[Any], frames: Sequence[bytes]) -> bool:
    """Give a message to the worker at the other end without waiting; False if nobody is there."""
    try:
        pipe.send(frames[0], NOBLOCK | SNDMORE if len(frames) > 1 else NOBLOCK)
    except zmq.Again:
        return False
    for frame in frames[1:-1]:
        pipe.send(frame, SNDMORE)
    if len(frames) > 1:
        pipe.send(frames[-1])
    return True
