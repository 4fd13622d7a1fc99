"""What a pool counts, and the events that it tells its listeners. Written under the pool's lock."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pooling._holders import named, thread_names
from pooling._ledger.entry import Entry
from pooling.events import EventKind, Outlet, PoolEvent
from pooling.stats import Recorder


class Tally:
    """Counters since the pool's creation. A lease is counted when it ends, by the sample of how long it was used;
    ``acquired`` and ``released`` are what a snapshot has told last."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outlets: tuple[Outlet, ...] = ()
        self.acquired = self.released = self.opened = self.timeouts = self.leaks = 0
        self.lost = 0  # events, by listeners that have ended
        self.closed: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.waits, self.uses, self.connects = Recorder(), Recorder(), Recorder()
        self.state = "up"

    def connected(self, seconds: float) -> None:
        self.opened += 1
        self.connects.add(seconds)

    def emit(
        self,
        kind: EventKind,
        at: float,
        entry: Entry[Any] | None = None,
        *,
        duration: float | None = None,
        reason: str | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Put an event into every listener's queue; nobody is called here."""
        held = entry is not None and entry.thread
        event = PoolEvent(
            kind, self.name, at, entry.id if entry else None, duration, reason, error,
            named([entry.hold()], at, thread_names())[0] if entry and held else None,
        )  # fmt: skip  # in the order of the fields
        for outlet in self.outlets:
            outlet.put(event)
