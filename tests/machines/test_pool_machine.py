"""The whole pool in virtual time, driven by Hypothesis and held against a simple model of what its users see."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pooling import ConnectError, Lease, Pool, PoolClosed, PoolTimeout
from pooling.testing import Actor, FakeBroken, FakeConnection, FakeFactory, FakePermanent, ManualClock


@dataclass
class Call:
    """An acquire under way: the model of a waiter."""

    actor: Actor
    arrived: float
    ticket: int
    priority: float
    deadline: float
    key: tuple[float, int] = field(init=False)

    def __post_init__(self) -> None:
        self.key = (self.arrived + self.priority, self.ticket)


class PoolMachine(RuleBasedStateMachine):
    @initialize(
        max_size=st.integers(1, 3),
        min_size=st.integers(0, 2),
        max_uses=st.none() | st.integers(1, 3),
        order=st.sampled_from(["lifo", "fifo"]),
        check=st.sampled_from(["peek", "ping", None]),
        keepalive=st.none() | st.just(4.0),
        fail_after=st.sampled_from([None, 0.0, 5.0]),
    )
    def start(self, max_size: int, min_size: int, **options: Any) -> None:
        self.clock = ManualClock()
        self.factory = FakeFactory(self.clock)
        self.pool: Pool[FakeConnection] = Pool(
            self.factory, runtime=self.clock, max_size=max_size, min_size=min(min_size, max_size), connect_timeout=3.0,
            idle_timeout=30.0, max_lifetime=90.0, leak_after=10.0, nested=None, **options,
        )  # fmt: skip  # one row of what is fixed
        self.max_size = max_size
        self.calls: list[Call] = []
        self.leases: list[Lease[FakeConnection]] = []
        self.ticket = 0
        self.suspended = False
        self.excess = False  # after a shrinking resize, a detach or a hang more may be open for a while

    # -- what users do -------------------------------------------------------------------------------

    def pause(self, seconds: float = 0.0) -> None:
        """Let things happen, and take in whose acquire has ended."""
        self.clock.advance(seconds)
        ended = [call for call in self.calls if call.actor.done]
        self.calls = [call for call in self.calls if not call.actor.done]
        for call in ended:
            try:
                lease = call.actor.result()
            except PoolTimeout:
                # not early; and not late, as far as the clock was moved in one step
                assert self.clock.now() >= call.deadline
            except (PoolClosed, ConnectError):
                pass
            else:
                self.leases.append(lease)
                del lease  # the model keeps no second reference, nor does a traceback of the next one

    @rule(
        timeout=st.sampled_from([0.0, 0.5, 2.0, 8.0, None]),
        priority=st.sampled_from([0.0, 0.0, 0.0, -3.0, 3.0]),
    )
    def acquire(self, timeout: float | None, priority: float) -> None:
        now = self.clock.now()
        actor = self.clock.spawn(self.pool.acquire, timeout, priority)
        self.ticket += 1
        deadline = float("inf") if timeout is None else now + timeout
        self.calls.append(Call(actor, now, self.ticket, priority, deadline))
        del actor
        self.pause()

    @precondition(lambda self: self.leases)
    @rule(
        which=st.integers(0, 9), how=st.sampled_from(["clean", "clean", "dirty", "broken", "error", "discard", "dead"])
    )
    def release(self, which: int, how: str) -> None:
        lease = self.leases.pop(which % len(self.leases))
        lease.connection.dirty = how == "dirty"
        lease.connection.dead = how == "dead"
        if how == "discard":
            lease.discard()
        elif how in ("broken", "error"):
            try:
                with lease:
                    raise FakeBroken if how == "broken" else ValueError
            except (FakeBroken, ValueError):
                pass
        else:
            lease.release()
        self.pause()

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 9))
    def drop(self, which: int) -> None:
        del self.leases[which % len(self.leases)]
        gc.collect(0)
        self.pause()

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 9))
    def detach(self, which: int) -> None:
        connection = self.leases.pop(which % len(self.leases)).detach()
        connection.closed = True  # its user's business from now on
        self.factory.closed += 1
        self.pause()

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 9), timeout=st.sampled_from([0.5, 5.0]))
    def refresh(self, which: int, timeout: float) -> None:
        lease = self.leases.pop(which % len(self.leases))
        old = lease.connection
        actor = self.clock.spawn(lease.refresh, timeout)
        self.pause(timeout)
        assert actor.done
        try:
            assert actor.result() is not old
        except (PoolTimeout, ConnectError, PoolClosed):
            return
        self.leases.append(lease)

    # -- what the world does -------------------------------------------------------------------------

    @rule(
        hook=st.sampled_from(["connect", "connect", "check", "reset", "close"]),
        mode=st.sampled_from(["ok", "ok", "error", "permanent", "slow", "never"]),
    )
    def turn_a_gate(self, hook: str, mode: str) -> None:
        gate = self.factory.gates[hook]
        gate.ok()
        if mode == "error":
            gate.error(FakeBroken("no"))
        elif mode == "permanent":
            gate.error(FakePermanent("never"))
        elif mode == "slow":
            gate.slow(0.7)
        elif mode == "never":
            gate.never()
            self.excess = True  # what is written off may still be open at the server
        self.pause()

    @rule(which=st.integers(0, 9))
    def the_server_drops_a_session(self, which: int) -> None:
        if self.factory.connections:
            self.factory.connections[which % len(self.factory.connections)].dead = True

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.1, 3.0, 7.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.pause(seconds)

    # -- what the owner orders -----------------------------------------------------------------------

    @rule()
    def clear(self) -> None:
        self.pool.clear()
        self.pause()

    @rule(max_size=st.integers(1, 4))
    def resize(self, max_size: int) -> None:
        self.excess = self.excess or max_size < self.max_size
        self.max_size = max_size
        self.pool.resize(min_size=0, max_size=max_size)
        self.pause()

    @rule()
    def suspend_or_resume(self) -> None:
        if self.suspended:
            self.pool.resume()
        else:
            self.pool.suspend()
        self.suspended = not self.suspended
        self.pause()

    # -- what must hold ------------------------------------------------------------------------------

    @invariant()
    def never_above_max_size(self) -> None:
        if hasattr(self, "pool") and not self.excess:
            assert self.factory.open <= self.max_size

    @invariant()
    def one_user_per_connection(self) -> None:
        if hasattr(self, "pool"):
            held = [lease.connection for lease in self.leases]
            assert len(set(map(id, held))) == len(held)

    @invariant()
    def no_acquire_outlives_its_deadline(self) -> None:
        if hasattr(self, "pool"):
            assert all(call.deadline > self.clock.now() for call in self.calls)

    @invariant()
    def the_numbers_are_those_of_the_model(self) -> None:
        if not hasattr(self, "pool"):
            return
        stats = self.pool.stats()
        assert stats.size == stats.idle + stats.leased + stats.connecting + stats.busy + stats.closing
        assert stats.acquired == stats.released + stats.leased
        assert stats.leased == len(self.leases)
        assert stats.waiting == len(self.calls)

    @invariant()
    def the_queue_is_that_of_the_model(self) -> None:
        """First come, first served: whoever waits, waits in the model's order."""
        if hasattr(self, "pool") and self.calls and self.leases:
            waiting = min(call.key for call in self.calls)
            head = self.pool._ledger.queue.head()
            assert head is not None
            assert abs(head.key - waiting[0]) < 1e-9

    def everybody(self) -> list[Lease[FakeConnection]]:
        """As many leases as can be had at once."""
        asked = [self.clock.spawn(self.pool.acquire, 3.0) for _ in range(self.max_size)]
        self.clock.advance(3.0)
        users = []
        for actor in asked:
            try:
                users.append(actor.result())
            except (PoolTimeout, ConnectError):
                continue
        return users

    def teardown(self) -> None:
        """With the gates open everything comes to rest: all slots are usable, and a close leaves nothing."""
        if not hasattr(self, "pool"):
            return
        for gate in self.factory.gates.values():
            gate.ok()
        if self.suspended:
            self.pool.resume()
        while self.leases or self.calls:
            while self.leases:
                self.leases.pop().release()
            self.pause(3.0)
        users: list[Lease[FakeConnection]] = []
        for _ in range(4):  # whoever asks first after an outage may be told of it; then the pool has tried again
            users = self.everybody()
            if len(users) == self.max_size:
                break
            while users:
                users.pop().release()
        assert len({id(user.connection) for user in users}) == self.max_size
        for user in users:
            user.release()
        self.pool.close()
        stats = self.pool.stats()
        assert stats.size == 0
        assert stats.hung == 0
        assert self.factory.open == 0
        self.clock.close()


TestPool = pytest.mark.timeout(900)(PoolMachine.TestCase)  # a busy machine
TestPool.settings = settings(
    max_examples=int(os.environ.get("POOLING_EXAMPLES", "500")),
    stateful_step_count=50,
    deadline=None,
    derandomize="POOLING_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
