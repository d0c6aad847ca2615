"""What the doctor found, one line each."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad it is: a server with a problem does not start."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, and the cause and the cure in words."""

    level: Level
    topic: str
    text: str

    def __str__(self) -> str:
        return f"{self.level.value:<8} {self.topic:<10} {self.text}"


def ok(topic: str, text: str) -> Finding:
    return Finding(Level.OK, topic, text)


def warning(topic: str, text: str) -> Finding:
    return Finding(Level.WARNING, topic, text)


def problem(topic: str, text: str) -> Finding:
    return Finding(Level.PROBLEM, topic, text)


def conclusion(findings: Iterable[Finding]) -> tuple[int, str]:
    """The exit code, and the last line."""
    levels = [finding.level for finding in findings]
    problems, warnings = levels.count(Level.PROBLEM), levels.count(Level.WARNING)
    beside = f" ({_count(warnings, 'warning')})" if warnings else ""
    if problems:
        return 1, f"bert-serving-start would not start like this: {_count(problems, 'problem')}{beside}"
    return 0, f"bert-serving-start would start like this{beside}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
