"""The ledger alone, driven by Hypothesis: every invariant of its head is checked after every step."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pooling._ledger.entry import Stage, Token
from pooling._ledger.jobs import Job
from pooling._ledger.ledger import Fate, Ledger
from pooling._ledger.phase import Phase
from pooling._ledger.queue import Turn, Waiter
from pooling._report import snapshot
from pooling._runtime.bell import Bell
from pooling.config import Config
from pooling.errors import ConnectError, PoolClosed

SIZES = st.integers(1, 4)


class LedgerMachine(RuleBasedStateMachine):
    """Plays callers and workers. Tokens that a pool would have outside the ledger are in ``leases`` and ``jobs``."""

    @initialize(
        max_size=SIZES,
        min_size=st.integers(0, 2),
        max_idle=st.none() | SIZES,
        max_uses=st.none() | st.integers(1, 3),
        order=st.sampled_from(["lifo", "fifo"]),
        check=st.sampled_from(["peek", "ping", None]),
        check_after=st.sampled_from([0.0, 0.5]),
        checks=st.booleans(),
        keepalive=st.none() | st.just(5.0),
        max_connecting=st.integers(1, 3),
    )
    def start(self, checks: bool, max_size: int, min_size: int, max_idle: int | None, **options: Any) -> None:
        min_size = min(min_size, max_size, max_size if max_idle is None else max_idle)
        if not checks:
            options.update(keepalive=None, check="peek" if options["check"] == "ping" else options["check"])
        config = Config(
            max_size=max_size, min_size=min_size, max_idle=max_idle, idle_timeout=20.0, max_lifetime=60.0,
            leak_after=9.0, connect_timeout=3.0, **options,
        )  # fmt: skip  # one row of what is fixed
        self.plain = bytearray(1)
        self.ledger: Ledger[Any] = Ledger("machine", config, self.plain, lambda _: None, checks=checks)
        self.roster = self.ledger.roster
        self.now = 100.0
        self.leases: list[Token[Any]] = []
        self.jobs: list[Job] = []
        self.waiters: list[Waiter[Any]] = []
        self.shrunk = False
        self.claims: list[Waiter[Any]] = []  # of refreshes: outside the queue and its order
        self.refreshed = False

    # -- what happens --------------------------------------------------------------------------------

    def settle(self, *report: Any, passing_on: bool = False) -> None:
        before = [waiter for waiter in self.waiters if waiter.turn is Turn.WAITING]
        if not passing_on or not self.ledger.pass_on(self.now):  # as Pool._pass_on() does it
            self.ledger.settle(self.now, *report)
        served = [waiter for waiter in before if waiter.turn is Turn.SERVED]
        left = [waiter for waiter in before if waiter.turn is Turn.WAITING]
        for first in served:
            for other in left:
                assert (first.key, first.ticket) < (other.key, other.ticket), "somebody was overtaken"
        while self.ledger.outbox:
            item = self.ledger.outbox.popleft()
            if isinstance(item, Job):
                self.jobs.append(item)
        for waiter in self.waiters + self.claims:
            if waiter.turn is Turn.SERVED:
                assert waiter.token is not None
                self.leases.append(waiter.token)
                waiter.token = None
            elif waiter.turn is Turn.FAILED:
                assert isinstance(waiter.error, (ConnectError, PoolClosed))
        self.waiters = [waiter for waiter in self.waiters if waiter.turn is Turn.WAITING]
        self.claims = [waiter for waiter in self.claims if waiter.turn is Turn.WAITING]

    @rule(priority=st.sampled_from([0.0, 0.0, 0.0, -5.0, 5.0]))
    def acquire_in_the_queue(self, priority: float) -> None:
        waiter: Waiter[Any] = Waiter(Bell(), self.now, 30.0, priority, 7)
        self.waiters.append(waiter)
        if not self.ledger.line_up(waiter):  # as Pool._wait() does it
            self.settle(self.ledger.join, waiter)

    @rule()
    def acquire_on_the_plain_path(self) -> None:
        if not self.plain[0] or not self.roster.idle:
            return
        token = self.roster.take()
        entry = token.entry
        if self.ledger.limits.fresh(entry, self.now) and self.now < entry.plain_until:
            assert entry.epoch == self.roster.epoch, "a connection of an old epoch goes out unchecked"
            entry.uses += 1
            entry.since, entry.thread = self.now, 7
            if entry.uses >= self.ledger.limits.uses:
                entry.plain_until = -math.inf
            self.leases.append(token)
        else:
            self.settle(self.ledger.bench, token)

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 9))
    def release_on_the_plain_path(self, which: int) -> None:
        token = self.leases[which % len(self.leases)]
        entry = token.entry
        if self.now >= entry.plain_until:
            return
        self.leases.remove(token)
        self.ledger.tally.uses.samples.append(self.now - entry.since)
        entry.since, entry.thread = self.now, 0
        self.roster.idle.append(token)
        del token
        if next(self.roster.plain_releases, self) is self:
            self.settle(passing_on=True)

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 9), fate=st.sampled_from(Fate))
    def release_in_another_way(self, which: int, fate: Fate) -> None:
        token = self.leases.pop(which % len(self.leases))
        self.settle(self.ledger.release, token, fate, OSError() if fate in (Fate.BROKEN, Fate.DEMOTED) else None)

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 9))
    def refresh(self, which: int) -> None:
        token = self.leases.pop(which % len(self.leases))
        waiter: Waiter[Any] = Waiter(Bell(), self.now, 30.0, -1000.0, 7)
        self.claims.append(waiter)
        self.refreshed = True
        self.settle(self.ledger.renew, [token], waiter)

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 9))
    def drop_a_lease(self, which: int) -> None:
        del self.leases[which % len(self.leases)]
        self.settle()

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 9))
    def drop_a_job(self, which: int) -> None:
        del self.jobs[which % len(self.jobs)]
        self.settle()

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 9), outcome=st.sampled_from(["ok", "ok", "error", "permanent"]))
    def finish_a_job(self, which: int, outcome: str) -> None:
        token, stage, _, epoch, _ = self.jobs.pop(which % len(self.jobs))
        entry, ledger, error = token.entry, self.ledger, OSError("no")
        if stage is Stage.CONNECTING:
            if outcome == "ok":
                entry.connection = object()
                self.settle(ledger.connected, token)
            else:
                self.settle(ledger.not_connected, token, error, outcome == "permanent")
        elif stage is Stage.CHECKING:
            self.settle(*((ledger.checked, token, epoch) if outcome == "ok" else (ledger.found_dead, token, error)))
        elif stage is Stage.RESETTING:
            broken = outcome == "permanent"
            self.settle(*((ledger.cleaned, token) if outcome == "ok" else (ledger.not_cleaned, token, error, broken)))
        else:
            entry.connection = None
            self.settle(ledger.shut, token, None if outcome == "ok" else error)

    @precondition(lambda self: self.waiters or self.claims)
    @rule(which=st.integers(0, 9), expired=st.booleans())
    def leave(self, which: int, expired: bool) -> None:
        waiting = self.waiters + self.claims
        waiter = waiting[which % len(waiting)]
        self.ledger.now = self.now
        self.ledger.leave(waiter, expired=expired)
        self.settle()

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 3.0, 7.0, 21.0, 61.0]))
    def let_time_pass(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(1000):
            if self.ledger.alarm > until:
                break
            self.now = max(self.now, self.ledger.alarm)
            self.settle()
        else:
            raise AssertionError("the alarm never comes to rest")
        self.now = until

    @rule()
    def clear(self) -> None:
        self.settle(self.ledger.clear)

    @rule(max_size=SIZES)
    def resize(self, max_size: int) -> None:
        self.shrunk = self.shrunk or max_size < self.ledger.max_size
        self.settle(self.ledger.resize, min(self.ledger.min_size, max_size), max_size)

    @rule(phase=st.sampled_from([Phase.SUSPENDED, Phase.RUNNING, Phase.RUNNING]))
    def suspend_or_resume(self, phase: Phase) -> None:
        if self.ledger.phase in (Phase.RUNNING, Phase.SUSPENDED):
            self.settle(self.ledger.enter, phase)

    @rule(chance=st.integers(0, 30))
    def close(self, chance: int) -> None:
        if chance == 0:
            self.settle(self.ledger.enter, Phase.CLOSED)

    # -- what must hold ------------------------------------------------------------------------------

    @invariant()
    def each_entry_has_one_token_in_one_place(self) -> None:
        if not hasattr(self, "ledger"):
            return
        inside = [*self.roster.idle, *self.roster.suspects, *self.roster.doomed]
        # A job of an entry that is gone was written off, or closes what such a one brought late.
        outside = [job.token for job in self.jobs if job.token.entry in self.roster.entries]
        tokens = [*inside, *outside, *self.leases]
        owners = [token.entry for token in tokens]
        assert len(set(map(id, tokens))) == len(tokens), "a token in two places"
        assert sorted(map(id, owners)) == sorted(map(id, self.roster.entries)), "an entry without its token"
        for token in tokens:
            assert token.entry.refs is not None
            assert token.entry.refs[1]() is token, "a token that nobody watches"

    @invariant()
    def never_above_max_size(self) -> None:
        if hasattr(self, "ledger") and not self.shrunk:
            assert len(self.roster.entries) <= self.ledger.max_size

    @invariant()
    def nobody_waits_beside_an_idle_connection(self) -> None:
        if hasattr(self, "ledger") and self.ledger.phase is not Phase.SUSPENDED and self.ledger.queue:
            assert not self.roster.idle

    @invariant()
    def somebody_works_for_those_who_wait(self) -> None:
        """No lost wake-up: whoever waits has a lease, a job, or the alarm to hope for."""
        if hasattr(self, "ledger") and self.ledger.phase is not Phase.SUSPENDED and self.ledger.queue:
            assert self.leases or self.jobs or self.ledger.alarm < math.inf

    @invariant()
    def what_has_to_be_looked_at_or_closed_is_not_left_lying(self) -> None:
        if hasattr(self, "ledger") and self.ledger.phase is not Phase.SUSPENDED:
            assert self.roster.at[Stage.CHECKING] or not self.roster.suspects
            assert self.roster.at[Stage.CLOSING] or not self.roster.doomed

    @invariant()
    def opening_is_limited(self) -> None:
        if hasattr(self, "ledger") and not self.refreshed:
            assert self.roster.live(Stage.CONNECTING, self.now) <= self.ledger.config.max_connecting

    @invariant()
    def the_plain_path_is_open_only_when_all_is_plain(self) -> None:
        if hasattr(self, "ledger") and self.plain[0]:
            assert self.ledger.phase is Phase.RUNNING
            assert not self.ledger.queue
            assert len(self.roster.entries) <= self.ledger.max_size
            assert len(self.roster.idle) <= self.ledger.max_idle

    @invariant()
    def what_is_of_an_old_epoch_is_neither_taken_nor_put_back_plainly(self) -> None:
        for entry in self.roster.entries if hasattr(self, "ledger") else ():
            assert entry.plain_until <= max(entry.expires_at, entry.opened_at)
            if entry.epoch != self.roster.epoch:
                assert entry.plain_until == -math.inf

    @invariant()
    def the_numbers_add_up(self) -> None:
        if hasattr(self, "ledger"):
            stats = snapshot(self.ledger, self.now)
            assert stats.size == stats.idle + stats.leased + stats.connecting + stats.busy + stats.closing
            assert stats.leased == len(self.leases)
            assert stats.acquired == stats.released + stats.leased
            assert stats.waiting == len(self.waiters)

    def teardown(self) -> None:
        """Closed, and with everything brought back, the ledger is empty."""
        if not hasattr(self, "ledger"):
            return
        self.settle(self.ledger.enter, Phase.CLOSED)
        assert not self.waiters
        assert not self.claims
        for _ in range(200):
            while self.leases:
                self.settle(self.ledger.release, self.leases.pop(), Fate.CLEAN)
            if not self.jobs:
                break
            self.finish_a_job(0, "ok")
        assert not self.roster.entries
        assert not self.roster.hung
        assert self.ledger.alarm == math.inf or not self.roster.entries


TestLedger = pytest.mark.timeout(900)(LedgerMachine.TestCase)  # a busy machine
TestLedger.settings = settings(
    max_examples=int(os.environ.get("POOLING_EXAMPLES", "2000")),
    stateful_step_count=60,
    deadline=None,
    derandomize="POOLING_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
