"""What the page knows, for programs: the document behind ``pools.json``.

``"schema": "pooling-page"``, ``"version": 1``. Times are seconds, ages count back from the moment of the answer. Fields
may be added within a version; none is renamed, dropped, or given another meaning.

- ``pid``, ``host``, ``python``, ``pooling``: the process that has answered, and the versions
- ``time``: seconds since the epoch; ``run``: another one means that the histories have begun anew
- ``actions``: whether orders are taken, with a token
- ``tick``: the number of the last sample; ``pools.json?run=RUN&since=TICK`` leaves out the samples up to that one
- ``pools``: a list of

  - ``name``, ``state``, ``verdict`` (``condition``, ``level``, ``text``), ``findings`` (``level``, ``text``)
  - ``now``: size, idle, leased, connecting, busy, closing, hung, waiting, oldest_wait, min_size, max_size
  - ``totals``: acquired, released, opened, timeouts, errors, leaks, events_lost; ``closed``: reason → count;
    ``errors``: what raised (connect, check, reset, close, use) → count
  - ``rate``: acquires a second, of the last seconds; null where there are no two samples yet
  - ``timeout``: the pool's own; null for ever
  - ``wait``, ``use``, ``connect``: of the last ``window`` seconds, about 15 minutes, and where that is null (the page
    is younger) since the pool's creation: count, mean, p50, p95, p99, max, ``at_once`` (those that took no time),
    ``bins``: [from, below, count]
  - ``history``: ``columns`` and ``rows``, one a second, the newest last
  - ``events``: age, lasted, kind, level, number, text; the newest first
  - ``holders``: thread, age, where, slow (why it counts as slow, else empty), the longest first; ``more_holders``
  - ``waiters``: thread, age, where, in the order of service; ``more_waiters``
  - ``last_error``: text and age of the last connect error that was seen, or null
  - ``settings``: the pool's options, as text
"""

from __future__ import annotations

import itertools
import os
import platform
import socket
import time
from dataclasses import fields
from typing import Any

import pooling
from pooling.config import Config
from pooling.integrations.page._findings import Scene, findings, slow
from pooling.integrations.page._history import WINDOW, History, Sample
from pooling.integrations.page._verdict import condition, judge
from pooling.integrations.page._watch import Watch
from pooling.pool import Pool
from pooling.stats import Histogram, PoolStats

SCHEMA, VERSION = "pooling-page", 1
MOST = 100  # holders, and waiters, that are listed
RECENT = 10.0  # seconds for which a timeout counts as one of just now, and over which the rate is taken
_COLUMNS = ("tick", "age", "leased", "idle", "other", "waiting", "limit", "acquired")
_COARSE = 8  # of a histogram's buckets in a bin: two bins an octave
_SMALLEST = 1e-5  # seconds; what took less is in the first bin
_NOW = (
    "size", "idle", "leased", "connecting", "busy", "closing", "hung", "waiting", "oldest_wait", "min_size", "max_size",
)  # fmt: skip  # a list
_TOTALS = ("acquired", "released", "opened", "timeouts", "errors", "leaks", "events_lost")


def document(watch: Watch, *, actions: bool, run: str = "", since: int = 0) -> dict[str, Any]:
    """The document that this module's docstring describes."""
    known = since if run == watch.run else 0
    pools = [_pool(watch, name, pool, known) for name, pool in watch.pools().items()]
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "pooling": pooling.__version__,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "time": round(time.time(), 3),
        "run": watch.run,
        "tick": max((pool["history"]["rows"][-1][0] for pool in pools if pool["history"]["rows"]), default=known),
        "actions": actions,
        "pools": pools,
    }


