"""Waiters are served first come, first served, by direct hand-over."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from pooling import PoolTimeout
from pooling.testing import Actor, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, struck_while_waiting, timed


def queue_up(clock: ManualClock, pool: Any, served: list[Any], *waiters: tuple[str, float]) -> list[Actor]:
    """Spawn waiters of a name and priority, a second apart, each of which notes its name and gives back."""

    def wait(name: str, priority: float) -> None:
        with pool.acquire(timeout=1000, priority=priority):
            served.append(name)
            clock.sleep(0.01)

    actors = []
    for name, priority in waiters:
        actors.append(clock.spawn(wait, name, priority))
        clock.advance(1)
    return actors


def test_waiters_are_served_in_the_order_of_their_arrival(clock: ManualClock, make: Make) -> None:
    pool, served = make(max_size=1), []  # type: ignore[var-annotated]
    with pool.acquire():
        queue_up(clock, pool, served, *((name, 0.0) for name in "abcdefgh"))
    clock.advance(1)
    assert served == list("abcdefgh")


def test_nobody_overtakes_a_waiter_not_even_the_one_who_has_just_released(clock: ManualClock, make: Make) -> None:
    pool, served = make(max_size=1), []  # type: ignore[var-annotated]
    lease = pool.acquire()
    queue_up(clock, pool, served, ("waiter", 0.0))
    lease.release()
    with pool.acquire(timeout=1):
        served.append("barger")
    assert served == ["waiter", "barger"]


def test_a_connection_is_handed_over_at_the_moment_of_its_release(clock: ManualClock, make: Make) -> None:
    """In virtual time, at once; there is no polling interval."""
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(timed, clock, pool.acquire, 5)
    clock.advance(0.0371)
    lease.release()
    clock.advance(0)
    took, handed = waiting.result()
    assert took == pytest.approx(0.0371)
    handed.release()


def test_what_was_handed_over_is_the_waiters_before_it_has_woken_up(clock: ManualClock, make: Make) -> None:
    """Direct hand-over, not a race for an idle one."""
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0)
    lease.release()
    assert (pool.stats().idle, pool.stats().leased, pool.stats().waiting) == (0, 1, 0)
    assert isinstance(outcome(pool.acquire, 0), PoolTimeout)
    clock.advance(0)
    waiting.result().release()


class Signal(BaseException):
    """What a signal handler raises in the middle of a wait."""


def test_a_signals_exception_while_waiting_loses_nothing(clock: ManualClock, make: Make) -> None:
    """Before, and at the very moment of, the hand-over."""
    pool = make(max_size=1)
    lease = pool.acquire()
    with struck_while_waiting(clock, Signal):
        early = clock.spawn(pool.acquire, 5)
        clock.advance(1.5)
        assert isinstance(outcome(early.result), Signal)
        assert pool.stats().waiting == 0

        served = clock.spawn(pool.acquire, 5)
        clock.advance(0.5)
        lease.release()  # hands over; the exception strikes as the waiter wakes up
        clock.advance(0)
        assert isinstance(outcome(served.result), Signal)
        assert (pool.stats().idle, pool.stats().waiting) == (1, 0)
    pool.acquire(timeout=0).release()


def test_a_waiter_may_take_a_returned_connection_while_its_connect_is_pending(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """The connection comes back after 30 ms, the connect would take 1 s."""
    pool = make(max_size=2)
    lease = pool.acquire()
    factory.gates["connect"].slow(1)
    waiting = clock.spawn(timed, clock, pool.acquire, 5)
    clock.advance(0.03)
    assert factory.gates["connect"].inside == 1
    lease.release()
    clock.advance(0)
    took, handed = waiting.result()
    assert took == pytest.approx(0.03, abs=1e-9)
    assert handed.connection.number == 1
    handed.release()
    clock.advance(1)
    assert pool.stats().idle == 2  # the connect that nobody waited for is not wasted


def test_negative_priority_goes_first_and_positive_lets_others_by(clock: ManualClock, make: Make) -> None:
    pool, served = make(max_size=1), []  # type: ignore[var-annotated]
    with pool.acquire():
        queue_up(clock, pool, served, ("low", 100), ("plain", 0), ("high", -100), ("higher", -200))
    clock.advance(1)
    assert served == ["higher", "high", "plain", "low"]


def test_equal_priorities_are_first_come_first_served(clock: ManualClock, make: Make) -> None:
    pool, served = make(max_size=1), []  # type: ignore[var-annotated]
    with pool.acquire():
        queue_up(clock, pool, served, *((name, -50.0) for name in "abc"), *((name, 50.0) for name in "xyz"))
    clock.advance(1)
    assert served == list("abcxyz")


def test_waiting_ages_so_that_the_lowest_class_is_served(clock: ManualClock, make: Make) -> None:
    """With a new caller each second, one with priority=10 waits for ten of them, not for ever."""
    pool, served = make(max_size=1), []  # type: ignore[var-annotated]
    lease = pool.acquire()
    queue_up(clock, pool, served, ("low", 9.5), *((f"plain-{n}", 0.0) for n in range(20)))
    lease.release()
    clock.advance(1)
    assert served.index("low") == 9
    assert served == sorted(served, key=lambda name: 9.5 if name == "low" else 1 + int(name[6:]))


@pytest.mark.parametrize("priority", [-5, -3], ids=["in-front", "behind-another"])
def test_one_with_a_priority_that_times_out_swallows_nothing(clock: ManualClock, make: Make, priority: float) -> None:
    """The queue is a heap then."""
    pool = make(max_size=1)
    lease = pool.acquire()
    gone = clock.spawn(pool.acquire, 1, priority)
    staying = clock.spawn(pool.acquire, 9, -4)
    clock.advance(0)
    assert pool.stats().waiting == 2
    clock.advance(2)
    assert isinstance(outcome(gone.result), PoolTimeout)
    assert pool.stats().waiting == 1
    lease.release()
    clock.advance(0)
    staying.result().release()
    assert pool.stats().waiting == 0


def test_one_who_leaves_the_middle_of_those_with_priorities_changes_nothing_for_the_others(
    clock: ManualClock, make: Make
) -> None:
    """A heap out of whose middle one is taken need not be one: of these it shows."""
    pool, served = make(max_size=1), []  # type: ignore[var-annotated]

    def wait(priority: float) -> None:
        lease = outcome(pool.acquire, 1 if priority == 2 else 100, priority)
        if not isinstance(lease, PoolTimeout):
            served.append(priority)
            lease.release()

    with pool.acquire():
        for priority in (1, 2, 4, 5, 3, 6):
            clock.spawn(wait, priority)
        clock.advance(2)
    clock.advance(0)
    assert served == [1, 3, 4, 5, 6]


def test_any_mix_of_priorities_arrivals_and_departures_keeps_the_order(clock: ManualClock, make: Make) -> None:
    """Those who are still there are served by arrival plus priority, ties by arrival."""
    pick = random.Random(7)
    pool = make(max_size=1)
    lease, keys, served = pool.acquire(), {}, []

    def wait(name: int, timeout: float, priority: float) -> None:
        keys[name] = (clock.now() + priority, name)
        if not isinstance(
            outcome(
                taking := pool.acquire(timeout=timeout, priority=priority),
            ),
            PoolTimeout,
        ):
            served.append(name)
            taking.release()

    actors = []
    for name in range(60):
        actors.append(clock.spawn(wait, name, pick.choice([2, 1000]), pick.choice([0, 0, 0, -3, 7])))
        clock.advance(pick.choice([0, 0.5]))
    clock.advance(3)
    lease.release()
    clock.advance(1)
    assert 20 < len(served) < 60
    assert served == sorted(served, key=lambda name: keys[name])


def test_real_threads_are_served_in_the_order_of_their_arrival() -> None:
    """40 threads join one after the other."""
    from pooling import Pool

    served: list[int] = []
    with Pool(FakeFactory(), max_size=1) as pool:
        lease = pool.acquire()

        def wait(number: int) -> None:
            with pool.acquire():
                served.append(number)

        threads = []
        for number in range(40):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            while pool.stats().waiting <= number:
                threading.Event().wait(0.0005)
        lease.release()
        for thread in threads:
            thread.join()
    assert served == list(range(40))


def test_the_head_of_the_queue_and_its_age_are_in_the_stats(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    with pool.acquire():
        for _ in range(2):
            clock.spawn(pool.acquire, 2.5)
            clock.advance(1)
        assert (pool.stats().waiting, pool.stats().oldest_wait) == (2, pytest.approx(2))
        clock.advance(2)
    assert (pool.stats().waiting, pool.stats().oldest_wait) == (0, 0.0)
