"""Counters of the status reply, under the original's names, in bounded memory."""
from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from typing import Any

ACTIVE_SECONDS = 180.0
MAX_CLIENTS = 500
MAX_SIZES = 500
WINDOW = 200


class Statistics:
    """What came in, from whom, and how often. Times are seconds on one monotonic clock."""

    def __init__(self, started: float) -> None:
        self.num_data_request = 0
        self.num_total_seq = 0
        self.num_sys_request = 0
        self.num_total_client = 0
        self.last_data = started
        self.intervals: deque[float] = deque(maxlen=WINDOW)
        self.sizes: Counter[int] = Counter()
        # identity -> [requests, time of its last encode request]; the least recent one falls out.
        self.clients: OrderedDict[bytes, list[float]] = OrderedDict()

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
        if size in self.sizes or len(self.sizes) < MAX_SIZES:
            self.sizes[size] += 1
        self._client(identity)[1] = now

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
        values.update(_summary("request_per_second", Counter(1 / interval for interval in self.intervals)))
        return values


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
