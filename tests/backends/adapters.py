"""What the contract suite has to know of each backend, and nothing else of it does.

An adapter stands for one server and the sessions of one test there. It closes the pools that it made; at the end
no session of its may be left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

import psycopg

from pooling import Pool, create_pool
from tests.servers import Postgres
from tests.servers.base import ADMIN_NAME

if TYPE_CHECKING:
    from typing_extensions import Self

ConnectArgs = Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None


@dataclass(frozen=True)
class Dirt:
    """Something that a user can leave on a connection: how to make it, and whether it is there."""

    make: Callable[[Any], object]
    there: Callable[[Any], object]


class Adapter(ABC):
    """One backend. ``server`` is what the fixture of that name yields."""

    fixture: ClassVar[str]
    secret: ClassVar[str] = ""  # the password that must not show up anywhere
    errors: ClassVar[tuple[type[Exception], ...]]  # what the driver raises on a lost connection
    transactions: ClassVar[bool] = True
    interrupts_cost: ClassVar[int] = 0  # connections that an interrupt costs, though nothing was under way
    elsewhere: ClassVar[Mapping[str, str]] = {}  # tests that cannot apply, with the reason

    def __init__(self, server: Any, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self._stack = contextlib.ExitStack()

    # -- pools ----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def url(self) -> str: ...

    def pool(self, url: str | None = None, connect_args: ConnectArgs = None, **options: Any) -> Pool[Any]:
        """A pool whose sessions :meth:`count` counts."""
        pool = self.open(url or self.url, self.marked(connect_args), **options)
        self._stack.callback(pool.close)
        return pool

    def open(self, url: str, connect_args: ConnectArgs, **options: Any) -> Pool[Any]:
        return create_pool(url, connect_args=connect_args, **options)

    @abstractmethod
    def marked(self, connect_args: ConnectArgs) -> ConnectArgs:
        """The arguments by which the sessions of this test are told from others'."""

    # -- users ----------------------------------------------------------------------------------------

    @abstractmethod
    def ask(self, connection: Any, token: int) -> int:
        """Have the server answer with the token."""

    @abstractmethod
    def session(self, connection: Any) -> Any:
        """What tells one session from another."""

    def sessions(self, connections: Sequence[Any]) -> list[Any]:
        """The sessions of connections that are leased at the same time."""
        return [self.session(connection) for connection in connections]

    @abstractmethod
    def write(self, connection: Any, token: int) -> None:
        """Store the token, in a transaction where the backend has any."""

    @abstractmethod
    def written(self, connection: Any, token: int) -> bool: ...

    def end(self, connection: Any) -> None:
        """End a transaction that the driver has begun by itself."""
        getattr(connection, "rollback", lambda: None)()

    @abstractmethod
    def mistake(self, connection: Any) -> None:
        """Make the server refuse something, by an error that does not harm the connection."""

    @abstractmethod
    def nap(self, connection: Any) -> None:
        """Have the server work for half a minute."""

    @abstractmethod
    def set_up(self, connection: Any) -> None:
        """What an on_connect does: see :meth:`is_set_up`."""

    @abstractmethod
    def is_set_up(self, connection: Any) -> bool: ...

    @abstractmethod
    def dirt(self, mode: str) -> Mapping[str, Dirt]:
        """What reset=mode has to clear, by name."""

    # -- the server -----------------------------------------------------------------------------------

    @abstractmethod
    def count(self) -> int:
        """The sessions of this test, as the server counts them."""

    @abstractmethod
    def kill(self, session: Any) -> None:
        """End a session from the other side; return once it is gone."""

    def permanent(self) -> Mapping[str, str]:
        """URLs where a connect can never succeed, by what is wrong."""
        return {}

    def wait_for(self, count: int, timeout: float = 5.0) -> None:
        until = time.monotonic() + timeout
        while (seen := self.count()) != count:
            assert time.monotonic() < until, f"{seen} sessions, not {count}, after {timeout} s"
            time.sleep(0.005)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if kind is None:
            self.wait_for(0)


class Remote(Adapter):
    """A backend behind a network."""

    def at(self, host: str, port: int) -> str:
        """The URL with another address."""
        parts = urlsplit(self.url)
        user = parts.netloc.rpartition("@")[0]
        netloc = f"{user}@{host}:{port}" if user else f"{host}:{port}"
        return urlunsplit(parts._replace(netloc=netloc))


# -- SQLite -------------------------------------------------------------------------------------------


class CountedConnection(sqlite3.Connection):
    """A connection that says what is open: an embedded database has no server to ask. The users' own
    subclass of sqlite3.Connection as well, which a pool has to put up with."""

    open: ClassVar[dict[Any, CountedConnection]] = {}
    numbers: ClassVar[Iterator[int]] = itertools.count(1)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.number = (os.getpid(), next(self.numbers))
        self.open[self.number] = self

    def close(self) -> None:
        super().close()
        self.open.pop(self.number, None)


