"""A clock moved by hand, a fake factory on it, and pools that are closed and counted at the end of each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pooling import Pool
from pooling.testing import FakeConnection, FakeFactory, ManualClock

Make = Callable[..., Pool[FakeConnection]]


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


@pytest.fixture
def factory(clock: ManualClock) -> FakeFactory:
    return FakeFactory(clock)


@pytest.fixture
def make(clock: ManualClock, factory: FakeFactory) -> Iterator[Make]:
    """make(**options): a pool in virtual time. At the end of the test it is closed, and whatever its factory opened
    must be closed as well, unless a test has taken it away."""
    pools: list[Pool[Any]] = []

    def build(**options: Any) -> Pool[FakeConnection]:
        pool = Pool(options.pop("factory", factory), runtime=clock, **options)
        pools.append(pool)
        return pool

    yield build
    for gate in factory.gates.values():
        gate.ok()
    for pool in pools:
        pool.close()
        stats = pool.stats()
        assert stats.size == stats.leased, f"close() left {stats}"
        assert stats.acquired == stats.released + stats.leased
