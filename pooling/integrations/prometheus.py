"""Pools as Prometheus metrics, by prometheus-client.

One process: ``REGISTRY.register(PoolCollector(pool))``. Several processes behind one port, with prometheus-client's
multi-process mode: ``MultiProcessExporter(pool).start()`` in each.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

try:
    from prometheus_client import values
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
    from prometheus_client.utils import floatToGoString
except ImportError as error:
    raise ImportError(
        "this needs prometheus-client: pip install 'pooling[prometheus]'", name="prometheus_client"
    ) from error

from pooling._changes import Changes
from pooling._periodic import Periodic
from pooling._runtime.threads import THREADS, Runtime
from pooling._sources import CLOSED, Sources
from pooling.stats import BUCKETS, CloseReason, Histogram, Interval, PoolStats

if TYPE_CHECKING:
    from typing_extensions import Self

REASONS = get_args(CloseReason)
STAGES = ("connect", "check", "reset", "close", "use")
_STATES = {"idle": "idle", "used": "leased", "connecting": "connecting", "busy": "busy", "closing": "closing"}

Counted = PoolStats | Interval
Sample = tuple[tuple[str, ...], float]


class Described(NamedTuple):
    """One metric: what it is called, and where its values come from. ``together`` is how the values of several
    processes become one."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    read: Callable[[Any], Any]
    labels: tuple[str, ...] = ()
    together: str = "livesum"

    def samples(self, counted: Counted) -> list[Sample]:
        """The values of a gauge or counter, with those of its labels but for the first, which is the pool's name."""
        found = self.read(counted)
        return [((key,), float(value)) for key, value in found.items()] if self.labels else [((), float(found))]


def _by(names: Iterable[str], counts: str) -> Callable[[Counted], dict[str, int]]:
    """Each of the names has a value from the beginning: the rate of a counter that appears is unknown."""
    return lambda counted: {**dict.fromkeys(names, 0), **getattr(counted, counts)}


METRICS = (
    Described(
        "pooling_connections", "gauge", "Connections by state.",
        lambda stats: {state: getattr(stats, field) for state, field in _STATES.items()}, ("state",),
    ),
    Described(
        "pooling_connections_max", "gauge", "Connections there may be; +Inf without a cap.",
        lambda stats: math.inf if stats.max_size is None else stats.max_size,
    ),
    Described("pooling_connections_min", "gauge", "Connections kept open.", lambda stats: stats.min_size),
    Described("pooling_pending_requests", "gauge", "Callers waiting for a connection.", lambda stats: stats.waiting),
    Described(
        "pooling_oldest_wait_seconds", "gauge", "How long the head of the queue has waited.",
        lambda stats: stats.oldest_wait, together="livemax",
    ),
    Described(
        "pooling_up", "gauge", "0 while connecting fails, else 1.", lambda stats: stats.state != "down",
        together="livemin",
    ),
    Described(
        "pooling_hung_calls", "gauge", "Calls of the driver that did not come back and were written off.",
        lambda stats: stats.hung,
    ),
    Described("pooling_acquire_timeouts", "counter", "Acquires that timed out.", lambda counted: counted.timeouts),
    Described("pooling_connections_created", "counter", "Connections opened.", lambda counted: counted.opened),
    Described(
        "pooling_connections_closed", "counter", "Connections closed, by reason.", _by(REASONS, "closed"), ("reason",)
    ),
    Described(
        "pooling_create_errors", "counter", "Connects that failed.",
        lambda counted: counted.errors_by.get("connect", 0),
    ),
    Described(
        "pooling_errors", "counter", "Connects, checks, resets and closes that failed, uses that ended broken.",
        _by(STAGES, "errors_by"), ("stage",),
    ),
    Described(
        "pooling_leaks", "counter", "Leases held for too long, or dropped without a release.",
        lambda counted: counted.leaks,
    ),
    Described(
        "pooling_events_lost", "counter", "Events that listeners were too slow for.",
        lambda counted: counted.events_lost,
    ),
    Described(
        "pooling_acquire_wait_seconds", "histogram", "From the call of acquire to the lease.",
        lambda counted: counted.wait,
    ),
    Described("pooling_use_seconds", "histogram", "From the lease to its end.", lambda counted: counted.use),
    Described(
        "pooling_create_seconds", "histogram", "Connects that succeeded.", lambda counted: counted.connect
    ),
)  # fmt: skip  # a table
PROCESS = "pooling_process_info"
_PROCESS_HELP = "The process that was asked: with several behind one port, a scrape reaches one of them."


