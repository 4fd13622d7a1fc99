"""The server's own count of a run's sessions."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

from pooling.cli.stress._census import Census
from pooling.cli.stress._verdict import Invariant, Verdict

# A server process or thread is listed for a moment longer than its client's close() takes; for this long that is
# forgiven.
LEAVING = 2.0
# Where the network fails a server may learn of a close, or that a connect was given up, only when it is well again.
LEAVING_IN_CHAOS = 10.0
EVERY = 0.02  # seconds between two counts


class Sessions(ABC):
    """Asks the server, on a connection of its own, which sessions of this run are there.

    A session that the factory has closed a moment ago may still be listed, so that a plain count can be above
    max_size though no more were ever open. Those are left out, by their numbers, until LEAVING is over.
    """

    def __init__(self) -> None:
        self.peak = 0
        self.peak_listed = 0  # with those that were leaving
        self.counts = 0
        self._strangers: dict[Any, int] = {}  # mark → nanoseconds when it was first listed

    @abstractmethod
    def present(self) -> list[Any]:
        """The sessions that the server lists, each by its mark."""

    @abstractmethod
    def close(self) -> None: ...

    def look(self, census: Census, verdict: Verdict, max_size: int, *, chaos: bool = False) -> None:
        """Count once, while the run is on. In chaos a session that the factory does not know, because its connect has
        failed halfway, is given the same time to leave."""
        present = self.present()
        # Read after the count: one that was closed in between was open then, and is left out all the same.
        now = time.monotonic_ns()
        forgiven = now - int((LEAVING_IN_CHAOS if chaos else LEAVING) * 1e9)
        here = [mark for mark in present if census.left.get(mark, 0) < forgiven]
        census.forget(forgiven)
        if chaos:
            known = census.marks()
            self._strangers = {mark: self._strangers.get(mark, now) for mark in here if mark not in known}
            here = [mark for mark in here if self._strangers.get(mark, 0) < forgiven]
        self.counts += 1
        self.peak = max(self.peak, len(here))
        self.peak_listed = max(self.peak_listed, len(present))
        if len(here) > max_size:
            verdict.broke(Invariant.SERVER, f"the server has {len(here)} sessions of this run, max_size is {max_size}")

    def finish(self, verdict: Verdict, patience: float) -> None:
        """After close(): wait for the server to be rid of all sessions."""
        until = time.monotonic() + patience
        while (left := len(self.present())) and time.monotonic() < until:
            time.sleep(EVERY)
        if left:
            verdict.broke(Invariant.SERVER, f"{left} sessions are on the server {patience:g} s after close()")

    @property
    def figures(self) -> tuple[int, int, int]:
        """How often it counted, the peak, the peak with those that were leaving."""
        return self.counts, self.peak, self.peak_listed
