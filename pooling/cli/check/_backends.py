"""What can be asked of one connection, a class for each backend: who serves it, by which driver, and how safely."""

from __future__ import annotations

import platform
import ssl
from importlib.metadata import version
from typing import Any

from pooling.factory import Factory, ResetMode, overrides

_OPEN = "none: everything can be read on the way"


class About:
    """A connection of any kind: nothing is known of it but what its factory says."""

    resets: tuple[ResetMode, ...] = ("transaction",)

    def __init__(self, factory: Factory[Any], connection: Any) -> None:
        self.factory = factory
        self.connection = connection
        self.view: Any = factory.view(connection)

    def driver(self) -> str:
        return type(self.connection).__module__.partition(".")[0]

    def server(self) -> str | None:
        """Name and version, and what else decides how a pool is sized; None where nobody says."""
        return None

    def tls(self) -> str | None:
        return None

    def round_trip(self, timeout: float) -> None:
        self.factory.check(self.connection, timeout)

    def has_round_trip(self) -> bool:
        return overrides(self.factory, "check")

    def has_reset(self) -> bool:
        return overrides(self.factory, "reset")

    def use(self) -> None:
        """Leave the connection as a user may: in the middle of a transaction."""


class Sqlite(About):
    resets = ("transaction", "session")

    def driver(self) -> str:
        return f"sqlite3 of Python {platform.python_version()}"

    def server(self) -> str:
        import sqlite3

        (mode,) = self.view.execute("PRAGMA journal_mode").fetchone()
        return f"SQLite {sqlite3.sqlite_version}, in this process, journal mode {mode}"

    def tls(self) -> str:
        return "none needed: nothing leaves this process"

    def use(self) -> None:
        self.view.execute("BEGIN")


class Postgres(About):
    resets = ("transaction", "session")

    def driver(self) -> str:
        import psycopg

        return f"psycopg {version('psycopg')}, libpq {_libpq(psycopg.pq.version())}"

    def server(self) -> str:
        said = self.view.info.parameter_status("server_version") or "of an unknown version"
        (most,) = self.view.execute("SHOW max_connections").fetchone()
        return f"PostgreSQL {said}, at most {most} connections"

    def tls(self) -> str:
        if not self.view.pgconn.ssl_in_use:
            return _OPEN
        told = self.view.execute("SELECT version, cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
        # Behind a proxy the server may know of none though there is one up to there.
        return f"{told[0]}, {told[1]}" if told and told[0] else "yes"

    def use(self) -> None:
        self.view.execute("SELECT 1")  # which begins a transaction: a URL cannot ask for autocommit


class Mysql(About):
    resets = ("transaction", "session")

    def driver(self) -> str:
        return f"PyMySQL {version('PyMySQL')}"

    def server(self) -> str:
        with self.view.cursor() as cursor:
            cursor.execute("SELECT @@version, @@max_connections")
            said, most = cursor.fetchone()
        name = "MariaDB" if "mariadb" in said.lower() else "MySQL"
        return f"{name} {said.partition('-')[0]}, at most {most} connections"

    def tls(self) -> str:
        return _socket_tls(self.view._sock)

    def use(self) -> None:
        self.factory.begin(self.connection)


class Redis(About):
    resets = ("transaction", "session")

    def driver(self) -> str:
        return f"redis-py {version('redis')}"

    def server(self) -> str:
        told = {**self.view.info("server"), **self.view.info("clients")}
        name = "Valkey" if "valkey_version" in told else "Redis"
        most = f", at most {told['maxclients']} connections" if "maxclients" in told else ""
        return f"{name} {told.get('valkey_version', told.get('redis_version', 'of an unknown version'))}{most}"

    def tls(self) -> str:
        return _socket_tls(self.connection._sock)

    def use(self) -> None:
        self.view.execute_command("MULTI")


class Mongodb(About):
    def driver(self) -> str:
        return f"PyMongo {version('pymongo')}"

    def server(self) -> str:
        kind = self.view.topology_description.topology_type_name
        return f"MongoDB {self.view.server_info()['version']}, {kind}"

    def tls(self) -> str:
        # What is configured is what is spoken: PyMongo never falls back to less.
        return _OPEN if getattr(self.view.options.pool_options, "_ssl_context", None) is None else "yes"

    def has_reset(self) -> bool:
        return False  # what a user leaves behind is in a session of his own


class Http(About):
    def driver(self) -> str:
        return f"urllib3 {version('urllib3')}"

    def server(self) -> str:
        answer = self._ask()
        return f"{answer.headers.get('Server', 'a server without a name')}, HEAD / is answered with {answer.status}"

    def tls(self) -> str:
        return _socket_tls(self.view.sock)

    def round_trip(self, timeout: float) -> None:  # noqa: ARG002  # the connection has its own
        self._ask()

    def has_round_trip(self) -> bool:
        return True

    def has_reset(self) -> bool:
        return False  # a response that was read leaves nothing

    def _ask(self) -> Any:
        self.view.request("HEAD", "/")
        answer = self.view.getresponse()
        answer.read()
        return answer


_KINDS: dict[str, type[About]] = {
    "SqliteFactory": Sqlite,
    "PostgresFactory": Postgres,
    "MysqlFactory": Mysql,
    "RedisFactory": Redis,
    "MongoFactory": Mongodb,
    "HttpFactory": Http,
}


def about(factory: Factory[Any], connection: Any) -> About:
    """By the class of the factory: importing the backends to ask would need every driver."""
    known = type(factory).__module__.startswith("pooling.backends.")
    kind = _KINDS.get(type(factory).__name__, About) if known else About
    return kind(factory, connection)


def _socket_tls(sock: Any) -> str:
    if not isinstance(sock, ssl.SSLSocket):
        return _OPEN
    cipher = sock.cipher()
    return f"{sock.version()}, {cipher[0]}" if cipher else str(sock.version())


def _libpq(number: int) -> str:
    """``160004`` is 16.4."""
    return f"{number // 10000}.{number % 10000}"
