"""The end of a pool: by close(), drain(), its `with`."""

from __future__ import annotations

import gc

import pytest

from pooling import ConnectError, Pool, PoolClosed
from pooling.testing import FakeBroken, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, run_python, timed


@pytest.mark.parametrize("error", [None, OSError("down")])
def test_a_pool_that_drains_opens_for_those_who_wait_and_not_to_keep_min_size(
    clock: ManualClock, factory: FakeFactory, make: Make, error: Exception | None
) -> None:
    pool = make(min_size=2, max_size=3)
    leases = [pool.acquire() for _ in range(3)]
    waiting = clock.spawn(outcome, pool.acquire, 5)
    clock.advance(0)
    draining = clock.spawn(pool.drain, 60)
    clock.advance(0)
    if error is not None:
        factory.gates["connect"].error(error)
    calls = factory.gates["connect"].calls
    leases.pop().discard()
    clock.advance(1)
    if error is None:
        waiting.result().release()
        assert factory.gates["connect"].calls == calls + 1
    clock.advance(10)
    pool.clear()
    calls = factory.gates["connect"].calls
    leases.pop().release()
    clock.advance(10)
    assert factory.gates["connect"].calls == calls
    leases.pop().release()
    clock.advance(1)
    assert draining.result() is True


def test_a_drain_does_not_try_the_patience_of_those_who_wait_for_a_server_that_is_away(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(fail_after=5)
    lease = pool.acquire()
    factory.gates["connect"].error(OSError("down"))
    waiting = clock.spawn(timed, clock, pool.acquire, 60)
    clock.advance(4)
    draining = clock.spawn(pool.drain, 60)
    clock.advance(2)
    took, error = waiting.result()
    assert isinstance(error, ConnectError)
    assert took == pytest.approx(5)
    lease.release()
    clock.advance(1)
    assert draining.result() is True


def test_close_closes_the_idle_ones_and_may_be_called_again(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=3)
    for lease in [pool.acquire() for _ in range(3)]:
        lease.release()
    pool.close()
    assert (factory.open, pool.stats().size, pool.stats().closed) == (0, 0, {"pool": 3})
    pool.close()
    assert factory.gates["close"].calls == 3


def test_suspects_are_closed_with_the_pool_and_not_looked_at_before(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=3)
    leases = [pool.acquire() for _ in range(3)]
    pool.suspend()
    for lease in leases[1:]:
        lease.release()
    with pytest.raises(FakeBroken), leases[0]:
        raise FakeBroken
    pool.close()
    assert (factory.open, factory.gates["check"].calls) == (0, 0)


def test_an_acquire_after_close_fails_at_once(clock: ManualClock, make: Make) -> None:
    pool = make(name="p")
    pool.close()
    for call in (pool.acquire, pool.warm_up, pool.transaction().__enter__):
        took, error = timed(clock, call)
        assert (took, type(error), str(error)) == (0, PoolClosed, "pool 'p' is closed")
    assert pool.stats().size == 0


def test_close_fails_every_waiter_at_that_moment(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = [clock.spawn(timed, clock, pool.acquire, 60, priority) for priority in (0, 5, -5)]
    clock.advance(1)
    pool.close()
    clock.advance(0)
    for actor in waiting:
        took, error = actor.result()
        assert (took, type(error)) == (pytest.approx(1), PoolClosed)
    lease.release()


def test_a_release_after_close_closes_quietly(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make()
    clean, dirty = pool.acquire(), pool.acquire()
    dirty.connection.dirty = True
    pool.close()
    assert factory.open == 2
    assert not clean.connection.closed
    clean.release()
    dirty.release()
    clock.advance(0)
    assert (factory.open, pool.stats().size) == (0, 0)


def test_a_lease_that_is_lost_after_close_is_closed_too(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make()
    lease = pool.acquire()
    pool.close()
    del lease
    gc.collect()
    clock.advance(1)
    assert (factory.open, pool.stats().size, dict(pool.stats().closed)) == (0, 0, {"dropped": 1})


def test_close_during_a_connect_leaks_nothing(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """It waits for it, or leaves it to be closed when it comes."""
    for patience, expected in ((5.0, 1.0), (0.2, 0.2)):
        pool = make()
        factory.gates["connect"].slow(1)
        waiting = clock.spawn(pool.acquire, 60)
        clock.advance(0)
        took, _ = timed(clock, pool.close, patience)
        assert took == pytest.approx(expected)
        assert isinstance(outcome(waiting.result), PoolClosed)
        clock.advance(2)
        assert (factory.open, pool.stats().size) == (0, 0)


def test_close_during_a_failing_connect_ends(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(min_size=3)
    factory.gates["connect"].error(OSError())
    waiting = clock.spawn(pool.acquire, 60)
    clock.advance(0.3)
    assert timed(clock, pool.close)[0] == 0
    calls = factory.gates["connect"].calls
    clock.advance(60)
    assert factory.gates["connect"].calls == calls
    assert isinstance(outcome(waiting.result), PoolClosed)


def test_close_during_a_check_or_reset_closes_the_connection(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    for hook in ("check", "reset"):
        pool = make(check="ping", keepalive=5)
        lease = pool.acquire()
        lease.connection.dirty = hook == "reset"
        factory.gates[hook].slow(1)
        lease.release()
        clock.advance(5.5)
        if hook == "reset":
            lease = pool.acquire()
            lease.connection.dirty = True
            lease.release()
        pool.close()
        assert (factory.open, pool.stats().size) == (0, 0), hook
        factory.gates[hook].ok()


def test_leaving_its_with_closes_the_pool(clock: ManualClock) -> None:
    factory = FakeFactory(clock)
    with Pool(factory, runtime=clock) as pool, pool.acquire():
        pass
    assert factory.open == 0
    assert isinstance(outcome(pool.acquire), PoolClosed)


def test_drain_takes_no_new_acquires_and_waits_for_the_leases(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(name="p", max_size=2)
    leases = [pool.acquire() for _ in range(2)]
    waiting = clock.spawn(pool.acquire, 60)
    clock.advance(0)
    draining = clock.spawn(timed, clock, pool.drain, 30)
    clock.advance(1)
    assert str(outcome(pool.acquire)) == "pool 'p' is draining"
    assert (pool.stats().state, draining.done) == ("draining", False)
    leases.pop().release()
    clock.advance(1)
    waiting.result().release()  # those who waited before are served
    assert not draining.done
    leases.pop().release()
    clock.advance(0)
    assert draining.result() == (pytest.approx(2), True)
    assert (factory.open, pool.stats().state) == (0, "closed")


def test_drain_waits_for_those_who_wait_for_a_connection_that_is_being_opened(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make()
    factory.gates["connect"].slow(2)
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0)
    draining = clock.spawn(pool.drain, 60)
    clock.advance(3)
    assert not draining.done
    waiting.result().release()
    clock.advance(0)
    assert draining.result() is True


def test_drain_gives_up_after_its_timeout_and_closes(clock: ManualClock, make: Make) -> None:
    pool = make()
    lease = pool.acquire()
    assert timed(clock, pool.drain, 3) == (pytest.approx(3), False)
    assert pool.stats().state == "closed"
    lease.release()


def test_a_close_that_hangs_holds_a_drain_up_for_what_is_left_of_its_time(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    factory.gates["close"].slow(1000)
    for timeout, patience in ((3, 3), (0.1, 0.5), (60, 5)):
        pool = make()
        pool.acquire().release()
        assert timed(clock, pool.drain, timeout) == (pytest.approx(patience), True)
    clock.advance(1000)  # the closes end


def test_drain_of_a_quiet_pool_is_over_at_once(clock: ManualClock, make: Make) -> None:
    pool = make()
    pool.acquire().release()
    assert timed(clock, pool.drain) == (0, True)


def test_a_warm_up_into_a_closing_pool_fails(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(min_size=3)
    factory.gates["connect"].slow(5)
    warming = clock.spawn(pool.warm_up, 60)
    clock.advance(1)
    pool.close(timeout=0)
    clock.advance(0)
    assert isinstance(outcome(warming.result), PoolClosed)


def test_close_ends_all_threads() -> None:
    """Workers and reaper, with the last pool of the process."""
    run_python(
        """
        import os, threading
        from pooling import Pool
        from pooling.testing import FakeFactory
        files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        pools = [Pool(FakeFactory(), max_size=4, min_size=2, keepalive=60) for _ in range(3)]
        for pool in pools:
            pool.subscribe(lambda event: None)
            leases = [pool.acquire() for _ in range(4)]
            for lease in leases:
                lease.release()
        assert threading.active_count() > 1
        for pool in pools:
            pool.close()
        assert threading.active_count() == 1, threading.enumerate()
        if files:
            assert len(os.listdir("/proc/self/fd")) == files
        with pools[0].__class__(FakeFactory()) as again, again.acquire():
            pass
        assert threading.active_count() == 1, threading.enumerate()
        """
    )


def test_a_closed_pool_has_threads_until_its_last_lease_is_back_or_lost() -> None:
    run_python(
        """
        import gc, threading, time
        from pooling import Pool
        from pooling.testing import FakeFactory
        factory = FakeFactory()
        for end in ("release", "__repr__"):
            pool = Pool(factory)
            lease = pool.acquire()
            pool.close()
            getattr(lease, end)()
            del lease
            gc.collect()
            until = time.monotonic() + 5
            while (factory.open or threading.active_count() > 1) and time.monotonic() < until:
                time.sleep(0.01)
            assert (factory.open, threading.active_count()) == (0, 1), (end, factory.open, threading.enumerate())
        """
    )
