"""What a pool raises, as errors that Django's users catch."""

from __future__ import annotations

from types import TracebackType

from django.db.utils import DatabaseErrorWrapper, OperationalError

from pooling._traces import apart
from pooling.errors import ConnectError, PoolClosed, PoolError, PoolTimeout, QueueFull


class NoConnection(PoolTimeout, OperationalError):
    """No connection came in time. A PoolTimeout with its numbers, and Django's OperationalError."""


class TooManyWaiting(QueueFull, OperationalError):
    """As many callers as ``max_waiting`` wait already. A QueueFull, and Django's OperationalError."""


class NoPool(PoolClosed, OperationalError):
    """The pool is closed. A PoolClosed, and Django's OperationalError."""


def translated(error: PoolError, timeout: type[NoConnection] = NoConnection) -> BaseException:
    """What is to be raised in the place of an error of the pool."""
    if isinstance(error, PoolTimeout):
        return timeout(str(error), stage=error.stage, stats=error.stats, holders=error._holders)
    if isinstance(error, QueueFull):
        return TooManyWaiting(str(error))
    if isinstance(error, PoolClosed):
        return NoPool(str(error))
    if isinstance(error, ConnectError) and error.__cause__ is not None:
        return apart(error.__cause__)  # the driver's, which Django knows what to make of
    return error


class Errors(DatabaseErrorWrapper):
    """Django's translation of the driver's errors, which tells the wrapper of each: a broken connection makes the pool
    distrust all that are as old."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, PoolError):
            return  # it is Django's error already
        if error is not None:
            self.wrapper.note(error)
        super().__exit__(kind, error, trace)
