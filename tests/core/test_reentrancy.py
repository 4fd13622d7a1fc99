"""release() from a destructor, a weak-reference callback or a signal handler that strikes inside the locked section."""

from __future__ import annotations

import gc
import signal
import threading
import weakref
from functools import partial
from typing import Any

import pytest

from pooling import Pool, PoolError, PoolEvent, QueueFull
from pooling._runtime.bell import Bell
from pooling.testing import FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, run_python


class Inside:
    """Runs a call in the middle of the pool's next settle(), or what is done in its place, on the thread that holds the
    lock."""

    def __init__(self, pool: Any) -> None:
        self._ledger = pool._ledger

    def strike(self, call: Any) -> None:
        ledger = self._ledger
        settle, hand, join = ledger.settle, ledger._hand, ledger.queue.join

        def ordinary() -> None:
            ledger.settle, ledger._hand, ledger.queue.join = settle, hand, join

        def handed(*arguments: Any) -> bool:
            ordinary()
            call()
            return bool(hand(*arguments))

        def joined(waiter: Any) -> None:
            ordinary()
            call()
            join(waiter)

        def struck(now: float, transition: Any = None, *args: Any) -> None:
            ordinary()

            def both(*arguments: Any) -> None:
                call()
                if transition is not None:
                    transition(*arguments)

            settle(now, both, *args)

        ledger.settle, ledger._hand, ledger.queue.join = struck, handed, joined


class Owner:
    """Gives its lease back when it is destroyed."""

    def __init__(self, lease: Any) -> None:
        self.lease = lease

    def __del__(self) -> None:
        self.lease.release()


# What is dropped is made where it strikes: without the interpreter's lock an object ends in the thread that made it.


def destructor(lease: Any) -> Any:
    return partial(Owner, lease)  # dropped by whoever calls that


def weak_reference(lease: Any) -> Any:
    class Thing:
        pass

    def drop() -> None:
        thing = Thing()
        ref = weakref.ref(thing, lambda _: lease.release())
        del thing
        assert ref() is None

    return drop


def signal_handler(lease: Any) -> Any:
    def strike() -> None:
        before = signal.signal(signal.SIGUSR1, lambda *_: lease.release())
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)

    return strike


@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("how", [destructor, weak_reference, signal_handler])
def test_a_release_that_strikes_inside_the_lock_returns_at_once_and_loses_nothing(
    clock: ManualClock, factory: FakeFactory, make: Make, how: Any, dirty: bool
) -> None:
    """The lock is held by a release that hands over to a waiter at that moment."""
    pool = make(max_size=2)
    one, two = pool.acquire(), pool.acquire()
    two.connection.dirty = dirty
    waiting = [clock.spawn(pool.acquire, 5) for _ in range(2)]
    clock.advance(0.5)
    Inside(pool).strike(how(two))
    del two
    one.release()
    assert not pool._ledger.inbox
    clock.advance(0)
    served = [actor.result() for actor in waiting]
    assert {lease.connection.number for lease in served} == {1, 2}
    for lease in served:
        lease.release()
    assert (pool.stats().idle, pool.stats().acquired, pool.stats().released) == (2, 4, 4)
    assert factory.opened == 2


@pytest.mark.parametrize("how", [destructor, weak_reference])
def test_a_release_that_strikes_while_somebody_lines_up_behind_others_loses_nothing(
    clock: ManualClock, factory: FakeFactory, make: Make, how: Any
) -> None:
    pool = make(max_size=2)
    one, two = pool.acquire(), pool.acquire()
    pool.look = lambda: None  # type: ignore[method-assign]  # the reaper is not to find it
    first = clock.spawn(pool.acquire, 5)
    clock.advance(0.01)
    Inside(pool).strike(how(two))
    del two
    second = clock.spawn(pool.acquire, 5)
    clock.advance(0)
    served = [first.result()]
    one.release()
    clock.advance(0)
    served.append(second.result())
    assert [lease.connection.number for lease in served] == [2, 1]
    for lease in served:
        lease.release()
    assert (pool.stats().idle, pool.stats().acquired, factory.opened) == (2, 4, 2)