class Sqlite(Adapter):
    fixture = ""
    errors = (sqlite3.ProgrammingError,)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder}/test.db?timeout=20"

    def marked(self, connect_args: ConnectArgs) -> ConnectArgs:
        return lambda: {
            "factory": CountedConnection,
            **((connect_args() if callable(connect_args) else connect_args) or {}),
        }

    def ask(self, connection: Any, token: int) -> int:
        return connection.execute("SELECT ?", (token,)).fetchone()[0]

    def session(self, connection: Any) -> Any:
        return connection.number

    def write(self, connection: Any, token: int) -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (token INTEGER)")
        connection.execute("INSERT INTO notes VALUES (?)", (token,))

    def written(self, connection: Any, token: int) -> bool:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'notes'").fetchall():
            return False
        return bool(connection.execute("SELECT 1 FROM notes WHERE token = ?", (token,)).fetchall())

    def mistake(self, connection: Any) -> None:
        connection.execute("SELECT nothing FROM nowhere")

    def nap(self, connection: Any) -> None:
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000000)"
        connection.execute(f"{numbers} SELECT count(*) FROM n").fetchone()

    def set_up(self, connection: Any) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.isolation_level = "IMMEDIATE"

    def is_set_up(self, connection: Any) -> bool:
        ((on,),) = connection.execute("PRAGMA foreign_keys").fetchall()
        return on == 1 and connection.isolation_level == "IMMEDIATE"

    def dirt(self, mode: str) -> Mapping[str, Dirt]:
        transaction = {
            "an open transaction": Dirt(lambda c: self.write(c, -1), lambda c: c.in_transaction or self.written(c, -1)),
            "a transaction by hand": Dirt(lambda c: c.execute("BEGIN IMMEDIATE"), lambda c: c.in_transaction),
            "isolation_level": Dirt(lambda c: setattr(c, "isolation_level", None), lambda c: c.isolation_level is None),
        }
        if hasattr(sqlite3.Connection, "autocommit"):
            before = sqlite3.LEGACY_TRANSACTION_CONTROL
            for value in (True, False):
                transaction[f"autocommit = {value}"] = Dirt(
                    lambda c, value=value: setattr(c, "autocommit", value),  # type: ignore[misc]
                    lambda c: c.autocommit != before or c.in_transaction,
                )
        return transaction if mode == "transaction" else transaction | self._session_dirt()

    def _session_dirt(self) -> Mapping[str, Dirt]:
        def pragma(name: str, value: Any) -> Dirt:
            return Dirt(
                lambda c: c.execute(f"PRAGMA {name} = {value}"),
                lambda c: c.execute(f"PRAGMA {name}").fetchone()[0] == value,
            )

        def forbid(connection: Any) -> None:
            connection.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)

        def refuses(connection: Any) -> bool:
            try:
                connection.execute("SELECT 1 FROM sqlite_master").fetchall()
            except sqlite3.DatabaseError:
                return True
            return False

        temporary = "SELECT name FROM sqlite_temp_master"
        return {
            "row_factory": Dirt(lambda c: setattr(c, "row_factory", sqlite3.Row), lambda c: c.row_factory),
            "text_factory": Dirt(lambda c: setattr(c, "text_factory", bytes), lambda c: c.text_factory is bytes),
            "foreign_keys": pragma("foreign_keys", 1),
            "query_only": pragma("query_only", 1),
            "busy_timeout": pragma("busy_timeout", 7),
            "recursive_triggers": pragma("recursive_triggers", 1),
            "a temporary table": Dirt(
                lambda c: c.execute('CREATE TEMP TABLE "a ""b" (x)'), lambda c: c.execute(temporary).fetchall()
            ),
            "a temporary view": Dirt(
                lambda c: c.execute("CREATE TEMP VIEW v AS SELECT 1"), lambda c: c.execute(temporary).fetchall()
            ),
            "an attached database": Dirt(
                lambda c: c.execute("ATTACH ':memory:' AS other"),
                lambda c: "other" in [row[1] for row in c.execute("PRAGMA database_list")],
            ),
            "an authorizer": Dirt(forbid, refuses),
        }

    def count(self) -> int:
        return len(CountedConnection.open)

    def kill(self, session: Any) -> None:
        CountedConnection.open[session].close()

    def permanent(self) -> Mapping[str, str]:
        damaged = self.folder / "damaged.db"
        damaged.write_bytes(b"this is not a database " * 100)
        return {
            "no such directory": f"sqlite:///{self.folder}/missing/test.db",
            "a directory": f"sqlite:///{self.folder}",
            "not a database": f"sqlite:///{damaged}",
        }


class SqliteInMemory(Sqlite):
    @property
    def url(self) -> str:
        return "sqlite://?timeout=20"


# -- PostgreSQL ---------------------------------------------------------------------------------------


