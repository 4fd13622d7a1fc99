"""What goes wrong says why: a timeout reads like a diagnosis, and so do leaks and slow holders."""

from __future__ import annotations

import logging
import pickle
import threading
from typing import Any

import pytest

from pooling import ConnectError, Holder, PoolTimeout, Waiting
from pooling.testing import FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome


def use_for(clock: ManualClock, pool: Any, seconds: float) -> None:
    with pool.acquire(60):
        clock.sleep(seconds)


def timeout_of(pool: Any, seconds: float) -> PoolTimeout:
    error = outcome(pool.acquire, seconds)
    assert isinstance(error, PoolTimeout)
    return error


def test_a_timeout_is_a_whole_diagnosis(clock: ManualClock, make: Make) -> None:
    """Pool, numbers, own wait and stage, the longest holders, how long the head of the queue has waited."""
    pool = make(name="shop", max_size=4)
    users = []
    for seconds in (40, 30, 20, 10):
        users.append(clock.spawn(use_for, clock, pool, seconds))
        clock.advance(1)
    waiting = [clock.spawn(use_for, clock, pool, 1)]
    clock.advance(2)
    waiting.append(clock.spawn(use_for, clock, pool, 1))
    error = timeout_of(pool, 1.5)
    lines = str(error).splitlines()
    assert lines[0] == (
        "no connection from pool 'shop' within 1.5 s (all in use): 4 in use, 0 idle, 0 connecting, 0 busy, "
        "0 closing of at most 4; 2 others waiting, the longest for 3.5 s"
    )
    assert [line.partition(", acquired at ")[0].split(" for ")[1] for line in lines[1:]] == ["7.5 s", "6.5 s", "5.5 s"]
    assert all(f", acquired at {__file__}:" in line and line.endswith(" use_for") for line in lines[1:])
    assert [round(holder.age, 9) for holder in error.holders] == [7.5, 6.5, 5.5, 4.5]
    assert error.stats is not None
    assert (error.stats.waiting, error.stats.oldest_wait) == (2, pytest.approx(3.5))
    clock.advance(60)
    assert all(actor.done for actor in users + waiting)


def test_a_name_from_elsewhere_neither_begins_a_line_nor_steers_a_terminal(clock: ManualClock, make: Make) -> None:
    pool = make(name="shop\n\x1b[31m", max_size=1)
    with pool.acquire():
        threading.current_thread().name, name = "é\nCRITICAL all lost\x1b[31m\u202e\ud800", "MainThread"
        try:
            error = timeout_of(pool, 1)
        finally:
            threading.current_thread().name = name
    assert len(str(error).splitlines()) == 2
    assert "'shop\\n\\x1b[31m'" in str(error)
    assert r"held by é\nCRITICAL all lost\x1b[31m\u202e\ud800 for 1 s" in str(error)
    assert str(Waiting("a\nb", 1.0, "x.py:1 f")) == r"a\nb for 1 s, at x.py:1 f"


