"""An exception at every line of single functions: of those where much hangs on the order of a few statements."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pooling import Lease, Pool, PoolClosed
from pooling._dispatch import Dispatch
from pooling._ledger.ledger import Ledger
from pooling._ledger.moves import Moves
from pooling._ledger.phase import Phase
from pooling._ledger.roster import Roster
from pooling._ledger.settling import Settling
from pooling._log import PoolLog
from pooling._periodic import Periodic
from pooling._runtime.lock import alone
from pooling._runtime.reaper import Reaper
from pooling._runtime.threads import Threads
from pooling._waiting import WaitingRoom
from pooling.events import Outlet, PoolEvent
from pooling.lease import Transaction, leased
from pooling.retry import Retrying
from pooling.testing import FakeBroken, FakeConnection, FakeFactory
from tests.interrupts.lines import (
    SIZE,
    keeping,
    make,
    struck_after_each_call,
    struck_as_it_begins,
    struck_at_each_line,
)
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("untraced")


def all_can_be_leased(pool: Pool[FakeConnection]) -> bool:
    leases = [pool.acquire(timeout=5.0) for _ in range(SIZE)]
    for lease in leases:
        lease.release()
    return len({id(lease._entry) for lease in leases}) == SIZE


def test_a_slot_that_is_given_up_is_never_lost_half_way() -> None:
    """A detached connection's: its entry stood in the roster for ever, and its token was reported by nobody."""
    pools: list[Pool[FakeConnection]] = []

    def detach() -> Callable[[], object]:
        pools.append(make(10.0)[0])
        return pools[-1].acquire().detach

    for line in struck_at_each_line(Roster.remove, detach):
        gc.collect()
        assert all_can_be_leased(pools[-1]), line
        assert pools[-1].stats().size == SIZE
        pools[-1].close()


def _acquire(pool: Pool[FakeConnection]) -> object:
    return pool._acquire_for(sys._getframe())


def _discard(pool: Pool[FakeConnection]) -> None:
    _end(pool.acquire(), Lease.discard)


def _detach(pool: Pool[FakeConnection]) -> None:
    _end(pool.acquire(), Lease.detach)


def _refresh(pool: Pool[FakeConnection]) -> None:
    _end(pool.acquire(), Lease.refresh)


def _end(lease: Lease[FakeConnection], how: Callable[[Lease[FakeConnection]], object]) -> None:
    try:
        how(lease)
    finally:
        if not lease.ended:  # it has not come to that, or was refreshed
            lease.release()


def _break(pool: Pool[FakeConnection]) -> None:
    with contextlib.suppress(FakeBroken), pool.acquire():
        raise FakeBroken


def _serve(pool: Pool[FakeConnection]) -> None:
    """Others wait, and are served by who tells the pool something."""
    leases = [pool.acquire() for _ in range(SIZE)]
    waiter = threading.Thread(target=lambda: pool.acquire().release())
    waiter.start()
    until(lambda: pool.stats().waiting == 1, "a waiter")
    try:
        for lease in leases:
            lease.release()
    finally:
        for lease in leases:
            if not lease.ended:
                lease.release()
        waiter.join()


@pytest.mark.parametrize(
    ("function", "act"),
    [
        (Pool._acquire_for, _acquire),
        (Pool._take_carefully, _acquire),
        *itertools.product([Lease._part], [_discard, _detach]),
        *itertools.product([Pool._end, Dispatch._tell, Settling.settle, Ledger.release], [_discard, _detach, _break]),
        *itertools.product([Roster.doom], [_discard, _break]),
        *itertools.product([Lease.refresh, Pool._renew, Ledger.renew, Roster.doom], [_refresh]),
        *itertools.product([Dispatch._pass_on, Settling.pass_on, Settling._hand], [_serve]),
    ],
)
def test_an_exception_that_is_kept_keeps_no_slot(function: Any, act: Callable[[Pool[FakeConnection]], object]) -> None:
    """It keeps the frames that it has passed: a lease or a token in one of them was not lost, and nobody had it."""
    pools: list[Pool[FakeConnection]] = []
    kept: list[BaseException] = []

    def acquire() -> Callable[[], object]:
        pools.append(make(10.0)[0])
        return keeping(kept, lambda: act(pools[-1]))

    for line in struck_at_each_line(function, acquire):
        assert all_can_be_leased(pools[-1]), line
        pools[-1].close()
    assert kept


