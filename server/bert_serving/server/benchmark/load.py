"""Clients that ask a server as fast as it answers, a process each, so that they do not wait for one another's GIL.

Both ends: the parent has a :class:`Crowd`, whose processes stay from one measurement to the next; a client's process is
this module's :func:`main`. They talk in lines of JSON::

    client                                        parent
      {"up": true}                             ->
                                               <- a LoadOrders
      {"ready": true}, connected and warmed up ->
                                               <- {}, to all once all are ready
      {"start", "end", "seconds": [...]}       ->
"""
from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from bert_serving.client import BertClient
from bert_serving.client.errors import BertServingError

from ..orders import NoOrders, Orders
from ..process import Child, read_orders, report
from .embeddings import EmbeddingsClient

WARM_UP = 2
"""The first requests of a given number of them that do not count, as in the original's benchmark."""

WARM_UP_SIZE = 16
"""Sentences in the request that warms a client up where it is time that is given."""

PATIENCE_MS = 600_000
"""How long a client waits for one answer, in milliseconds."""

TICK_MS = 200


class BenchmarkError(BertServingError):
    """There is nothing to measure, or no more; the message is the one line that the user reads."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What each client does: one request after the other, the next as soon as the last is answered.

    Attributes:
        size: sentences in a request.
        seconds: for how long it sends; the request that is under way then is its last, and counts.
        num_repeat: how many requests it sends instead, the first ``WARM_UP`` of which do not count; None: see seconds.
    """

    size: int
    seconds: float = 5.0
    num_repeat: int | None = None


@dataclass(frozen=True, kw_only=True)
class LoadOrders(Load, Orders):
    """What one client is told of a measurement.

    Attributes:
        address: of the server; see :meth:`Crowd.measure`.
        texts: its sentences.
        patience_ms: how long it waits for one answer, in milliseconds.
    """

    address: dict[str, Any]
    texts: tuple[str, ...] = field(repr=False)
    patience_ms: int


@dataclass(frozen=True, kw_only=True)
class LoadRun:
    """What one measurement found.

    Attributes:
        seconds: from the first request of any client to the last answer.
        sentences: how many were answered in that time.
        client_speeds: sentences per second for each client.
        latencies: seconds that each request took, float [number of requests].
    """

    seconds: float
    sentences: int
    client_speeds: list[float]
    latencies: np.ndarray = field(repr=False)

    @property
    def speed(self) -> float:
        """Sentences per second, all clients together."""
        return self.sentences / self.seconds

    def latency(self, percent: float) -> float:
        """Seconds within which so many per cent of the requests were answered."""
        return float(np.percentile(self.latencies, percent))


class Crowd:
    """Processes of clients."""

    def __init__(self) -> None:
        self._clients: list[Child] = []

    def measure(self, address: dict[str, Any], load: Load, texts: Sequence[Sequence[str]],
                check: Callable[[], None] = lambda: None) -> LoadRun:
        """Let as many clients as there are lists of texts ask the server at the same time.

        Args:
            address: ``ip``, ``port`` and ``port_out`` of the server; or a ``url``, where it speaks OpenAI's API.
            texts: each client's sentences. A request takes the next of them; after the last comes the first again.
            check: called while waiting; may raise if there is no point in waiting any more.
        Raises:
            BenchmarkError: a client got an error or no answer, or ended.
        """
        try:
            new = [Child("bert_serving.server.benchmark.load", NoOrders(), piped_output=True)
                   for _ in range(len(texts) - len(self._clients))]
            self._clients += new
            _hear(new, "up", check)
            clients = self._clients[:len(texts)]
            for client, its_texts in zip(clients, texts):
                client.tell(LoadOrders(**vars(load), address=address, texts=tuple(its_texts), patience_ms=PATIENCE_MS))
            _hear(clients, "ready", check)
            for client in clients:
                client.tell(NoOrders())
            return _summary(_hear(clients, "seconds", check), load.size)
        except BaseException:
            self.close()  # the others may still be at it
            raise

    def close(self) -> None:
        for client in self._clients:
            client.kill()
            client.forget()
        self._clients.clear()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def _hear(clients: Sequence[Child], key: str, check: Callable[[], None]) -> list[dict[str, Any]]:
    """What each of them says, once all have said something that has ``key``.

    Raises:
        BenchmarkError: one of them says that it failed, or is gone.
    """
    said: dict[int, dict[str, Any]] = {}
    poller = select.poll()
    places = {}
    for place, client in enumerate(clients):
        assert client.output is not None
        poller.register(client.output, select.POLLIN)
        places[client.output] = place
    while len(said) < len(clients):
        for descriptor, _ in poller.poll(TICK_MS):
            place = places[descriptor]
            messages = clients[place].read_messages()
            if messages is None:
                raise BenchmarkError(f"client {place} ended in the middle; its last lines above may say why")
            for message in messages:
                if "error" in message:
                    raise BenchmarkError(f"client {place} got no vectors: {message['error']}")
                if key in message:
                    said[place] = message
        check()
    return [said[place] for place in range(len(clients))]


