"""Pools as OpenTelemetry metrics, by the semantic conventions for database clients, and spans for what takes time.

``PoolMetrics(pool)`` counts, ``trace(pool)`` makes spans. Both need no more than the API; what becomes of it is up to
the SDK that an application configures.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

try:
    from opentelemetry import metrics
    from opentelemetry import trace as tracing
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, TracerProvider
except ImportError as error:
    raise ImportError(
        "this needs the OpenTelemetry API: pip install 'pooling[opentelemetry]'", name="opentelemetry"
    ) from error

import pooling
from pooling._changes import Changes
from pooling._clock import monotonic
from pooling._runtime.fork import PerProcess
from pooling._runtime.lock import new_lock
from pooling._secrets import hide
from pooling._sources import CLOSED, Sources, one_pool
from pooling.config import seconds
from pooling.pool import Pool
from pooling.stats import BUCKETS, Histogram, PoolStats

POOL = "db.client.connection.pool.name"
STATE = "db.client.connection.state"
FRESH = 0.1  # seconds: the numbers of one collection are from one moment
Value = Callable[[PoolStats], Iterable[tuple[Mapping[str, str], float | None]]]


def _plain(read: Callable[[PoolStats], float | None]) -> Value:
    return lambda stats: [({}, read(stats))]


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


# name → instrument, unit, description, values. Beside the conventions' names, ours begin with "pooling.".
OBSERVED: dict[str, tuple[str, str, str, Value]] = {
    "db.client.connection.count": (
        "up_down_counter", "{connection}", "Connections that are idle or used.",
        lambda stats: [({STATE: "idle"}, stats.idle), ({STATE: "used"}, stats.leased)],
    ),
    "db.client.connection.idle.max": (
        "up_down_counter", "{connection}", "Idle connections there may be.",
        _plain(lambda stats: _least(stats.max_idle, stats.max_size)),
    ),
    "db.client.connection.idle.min": (
        "up_down_counter", "{connection}", "Connections kept open.", _plain(lambda stats: stats.min_size)
    ),
    "db.client.connection.max": (
        "up_down_counter", "{connection}", "Connections there may be.", _plain(lambda stats: stats.max_size)
    ),
    "db.client.connection.pending_requests": (
        "up_down_counter", "{request}", "Callers waiting for a connection.", _plain(lambda stats: stats.waiting)
    ),
    "db.client.connection.timeouts": (
        "counter", "{timeout}", "Acquires that timed out.", _plain(lambda stats: stats.timeouts)
    ),
    "pooling.connection.created": (
        "counter", "{connection}", "Connections opened.", _plain(lambda stats: stats.opened)
    ),
    "pooling.connection.closed": (
        "counter", "{connection}", "Connections closed, by reason.",
        lambda stats: [({"pooling.reason": reason}, count) for reason, count in stats.closed.items()],
    ),
    "pooling.connection.errors": (
        "counter", "{error}", "Connects, checks, resets and closes that failed, uses that ended broken.",
        lambda stats: [({"pooling.stage": stage}, count) for stage, count in stats.errors_by.items()],
    ),
    "pooling.leaks": (
        "counter", "{lease}", "Leases held for too long, or dropped without a release.",
        _plain(lambda stats: stats.leaks),
    ),
    "pooling.oldest_wait": (
        "gauge", "s", "How long the head of the queue has waited.", _plain(lambda stats: stats.oldest_wait)
    ),
    "pooling.up": ("gauge", "1", "0 while connecting fails, else 1.", _plain(lambda stats: stats.state != "down")),
}  # fmt: skip  # a table
# name → field of the stats, description
TIMED = {
    "db.client.connection.create_time": ("connect", "The time it took to open a connection."),
    "db.client.connection.wait_time": ("wait", "The time from the call of acquire to the lease."),
    "db.client.connection.use_time": ("use", "The time from the lease to its end."),
}


class PoolMetrics:
    """Exports pools as metrics, from now on: ``PoolMetrics(pool)``.

    ``pools``: Pools, PoolManagers, mappings or iterables of pools, functions that return one of these; held weakly. A
    pool that is closed is not exported any more. ``attributes`` are added to every measurement, such as
    ``{"db.system.name": "postgresql"}``; ``buckets`` are the histograms' bounds in seconds, for the SDK to heed, and
    ``histograms=False`` leaves those out.
    ``meter_provider``: by default the global one. Several of these may export by the same one; what two of them would
    tell under the same name and attributes, the first one tells.

    Nothing is counted here: whenever the SDK collects, it is told what has happened since. The histograms are told each
    duration then, as the pool's own fine buckets have it: within 6 %, with exact counts and sums.

    Raises TypeError for arguments that make no sense.
    """

    def __init__(
        self,
        *pools: Any,
        meter_provider: MeterProvider | None = None,
        attributes: Mapping[str, str | int | float | bool] | None = None,
        buckets: Sequence[float] = BUCKETS,
        histograms: bool = True,
    ) -> None:
        self._sources = Sources(*pools)
        self._provider: Callable[[], object] = (
            metrics.get_meter_provider if meter_provider is None else weakref.ref(meter_provider)
        )
        self._attributes = dict(attributes or {})
        self._lock = PerProcess(new_lock)  # an exporter's thread may hold it while another one forks
        self._taken_at = float("-inf")
        self._snapshots: list[PoolStats] = []
        self._known: set[str] = set()  # the names of those and of what is closed
        self._changes = Changes(self._sources, 0.0)
        self._changes.begin(0.0)
        meter = metrics.get_meter("pooling", pooling.__version__, meter_provider)
        self._histograms = [
            (field, meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=list(buckets)))
            for name, (field, text) in (TIMED if histograms else {}).items()
        ]
        for name, (kind, unit, text, value) in OBSERVED.items():
            create = getattr(meter, f"create_observable_{kind}")
            create(name, callbacks=[self._observation(value)], unit=unit, description=text)
        _made[:] = [one for one in _made if one._provider() is not None]
        _made.append(self)

    def add(self, pool: Any) -> None:
        """Export one more."""
        self._sources.add(pool)

    def _observation(self, value: Value) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> list[Observation]:
            return [
                Observation(number, {**each._attributes, POOL: stats.name, **labels})
                for each in self._beside()
                for stats in each._fresh()
                if each._tells(stats)
                for labels, number in value(stats)
                if number is not None
            ]

        return observe

    def _beside(self) -> list[PoolMetrics]:
        """All that export by the same provider. The SDK has one instrument of a name and asks the callbacks of the
        first that was made alone, without a word about the others."""
        provider = self._provider()
        return [one for one in _made if one is self or (provider is not None and one._provider() is provider)]

    def _tells(self, stats: PoolStats) -> bool:
        """Whether none that was made earlier tells the same, of the same pool perhaps: the SDK would add it up."""
        for one in self._beside():
            if one is self:
                break
            if one._attributes == self._attributes and stats.name in one._known:
                return False
        return True

    def _fresh(self) -> list[PoolStats]:
        """Snapshots of now. With new ones, the histograms are told what has happened."""
        with self._lock():
            now = monotonic()
            if now >= self._taken_at + FRESH:
                self._look(now)
            return self._snapshots

    def _look(self, now: float) -> None:
        # A function of its own: CPython takes the jump at the end of a loop for a place outside of the "with" around.
        changes = self._changes.take(now)
        self._taken_at = now
        self._snapshots = [stats for stats, _ in changes if stats.state != CLOSED]
        self._known = {stats.name for stats, _ in changes}
        for stats, interval in changes:
            for field, instrument in self._histograms if self._tells(stats) else ():
                _record(instrument, getattr(interval, field), {**self._attributes, POOL: stats.name})


_made: list[PoolMetrics] = []
"""Those whose provider is there. It keeps none but the first of them."""


def trace(
    pool: Pool[Any], *, tracer_provider: TracerProvider | None = None, least: float = 0.001
) -> Callable[[], None]:
    """Make spans of what takes time: ``pooling.wait``, in the trace of whoever waits for a connection, and
    ``pooling.connect`` for each connect, on a worker and so without a parent. Waits shorter than ``least`` seconds are
    left out. Returns a function that ends it.

    What failed has an error's type, and its text without secrets.

    Raises TypeError and ValueError for arguments that make no sense.
    """
    one_pool(pool, Pool)
    seconds("least", least, optional=False)  # now: in a wait it would cost its caller the connection that he waited for
    spans = _Spans(tracing.get_tracer("pooling", pooling.__version__, tracer_provider), pool)
    owner, made = weakref.ref(pool), weakref.ref(pool._factory)  # which is no reason to keep them
    kinds: Any = type(pool), type(pool._factory)  # called where nothing else was put in the place of their functions
    earlier: Any = vars(pool).get("_wait"), vars(pool._factory).get("connect")  # as another tracing of the pool has
    over = False

    def wait(waiter: Any, again: Any, first: Any = None, *args: Any) -> None:
        # "watch" is for the end of a pool, not for a connection.
        wanted = not over and getattr(first, "__name__", "") != "watch"
        with spans.timed("pooling.wait", SpanKind.INTERNAL, least) if wanted else nullcontext():
            if earlier[0] is not None:
                earlier[0](waiter, again, first, *args)
            else:
                kinds[0]._wait(owner(), waiter, again, first, *args)

    def connect(timeout: float) -> Any:
        with nullcontext() if over else spans.timed("pooling.connect", SpanKind.CLIENT, 0.0):
            return earlier[1](timeout) if earlier[1] is not None else kinds[1].connect(made(), timeout)

    def stop() -> None:
        nonlocal over
        over = True
        places: Any = (owner(), "_wait", wait, earlier[0]), (made(), "connect", connect, earlier[1])
        for holder, name, mine, before in places:
            if holder is None or vars(holder).get(name) is not mine:
                continue  # it is gone, or there is another tracing, which began later and goes on
            if before is None:
                delattr(holder, name)
            else:
                setattr(holder, name, before)

    pool._wait = wait  # type: ignore[method-assign]
    pool._factory.connect = connect  # type: ignore[method-assign]
    return stop


class _Spans:
    def __init__(self, tracer: Tracer, pool: Pool[Any]) -> None:
        self._tracer = tracer
        self._attributes = {POOL: pool.name}
        self._secrets = weakref.WeakMethod(pool._factory.secrets)

    @contextmanager
    def timed(self, name: str, kind: SpanKind, least: float) -> Iterator[None]:
        """A span for the block, if it fails or takes so many seconds."""
        began = time.time_ns()
        try:
            yield
        except BaseException as error:
            self._make(name, kind, began, error)
            raise
        if time.time_ns() - began >= least * 1e9:
            self._make(name, kind, began, None)

    def _make(self, name: str, kind: SpanKind, began: int, error: BaseException | None) -> None:
        span = self._tracer.start_span(name, kind=kind, attributes=self._attributes, start_time=began)
        if error is not None:
            secrets = self._secrets()
            text = hide(str(error), secrets() if secrets else ())
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, text.partition("\n")[0]))
        span.end()


def _record(instrument: metrics.Histogram, histogram: Histogram, attributes: Mapping[str, Any]) -> None:
    """Tell an instrument each value of a histogram: the middle of its bucket, moved so that the sum is right."""
    middles = [(sum(Histogram.bounds(bucket)) / 2, count) for bucket, count in histogram.counts]
    total = sum(middle * count for middle, count in middles)
    factor = histogram.sum / total if total > 0 else 1.0
    for middle, count in middles:
        for _ in range(count):
            instrument.record(middle * factor, attributes)
