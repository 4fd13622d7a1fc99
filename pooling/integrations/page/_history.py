"""What was seen of one pool over the last minutes, in a bounded ring. It knows no clock, lock or thread."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from pooling.integrations.page._verdict import Condition, Level, condition
from pooling.integrations.page._words import count, span
from pooling.stats import PoolStats

WINDOW = 900.0  # seconds that are remembered
EVERY = 1.0  # seconds between two samples
GRACE = 3.0  # seconds after which a condition that comes back has begun anew
MERGED = 5.0  # seconds within which events of a kind are told as one
MARKS = 200  # events remembered
_CHECKPOINT = 60.0  # seconds between two snapshots that are kept whole, for the histograms of the window


class Sample(NamedTuple):
    """A pool at one moment, in the order of the page's columns."""

    tick: int
    at: float
    leased: int
    idle: int
    other: int
    """Being opened, checked, reset or closed."""
    waiting: int
    limit: int | None
    acquired: int


@dataclass
class Mark:
    """Something that happened, once or several times in a row."""

    kind: str
    level: Level
    at: float
    until: float
    number: int
    text: str = ""

    def told(self) -> str:
        if self.kind == Condition.EXHAUSTED.value:
            return f"exhausted for {span(self.until - self.at)}"
        return self.text or count(self.number, *_COUNTED[self.kind])


_COUNTED = {
    "timeouts": ("timeout", "timeouts"),
    "leaks": ("leaked lease", "leaked leases"),
    "broken": ("connection broke", "connections broke"),
    "stale": ("connection retired by a clear", "connections retired by a clear"),
    "hung": ("call of the driver did not come back", "calls of the driver did not come back"),
    "connects": ("connect failed", "connects failed"),
    "checks": ("check failed", "checks failed"),
    "resets": ("reset failed", "resets failed"),
    "closes": ("close failed", "closes failed"),
}
_STATES = {
    "down": (Level.BAD, "the server cannot be reached"),
    "suspect": (Level.WARN, "a connection broke: the others are suspect"),
    "suspended": (Level.WARN, "suspended"),
    "draining": (Level.OFF, "draining"),
    "closed": (Level.OFF, "closed"),
}


class History:
    """One pool's. ``add`` is called about once a second, ``look`` by whoever looks at the pool in between."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=int(WINDOW / EVERY))
        self.marks: deque[Mark] = deque(maxlen=MARKS)
        self.last_error: str | None = None
        self.last_error_at = -math.inf
        self._began: float | None = None
        self._last: PoolStats | None = None
        self._left_up_at = 0.0
        self._spells: dict[Condition, tuple[float, float]] = {}  # since when, and when it was seen last
        self._checkpoints: deque[PoolStats] = deque(maxlen=int(WINDOW / _CHECKPOINT) + 1)

    def look(self, stats: PoolStats) -> float:
        """For how many seconds the pool's condition has lasted."""
        if stats.last_error is not None and stats.last_error_age is not None:
            self.last_error, self.last_error_at = stats.last_error, stats.at - stats.last_error_age
        what = condition(stats)
        since, seen = self._spells.get(what, (0.0, -math.inf))
        if stats.at - seen > GRACE:
            # The queue is at least as old as its head.
            since = stats.at - (stats.oldest_wait if what is Condition.EXHAUSTED else 0.0)
        self._spells[what] = since, stats.at
        return stats.at - since

    def add(self, tick: int, stats: PoolStats) -> None:
        """Remember a moment, and what has happened since the one before. One that another thread has overtaken on its
        way here tells nothing new."""
        if self._last is not None and (stats.at, stats.acquired) < (self._last.at, self._last.acquired):
            return
        lasted = self.look(stats)
        other = stats.connecting + stats.busy + stats.closing
        self.samples.append(
            Sample(tick, stats.at, stats.leased, stats.idle, other, stats.waiting, stats.max_size, stats.acquired)
        )
        if condition(stats) is Condition.EXHAUSTED:
            self._note(Condition.EXHAUSTED.value, Level.WARN, stats.at, since=stats.at - lasted)
        if self._last is not None:
            self._compare(self._last, stats)
        elif stats.state in _STATES:
            self._note_state(stats)
        self._last = stats
        self._began = stats.at if self._began is None else self._began
        if not self._checkpoints or stats.at - self._checkpoints[-1].at >= _CHECKPOINT:
            self._checkpoints.append(stats)

    def earliest(self, now: float) -> PoolStats | None:
        """The snapshot at the begin of the window: what was counted since is what is recent. None for a history that
        is younger than that: all that the pool has counted is then better than the little that was seen."""
        if self._began is None or now - self._began < WINDOW:
            return None
        return next((stats for stats in self._checkpoints if now - stats.at <= WINDOW), None)

    def recent(self, kind: str, now: float, seconds: float) -> int:
        """How often something was seen in the last seconds."""
        return sum(mark.number for mark in self.marks if mark.kind == kind and now - mark.until <= seconds)

    def _compare(self, before: PoolStats, after: PoolStats) -> None:
        if after.state != before.state:
            self._note_state(after)
        if (after.min_size, after.max_size) != (before.min_size, before.max_size):
            most = "any number" if after.max_size is None else after.max_size
            self._note("resize", Level.BUSY, after.at, text=f"resized: {after.min_size} to {most} connections")
        since = after - before
        failed, closed = since.errors_by, since.closed
        for kind, level, number in (
            ("timeouts", Level.BAD, since.timeouts),
            ("leaks", Level.BAD, since.leaks),
            ("broken", Level.WARN, closed.get("broken", 0)),
            ("stale", Level.BUSY, closed.get("stale", 0)),
            ("hung", Level.BAD, closed.get("hung", 0)),
            *((f"{hook}s", Level.WARN, failed.get(hook, 0)) for hook in ("connect", "check", "reset")),
            ("closes", Level.WARN, failed.get("close", 0)),
        ):
            if number > 0:
                self._note(kind, level, after.at, number=number)

    def _note_state(self, stats: PoolStats) -> None:
        if stats.state in _STATES:
            level, text = _STATES[stats.state]
            if stats.state == "down" and stats.last_error:
                text = f"{text}: {stats.last_error}"
        else:
            level, text = Level.GOOD, f"{'up' if self._was_down() else 'running'} again after {self._away(stats.at)}"
        if self._last is None or self._last.state == "up":
            self._left_up_at = stats.at
        self._note("state", level, stats.at, text=text)

    def _was_down(self) -> bool:
        return self._last is not None and self._last.state in ("down", "suspect")

    def _away(self, now: float) -> str:
        return span(now - self._left_up_at)

    def _note(
        self, kind: str, level: Level, at: float, *, number: int = 1, text: str = "", since: float | None = None
    ) -> None:
        latest = None if text else next((mark for mark in reversed(self.marks) if mark.kind == kind), None)
        if latest is not None and at - latest.until <= MERGED:
            latest.until = at
            latest.number += number
        else:
            self.marks.append(Mark(kind, level, at if since is None else since, at, number, text))
