"""clear(), detach(), discard(), refresh(): connections that are retired by order."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from pooling import ConnectError, Pool, PoolClosed, PoolError, PoolTimeout
from pooling.testing import FakeBroken, FakeFactory, FakePermanent, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, timed


def test_connections_that_are_long_gone_are_forgotten(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    for _ in range(200):
        pool.acquire().discard()
        clock.advance(0)
    assert len(pool._roster._agenda) < 70
    assert not pool._roster._identities


def test_clears_in_a_row_leave_each_connection_one_line_on_the_agenda(clock: ManualClock, make: Make) -> None:
    """Five hundred leases, and everybody whose query has failed clears the pool: with a line for each of either, the
    look through them all, under the lock, took longer than any acquire may take."""
    pool = make(max_size=None, idle_timeout=600, nested=None)
    leases = [pool.acquire() for _ in range(50)]
    for _ in range(20):
        pool.clear()
    assert len(pool._roster._agenda) == 2 * 50
    clock.advance(1)
    assert len(pool._roster._agenda) == 50
    for lease in leases:
        lease.release()
    clock.advance(1)
    assert pool.stats().closed == {"stale": 50}


def test_clear_closes_idle_connections_now(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=5)
    for lease in [pool.acquire() for _ in range(5)]:
        lease.release()
    pool.clear()
    assert (pool.stats().idle, pool.stats().closing) == (0, 5)
    clock.advance(0)
    assert (factory.open, pool.stats().closed) == (0, {"stale": 5})


@pytest.mark.parametrize("dirty", [False, True])
def test_clear_closes_leased_connections_on_their_return(
    clock: ManualClock, factory: FakeFactory, make: Make, dirty: bool
) -> None:
    """Nobody's connection is closed under him."""
    pool = make(max_size=5)
    lease = pool.acquire()
    lease.connection.dirty = dirty
    pool.clear()
    clock.advance(1)
    assert not lease.connection.closed
    lease.release()
    clock.advance(0)
    assert (factory.open, pool.stats().size) == (0, 0)
    assert pool.stats().closed == {"stale": 1}


def test_connections_opened_after_a_clear_stay(clock: ManualClock, make: Make) -> None:
    pool = make()
    pool.clear()
    with pool.acquire() as connection:
        pass
    with pool.acquire() as again:
        assert again is connection


def test_a_connect_that_was_under_way_at_the_clear_is_retired(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """It may have used the old password, or reached the old server."""
    pool = make()
    factory.gates["connect"].slow(1)
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0.5)
    pool.clear()
    clock.advance(2)
    served = waiting.result()
    assert served.connection.number == 2
    assert factory.connections[0].closed
    served.release()


def test_waiters_go_on_waiting_through_a_clear(clock: ManualClock, make: Make) -> None:
    """A clear alone fails nobody; suspend() pauses, close() fails."""
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0)
    pool.clear()
    lease.release()
    clock.advance(0)
    served = waiting.result()
    assert served.connection.number == 2
    served.release()


def test_clear_can_interrupt_those_in_use(clock: ManualClock, make: Make) -> None:
    pool = make()
    idle, lease = pool.acquire(), pool.acquire()
    resting = idle.connection
    idle.release()
    pool.clear(interrupt=True)
    assert lease.connection.interrupted
    assert not resting.interrupted
    lease.release()
    with pool.acquire() as connection:
        pool.clear()
        assert not connection.interrupted


