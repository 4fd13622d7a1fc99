"""One connection, one user: what a lease gives and takes back."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest

from pooling import PoolError, PoolTimeout
from pooling._ledger.entry import TokenRef
from pooling.lease import give_up
from pooling.testing import FakeBroken, FakeConnection, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, struck_while_waiting


def test_nothing_connects_before_the_first_acquire(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    make(min_size=3)
    clock.advance(100)
    assert factory.gates["connect"].calls == 0


def test_a_returned_connection_is_reused(factory: FakeFactory, make: Make) -> None:
    pool = make()
    with pool.acquire() as first:
        pass
    with pool.acquire() as second:
        assert second is first
    assert factory.opened == 1


def test_a_lease_yields_the_drivers_own_object(factory: FakeFactory, make: Make) -> None:
    with make().acquire() as connection:
        assert connection is factory.connections[0]


def test_two_leases_never_share_a_connection(make: Make) -> None:
    pool = make(max_size=5)
    leases = [pool.acquire() for _ in range(5)]
    assert len({id(lease.connection) for lease in leases}) == 5
    for lease in leases:
        lease.release()


def test_connections_are_told_apart_by_identity_not_by_equality(clock: ManualClock, make: Make) -> None:
    """Connections that all compare equal, and cannot be hashed."""

    class Equal:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

        def close(self) -> None:
            pass

    pool: Any = make(factory=Equal, max_size=2)
    one, two = pool.acquire(), pool.acquire()
    assert one.connection is not two.connection
    held = one.connection
    two.discard()
    clock.advance(0)
    assert one.connection is held
    one.release()
    assert pool.stats().closed == {"discarded": 1}


def test_a_factory_may_hand_out_falsy_connections(make: Make) -> None:
    """Only None is no connection."""

    class Empty(list[int]):
        def close(self) -> None:
            pass

    pool: Any = make(factory=Empty)
    with pool.acquire() as connection:
        assert connection == []


@pytest.mark.parametrize(("order", "expected"), [("lifo", 2), ("fifo", 1)])
def test_the_order_of_idle_connections_can_be_chosen(make: Make, order: str, expected: int) -> None:
    pool = make(order=order)
    one, two = pool.acquire(), pool.acquire()
    one.release()
    two.release()
    with pool.acquire() as connection:
        assert connection.number == expected


def test_any_thread_may_release(make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    thread = threading.Thread(target=lease.release)
    thread.start()
    thread.join()
    assert pool.stats().idle == 1
    with pool.acquire(timeout=0):
        pass


def test_releasing_twice_is_refused_and_makes_no_second_owner(make: Make) -> None:
    pool = make(max_size=2)
    lease = pool.acquire()
    lease.release()
    with pytest.raises(PoolError, match=r"^the lease has ended already: released, discarded or detached twice$"):
        lease.release()
    one, two = pool.acquire(), pool.acquire()
    assert one.connection is not two.connection
    assert (pool.stats().size, pool.stats().leased) == (2, 2)
    one.release()
    two.release()


def test_of_many_threads_that_release_one_lease_at_once_one_succeeds(make: Make) -> None:
    pool = make(max_size=1)
    for _ in range(50):
        lease = pool.acquire()
        barrier, refused = threading.Barrier(4), []

        def release(lease: Any = lease, barrier: Any = barrier, refused: Any = refused) -> None:
            barrier.wait()
            try:
                lease.release()
            except PoolError as error:
                refused.append(error)

        threads = [threading.Thread(target=release) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 3
        assert pool.stats().idle == 1


def test_a_stale_lease_cannot_harm_the_new_owner(make: Make) -> None:
    pool = make(max_size=1)
    old = pool.acquire()
    old.release()
    new = pool.acquire()
    for end in (old.release, old.discard, old.detach, old.refresh, lambda: old.connection):
        with pytest.raises(PoolError, match="the lease has ended"):
            end()
    assert new.connection is not None
    assert pool.stats().leased == 1
    new.release()


def test_a_lease_goes_back_to_its_own_pool_whoever_else_is_there(make: Make) -> None:
    """Nothing can be given to a pool but by its own lease, so a foreign release cannot be written."""
    one, two = make(max_size=1), make(max_size=1)
    lease = one.acquire()
    assert not hasattr(two, "release")
    lease.release()
    assert (one.stats().idle, two.stats().size) == (1, 0)


def test_concurrent_discards_close_once(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    lease = make().acquire()
    lease.discard()
    with pytest.raises(PoolError, match=r"^the lease has ended already and cannot be discarded$"):
        lease.discard()
    clock.advance(0)
    assert factory.gates["close"].calls == 1


@pytest.mark.parametrize("error", [ValueError, KeyError, GeneratorExit, SystemExit])
def test_a_with_block_gives_back_on_an_exception(factory: FakeFactory, make: Make, error: type[BaseException]) -> None:
    """A clean connection stays clean, without a reset."""
    pool = make()
    with pytest.raises(error), pool.acquire():
        raise error
    assert (pool.stats().idle, factory.gates["reset"].calls) == (1, 0)


def test_a_with_block_that_ends_by_a_broken_connection_discards_it(clock: ManualClock, make: Make) -> None:
    pool = make()
    with pytest.raises(FakeBroken), pool.acquire():
        raise FakeBroken
    clock.advance(0)
    assert (pool.stats().size, pool.stats().closed) == (0, {"broken": 1})


def test_a_lease_that_ended_inside_its_with_block_is_left_alone(clock: ManualClock, make: Make) -> None:
    pool = make()
    with pool.acquire() as _, pool.acquire():
        pass
    lease = pool.acquire()
    with lease:
        lease.release()
    lease = pool.acquire()
    with pytest.raises(ValueError, match="mine"), lease:
        lease.discard()
        raise ValueError("mine")
    clock.advance(0)
    assert pool.stats().closed == {"discarded": 1}


def test_a_collected_lease_comes_back_as_a_closed_connection(
    clock: ManualClock, factory: FakeFactory, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Never handed out again, for somebody may still use what the lease had yielded."""
    pool = make(max_size=1)
    connection = pool.acquire().connection
    gc.collect()
    clock.advance(0)
    assert (connection.interrupted, connection.closed) == (True, True)
    assert pool.stats().closed == {"dropped": 1}
    assert pool.stats().leaks == 1
    assert "a lease was dropped without release(): MainThread for 0 s, acquired at " in caplog.text
    assert "test_a_collected_lease_comes_back_as_a_closed_connection" in caplog.text
    with pool.acquire(timeout=0.1) as other:
        assert other is not connection


