"""What is reported to a pool's books: by callers, by workers, by the owner."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from pooling._ledger.entry import Stage, Token
from pooling._ledger.phase import CLOSED, RUNNING, SUSPENDED, Phase
from pooling._ledger.queue import WAITING, Turn, Waiter
from pooling._ledger.roster import NONE
from pooling._ledger.settling import Settling
from pooling.errors import PoolError
from pooling.events import Outlet

T = TypeVar("T")


class Fate(Enum):
    """What becomes of a connection when its lease ends."""

    CLEAN = "clean"
    DIRTY = "dirty"
    BROKEN = "broken"
    DEMOTED = "demoted"  # it is well, but leads to a server that is no longer the one to use
    DISCARDED = "discarded"
    DETACHED = "detached"


class Ledger(Settling[T]):
    """The books of one pool. Each method here is a transition: one thing that somebody reports."""

    # -- what callers report ------------------------------------------------------------------------

    def join(self, waiter: Waiter[T]) -> None:
        """Somebody wants a connection. Also called again by one who waits already: it keeps its place."""
        # First these, then a look at idle (in _serve): a release that the look misses takes its one after its append,
        # finds none, and comes to settle().
        self.roster.plain_releases, self.plain[0] = NONE, False
        if waiter.turn is not WAITING:
            return
        newcomer = waiter.ticket < 0
        if self.phase is not RUNNING and (self.phase is CLOSED or (self.phase is Phase.DRAINING and newcomer)):
            self._fail(waiter, self._closed())  # out of the queue as well: a close that was struck has left it there
            return
        self.started = True
        if newcomer and self.outage.failures and self._known_down():
            self.outage.asked = True
            waiter.fail(self.outage.explain(self.name, self.now))
            return
        if newcomer and (not self.roster.idle or self.queue):
            if self.tally.outlets:
                self._emit("wait")
            self._suspect_nesting()
        self.queue.join(waiter)
        if not newcomer:
            self._wake_forgotten()
            self.find_unreported()

    def _known_down(self) -> bool:
        """Whether a newcomer can be told at once that the server is away: somebody is finding out anyway, or
        has found out just now. Otherwise the newcomer's own try decides."""
        outage = self.outage
        if self.phase is SUSPENDED or self.now < outage.hopeless_at():
            return False
        return outage.asked or self.now < outage.next_try or bool(self._live(Stage.CONNECTING))

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

    def offer(self, taken: list[Token[T]], waiter: Waiter[T]) -> None:
        """Somebody took an idle connection to look at it, found that it may go out, and wants whatever comes first:
        this one, where nobody has come to wait meanwhile. The token comes in a list, as in exchange()."""
        entry = taken[0].entry
        if not self.limits.fresh(entry, self.now):
            entry.checked_at = self.now
        if reason := self._retirement(entry):
            self.roster.doom(taken.pop(), reason)
        else:
            self.roster.give_back(taken.pop())
        self.join(waiter)

    def leave(self, waiter: Waiter[T], *, expired: bool = False) -> None:
        """Somebody does not wait any longer; what was handed over before stays in its hands."""
        if waiter.turn is Turn.WAITING:
            waiter.turn = Turn.LEFT
            self.outage.asked = True
            if expired and all(known is not waiter for _, known in self.watchers):  # an order is no acquire
                self.tally.timeouts += 1
                self._emit("timeout", duration=self.now - waiter.started)
        self.queue.remove(waiter)
        self.claims.pop(waiter, None)

    def release(self, token: Token[T], fate: Fate, error: BaseException | None = None) -> None:
        """A lease ended in a way that the plain path does not cover."""
        entry = token.entry
        if not entry.owned_by(token):
            return  # it was reported as lost, and is being closed as that
        self._emit("release", entry, duration=self._used(entry), reason=fate.value)
        if fate is Fate.DEMOTED:
            if entry.epoch >= self.roster.cleared:
                self._heed_demotion()
            self._lost(token, error)
        elif fate is Fate.BROKEN:
            self.found_broken(token, error)
        entry.thread = 0  # not before: what has been told of the error names who held it
        if fate is Fate.CLEAN:
            self._put(token, used=True)
        elif fate is Fate.DIRTY and (reason := self._retirement(entry)):
            self.roster.doom(token, reason)
        elif fate is Fate.DIRTY:
            self._start(token, Stage.RESETTING)
        elif fate is Fate.DISCARDED:
            self.roster.doom(token, "discarded")
        elif fate is Fate.DETACHED:
            self._free(entry, "detached")

    def found_broken(self, token: Token[T], error: BaseException | None) -> None:
        """A connection is broken: it is closed, and all that are as old become suspect."""
        if token.entry.epoch == self.roster.epoch:
            self.outage.doubt = True
            self.roster.next_epoch()
            if not self._checks:
                self._doom_suspects("stale")
        self._lost(token, error)

    def _lost(self, token: Token[T], error: BaseException | None) -> None:
        if error is not None:
            self._fault(token.entry, error)
        self.roster.doom(token, "broken")

    def _heed_demotion(self) -> None:
        """A connection leads to a server that is no longer the one to use, as do the others: they are retired with it,
        or at the end of a pause where that has just been done for the same."""
        if self.demotion.heard(self.now):
            self._retire_all()
        else:
            self._alarm(self.demotion.due_at)

    def renew(self, given: list[Token[T]], waiter: Waiter[T]) -> None:
        """A lease wants a new connection in the place of its own, in the same slot and without a queue. The token comes
        in a list, as in exchange()."""
        token = given.pop()
        entry = token.entry
        if not entry.owned_by(token):
            waiter.fail(PoolError("the lease was lost before: whoever had it was collected as garbage"))
            return
        self._emit("release", entry, duration=self._used(entry), reason=Fate.DISCARDED.value)
        if self.phase is Phase.CLOSED:
            waiter.fail(self._closed())
        else:
            entry.claimant = waiter
        self.roster.doom(token, "discarded")

    def reclaim(self, waiter: Waiter[T]) -> None:
        """A refresh waits for long. Where an exception has struck between the close of its old connection and the
        opening of its new one, nobody works for it any more: it waits in the queue then, like everybody else. Where one
        has struck the close, nobody has told it of that."""
        if waiter.turn is not WAITING:
            return
        if self.phase is CLOSED:
            self.claims.pop(waiter, None)
            self._fail(waiter, self._closed())
        elif waiter not in self.claims and all(entry.claimant is not waiter for entry in self.roster.entries):
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
        if self._is_hopeless(waiter):
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
            self._refused(
                entry, PoolError("the factory returned a connection that is in the pool already"), permanent=True
            )
            return
        took = self.now - entry.began
        self.limits.opened(entry, self.now)
        self.tally.connected(took)
        self._emit("connect", entry, duration=took)
        self.outage.over()
        self._struck = False
        if len(self.queue) > 1:
            self._slow_start.widen()
        self._put(token, used=True)
        self._remind(entry)

    def not_connected(self, token: Token[T], error: BaseException, permanent: bool, pause: float | None = None) -> None:
        """A connect failed; ``pause`` is how long the user wants it left alone."""
        if self._back(token):
            self._refused(token.entry, error, permanent=permanent, pause=pause)

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
        """Callers that wait for others to give a connection back: not those for whom a worker opens, checks or resets
        one, or for whom one may be opened, be it in the place of one that is being closed."""
        late = self.roster.late(self.now) if self.config.workers == "inline" else 0  # who comes by sees to those first
        coming = sum(map(self._live, (Stage.CONNECTING, Stage.CHECKING, Stage.RESETTING))) + late
        room = max(0, self.max_size - self._taken() + self._live(Stage.CLOSING))
        return len(self.queue) - coming - (0 if self.outage or self.phase is not RUNNING else room)

    # -- what the owner orders ----------------------------------------------------------------------

    def clear(self) -> None:
        """Retire every connection of today: the idle ones now, the others as they come back."""
        self._retire_all()

    def resize(self, min_size: int | None, max_size: float | None) -> None:
        """What is None stays as it is."""
        if max_size is not None:
            self.max_size = max_size
        # Of two orders at once each was looked at without the other: where they contradict each other, the cap holds.
        self.min_size = int(min(self.min_size if min_size is None else min_size, self.max_size))
        self._emit("resize")

    def enter(self, phase: Phase) -> None:
        """Go to another phase; from CLOSED there is no way back, and from DRAINING only that one."""
        ending = self.phase in (Phase.DRAINING, Phase.CLOSED)
        if phase is self.phase or (ending and phase is not Phase.CLOSED):
            return
        if self.phase is SUSPENDED:
            self.outage.resumed(self.now)
        self.phase = phase
        # Before idle is emptied: what comes back from now on is settled.
        self.roster.plain_releases, self.plain[0] = NONE, False
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
        if outlet in self.tally.outlets:
            self.tally.lost += outlet.lost  # what it has missed stays counted: no counter ever goes down
            self._heard_by(tuple(known for known in self.tally.outlets if known is not outlet))

    def _heard_by(self, outlets: tuple[Outlet, ...]) -> None:
        self.tally.outlets = outlets
        for entry in self.roster.entries:
            self._let_back(entry)
