"""How a pool is, in words: one line that a person can act on."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from pooling.integrations.page._words import span
from pooling.stats import PoolStats

PATIENCE = 0.1  # seconds of waiting up to which a full pool is in use as it should be
SLOW_OPENING = 1.0  # seconds that the head of the queue may wait for a connection that is being opened


class Condition(Enum):
    """What is the matter. The value is the first word of the verdict."""

    CLOSED = "closed"
    DRAINING = "draining"
    SUSPENDED = "suspended"
    DOWN = "down"
    EXHAUSTED = "exhausted"
    OPENING = "opening"
    SUSPECT = "suspect"
    FULL = "fully used"
    FINE = "fine"
    EMPTY = "at rest"


class Level(str, Enum):
    """How bad it is; also the colour."""

    GOOD = "good"
    BUSY = "busy"
    WARN = "warn"
    BAD = "bad"
    OFF = "off"


class Verdict(NamedTuple):
    condition: Condition
    level: Level
    text: str


_ORDERED = {"closed": Condition.CLOSED, "draining": Condition.DRAINING, "suspended": Condition.SUSPENDED}
_LEVELS = {
    Condition.CLOSED: Level.OFF,
    Condition.DRAINING: Level.OFF,
    Condition.SUSPENDED: Level.WARN,
    Condition.DOWN: Level.BAD,
    Condition.SUSPECT: Level.WARN,
    Condition.FULL: Level.BUSY,
    Condition.FINE: Level.GOOD,
    Condition.EMPTY: Level.GOOD,
}


def condition(stats: PoolStats) -> Condition:
    """What is the matter with a pool at one moment."""
    if stats.state in _ORDERED:
        return _ORDERED[stats.state]
    if stats.state == "down":
        return Condition.DOWN
    full = stats.max_size is not None and stats.leased >= stats.max_size
    if stats.waiting and stats.max_size is not None and stats.size - stats.connecting >= stats.max_size:
        return Condition.EXHAUSTED if stats.oldest_wait >= PATIENCE else Condition.FULL
    if stats.waiting:
        return Condition.OPENING
    if stats.state == "suspect":
        return Condition.SUSPECT
    if full:
        return Condition.FULL
    return Condition.FINE if stats.size else Condition.EMPTY


def judge(stats: PoolStats, lasted: float, *, timeout: float | None, timeouts: int) -> Verdict:
    """The verdict on a pool whose condition has ``lasted`` so many seconds. ``timeout`` is the pool's own, ``timeouts``
    how many callers have lost their patience just now."""
    what = condition(stats)
    parts = [_use(stats), *_others(stats)]
    if what is Condition.EMPTY:
        return Verdict(what, Level.GOOD, f"{what.value}: no connection open, nobody waiting")
    if what is Condition.FINE:
        return Verdict(what, Level.GOOD, f"{what.value}: {', '.join(parts)}")
    if what is Condition.DOWN:
        parts.insert(0, "cannot connect")
    elif what is Condition.SUSPECT:
        parts.insert(0, "a connection broke, the others are checked before use")
    return Verdict(what, _level(what, stats, timeout, timeouts), f"{what.value} for {span(lasted)}: {', '.join(parts)}")


def _level(what: Condition, stats: PoolStats, timeout: float | None, timeouts: int) -> Level:
    if what is Condition.EXHAUSTED:
        late = timeout is not None and stats.oldest_wait >= timeout / 2
        return Level.BAD if late or timeouts else Level.WARN
    if what is Condition.OPENING:
        return Level.WARN if stats.oldest_wait >= SLOW_OPENING else Level.BUSY
    return _LEVELS[what]


def _use(stats: PoolStats) -> str:
    return f"{stats.leased}{'' if stats.max_size is None else f'/{stats.max_size}'} in use"


def _others(stats: PoolStats) -> list[str]:
    told = [
        f"{number} {doing}"
        for number, doing in (
            (stats.idle, "idle"),
            (stats.connecting, "being opened"),
            (stats.busy, "being checked or reset"),
            (stats.closing, "being closed"),
        )
        if number
    ]
    if stats.waiting:
        return [*told, f"{stats.waiting} waiting, oldest {span(stats.oldest_wait)}"]
    return [*told, "nobody waiting"]
