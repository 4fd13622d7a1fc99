"""The opening family: nobody looks well there by failing fast."""

from __future__ import annotations

import pytest

from benchmarks import opening
from benchmarks.crowd import together
from benchmarks.peers import Ours
from pooling import Lease, QueueFull


class GivesUp(Ours):
    """A pool whose callers do not wait."""

    name = "one that gives up"

    def acquire(self) -> Lease[object]:
        if self.pool.stats().idle:
            return self.pool.acquire()
        raise QueueFull("it does not wait")

    def warm(self, count: int) -> None:
        self.pool.resize(min_size=count)
        self.pool.warm_up(10.0)


@pytest.mark.parametrize("scenario", [opening.spike, opening.ramp])
def test_callers_that_fail_are_no_figure(scenario: opening.Measure) -> None:
    with pytest.raises(QueueFull, match="it does not wait"):
        scenario(GivesUp)


def test_an_acquire_that_ends_before_its_time_is_no_figure() -> None:
    with pytest.raises(RuntimeError, match=r"one that gives up ended an acquire 0\.\d+ s before its time"):
        opening.hang(GivesUp, 0.1)


def test_all_have_ended_when_an_error_is_told() -> None:
    ended: list[int] = []

    def use() -> None:
        ended.append(1)
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        together(5, use)
    assert len(ended) == 5
