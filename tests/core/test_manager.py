"""Pools by name: how they are described, when they are made, and that all of them end together."""

from __future__ import annotations

import pickle
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pooling
from pooling import Pool, PoolManager
from pooling.testing import FakeFactory, ManualClock
from tests.core.helpers import outcome, run_python


@pytest.fixture
def manager() -> Iterator[PoolManager]:
    with PoolManager() as manager:
        yield manager


# -- by name ------------------------------------------------------------------------------------------------------


def test_a_pool_is_found_by_the_name_it_was_added_as(manager: PoolManager) -> None:
    manager.add("orders", "sqlite://", max_size=3)
    with manager["orders"].acquire() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert manager["orders"] is manager["orders"]
    assert manager["orders"].name == "orders"
    assert manager["orders"].stats().max_size == 3


def test_a_pool_may_be_a_factory_a_callable_or_a_pool(manager: PoolManager) -> None:
    factory, pool = FakeFactory(), Pool(FakeFactory(), name="mine")
    manager.add("factory", factory, max_size=2)
    manager.add("callable", lambda: sqlite3.connect(":memory:", check_same_thread=False))
    manager.add("pool", pool)
    for name in manager:
        manager[name].acquire().release()
    assert factory.open == 1
    assert manager["pool"] is pool
    assert pool.name == "mine"


def test_a_pool_may_be_called_otherwise_in_logs_and_metrics(manager: PoolManager) -> None:
    manager.add("orders", FakeFactory(), name="shop-orders")
    assert manager["orders"].name == "shop-orders"
    assert list(manager.stats()) == ["orders"]


def test_it_is_a_mapping_of_names_in_the_order_of_their_adding(manager: PoolManager) -> None:
    manager.add("b", FakeFactory())
    manager.add("a", FakeFactory())
    assert list(manager) == ["b", "a"] == list(manager.keys())
    assert len(manager) == 2
    assert "a" in manager
    assert "c" not in manager
    assert manager.get("c") is None
    assert dict(manager) == {"b": manager["b"], "a": manager["a"]}
    assert [name for name, pool in manager.items() if pool.name == name] == ["b", "a"]
    assert manager == manager  # noqa: PLR0124
    assert manager != PoolManager()
    assert {manager: 1}[manager] == 1


def test_an_unknown_name_is_one_error_with_the_known_ones_and_the_nearest(manager: PoolManager) -> None:
    with pytest.raises(KeyError, match=r"no pool is called 'x' \(known: none was added\)"):
        manager["x"]
    manager.add("orders", "sqlite://")
    manager.add("users", "sqlite://")
    with pytest.raises(KeyError, match=r"no pool is called 'ordres', did you mean 'orders'\? \(known: orders, users\)"):
        manager["ordres"]
    with pytest.raises(KeyError, match="no pool is called 5"):
        manager[5]  # type: ignore[index]


def test_options_of_the_manager_are_those_of_every_pool_that_has_no_others() -> None:
    with PoolManager(max_size=7, timeout=2.0) as manager:
        manager.add("a", FakeFactory())
        manager.add("b", FakeFactory(), max_size=8)
        assert [pool.config.max_size for pool in manager.values()] == [7, 8]
        assert [pool.config.timeout for pool in manager.values()] == [2.0, 2.0]


# -- lazily -------------------------------------------------------------------------------------------------------


def test_describing_makes_no_pool_and_loads_no_driver() -> None:
    run_python(
        """
        import sys, threading
        import pooling
        manager = pooling.PoolManager()
        for scheme in ("postgresql", "mysql", "redis", "mongodb", "http", "sqlite"):
            manager.add(scheme, f"{scheme}:///x")
        assert len(manager) == 6 and "redis" in manager and list(manager) and repr(manager)
        def loaded():
            return {name for name in sys.modules if name.startswith("pooling.backends.") and "._" not in name}
        assert not loaded()
        manager["sqlite"]
        assert loaded() == {"pooling.backends.sqlite"}
        assert threading.active_count() == 1
        manager.close()
        """
    )


def test_a_pool_that_was_asked_for_opens_nothing_before_its_first_use(manager: PoolManager) -> None:
    factory = FakeFactory()
    manager.add("a", factory, min_size=2)
    manager["a"].stats()
    assert factory.opened == 0