def _summary(answers: Sequence[dict[str, Any]], size: int) -> LoadRun:
    # Clocks of one machine: time.monotonic() is the same for all of its processes.
    seconds = max(answer["end"] for answer in answers) - min(answer["start"] for answer in answers)
    counts = [len(answer["seconds"]) * size for answer in answers]
    return LoadRun(seconds=seconds, sentences=sum(counts),
                   client_speeds=[count / (answer["end"] - answer["start"]) for count, answer in zip(counts, answers)],
                   latencies=np.concatenate([answer["seconds"] for answer in answers]))


# ---- a client's process ----------------------------------------------------------------------------------------------

class Requests:
    """The requests of one client: the next ``size`` texts each, over and over."""

    def __init__(self, texts: Sequence[str], size: int) -> None:
        self.texts, self.size = list(texts), size
        self._next = 0

    def __next__(self) -> list[str]:
        indices = range(self._next, self._next + self.size)
        self._next = indices.stop % len(self.texts)
        return [self.texts[index % len(self.texts)] for index in indices]


def ask(encode: Callable[[list[str]], Any], requests: Requests, num: int | None, until: float,
        clock: Callable[[], float] = time.monotonic) -> tuple[float, float, list[float]]:
    """Send ``num`` requests, or as many as can be begun before ``until``, but one at least.

    Returns:
        When the first was sent, when the last was answered, and the seconds that each took.
    """
    seconds = []
    begin = sent = clock()
    while True:
        encode(next(requests))
        answered = clock()
        seconds.append(answered - sent)
        sent = answered
        if len(seconds) == num or (num is None and answered >= until):
            return begin, answered, seconds


def connect(address: dict[str, Any], patience_ms: int) -> BertClient | EmbeddingsClient:
    """A client of the server there: over HTTP where it is a ``url``."""
    if "url" in address:
        return EmbeddingsClient(address["url"], patience_ms)
    return BertClient(**address, timeout=patience_ms, check_length=False, check_token_info=False)


def measure(orders: LoadOrders, say: Callable[[dict[str, Any]], None], wait: Callable[[], Any]) -> None:
    """One measurement of this client's: connect, warm up, say so, wait for the others, ask, and say what was found."""
    num_repeat, requests = orders.num_repeat, Requests(orders.texts, orders.size)
    with connect(orders.address, orders.patience_ms) as client:
        if num_repeat is None:
            client.encode(list(orders.texts[:min(orders.size, WARM_UP_SIZE)]))
        else:
            for _ in range(WARM_UP):
                client.encode(next(requests))
        say({"ready": True})
        wait()
        start, end, seconds = ask(client.encode, requests, num_repeat and num_repeat - WARM_UP,
                                  time.monotonic() + orders.seconds)
    say({"start": start, "end": end, "seconds": seconds})


def main() -> None:
    read_orders("bert-bench-client", NoOrders)
    report({"up": True})
    while line := sys.stdin.buffer.readline():
        try:
            measure(LoadOrders.from_json(json.loads(line)), report, sys.stdin.buffer.readline)
        except BertServingError as error:
            report({"error": str(error)})


if __name__ == "__main__":
    # Under its own name, for whoever compares classes.
    from bert_serving.server.benchmark import load
    load.main()