def _pool(watch: Watch, name: str, pool: Pool[Any], since: int) -> dict[str, Any]:
    stats, config, holders, waiters = pool.stats(), pool.config, pool.holders(), pool.waiters(MOST)
    with watch.history(pool) as history:
        lasted = history.look(stats)
        before = history.earliest(stats.at)
        verdict = judge(stats, lasted, timeout=config.timeout, timeouts=history.recent("timeouts", stats.at, RECENT))
        told = {
            "rate": _rate(history, stats),
            "history": {"columns": _COLUMNS, "rows": [_row(s, stats.at) for s in _samples(history, stats.at, since)]},
            "events": _events(history, stats.at),
            "last_error": _last_error(history, stats.at),
        }
        timeouts = history.recent("timeouts", stats.at, WINDOW)
    use, connect = _since(stats, before, "use"), _since(stats, before, "connect")
    scene = Scene(stats, config, condition(stats), holders, waiters, use, connect, timeouts)
    return {
        "name": name,
        "state": stats.state,
        "verdict": {"condition": verdict.condition.value, "level": verdict.level.value, "text": verdict.text},
        "findings": [{"level": finding.level.value, "text": finding.text} for finding in findings(scene)],
        "now": {field: getattr(stats, field) for field in _NOW},
        "totals": {field: getattr(stats, field) for field in _TOTALS},
        "closed": dict(stats.closed),
        "errors": dict(stats.errors_by),
        "timeout": config.timeout,
        "window": round(stats.at - before.at, 1) if before else None,
        "wait": _histogram(_since(stats, before, "wait")),
        "use": _histogram(use),
        "connect": _histogram(connect),
        **told,
        "holders": [{**holder._asdict(), "slow": slow(holder, config, use)} for holder in holders[:MOST]],
        "more_holders": max(0, len(holders) - MOST),
        "waiters": [waiter._asdict() for waiter in waiters],
        "more_waiters": max(0, stats.waiting - len(waiters)),
        "settings": _settings(config),
    }


def _since(stats: PoolStats, before: PoolStats | None, name: str) -> Histogram:
    """What was counted in the window: all of it, where the watch is younger than the pool's first minutes."""
    whole: Histogram = getattr(stats, name)
    return whole - getattr(before, name) if before is not None else whole


def _rate(history: History, stats: PoolStats) -> float | None:
    first = next((sample for sample in history.samples if stats.at - sample.at <= RECENT), None)
    if first is None or stats.at - first.at < 0.5:
        return None
    return round((stats.acquired - first.acquired) / (stats.at - first.at), 2)


def _samples(history: History, now: float, since: int) -> list[Sample]:
    new = itertools.takewhile(lambda sample: sample.tick > since, reversed(history.samples))
    return [sample for sample in new if now - sample.at <= WINDOW][::-1]


def _row(sample: Sample, now: float) -> tuple[Any, ...]:
    return (sample.tick, round(now - sample.at, 2), *sample[2:])


def _events(history: History, now: float) -> list[dict[str, Any]]:
    return [
        {
            "age": round(now - mark.at, 2),
            "lasted": round(mark.until - mark.at, 2),
            "kind": mark.kind,
            "level": mark.level.value,
            "number": mark.number,
            "text": mark.told(),
        }
        for mark in sorted(history.marks, key=lambda mark: mark.until)[::-1]
        if now - mark.until <= WINDOW
    ]


def _last_error(history: History, now: float) -> dict[str, Any] | None:
    if history.last_error is None:
        return None
    return {"text": history.last_error, "age": round(now - history.last_error_at, 2)}


def _histogram(histogram: Histogram) -> dict[str, Any]:
    bins: dict[int, int] = {}
    at_once = 0
    for bucket, count in histogram.buckets:
        low, high = histogram.bounds(bucket)
        if low == 0.0 or high <= _SMALLEST:
            at_once += count
        else:
            bins[bucket // _COARSE] = bins.get(bucket // _COARSE, 0) + count
    return {
        "count": histogram.count,
        "mean": histogram.mean,
        **{f"p{p}": histogram.percentile(p) for p in (50, 95, 99)},
        "max": histogram.max,
        "at_once": at_once,
        "bins": [
            [histogram.bounds(coarse * _COARSE)[0], histogram.bounds((coarse + 1) * _COARSE)[0], count]
            for coarse, count in bins.items()
        ],
    }


def _settings(config: Config) -> dict[str, str]:
    """The options as text. What a callable is called, never what it holds."""
    return {field.name: _text(getattr(config, field.name)) for field in fields(config) if field.name != "name"}


def _text(value: object) -> str:
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    return str(value)