def test_a_clear_during_a_check_or_reset_is_heeded(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    for hook in ("check", "reset"):
        pool = make(check="ping", check_after=0.5)
        lease = pool.acquire()
        lease.connection.dirty = hook == "reset"
        factory.gates[hook].slow(1)
        lease.release()
        clock.advance(0.6)
        waiting = clock.spawn(pool.acquire, 5)
        clock.advance(0.1)
        pool.clear()
        clock.advance(3)
        factory.gates[hook].ok()
        waiting.result().release()
        assert pool.stats().closed == {"stale": 1}, hook


def test_a_detached_connection_is_the_callers_and_its_slot_is_free(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0)
    connection = lease.detach()
    clock.advance(0)
    assert connection.number == 1
    waiting.result().release()
    pool.close()
    clock.advance(10)
    assert not connection.closed
    assert (pool.stats().closed["detached"], factory.gates["close"].calls) == (1, 1)
    with pytest.raises(PoolError, match=r"^the lease has ended already and cannot be detached$"):
        lease.detach()


def test_a_connection_of_before_a_clear_may_be_detached_all_the_same(clock: ManualClock, make: Make) -> None:
    pool = make()
    lease = pool.acquire()
    pool.clear()
    connection = lease.detach()
    clock.advance(1)
    assert not connection.closed
    assert pool.stats().closed == {"detached": 1}


def test_one_that_comes_back_dirty_after_a_clear_is_closed_and_not_reset_before(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make()
    with pool.acquire() as connection:
        connection.dirty = True
        pool.clear()
    clock.advance(1)
    assert (factory.gates["reset"].calls, pool.stats().closed) == (0, {"stale": 1})


def test_a_detached_connection_is_kept_alive_by_the_caller_alone(clock: ManualClock) -> None:
    class Plain:
        def close(self) -> None: ...

    with Pool(Plain, runtime=clock) as pool:  # whose agenda has a line for the connection until its idle_timeout
        reference = weakref.ref(pool.acquire().detach())
        clock.advance(1)
        gc.collect()
        assert reference() is None


def test_a_refresh_swaps_the_connection_in_the_same_slot_ahead_of_the_queue(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    old = lease.connection
    waiting = clock.spawn(pool.acquire, 50)
    clock.advance(1)
    new = lease.refresh()
    assert (new.number, old.closed, lease.connection is new) == (2, True, True)
    assert not waiting.done
    assert factory.peak == 1
    assert pool.stats().closed == {"discarded": 1}
    lease.release()
    clock.advance(0)
    waiting.result().release()


def test_a_refresh_keeps_its_deadline_and_ends_the_lease_where_it_fails(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    factory.gates["connect"].never()
    took, error = timed(clock, lease.refresh, 2)
    assert (took, type(error)) == (pytest.approx(2), PoolTimeout)
    assert repr(lease).endswith("ended>")
    factory.gates["connect"].ok()
    clock.advance(0)
    assert (pool.stats().idle, pool.stats().leased) == (1, 0)
    with pytest.raises(PoolError, match=r"^the lease has ended already and cannot be refreshed$"):
        lease.refresh()


@pytest.mark.parametrize("error", [OSError("no"), FakePermanent("no")])
def test_a_refresh_whose_connect_fails_raises_connect_error(
    clock: ManualClock, factory: FakeFactory, make: Make, error: Exception
) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    factory.gates["connect"].error(error)
    failure = outcome(lease.refresh)
    assert (type(failure), failure.__cause__) == (ConnectError, error)
    factory.gates["connect"].ok()
    clock.advance(5)
    pool.acquire().release()


def test_a_refresh_in_a_pool_that_closes_fails(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    for stage in ("close", "connect"):
        pool = make(max_size=1)
        lease = pool.acquire()
        factory.gates[stage].slow(1)
        refreshing = clock.spawn(lease.refresh, 50)
        clock.advance(0.5)
        pool.close()
        assert isinstance(outcome(refreshing.result), PoolClosed), stage
        clock.advance(2)
        assert pool.stats().size == 0
        factory.gates[stage].ok()


def test_a_refresh_of_a_lease_from_a_closed_pool_fails_at_once(clock: ManualClock, make: Make) -> None:
    pool = make()
    lease = pool.acquire()
    pool.close()
    took, error = timed(clock, lease.refresh, 5)
    clock.advance(0)
    assert (took, type(error), pool.stats().size) == (0, PoolClosed, 0)


def test_a_refresh_beyond_a_shrunken_max_size_opens_one_connection(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """The lease was there before the resize: it keeps its slot until it ends."""
    pool = make(max_size=2)
    one, two = pool.acquire(), pool.acquire()
    pool.resize(max_size=1)
    took, connection = timed(clock, one.refresh, 5)
    assert (took, connection.number, factory.opened) == (0, 3, 3)
    one.release()
    clock.advance(0)
    assert (pool.stats().size, pool.stats().closed) == (1, {"discarded": 1, "surplus": 1})
    two.release()


def test_a_callable_may_be_the_factory_and_close_is_called(clock: ManualClock, make: Make) -> None:
    class Thing:
        closed = 0

        def close(self) -> None:
            self.closed += 1

    things: list[Any] = []

    def connect() -> Thing:
        things.append(Thing())
        return things[-1]

    pool = make(factory=connect)
    pool.acquire().discard()
    clock.advance(0)
    assert [thing.closed for thing in things] == [1]


def test_a_refresh_whose_connect_began_before_a_break_is_checked_first(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """Whatever is older than the first broken connection is suspect, also one that somebody waits for by name."""
    pool = make(max_size=2)
    lease, other = pool.acquire(), pool.acquire()
    factory.gates["connect"].slow(1)
    refreshing = clock.spawn(lease.refresh, 10)
    clock.advance(0.5)
    with pytest.raises(FakeBroken), other:
        raise FakeBroken
    checks = factory.gates["check"].calls
    clock.advance(1)
    assert factory.gates["check"].calls == checks + 1
    assert refreshing.result().number == 3
    lease.release()


def test_a_refresh_that_is_found_dead_after_a_break_is_opened_again(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=2)
    lease, other = pool.acquire(), pool.acquire()
    factory.gates["connect"].slow(1)
    factory.gates["check"].error(FakeBroken("the server has restarted"))
    refreshing = clock.spawn(lease.refresh, 10)
    clock.advance(0.5)
    with pytest.raises(FakeBroken), other:
        raise FakeBroken
    clock.advance(3)
    assert refreshing.result().number == 4
    lease.release()


def test_a_release_that_has_just_looked_when_clear_comes_is_found_a_little_later(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """Between its look at the connection's limits and its append to the idle ones."""
    pool = make(max_size=1, reset="transaction")
    lease = pool.acquire()
    used = pool._used

    class Clearing(list[float]):
        def append(self, sample: float, /) -> None:
            pool.clear()
            used.append(sample)

    pool._used = Clearing()
    lease.release()
    pool._used = used
    assert (pool.stats().idle, factory.open) == (1, 1)
    clock.advance(1)
    assert (pool.stats().idle, factory.open) == (0, 0)
    assert pool.stats().closed == {"stale": 1}


def test_a_refresh_that_gives_up_before_its_connect_begins_leaves_nothing_behind(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """The server is away, and the next try is not due."""
    pool = make(fail_after=None, backoff=lambda failures: 60.0)
    lease = pool.acquire()
    factory.gates["connect"].error(OSError())
    assert isinstance(outcome(pool.acquire, 1), PoolTimeout)
    assert isinstance(outcome(lease.refresh, 1), PoolTimeout)
    assert (pool.stats().size, pool.drain(0)) == (0, True)


@pytest.mark.parametrize("down", [False, True])
def test_refreshes_open_no_more_at_once_than_others_do(
    clock: ManualClock, factory: FakeFactory, make: Make, down: bool
) -> None:
    """A restart has everybody ask for a new connection in the same moment."""
    pool = make(max_size=20, max_connecting=4, fail_after=None)
    leases = [pool.acquire() for _ in range(20)]
    connect = factory.gates["connect"]
    if down:
        connect.error(OSError("down"))
        waiting = clock.spawn(leases.pop().refresh, 5)
        clock.advance(0.01)
        assert isinstance(outcome(waiting.result), ConnectError)
    connect.slow(0.5)
    most, enter = 0, connect.enter

    def entered() -> None:
        nonlocal most
        most = max(most, connect.inside + 1)
        enter()

    connect.enter = entered  # type: ignore[method-assign]
    refreshing = [clock.spawn(lease.refresh, 30) for lease in leases]
    clock.advance(10)
    assert all(actor.result().number > 20 for actor in refreshing)
    assert most == 4
    for lease in leases:
        lease.release()
    clock.advance(0)
    assert (pool.stats().idle, factory.peak) == (len(leases), 20)


def test_refreshes_that_wait_for_a_connect_fail_with_it_are_given_up_and_end_with_the_pool(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    connect = factory.gates["connect"]
    for end in ("error", "timeout", "close"):
        connect.ok()
        pool = make(max_size=3, max_connecting=1)
        leases = [pool.acquire() for _ in range(3)]
        connect.slow(1)
        refreshing = [clock.spawn(lease.refresh, 0.5 if end == "timeout" else 5) for lease in leases]
        late = clock.spawn(pool.acquire, 20)
        clock.advance(0.25)
        assert (pool.stats().connecting, pool.stats().size) == (1, 1)  # the other two slots are theirs
        if end == "error":
            connect.error(OSError("down"))
            clock.spawn(pool.clear)
        elif end == "close":
            pool.close(timeout=0)
            clock.advance(0)
            assert all(actor.done for actor in refreshing)
        clock.advance(8)
        expected = {"error": ConnectError, "timeout": PoolTimeout, "close": PoolClosed}[end]
        found = [type(outcome(actor.result)) for actor in refreshing]
        assert found[1:] == [expected] * 2, end
        outcome(late.result)
