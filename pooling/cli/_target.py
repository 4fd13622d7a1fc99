"""What a run connects to: the backend's factory for a URL, the work to do there, and the server's own count."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pooling import create_pool
from pooling.cli._command import Mistake
from pooling.cli._work import Work
from pooling.cli._work_sqlite import SqliteWork
from pooling.factory import Factory

if TYPE_CHECKING:
    from typing_extensions import Self

    from pooling.cli._sessions import Sessions

FIRST_CONNECT = 10.0  # seconds


class Unreachable(Exception):
    """The first connection could not be opened. The message is one line, without secrets."""


@dataclass
class Target:
    """Closed at the end of the run."""

    name: str
    """For people to read: no password."""
    factory: Factory[Any]
    work: Work
    sessions: Sessions | None = None
    closing: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.closing.close()


def open_target(url: str | None) -> Target:
    """The target of a URL, None for an SQLite file of our own. One connection has been opened by then, and closed.

    Raises Mistake for a URL that cannot be used at all, Unreachable where nobody answers there.
    """
    with ExitStack() as closing:
        if url is None:
            folder = closing.enter_context(
                tempfile.TemporaryDirectory(prefix="pooling-stress-", ignore_cleanup_errors=True)
            )
            target = _sqlite(f"sqlite:///{Path(folder).as_posix()}/stress.db")
            target.name = "an SQLite file in a temporary directory"
        else:
            target = _maker(url)(url)
        closing.callback(_close_sessions, target)
        _try(target, url)
        target.closing = closing.pop_all()
        return target


def _close_sessions(target: Target) -> None:
    if target.sessions is not None:
        target.sessions.close()


def _maker(url: str) -> Callable[[str], Target]:
    scheme = url.partition("://")[0].partition("+")[0].lower()
    if scheme not in _MAKERS:
        _factory(url)  # has the better message where nobody knows the scheme
        raise Mistake(f"there is no work to do on {scheme!r} yet (known: {', '.join(_MAKERS)})")
    return _MAKERS[scheme]


def _sqlite(url: str) -> Target:
    return Target(url, _factory(url), SqliteWork())


def _postgres(url: str) -> Target:
    # The name by which the server counts this run's sessions. Autocommit: a use that wants a transaction begins one.
    name = f"pooling-stress-{secrets.token_hex(4)}"
    factory = _factory(url, {"application_name": name, "autocommit": True})
    from pooling.cli._work_postgres import PostgresWork, Processes  # only now: without psycopg _factory() has said so

    target = Target(_redacted(url), factory, PostgresWork())
    try:
        target.sessions = Processes("postgresql://" + url.partition("://")[2], name)
    except Exception as error:
        raise Unreachable(f"{target.name}: {_told(error, url)}") from error
    return target


def _mysql(url: str) -> Target:
    factory = _factory(url, {"autocommit": True})
    from pooling.cli._work_mysql import MysqlWork, Threads  # only now, as above

    target = Target(_redacted(url), factory, work := MysqlWork())
    if factory.where.endswith("/"):  # type: ignore[attr-defined]  # a MysqlFactory's
        raise Mistake("the URL has to name a database: mysql://user@host/database")
    try:
        target.sessions = Threads(factory.connect(FIRST_CONNECT), work)
    except Exception as error:
        raise Unreachable(f"{target.name}: {_told(error, url)}") from error
    return target


def _mongodb(url: str) -> Target:
    name = f"pooling-stress-{secrets.token_hex(4)}"
    _factory(url)
    from pooling.cli._work_mongodb import MongoWork, PermitFactory, Sockets  # only now, as above

    target = Target(_redacted(url), PermitFactory(url, {"appname": name}), MongoWork())
    _try(target, url)  # fails at once where PyMongo's own client would go on looking
    try:
        target.sessions = Sockets(url, name)
    except Exception as error:
        raise Unreachable(f"{target.name}: {_told(error, url)}") from error
    return target


def _http(url: str) -> Target:
    factory = _factory(url)
    from pooling.cli._work_http import HttpWork  # only now, as above

    return Target(url, factory, HttpWork())  # the factory refuses a URL with a password


def _redis(url: str) -> Target:
    name = f"pooling-stress-{secrets.token_hex(4)}"
    factory = _factory(url, {"client_name": name})
    from pooling.cli._work_redis import Clients, RedisWork  # only now, as above

    target = Target(_redacted(url), factory, RedisWork())
    try:
        counting = _factory(url, {"client_name": f"{name}-count"})
        target.sessions = Clients(counting.view(counting.connect(FIRST_CONNECT)), name)
    except Exception as error:
        raise Unreachable(f"{target.name}: {_told(error, url)}") from error
    return target


_MAKERS: dict[str, Callable[[str], Target]] = {
    "sqlite": _sqlite,
    "postgresql": _postgres,
    "postgres": _postgres,
    "mysql": _mysql,
    "mariadb": _mysql,
    "mongodb": _mongodb,
    "redis": _redis,
    "rediss": _redis,
    "http": _http,
    "https": _http,
}


def _factory(url: str, connect_args: dict[str, Any] | None = None) -> Factory[Any]:
    """The factory that create_pool() makes for a URL: a pool opens nothing before its first use, so one is made for
    nothing but that."""
    try:
        pool = create_pool(url, connect_args=connect_args)
    except (ValueError, TypeError, ImportError) as error:
        raise Mistake(_told(error, url)) from error
    pool.close()
    return pool._factory


def _try(target: Target, url: str | None) -> None:
    try:
        target.factory.close(target.factory.connect(FIRST_CONNECT))
    except Exception as error:
        raise Unreachable(f"{target.name}: {_told(error, url)}") from error


def _told(error: Exception, url: str | None) -> str:
    """The error on one line. A driver may repeat what it was given: the password is taken out."""
    text = " ".join(str(error).split()) or type(error).__name__
    password = _password(url)
    return text.replace(password, "***") if password else text


def _password(url: str | None) -> str | None:
    try:
        return urlsplit(url or "").password
    except ValueError:
        return None


def _redacted(url: str) -> str:
    """The URL without password and query, which may hold one too."""
    bare = url.partition("?")[0]
    password = _password(bare)
    return bare.replace(f":{password}@", ":***@") if password else bare
