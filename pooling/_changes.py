"""What pools have done since they were looked at last."""

from __future__ import annotations

import math
import os

from pooling._runtime.lock import new_lock
from pooling._sources import Sources
from pooling.stats import Interval, PoolStats


class Changes:
    """What each pool has done since it was asked last; one that was not asked before, ever since it was made.

    In a forked child everything is new: its pools begin from nothing.
    """

    def __init__(self, sources: Sources, at: float) -> None:
        self._sources = sources
        self._lock = new_lock()
        self._begin({}, at)

    def begin(self, at: float) -> None:
        """What has been done so far is of no interest."""
        with self._lock:
            self._begin({stats.name: stats for stats in self._sources.all()}, at)

    def take(self, at: float, began: float = -math.inf) -> list[tuple[PoolStats, Interval]]:
        """Each pool as it is and what it has done. ``at`` is the time, ``began`` when this process began to watch, by
        the pools' clock."""
        if self._pid != os.getpid():
            self._lock = new_lock()  # a thread of the parent's may have had it
            self._begin({}, max(self._at, began))
        with self._lock:
            snapshots = self._sources.all()
            changes = [(stats, self._since(stats)) for stats in snapshots]
            self._begin({stats.name: stats for stats in snapshots}, at)
        return changes

    def _begin(self, before: dict[str, PoolStats], at: float) -> None:
        self._before, self._at, self._pid = before, at, os.getpid()

    def _since(self, stats: PoolStats) -> Interval:
        before = self._before.get(stats.name)
        if before is None or before.acquired > stats.acquired:  # a new pool, perhaps of the same name
            return Interval.of(stats, stats.at - self._at)
        return stats - before
