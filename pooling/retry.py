"""Work that is tried again on fresh connections, within one budget of time, where that can do no harm.

What an error says about the work, the backend knows (:class:`pooling.Factory`):

- never sent, or rolled back (``is_retryable``): nothing took effect, so it is tried again;
- the connection broke (``is_broken``), and no more is known: perhaps it was done, perhaps not. It is tried again only
  where the caller says that doing it twice is as good as once (``idempotent=True``);
- everything else, an acquire's PoolTimeout, QueueFull and PoolClosed included, is raised as it is.

Until the work is called nothing of it can have been done: a ConnectError that may pass, and a connection that breaks
while a transaction is begun on it, count as never sent.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from pooling._chance import chance
from pooling._clock import DEFAULT, Deadline, Default, Timeout
from pooling._lazy import lazy
from pooling._ledger.entry import Entry, Stage
from pooling._log import write
from pooling._words import in_words
from pooling.config import Backoff, count, offset, seconds
from pooling.errors import ConnectError, PoolError
from pooling.lease import Lease, Transaction, give_up

if TYPE_CHECKING:
    from pooling.pool import Pool

__all__ = ["Attempt", "FullJitter", "Retrying", "without_waiting"]

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

Harmless = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
"""Errors after which nothing has taken effect, as the caller knows: classes, or a function that tells."""

_hurried = 0  # how many blocks of without_waiting() are open


@dataclass(frozen=True)
class FullJitter:
    """Pauses that are random between 0 and a limit; the limit doubles with each try.

    ``first`` is the limit of the first pause, ``longest`` that of any, in seconds. Those who got into each other's
    way are spread over the whole pause, not only over its end.
    """

    first: float = 0.05
    longest: float = 2.0

    def __post_init__(self) -> None:
        seconds("first", self.first, optional=False)
        seconds("longest", self.longest, optional=False)

    def __call__(self, tries: int) -> float:
        """Seconds to wait after so many tries have failed."""
        return chance() * min(self.first * 2.0 ** min(tries - 1, 60), self.longest)


_FULL_JITTER = FullJitter()


class Retrying(Generic[T]):
    """How work on a pool is tried again: call :meth:`run`, decorate a function with it, or loop over it. It keeps no
    state: one may serve any number of threads.

    ``pool``: the pool, or a function that returns it, asked at the beginning of each run.
    ``retries``: tries after the first one, at most; None: as many as there is time for.
    ``idempotent``: whether doing the work twice is as good as once. Without it, work whose outcome is not known is
    not done again.
    ``transaction``: whether each try is a transaction of its own, committed at its end.
    ``timeout``: seconds for everything, all tries, acquires and pauses together; by default the pool's ``timeout``.
    It is looked at between the tries: the work itself is not interrupted.
    ``priority``: that of each acquire.
    ``backoff``: seconds to wait after so many tries have failed; by default ``FullJitter()``.
    ``on``: further errors after which the work may be done again, as the caller knows: classes, or a function.

    Raises TypeError or ValueError for an option that makes no sense.
    """

    __slots__ = ("_backoff", "_idempotent", "_on", "_pool", "_priority", "_retries", "_timeout", "_transaction")

    def __init__(
        self,
        pool: Pool[T] | Callable[[], Pool[T]],
        *,
        retries: int | None = 3,
        idempotent: bool = False,
        transaction: bool = False,
        timeout: Timeout = DEFAULT,
        priority: float = 0.0,
        backoff: Backoff | None = None,
        on: Harmless = (),
    ) -> None:
        count("retries", retries, 0, optional=True)
        if not isinstance(timeout, Default):
            seconds("timeout", timeout)
        offset("priority", priority)
        if backoff is not None and not callable(backoff):
            raise TypeError(f"backoff must be callable or None, not {backoff!r}")
        if not callable(pool):
            _check_pool(pool)
        self._pool = pool
        self._retries = retries
        self._idempotent = idempotent
        self._transaction = transaction
        self._timeout = timeout
        self._priority = priority
        self._backoff = backoff or _FULL_JITTER
        self._on = _predicate(on)

    def run(self, fn: Callable[..., R], *args: Any) -> R:
        """``fn(connection, *args)``, each try on a fresh lease, on the calling thread. Returns what it returns.

        Raises what the last try has raised.
        """
        return self._run(fn, args, {}, sys._getframe(1))

    def __call__(self, fn: Callable[Concatenate[Any, P], R]) -> Callable[P, R]:
        """The function without its first parameter, the connection: each call is a :meth:`run`."""
        _refuse_lazy(fn)
        signature = inspect.signature(fn)
        parameters = list(signature.parameters.values())
        if parameters and parameters[0].name in ("self", "cls"):
            raise TypeError(
                f"{fn.__qualname__} has to take the connection first: for a method, use run(self.method, …)"
            )

        @functools.wraps(fn)
        def tried(*args: P.args, **kwargs: P.kwargs) -> R:
            return self._run(fn, args, kwargs, sys._getframe(1))

        tried.__signature__ = signature.replace(parameters=parameters[1:])  # type: ignore[attr-defined]
        return tried

    def __iter__(self) -> Iterator[Attempt[T]]:
        """The tries: ``for attempt in retrying:`` and in it ``with attempt as connection:``. Ends after the first one
        that succeeds.

        The block has to commit by itself: a ``return`` in it would leave the loop whatever a commit at its end says.
        """
        if self._transaction:
            raise TypeError(
                "a loop cannot commit: use run(), or commit in the block (with psycopg: "
                "'with attempt as connection, connection.transaction():')"
            )
        course = Course(self)
        while course.due:
            course.due = False
            yield Attempt(course)

    def _run(self, fn: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> R:
        _refuse_lazy(fn)
        course = Course(self)
        while True:
            begun = False
            try:
                with course.use(frame) as connection:
                    begun = True
                    return fn(connection, *args, **kwargs)
            except Exception as error:
                if not course.goes_on(error, begun=begun):
                    raise

    def __repr__(self) -> str:
        return f"<Retrying on {self._pool!r}: {self._retries} retries>"


class Attempt(Generic[T]):
    """One try of a loop over a :class:`Retrying`: a ``with`` that leases a connection. Swallows the error after which
    there is another try."""

    __slots__ = ("_course", "_lease")

    def __init__(self, course: Course[T]) -> None:
        self._course = course

    @property
    def number(self) -> int:
        """1 for the first try."""
        return self._course.tries

    def __enter__(self) -> T:
        course = self._course
        while True:
            try:
                self._lease = course.lease(sys._getframe(1))
            except Exception as error:
                if not course.goes_on(error, begun=False):
                    raise
            else:
                return self._lease._entry.view  # no call: struck in one, nobody would end what this has in its hands

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._lease.__exit__(kind, error, trace)
        return isinstance(error, Exception) and self._course.goes_on(error, begun=True)


class Course(Generic[T]):
    """One run: how many tries there were, and what is left of its time."""

    __slots__ = ("_deadline", "_entry", "_policy", "_pool", "due", "tries")

    def __init__(self, policy: Retrying[T]) -> None:
        pool: Any = policy._pool
        if callable(pool):
            pool = pool()
            _check_pool(pool)
        self._policy = policy
        self._pool: Pool[T] = pool
        timeout = self._pool._config.timeout if isinstance(policy._timeout, Default) else policy._timeout
        self._deadline = Deadline(self._pool._now(), timeout)
        self._entry: Entry[T] | None = None
        self.tries = 0
        self.due = True

    def use(self, frame: FrameType) -> Lease[T] | Transaction[T]:
        """A connection for the next try, in a transaction where the policy says so."""
        lease = self.lease(frame)
        try:
            return Transaction(self._pool, DEFAULT, 0.0, lease) if self._policy._transaction else lease
        except BaseException:
            give_up(lease)
            raise

    def lease(self, frame: FrameType) -> Lease[T]:
        """A connection for the next try. Whoever asks who holds it is told where the run was called."""
        self.tries += 1
        self._entry = None
        pool, priority = self._pool, self._policy._priority
        left = None if self._deadline.at == math.inf else self._deadline.remaining(pool._now())
        lease = pool._acquire_for(frame, left, priority)
        self._entry = lease._entry
        return lease

    def goes_on(self, error: Exception, *, begun: bool) -> bool:
        """Whether there is another try after this error. If so, returns when it is due: when what the failed one has
        left behind is rolled back, and the pause is over."""
        policy, pool = self._policy, self._pool
        if not self._is_harmless(error, begun):
            return False
        if policy._retries is not None and self.tries > policy._retries:
            return self._give_up(error)
        self._await_rollback()
        pause = 0.0 if _hurried else max(0.0, float(policy._backoff(self.tries)))
        if self._deadline.passed(pool._now() + pause):
            return self._give_up(error)
        write(
            pool._log.info, "try %d has failed with %s: the next one in %.3g s", self.tries, type(error).__name__, pause
        )
        if pause:
            self._wait(pause)
        self.due = True
        return True

    def _is_harmless(self, error: Exception, begun: bool) -> bool:
        """Whether doing the work again can do no harm."""
        factory, ask = self._pool._factory, self._pool._hooks.opinion
        if isinstance(error, PoolError) and not begun:
            return isinstance(error, ConnectError) and not self._pool._ledger.outage.permanent
        if ask(factory.is_retryable, error) or ask(self._policy._on, error):
            return True
        if not ask(factory.is_broken, error):
            return False
        if begun and not self._policy._idempotent:
            _note(error, "Not tried again: it is not known whether the work was done. See idempotent=True.")
            return False
        return True

    def _give_up(self, error: Exception) -> bool:
        took = self._pool._now() - self._deadline.started
        _note(error, f"Given up after {self.tries} {'try' if self.tries == 1 else 'tries'} in {in_words(took)}.")
        return False

    def _await_rollback(self) -> None:
        """Wait until a worker has rolled back what a plain lease has left: its locks would be in the way of the next
        try, which may well be on another connection. A worker that hangs is waited for no longer than it may take."""
        entry, self._entry = self._entry, None
        if entry is not None and entry.stage is Stage.RESETTING:
            left = self._deadline.remaining(self._pool._now())
            patience = min(left, self._pool._config.connect_timeout)
            self._pool._until(lambda: entry.stage is not Stage.RESETTING, patience)

    def _wait(self, pause: float) -> None:
        """Sleep, by the pool's clock."""
        pool = self._pool
        waiter = pool._waiter(pause)
        while not waiter.passed(now := pool._now()):
            waiter.bell.wait(waiter.remaining(now), waiter)
        pool._runtime.keep(waiter.bell)


