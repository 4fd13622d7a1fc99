"""The pool underneath those in the place of redis-py's."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from pooling._ledger.queue import Turn, Waiter
from pooling.backends.redis._shells import Session, ShellFactory, Shells
from pooling.errors import QueueFull
from pooling.lease import Lease
from pooling.pool import Pool


class SlotPool(Pool[Session]):
    """A pool that can say no at once: told to :meth:`refuse`, it does not queue a caller for whom no slot is left. One
    that is being opened, checked, reset or closed is a slot like any other."""

    _factory: ShellFactory

    def __init__(
        self, factory: ShellFactory, *, refuses: bool, missed: Callable[[], Callable[[SlotPool], object] | None],
        **options: Any,
    ) -> None:  # fmt: skip  # one argument list
        self.lost: deque[tuple[float, Lease[Any]]] = deque()  # dropped leases, with the time when they are given up
        self._missed = missed  # a weak reference to the method that is told of each
        super().__init__(factory, **options)
        self.refuse(refuses)

    def refuse(self, refuses: bool) -> None:
        self._refuses = refuses
        self._selective = refuses or self._config.max_waiting is not None

    def due_at(self) -> float:
        return min(super().due_at(), self.lost[0][0] if self.lost else math.inf)

    def look(self) -> None:
        while self.lost and self.lost[0][0] <= self._now():
            self.lost.popleft()  # whose token dies with it
            told = self._missed()
            if told is not None:
                told(self)
        super().look()

    def _is_too_many(self, waiter: Waiter[Session]) -> bool:
        ledger = self._ledger
        if not self._refuses:
            return super()._is_too_many(waiter)
        return waiter.turn is Turn.WAITING and len(ledger.queue) > ledger.max_size - self._roster.leased()

    def _queue_full(self) -> QueueFull:
        if not self._refuses:
            return super()._queue_full()
        holders, most = self.holders(), self._ledger.max_size
        longest = f", longest by {holders[0]}" if holders else ""
        # Those who came before wait for them: see _is_too_many.
        others = f", {most - len(holders)} being opened, checked, reset or closed" if len(holders) < most else ""
        return QueueFull(f"{len(holders)} of {most} are in use{others}{longest}")

    def retire(self, chosen: set[int] | None, shells: Shells) -> None:
        """Close idle connections now, all or those with these identities. They are taken under the lock, so that nobody
        gets them in between."""
        taken: list[Session] = []

        def take() -> None:
            for token in [*self._roster.idle.copy(), *self._roster.suspects.copy()]:
                session: Any = token.entry.connection
                fetched = self._roster.fetch(token.entry) if _is_among(session.shell(), chosen) else None
                if fetched is not None:
                    self._roster.doom(fetched, "stale")
                    taken.append(session)

        self._tell(take)
        for session in taken:
            self._factory.close(session)  # the worker that comes for it will find it closed
        for shell in shells.spares():
            if _is_among(shell, chosen):
                shell.disconnect()

    def suspect(self) -> None:
        """Have every connection checked before its next use."""
        self._tell(self._roster.next_epoch)


def _is_among(shell: Any, chosen: set[int] | None) -> bool:
    return chosen is None or id(shell) in chosen
