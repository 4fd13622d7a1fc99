"""The deadline is a law, measured by the wall clock: the one place where the core's tests do so."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pooling import Pool, PoolTimeout
from pooling.testing import FakeFactory, Gate

LATE = 0.05
TRIES = 3


def best_of_three(measure: Callable[[], float]) -> float:
    """A noisy machine can only make it slower: one try that keeps the bound shows that the pool does."""
    best = float("inf")
    for _ in range(TRIES):
        best = min(best, measure())
        if best <= LATE:
            break
    return best


def timeout_beside(hook: str, timeout: float) -> float:
    """By how many seconds an acquire overran its timeout while a hook of its pool hung."""
    factory = FakeFactory()
    gates = {**factory.gates, "on_connect": Gate(), "listener": Gate()}
    pool = Pool(factory, max_size=1, check="ping", check_after=0, on_connect=gates["on_connect"].enter)
    try:
        pool.subscribe(gates["listener"].enter)
        opened = hook in {"check", "reset", "close", "listener"}
        lease = pool.acquire() if opened else None
        gates[hook].never()
        if lease is not None and hook != "listener":
            lease.connection.dirty = hook == "reset"
            lease.discard() if hook == "close" else lease.release()
        start = time.monotonic()
        with pytest.raises(PoolTimeout):
            pool.acquire(timeout=timeout)
        took = time.monotonic() - start
        if hook == "listener" and lease is not None:
            lease.release()
        assert took >= timeout
        return took - timeout
    finally:
        gates[hook].ok()
        pool.close()


@pytest.mark.parametrize("hook", ["connect", "check", "reset", "close", "on_connect", "listener"])
def test_an_acquire_ends_by_its_timeout_whatever_hangs(hook: str) -> None:
    timeouts = (0, 0.01, 0.1, 1.0)
    with ThreadPoolExecutor(len(timeouts)) as threads:
        overruns = list(threads.map(lambda timeout: best_of_three(lambda: timeout_beside(hook, timeout)), timeouts))
    assert max(overruns) <= LATE, dict(zip(timeouts, overruns, strict=True))


def test_a_returned_connection_reaches_a_waiter_at_once_though_its_connect_is_pending() -> None:
    """Returned after 30 ms, the waiter's own connect would take 1 s."""

    def measure() -> float:
        factory = FakeFactory()
        with Pool(factory, max_size=2) as pool:
            lease = pool.acquire()
            factory.gates["connect"].slow(1.0)
            with ThreadPoolExecutor(1) as thread:
                served = thread.submit(lambda: (pool.acquire(), time.monotonic()))
                while not factory.gates["connect"].inside:
                    time.sleep(0.001)
                time.sleep(0.03)
                given = time.monotonic()
                lease.release()
                again, at = served.result()
            again.release()
            return at - given

    assert min(measure() for _ in range(TRIES)) <= 0.005


def test_a_hand_over_takes_no_polling_interval() -> None:
    """The median of fifty."""
    taken: list[float] = []
    with Pool(FakeFactory(), max_size=1) as pool, ThreadPoolExecutor(1) as thread:
        for _ in range(50):
            lease: Any = pool.acquire()
            served = thread.submit(lambda: (pool.acquire(), time.monotonic()))
            while not pool.stats().waiting:
                time.sleep(0.0002)
            given = time.monotonic()
            lease.release()
            again, at = served.result()
            taken.append(at - given)
            again.release()
    assert sorted(taken)[25] < 0.05
