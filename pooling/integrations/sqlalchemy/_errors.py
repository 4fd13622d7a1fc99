"""What an acquire raises: SQLAlchemy's errors, which are ours as well."""

from __future__ import annotations

from sqlalchemy import exc

from pooling.errors import PoolClosed, PoolTimeout, QueueFull

CODE = "3o7r"  # SQLAlchemy's page about timeouts of pools


class _NotPythons(type):
    """Leaves Python's TimeoutError out of a class that inherits it by way of PoolTimeout. From Python 3.11 on that is
    asyncio's as well, by which SQLAlchemy knows that its caller was cancelled: a connection on whose behalf another one
    was asked for, by the default of a column say, would be closed in the middle of its transaction."""

    def mro(cls) -> list[type]:
        return [base for base in super().mro() if base not in (TimeoutError, OSError)]


class NoConnectionError(exc.TimeoutError, PoolTimeout, metaclass=_NotPythons):
    """No connection came in time. A PoolTimeout with its stage, stats and holders, and SQLAlchemy's TimeoutError; as
    that one it is none of Python's."""

    code = CODE

    @classmethod
    def like(cls, error: PoolTimeout, limits: str) -> NoConnectionError:
        said = f"{limits}: {error}" if error.stage == "queue" else str(error)
        return cls(said, stage=error.stage, stats=error.stats, holders=error._holders)


class FullError(exc.TimeoutError, QueueFull):
    """As many callers as ``max_waiting`` allows wait already. A QueueFull, and SQLAlchemy's TimeoutError."""

    code = CODE


class ClosedError(exc.InvalidRequestError, PoolClosed):
    """The pool underneath is closed. A PoolClosed, and SQLAlchemy's InvalidRequestError."""
