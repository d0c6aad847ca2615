"""The command ``bert-serving-encode``."""
from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bert_serving.client import BertClient
from bert_serving.client.errors import BertServingError, DeadlineError

from ..errors import StartError
from ..process import exit_on_sigterm
from .asking import TICK_MS
from .inputs import about, open_input
from .job import BulkJob, Outcome, JobSpec, probe
from .options import BulkOptions, parse
from .places import Places
from .progress import BulkProgress
from .records import BulkError


@contextmanager
def connected(order: BulkOptions) -> Iterator[BertClient]:
    """A client of the server that is asked for, started if it is to be an own one.

    Raises:
        StartError: it does not start.
        BulkError: there is none.
    """
    if order.own is not None:
        from ..service import BertServer
        if order.verbose:
            from .. import log
            log.set_up(True)
        with BertServer(order.own) as server:
            with connect({**order.address, "port": server.port, "port_out": server.port_out}, order.patience) as client:
                yield client
    else:
        with connect(order.address, order.patience) as client:
            yield client


def connect(address: dict[str, Any], patience: float) -> BertClient:
    try:
        return BertClient(**address, timeout=int(patience * 1000), check_length=False, check_token_info=False)
    except DeadlineError as error:
        raise BulkError(f"{error.message} -own starts one for this job alone") from error
    except (AttributeError, ValueError) as error:  # of a version that this client does not understand; or no port
        raise BulkError(str(error)) from error


@contextmanager
def spooled(places: Places) -> Iterator[Path]:
    """Keep what comes on standard input, because it is read twice; no other process writes there in the meantime.

    Raises:
        BulkError: there is no room for it, or another process is at it.
    """
    with ExitStack() as held:
        try:
            places.directory.mkdir(exist_ok=True)
            file = held.enter_context(open(places.spool, "ab"))  # it may be another's: not emptied before it is locked
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(places.spool)):
                raise BlockingIOError  # another one was put in its place before it was locked
            file.truncate(0)
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
        except BlockingIOError as error:
            raise BulkError(f"another process is at this job; {places.directory} is its directory") from error
        except OSError as error:
            raise BulkError(f"cannot keep standard input in {places.spool}: {error.strerror or error}") from error
        yield places.spool


def run(order: BulkOptions) -> Outcome:
    """Do what is asked for.

    Raises:
        BertServingError: it cannot be done.
    """
    with nullcontext(order.input) if order.input else spooled(Places(order.output)) as path:
        source = open_input(path, order.format, order.column)
        job = BulkJob(JobSpec(source, about(order.format, order.column), order.output, order.overwrite, order.in_flight,
                              order.patience))
        with connected(order) as client:
            server = probe(client)
            client.timeout = TICK_MS
            return job.run(client, server, BulkProgress)


def main(argv: Sequence[str] | None = None) -> int:
    """Encode; the exit code."""
    exit_on_sigterm()
    try:
        order = parse(argv)
        outcome = run(order)
        print(outcome.summary(Places(order.output)), file=sys.stderr)
    except BertServingError as error:
        print(f"bert-serving-encode: error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, StartError) else 1
    except (OSError, sqlite3.Error) as error:  # what happens to files while they are in use
        about = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        print(f"bert-serving-encode: error: {about}; the same command goes on from here", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bert-serving-encode: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
