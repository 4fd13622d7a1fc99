"""The moves that a connection makes through the pool, each written once.

The state of the ledger and its single steps: put back, hand over, start a job, free a slot. What calls for them,
and what follows, is in upkeep.py, settling.py and ledger.py.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pooling._ledger.demotion import Demotion
from pooling._ledger.entry import Entry, Stage, Token, TokenRef
from pooling._ledger.jobs import Job, Stuck
from pooling._ledger.limits import Limits
from pooling._ledger.nesting import Nesting
from pooling._ledger.notice import Notice
from pooling._ledger.outage import Outage
from pooling._ledger.phase import Phase
from pooling._ledger.queue import SERVED, WAITING, Turn, Waiter, WaitQueue
from pooling._ledger.roster import Roster
from pooling._ledger.slow_start import SlowStart
from pooling._ledger.tally import Tally
from pooling.config import Config
from pooling.errors import PoolClosed, PoolError
from pooling.events import EventKind, Outlet
from pooling.stats import CloseReason

if TYPE_CHECKING:
    from pooling._runtime.fork import Flag

T = TypeVar("T")

SOON = 0.5  # seconds: longer than a release stays between two of its lines


class Moves(Generic[T]):
    """The state of one pool's books. ``now`` is the time of the transition under way."""

    def __init__(
        self, name: str, config: Config, plain: Flag, wake: Callable[[Any], None], *, checks: bool = True
    ) -> None:
        self.name = name
        self.config = config
        self.plain = plain
        self.min_size = config.min_size
        self.max_size = math.inf if config.max_size is None else config.max_size
        self.max_idle = math.inf if config.max_idle is None else config.max_idle
        self.limits = Limits(config)
        self.now = 0.0
        self.alarm = math.inf  # when settle() has to be called at the latest
        self.steady_until = -math.inf  # see Settling.pass_on()
        self.phase = Phase.RUNNING
        self.nesting = Nesting(config.nested)
        self.unsure = False  # whether there may be suspects that were merely unused for long
        self.started = False  # whether anybody asked for a connection yet; before that none is opened
        self.roster: Roster[T] = Roster(config, wake)
        self.queue: WaitQueue[T] = WaitQueue()
        self.claims: dict[Waiter[T], None] = {}  # refreshes whose old connection is closed, the new one not begun
        self.outage = Outage(config)
        self.demotion = Demotion()
        self.tally = Tally(name)
        self.watchers: list[tuple[Callable[[], bool], Waiter[T]]] = []
        self.inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.outbox: deque[Job | Waiter[T] | Outlet | Notice | Stuck] = deque()
        self._checks = checks
        self._struck = False  # whether a connect was lost to an exception, and none has succeeded since
        self._slow_start = SlowStart(config.max_connecting)

    def _let_back(self, entry: Entry[T]) -> None:
        """Decide until when a connection may be taken and put back without a word to the ledger."""
        old = entry.epoch != self.roster.epoch or entry.stage is Stage.CLOSING
        told = old or self.tally.outlets or entry.uses >= self.limits.uses
        entry.plain_until = -math.inf if told else entry.expires_at

    def _put(self, token: Token[T], *, used: bool) -> None:
        """Where everything that was opened, checked, reset or released ends: it goes to whoever claimed it,
        or becomes idle for :meth:`_serve`, or is retired."""
        entry = token.entry
        entry.stage, entry.thread = Stage.OPEN, 0
        if used:
            entry.since = self.now
        if reason := self._retirement(entry):
            self.roster.doom(token, reason)
            return
        if entry.epoch != self.roster.epoch:  # also one that was claimed: it may be older than what broke
            self.bench(token)
            return
        self._let_back(entry)
        claimant, entry.claimant = entry.claimant, None
        if claimant is not None and self._hand(claimant, token):
            return
        if used:
            self.roster.idle.append(token)
        else:
            self.roster.put_back(token)

    def bench(self, token: Token[T], *, behind: bool = False) -> None:
        """A token was taken from idle whose connection must not go out as it is. It is the next to be checked, or one
        ``behind`` those that were taken before."""
        entry = token.entry
        if reason := self._retirement(entry):
            self.roster.doom(token, reason)
        elif entry.epoch != self.roster.epoch and not self._checks:
            self.roster.doom(token, "stale")
        else:
            self.unsure = self.unsure or entry.epoch == self.roster.epoch
            (self.roster.suspects.appendleft if behind else self.roster.suspects.append)(token)

    def _retirement(self, entry: Entry[T]) -> CloseReason | None:
        """Why a connection must not be used again, or None."""
        if self.phase is Phase.CLOSED:
            return "pool"
        if entry.epoch < self.roster.cleared:
            return "stale"
        if self.now >= entry.expires_at:
            return "lifetime"
        if entry.uses >= self.limits.uses:
            return "uses"
        # A claimed one counts as a lease that is out.
        return "surplus" if self.roster.kept() > self.max_size and entry.claimant is None else None

    def _hand(self, waiter: Waiter[T], token: Token[T]) -> bool:
        """Give a token to a waiter, unless it has left."""
        if waiter.turn is not WAITING:
            waiter.bell.ring()  # as in _wake_forgotten()
            return False
        self.nesting.handed += 1
        entry, now = token.entry, self.now
        entry.uses += 1
        entry.since = now
        entry.thread, entry.code, entry.instruction = waiter.thread, waiter.code, waiter.instruction
        if entry.uses >= self.limits.uses:
            entry.plain_until = -math.inf
        tally = self.tally
        tally.waits.samples.append(now - waiter.started)
        if self.outage.failures:
            self.outage.served(self.now)
        if tally.outlets:
            self._emit("acquire", entry, duration=now - waiter.started)
        # Its thread may use what it has got from now on, and is woken at once: it takes longer to come than whoever
        # serves it for what is left to do.
        waiter.token, waiter.turn = token, SERVED  # one statement: it is never struck having the one without the other
        waiter.bell.ring()
        return True

    def _fail(self, waiter: Waiter[T], error: BaseException) -> None:
        # First out of the queue: one that an exception leaves waiting looks again by itself, and joins anew. One who
        # was told of the end never comes back, and would stand there for ever.
        self.queue.remove(waiter)
        waiter.fail(error)
        self.outbox.append(waiter)

    def _taken(self) -> int:
        """Slots that are not free, those included that a refresh holds between two connections."""
        return len(self.roster.entries) + len(self.claims)

    def _open(self, claimant: Waiter[T] | None = None) -> None:
        token = self.roster.add(self.now)
        token.entry.claimant = claimant
        self._start(token, Stage.CONNECTING)

    def _start(self, token: Token[T], stage: Stage, *, thorough: bool = True) -> None:
        """Give a job out, and look in time whether it came back."""
        timeout = self.config.connect_timeout
        if self.outage and stage is Stage.CONNECTING:
            timeout = self.outage.time_for_a_try(self.now, timeout)
        self.roster.start(token.entry, stage, self.now, timeout)
        self.outbox.append(Job(token, stage, timeout, self.roster.epoch, thorough))
        self._alarm(self.now + timeout)

    def begin(self, job: Job, now: float) -> None:
        """A job is begun that may have lain for long: inline, until somebody came by to do it."""
        job.token.entry.began = now
        self._alarm(now + job.timeout)

    def _back(self, token: Token[T]) -> bool:
        """A job is over. False where it had been written off: what it brings is closed beside the books."""
        entry = token.entry
        if self.roster.back(entry):
            return True
        if entry in self.roster.hung:
            del self.roster.hung[entry]
            if entry.connection is not None:
                timeout = self.config.connect_timeout
                self.outbox.append(Job(token, Stage.CLOSING, timeout, self.roster.epoch))
        return False

    def _refused(
        self, entry: Entry[T], error: BaseException, *, permanent: bool = False, pause: float | None = None
    ) -> None:
        """A connect brought nothing."""
        self._fault(entry, error)
        self._slow_start.restart()
        alone = self.roster.kept() - len(self.roster.at[Stage.CONNECTING]) <= 1  # the entry itself
        self.outage.failed(self.now, error, permanent=permanent, began=entry.began, alone=alone, pause=pause)
        self._free(entry, None)  # a refresh that it was for is among the claims then
        self._refuse_claims(lambda: self.outage.explain(self.name, self.now))

    def _free(self, entry: Entry[T], reason: CloseReason | None) -> None:
        """Forget a slot; ``reason`` is why its connection was closed, None where there was none."""
        if not self.roster.remove(entry):
            return
        if reason:
            self.tally.closed[reason] += 1
            self._emit("close", entry, duration=self.now - entry.opened_at, reason=reason)
        if reason == "detached":  # the agenda may remember the entry for a while: its connection is not to live longer
            entry.empty()
        claimant, entry.claimant = entry.claimant, None
        if claimant is not None and claimant.turn is Turn.WAITING:
            self.claims[claimant] = None
        if self.queue:  # perhaps a pool that shrinks has lost the one that could have been given back
            self._suspect_nesting()

    def _release_claim(self, entry: Entry[T], error: BaseException) -> None:
        """Whoever claimed an entry's connection will not get it."""
        claimant, entry.claimant = entry.claimant, None
        if claimant is not None:
            self._fail(claimant, error)

    def _refuse_claims(self, error: Callable[[], BaseException]) -> None:
        """Whoever waits in a slot of his own for a connect to begin will not get one."""
        for waiter in tuple(self.claims):
            self._fail(waiter, error())
        self.claims.clear()

    def _suspect_nesting(self) -> None:
        """Somebody waits: look a little later whether he can be served at all."""
        if self.nesting.mode and self.nesting.look_at == math.inf:
            self._alarm(self.nesting.suspect(self.now))

    def _closed(self) -> PoolClosed:
        return PoolClosed(f"pool {self.name!r} is {self.phase.value}")

    def _adopt(self, orphan: TokenRef) -> None:
        """A token died: whoever held it was lost. The connection is not trusted any more."""
        entry: Entry[T] | None = getattr(orphan, "entry", None)
        if entry is None:
            return  # it was struck while it was made: the entry's old reference is an orphan as well
        if entry.refs is None or entry.refs[1]() is not None:
            return  # it has a new token already
        if entry in self.roster.hung:
            self._back(self.roster.mint(entry))  # a job that was written off will not come back either
            return
        if entry not in self.roster.entries:
            return
        if entry.stage is Stage.OPEN and entry.thread:
            self._used(entry)
            self._leaked(entry, "a lease was dropped without release()", "dropped")
        token = self.roster.mint(entry)
        self.roster.back(entry)
        entry.thread, entry.plain_until = 0, -math.inf  # should a destructor still release what was lost
        if entry.connection is None and entry.stage is Stage.CONNECTING:
            error = PoolError("the worker that was to connect was struck by an exception")
            # From the second on with a pause, as after any connect that failed: what has struck its worker may strike
            # the next one. The first one says nothing of the server: it may have struck whoever gave the job out, and
            # is nothing to others.
            if self._struck:
                self._refused(entry, error)
            else:
                self._struck = True
                self._fault(entry, error)
                self._free(entry, None)
        elif entry.connection is None:
            self._free(entry, entry.reason)  # closed already
        else:
            self.roster.doom(token, entry.reason or "dropped")

    def _used(self, entry: Entry[T]) -> float:
        """A lease has ended: this is what counts it; returns how long it was used. It may have begun after the
        transition that takes its end in: in a destructor or signal handler that has struck there, or on the plain path,
        to be lost at once."""
        used = max(self.now - entry.since, 0.0)
        self.tally.uses.samples.append(used)
        return used

    def _leaked(self, entry: Entry[T], what: str, reason: CloseReason | None = None) -> None:
        self.tally.leaks += 1
        self._emit("leak", entry, duration=max(self.now - entry.since, 0.0), reason=reason)
        self.outbox.append(Notice(what, (entry.hold(),), self.now))

    def _retire_all(self) -> None:
        """Retire every connection of today: the idle ones now, the others as they come back."""
        self._emit("clear")
        before = self.roster.cleared
        self.roster.next_epoch()
        self.roster.cleared = self.roster.epoch
        self._doom_suspects("stale")
        for entry in self.roster.entries:
            # A release that looked just before, and has not yet put its connection back, is found a little later. (One
            # that looked since the clear before this one knows.)
            if entry.epoch >= before:
                self._remind_at(entry, self.now + SOON, also=True)

    def _doom_suspects(self, reason: CloseReason) -> None:
        while self.roster.suspects:
            self.roster.doom(self.roster.suspects.popleft(), reason)

    def _live(self, stage: Stage) -> int:
        return self.roster.live(stage, self.now)

    def _fault(self, entry: Entry[T], error: BaseException) -> None:
        doing = "use" if entry.stage is Stage.OPEN else entry.stage.value
        self.tally.errors[doing] += 1
        self._emit("error", entry, reason=doing, error=error)

    def _emit(self, kind: EventKind, entry: Entry[T] | None = None, **details: Any) -> None:
        if self.tally.outlets:
            self.tally.emit(kind, self.now, entry, **details)

    def _emit_state(self) -> None:
        if self.tally.state != self.outage.state:
            self.tally.state = self.outage.state
            self._emit("state", reason=self.tally.state)

    def _remind(self, entry: Entry[T]) -> None:
        self._remind_at(entry, self.limits.next_look(entry, self.now))

    def _remind_at(self, entry: Entry[T], when: float, *, also: bool = False) -> None:
        self.roster.remind(entry, when, also=also)
        self._alarm(when)

    def _alarm(self, when: float) -> None:
        self.alarm = min(self.alarm, when)
