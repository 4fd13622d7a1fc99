"""How many connections to open now: the slow start.

A waiter is served by whatever comes first, a connection returned or a new one. So opening begins with one and
doubles with each success while waiters remain: a spike of short uses is over before the first connect, a real
ramp reaches ``max_connecting`` after three.

A connect that hangs holds nobody up: its packets may be lost, or go to the one address of several that is dead. When
it has taken long, another one is begun beside it, and so on while callers wait; for the sake of one caller, one more.
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

    def goal(self, *, waiting: int, coming: int, opening: int, slow: int, shortage: int) -> int:
        """How many to start beside the ``opening`` under way, of which the ``slow`` ones have taken long.

        ``waiting``: callers without a connection. ``coming``: connections that are being checked and can
        be counted on. ``shortage``: what lacks to min_size, which is filled without a slow start.
        """
        demand, self.demand = self.demand and not opening, False
        wanted = max(waiting - coming - opening + min(slow, waiting), shortage, int(demand))
        width = self._most if shortage > 0 else min(self._width + slow, self._most)
        return min(wanted, width - opening)
