"""The commands ``bert-serving-start`` and ``bert-serving-terminate``."""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from bert_serving.client.errors import BertServingError

from .config import ServerConfig, get_args_parser, port_number
from .errors import ConfigError


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Start a server and run it until SIGTERM, Ctrl-C or ``bert-serving-terminate``."""
    parser = get_args_parser()
    try:
        config = ServerConfig.from_args(parser.parse_args(argv))
    except ConfigError as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")
    for name in config.secret_variables():
        os.environ.pop(name, None)  # no child process needs to know
    # Only now, so that -h answers at once.
    from . import log
    from .service import serve
    from .stages.broker import exit_now
    log.set_up(config.verbose)
    exit_now(serve(config))


def terminate(argv: Sequence[str] | None = None) -> int:
    """Tell the server of this host to stop."""
    parser = argparse.ArgumentParser(prog="bert-serving-terminate", description="Stop a server.")
    parser.add_argument("-ip", "--ip", default="localhost", help="address of the server (default: localhost)")
    parser.add_argument("-port", "--port", "-port_in", "--port_in", "-port_data", "--port_data", type=port_number,
                        required=True, help="port on which it receives requests")
    parser.add_argument("-timeout", "--timeout", type=int, default=5000,
                        help="milliseconds to reach it (default: 5000)")
    parser.add_argument("-token", "--token", default=os.environ.get("BERT_SERVING_TERMINATE_TOKEN", ""),
                        help="the server's -terminate_token, to stop it from another host; better given in the "
                        "environment, as BERT_SERVING_TERMINATE_TOKEN")
    args = parser.parse_args(argv)
    from .service import BertServer
    try:
        BertServer.shutdown(args)
    except BertServingError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    print(f"asked the server on {args.ip}:{args.port} to stop")
    return 0


if __name__ == "__main__":
    main()
