"""A server of the benchmark's own, in a process that goes when the benchmark goes; both ends."""
from __future__ import annotations

import logging
import select
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any

from bert_serving.client.words import counted

from .. import log
from ..config import FromModel, PoolingStrategy, ServerConfig
from ..errors import BY_NAME, StartError
from ..orders import Orders
from ..process import Child, read_orders, report
from .load import BenchmarkError

TICK_SECONDS = 0.2
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class ServedOrders(Orders):
    """What the server's process is told: options by name, see :func:`to_json`."""

    options: dict[str, Any]


class Served:
    """A server that was started with some options, ready to be asked.

    Attributes:
        address: ``ip``, ``port``, ``port_out`` and ``curve_dir``, as BertClient takes them.
    """

    def __init__(self, options: Mapping[str, Any], start_seconds: float = 300.0,
                 warn: Callable[[str], None] = lambda line: None, check: Callable[[], None] = lambda: None) -> None:
        """
        Args:
            options: of the server, by name, as plain JSON values; ports are free ones unless given.
            start_seconds: how long it may take until it is ready.
            warn: gets each warning of the server's log.
            check: called while waiting.
        Raises:
            StartError: it cannot start; the message says why.
        """
        self._warn = warn
        self.address: dict[str, Any] = {}
        self._error: StartError | None = None
        self._child = Child("bert_serving.server.benchmark.served",
                            ServedOrders({"port": 0, "port_out": 0, **options}), piped_output=True)
        until = time.monotonic() + start_seconds
        try:
            while not self.address:
                self._listen(TICK_SECONDS)
                self.check()
                check()
                if time.monotonic() > until:
                    raise StartError(f"the server was not ready after {counted(start_seconds, 'second')}; "
                                     "-wait_till_ready sets how long to wait")
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """
        Raises:
            StartError: the server has ended, for the reason that it gave.
            BenchmarkError: ... for a reason that is not known.
        """
        self._listen(0)
        if self._error is not None:
            raise self._error
        if _readable(self._child.sentinel, 0):
            raise BenchmarkError("the server has ended; its last lines above may say why")

    def _listen(self, seconds: float) -> None:
        assert self._child.output is not None
        if not _readable(self._child.output, seconds):
            return
        for message in self._child.read_messages() or ():
            if "error" in message:
                self._error = BY_NAME.get(message["error"], StartError)(message["message"])
            elif "warning" in message:
                self._warn(message["warning"])
            elif "ready" in message:
                self.address = message["ready"]

    def close(self) -> None:
        """Let it finish what it has, and end it."""
        self._child.signal(signal.SIGTERM)
        if not self._child.wait(STOP_SECONDS):
            self._child.kill()
        self._child.forget()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def _readable(descriptor: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def to_json(config: ServerConfig) -> dict[str, Any]:
    """A server's options as plain JSON values; what the model's own files decide is left out."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {name: value.name if isinstance(value, PoolingStrategy) else value
            for name, value in values.items() if not isinstance(value, FromModel)}


def from_json(options: Mapping[str, Any]) -> ServerConfig:
    """
    Raises:
        ConfigError: options that do not go together.
    """
    strategy = options.get("pooling_strategy")
    return ServerConfig(**{**options, **({"pooling_strategy": PoolingStrategy[strategy]} if strategy else {})})


# ---- the server's process --------------------------------------------------------------------------------------------

class Warnings(logging.Handler):
    """Tells the parent of warnings, so that they do not end up in the middle of its progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        report({"warning": record.getMessage()})


def main() -> None:
    options = read_orders("bert-bench-serv", ServedOrders).options
    if options.get("verbose"):
        log.set_up(True)
    else:
        logging.getLogger("bert_serving").addHandler(Warnings(logging.WARNING))
    from ..service import Service, connectable
    from ..stages.broker import exit_now
    try:
        service = Service(from_json(options), lambda service: report(
            {"ready": {"ip": connectable(service.config.host), "port": service.port, "port_out": service.port_out,
                       "curve_dir": service.config.curve_dir or ""}}))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, service.broker.on_signal)
        service.run()
    except StartError as error:
        report({"error": type(error).__name__, "message": str(error)})
        exit_now(error.exit_code)
    exit_now(0)


if __name__ == "__main__":
    # Under its own name, for the log and for whoever compares classes.
    from bert_serving.server.benchmark import served
    served.main()
