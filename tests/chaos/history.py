"""The history of a run and the model it has to agree with: every request is answered once, in order, with its vectors.

No sockets, processes or clocks. Events are those of ``driver.py``, in the order of each client, however the clients
interleave; besides them:

    ["client", seconds, name, resends]        resends: a restart is no excuse for it
    ["disturbed", from, to, what]             a server was away, or connections were cut, between these two times
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .driver import texts_of

DIGITS = 16
"""Hexadecimal digits of a row's fingerprint."""

EXCUSED = {"unavailable", "worker_lost", "unsent"}
"""Errors that a stopping server may answer, and that of a client whose socket is full while the server is away."""

MAX_EXAMPLES = 5


@dataclass
class Asked:
    """A request, and what became of it."""

    when: float
    size: int
    poison: int | None
    outcome: str | None = None


@dataclass
class Verdict:
    """What the model says about a history.

    Attributes:
        requests, sentences: asked; ``answered`` counts sentences whose vectors came.
        lost: requests without an answer that had no excuse.
        doubled: answers to what was answered before.
        misrouted: rows that are the vectors of another request.
        disordered: rows that are the vectors of another sentence of the same request.
        wrong: rows that are nobody's vectors, too few or too many rows, answers to what was never asked.
        failed: errors that should not have been.
        expected: errors that had to be, or that a server may give while it stops.
        excused: requests of clients without re-send that got no answer while the server was away.
        examples: a few of what is counted above, in words.
    """

    requests: int = 0
    sentences: int = 0
    answered: int = 0
    lost: int = 0
    doubled: int = 0
    misrouted: int = 0
    disordered: int = 0
    wrong: int = 0
    failed: int = 0
    expected: int = 0
    excused: int = 0
    examples: list[str] = field(default_factory=list)

    FAULTS = ("lost", "doubled", "misrouted", "disordered", "wrong", "failed")

    @property
    def clean(self) -> bool:
        return not any(getattr(self, name) for name in self.FAULTS)

    def blame(self, what: str, example: str) -> None:
        setattr(self, what, getattr(self, what) + 1)
        if sum(line.startswith(what) for line in self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{what}: {example}")


class Checker:
    """Takes events as they come, and judges at the end.

    Rows that are not the expected ones are kept until then: only when all is known can it be said whose they are.
    """

    def __init__(self, expect: Callable[[list[str]], str]) -> None:
        """
        Args:
            expect: texts -> the fingerprints of their right vectors, end to end.
        """
        self.expect = expect
        self.verdict = Verdict()
        self.asked: dict[tuple[str, int], Asked] = {}
        self.resends: dict[str, bool] = {}
        self.disturbances: list[tuple[float, float]] = []
        self.figures: list[tuple[float, str, Any]] = []
        self.answers: Counter[str] = Counter()
        self._odd: list[tuple[tuple[str, int], str, str]] = []       # (request, fingerprints, the right ones)
        self._unanswered: list[tuple[tuple[str, int], float]] = []   # (request, when it was given up)
        self._refused: list[tuple[tuple[str, int], float, str, str]] = []

    def add(self, event: Sequence[Any]) -> None:
        getattr(self, "_" + event[0].replace(" ", "_"))(*event[1:])

    def add_all(self, events: Iterable[Sequence[Any]]) -> Checker:
        for event in events:
            self.add(event)
        return self

    # ---- events ------------------------------------------------------------------------------------------------------

    def _client(self, when: float, name: str, resends: bool) -> None:
        self.resends[name] = resends

    def _disturbed(self, start: float, end: float, what: str) -> None:
        self.disturbances.append((start, end))

    def _figure(self, when: float, name: str, value: Any) -> None:
        self.figures.append((when, name, value))

    def _asked(self, when: float, client: str, number: int, size: int, poison: int | None) -> None:
        assert (client, number) not in self.asked, f"{client} used the number {number} twice"
        self.asked[client, number] = Asked(when, size, poison)
        self.verdict.requests += 1
        self.verdict.sentences += size

    def _answered(self, when: float, client: str, number: int, fingerprints: str) -> None:
        asked = self._end(client, number, "answered")
        if asked is None:
            return
        self.verdict.answered += len(fingerprints) // DIGITS
        self.answers[client] += 1
        if asked.poison is not None:
            self.verdict.blame("failed", f"{client} got vectors for its poison {number}")
            return
        right = self.expect(texts_of(client, number, asked.size))
        if fingerprints != right:
            self._odd.append(((client, number), fingerprints, right))

    def _failed(self, when: float, client: str, number: int, code: str, message: str, index: int | None) -> None:
        asked = self._end(client, number, "failed")
        if asked is None:
            return
        if asked.poison is not None and code == "unprocessable" and index in (asked.poison, None):
            self.verdict.expected += 1
        else:
            self._refused.append(((client, number), when, code, message))

    def _gave_up(self, when: float, client: str, number: int) -> None:
        if self._end(client, number, "gave up") is not None:
            self._unanswered.append(((client, number), when))

    def _withdrew(self, when: float, client: str, number: int) -> None:
        self._end(client, number, "withdrew")

    def _end(self, client: str, number: int, outcome: str) -> Asked | None:
        """The request that is over now; None if it does not count."""
        asked = self.asked.get((client, number))
        if asked is None:
            self.verdict.blame("wrong", f"{client} got an answer under the number {number}, which it never used")
            return None
        before, asked.outcome = asked.outcome, outcome
        if before is None:
            return asked
        if before == "gave up":
            asked.outcome = before  # late, and nobody waits for it any more
        else:
            self.verdict.blame("doubled", f"{client} was answered {number} again")
        return None

    # ---- the end -----------------------------------------------------------------------------------------------------

    def finish(self, when: float) -> Verdict:
        """Judge.

        Args:
            when: no event comes after it.
        """
        for key, asked in self.asked.items():
            if asked.outcome is None:
                self._unanswered.append((key, when))
        for (client, number), end in self._unanswered:
            start = self.asked[client, number].when
            if not self.resends.get(client, True) and self._disturbed_between(start, end):
                self.verdict.excused += 1
            else:
                self.verdict.blame("lost", f"{client} had no answer to {number}, asked at {start:.3f}, by {end:.3f}")
        for (client, number), end, code, message in self._refused:
            if code in EXCUSED and self._disturbed_between(self.asked[client, number].when, end):
                self.verdict.expected += 1
            else:
                self.verdict.blame("failed", f"{client} got for {number} at {end:.3f}: {code}: {message}")
        for key, found, right in self._odd:
            self._explain(key, found, right)
        return self.verdict

    def _disturbed_between(self, start: float, end: float) -> bool:
        return any(start <= until and end >= since for since, until in self.disturbances)

    def _explain(self, key: tuple[str, int], found: str, right: str) -> None:
        client, number = key
        rows, expected = _rows(found), _rows(right)
        if len(rows) != len(expected):
            self.verdict.blame("wrong", f"{client} got {len(rows)} rows for the {len(expected)} of {number}")
            return
        for place, (row, expected_row) in enumerate(zip(rows, expected)):
            if row == expected_row:
                continue
            if row in expected:
                self.verdict.blame("disordered", f"{client}: row {place} of {number} is row {expected.index(row)}")
                continue
            owner = self._owner(key, row)
            if owner is None:
                self.verdict.blame("wrong", f"{client}: row {place} of {number} is nobody's vector")
            else:
                self.verdict.blame("misrouted", f"{client}: row {place} of {number} belongs to {owner[0]}, {owner[1]}")

    def _owner(self, key: tuple[str, int], row: str) -> tuple[str, int] | None:
        """Whose vector it is, among the requests of those minutes."""
        around = self.asked[key].when
        near = sorted((abs(asked.when - around), other) for other, asked in self.asked.items())
        for _, (client, number) in near[:20_000]:
            if row in self._expected_of(client, number):
                return client, number
        return None

    def _expected_of(self, client: str, number: int) -> list[str]:
        if not hasattr(self, "_memory"):
            self._memory: dict[tuple[str, int], list[str]] = {}
        if (client, number) not in self._memory:
            self._memory[client, number] = _rows(self.expect(texts_of(client, number, self.asked[client, number].size)))
        return self._memory[client, number]


def _rows(fingerprints: str) -> list[str]:
    return [fingerprints[start:start + DIGITS] for start in range(0, len(fingerprints), DIGITS)]
