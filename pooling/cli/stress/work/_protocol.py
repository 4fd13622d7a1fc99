"""What a user does with a connection of one kind, and how it sees that something is wrong with it."""

from __future__ import annotations

from typing import Any, Protocol


class Work(Protocol):
    """One kind of connection. Everything here leaves nothing behind in the database: the only write there is belongs
    to a transaction that nobody ever commits."""

    errors: tuple[type[Exception], ...]
    """What a driver may raise on a connection that this run has broken."""

    def mark(self, connection: Any) -> Any:
        """Called once per connection, on a worker: make its session tell itself apart; returns by what."""

    def leftover(self, connection: Any) -> str:
        """What the user before has left open, seen without asking the server; empty if nothing."""

    def ask(self, connection: Any, number: int) -> tuple[int, Any, bool]:
        """One round trip: the number, echoed; the session's mark; whether an uncommitted write is to be seen."""

    def soil(self, connection: Any, number: int) -> None:
        """Begin a transaction, write, and leave it so."""

    def break_(self, connection: Any) -> None:
        """Break the connection as a server or a network would; may raise what the user would see."""

    def is_busy(self, error: Exception) -> bool:
        """Whether the error says that others hold a lock: the database's way of saying "later", no fault."""
