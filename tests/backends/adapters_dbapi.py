"""What the contract suite has to know of a driver that has no backend of its own: pg8000, for PostgreSQL."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import pg8000.dbapi

from pooling import Pool
from pooling.backends import asked, dbapi
from tests.backends.adapters import ConnectArgs, Dirt, PostgreSQL


def rows(connection: Any, statement: str, *values: Any) -> Any:
    cursor = connection.cursor()
    cursor.execute(statement, values)
    return cursor.fetchall() if cursor.description else ()


def one(connection: Any, statement: str, *values: Any) -> Any:
    return rows(connection, statement, *values)[0][0]


def discard_all(connection: Any) -> None:
    connection.autocommit = True  # it is refused in a transaction
    connection.cursor().execute("DISCARD ALL")


class PG8000(PostgreSQL):
    errors = (pg8000.dbapi.InterfaceError, pg8000.dbapi.DatabaseError)
    interrupts_cost = 1

    def open(self, url: str, connect_args: ConnectArgs, **options: Any) -> Pool[Any]:
        parts = urlsplit(url)

        def args() -> Mapping[str, Any]:
            return {
                "host": parts.hostname,
                "port": parts.port or 5432,
                "user": unquote(parts.username or "postgres"),
                "password": unquote(parts.password or ""),
                "database": parts.path[1:],
                "ssl_context": False,
                **asked(connect_args),
            }

        given = {"check_query": "SELECT 1", "reset_session": discard_all, **options}
        return dbapi.create(pg8000.dbapi.connect, connect_args=args, **given)

    def ask(self, connection: Any, token: int) -> int:
        return one(connection, "SELECT %s::bigint", token)

    def session(self, connection: Any) -> Any:
        return struct.unpack("!ii", connection._backend_key_data)[0]

    def write(self, connection: Any, token: int) -> None:
        rows(connection, "INSERT INTO notes VALUES (%s, %s)", self.name, token)

    def written(self, connection: Any, token: int) -> bool:
        return bool(rows(connection, "SELECT 1 FROM notes WHERE name = %s AND token = %s", self.name, token))

    def mistake(self, connection: Any) -> None:
        rows(connection, "SELECT nothing FROM nowhere")

    def nap(self, connection: Any) -> None:
        rows(connection, "SET client_connection_check_interval = '50ms'")
        rows(connection, "SELECT pg_sleep(30)")

    def set_up(self, connection: Any) -> None:
        rows(connection, "SET TIME ZONE 'Asia/Tokyo'")  # in a transaction, which nobody commits
        connection.autocommit = False

    def is_set_up(self, connection: Any) -> bool:
        return one(connection, "SHOW TIME ZONE") == "Asia/Tokyo"

    def dirt(self, mode: str) -> Mapping[str, Dirt]:
        def fail(connection: Any) -> None:
            with contextlib.suppress(pg8000.dbapi.DatabaseError):
                self.mistake(connection)

        def begin(connection: Any) -> None:
            connection.autocommit = True
            rows(connection, "BEGIN")

        transaction = {
            "an open transaction": Dirt(
                lambda c: self.write(c, -1), lambda c: c._in_transaction or self.written(c, -1)
            ),
            "a failed transaction": Dirt(fail, lambda c: c._in_transaction),
            "autocommit": Dirt(lambda c: setattr(c, "autocommit", True), lambda c: c.autocommit),
            "autocommit and BEGIN": Dirt(begin, lambda c: c.autocommit or c._in_transaction),
        }
        return transaction if mode == "transaction" else transaction | self._session_dirt()

    def _session_dirt(self) -> Mapping[str, Dirt]:
        def committed(statement: str, question: str) -> Dirt:
            return Dirt(lambda c: (rows(c, statement), c.commit()), lambda c: rows(c, question))

        return {
            "SET": committed(
                "SET statement_timeout = '7s'",
                "SELECT 1 FROM pg_settings WHERE name = 'statement_timeout' AND setting = '7000'",
            ),
            "a temporary table": committed(
                "CREATE TEMP TABLE mine (x int)", "SELECT 1 FROM pg_class WHERE relpersistence = 't'"
            ),
            "an advisory lock": committed(
                "SELECT pg_advisory_lock(43)",
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            ),
            "LISTEN": committed("LISTEN news", "SELECT pg_listening_channels()"),
        }
