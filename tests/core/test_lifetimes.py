"""What time and use do to a connection: retired when idle, never under its user."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from pooling.testing import FakeFactory, ManualClock
from tests.core.conftest import Make


def test_max_lifetime_is_jittered_and_never_exceeded(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """Closed between 90 % and 100 % of it, not all together."""
    pool = make(max_size=20, max_lifetime=100, idle_timeout=None)
    for lease in [pool.acquire() for _ in range(20)]:
        lease.release()
    clock.advance(89.9)
    assert factory.open == 20
    seen = []
    for _ in range(20):
        clock.advance(0.505)
        seen.append(factory.open)
    assert factory.open == 0
    assert len(set(seen)) > 5
    assert pool.stats().closed == {"lifetime": 20}


def test_what_a_program_draws_at_random_does_not_depend_on_its_pools(make: Make) -> None:
    """Nor on when they open connections and try again: it may have been seeded to draw the same in each run."""
    tries: list[int] = []

    def work(_: object) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ZeroDivisionError

    before = random.getstate()
    pool = make(max_lifetime=100)
    pool.run(work, on=ZeroDivisionError)
    pool.clear()
    pool.acquire().release()
    assert (len(tries), pool.stats().opened) == (3, 2)
    assert random.getstate() == before


def test_a_leased_connection_is_not_closed_under_its_user(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_lifetime=10, idle_timeout=5)
    lease = pool.acquire()
    clock.advance(1000)
    assert not lease.connection.closed
    lease.release()
    clock.advance(0)
    assert pool.stats().closed == {"lifetime": 1}


def test_a_connection_past_its_lifetime_is_not_handed_out(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=1, max_lifetime=10)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 60)
    clock.advance(20)
    lease.release()
    clock.advance(0)
    served = waiting.result()
    assert served.connection.number == 2
    served.release()


@pytest.mark.parametrize("used", [True, False])
def test_a_lifetime_that_ends_between_two_looks_is_seen_by_the_acquire(
    clock: ManualClock, factory: FakeFactory, make: Make, used: bool
) -> None:
    """Also without a reaper."""
    pool = make(max_lifetime=10, check=None)
    if used:
        pool.acquire().release()
    else:
        pool.warm_up()
    pool.due_at = lambda: float("inf")  # type: ignore[method-assign]
    clock.advance(50)
    with pool.acquire() as connection:
        assert connection.number == 2


def test_idle_connections_are_closed_down_to_min_size(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=8, min_size=3, idle_timeout=10, max_lifetime=None)
    for lease in [pool.acquire() for _ in range(8)]:
        lease.release()
    clock.advance(9.9)
    assert pool.stats().idle == 8
    clock.advance(0.2)
    assert (pool.stats().idle, pool.stats().closed) == (3, {"idle": 5})
    clock.advance(1000)
    assert (pool.stats().idle, factory.opened) == (3, 8)


def test_what_is_kept_alive_is_not_used(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(keepalive=10, idle_timeout=35)
    pool.acquire().release()
    clock.advance(36)
    assert (factory.gates["check"].calls, pool.stats().closed) == (3, {"idle": 1})


def test_use_keeps_a_connection_from_being_idle(clock: ManualClock, make: Make) -> None:
    pool = make(idle_timeout=10)
    for _ in range(10):
        pool.acquire().release()
        clock.advance(9)
    assert pool.stats().opened == 1


def test_the_reaper_never_takes_a_leased_connection(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """Everything is due at once, again and again, while some are in use."""
    pool = make(max_size=6, idle_timeout=1, keepalive=0.5, max_lifetime=3, leak_after=2)
    leases = [pool.acquire() for _ in range(6)]
    held = {id(lease.connection) for lease in leases[:3]}
    for lease in leases[3:]:
        lease.release()
    for _ in range(50):
        clock.advance(0.2)
        for lease in leases[:3]:
            assert not lease.connection.closed
            assert lease.connection.checks == 0
    assert {id(connection) for connection in factory.connections if not connection.closed} == held
    for lease in leases[:3]:
        lease.release()


def test_max_uses_replaces_a_connection_after_so_many_leases(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_uses=3, max_size=1)
    numbers = []
    for _ in range(7):
        with pool.acquire(timeout=1) as connection:
            numbers.append(connection.number)
    assert numbers == [1, 1, 1, 2, 2, 2, 3]
    assert pool.stats().closed == {"uses": 2}


def test_max_idle_closes_what_comes_back_beyond_it(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=10, max_idle=2)
    for lease in [pool.acquire() for _ in range(10)]:
        lease.release()
    clock.advance(0)
    assert (pool.stats().idle, pool.stats().closed) == (2, {"surplus": 8})


def test_one_connection_beyond_max_idle_costs_one_the_one_unused_for_longest(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=4, max_idle=2)
    kept = []
    for lease in [pool.acquire() for _ in range(4)]:
        lease.release()
        clock.advance(1)
        kept.append([connection.number for connection in factory.connections if not connection.closed])
    assert kept == [[1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4], [3, 4]]


def test_max_idle_0_keeps_none(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_idle=0)
    for _ in range(3):
        pool.acquire().release()
        assert not pool._ledger.outbox  # a worker has it
        clock.advance(0)
        assert factory.open == 0


def test_max_idle_does_not_take_from_those_who_wait(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=1, max_idle=0)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0)
    lease.release()
    clock.advance(0)
    served = waiting.result()
    assert served.connection.number == 1
    served.release()


def test_a_spare_time_of_min_size_is_not_kept_past_its_lifetime(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """It is replaced, and the pool is never without."""
    pool = make(min_size=2, max_lifetime=10)
    pool.acquire().release()
    clock.advance(100)
    assert pool.stats().idle == 2
    assert factory.opened >= 20
    assert not any(connection.closed for connection in factory.connections[-2:])


@pytest.mark.parametrize("limit", ["max_lifetime", "idle_timeout"])
def test_limits_that_are_off_never_come(clock: ManualClock, make: Make, limit: str) -> None:
    pool = make(max_lifetime=None, idle_timeout=None)
    pool.acquire().release()
    clock.advance(10_000_000)
    assert (pool.stats().idle, pool.due_at()) == (1, float("inf"))


def test_a_long_held_lease_is_reported_once_with_its_call_site(
    clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(leak_after=5)
    lease = pool.acquire()
    clock.advance(4.9)
    assert pool.stats().leaks == 0
    clock.advance(100)
    assert pool.stats().leaks == 1
    test = test_a_long_held_lease_is_reported_once_with_its_call_site.__code__
    line = test.co_firstlineno + 4
    where = f"{__file__}:{line} {test.co_name}"
    assert caplog.messages == [f"a lease is held for long: MainThread for 5 s, acquired at {where}"]
    assert lease.connection is not None
    lease.release()
    lease = pool.acquire()
    clock.advance(6)
    assert pool.stats().leaks == 2
    lease.release()


def test_a_lease_given_back_in_time_is_no_leak(clock: ManualClock, make: Make) -> None:
    pool = make(leak_after=5)
    for _ in range(10):
        with pool.acquire():
            clock.advance(4)
    assert pool.stats().leaks == 0


def line_before() -> int:
    return sys._getframe(1).f_lineno - 1


def elsewhere(pool: Any) -> None:
    pool.acquire().release()


def test_holders_say_who_since_when_and_where(clock: ManualClock, make: Make) -> None:
    pool = make()
    one = pool.acquire()
    clock.advance(3)
    two = pool.acquire()
    clock.advance(1)
    assert [(holder.thread, round(holder.age, 9)) for holder in pool.holders()] == [
        ("MainThread", 4.0),
        ("MainThread", 1.0),
    ]
    assert all(holder.where.startswith(__file__ + ":") for holder in pool.holders())
    assert str(pool.holders()[0]).startswith("MainThread for 4 s, acquired at ")
    one.release()
    two.release()
    assert pool.holders() == ()
    pool = make()
    elsewhere(pool)
    three = pool.acquire()
    assert pool.holders()[0].where.startswith(f"{__file__}:{line_before()} test_holders_say_who")
    three.release()


@pytest.mark.parametrize("name", ["idle_timeout", "max_lifetime", "keepalive", "leak_after"])
def test_a_time_too_short_for_the_clock_to_show_hangs_nobody(
    name: str, clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """Added to the time it changes nothing: what is due after it would be due now, however often one looks."""
    clock.advance(1e6)
    pool = make(timeout=5.0, **{name: 1e-12})
    for _ in range(2):
        with pool.acquire():
            pass
