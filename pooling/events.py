"""What happens in a pool, told to listeners: in order, never under the pool's lock, never on its callers.

Each listener has a queue and, while there is something in it, a worker of its own. A listener that is slow makes
its own queue grow, up to :data:`LIMIT`; one that raises is logged; one that calls the pool is a caller like
any other.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass

from pooling.errors import Holder

Listener = Callable[["PoolEvent"], object]
LIMIT = 10_000
"""Events that may wait for one listener; beyond it the oldest are dropped and counted in
``stats().events_lost``."""

PAUSE = 60.0
"""Seconds for which a listener that raises is not spoken of again."""


@dataclass(frozen=True)
class PoolEvent:
    """One thing that happened. Fields that do not apply to its kind are None.

    Kinds: ``connect acquire release close error timeout wait clear leak state resize``; the
    reference of events says which fields each one has.
    """

    kind: str
    pool: str
    at: float
    """The pool's monotonic clock, in seconds."""
    connection_id: int | None = None
    duration: float | None = None
    reason: str | None = None
    error: BaseException | None = None
    holder: Holder | None = None


class Outlet:
    """One listener's queue. :meth:`put` is called under the pool's lock, :meth:`flow` without it."""

    def __init__(self, listener: Listener, log: logging.Logger) -> None:
        self.listener = listener
        self._log = log
        self.begin_anew()

    def begin_anew(self) -> None:
        """Also in a forked child: the parent's events are not its own, and the worker that was telling them is not
        there."""
        self.lost = 0
        self._next_word = -math.inf  # when what it raises is worth a line again
        self._queue: deque[PoolEvent] = deque()
        self._draining = threading.Lock()

    def put(self, event: PoolEvent) -> None:
        if len(self._queue) >= LIMIT:
            self._queue.popleft()
            self.lost += 1
        self._queue.append(event)

    def flow(self, submit: Callable[[Callable[[], None]], None]) -> None:
        """Have a worker call the listener, unless one does already."""
        if self._queue and not self._draining.locked():
            try:
                submit(self._drain)
            except RuntimeError:
                pass  # no thread can be started: what waits here is told when one can be

    def _drain(self) -> None:
        # The queue is looked at again after the lock was let go: an event put while this worker was on
        # its way out found the lock taken and started nobody.
        while self._queue and self._draining.acquire(blocking=False):
            try:
                while self._queue:
                    self._tell(self._queue.popleft())
            finally:
                self._draining.release()

    def _tell(self, event: PoolEvent) -> None:
        try:
            Context().run(self.listener, event)
        except BaseException:
            # BaseException: whatever a listener raises, the next event must reach it, and the worker live on. One that
            # raises on every event must not fill the log.
            if event.at >= self._next_word:
                self._next_word = event.at + PAUSE
                self._log.exception("a listener raised on %s", event.kind)
