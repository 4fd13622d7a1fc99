"""Connections that were not used for a while are looked at before they go out."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from pooling import ConnectError, PoolClosed, PoolTimeout
from pooling.testing import FakeBroken, FakeConnection, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, timed


def rested(clock: ManualClock, pool: Any, count: int, seconds: float = 2.0) -> list[FakeConnection]:
    """Connections that have been idle for some time."""
    leases = [pool.acquire() for _ in range(count)]
    connections = [lease.connection for lease in leases]
    for lease in leases:
        lease.release()
    clock.advance(seconds)
    return connections


@pytest.mark.parametrize("check", ["peek", "ping"])
def test_dead_idle_connections_are_all_replaced_at_checkout(
    clock: ManualClock, factory: FakeFactory, make: Make, check: str
) -> None:
    pool = make(max_size=8, check=check)
    for connection in rested(clock, pool, 8):
        connection.dead = True
    leases = [pool.acquire(timeout=1) for _ in range(8)]
    assert not any(lease.connection.dead for lease in leases)
    assert pool.stats().closed == {"broken": 8}
    assert factory.peak == 8
    for lease in leases:
        lease.release()


def test_a_check_that_raises_means_dead(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """By round trip."""
    pool = make(check="ping", max_size=1)
    rested(clock, pool, 1)
    factory.gates["check"].error(ZeroDivisionError())
    with pool.acquire(timeout=1) as connection:
        assert connection.number == 2
    assert pool.stats().closed == {"broken": 1}


def test_a_look_that_raises_means_dead(clock: ManualClock, make: Make) -> None:
    """By the caller's look at the socket."""

    class Raises(FakeFactory):
        def is_alive(self, connection: FakeConnection) -> bool:
            raise ValueError("closed file")

    pool = make(factory=Raises(clock), max_size=1)
    rested(clock, pool, 1)
    with pool.acquire(timeout=1) as connection:
        assert connection.number == 2
    assert pool.stats().closed == {"broken": 1}


