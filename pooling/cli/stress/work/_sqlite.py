"""Work on SQLite."""

from __future__ import annotations

import itertools
import sqlite3
from typing import Any

# Created in transactions that are never committed, so it never exists for anybody else.
NOTE = "pooling_stress_note"


class SqliteWork:
    """Each session is told apart by a function of its own, so that the mark comes out of its engine."""

    errors: tuple[type[Exception], ...] = (sqlite3.ProgrammingError,)

    def __init__(self) -> None:
        self._marks = itertools.count(1)

    def mark(self, connection: Any) -> Any:
        mark = next(self._marks)
        connection.create_function("pooling_stress_mark", 0, lambda: mark)
        return mark

    def leftover(self, connection: Any) -> str:
        return "an open transaction" if connection.in_transaction else ""

    def ask(self, connection: Any, number: int) -> tuple[int, Any, bool]:
        question = "SELECT ?, pooling_stress_mark(), EXISTS (SELECT 1 FROM sqlite_master WHERE name = ?)"
        ((echo, mark, seen),) = connection.execute(question, (number, NOTE)).fetchall()
        return echo, mark, bool(seen)

    def soil(self, connection: Any, number: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"CREATE TABLE {NOTE} (number INTEGER)")
        connection.execute(f"INSERT INTO {NOTE} VALUES (?)", (number,))

    def break_(self, connection: Any) -> None:
        connection.close()

    def is_busy(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
