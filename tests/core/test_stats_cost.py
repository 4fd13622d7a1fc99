"""What the statistics, which are always on, cost a cycle of acquire and release."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable
from itertools import repeat
from threading import Lock
from time import thread_time
from typing import Any

import pytest

from pooling._ledger.roster import MANY
from pooling.stats import FOLD_AT, Recorder

CYCLES = 3 * FOLD_AT  # of one sample: each folds as often
ROUNDS = 25
MOST = 0.55  # of the floor


class Held:
    """What a release looks at: an entry of a pool, in small."""

    __slots__ = ("left", "recorder", "since", "used", "uses")

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.used = self.recorder.samples
        self.since = 0.5
        self.uses = 0


def floor(_: Held) -> None:
    """The least that can be called a pool: a lock and a deque."""
    lock, idle = Lock(), deque([object()])
    for _ in repeat(None, CYCLES):
        with lock:
            held = idle.pop()
        with lock:
            idle.append(held)


def counted(held: Held) -> None:
    """A cycle's statistics: the use is counted and its duration noted, and now and then what was noted is sorted into
    buckets."""
    now = 1.0
    held.left = iter(MANY)
    for _ in repeat(None, CYCLES):
        held.uses += 1
        held.used.append(now - held.since)
        for _ in held.left:
            break
        else:
            held.recorder.fold()
            held.left = iter(MANY)


def nothing(held: Held) -> None:
    for _ in repeat(None, CYCLES):
        pass


def seconds(work: Callable[[Held], object], held: Held) -> float:
    began = thread_time()
    work(held)
    return (thread_time() - began) / CYCLES


@pytest.mark.soak
def test_the_statistics_cost_at_most_055_of_the_floor(capsys: pytest.CaptureFixture[str]) -> None:
    held = Held()
    taken: dict[Any, list[float]] = {work: [] for work in (floor, counted, nothing)}
    gc.collect()
    for _ in range(ROUNDS):
        for work, samples in taken.items():
            samples.append(seconds(work, held))
    least, all_of_it, loop = (min(samples) for samples in taken.values())
    with capsys.disabled():
        print(f"\nstatistics: {(all_of_it - loop) / least:.2f} of the floor, which is {1e9 * least:.0f} ns")
    assert held.recorder.snapshot().count == held.uses == ROUNDS * CYCLES
    assert all_of_it - loop <= MOST * least