def test_an_always_failing_check_is_bounded(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """New connections are not checked, so each acquire costs one check and one connect at most."""
    pool = make(check="ping", check_after=0, max_size=2)
    factory.gates["check"].error(FakeBroken())
    for _ in range(50):
        pool.acquire(timeout=1).release()
        clock.advance(0.1)
    assert factory.gates["check"].calls <= 50
    assert factory.opened <= 51


def test_failing_checks_and_failing_connects_together_back_off(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(check="ping", max_size=5)
    rested(clock, pool, 5)
    factory.gates["check"].error(FakeBroken())
    factory.gates["connect"].error(OSError())
    calls = factory.gates["connect"].calls
    assert isinstance(outcome(pool.acquire, 30), ConnectError)
    assert factory.gates["check"].calls <= 5
    assert factory.gates["connect"].calls - calls <= 16


@pytest.mark.parametrize("check", ["peek", None])
def test_without_a_check_there_is_no_round_trip(
    clock: ManualClock, factory: FakeFactory, make: Make, check: str | None
) -> None:
    pool = make(check=check)
    rested(clock, pool, 3, 100)
    pool.acquire(timeout=0).release()
    assert factory.gates["check"].calls == 0


def test_check_none_does_not_even_look(clock: ManualClock, make: Make) -> None:
    pool = make(check=None)
    connection = rested(clock, pool, 1, 100)[0]
    connection.dead = True
    with pool.acquire() as again:
        assert again is connection


def test_a_connection_used_less_than_check_after_ago_is_not_checked(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(check="ping", check_after=5)
    rested(clock, pool, 1, 4.9)
    pool.acquire(timeout=0).release()
    assert factory.gates["check"].calls == 0
    clock.advance(5)
    pool.acquire().release()
    assert factory.gates["check"].calls == 1


def test_a_connection_checked_less_than_check_after_ago_is_not_checked_again(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """By keepalive, for one."""
    pool = make(check="ping", check_after=5, keepalive=4)
    rested(clock, pool, 1, 8.5)
    checks = factory.gates["check"].calls
    assert checks >= 1
    pool.acquire(timeout=0).release()
    assert factory.gates["check"].calls == checks


def test_a_ping_runs_on_a_worker_and_the_caller_keeps_its_deadline(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(check="ping", max_size=1)
    rested(clock, pool, 1)
    factory.gates["check"].never()
    took, error = timed(clock, pool.acquire, 1)
    assert (took, type(error)) == (pytest.approx(1), PoolTimeout)
    assert error.stage == "check"


def test_a_check_that_takes_long_gets_a_connect_beside_it(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(check="ping", max_size=2)
    rested(clock, pool, 1)
    factory.gates["check"].never()
    took, lease = timed(clock, pool.acquire, 5)
    assert took == pytest.approx(0.25)
    assert lease.connection.number == 2
    lease.release()


def test_waiters_have_as_many_checked_as_they_need_at_once(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(check="ping", max_size=4)
    rested(clock, pool, 4)
    factory.gates["check"].slow(0.2)
    waiting = [clock.spawn(timed, clock, pool.acquire, 5) for _ in range(4)]
    clock.advance(0.1)
    assert pool.stats().busy == 4
    clock.advance(1)
    for actor in waiting:
        took, lease = actor.result()
        assert took == pytest.approx(0.2)
        lease.release()
    assert factory.opened == 4


@pytest.mark.parametrize(("order", "served"), [("lifo", [5, 5, 5, 5, 5]), ("fifo", [1, 2, 3, 4, 5])])
@pytest.mark.parametrize("listening", [False, True])
def test_one_acquire_has_one_connection_checked_the_one_whose_turn_it_is(
    clock: ManualClock, factory: FakeFactory, make: Make, order: str, served: list[int], listening: bool
) -> None:
    pool = make(check="ping", order=order)
    if listening:
        pool.subscribe(lambda event: None)
    leases = [pool.acquire() for _ in range(5)]
    for lease in leases:
        lease.release()
        clock.advance(0.1)
    numbers = []
    for tries in range(1, 6):
        clock.advance(2)
        with pool.acquire() as connection:
            numbers.append(connection.number)
        assert factory.gates["check"].calls == tries
    assert numbers == served


@pytest.mark.parametrize("check", ["peek", "ping"])
def test_a_pool_that_grew_for_a_peak_shrinks_again_whatever_is_checked(
    clock: ManualClock, make: Make, check: str
) -> None:
    """One that was used now and then would outlive its peak: of those that were unused each would be used in turn."""
    pool = make(check=check, idle_timeout=60)
    pool.subscribe(lambda event: None)
    rested(clock, pool, 5)
    for _ in range(40):
        clock.advance(2)
        pool.acquire().release()
    assert pool.stats().closed == {"idle": 4}


def test_of_what_was_to_be_looked_at_the_surplus_is_closed_when_nobody_waits_any_more(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(check="ping", max_size=3)
    rested(clock, pool, 3)
    factory.gates["check"].slow(2)
    waiting = clock.spawn(outcome, pool.acquire, 1)
    clock.advance(0.1)
    pool.resize(max_size=1)
    clock.advance(2)
    assert isinstance(waiting.result(), PoolTimeout)
    assert (pool.stats().closed, pool.stats().idle) == ({"surplus": 2}, 1)


def test_suspects_of_a_break_are_checked_whoever_else_was_only_unused(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(check="ping", max_size=4)
    broken, held = pool.acquire(), pool.acquire()
    rested(clock, pool, 2)
    with pytest.raises(FakeBroken), broken:
        raise FakeBroken
    clock.advance(2)  # the two others were checked
    before = factory.gates["check"].calls
    factory.gates["check"].slow(0.1)
    waiting = clock.spawn(pool.acquire, 5)  # one is checked for it, and the other waits for its turn
    clock.advance(0.01)
    held.release()  # of the old epoch
    clock.advance(1)
    waiting.result().release()
    assert factory.gates["check"].calls == before + 2
    assert pool.stats().idle == 3


def test_keepalive_makes_a_round_trip_on_idle_connections(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(keepalive=10, check=None, idle_timeout=None)
    connections = rested(clock, pool, 3, 35)
    assert [connection.checks for connection in connections] == [3, 3, 3]
    connections[1].dead = True
    clock.advance(10)
    assert connections[1].closed
    assert (pool.stats().idle, pool.stats().closed) == (2, {"broken": 1})


def test_keepalive_counts_from_the_last_use(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(keepalive=10, max_size=1)
    for _ in range(10):
        pool.acquire().release()
        clock.advance(9)
    assert factory.gates["check"].calls == 0
    with pool.acquire():
        clock.advance(100)
    assert factory.gates["check"].calls == 0


def test_keepalive_counts_from_the_last_round_trip_whatever_else_is_due(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(min_size=1, max_size=1, keepalive=10, idle_timeout=14)
    pool.acquire().release()
    clock.advance(10)
    assert factory.gates["check"].calls == 1
    clock.advance(9)
    assert factory.gates["check"].calls == 1
    clock.advance(1)
    assert factory.gates["check"].calls == 2


def test_keepalive_keeps_the_order_of_idle_connections(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """What was only looked at has not been used: it goes back among the longest unused."""
    pool = make(keepalive=10, check=None)
    one, two = pool.acquire(), pool.acquire()
    one.release()
    clock.advance(5)
    two.release()
    clock.advance(6)
    assert factory.connections[0].checks == 1
    with pool.acquire() as connection:
        assert connection.number == 2


@pytest.mark.parametrize(("order", "first"), [("lifo", 3), ("fifo", 1)])
def test_a_round_of_keepalive_turns_no_order_round(
    clock: ManualClock, factory: FakeFactory, make: Make, order: str, first: int
) -> None:
    """The one unused for longest is looked at first: were each put in front of those before it, the others would follow
    in reverse."""
    pool = make(keepalive=10, check=None, order=order)
    leases = [pool.acquire() for _ in range(3)]
    for lease in leases:
        lease.release()
        clock.advance(1)
    clock.advance(10)
    assert [connection.checks for connection in factory.connections] == [1, 1, 1]
    with pool.acquire() as connection:
        assert connection.number == first


def test_what_is_put_back_while_callers_take_all_the_others_is_put_anywhere(make: Make) -> None:
    class Taken(deque[Any]):
        def __getitem__(self, place: Any) -> Any:
            raise IndexError

    roster = make()._roster
    roster.idle = Taken([roster.add(0.0)])
    token = roster.add(1.0)
    roster.put_back(token)
    assert roster.idle.popleft() is token
    roster.entries.clear()


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_while_somebody_listens_the_caller_has_the_look_at_the_socket_all_the_same(
    clock: ManualClock, factory: FakeFactory, make: Make, dead: bool, order: str
) -> None:
    pool = make(max_size=2, order=order)
    pool.subscribe(lambda event: None)
    connections = rested(clock, pool, 2)
    turn = connections[1 if order == "lifo" else 0]
    turn.dead = dead
    got = outcome(pool.acquire, 0)  # no time for a worker
    assert isinstance(got, PoolTimeout) if dead else got.connection is turn
    if dead:
        got = pool.acquire(timeout=1)
        assert got.connection is not turn
    got.release()
    assert factory.gates["check"].calls == (1 if dead else 0)  # of the other one, which is suspect then


def test_nobody_looks_at_what_a_suspended_pool_does_not_hand_out(clock: ManualClock, make: Make) -> None:
    pool = make()
    rested(clock, pool, 1)[0].dead = True
    pool.suspend()
    assert isinstance(outcome(pool.acquire, 1), PoolTimeout)
    assert pool.stats().closed == {}
    pool.resume()


def test_who_gives_no_time_gets_one_that_was_unused_for_long_beside_more_than_are_kept_idle(
    clock: ManualClock, make: Make
) -> None:
    pool = make(max_size=4, max_idle=1, check_after=0)
    leases = [pool.acquire() for _ in range(3)]
    leases.pop().release()
    clock.advance(2)
    leases.append(pool.acquire(timeout=0))
    assert len({lease.connection.number for lease in leases}) == 3
    for lease in leases:
        lease.release()


@pytest.mark.parametrize("dead", [False, True])
def test_where_another_caller_was_quicker_a_worker_has_the_look(
    clock: ManualClock, factory: FakeFactory, make: Make, dead: bool
) -> None:
    pool = make(max_size=1)
    pool.subscribe(lambda event: None)
    rested(clock, pool, 1)[0].dead = dead

    def nothing() -> Any:
        raise IndexError

    pool._take = nothing
    pool.acquire(timeout=1).release()
    assert factory.opened == 1 + dead


@pytest.mark.parametrize("meanwhile", ["closed", "waited for"])
def test_what_happens_while_a_caller_looks(
    clock: ManualClock, factory: FakeFactory, make: Make, meanwhile: str
) -> None:
    pool = make(max_size=1)
    pool.subscribe(lambda event: None)
    rested(clock, pool, 1)
    waiting: list[Any] = []

    def is_alive(connection: FakeConnection) -> bool:
        if meanwhile == "closed":
            pool.close()
        else:
            waiting.append(clock.spawn(pool.acquire, 5))
            clock.sleep(0.1)
        return True

    factory.is_alive = is_alive  # type: ignore[method-assign]
    if meanwhile == "closed":
        assert isinstance(outcome(pool.acquire), PoolClosed)
        clock.advance(0)
        assert pool.stats().closed == {"pool": 1}
    else:
        late = clock.spawn(pool.acquire, 5)
        clock.advance(1)
        first = waiting[0].result()
        assert not late.done  # who has come to wait while it looked is before it
        first.release()
        clock.advance(0)
        late.result().release()


def test_a_driver_is_told_no_time_that_it_could_not_count(
    clock: ManualClock, factory: FakeFactory, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """poll() counts milliseconds up to 24 days, others raise OverflowError: a check would find each connection dead."""
    told: list[float] = []
    for name in ("connect", "check"):
        hook = getattr(factory, name)
        monkeypatch.setattr(factory, name, lambda *args, hook=hook: (told.append(args[-1]), hook(*args))[1])
    pool = make(check="ping", check_after=0, connect_timeout=1e300)
    for _ in range(2):
        with pool.acquire():
            pass
        clock.advance(1.0)
    assert told == [7 * 86400.0] * 2


@pytest.mark.parametrize("rest", [0, 60])
@pytest.mark.parametrize(("order", "number"), [("lifo", 3), ("fifo", 1)])
def test_who_looks_by_himself_gets_the_one_that_he_has_looked_at(
    clock: ManualClock, make: Make, order: Any, number: int, rest: float
) -> None:
    """Off the plain path it lies among the idle ones again until its turn has come."""
    pool = make(order=order)
    pool.subscribe(lambda event: None)
    for lease in [pool.acquire() for _ in range(3)]:
        lease.release()
    clock.advance(rest)
    with pool.acquire(timeout=0) as connection:
        assert (connection.number, connection.checks) == (number, 0)
