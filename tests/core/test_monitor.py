"""The monitor: a report on each pool every so many seconds, in which nothing is divided by zero and nobody is kept."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pooling import Pool, PoolManager, PoolMonitor, PoolStats, PoolTimeout, _periodic
from pooling._periodic import Periodic
from pooling._sources import Sources
from pooling.testing import FakeBroken, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, run_python
from tests.waiting import LATE


@pytest.fixture
def watch(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """watch(pools, **options): a monitor in virtual time, started; stopped at the end of the test."""
    caplog.set_level(logging.INFO, logger="pooling.monitor")
    monitors: list[PoolMonitor] = []

    def build(pools: Any, **options: Any) -> PoolMonitor:
        monitors.append(PoolMonitor(pools, runtime=clock, **options).start())
        return monitors[-1]

    yield build
    for monitor in monitors:
        monitor.stop()


def test_a_report_comes_every_interval_and_tells_what_happened_in_it(
    clock: ManualClock, make: Make, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(name="shop", max_size=1)
    pool.acquire().release()  # before the monitor begins: not its business
    watch(pool, interval=60)
    for _ in range(30):
        with pool.acquire():
            clock.advance(1)
    clock.advance(29)
    assert not caplog.records
    clock.advance(1)
    expected = (
        "pool 'shop': 30 acquired (0.5/s), 30 released, 0 timeouts, 0 errors, 0 leaks in 60 s; "
        "waits: p50 0 ms, p95 0 ms, p99 0 ms, max 0 ms; uses: p50 1 s, p95 1 s, p99 1 s, max 1 s; "
        "now 0 of 1 in use, 1 idle, 0 connecting, 0 waiting; up"
    )
    assert caplog.messages == [expected]
    assert caplog.records[0].name == "pooling.monitor"
    assert caplog.records[0].levelno == logging.INFO
    caplog.clear()
    clock.advance(120)
    assert len(caplog.messages) == 2


def test_an_interval_in_which_nothing_happened_divides_nothing_by_zero(
    clock: ManualClock, make: Make, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    watch(make(name="shop", max_size=None), interval=10)
    clock.advance(10)
    expected = (
        "pool 'shop': 0 acquired (0/s), 0 released, 0 timeouts, 0 errors, 0 leaks in 10 s; waits: none; uses: none; "
        "now 0 of any number in use, 0 idle, 0 connecting, 0 waiting; up"
    )
    assert caplog.messages == [expected]


def test_a_report_without_any_time_divides_nothing_by_zero(make: Make, clock: ManualClock) -> None:
    pool = make()
    monitor = PoolMonitor(pool, runtime=clock)
    pool.acquire().release()
    (report,) = monitor.report()
    assert (report.interval.seconds, report.interval.acquired) == (0, 1)
    assert report.as_dict()["acquired_per_second"] == 0
    assert "1 acquired (0/s)" in str(report)


def test_json_is_a_line_for_each_report_with_plain_values(
    clock: ManualClock, factory: FakeFactory, make: Make, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(name="shop", max_size=2, min_size=1, fail_after=0)
    watch(pool, interval=10, style="json")
    with pool.acquire():
        clock.advance(4)
    clock.advance(6)
    (line,) = caplog.messages
    told = json.loads(line)
    assert "\n" not in line
    assert told == caplog.records[0].pooling  # type: ignore[attr-defined]
    assert told.pop("time").endswith("+00:00")
    assert told == {
        "pid": os.getpid(), "pool": "shop", "state": "up", "seconds": 10.0,
        "acquired": 1, "released": 1, "opened": 1, "timeouts": 0, "errors": 0, "leaks": 0, "events_lost": 0,
        "acquired_per_second": 0.1, "in_use_average": 0.4, "closed": {}, "errors_by": {},
        "size": 1, "idle": 1, "leased": 0, "connecting": 0, "busy": 0, "closing": 0, "hung": 0, "waiting": 0,
        "min_size": 1, "max_size": 2, "oldest_wait": 0.0,
        "wait": {"count": 1, "mean": 0.0, "p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0},
        "use": {"count": 1, "mean": 4.0, "p50": 4.0, "p95": 4.0, "p99": 4.0, "max": 4.0},
        "connect": {"count": 1, "mean": 0.0, "p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0},
        "last_error": None, "last_error_age": None,
    }  # fmt: skip  # a table
    caplog.clear()
    clock.advance(10)
    told = json.loads(caplog.messages[0])
    assert told["acquired"] == told["opened"] == 0
    assert told["use"] == {"count": 0, "mean": None, "p50": None, "p95": None, "p99": None, "max": None}


def test_trouble_is_a_warning(
    clock: ManualClock, factory: FakeFactory, make: Make, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Timeouts, errors, leaks, a server that is away: whoever reads warnings alone learns of them."""
    pool = make(name="shop", max_size=1, leak_after=50, fail_after=0)
    watch(pool, interval=10, level=logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="pooling.monitor")

    def levels() -> list[int]:
        clock.advance(10)
        found = [record.levelno for record in caplog.records if record.name == "pooling.monitor"]
        caplog.clear()
        return found

    assert levels() == [logging.DEBUG]
    lease = pool.acquire()
    clock.spawn(outcome, pool.acquire, 5)
    assert levels() == [logging.WARNING]
    assert levels() == [logging.DEBUG]
    clock.advance(20)
    assert levels()[-1] == logging.WARNING  # a leak
    with pytest.raises(FakeBroken), lease:
        raise FakeBroken
    assert levels() == [logging.WARNING]
    assert levels() == [logging.DEBUG]
    factory.gates["connect"].error(OSError("no route"))
    outcome(pool.acquire, 1)
    assert levels() == [logging.WARNING]
    assert levels() == [logging.WARNING]  # it is still away


