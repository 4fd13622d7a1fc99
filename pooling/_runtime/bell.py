"""What a waiter blocks on: its own for as long as it waits, and used again for another's wait.

It has nothing to do with the pool's lock, so that an interrupted wait can leave that neither held nor let go.
"""

from __future__ import annotations

import threading  # never "from threading import": gevent replaces what the module holds
from typing import Any

from pooling._ledger.queue import WAITING, Waiter


class Bell:
    """A binary semaphore: a lock that :meth:`wait` takes and :meth:`ring` lets go of, whoever holds it.

    Not a condition variable: a wait that an exception ends on its way out leaves that one's lock held or not held, and
    whoever leaves the ``with`` around it with a RuntimeError in place of the exception. Here nobody holds anything.
    """

    __slots__ = ("_gate",)

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()

    def ring(self) -> None:
        """Let the next wait, or the one under way, end. Rung twice is rung once. Never waits."""
        if self._gate.locked():
            try:
                self._gate.release()
            except RuntimeError:  # somebody else has just rung
                pass

    def wait(self, seconds: float, waiter: Waiter[Any]) -> None:
        """Block until it rings, the time is over, or the waiter's turn has come before. It may also end early: by a
        ring that was meant for the wait before.

        No wake-up is lost: the turn is written before the bell rings, and a bell that has rung before the wait ends it
        at once.
        """
        if waiter.turn is WAITING:
            self._gate.acquire(True, seconds)
