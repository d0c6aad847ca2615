"""What a run found, as a table: for a terminal, for the documentation, and as JSON."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

COLUMNS = ("target", "messages", "crashes", "wrong answers", "memory", "seconds", "verdict")


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        memory: what became of it, in words.
        passed: None: it was left out, and ``memory`` says why.
    """

    target: str
    messages: int
    crashes: int
    wrong: int
    memory: str
    seconds: float
    passed: bool | None

    def cells(self) -> list[str]:
        verdict = {True: "ok", False: "FAILED", None: "left out"}[self.passed]
        return [self.target, f"{self.messages:,}", str(self.crashes), str(self.wrong), self.memory,
                f"{self.seconds:.0f}", verdict]


def total(rows: list[Row], seconds: float) -> Row:
    failed = any(row.passed is False for row in rows)
    return Row("all", sum(row.messages for row in rows), sum(row.crashes for row in rows),
               sum(row.wrong for row in rows), "", seconds, not failed)


def terminal(rows: list[Row]) -> str:
    table = [list(COLUMNS), *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.rjust(width) if 1 <= column <= 3 or column == 5 else cell.ljust(width)
                               for column, (cell, width) in enumerate(zip(line, widths))).rstrip() for line in table)


def markdown(rows: list[Row]) -> str:
    lines = ["| " + " | ".join(line) + " |" for line in [list(COLUMNS), *(row.cells() for row in rows)]]
    return "\n".join([lines[0], "|" + "---|" * len(COLUMNS), *lines[1:]])


def as_json(rows: list[Row], about: dict[str, Any]) -> dict[str, Any]:
    return {**about, "rows": [dict(zip(COLUMNS, row.cells())) for row in rows]}
