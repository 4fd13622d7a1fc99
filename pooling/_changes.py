"""What pools have done since they were looked at last."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from pooling._runtime.lock import new_lock
from pooling._sources import Sources, weakly
from pooling.stats import Interval, PoolStats

Look = tuple[Callable[[], Any], PoolStats]  # which pool it was, and how it was


class Changes:
    """What each pool has done since it was asked last; one that was not asked before, ever since it was made.

    In a forked child everything is new: its pools begin from nothing.
    """

    def __init__(self, sources: Sources, at: float) -> None:
        self._sources = sources
        self._lock = new_lock()
        self._begin([], at)

    def begin(self, at: float) -> None:
        """What has been done so far is of no interest."""
        with self._lock:
            self._begin(self._sources.all(), at)

    def take(self, at: float, began: float = -math.inf) -> list[tuple[PoolStats, Interval]]:
        """Each pool as it is and what it has done. ``at`` is the time, ``began`` when this process began to watch, by
        the pools' clock."""
        if self._pid != os.getpid():
            self._lock = new_lock()  # a thread of the parent's may have had it
            self._begin([], max(self._at, began))
        with self._lock:
            snapshots = self._sources.all()
            changes = self._compared(snapshots)
            self._begin(snapshots, at)
        return changes

    def _compared(self, snapshots: list[tuple[Any, PoolStats]]) -> list[tuple[PoolStats, Interval]]:
        return [(stats, self._since(pool, stats)) for pool, stats in snapshots]

    def _begin(self, before: list[tuple[Any, PoolStats]], at: float) -> None:
        self._before: dict[str, Look] = {stats.name: (weakly(pool), stats) for pool, stats in before}
        self._at, self._pid = at, os.getpid()

    def _since(self, pool: Any, stats: PoolStats) -> Interval:
        known, before = self._before.get(stats.name, (None, stats))
        # A new pool, perhaps of the same name; or the old one, which has begun to count anew.
        if known is None or known() is not pool or before.acquired > stats.acquired:
            return Interval.of(stats, stats.at - self._at)
        return stats - before
