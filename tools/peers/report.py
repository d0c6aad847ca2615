"""The figures as Markdown. Plain values, no files."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from bert_serving.server.benchmark.report import Spread, figure, table

Seconds = Mapping[str, Sequence[float]]
"""Name of a workload -> seconds, one figure for each round."""


@dataclass
class Row:
    """What was found of one engine.

    Attributes:
        title: for people.
        precision: of the matrix products, as the runtime reports it: fp32, bf16, int8, or several, with a plus.
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


def precision_class(precision: str) -> str:
    """What a precision that a runtime reports is compared with: fp32, bf16, int8 or fp16.

    The most frequent type counts: in int8 nobody computes all of an encoder. Numbers of 16 bits are one class, and fp32
    is what it is meant to be, however it is made up.
    """
    first = precision.partition("+")[0].partition(" as ")[0]
    return "bf16" if first == "int16" else first


def engines(rows: Mapping[str, Row], tokens: Mapping[str, int], own: Sequence[str], others: Sequence[str],
            base: str) -> str:
    """All that there is to say on engines.

    Args:
        rows: by name, in the order of the tables.
        tokens: name of a workload -> tokens of all its sequences, in the order of the tables; of those with one
            sequence the milliseconds are shown.
        own: names of this project's own, which are compared with the others.
        others: names of those that are not this project's.
        base: the one that all others are compared with.
    """
    parts = ["Tokens per second, median of the rounds, and as a multiple of the first line's:",
             _speeds(rows, tokens, base)]
    same = {name: [other for other in others if other in rows and precision_class(rows[other].precision)
                   == precision_class(rows[name].precision)] for name in own if name in rows}
    if any(same.values()):
        parts += ["How many times faster each row of this project's is than the fastest of the others in its class, "
                  "median (least-greatest) of the rounds:", _best(rows, same, tokens)]
    for name, compared in same.items():
        if compared:
            parts += [f"How many times faster {rows[name].title} in {rows[name].precision} is, median (least-greatest) "
                      "of the rounds:", _ratios(rows, name, compared, tokens)]
    return "\n\n".join(parts)


def _best(rows: Mapping[str, Row], same: Mapping[str, Sequence[str]], tokens: Mapping[str, int]) -> str:
    """A line for each workload.

    Args:
        same: name of one of this project's -> those in its class.
    """
    def cell(name: str, others: Sequence[str], workload: str) -> str:
        mine = rows[name].seconds.get(workload)
        found = [(times_faster(mine, rows[other].seconds[workload]), rows[other].title)
                 for other in others if workload in rows[other].seconds] if mine else []
        if not found:
            return "-"
        spread, title = min(found, key=lambda pair: pair[0].median)
        return f"{shown(spread)} than {title}"

    return table(["workload", *(f"{rows[name].title}, {rows[name].precision}" for name in same)],
                 [[workload, *(cell(name, others, workload) for name, others in same.items())] for workload in tokens])


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

    return table(["engine", "precision", *tokens, "cosine to fp32, least / mean"],
                 [[row.title, row.precision, *(cell(row, name) for name in tokens), accuracy(row)]
                  for row in rows.values()])


def _ratios(rows: Mapping[str, Row], own: str, others: Sequence[str], tokens: Mapping[str, int]) -> str:
    def cell(other: str, name: str) -> str:
        mine, theirs = rows[own].seconds, rows[other].seconds
        return shown(times_faster(mine[name], theirs[name])) if name in mine and name in theirs else "-"

    return table([f"than, at {precision_class(rows[own].precision)}", *tokens],
                 [[rows[other].title, *(cell(other, name) for name in tokens)] for other in others])


def servers(rows: Mapping[str, Row], traffic: Mapping[str, bool], base: str,
            engine_of: Mapping[str, str]) -> str:
    """All that there is to say on servers.

    Args:
        rows: by name, seconds for a sentence; servers first, in the order of the tables.
        traffic: its name -> whether the figure is a latency, in the order of the tables.
        base: the server that all others are compared with.
        engine_of: name of a server -> name of the row of its engine alone.
    """
    def cell(row: Row, kind: str) -> str:
        if kind not in row.seconds:
            return "-"
        seconds = median(row.seconds[kind])
        value = f"{seconds * 1e3:.2f} ms" if traffic[kind] else figure(1 / seconds)
        if base not in rows or kind not in rows[base].seconds or row is rows[base]:
            return value
        return f"{value}, {shown(times_faster(row.seconds[kind], rows[base].seconds[kind]))}"

    def beside(row: Row, engine: Row, kind: str) -> str:
        mine, its = row.seconds.get(kind), engine.seconds.get(kind if traffic[kind] else "bulk")
        if not mine or not its:
            return "-"
        if traffic[kind]:
            return f"{(median(mine) - median(its)) * 1e3:+.2f} ms"
        return shown(times_faster(mine, its))

    parts = ["Sentences per second, or milliseconds for a request, median of the rounds, and how many times faster "
             "that is than the first line's, median (least-greatest):",
             table(["server", *traffic],
                   [[row.title, *(cell(row, kind) for kind in traffic)] for row in rows.values()])]
    shares = [[rows[name].title, *(beside(rows[name], rows[engine], kind) for kind in traffic)]
              for name, engine in engine_of.items() if name in rows and engine in rows]
    if shares:
        parts += ["Beside its engine alone, from token numbers to vectors in one process: speed as a share of what the "
                  "engine does in bulk, time of a request as a difference:", table(["server", *traffic], shares)]
    return "\n\n".join(parts)


def ran(rows: Mapping[str, Row], absent: Mapping[str, str]) -> str:
    """Who took part, with versions, and who did not, and why."""
    return "\n".join([*(f"- {row.title}: {row.about}; computes in {row.precision}" for row in rows.values()),
                      *(f"- not run: {title}: {reason}" for title, reason in absent.items())])
