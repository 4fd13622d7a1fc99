"""The pool underneath: it lends places, and counts what becomes of the connections in them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from pooling._clock import DEFAULT, Timeout
from pooling._ledger.entry import Entry, Stage, Token
from pooling._ledger.jobs import Job
from pooling._ledger.ledger import Ledger
from pooling._ledger.phase import Phase
from pooling.config import offset, seconds
from pooling.integrations.sqlalchemy._place import Place, PlaceFactory
from pooling.lease import Lease, give_up
from pooling.pool import FIRST_COME, Pool
from pooling.stats import CloseReason


class PlaceLedger(Ledger[Place]):
    """Books in which a place costs nothing: whoever has to wait for none is given a new one at once, in the same step,
    and connects it by himself. Workers open connections for ``min_size`` alone."""

    def _open_some(self) -> None:
        lending = self.phase in (Phase.RUNNING, Phase.DRAINING)
        while lending and len(self.roster.entries) < self.max_size and len(self.queue) > self._coming():
            token = self.roster.add(self.now)
            token.entry.connection = Place()
            self.limits.opened(token.entry, self.now)
            self._remind(token.entry)
            self._put(token, used=True)
            del token  # or it would not be in one place only
            self._serve()
        super()._open_some()

    def filled(self, entry: Entry[Place], took: float) -> None:
        """A leased place has got a connection, a new one in the place of another perhaps."""
        self.emptied(entry, "discarded")
        place_of(entry).live = True
        self.limits.opened(entry, self.now)
        self._let_back(entry)
        self.tally.connected(took)
        self._emit("connect", entry, duration=took)
        self.outage.over()
        # No reminder: the place has one since it was made, and nothing is due before that. One for each connection that
        # comes and goes in a place would pile up.

    def not_filled(self, entry: Entry[Place], error: BaseException) -> None:
        """A leased place that somebody has had before could not be connected anew. It stays leased."""
        self.emptied(entry, "discarded")
        doing = Stage.CONNECTING.value
        self.tally.errors[doing] += 1
        self._emit("error", entry, reason=doing, error=error)

    def emptied(self, entry: Entry[Place], reason: CloseReason) -> None:
        """The connection in a leased place was closed, or taken out for good."""
        place = place_of(entry)
        if place.live:
            place.live = False
            self.tally.closed[reason] += 1
            self._emit("close", entry, duration=self.now - entry.opened_at, reason=reason)

    def vacate(self, token: Token[Place], reason: CloseReason, error: BaseException | None = None) -> None:
        """A place is given up; its connection was closed before, or there has never been one."""
        entry = token.entry
        place_of(entry).connection = None  # the agenda may remember the entry for a while
        if error is not None:
            entry.stage = Stage.OPEN if place_of(entry).live else Stage.CONNECTING  # what went wrong
            self._fault(entry, error)
        if entry.thread:
            how = "clean" if reason == "surplus" else "discarded"  # the words of every pool
            self._emit("release", entry, duration=self._used(entry), reason=how)
            entry.thread = 0
        self._free(entry, reason if place_of(entry).live else None)


class PlacePool(Pool[Place]):
    """The pool of one :class:`FairPool`. An acquire of its own yields the driver's connection, connected by SQLAlchemy
    on the calling thread; it raises the driver's error where that fails."""

    _ledger: PlaceLedger
    _books = PlaceLedger

    def __init__(self, factory: PlaceFactory, equip: Callable[[Lease[Place]], None], **options: Any) -> None:
        self._equip = equip
        super().__init__(factory, **options)

    def acquire(self, timeout: Timeout = DEFAULT, priority: float = FIRST_COME) -> Lease[Place]:
        if timeout is not DEFAULT:
            seconds("timeout", timeout)
        if priority is not FIRST_COME:
            offset("priority", priority)
        return self._acquire_for(sys._getframe(1), timeout, priority)

    def _acquire_for(self, frame: FrameType, timeout: Timeout = DEFAULT, priority: float = FIRST_COME) -> Lease[Place]:
        lease: Lease[Place] | None = None
        try:
            lease = self.take(timeout, priority, frame)
            self._equip(lease)
            return lease
        except BaseException:
            give_up(lease)
            raise

    def take(self, timeout: Timeout, priority: float, frame: FrameType) -> Lease[Place]:
        """A lease of a place as it is, connected or not, noted for ``frame``."""
        return super()._acquire_for(frame, timeout, priority)

    def filled(self, lease: Lease[Place], took: float) -> None:
        """The place of a lease was connected."""
        self._tell(self._ledger.filled, lease._entry, took)

    def not_filled(self, lease: Lease[Place], error: BaseException) -> None:
        """The place of a lease could not be connected."""
        self._tell(self._ledger.not_filled, lease._entry, self._hooks.concealed(error))

    def emptied(self, lease: Lease[Place], reason: CloseReason) -> None:
        """The place of a lease has lost its connection."""
        if place_of(lease._entry).live:
            self._tell(self._ledger.emptied, lease._entry, reason)

    def vacate(self, lease: Lease[Place], reason: CloseReason, error: BaseException | None = None) -> None:
        """End a lease and give its place up: another one can be made in this very moment."""
        told: BaseException | None = None
        try:
            told = None if error is None else self._hooks.concealed(error)
        finally:  # an interrupt of that is raised, but the place is given up before
            token = lease._take("vacated")
            self._check_process()
            if self.owns(lease):
                self._tell(self._ledger.vacate, token, reason, told)

    def owns(self, lease: Lease[Place]) -> bool:
        """Whether a lease is of this process, and not its parent's."""
        if not self._plain[1]:
            self._check_process()
        return lease._entry.roster is self._roster

    def is_full(self, size: int) -> bool:
        """Whether so many are idle already, and nobody waits for one more."""
        # Inside the lock (a destructor has struck there) nothing can be closed: the pool does so later.
        return 0 < size <= len(self._idle) and not self._ledger.queue and not self._lock._is_owned()

    def fetch_idle(self) -> list[Token[Place]]:
        """Take all idle places out: for :meth:`forget`, :meth:`doom` or :meth:`bring_back`. Until somebody asks for a
        connection again none is opened for ``min_size``."""
        taken: list[Token[Place]] = []

        def take() -> None:
            self._ledger.started = False
            for token in [*self._roster.idle.copy(), *self._roster.suspects.copy()]:
                fetched = self._roster.fetch(token.entry)
                if fetched is not None:
                    taken.append(fetched)

        self._tell(take)
        return taken

    def forget(self, token: Token[Place], reason: CloseReason) -> None:
        """Give an idle place up whose connection was closed."""
        self._tell(self._ledger.vacate, token, reason)

    def doom(self, token: Token[Place], reason: CloseReason) -> None:
        """Give an idle place up; a worker closes its connection."""
        self._tell(self._roster.doom, token, reason)

    def bring_back(self, token: Token[Place]) -> None:
        """Make a place idle again."""
        self._tell(partial(self._ledger._put, used=True), token)

    def counts(self) -> tuple[int, int]:
        """How many places there are, and how many of them are lent."""
        self._check_process()
        return self._roster.kept(), self._roster.leased()

    def _submit(self, job: Job) -> None:
        entry = job.token.entry
        if job.stage is Stage.CLOSING and entry.connection is not None and not entry.connection.live:
            entry.reason = None  # nothing is closed that was counted as opened
        super()._submit(job)


def place_of(entry: Entry[Place]) -> Place:
    place = entry.connection
    assert place is not None  # it is leased or idle
    return place
