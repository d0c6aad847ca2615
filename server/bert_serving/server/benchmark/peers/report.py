"""The figures as Markdown. Plain values, no files."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from ..report import Spread, figure, table

Seconds = Mapping[str, Sequence[float]]
"""Name of a workload -> seconds, one figure for each round."""


@dataclass
class Row:
    """What was found of one engine.

    Attributes:
        title: for people.
        precision: fp32, bf16 or int8.
        about: what ran, with versions.
        seconds: name of a workload -> seconds for all of its sequences, one figure for each round.
        cosines: name of a workload -> least and mean cosine to the exact vectors.
    """

    title: str
    precision: str
    about: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cosines: dict[str, tuple[float, float]] = field(default_factory=dict)


def times_faster(mine: Sequence[float], theirs: Sequence[float]) -> Spread:
    """How many times faster ``mine`` was, round by round, from the seconds of both."""
    return Spread.of([other / own for own, other in zip(mine, theirs)])


def shown(spread: Spread) -> str:
    """ "1.25 (1.21-1.30)" """
    return f"{spread.median:.2f} ({spread.min:.2f}-{spread.max:.2f})"


def engines(rows: Mapping[str, Row], tokens: Mapping[str, int], own: Sequence[str], base: str) -> str:
    """All that there is to say on engines.

    Args:
        rows: by name, in the order of the tables.
        tokens: name of a workload -> tokens of all its sequences, in the order of the tables; of those with one
            sequence the milliseconds are shown.
        own: names of this project's own.
        base: the one that all others are compared with.
    """
    parts = ["Tokens per second, median of the rounds, and as a multiple of the first line's:",
             _speeds(rows, tokens, base)]
    for name in own:
        if name in rows:
            others = [other for other in rows if other not in own and rows[other].precision == rows[name].precision]
            parts += [f"How many times faster {rows[name].title} is, median (least-greatest) of the rounds:",
                      _ratios(rows, name, others, tokens)]
    return "\n\n".join(parts)


def _speeds(rows: Mapping[str, Row], tokens: Mapping[str, int], base: str) -> str:
    def cell(row: Row, name: str) -> str:
        if name not in row.seconds:
            return "-"
        seconds = median(row.seconds[name])
        value = f"{seconds * 1e3:.2f} ms" if name == "one" else figure(tokens[name] / seconds)
        if base not in rows or name not in rows[base].seconds:
            return value
        return f"{value} ({times_faster(row.seconds[name], rows[base].seconds[name]).median:.2f})"

    def accuracy(row: Row) -> str:
        if not row.cosines:
            return "-"
        least = min(least for least, _ in row.cosines.values())
        mean = sum(mean for _, mean in row.cosines.values()) / len(row.cosines)
        return f"{least:.4f} / {mean:.4f}"

    return table(["engine", *tokens, "cosine to fp32, least / mean"],
                 [[row.title, *(cell(row, name) for name in tokens), accuracy(row)] for row in rows.values()])


def _ratios(rows: Mapping[str, Row], own: str, others: Sequence[str], tokens: Mapping[str, int]) -> str:
    def cell(other: str, name: str) -> str:
        mine, theirs = rows[own].seconds, rows[other].seconds
        return shown(times_faster(mine[name], theirs[name])) if name in mine and name in theirs else "-"

    return table([f"than, at {rows[own].precision}", *tokens],
                 [[rows[other].title, *(cell(other, name) for name in tokens)] for other in others])


def ran(rows: Mapping[str, Row], absent: Mapping[str, str]) -> str:
    """Who took part, with versions, and who did not, and why."""
    return "\n".join([*(f"- {row.title}: {row.about}" for row in rows.values()),
                      *(f"- not run: {title}: {reason}" for title, reason in absent.items())])
