"""How many connections are opened, and how fast: never above the cap, slowly at first, as fast as needed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pooling import Pool, PoolTimeout
from pooling.testing import FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, timed


def use(clock: ManualClock, pool: Any, seconds: float) -> None:
    with pool.acquire():
        clock.sleep(seconds)


def test_never_more_open_than_the_cap_with_those_connecting_and_slowly_closing(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """Every use ends by a close that takes longer than the use."""
    pool = make(max_size=3, max_uses=1, timeout=1000)
    factory.gates["connect"].slow(0.2)
    factory.gates["close"].slow(0.5)
    users = [clock.spawn(use, clock, pool, 0.01) for _ in range(30)]
    for _ in range(200):
        clock.advance(0.1)
        stats = pool.stats()
        inside = factory.gates["connect"].inside
        assert factory.open + inside <= stats.size <= 3
        assert stats.size == stats.idle + stats.leased + stats.connecting + stats.busy + stats.closing
    assert all(user.done for user in users)
    assert factory.peak == 3


def test_no_cap_opens_for_everybody(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=None)
    leases = [pool.acquire(timeout=1) for _ in range(200)]
    assert factory.peak == 200
    assert pool.stats().max_size is None
    for lease in leases:
        lease.release()


@pytest.mark.parametrize("most", [1, 3, 8])
def test_concurrent_connects_are_limited(clock: ManualClock, factory: FakeFactory, make: Make, most: int) -> None:
    pool = make(max_size=50, max_connecting=most, min_size=20)
    factory.gates["connect"].slow(1)
    for _ in range(50):
        clock.spawn(use, clock, pool, 100)
    inside = []
    for _ in range(12):
        clock.advance(0.5)
        inside.append(factory.gates["connect"].inside)
    assert max(inside) == most


def test_opening_begins_with_one_and_doubles_with_each_success_while_waiters_remain(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=50)
    factory.gates["connect"].slow(1)
    for _ in range(50):
        clock.spawn(use, clock, pool, 100)
    inside = []
    clock.advance(0.5)
    for _ in range(5):
        inside.append(factory.gates["connect"].inside)
        clock.advance(1)
    assert inside == [1, 2, 8, 8, 8]  # of the two, each doubles it


def test_who_comes_while_one_is_opened_for_another_has_one_opened_as_well_once_that_has_succeeded(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=4, nested=None)
    factory.gates["connect"].slow(1)
    actors = [clock.spawn(timed, clock, pool.acquire, 10) for _ in range(2)]
    clock.advance(1.1)
    actors.append(clock.spawn(timed, clock, pool.acquire, 10))
    clock.advance(5)
    took, leases = zip(*(actor.result() for actor in actors), strict=True)
    assert took == pytest.approx((1, 2, 1))
    for lease in leases:
        lease.release()


def test_a_spike_of_short_uses_opens_two_at_most_and_is_over_soon(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """5 idle of 50, 50 callers at once, a connect takes 150 ms and a use 2 ms."""
    pool = make(max_size=50)
    for lease in [pool.acquire() for _ in range(5)]:
        lease.release()
    factory.gates["connect"].slow(0.15)
    users = [clock.spawn(use, clock, pool, 0.002) for _ in range(50)]
    start = clock.now()
    while not all(user.done for user in users):
        clock.advance(0.001)
    assert clock.now() - start <= 0.021
    clock.advance(1)
    assert factory.opened - 5 <= 2
    assert pool.stats().wait.max <= 0.02


@pytest.mark.parametrize(("callers", "opened"), [(1, 1), (2, 2), (3, 3), (50, 3)])
def test_a_spike_on_a_pool_that_has_nothing_open_opens_three_at_most(
    clock: ManualClock, factory: FakeFactory, make: Make, callers: int, opened: int
) -> None:
    """As the README says."""
    pool = make(max_size=50)
    factory.gates["connect"].slow(0.1)
    users = [clock.spawn(use, clock, pool, 0) for _ in range(callers)]
    clock.advance(1)
    assert all(user.done for user in users)
    assert factory.opened == opened


def test_a_spike_shrinks_gradually_not_at_once(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """Those last used go later, those unused for idle_timeout go; min_size stays."""
    pool = make(max_size=20, min_size=2, idle_timeout=10, max_lifetime=None)
    leases = [pool.acquire() for _ in range(10)]
    for lease in leases:
        lease.release()
        clock.advance(1)
    sizes = []
    for _ in range(15):
        sizes.append(pool.stats().size)
        clock.advance(1)
    assert sizes[0] == 9  # the first has been unused for ten seconds by now
    assert sizes[-1] == 2
    assert sizes == sorted(sizes, reverse=True)
    assert all(before - after <= 1 for before, after in itertools.pairwise(sizes))


def test_a_ramp_is_followed_fast(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """From 1 to 50 held connections, a connect takes 50 ms: 500 ms at most."""
    pool = make(max_size=50)
    pool.acquire().release()
    factory.gates["connect"].slow(0.05)
    start, users = clock.now(), [clock.spawn(use, clock, pool, 1000) for _ in range(50)]
    while pool.stats().leased < 50:
        clock.advance(0.01)
    assert clock.now() - start <= 0.5
    assert len(users) == 50
    assert factory.opened == 50


def test_spike_and_ramp_in_real_time() -> None:
    """With real threads, once each, with a margin for a noisy machine; best of three."""
    import threading
    import time

    def run(held: int, callers: int, connect: float, hold: float | None) -> tuple[float, int]:
        factory, enough = FakeFactory(), threading.Event()
        with Pool(factory, max_size=50) as pool:
            for lease in [pool.acquire() for _ in range(held)]:
                lease.release()
            factory.gates["connect"].slow(connect)
            start, barrier = [0.0], threading.Barrier(callers + 1)
            inside = threading.Semaphore(0)

            def use() -> None:
                barrier.wait()
                with pool.acquire():
                    inside.release()
                    enough.wait(hold)
                inside.release()

            threads = [threading.Thread(target=use) for _ in range(callers)]
            for thread in threads:
                thread.start()
            barrier.wait()
            start[0] = time.monotonic()
            for _ in range(callers * (1 if hold is None else 2)):
                inside.acquire()
            took = time.monotonic() - start[0]
            enough.set()
            for thread in threads:
                thread.join()
            return took, factory.opened - held

    spikes = [run(5, 50, 0.15, 0.002) for _ in range(3)]
    assert min(spikes)[0] < 0.12  # before the first connect is over
    assert min(opened for _, opened in spikes) <= 2
    assert min(run(1, 50, 0.05, None) for _ in range(3))[0] < 0.75


def test_a_slow_connect_blocks_nobody_else(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """Others lease, release and look at the pool while it hangs."""
    pool = make(max_size=2)
    lease = pool.acquire()
    lease.release()
    factory.gates["connect"].never()
    with pool.acquire():
        hanging = clock.spawn(pool.acquire, 8)
        clock.advance(0.1)
        assert factory.gates["connect"].inside == 1
    clock.advance(0)
    hanging.result().release()
    for _ in range(10):
        with pool.acquire(timeout=0):
            assert pool.stats().leased == 1


def test_a_connect_that_hangs_gets_others_beside_it_while_callers_wait(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """As one does whose address is the dead one of several, or whose packets are lost. The others are opened as ever:
    one, and with each success twice as many."""
    pool = make(max_size=20, connect_timeout=10)
    connect = factory.gates["connect"]
    connect.never()
    users = [clock.spawn(use, clock, pool, 100) for _ in range(8)]
    clock.advance(1.9)
    assert connect.calls == 1
    connect.slow(0.5)  # those inside stay there
    clock.advance(0.2)
    assert (connect.calls, connect.inside) == (2, 2)
    clock.advance(0.5)
    assert (connect.calls, connect.inside, pool.stats().leased) == (4, 3, 1)
    clock.advance(1.0)
    assert (connect.calls, connect.inside, pool.stats().leased, pool.stats().state) == (9, 1, 8, "up")
    connect.ok()
    clock.advance(100)
    assert all(user.done for user in users)


def test_connects_that_all_hang_are_no_more_at_once_than_others(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=20, max_connecting=3, connect_timeout=10)
    factory.gates["connect"].never()
    callers = [clock.spawn(outcome, pool.acquire, 9) for _ in range(8)]
    inside = []
    for _ in range(8):
        clock.advance(1)
        inside.append(factory.gates["connect"].inside)
    assert inside == [1, 2, 2, 3, 3, 3, 3, 3]
    factory.gates["connect"].ok()
    clock.advance(0)
    assert not any(isinstance(caller.result(), BaseException) for caller in callers)


def test_for_a_lone_caller_one_connect_is_begun_beside_another_that_hangs(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=20, connect_timeout=10)
    factory.gates["connect"].never()
    caller = clock.spawn(outcome, pool.acquire, 9)
    clock.advance(1.9)
    assert factory.gates["connect"].calls == 1
    clock.advance(7)
    assert (factory.gates["connect"].calls, pool.stats().connecting) == (2, 2)
    factory.gates["connect"].ok()
    clock.advance(0)
    caller.result().release()


def test_a_connect_error_is_tried_again_until_the_deadline(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """An ordinary error frees the slot; the waiter waits for the next try."""
    pool = make(max_size=1)
    factory.gates["connect"].error(ConnectionResetError("once"))
    waiting = clock.spawn(pool.acquire, 3)
    clock.advance(0.01)
    assert pool.stats().errors == 1
    factory.gates["connect"].ok()
    clock.advance(0.1)
    waiting.result().release()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit])
def test_a_factorys_error_reaches_the_caller_as_cause_and_frees_the_slot(
    clock: ManualClock, factory: FakeFactory, make: Make, error: type[BaseException]
) -> None:
    """BaseException as well; every waiter hears of it, each by an error of its own."""
    pool = make(max_size=1, fail_after=0)
    cause = error("no luck")
    factory.gates["connect"].error(cause)
    waiting = [clock.spawn(pool.acquire, 3) for _ in range(3)]
    clock.advance(0.5)
    errors = [outcome(actor.result) for actor in waiting]
    assert all(failure.__cause__ is cause for failure in errors)
    assert len({id(failure) for failure in errors}) == 3
    assert pool.stats().size == 0
    factory.gates["connect"].ok()
    clock.advance(1)
    pool.acquire(timeout=0.5).release()


def test_the_next_waiter_is_served_when_the_first_ones_connect_fails(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """The slot that a failed connect frees goes on serving the queue."""
    pool = make(max_size=1)
    factory.gates["connect"].error(OSError())
    first = clock.spawn(pool.acquire, 0.01)
    second = clock.spawn(pool.acquire, 5)
    clock.advance(0.02)
    assert isinstance(outcome(first.result), PoolTimeout)
    factory.gates["connect"].ok()
    clock.advance(0.5)
    second.result().release()


def test_min_size_is_filled_from_the_first_use_on_and_refilled(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(min_size=3, max_size=5)
    pool.acquire().release()
    clock.advance(0)
    assert pool.stats().idle == 3
    pool.acquire().discard()
    clock.advance(0)
    assert (pool.stats().idle, factory.opened) == (3, 4)
    pool.clear()
    clock.advance(0)
    assert (pool.stats().idle, factory.opened) == (3, 7)


def test_no_callback_runs_under_the_lock(clock: ManualClock) -> None:
    """Every hook, listener and logger that the pool calls finds its lock free."""
    import logging

    held: list[str] = []
    pools: list[Pool[Any]] = []

    def look(where: str) -> None:
        if any(pool._lock._is_owned() for pool in pools):
            held.append(where)

    class Looks(FakeFactory):
        def __getattribute__(self, name: str) -> Any:
            if name in {"connect", "close", "check", "reset", "is_alive", "is_clean", "view", "interrupt", "is_broken",
                        "is_demoted", "is_permanent"}:  # fmt: skip
                look(name)
            return super().__getattribute__(name)

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            look("log")

    pool = Pool(Looks(clock), runtime=clock, on_connect=lambda _: look("on_connect"), check="ping", max_uses=3,
                leak_after=1, name="unlocked")  # fmt: skip
    pools.append(pool)
    handler = Listening()
    logging.getLogger("pooling.pool.unlocked").addHandler(handler)
    called: list[str] = []
    pool.subscribe(lambda event: (look("listener"), called.append(event.kind)))
    for _ in range(3):
        with pool.acquire() as connection:
            connection.dirty = True
            clock.advance(2)
        clock.advance(2)
    del connection
    pool.acquire()
    clock.advance(0)
    pool.close()
    logging.getLogger("pooling.pool.unlocked").removeHandler(handler)
    assert held == []
    assert {"connect", "acquire", "release", "close", "leak"} <= set(called)


def test_what_is_lost_in_a_crowd_is_not_opened_again_all_at_once(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """The pool was full once: opening begins anew, with one, though the queue was never empty."""
    pool = make(max_size=4)
    factory.gates["connect"].slow(0.1)
    actors = [clock.spawn(pool.acquire, 60) for _ in range(12)]
    clock.advance(1)
    leases = [actor.result() for actor in actors if actor.done]
    assert len(leases) == 4
    pool.clear()
    for lease in leases:
        lease.release()
    clock.advance(0.05)
    assert factory.gates["connect"].inside == 1
    factory.gates["connect"].ok()
    for actor in actors[4:]:
        clock.advance(1)
        actor.result().release()
