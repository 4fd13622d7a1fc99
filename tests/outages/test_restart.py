"""A real restart of a real server: how many operations fail, which connections go out again, how soon it works."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest

from pooling import Pool
from tests.outages.conftest import Mine
from tests.outages.users import Crowd, fill
from tests.waiting import until

THREADS = 10
LATE = 2.0  # seconds by which a loaded machine may be late
TAKEN_OFF = 0.1  # seconds for which it may take a thread off the processor; the outage lasts twice as long
BACKENDS = ("http", "mongodb", "mysql", "postgres", "redis")


def all_at_once(crowd: Crowd, uses: int = 5) -> None:
    """Ten threads, each with its first lease in hand before any of them uses it."""
    together = threading.Barrier(THREADS)

    def work() -> None:
        together.wait(60.0)
        for _ in range(uses):
            crowd.use()

    crowd.start(THREADS, work)
    crowd.join()


QUICK = ("postgres", "redis")  # the others are slow to start again: once in the ordinary suite, the rest as a soak
KILLED = [pytest.param(name, True, marks=[pytest.mark.soak] * (name not in QUICK)) for name in BACKENDS]


@pytest.mark.parametrize(("name", "fast"), [*((name, False) for name in BACKENDS), *KILLED])
def test_a_restart_while_nobody_uses_anything(mine: Mine, name: str, fast: bool) -> None:
    """One restart under six pools, of 10 and of 20 connections. At most one failed operation with the default check,
    none with a ping, and without a check none but on connections that were leased before the first failure."""
    backend = mine(name)
    kinds: list[tuple[int, Any]] = list(itertools.product((10, 20), ("peek", "ping", None)))
    pools: dict[Any, Pool[Any]] = {
        (size, check): backend.pool(max_size=size, check=check, timeout=60.0) for size, check in kinds
    }
    old = {kind: fill(pool, kind[0]) for kind, pool in pools.items()}
    filled = time.monotonic()
    backend.server.restart(fast=fast)
    time.sleep(max(0.0, filled + 1.2 - time.monotonic()))  # longer than check_after
    for kind, pool in pools.items():
        crowd = Crowd(backend, pool)
        all_at_once(crowd)
        assert len(crowd.served) + len(crowd.failed) == 5 * THREADS
        assert len(crowd.failed) <= {"peek": 1, "ping": 0, None: THREADS}[kind[1]], f"{kind}: {crowd.failed}"
        crowd.none_after_the_first()
        if name == "mongodb":
            continue  # a permit outlives its socket: PyMongo replaces those
        # The others have gone without having been handed out.
        assert not old[kind] & {use.entry for use in crowd.served}, kind
        until(lambda pool=pool: not pool.stats().closing + pool.stats().busy, "the old ones are closed")  # type: ignore[misc]
        closed = pool.stats().closed
        assert sum(closed.values()) == kind[0], f"{kind}: {closed}"
        assert set(closed) <= {"broken", "stale"}, f"{kind}: {closed}"
        assert pool.stats().state == "up"


@pytest.mark.parametrize("name", BACKENDS)
def test_without_a_check_a_lone_user_meets_one_failure(mine: Mine, name: str) -> None:
    backend = mine(name)
    pool = backend.pool(max_size=10, check=None, timeout=60.0)
    old = fill(pool, 10)
    backend.server.restart()
    crowd = Crowd(backend, pool)
    for _ in range(30):
        crowd.use()
    if name == "mongodb":
        assert not crowd.failed  # PyMongo looks at a socket by itself
    else:
        assert len(crowd.failed) == 1
        assert not old & {use.entry for use in crowd.served}


@pytest.mark.parametrize("fast", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("name", BACKENDS)
def test_a_restart_under_ten_threads_at_work(mine: Mine, name: str, fast: bool) -> None:
    """Nobody's acquire fails, nobody is given a connection that is known to be gone, and all go on by themselves."""
    backend = mine(name)
    pool = backend.pool(max_size=20, fail_after=None, timeout=60.0)
    fill(pool, 20)
    crowd = Crowd(backend, pool)
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            crowd.use(60.0)

    crowd.start(THREADS, work)
    try:
        until(lambda: len(crowd.uses) > 5 * THREADS, "the threads are at work")
        backend.server.kill() if fast else backend.server.stop()
        down = time.monotonic()
        until(lambda: pool.stats().errors_by.get("connect", 0) >= 3, "connecting fails")
        backend.server.start()
        ready, tries = time.monotonic(), pool.stats().errors_by["connect"]
        until(lambda: crowd.served[-1].acquired > down, "the first success")
        before = len(crowd.uses)
        until(lambda: len(crowd.uses) > before + 10 * THREADS, "they are at work again")
    finally:
        over.set()
    crowd.join()
    # Sessions end one by one, also those of a process that was killed: until all have, one that was looked at can still
    # go. And its thread may be taken off between that look and its own at the clock.
    assert all(use.acquired < down + TAKEN_OFF for use in crowd.failed)
    assert 1 <= len(crowd.failed) <= 2 * THREADS
    first = next(use for use in crowd.served if use.acquired > down)
    gap = max(0.25, min(0.05 * (tries + 1), 2.0))
    assert first.ended - ready < gap + LATE, f"{first.ended - ready:.3f} s after the server was ready; gap {gap:.2f} s"
