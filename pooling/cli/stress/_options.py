"""The settings of one stress run: frozen, checked once, in seconds throughout."""

from __future__ import annotations

from dataclasses import dataclass

from pooling.cli._command import Mistake, check_count, check_time


@dataclass(frozen=True)
class StressOptions:
    """What to run. Raises Mistake where a value is out of range or two contradict each other."""

    url: str | None = None
    """Where to connect; None: an SQLite file in a temporary directory."""
    threads: int = 32
    max_size: int = 8
    min_size: int = 0
    duration: float = 10.0
    """Seconds."""
    think: float = 0.001
    """Mean seconds between two uses of a thread, exponentially distributed."""
    hold: float = 0.002
    """Mean seconds that a use keeps its connection beside its queries, exponentially distributed."""
    dirty: float = 0.05
    """Share of uses that give the connection back in the middle of a transaction."""
    lost: float = 0.01
    """Share of uses that drop their lease without release()."""
    faults: float = 0.01
    """Share of uses in which a fault is injected."""
    timeout: float = 30.0
    """Seconds that an acquire may take."""
    chaos: bool = False
    """Whether the network between the pool and the server fails now and then."""
    seed: int = 0
    patience: float = 10.0
    """Seconds that the end of the run waits for the threads, for all slots to be leased, and for close()."""

    def __post_init__(self) -> None:
        for name in ("threads", "max_size"):
            check_count(name, getattr(self, name))
        if not 0 <= self.min_size <= self.max_size:
            raise Mistake(f"--min-size must be between 0 and --max-size ({self.max_size}), not {self.min_size}")
        check_time("duration", self.duration, positive=True)
        for name, unit in (("think", 1000), ("hold", 1000), ("timeout", 1)):
            check_time(name, getattr(self, name), unit=unit)
        for name in ("dirty", "lost", "faults"):
            if not 0 <= getattr(self, name) <= 1:
                raise Mistake(f"--{name} is a share between 0 and 1, not {getattr(self, name):g}")
        if self.dirty + self.lost + self.faults > 1:
            raise Mistake("--dirty, --lost and --faults are shares of the same uses: together they are at most 1")
