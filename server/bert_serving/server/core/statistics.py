"""Counters and histograms of the status reply, in bounded memory: the original's under its names, and our own."""
from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ACTIVE_SECONDS = 180.0
MAX_CLIENTS = 500
MAX_SIZES = 500
WINDOW = 200
RATE_SECONDS = 1.0
"""A rate is of requests in a span of at least this: of two that come at once, the time between them says nothing."""

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
           60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the histograms' buckets."""

OK, ABANDONED = "ok", "abandoned"
"""How a request ends, if not with an error: answered; or its client had gone."""


class Histogram:
    """How many values fell into each bucket, whose bounds are fixed.

    Attributes:
        bounds: largest value of each bucket; there is one more bucket, for what is larger than all of them.
        counts: of each bucket.
        sum: of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def to_status(self) -> dict[str, Any]:
        return {"bounds": list(self.bounds), "counts": self.counts.copy(), "sum": round(self.sum, 6)}


class Statistics:
    """What came in, from whom, and how often. Times are seconds on one monotonic clock."""

    def __init__(self, started: float) -> None:
        self.num_data_request = 0
        self.num_total_seq = 0
        self.num_sys_request = 0
        self.num_total_client = 0
        self.last_data = started
        self.intervals: deque[float] = deque(maxlen=WINDOW)
        # Requests, and the seconds in which they came: of at least RATE_SECONDS, each from a request to a later one.
        self.spans: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self._span_start, self._span_requests = started, 0
        self.sizes: Counter[int] = Counter()
        # identity -> [requests, time of its last encode request]; the least recent one falls out.
        self.clients: OrderedDict[bytes, list[float]] = OrderedDict()
        # How it ended (OK, ABANDONED, or an error's wire code) -> requests, their sentences, their computed tokens.
        self.outcomes: dict[str, list[int]] = {OK: [0, 0, 0]}
        self.tokens = {"computed": 0, "saved_by_packing": 0, "saved_by_repeats": 0}
        self.waiting, self.tokenizing, self.computing, self.publishing, self.answering = (
            Histogram(SECONDS) for _ in range(5))
        self.batch = Histogram(SIZES)

    def command(self, identity: bytes) -> None:
        """A request for config or status."""
        self.num_sys_request += 1
        self._client(identity)

    def request(self, identity: bytes, size: int, now: float) -> None:
        """An encode request of ``size`` sentences."""
        self.num_data_request += 1
        self.num_total_seq += size
        self.intervals.append(max(now - self.last_data, 1e-9))
        self.last_data = now
        self._span_requests += 1
        if now - self._span_start >= RATE_SECONDS:
            self.spans.append((self._span_requests, now - self._span_start))
            self._span_start, self._span_requests = now, 0
        if size in self.sizes or len(self.sizes) < MAX_SIZES:
            self.sizes[size] += 1
        self._client(identity)[1] = now

    def ended(self, outcome: str, size: int, tokens: int) -> None:
        """A request has come to its end.

        Args:
            outcome: OK, ABANDONED, or the wire code of its error.
            size: its sentences; 0 if it could not even be read.
            tokens: those of its sentences that were computed.
        """
        counts = self.outcomes.get(outcome)
        if counts is None:
            counts = self.outcomes[outcome] = [0, 0, 0]
        counts[0] += 1
        counts[1] += size
        counts[2] += tokens

    def job(self, counts: Sequence[int], num_tokens: int, seconds: Mapping[str, float]) -> None:
        """A job is done.

        Args:
            counts: tokens of each of its sequences.
            num_tokens: tokens that were computed for them: fewer than the sum of ``counts`` if texts were equal.
            seconds: what the worker spent on it.
        """
        self.tokenizing.observe(seconds.get("tokenize", 0.0))
        self.computing.observe(seconds.get("compute", 0.0))
        if counts:
            total = sum(counts)
            self.batch.observe(len(counts))
            self.tokens["computed"] += num_tokens
            self.tokens["saved_by_packing"] += len(counts) * max(counts) - total
            self.tokens["saved_by_repeats"] += total - num_tokens

    def _client(self, identity: bytes) -> list[float]:
        entry = self.clients.get(identity)
        if entry is None:
            self.num_total_client += 1
            entry = self.clients[identity] = [0, float("-inf")]
            if len(self.clients) > MAX_CLIENTS:
                self.clients.popitem(last=False)
        self.clients.move_to_end(identity)
        entry[0] += 1
        return entry

    def to_status(self, now: float) -> dict[str, Any]:
        """The ``statistic`` object of a status reply."""
        values: dict[str, Any] = {
            "num_data_request": self.num_data_request,
            "num_total_seq": self.num_total_seq,
            "num_sys_request": self.num_sys_request,
            "num_total_request": self.num_data_request + self.num_sys_request,
            "num_total_client": self.num_total_client,
            "num_active_client": sum(now - last < ACTIVE_SECONDS for _, last in self.clients.values()),
        }
        values.update(_summary("request_per_client", Counter(int(count) for count, _ in self.clients.values())))
        values.update(_summary("size_per_request", self.sizes))
        values.update(_summary("last_two_interval", Counter(self.intervals)))
        values.update(self._rates(now))
        return values

    def _rates(self, now: float) -> dict[str, float]:
        """The summary of ``request_per_second``; its average is over time. Nothing before the first request."""
        spans = list(self.spans)
        if not spans and self._span_requests:
            spans = [(self._span_requests, max(now - self._span_start, RATE_SECONDS))]
        values = dict(_summary("request_per_second", Counter(requests / seconds for requests, seconds in spans)))
        if spans:
            values["avg_request_per_second"] = sum(requests for requests, _ in spans) / sum(span for _, span in spans)
        return values

    def to_ours(self) -> dict[str, Any]:
        """What the status reply has of it beside ``statistic``: ``outcomes``, ``tokens`` and ``histograms``."""
        return {
            "outcomes": {outcome: dict(zip(("requests", "sentences", "tokens"), counts))
                         for outcome, counts in self.outcomes.items()},
            "tokens": dict(self.tokens),
            "histograms": {
                "waiting_seconds": self.waiting.to_status(), "tokenizing_seconds": self.tokenizing.to_status(),
                "computing_seconds": self.computing.to_status(), "publishing_seconds": self.publishing.to_status(),
                "answering_seconds": self.answering.to_status(), "batch_sentences": self.batch.to_status(),
            },
        }


def _summary(name: str, counted: Counter[Any]) -> Iterable[tuple[str, float]]:
    """avg, min, max and how many there are of the extremes; nothing while there is no data."""
    if not counted:
        return
    low, high = min(counted), max(counted)
    yield f"avg_{name}", sum(value * times for value, times in counted.items()) / counted.total()
    yield f"min_{name}", low
    yield f"max_{name}", high
    yield f"num_min_{name}", counted[low]
    yield f"num_max_{name}", counted[high]
