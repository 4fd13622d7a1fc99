"""The one shape of every result, and how samples become one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

OURS = "pooling"  # the peer whose rows the bars are held against
NO_POOL = "no pool at all"


@dataclass(frozen=True)
class Row:
    """One figure of one peer in one scenario: the median of its samples, and how far they scatter."""

    scenario: str
    peer: str
    figure: str
    unit: str
    value: float
    spread: float
    """The distance between the quartiles of the samples, in the same unit."""
    at: float | None = None
    """Where a scenario is a curve: the point on its x axis (threads, connections, seconds)."""


class Settings(NamedTuple):
    """What a family of scenarios is told about the run."""

    rounds: int
    quick: bool
    say: Callable[[str], None]
    """Shows the progress."""


class Family(NamedTuple):
    """Scenarios that belong together: one module each."""

    name: str
    about: str
    run: Callable[[Settings], Iterator[Row]]
    plots: tuple[str, ...]
    """The figures that the HTML report draws; the others stand in its table."""
    axis: str = ""
    """What ``at`` is on its curves."""


def spread(samples: Sequence[float]) -> float:
    """The distance between the quartiles; 0.0 where there are too few samples to say."""
    if len(samples) < 3:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return high - low


def row(scenario: str, peer: str, figure: str, unit: str, samples: Sequence[float], at: float | None = None) -> Row:
    """The median of the samples as a row."""
    return Row(scenario, peer, figure, unit, statistics.median(samples), spread(samples), at)


def ratio(
    scenario: str,
    peer: str,
    figure: str,
    samples: Sequence[float],
    base: Sequence[float],
    at: float | None = None,
) -> Row:
    """A ratio of medians. Both were sampled in the same rounds, so its spread is that of the ratios round by round:
    what slowed a whole round down falls out of it."""
    by_round = [one / other for one, other in zip(samples, base, strict=True)]
    value = statistics.median(samples) / statistics.median(base)
    return Row(scenario, peer, figure, "ratio", value, spread(by_round), at)


def percentile(ordered: Sequence[float], p: float) -> float:
    """The value that ``p`` percent of an ascending sequence are at or below; 0.0 of an empty one."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))]


def by_time(ordered: Sequence[float], p: float) -> float:
    """The value of which those at or below it make up ``p`` percent of the sum: of waits, what somebody has waited in
    the end who is met at any moment. (A percentile counts calls, and whoever starves makes few.) 0.0 of nothing."""
    left = p / 100 * sum(ordered)
    for value in ordered:
        left -= value
        if left <= 0:
            return value
    return ordered[-1] if ordered else 0.0


def in_turn(subjects: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """The subjects once a round, each round beginning with another: nobody always runs first on a cool
    processor or last in a heated one."""
    for number in range(rounds):
        shift = number % len(subjects)
        yield [*subjects[shift:], *subjects[:shift]]
