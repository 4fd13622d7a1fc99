"""Requests that come when they come, however busy everybody is: what a service's own users wait for it.

In `servers` a caller calls again once it has been served, so whom a pool has starve asks it for little, and hardly
shows in a percentile. Here 16 threads take what has come, as those of a WSGI server do, and each request counts from
when it came. (What is left out otherwise is known as coordinated omission; the name is Gil Tene's.)
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter

from benchmarks.crowd import Service, crowd
from benchmarks.rows import OURS, Family, Row, Settings, in_turn, percentile, ratio, row
from benchmarks.servers import LEAD, SERVERS, THREADS, Subject, Use, beside, closed_loop, using

SHARES = (50, 80)  # percent of what the slowest of the peers can serve
SECONDS, QUICK_SECONDS = 3.0, 0.3

Waits = dict[str, list[list[float]]]
"""By peer and round, in ascending order, in milliseconds: from when a request came until it was served."""


def run(settings: Settings) -> Iterator[Row]:
    for name in SERVERS:
        yield from measure(name, settings)


def measure(name: str, settings: Settings) -> Iterator[Row]:
    """All peers of one server."""
    scenario = f"arrivals, {name}"
    yield from beside(name, scenario, settings, lambda url, here: _sampled(scenario, url, here, settings))


def _sampled(scenario: str, url: str, subjects: list[Subject], settings: Settings) -> Iterator[Row]:
    by_name = {one.name: one for one in subjects}
    rates: dict[int, list[float]] = {share: [] for share in SHARES}
    waits: dict[int, Waits] = {share: {one: [] for one in by_name} for share in SHARES}
    seconds = QUICK_SECONDS if settings.quick else SECONDS
    for number, names in enumerate(in_turn(list(by_name), settings.rounds), 1):
        settings.say(f"{scenario}, round {number}: what each can serve")
        pace = min(_pace(by_name[one], url, seconds / 3) for one in names)
        for share in SHARES:
            rates[share].append(pace * share / 100)
            for one in names:
                settings.say(f"{scenario}, round {number}: {one} at {share} %")
                with using(by_name[one], url) as use:
                    waits[share][one].append(_arrive(use, rates[share][-1], seconds, seed=number))
    for share in SHARES:
        yield row(scenario, "all", "rate", "1/s", rates[share], share)
        yield from _rows(scenario, waits[share], share)


def _pace(subject: Subject, url: str, seconds: float) -> float:
    with using(subject, url) as use:
        return len(closed_loop(use, seconds).services) / seconds


def _arrive(use: Use, rate: float, seconds: float, *, seed: int) -> list[float]:
    """So many requests a second come at random, to each peer at the same moments."""
    chance = random.Random(seed)
    moments: deque[float] = deque()
    moment = chance.expovariate(rate)
    while moment < LEAD + seconds:
        moments.append(moment)
        moment += chance.expovariate(rate)
    served: list[tuple[float, float]] = []

    def turns(_number: int, end: float, _record: Callable[[Service], None]) -> None:
        begin = end - seconds - LEAD
        while True:
            try:
                came = begin + moments.popleft()
            except IndexError:
                return
            early = came - perf_counter()
            if early > 0:  # else not even sleep(0): it lets go of the interpreter, which no request asks for
                time.sleep(early)
            use()
            served.append((came - begin, perf_counter() - begin))  # of a list it is atomic

    if crowd(THREADS, turns, lead=LEAD, seconds=seconds).errors:
        raise RuntimeError("a request failed")
    return sorted(1000 * (done - came) for came, done in served if came >= LEAD)


def _rows(scenario: str, waits: Waits, share: int) -> Iterator[Row]:
    ours = [name for name in waits if name.startswith(OURS)]
    for label, p in (("p50", 50.0), ("p99", 99.0), ("max", 100.0)):
        found = {name: [percentile(one, p) for one in rounds] for name, rounds in waits.items()}
        for name, samples in found.items():
            yield row(scenario, name, f"served {label}", "ms", samples, share)
        if label == "max":
            continue  # one sample of each round: no ratio
        for name, samples in found.items():
            if name not in ours and all(samples):
                for one in ours:
                    yield ratio(scenario, one, f"{label} to {name}", found[one], samples, share)


FAMILY = Family(
    "arrivals",
    "requests that come at a rate, to 16 threads on 4 connections to real servers",
    run,
    plots=("served p50", "served p99"),
    axis="percent of what the slowest can serve",
)
