"""What a run costs its process: descriptors, threads and memory, sampled, and whether they stay level."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pooling.cli.stress._verdict import Invariant, Verdict

EVERY = 0.5  # seconds between two samples
LONG_ENOUGH = 60.0  # seconds: in a shorter run the start is most of it
COME_AND_GO = 16  # descriptors and threads that may be there at one time and not at another
GROWTH = 0.1, 8.0  # share, and megabytes beside it, by which memory may vary


class Level(NamedTuple):
    """A sample, or the median of several."""

    descriptors: float
    threads: float
    megabytes: float

    def __str__(self) -> str:
        return f"{self.descriptors:g} descriptors, {self.threads:g} threads, {self.megabytes:.0f} MB"


class Resources:
    """Sampled from one thread. Of a long run a share of the samples is kept, evenly."""

    def __init__(self) -> None:
        self._samples: list[Level] = []
        self._every = EVERY
        self._next = time.monotonic()

    def look(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        self._samples.append(_sample())
        if len(self._samples) >= 3000:
            del self._samples[::2]
            self._every *= 2

    def thirds(self) -> tuple[Level, Level] | None:
        """The medians of the first and the last third; None where there are too few samples."""
        third = len(self._samples) // 3
        if not third:
            return None
        return _median(self._samples[:third]), _median(self._samples[-third:])

    def judge(self, verdict: Verdict, max_size: int) -> None:
        """Compare the last third with the first."""
        thirds = self.thirds()
        if thirds is None:
            return
        first, last = thirds
        share, beside = GROWTH
        most = Level(
            first.descriptors + max_size + COME_AND_GO,
            first.threads + max_size + COME_AND_GO,
            first.megabytes * (1 + share) + beside,
        )
        if any(value > limit for value, limit in zip(last, most, strict=True)):
            verdict.broke(Invariant.STEADY, f"in the first third {first}, in the last {last}")


def _sample() -> Level:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return Level(len(os.listdir("/proc/self/fd")), threading.active_count(), memory)


def _median(samples: list[Level]) -> Level:
    return Level(*(median(column) for column in zip(*samples, strict=True)))
