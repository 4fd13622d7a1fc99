"""Pools as OpenTelemetry metrics and spans, read with the real SDK."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.metrics import db_metrics

from pooling import ConnectError, Pool, PoolManager, PoolTimeout
from pooling.integrations import opentelemetry
from pooling.integrations.opentelemetry import OBSERVED, TIMED, PoolMetrics, trace
from pooling.testing import FakeFactory, ManualClock
from tests.core.helpers import ROOT, outcome, run_python

NAME = "db.client.connection.pool.name"


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


class Reading:
    """A meter provider, and what it collects."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])
        monkeypatch.setattr(opentelemetry, "FRESH", 0.0)  # each test reads more often than an exporter does

    def points(self) -> dict[str, list[Any]]:
        """The data points by the metric's name."""
        data = self.reader.get_metrics_data()
        found: dict[str, list[Any]] = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                assert scope.scope.name == "pooling"
                for metric in scope.metrics:
                    found[metric.name] = list(metric.data.data_points)
                    self.units[metric.name] = metric.unit
        return found

    units: dict[str, str] = {}  # noqa: RUF012  # the same in every reading

    def values(self, pool: str = "shop") -> dict[str, Any]:
        """The numbers of one pool: by name, with the labels beside the pool's, histograms as (count, sum)."""
        found = {}
        for name, points in self.points().items():
            for point in points:
                if point.attributes[NAME] == pool:
                    labels = ",".join(str(value) for key, value in point.attributes.items() if key != NAME)
                    number = (point.count, pytest.approx(point.sum)) if hasattr(point, "sum") else point.value
                    found[f"{name}{{{labels}}}" if labels else name] = number
        return found


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    reading = Reading(monkeypatch)
    yield reading
    reading.provider.shutdown()


def test_every_number_is_that_of_the_stats(clock: ManualClock, reading: Reading) -> None:
    factory = FakeFactory(clock)
    pool = Pool(factory, name="shop", max_size=2, min_size=1, max_idle=1, leak_after=2, fail_after=None, runtime=clock)
    PoolMetrics(pool, meter_provider=reading.provider)
    lease = pool.acquire()
    clock.advance(3)
    other = pool.acquire()
    clock.spawn(outcome, pool.acquire, 1)
    clock.advance(2)
    other.discard()
    clock.advance(0)
    factory.gates["connect"].error(OSError())
    clock.spawn(outcome, pool.acquire, 5)
    clock.advance(0.01)
    pool.resize(max_size=1)
    clock.spawn(outcome, pool.acquire, 5)
    clock.advance(0)
    stats, found = pool.stats(), reading.values()
    assert found == {
        "db.client.connection.count{idle}": stats.idle,
        "db.client.connection.count{used}": 1,
        "db.client.connection.idle.max": 1,
        "db.client.connection.idle.min": 1,
        "db.client.connection.max": 1,
        "db.client.connection.pending_requests": stats.waiting,
        "db.client.connection.timeouts": 1,
        "db.client.connection.create_time": (stats.connect.count, pytest.approx(stats.connect.sum)),
        "db.client.connection.wait_time": (stats.wait.count, pytest.approx(stats.wait.sum)),
        "db.client.connection.use_time": (stats.use.count, pytest.approx(stats.use.sum)),
        "pooling.connection.created": stats.opened,
        "pooling.connection.closed{discarded}": 1,
        "pooling.connection.errors{connect}": stats.errors_by["connect"],
        "pooling.leaks": stats.leaks,
        "pooling.oldest_wait": stats.oldest_wait,
        "pooling.up": 0,
    }
    assert stats.waiting > 0
    lease.release()
    clock.advance(10)
    factory.gates["connect"].ok()
    pool.close()


def test_names_and_units_are_those_of_the_conventions(clock: ManualClock, reading: Reading) -> None:
    conventional = {
        value for name, value in vars(db_metrics).items()
        if name.startswith("DB_CLIENT_CONNECTION_") and isinstance(value, str)
    }  # fmt: skip  # one comprehension
    ours = {*OBSERVED, *TIMED}
    assert {name for name in ours if name.startswith("db.")} == conventional
    assert {name for name in ours if not name.startswith("db.")} == {n for n in ours if n.startswith("pooling.")}
    pool = Pool(FakeFactory(clock), name="shop", runtime=clock)
    PoolMetrics(pool, meter_provider=reading.provider)
    pool.acquire().release()
    reading.points()
    for name in ("create_time", "wait_time", "use_time"):
        assert reading.units[f"db.client.connection.{name}"] == "s"
    assert reading.units["db.client.connection.count"] == "{connection}"
    assert reading.units["db.client.connection.pending_requests"] == "{request}"
    assert reading.units["db.client.connection.timeouts"] == "{timeout}"
    pool.close()


