"""Work on PostgreSQL, and the server's own count of this run's sessions."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from pooling.cli.stress.work._sessions import Sessions

# Temporary, and created in transactions that are never committed: it leaves nothing in the database.
NOTE = "pooling_stress_note"
_ASK = f"SELECT %s::bigint, pg_backend_pid(), to_regclass('pg_temp.{NOTE}') IS NOT NULL"
_COUNT = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"


class PostgresWork:
    """Each session is told apart by the process that serves it."""

    errors: tuple[type[Exception], ...] = (psycopg.OperationalError, psycopg.InterfaceError)

    def mark(self, connection: Any) -> Any:
        return connection.info.backend_pid

    def leftover(self, connection: Any) -> str:
        status = connection.pgconn.transaction_status
        return "" if status == TransactionStatus.IDLE else f"a connection in state {TransactionStatus(status).name}"

    def ask(self, connection: Any, number: int) -> tuple[int, Any, bool]:
        echo, mark, seen = connection.execute(_ASK, (number,)).fetchone()
        return echo, mark, seen

    def soil(self, connection: Any, number: int) -> None:
        connection.execute("BEGIN")
        connection.execute(f"CREATE TEMPORARY TABLE {NOTE} (number bigint)")
        connection.execute(f"INSERT INTO {NOTE} VALUES (%s)", (number,))

    def break_(self, connection: Any) -> None:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    def is_busy(self, error: Exception) -> bool:
        return isinstance(error, psycopg.errors.LockNotAvailable)


class Processes(Sessions):
    """Who is there under this run's application name, each by its process number."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__()
        self._name = name
        self._connection = psycopg.connect(
            url, application_name=f"{name}-count", autocommit=True, connect_timeout=10, prepare_threshold=0
        )

    def present(self) -> list[Any]:
        return [pid for (pid,) in self._connection.execute(_COUNT, (self._name,)).fetchall()]

    def close(self) -> None:
        self._connection.close()
