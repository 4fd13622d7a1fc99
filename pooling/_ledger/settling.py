"""What follows from what was reported: who is served, what is checked, closed and opened.

Between :class:`Upkeep`, what time brings, and :class:`Ledger`, what is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from pooling._ledger.entry import Entry, Stage
from pooling._ledger.outage import LONGEST_GAP, MOMENT
from pooling._ledger.phase import CLOSED, RUNNING, SUSPENDED, Phase
from pooling._ledger.queue import Turn, Waiter
from pooling._ledger.roster import MANY, NONE
from pooling._ledger.upkeep import Upkeep
from pooling.stats import FOLD_AT, CloseReason

T = TypeVar("T")

CLOSERS = 32  # closes under way at once, late ones not counted: clear() of 10,000 must not start 10,000 threads
PATIENCE = 0.25  # seconds a check may take before a connection is opened beside it


class Settling(Upkeep[T]):
    """What is decided, once everything that was reported is taken in."""

    # In a *steady* pool every connection that there may be is open, somebody has come to wait since one lay idle, and
    # until a known time nothing is to be decided but who gets what comes back. There the two steps of a crowd are taken
    # alone: the rest of settle() would find nothing, at the price of more calls than they make
    # (tests/core/test_budget.py counts those). What was lost meanwhile is left to the reaper, which each dying token
    # wakes, and the inbox to whoever holds the lock, who looks there before going on.

    def pass_on(self, now: float) -> bool:
        """What came back goes to whoever is next. False where settle() has to see to it, or to more."""
        roster, queue = self.roster, self.queue
        if now >= self.steady_until or self.outbox or not (waiter := queue.head()):
            return False
        try:
            token = roster.take()
        except IndexError:  # whoever served somebody took it, or a caller on the plain path
            return True
        entry = token.entry
        if now >= entry.plain_until or now - entry.since >= self.limits.check_after:
            roster.idle.append(token)
            return False
        self.now = now
        if not self._hand(waiter, token):
            roster.idle.append(token)
        queue.remove(waiter)
        # The flags stay cleared, even if nobody waits any more: none is idle, so who comes next would clear them again.
        return not roster.idle and len(self.tally.uses.samples) < FOLD_AT

    def line_up(self, waiter: Waiter[T]) -> bool:
        """Somebody comes to wait. False where join() has to see to it, or its caller to what an exception has left."""
        if waiter.started >= self.steady_until or self.roster.idle or self.outbox:
            return False
        self.queue.join(waiter)
        return True

    def settle(self, now: float, transition: Callable[..., object] | None = None, *args: Any) -> None:
        """Take in a transition and whatever else was reported; then decide everything that follows."""
        roster, tally = self.roster, self.tally
        self.now = now
        self.steady_until = -math.inf  # whatever ends this half-way
        if transition is not None:
            transition(*args)
        while self.inbox:
            transition, args = self.inbox.popleft()
            transition(*args)
        while roster.orphans:
            # Looked at first and taken off last: an exception in between has it adopted again.
            self._adopt(roster.orphans[0])
            roster.orphans.popleft()
        if now >= self.alarm:
            self.look_round()
        if roster.idle and (self.phase is CLOSED or len(roster.entries) > self.max_size):
            self._shrink()
        if roster.idle and self.queue:
            self._serve()
        if self.outage.failures and self.queue:
            self._give_up()
        if len(roster.idle) > self.max_idle:
            self._trim()
        if roster.suspects or roster.doomed:
            self._check_some()
            self._close_some()
        if self.claims or len(roster.entries) < self.max_size:
            self._open_some()
        if self.watchers or tally.outlets:
            self._announce()
        if len(tally.uses.samples) >= FOLD_AT:  # every wait that was served ends with a use: there are no more of those
            tally.uses.fold()
            tally.waits.fold()
        plain = self._is_plain()
        calm = plain and not self.queue
        # Who takes one of the first may release, and who finds the second may acquire, without a word to anybody.
        roster.plain_releases, self.plain[0] = iter(MANY) if calm else NONE, calm
        self.steady_until = self._steady_until() if plain and not calm else -math.inf

    def _serve(self) -> None:
        """Hand idle connections to waiters, first come, first served."""
        while self.phase is not SUSPENDED and self.roster.idle and (waiter := self.queue.head()):
            try:
                token = self.roster.take()
            except IndexError:  # a caller on the plain path took the last one
                return
            if not self._may_go_out(token.entry):
                self.bench(token, behind=True)  # checked in the order in which they would have gone out
                continue
            if not self._hand(waiter, token):  # an exception came between serving this waiter and removing it
                self.roster.idle.append(token)
            self.queue.remove(waiter)
        if not self.queue:
            self._slow_start.restart()

    def _may_go_out(self, entry: Entry[T]) -> bool:
        """Whether it needs no check."""
        # What was opened or checked in this very moment is good, even where check_after is 0.
        fresh = entry.checked_at == self.now or self.limits.fresh(entry, self.now)
        return fresh and self.now < entry.expires_at and entry.epoch == self.roster.epoch

    def _give_up(self) -> None:
        """Fail those who wait for a server that has been away for too long."""
        at = self.outage.hopeless_at()
        if self.now < at:
            self._alarm(at)
            return
        while (waiter := self.queue.head()) and self._is_hopeless(waiter):
            self.outage.asked = True
            self._fail(waiter, self.outage.explain(self.name, self.now))

    def _is_hopeless(self, waiter: Waiter[T]) -> bool:
        """Whether the server has been away for too long for somebody who waits. By a suspended pool nothing is tried:
        there he waits for its owner."""
        return self.phase is not SUSPENDED and self.outage.hopeless_for(waiter.started, self.now)

    def _announce(self) -> None:
        """Tell those who wait for a state of the pool, and those who listen."""
        if self.tally.outlets:
            self._emit_state()
            self.outbox.extend(self.tally.outlets)
        for done, waiter in self.watchers:
            if waiter.turn is Turn.WAITING and done():
                if waiter.turn is Turn.WAITING:
                    waiter.turn = Turn.SERVED
                self.outbox.append(waiter)
        self.watchers = [watcher for watcher in self.watchers if watcher[1].turn is Turn.WAITING]

    def _shrink(self) -> None:
        """Retire what came back to a closed pool, or to one that has shrunk, before anybody is served with it."""
        reason: CloseReason = "pool" if self.phase is Phase.CLOSED else "surplus"
        while reason == "pool" or self.roster.kept() > self.max_size:
            if (token := self.roster.longest_unused()) is None:
                return
            self.roster.doom(token, reason)

    def _trim(self) -> None:
        """Retire idle connections beyond max_idle, the longest unused first."""
        while len(self.roster.idle) > self.max_idle and (token := self.roster.longest_unused()):
            self.roster.doom(token, "surplus")

    def _check_some(self) -> None:
        """Have suspects checked: as many as there are waiters; with nobody waiting, one after the other."""
        if self.unsure and not self.queue:
            self._pardon()
        if self.phase is Phase.SUSPENDED:
            return
        wanted = min(max(len(self.queue), 1), self.config.max_connecting)
        while self.roster.suspects and self._live(Stage.CHECKING) < wanted:
            token = self.roster.suspects.pop()
            thorough = token.entry.epoch != self.roster.epoch or self.config.check == "ping"
            self._start(token, Stage.CHECKING, thorough=thorough)

    def _pardon(self) -> None:
        """Nobody waits any more: what was to be looked at merely because it was unused for long lies idle again. A
        round trip on each would be sent without need."""
        self.unsure = False
        suspects = self.roster.suspects
        for _ in range(len(suspects)):
            if suspects[-1].entry.epoch != self.roster.epoch:
                suspects.rotate()
            elif reason := self._retirement(suspects[-1].entry):
                self.roster.doom(suspects.pop(), reason)
            else:
                self.roster.put_back(suspects.pop())
        self._trim()

    def _close_some(self) -> None:
        while self.roster.doomed and self._live(Stage.CLOSING) < CLOSERS:
            self._start(self.roster.doomed.popleft(), Stage.CLOSING)

    def _open_claimed(self) -> None:
        """Open for refreshes, each in the slot that it has, even where the pool is suspended or has shrunk."""
        goal = self._probe(asked=True) if self.outage else self.config.max_connecting - self._live(Stage.CONNECTING)
        for waiter in tuple(self.claims)[: max(0, goal)]:
            del self.claims[waiter]
            self._open(waiter)

    def _open_some(self) -> None:
        """Open as many as refreshes, waiters and min_size ask for and the limits allow."""
        if self.claims:
            self._open_claimed()
        room = self.max_size - self._taken()
        if not self.started or self.phase in (Phase.SUSPENDED, Phase.CLOSED) or room <= 0:
            return
        waiting, shortage = len(self.queue), self.min_size - self.roster.kept() - len(self.claims)
        if self.phase is not RUNNING:
            shortage = 0  # it is draining: none is opened to be closed
        if self.outage:
            goal = self._probe(asked=waiting > 0 or shortage > 0)
        else:
            coming, slow = (self._coming(), self._slow()) if waiting else (0, 0)
            opening = self._live(Stage.CONNECTING)
            goal = self._slow_start.goal(
                waiting=waiting, coming=coming, opening=opening, slow=slow, shortage=shortage
            )  # fmt: skip
        # Late jobs may all have to be written off; beyond max_size of those nothing is opened.
        bearable = self.max_size - len(self.roster.hung) - self.roster.late(self.now)
        for _ in range(int(max(0, min(goal, room, bearable)))):
            self._open()

    def _probe(self, *, asked: bool) -> int:
        """While the server is down: one try after the other, at the back-off's pace, as long as it is asked for."""
        if not (asked or self.outage.asked):
            return 0
        # A connect that began before the outage may take longer than a try. It is waited for no longer than for one:
        # what it met may be a packet that was lost, and the server long back.
        under_way = (
            entry.began + min(entry.allowance, LONGEST_GAP) + MOMENT for entry in self.roster.at[Stage.CONNECTING]
        )
        when = max((self.outage.next_try, *under_way))
        if self.now < when:
            self._alarm(when)
            return 0
        self.outage.asked = self._slow_start.demand = False
        return 1

    def _coming(self) -> int:
        """Checks that a waiter can count on: a suspect's, or one that takes long, gets a connect beside it."""
        coming = 0
        for entry in self.roster.at[Stage.CHECKING]:
            late = entry.began + PATIENCE
            if entry.epoch == self.roster.epoch and self.now < late:
                coming += 1
                self._alarm(late)
        return coming

    def _slow(self) -> int:
        """Connects under way that have taken as long as one may take in all while the server is down."""
        slow = 0
        for entry in self.roster.at[Stage.CONNECTING]:
            long = entry.began + LONGEST_GAP
            if self.now < long:
                self._alarm(long)
            elif self.now < entry.began + entry.allowance:  # else it is not counted as under way
                slow += 1
        return slow

    def _is_plain(self) -> bool:
        size = len(self.roster.entries)
        return self.phase is RUNNING and not self.tally.outlets and size <= self.max_size and size <= self.max_idle

    def _steady_until(self) -> float:
        """When there will be more to decide than who gets which connection: now, or with the next alarm."""
        roster = self.roster
        unfinished = roster.suspects or roster.doomed or self.watchers or self.outage.failures or self.claims
        unwatched = self.nesting.mode and self.nesting.look_at == math.inf  # who comes next has to see to that
        if unfinished or unwatched or len(roster.entries) < self.max_size:
            return -math.inf
        self._slow_start.restart()  # nothing is to be opened: where something is lost, it begins anew
        return self.alarm
