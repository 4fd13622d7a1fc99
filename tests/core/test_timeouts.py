"""Every acquire has one deadline, kept exactly, and a timeout explains itself."""

from __future__ import annotations

import math

import pytest

from pooling import ConnectError, Pool, PoolTimeout, QueueFull
from pooling.testing import FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, timed


@pytest.mark.parametrize("timeout", [0.001, 0.25, 1, 7.5])
def test_a_timeout_is_exact_and_never_early(clock: ManualClock, make: Make, timeout: float) -> None:
    pool = make(max_size=1)
    with pool.acquire():
        took, error = timed(clock, pool.acquire, timeout)
    assert isinstance(error, PoolTimeout)
    assert took == pytest.approx(timeout, abs=1e-9)


def test_timeout_0_takes_an_idle_connection_or_fails_at_once(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    assert timed(clock, pool.acquire, 0)[0] == 0
    lease.release()
    pool.acquire(timeout=0).release()


def test_timeout_0_on_a_cold_pool_has_one_opened_for_the_next(clock: ManualClock, make: Make) -> None:
    pool = make()
    assert isinstance(outcome(pool.acquire, 0), PoolTimeout)
    clock.advance(0)
    assert pool.stats().idle == 1
    pool.acquire(timeout=0).release()


def test_so_it_does_however_quick_the_worker_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(FakeFactory()) as pool:
        monkeypatch.setattr(pool._runtime, "submit", lambda job: job())  # done before the caller has looked again
        with pytest.raises(PoolTimeout):
            pool.acquire(timeout=0)
        assert pool.stats().timeouts == 1
        pool.acquire(timeout=0).release()


def test_timeout_none_waits_for_ever(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, None)
    clock.advance(100_000)
    assert not waiting.done
    lease.release()
    clock.advance(0)
    waiting.result().release()


def test_an_infinite_timeout_is_as_good_as_none(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1, timeout=math.inf)
    with pool.acquire():
        waiting = clock.spawn(pool.acquire)
        clock.advance(100)
        assert not waiting.done
    clock.advance(0)
    waiting.result().release()


def test_the_timeout_of_a_call_goes_before_the_pools(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1, timeout=5)
    with pool.acquire():
        assert timed(clock, pool.acquire)[0] == pytest.approx(5)
        assert timed(clock, pool.acquire, 2)[0] == pytest.approx(2)
        assert timed(clock, pool.acquire, timeout=8)[0] == pytest.approx(8)


def test_a_waiter_that_timed_out_swallows_nothing(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    gone = clock.spawn(pool.acquire, 1)
    staying = clock.spawn(pool.acquire, 9)
    clock.advance(2)
    assert isinstance(outcome(gone.result), PoolTimeout)
    lease.release()
    clock.advance(0)
    assert pool.stats().waiting == 0
    staying.result().release()
    pool.acquire(timeout=0).release()


def test_one_served_in_the_very_moment_of_its_deadline_is_served_or_times_out_but_never_both(
    clock: ManualClock, make: Make
) -> None:
    """A release at the same instant as the deadline, in both orders."""
    for first in ("release", "acquire"):
        pool = make(max_size=1)
        lease = pool.acquire()

        def give_back(lease=lease) -> None:  # type: ignore[no-untyped-def]
            clock.sleep(1)
            lease.release()

        calls = {"release": lambda: clock.spawn(give_back), "acquire": lambda: clock.spawn(pool.acquire, 1)}  # noqa: B023
        actors = {first: calls.pop(first)()}
        actors |= {name: call() for name, call in calls.items()}
        clock.advance(1.5)
        result = outcome(actors["acquire"].result)
        assert pool.stats().leased == (not isinstance(result, PoolTimeout))
        if not isinstance(result, PoolTimeout):
            result.release()
        assert pool.stats().idle == 1


def test_a_full_queue_refuses_at_once_and_distinctly(clock: ManualClock, make: Make) -> None:
    pool = make(name="p", max_size=1, max_waiting=2)
    lease = pool.acquire()
    waiting = [clock.spawn(pool.acquire, 5) for _ in range(2)]
    clock.advance(0)
    took, error = timed(clock, pool.acquire, 5)
    assert (took, type(error)) == (0, QueueFull)
    assert not isinstance(error, PoolTimeout)
    assert str(error) == "2 callers are waiting for pool 'p' already (max_waiting)"
    assert isinstance(outcome(pool.acquire, 0), PoolTimeout)  # it never was to wait
    lease.release()
    for actor in waiting:
        clock.advance(0)
        actor.result().release()
    assert pool.stats().waiting == 0


def test_max_waiting_counts_everybody_who_waits_for_the_end_of_a_suspension(clock: ManualClock, make: Make) -> None:
    """However many connections there may be: none is opened meanwhile."""
    pool = make(max_size=3, max_waiting=1)
    pool.suspend()
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0)
    assert isinstance(outcome(pool.acquire, 5), QueueFull)
    pool.resume()
    clock.advance(0)
    waiting.result().release()


@pytest.mark.parametrize("hook", ["reset", "check", "close"])
def test_max_waiting_does_not_count_callers_whose_connection_a_worker_has(
    clock: ManualClock, factory: FakeFactory, make: Make, hook: str
) -> None:
    """Where each use leaves it dirty, max_waiting=0 refused all but the first."""
    pool = make(name="p", max_size=1, max_waiting=0, check="ping", check_after=0.0 if hook == "check" else 100.0)
    lease = pool.acquire()
    lease.connection.dirty = hook == "reset"
    factory.gates[hook].slow(0.5)
    if hook == "close":
        lease.discard()
    else:
        lease.release()
    waiting, refused = clock.spawn(pool.acquire), clock.spawn(pool.acquire)
    clock.advance(1)
    waiting.result().release()
    error = outcome(refused.result)
    assert isinstance(error, QueueFull)
    assert str(error) == "pool 'p' has no connection free, and nobody may wait for one (max_waiting=0)"


def test_max_waiting_counts_on_no_close_in_a_pool_that_has_shrunk(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """Nothing is opened in the place of what is closed there."""
    pool = make(max_size=3, max_waiting=0)
    leases = [pool.acquire() for _ in range(3)]
    factory.gates["close"].slow(0.5)
    pool.resize(max_size=1)
    leases[1].release()
    leases[2].release()
    assert isinstance(outcome(pool.acquire), QueueFull)


def test_max_waiting_does_not_count_callers_for_whom_a_connection_is_being_opened(make: Make) -> None:
    """A pool with max_waiting=0 opens and serves, and queues nobody."""
    pool = make(max_size=1, max_waiting=0)
    with pool.acquire():
        assert isinstance(outcome(pool.acquire), QueueFull)


def test_the_message_of_a_timeout_says_numbers_holders_and_cause(clock: ManualClock, make: Make) -> None:
    pool = make(name="shop", max_size=4)
    leases = []
    for _ in range(4):
        leases.append(pool.acquire())
        clock.advance(1)
    error = outcome(pool.acquire, 0.5)
    assert isinstance(error, PoolTimeout)
    assert isinstance(error, TimeoutError)
    lines = str(error).splitlines()
    assert lines[0] == (
        "no connection from pool 'shop' within 0.5 s (all in use): 4 in use, 0 idle, 0 connecting, 0 busy, "
        "0 closing of at most 4; 0 others waiting"
    )
    assert len(lines) == 4
    assert lines[1].startswith("  held by MainThread for 4.5 s, acquired at ")
    assert lines[1].endswith(" test_the_message_of_a_timeout_says_numbers_holders_and_cause")
    assert [round(holder.age, 9) for holder in error.holders] == [4.5, 3.5, 2.5, 1.5]
    assert error.stats is not None
    assert (error.stats.leased, error.stage, error.__cause__) == (4, "queue", None)
    for lease in leases:
        lease.release()


def test_a_timeout_while_connecting_fails_names_the_last_connect_error(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    cause = ConnectionRefusedError("nobody there")
    factory.gates["connect"].error(cause)
    error = outcome(make(fail_after=None).acquire, 1)
    assert isinstance(error, PoolTimeout)
    assert error.stage == "backoff"
    assert error.__cause__ is cause
    assert "(the server cannot be reached)" in str(error)
    assert str(error).splitlines()[-1].startswith("  last connect error, 0.")
    assert str(error).endswith(" s ago: ConnectionRefusedError: nobody there")


@pytest.mark.parametrize("stage", ["connect", "check", "reset", "close"])
def test_a_timeout_says_what_the_caller_was_waiting_for(
    clock: ManualClock, factory: FakeFactory, make: Make, stage: str
) -> None:
    pool = make(max_size=1, check="ping", check_after=0)
    lease = pool.acquire()
    if stage == "connect":
        lease.discard()
        clock.advance(0)
    factory.gates[stage].never()
    if stage == "reset":
        lease.connection.dirty = True
    if stage == "close":
        lease.discard()
    elif stage != "connect":
        lease.release()
    error = outcome(pool.acquire, 0.5)
    assert isinstance(error, PoolTimeout)
    assert error.stage == stage
    words = {"connect": "opened", "check": "checked", "reset": "reset", "close": "closed"}
    assert f"(one is being {words[stage]})" in str(error)


def test_an_acquire_that_waits_for_a_connect_ends_by_its_own_deadline(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    factory.gates["connect"].slow(3)
    took, error = timed(clock, make(fail_after=0).acquire, 1)
    assert (took, type(error)) == (pytest.approx(1), PoolTimeout)
    assert not isinstance(error, ConnectError)
