"""The process's own threads: workers that run the driver's I/O, and the one reaper."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
from typing import Any
from unittest import mock

import pytest

from pooling import Pool, PoolClosed
from pooling._log import PoolLog
from pooling._runtime.reaper import Reaper
from pooling._runtime.threads import Threads
from pooling._runtime.workers import Workers, _Worker, begin
from pooling.events import Outlet, PoolEvent
from pooling.testing import FakeFactory
from tests.core.helpers import outcome, run_python
from tests.waiting import until

SOON = 5.0  # seconds until something that happens at once must have happened, on the noisiest of machines


def run(workers: Workers) -> threading.Thread:
    """Run one job; the thread that did it."""
    done: list[threading.Thread] = []
    ran = threading.Event()
    workers.submit(lambda: (done.append(threading.current_thread()), ran.set()))
    assert ran.wait(SOON)
    until(lambda: workers._idle)
    return done[0]


@pytest.fixture
def workers() -> Any:
    workers = Workers()
    yield workers
    workers.park(SOON)
    assert not workers._all


def test_an_idle_worker_is_used_again(workers: Workers) -> None:
    assert run(workers) is run(workers)


def test_a_job_never_waits_for_another(workers: Workers) -> None:
    barrier = threading.Barrier(10)
    for _ in range(10):
        workers.submit(lambda: barrier.wait(SOON))
    until(lambda: len(workers._idle) == 10)
    assert not barrier.broken


def test_a_worker_without_work_ends(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pooling._runtime.workers.IDLE", 0.01)
    thread = run(workers)
    thread.join(SOON)
    assert not thread.is_alive()
    assert not workers._all


def test_a_worker_that_is_given_a_job_as_it_wants_to_end_does_it(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pooling._runtime.workers.IDLE", 0.01)
    asked = threading.Event()
    retire = workers.retire
    ran = threading.Event()

    def late(worker: Any) -> bool:
        workers._idle.remove(worker)  # somebody else has just taken it
        answer = retire(worker)
        worker.jobs.put(ran.set)
        monkeypatch.setattr(workers, "retire", retire)
        asked.set()
        return answer

    monkeypatch.setattr(workers, "retire", late)
    run_ = threading.Event()
    workers.submit(run_.set)
    assert asked.wait(SOON)
    assert ran.wait(SOON)


def test_a_worker_whose_job_is_lost_to_an_exception_on_the_way_to_it_ends(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pooling._runtime.workers.IDLE", 0.3)
    thread = run(workers)
    workers._idle.pop()  # by somebody who is struck before the worker has its job
    thread.join(SOON)
    assert not thread.is_alive()


def test_parking_ends_idle_workers_and_those_that_are_nearly_done_but_waits_for_none_that_hangs(
    workers: Workers,
) -> None:
    hang, both = threading.Event(), threading.Barrier(2)
    workers.submit(hang.wait)
    until(lambda: any(worker.busy_since < float("inf") for worker in workers._all))
    (hanging,) = workers._all
    hanging.busy_since = float("-inf")  # it has been at it for longer than anybody waits
    for _ in range(2):
        workers.submit(lambda: both.wait(SOON))
    until(lambda: len(workers._idle) == 2)
    others = workers._all - {hanging}
    workers.submit(lambda: until(lambda: workers._parked))  # done as soon as the others are to end
    start = time.monotonic()
    workers.park(2 * SOON)
    assert time.monotonic() - start < SOON
    assert not any(worker.thread.is_alive() for worker in others)
    assert hanging.thread.is_alive()
    hang.set()
    until(lambda: not workers._all)


def test_a_worker_that_parks_the_others_does_not_wait_for_itself(workers: Workers) -> None:
    parked = threading.Event()
    workers.submit(lambda: (workers.park(0.05), parked.set()))
    assert parked.wait(SOON)
    until(lambda: not workers._all)


def test_parking_passes_over_a_worker_that_is_just_being_started(workers: Workers) -> None:
    starting = _Worker(workers)
    workers._all.add(starting)
    workers.park(0.05)
    workers._all.discard(starting)


def test_two_that_take_the_last_idle_worker_get_one_each(workers: Workers) -> None:
    """Between the look at the deque and its pop another thread may have been faster."""

    class Emptied(list):  # type: ignore[type-arg]
        def __bool__(self) -> bool:
            return True

    ordinary, workers._idle = workers._idle, Emptied()  # type: ignore[assignment]
    assert workers._rested() is None
    workers.park(0)
    workers._idle = ordinary


def test_a_thread_that_cannot_be_started_leaves_nothing_behind(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        workers.submit(lambda: None)
    assert not workers._all


def test_at_the_end_of_the_interpreter_nothing_is_given_to_a_thread(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is there does not run any more, and a new one never would."""
    run(workers)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "is_finalizing", lambda: True)
        with pytest.raises(RuntimeError, match="the interpreter is ending"):
            workers.submit(lambda: None)
        with pytest.raises(RuntimeError, match="the interpreter is ending"):
            begin(threading.Thread())
    assert len(workers._idle) == 1


