"""What a user brings along, his errors, his functions, may do anything: the pool goes on."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from pooling import ConnectError, Pool, PoolClosed, PoolTimeout, QueueFull
from pooling._runtime.threads import THREADS
from pooling.testing import FakeConnection, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome
from tests.waiting import until

# -- errors ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frozen(Exception):  # it is an error all the same
    number: int = 1


class Prickly(Exception):
    @property
    def reason(self) -> str:
        raise ValueError("not now")


class Wordless(Exception):
    def __str__(self) -> str:
        raise SystemExit


def chained() -> Exception:
    error = first = ValueError("the first")
    for number in range(1500):
        error.__cause__ = ValueError(number)
        error = error.__cause__
    return first


ERRORS = {"frozen": Frozen, "prickly": Prickly, "wordless": Wordless, "chained": chained}


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_of_any_kind_is_a_failed_connect_like_another(
    clock: ManualClock, factory: FakeFactory, make: Make, error: str
) -> None:
    pool = make(name="p", max_size=2, fail_after=0.5)
    factory.gates["connect"].error(ERRORS[error]())
    waiting = clock.spawn(pool.acquire, 8)
    clock.advance(1)
    with pytest.raises(ConnectError, match="pool 'p' cannot connect"):
        waiting.result()
    assert factory.gates["connect"].calls <= 10
    assert pool.stats().state == "down"
    factory.gates["connect"].ok()


@pytest.mark.parametrize("hook", ["check", "reset", "close"])
def test_a_hook_that_fails_in_an_odd_way_costs_its_connection_and_no_more(
    clock: ManualClock, factory: FakeFactory, make: Make, hook: str
) -> None:
    pool = make(max_size=1, check="ping", check_after=1.0)
    lease = pool.acquire()
    lease.connection.dirty = hook == "reset"
    factory.gates[hook].error(Frozen())
    if hook == "close":
        lease.discard()
    else:
        lease.release()
    clock.advance(2)
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0)
    waiting.result().release()
    assert factory.gates[hook].calls == 1
    assert pool.stats().errors == 1
    factory.gates[hook].ok()


class Asked(FakeFactory):
    """One whose opinions cannot be had."""

    def __init__(self, clock: ManualClock, raises: str) -> None:
        super().__init__(clock)
        self.raises = raises

    def is_permanent(self, error: BaseException) -> bool:
        if self.raises == "is_permanent":
            raise SystemExit
        return False

    def secrets(self) -> Any:
        if self.raises == "secrets":
            raise SystemExit
        return [12345] if self.raises == "a number" else []


@pytest.mark.parametrize("raises", ["is_permanent", "secrets", "a number"])
def test_a_question_that_raises_anything_is_answered_with_no(clock: ManualClock, make: Make, raises: str) -> None:
    factory = Asked(clock, raises)
    pool = make(factory=factory, max_size=1, fail_after=0.5)
    factory.gates["connect"].error(ConnectionError("no such password: 12345"))
    waiting = clock.spawn(pool.acquire, 8)
    clock.advance(1)
    with pytest.raises(ConnectError) as caught:
        waiting.result()
    assert ("12345" in str(caught.value)) == (raises != "a number")
    factory.gates["connect"].ok()


def test_a_connect_whose_worker_is_struck_waits_like_one_that_failed(
    clock: ManualClock, factory: FakeFactory, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make(max_size=1, fail_after=None)
    tries = []

    def struck(*_: Any) -> Any:
        tries.append(clock.now())
        return (lambda: None,)  # nothing is reported, and the job is gone

    monkeypatch.setattr(pool._hooks, "perform", struck)
    waiting = clock.spawn(pool.acquire, 30)
    clock.advance(1)
    assert 2 <= len(tries) <= 10
    monkeypatch.undo()
    clock.advance(3)
    waiting.result().release()


def test_a_reaper_that_is_struck_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(FakeFactory(), max_size=1, idle_timeout=0.2, timeout=10.0) as pool:
        struck = []

        def strike() -> None:
            struck.append(True)
            monkeypatch.undo()
            raise KeyboardInterrupt

        pool.acquire().release()
        monkeypatch.setattr(THREADS._reaper, "_round", strike)
        THREADS._reaper.poke(None)
        until(lambda: struck)
        until(lambda: pool.stats().closed.get("idle") == 1)


# -- the back-off ----------------------------------------------------------------------------------------


def raising(_: int) -> float:
    raise RuntimeError("no idea")


WRONG: dict[str, Callable[[int], Any]] = {
    "None": lambda _: None, "a word": lambda _: "soon", "nan": lambda _: float("nan"), "inf": lambda _: float("inf"),
    "negative": lambda _: -1.0, "an error": raising,
}  # fmt: skip  # a table


@pytest.mark.parametrize("wrong", WRONG)
def test_a_backoff_that_gives_no_pause_gets_the_pools_own(
    clock: ManualClock, factory: FakeFactory, make: Make, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    pool = make(name="p", max_size=2, fail_after=0.5, backoff=WRONG[wrong])
    factory.gates["connect"].error(ConnectionError("down"))
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(2)
    with pytest.raises(ConnectError, match="cannot connect: ConnectionError: down"):
        waiting.result()
    assert factory.gates["connect"].calls <= 10
    assert "backoff failed: the pool's own pause is made" in caplog.text
    factory.gates["connect"].ok()


def test_a_slow_backoff_holds_nobody_up_and_may_ask_the_pool() -> None:
    factory = FakeFactory()
    seen, free = [], threading.Event()

    def pause(failures: int) -> float:
        asking = threading.Thread(target=lambda: seen.append(pool.stats().size))
        asking.start()
        asking.join(10)
        free.wait(30)
        return 0.1

    with Pool(factory, max_size=2, backoff=pause) as pool:
        lease = pool.acquire(10)
        factory.gates["connect"].error(ConnectionError("down"))
        assert isinstance(outcome(pool.acquire, 0.1), PoolTimeout)
        until(lambda: seen)
        lease.release()
        pool.acquire(timeout=0).release()
        free.set()
        factory.gates["connect"].ok()


# -- exceptions that are kept ----------------------------------------------------------------------------


def test_an_exception_that_is_kept_keeps_no_slot(clock: ManualClock, make: Make) -> None:
    """As a REPL keeps the last one, and a Future that of its job."""

    class Interrupted(FakeFactory):
        strikes = ""

        def is_clean(self, connection: FakeConnection) -> bool:
            if self.strikes == "is_clean":
                raise KeyboardInterrupt
            return super().is_clean(connection)

        def is_alive(self, connection: FakeConnection) -> bool:
            if self.strikes == "is_alive":
                raise KeyboardInterrupt
            return super().is_alive(connection)

    factory = Interrupted(clock)
    pool = make(factory=factory, max_size=1, check_after=1.0)
    kept: list[BaseException] = []
    for strikes in ("is_clean", "is_alive"):
        lease = pool.acquire(5)
        if strikes == "is_alive":
            lease.release()
            clock.advance(2)
        factory.strikes = strikes
        try:
            if strikes == "is_clean":
                lease.release()
            else:
                pool.acquire(5)
        except KeyboardInterrupt as error:
            kept.append(error)
        factory.strikes = ""
        del lease
        waiting = clock.spawn(pool.acquire, 5)
        clock.advance(1)
        waiting.result().release()
    assert len(kept) == 2


def test_a_lease_is_neither_copied_nor_pickled(make: Make) -> None:
    lease = make().acquire()
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="a lease can be neither copied nor pickled"):
            attempt(lease)
    lease.release()


@pytest.mark.parametrize("timeout", [float("nan"), "1", -1, True, 10**400])
def test_a_refresh_that_is_asked_for_wrongly_keeps_the_lease(make: Make, timeout: Any) -> None:
    lease = make().acquire()
    before = lease.connection
    with pytest.raises((TypeError, ValueError), match="timeout must be"):
        lease.refresh(timeout)
    assert lease.connection is before
    lease.release()


# -- orders ----------------------------------------------------------------------------------------------


def test_a_drain_is_not_undone_by_suspend_and_resume(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    draining = clock.spawn(pool.drain, 10)
    clock.advance(0)
    pool.suspend()
    pool.resume()
    assert isinstance(outcome(pool.acquire, 1), PoolClosed)
    lease.release()
    clock.advance(0)
    assert draining.result() is True
    assert pool.stats().state == "closed"


def test_a_drain_waits_for_a_lease_that_is_being_refreshed(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    factory.gates["connect"].slow(0.5)
    refreshing = clock.spawn(lease.refresh, 5)
    clock.advance(0.1)
    draining = clock.spawn(pool.drain, 10)
    clock.advance(1)
    assert refreshing.result() is lease.connection
    assert not draining.done
    lease.release()
    clock.advance(0)
    assert draining.result() is True


def test_a_drain_does_not_wait_for_a_refresh_that_was_given_up(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    factory.gates["connect"].slow(8)
    refreshing = clock.spawn(lease.refresh, 0.5)
    clock.advance(1)
    assert isinstance(outcome(refreshing.result), PoolTimeout)
    draining = clock.spawn(pool.drain, 1)
    clock.advance(8)
    assert draining.result() is True


def test_a_pool_that_keeps_no_idle_connection_can_be_warmed_up(clock: ManualClock, make: Make) -> None:
    pool = make(max_idle=0)
    warming = clock.spawn(pool.warm_up, 2)
    clock.advance(1)
    assert warming.result() is None
    assert pool.stats().opened == 1


def test_clear_with_interrupt_spares_what_was_opened_after_it(
    clock: ManualClock, factory: FakeFactory, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    tell, replaced = pool._tell, []

    def told(*args: Any) -> None:
        monkeypatch.undo()
        tell(*args)
        lease.release()
        waiting = clock.spawn(pool.acquire, 5)
        clock.advance(1)
        replaced.append(waiting.result())

    monkeypatch.setattr(pool, "_tell", told)
    pool.clear(interrupt=True)
    assert not replaced[0].connection.interrupted
    replaced[0].release()


def test_max_waiting_counts_nobody_for_whom_a_connection_may_be_opened(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=5, max_waiting=1)
    factory.gates["connect"].slow(0.3)
    waiting = [clock.spawn(pool.acquire, 5) for _ in range(7)]
    clock.advance(3)
    results = [outcome(actor.result) for actor in waiting]
    leases = [lease for lease in results if not isinstance(lease, Exception)]
    assert len(leases) == 5
    for lease in leases:
        lease.release()


@pytest.mark.parametrize("order", ["refresh", "warm_up", "drain", "close"])
def test_max_waiting_refuses_nobody_who_wants_no_place_in_the_queue(
    clock: ManualClock, factory: FakeFactory, make: Make, order: str
) -> None:
    """Those for whom a connection was being opened may wait; once that takes too long the queue is beyond its limit."""
    pool = make(max_size=3, max_waiting=0, connect_timeout=1, fail_after=None)
    lease = pool.acquire()
    factory.gates["connect"].never()
    pool.resize(min_size=3)
    waiting = [clock.spawn(pool.acquire, 30) for _ in range(2)]
    clock.advance(1.5)
    assert isinstance(outcome(pool.acquire, 5), QueueFull)
    ordered = clock.spawn(getattr(lease if order == "refresh" else pool, order), 0.5)
    clock.advance(6)
    assert not isinstance(outcome(ordered.result), QueueFull)
    pool.close()
    clock.advance(0)
    assert [type(outcome(actor.result)) for actor in waiting] == [PoolClosed] * 2
    if order != "refresh":
        lease.release()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda pool: pool.transaction(priority=float("nan")), "priority must be"),
        (lambda pool: pool.transaction(priority="1"), "priority must be"),
        (lambda pool: pool.acquire(10**400), "timeout must be"),
        (lambda pool: pool.acquire(priority=10**400), "priority must be"),
        (lambda pool: pool.waiters(-1), "most must be"),
        (lambda pool: Pool(FakeFactory(), timeout=10**400), "timeout must be"),
    ],
)
def test_numbers_that_are_none_are_refused_in_words(make: Make, wrong: Callable[[Any], object], told: str) -> None:
    pool = make()
    with pytest.raises((TypeError, ValueError), match=told):
        wrong(pool)


# -- who listens -----------------------------------------------------------------------------------------


def test_one_worker_tells_a_listener_however_many_report() -> None:
    """Each release asked for a worker until the first of them had begun: over a hundred threads for one listener."""
    heard: list[str] = []
    submitted = []
    with Pool(FakeFactory(), max_size=1, timeout=10.0) as pool:
        pool.acquire().release()
        pool.subscribe(lambda event: heard.append(event.kind))
        outlet = pool._ledger.tally.outlets[0]
        for _ in range(50):
            outlet.put(pool._ledger.tally)  # type: ignore[arg-type]  # whatever: nobody tells it
            outlet.flow(submitted.append)
        assert len(submitted) == 1
        outlet._queue.clear()
        submitted[0]()
        pool.acquire().release()
        until(lambda: heard.count("release") == 1)


@pytest.mark.skipif(sys.gettrace() is not None, reason="somebody traces already")
def test_numbers_asked_for_in_the_middle_of_counting_count_nothing_twice(make: Make) -> None:
    """A signal handler that strikes inside Recorder.fold()."""
    pool = make()
    code = type(pool._ledger.tally.uses).fold.__code__
    for line in sorted({line for _, _, line in code.co_lines() if line}):
        for _ in range(500):
            pool.acquire().release()
        before = pool.stats().acquired

        def trace(frame: Any, event: str, arg: object, line: int = line) -> Any:
            if frame.f_code is code and event == "line" and frame.f_lineno == line:
                sys.settrace(None)
                pool.stats()
            return trace if frame.f_code is code or event == "call" else None

        for _ in range(10):
            pool.acquire().release()
        sys.settrace(trace)
        try:
            pool.stats()
        finally:
            sys.settrace(None)
        assert pool.stats().acquired == before + 10