def test_the_names_are_those_that_the_page_lists() -> None:
    from tests.docs.pages import bare, table

    page = ROOT / "docs" / "reference" / "metrics.md"
    listed = [(bare(row[0]), row[1]) for row in table(page, "metric") if not bare(row[0]).startswith("pooling_")]
    kinds = {"up_down_counter": "up-down counter"}
    actual = [(name, kinds.get(kind, kind)) for name, (kind, _, _, _) in OBSERVED.items()]
    assert listed == actual + [(name, "histogram") for name in TIMED]


def test_a_histogram_grows_by_what_came_since_and_keeps_counts_and_sums(clock: ManualClock, reading: Reading) -> None:
    pool = Pool(FakeFactory(clock), name="shop", runtime=clock)
    pool.acquire().release()  # before: not its business
    PoolMetrics(pool, meter_provider=reading.provider, buckets=[0.1, 1.0])
    for seconds in (0.02, 0.3, 0.7, 5.0):
        with pool.acquire():
            clock.advance(seconds)
    (point,) = reading.points()["db.client.connection.use_time"]
    assert (point.count, point.sum) == (4, pytest.approx(6.02))
    assert (list(point.explicit_bounds), list(point.bucket_counts)) == ([0.1, 1.0], [1, 2, 1])
    with pool.acquire():
        clock.advance(2.0)
    for _ in range(3):  # nothing is counted twice, however often it is collected
        (point,) = reading.points()["db.client.connection.use_time"]
        assert (point.count, point.sum) == (5, pytest.approx(8.02))
    pool.close()


def test_the_metrics_of_one_collection_are_from_one_moment(
    clock: ManualClock, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opentelemetry, "FRESH", 60.0)
    pool = Pool(FakeFactory(clock), name="shop", runtime=clock)
    looks = 0
    plain = pool.stats

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return plain()

    monkeypatch.setattr(pool, "stats", counted)
    PoolMetrics(pool, meter_provider=reading.provider)
    looks = 0
    reading.points()
    assert looks == 1
    pool.close()


def test_without_a_cap_there_is_none_to_tell(clock: ManualClock, reading: Reading) -> None:
    pool = Pool(FakeFactory(clock), name="shop", max_size=None, runtime=clock)
    PoolMetrics(pool, meter_provider=reading.provider, attributes={"db.system.name": "fake"})
    found = reading.values()
    assert not {"db.client.connection.max", "db.client.connection.idle.max"} & set(found)
    assert found["db.client.connection.idle.min{fake}"] == 0
    pool.close()


def test_the_histograms_can_be_left_out(clock: ManualClock, reading: Reading) -> None:
    pool = Pool(FakeFactory(clock), name="shop", runtime=clock)
    PoolMetrics(pool, meter_provider=reading.provider, histograms=False)
    pool.acquire().release()
    assert not set(TIMED) & set(reading.values())
    assert reading.values()["pooling.connection.created"] == 1
    pool.close()


