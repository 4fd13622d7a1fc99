"""How many connections to open now: the slow start.

A waiter is served by whatever comes first, a connection returned or a new one. So opening begins with one and
doubles with each success while waiters remain: a spike of short uses is over before the first connect, a real
ramp reaches ``max_connecting`` after three.
"""

from __future__ import annotations


class SlowStart:
    """How many connects may be under way at once for the sake of waiters."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._width = 1
        self.demand = False  # somebody who could not wait found nothing

    def widen(self) -> None:
        """A connect succeeded and waiters remain."""
        self._width = min(2 * self._width, self._most)

    def restart(self) -> None:
        """Nobody waits any longer, or a connect failed."""
        self._width = 1

    def goal(self, *, waiting: int, coming: int, opening: int, shortage: int) -> int:
        """How many to start beside the ``opening`` under way.

        ``waiting``: callers without a connection. ``coming``: connections that are being checked and can
        be counted on. ``shortage``: what lacks to min_size, which is filled without a slow start.
        """
        demand, self.demand = self.demand and not opening, False
        wanted = max(waiting - coming - opening, shortage, int(demand))
        return min(wanted, (self._most if shortage > 0 else self._width) - opening)
