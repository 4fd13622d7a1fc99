"""What time and use do to one connection: when it is due to be retired, checked, or reported."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from pooling._chance import chance
from pooling._ledger.entry import Entry
from pooling.config import Config
from pooling.stats import CloseReason

Due = CloseReason | Literal["keepalive"]  # to be closed for that, or to be checked


class Limits:
    """The limits of one pool, each read from its options once; a limit that is off is infinite."""

    def __init__(self, config: Config, jitter: Callable[[], float] = chance) -> None:
        self._jitter = jitter
        self._lifetime = _or_inf(config.max_lifetime)
        self._idle = _or_inf(config.idle_timeout)
        self._keepalive = _or_inf(config.keepalive)
        self._leak = _or_inf(config.leak_after)
        self.check_after = config.check_after if config.check else math.inf
        self.uses = _or_inf(config.max_uses)

    def opened(self, entry: Entry[Any], now: float) -> None:
        """Its lifetime begins. Jitter only shortens it, so that connections opened together do not end together."""
        entry.opened_at = entry.checked_at = now
        # Later than now, however short a time is: what has expired as it is opened would serve nobody.
        entry.expires_at = max(now + self._lifetime * (1 - 0.1 * self._jitter()), math.nextafter(now, math.inf))

    def fresh(self, entry: Entry[Any], now: float) -> bool:
        """Whether it was used or checked so lately that nobody has to look whether it is alive."""
        return now - max(entry.since, entry.checked_at) < self.check_after

    def due(self, entry: Entry[Any], now: float, *, spare: bool) -> Due | None:
        """What is due for an idle connection: ``"lifetime"``, ``"idle"`` (only a spare one, unless the
        other side is about to close it), ``"keepalive"``, or None."""
        if now >= entry.expires_at:
            return "lifetime"
        if now >= entry.since + (min(self._idle, entry.keep) if spare else entry.keep):
            return "idle"
        return "keepalive" if now >= max(entry.since, entry.checked_at) + self._keepalive else None

    def overheld(self, entry: Entry[Any], now: float) -> bool:
        """Whether a lease has to be reported as held for too long."""
        return entry.thread != 0 and entry.reported != entry.since and now >= entry.since + self._leak

    def next_look(self, entry: Entry[Any], now: float) -> float:
        """The earliest time at which something can be due.

        The plain path tells nobody when a connection goes out or comes back, so its state is looked at then. A
        time that has passed without effect (min_size keeps the connection, the lease was reported) starts
        anew from now. It is later than now, also where a time is too short for the clock to show: a look that is due
        at once would be made again and again, under the lock.
        """
        touched = max(entry.since, entry.checked_at)
        when = entry.expires_at if entry.expires_at > now else math.inf
        idle = min(self._idle, entry.keep)
        for start, after in ((entry.since, idle), (touched, self._keepalive), (entry.since, self._leak)):
            when = min(when, start + after if start + after > now else now + after)
        return max(when, math.nextafter(now, math.inf))


def _or_inf(limit: float | None) -> float:
    return math.inf if limit is None else limit