def _transaction(pool: Pool[FakeConnection]) -> None:
    with pool.transaction():
        pass


def _plain(pool: Pool[FakeConnection]) -> None:
    pool.acquire().release()


def _run(pool: Pool[FakeConnection]) -> None:
    pool.run(lambda connection: None, transaction=True)


def _loop(pool: Pool[FakeConnection]) -> None:
    for attempt in Retrying(pool):
        with attempt:
            pass


@pytest.mark.parametrize(
    ("function", "act"),
    [
        (leased, _acquire),
        (Pool._take_carefully, _plain),
        (Transaction._begin, _transaction),
        (Transaction.__init__, _run),
        (Lease.__enter__, _loop),  # which makes no such call: the lease stood in the attempt, the user's own variable
    ],
)
def test_nor_does_one_that_has_struck_as_a_function_began(
    function: Any, act: Callable[[Pool[FakeConnection]], object]
) -> None:
    """What it is given stands in its frame, and its own care begins a line later."""
    pool, kept = make(10.0)[0], list[BaseException]()
    pool.acquire().release()
    for token in pool._roster.idle:
        token.entry.since = token.entry.checked_at = 0.0  # as if unused for long: it is looked at before it goes out
    del token
    assert struck_as_it_begins(function, keeping(kept, lambda: act(pool))) == (act is not _loop)
    gc.collect()
    assert all_can_be_leased(pool)
    pool.close()


def test_nor_does_one_that_has_struck_as_a_wait_was_over() -> None:
    pools: list[Pool[FakeConnection]] = []
    kept: list[BaseException] = []

    def acquire() -> Callable[[], object]:
        pools.append(make(10.0)[0])
        return keeping(kept, lambda: _acquire(pools[-1]))

    for call in struck_after_each_call(WaitingRoom._wait, acquire):
        assert all_can_be_leased(pools[-1]), call
        pools[-1].close()
    assert kept


@pytest.mark.parametrize("function", [Dispatch._pass_on, Settling.pass_on, Settling._hand])
def test_those_who_wait_are_served_whoever_was_struck_when_he_handed_on(function: Any) -> None:
    """A connection stayed with a waiter who did not know that he had it."""
    pools: list[Pool[FakeConnection]] = []
    served: list[list[int]] = []

    def crowded() -> Callable[[], object]:
        pool: Pool[FakeConnection] = Pool(FakeFactory(), runtime=Threads(), max_size=1, timeout=10.0)
        pool._slice = 0.05  # seconds after which a waiter looks by itself
        lease = pool.acquire()
        pools.append(pool)
        served.append([])
        for number in range(2):
            threading.Thread(target=wait, args=(pool, number, served[-1])).start()
            until(lambda expected=number + 1: pool.stats().waiting == expected, "a waiter")  # type: ignore[misc]
        return lease.release

    for line in struck_at_each_line(function, crowded):
        until(lambda: len(served[-1]) == 2, f"both after line {line}", 5.0)
        assert served[-1] == [0, 1], line
        pools[-1].close()


def wait(pool: Pool[FakeConnection], number: int, served: list[int]) -> None:
    with pool.acquire():
        served.append(number)


@pytest.mark.parametrize("function", [Ledger.enter, Moves._fail, Moves._release_claim])
def test_those_who_wait_are_told_of_the_end_whoever_was_struck_when_he_closed_the_pool(function: Any) -> None:
    """They were counted as waiting for ever, and a refresh waited for what nobody was going to open."""
    pools: list[Pool[FakeConnection]] = []
    told: list[list[int]] = []

    def crowded() -> Callable[[], object]:
        factory = FakeFactory()
        pool = Pool(factory, runtime=Threads(), max_size=1, timeout=10.0, nested=None)
        pool._slice = 0.05  # seconds after which a waiter looks by itself
        lease = pool.acquire()
        factory.gates["connect"].never()
        pools.append(pool)
        told.append([])
        for number, wait in enumerate((lease.refresh, pool.acquire, functools.partial(pool.acquire, priority=-1.0))):
            threading.Thread(target=is_told, args=(wait, number, told[-1])).start()
        until(lambda: pool.stats().waiting == 2 and factory.gates["connect"].inside == 1, "all three")
        return functools.partial(pool.close, 0.0)

    for line in struck_at_each_line(function, crowded):
        if pools[-1]._ledger.phase is not Phase.CLOSED:  # it has not come to that
            pools[-1].close(0.0)
        until(lambda: sorted(told[-1]) == [0, 1, 2], f"all three after line {line}", 5.0)
        assert pools[-1].stats().waiting == 0, line
        pools[-1]._factory.gates["connect"].ok()  # type: ignore[attr-defined]
        pools[-1].close()


