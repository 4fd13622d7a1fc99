"""The slots of a pool: which exist, and where the token of each one is.

Part of the ledger's bookkeeping, pure like it: no lock, clock, thread or I/O. The roster knows places and times;
what is to become of a connection, the ledger decides.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from pooling._ledger.entry import Entry, Stage, Token, TokenRef
from pooling.config import Config
from pooling.stats import FOLD_AT, CloseReason

T = TypeVar("T")

# What Roster.plain_releases goes through: as many as there are samples in a batch, or none. Iterators of lists, which
# several threads may use at once on a free-threaded build as well.
MANY = [None] * FOLD_AT
NONE = iter(MANY[:0])


class Roster(Generic[T]):
    """A token is in ``idle`` (good to go out), ``suspects`` (to be checked first), ``doomed`` (to be closed), or with
    somebody outside: a lease, a waiter, a worker. ``at`` has the entries whose jobs are under way,
    ``hung`` those whose jobs never came back: they count no more."""

    def __init__(self, config: Config, wake: Callable[[Any], None]) -> None:
        self.entries: dict[Entry[T], None] = {}
        self.idle: deque[Token[T]] = deque()
        self.take = self.idle.pop if config.order == "lifo" else self.idle.popleft
        self.give_back = self.idle.append if config.order == "lifo" else self.idle.appendleft  # undoes take()
        self.suspects: deque[Token[T]] = deque()
        self.doomed: deque[Token[T]] = deque()
        self.at: dict[Stage, dict[Entry[T], None]] = {stage: {} for stage in Stage if stage is not Stage.OPEN}
        self.hung: dict[Entry[T], None] = {}
        self.orphans: deque[TokenRef] = deque()
        # An item for each release that may let its connection lie among the idle ones: nobody has to be told of it.
        self.plain_releases = NONE
        self.epoch = 0
        self.cleared = 0  # connections of an epoch before this one are retired; of a later one, checked
        self._wake = wake
        self._ids = itertools.count(1)
        self._identities: dict[int, Entry[T]] = {}
        self._agenda: list[tuple[float, int, Entry[T]]] = []

    # -- slots ----------------------------------------------------------------------------------------

    def add(self, now: float) -> Token[T]:
        """A new slot. Its token exists before it counts: no entry is ever without one."""
        entry: Entry[T] = Entry(next(self._ids), now, self.epoch, self)
        token = self.mint(entry)
        self.entries[entry] = None
        return token

    def mint(self, entry: Entry[T]) -> Token[T]:
        return entry.mint(self.orphans.append, self._wake)

    def remove(self, entry: Entry[T]) -> bool:
        """Forget a slot. False where it was forgotten before."""
        known = entry in self.entries
        if self._identities.get(entry.identity) is entry:
            del self._identities[entry.identity]
        self.entries.pop(entry, None)
        # After those, for an entry that stands there is to be told of while it does; but before its token goes: nobody
        # needs to hear of that.
        if entry not in self.hung:
            entry.refs = None
        return known

    def identify(self, entry: Entry[T]) -> bool:
        """Note whose connection this is. False where another entry has the same object already."""
        identity = id(entry.connection)
        known = self._identities.get(identity)
        # An entry lets go of what was closed before it is forgotten itself: the address may be another's by then.
        if known is not None and known.connection is entry.connection:
            return False
        self._identities[identity] = entry
        entry.identity = identity
        return True

    def kept(self) -> int:
        """Slots that are not on their way out."""
        return len(self.entries) - len(self.doomed) - len(self.at[Stage.CLOSING])

    def leased(self) -> int:
        """Slots whose tokens are with callers."""
        inside = len(self.idle) + len(self.suspects) + len(self.doomed)
        return max(0, len(self.entries) - inside - sum(map(len, self.at.values())))

    # -- places ---------------------------------------------------------------------------------------

    def fetch(self, entry: Entry[T]) -> Token[T] | None:
        """Take an entry's token out of idle or suspects, wherever it stands; None where it is outside."""
        token = entry.refs[1]() if entry.refs else None
        for line in (self.idle, self.suspects):
            try:
                if token is not None and token in line:
                    line.remove(token)
                    return token
            except (ValueError, RuntimeError, IndexError):  # a caller on the plain path took it, or another one
                continue
        return None

    def put_back(self, token: Token[T]) -> None:
        """Put a connection among the idle ones that was taken out without being used: where its last use places it."""
        try:
            place = bisect(self.idle, token.entry.since, key=lambda other: other.entry.since)
        except IndexError:  # callers on the plain path took some meanwhile
            place = 0
        self.idle.insert(place, token)

    def longest_unused(self) -> Token[T] | None:
        """Take the idle connection that was not used for the longest time."""
        try:
            return self.idle.popleft() if self.idle else None
        except IndexError:  # a caller on the plain path took the last one
            return None

    def doom(self, token: Token[T], reason: CloseReason) -> None:
        """Have a connection closed; its slot is freed after that."""
        token.entry.stage = Stage.CLOSING
        token.entry.reason = reason
        self.doomed.append(token)

    def next_epoch(self) -> None:
        """Make every connection of today suspect."""
        for entry in self.entries:  # before the epoch: no connection of an old one is ever taken or put back plainly
            entry.plain_until = -math.inf
        self.epoch += 1
        while token := self.longest_unused():
            self.suspects.append(token)

    # -- jobs -----------------------------------------------------------------------------------------

    def start(self, entry: Entry[T], stage: Stage, now: float, allowance: float) -> None:
        """Note that a job begins which may take ``allowance`` seconds."""
        entry.stage, entry.began, entry.allowance = stage, now, allowance
        self.at[stage][entry] = None

    def back(self, entry: Entry[T]) -> bool:
        """Note that a job is over. False where it had been written off."""
        for group in self.at.values():
            group.pop(entry, None)
        return entry in self.entries

    def write_off(self, entry: Entry[T]) -> None:
        """Count a job as hung from now on. Its token is watched all the same: it may be lost, and then so is
        the job."""
        self.back(entry)
        self.hung[entry] = None

    def live(self, stage: Stage, now: float) -> int:
        """Jobs of a kind under way, those that are late not counted: they hold nobody up."""
        group = self.at[stage]
        return sum(now < entry.began + entry.allowance for entry in group) if group else 0

    def late(self, now: float) -> int:
        """Jobs under way that have taken longer than they were allowed to."""
        return sum(len(group) - self.live(stage, now) for stage, group in self.at.items())

    def overdue(self, now: float) -> Iterator[Entry[T]]:
        """Jobs that are late by as long again as they were allowed to take."""
        for group in self.at.values():
            yield from [entry for entry in group if now >= entry.began + 2 * entry.allowance]

    def next_late(self, now: float) -> float:
        """When the next job will be late, or overdue."""
        return min(
            (
                entry.began + (1 if now < entry.began + entry.allowance else 2) * entry.allowance
                for group in self.at.values()
                for entry in group
            ),
            default=math.inf,
        )

    # -- the agenda: one line an entry, when to look at it again ----------------------------------------------

    def remind(self, entry: Entry[T], when: float, *, also: bool = False) -> None:
        """Have an entry looked at no later than then; who looks has it looked at again. ``also``: at that very time,
        be it looked at before or not."""
        if when == math.inf or (when >= entry.line and not also):
            return
        heapq.heappush(self._agenda, (when, entry.id, entry))
        if not also:
            entry.line = when  # after the push: what strikes in between leaves one line too many
        if len(self._agenda) > 2 * len(self.entries) + 64:  # lines of entries long gone
            self._agenda = [line for line in self._agenda if line[2] in self.entries]
            heapq.heapify(self._agenda)

    def next_line(self) -> float:
        return self._agenda[0][0] if self._agenda else math.inf

    def lines_due(self, now: float) -> Iterator[Entry[T]]:
        """Entries to be looked at now; each has to be reminded of anew."""
        while self._agenda and self._agenda[0][0] <= now:
            when, _, entry = self._agenda[0]
            if when == entry.line:
                entry.line = math.inf  # before the pop: as in remind()
            heapq.heappop(self._agenda)
            if entry in self.entries:
                yield entry
