"""The HTTP proxy's process: ``python -m bert_serving.server.proxy``, started by the server.

It reads one line of JSON from its standard input (the fields of :class:`.wsgi.Settings`), binds, and writes one line of
JSON to its standard output: ``{"ready": true, "http_port": 8125}``; or ``{"error": {"name": ..., "message": ...}}``,
after which it ends with that error's exit code. SIGTERM, or the end of its standard input (whoever started it is gone),
makes it answer what it has and end; a second signal ends it at once.
"""
from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import StartError

if TYPE_CHECKING:
    from .wsgi import Proxy

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    die_with_parent()
    try:
        proxy = start(sys.stdin.readline())
    except StartError as error:
        say({"error": {"name": type(error).__name__, "message": error.message}})
        sys.exit(error.exit_code)

    def on_signal(number: int, frame: Any) -> None:
        if proxy.stopping.is_set():
            os._exit(0)
        proxy.stop()

    def watch_parent() -> None:
        while sys.stdin.read(65536):
            pass
        proxy.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    threading.Thread(target=watch_parent, daemon=True).start()
    say({"ready": True, "http_port": proxy.http_port})
    proxy.serve()
    logger.info("stopped")
    logging.shutdown()
    # A request that outlived drain_timeout still holds a thread and a socket; waiting for libzmq could take for ever.
    os._exit(0)


def start(line: str) -> Proxy:
    """The proxy for a line of settings, bound and not yet answering.

    Raises:
        StartError: the settings are wrong, the port is taken, or Flask and its friends are not installed.
    """
    try:
        from .wsgi import Proxy, Settings
    except ImportError as error:
        raise StartError(f"-http_port needs the package {error.name}; "
                         "install it with: pip install \"bert-serving-server[http]\"") from error
    settings = Settings.from_line(line)
    set_up_logging(settings.verbose)
    return Proxy(settings)


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def die_with_parent() -> None:
    """Linux: get SIGTERM when the thread that started this process ends. Elsewhere standard input alone tells."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def set_up_logging(verbose: bool) -> None:
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, stream=sys.stderr,
                        format="%(asctime)s %(levelname)s %(name)s: %(message)s")


if __name__ == "__main__":
    main()
