"""What a run found, as a table for a terminal, for the documentation, and as JSON."""
from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from .scenarios import Outcome

COLUMNS = ("scenario", "requests", "sentences", "lost", "doubled", "misrouted", "wrong", "failed", "expected",
           "excused", "verdict")


def row(outcome: Outcome) -> dict[str, str]:
    verdict = outcome.verdict
    return {
        "scenario": outcome.name, "requests": f"{verdict.requests:,}", "sentences": f"{verdict.answered:,}",
        "lost": str(verdict.lost), "doubled": str(verdict.doubled), "misrouted": str(verdict.misrouted),
        "wrong": str(verdict.wrong + verdict.disordered), "failed": str(verdict.failed),
        "expected": str(verdict.expected), "excused": str(verdict.excused),
        "verdict": {True: "ok", False: "FAILED", None: "not judged"}[outcome.passed],
    }


def terminal(outcomes: list[Outcome]) -> str:
    """Aligned columns, and below them a line a scenario with its figure and its limit."""
    rows = [dict(zip(COLUMNS, COLUMNS)), *map(row, outcomes)]
    widths = {column: max(len(row[column]) for row in rows) for column in COLUMNS}
    lines = ["  ".join(row[column].ljust(widths[column]) if column in ("scenario", "verdict")
                       else row[column].rjust(widths[column]) for column in COLUMNS).rstrip() for row in rows]
    lines.append("")
    for outcome in outcomes:
        lines.append(f"{outcome.name.ljust(widths['scenario'])}  {outcome.figure}  [limit: {outcome.limit}]")
        lines += [f"    {note}" for note in [*outcome.verdict.examples, *outcome.notes]]
    return "\n".join(lines)


def markdown(outcomes: list[Outcome]) -> str:
    """Two tables: the counts, and the figures."""
    counts = [list(COLUMNS), *(list(row(outcome).values()) for outcome in outcomes)]
    figures = [["scenario", "seen", "limit"], *([o.name, o.figure, o.limit] for o in outcomes)]
    return "\n".join(_markdown(counts)) + "\n\n" + "\n".join(_markdown(figures))


def _markdown(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def as_json(outcomes: list[Outcome], about: dict[str, Any]) -> str:
    return json.dumps({**about, "scenarios": [asdict(outcome) for outcome in outcomes]}, indent=2)
