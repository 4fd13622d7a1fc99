"""Work on MySQL and MariaDB, and the server's own count of this run's sessions."""

from __future__ import annotations

from typing import Any

import pymysql
from pymysql.constants import ER, SERVER_STATUS

from pooling.backends import _sockets
from pooling.cli.stress.work._sessions import Sessions

# Temporary, one per session: it leaves nothing in the database. Unlike its rows it cannot be rolled back, so it is
# there from the first moment on.
NOTE = "pooling_stress_note"
_MAKE = f"CREATE TEMPORARY TABLE {NOTE} (number BIGINT) ENGINE=InnoDB"
_ASK = f"SELECT %s, CONNECTION_ID(), EXISTS (SELECT 1 FROM {NOTE})"


class MysqlWork:
    """Each session is told apart by the thread that serves it."""

    errors: tuple[type[Exception], ...] = (pymysql.OperationalError, pymysql.InterfaceError)

    def __init__(self) -> None:
        self.marks: set[int] = set()

    def mark(self, connection: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(_MAKE)
        mark = connection.thread_id()
        self.marks.add(mark)
        return mark

    def leftover(self, connection: Any) -> str:
        if connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS:
            return "an open transaction"
        return "" if connection.get_autocommit() else "a connection without autocommit"

    def ask(self, connection: Any, number: int) -> tuple[int, Any, bool]:
        with connection.cursor() as cursor:
            cursor.execute(_ASK, (number,))
            echo, mark, seen = cursor.fetchone()
        return echo, mark, bool(seen)

    def soil(self, connection: Any, number: int) -> None:
        connection.begin()
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {NOTE} VALUES (%s)", (number,))

    def break_(self, connection: Any) -> None:
        connection.kill(connection.thread_id())

    def is_busy(self, error: Exception) -> bool:
        return isinstance(error, pymysql.OperationalError) and error.args[0] == ER.LOCK_WAIT_TIMEOUT


class Threads(Sessions):
    """Counts the threads that serve this run. MySQL shows no name of an application without its performance schema,
    so these are those that the run knows of."""

    def __init__(self, connection: Any, work: MysqlWork) -> None:
        super().__init__()
        self._connection = connection
        self._work = work

    def present(self) -> list[Any]:
        known = self._work.marks.copy()
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist")
            listed = {number for (number,) in cursor.fetchall()}
        self._work.marks -= known - listed
        return list(known & listed)

    def close(self) -> None:
        if self._connection.open:
            # A question that the server does not answer is still being read: close() would wait for the reader.
            _sockets.shut_down(self._connection._sock.fileno())
        self._connection.close()
