"""What was measured, as values, as tables in the form of the original's README, and as JSON. Plain values, no files."""
from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .load import LoadRun
from .sweeps import Setting


@dataclass(frozen=True)
class Spread:
    """Least, median and largest of some values."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(min(values), statistics.median(values), max(values))


@dataclass
class Point:
    """The runs of one setting."""

    setting: Setting
    runs: list[LoadRun] = field(default_factory=list)

    @property
    def speed(self) -> Spread:
        """Sentences per second, all clients together."""
        return Spread.of([run.speed for run in self.runs])

    @property
    def client_speed(self) -> Spread:
        """Sentences per second of one client, over all clients of all runs."""
        return Spread.of([speed for run in self.runs for speed in run.client_speeds])

    def latency(self, percent: float) -> float:
        """Milliseconds within which so many per cent of the requests were answered: the median of the runs."""
        return statistics.median(run.latency(percent) for run in self.runs) * 1000


@dataclass
class BenchmarkResult:
    """One sweep.

    Attributes:
        name: of the number that took several values.
        left_out: values that the server refused, and why.
        server: what the first server said of itself.
    """

    name: str
    points: list[Point]
    left_out: dict[int, str] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> list[Point]:
        return [point for point in self.points if point.runs]


# ---- tables ----------------------------------------------------------------------------------------------------------

def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned in a terminal too; all but the first to the right."""
    cells = [list(head), *map(list, rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                               for column, (cell, width) in enumerate(zip(row, widths))) + " |" for row in cells]
    rule = "|" + "|".join("-" * (width + 2) if column == 0 else "-" * (width + 1) + ":"
                          for column, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def figure(value: float) -> str:
    """Three digits that count: 4404, 98.7, 1.53."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def markdown(result: BenchmarkResult) -> str:
    """The table of one sweep, and what else there is to say of it."""
    several = any(len(run.client_speeds) > 1 for point in result.measured for run in point.runs)
    head = [f"`{result.name}`", "sentences/s", "min", "max", "ms/request", "99 %"]
    if several:
        head += ["per client", "min", "max"]
    rows = []
    for point in result.measured:
        cells = [point.speed.median, point.speed.min, point.speed.max, point.latency(50), point.latency(99)]
        if several:
            cells += [point.client_speed.median, point.client_speed.min, point.client_speed.max]
        rows.append([str(point.setting.value), *map(figure, cells)])
    alike: dict[str, list[int]] = {}  # but for the value, which the reason may name
    for value, reason in result.left_out.items():
        alike.setdefault(re.sub(rf"(?<![\d-]){value}(?!\d)", "…", reason), []).append(value)
    left_out = [f"Left out: {result.name} {', '.join(map(str, values))}: "
                f"{reason if len(values) > 1 else result.left_out[values[0]]}" for reason, values in alike.items()]
    return "\n\n".join([unchanged(result), table(head, rows), *left_out])


def unchanged(result: BenchmarkResult) -> str:
    """One line on the numbers that had one value only."""
    setting, server = result.points[0].setting, result.server
    values = {"num_client": setting.num_client, "client_batch_size": setting.size,
              **{name: server.get(name) for name in ("num_worker", "max_seq_len", "max_batch_size", "pooling_layer")}}
    return "With " + ", ".join(f"{name} {shown(value)}" for name, value in values.items() if name != result.name)


def shown(value: Any) -> str:
    """An option's value as the command line takes it."""
    if value is None:
        return "NONE"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- JSON ------------------------------------------------------------------------------------------------------------

def to_json(about: Mapping[str, Any], results: Sequence[BenchmarkResult]) -> dict[str, Any]:
    """Everything, as plain values: sentences per second, seconds, and what the runs were made of.

    Args:
        about: what else there is to know: versions, date, command, machine.
    """
    return {**about, "sweeps": [{
        "name": result.name,
        "left_out": {str(value): reason for value, reason in result.left_out.items()},
        "server": result.server,
        "points": [{
            **asdict(point.setting), "speed": asdict(point.speed), "client_speed": asdict(point.client_speed),
            "latency_ms": {"median": point.latency(50), "99 %": point.latency(99)},
            "runs": [{"seconds": run.seconds, "sentences": run.sentences, "speed": run.speed,
                      "client_speeds": run.client_speeds, "requests": len(run.latencies),
                      "latency_ms": {"median": run.latency(50) * 1000, "99 %": run.latency(99) * 1000}}
                     for run in point.runs],
        } for point in result.measured],
    } for result in results]}