def test_a_thread_that_is_just_being_started_is_not_waited_for(workers: Workers) -> None:
    """It has an identity a moment before it may be joined. A fork just then wrote an error of a hook on standard
    error."""
    newborn = _Worker(workers)
    newborn.thread._ident = 1  # type: ignore[attr-defined]
    workers._all.add(newborn)
    workers.park(0.5)
    workers._all.discard(newborn)


@pytest.mark.parametrize("where", ["_bootstrap", "_set_native_id", "run"])
def test_a_thread_that_is_struck_before_it_begins_is_not_waited_for_for_ever(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One second each, in real time: what would be waited for does not come. One that was there already was given the
    connect, which nobody did: the slot was lost for as long as threading kept the thread among those in limbo."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    monkeypatch.setattr(sys, "unraisablehook", lambda args: None)
    ordinary = getattr(threading.Thread, where)
    stillborn: dict[str, threading.Thread] = {}

    def first(self: Any) -> None:
        kind = self.name.partition("-")[2][:6]
        if self.name.startswith("pooling-") and kind not in stillborn:
            stillborn[kind] = self
            raise MemoryError
        ordinary(self)

    monkeypatch.setattr(threading.Thread, where, first)
    with Pool(FakeFactory(), runtime=Threads(), max_size=1, idle_timeout=0.1) as pool:
        pool.acquire(timeout=10).release()
        pool.acquire(timeout=10).release()
        until(lambda: pool.stats().closed == {"idle": 1})
    assert sorted(stillborn) == ["reaper", "worker"]


def test_a_thread_that_is_struck_as_it_says_that_it_is_there_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An event's lock stayed taken, and whoever had started the thread waited for that without a deadline."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    monkeypatch.setattr(sys, "unraisablehook", lambda args: None)
    ordinary = threading.Condition.__exit__

    def leave(self: Any, *details: Any) -> None:
        if threading.get_ident() not in threading._active:  # type: ignore[attr-defined]  # a newborn thread
            raise MemoryError
        ordinary(self, *details)

    begin_to_use = threading.Event()
    with Pool(FakeFactory(), runtime=Threads(), max_size=1) as pool:
        user = threading.Thread(
            target=lambda: begin_to_use.wait(20) and pool.acquire(timeout=10).release(), daemon=True
        )
        user.start()
        monkeypatch.setattr(threading.Condition, "__exit__", leave)
        begin_to_use.set()
        user.join(20)
        assert not user.is_alive()


def test_where_no_thread_can_be_started_the_caller_does_the_io(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    factory = FakeFactory()
    runtime = Threads()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Pool(factory, runtime=runtime, max_size=2, check="ping", keepalive=5) as pool:
        with pool.acquire(timeout=1) as connection:
            connection.dirty = True
        pool.acquire(timeout=1).discard()
        pool.subscribe(lambda event: None)
    assert factory.open == 0


def test_a_stack_that_is_full_is_not_taken_for_a_limit_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's calls would overflow it all the more, and what that raised count as an outage of the server."""

    def overflow(self: Any) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    factory = FakeFactory()
    with Pool(factory, runtime=Threads(), max_size=1) as pool:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", overflow)
            with pytest.raises(RecursionError):
                pool.acquire(timeout=1)
        assert factory.opened == 0
        with pool.acquire(timeout=20):
            assert factory.opened == 1


@pytest.mark.parametrize("begun", [True, False])
def test_a_job_is_done_once_whatever_strikes_the_thread_that_has_just_given_it_out(begun: bool) -> None:
    """A signal handler's RuntimeError looked like a thread that cannot be started: two did one connect, one connection
    was lent to two and the other stayed open."""

    class Struck(Threads):
        def submit(self, job: Any) -> None:
            super().submit(job)
            runtime.submit = super().submit  # type: ignore[method-assign]  # once
            if begun:
                until(lambda: factory.gates["connect"].inside == 1)
            raise RuntimeError("out of time")

    factory, runtime = FakeFactory(), Struck()
    factory.gates["connect"].slow(0.2)
    with Pool(factory, runtime=runtime, max_size=2) as pool:
        if begun:
            with pytest.raises(RuntimeError, match="out of time"):
                pool.acquire(timeout=20)
        else:
            pool.acquire(timeout=20).release()
        leases = [pool.acquire(timeout=20) for _ in range(2)]
        assert leases[0].connection is not leases[1].connection
        assert factory.open == pool.stats().size == 2
        for lease in leases:
            lease.release()
    until(lambda: factory.open == 0)


@pytest.mark.parametrize("times", [1, 2])
def test_a_connect_that_an_exception_has_lost_is_nothing_to_others_unless_it_is_lost_again(times: int) -> None:
    """Who came next was told that the server could not be reached, because somebody else had been interrupted."""

    class Struck(Threads):
        left = times

        def submit(self, job: Any) -> None:
            if self.left:
                self.left -= 1
                raise KeyboardInterrupt
            super().submit(job)

    factory = FakeFactory()
    with Pool(factory, runtime=Struck(), max_size=1, fail_after=0.0) as pool:
        for _ in range(times):
            with pytest.raises(KeyboardInterrupt):
                pool.acquire(timeout=20)
        until(lambda: pool.stats().errors == times)
        if times == 1:
            pool.acquire(timeout=20).release()
        else:
            assert pool.stats().state == "down"
            until(lambda: outcome(lambda: pool.acquire(timeout=20).release()) is None)
        assert (factory.opened, pool.stats().state) == (1, "up")


def test_a_listener_hears_nothing_while_no_thread_can_be_started_and_everything_afterwards() -> None:
    """It is never called on the thread of somebody who acquires or releases."""

    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    heard: list[str] = []
    with Pool(FakeFactory(), runtime=Threads()) as pool:
        pool.subscribe(lambda event: heard.append(event.kind))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            pool.acquire(timeout=1).release()
            assert heard == []
        pool.clear()
        until(lambda: heard[:5] == ["wait", "connect", "acquire", "release", "clear"])


@pytest.mark.parametrize("name", ["threading.Thread", "threading.Thread.start"])
def test_where_a_test_has_a_mock_for_threads_the_caller_does_the_work(name: str) -> None:
    """A thread that is a mock is started, and never begins."""
    with mock.patch(name), Pool(FakeFactory(), runtime=Threads(), leak_after=5.0) as pool:
        pool.acquire(timeout=1).release()
        assert pool.stats().opened == 1
        pool.clear()
        pool.acquire(timeout=1).release()
        assert pool.stats().closed == {"stale": 1}


def test_the_times_of_a_mock_are_for_the_test_that_has_made_it() -> None:
    # In an interpreter of its own: a thread that another test has left might take one.
    run_python(
        """
        import time
        from unittest import mock
        import pooling
        from pooling.testing import FakeFactory

        with (
            mock.patch("time.monotonic", side_effect=[1.0, 2.0]),
            pooling.Pool(FakeFactory(), max_size=1) as pool,
        ):
            began = time.monotonic()
            pool.subscribe(mock.Mock())
            lease = pool.acquire(timeout=20)
            try:
                pool.acquire(timeout=0.01)
            except pooling.PoolTimeout:
                lease.release()
            pool.clear()
            pool.acquire(timeout=20).release()
            assert time.monotonic() - began == 1.0
        """
    )


# -- the reaper ----------------------------------------------------------------------------------------------


class Watched:
    """A pool as the reaper sees it."""

    def __init__(self, due: float = float("inf")) -> None:
        self.due = due
        self.looks = 0
        self.looked = threading.Event()
        self.fails = False

    def due_at(self) -> float:
        return self.due

    def look(self) -> None:
        self.looks += 1
        self.due = float("inf")
        self.looked.set()
        if self.fails:
            raise ZeroDivisionError


@pytest.fixture
def reaper() -> Any:
    reaper = Reaper(at_rest=lambda: None)
    yield reaper
    reaper._pools.clear()
    reaper.park(SOON)


def test_the_reaper_looks_when_a_pool_is_due(reaper: Reaper) -> None:
    pool, other = Watched(), Watched()
    reaper.watch(pool)
    reaper.watch(other)
    reaper.alarm(float("inf"))
    pool.due = time.monotonic() + 0.05
    reaper.alarm(pool.due)
    assert pool.looked.wait(SOON)
    assert (pool.looks, other.looks) == (1, 0)


def test_a_later_alarm_wakes_nobody(reaper: Reaper) -> None:
    pool = Watched(due=time.monotonic() + 100)
    reaper.watch(pool)
    reaper.alarm(pool.due)
    until(lambda: reaper.wakes_at == pool.due)
    poked: list[Any] = []
    reaper.poke = poked.append  # type: ignore[method-assign, assignment]
    reaper.alarm(pool.due + 1)
    assert poked == []


def test_a_pool_whose_upkeep_fails_does_not_harm_the_others(reaper: Reaper, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Watched(due=0.0), Watched(due=0.0)
    bad.fails = True
    reaper.watch(bad)
    reaper.watch(good)
    reaper.alarm(0.0)
    assert good.looked.wait(SOON)
    until(lambda: "a pool's upkeep failed" in caplog.text)


def test_a_pool_whose_upkeep_fails_is_tried_again_after_a_pause(
    reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    class Bad(Watched):
        def look(self) -> None:
            looks.append(time.monotonic())
            raise ZeroDivisionError

    monkeypatch.setattr("pooling._runtime.reaper.PAUSE", 0.05)
    bad = Bad(due=0.0)
    reaper.watch(bad)
    reaper.alarm(0.0)
    until(lambda: len(looks) >= 5)
    pauses = [after - before for before, after in itertools.pairwise(looks)]
    assert min(pauses[2:]) > 0.04  # the alarm may have made it look at once in the beginning


def test_the_reaper_ends_with_the_last_pool() -> None:
    rested = threading.Event()
    reaper = Reaper(at_rest=rested.set)
    pool = Watched()
    reaper.watch(pool)
    reaper.alarm(0.0)
    until(lambda: reaper._thread is not None)
    thread = reaper._thread
    del pool
    assert rested.wait(SOON)
    assert thread is not None
    thread.join(SOON)
    assert (thread.is_alive(), reaper._thread) == (False, None)


def test_a_pool_that_comes_as_the_reaper_makes_up_its_mind_keeps_it(reaper: Reaper) -> None:
    pool = Watched()
    reaper._pools.clear()
    assert reaper._round() is None
    reaper.watch(pool)
    assert reaper._end() is False
    look_round, answers = reaper._round, [None]
    reaper._round = lambda: answers.pop() if answers else look_round()  # type: ignore[method-assign]
    pool.due = 0.0
    reaper.alarm(0.0)
    assert pool.looked.wait(SOON)


def test_a_parked_reaper_starts_again_with_the_next_alarm(reaper: Reaper) -> None:
    pool = Watched()
    reaper.watch(pool)
    reaper.alarm(0.0)
    until(lambda: reaper._thread is not None)
    reaper.park(SOON)
    assert reaper._thread is None
    pool.due = 0.0
    reaper.alarm(0.0)
    assert pool.looked.wait(SOON)


def test_a_reaper_that_was_replaced_while_it_looked_leaves_its_successor_alone(reaper: Reaper) -> None:
    began, go = threading.Event(), threading.Event()

    class Slow(Watched):
        def look(self) -> None:
            super().look()
            began.set()
            go.wait(SOON)

    pool = Slow(due=0.0)
    reaper.watch(pool)
    reaper.alarm(0.0)
    assert began.wait(SOON)
    old = reaper._thread
    reaper.park(0.0)
    reaper.alarm(0.0)
    until(lambda: reaper._thread is not None)
    wakes_at = reaper.wakes_at
    go.set()
    assert old is not None
    old.join(SOON)
    assert not old.is_alive()
    assert reaper.wakes_at == wakes_at


def test_a_pool_at_rest_wakes_nobody() -> None:
    """Nothing due, nobody waiting: the reaper sleeps for ever."""
    looks: list[float] = []
    runtime = Threads()  # the process's own may have another test's pool to look at
    with Pool(FakeFactory(), runtime=runtime, idle_timeout=None, max_lifetime=None, connect_timeout=0.05) as pool:
        pool.acquire().release()
        until(lambda: pool.due_at() == runtime._reaper.wakes_at == float("inf"))
        look = pool.look
        pool.look = lambda: (looks.append(time.monotonic()), look())  # type: ignore[method-assign, assignment, return-value]
        time.sleep(0.3)  # several times as long as anything of this pool takes: what would wake it has had its time
        assert looks == []


def test_a_dropped_lease_is_found_at_once_in_a_pool_at_rest(caplog: pytest.LogCaptureFixture) -> None:
    """The orphan itself wakes the reaper."""
    with Pool(FakeFactory(), idle_timeout=None, max_lifetime=None) as pool, caplog.at_level(logging.CRITICAL):
        assert pool.acquire().connection is not None
        until(lambda: pool.stats().closed == {"dropped": 1})


def test_the_bell_of_a_thread_is_used_again() -> None:
    runtime = Threads()
    bell = runtime.bell()
    assert runtime.bell() is not bell
    runtime.keep(bell)
    assert runtime.bell() is bell


def test_renewing_in_the_same_process_keeps_the_threads() -> None:
    runtime = Threads()
    reaper = runtime._reaper
    runtime.renew()
    assert runtime._reaper is reaper


def test_of_two_threads_that_renew_at_once_one_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Threads()
    reaper, runtime._pid = runtime._reaper, -1  # as in a child

    class Beaten:
        """The lock, when another thread was faster."""

        def __enter__(self) -> None:
            runtime._pid = os.getpid()

        def __exit__(self, *details: object) -> None:
            pass

    monkeypatch.setattr("pooling._runtime.threads._renewing", Beaten)
    runtime.renew()
    assert runtime._reaper is reaper


# -- what an exception has left half done ----------------------------------------------------------------------


def test_a_reaper_that_is_struck_while_it_takes_a_breath_makes_way_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Threads()
    with Pool(FakeFactory(), runtime=runtime) as pool:
        pool.acquire().release()
        first = runtime._reaper._thread
        assert first is not None
        with monkeypatch.context() as patched:
            patched.setattr(threading, "excepthook", lambda args: None)
            patched.setattr("pooling._runtime.reaper.BREATH", -1.0)  # which no sleep takes
            patched.setattr(runtime._reaper, "_turn", lambda me: 1 / 0)
            runtime.poke(None)
            until(lambda: not first.is_alive())
        assert runtime._reaper._thread is None
        pool.clear()
        assert runtime._reaper._thread not in (None, first)


def test_a_refresh_that_was_not_told_of_the_end_is_told_when_it_looks_again() -> None:
    pool = Pool(FakeFactory(), runtime=Threads())
    waiter = pool._waiter(5.0)
    pool.close()
    pool._tell(pool._ledger.reclaim, waiter)
    assert isinstance(waiter.error, PoolClosed)


def test_a_try_whose_transaction_cannot_even_be_made_gives_its_connection_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(FakeFactory(), runtime=Threads()) as pool:
        with monkeypatch.context() as patched, pytest.raises(TypeError):
            patched.setattr("pooling.retry.Transaction", None)
            pool.run(lambda connection: None, transaction=True)
        assert pool.stats().leased == 0


def test_one_worker_at_a_time_tells_a_listener() -> None:
    heard: list[PoolEvent] = []
    outlet = Outlet(heard.append, PoolLog("p"))
    outlet.put(PoolEvent("clear", "p", 0.0))
    with outlet._draining:
        other = threading.Thread(target=outlet._drain)
        other.start()
        other.join(10.0)
        assert not heard
    outlet._drain()
    assert heard
