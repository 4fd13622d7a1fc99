"""The pool's bookkeeping, and nothing else: no lock, no clock, no thread, no I/O.

Everything here runs under the pool's lock, except the two ends of ``idle`` (see "The plain path" in pool.py). A
transition is called once for each thing that callers and workers report; :meth:`Ledger.settle` then decides what
follows. What is to be done outside the lock (a job for a worker, a waiter's failure to tell, a line to log) is put
into ``outbox``; it stays there until somebody takes it, so an exception between deciding and doing loses nothing.

Invariants, after every settle():
 1. Each entry has one token, alive in exactly one place: idle, suspects, doomed, a job, a waiter, or a lease.
 2. len(entries) <= max_size, unless a resize made it smaller: a slot is freed after its connection is closed.
 3. Nobody waits while a connection is idle, unless the pool is suspended.
 4. Waiters are served in the order of their keys; each is served, failed or gone once.
 5. Before a connection goes out its epoch (for the plain path plain_until, -inf in an old one) and its last use are
    looked at: nothing older than the last break or clear() is handed to anybody unchecked.
 6. Connects under way (late ones not counted) <= max_connecting, and <= 1 while the server is down.
 7. plain[0] and roster.calm are true only if nobody waits, nobody listens, and every clean release may simply
    be put back. (The first is wiped by a fork, the second is cheaper to read.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from pooling._entry import Entry, Stage, Token
from pooling._moves import CLOSED, RUNNING, SUSPENDED, Phase
from pooling._outage import LONGEST_GAP, MOMENT
from pooling._upkeep import Upkeep
from pooling._waiter import WAITING, Turn, Waiter
from pooling.errors import PoolError
from pooling.events import Outlet
from pooling.stats import FOLD_AT

T = TypeVar("T")

SOON = 0.5  # seconds: longer than a release stays between two of its lines
CLOSERS = 32  # closes under way at once, late ones not counted: clear() of 10,000 must not start 10,000 threads
PATIENCE = 0.25  # seconds a check may take before a connection is opened beside it


class Fate(Enum):
    """What becomes of a connection when its lease ends."""

    CLEAN = "clean"
    DIRTY = "dirty"
    BROKEN = "broken"
    DEMOTED = "demoted"  # it is well, but leads to a server that is no longer the one to use
    DISCARDED = "discarded"
    DETACHED = "detached"


class Ledger(Upkeep[T]):
    """What callers, workers and the owner report, and what follows from it."""

    # -- what callers report ------------------------------------------------------------------------

    def join(self, waiter: Waiter[T]) -> None:
        """Somebody wants a connection. Also called again by one who waits already: it keeps its place."""
        # First the flags, then a look at idle (in _serve): a release that the look misses reads its flag after its
        # append, and comes to settle().
        self.roster.calm = self.plain[0] = False
        if waiter.turn is not WAITING:
            return
        newcomer = waiter.ticket < 0
        if self.phase is not RUNNING and (self.phase is CLOSED or (self.phase is Phase.DRAINING and newcomer)):
            waiter.fail(self._closed())
            return
        self.started = True
        if newcomer and self.outage.failures and self._known_down():
            self.outage.asked = True
            waiter.fail(self.outage.explain(self.name, self.now))
            return
        if newcomer and (not self.roster.idle or self.queue):
            if self.tally.outlets:
                self._emit("wait")
            if self.config.nested and self.nesting_at == math.inf:
                self._suspect_nesting()
        self.queue.join(waiter)
        if not newcomer:
            self._wake_forgotten()

    def _wake_forgotten(self) -> None:
        """The first in the queue may have been served, by somebody whom an exception struck before it was woken and
        taken out. Whoever looks again finds that out for all: in a long queue each looks seldom."""
        while (head := self.queue.head()) and head.turn is not WAITING:
            head.bell.ring()
            self.queue.remove(head)

    def exchange(self, taken: list[Token[T]], broken: bool, waiter: Waiter[T]) -> None:
        """Somebody took an idle connection that must not go out as it is, and wants whatever comes first.

        One step: reported apart, a check could be over before its caller joins, and would have been for nobody.
        The token comes in a list, which is emptied: the caller's frames may be kept by an exception.
        """
        if broken:
            self.found_broken(taken.pop(), None)
        else:
            self.bench(taken.pop())
        self.join(waiter)

    def leave(self, waiter: Waiter[T], *, expired: bool = False) -> None:
        """Somebody does not wait any longer; what was handed over before stays in its hands."""
        if waiter.turn is Turn.WAITING:
            waiter.turn = Turn.LEFT
            self.outage.asked = True
            if expired:
                self.tally.timeouts += 1
                self._emit("timeout", duration=self.now - waiter.started)
        self.queue.remove(waiter)
        self.claims.pop(waiter, None)

    def release(self, token: Token[T], fate: Fate, error: BaseException | None = None) -> None:
        """A lease ended in a way that the plain path does not cover."""
        entry = token.entry
        if not entry.owned_by(token):
            return  # it was reported as lost, and is being closed as that
        self._used(entry)
        self._emit("release", entry, duration=self.now - entry.since, reason=fate.value)
        if fate is Fate.DEMOTED and entry.epoch >= self.roster.cleared:
            self.clear()  # the first to say so speaks for all: a check would pass, and prove nothing
        if fate in (Fate.BROKEN, Fate.DEMOTED):
            self.found_broken(token, error)
            entry.thread = 0
            return
        entry.thread = 0
        if fate is Fate.CLEAN:
            self._put(token, used=True)
        elif fate is Fate.DIRTY and (reason := self._retirement(entry)):
            self.roster.doom(token, reason)
        elif fate is Fate.DIRTY:
            self._start(token, Stage.RESETTING)
        elif fate is Fate.DISCARDED:
            self.roster.doom(token, "discarded")
        else:
            self._free(entry, "detached")

    def found_broken(self, token: Token[T], error: BaseException | None) -> None:
        """A connection is broken: it is closed, and all that are as old become suspect."""
        if error is not None:
            self._fault(token.entry, error)
        if token.entry.epoch == self.roster.epoch:
            self.outage.doubt = True
            self.roster.next_epoch()
            if not self._checks:
                self._doom_suspects("stale")
        self.roster.doom(token, "broken")

    def renew(self, token: Token[T], waiter: Waiter[T]) -> None:
        """A lease wants a new connection in the place of its own, in the same slot and without a queue."""
        entry = token.entry
        if not entry.owned_by(token):
            waiter.fail(PoolError("the lease was lost before: whoever had it was collected as garbage"))
            return
        self._used(entry)
        self._emit("release", entry, duration=self.now - entry.since, reason=Fate.DISCARDED.value)
        if self.phase is Phase.CLOSED:
            waiter.fail(self._closed())
        else:
            entry.claimant = waiter
        self.roster.doom(token, "discarded")

    def reclaim(self, waiter: Waiter[T]) -> None:
        """A refresh waits for long. Where an exception has struck between the close of its old connection and the
        opening of its new one, nobody works for it any more: it waits in the queue then, like everybody else."""
        if waiter not in self.claims and all(entry.claimant is not waiter for entry in self.roster.entries):
            self.queue.join(waiter)

    def watch(self, done: Callable[[], bool], waiter: Waiter[T]) -> None:
        """Somebody waits for a state of the pool, not for a connection."""
        self.watchers.append((done, waiter))

    def warm(self, waiter: Waiter[T]) -> None:
        """Open what min_size asks for, one connection at least, before anybody needs it."""
        self.started = self._slow_start.demand = self.outage.asked = True
        opened = self.tally.opened
        self.watch(lambda: self._warmed(waiter, opened), waiter)

    def _warmed(self, waiter: Waiter[T], opened: int) -> bool:
        if self.phase in (Phase.DRAINING, Phase.CLOSED):
            return waiter.fail(self._closed())
        if self.outage.hopeless_for(waiter.started, self.now):
            return waiter.fail(self.outage.explain(self.name, self.now))
        self.outage.asked = True
        opening = len(self.roster.at[Stage.CONNECTING])
        # Where no idle one is kept, one that was opened has shown what there was to show.
        enough = self.roster.kept() - opening >= max(self.min_size, 1)
        enough = enough or (self.max_idle == 0 and self.tally.opened > opened)
        if not (enough or opening):
            self._slow_start.demand = True  # what was opened for it was retired at once: a clear() came in between
        return enough

    # -- what workers report ------------------------------------------------------------------------

    def connected(self, token: Token[T]) -> None:
        """A connect succeeded; the connection is on the entry."""
        entry = token.entry
        if not self._back(token):
            return
        if not self.roster.identify(entry):
            entry.empty()  # it belongs to the other entry: not ours to close
            self._refused(entry, PoolError("the factory returned a connection that is in the pool already"), True)
            return
        took = self.now - entry.began
        self.limits.opened(entry, self.now)
        self.tally.connected(took)
        self._emit("connect", entry, duration=took)
        self.outage.over()
        if len(self.queue) > 1:
            self._slow_start.widen()
        self._put(token, used=True)
        self._remind(entry)

    def not_connected(
        self, token: Token[T], error: BaseException, permanent: bool, pause: float | None = None
    ) -> None:
        """A connect failed; ``pause`` is how long the user wants it left alone."""
        if self._back(token):
            self._refused(token.entry, error, permanent, pause)

    def checked(self, token: Token[T], epoch: int) -> None:
        """A check passed that was begun in the given epoch."""
        if self._back(token):
            token.entry.epoch = max(epoch, token.entry.epoch)
            token.entry.checked_at = self.now
            self.outage.doubt = False
            self._put(token, used=False)

    def found_dead(self, token: Token[T], error: BaseException) -> None:
        """A check failed."""
        if self._back(token):
            self.found_broken(token, error)

    def cleaned(self, token: Token[T]) -> None:
        """A reset succeeded."""
        if self._back(token):
            self._put(token, used=True)

    def not_cleaned(self, token: Token[T], error: BaseException, broken: bool) -> None:
        """A reset failed."""
        if not self._back(token):
            return
        if broken:
            self.found_broken(token, error)
        else:
            self._fault(token.entry, error)
            self.roster.doom(token, "reset")

    def shut(self, token: Token[T], error: BaseException | None) -> None:
        """A close is over, one way or the other."""
        if error is not None:
            self._fault(token.entry, error)
        if self._back(token):
            self._free(token.entry, token.entry.reason)

    def queued(self) -> float:
        """Callers that wait for a connection to come back: those for whom one is being opened, or may be, are not
        meant."""
        room = 0 if self.outage or self.phase is not RUNNING else max(0, self.max_size - self._taken())
        return len(self.queue) - self._live(Stage.CONNECTING) - room

    def _taken(self) -> int:
        """Slots that are not free, those included that a refresh holds between two connections."""
        return len(self.roster.entries) + len(self.claims)

    # -- what the owner orders ----------------------------------------------------------------------

    def clear(self) -> None:
        """Retire every connection of today: the idle ones now, the others as they come back."""
        self._emit("clear")
        self.roster.next_epoch()
        self.roster.cleared = self.roster.epoch
        self._doom_suspects("stale")
        for entry in self.roster.entries:
            # A release that looked just before, and has not yet put its connection back, is found a little later.
            self._remind_at(entry, self.now + SOON)

    def resize(self, min_size: int, max_size: float) -> None:
        self.min_size, self.max_size = min_size, max_size
        self._emit("resize")

    def enter(self, phase: Phase) -> None:
        """Go to another phase; from CLOSED there is no way back, and from DRAINING only that one."""
        ending = self.phase in (Phase.DRAINING, Phase.CLOSED)
        if phase is self.phase or (ending and phase is not Phase.CLOSED):
            return
        self.phase = phase
        self.roster.calm = self.plain[0] = False  # before idle is emptied: what comes back from now on is settled
        self._emit("state", reason=phase.value)
        if phase is Phase.CLOSED:
            while waiter := self.queue.head():
                self._fail(waiter, self._closed())
            for entry in self.roster.entries:
                self._release_claim(entry, self._closed())
            self._refuse_claims(self._closed)
            self.roster.next_epoch()
            self._doom_suspects("pool")

    def inherit(self, parent: Ledger[T]) -> None:
        """In a forked child, before anybody uses these books: what the owner has ordered so far holds here too.

        Nobody of this process can finish the parent's drain(), so a pool that was draining is closed.
        """
        self.min_size, self.max_size = parent.min_size, parent.max_size
        self.phase = Phase.CLOSED if parent.phase is Phase.DRAINING else parent.phase
        self._heard_by(parent.tally.outlets)
        for outlet in self.tally.outlets:
            outlet.begin_anew()

    def listen(self, outlet: Outlet) -> None:
        """Tell a listener everything from now on."""
        self._heard_by((*self.tally.outlets, outlet))

    def ignore(self, outlet: Outlet) -> None:
        self._heard_by(tuple(known for known in self.tally.outlets if known is not outlet))

    def _heard_by(self, outlets: tuple[Outlet, ...]) -> None:
        self.tally.outlets = outlets
        for entry in self.roster.entries:
            self._let_back(entry)

    # -- deciding -----------------------------------------------------------------------------------

    # In a *steady* pool every connection that there may be is open, and until a known time nothing is to be decided but
    # who gets what comes back. There, with others in the queue, the two steps of a crowd are taken alone: the rest of
    # settle() would find nothing, with nearly half of a hand-over's calls (tests/core/test_budget.py counts them).

    def pass_on(self, now: float) -> bool:
        """What came back goes to whoever is next. False where settle() has to see to it, and to more."""
        roster = self.roster
        if now >= self.steady_until or self.inbox or self.outbox or roster.orphans:
            return False
        self.now = now
        self._serve()
        return bool(self.queue) and not roster.suspects and len(self.tally.uses.samples) < FOLD_AT

    def line_up(self, now: float, waiter: Waiter[T]) -> bool:
        """Somebody stands behind others. False where join() has to see to it: nobody stands there, a connection is
        idle, or nobody is going to look whether threads starve each other."""
        roster = self.roster
        if now >= self.steady_until or self.inbox or self.outbox or roster.orphans or roster.idle or roster.calm:
            return False
        if self.config.nested and self.nesting_at == math.inf:
            return False
        self.now = now
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
        # Who finds the first may acquire, and who finds the second may release, without a word to anybody.
        self.plain[0] = roster.calm = plain and not self.queue
        self.steady_until = self.alarm if plain and not self._is_busy() else -math.inf

    def _serve(self) -> None:
        """Hand idle connections to waiters, first come, first served."""
        while self.phase is not SUSPENDED and self.roster.idle and (waiter := self.queue.head()):
            try:
                token = self.roster.take()
            except IndexError:  # a caller on the plain path took the last one
                return
            entry = token.entry
            fresh = self.now - entry.since < self.limits.check_after or self._is_fresh(entry)
            if not fresh or self.now >= entry.expires_at or entry.epoch != self.roster.epoch:
                self.bench(token)
                continue
            if not self._hand(waiter, token):  # an exception came between serving this waiter and removing it
                self.roster.idle.append(token)
            self.queue.remove(waiter)
        if not self.queue:
            self._slow_start.restart()

    def _is_fresh(self, entry: Entry[T]) -> bool:
        # What was opened or checked in this very moment is good, be check_after 0.
        return entry.checked_at == self.now or self.limits.fresh(entry, self.now)

    def _give_up(self) -> None:
        """Fail those who wait for a server that has been away for too long."""
        at = self.outage.hopeless_at()
        if self.now < at:
            self._alarm(at)
            return
        while (waiter := self.queue.head()) and self.outage.hopeless_for(waiter.started, self.now):
            self.outage.asked = True
            self._fail(waiter, self.outage.explain(self.name, self.now))

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

    def _known_down(self) -> bool:
        """Whether a newcomer can be told at once that the server is away: somebody is finding out anyway, or
        has found out just now. Otherwise the newcomer's own try decides."""
        outage = self.outage
        if self.now < outage.hopeless_at():
            return False
        return outage.asked or self.now < outage.next_try or bool(self._live(Stage.CONNECTING))

    def _shrink(self) -> None:
        """Retire what came back to a closed pool, or to one that has shrunk, before anybody is served with it."""
        reason = "pool" if self.phase is Phase.CLOSED else "surplus"
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
        if self.phase is Phase.SUSPENDED:
            return
        wanted = min(max(len(self.queue), 1), self.config.max_connecting)
        while self.roster.suspects and self._live(Stage.CHECKING) < wanted:
            token = self.roster.suspects.pop()
            thorough = token.entry.epoch != self.roster.epoch or self.config.check == "ping"
            self._start(token, Stage.CHECKING, thorough=thorough)

    def _close_some(self) -> None:
        while self.roster.doomed and self._live(Stage.CLOSING) < CLOSERS:
            self._start(self.roster.doomed.popleft(), Stage.CLOSING)

    def _open_claimed(self) -> None:
        """Open for refreshes, each in the slot that it has, be the pool suspended or shrunken."""
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
        if self.outage:
            goal = self._probe(asked=waiting > 0 or shortage > 0)
        else:
            coming, opening = self._coming() if waiting else 0, self._live(Stage.CONNECTING)
            goal = self._slow_start.goal(waiting=waiting, coming=coming, opening=opening, shortage=shortage)
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

    def _is_plain(self) -> bool:
        size = len(self.roster.entries)
        return (
            self.phase is RUNNING
            and not self.tally.outlets
            and size <= self.max_size
            and size <= self.max_idle
        )

    def _is_busy(self) -> bool:
        """Whether there is more to be decided than who gets which connection."""
        roster = self.roster
        unfinished = roster.suspects or roster.doomed or self.watchers or self.outage.failures or self.claims
        return bool(unfinished) or len(roster.entries) < self.max_size
