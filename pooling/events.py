"""What happens in a pool, told to listeners: in order, never under the pool's lock, never on its callers.

Each listener has a queue and, while there is something in it, a worker of its own. A listener that is slow makes
its own queue grow, up to :data:`LIMIT`; one that raises is logged; one that calls the pool is a caller like
any other.
"""

from __future__ import annotations

import math
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pooling._clock import monotonic
from pooling._log import PoolLog, write
from pooling._runtime.lock import alone
from pooling.errors import Holder

Item = TypeVar("Item")
Listener = Callable[["PoolEvent"], object]
EventKind = Literal[
    "connect", "acquire", "release", "close", "error", "timeout", "wait", "clear", "leak", "state", "resize"
]  # fmt: skip  # a list
LIMIT = 10_000
"""Events that may wait for one listener; beyond it the oldest are dropped and counted in
``stats().events_lost``."""

CALL = 1.0  # seconds in which no second worker is asked for
PAUSE = 60.0
"""Seconds for which a listener that raises is not spoken of again."""


@dataclass(frozen=True)
class PoolEvent:
    """One thing that happened. Fields that do not apply to its kind are None.

    The reference of events says which fields each kind has.
    """

    kind: EventKind
    pool: str
    at: float
    """The pool's monotonic clock, in seconds."""
    connection_id: int | None = None
    duration: float | None = None
    reason: str | None = None
    error: BaseException | None = None
    holder: Holder | None = None


class Flow(Generic[Item]):
    """A queue to somebody who may be slow, and the one worker that empties it."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Also in a forked child: what the parent had to tell is not its own, and the worker that was telling it is not
        there."""
        self.lost = 0
        self._queue: deque[Item] = deque()
        self._draining = threading.RLock()  # which knows whose it is
        self._drains = False
        self._next_call = -math.inf  # when a worker may be asked for, should the one before have been lost

    def put(self, item: Item) -> None:
        if len(self._queue) >= LIMIT:
            self._queue.popleft()
            self.lost += 1
        self._queue.append(item)

    def flow(self, submit: Callable[[Callable[[], None]], None]) -> None:
        """Have a worker tell what there is, unless one does already, or is on its way."""
        now = monotonic()
        if self._queue and now >= self._next_call and not self._drains:
            try:
                self._next_call = now + CALL
                submit(self._drain)
            except RuntimeError:
                self._next_call = -math.inf  # no thread can be started: what waits here is told when one can be
            except BaseException:
                self._next_call = -math.inf  # nobody may have come: the next one who has something to tell asks again
                raise

    def _drain(self) -> None:
        # The queue is looked at after the call was answered, and again after the lock was let go: an event put while
        # this worker was on its way, in or out, started nobody.
        self._next_call = -math.inf
        while self._queue and alone(self._draining, 0.0, self._drain_once) is not None:
            pass  # until nothing is left, or another worker tells it

    def _drain_once(self) -> bool:
        try:
            self._drains = True
            self._tell_all()
        finally:
            self._drains = False
        return True

    def _tell_all(self) -> None:
        # A function of its own, as in workers.py.
        while self._queue:
            self._tell(self._queue.popleft())

    @abstractmethod
    def _tell(self, item: Item) -> None: ...


class Outlet(Flow[PoolEvent]):
    """One listener's queue. :meth:`put` is called under the pool's lock, :meth:`flow` without it."""

    def __init__(self, listener: Listener, log: PoolLog) -> None:
        super().__init__()
        self.listener = listener
        self._log = log

    def begin_anew(self) -> None:
        super().begin_anew()
        self._next_word = -math.inf  # when what it raises is worth a line again

    def _tell(self, event: PoolEvent) -> None:
        try:
            Context().run(self.listener, event)
        except BaseException:
            # BaseException: whatever a listener raises, the next event must reach it, and the worker live on. One that
            # raises on every event must not fill the log.
            if event.at >= self._next_word:
                self._next_word = event.at + PAUSE
                write(self._log.exception, "a listener raised on %s", event.kind)


class LogLines(Flow[str]):
    """Lines for a pool's log. A handler may be slow, or wait for a server: nobody's acquire, and no other pool's
    upkeep, is to wait with it."""

    def __init__(self, log: PoolLog) -> None:
        super().__init__()
        self._log = log

    def _tell(self, line: str) -> None:
        write(self._log.warning, "%s", line)