def is_told(wait: Callable[[], object], number: int, told: list[int]) -> None:
    with contextlib.suppress(PoolClosed):
        wait()
    told.append(number)


@pytest.mark.parametrize("function", [Reaper._start, Reaper._start_thread])
def test_a_reaper_whose_start_was_struck_is_started_by_the_next(function: Any) -> None:
    """It was never started again, and whoever tried waited for the lock of the thread that was struck."""
    runtimes: list[Threads] = []
    pools: list[Pool[FakeConnection]] = []

    def first() -> Callable[[], object]:
        runtimes.append(Threads())
        pools.append(Pool(FakeFactory(), runtime=runtimes[-1], max_size=SIZE, timeout=5.0))
        return lambda: pools[-1].acquire().release()

    for line in struck_at_each_line(function, first):
        reaper = runtimes[-1]._reaper
        assert reaper._starting.acquire(timeout=1.0), line
        reaper._starting.release()
        pools[-1].clear()
        pools[-1].acquire().release()
        assert reaper._thread is not None, line
        pools[-1].close()  # and with the last one the reaper ends
        with Pool(FakeFactory(), runtime=runtimes[-1], max_size=SIZE, timeout=5.0) as later:
            later.acquire().release()
            assert reaper._thread is not None, line


def test_a_listener_is_told_whatever_has_struck_the_worker_that_told_him() -> None:
    """Between the two steps of taking the lock: no worker ever told him anything again."""
    told: list[list[str]] = []
    outlets: list[Outlet] = []

    def heard() -> Callable[[], object]:
        kinds: list[str] = []
        told.append(kinds)
        outlets.append(Outlet(lambda event: kinds.append(event.kind), PoolLog("p")))
        outlets[-1].put(PoolEvent("clear", "p", 0.0))
        return outlets[-1]._drain

    for place in struck_after_each_call(alone, heard):
        outlets[-1].put(PoolEvent("resize", "p", 0.0))
        outlets[-1].flow(lambda job: job())
        assert told[-1][-1:] == ["resize"], place


def test_a_periodic_report_goes_on_whatever_has_struck_one_who_made_it() -> None:
    """Nobody ever made one again, and whoever stopped it waited a second."""
    reports: list[list[int]] = []
    periodic: list[Periodic] = []

    def reporting() -> Callable[[], object]:
        made: list[int] = []
        reports.append(made)
        periodic.append(Periodic(lambda: not made.append(len(made)), 60.0, Threads()))
        return periodic[-1].now

    for place in struck_after_each_call(alone, reporting):
        before = len(reports[-1])
        periodic[-1]._act()
        assert len(reports[-1]) == before + 1, place


def test_a_listener_is_told_whoever_was_struck_when_he_had_it_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a second nobody asked for a worker again, and in a quiet pool nobody at all."""
    monkeypatch.setattr("pooling.events.CALL", 1000.0)
    told: list[list[str]] = []
    pools: list[Pool[FakeConnection]] = []

    def heard() -> Callable[[], object]:
        kinds: list[str] = []
        told.append(kinds)
        pools.append(make(10.0)[0])
        pools[-1].acquire().release()
        pools[-1].subscribe(lambda event: kinds.append(event.kind))
        return lambda: pools[-1].acquire().release()

    for line in struck_at_each_line(Outlet.flow, heard):
        pools[-1].clear()
        until(lambda: "clear" in told[-1], f"the event after line {line}")
        pools[-1].close()