def test_a_collected_lease_serves_whoever_waits(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5.0)
    clock.advance(1)
    assert lease.connection
    del lease
    gc.collect()
    clock.advance(0)
    waiting.result().release()


@pytest.mark.parametrize(("timeout", "nested"), [(0.1, "warn"), (5.0, None)])
def test_a_lease_whose_end_could_not_be_reported_for_want_of_memory_is_found(
    clock: ManualClock, make: Make, timeout: float, nested: Any
) -> None:
    pool = make(max_size=1, nested=nested)
    lease = pool.acquire()
    entry = lease._entry
    unheard = TokenRef(lease._token)
    unheard.entry = entry
    entry.refs = (None, unheard)
    del lease
    gc.collect()
    waiting = clock.spawn(pool.acquire, timeout)
    clock.advance(2)
    waiting.result().release()
    assert pool.stats().closed == {"dropped": 1}


def test_a_lease_whose_end_could_not_be_reported_for_want_of_memory_holds_no_drain_up(
    clock: ManualClock, make: Make
) -> None:
    pool = make(max_size=2)
    lease = pool.acquire()
    unheard = TokenRef(lease._token)
    unheard.entry = lease._entry
    lease._entry.refs = (None, unheard)
    del lease
    gc.collect()
    draining = clock.spawn(pool.drain, 30)
    clock.advance(2)
    assert draining.result()
    assert pool.stats().closed == {"dropped": 1}


def test_discard_frees_capacity_and_wakes_a_waiter(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5.0)
    clock.advance(0)
    lease.discard()
    clock.advance(0)
    served = waiting.result()
    assert (served.connection.number, factory.peak) == (2, 1)
    served.release()


def test_representations_tell_the_state(make: Make) -> None:
    pool = make(name="main", max_size=3)
    lease = pool.acquire()
    assert repr(lease) == "<Lease of pool 'main', connection 1, held>"
    assert repr(pool.transaction()) == "<Transaction on pool 'main'>"
    assert repr(pool) == "<Pool 'main' running: 1 in use, 0 idle, 0 waiting, at most 3>"
    lease.release()
    assert repr(lease) == "<Lease of pool 'main', connection 1, ended>"
    pool.resize(max_size=None)
    assert repr(pool) == "<Pool 'main' running: 0 in use, 1 idle, 0 waiting, at most any number>"


