"""The commands ``bert-serving-start``, ``bert-serving-terminate`` and ``bert-serving-keygen``."""
from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bert_serving.client.errors import BertServingError

from .config import Parser, ServerConfig, filled, get_args_parser, host_name, natural, port_number
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
    from .process import raise_descriptor_limit
    from .service import serve
    from .stages.broker import exit_now
    log.set_up(config.verbose)
    raise_descriptor_limit()
    exit_now(serve(config))


def terminate(argv: Sequence[str] | None = None) -> int:
    """Tell the server of this host to stop."""
    parser = Parser(prog="bert-serving-terminate", description="Stop a server.")
    parser.add_argument("-ip", "--ip", type=host_name, default="localhost", help="address of the server (default: "
                                                                                 "localhost)")
    parser.add_argument("-port", "--port", "-port_in", "--port_in", "-port_data", "--port_data", type=port_number,
                        required=True, help="port on which it receives requests")
    parser.add_argument("-timeout", "--timeout", type=natural, default=5000,
                        help="milliseconds to reach it (default: 5000)")
    parser.add_argument("-token", "--token", type=filled,
                        default=os.environ.get("BERT_SERVING_TERMINATE_TOKEN") or None,
                        help="the server's -terminate_token, to stop it from another host; better given in the "
                        "environment, as BERT_SERVING_TERMINATE_TOKEN")
    parser.add_argument("-curve_dir", "--curve_dir", type=filled, help="directory with keys, for a server that has "
                        "-curve_dir; default: the one that BERT_SERVING_CURVE_DIR names")
    args = parser.parse_args(argv)
    args.token = args.token or ""
    from .service import BertServer
    try:
        BertServer.shutdown(args)
    except BertServingError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    print(f"asked the server on {args.ip}:{args.port} to stop")
    return 0


def keygen(argv: Sequence[str] | None = None) -> int:
    """Make keys for a server and its clients."""
    parser = Parser(
        prog="bert-serving-keygen", description="Make keys for a server and its clients. DIR is for the server "
        "(bert-serving-start -curve_dir DIR) and for clients on its own host; DIR/NAME is for the client of that name, "
        "to be moved to where it runs: BertClient(curve_dir=...). A later call with other names adds clients. A client "
        "is shut out by removing DIR/clients/NAME.key.")
    parser.add_argument("dir", metavar="DIR", type=lambda text: Path(filled(text)),
                        help="made if it is not there; nothing in it is written over")
    parser.add_argument("names", metavar="NAME", nargs="*", help="of a client")
    parser.add_argument("-worker", "--worker", action="store_true", help="the names are of hosts with workers "
                        "(bert-serving-worker -curve_dir DIR/NAME), listed in DIR/workers; they are no clients, and "
                        "clients are no workers")
    args = parser.parse_args(argv)
    from . import keys
    try:
        made = keys.make(args.dir, args.names, args.worker)
    except ConfigError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return error.exit_code
    for path in made:
        print(f"made {path}: for " + ("the server, and clients on its host" if path == args.dir else
                                      f"{'the worker host' if args.worker else 'the client'} {path.name}"))
    return 0


if __name__ == "__main__":
    main()
