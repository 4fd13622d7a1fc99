"""The databases of the project, what is asked of them, and how their sessions are ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

import pooling
from tests.waiting import until

SESSION = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
SERVERS = tuple(SESSION)


def pool(alias: str) -> pooling.Pool[Any]:
    known: Any = connections[alias]
    return known.pooling  # type: ignore[no-any-return]


def items(alias: str) -> Any:
    from tests.integrations.django_project.models import Item

    return Item.objects.using(alias)


def ask(connection: Any, statement: str, *values: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchone()[0]


ISOLATION: dict[str, tuple[Any, str]] = {
    "postgresql": (4, "serializable"),  # psycopg.IsolationLevel.SERIALIZABLE
    "mysql": ("serializable", "SERIALIZABLE"),
}


def isolation(connection: Any) -> Any:
    with begun(connection):
        name = "@@transaction_isolation" if connection.vendor == "mysql" else "current_setting('transaction_isolation')"
        if connection.vendor == "mysql" and connection.mysql_is_mariadb:
            name = "@@tx_isolation"
        return ask(connection, f"SELECT {name}")


@contextmanager
def begun(connection: Any) -> Iterator[None]:
    """A transaction on a connection that is not one of ``connections``."""
    connection.set_autocommit(False)
    yield
    connection.rollback()
    connection.set_autocommit(True)


def kill(server: str, session: int) -> None:
    with connections[server].cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)" if server == "postgresql" else "KILL %s", [session])
    until(lambda: session not in alive(server))


def alive(server: str) -> list[int]:
    with connections[server].cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity"
            if server == "postgresql"
            else "SELECT id FROM information_schema.processlist"
        )
        return [number for (number,) in cursor.fetchall()]