def test_an_interrupted_use_is_not_trusted_where_nobody_can_tell_clean(clock: ManualClock, make: Make) -> None:
    """A KeyboardInterrupt may have struck in the middle of a message; only a backend with is_clean() knows better."""

    class Plain:
        def close(self) -> None:
            pass

    pool: Any = make(factory=Plain)
    with pytest.raises(KeyboardInterrupt), pool.acquire():
        raise KeyboardInterrupt
    clock.advance(0)
    assert pool.stats().closed == {"discarded": 1}


def test_a_factory_that_can_tell_clean_keeps_an_interrupted_connection(make: Make) -> None:
    pool = make()
    with pytest.raises(KeyboardInterrupt), pool.acquire():
        raise KeyboardInterrupt
    assert pool.stats().idle == 1


def test_a_connection_that_its_user_closed_is_not_reused(clock: ManualClock, make: Make) -> None:
    """Seen where it is looked at, after check_after seconds of disuse, and at the release where the
    backend's is_clean() raises on it."""

    class Sees(FakeFactory):
        def is_clean(self, connection: FakeConnection) -> bool:
            if connection.closed:
                raise FakeBroken("closed by its user")
            return True

    pool = make(factory=Sees(clock))
    with pool.acquire() as connection:
        connection.closed = True
    clock.advance(0)
    assert pool.stats().idle == 0
    assert pool.stats().closed == {"discarded": 1}


@pytest.mark.parametrize("check", ["peek", "ping"])
def test_an_exception_that_is_kept_keeps_no_connection(clock: ManualClock, make: Make, check: str) -> None:
    """A timeout in a log or a debugger, its frames and all, holds no second reference to a token, so the
    loss of a later lease is noticed."""
    factory = FakeFactory(clock)
    pool = make(factory=factory, max_size=1, check=check)
    pool.acquire().release()
    clock.advance(5)
    factory.connections[0].dead = check == "peek"
    factory.gates["check" if check == "ping" else "close"].slow(2)
    kept = outcome(pool.acquire, 1)
    assert isinstance(kept, PoolTimeout)
    clock.advance(5)
    assert pool.acquire().connection is not None  # and dropped
    gc.collect()
    clock.advance(5)
    assert pool.stats().leased == 0


def test_an_interrupt_that_is_kept_keeps_no_connection_that_an_order_was_about_to_hand_out(make: Make) -> None:
    pool = make(max_size=1)
    pool.acquire().release()

    def struck() -> None:
        token = pool._roster.take()
        assert token.entry.connection is not None
        raise KeyboardInterrupt

    kept = outcome(pool._tell, struck)
    assert isinstance(kept, KeyboardInterrupt)
    with pool.acquire(timeout=1):
        pass


def test_an_interrupt_that_is_kept_keeps_no_connection(clock: ManualClock, make: Make) -> None:
    """The same for a KeyboardInterrupt that struck as the connection was handed over."""
    pool = make(max_size=1)
    lease = pool.acquire()
    with struck_while_waiting(clock, KeyboardInterrupt):
        waiting = clock.spawn(pool.acquire, 5)
        clock.advance(0)
        lease.release()
        clock.advance(0)
    kept = outcome(waiting.result)
    assert isinstance(kept, KeyboardInterrupt)
    assert pool.acquire().connection is not None  # and dropped
    gc.collect()
    clock.advance(0)
    assert pool.stats().leased == 0


def test_nor_does_one_that_struck_as_the_lease_was_made(
    clock: ManualClock, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def struck() -> None:
        raise KeyboardInterrupt

    pool = make(max_size=1)
    with monkeypatch.context() as patched:
        patched.setattr("pooling.lease.Lease", struck)
        kept = outcome(pool.acquire, 5)
    assert isinstance(kept, KeyboardInterrupt)
    assert pool.acquire(5).connection is not None


def test_a_lease_is_given_up_once_by_whoever_was_struck_with_it_in_hand(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    for in_hand in (None, lease, lease):  # struck before there was one, with one, and after it had ended
        give_up(in_hand)
    clock.advance(0)
    assert (lease.ended, pool.stats().closed) == (True, {"discarded": 1})