@pytest.mark.parametrize("late", [False, True], ids=["explicit", "global"])
def test_several_export_by_one_provider(
    clock: ManualClock, reading: Reading, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    first, second = (Pool(FakeFactory(clock), name=name, runtime=clock) for name in "ab")
    PoolMetrics(first, meter_provider=reading.provider)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", reading.provider)  # as set_meter_provider() does, once
    given = {} if late else {"meter_provider": reading.provider}
    PoolMetrics(second, **given)
    PoolMetrics(first, second, **given)  # once more: what is told twice would be added up
    for pool in (first, second):
        with pool.acquire():
            clock.advance(1.0)
    for name in "ab":
        found = reading.values(name)
        assert found["pooling.connection.created"] == found["db.client.connection.count{idle}"] == 1
        assert found["db.client.connection.use_time"] == (1, pytest.approx(1.0))
    with first.acquire():
        clock.advance(1.0)
    first.close()
    assert reading.values("a")["db.client.connection.use_time"] == (2, pytest.approx(2.0))
    assert "pooling.up" not in reading.values("a")
    second.close()


def test_what_differs_by_its_attributes_is_told_of_the_same_pool_too(clock: ManualClock, reading: Reading) -> None:
    pool = Pool(FakeFactory(clock), name="shop", max_size=3, runtime=clock)
    exporters = [
        PoolMetrics(pool, attributes={"tenant": tenant}, meter_provider=reading.provider) for tenant in ("a", "b")
    ]
    pool.acquire().release()
    points = reading.points()
    for name in ("db.client.connection.max", "db.client.connection.use_time"):
        assert sorted(point.attributes["tenant"] for point in points[name]) == ["a", "b"]
    del exporters
    pool.close()


def test_a_child_of_a_fork_in_the_midst_of_a_collection_can_collect() -> None:
    run_python(
        """
        import os, threading, warnings
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from pooling import Pool
        from pooling.integrations.opentelemetry import PoolMetrics
        from pooling.testing import FakeFactory

        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of a fork beside threads
        reader = InMemoryMetricReader()
        pool = Pool(FakeFactory(), name="shop")
        pool_metrics = PoolMetrics(pool, meter_provider=MeterProvider([reader]))
        taken, inside, forked = pool_metrics._changes.take, threading.Event(), threading.Event()

        def take(now):
            inside.set()
            assert forked.wait(20)
            return taken(now)

        pool_metrics._changes.take = take
        exporter = threading.Thread(target=pool_metrics._fresh)  # as one that the SDK calls: its locks are its own
        exporter.start()
        assert inside.wait(20)
        child = os.fork()
        if not child:
            pool_metrics._changes.take = taken
            pool.acquire().release()
            done = threading.Event()
            threading.Thread(target=lambda: (reader.get_metrics_data(), done.set()), daemon=True).start()
            os._exit(0 if done.wait(20) else 1)
        forked.set()
        assert os.waitpid(child, 0)[1] == 0
        exporter.join()
        pool.close()
        """
    )


def test_pools_come_and_go(clock: ManualClock, reading: Reading) -> None:
    pools: Any = [Pool(FakeFactory(clock), name=name, runtime=clock) for name in "ab"]
    exported = PoolMetrics(meter_provider=reading.provider)
    exported.add(pools)

    def names() -> set[str]:
        return {point.attributes[NAME] for point in reading.points().get("pooling.up", ())}

    assert names() == {"a", "b"}
    first = pools.pop(0)
    first.acquire().release()
    first.close()
    assert names() == {"b"}
    assert reading.values("a")["db.client.connection.use_time"][0] == 1  # what it had done was counted
    pools.clear()
    gc.collect()
    assert names() == set()


def test_it_counts_by_real_threads_while_it_is_collected(reading: Reading) -> None:
    with Pool(FakeFactory(), name="shop", max_size=4, timeout=60) as pool:
        PoolMetrics(pool, meter_provider=reading.provider)

        def use() -> None:
            for _ in range(50):
                with pool.acquire():
                    pass

        threads = [threading.Thread(target=use) for _ in range(16)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            reading.points()
        for thread in threads:
            thread.join(60)
        found = reading.values()
    assert found["db.client.connection.wait_time"][0] == 800
    assert found["db.client.connection.use_time"][0] == 800


# -- spans ------------------------------------------------------------------------------------------------


@pytest.fixture
def spans() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def test_a_wait_is_a_span_of_its_callers_trace_and_a_connect_one_by_itself(spans: Any) -> None:
    provider, exporter = spans
    with Pool(FakeFactory(), name="shop", max_size=1) as pool:
        trace(pool, tracer_provider=provider, least=0.0)
        with provider.get_tracer("app").start_as_current_span("request") as request, pool.acquire():
            pass
        pool.acquire().release()  # no wait: no span
    found = {span.name: span for span in exporter.get_finished_spans()}
    assert set(found) == {"request", "pooling.wait", "pooling.connect"}
    wait, connect = found["pooling.wait"], found["pooling.connect"]
    assert wait.parent.span_id == request.get_span_context().span_id
    assert connect.parent is None
    assert wait.attributes == connect.attributes == {NAME: "shop"}
    assert wait.start_time <= connect.start_time <= connect.end_time <= wait.end_time
    assert wait.status.is_unset
    assert connect.status.is_unset


def test_the_call_site_of_a_holder_stays_that_of_the_application(spans: Any) -> None:
    with Pool(FakeFactory(), max_size=1) as pool:
        trace(pool, tracer_provider=spans[0])
        with pool.acquire():
            (holder,) = pool.holders()
    assert holder.where.endswith(" test_the_call_site_of_a_holder_stays_that_of_the_application")


def test_what_fails_is_a_span_with_an_error_and_without_secrets(spans: Any, clock: ManualClock) -> None:
    provider, exporter = spans
    factory = FakeFactory(clock)
    factory.password = "Tweety-bird"  # type: ignore[attr-defined]
    factory.gates["connect"].error(OSError("Tweety-bird is wrong"))
    pool = Pool(factory, name="shop", max_size=1, fail_after=0, runtime=clock)
    trace(pool, tracer_provider=provider)
    assert isinstance(outcome(pool.acquire, 1), ConnectError)
    connect, wait = exporter.get_finished_spans()
    assert (connect.name, connect.attributes["error.type"]) == ("pooling.connect", "OSError")
    assert connect.status.description == "*** is wrong"
    assert (wait.name, wait.attributes["error.type"]) == ("pooling.wait", "ConnectError")
    assert not connect.events
    assert not wait.events
    assert "Tweety" not in str([span.to_json() for span in exporter.get_finished_spans()])
    factory.gates["connect"].ok()
    clock.advance(10)
    exporter.clear()
    with pool.acquire(10):
        assert isinstance(outcome(pool.acquire, 1), PoolTimeout)
    timeout = exporter.get_finished_spans()[-1]
    assert timeout.attributes["error.type"] == "PoolTimeout"
    assert timeout.status.description.startswith("no connection from pool 'shop' within 1 s")
    pool.close()


def test_tracing_ends_and_keeps_no_pool(spans: Any, clock: ManualClock) -> None:
    provider, exporter = spans
    factory = FakeFactory(clock)
    pool: Any = Pool(factory, runtime=clock)
    stop = trace(pool, tracer_provider=provider, least=0.0)
    stop()
    stop()
    with pool.acquire():
        pass
    pool.close()
    assert not exporter.get_finished_spans()
    pool = Pool(factory, runtime=clock)
    stop = trace(pool, tracer_provider=provider)
    ref = weakref.ref(pool)
    del pool
    assert ref() is None  # by its last reference: no cycle was made
    stop()


@pytest.mark.parametrize("first", [0, 1], ids=["in order", "the later one first"])
def test_a_pool_can_be_traced_by_several_providers(first: int) -> None:
    exporters = InMemorySpanExporter(), InMemorySpanExporter()
    stops = []

    def told() -> list[set[str]]:
        with pool.acquire() as connection:
            assert connection is not None
        pool.clear()  # so that the next one has to wait for a connect
        found = [{span.name for span in exporter.get_finished_spans()} for exporter in exporters]
        for exporter in exporters:
            exporter.clear()
        return found

    with Pool(FakeFactory(), max_size=1) as pool:
        for exporter in exporters:
            provider = TracerProvider()
            provider.add_span_processor(SimpleSpanProcessor(exporter))
            stops.append(trace(pool, tracer_provider=provider, least=0.0))
        both = {"pooling.wait", "pooling.connect"}
        assert told() == [both, both]
        stops[first]()
        assert told() == ([set(), both] if first == 0 else [both, set()])
        stops[1 - first]()
        assert told() == [set(), set()]


def test_short_waits_are_left_out_and_closing_is_no_wait(spans: Any, clock: ManualClock) -> None:
    provider, exporter = spans
    pool = Pool(FakeFactory(clock), runtime=clock)
    trace(pool, tracer_provider=provider, least=3600.0)
    pool.warm_up()
    pool.acquire().discard()
    pool.drain()
    assert {span.name for span in exporter.get_finished_spans()} == {"pooling.connect"}


def test_many_pools_are_refused_where_one_is_needed() -> None:
    many: Any
    with Pool(FakeFactory()) as pool, PoolManager() as manager:
        for many in (manager, [pool]):
            with pytest.raises(TypeError, match=r"needs a Pool, not (PoolManager|list) \(of a manager or a list: each"):
                trace(many)


@pytest.mark.parametrize(
    ("least", "error"), [("0.01", TypeError), (None, TypeError), (True, TypeError), (-1.0, ValueError)]
)
def test_a_least_that_is_no_time_is_refused_at_once_and_traces_nothing(least: Any, error: type[Exception]) -> None:
    with Pool(FakeFactory()) as pool:
        with pytest.raises(error, match="least must be"):
            trace(pool, least=least)
        with pool.acquire():
            pass
        assert pool.stats().leaks == 0
