"""Who is let in by key, and what the log says of those who are not."""
from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping

from bert_serving.client.words import counted

SAME_SECONDS = 60.0
"""Of one address and reason there is one line in so many seconds, however often it comes."""

MOST_LINES = 20
"""Of all of them together there are at most so many lines in that time."""


class Admission:
    """
    Attributes:
        listed: public key -> name of the client; replaced as a whole when it changes.
        num_refused: how many connections were not let in.
    """

    def __init__(self, own_key: str) -> None:
        """
        Args:
            own_key: public key of the server's own HTTP proxy, which is on no list; empty: there is none.
        """
        self.own_key = own_key
        self.listed: Mapping[str, str] = {}
        self.num_refused = 0
        self._said: OrderedDict[tuple[str, str], float] = OrderedDict()  # (address, why) -> when
        self._lines: deque[float] = deque(maxlen=MOST_LINES)             # when the last ones were
        self._unsaid = 0

    def admits(self, key: str) -> bool:
        return key in self.listed or bool(key) and key == self.own_key

    def refused(self, address: str, why: str, now: float) -> str | None:
        """The line that the log gets for a connection that was not let in; None if there were enough of late."""
        self.num_refused += 1
        said = self._said.get((address, why), float("-inf"))
        is_full = len(self._lines) == MOST_LINES and now - self._lines[0] < SAME_SECONDS
        if is_full or now - said < SAME_SECONDS:
            self._unsaid += 1
            return None
        self._lines.append(now)
        self._said[address, why] = now
        self._said.move_to_end((address, why))
        if len(self._said) > MOST_LINES:
            self._said.popitem(last=False)
        unsaid, self._unsaid = self._unsaid, 0
        return f"refused {address}: {why}" + (
            f" ({counted(unsaid, 'more refusal')} since the last line)" if unsaid else "")
