"""What a cycle of acquire and release may cost, in things that can be counted. Times are for benchmarks/."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pooling import Factory, Pool, PoolTimeout
from pooling._runtime.bell import Bell
from pooling._runtime.fork import flag
from pooling._runtime.lock import STRUCK_BETWEEN
from pooling.stats import FOLD_AT
from pooling.testing import FakeConnection

PID = os.getpid()
ROOT = Path(__file__).resolve().parents[2]

# In a process of its own: every other thread's allocations would be counted as well.
ALLOCATIONS = """
import _testcapi
from pooling import Pool
from tests.core.test_budget import Plain

def cycle():
    with pool.acquire():
        pass

with Pool(Plain(), max_size=2, idle_timeout=None, max_lifetime=None) as pool:
    for _ in range(10):
        cycle()
    _testcapi.set_nomemory({allowed} + 1, 0)  # the next one fails, and all that follow
    try:
        cycle()
    finally:
        _testcapi.remove_mem_hooks()
"""


class Plain(Factory[FakeConnection]):
    """With all that a database's factory has, at the least that it can cost."""

    def connect(self, timeout: float) -> FakeConnection:
        return FakeConnection(1)

    def is_alive(self, connection: FakeConnection) -> bool:
        return True

    def is_clean(self, connection: FakeConnection) -> bool:
        return True

    def check(self, connection: FakeConnection, timeout: float) -> None:
        pass

    def close(self, connection: FakeConnection) -> None:
        pass


class CountingLock:
    """A lock that counts how often it was taken."""

    def __init__(self, lock: Any) -> None:
        self.taken = 0
        self._lock = lock

    def __enter__(self) -> None:
        self.taken += 1
        self._lock.__enter__()

    def __exit__(self, *details: object) -> None:
        self._lock.__exit__(*details)

    def _is_owned(self) -> bool:
        return bool(self._lock._is_owned())


@pytest.fixture
def pool() -> Any:
    with Pool(Plain(), max_size=2, idle_timeout=None, max_lifetime=None) as pool:
        cycles(pool, 10)
        yield pool


def cycles(pool: Pool[Any], count: int) -> None:
    for _ in range(count):
        with pool.acquire():
            pass


def test_a_cycle_takes_no_lock(pool: Pool[Any]) -> None:
    counting = pool._lock = CountingLock(pool._lock)  # type: ignore[assignment]
    cycles(pool, FOLD_AT // 2)
    assert counting.taken == 0
    cycles(pool, FOLD_AT)
    assert 1 <= counting.taken <= 3  # for a whole batch of samples


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer calls as well")
def test_a_cycle_makes_these_calls_and_no_other(pool: Pool[Any]) -> None:
    calls: list[str] = []

    def note(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)
        elif event == "c_call":
            calls.append(arg.__name__)

    sys.setprofile(note)
    cycles(pool, 1)
    sys.setprofile(None)
    acquire = ["acquire", "pop", "monotonic", "get_ident", "_getframe", "__enter__"]
    release = ["_leave", "monotonic", "is_clean", "append", "append"]
    assert calls == ["cycles", *acquire, *release, "setprofile"]


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer calls as well")
@pytest.mark.parametrize("others", [0, 1], ids=["alone", "in a crowd"])
def test_a_hand_over_makes_so_many_calls_and_no_more(monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    """Everything between the call of one who has to wait and its lease, the release of the one before included; what
    this test adds (a call in place of the wait) as well."""
    held: list[Any] = []
    counts: list[tuple[int, int]] = []
    with Pool(Plain(), max_size=1, idle_timeout=None, max_lifetime=None) as pool, monkeypatch.context() as patched:
        held.append(pool.acquire())
        for _ in range(others):  # who let everybody by
            pool._tell(pool._ledger.join, pool._waiter(None, 1e9))
        # Who would wait has the lease before it given back, by whoever has it.
        patched.setattr(Bell, "wait", lambda *details: held.pop().release())
        for _ in range(10):
            held.append(pool.acquire())  # noqa: PERF401  # each releases the one before
        for _ in range(3):  # one of them may meet what was due just then
            calls: list[str] = []
            sys.setprofile(lambda frame, event, arg, calls=calls: calls.append(event))  # type: ignore[misc]
            lease = pool.acquire()
            sys.setprofile(None)
            held.append(lease)
            counts.append((calls.count("call"), calls.count("c_call")))
        held.pop().release()
    entered = 2 if STRUCK_BETWEEN else 0  # the lock, once on each side: a call of ours then, and seen as one into C
    assert min(ours for ours, _ in counts) <= 20 + entered
    assert min(into_c for _, into_c in counts) <= 29 + entered


@pytest.mark.skipif(not isinstance(flag(), mmap), reason="without the kernel's help process ids are compared")
def test_nobody_asks_the_system_for_the_process(pool: Pool[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """That call costs as much as a whole cycle, and a caller who waits would make it four times."""
    asked: list[int] = []
    monkeypatch.setattr("os.getpid", lambda: asked.append(1) or PID)
    leases = [pool.acquire(), pool.acquire()]
    with pytest.raises(PoolTimeout):
        pool.acquire(timeout=0)
    for lease in leases:
        lease.release()
    pool.stats()
    assert asked == []


def test_a_cycle_leaves_no_object_behind_but_a_sample(pool: Pool[Any]) -> None:
    counts = [blocks_left_behind(pool) for _ in range(3)]  # of the whole process, whose other threads may be at work
    assert min(left for left, _ in counts) < 1.1 * FOLD_AT
    assert min(after for _, after in counts) < 500


def test_a_hand_over_leaves_no_object_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = []

    def hand_over(times: int) -> None:
        for _ in range(times):
            held.append(pool.acquire())  # noqa: PERF401  # each releases the one before
        pool.stats()  # the samples are folded

    with Pool(Plain(), max_size=1, idle_timeout=None, max_lifetime=None) as pool, monkeypatch.context() as patched:
        held.append(pool.acquire())
        patched.setattr(Bell, "wait", lambda *details: held.pop().release())
        hand_over(FOLD_AT)
        counts = [blocks_left_by(lambda: hand_over(FOLD_AT)) for _ in range(3)]  # as above
        held.pop().release()
    assert min(counts) < 0.1 * FOLD_AT


def test_a_cycle_asks_for_memory_five_times() -> None:
    """For the thread's identifier, the frame that tells the call site, the lease, and the two methods that a ``with``
    binds. The numbers of the clock are floats, which the interpreter keeps at hand."""
    pytest.importorskip("_testcapi")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}  # without what would trace it
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATIONS.format(allowed=5)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def blocks_left_behind(pool: Pool[Any]) -> tuple[int, int]:
    """By a batch of cycles: before its samples are folded, and after."""
    pool.stats()
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        cycles(pool, FOLD_AT - 100)
        left = sys.getallocatedblocks() - before
        pool.stats()
        after = sys.getallocatedblocks() - before
    finally:
        gc.enable()
    return left, after


def blocks_left_by(work: Callable[[], object]) -> int:
    """Memory blocks of the whole process that are there afterwards and were not before, rubbish not counted."""
    gc.collect()
    before = sys.getallocatedblocks()
    work()
    gc.collect()
    return sys.getallocatedblocks() - before
