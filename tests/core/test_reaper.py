"""The reaper's thread is started wherever it is needed, also from within its own start."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from typing import Any

import pytest

from pooling._runtime.reaper import Reaper


class Quiet:
    def due_at(self) -> float:
        return float("inf")

    def look(self) -> None:
        pass


def test_an_alarm_of_a_destructor_that_strikes_in_the_start_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reaper, pool, struck = Reaper(at_rest=lambda: None), Quiet(), []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "pooling-reaper":
            struck.append(1)
            reaper.alarm(time.monotonic())  # as by a pool that is collected just now
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    reaper.watch(pool)
    reaper.alarm(time.monotonic())
    assert struck == [1]
    assert [thread.name for thread in threading.enumerate()].count("pooling-reaper") >= 1
    reaper.forget(pool)
    reaper.park(1.0)


def test_pools_that_are_collected_while_the_reaper_counts_them_do_not_end_it() -> None:
    """Up to Python 3.11 every pair in a list of a dict's items may run the collector, which may close a pool."""
    reaper = Reaper(at_rest=lambda: None)
    pools = [Quiet() for _ in range(300)]
    for pool in pools:
        reaper.watch(pool)
    threshold = gc.get_threshold()
    try:
        for _ in range(100):
            dropped: object = Quiet()
            reaper.watch(dropped)  # type: ignore[arg-type]
            (own,) = [ref for ref in reaper._pools if ref() is dropped]
            weakref.finalize(dropped, reaper._pools.pop, own, None)
            dropped.__dict__["itself"] = dropped
            del dropped
            gc.set_threshold(20)
            assert len(reaper._living()) >= len(pools)
            gc.set_threshold(*threshold)
    finally:
        gc.set_threshold(*threshold)


def test_a_pool_that_gets_the_address_of_one_just_collected_has_its_reaper() -> None:
    """It may be made between the reaper's look at the dead one and its being forgotten."""

    class Two:  # pools may be alike, too, and hash as they like
        def __init__(self, name: str) -> None:
            self.name = name

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Two)

        __hash__ = None  # type: ignore[assignment]

        due_at, look = Quiet.due_at, Quiet.look

    second: Any = None
    while second is None:  # another thread of this process may have been quicker to take the address
        reaper = Reaper(at_rest=lambda: None)
        first: Any = Two("first")
        reaper.watch(first)
        address = id(first)
        (old,) = reaper._pools
        del first
        pools = [Two(f"number {number}") for number in range(100)]
        second = next((pool for pool in pools if id(pool) == address), None)
    reaper.watch(second)
    del reaper._pools[old]
    assert [pool is second for pool in reaper._living()] == [True]
    other: Any = Two("other")
    reaper.watch(other)
    assert not reaper.forget(other)
    assert [pool is second for pool in reaper._living()] == [True]


def test_an_alarm_that_is_set_while_the_pools_are_asked_is_not_missed() -> None:
    """It is due after the wake-up that has just come: the reaper would sleep on."""
    looked = threading.Event()

    class Busy:
        due, asked = time.monotonic() + 0.01, 0

        def due_at(self) -> float:
            told = self.due
            if told == float("inf") and not self.asked:
                self.asked = 1
                self.due = time.monotonic()  # by another thread, and the pool has just said that nothing is due
                reaper.alarm(self.due)
            return told

        def look(self) -> None:
            if self.asked:
                looked.set()
            self.due = float("inf")

    reaper, pool = Reaper(at_rest=lambda: None), Busy()
    reaper.watch(pool)
    reaper.alarm(pool.due)
    assert looked.wait(10)
    reaper.forget(pool)
    reaper.park(1.0)


def test_a_reaper_with_nothing_due_sleeps_until_it_is_woken() -> None:
    class Watching(Reaper):
        def _turn(self, me: threading.Thread) -> None:
            try:
                super()._turn(me)
            except BaseException as error:
                raised.append(error)
                raise
            finally:
                turns.release()

    raised: list[BaseException] = []
    turns = threading.Semaphore(0)
    reaper, pool = Watching(at_rest=lambda: None), Quiet()
    reaper.watch(pool)
    reaper.alarm(time.monotonic())
    for _ in range(3):
        reaper.poke(None)
        assert turns.acquire(timeout=10)
    reaper.forget(pool)
    reaper.park(1.0)
    assert not raised


@pytest.mark.parametrize("frozen_at", [0.0, 4e9])
def test_a_clock_that_a_test_freezes_makes_nothing_due(frozen_at: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pools go by the real one, and the reaper would look at them without a pause, or never."""
    looked = []

    class Due:
        def due_at(self) -> float:
            return at

        def look(self) -> None:
            looked.append(at)

    reaper, pool, real = Reaper(at_rest=lambda: None), Due(), time.monotonic()
    reaper.watch(pool)
    monkeypatch.setattr(time, "monotonic", lambda: frozen_at)
    for at in (real + 3600, real):
        assert reaper._round() == at
    assert looked == [real]


def test_at_the_end_of_the_interpreter_nobody_waits_for_the_reapers_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread may have ended with that in its hands."""
    reaper, pool = Reaper(at_rest=lambda: None), Quiet()
    reaper.watch(pool)

    def late() -> None:
        reaper.alarm(time.monotonic())
        reaper.park(1.0)

    with monkeypatch.context() as patched, reaper._starting:
        patched.setattr(sys, "is_finalizing", lambda: True)
        destructor = threading.Thread(target=late, daemon=True)
        destructor.start()
        destructor.join(10.0)
        assert not destructor.is_alive()
    assert reaper._thread is None


@pytest.mark.parametrize("possible", [True, False], ids=["nothing is due", "no thread can be started"])
def test_what_would_wake_a_reaper_that_does_not_run_does_not_pile_up(
    possible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    if not possible:
        monkeypatch.setattr(threading.Thread, "start", refuse)
    reaper = Reaper(at_rest=lambda: None)
    for _ in range(100):
        pool = Quiet()
        reaper.watch(pool)
        if not possible:
            reaper.alarm(time.monotonic())
        del pool  # which wakes the reaper
    assert 1 <= reaper._pokes.qsize() <= 2
    assert not reaper.watches()
    assert not reaper._pools
