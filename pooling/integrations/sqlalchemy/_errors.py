"""What an acquire raises: SQLAlchemy's errors, which are ours as well."""

from __future__ import annotations

from sqlalchemy import exc

from pooling.errors import PoolClosed, PoolTimeout, QueueFull

CODE = "3o7r"  # SQLAlchemy's page about timeouts of pools


class NoConnectionError(exc.TimeoutError, PoolTimeout):
    """No connection came in time. A PoolTimeout with its stage, stats and holders, and SQLAlchemy's TimeoutError."""

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