@pytest.mark.parametrize("end", ["discard", "detach"])
def test_other_ends_of_a_lease_inside_the_lock_lose_nothing_either(clock: ManualClock, make: Make, end: str) -> None:
    pool = make(max_size=2)
    one, two = pool.acquire(), pool.acquire()
    Inside(pool).strike(getattr(two, end))
    pool.clear()
    one.release()
    clock.advance(0)
    assert pool.stats().size == 0
    assert sum(pool.stats().closed.values()) == 2


def test_orders_from_inside_the_lock_are_kept_for_its_holder(clock: ManualClock, make: Make) -> None:
    pool = make()
    pool.acquire().release()
    Inside(pool).strike(pool.clear)
    pool.suspend()
    clock.advance(0)
    assert (pool.stats().closed, pool.stats().state) == ({"stale": 1}, "suspended")
    pool.resume()


def test_what_would_have_to_wait_inside_the_lock_is_refused_in_one_clear_line(clock: ManualClock, make: Make) -> None:
    pool = make(name="p", max_size=1)
    errors: list[Any] = []
    for call in (pool.acquire, pool.warm_up):
        Inside(pool).strike(lambda call=call: errors.append(outcome(call)))
        pool.clear()
    assert [type(error) for error in errors] == [QueueFull, QueueFull]
    assert {str(error) for error in errors} == {
        "pool 'p' cannot wait here: a destructor or signal handler has struck inside its own lock"
    }
    clock.advance(0)
    assert pool.stats().waiting == 0


def test_an_idle_connection_is_served_even_inside_the_lock(clock: ManualClock, make: Make) -> None:
    """The plain path needs no lock."""
    pool = make()
    pool.acquire().release()
    got: list[Any] = []
    Inside(pool).strike(lambda: got.append(outcome(pool.acquire, 0)))
    pool.stats()
    pool._tell()
    if isinstance(got[0], PoolError):
        pytest.fail(str(got[0]))
    got[0].release()


