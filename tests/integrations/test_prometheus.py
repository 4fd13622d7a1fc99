"""Pools as Prometheus metrics: scraped over HTTP and read by the client's own parser, in one process and in several."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

import pooling
from pooling import Histogram, Pool, PoolTimeout
from pooling.integrations import prometheus
from pooling.integrations.prometheus import METRICS, MultiProcessExporter, PoolCollector
from pooling.stats import BUCKETS
from pooling.testing import FakeFactory, ManualClock
from tests.core.helpers import ROOT, outcome

Scraped = dict[str, float]


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


def read(text: str) -> Scraped:
    """Each sample by its name with its labels, as it is written."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def scrape(*pools: Any, **options: Any) -> Scraped:
    registry = CollectorRegistry()
    registry.register(PoolCollector(*pools, **options))
    return read(generate_latest(registry).decode())


def test_a_pool_is_scraped_over_http() -> None:
    """With real threads, the client's own server and its parser."""
    registry = CollectorRegistry()
    with Pool(FakeFactory(), name="shop", max_size=3) as pool:
        registry.register(PoolCollector(pool))
        server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
        try:
            for _ in range(5):
                pool.acquire().release()
            with pool.acquire(), urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
                found = read(answer.read().decode())
        finally:
            server.shutdown()
            server.server_close()
            thread.join(20)
    assert found["pooling_connections{pool=shop,state=used}"] == 1
    assert found["pooling_connections_max{pool=shop}"] == 3
    assert found["pooling_acquire_wait_seconds_count{pool=shop}"] == 6
    assert found["pooling_use_seconds_count{pool=shop}"] == 5
    assert found["pooling_connections_created_total{pool=shop}"] == 1
    assert found[f"pooling_process_info{{pid={os.getpid()}}}"] == 1


def test_every_number_is_that_of_the_stats(clock: ManualClock) -> None:
    factory = FakeFactory(clock)
    pool = Pool(factory, name="shop", max_size=2, min_size=1, leak_after=2, fail_after=0, runtime=clock)
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
    waiting = clock.spawn(outcome, pool.acquire, 5)
    pool.resize(max_size=1)
    clock.advance(0)
    found, stats = scrape(pool), pool.stats()
    for state, field in prometheus._STATES.items():
        assert found[f"pooling_connections{{pool=shop,state={state}}}"] == getattr(stats, field)
    for reason in prometheus.REASONS:
        assert found[f"pooling_connections_closed_total{{pool=shop,reason={reason}}}"] == stats.closed.get(reason, 0)
    for stage in prometheus.STAGES:
        assert found[f"pooling_errors_total{{pool=shop,stage={stage}}}"] == stats.errors_by.get(stage, 0)
    for name, value in {
        "connections_max": stats.max_size,
        "connections_min": stats.min_size,
        "pending_requests": stats.waiting,
        "oldest_wait_seconds": stats.oldest_wait,
        "up": stats.state != "down",
        "hung_calls": stats.hung,
        "acquire_timeouts_total": stats.timeouts,
        "connections_created_total": stats.opened,
        "create_errors_total": stats.errors_by["connect"],
        "leaks_total": stats.leaks,
        "events_lost_total": stats.events_lost,
        "acquire_wait_seconds_count": stats.wait.count,
        "acquire_wait_seconds_sum": stats.wait.sum,
        "use_seconds_count": stats.use.count,
        "use_seconds_sum": stats.use.sum,
        "create_seconds_count": stats.connect.count,
    }.items():
        assert found[f"pooling_{name}{{pool=shop}}"] == value, name
    assert (stats.timeouts, stats.leaks, stats.waiting) != (0, 0, 0)
    assert stats.errors_by["connect"] > 0
    lease.release()
    clock.advance(10)
    waiting.result()
    factory.gates["connect"].ok()
    pool.close()


