"""The pools of this process: one for each alias of a database, shared by its threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pooling._runtime.fork import PerProcess
from pooling._runtime.lock import new_lock
from pooling.pool import Pool

Settings = tuple[Any, ...]
AT_CHANGE = 1.0  # seconds that the first use of changed settings waits for the connections of the old ones to close


class _Known(NamedTuple):
    settings: Settings
    pool: Pool[Any]


_known: dict[str, _Known] = {}
lock = PerProcess(new_lock)
"""What guards what all threads of this process share; held for no I/O. Re-entrant: a signal handler that strikes in
there may use another database."""


def pool_of(alias: str, settings: Settings, build: Callable[[], Pool[Any]]) -> Pool[Any]:
    """The pool of an alias. Where its settings have changed since the pool was built, as they do when a test database
    takes the place of the real one, the pool is closed and another one is built."""
    known = _known.get(alias)
    if known is not None and known.settings == settings:
        return known.pool
    with lock():
        known = _known.get(alias)
        if known is not None and known.settings == settings:
            return known.pool  # another thread was first
        new = build()
        _known[alias] = _Known(settings, new)
    if known is not None:
        known.pool.close(AT_CHANGE)
    return new


def is_current(alias: str, pool: Pool[Any]) -> bool:
    """Whether it is still this pool that an alias has."""
    known = _known.get(alias)
    return known is not None and known.pool is pool


def pools() -> dict[str, Pool[Any]]:
    """The pools that this process has now, by alias: of the databases that it has used. Any thread may call it."""
    return {alias: known.pool for alias, known in _known.copy().items()}


def close(alias: str, timeout: float | None = 5.0) -> None:
    """Close the pool of an alias, if it has one; the next use builds another."""
    with lock():
        known = _known.pop(alias, None)
    if known is not None:
        known.pool.close(timeout)


def close_all(timeout: float | None = 5.0) -> None:
    """Close the pools of all databases in this process: idle connections now, those in use when they come back.

    Waits at most ``timeout`` seconds for each. The next use builds a new pool. Any thread may call it.
    """
    for alias in list(_known):
        close(alias, timeout)
