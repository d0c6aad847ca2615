"""What the log says of connections that are not let in: enough to find out who, and not more."""
from __future__ import annotations

from collections import OrderedDict

from bert_serving.client.words import counted

from ..log import Throttle

SAME_SECONDS = 60.0
"""Of one address and reason there is one line in this time, however often it comes."""

MAX_LINES = 20
"""Of all of them together there are at most this many lines in that time."""


class Refusals:
    """
    Attributes:
        count: how many connections were not let in.
    """

    def __init__(self) -> None:
        self.count = 0
        self._all = Throttle(MAX_LINES, SAME_SECONDS)
        self._same: OrderedDict[tuple[str, str], Throttle] = OrderedDict()  # (address, why) -> its throttle

    def line(self, address: str, why: str, now: float) -> str | None:
        """The line that the log gets for a connection that was not let in; None if there were enough of late."""
        self.count += 1
        same = self._same.get((address, why)) or Throttle(1, SAME_SECONDS)
        if not (self._all.is_open(now) and same.is_open(now)):
            self._all.keep_back()
            return None
        same.let_through(now)
        self._same[address, why] = same
        self._same.move_to_end((address, why))
        if len(self._same) > MAX_LINES:
            self._same.popitem(last=False)
        kept_back = self._all.let_through(now)
        return f"refused {address}: {why}" + (
            f" ({counted(kept_back, 'more refusal')} since the last line)" if kept_back else "")
