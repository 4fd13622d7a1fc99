"""What one user leaves behind does not reach the next."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest

from pooling import PoolError
from pooling.testing import FakeBroken, FakeConnection, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, timed


def test_a_dirty_connection_is_reset_on_return_and_reused(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=1)
    with pool.acquire() as first:
        first.dirty = True
    with pool.acquire() as second:
        assert (second, second.dirty, second.resets) == (first, False, 1)
    assert factory.opened == 1


def test_a_clean_connection_is_not_reset(factory: FakeFactory, make: Make) -> None:
    with make().acquire():
        pass
    assert factory.gates["reset"].calls == 0


def test_error_state_is_cleaned_after_a_block_that_raised(clock: ManualClock, make: Make) -> None:
    """An ordinary error of a user leaves a dirty connection, which is reset."""
    pool = make(max_size=1)
    with pytest.raises(ValueError), pool.acquire() as connection:
        connection.dirty = True
        raise ValueError
    with pool.acquire() as again:
        assert (again, again.resets) == (connection, 1)


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_a_failing_reset_closes_serves_the_waiter_and_does_not_raise(
    clock: ManualClock, factory: FakeFactory, make: Make, raised: type[BaseException]
) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    lease.connection.dirty = True
    factory.gates["reset"].error(raised("no"))
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0)
    lease.release()
    clock.advance(0)
    served = waiting.result()
    assert served.connection.number == 2
    assert pool.stats().closed == {"reset": 1}
    assert pool.stats().errors == 1
    served.release()


def test_a_reset_that_finds_the_connection_broken_makes_the_others_suspect(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(check_after=1000)
    one, two = pool.acquire(), pool.acquire()
    two.release()
    one.connection.dirty = one.connection.dead = True
    one.release()
    clock.advance(0)
    assert pool.stats().closed == {"broken": 1}
    assert factory.connections[1].checks == 1


def test_an_interrupted_reset_keeps_the_slot(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """While it runs the slot counts; when it is over, and be it by an interrupt, it is usable."""
    pool = make(max_size=1)
    lease = pool.acquire()
    lease.connection.dirty = True
    factory.gates["reset"].never()
    lease.release()
    clock.advance(0)
    assert (pool.stats().size, pool.stats().busy) == (1, 1)
    assert factory.opened == 1
    factory.gates["reset"].error(SystemExit())
    for actor in factory.gates["reset"]._stuck:
        actor.ended = True
        actor.wake()
    clock.advance(0)
    assert pool.stats().size in (0, 1)
    pool.acquire(timeout=1).release()


def test_the_releaser_does_not_wait_for_the_reset(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    lease.connection.dirty = True
    factory.gates["reset"].slow(3)
    assert timed(clock, lease.release)[0] == 0
    took, lease = timed(clock, pool.acquire, 5)
    assert took == pytest.approx(3)
    lease.release()


def test_reset_session_resets_every_return_without_asking(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    asked: list[FakeConnection] = []
    modes: list[str] = []

    class Session(FakeFactory):
        def is_clean(self, connection: FakeConnection) -> bool:
            asked.append(connection)
            return True

        def reset(self, connection: FakeConnection, mode: Any) -> None:
            modes.append(mode)

    pool = make(factory=Session(clock), reset="session", max_size=1)
    for _ in range(3):
        pool.acquire().release()
    clock.advance(0)
    assert (asked, modes) == ([], ["session"] * 3)


@pytest.mark.parametrize(("mode", "times"), [("transaction", 1), ("session", 2)])
def test_a_session_that_was_cleared_is_set_up_anew(clock: ManualClock, make: Make, mode: Any, times: int) -> None:
    """Of a transaction's end nothing of that is lost."""
    set_up: list[FakeConnection] = []
    pool = make(reset=mode, on_connect=set_up.append)
    with pool.acquire() as connection:
        connection.dirty = True
    clock.advance(0)
    assert (connection.resets, set_up) == (1, [connection] * times)


