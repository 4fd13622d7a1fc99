"""What stands out in a pool: the sentences below the verdict that say where to look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pooling.config import Config
from pooling.errors import Holder
from pooling.integrations.page._verdict import Condition, Level
from pooling.integrations.page._words import count, place, span
from pooling.stats import Histogram, PoolStats, Waiting

USUAL = 20  # uses from which on there is such a thing as a usual one
TIMES = 5  # a hold is slow if it takes so many times as long as 99 % of the others
LEAST = 1.0  # seconds that a slow hold takes at least


class Finding(NamedTuple):
    level: Level
    text: str


class Scene(NamedTuple):
    """All that is known of a pool at one moment."""

    stats: PoolStats
    config: Config
    condition: Condition
    holders: Sequence[Holder]
    waiters: Sequence[Waiting]
    use: Histogram
    """The holds that have ended in the window."""
    connect: Histogram
    timeouts: int
    """Callers in the window that got none."""


def slow(holder: Holder, config: Config, use: Histogram) -> str:
    """Why a hold takes too long, or an empty string."""
    if config.leak_after is not None and holder.age >= config.leak_after:
        return f"longer than leak_after ({span(config.leak_after)})"
    usual = use.percentile(99) if use.count >= USUAL else None
    if usual is not None and holder.age >= max(LEAST, TIMES * usual):
        return f"99 % of the holds take at most {span(usual)}"
    if config.timeout and holder.age >= max(LEAST, config.timeout):
        return f"longer than anybody waits ({span(config.timeout)})"
    return ""


def findings(scene: Scene) -> list[Finding]:
    """What stands out, the worst first."""
    found = [
        *_unreachable(scene),
        *_slow_holders(scene),
        *_same_place(scene),
        *_nested(scene),
        *_counted(scene),
        *_slow_connects(scene),
    ]
    return sorted(found, key=lambda finding: finding.level is not Level.BAD)


def _unreachable(scene: Scene) -> list[Finding]:
    stats = scene.stats
    if scene.condition is not Condition.DOWN or stats.last_error is None:
        return []
    return [Finding(Level.BAD, f"last connect error, {span(stats.last_error_age or 0.0)} ago: {stats.last_error}")]


def _slow_holders(scene: Scene) -> list[Finding]:
    why = [(holder, reason) for holder in scene.holders if (reason := slow(holder, scene.config, scene.use))]
    if not why:
        return []
    first, reason = why[0]
    level = Level.BAD if scene.condition is Condition.EXHAUSTED else Level.WARN
    more = f", and {count(len(why) - 1, 'more is slow', 'more are slow')}" if len(why) > 1 else ""
    held = f"{first.thread} has held a connection for {span(first.age)}, acquired at {place(first.where)}"
    return [Finding(level, f"{held} ({reason}){more}")]


def _same_place(scene: Scene) -> list[Finding]:
    """Most connections are with one piece of code: there is the cause, or the way to it."""
    if scene.condition is not Condition.EXHAUSTED or len(scene.holders) < 2:
        return []
    where, number = Counter(holder.where for holder in scene.holders).most_common(1)[0]
    if number * 2 <= len(scene.holders):
        return []
    return [
        Finding(Level.WARN, f"{number} of the {len(scene.holders)} connections in use were acquired at {place(where)}")
    ]


def _nested(scene: Scene) -> list[Finding]:
    both = sorted({holder.thread for holder in scene.holders} & {waiter.thread for waiter in scene.waiters})
    if not both:
        return []
    named = ", ".join(both[:3]) + (" …" if len(both) > 3 else "")
    who = "thread holds a connection and waits" if len(both) == 1 else "threads hold a connection and wait"
    return [Finding(Level.BAD, f"{len(both)} {who} for another ({named}): such threads can starve each other")]


def _counted(scene: Scene) -> list[Finding]:
    stats, found = scene.stats, []
    if scene.timeouts:
        found.append(Finding(Level.WARN, f"{count(scene.timeouts, 'timeout')} in the last 15 minutes"))
    if stats.leaks:
        found.append(
            Finding(Level.BAD, f"{count(stats.leaks, 'leak')} so far: leases dropped, or held past leak_after")
        )
    if stats.hung:
        text = f"{count(stats.hung, 'worker is', 'workers are')} written off: a call of the driver did not come back"
        found.append(Finding(Level.BAD, text))
    return found


def _slow_connects(scene: Scene) -> list[Finding]:
    usual = scene.connect.percentile(95)
    if usual < LEAST:
        return []
    return [Finding(Level.WARN, f"opening a connection takes {span(usual)} (95 % are faster)")]
