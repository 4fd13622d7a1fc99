"""What a run connects to: the backend's factory for a URL, the work to do there, and the server's own count."""

from __future__ import annotations

import re
import secrets
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from pooling.cli._command import Mistake, factory_of, one_line, own_database
from pooling.cli.stress.work import Work
from pooling.cli.stress.work._sqlite import SqliteWork
from pooling.factory import Factory

if TYPE_CHECKING:
    from typing_extensions import Self

    from pooling.cli.stress._proxy import Proxy
    from pooling.cli.stress.work._sessions import Sessions

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
    proxy: Proxy | None = None
    """What the factory's connections go through, where the network is to fail."""
    closing: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.closing.close()


def open_target(url: str | None, *, chaos: bool = False) -> Target:
    """The target of a URL, None for an SQLite file of our own. One connection has been opened by then, and closed.
    ``chaos`` puts a proxy between the factory and the server.

    Raises Mistake for a URL that cannot be used at all, Unreachable where nobody answers there.
    """
    with ExitStack() as closing:
        proxy = closing.enter_context(_proxy(url)) if chaos else None
        if url is None:
            file = closing.enter_context(own_database("stress"))
            target = _sqlite(file, file)
            target.name = "an SQLite file in a temporary directory"
        else:
            target = _maker(url)(url, url if proxy is None else through(url, proxy.address))
        target.proxy = proxy
        closing.callback(_close_sessions, target)
        _try(target, url)
        target.closing = closing.pop_all()
        return target


def _close_sessions(target: Target) -> None:
    if target.sessions is not None:
        target.sessions.close()


def _proxy(url: str | None) -> Proxy:
    """A proxy in front of the server of a URL."""
    if url is not None:
        factory_of(url)  # first: what no pool would take may name a server that is none
    address = server_of(url or "sqlite:///")
    if not hasattr(select, "epoll"):
        raise Mistake("--chaos needs Linux, for its epoll")
    from pooling.cli.stress._proxy import Proxy  # only now: elsewhere it cannot even be imported

    with _reaching(f"{address[0]}:{address[1]}", url):
        return Proxy(socket.getaddrinfo(*address, socket.AF_INET, socket.SOCK_STREAM)[0][4][:2])  # type: ignore[arg-type]  # IPv4


