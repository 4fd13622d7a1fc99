"""Who is there: every connection that is open, and who uses it, by the harness's own books.

The books are kept where connections are made and unmade, in a factory wrapped around the backend's, and where users
take and leave them. The pool is never asked.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from pooling.cli.stress._faults import Faults
from pooling.cli.stress._verdict import Invariant, Verdict
from pooling.cli.stress.work import Work
from pooling.factory import Factory, ResetMode

RETIRED = "retired by the pool"
AT_CLOSE = "pool closed"


class Unfit(Exception):
    """A lease brought a connection that nobody should have been given; the verdict knows already."""


class Card:
    """One connection."""

    __slots__ = ("connection", "fate", "free_since", "mark", "number", "user", "view")

    def __init__(self, number: int, connection: Any) -> None:
        self.number = number
        self.connection = connection  # referenced while it is on the books, so that its id is nobody else's
        self.view: Any = None
        self.mark: Any = None
        self.user = ""
        self.fate = ""  # why it must not be handed out again
        self.free_since = 0
        """Nanoseconds: the pool cannot have handed it to its present user any earlier."""


class Census:
    """All connections of one run. Any thread may call anything."""

    def __init__(self, max_size: int, verdict: Verdict) -> None:
        self.peak = 0
        self.opened = 0
        self.closed: Counter[str] = Counter()
        self.closing = False
        self.left: dict[Any, int] = {}  # mark → nanoseconds of its close
        self._max_size = max_size
        self._verdict = verdict
        self._lock = threading.Lock()
        self._connecting = 0
        self._by_connection: dict[int, Card] = {}
        self._by_view: dict[int, Card] = {}

    @property
    def open(self) -> int:
        """Connections open at this moment, and those being opened."""
        return self._connecting + len(self._by_connection)

    # -- what the factory reports ---------------------------------------------------------------------

    def connecting(self) -> None:
        """A connection is about to be opened: counted from here, for the server may have it before we do."""
        with self._lock:
            self._connecting += 1
            self.peak = max(self.peak, self.open)
            if self.open > self._max_size:
                self._verdict.broke(Invariant.SIZE, f"{self.open} connections open, max_size is {self._max_size}")

    def failed(self) -> None:
        with self._lock:
            self._connecting -= 1

    def connected(self, connection: Any) -> Card:
        with self._lock:
            self._connecting -= 1
            self.opened += 1
            card = self._by_connection[id(connection)] = Card(self.opened, connection)
            return card

    def viewed(self, connection: Any, view: Any) -> None:
        with self._lock:
            card = self._by_connection[id(connection)]
            card.view = view
            self._by_view[id(view)] = card

    def marked(self, connection: Any, mark: Any) -> None:
        card = self._by_connection.get(id(connection))
        if card is not None:
            card.mark = mark

    def free(self, connection: Any) -> None:
        """A worker is done with it: it goes to a user now, and could not before."""
        card = self._by_connection.get(id(connection))
        if card is not None:
            card.free_since = time.monotonic_ns()

    def before_close(self, connection: Any) -> None:
        card = self._by_connection.get(id(connection))
        if card is None:
            self._verdict.broke(Invariant.ACCOUNTED, "a connection was closed twice")
        elif card.user:
            self._verdict.broke(Invariant.ONE_USER, f"connection {card.number} was closed while {card.user} used it")

    def after_close(self, connection: Any) -> None:
        with self._lock:
            card = self._by_connection.pop(id(connection), None)
            if card is None:
                return
            self._by_view.pop(id(card.view), None)
            self.closed[card.fate or (AT_CLOSE if self.closing else RETIRED)] += 1
            self.left[card.mark] = time.monotonic_ns()

    # -- what the server's count asks -----------------------------------------------------------------

    def marks(self) -> set[Any]:
        """The marks of all open connections."""
        with self._lock:
            return {card.mark for card in self._by_connection.values()}

    def forget(self, before: int) -> None:
        """Forget who has left before that time: a run may last for days."""
        with self._lock:
            for mark in [mark for mark, when in self.left.items() if when < before]:
                del self.left[mark]

    # -- what users report ------------------------------------------------------------------------------

    def enter(self, view: Any, user: str) -> Card:
        """A user begins. Raises Unfit where the connection is not its alone."""
        with self._lock:
            card = self._by_view.get(id(view))
            if card is None:
                evidence = f"{user} was given a connection that is not open"
            elif card.user:
                evidence = f"connection {card.number} was given to {user} while {card.user} used it"
            elif card.fate:
                evidence = f"connection {card.number} was given to {user} after it was {card.fate}"
            else:
                card.user = user
                return card
        self._verdict.broke(Invariant.ONE_USER, evidence)
        raise Unfit(evidence)

    def leave(self, card: Card, fate: str = "") -> None:
        """A user is done, and about to tell the pool so."""
        with self._lock:
            card.user, card.fate = "", fate
            card.free_since = time.monotonic_ns()

    # -- the end ----------------------------------------------------------------------------------------

    def audit(self) -> None:
        """After close() nothing is open, and everything that was opened was closed."""
        closed = sum(self.closed.values())
        if self.open or closed != self.opened:
            self._verdict.broke(
                Invariant.ACCOUNTED,
                f"after close(): {self.opened} connections opened, {closed} closed, {self.open} still open",
            )


class CountedFactory(Factory[Any]):
    """The backend's factory, with every connect and close on the books and faults injected."""

    def __init__(self, inner: Factory[Any], census: Census, work: Work, faults: Faults) -> None:
        self._inner = inner
        self._census = census
        self._work = work
        self._faults = faults
        self._mark_again = getattr(work, "mark_again", None)  # where a reset may bring another session
        # Asked on every acquire and release, or about errors only: nothing to add to them.
        for name in (
            "abandon", "begin", "commit", "interrupt", "is_alive", "is_broken", "is_demoted", "is_permanent",
            "is_retryable", "rollback",
        ):  # fmt: skip  # a table, not a story
            setattr(self, name, getattr(inner, name))

    def connect(self, timeout: float) -> Any:
        self._census.connecting()
        try:
            self._faults.strike()
            connection = self._inner.connect(timeout)
        except BaseException:
            self._census.failed()
            raise
        card = self._census.connected(connection)
        try:
            card.mark = self._work.mark(connection)
        except BaseException:
            self.close(connection)
            raise
        return connection

    def view(self, connection: Any) -> Any:
        view = self._inner.view(connection)
        self._census.viewed(connection, view)
        self._census.free(connection)
        return view

    def is_clean(self, connection: Any) -> bool:
        return self._inner.is_clean(connection)

    def check(self, connection: Any, timeout: float) -> None:
        self._inner.check(connection, timeout)
        self._census.free(connection)

    def reset(self, connection: Any, mode: ResetMode) -> None:
        self._inner.reset(connection, mode)
        if self._mark_again is not None:
            self._census.marked(connection, self._mark_again(connection))
        self._census.free(connection)

    def close(self, connection: Any) -> None:
        self._census.before_close(connection)
        try:
            self._inner.close(connection)
        finally:
            self._census.after_close(connection)
