"""Time as the pool sees it: monotonic seconds, and one deadline object per acquire."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Final

monotonic = partial(time.monotonic)
"""The real clock, whatever a test puts in its place: a mock that knows two times, or one that stands still. An object
of its own, for freezegun replaces the function wherever a module has a name for it."""


class Default:
    """A timeout or size that is not given: the pool's own counts."""

    def __repr__(self) -> str:
        return "the pool's own"

    def __reduce__(self) -> str:
        return "DEFAULT"  # there is one: also a copied configuration has that


DEFAULT: Final = Default()
LONGEST: Final = 7 * 24 * 3600.0
"""Seconds that a driver is told where more is allowed: poll() cannot count 25 days, and PyMongo takes none above 11."""
Timeout = float | Default | None
"""Seconds; None: for ever; DEFAULT: what the pool was given."""


class Deadline:
    """The moment by which one acquire has to end, fixed once, whatever it goes through on the way."""

    __slots__ = ("at", "started")

    def __init__(self, started: float, timeout: float | None) -> None:
        self.started = started
        self.at = math.inf if timeout is None else started + timeout

    def remaining(self, now: float) -> float:
        """Seconds left, not below 0; infinite where there is no deadline."""
        return max(self.at - now, 0.0)

    def passed(self, now: float) -> bool:
        return now >= self.at
