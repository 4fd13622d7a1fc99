"""What time brings to a pool's books: jobs that hang, connections that are due, threads that starve each other.

Part of the ledger's bookkeeping, pure like it. Looked at by whoever settles when ``alarm`` has passed.
"""

from __future__ import annotations

import math
from typing import TypeVar

from pooling._ledger.entry import Entry, Stage
from pooling._ledger.jobs import Job, Stuck
from pooling._ledger.limits import Due
from pooling._ledger.moves import Moves
from pooling._ledger.notice import Notice
from pooling._ledger.queue import Turn

T = TypeVar("T")

# A lease may have been handed to another thread, which nobody has told the pool: it cannot be sure.
STARVING = (
    "every connection was acquired by a thread that waits for another one: "
    "unless one was handed to another thread, none will come back"
)


class Upkeep(Moves[T]):
    """The moves that nobody's report calls for."""

    def look_round(self) -> None:
        """Write hung jobs off, retire and check what is due, and set the next alarm."""
        if self.config.workers == "inline":
            self._spare_unbegun()
        if self.demotion.take(self.now):
            self._retire_all()
        for entry in self.roster.overdue(self.now):
            self.roster.write_off(entry)
            self._free(entry, "hung")
            if entry.stage is Stage.CONNECTING:
                self.outage.hurried = True  # by a driver that does not heed its time
            if entry.connection is not None:
                self.outbox.append(Stuck(entry.connection))
        for entry in self.roster.lines_due(self.now):
            self._review(entry)
        if self.now >= self.nesting.look_at:
            if self.nesting.is_over():
                self._look_for_nesting()
            elif self.queue:  # whoever came since somebody was served may starve
                self.nesting.suspect(self.now)
        look_at = min(self.nesting.look_at, self.demotion.due_at)
        self.alarm = min(self.roster.next_late(self.now), self.roster.next_line(), look_at)

    def _spare_unbegun(self) -> None:
        """Where whoever calls does the driver's I/O, a job lies until somebody comes by, for hours in a program that
        has nothing to do: it hangs no sooner than it was begun. A connect is late meanwhile, and no more: nobody is to
        be told that a server is away because one lies there to find out."""
        for job in (item for item in self.outbox.copy() if isinstance(item, Job)):
            entry = job.token.entry
            if self.now >= entry.began + entry.allowance:
                entry.began = self.now - entry.allowance if job.stage is Stage.CONNECTING else math.inf

    def _look_for_nesting(self) -> None:
        """Nobody was served since somebody came to wait: see whether nobody ever can be."""
        roster = self.roster
        if len(roster.entries) < self.max_size or roster.leased() < len(roster.entries):
            return
        self.find_unreported()
        starving = self.nesting.starving(roster.entries, self.queue)
        if starving and self.nesting.mode == "raise":
            # The last to come gives way, as the victim of a database's deadlock does: with its lease others go on.
            victim = max(starving, key=lambda waiter: waiter.ticket)
            victim.turn = Turn.STARVED
            self.tally.timeouts += 1
            self._emit("timeout", duration=self.now - victim.started)
            self.queue.remove(victim)
            self.outbox.append(victim)
        elif starving and (news := self.nesting.news(roster.entries)):
            self.outbox.append(Notice(STARVING, news, self.now))

    def find_unreported(self) -> None:
        """Where no memory is left, a token may die without a report. Who waits and is not served has those looked for:
        soon, and now and then. (One that is reported as well is adopted once.)"""
        for entry in self.roster.entries:
            if entry.refs is not None and entry.refs[1]() is None:
                self.roster.orphans.append(entry.refs[1])

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

    def _due(self, entry: Entry[T]) -> Due | None:
        if entry.epoch < self.roster.cleared:
            return "stale"
        return self.limits.due(entry, self.now, spare=self.roster.kept() > self.min_size)
