"""What the owner of a running pool may order: warm up, resize, suspend, resume."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pooling import ConnectError, PoolTimeout
from pooling.config import Config
from pooling.testing import FakeFactory, FakePermanent, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, timed


def test_warm_up_opens_min_size_and_waits_for_it(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(min_size=5)
    factory.gates["connect"].slow(0.5)
    took, _ = timed(clock, pool.warm_up)
    assert (took, pool.stats().idle) == (pytest.approx(0.5), 5)


def test_warm_up_opens_one_where_min_size_is_0(clock: ManualClock, make: Make) -> None:
    pool = make()
    pool.warm_up()
    assert pool.stats().idle == 1
    pool.warm_up()
    assert pool.stats().idle == 1


def test_an_order_that_comes_into_a_crowd_takes_no_place_in_it(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0.01)
    warming = clock.spawn(pool.warm_up, 1)
    clock.advance(0.01)
    assert (pool.stats().waiting, warming.result()) == (1, None)
    lease.release()
    clock.advance(0)
    waiting.result().release()
    assert not pool._ledger.watchers


def test_warm_up_is_bounded(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    factory.gates["connect"].never()
    took, error = timed(clock, make(min_size=2).warm_up, 3)
    assert (took, type(error)) == (pytest.approx(3), PoolTimeout)


@pytest.mark.parametrize(("error", "after"), [(OSError("down"), 5.0), (FakePermanent("password"), 0.0)])
def test_warm_up_fails_where_the_server_cannot_be_reached(
    clock: ManualClock, factory: FakeFactory, make: Make, error: Exception, after: float
) -> None:
    factory.gates["connect"].error(error)
    took, failure = timed(clock, make(min_size=2).warm_up)
    assert (took, type(failure), failure.__cause__) == (pytest.approx(after), ConnectError, error)


def test_warm_up_waits_a_short_outage_out(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    factory.gates["connect"].error(OSError())
    pool = make()
    warming = clock.spawn(pool.warm_up, 10)
    clock.advance(2)
    factory.gates["connect"].ok()
    clock.advance(0.5)
    warming.result()
    assert pool.stats().idle == 1


def test_a_warm_up_into_a_clear_opens_another_one(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make()
    factory.gates["connect"].slow(0.5)
    warming = clock.spawn(pool.warm_up, 10)
    clock.advance(0.2)
    pool.clear()
    clock.advance(1)
    warming.result()
    assert (pool.stats().idle, factory.opened) == (1, 2)
    clock.advance(5)
    assert factory.opened == 2


def test_growing_serves_those_who_wait(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 60)
    clock.advance(0)
    pool.resize(max_size=2)
    clock.advance(0)
    waiting.result().release()
    lease.release()
    assert pool.stats().max_size == 2


def test_shrinking_closes_idle_ones_now_and_leased_ones_on_return(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=6)
    leases = [pool.acquire() for _ in range(6)]
    for lease in leases[:3]:
        lease.release()
    pool.resize(max_size=2)
    clock.advance(0)
    assert (pool.stats().size, pool.stats().leased) == (3, 3)
    assert isinstance(outcome(pool.acquire, 1), PoolTimeout)
    for lease in leases[3:]:
        lease.release()
    clock.advance(0)
    assert (pool.stats().size, pool.stats().closed) == (2, {"surplus": 4})
    assert factory.open == 2


def test_a_pool_that_shrinks_keeps_those_used_last(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=4)
    for lease in [pool.acquire() for _ in range(4)]:
        lease.release()
        clock.advance(0.1)
    pool.resize(max_size=2)
    clock.advance(0)
    assert [connection.closed for connection in factory.connections] == [True, True, False, False]


def test_a_shrink_while_connecting_retires_what_comes_too_much(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=4, min_size=4)
    factory.gates["connect"].slow(1)
    warming = clock.spawn(pool.warm_up)
    clock.advance(0.5)
    pool.resize(min_size=0, max_size=1)
    clock.advance(1)
    warming.result()
    assert (pool.stats().size, factory.open) == (1, 1)


def test_min_size_can_be_raised_and_is_filled_at_once(clock: ManualClock, make: Make) -> None:
    pool = make()
    pool.acquire().release()
    pool.resize(min_size=4)
    clock.advance(0)
    assert (pool.stats().idle, pool.stats().min_size) == (4, 4)


@pytest.mark.parametrize(
    ("first", "second", "then"),
    [({"max_size": 8}, {"min_size": 1}, (1, 8)), ({"max_size": 2}, {"min_size": 3}, (2, 2))],
    ids=["both", "the cap holds"],
)
def test_of_two_resizes_at_once_each_changes_what_it_was_given(
    make: Make, monkeypatch: pytest.MonkeyPatch, first: dict[str, int], second: dict[str, int], then: tuple[int, int]
) -> None:
    pool = make(max_size=4)

    def meanwhile(config: Config, **changes: int) -> Config:
        monkeypatch.undo()
        pool.resize(**first)
        return replace(config, **changes)

    monkeypatch.setattr("pooling.pool.replace", meanwhile)
    pool.resize(**second)
    assert (pool.config.min_size, pool.config.max_size) == then


def test_before_the_first_use_min_size_is_not_filled_whoever_raises_it(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make()
    pool.resize(min_size=3)
    clock.advance(60)
    assert factory.opened == 0


def test_max_size_none_takes_the_cap_away(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    pool.resize(max_size=None)
    leases = [pool.acquire(timeout=1) for _ in range(30)]
    for lease in leases:
        lease.release()
    assert pool.stats().max_size is None
    pool.resize(min_size=1)
    assert pool.stats().max_size is None


def test_a_suspended_pool_hands_nothing_out_and_everybody_keeps_his_deadline(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=2)
    pool.acquire().release()
    held = pool.acquire()
    pool.suspend()
    short, long = clock.spawn(timed, clock, pool.acquire, 1), clock.spawn(pool.acquire, 60)
    clock.advance(2)
    took, error = short.result()
    assert (took, type(error), error.stage) == (pytest.approx(1), PoolTimeout, "suspended")
    assert "(the pool is suspended)" in str(error)
    held.release()
    clock.advance(1)
    assert (long.done, pool.stats().idle, pool.stats().state, factory.opened) == (False, 1, "suspended", 1)
    pool.resume()
    clock.advance(0)
    long.result().release()
    assert pool.stats().state == "up"


def test_a_use_begins_when_a_resume_hands_the_connection_out(clock: ManualClock, make: Make) -> None:
    """Not when that came to lie idle."""
    pool = make(check_after=60, leak_after=8)
    pool.acquire().release()
    pool.suspend()
    waiting = clock.spawn(pool.acquire, 60)
    clock.advance(10)
    pool.resume()
    clock.advance(5)
    lease = waiting.result()
    (holder,) = pool.holders()
    assert (holder.age, pool.stats().leaks) == (pytest.approx(5), 0)
    lease.release()


def test_a_suspended_pool_opens_and_checks_nothing(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(min_size=3, check="ping", max_lifetime=50, idle_timeout=None)
    pool.warm_up()
    clock.advance(5)
    pool.suspend()
    for _ in range(3):
        clock.spawn(pool.acquire, 1)
    pool.resize(min_size=5)
    clock.advance(100)
    assert (factory.opened, factory.gates["check"].calls, factory.open) == (3, 0, 0)
    pool.resume()
    clock.advance(0)
    assert pool.stats().idle == 5


def test_a_suspect_waits_for_the_end_of_a_suspension(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(check="ping")
    one, two = pool.acquire(), pool.acquire()
    two.release()
    pool.suspend()
    pool._tell(pool._ledger.found_broken, one._take("broken"), None)
    clock.advance(10)
    assert factory.gates["check"].calls == 0
    pool.resume()
    clock.advance(0)
    assert factory.gates["check"].calls == 1


@pytest.mark.parametrize("error", [OSError("down"), FakePermanent("shutting down")])
@pytest.mark.parametrize("back", [True, False])
def test_a_server_that_is_known_to_be_away_fails_nobody_who_waits_for_the_end_of_a_suspension(
    clock: ManualClock, factory: FakeFactory, make: Make, error: Exception, back: bool
) -> None:
    """Whoever suspends for a failover may do so when it has begun."""
    pool = make(backoff=lambda failures: 3600.0)
    factory.gates["connect"].error(error)
    pool.suspend()
    pool.resume()
    before = clock.spawn(outcome, pool.acquire, 100)
    clock.spawn(pool.suspend)
    clock.advance(20)
    later, warming = clock.spawn(outcome, pool.acquire, 100), clock.spawn(outcome, pool.warm_up, 100)
    clock.advance(20)
    assert not any(actor.done for actor in (before, later, warming))
    tries = factory.gates["connect"].calls
    if back:
        factory.gates["connect"].ok()
    pool.resume()
    clock.advance(0)
    assert factory.gates["connect"].calls > tries  # whatever the pause was to be
    clock.advance(6)
    for actor in (before, later):
        got = actor.result()
        if back:
            got.release()
        else:
            assert isinstance(got, ConnectError)
    assert warming.done


def test_a_suspension_at_the_moment_of_a_failure_does_not_take_the_pauses_away(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(min_size=1)
    factory.gates["connect"].error(OSError("down"))
    waiting = clock.spawn(outcome, pool.acquire, 1)
    while not factory.gates["connect"].calls:
        clock.sleep(0)
    pool.suspend()
    pool.resume()
    for _ in range(1000):
        clock.sleep(0)
    assert factory.gates["connect"].calls <= 2
    factory.gates["connect"].ok()
    clock.advance(1)
    waiting.result().release()


def test_resume_does_nothing_to_a_pool_that_was_not_suspended(clock: ManualClock, make: Make) -> None:
    pool = make()
    pool.resume()
    assert pool.stats().state == "up"
    pool.suspend()
    pool.suspend()
    pool.resume()
    pool.close()
    pool.resume()
    assert pool.stats().state == "closed"
    pool.suspend()
    assert pool.stats().state == "closed"
