"""What ours has to reach, and whether it did: "now" is what this version promises, "goal" where it is going."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from benchmarks.rows import OURS, Row

Stage = Literal["now", "goal"]


@dataclass(frozen=True)
class Bar:
    """A limit for ours; scenario and figure are patterns as in fnmatch."""

    scenario: str
    figure: str
    sense: Literal["≤", "≥"]
    limit: float
    stage: Stage
    at: float | None = None
    """Where on the curve; None: everywhere."""

    def fits(self, row: Row) -> bool:
        return (
            row.peer == OURS
            and fnmatchcase(row.figure, self.figure)
            and fnmatchcase(row.scenario, self.scenario)
            and self.at in (None, row.at)
        )

    def met(self, row: Row) -> bool:
        return row.value <= self.limit if self.sense == "≤" else row.value >= self.limit

    def __str__(self) -> str:
        return f"{self.stage} {self.sense} {self.limit:g}"


@dataclass(frozen=True)
class Verdict:
    """A bar beside the row that it was held against."""

    bar: Bar
    row: Row
    met: bool

    def __str__(self) -> str:
        return f"{self.bar} {'met' if self.met else 'NOT MET'}"


def _fourfold() -> Iterator[Bar]:
    """Four times as many threads as connections, held for 1 ms: what a well-sized pool in trouble looks like."""
    for slots, threads in ((1, 4), (4, 16), (8, 32), (16, 64)):
        cell = f"contended, {slots} slots, hold 1 ms"
        yield Bar(cell, "throughput to no pool", "≥", 0.88, "goal", threads)
        yield Bar(cell, "throughput to psycopg_pool", "≥", 1.0, "goal", threads)
        yield Bar(cell, "wait p50 to the ideal", "≤", 1.1, "goal", threads)
        yield Bar(cell, "wait p99 to the ideal", "≤", 1.4, "goal", threads)
        yield Bar(cell, "least/most", "≥", 0.95, "goal", threads)
        yield Bar(cell, "inversions", "≤", 0, "goal", threads)


# What a cycle has cost so far as a ratio to the floor, by Python's version (t: free-threaded), and by how much it may
# grow.
BUDGET = {"3.10": 4.1, "3.11": 2.5, "3.12": 2.4, "3.13": 2.6, "3.13t": 8.2}
# The same of interpreters that were built with profile-guided optimisation. The floor, which is mostly C, gains most.
BUDGET_OPTIMISED = {"3.10": 6.1, "3.11": 3.3, "3.12": 3.2, "3.13": 4.8, "3.13t": 8.2, "3.14": 5.4}
GROWTH = 1.15


def _budget() -> float:
    """Of a version that was never measured, the last one's."""
    known = BUDGET_OPTIMISED if _optimised() else BUDGET
    free = "t" if "t" in sys.abiflags else ""
    last = max(version for version in known if version.endswith("t") == bool(free))
    return GROWTH * known.get(f"{sys.version_info[0]}.{sys.version_info[1]}{free}", known[last])


def _optimised() -> bool:
    """Whether this interpreter says so, or is a distribution's own, which does not say."""
    return "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "") or sys.base_prefix == "/usr"


BARS: tuple[Bar, ...] = (
    Bar("uncontended", "ratio to the floor", "≤", _budget(), "now"),
    Bar("uncontended", "ratio to the floor", "≤", 2.7, "goal"),
    Bar("uncontended", "part of psycopg_pool connection()", "≤", 0.6, "now"),
    Bar("uncontended", "part of psycopg_pool connection()", "≤", 0.25, "goal"),
    Bar("uncontended", "part of psycopg_pool getconn", "≤", 0.4, "goal"),
    Bar("uncontended", "part of SQLAlchemy QueuePool", "≤", 0.222, "goal"),
    Bar("uncontended", "part of the fastest peer", "≤", 1.0, "goal"),
    *_fourfold(),
    Bar("contended, * slots, hold 0 ms", "throughput to psycopg_pool", "≥", 2.0, "goal"),
    Bar("contended, 4 slots, hold 2 ms", "least/most", "≥", 0.95, "now", 16),
    Bar("contended, 4 slots, hold 2 ms", "inversions", "≤", 0, "now", 16),
    Bar("spike", "total", "≤", 35.0, "now"),
    Bar("spike", "opened", "≤", 2, "now"),
    Bar("ramp", "total", "≤", 500.0, "now"),
    Bar("whichever comes first", "after the return", "≤", 5.0, "now"),
    Bar("connect hangs", "past the timeout", "≤", 50.0, "now"),
    Bar("restart", "errors", "≤", 1, "now"),
    Bar("restart, just used", "errors", "≤", 1, "goal"),  # more where several have one before the first breaks
    Bar("outage", "connects at once", "≤", 1, "now"),
    Bar("outage", "after the return", "≤", 400.0, "now"),  # the gap that the back-off has reached after 1.5 s
    Bar("many connections", "cycle to that at 10", "≤", 1.15, "goal"),
    Bar("many waiters", "hand-off to that at 10", "≤", 1.15, "goal"),
    # So many threads cost the system more, pool or no pool: what is the pool's own is what it grows beyond that.
    Bar("many waiters", "growth to the baton's", "≤", 1.15, "goal"),
    # Bytes are the same on a busy machine: a third more than they were. Python 3.10 has its frames among them.
    Bar("memory", "per idle connection", "≤", 1600, "now"),
    Bar("memory", "per waiter", "≤", 1000 if sys.version_info >= (3, 11) else 3800, "now"),
    Bar("reaping", "a connection to that at *", "≤", 1.15, "goal"),
    Bar("at rest", "wake-ups", "≤", 0, "now"),
    Bar("server, *", "throughput to *", "≥", 1.0, "goal"),
    Bar("server, *", "p99 to *", "≤", 1.0, "goal"),
    Bar("server, *", "least/most", "≥", 0.95, "goal"),
    Bar("arrivals, *", "p99 to *", "≤", 1.0, "goal"),
)


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Every bar with every row that it fits."""
    return [Verdict(bar, row, bar.met(row)) for row in rows for bar in BARS if bar.fits(row)]


def unmeasured(rows: Sequence[Row]) -> list[Bar]:
    """The bars that no row was held against: nobody knows whether they are met."""
    return [bar for bar in BARS if not any(map(bar.fits, rows))]
