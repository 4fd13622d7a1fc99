"""What came out of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pooling.cli.stress._options import StressOptions
from pooling.cli.stress._resources import LONG_ENOUGH, Level
from pooling.cli.stress._verdict import Invariant, Verdict
from pooling.stats import Histogram


class SessionCount(NamedTuple):
    """The server's own count of this run's sessions."""

    counts: int
    """How often it was taken."""
    peak: int
    peak_listed: int
    """The peak with those that were closed already but still listed for a moment."""


@dataclass(frozen=True)
class Result:
    """The numbers of a run, all from the harness's own books, and the verdict."""

    options: StressOptions
    target: str
    elapsed: float
    """Seconds from the first use to the order to stop."""
    interrupted: bool
    per_thread: tuple[int, ...]
    """Uses by thread."""
    wait: Histogram
    hold: Histogram
    opened: int
    closed: Mapping[str, int]
    peak_open: int
    refused: int
    """Connects that were refused on purpose."""
    slowed: int
    sessions: SessionCount | None
    """None where there is no server."""
    troubles: Mapping[str, int] | None
    """What --chaos has done to the network; None without it."""
    resources: tuple[Level, Level] | None
    """The medians of the first and the last third of a run with --chaos."""
    waits_watched: int
    """Waits that were checked against everybody who came later."""
    endings: Mapping[str, int]
    errors: Mapping[str, int]
    verdict: Verdict

    @property
    def uses(self) -> int:
        return sum(self.per_thread)

    @property
    def invariants(self) -> tuple[Invariant, ...]:
        """Those that applied to this run."""
        absent = set()
        if self.sessions is None:
            absent.add(Invariant.SERVER)
        if self.troubles is None or self.elapsed < LONG_ENOUGH:
            absent.add(Invariant.STEADY)
        return tuple(each for each in Invariant if each not in absent)


@dataclass(frozen=True)
class Progress:
    """A run's numbers while it runs."""

    elapsed: float
    duration: float
    uses: int
    open: int
    waiting: int
    errors: int
    broken: tuple[Invariant, ...]
