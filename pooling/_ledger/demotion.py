"""A server that says it is no longer the one to use: how often all connections are replaced for that."""

from __future__ import annotations

import math

from pooling._ledger.outage import LONGEST_GAP


class Demotion:
    """The first connection to say so speaks for all: a check would pass, and prove nothing. What is opened then leads
    to wherever the address leads. Where that says the same, the address leads there still, and to replace everything
    with each write that is refused would be a storm of connects, and no good to those who only read. So from then on
    there are pauses, as between connects that fail; who is heard in one is heeded at its end, for by then the address
    may lead elsewhere.
    """

    def __init__(self) -> None:
        self.due_at = math.inf  # when everything is to be replaced for what was heard in a pause
        self._pause_ends = -math.inf
        self._times = 0  # in a row

    def heard(self, now: float) -> bool:
        """A connection said so that was opened since the last time. Whether everything is to be replaced at once; else
        that is due at the end of the pause."""
        if now < self._pause_ends:
            self.due_at = self._pause_ends
            return False
        if now - self._pause_ends > LONGEST_GAP:
            self._times = 0  # another failover
        self._next_pause(now)
        return True

    def take(self, now: float) -> bool:
        """Whether the end of a pause has come in which somebody was heard. Only once for each."""
        if now < self.due_at:
            return False
        self.due_at = math.inf
        self._next_pause(now)
        return True

    def _next_pause(self, now: float) -> None:
        self._times += 1
        self._pause_ends = now + min(0.05 * self._times, LONGEST_GAP)
