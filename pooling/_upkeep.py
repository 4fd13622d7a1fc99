"""What time brings to a pool's books: jobs that hang, connections that are due, threads that starve each other.

Part of the ledger's bookkeeping, pure like it. Looked at by whoever settles when ``alarm`` has passed.
"""

from __future__ import annotations

import math
from typing import TypeVar

from pooling._entry import Entry, Stage
from pooling._moves import Moves, Stuck
from pooling._notice import Notice
from pooling._waiter import Turn

T = TypeVar("T")

NESTING = 0.05  # seconds after which waiting threads are suspected of starving each other
STARVING = "every connection is held by a thread that waits for another one, so none will come back"


class Upkeep(Moves[T]):
    """The moves that nobody's report calls for."""

    def look_round(self) -> None:
        """Write hung jobs off, retire and check what is due, and set the next alarm."""
        for entry in self.roster.overdue(self.now):
            self.roster.write_off(entry)
            self._free(entry, "hung")
            if entry.connection is not None:
                self.outbox.append(Stuck(entry.connection))
        for entry in self.roster.lines_due(self.now):
            self._review(entry)
        if self.now >= self.nesting_at:
            self.nesting_at = math.inf
            if self.handed == self.handed_before:
                self._look_for_nesting()
            elif self.queue:  # somebody was served, so nobody starved; whoever came since may
                self._suspect_nesting()
        self.alarm = min(self.roster.next_late(self.now), self.roster.next_line(), self.nesting_at)

    def _suspect_nesting(self) -> None:
        """Somebody waits: look a little later whether he can be served at all."""
        self.nesting_at, self.handed_before = self.now + NESTING, self.handed
        self._alarm(self.nesting_at)

    def _look_for_nesting(self) -> None:
        """Where every connection is held by a thread that waits for another one, nobody can ever give one back.

        Looked for a little after somebody came to wait: by nothing else can it begin. Only a snapshot of who
        acquired is known: a lease that was handed to another thread counts for the one that acquired it.
        """
        entries = self.roster.entries
        if len(entries) < self.max_size or self.roster.leased() < len(entries):
            return
        waiters = {waiter.thread: waiter for waiter in self.queue}
        if any(entry.thread not in waiters for entry in entries):
            return
        if self.config.nested == "raise":
            # The last to come gives way, as the victim of a database's deadlock does: with its lease others go on.
            victim = max((waiters[entry.thread] for entry in entries), key=lambda waiter: waiter.ticket)
            victim.turn = Turn.STARVED
            self.tally.timeouts += 1
            self._emit("timeout", duration=self.now - victim.started)
            self.queue.remove(victim)
            self.outbox.append(victim)
        elif self.nested != (nested := tuple(entry.hold() for entry in entries)):
            self.nested = nested  # said once: more callers may come, and change nothing
            self.outbox.append(Notice(STARVING, nested, self.now))

    def _review(self, entry: Entry[T]) -> None:
        """One entry's line on the agenda is due."""
        due = self._due(entry)
        token = self.roster.fetch(entry) if due and entry.stage is Stage.OPEN else None
        # Asked again: until it was fetched a caller may have had it and brought it back.
        if token is not None and (due := self._due(entry)):
            if due == "keepalive":
                self._start(token, Stage.CHECKING)
            else:
                self.roster.doom(token, due)
        elif token is not None:
            self.roster.idle.append(token)
        elif entry.stage is Stage.OPEN and self.limits.overheld(entry, self.now):
            entry.reported = entry.since
            self._leaked(entry, "a lease is held for long")
        self._remind(entry)

    def _due(self, entry: Entry[T]) -> str:
        if entry.epoch < self.roster.cleared:
            return "stale"
        return self.limits.due(entry, self.now, spare=self.roster.kept() > self.min_size)