def test_the_names_are_those_that_the_page_lists() -> None:
    from tests.docs.pages import bare, table

    rows = table(ROOT / "docs" / "reference" / "metrics.md", "metric")
    suffix = {"gauge": "", "counter": "_total", "histogram": ""}
    listed = [
        (bare(row[0]), row[1], re.findall(r"`(\w+)`", row[2])) for row in rows if bare(row[0]).startswith("pooling_")
    ]
    actual = [(metric.name + suffix[metric.kind], metric.kind, ["pool", *metric.labels]) for metric in METRICS]
    assert listed == [*actual, ("pooling_process_info", "gauge", ["pid"])]


def test_the_reasons_and_stages_are_all_there_are() -> None:
    import inspect

    source = inspect.getsource(pooling.PoolStats)
    stages = source.partition("by what raised: ")[2].partition(".")[0]
    assert get_args(pooling.stats.CloseReason) == prometheus.REASONS
    assert re.findall(r"\w+", stages) == list(prometheus.STAGES)


def test_an_ordinary_client_accepts_it_and_names_are_not_taken_twice(clock: ManualClock) -> None:
    registry = CollectorRegistry()
    registry.register(PoolCollector())
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(PoolCollector())
    assert read(generate_latest(registry).decode())[f"pooling_process_info{{pid={os.getpid()}}}"] == 1


@pytest.mark.parametrize("seconds", [*BUCKETS, 0.0009, 0.3, 0.7, 3.3, 59.0, 61.0, 1e6, 0.0])
def test_what_is_exactly_a_bound_lies_below_it_and_what_is_7_percent_above_does_not(
    clock: ManualClock, seconds: float
) -> None:
    recorder = pooling.stats.Recorder()
    recorder.samples.append(seconds)
    bounds = prometheus._bounds(BUCKETS)
    (index,) = [place for place, count in enumerate(prometheus._counts(recorder.snapshot(), bounds)) if count]
    assert seconds <= bounds[index] * (1 + 1 / 16)
    assert index == 0 or seconds > bounds[index - 1]


def test_the_buckets_are_cumulative_and_end_with_everything(clock: ManualClock) -> None:
    pool = Pool(FakeFactory(clock), name="shop", runtime=clock)
    for seconds in (0.01, 0.2, 0.2, 3.0, 600.0):
        with pool.acquire():
            clock.advance(seconds)
    found = scrape(pool, buckets=(0.1, 1, 10))
    below = [found[f"pooling_use_seconds_bucket{{le={le},pool=shop}}"] for le in ("0.1", "1.0", "10.0", "+Inf")]
    assert below == [1, 3, 4, 5]
    assert found["pooling_use_seconds_sum{pool=shop}"] == pytest.approx(603.41)
    pool.close()


@pytest.mark.parametrize("buckets", [(), (0, 1), (2, 1), (1, 1)])
def test_buckets_that_make_no_sense_are_refused(buckets: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"^buckets must be seconds in ascending order, greater than 0, not "):
        PoolCollector(buckets=buckets)


def test_pools_come_and_go(clock: ManualClock) -> None:
    registry = CollectorRegistry()
    collector = PoolCollector()
    registry.register(collector)

    def names() -> set[str]:
        found = read(generate_latest(registry).decode())
        return {match[1] for key in found if (match := re.match(r"pooling_up{pool=(.*)}", key))}

    pools: dict[str, Any] = {name: Pool(FakeFactory(clock), name=name, runtime=clock) for name in ("a", "b")}
    pools["again"] = Pool(FakeFactory(clock), name="b", max_size=None, runtime=clock)
    assert names() == set()
    collector.add(pools)
    assert names() == {"a", "b", "b#2"}
    assert read(generate_latest(registry).decode())["pooling_connections_max{pool=b#2}"] == math.inf
    pools["a"].close()
    assert names() == {"b", "b#2"}
    pools.clear()
    gc.collect()
    assert names() == set()


def test_a_label_may_have_anything_in_it(clock: ManualClock) -> None:
    name = 'a "quoted"\\ name\nof two lines'
    pool = Pool(FakeFactory(clock), name=name, runtime=clock)
    assert f"pooling_up{{pool={name}}}" in scrape(pool)
    pool.close()


