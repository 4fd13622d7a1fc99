"""What can go wrong in a pool: one base class, a few kinds, all of them picklable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from pooling._words import in_words, printable
from pooling.stats import PoolStats

TimeoutStage = Literal["queue", "connect", "check", "reset", "close", "backoff", "hung", "suspended", "nested"]
"""What the queue was waiting for when an acquire timed out: see :class:`PoolTimeout`."""


class Holder(NamedTuple):
    """Who holds a lease: the thread's name, for how many seconds, and where it was acquired.

    ``where`` reads ``file:line function``.
    """

    thread: str
    age: float
    where: str

    def __str__(self) -> str:
        return f"{printable(self.thread)} for {in_words(self.age)}, acquired at {self.where}"


class PoolError(Exception):
    """The base of everything the pool itself raises. A driver's own errors pass through unchanged."""


class PoolTimeout(PoolError, TimeoutError):
    """No connection came within the time an acquire was given.

    ``stage`` says what the caller was waiting for when the time ran out: ``"queue"`` (every connection
    is in use), ``"connect"`` (one is being opened), ``"check"``, ``"reset"`` or ``"close"`` (one is being seen to),
    ``"backoff"`` (the server could not be reached, the next try is due later), ``"hung"`` (too many calls of the driver
    hang), ``"suspended"``, or ``"nested"``: with ``nested="raise"``, before its time, because every connection is
    held by a thread that waits for another one.
    ``stats`` is the pool's snapshot of that moment, ``holders`` who has the connections, longest first.
    ``__cause__`` is the last connect error, where there was one.
    """

    def __init__(
        self,
        message: str,
        *,
        stage: TimeoutStage = "queue",
        stats: PoolStats | None = None,
        holders: tuple[Holder, ...] | Callable[[], tuple[Holder, ...]] = (),
    ) -> None:
        super().__init__(message)
        self.stage: TimeoutStage = stage
        # None in one that somebody has made by hand. To ask every user about that, None in the type, helps nobody.
        self.stats: PoolStats | Any = stats
        self._holders = holders

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Who had the connections. Looked up when it is read: most timeouts are only counted, and of a
        thousand at once nobody reads a thousand lists."""
        if callable(self._holders):
            self._holders = self._holders()
        return self._holders

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {"stage": self.stage, "stats": self.stats, "_holders": self.holders}


class QueueFull(PoolError):
    """As many callers as ``max_waiting`` allows are waiting already: raised at once, nobody waited. Or a destructor or
    signal handler, which has struck inside the pool's own lock, cannot wait."""


class PoolClosed(PoolError):
    """The pool is closed, or draining towards it: no connection will come from it any more."""


class ConnectError(PoolError):
    """A connection could not be opened. ``__cause__`` is the driver's own error.

    Raised to waiters at once where the error is permanent (a wrong password, an unknown database), else
    once connecting has failed for ``fail_after`` seconds.
    """


class ConnectArgsError(PoolError):
    """A function given as ``connect_args`` that raised; the cause is what it raised.

    An error of its own type, so that it counts as passing: a driver's TypeError or ValueError says that the arguments
    are wrong and will be wrong again, where a function may just have read half of a file.
    """
