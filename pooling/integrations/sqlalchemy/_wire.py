"""Looks at the connection of whatever driver, by what the DB-API backend knows of drivers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

from pooling._driver import module_of
from pooling.backends import _sockets
from pooling.backends._dbapi_session import autocommit, set_autocommit, socket_of, timed
from pooling.backends.dbapi import DbapiFactory, Held
from pooling.errors import PoolError

_READS = 3  # of what libpq has received; the end of the stream makes the second or third one fail


def _nothing() -> NoReturn:
    raise NotImplementedError("SQLAlchemy connects")


_ANY_DRIVER = DbapiFactory(_nothing)


def looks_alive(connection: Any) -> bool:
    """Whether the other side has not hung up, without a byte sent. What is no driver's connection (a stand-in in a
    test, a proxy) is not touched."""
    if module_of(type(connection)) is None:
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


class Mode(NamedTuple):
    """How a connection commits; None where its driver does not say."""

    autocommit: Any = None
    isolation_level: Any = None  # sqlite3's word for it


def mode(connection: Any) -> Mode:
    module = module_of(type(connection))
    if module is None:
        return Mode()
    return Mode(autocommit(connection), connection.isolation_level if module.__name__ == "sqlite3" else None)


def restore(connection: Any, before: Mode) -> None:
    """Have it commit as before. To be called after a rollback: in a transaction psycopg would refuse."""
    now = mode(connection)
    if now.autocommit != before.autocommit:
        set_autocommit(connection, before.autocommit)
    if now.isolation_level != before.isolation_level:
        connection.isolation_level = before.isolation_level
    if getattr(connection, "in_transaction", False):  # begun by hand in sqlite3's autocommit, which rolls nothing back
        connection.rollback()


def refuse_busy(connection: Any) -> None:
    """Raise where a rollback would wait for ever, or end nothing: in the middle of psycopg's streams, COPYs and
    pipelines."""
    pgconn = getattr(connection, "pgconn", None)
    if pgconn is None or module_of(type(connection)) is None:
        return
    from psycopg.pq import PipelineStatus, TransactionStatus

    if pgconn.transaction_status == TransactionStatus.ACTIVE:
        raise PoolError("a query or COPY is still under way: read it to its end before the lease ends")
    if pgconn.pipeline_status != PipelineStatus.OFF:
        raise PoolError("a pipeline was not ended: end it before the lease ends")


def says_lost(error: BaseException, driver: Any) -> bool:
    """Whether an error of psycopg tells that the connection is lost, whose dialect looks at the connection alone."""
    if driver.__name__ != "psycopg":
        return False
    from psycopg.errors import FeatureNotSupported, ReadOnlySqlTransaction

    from pooling.backends.postgres import PostgresFactory

    # In a transaction that is read-only by its user's wish nothing is lost, nor where a plan is out of date.
    kept = (FeatureNotSupported, ReadOnlySqlTransaction)
    return PostgresFactory().is_broken(error) and not isinstance(error, kept)


def pings(connection: Any, timeout: float) -> bool:
    """Make a round trip by libpq's own calls, where the driver is psycopg, whose calls have no timeout. False: the
    dialect has to ask, with :func:`in_time`."""
    if getattr(connection, "pgconn", None) is None or module_of(type(connection)) is None:
        return False
    from pooling.backends.postgres import PostgresFactory

    PostgresFactory().check(connection, timeout)
    return True


@contextmanager
def in_time(connection: Any, seconds: float) -> Iterator[None]:
    """With a timeout on what the driver reads, where it shows its socket; drivers in C have none but their own."""
    module = module_of(type(connection))
    if module is None:
        yield
    elif module.__name__ == "pymysql":  # which sets its socket's timeout anew for every read
        from pooling.backends.mysql import InTime

        with InTime(connection, seconds):
            yield
    else:
        with timed(socket_of(connection), seconds):
            yield


def interrupt(connection: Any) -> None:
    """Make whoever is blocked on the connection fail."""
    if module_of(type(connection)) is not None:
        _ANY_DRIVER.interrupt(Held(connection))


def abandon(connection: Any) -> None:
    """In a forked child: keep the parent's connection for ever, so that no destructor says goodbye on it, and point its
    descriptor at nothing."""
    if module_of(type(connection)) is not None:
        _ANY_DRIVER.abandon(Held(connection))
