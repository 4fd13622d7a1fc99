"""Exceptions that strike a thread wherever it is: ten thousand of them against 64 slots, and not one slot is lost."""

from __future__ import annotations

import ctypes
import gc
import random
import sys
import threading
import time

import pytest

from pooling import Pool
from pooling._runtime.threads import Threads
from pooling.testing import FakeConnection, FakeFactory
from tests.waiting import until

SLOTS = 64
USERS = 12
STRIKES = 10_000


class Struck(BaseException):
    """Raised in another thread, as a request's time limit or a debugger does it."""


def strike(thread: threading.Thread) -> bool:
    """Have an exception raised in a thread, at its next bytecode or so."""
    ident = thread.ident
    return (
        ident is not None
        and ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(Struck)) == 1
    )


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """No report of threads that end by what struck them, and no line for each of thousands of dropped leases."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    monkeypatch.setattr(sys, "unraisablehook", lambda args: None)  # struck before a thread's own code had begun
    caplog.set_level("CRITICAL", "pooling")


class Crowd:
    """Users of a pool that are replaced when they end by an exception."""

    def __init__(self, pool: Pool[FakeConnection]) -> None:
        self.pool = pool
        self.over = threading.Event()
        self.threads = [self._user(number) for number in range(USERS)]

    def _user(self, number: int) -> threading.Thread:
        thread = threading.Thread(target=self._use, args=(random.Random(number),), daemon=True)
        thread.start()
        return thread

    def _use(self, chance: random.Random) -> None:
        while not self.over.is_set():
            draw = chance.random()
            if draw < 0.7:
                with self.pool.acquire(timeout=5.0) as connection:
                    connection.dirty = draw < 0.05
            elif draw < 0.8:
                self.pool.acquire(timeout=5.0).discard()
            elif draw < 0.9:
                leases = [self.pool.acquire(timeout=5.0) for _ in range(chance.randrange(1, 6))]
                while leases:
                    leases.pop().release()
            else:
                self.pool.acquire(timeout=5.0)  # dropped

    def one(self) -> threading.Thread:
        number = random.randrange(USERS)
        if not self.threads[number].is_alive():
            self.threads[number] = self._user(number)
        return self.threads[number]

    def end(self) -> int:
        """How many are still there when all should have gone."""
        self.over.set()
        for thread in self.threads:
            thread.join(30.0)
        return sum(thread.is_alive() for thread in self.threads)


@pytest.mark.timeout(600)
def test_ten_thousand_asynchronous_exceptions_lose_no_slot() -> None:
    factory = FakeFactory()
    pool = Pool(factory, runtime=Threads(), max_size=SLOTS, timeout=10.0, nested=None)
    crowd = Crowd(pool)
    struck = 0
    end = time.monotonic() + 300.0
    while struck < STRIKES and time.monotonic() < end:
        struck += strike(crowd.one())
        time.sleep(0.0002)
    assert struck == STRIKES
    assert crowd.end() == 0, "a user stayed in the pool"
    gc.collect()
    leases = [pool.acquire(timeout=10.0) for _ in range(SLOTS)]
    assert len({id(lease.connection) for lease in leases}) == SLOTS
    for lease in leases:
        lease.release()
    assert factory.peak <= SLOTS
    pool.close()
    until(lambda: factory.open == 0)


def test_a_pool_whose_reaper_is_struck_again_and_again_has_one() -> None:
    """A jump back in its loop, which stands outside of the "try" around it, or a second one ended it. Nobody noticed,
    and none was ever started again."""
    runtime = Threads()
    pool = Pool(FakeFactory(), runtime=runtime, max_size=2, nested=None)
    pool.acquire().release()
    for _ in range(300):
        thread = runtime._reaper._thread
        if thread is None or not strike(thread):
            pool.clear()  # an alarm
        for _ in range(3):
            runtime.poke(None)
            time.sleep(0.001)
    until(lambda: pool.stats().busy == pool.stats().closing == 0)
    runtime.poke(None)
    time.sleep(0.1)  # ten of its breaths: the last strike has come, and where it has ended one the next alarm tells
    pool.acquire().release()
    pool.clear()
    pool.acquire()  # dropped
    gc.collect()
    until(lambda: pool.stats().leaks == 1)
    pool.close()


def test_nobody_is_given_to_a_worker_that_was_struck_while_it_had_nothing_to_do() -> None:
    runtime = Threads()
    pool = Pool(FakeFactory(), runtime=runtime, max_size=1, fail_after=0.0, nested=None)
    for _ in range(20):
        pool.acquire(timeout=5.0).discard()  # a connect, and a close
        until(lambda: pool.stats().size == 0)
        for worker in list(runtime._workers._all):
            until(lambda worker=worker: worker in runtime._workers._idle or not worker.thread.is_alive())  # type: ignore[misc]
            strike(worker.thread)
            worker.jobs.put(int)  # it wakes up
            worker.thread.join(5.0)
            assert worker not in runtime._workers._idle
    pool.close()
