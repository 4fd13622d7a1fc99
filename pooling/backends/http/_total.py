"""The limit over all origins of a manager, and how long a place below a limit is waited for."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pooling._clock import DEFAULT, Timeout
from pooling._ledger.phase import Phase
from pooling._runtime.fork import PerProcess
from pooling._runtime.lock import Lock, new_lock
from pooling.lease import Lease
from pooling.pool import Pool

# Seconds in which a worker makes a shell or a permit. A request waits for that whatever its pool_timeout is, 0 as well:
# what it does not want to wait for is a place.
MAKING = 0.5


class Total:
    """How many connections may be open over all origins of a manager.

    Guarantees: permits out + connections open without one <= limit, so that no more than that are ever open. Whoever
    sends has a permit; they are handed out first come, first served, by a pool of their own. A connection
    whose permit has gone is idle, and stays open until the room is needed: the longest unused is closed then.
    """

    def __init__(self, limit: int, timeout: float | None) -> None:
        self.limit = limit
        self.pooling: Pool[Any] = Pool(
            _Permit, name="total", max_size=limit, timeout=timeout, max_connecting=limit, reset=None, check=None,
            idle_timeout=None, max_lifetime=None, nested=None,
        )  # fmt: skip  # one argument list
        weakref.finalize(self, self.pooling.close, 0.0).atexit = False
        self.pools: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()
        # The lock, the connections in use by a permit, and those of who waits for one. A response that is dropped takes
        # its connection out of them.
        self._state: PerProcess[tuple[Lock, weakref.WeakSet[Any], weakref.WeakSet[Any]]] = PerProcess(
            lambda: (new_lock(), weakref.WeakSet(), weakref.WeakSet())
        )

    def acquire(self, timeout: float | None, frame: FrameType) -> Lease[Any]:
        """Wait for a permit, for who is told of by that frame. Raises PoolTimeout."""
        return self.pooling._acquire_for(frame, time_for_a_place(self.pooling, timeout))

    def claim(self, connection: Any) -> None:
        """Somebody who waits for a permit has this connection; until then it may be closed, as nobody uses it."""
        lock, using, claimed = self._state()
        with lock:
            claimed.add(connection)
            self._make_room(using, claimed)

    def admit(self, connection: Any) -> None:
        """Whoever has claimed this connection has a permit now, and is going to look at it and use it."""
        lock, using, claimed = self._state()
        with lock:
            claimed.discard(connection)
            using.add(connection)
            self._make_room(using, claimed)

    @contextmanager
    def leaving(self, connection: Any, permit: Lease[Any] | None) -> Iterator[None]:
        """Give the permit back, after the block has given back the connection: in the other order there would be one
        more for a moment."""
        lock, using, _ = self._state()
        with lock:
            using.discard(connection)
        try:
            yield
        finally:
            if permit is not None:
                permit.release()

    def _make_room(self, using: weakref.WeakSet[Any], claimed: weakref.WeakSet[Any]) -> None:
        """Close the longest unused ones of those that are open and not used, as many as there are too many. Closing
        a socket does not block; those that somebody has taken from a pool himself are not ours to count."""
        entries = [entry for pool in list(self.pools) for entry in list(pool._roster.entries)]
        entries.sort(key=lambda entry: entry.since)
        spare: list[Any] = [
            entry.connection
            for entry in entries
            if getattr(entry.connection, "sock", None) is not None
            and entry.connection not in using
            and (not entry.thread or entry.connection in claimed)
        ]
        for connection in spare[: max(0, len(using) + len(spare) - self.limit)]:
            connection.close()


class _Permit:
    def close(self) -> None:
        """There is nothing to close."""


def time_for_a_place(pool: Pool[Any], timeout: float | None) -> Timeout:
    """How long to wait for what is made without I/O: as long as the caller says, or the pool where he says None. Where
    a place is free for which nobody waits, long enough for a worker to make it."""
    wanted = pool._config.timeout if timeout is None else timeout
    if wanted is not None and wanted < MAKING:
        ledger = pool._ledger
        if ledger.phase is Phase.RUNNING and len(ledger.queue) < ledger.max_size - pool._roster.leased():
            return MAKING
    return DEFAULT if timeout is None else max(0.0, timeout)