def test_reset_none_returns_connections_as_they_are(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(reset=None)
    with pool.acquire() as connection:
        connection.dirty = True
    with pool.acquire() as again:
        assert (again, again.dirty, factory.gates["reset"].calls) == (connection, True, 0)
    with pytest.raises(ValueError), pool.acquire() as connection:
        raise ValueError
    assert factory.gates["reset"].calls == 0


def test_a_session_reset_follows_a_block_that_raised_too(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(reset="session")
    with pytest.raises(ValueError), pool.acquire():
        raise ValueError
    clock.advance(0)
    assert factory.gates["reset"].calls == 1


@pytest.mark.parametrize("question", ["is_clean", "is_broken", "is_permanent"])
def test_a_factory_whose_opinion_raises_harms_nobody(
    clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture, question: str
) -> None:
    def fails(self: Any, subject: object) -> bool:
        raise ZeroDivisionError(question)

    odd = type("Odd", (FakeFactory,), {question: fails})(clock)
    pool = make(factory=odd, max_size=1, fail_after=0)
    if question == "is_permanent":
        odd.gates["connect"].error(OSError())
        outcome(pool.acquire, 1)
        odd.gates["connect"].ok()
        clock.advance(1)
    else:
        with pytest.raises(ValueError), pool.acquire():
            raise ValueError
        clock.advance(0)
        assert pool.stats().closed == {"discarded": 1}
    assert "ZeroDivisionError: " + question in caplog.text
    pool.acquire(timeout=1).release()


def test_what_the_question_whether_a_connection_is_clean_raises_is_in_no_cycle(
    clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """It leads to the frame of the release, which has the token: kept until the garbage collector comes, and not lost
    where the worker is that is to close the connection."""

    class Failure(Exception):
        pass

    class Odd(FakeFactory):
        def is_clean(self, connection: FakeConnection) -> bool:
            failure = Failure()
            raised.append(weakref.ref(failure))
            try:
                raise failure
            finally:
                del failure

    raised: list[weakref.ref[Failure]] = []
    caplog.set_level(logging.CRITICAL, "pooling")  # a record would keep it
    lease = make(factory=Odd(clock), max_size=1).acquire()
    gc.disable()
    try:
        lease.release()
        assert [failure() for failure in raised] == [None, None]
    finally:
        gc.enable()


def test_an_interrupt_that_strikes_the_question_whether_a_connection_is_clean_is_raised(
    clock: ManualClock, factory: FakeFactory, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever releases is asked, so it is meant for him. The slot is not lost with it."""

    def struck(connection: Any) -> bool:
        raise KeyboardInterrupt

    pool = make(max_size=1)
    lease = pool.acquire()
    with monkeypatch.context() as now:
        now.setattr(pool, "_is_clean", struck)
        with pytest.raises(KeyboardInterrupt):
            lease.release()
    pool.acquire(timeout=1).release()
    assert pool.stats().closed == {"dropped": 1}


def test_a_factory_is_asked_about_errors_only_where_there_was_one(clock: ManualClock, make: Make) -> None:
    asked: list[Any] = []

    class Asked(FakeFactory):
        def is_broken(self, error: BaseException) -> bool:
            asked.append(error)
            return False

    pool = make(factory=Asked(clock))
    with pool.acquire() as connection:
        connection.dirty = True
    clock.advance(0)
    assert (asked, connection.resets) == ([], 1)


def test_errors_of_close_are_contained(
    clock: ManualClock, factory: FakeFactory, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """BaseException too; the slot is free, the log has the error once."""
    pool = make(max_size=1)
    for error in (OSError("cannot close"), KeyboardInterrupt("cannot close")):
        factory.gates["close"].error(error)
        pool.acquire().discard()
        clock.advance(0)
        pool.acquire(timeout=1).release()
    assert pool.stats().errors == 2
    assert caplog.text.count("closing a connection failed: ") == 2


def test_a_connection_killed_while_idle_is_not_reused(clock: ManualClock, make: Make) -> None:
    pool = make(check_after=0)
    with pool.acquire() as first:
        pass
    first.dead = True
    with pool.acquire() as second:
        assert second is not first


def test_a_connection_killed_in_use_is_not_reused(clock: ManualClock, make: Make) -> None:
    """Its user sees the driver's error; a reset that fails on it as well."""
    pool = make()
    with pytest.raises(FakeBroken), pool.acquire() as first:
        first.dead = True
        raise FakeBroken
    with pool.acquire() as second:
        assert second is not first
        second.dirty = second.dead = True
    with pool.acquire() as third:
        assert third not in (first, second)


# -- transactions ------------------------------------------------------------------------------------------


class Transactions(FakeFactory):
    """Writes down what is asked of it; ``fails`` names calls that raise."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.said: list[str] = []
        self.fails: dict[str, BaseException] = {}

    def _say(self, word: str) -> None:
        self.said.append(word)
        if word in self.fails:
            raise self.fails[word]

    def begin(self, connection: FakeConnection) -> None:
        self._say("begin")
        connection.dirty = True

    def commit(self, connection: FakeConnection) -> None:
        self._say("commit")
        connection.dirty = False

    def rollback(self, connection: FakeConnection) -> None:
        self._say("rollback")
        connection.dirty = False


def test_a_transaction_commits_at_its_end(clock: ManualClock, make: Make) -> None:
    factory = Transactions(clock)
    pool = make(factory=factory)
    with pool.transaction() as connection:
        assert connection is factory.connections[0]
        assert "test_a_transaction_commits_at_its_end" in pool.holders()[0].where
    assert factory.said == ["begin", "commit"]
    assert (pool.stats().idle, factory.gates["reset"].calls) == (1, 0)


def test_a_transaction_rolls_back_on_an_exception(clock: ManualClock, make: Make) -> None:
    factory = Transactions(clock)
    pool = make(factory=factory)
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), pool.transaction():
            raise error
    assert factory.said == ["begin", "rollback"] * 2
    assert pool.stats().idle == 1


def test_a_plain_lease_never_commits(clock: ManualClock, make: Make) -> None:
    factory = Transactions(clock)
    with make(factory=factory).acquire() as connection:
        connection.dirty = True
    assert factory.said == []


def test_a_transaction_on_a_broken_connection_is_not_rolled_back(clock: ManualClock, make: Make) -> None:
    factory = Transactions(clock)
    pool = make(factory=factory)
    with pytest.raises(FakeBroken), pool.transaction():
        raise FakeBroken
    clock.advance(0)
    assert (factory.said, pool.stats().closed) == (["begin"], {"broken": 1})


@pytest.mark.parametrize(("broken", "expected"), [(True, {"broken": 1}), (False, {})])
@pytest.mark.parametrize("word", ["begin", "commit"])
def test_a_failing_begin_or_commit_is_raised_and_the_connection_judged_by_it(
    clock: ManualClock, make: Make, word: str, broken: bool, expected: dict[str, int]
) -> None:
    factory = Transactions(clock)
    factory.fails[word] = FakeBroken() if broken else ValueError()
    pool = make(factory=factory)
    with pytest.raises(type(factory.fails[word])), pool.transaction():
        pass
    clock.advance(0)
    assert (pool.stats().leased, pool.stats().closed) == (0, expected)


def test_a_failing_rollback_does_not_hide_the_blocks_own_error(clock: ManualClock, make: Make) -> None:
    factory = Transactions(clock)
    factory.fails["rollback"] = FakeBroken()
    pool = make(factory=factory)
    with pytest.raises(ValueError, match="mine"), pool.transaction():
        raise ValueError("mine")
    clock.advance(0)
    assert pool.stats().closed == {"broken": 1}


def test_a_transaction_is_entered_once(clock: ManualClock, make: Make) -> None:
    pool = make(factory=Transactions(clock), max_size=1)
    transaction = pool.transaction(timeout=1)
    with (
        transaction,
        pytest.raises(PoolError, match=r"^a transaction is entered once: call pool.transaction\(\) again$"),
    ):
        transaction.__enter__()
    with pytest.raises(PoolError):
        transaction.__enter__()
    transaction.__exit__(None, None, None)
    assert pool.stats().leased == 0
