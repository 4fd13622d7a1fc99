"""The pools that a monitor or an exporter looks at: held weakly, so that watching keeps nothing alive."""

from __future__ import annotations

import logging
import math
import os
import threading  # never "from threading import": gevent replaces what the module holds
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pooling.stats import Interval, PoolStats

CLOSED = "closed"
_log = logging.getLogger("pooling")


class Sources:
    """Everything that has ``stats()``, or a drop-in's ``pooling``, among what it is given.

    That is a Pool, a PoolManager, what stands in the place of a driver's pool, a mapping or iterable of these, or a
    function that returns any of them, asked anew each time. Raises TypeError for anything else.
    """

    def __init__(self, *given: Any) -> None:
        self._refs: list[Callable[[], Any]] = []
        for source in given:
            self.add(source)

    def add(self, source: Any) -> None:
        """One more."""
        self._refs.extend(_held(source))

    def stats(self) -> list[PoolStats]:
        """A snapshot of each pool that is there and not closed."""
        return [stats for stats in self.all() if stats.state != CLOSED]

    def all(self) -> list[PoolStats]:
        """A snapshot of each pool that is there. No two have the same name: a second ``shop`` is ``shop#2``."""
        self._refs = [ref for ref in self._refs if not _dead(ref)]
        seen: dict[int, Any] = {}
        for ref in self._refs:
            for source in _flat(ref()):
                seen.setdefault(id(source), source)
        return list(_distinct(stats for source in seen.values() for stats in _snapshots(source)))

    def gone(self) -> bool:
        """Whether nothing is left to look at: every pool was collected."""
        return all(map(_dead, self._refs))


def _held(source: Any) -> Iterator[Callable[[], Any]]:
    if not isinstance(source, type):
        if hasattr(source, "stats") or hasattr(source, "pooling"):
            yield _weakly(source)
            return
        if callable(source):
            yield source
            return
        if isinstance(source, Iterable) and not isinstance(source, (str, bytes)):
            for each in source.values() if isinstance(source, Mapping) else source:
                yield from _held(each)
            return
    raise _refusal(source)


def _refusal(source: Any) -> TypeError:
    what = source.__name__ if isinstance(source, type) else type(source).__name__
    return TypeError(
        f"this needs a Pool, a PoolManager, a mapping or iterable of pools, or a function that returns one, not {what}"
    )


def _weakly(source: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(source)
    except TypeError:
        return lambda: source


def _dead(ref: Callable[[], Any]) -> bool:
    return isinstance(ref, weakref.ref) and ref() is None


def _flat(source: Any) -> Iterator[Any]:
    """What has a stats() of its own."""
    if source is None:
        return
    if hasattr(source, "stats"):
        yield source
    elif hasattr(source, "pooling"):
        yield from _flat(source.pooling)
    elif isinstance(source, Iterable):
        for each in source.values() if isinstance(source, Mapping) else source:
            yield from _flat(each)
    else:
        raise _refusal(source)


def _snapshots(source: Any) -> Iterable[PoolStats]:
    """Of a pool, or of a manager of pools. Where a manager cannot make one of its pools, its owner will be told by
    using it: the others are there all the same."""
    try:
        found = source.stats()
    except Exception:
        if not isinstance(source, Mapping):
            raise
        return list(_those_that_work(source))
    return found.values() if isinstance(found, Mapping) else [found]


def _those_that_work(manager: Mapping[str, Any]) -> Iterator[PoolStats]:
    for name in list(manager):
        try:
            yield manager[name].stats()
        except Exception:
            _log.debug("no stats of pool %r", name, exc_info=True)


def _distinct(snapshots: Iterable[PoolStats]) -> Iterator[PoolStats]:
    names: Counter[str] = Counter()
    for stats in snapshots:
        name = stats.name.encode("utf-8", "backslashreplace").decode()  # else it could be sent nowhere, nor the others'
        names[name] += 1
        if names[name] > 1:
            name = f"{name}#{names[name]}"
        yield stats if name == stats.name else replace(stats, name=name)


class Changes:
    """What each pool has done since it was asked last; one that was not asked before, ever since it was made.

    In a forked child everything is new: its pools begin from nothing.
    """

    def __init__(self, sources: Sources, at: float) -> None:
        self._sources = sources
        self._lock = threading.Lock()
        self._begin({}, at)

    def begin(self, at: float) -> None:
        """What has been done so far is of no interest."""
        with self._lock:
            self._begin({stats.name: stats for stats in self._sources.all()}, at)

    def take(self, at: float, began: float = -math.inf) -> list[tuple[PoolStats, Interval]]:
        """Each pool as it is and what it has done. ``at`` is the time, ``began`` when this process began to watch, by
        the pools' clock."""
        if self._pid != os.getpid():
            self._lock = threading.Lock()  # a thread of the parent's may have had it
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