def test_a_name_that_is_no_text_costs_nobody_the_scrape(clock: ManualClock) -> None:
    """A file's name in another encoding, as Python has it."""
    pools = [Pool(FakeFactory(clock), name="caf\udce9.db", runtime=clock) for _ in range(2)]
    found = scrape(*pools)
    assert {r"pooling_up{pool=caf\udce9.db}", r"pooling_up{pool=caf\udce9.db#2}"} <= found.keys()


def test_a_scrape_shows_no_secret(clock: ManualClock) -> None:
    factory = FakeFactory(clock)
    factory.password = "Tweety-bird"  # type: ignore[attr-defined]
    factory.gates["connect"].error(OSError("Tweety-bird is wrong"))
    pool = Pool(factory, runtime=clock, fail_after=None)
    assert isinstance(outcome(pool.acquire, 1), PoolTimeout)
    registry = CollectorRegistry()
    registry.register(PoolCollector(pool))
    assert b"Tweety" not in generate_latest(registry)
    factory.gates["connect"].ok()
    pool.close()


def test_a_bound_in_a_histogram_of_ours_is_where_it_says() -> None:
    for bound in BUCKETS:
        recorder = pooling.stats.Recorder()
        recorder.samples.append(bound)
        ((bucket, _),) = recorder.snapshot().counts
        low, high = Histogram.bounds(bucket)
        assert low <= bound < high


def test_without_the_mode_there_is_no_exporter_for_it() -> None:
    with pytest.raises(RuntimeError, match=r"^set PROMETHEUS_MULTIPROC_DIR before prometheus_client is imported$"):
        MultiProcessExporter()


def several(script: str, directory: Path) -> str:
    """Run a script in a fresh interpreter, in prometheus-client's multi-process mode; what it prints."""
    done = subprocess.run(
        # The client leaves its files open.
        [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", textwrap.dedent(script)],
        capture_output=True, text=True, timeout=90, cwd=ROOT, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(directory)},
    )  # fmt: skip  # one argument list
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}\n{done.stderr}"
    return done.stdout


PREFORK = """
    import os, struct, sys
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
    import pooling
    from pooling.integrations.prometheus import MultiProcessExporter
    from pooling.testing import FakeFactory

    pool = pooling.Pool(FakeFactory(), name="shop", max_size=3)
    exporter = MultiProcessExporter(pool, interval=0.05)

    def scrape():
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry).decode()
"""


def test_several_processes_are_scraped_as_one(tmp_path: Path) -> None:
    """Three workers, one parent that has used the pool before: what each has done is there once, connections are those
    of the living, and what the dead have counted stays."""
    script = (
        PREFORK
        + """
    for _ in range(10):
        pool.acquire().release()
    exporter.start()
    children = []
    for number in range(3):
        (up, ready), (down, go) = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            os.close(go)
            lease = pool.acquire()
            for _ in range(number):
                pool.acquire().release()
            exporter.write()
            os.write(ready, b"x")
            os.read(down, 1)
            os._exit(0)
        os.close(down)
        children.append((child, go))
        assert os.read(up, 1) == b"x"
    exporter.write()
    print(scrape())
    print("---")
    for child, go in children:
        os.write(go, b"x")
        os.waitpid(child, 0)
        mark_process_dead(child)
    print(scrape())
    exporter.stop()
    pool.close()
    exporter.write()
    print("---")
    print(scrape())
    """
    )
    living, afterwards, closed = map(read, several(script, tmp_path).split("---\n"))
    assert living["pooling_connections{pool=shop,state=used}"] == 3
    assert living["pooling_connections_max{pool=shop}"] == 4 * 3
    assert living["pooling_up{pool=shop}"] == 1
    assert living["pooling_acquire_wait_seconds_count{pool=shop}"] == 10 + 3 + (0 + 1 + 2)
    assert living["pooling_use_seconds_count{pool=shop}"] == 10 + (0 + 1 + 2)
    assert living["pooling_use_seconds_bucket{le=+Inf,pool=shop}"] == 13
    assert living["pooling_connections_created_total{pool=shop}"] == 1 + (1 + 2 + 2)
    assert sum(key.startswith("pooling_process_info") for key in living) == 4
    assert afterwards["pooling_connections{pool=shop,state=used}"] == 0
    assert afterwards["pooling_connections_max{pool=shop}"] == 3
    assert afterwards["pooling_acquire_wait_seconds_count{pool=shop}"] == 16
    assert closed["pooling_connections_max{pool=shop}"] == 0
    assert closed["pooling_connections_closed_total{pool=shop,reason=pool}"] == 1
    assert closed["pooling_acquire_wait_seconds_count{pool=shop}"] == 16