@contextmanager
def without_waiting() -> Iterator[None]:
    """A block in which no run of this process pauses between its tries: for tests. Everything else is as ever."""
    global _hurried
    _hurried += 1
    try:
        yield
    finally:
        _hurried -= 1


def _check_pool(pool: object) -> None:
    if not hasattr(pool, "_acquire_for"):
        raise TypeError(f"pool must be a Pool, or a function that returns one, not {type(pool).__name__}")


def _predicate(on: Any) -> Callable[[Any], bool]:
    classes = on if isinstance(on, tuple) else (on,)
    if all(isinstance(cls, type) and issubclass(cls, Exception) for cls in classes):
        return functools.partial(_is_one_of, classes)
    if callable(on) and not isinstance(on, type):
        told: Callable[[Any], bool] = on
        return told
    raise TypeError(f"on must be exception classes or a function of an exception, not {on!r}")


def _is_one_of(classes: tuple[type[Exception], ...], error: Exception) -> bool:
    return isinstance(error, classes)


def _refuse_lazy(fn: object) -> None:
    if not callable(fn):
        raise TypeError(f"fn must be callable with a connection, not {fn!r}")
    if (later := lazy(fn)) is not None:
        raise TypeError(f"{later!r} would run when its connection is back in the pool: it must be a plain function")


def _note(error: Exception, text: str) -> None:
    getattr(error, "add_note", str)(f"pooling: {text}")  # Python 3.10 has no notes
