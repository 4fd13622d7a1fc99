"""One connection is broken, or says that its server was demoted: what becomes of the others. In virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from pooling import Factory
from pooling.testing import FakeBroken, FakeConnection, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import timed


def idle(pool: Any, count: int) -> list[FakeConnection]:
    leases = [pool.acquire() for _ in range(count)]
    connections = [lease.connection for lease in leases]
    for lease in leases:
        lease.release()
    return connections


def break_one(pool: Any) -> None:
    with pytest.raises(FakeBroken), pool.acquire():
        raise FakeBroken


def test_one_broken_connection_has_the_others_checked_before_they_go_out(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """One restart, one casualty."""
    pool = make(max_size=10, check_after=1000)
    connections = idle(pool, 10)
    for connection in connections:
        connection.dead = True
    break_one(pool)
    assert pool.stats().state == "suspect"
    for _ in range(10):
        with pool.acquire(timeout=5) as connection:
            assert not connection.dead
    clock.advance(1)
    assert pool.stats().closed == {"broken": 10}
    assert pool.stats().state == "up"


def test_who_had_the_broken_one_holds_it_no_more_while_it_is_closed(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make()
    factory.gates["close"].slow(5)
    break_one(pool)
    clock.advance(1)
    assert (pool.stats().closing, pool.holders()) == (1, ())


def test_suspects_that_pass_the_check_stay(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=10, check_after=1000)
    connections = idle(pool, 10)
    break_one(pool)
    clock.advance(1)
    assert [connection.checks for connection in connections].count(1) == 9
    assert (pool.stats().idle, factory.opened, pool.stats().state) == (9, 10, "up")


def test_a_suspect_that_was_in_use_is_checked_before_its_next_use(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=2, check_after=1000)
    lease = pool.acquire()
    connection = lease.connection
    break_one(pool)
    lease.release()
    with pool.acquire() as again:
        assert (again, again.checks) == (connection, 1)


def test_a_factory_without_check_has_its_suspects_replaced(clock: ManualClock, make: Make) -> None:
    class Plain:
        def close(self) -> None:
            pass

    class Unchecked(Factory[Plain]):
        def connect(self, timeout: float) -> Plain:
            return Plain()

        def is_broken(self, error: BaseException) -> bool:
            return isinstance(error, FakeBroken)

    pool = make(factory=Unchecked(), max_size=5)
    idle(pool, 4)
    held = pool.acquire()
    break_one(pool)
    clock.advance(0)
    assert pool.stats().closed == {"broken": 1, "stale": 2}
    stale = held.connection
    held.release()
    with pool.acquire() as connection:
        assert connection is not stale
    assert pool.stats().closed == {"broken": 1, "stale": 3}


def test_a_second_broken_one_of_the_same_age_raises_no_new_suspicion(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=4, check_after=1000)
    leases = [pool.acquire() for _ in range(4)]
    for lease in leases[:2]:
        with pytest.raises(FakeBroken), lease:
            raise FakeBroken
        clock.advance(0)
        new = pool.acquire()
        new.release()
        clock.advance(0)
    assert [connection.checks for connection in factory.connections[4:]] == [0]
    for lease in leases[2:]:
        lease.release()


class Demoted(FakeBroken):
    pass


class Replicated(FakeFactory):
    def is_demoted(self, connection: FakeConnection, error: BaseException) -> bool:
        return isinstance(error, Demoted)


def test_one_that_says_its_server_was_demoted_has_all_of_that_day_replaced_unchecked(
    clock: ManualClock, make: Make
) -> None:
    factory = Replicated(clock)
    pool = make(factory=factory, max_size=10, check_after=1000)
    old = idle(pool, 8)
    held = [pool.acquire() for _ in range(3)]
    for lease in held[:2]:  # two of them meet it, and the second says nothing new
        with pytest.raises(Demoted), lease:
            raise Demoted
        clock.advance(0)
    with pool.acquire() as connection:
        assert connection not in old
    held[2].release()
    clock.advance(1)
    assert [connection.checks for connection in old] == [0] * 8
    assert pool.stats().closed == {"broken": 2, "stale": 6}
    assert pool.stats().idle == 1
    # A new one that says so ends the next day.
    idle(pool, 4)
    with pytest.raises(Demoted), pool.acquire():
        raise Demoted
    clock.advance(1)
    assert pool.stats().closed == {"broken": 3, "stale": 9}
    assert pool.stats().size == 0


def refuse_a_write(pool: Any) -> None:
    with pytest.raises(Demoted), pool.acquire():
        raise Demoted


def test_a_server_that_goes_on_refusing_writes_costs_a_connection_for_each_and_all_of_them_now_and_then(
    clock: ManualClock, make: Make
) -> None:
    """The address leads to it still. To replace everything each time would be a storm, and harm those who only read."""
    factory = Replicated(clock)
    pool = make(factory=factory, max_size=10, check_after=1000)
    for _ in range(100):  # ten seconds of it
        idle(pool, 10)
        refuse_a_write(pool)
        clock.advance(0.1)
    cleared = (factory.opened - 100) / 9
    assert 15 < cleared < 25  # after pauses that grow by a twentieth of a second
    assert all(connection.checks == 0 for connection in factory.connections)
    assert pool.stats().closed["broken"] == 100


def test_what_was_refused_in_a_pause_is_heeded_at_its_end(clock: ManualClock, make: Make) -> None:
    """By then the address may lead elsewhere, and nobody may write again: no reader is to stay with the old one."""
    pool = make(factory=Replicated(clock), max_size=10, check_after=1000)
    refuse_a_write(pool)
    old = idle(pool, 8)
    clock.advance(0.02)
    refuse_a_write(pool)
    clock.advance(0.02)
    assert pool.stats().idle == 7
    clock.advance(0.02)
    assert pool.stats().size == 0
    assert pool.stats().closed == {"broken": 2, "stale": 7}
    assert [connection.checks for connection in old] == [0] * 8
    idle(pool, 8)
    clock.advance(1)
    assert pool.stats().idle == 8  # once was enough


def test_another_failover_is_heeded_at_once_again(clock: ManualClock, make: Make) -> None:
    pool = make(factory=Replicated(clock), max_size=10, check_after=1000)
    for _ in range(50):
        idle(pool, 3)
        refuse_a_write(pool)
        clock.advance(0.1)
    clock.advance(10.0)
    for _ in range(2):
        idle(pool, 8)
        refuse_a_write(pool)
        clock.advance(0.06)
        assert pool.stats().size == 0


def test_any_other_break_leaves_those_that_pass_a_check(clock: ManualClock, make: Make) -> None:
    pool = make(factory=Replicated(clock), max_size=10, check_after=1000)
    idle(pool, 8)
    break_one(pool)
    clock.advance(1)
    assert (pool.stats().closed, pool.stats().idle) == ({"broken": 1}, 7)


def test_a_check_of_suspects_that_takes_long_gets_a_connect_beside_it(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=3, check_after=1000)
    idle(pool, 2)
    break_one(pool)
    factory.gates["check"].never()
    took, lease = timed(clock, pool.acquire, 5)
    assert took == 0  # a suspect's check is not counted on
    lease.release()