def test_an_exporter_writes_at_its_beginning_and_at_its_end_and_then_no_more(tmp_path: Path) -> None:
    script = (
        PREFORK
        + """
    import time
    exporter.stop()  # does nothing to one that does not run
    seldom = MultiProcessExporter(interval=3600)
    with pooling.Pool(FakeFactory(), name="cafe") as late:
        late.acquire().release()
        seldom.add(late)
        pool.acquire().release()
        with seldom, exporter:
            print(scrape())
            late.acquire().release()
            pool.acquire().release()
        print("---")
        print(scrape())
        late.acquire().release()
        pool.acquire().release()
        time.sleep(0.3)
        print("---")
        print(scrape())
    """
    )
    uses = [
        [found[f"pooling_use_seconds_count{{pool={name}}}"] for name in ("cafe", "shop")]
        for found in map(read, several(script, tmp_path).split("---\n"))
    ]
    assert uses == [[1, 1], [2, 2], [2, 2]]


def test_a_worker_exports_by_itself_from_time_to_time(tmp_path: Path) -> None:
    """Started before the fork, as a server that loads the application first does: nobody calls write()."""
    script = (
        PREFORK
        + """
    import time
    exporter.start()
    (up, go) = os.pipe()
    child = os.fork()
    if not child:
        os.close(go)
        pool.acquire().release()
        os.read(up, 1)
        os._exit(0)
    until = time.monotonic() + 30
    told = ""
    while 'pooling_use_seconds_count{pool="shop"} 1.0' not in told:
        assert time.monotonic() < until, told
        time.sleep(0.05)
        try:
            told = scrape()
        except struct.error:
            pass  # the client has met a file that the worker was just making
    os.close(go)
    os.waitpid(child, 0)
    exporter.stop()
    pool.close()
    """
    )
    several(script, tmp_path)


def test_the_dashboard_asks_for_what_there_is(clock: ManualClock) -> None:
    """Each metric of each query is exported with the labels that the query counts on, and none is forgotten."""
    board = json.loads((ROOT / "docs" / "grafana" / "pooling.json").read_text(encoding="utf-8"))
    pool = Pool(FakeFactory(clock), name="shop", runtime=clock)
    registry = CollectorRegistry()
    registry.register(PoolCollector(pool))
    exported: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            exported.setdefault(sample.name, set()).update(sample.labels)
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [variable["definition"] for variable in board["templating"]["list"] if "definition" in variable]
    asked: set[str] = set()
    for query in queries:
        selectors = re.findall(r"\b(pooling_\w+)(?:{([^}]*)})?", query)
        assert selectors, query
        asked |= {name for name, _ in selectors}
        for name, labels in selectors:
            wanted = {*re.findall(r'(\w+)=~?"', labels), *re.findall(r"\w+", " ".join(by(query)))}
            assert wanted - {"job"} <= exported[name], (query, exported[name])
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert families == {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported} - {prometheus.PROCESS}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["description"]
    pool.close()


def by(query: str) -> list[str]:
    return re.findall(r"\bby \(([^)]*)\)", query)
