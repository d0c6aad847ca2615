"""What Prometheus reads: the server's numbers, taken from a status reply when asked, and the proxy's own."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import accumulate
from typing import Any

from bert_serving.client.errors import BertServingError
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import (CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily,
                                    Metric)
from prometheus_client.exposition import choose_encoder

logger = logging.getLogger(__name__)

PREFIX = "bert_serving_"
STATES = ("starting", "ready", "leaving", "lost", "stopped")
FATES = ("sent", "held", "dropped", "expired")

HISTOGRAMS = {
    "waiting_seconds": "Time from a request's arrival until a worker began with it",
    "tokenizing_seconds": "Time a worker spent tokenizing a batch, less what it was computing the one before",
    "computing_seconds": "Time a worker spent computing a batch",
    "publishing_seconds": "Time from a batch's vectors at the broker until they were handed to their sockets",
    "answering_seconds": "Time from a request's arrival until its vectors were there",
    "batch_sentences": "Sentences in a batch; bert_serving_max_batch_size is a full one",
}

QUEUE = {
    "requests": ("queue_requests", "Requests that were accepted and have no answer yet"),
    "sentences": ("queue_sentences", "Sentences that were accepted and have no answer yet"),
    "bytes": ("queue_bytes", "Bytes of requests that were accepted and have no answer yet"),
    "seconds": ("backlog_seconds", "Time that everything in the queue will take at the measured rate"),
    "held_bytes": ("held_bytes", "Bytes of results that are kept for clients that do not read them"),
}

TOKENS = {
    "computed": ("computed_tokens", "Tokens that went through the model"),
    "saved_by_packing": ("packing_saved_tokens", "Tokens that padding each sentence to the longest of its batch would "
                                                 "have added"),
    "saved_by_repeats": ("repeats_saved_tokens", "Tokens of sentences that were computed once for several equal ones"),
}

READY = "Whether sentences come back as the right vectors, as /readyz sees it"

WORKER = {
    "jobs": ("worker_batches", "Batches that a worker has done"),
    "sentences": ("worker_sentences", "Sentences that a worker has done"),
    "restarts": ("worker_restarts", "How often a worker was lost"),
}


class Metrics:
    """Both kinds of numbers, as one page."""

    def __init__(self, status: Callable[[], dict[str, Any]], check: Callable[[], object]) -> None:
        """
        Args:
            status: asks the server for its status.
            check: raises BertServingError if the server is not ready, as ``/readyz`` sees it.
        """
        self.registry = CollectorRegistry()
        self.registry.register(ServerCollector(status, check))
        self.requests = Counter(PREFIX + "http_requests", "HTTP requests", ("method", "route", "status"),
                                registry=self.registry)
        self.seconds = Histogram(PREFIX + "http_request_seconds", "Time from a whole HTTP request to its whole answer",
                                 ("route",), registry=self.registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """An HTTP request has been answered.

        Args:
            route: the rule that it matched, not its path: there are few of them, and many paths.
        """
        self.requests.labels(method, route, status).inc()
        self.seconds.labels(route).observe(seconds)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The numbers of this moment, and their media type.

        Args:
            accept: the Accept header of who asks.
        """
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type


class ServerCollector:
    """Turns a status reply into metrics; a server that does not answer is ``bert_serving_up 0``."""

    def __init__(self, status: Callable[[], dict[str, Any]], check: Callable[[], object]) -> None:
        self.status, self.check = status, check

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(PREFIX + "up", "Whether the server answers its HTTP proxy")
        try:
            status = self.status()
        except BertServingError as error:
            logger.warning("no numbers of the server: %s", error)
            up.add_metric([], 0)
            yield up
            yield gauge("ready", READY, 0)
            return
        up.add_metric([], 1)
        yield up
        yield gauge("ready", READY, self._is_ready())
        yield from server_metrics(status)

    def _is_ready(self) -> bool:
        try:
            self.check()
        except BertServingError as error:
            logger.warning("the server is not ready: %s", error)
            return False
        return True


def server_metrics(status: dict[str, Any]) -> Iterator[Metric]:
    """The metrics that are in a status reply."""
    yield InfoMetricFamily(PREFIX + "server", "What is served", value={
        "version": status["bert_serving_version"], "model": status["model_name"], "engine": status["engine"],
        "max_seq_len": str(status["max_seq_len"])})
    yield gauge("start_time_seconds", "When the server started, in seconds since 1970",
                datetime.fromisoformat(status["server_start_time"]).timestamp())
    yield from _requests(status)
    for name, help_text in HISTOGRAMS.items():
        yield histogram(name, help_text, status["histograms"][name])
    yield gauge("max_batch_size", "Most sentences in a batch", status["max_batch_size"])
    for key, (name, help_text) in TOKENS.items():
        yield counter(name, help_text, status["tokens"][key])
    for key, (name, help_text) in QUEUE.items():
        yield gauge(name, help_text, status["queue"][key])
    yield gauge("tokens_per_second", "Tokens that one worker computes in a second, lately", status["tokens_per_second"])
    yield from _workers(status["workers"])
    yield counter("redispatched", "Parts of requests that were given to a worker again",
                  status["counts"]["redispatched"])
    yield labelled("results", "Results and errors, by what became of them; held ones are sent later, or expire", "fate",
                   {fate: status["results"][fate] for fate in FATES})


def _requests(status: dict[str, Any]) -> Iterator[Metric]:
    outcomes, statistic = status["outcomes"], status["statistic"]
    for key, what in (("requests", "Encode requests"), ("sentences", "Sentences of encode requests"),
                      ("tokens", "Computed tokens of encode requests")):
        yield labelled(key, f"{what}, by how the request ended", "outcome",
                       {outcome: counts[key] for outcome, counts in outcomes.items()})
    yield counter("commands", "Requests for configuration or status", statistic["num_sys_request"])
    yield counter("clients", "Clients that ever asked for something", statistic["num_total_client"])
    yield gauge("active_clients", "Clients that sent sentences in the last three minutes",
                statistic["num_active_client"])


def _workers(workers: list[dict[str, Any]]) -> Iterator[Metric]:
    states = GaugeMetricFamily(PREFIX + "workers", "Workers, by state", labels=("state",))
    for state in STATES:
        states.add_metric([state], sum(worker["state"] == state for worker in workers))
    yield states
    for key, (name, help_text) in WORKER.items():
        yield labelled(name, help_text, "worker",
                       {str(worker["slot"]): worker[key] for worker in workers})
    out = GaugeMetricFamily(PREFIX + "worker_batches_out", "Batches that a worker holds", labels=("worker",))
    for worker in workers:
        out.add_metric([str(worker["slot"])], worker["out"])
    yield out


def gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, help_text, value)


def counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, help_text, value)


def labelled(name: str, help_text: str, label: str, values: dict[str, float]) -> Metric:
    """A counter with one value for each value of a label."""
    family = CounterMetricFamily(PREFIX + name, help_text, labels=(label,))
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def histogram(name: str, help_text: str, status: dict[str, Any]) -> Metric:
    """Of buckets that count what fell into each; Prometheus wants what fell into it or a smaller one."""
    bounds = [*(repr(float(bound)) for bound in status["bounds"]), "+Inf"]
    buckets = list(zip(bounds, accumulate(status["counts"]), strict=True))
    return HistogramMetricFamily(PREFIX + name, help_text, buckets=buckets, sum_value=status["sum"])