def test_threads_that_ask_at_once_get_the_same_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them makes one; one is kept, the others are closed."""
    made: list[Pool[Any]] = []
    both = threading.Barrier(2)

    class Slow(Pool[Any]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)
            both.wait(10)

    monkeypatch.setattr("pooling.manager.Pool", Slow)
    with PoolManager() as manager:
        manager.add("a", FakeFactory())
        found: list[Pool[Any]] = []
        threads = [threading.Thread(target=lambda: found.append(manager["a"])) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert found[0] is found[1] is manager["a"]
        assert sorted(pool.stats().state for pool in made) == ["closed", "up"]
        found[0].acquire().release()


def test_one_that_is_made_while_the_manager_closes_is_closed_as_well(manager: PoolManager) -> None:
    def connect() -> object:
        raise AssertionError

    manager.add("a", connect)
    plan = manager._plans["a"]

    def late() -> Pool[Any]:
        manager.close()
        return plan()

    manager._plans["a"] = late
    with pytest.raises(pooling.PoolClosed):
        manager["a"].acquire()


# -- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "options", "error", "match"),
    [
        (
            ("x", "sqlite://"),
            {"max_sise": 3},
            TypeError,
            r"^pool 'x': unknown option 'max_sise', did you mean 'max_size'",
        ),
        (("x", "sqlite://"), {"max_size": 0}, ValueError, r"^pool 'x': max_size must be at least 1"),
        (("x", "postgres//h"), {}, ValueError, r"^pool 'x': url must look like"),
        (("x", "postgrs://u:hidden@h"), {}, ValueError, r"^pool 'x': unknown URL scheme 'postgrs', did you mean"),
        (("x", None), {}, TypeError, r"^pool 'x': it must be made of a URL, a Pool or a factory, not of NoneType$"),
        (("x", FakeFactory), {}, TypeError, r"^pool 'x': factory is the class FakeFactory"),
        (("x", FakeFactory(), {"password": "hidden"}), {}, TypeError, r"^pool 'x': connect_args go with a URL"),
        (("x", "postgresql://u:p@hidden/w@h"), {}, ValueError, r"^pool 'x': the URL cannot be read: it has a '/'"),
        (("x", "sqlite://", 5), {}, TypeError, r"^pool 'x': connect_args must be a mapping of .* not int$"),
        ((5, "sqlite://"), {}, TypeError, "must be a string"),
        (("", "sqlite://"), {}, ValueError, r"^the name of a pool must not be empty$"),
        (("taken", "sqlite://"), {}, ValueError, r"^there is a pool 'taken' already$"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused_when_it_is_added(
    manager: PoolManager, args: Any, options: Any, error: type[Exception], match: str
) -> None:
    manager.add("taken", "sqlite://")
    with pytest.raises(error, match=match) as caught:
        manager.add(*args, **options)
    assert "hidden" not in str(caught.value)
    assert list(manager) == ["taken"]


def test_a_pool_that_exists_takes_no_options(manager: PoolManager) -> None:
    with Pool(FakeFactory()) as pool:
        with pytest.raises(TypeError, match=r"^pool 'x': a pool that exists already takes no options"):
            manager.add("x", pool, max_size=3)
        with pytest.raises(TypeError, match="takes no options"):
            manager.add("x", pool, {"user": "anna"})
        assert not manager
        assert pool.stats().state == "up"


@pytest.mark.parametrize("options", [{"max_sise": 1}, {"max_size": 0}, {"name": "x"}])
def test_options_of_every_pool_are_looked_at_once(options: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"max_si|one name for all"):
        PoolManager(**options)


def test_a_driver_that_is_missing_is_named_with_the_pool(manager: PoolManager, monkeypatch: Any) -> None:
    for name in ("psycopg", "pooling.backends.postgres"):
        monkeypatch.setitem(sys.modules, name, None)
    manager.add("x", "postgresql://h/d")
    with pytest.raises(ImportError, match=r"^pool 'x': "):
        manager["x"]


def test_a_url_that_its_driver_cannot_read_is_told_with_the_pool_and_without_the_password(manager: PoolManager) -> None:
    manager.add("x", "postgresql://anna:hid@den@h/d")
    error = outcome(manager.__getitem__, "x")
    assert type(error) is ValueError
    assert str(error).startswith("pool 'x': the PostgreSQL connection string cannot be read")
    assert "hid" not in str(error)


def test_it_shows_names_and_no_secrets(manager: PoolManager) -> None:
    assert repr(manager) == "<PoolManager open: no pools>"
    manager.add("a", "postgresql://anna:hidden@h/d")
    manager.add("b", "sqlite://")
    manager.close()
    assert repr(manager) == "<PoolManager closed: a, b>"


def test_it_is_not_pickled(manager: PoolManager) -> None:
    with pytest.raises(TypeError, match="cannot be pickled: make one in each process"):
        pickle.dumps(manager)


# -- the end ------------------------------------------------------------------------------------------------------


def test_close_closes_every_pool_and_may_be_called_again() -> None:
    factories = [FakeFactory() for _ in range(3)]
    manager = PoolManager()
    manager.add("a", factories[0])
    manager.add("b", Pool(factories[1]))
    manager.add("c", factories[2])
    manager.add("never", FakeFactory())
    for name in "abc":
        manager[name].acquire().release()
    manager.close(timeout=None)
    manager.close()
    assert [factory.open for factory in factories] == [0, 0, 0]
    assert set(manager.stats()) == {"a", "b", "c"}
    with pytest.raises(pooling.PoolClosed):
        manager["a"].acquire()
    for call, args in [(manager.__getitem__, ("never",)), (manager.add, ("d", "sqlite://"))]:
        with pytest.raises(pooling.PoolClosed, match="the manager of the pools is closed"):
            call(*args)


def test_a_pool_that_was_added_and_never_asked_for_is_closed_as_well() -> None:
    pool = Pool(FakeFactory())
    with PoolManager() as manager:
        manager.add("a", pool)
    assert pool.stats().state == "closed"


def test_all_are_closed_within_one_time() -> None:
    clock = ManualClock()
    with clock:
        factories = [FakeFactory(clock) for _ in range(3)]
        manager = PoolManager()
        for number, factory in enumerate(factories):
            manager.add(str(number), Pool(factory, runtime=clock))
            manager[str(number)].acquire().release()
            factory.gates["close"].slow(1.0)
        manager.close(timeout=5.0)
        assert clock.now() == 1001.0  # side by side
        assert [factory.open for factory in factories] == [0, 0, 0]


def test_drain_tells_all_pools_before_it_waits_for_one() -> None:
    with ManualClock() as clock:
        manager = PoolManager()
        for name in "ab":
            manager.add(name, Pool(FakeFactory(clock), runtime=clock))
        lease = manager["a"].acquire()
        draining = clock.spawn(manager.drain, 5.0)
        clock.advance(1.0)
        for name in "ab":
            with pytest.raises(pooling.PoolClosed):
                manager[name].acquire()
        assert not draining.done
        lease.release()
        clock.advance(0)
        assert draining.result() is True
        assert {stats.state for stats in manager.stats().values()} == {"closed"}


@pytest.mark.parametrize("held", ["a", "b"])
def test_drain_says_whether_all_leases_came_back(held: str) -> None:
    manager = PoolManager()
    factories = {name: FakeFactory() for name in "ab"}
    for name, factory in factories.items():
        manager.add(name, factory)
        manager[name].acquire().release()
    lease = manager[held].acquire()
    assert manager.drain(timeout=0.05) is False
    assert {stats.state for stats in manager.stats().values()} == {"closed"}
    lease.release()
    manager.close()
    assert [factory.open for factory in factories.values()] == [0, 0]


@pytest.mark.parametrize("end", ["drain", "close"])
def test_the_time_is_for_all_of_them_together(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    with ManualClock() as clock:
        monkeypatch.setattr("pooling.manager.monotonic", clock.now)
        manager, factories, leases = PoolManager(), [FakeFactory(clock) for _ in range(3)], []
        for number, factory in enumerate(factories):
            manager.add(str(number), Pool(factory, runtime=clock))
            leases.append(manager[str(number)].acquire())
        if end == "close":  # which does not wait for leases, but for what is being closed
            for factory in factories:
                factory.gates["close"].slow(100.0)
            for lease in leases:
                lease.release()
        assert not getattr(manager, end)(timeout=2.0)
        assert clock.now() == pytest.approx(1002.0)
        for lease in leases if end == "drain" else ():
            lease.release()


def test_a_time_that_makes_no_sense_closes_nothing(manager: PoolManager) -> None:
    manager.add("a", FakeFactory())
    for end in (manager.close, manager.drain):
        with pytest.raises(ValueError, match="timeout must be at least 0"):
            end(-1)
    manager["a"].acquire().release()


def test_at_the_end_of_the_interpreter_what_is_idle_is_closed() -> None:
    closed = run_python(
        """
        from pooling import PoolManager
        from pooling.testing import FakeFactory
        class Says(FakeFactory):
            def close(self, connection):
                print("closed", flush=True)
        manager = PoolManager()
        for name in "abc":
            manager.add(name, Says())
            manager[name].acquire().release()
        """
    )
    assert closed.split() == ["closed"] * 3


def test_one_that_is_dropped_warns_of_each_pool_that_was_not_closed() -> None:
    run_python(
        """
        import gc, time, warnings
        from pooling import PoolManager
        from pooling.testing import FakeFactory
        manager = PoolManager()
        for name in "ab":
            manager.add(name, FakeFactory())
            manager[name].acquire().release()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            del manager
            until = time.monotonic() + 10
            while len(seen) < 2 and time.monotonic() < until:
                gc.collect()
                time.sleep(0.01)
        said = sorted(str(warning.message) for warning in seen)
        assert said == [f"pool {name!r} was dropped without close()" for name in "ab"], said
        """
    )


# -- numbers ------------------------------------------------------------------------------------------------------


def test_stats_have_every_pool(manager: PoolManager) -> None:
    manager.add("a", FakeFactory())
    manager.add("b", FakeFactory())
    manager["a"].acquire().release()
    stats = manager.stats()
    assert [(name, one.name, one.acquired) for name, one in stats.items()] == [("a", "a", 1), ("b", "b", 0)]


# -- forks --------------------------------------------------------------------------------------------------------


def test_all_pools_of_a_manager_are_told_of_its_end_in_a_forked_child_too() -> None:
    """Once each, before the first one is waited for, also where the child has used none of them before."""
    run_python(
        """
        import os, signal, sys
        from pooling import PoolManager
        from pooling.testing import FakeFactory
        from tests.waiting import until
        signal.alarm(20)
        manager, heard = PoolManager(), []
        for name in ("first", "second"):
            manager.add(name, FakeFactory())
            manager[name].subscribe(lambda event: heard.append((event.pool, event.reason)))
        first = manager["first"]
        drain = first.drain
        def draining(timeout):
            assert [pool.stats().state for pool in manager._pools.values()] == ["draining", "draining"]
            return drain(timeout)
        first.drain = draining
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            assert manager.drain(5)
            until(lambda: sorted(heard) == [(name, now) for name in manager for now in ("closed", "draining")])
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        first.drain = drain
        manager.close()
        """,
        options=("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
    )


def test_a_manager_made_before_a_fork_works_in_the_child(tmp_path: Path) -> None:
    run_python(
        f"""
        import os, signal, sys
        from pooling import PoolManager
        from pooling.testing import FakeFactory
        signal.alarm(20)
        used, unused = FakeFactory(), FakeFactory()
        manager = PoolManager()
        manager.add("used", used)
        manager.add("unused", unused)
        manager["used"].acquire().release()
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            with manager["used"].acquire(timeout=5) as connection:
                assert connection.number == 2          # not the parent's
            with manager["unused"].acquire(timeout=5) as connection:
                assert connection.number == 1
            manager.add("new", "sqlite:///{tmp_path}/x.db")
            manager["new"].acquire(timeout=5).release()
            manager.close()
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert list(manager) == ["used", "unused"]
        with manager["used"].acquire(timeout=0) as connection:
            assert connection.number == 1
        manager.close()
        assert used.open == 0
        """,
        options=("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
    )