def test_an_error_from_elsewhere_neither(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    factory.gates["connect"].error(ConnectionRefusedError("no\nbody\x1b[31m"))
    error = timeout_of(make(fail_after=None), 1)
    assert str(error).endswith(r"ConnectionRefusedError: no body\x1b[31m")


def test_a_pool_that_has_nothing_to_say_leaves_no_logger_behind(make: Make, factory: FakeFactory) -> None:
    """The logging module keeps each for ever, and a crawler has pools to any number of hosts."""
    known = logging.getLogger().manager.loggerDict
    with make(name="https://quiet.example:443").acquire():
        pass
    assert not any("quiet" in name for name in known)
    factory.gates["close"].error(OSError("no"))
    with make(name="https://loud.example:443\n") as pool, pool.acquire():
        pass
    assert "pooling.pool.https://loud.example:443\\n" in known


def test_a_timeout_says_how_the_server_is(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    cause = ConnectionRefusedError("nobody there")
    pool = make(name="shop", max_size=2, fail_after=None)
    lease = pool.acquire()
    factory.gates["connect"].error(cause)
    error = timeout_of(pool, 1)
    lines = str(error).splitlines()
    assert "(the server cannot be reached): 1 in use" in lines[0]
    assert lines[1].startswith("  held by MainThread for 1 s, acquired at ")
    assert lines[2].startswith("  last connect error, 0.")
    assert lines[2].endswith(" s ago: ConnectionRefusedError: nobody there")
    assert error.__cause__ is cause
    assert error.stats is not None
    assert error.stats.last_error == "ConnectionRefusedError: nobody there"
    lease.release()


def test_what_was_repaired_is_of_no_interest_any_more(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=1)
    factory.gates["connect"].error(OSError("down"))
    outcome(pool.acquire, 1)
    factory.gates["connect"].ok()
    with pool.acquire():
        error = timeout_of(pool, 1)
    assert error.__cause__ is None
    assert "last connect error" not in str(error)


def test_a_timeout_tells_of_leaks_and_of_calls_that_hang(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=2, leak_after=2, connect_timeout=1)
    other = pool.acquire()
    clock.advance(3)
    lease = pool.acquire()
    error = timeout_of(pool, 1)
    assert "  leases that leaked so far: 1" in str(error).splitlines()
    factory.gates["reset"].never()
    lease.connection.dirty = True
    lease.release()
    clock.advance(5)
    with pool.acquire():
        error = timeout_of(pool, 1)
    assert "  calls of the driver that never came back: 1" in str(error).splitlines()
    other.release()


def test_a_timeout_says_that_nothing_can_be_opened_for_all_the_calls_that_hang(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(name="p", max_size=1, connect_timeout=1)
    factory.gates["connect"].never()
    outcome(pool.acquire, 5)
    error = timeout_of(pool, 1)
    assert error.stage == "hung"
    assert "(as many calls of the driver hang as there may be connections): 0 in use" in str(error)


def test_a_lonely_timeout_says_no_more_than_there_is(make: Make, factory: FakeFactory) -> None:
    factory.gates["connect"].never()
    assert str(timeout_of(make(name="p", max_size=None), 1)) == (
        "no connection from pool 'p' within 1 s (one is being opened): 0 in use, 0 idle, 1 connecting, 0 busy, "
        "0 closing of at most any number; 0 others waiting"
    )


def test_a_diagnosis_travels_between_processes(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    with pool.acquire():
        error = timeout_of(pool, 1)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.stage, copy.stats, copy.holders) == (str(error), "queue", error.stats, error.holders)
    assert all(isinstance(holder, Holder) for holder in copy.holders)


def test_a_refusal_says_for_how_long_and_when_next(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    factory.gates["connect"].error(OSError("no\n  route"))
    pool = make(name="shop", fail_after=3, backoff=lambda failures: 0.75)
    error = outcome(pool.acquire, 30)
    assert isinstance(error, ConnectError)
    assert str(error) == (
        "pool 'shop' cannot connect: OSError: no route (failing for 3 s, 4 tries; the next try is under way)"
    )
    clock.advance(0.25)
    assert str(outcome(pool.acquire, 30)).endswith("(failing for 3.25 s, 5 tries; the next try is in 0.5 s)")


def test_an_error_that_cannot_be_read_harms_nobody(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    class Unreadable(Exception):
        def __str__(self) -> str:
            raise KeyError

        __repr__ = __str__

    factory.gates["connect"].error(Unreadable())
    pool = make(fail_after=0)
    error = outcome(pool.acquire, 1)
    assert isinstance(error, ConnectError)
    assert "cannot connect: Unreadable (failing for" in str(error)
    assert pool.stats().last_error == "Unreadable"
    factory.gates["connect"].error(OSError("x" * 100_000))
    clock.advance(5)
    assert 1000 < len(str(outcome(pool.acquire, 1))) < 2000
    factory.gates["connect"].ok()
    clock.advance(5)
    pool.acquire(1).release()


def test_short_times_are_written_out(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """0.0001 s, not 6.5e-05 s: an acquire(timeout=0) fails within that, and somebody else may just have begun."""
    pool = make(max_size=1, timeout=None, fail_after=0, backoff=lambda failures: 0.000065)
    with pool.acquire():
        clock.advance(0.000065)
        assert str(pool.holders()[0]).startswith("MainThread for 0.0001 s, acquired at ")
        assert "held by MainThread for 0.0001 s, " in str(timeout_of(pool, 0))
        assert str(timeout_of(pool, 0.00002)).startswith(f"no connection from pool {pool.name!r} within 0 s ")
    pool.clear()
    factory.gates["connect"].error(OSError("down"))
    assert "the next try is in 0.0001 s)" in str(outcome(pool.acquire, 1))


def test_long_times_are_written_out(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """7200 s, not 7.2e+03 s: leaks and outages last."""
    pool = make(max_size=2, timeout=None, fail_after=7200, backoff=lambda failures: 60.0)
    lease = pool.acquire()
    clock.advance(7200)
    assert "MainThread for 7200 s, acquired at " in str(pool.holders()[0])
    factory.gates["connect"].error(OSError("down"))
    error = timeout_of(pool, 3599.6)
    assert str(error).startswith(f"no connection from pool {pool.name!r} within 3600 s ")
    assert "held by MainThread for 10800 s, " in str(error)
    refused = outcome(pool.acquire, 9000)
    assert "(failing for 7200 s, " in str(refused)
    lease.release()


def test_a_slow_holder_is_seen_wherever_one_looks(
    clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """A lease beyond leak_after: in the log, in an event, in the stats, among the holders, in whoever's timeout."""
    pool = make(name="shop", max_size=1, leak_after=5)
    heard: list[Any] = []
    pool.subscribe(heard.append)
    slow = clock.spawn(use_for, clock, pool, 30)
    clock.advance(6)
    (leak,) = [event for event in heard if event.kind == "leak"]
    assert leak.holder.where.endswith(" use_for")
    assert leak.duration == pytest.approx(5)
    assert pool.stats().leaks == 1
    (holder,) = pool.holders()
    assert (holder.age, holder.where) == (pytest.approx(6), leak.holder.where)
    assert leak.holder.where in str(timeout_of(pool, 1))
    assert any(leak.holder.where in message for message in caplog.messages)
    clock.advance(60)
    assert slow.done