class PostgreSQL(Remote):
    fixture = "postgres"
    secret = "s3cret-not-to-be-seen"
    errors = (psycopg.OperationalError,)
    server: Postgres

    def __init__(self, server: Any, folder: Path) -> None:
        super().__init__(server, folder)
        self.name = f"contract-{secrets.token_hex(4)}"
        self.admin = self._stack.enter_context(
            contextlib.closing(psycopg.connect(server.url, autocommit=True, application_name=ADMIN_NAME))
        )
        self.admin.execute("CREATE TABLE IF NOT EXISTS notes (name text, token bigint)")

    @property
    def url(self) -> str:
        return self.server.url

    def marked(self, connect_args: ConnectArgs) -> ConnectArgs:
        def args() -> Mapping[str, Any]:
            further = connect_args() if callable(connect_args) else connect_args
            return {"application_name": self.name, **(further or {})}

        return args

    def ask(self, connection: Any, token: int) -> int:
        return connection.execute("SELECT %s::bigint", (token,)).fetchone()[0]

    def session(self, connection: Any) -> Any:
        return connection.info.backend_pid

    def write(self, connection: Any, token: int) -> None:
        connection.execute("INSERT INTO notes VALUES (%s, %s)", (self.name, token))

    def written(self, connection: Any, token: int) -> bool:
        seen = connection.execute("SELECT 1 FROM notes WHERE name = %s AND token = %s", (self.name, token))
        return bool(seen.fetchall())

    def mistake(self, connection: Any) -> None:
        connection.execute("SELECT nothing FROM nowhere")

    def nap(self, connection: Any) -> None:
        # Without this the server would not notice before it has something to say.
        connection.execute("SET client_connection_check_interval = '50ms'")
        connection.execute("SELECT pg_sleep(30)")

    def set_up(self, connection: Any) -> None:
        connection.execute("SET TIME ZONE 'Asia/Tokyo'")  # in a transaction, which nobody commits
        connection.commit()
        connection.autocommit = True

    def is_set_up(self, connection: Any) -> bool:
        return connection.autocommit and connection.execute("SHOW TIME ZONE").fetchone()[0] == "Asia/Tokyo"

    def dirt(self, mode: str) -> Mapping[str, Dirt]:
        def fail(connection: Any) -> None:
            with contextlib.suppress(psycopg.errors.UndefinedTable):
                self.mistake(connection)

        def busy(connection: Any) -> bool:
            return connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE

        transaction = {
            "an open transaction": Dirt(lambda c: self.write(c, -1), lambda c: busy(c) or self.written(c, -1)),
            "a failed transaction": Dirt(fail, busy),
            "autocommit": Dirt(lambda c: c.set_autocommit(True), lambda c: c.autocommit),
            "autocommit and BEGIN": Dirt(
                lambda c: (c.set_autocommit(True), c.execute("BEGIN")), lambda c: c.autocommit or busy(c)
            ),
        }
        return transaction if mode == "transaction" else transaction | self._session_dirt()

    def _session_dirt(self) -> Mapping[str, Dirt]:
        def committed(statement: str) -> Callable[[Any], None]:
            def make(connection: Any) -> None:
                connection.execute(statement)
                connection.commit()

            return make

        def rows(statement: str) -> Callable[[Any], Any]:
            return lambda connection: connection.execute(statement).fetchall()

        def prepare(connection: Any) -> None:
            for _ in range(2):
                connection.execute("SELECT 1", prepare=True)
            connection.commit()

        def attribute(name: str, value: Any) -> Dirt:
            return Dirt(lambda c: setattr(c, name, value), lambda c: getattr(c, name) == value)

        return {
            "SET": Dirt(
                committed("SET statement_timeout = '7s'"),
                lambda c: c.execute("SHOW statement_timeout").fetchone() != ("0",),
            ),
            "a temporary table": Dirt(
                committed("CREATE TEMP TABLE mine (x int)"), rows("SELECT 1 FROM pg_class WHERE relpersistence = 't'")
            ),
            "an advisory lock": Dirt(
                committed("SELECT pg_advisory_lock(42)"), rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'")
            ),
            "LISTEN": Dirt(committed("LISTEN news"), rows("SELECT pg_listening_channels()")),
            "a prepared statement": Dirt(prepare, rows("SELECT 1 FROM pg_prepared_statements")),
            "row_factory": attribute("row_factory", psycopg.rows.dict_row),
            "cursor_factory": attribute("cursor_factory", psycopg.ClientCursor),
            "prepare_threshold": attribute("prepare_threshold", 0),
            "isolation_level": attribute("isolation_level", psycopg.IsolationLevel.SERIALIZABLE),
            "read_only": attribute("read_only", True),
        }

    def count(self) -> int:
        return self.server.session_count(self.name)

    def kill(self, session: Any) -> None:
        self.admin.execute("SELECT pg_terminate_backend(%s, 5000)", (session,))

    def permanent(self) -> Mapping[str, str]:
        wrong = self.server.guarded_url.replace(":secret@", f":{self.secret}@")
        nowhere = urlunsplit(urlsplit(wrong)._replace(path="/nowhere")).replace("guarded:", "postgres:")
        return {"wrong password": wrong, "unknown database": nowhere}


ADAPTERS: dict[str, type[Adapter]] = {"postgres": PostgreSQL, "sqlite": Sqlite, "sqlite-memory": SqliteInMemory}
