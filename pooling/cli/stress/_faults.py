"""Faults of the server, as the factory sees them: a connect that is refused, one that takes long."""

from __future__ import annotations

import threading
import time
from collections import deque

from pooling.cli.stress._plan import Ending

ARMED = 3  # faults that may wait for a connect
IN_A_ROW = 3  # refusals in a row, so that what is injected stays a hiccup and never becomes an outage (fail_after)
SLOW = 0.05  # seconds that a slow connect takes longer


class InjectedRefusal(ConnectionRefusedError):
    """A connect failed because this run wanted it to."""


class Faults:
    """Faults are armed by users and strike the next connects."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: deque[Ending] = deque()
        self._in_a_row = 0
        self.refused = 0
        self.slowed = 0

    def arm(self, kind: Ending) -> None:
        """Have the next connect refused or slow, unless enough of that is coming already."""
        with self._lock:
            if len(self._armed) < ARMED:
                self._armed.append(kind)

    def disarm(self) -> None:
        """From now on connects are left alone."""
        with self._lock:
            self._armed.clear()

    def strike(self) -> None:
        """Called by every connect: does what is armed. Raises InjectedRefusal."""
        with self._lock:
            kind = self._armed.popleft() if self._armed else None
            refuse = kind is Ending.REFUSE and self._in_a_row < IN_A_ROW
            self._in_a_row = self._in_a_row + 1 if refuse else 0
            self.refused += refuse
            self.slowed += kind is Ending.SLOW
        if refuse:
            raise InjectedRefusal("refused by the stress run")
        if kind is Ending.SLOW:
            time.sleep(SLOW)
