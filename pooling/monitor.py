"""A report on each pool every minute, to the log: in words, or as lines of JSON."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from pooling._changes import Changes
from pooling._log import named_logger
from pooling._periodic import Periodic
from pooling._runtime.threads import THREADS, Runtime
from pooling._sources import CLOSED, Sources
from pooling._words import in_words
from pooling.stats import Histogram, Interval, PoolStats

if TYPE_CHECKING:
    from typing_extensions import Self

Style = Literal["text", "json"]
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Report:
    """What a pool did in an interval, and how it is at its end."""

    stats: PoolStats
    interval: Interval
    time: datetime
    pid: int

    @property
    def troubled(self) -> bool:
        """Whether somebody should read it: there were timeouts, errors or leaks, or the server is away."""
        done = self.interval
        return bool(done.timeouts or done.errors or done.leaks or self.stats.hung) or self.stats.state == "down"

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values: times in seconds, None for a percentile of nothing."""
        now, done = self.stats, self.interval
        counts = ("acquired", "released", "opened", "timeouts", "errors", "leaks", "events_lost")
        sizes = (
            "size", "idle", "leased", "connecting", "busy", "closing", "hung", "waiting", "min_size", "max_size",
        )  # fmt: skip  # a list
        return {
            "time": self.time.isoformat(timespec="milliseconds"),
            "pid": self.pid,
            "pool": now.name,
            "state": now.state,
            "seconds": round(done.seconds, 3),
            **{name: getattr(done, name) for name in counts},
            "acquired_per_second": round(done.rate(done.acquired), 3),
            "in_use_average": round(done.in_use, 3),
            "closed": dict(done.closed),
            "errors_by": dict(done.errors_by),
            **{name: getattr(now, name) for name in sizes},
            "oldest_wait": round(now.oldest_wait, 6),
            **{name: _summary(getattr(done, name)) for name in ("wait", "use", "connect")},
            "last_error": now.last_error,
            "last_error_age": None if now.last_error_age is None else round(now.last_error_age, 3),
        }

    def as_json(self) -> str:
        """The same in one line."""
        return json.dumps(self.as_dict())

    def __str__(self) -> str:
        now, done = self.stats, self.interval
        counts = [
            f"{done.acquired} acquired ({_rate(done.rate(done.acquired))})",
            f"{done.released} released",
            f"{done.timeouts} timeouts",
            f"{done.errors} errors",
            f"{done.leaks} leaks in {in_words(done.seconds)}",
        ]
        now_in_use = f"now {now.leased} of {now.max_size or 'any number'} in use, {now.idle} idle"
        waiting = f"{now.waiting} waiting" + (f", the longest for {in_words(now.oldest_wait)}" if now.waiting else "")
        parts = [
            ", ".join(counts),
            f"waits: {_in_words(done.wait)}",
            f"uses: {_in_words(done.use)}",
            f"{now_in_use}, {now.connecting} connecting, {waiting}",
            now.state,
        ]
        if now.last_error:
            parts.append(f"last connect error: {now.last_error}")
        return f"pool {now.name!r}: " + "; ".join(parts)


class PoolMonitor:
    """Writes a :class:`Report` on each pool to a logger, every ``interval`` seconds.

    ``pools``: a Pool, a PoolManager, a mapping or iterable of pools, or a function that returns one of these. They are
    held weakly; with the last of them the monitor ends. ``style``: ``"text"`` for readers, ``"json"`` for programs. A
    report of trouble (timeouts, errors, leaks, the server away) is logged as a WARNING where ``level`` is lower. Each
    record has the report's values as its attribute ``pooling``.

    Use it in a ``with``, or call :meth:`start` and :meth:`stop`. It has no thread of its own: reports are written on
    the pools' worker threads. In a forked child it goes on, for the child's pools.

    Raises TypeError and ValueError for arguments that make no sense.
    """

    def __init__(
        self,
        pools: Any,
        *,
        interval: float = 60.0,
        logger: logging.Logger | str = "pooling.monitor",
        level: int = logging.INFO,
        style: Style = "text",
        runtime: Runtime | None = None,
    ) -> None:
        if style not in ("text", "json"):
            raise ValueError(f"style must be one of 'text', 'json', not {style!r}")
        if isinstance(level, bool) or not isinstance(level, int):
            raise TypeError(f"level must be a number, such as logging.INFO, not {level!r}")
        self._sources = Sources(pools)
        self._log = named_logger(logger)
        self._level = level
        self._style = style
        self._runtime: Runtime = runtime or THREADS
        self._periodic = Periodic(self._tick, interval, runtime)
        self._changes = Changes(self._sources, self._runtime.now())
        self._changes.begin(self._runtime.now())

    def start(self) -> Self:
        """Report from now on, the first time after one interval. Returns the monitor. Does nothing to one that runs."""
        if not self._periodic.running:
            self._changes.begin(self._runtime.now())
            self._periodic.start()
        return self

    def stop(self) -> None:
        """End, with a last report on the time since the one before, unless that still hangs. Does nothing to one that
        does not run."""
        if self._periodic.running:
            self._periodic.stop()
            self._periodic.now()

    def report(self) -> list[Report]:
        """A report on each pool for the time since the last one, which ends here. Nothing is logged."""
        time, pid = datetime.now(timezone.utc), os.getpid()
        changes = self._changes.take(self._runtime.now(), self._periodic.began)
        return [Report(stats, interval, time, pid) for stats, interval in changes]

    @property
    def running(self) -> bool:
        """Whether reports are written."""
        return self._periodic.running

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *details: object) -> None:
        self.stop()

    def _tick(self) -> bool:
        """Log the reports; False where no pool is left to report on."""
        reports = self.report()
        for report in reports:
            level = max(self._level, logging.WARNING) if report.troubled else self._level
            if self._log.isEnabledFor(level):
                text = report.as_json() if self._style == "json" else str(report)
                self._log.log(level, "%s", text, extra={"pooling": report.as_dict()})
        over = bool(reports) and all(report.stats.state == CLOSED for report in reports)
        return not over and not self._sources.gone()


def _summary(histogram: Histogram) -> dict[str, Any]:
    counted = histogram.count > 0
    return {
        "count": histogram.count,
        "mean": round(histogram.mean, 6) if counted else None,
        **{f"p{p}": round(histogram.percentile(p), 6) if counted else None for p in PERCENTILES},
        "max": round(histogram.max, 6) if counted else None,
    }


def _in_words(histogram: Histogram) -> str:
    if not histogram.count:
        return "none"
    values = [f"p{p} {_short(histogram.percentile(p))}" for p in PERCENTILES]
    return ", ".join([*values, f"max {_short(histogram.max)}"])


def _short(seconds: float) -> str:
    return in_words(seconds) if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _rate(number: float) -> str:
    return f"{number:.3g}/s" if number < 999.5 else f"{number:.0f}/s"