def test_a_call_that_hangs_is_trouble_for_as_long_as_it_does(
    clock: ManualClock, factory: FakeFactory, make: Make, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(connect_timeout=10)
    factory.gates["close"].never()
    pool.acquire().discard()
    clock.advance(30)
    watch(pool, interval=10)
    clock.advance(20)
    assert [record.levelno for record in caplog.records if record.name == "pooling.monitor"] == [logging.WARNING] * 2
    factory.gates["close"].ok()
    caplog.clear()
    clock.advance(10)
    assert [record.levelno for record in caplog.records if record.name == "pooling.monitor"] == [logging.INFO]


def test_a_process_that_was_stopped_makes_up_for_no_report(
    clock: ManualClock, make: Make, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    watch(make(), interval=10)
    clock._time += 95
    clock.advance(9)
    assert len(caplog.records) == 1
    clock.advance(1)
    assert len(caplog.records) == 2


def test_the_report_says_who_waits_and_what_is_wrong(
    clock: ManualClock, factory: FakeFactory, make: Make, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(name="shop", max_size=1, fail_after=None)
    factory.gates["connect"].error(OSError("no route"))
    watch(pool, interval=10)
    waiting = clock.spawn(outcome, pool.acquire, 15)
    clock.advance(10)
    (message,) = caplog.messages
    assert "1 waiting, the longest for 10 s; down; last connect error: OSError: no route" in message
    clock.advance(10)
    assert isinstance(waiting.result(), PoolTimeout)
    assert "1 timeouts" in caplog.messages[1]


def test_a_monitor_watches_many_pools(
    clock: ManualClock, make: Make, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pools = {"a": make(name="a"), "b": make(name="b"), "again": make(name="b")}
    watch(pools, interval=10, style="json")
    pools["again"].acquire().release()
    clock.advance(10)
    told = {report["pool"]: report["acquired"] for report in map(json.loads, caplog.messages)}
    assert told == {"a": 0, "b": 0, "b#2": 1}


def test_of_pools_of_one_name_each_keeps_what_it_is_called_and_nothing_is_told_twice(make: Make) -> None:
    first, second = pools = [make(name="shop"), make(name="shop")]
    monitor = PoolMonitor(lambda: pools)

    def told() -> dict[str, int]:
        return {report.stats.name: report.interval.acquired for report in monitor.report()}

    second.acquire().release()
    assert told() == {"shop": 0, "shop#2": 1}
    pools.reverse()  # as in urllib3's managers, where the one that was used last stands last
    second.acquire().release()
    assert told() == {"shop": 0, "shop#2": 1}
    pools.remove(first)
    second.acquire().release()
    assert told() == {"shop#2": 1}
    pools.append(make(name="shop"))
    assert told() == {"shop": 0, "shop#2": 0}


def test_a_manager_of_the_users_own_may_have_two_pools_of_one_name(make: Make) -> None:
    class Both:
        def __init__(self, *pools: Any) -> None:
            self.pools = pools

        def stats(self) -> dict[int, Any]:
            return {number: pool.stats() for number, pool in enumerate(self.pools)}

    both = Both(make(name="shop"), make(name="shop"))
    monitor = PoolMonitor(both)
    both.pools[1].acquire().release()
    for acquired in (1, 0, 0):
        told = {report.stats.name: report.interval.acquired for report in monitor.report()}
        assert told == {"shop": 0, "shop#2": acquired}


def test_what_another_pool_of_the_same_name_has_done_before_is_not_taken_from_a_pool_in_its_place(
    clock: ManualClock, make: Make, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pools = [make(name="shop")]
    watch(lambda: pools[-1], interval=10, style="json")
    with pools[-1].acquire(), pools[-1].acquire():
        clock.advance(10)
    pools.append(make(name="shop"))  # as an engine of SQLAlchemy's has another one after dispose()
    for _ in range(5):
        pools[-1].acquire().release()
    clock.advance(10)
    told = [(report["acquired"], report["opened"]) for report in map(json.loads, caplog.messages)]
    assert told == [(2, 2), (5, 1)]


def test_a_manager_is_watched_with_the_pools_that_it_gets_later(
    clock: ManualClock, make: Make, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Manager:
        def __init__(self) -> None:
            self.pools = {"a": make(name="a")}

        def stats(self) -> dict[str, PoolStats]:
            return {name: pool.stats() for name, pool in self.pools.items()}

    manager = Manager()
    watch(manager, interval=10, style="json")
    clock.advance(5)
    later = manager.pools["b"] = make(name="b")
    later.acquire().release()
    clock.advance(5)
    told = {report["pool"]: report for report in map(json.loads, caplog.messages)}
    assert set(told) == {"a", "b"}
    assert (told["b"]["acquired"], told["b"]["seconds"]) == (1, 10)


def test_a_pool_manager_is_watched_even_where_one_of_its_pools_cannot_be_made(
    clock: ManualClock, make: Make, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with PoolManager() as manager:
        manager.add("orders", make(name="orders"))
        monitor = watch(manager, interval=10, style="json")
        manager.add("later", FakeFactory())
        manager["orders"].acquire().release()
        clock.advance(10)
        told = {report["pool"]: report["acquired"] for report in map(json.loads, caplog.messages)}
        assert told == {"orders": 1, "later": 0}
        manager._plans["broken"] = lambda: make(nonsense=1)
        caplog.clear()
        clock.advance(10)
        assert [json.loads(message)["pool"] for message in caplog.messages] == ["orders", "later"]
        del manager._plans["broken"]
    clock.advance(10)
    assert not monitor.running


def test_a_manager_that_has_no_pools_yet_is_watched_until_it_has(
    clock: ManualClock, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with PoolManager() as manager:
        monitor = watch(manager, interval=10, style="json")
        clock.advance(15)
        assert monitor.running
        manager.add("later", FakeFactory())
        clock.advance(5)
        assert [json.loads(message)["pool"] for message in caplog.messages] == ["later"]


def test_pools_are_named_in_many_ways(make: Make) -> None:
    class DropIn:
        def __init__(self, pooling: Any) -> None:
            self.pooling = pooling

    first, second = make(name="a"), make(name="b")
    drop_in, both = DropIn(first), DropIn({"x": first, "y": second})
    for given in (
        [first], first, {"x": first}, iter([first]), (pool for pool in [first]), lambda: first, lambda: [first],
        drop_in, lambda: {"x": drop_in}, [first, first],
    ):  # fmt: skip  # a list
        assert [stats.name for stats in Sources(given).stats()] == ["a"], given
    assert [stats.name for stats in Sources(both, first).stats()] == ["a", "b"]
    assert Sources(lambda: None).stats() == Sources([]).stats() == []


@pytest.mark.parametrize(
    ("given", "what"),
    [(7, "int"), ("postgresql://", "str"), (Pool, "Pool"), ([object()], "object"), (None, "NoneType")],
)
def test_what_is_no_pool_is_refused(given: Any, what: str) -> None:
    with pytest.raises(TypeError, match=rf"^this needs a Pool, a PoolManager, .*, not {what}$"):
        PoolMonitor(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "interval must be greater than 0 seconds, not 0"),
        ({"interval": "60"}, "interval must be seconds as a number, not '60'"),
        ({"style": "xml"}, "style must be one of 'text', 'json', not 'xml'"),
        # In a report nobody would hear of these but the log, once an interval, in the place of the report.
        ({"level": "INFO"}, "level must be a number, such as logging.INFO, not 'INFO'"),
        ({"level": None}, "level must be a number, such as logging.INFO, not None"),
        ({"level": True}, "level must be a number, such as logging.INFO, not True"),
        ({"logger": None}, "logger must be a logger or the name of one, not None"),
        ({"logger": 5}, "logger must be a logger or the name of one, not 5"),
    ],
)
def test_bad_options_are_refused(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as refused:
        PoolMonitor(make(), **options)
    assert str(refused.value) == message


def test_an_adapter_is_a_logger_too(clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    logger: Any = logging.LoggerAdapter(logging.getLogger("shop"), {"shop": 5})
    with caplog.at_level(logging.INFO), PoolMonitor(make(), logger=logger, runtime=clock):
        clock.advance(60.0)
    assert {record.name for record in caplog.records} == {"shop"}


def test_stop_writes_what_came_since_the_last_report_and_ends(
    clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pool = make(name="shop")
    with PoolMonitor(pool, interval=60, runtime=clock) as monitor:
        clock.advance(70)
        caplog.clear()
        pool.acquire().release()
        assert monitor.running
    assert not monitor.running
    assert [message[: message.index("(")] for message in caplog.messages] == ["pool 'shop': 1 acquired "]
    assert "in 10 s" in caplog.messages[0]
    monitor.stop()
    clock.advance(1000)
    assert len(caplog.messages) == 1
    monitor.start()
    clock.advance(60)
    assert len(caplog.messages) == 2
    monitor.stop()


@pytest.mark.parametrize("own", [False, True])
def test_stop_does_not_wait_for_a_report_that_hangs(monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    """Of another thread, or the very one that stops it."""
    monkeypatch.setattr("pooling._periodic.AT_END", 0.05)
    writing, go_on, stopped = threading.Event(), threading.Event(), threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if own:
                monitor.stop()
                stopped.set()
            writing.set()
            go_on.wait(10)

    log = logging.getLogger("hanging")
    log.addHandler(Handler())
    with Pool(FakeFactory()) as pool:
        monitor = PoolMonitor(pool, interval=0.01, logger=log, level=logging.ERROR).start()
        try:
            assert writing.wait(10)
            stopping = threading.Thread(target=monitor.stop)
            stopping.start()
            stopping.join(5)
            assert not stopping.is_alive()
            assert stopped.is_set() is own
        finally:
            go_on.set()


def test_a_monitor_keeps_no_pool_and_ends_with_the_last(clock: ManualClock, watch: Any) -> None:
    pool: Any = Pool(FakeFactory(clock), runtime=clock)
    ref = weakref.ref(pool)
    monitor = watch(pool, interval=10)
    clock.advance(15)
    del pool
    gc.collect()
    assert ref() is None
    assert monitor.running
    clock.advance(10)
    assert not monitor.running


def test_a_monitor_ends_with_a_report_on_the_last_pool_that_was_closed(
    clock: ManualClock, make: Make, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pools = [make(name="a"), make(name="b")]
    monitor = watch(pools, interval=10)
    pools[0].close()
    clock.advance(10)
    assert monitor.running
    caplog.clear()
    pools[1].close()
    clock.advance(10)
    assert not monitor.running
    assert all(message.endswith("; closed") for message in caplog.messages)
    caplog.clear()
    clock.advance(100)
    assert not caplog.messages


def test_a_monitor_that_nobody_keeps_goes_on(clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """PoolMonitor(pool).start() is how one writes it."""
    caplog.set_level(logging.INFO)
    pool = make()
    PoolMonitor(pool, interval=10, runtime=clock).start()
    gc.collect()
    clock.advance(10)
    assert len(caplog.messages) == 1
    pool.close()
    clock.advance(10)


def test_a_report_that_fails_is_not_the_last(
    clock: ManualClock, make: Make, watch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(name="shop")
    answers: list[Any] = [[pool], [pool], 7, [pool]]
    watch(lambda: answers.pop(0) if len(answers) > 1 else answers[0], interval=10)
    pool.acquire().release()
    clock.advance(30)
    assert [record.name for record in caplog.records] == ["pooling", "pooling.monitor", "pooling.monitor"]
    assert caplog.messages[0] == "a periodic report failed"
    assert "1 acquired (0.05/s)" in caplog.messages[1]  # nothing is lost: it is told of both intervals


def test_a_call_that_takes_longer_than_the_interval_is_made_once_at_a_time(clock: ManualClock) -> None:
    inside, most, calls = 0, 0, 0

    def slow() -> bool:
        nonlocal inside, most, calls
        calls, inside = calls + 1, inside + 1
        most = max(most, inside)
        clock.sleep(25)
        inside -= 1
        return True

    periodic = Periodic(slow, 10, clock)
    periodic.start()
    periodic.start()
    clock.advance(100)
    assert (most, calls) == (1, 4)
    clock.advance(26)
    periodic.stop()
    clock.advance(100)
    assert calls == 4


def test_stop_waits_for_a_call_that_another_thread_is_making() -> None:
    begun, calls = threading.Event(), []

    def slow() -> bool:
        begun.set()
        threading.Event().wait(0.1)
        calls.append("over")
        return True

    with Pool(FakeFactory()):  # which needs the threads: they are not waited for themselves
        periodic = Periodic(slow, 0.01)
        periodic.start()
        assert begun.wait(10)
        periodic.stop()
        assert calls


def test_in_real_time_it_needs_no_thread_of_its_own_and_leaves_none() -> None:
    run_python(
        """
        import logging, threading, time
        import pooling
        from pooling.testing import FakeFactory

        said = []
        class Handler(logging.Handler):
            def emit(self, record):
                said.append((record.getMessage(), threading.current_thread().name))
                if len(said) == 3:
                    enough.set()

        enough = threading.Event()
        log = logging.getLogger("mine")
        log.addHandler(Handler())
        log.setLevel(logging.INFO)
        pool = pooling.Pool(FakeFactory(), name="shop")
        with pooling.PoolMonitor(pool, interval=0.05, logger=log):
            pool.acquire().release()
            assert enough.wait(20)
            names = {thread.name for thread in threading.enumerate()}
            assert not [name for name in names if "monitor" in name], names
        pool.close()
        assert said[0][0].startswith("pool 'shop': 1 acquired"), said
        assert all(thread != "MainThread" for _, thread in said[:3]), said
        until = time.monotonic() + 20
        while threading.active_count() > 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert threading.active_count() == 1, threading.enumerate()

        # Nobody stops this one: it ends with its pool.
        pool = pooling.Pool(FakeFactory(), name="shop")
        pooling.PoolMonitor([pool], interval=0.05, logger=log).start()
        pool.close()
        while threading.active_count() > 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert threading.active_count() == 1, threading.enumerate()
        """
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
def test_two_threads_that_fork_at_once_take_each_other_nothing(watch: Any, make: Make) -> None:
    """The first one back let go of the other one's lock, which it could not: an error of a fork hook on standard error,
    and no report was written any more."""
    acting = watch(make())._periodic._acting
    inside, back = threading.Event(), threading.Event()

    def fork() -> None:
        _periodic._before_fork()
        inside.set()
        back.wait(LATE)
        _periodic._in_parent()

    with ThreadPoolExecutor(1) as thread:
        forked = thread.submit(fork)
        assert inside.wait(LATE)
        _periodic._before_fork()
        _periodic._in_parent()
        back.set()
        forked.result(LATE)
        assert not _periodic._held
    assert acting.acquire(blocking=False)
    acting.release()


def test_it_goes_on_in_a_forked_child_for_the_childs_own_pools() -> None:
    run_python(
        """
        import json, logging, os, sys, threading, time
        import pooling
        from pooling.testing import FakeFactory

        said = []
        told = threading.Event()
        class Handler(logging.Handler):
            def emit(self, record):
                said.append(json.loads(record.getMessage()))
                if said[-1]["acquired"] and said[-1]["pid"] == os.getpid():
                    told.set()

        log = logging.getLogger("mine")
        log.addHandler(Handler())
        log.setLevel(logging.INFO)
        pool = pooling.Pool(FakeFactory(), name="shop")
        for _ in range(5):
            pool.acquire().release()
        monitor = pooling.PoolMonitor(pool, interval=0.2, logger=log, style="json").start()
        pool.acquire().release()
        assert told.wait(20)
        for _ in range(2):  # a child of a child as well
            child = os.fork()
            if child:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                break
            said.clear()
            told.clear()
            pool.acquire().release()
            if not told.wait(20):
                os._exit(7)
            (counted,) = [report for report in said if report["acquired"]]
            if (counted["acquired"], counted["opened"], counted["pid"]) != (1, 1, os.getpid()):
                os._exit(8)
        else:
            os._exit(0)
        if said[0]["pid"] != os.getpid():
            os._exit(9)
        said.clear()
        told.clear()
        pool.acquire().release()
        assert told.wait(20), "the parent's goes on as well"
        monitor.stop()
        pool.close()
        """,
        timeout=90,
        options=("-W", "error"),
    )


def test_64_threads_lose_nothing_between_reports() -> None:
    """What the reports say adds up to what was done, however the intervals fall."""
    counted: list[int] = []
    with Pool(FakeFactory(), max_size=8, timeout=60) as pool:
        monitor = PoolMonitor(pool)

        def use() -> None:
            for _ in range(30):
                with pool.acquire():
                    pass

        threads = [threading.Thread(target=use) for _ in range(64)]
        for thread in threads:
            thread.start()

        def read() -> None:
            while any(thread.is_alive() for thread in threads):
                counted.extend(report.interval.acquired for report in monitor.report())

        readers = [threading.Thread(target=read) for _ in range(3)]
        for thread in readers:
            thread.start()
        for thread in (*threads, *readers):
            thread.join(60)
        (last,) = monitor.report()
        assert sum(counted) + last.interval.acquired == 64 * 30
        assert all(count >= 0 for count in counted)
