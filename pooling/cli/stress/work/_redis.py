"""Work on Redis, and the server's own count of this run's sessions."""

from __future__ import annotations

from typing import Any

import redis

from pooling.cli.stress.work._sessions import Sessions

NOTE = "pooling_stress_note"  # written in transactions that are never executed
_QUEUED = (b"QUEUED", "QUEUED")


class RedisWork:
    """Each session is told apart by the number that the server gave it."""

    errors: tuple[type[Exception], ...] = (redis.ConnectionError, redis.TimeoutError)

    def mark(self, connection: Any) -> Any:
        connection.send_command("CLIENT", "ID")
        return connection.read_response()

    def leftover(self, connection: Any) -> str:
        wire = connection.connection_pool.get_connection()
        marks = ", ".join(sorted(wire.marks))
        return f"a session with {marks}" if marks else "a reply that was not read" if wire.pending else ""

    def ask(self, connection: Any, number: int) -> tuple[int, Any, bool]:
        pipeline = connection.pipeline(transaction=False)
        pipeline.execute_command("ECHO", number)
        pipeline.execute_command("CLIENT", "ID")
        pipeline.execute_command("EXISTS", NOTE)
        echo, mark, seen = pipeline.execute()
        if echo in _QUEUED:  # the transaction of the user before is still open
            return number, 0, True
        return int(echo), mark, bool(seen)

    def soil(self, connection: Any, number: int) -> None:
        connection.execute_command("WATCH", NOTE)
        connection.execute_command("MULTI")
        connection.execute_command("RPUSH", NOTE, number)

    def break_(self, connection: Any) -> None:
        connection.client_kill_filter(_id=connection.client_id(), skipme=False)
        connection.ping()

    def is_busy(self, error: Exception) -> bool:  # noqa: ARG002  # nobody ever holds a lock there
        return False


class Clients(Sessions):
    """Counts the clients that have this run's name."""

    def __init__(self, connection: Any, name: str) -> None:
        super().__init__()
        self._connection = connection
        self._name = name

    def present(self) -> list[Any]:
        return [int(client["id"]) for client in self._connection.client_list() if client["name"] == self._name]

    def close(self) -> None:
        self._connection.close()
