"""What the other side says about how long it keeps an unused connection (see Pool._keep; HTTP's Keep-Alive)."""

from __future__ import annotations

from pooling.testing import FakeFactory, ManualClock
from tests.core.conftest import Make


def test_a_connection_is_closed_before_the_other_side_does_it(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(idle_timeout=600, min_size=1)
    with pool.acquire():
        pass
    for _ in range(3):
        lease = pool.acquire()
        pool._keep(lease._entry, 4.0)
        clock.advance(10)  # in use: the time runs from the release on
        lease.release()
        clock.advance(3.9)
        assert factory.open == 1
    clock.advance(0.2)
    assert pool.stats().closed == {"idle": 1}
    assert factory.open == 1  # min_size has had another one opened


def test_a_time_that_gets_longer_is_heeded_as_well(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(idle_timeout=600)
    lease = pool.acquire()
    pool._keep(lease._entry, 2.0)
    pool._keep(lease._entry, 20.0)
    lease.release()
    clock.advance(19)
    assert factory.open == 1
    clock.advance(2)
    assert factory.open == 0


def test_a_connection_that_is_hardly_kept_does_not_keep_the_pool_busy(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make()
    lease = pool.acquire()
    pool._keep(lease._entry, 0.0)
    clock.advance(1)
    lease.release()
    clock.advance(0.1)
    assert factory.open == 0