def test_close_inside_the_lock_closes_without_waiting(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make()
    pool.acquire().release()
    Inside(pool).strike(pool.close)
    pool.clear()
    clock.advance(0)
    assert (pool.stats().state, factory.open) == ("closed", 0)


def test_stats_and_holders_can_be_read_inside_the_lock(clock: ManualClock, make: Make) -> None:
    pool = make()
    lease = pool.acquire()
    seen: list[Any] = []
    Inside(pool).strike(lambda: seen.append((pool.stats().leased, len(pool.holders()), repr(pool))))
    pool.resize(min_size=0)
    assert seen[0][:2] == (1, 1)
    lease.release()


def test_a_release_in_another_thread_waits_for_the_lock_and_is_done(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    lease.connection.dirty = True
    with pool._lock:
        thread = threading.Thread(target=lease.release)
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
    thread.join()
    clock.advance(0)
    assert pool.stats().idle == 1


def test_signals_that_release_while_the_pool_works_lose_nothing() -> None:
    """With real signals: every 0.3 ms a handler releases what the main thread has put aside."""
    said = run_python(
        """
        import faulthandler, signal, time
        from pooling import Pool
        from pooling.testing import FakeFactory

        faulthandler.dump_traceback_later(8, exit=True)
        factory = FakeFactory()
        pool = Pool(factory, max_size=4, timeout=10)
        pool.subscribe(lambda event: None)  # every acquire and release takes the lock
        aside, strikes = [], 0

        def handler(*_):
            global strikes
            if aside:
                aside.pop().release()
                strikes += 1

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        end = time.monotonic() + 2
        turns = 0
        while time.monotonic() < end:
            lease = pool.acquire()
            lease.connection.dirty = turns % 5 == 0
            if turns % 2:
                aside.append(lease)
            else:
                lease.release()
            turns += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        while aside:
            aside.pop().release()
        leases = [pool.acquire(timeout=5) for _ in range(4)]
        for lease in leases:
            lease.release()
        pool.close()
        stats = pool.stats()
        assert strikes > 100, strikes
        assert stats.acquired == stats.released == turns + 4, stats
        assert factory.opened == factory.closed == 4
        print("ok")
        """
    )
    assert said == "ok\n"


def test_a_signal_handler_that_serves_its_own_threads_wait_does_not_block_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler strikes as the thread goes to sleep, and what it releases goes to that thread's waiter."""
    pool: Any = Pool(FakeFactory(), max_size=1, timeout=10.0)
    aside = [pool.acquire()]
    wait = Bell.wait

    def struck(self: Bell, seconds: float, waiter: Any) -> None:
        if aside:
            aside.pop().release()
        wait(self, seconds, waiter)

    monkeypatch.setattr(Bell, "wait", struck)
    with pool.acquire():
        pass
    assert pool.stats().wait.max < 5
    pool.close()


def test_a_use_that_began_after_the_transition_that_takes_in_its_end_took_no_time(
    clock: ManualClock, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A negative time would be the longest of all for the histogram. A listener was told of one."""
    pool = make(max_size=3)
    idle, more, other = pool.acquire(), pool.acquire(), pool.acquire()
    idle.release()
    more.release()
    heard: list[PoolEvent] = []

    def handler() -> None:
        monkeypatch.setattr(pool, "_now", lambda: clock.now() + 0.5)
        pool.subscribe(heard.append)
        lease = pool.acquire()
        lease.connection.dirty = True
        lease.release()
        pool.acquire()  # and lost
        monkeypatch.undo()

    Inside(pool).strike(handler)
    other.discard()
    clock.advance(0)
    use = pool.stats().use
    assert (use.count, use.percentile(100)) == (5, 0.0)
    assert {event.kind: event.duration for event in heard if event.kind in ("release", "leak")} == {
        "release": 0.0,
        "leak": 0.0,
    }


def test_a_resume_after_a_suspend_that_has_struck_inside_the_lock_ends_it(clock: ManualClock, make: Make) -> None:
    """The ledger had not heard of the suspend() yet, so the resume() did nothing, and the pool stayed suspended."""
    pool = make()
    Inside(pool).strike(lambda: (pool.suspend(), pool.resume()))
    pool.acquire().release()
    clock.advance(0)
    assert pool.stats().state == "up"
    with pool.acquire(timeout=0):
        pass


class Cycle:
    """Garbage that gives its lease back when it is collected: its weak references are told before it does."""

    def __init__(self, lease: Any, end: str) -> None:
        self.lease, self.end, self.me = lease, end, self

    def __del__(self) -> None:
        try:
            getattr(self.lease, self.end)()
        except PoolError:
            pass


@pytest.mark.parametrize("end", ["release", "discard", "detach", "refresh"])
@pytest.mark.parametrize("dirty", [False, True])
def test_what_a_destructor_in_a_cycle_of_garbage_gives_back_is_nobodys(
    clock: ManualClock, factory: FakeFactory, make: Make, end: str, dirty: bool
) -> None:
    pool = make(max_size=2)
    for _ in range(3):
        lease = pool.acquire()
        lease.connection.dirty = dirty
        Cycle(lease, end)
        del lease
        gc.collect()
        clock.advance(0.1)
    assert pool.stats().leased == 0
    assert pool.stats().closed["dropped"] == 3
    leases = [pool.acquire(timeout=1) for _ in range(2)]
    assert len({lease.connection.number for lease in leases}) == 2
    assert not any(lease.connection.closed for lease in leases)
    assert factory.peak <= 2
    for lease in leases:
        lease.release()


def test_what_was_lost_stays_lost_when_somebody_listens_no_more(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """The end of a subscription lets releases be plain again, but not that of a connection that is being closed."""
    pool = make(max_size=1)
    lease = pool.acquire()
    ghost = lease._token
    factory.gates["close"].never()
    pool._roster.orphans.append(lease._entry.refs[1])  # as if its weak references had been told
    lease._entry.refs = (None, lambda: None)
    pool._tell()
    pool.subscribe(lambda event: None)()
    lease.release()
    assert ghost not in pool._idle


def test_what_comes_back_after_its_loss_was_taken_in_is_ignored(clock: ManualClock, make: Make) -> None:
    """Another thread has taken the report in before the destructor runs."""
    pool = make(max_size=1)
    lease = pool.acquire()
    ghost = lease._token
    pool._roster.orphans.append(lease._entry.refs[1])  # as if its weak references had been told
    lease._entry.refs = (None, lambda: None)
    clock.advance(0)
    pool._tell()
    lease.release()
    assert ghost not in pool._idle
    clock.advance(1)
    pool.acquire().release()
