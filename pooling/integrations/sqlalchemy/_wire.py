"""Looks at the connection of whatever driver, by what the DB-API backend knows of drivers."""

from __future__ import annotations

from typing import Any, NoReturn

from pooling.backends import _sockets
from pooling.backends.dbapi import DbapiFactory, Held, _module_of

_READS = 3  # of what libpq has received; the end of the stream makes the second or third one fail


def _nothing() -> NoReturn:
    raise NotImplementedError("SQLAlchemy connects")


_ANY_DRIVER = DbapiFactory(_nothing)


def looks_alive(connection: Any) -> bool:
    """Whether the other side has not hung up, without a byte sent. What is no driver's connection (a stand-in in a
    test, a proxy) is not touched."""
    if _module_of(type(connection)) is None:
        return True
    pgconn = getattr(connection, "pgconn", None)
    if pgconn is None:
        return _ANY_DRIVER.is_alive(Held(connection))
    # psycopg. Something to read may be a notice, a notification or a parameter's new value: libpq takes those in.
    try:
        for _ in range(_READS):
            if not _sockets.readable(pgconn.socket):
                break
            pgconn.consume_input()
        return not connection.closed
    except Exception:  # psycopg's errors, and a descriptor that is gone
        return False


def interrupt(connection: Any) -> None:
    """Make whoever is blocked on the connection fail."""
    if _module_of(type(connection)) is not None:
        _ANY_DRIVER.interrupt(Held(connection))


def abandon(connection: Any) -> None:
    """In a forked child: keep the parent's connection for ever, so that no destructor says goodbye on it, and point its
    descriptor at nothing."""
    if _module_of(type(connection)) is not None:
        _ANY_DRIVER.abandon(Held(connection))