def server_of(url: str) -> tuple[str, int]:
    """Host and port of the one server that a URL names. Raises Mistake where it names none, or several."""
    scheme, _, rest = url.partition("://")
    try:
        parts = urlsplit(f"{scheme.lower()}://{rest}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    kind = scheme.lower().partition("+")[0]
    if kind not in _PORTS or not host or "," in host or scheme.lower() == "mongodb+srv":
        raise Mistake(
            "--chaos stands between the pool and one server: give a URL with its host, like postgresql://host/db"
        )
    return host, port or _PORTS[kind]


def through(url: str, address: tuple[str, int]) -> str:
    """The URL by which the server is reached at another address. Where the driver can, the host is still the one that a
    certificate is verified for."""
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    host, options = address[0], []
    if parts.scheme.startswith("postgres"):
        host, options = parts.hostname or host, [f"hostaddr={address[0]}"]
    elif parts.scheme == "mongodb" and "directconnection=" not in parts.query.lower():
        options = ["directConnection=true"]  # else the driver goes where the server says that it is
    netloc = f"{user}@{host}:{address[1]}" if user else f"{host}:{address[1]}"
    path = parts.path or ("/" if options else "")
    return urlunsplit(parts._replace(netloc=netloc, path=path, query="&".join(filter(None, [parts.query, *options]))))


def _maker(url: str) -> Callable[[str, str], Target]:
    scheme = url.partition("://")[0].partition("+")[0].lower()
    if scheme not in _MAKERS:
        factory_of(url)  # has the better message where nobody knows the scheme
        raise Mistake(f"there is no work to do on {scheme!r} yet (known: {', '.join(_MAKERS)})")
    return _MAKERS[scheme]


def _sqlite(url: str, reached: str) -> Target:
    return Target(url, factory_of(reached), SqliteWork())


def _postgres(url: str, reached: str) -> Target:
    # The name by which the server counts this run's sessions. Autocommit: a use that wants a transaction begins one.
    name = f"pooling-stress-{secrets.token_hex(4)}"
    factory = factory_of(reached, {"application_name": name, "autocommit": True})
    # Only now: without psycopg factory_of() has said so.
    from pooling.cli.stress.work._postgres import PostgresWork, Processes

    target = Target(_redacted(url), factory, PostgresWork())
    with _reaching(target.name, url):
        target.sessions = Processes("postgresql://" + url.partition("://")[2], name)
    return target


def _mysql(url: str, reached: str) -> Target:
    factory = factory_of(reached, {"autocommit": True})
    from pooling.cli.stress.work._mysql import MysqlWork, Threads  # only now, as above

    target = Target(_redacted(url), factory, work := MysqlWork())
    if factory.where.endswith("/"):  # type: ignore[attr-defined]  # a MysqlFactory's
        raise Mistake("the URL has to name a database: mysql://user@host/database")
    with _reaching(target.name, url):
        target.sessions = Threads(factory_of(url, {"autocommit": True}).connect(FIRST_CONNECT), work)
    return target


def _mongodb(url: str, reached: str) -> Target:
    name = f"pooling-stress-{secrets.token_hex(4)}"
    factory_of(url)
    from pooling.cli.stress.work._mongodb import MongoWork, PermitFactory, Sockets  # only now, as above

    target = Target(_redacted(url), PermitFactory(reached, {"appname": name}), MongoWork())
    _try(target, url)  # fails at once where PyMongo's own client would go on looking
    if Sockets.can_be_told():
        with _reaching(target.name, url):
            target.sessions = Sockets(url, name)
    return target


def _http(url: str, reached: str) -> Target:
    factory = factory_of(reached)
    from pooling.cli.stress.work._http import HttpWork  # only now, as above

    return Target(url, factory, HttpWork())  # the factory refuses a URL with a password


def _redis(url: str, reached: str) -> Target:
    name = f"pooling-stress-{secrets.token_hex(4)}"
    factory = factory_of(reached, {"client_name": name})
    from pooling.cli.stress.work._redis import Clients, RedisWork  # only now, as above

    target = Target(_redacted(url), factory, RedisWork())
    with _reaching(target.name, url):
        counting = factory_of(url, {"client_name": f"{name}-count"})
        target.sessions = Clients(counting.view(counting.connect(FIRST_CONNECT)), name)
    return target


_PORTS = {
    "postgresql": 5432,
    "postgres": 5432,
    "mysql": 3306,
    "mariadb": 3306,
    "mongodb": 27017,
    "redis": 6379,
    "rediss": 6379,
    "http": 80,
    "https": 443,
}
_MAKERS: dict[str, Callable[[str, str], Target]] = {
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


def _try(target: Target, url: str | None) -> None:
    with _reaching(target.name, url):
        target.factory.close(target.factory.connect(FIRST_CONNECT))


@contextmanager
def _reaching(name: str, url: str | None) -> Iterator[None]:
    """Whatever goes wrong in the block means that nobody answers there."""
    try:
        yield
    except Exception as error:
        raise Unreachable(f"{name}: {one_line(error, url)}") from error


def _redacted(url: str) -> str:
    """The URL without password and query, which may hold one too."""
    # Not by urlsplit(): libpq takes "?" and "#" as parts of a password.
    place = re.split(r"\?[^@=]*=", url, maxsplit=1)[0]
    before, at, where = place.rpartition("@")
    scheme, _, user = before.partition("://")
    name, colon, _ = user.partition(":")
    shown = f"{scheme}://{name}{colon and ':***'}@{where}" if at else where
    return shown.partition("?")[0]
