"""Threads that hold a connection and wait for another one, all of them: nobody can ever give one back."""

from __future__ import annotations

from typing import Any

import pytest

from pooling import Pool, PoolTimeout
from pooling.testing import FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, timed


def twice(pool: Pool[Any], clock: ManualClock, timeout: float = 5.0) -> None:
    """Acquire one, and one more a moment later."""
    with pool.acquire(timeout=timeout):
        clock.sleep(0.01)
        with pool.acquire(timeout=timeout):
            pass


def nesting(record: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in record.messages if "waits for another one" in message]


def test_starving_threads_are_named_within_a_tenth_of_a_second(
    clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(max_size=2)
    actors = [clock.spawn(twice, pool, clock) for _ in range(2)]
    clock.advance(0.1)
    (message,) = nesting(caplog)
    assert message.count(f"acquired at {__file__}:") == 2
    clock.advance(10)
    errors = [outcome(actor.result) for actor in actors]
    assert [type(error) for error in errors] == [PoolTimeout, type(None)]  # the first gives up, the other goes on


def test_it_is_said_once_whoever_comes_next(clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    pool = make(max_size=1)
    actors = [clock.spawn(twice, pool, clock)]
    clock.advance(0.1)
    for _ in range(5):
        actors.append(clock.spawn(pool.acquire, 1.0))
        clock.advance(0.2)
    assert len(nesting(caplog)) == 1
    clock.advance(10)
    for actor in actors:
        outcome(actor.result)


def test_who_starves_just_after_a_connection_was_handed_over_is_named_all_the_same(
    clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """What was suspected when the first came to wait is over; what begins within the same moment is looked for anew."""
    pool = make(max_size=1)
    lease = pool.acquire()
    actor = clock.spawn(twice, pool, clock)
    clock.advance(0.02)
    lease.release()
    clock.advance(0.1)
    assert len(nesting(caplog)) == 1
    clock.advance(10)
    assert isinstance(outcome(actor.result), PoolTimeout)


def test_who_starves_since_the_pool_has_shrunk_is_named(
    clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody comes to wait then: the connection that could have been given back is closed in place of that."""
    pool = make(max_size=3)
    lease = pool.acquire()
    actors = [clock.spawn(twice, pool, clock) for _ in range(2)]
    clock.advance(1)
    assert not nesting(caplog)
    pool.resize(max_size=2)
    lease.release()
    clock.advance(0.1)
    assert len(nesting(caplog)) == 1
    clock.advance(10)
    for actor in actors:
        outcome(actor.result)


def test_with_raise_the_last_to_come_gives_way_and_the_others_go_on(
    clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(max_size=3, nested="raise")
    heard: list[str] = []
    pool.subscribe(lambda event: heard.append(event.kind))
    actors = [clock.spawn(twice, pool, clock) for _ in range(3)]
    clock.advance(0.2)
    errors = [outcome(actor.result) for actor in actors]
    assert [type(error) for error in errors] == [type(None), type(None), PoolTimeout]
    assert errors[2].stage == "nested"
    assert len(errors[2].holders) == 3
    assert "each is held by a thread that waits for another one" in str(errors[2])
    assert pool.stats().timeouts == heard.count("timeout") == 1
    assert not nesting(caplog)


def test_one_thread_alone_can_starve_itself(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1, nested="raise")
    with pool.acquire():
        took, error = timed(clock, pool.acquire, 5)
    assert isinstance(error, PoolTimeout)
    assert took < 0.1


def test_nobody_starves_where_one_more_may_be_opened_when_the_server_is_back(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=2, nested="raise")
    with pool.acquire():
        factory.gates["connect"].error(OSError("down"))
        clock.spawn(lambda: (clock.sleep(1), factory.gates["connect"].ok()))
        with pool.acquire(timeout=5):
            assert 1 <= clock.now() - 1000 < 2


def test_of_a_lease_that_was_handed_to_another_thread_nothing_is_claimed(
    clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """As by frameworks that make a request's connection on one thread and use it on another: it does come back."""
    pool = make(max_size=1)
    handed: list[Any] = []

    def acquire_for_two() -> None:
        handed.append(pool.acquire())
        handed.append(pool.acquire(timeout=5))

    actor = clock.spawn(acquire_for_two)
    clock.advance(0.2)
    (message,) = nesting(caplog)
    assert "unless one was handed to another thread, none will come back" in message
    handed[0].release()
    clock.advance(0)
    assert actor.done
    handed[1].release()


@pytest.mark.parametrize("nested", ["warn", "raise"])
def test_nobody_is_accused_while_somebody_can_give_one_back(
    clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture, nested: Any
) -> None:
    pool = make(max_size=2, nested=nested)
    lease = pool.acquire()  # by this thread, which does not wait
    other = clock.spawn(twice, pool, clock)
    clock.advance(1)
    lease.release()
    clock.advance(0.1)
    assert other.result() is None
    assert not nesting(caplog)


def test_a_connection_that_is_being_reset_will_come(
    clock: ManualClock, factory: FakeFactory, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(max_size=2, nested="raise")
    factory.gates["reset"].slow(1)
    first, second = pool.acquire(), pool.acquire()
    second.connection.dirty = True
    second.release()
    took, lease = timed(clock, pool.acquire, 5)
    assert took == 1
    lease.release()
    first.release()


def test_none_does_not_look(clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    pool = make(max_size=1, nested=None)
    with pool.acquire():
        took, error = timed(clock, pool.acquire, 5)
    assert (took, error.stage) == (5, "queue")
    assert not nesting(caplog)
