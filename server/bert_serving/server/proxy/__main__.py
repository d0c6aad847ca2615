"""The HTTP proxy's process: ``python -m bert_serving.server.proxy``, started by the server as a ``process.Child``.

It takes its orders (:class:`.orders.ProxyOrders`), binds, and writes one line of JSON to its standard output:
``{"ready": true, "http_port": 8125}``; or ``{"error": {"name": ..., "message": ...}}``, after which it ends with that
error's exit code. SIGTERM, or the end of its standard input (whoever started it is gone), makes it answer what it has
and end; a second SIGTERM ends it at once.
"""
from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from .. import log
from ..errors import StartError
from ..process import read_orders, report
from .orders import ProxyOrders

if TYPE_CHECKING:
    from .wsgi import Proxy

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    try:
        proxy = start(read_orders("bert-http", ProxyOrders))
    except StartError as error:
        report({"error": {"name": type(error).__name__, "message": error.message}})
        sys.exit(error.exit_code)

    def on_signal(number: int, frame: Any) -> None:
        if proxy.stopping.is_set():
            os._exit(0)
        proxy.stop()

    def watch_parent() -> None:
        while os.read(0, 65536):
            pass
        proxy.stop()

    signal.signal(signal.SIGTERM, on_signal)
    threading.Thread(target=watch_parent, daemon=True).start()
    report({"ready": True, "http_port": proxy.http_port})
    proxy.serve()
    logger.info("stopped")
    logging.shutdown()
    # A request that outlived drain_timeout still holds a thread and a socket; waiting for libzmq could take for ever.
    os._exit(0)


def start(orders: ProxyOrders) -> Proxy:
    """The proxy, bound and not yet answering.

    Raises:
        StartError: the port is taken, or Flask and its friends are not installed.
    """
    wsgi = load()
    log.set_up(orders.options.verbose)
    return wsgi.Proxy(orders)


def load() -> ModuleType:
    """The module :mod:`.wsgi`, which needs libraries that a server without HTTP does without.

    Raises:
        StartError: they are not installed.
    """
    try:
        from . import wsgi
    except ImportError as error:
        raise StartError(f"-http_port needs the package {error.name}; "
                         "install it with: pip install './server[http]'") from error
    return wsgi


if __name__ == "__main__":
    # Under its own name, for the log.
    from bert_serving.server.proxy import __main__
    __main__.main()
