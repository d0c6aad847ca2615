"""How many workers to ask a cluster for."""
from __future__ import annotations

import math

SMOOTH_SECONDS = 2.0
"""What waits is looked at through so many seconds: a burst that is soon over is not worth a start."""

MAX_FACTOR = 2
"""At most so many times the workers that compute now: what one can do is known, what twice as many can is a guess."""


class Scaler:
    """Decides from time to time.

    Attributes:
        wanted: how many workers there should be.
    """

    def __init__(self, least: int, most: int, backlog_seconds: float, idle_seconds: float) -> None:
        """
        Args:
            least, most: bounds.
            backlog_seconds: more is asked for when what waits takes longer than this.
            idle_seconds: one is given back whenever nothing has waited for so long.
        """
        self.least, self.most = least, most
        self.backlog_seconds, self.idle_seconds = backlog_seconds, idle_seconds
        self.wanted = least
        self._smooth = 0.0
        self._looked: float | None = None
        self._idle_since: float | None = None

    def decide(self, now: float, backlog: float, num_ready: int) -> bool:
        """Look at the queue; whether ``wanted`` has changed.

        Args:
            backlog: seconds that what waits or is computed will take; 0: nothing does.
            num_ready: workers that compute.
        """
        before = self.wanted
        past = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        self._smooth += (backlog - self._smooth) * (1 - math.exp(-past / SMOOTH_SECONDS))
        self._idle_since = None if backlog else (now if self._idle_since is None else self._idle_since)
        # Those that were asked for and are not there yet will help, too: they are waited for.
        if self._smooth > self.backlog_seconds and num_ready >= self.wanted:
            needed = math.ceil(num_ready * self._smooth / self.backlog_seconds)
            self.wanted = max(self.wanted, min(self.most, max(self.wanted + 1, min(needed, MAX_FACTOR * num_ready))))
            self._smooth = 0.0
        elif self._idle_since is not None and now - self._idle_since >= self.idle_seconds:
            self.wanted = max(self.least, self.wanted - 1)
            self._idle_since = now
        return self.wanted != before
