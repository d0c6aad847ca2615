"""Child processes, both ends: exec'd (never forked), in a session of their own, gone when their parent is gone.

The parent keeps two pipes to a child. The child's standard input carries one line of JSON, its orders, and then stays
open: its end tells the child that the parent is gone. The other pipe is held open by the child alone: its end tells the
parent, in the same poll loop as everything else, that the child is gone.
"""
from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn, TextIO

from .orders import Orders, OrdersT

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended.

    Attributes:
        code: its exit code; None if a signal killed it.
        signal: the number of the signal that killed it; None if it ended by itself.
    """

    code: int | None
    signal: int | None = None

    @classmethod
    def of(cls, returncode: int) -> ExitStatus:
        """From what ``subprocess`` gives: the code, or the signal's number below 0."""
        return cls(None, -returncode) if returncode < 0 else cls(returncode)

    def __str__(self) -> str:
        """The predicate of a sentence whose subject is the process: "was killed by SIGKILL"."""
        if self.signal is None:
            return f"ended with exit code {self.code}"
        try:
            return f"was killed by {signal.Signals(self.signal).name}"
        except ValueError:  # a real-time signal has no name
            return f"was killed by signal {self.signal}"


@dataclass(frozen=True)
class NotStarted:
    """A process that there never was.

    Attributes:
        reason: what the operating system said.
    """

    reason: OSError

    def __str__(self) -> str:
        """As that of ExitStatus."""
        return f"could not be started: {self.reason}"


Ending = ExitStatus | NotStarted
"""Why there is no process."""


class Child:
    """A Python module that runs as a process.

    Attributes:
        pid: its process id.
        sentinel: file descriptor that becomes readable when the process is gone.
        output: file descriptor of its standard output if that is piped, else None.
    """

    def __init__(self, module: str, orders: Orders, *, arguments: Sequence[str] = (),
                 piped_output: bool = False, environ: dict[str, str] | None = None) -> None:
        """
        Args:
            module: run as ``python -m module``.
            arguments: of that command.
            orders: what the child reads from its standard input with ``read_orders``.
            piped_output: read its standard output instead of sending it to standard error.
            environ: variables to set beside those of this process.
        """
        self.sentinel, held_by_child = os.pipe()
        try:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, pass_fds=(held_by_child,),
                stdout=subprocess.PIPE if piped_output else sys.stderr.fileno() if _has_descriptor() else None,
                start_new_session=True, env={**os.environ, **(environ or {})})
        except OSError:
            os.close(self.sentinel)
            raise
        finally:
            os.close(held_by_child)
        self.pid = self.popen.pid
        self.output = self.popen.stdout.fileno() if self.popen.stdout else None
        if self.output is not None:
            os.set_blocking(self.output, False)
        self._received = b""
        self._write({**orders.to_json(), "parent": os.getpid(), "held": held_by_child})

    def read_messages(self) -> list[dict[str, Any]] | None:
        """The JSON objects, a line each, that the child has written since the last call; None at the end of its output.

        A line that is none (a library may print what it likes) goes where the other children's output goes.
        """
        assert self.output is not None
        try:
            received = os.read(self.output, 65536)
        except BlockingIOError:
            return []
        if not received:
            return None
        *lines, self._received = (self._received + received).split(b"\n")
        messages = []
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                message = None
            if isinstance(message, dict):
                messages.append(message)
            else:
                print(line.decode(errors="replace"), file=sys.stderr)
        return messages

    def tell(self, orders: Orders) -> None:
        """Send one more line after its orders; to one that has ended it is lost."""
        self._write(orders.to_json())

    def _write(self, values: dict[str, Any]) -> None:
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(json.dumps(values).encode() + b"\n")
            self.popen.stdin.flush()
        except BrokenPipeError:
            pass

    def end_input(self) -> None:
        """End its standard input, for one that ends with that."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()

    def kill(self) -> None:
        """End it now; it has no say. A child in a session of its own has a group of its own: all of it goes."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def wait(self, seconds: float) -> bool:
        """Whether it is gone, after at most ``seconds``."""
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def forget(self) -> ExitStatus:
        """Close what is left of a child that is gone; how it ended."""
        try:
            code = self.popen.wait(5)
        except subprocess.TimeoutExpired:
            # Its sentinel says that it is gone, and yet it is there: it closed the descriptor itself.
            self.kill()
            code = self.popen.wait()
        os.close(self.sentinel)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        return ExitStatus.of(code)


def ask(module: str, orders: Orders, seconds: float, *,
        environ: dict[str, str] | None = None) -> dict[str, Any] | None:
    """The first message of a child that is started for it alone; afterwards it is gone, and what it started.

    Args:
        module, orders, environ: as of :class:`Child`.
        seconds: most to wait.
    Returns:
        None if it ends, or the time does, without one.
    Raises:
        OSError: it cannot be started.
    """
    child = Child(module, orders, piped_output=True, environ=environ)
    assert child.output is not None
    until = time.monotonic() + seconds
    try:
        while select.select([child.output], [], [], max(0.0, until - time.monotonic()))[0]:
            messages = child.read_messages()
            if messages is None:
                break
            if messages:
                return messages[0]
        return None
    finally:
        child.kill()
        child.forget()


def _has_descriptor() -> bool:
    try:
        sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    return True


def read_orders(name: str, kind: type[OrdersT]) -> OrdersT:
    """First thing in a child: take the orders, and see to it that this process goes when its parent goes.

    Orders that do not come from a ``Child`` (a person's, in a shell) name no parent, so there is none to watch.

    Args:
        name: what ``ps`` and ``top`` show for it, 15 characters at most.
        kind: of its orders.
    Raises:
        ConfigError: what comes is no such orders.
    """
    values: dict[str, Any] = json.loads(_read_line(0))
    if "parent" in values:
        _obey(values.pop("parent"), values.pop("held"), name)
    return kind.from_json(values)


def _obey(parent: int, held: int, name: str) -> None:
    """See to it that this process goes when its parent goes.

    Args:
        held: the descriptor whose end tells the parent that this process is gone.
    """
    os.set_inheritable(held, False)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it went before we could ask to be told
    # Ctrl-C is for the parent, which will tell.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def reserve_output() -> TextIO:
    """This process's standard output, for ``report`` alone: what libraries print from now on goes to standard error."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return output


def report(message: dict[str, Any], output: TextIO | None = None) -> None:
    """Send one line to the parent, whose ``Child.read_messages`` reads it.

    Args:
        message: what JSON can hold.
        output: as of ``reserve_output``; None: standard output.
    """
    print(json.dumps(message), file=output or sys.stdout, flush=True)


def exit_on_sigterm() -> None:
    """Let a SIGTERM raise SystemExit, with the exit code of a shell, so that what was started is stopped."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _read_line(descriptor: int) -> bytes:
    """Up to the end of the line and no further: what comes after it, lines or the end of the parent, is for others."""
    line = bytearray()
    while not line.endswith(b"\n"):
        received = os.read(descriptor, 1)
        if not received:
            break
        line += received
    return bytes(line)


def environment_for(verbose: bool) -> dict[str, str]:
    """Variables for children that import TensorFlow; they silence what it writes at its import."""
    return {} if verbose else {"TF_CPP_MIN_LOG_LEVEL": "3"}


def raise_descriptor_limit(most: int = 65536) -> None:
    """Let this process open as many files as it is allowed to: every connection of a client is two of them."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
