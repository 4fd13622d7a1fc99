"""More threads than connections: throughput, waits and fairness, seen from outside by the callers' own clocks.

"No pool" is as many threads as there are connections, each with one of its own: what the hold time alone allows,
sleep's own lateness included. From it follows the ideal wait: of T threads on S connections that get
X connections a second, T - S wait at any moment, each (T - S) / X seconds. The *fair floor* hands what comes back to
whoever has waited longest and does nothing else: the switch of threads that no fair pool can do without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter, sleep
from typing import Any, NamedTuple

from benchmarks.crowd import Outcome, Service, crowd
from benchmarks.peer import Peer
from benchmarks.peers import FairFloor, Psycopg, contenders
from benchmarks.rows import NO_POOL, OURS, Family, Row, Settings, by_time, in_turn, percentile, ratio, row
from benchmarks.stubs import Server

# An overtaking counts as an inversion where both the call and the service lie so many seconds apart. Less than
# that a thread may sit between taking its time and joining the queue, or between being served and running.
SLACK = 0.002
TURNS = 8  # times that each thread is to be served at least
LEAST = 0.5  # seconds that a cell runs at least


class Cell(NamedTuple):
    threads: int
    slots: int
    hold: float
    """Seconds."""
    seconds: float = 0.0
    """How long it runs; 0: as long as :meth:`duration` says."""

    @property
    def scenario(self) -> str:
        return f"contended, {self.slots} slots, hold {1000 * self.hold:g} ms"

    @property
    def duration(self) -> float:
        return self.seconds or max(LEAST, TURNS * self.hold * self.threads / self.slots)


GRID = tuple(
    Cell(threads, slots, hold)
    for slots in (1, 4, 16)
    for hold in (0.0, 0.0001, 0.001)
    for threads in (2, 4, 8, 16, 32, 64, 128, 256)
)
# 16 on 4 runs long enough that one service more or less is no unfairness: two seconds are 240 a thread.
SPECIAL = (
    Cell(16, 4, 0.002, seconds=2.0), Cell(32, 8, 0.0), Cell(32, 8, 0.0001), Cell(32, 8, 0.001),
)  # fmt: skip  # one row


def run(settings: Settings) -> Iterator[Row]:
    cells = SPECIAL if settings.quick else GRID + SPECIAL
    for number, cell in enumerate(cells, 1):
        outcomes = _cell(cell, settings, f"contended: cell {number} of {len(cells)}")
        yield from _rows(cell, outcomes)


def _cell(cell: Cell, settings: Settings, progress: str) -> dict[str, list[Outcome]]:
    kinds: dict[str, type[Peer]] = {FairFloor.name: FairFloor, **contenders()}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in [NO_POOL, *kinds]}
    seconds = cell.duration / 5 if settings.quick else cell.duration
    for number, names in enumerate(in_turn(list(outcomes), settings.rounds), 1):
        for name in names:
            settings.say(f"{progress} ({cell.scenario}, {cell.threads} threads), round {number}, {name}")
            outcomes[name].append(
                without_pool(cell, seconds) if name == NO_POOL else with_pool(kinds[name], cell, seconds)
            )
    return outcomes


def without_pool(cell: Cell, seconds: float) -> Outcome:
    return _crowd(min(cell.threads, cell.slots), cell.hold, seconds, lambda: None, lambda _: None)


def with_pool(kind: type[Peer], cell: Cell, seconds: float) -> Outcome:
    peer = kind(Server(), cell.slots)
    try:
        peer.warm(cell.slots)
        return _crowd(cell.threads, cell.hold, seconds, peer.acquire, peer.release)
    finally:
        peer.close()


def _crowd(
    threads: int, hold: float, seconds: float, acquire: Callable[[], Any], release: Callable[[Any], None]
) -> Outcome:
    """So many threads that acquire, hold and release until the time is over. The start is left out, where nobody queues
    yet, and the end, where nobody holds any more."""

    def turns(number: int, end: float, record: Callable[[Service], None]) -> None:
        served = 0.0
        while served < end:
            called = perf_counter()
            held = acquire()
            served = perf_counter()
            if hold and served < end:
                sleep(hold)
            release(held)
            record((number, called, served))

    return crowd(threads, turns, lead=0.1 * seconds, seconds=0.9 * seconds)


def _rows(cell: Cell, outcomes: dict[str, list[Outcome]]) -> Iterator[Row]:
    scenario, at = cell.scenario, cell.threads
    rates = {name: [len(one.services) / one.seconds for one in rounds] for name, rounds in outcomes.items()}
    for name, rate in rates.items():
        yield row(scenario, name, "throughput", "1/s", rate, at)
    for name, rate in rates.items():
        if cell.hold and name != NO_POOL:
            yield ratio(scenario, name, "throughput to no pool", rate, rates[NO_POOL], at)
    yield ratio(scenario, OURS, "throughput to the fair floor", rates[OURS], rates[FairFloor.name], at)
    if Psycopg.name in rates:
        for name in (FairFloor.name, OURS):
            yield ratio(scenario, name, "throughput to psycopg_pool", rates[name], rates[Psycopg.name], at)
    queued = cell.threads - cell.slots if cell.hold else 0
    ideals = [queued / rate for rate in rates[NO_POOL]] if queued > 0 else []
    for name, rounds in outcomes.items():
        if name != NO_POOL:
            yield from _waits(cell, name, rounds, ideals)
            yield from _fairness(cell, name, rounds)


def _waits(cell: Cell, name: str, rounds: list[Outcome], ideals: list[float]) -> Iterator[Row]:
    waits = [one.waits() for one in rounds]
    for label, p in (("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0)):
        found = [percentile(one, p) for one in waits]
        yield row(cell.scenario, name, f"wait {label}", "ms", [1000 * one for one in found], cell.threads)
        if ideals and p < 99.5:
            yield ratio(cell.scenario, name, f"wait {label} to the ideal", found, ideals, cell.threads)
    found = [1000 * by_time(one, 99.0) for one in waits]
    yield row(cell.scenario, name, "wait p99 by time", "ms", found, cell.threads)


def _fairness(cell: Cell, name: str, rounds: list[Outcome]) -> Iterator[Row]:
    scenario, at = cell.scenario, cell.threads
    yield row(scenario, name, "least/most", "ratio", [one.least_to_most(cell.threads) for one in rounds], at)
    overtaken = [100 * one.overtaken() / max(1, len(one.services)) for one in rounds]
    yield row(scenario, name, "overtaken", "%", overtaken, at)
    yield row(scenario, name, "inversions", "", [one.overtaken(SLACK) for one in rounds], at)
    if any(one.errors for one in rounds):
        yield row(scenario, name, "threads that failed", "", [one.errors for one in rounds], at)


FAMILY = Family(
    "contended",
    "2 to 256 threads on 1, 4 and 16 connections, held 0, 0.1 and 1 ms",
    run,
    plots=("throughput", "wait p50", "wait p99", "wait p99 by time", "least/most", "inversions"),
    axis="threads",
)
