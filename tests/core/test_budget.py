"""What a cycle of acquire and release may cost, in things that can be counted. Times are for benchmarks/."""

from __future__ import annotations

import gc
import sys
from types import FrameType
from typing import Any

import pytest

from pooling import Factory, Pool
from pooling.stats import FOLD_AT
from pooling.testing import FakeConnection


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
    release = ["_leave", "monotonic", "is_clean", "append", "append", "len"]
    assert calls == ["cycles", *acquire, *release, "setprofile"]


def test_a_cycle_leaves_no_object_behind_but_a_sample(pool: Pool[Any]) -> None:
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
    assert left < 1.1 * FOLD_AT
    assert after < 500
