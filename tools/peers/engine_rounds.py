"""Engines side by side: from token numbers to vectors."""
from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from bert_serving.server.engine import backends
from bert_serving.server.engine.spec import EncoderSpec
from bert_serving.server.errors import ConfigError
from bert_serving.server.machine import speeds_up

from . import engines
from .catalogue import EXACT, PEERS, Peer
from .driver import EngineProcess, cosines, take_turns
from .environments import ENVIRONMENTS, PeerError, prepare
from .models import Forms
from .report import Row
from .workloads import Workload

Say = Callable[[str], None]


def here(peer: Peer, spec: EncoderSpec | None) -> Peer:
    """A peer as it is on this machine: of this project's own, with the engine that -engine auto takes for the model.

    Raises:
        PeerError: this machine has none.
    """
    if peer.environment:
        if "bf16" in (peer.precision, peer.hint) and not speeds_up("bf16"):
            raise PeerError("this processor has no instructions for bf16")
        return peer
    wanted = backends.Requirements(precision=peer.precision, spec=spec)
    try:
        default = backends.choose("auto", wanted)[0].name
        chosen = backends.choose(peer.backend, wanted)[0].name
    except ConfigError as error:
        raise PeerError(error.message) from error
    if chosen not in engines.WEIGHT_TYPES:
        raise PeerError(f"-engine auto takes {chosen} for it, whose precision is not read here")
    if peer.backend == default:
        raise PeerError(f"-engine auto takes {default}, which has a row already")
    return replace(peer, backend=chosen, title=peer.title if peer.backend == chosen else f"{peer.title}, {chosen}")


def start(peer: Peer, forms: Forms, cache: Path, threads: int, say: Say) -> EngineProcess:
    """
    Raises:
        PeerError: it cannot be had.
    """
    python = str(prepare(ENVIRONMENTS[peer.environment], cache / "environments", say) if peer.environment
                 else sys.executable)
    options = {"file": str(forms.path(peer.form)), "threads": threads, "precision": peer.precision, "hint": peer.hint,
               "backend": peer.backend}
    return EngineProcess([python, engines.__file__, peer.engine, json.dumps(options)], cache / f"{peer.name}.log",
                         env={"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **peer.variables})


def compare_engines(names: Sequence[str], workloads: Sequence[Workload], forms: Forms, cache: Path, threads: int,
                    rounds: int, say: Say) -> tuple[dict[str, Row], dict[str, str]]:
    """
    Args:
        names: of PEERS.
        say: is told how far it is.
    Returns:
        Name -> what was found; title and precision -> why it is not there.
    """
    rows: dict[str, Row] = {}
    absent: dict[str, str] = {}
    processes: dict[str, EngineProcess] = {}

    def failed(name: str, error: PeerError) -> None:
        title = rows[name].title if name in rows else PEERS[name].title
        absent[f"{title}, asked for {PEERS[name].precision}"] = str(error)
        processes.pop(name, None)
        say(f"{name}: {error}")

    with ExitStack() as stack:
        for name in names:
            try:
                peer = here(PEERS[name], forms.spec)
                processes[name] = process = start(peer, forms, cache, threads, say)
            except PeerError as error:
                failed(name, error)
                continue
            stack.callback(process.close)
            rows[name] = Row(peer.title, process.precision, process.about)
            other = "" if process.precision == peer.precision else f", and not in {peer.precision}, which was asked for"
            say(f"{name}: {process.about}; computes in {process.precision}{other}")
        for workload in workloads:
            say(f"{workload.kind.name}: {workload}")
            _compare(processes, workload, rounds, rows, failed)
    return {name: row for name, row in rows.items() if row.seconds}, absent


def _compare(processes: dict[str, EngineProcess], workload: Workload, rounds: int, rows: dict[str, Row],
             failed: Callable[[str, PeerError], None]) -> None:
    """Let the engines compute a workload in turns, and note in their rows what was found."""
    vectors = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, process in list(processes.items()):
            try:
                process.load(workload, Path(folder))
                vectors[name] = process.vectors(workload, Path(folder))       # warms it up, too
            except PeerError as error:
                failed(name, error)
    turns = {name: partial(processes[name].seconds, workload) for name in vectors}
    for name, seconds in take_turns(turns, rounds, failed).items():
        rows[name].seconds[workload.kind.name] = seconds
        if EXACT in vectors:
            rows[name].cosines[workload.kind.name] = cosines(vectors[name], vectors[EXACT])