class PoolCollector(Collector):
    """Exports pools to a registry of prometheus-client: ``REGISTRY.register(PoolCollector(pool))``.

    ``pools``: Pools, PoolManagers, mappings or iterables of pools, functions that return one of these; held weakly. A
    pool that is closed is not exported any more. ``buckets``: the histograms' upper bounds in seconds. Nothing is
    counted here: each scrape takes a snapshot of each pool.

    Raises TypeError and ValueError for arguments that make no sense.
    """

    def __init__(self, *pools: Any, buckets: Sequence[float] = BUCKETS) -> None:
        self._sources = Sources(*pools)
        self._bounds = _bounds(buckets)

    def add(self, pool: Any) -> None:
        """Export one more."""
        self._sources.add(pool)

    def describe(self) -> Iterator[Metric]:
        """The metrics without values, for the registry to see that no name is taken."""
        yield from (_family(metric) for metric in METRICS)
        yield GaugeMetricFamily(PROCESS, _PROCESS_HELP, labels=["pid"])

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment."""
        snapshots = self._sources.stats()
        for metric in METRICS:
            family = _family(metric)
            for stats in snapshots:
                if metric.kind == "histogram":
                    self._fill(family, stats.name, metric.read(stats))
                else:
                    for labels, value in metric.samples(stats):
                        family.add_metric([stats.name, *labels], value)
            yield family
        process = GaugeMetricFamily(PROCESS, _PROCESS_HELP, labels=["pid"])
        process.add_metric([str(os.getpid())], 1.0)
        yield process

    def _fill(self, family: Any, name: str, histogram: Histogram) -> None:
        total, buckets = 0, []
        for bound, count in zip(self._bounds, _counts(histogram, self._bounds), strict=True):
            total += count
            buckets.append((_text(bound), float(total)))
        family.add_metric([name], buckets, histogram.sum)


class MultiProcessExporter:
    """Exports pools in prometheus-client's multi-process mode, in which it keeps all values in files (in the directory
    PROMETHEUS_MULTIPROC_DIR) and has no use for collectors: what the pools have done is added every ``interval``
    seconds, so that whichever process is scraped has the numbers of all.

    ``pools`` and ``buckets`` as for :class:`PoolCollector`. It has no thread of its own, and goes on in forked
    children. Connections and callers are added up over the living processes; what has been counted stays when one ends.

    Raises RuntimeError where prometheus-client is not in that mode, TypeError and ValueError for arguments that make no
    sense.
    """

    def __init__(
        self,
        *pools: Any,
        interval: float = 5.0,
        buckets: Sequence[float] = BUCKETS,
        runtime: Runtime | None = None,
    ) -> None:
        if values.ValueClass is values.MutexValue:
            raise RuntimeError("set PROMETHEUS_MULTIPROC_DIR before prometheus_client is imported")
        self._sources = Sources(*pools)
        self._bounds = _bounds(buckets)
        self._runtime: Runtime = runtime or THREADS
        self._changes = Changes(self._sources, self._runtime.now())
        self._periodic = Periodic(self._tick, interval, runtime)
        self._values: dict[tuple[str, ...], Any] = {}
        self._gauges: dict[str, set[Any]] = {}  # of each pool that is there

    def add(self, pool: Any) -> None:
        """Export one more."""
        self._sources.add(pool)

    def start(self) -> Self:
        """Write now, and every interval from now on. Returns the exporter. Does nothing to one that runs."""
        if not self._periodic.running:
            self.write()
            self._periodic.start()
        return self

    def stop(self) -> None:
        """Write a last time, and end. Does nothing to one that does not run."""
        if self._periodic.running:
            self._periodic.stop()
            self.write()

    def write(self) -> None:
        """Write what has happened since the last time."""
        self._periodic.now()

    __enter__ = start

    def __exit__(self, *details: object) -> None:
        self.stop()

    def _tick(self) -> bool:
        """Write; False where no pool is left. One at a time."""
        changes = self._changes.take(self._runtime.now())
        for gone in self._gauges.keys() - {stats.name for stats, _ in changes if stats.state != CLOSED}:
            for gauge in self._gauges.pop(gone):
                gauge.set(0.0)
        for stats, interval in changes:
            for metric in METRICS:
                if metric.kind == "histogram":
                    self._add(metric, stats.name, metric.read(interval))
                    continue
                counts = metric.kind == "counter"
                for labels, number in metric.samples(interval if counts else stats):
                    name = f"{metric.name}_total" if counts else metric.name
                    value = self._value(metric, name, ("pool", *metric.labels), (stats.name, *labels))
                    if counts:
                        value.inc(number)
                    elif stats.state != CLOSED:
                        value.set(number)
                        self._gauges.setdefault(stats.name, set()).add(value)
        process = Described(PROCESS, "gauge", _PROCESS_HELP, float, together="liveall")  # has a label pid by itself
        self._value(process, PROCESS, (), ()).set(1.0)
        return not self._sources.gone()

    def _add(self, metric: Described, pool: str, histogram: Histogram) -> None:
        """A histogram as prometheus-client keeps it: each bucket by itself, and the sum."""
        for bound, count in zip(self._bounds, _counts(histogram, self._bounds), strict=True):
            labels = (pool, _text(bound))
            self._value(metric, f"{metric.name}_bucket", ("pool", "le"), labels).inc(count)
        self._value(metric, f"{metric.name}_sum", ("pool",), (pool,)).inc(histogram.sum)

    def _value(self, metric: Described, name: str, labels: tuple[str, ...], given: tuple[str, ...]) -> Any:
        key = (name, *given)
        value = self._values.get(key)
        if value is None:
            value = self._values[key] = values.ValueClass(
                metric.kind, metric.name, name, labels, given, metric.help, multiprocess_mode=metric.together
            )
        return value


def _family(metric: Described) -> Any:
    families: dict[str, Any] = {
        "gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily,
    }  # fmt: skip  # a table
    return families[metric.kind](metric.name, metric.help, labels=["pool", *metric.labels])


def _text(bound: float) -> str:
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
    return text


def _bounds(buckets: Sequence[float]) -> tuple[float, ...]:
    bounds = tuple(map(float, buckets))
    if not bounds or any(left >= right for left, right in pairwise(bounds)) or bounds[0] <= 0:
        raise ValueError(f"buckets must be seconds in ascending order, greater than 0, not {buckets!r}")
    return bounds if bounds[-1] == math.inf else (*bounds, math.inf)


def _counts(histogram: Histogram, bounds: tuple[float, ...]) -> list[int]:
    """How many fall under each bound and not under the one before it. A bucket of ours that a bound goes through counts
    as below: it is 6 % wide, and what is exactly the bound belongs there."""
    counts = [0] * len(bounds)
    for bucket, count in histogram.counts:
        counts[bisect_left(bounds, Histogram.bounds(bucket)[0])] += count
    return counts
