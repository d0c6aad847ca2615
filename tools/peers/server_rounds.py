"""Servers side by side: from text to vectors, with one client and with many; and what our engine does alone."""
from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bert_serving.server.benchmark.load import BenchmarkError, Crowd, Load

from .catalogue import PEERS, SERVERS, Peer, ServerPeer
from .driver import EngineProcess, take_turns
from .engine_rounds import Say, here, start
from .environments import ENVIRONMENTS, PeerError, prepare
from .models import Forms
from .report import Row
from .servers import PeerServer, infinity, original, own
from .workloads import Workload

BULK = 2048
"""Sentences of a large request."""

SECONDS = 4.0
"""For how long clients send in one turn."""


@dataclass(frozen=True)
class Traffic:
    """What clients do, each sending one request after the other.

    Attributes:
        about: for people.
        num_client: clients at the same time.
        size: sentences in a request.
        is_latency: the figure is the median of the requests' seconds; else seconds for a sentence.
    """

    about: str
    num_client: int
    size: int
    is_latency: bool = False


TRAFFIC = {"bulk": Traffic(f"one client, requests of {BULK} sentences", 1, BULK),
           "one": Traffic("one client, one sentence of 12 tokens at a time", 1, 1, is_latency=True),
           "32": Traffic("32 clients, one sentence at a time each", 32, 1),
           "64": Traffic("64 clients, one sentence at a time each", 64, 1)}


class Contest:
    """Servers that are up at the same time, and the engines of ours beside them.

    Attributes:
        rows: what was found, in seconds for a sentence: by names of SERVERS, and of engines, see :func:`alone`.
        absent: title -> why it is not there.
    """

    def __init__(self, texts: Workload, one: Workload, forms: Forms, cache: Path, threads: int, say: Say) -> None:
        """
        Args:
            texts: BULK sentences.
            one: the single sentence.
        """
        self.texts, self.one, self.forms, self.cache, self.threads, self.say = texts, one, forms, cache, threads, say
        self.rows: dict[str, Row] = {}
        self.absent: dict[str, str] = {}
        self._servers: dict[str, PeerServer] = {}
        self._engines: dict[str, EngineProcess] = {}
        self._stack = ExitStack()
        self._crowd = self._stack.enter_context(Crowd())

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def enter(self, server: ServerPeer) -> None:
        """Start it, and beside it the engine that it has, where that is ours; or note why it is not there."""
        try:
            self._servers[server.name] = self._stack.enter_context(self._start(server))
            self.rows[server.name] = Row(server.title, server.precision, server.about)
            if server.engine and alone(server.engine) not in self._engines:
                self._start_engine(here(PEERS[server.engine], self.forms.spec))
        except PeerError as error:
            self._failed(server.name, error)
            return
        self.say(f"{server.name}: ready")

    def _start(self, server: ServerPeer) -> PeerServer:
        folder, max_seq_len = self.cache / "servers" / server.name, self.texts.kind.max_seq_len
        if server.environment is None:
            return own(self.forms.directory, max_seq_len, server.precision, server.is_http, folder)
        python = prepare(ENVIRONMENTS[server.environment], self.cache / "environments", self.say)
        if server.name == "original":
            return original(python, self.forms.path("tensorflow/model"), max_seq_len, folder)
        return infinity(python, self.forms.directory, self.threads, folder)

    def _start_engine(self, peer: Peer) -> None:
        process = start(peer, self.forms, self.cache, self.threads, self.say)
        self._stack.callback(process.close)
        with tempfile.TemporaryDirectory() as folder:
            for workload in (self.texts, self.one):
                process.load(workload, Path(folder))
        self._engines[alone(peer.name)] = process
        title = f"{peer.title}, engine alone in {process.precision}"
        self.rows[alone(peer.name)] = Row(title, process.precision, process.about)

    def compare(self, rounds: int) -> None:
        """Let all have each kind of traffic, in turns."""
        for kind, traffic in TRAFFIC.items():
            self.say(f"{kind}: {traffic.about}")
            turns = {name: partial(self._ask, name, traffic) for name in self._servers if name in self.rows}
            if traffic.num_client == 1:
                turns |= {name: partial(self._compute, name, traffic) for name in self._engines if name in self.rows}
            for name, seconds in take_turns(turns, rounds, self._failed).items():
                self.rows[name].seconds[kind] = seconds

    def _failed(self, name: str, error: PeerError) -> None:
        row = self.rows.pop(name, None)
        self.absent[row.title if row else SERVERS[name].title] = str(error)
        self.say(f"{name}: {error}")

    def _ask(self, name: str, traffic: Traffic) -> float:
        server = self._servers[name]
        texts = (self.one if traffic.is_latency else self.texts).texts
        # No two clients have the same sentences: our server computes equal ones once a job.
        parts = [texts[client::traffic.num_client] for client in range(traffic.num_client)]
        try:
            run = self._crowd.measure(server.address, Load(size=traffic.size, seconds=SECONDS), parts, server.check)
        except BenchmarkError as error:
            raise PeerError(str(error)) from error
        return run.latency(50) if traffic.is_latency else 1 / run.speed

    def _compute(self, name: str, traffic: Traffic) -> float:
        workload = self.one if traffic.is_latency else self.texts
        return self._engines[name].seconds(workload) / len(workload.sequences)


def alone(peer: str) -> str:
    """The name of a row of an engine of ours without a server."""
    return f"{peer}-engine"


def compare_servers(names: Sequence[str], texts: Workload, one: Workload, forms: Forms, cache: Path, threads: int,
                    rounds: int, say: Say) -> tuple[dict[str, Row], dict[str, str]]:
    """
    Args:
        names: of SERVERS.
        say: is told how far it is.
    Returns:
        The contest's rows, and who is not there.
    """
    with Contest(texts, one, forms, cache, threads, say) as contest:
        for name in names:
            contest.enter(SERVERS[name])
        contest.compare(rounds)
        return {name: row for name, row in contest.rows.items() if row.seconds}, contest.absent
