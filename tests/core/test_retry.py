"""Work is tried again where that does no harm: after which errors, how often, and when."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import pooling
from pooling.retry import FullJitter, without_waiting
from pooling.testing import FakeBroken, FakeConnection, FakePermanent, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import timed
from tests.core.retried import Factory, RolledBack, Work, conflicts


@pytest.fixture
def factory(clock: ManualClock) -> Factory:
    return Factory(clock)


# -- which errors -----------------------------------------------------------------------------------------------


def test_work_that_succeeds_is_done_once_and_gets_its_arguments(make: Make) -> None:
    work = Work()
    assert make().run(work, 1, "two") == (1, "two")
    assert work.calls == 1


def test_work_that_was_rolled_back_is_done_again(make: Make) -> None:
    work = Work(*conflicts(3))
    assert make().run(work, "x") == ("x",)
    assert work.calls == 4


def test_an_unknown_outcome_is_raised(make: Make) -> None:
    work = Work(FakeBroken("cut"))
    with pytest.raises(FakeBroken) as caught:
        make().run(work)
    assert work.calls == 1
    if sys.version_info >= (3, 11):
        assert "not known whether the work was done" in caught.value.__notes__[0]


def test_an_unknown_outcome_of_idempotent_work_is_tried_again_on_another_connection(make: Make) -> None:
    work = Work(FakeBroken("cut"))
    pool = make()
    pool.run(work, idempotent=True)
    first, second = work.connections
    assert first is not second
    assert pool.stats().closed == {"broken": 1}


@pytest.mark.parametrize("transaction", [False, True])
def test_an_unknown_outcome_is_unknown_in_a_transaction_as_well(make: Make, transaction: bool) -> None:
    work = Work(FakeBroken("cut"))
    with pytest.raises(FakeBroken):
        make().run(work, transaction=transaction)
    assert work.calls == 1


@pytest.mark.parametrize("error", [ValueError("theirs"), pooling.PoolClosed(), pooling.ConnectError("of another pool")])
def test_every_other_error_is_raised_at_once(make: Make, error: Exception) -> None:
    work = Work(error)
    with pytest.raises(type(error)):
        make().run(work, idempotent=True)
    assert work.calls == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_what_ends_a_thread_ends_a_run(make: Make, error: BaseException) -> None:
    work = Work(error)
    pool = make()
    with pytest.raises(type(error)):
        pool.run(work, idempotent=True, on=lambda error: True)
    assert work.calls == 1
    assert pool.stats().leased == 0


@pytest.mark.parametrize("on", [LookupError, (ValueError, KeyError), lambda error: "again" in str(error)])
def test_the_caller_may_know_of_further_errors(make: Make, on: Any) -> None:
    work = Work(KeyError("again"))
    make().run(work, on=on)
    assert work.calls == 2
    with pytest.raises(OSError, match="no"):
        make().run(Work(OSError("no")), on=on)


def test_a_backend_that_fails_to_judge_counts_as_saying_no(make: Make, factory: Factory, caplog: Any) -> None:
    def fails(error: BaseException) -> bool:
        raise ZeroDivisionError

    factory.is_retryable = fails  # type: ignore[method-assign]
    with pytest.raises(RolledBack):
        make().run(Work(*conflicts(1)))
    assert "raised" in caplog.text


@pytest.mark.parametrize("question", ["is_retryable", "on", "is_broken"])
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_that_strikes_a_judgement_ends_the_run(
    make: Make, factory: Factory, question: str, interrupt: type[BaseException]
) -> None:
    def struck(error: BaseException) -> bool:
        raise interrupt("now")

    pool, work = make(max_size=1), Work(*conflicts(1) if question == "is_retryable" else (FakeBroken("cut"),))
    options: Any = {"on": struck} if question == "on" else {}
    if not options:
        setattr(factory, question, struck)
    with pytest.raises(interrupt, match="now"):
        pool.run(work, idempotent=True, **options)
    assert work.calls == 1
    pool.acquire(timeout=5).release()


# -- before the work is called ------------------------------------------------------------------------------------


def test_a_connect_error_that_may_pass_is_tried_again(make: Make, factory: Factory, clock: ManualClock) -> None:
    factory.gates["connect"].error(ConnectionRefusedError("down"))
    pool, work = make(fail_after=0.1), Work()
    running = clock.spawn(pool.run, work, retries=None, timeout=60.0)
    clock.advance(5.0)
    assert not running.done
    factory.gates["connect"].ok()
    clock.advance(5.0)
    assert running.result() == ()
    assert work.calls == 1


def test_a_connect_error_counts_as_a_try(make: Make, factory: Factory) -> None:
    factory.gates["connect"].error(ConnectionRefusedError("down"))
    pool = make(fail_after=0.0)
    with pytest.raises(pooling.ConnectError) as caught:
        pool.run(Work(), retries=2)
    if sys.version_info >= (3, 11):
        assert "after 3 tries" in caught.value.__notes__[0]


@pytest.mark.parametrize(("took", "told"), [(0.000065, "0.0001 s"), (0.25, "0.25 s"), (7200.0, "7200 s")])
def test_how_long_was_tried_is_told_like_every_time(make: Make, clock: ManualClock, took: float, told: str) -> None:
    pool = make(timeout=None)
    with pytest.raises(RolledBack) as caught:
        pool.run(Work(*conflicts(1), clock=clock, takes=took), retries=0)
    if sys.version_info >= (3, 11):
        assert caught.value.__notes__ == [f"pooling: Given up after 1 try in {told}."]


def test_a_connect_that_can_never_succeed_is_not_tried_again(make: Make, factory: Factory, clock: ManualClock) -> None:
    factory.gates["connect"].error(FakePermanent("wrong password"))
    pool = make()
    took, error = timed(clock, pool.run, Work())
    assert isinstance(error, pooling.ConnectError)
    assert took == 0
    assert factory.gates["connect"].calls == 1


def test_the_end_of_the_time_in_an_acquire_is_the_end(make: Make, clock: ManualClock) -> None:
    pool = make(max_size=1)
    with pool.acquire():
        took, error = timed(clock, pool.run, Work(), timeout=2.0, idempotent=True)
    assert isinstance(error, pooling.PoolTimeout)
    assert took == 2.0
    assert pool.stats().timeouts == 1


def test_a_full_queue_and_a_closed_pool_are_told_at_once(make: Make, clock: ManualClock) -> None:
    pool = make(max_size=1, max_waiting=0)
    with pool.acquire():
        assert isinstance(timed(clock, pool.run, Work())[1], pooling.QueueFull)
    pool.close()
    took, error = timed(clock, pool.run, Work())
    assert isinstance(error, pooling.PoolClosed)
    assert took == 0


def test_a_connection_that_breaks_while_a_transaction_begins_has_done_nothing(make: Make, factory: Factory) -> None:
    factory.failing["begin"] = [FakeBroken("stale"), FakeBroken("stale")]
    work, pool = Work(), make()
    pool.run(work, transaction=True)
    assert work.calls == 1
    assert pool.stats().closed["broken"] == 2


def test_a_backend_without_transactions_says_so_at_once(make: Make, factory: Factory) -> None:
    factory.failing["begin"] = [pooling.PoolError("no transactions here")]
    with pytest.raises(pooling.PoolError, match="no transactions"):
        make().run(Work(), transaction=True, idempotent=True)


# -- transactions -------------------------------------------------------------------------------------------------


def test_each_try_is_a_transaction_that_is_rolled_back_before_the_next(make: Make, factory: Factory) -> None:
    make().run(Work(*conflicts(2)), transaction=True)
    assert factory.log == ["begin", "rollback", "begin", "rollback", "begin", "commit"]
    assert factory.gates["reset"].calls == 0


def test_a_commit_that_was_refused_is_tried_again(make: Make, factory: Factory) -> None:
    factory.failing["commit"] = list(conflicts(1))
    work = Work()
    assert make().run(work, 7, transaction=True) == (7,)
    assert work.calls == 2


def test_a_commit_whose_answer_was_lost_is_not_repeated(make: Make, factory: Factory) -> None:
    factory.failing["commit"] = [FakeBroken("cut")]
    work = Work()
    with pytest.raises(FakeBroken):
        make().run(work, transaction=True)
    assert factory.log == ["begin", "commit"]


def test_what_a_plain_lease_has_left_is_rolled_back_before_the_next_try(
    make: Make, factory: Factory, clock: ManualClock
) -> None:
    """Its locks would be in the way of the next try, on whatever connection that is."""
    factory.gates["reset"].slow(0.4)
    resets = []

    def work(connection: FakeConnection) -> None:
        resets.append(factory.gates["reset"].inside)
        if len(resets) < 3:
            connection.dirty = True
            raise RolledBack

    make(max_size=3).run(work, backoff=lambda tries: 0.0)
    assert resets == [0, 0, 0]
    assert clock.now() == pytest.approx(1000.8)


def test_who_does_the_io_himself_rolls_back_himself(make: Make, factory: Factory) -> None:
    work = Work(*conflicts(2))

    def dirty(connection: FakeConnection) -> Any:
        assert not connection.dirty
        connection.dirty = True
        return work(connection)

    assert make(workers="inline", max_size=1).run(dirty) == ()
    assert factory.gates["reset"].calls >= 2


def test_a_rollback_that_hangs_is_not_waited_for_for_ever(make: Make, factory: Factory, clock: ManualClock) -> None:
    factory.gates["reset"].never()
    work = Work(*conflicts(1))

    def dirty(connection: FakeConnection) -> Any:
        connection.dirty = True
        return work(connection)

    took, error = timed(clock, make(max_size=2, connect_timeout=3.0).run, dirty, backoff=lambda tries: 0.0)
    assert error == ()
    assert took == 3.0


def test_a_try_that_left_something_behind_keeps_within_the_time(
    make: Make, factory: Factory, clock: ManualClock
) -> None:
    factory.gates["reset"].never()

    def dirty(connection: FakeConnection) -> None:
        connection.dirty = True
        raise RolledBack

    took, error = timed(clock, make(max_size=1).run, dirty, timeout=2.0)
    assert isinstance(error, RolledBack)
    assert took == 2.0


# -- how often, and when ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("retries", "calls"), [(0, 1), (1, 2), (5, 6)])
def test_there_are_as_many_tries_as_were_asked_for(make: Make, retries: int, calls: int) -> None:
    work = Work(*conflicts(9))
    with pytest.raises(RolledBack, match=str(calls - 1)) as caught:
        make().run(work, retries=retries)
    assert work.calls == calls
    if sys.version_info >= (3, 11):
        assert f"after {calls} tr" in caught.value.__notes__[0]


def test_everything_together_takes_no_longer_than_the_time(make: Make, clock: ManualClock) -> None:
    work = Work(*conflicts(99), clock=clock, takes=0.3)
    took, error = timed(clock, make().run, work, retries=None, timeout=2.0, backoff=lambda tries: 0.2)
    assert isinstance(error, RolledBack)
    assert work.calls == 4
    assert took == pytest.approx(1.8)  # a pause would have ended at 2.0: what is left of the time is nothing


def test_the_time_is_the_pools_timeout_unless_told(make: Make, clock: ManualClock) -> None:
    took, _ = timed(clock, make(timeout=1.0).run, Work(*conflicts(999)), retries=None, backoff=lambda tries: 0.3)
    assert took == pytest.approx(0.9)


def test_with_neither_limit_it_goes_on(make: Make, clock: ManualClock) -> None:
    work = Work(*conflicts(200))
    make(timeout=None).run(work, retries=None, timeout=None)
    assert work.calls == 201


def test_a_timeout_of_0_takes_an_idle_connection_and_tries_once(make: Make, clock: ManualClock) -> None:
    pool, work = make(), Work(*conflicts(1))
    pool.warm_up()
    took, error = timed(clock, pool.run, work, timeout=0)
    assert isinstance(error, RolledBack)
    assert (took, work.calls) == (0, 1)


def test_later_acquires_get_what_is_left_of_the_time(make: Make, clock: ManualClock) -> None:
    pool = make(max_size=1)
    leases: list[Any] = []

    def work(connection: FakeConnection) -> None:
        clock.spawn(lambda: leases.append(pool.acquire(60.0)))  # who will have the connection in the next try
        clock.sleep(0.5)
        raise RolledBack

    took, error = timed(clock, pool.run, work, timeout=2.0, backoff=lambda tries: 0.5)
    assert isinstance(error, pooling.PoolTimeout)
    assert took == 2.0
    leases.pop().release()


def test_pauses_follow_the_schedule_by_the_pools_clock(make: Make, clock: ManualClock) -> None:
    work = Work(*conflicts(3), clock=clock)
    make().run(work, backoff=lambda tries: tries * 1.5)
    assert [after - before for before, after in zip(work.times, work.times[1:], strict=False)] == [1.5, 3.0, 4.5]


def test_the_default_pauses_are_anywhere_between_0_and_a_limit_that_doubles() -> None:
    jitter = FullJitter(first=0.1, longest=0.5)
    for tries, limit in [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.5), (2000, 0.5)]:
        pauses = [jitter(tries) for _ in range(500)]
        assert 0 <= min(pauses) < 0.2 * limit
        assert 0.8 * limit < max(pauses) <= limit


def test_the_default_schedule_is_full_jitter(make: Make, clock: ManualClock) -> None:
    work = Work(*conflicts(3), clock=clock)
    make().run(work)
    for pause, limit in zip(map(float.__sub__, work.times[1:], work.times), (0.05, 0.1, 0.2), strict=True):
        assert 0 <= pause <= limit


def test_no_lease_is_held_during_a_pause(make: Make, clock: ManualClock) -> None:
    pool, seen = make(), []

    def backoff(tries: int) -> float:
        seen.append(pool.stats().leased)
        return 0.0

    pool.run(Work(*conflicts(2)), backoff=backoff)
    assert seen == [0, 0]


def test_a_block_without_waiting_waits_for_nothing(make: Make, clock: ManualClock) -> None:
    pool = make()
    with without_waiting():
        with without_waiting():
            pass
        took, _ = timed(clock, pool.run, Work(*conflicts(3)), backoff=lambda tries: 10.0)
    assert took == 0
    took, _ = timed(clock, pool.run, Work(*conflicts(1)), backoff=lambda tries: 10.0)
    assert took == 10.0


def test_the_block_ends_the_hurry_also_where_it_fails(make: Make, clock: ManualClock) -> None:
    with pytest.raises(ZeroDivisionError), without_waiting():
        raise ZeroDivisionError
    assert timed(clock, make().run, Work(*conflicts(1)), backoff=lambda tries: 10.0)[0] == 10.0


def test_an_interrupt_during_a_pause_ends_it_and_costs_nothing(make: Make, clock: ManualClock) -> None:
    def interrupted(tries: int) -> float:
        raise KeyboardInterrupt

    pool = make(max_size=1)
    with pytest.raises(KeyboardInterrupt):
        pool.run(Work(*conflicts(1)), backoff=interrupted)
    assert pool.run(Work(), timeout=0) == ()


def test_each_try_says_so_in_the_log_and_shows_no_value(make: Make, caplog: Any) -> None:
    caplog.set_level("INFO", "pooling")
    make(name="orders").run(Work(RolledBack("Key (email)=(anna@example.org)")), backoff=lambda tries: 0.25)
    assert caplog.messages == ["try 1 has failed with RolledBack: the next one in 0.25 s"]
    assert caplog.records[0].name == "pooling.pool.orders"
