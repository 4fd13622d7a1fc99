"""The pool underneath a FairPool: leases of its own, orders, workers, endings, many threads."""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event, exc

import pooling
from pooling.integrations.sqlalchemy import FairPool
from pooling.integrations.wsgi import Middleware, leases
from tests.integrations.sqlalchemy_engines import SOON, Engines, balance, below, counts, engines_on
from tests.waiting import until


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    with engines_on(f"sqlite:///{tmp_path}/data") as make:
        yield make


def test_a_lease_of_the_pool_underneath_is_the_drivers_connection_and_never_commits(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (x)"))
    for _ in range(2):
        with below(engine).acquire() as direct:
            assert isinstance(direct, sqlite3.Connection)
            (holder,) = below(engine).holders()
            assert Path(__file__).name in holder.where
            direct.execute("INSERT INTO t VALUES (1)")
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT count(*) FROM t")).scalar() == 0
    assert below(engine).stats().opened == 1
    with pytest.raises(pooling.PoolError, match=r"engine\.begin\(\)"), below(engine).transaction():
        pass
    assert counts(engine) == (1, 1, 0, 0)


def test_a_lease_of_the_pool_underneath_connects_and_reconnects_as_sqlalchemy_does(engines: Engines) -> None:
    engine = engines(pool_recycle=0)
    seen: list[Any] = []
    event.listen(engine, "connect", lambda connection, record: seen.append(connection))
    with below(engine).acquire() as first:
        assert seen == [first]
    time.sleep(0.01)
    with below(engine).acquire() as second:
        assert seen == [first, second]
    lease = below(engine).acquire()
    assert lease.refresh() is seen[-1]
    lease.release()
    below(engine).close()
    assert balance(engine)


@pytest.mark.parametrize("attribute", ["isolation_level", "autocommit"])
def test_sqlites_autocommit_that_a_lease_of_the_pool_underneath_leaves_reaches_nobody(
    engines: Engines, attribute: str
) -> None:
    engine = engines(pool_size=1, max_overflow=0)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (x)"))
    with below(engine).acquire() as direct:
        if not hasattr(direct, attribute):
            pytest.skip("from Python 3.12 on")
        setattr(direct, attribute, None if attribute == "isolation_level" else True)
        direct.execute("BEGIN")
        direct.execute("INSERT INTO t VALUES (1)")
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT count(*) FROM t")).scalar() == 0
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (2)"))
        connection.rollback()
        assert connection.execute(sqlalchemy.text("SELECT count(*) FROM t")).scalar() == 0
    assert below(engine).stats().opened == 1


def test_run_and_a_requests_leases_are_connected_as_well(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0, check_after=0.0)

    def ask(connection: sqlite3.Connection) -> int:
        (holder,) = below(engine).holders()
        assert Path(__file__).name in holder.where
        return int(connection.execute("SELECT 1").fetchone()[0])

    for _ in range(2):  # with none open, and with an idle one
        assert below(engine).run(ask) == 1
    below(engine).clear()
    until(lambda: below(engine).stats().size == 0)
    for _ in range(2):
        application = Middleware(lambda environ, start: [b"%d" % ask(leases(environ).connection())], below(engine))
        response = application({}, print)
        assert list(response) == [b"1"]
        response.close()  # type: ignore[attr-defined]  # as a server does
    assert counts(engine) == (1, 1, 0, 0)


def test_after_dispose_nothing_is_opened_until_somebody_asks(engines: Engines) -> None:
    engine = engines(min_size=2)
    below(engine).warm_up(SOON)
    pool: Any = engine.pool
    pool.dispose()
    assert below(engine).stats().size == 0
    assert below(engine).due_at() > time.monotonic()  # nothing is under way that could open one
    engine.connect().close()
    until(lambda: counts(engine)[1] == 2)


def test_a_lease_of_the_pool_underneath_that_cannot_connect_frees_its_place(engines: Engines) -> None:
    def creator() -> sqlite3.Connection:
        raise sqlite3.OperationalError("no")

    engine = engines(creator=creator, pool_size=1, max_overflow=0, pool_timeout=0.5)
    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError):
            below(engine).acquire()
    assert below(engine).stats().size == 0


def test_min_size_is_filled_by_workers_and_warm_up_waits_for_it(engines: Engines) -> None:
    engine = engines(min_size=3)
    below(engine).warm_up(SOON)
    assert counts(engine) == (5, 3, -2, 0)
    held = [engine.connect() for _ in range(3)]
    assert below(engine).stats().opened == 3
    for connection in held:
        connection.close()
    assert balance(engine)


def test_a_worker_that_cannot_connect_keeps_nobody_from_trying(engines: Engines) -> None:
    tries: list[str] = []

    def creator() -> sqlite3.Connection:
        tries.append(threading.current_thread().name)
        if threading.current_thread() is not threading.main_thread():
            raise sqlite3.OperationalError("not on a worker")
        return sqlite3.connect(":memory:", check_same_thread=False)

    engine = engines(creator=creator, min_size=2, pool_timeout=SOON)
    engine.raw_connection().close()
    until(lambda: len(set(tries)) > 1)
    held = [engine.raw_connection() for _ in range(3)]
    for connection in held:
        connection.close()
    with pytest.raises(pooling.PoolTimeout):
        engines(creator=creator, min_size=2).pool.pooling.warm_up(0.1)  # type: ignore[attr-defined]  # a FairPool


def test_a_caller_that_gets_through_is_news_to_the_workers_that_did_not(engines: Engines) -> None:
    def creator() -> sqlite3.Connection:
        if threading.current_thread() is not threading.main_thread():
            raise sqlite3.OperationalError("not on a worker")
        return sqlite3.connect(":memory:", check_same_thread=False)

    engine = engines(creator=creator, min_size=1)
    with pytest.raises(pooling.PoolTimeout, match="not on a worker"):
        below(engine).warm_up(0.1)
    assert below(engine).stats().state == "down"
    engine.raw_connection().close()
    assert below(engine).stats().state == "up"


def test_suspend_clear_and_resize_work_on_what_sqlalchemy_uses(engines: Engines) -> None:
    engine = engines(pool_size=2, max_overflow=0, pool_timeout=0.1)
    pool = below(engine)
    with engine.connect():
        pool.clear()
    until(lambda: pool.stats().closed == {"stale": 1})
    pool.suspend()
    with pytest.raises(exc.TimeoutError) as raised:
        engine.connect()
    assert raised.value.stage == "suspended"  # type: ignore[attr-defined]  # a PoolTimeout
    pool.resume()
    pool.resize(max_size=3)
    held = [engine.connect() for _ in range(3)]
    for connection in held:
        connection.close()
    assert counts(engine) == (2, 2, 0, 0)


def test_an_engine_that_is_forgotten_takes_its_pool_along_and_closes_its_connections(tmp_path: Path) -> None:
    opened: list[Any] = []

    class Tracked(sqlite3.Connection):
        closed = False

        def close(self) -> None:
            self.closed = True
            super().close()

    def creator() -> sqlite3.Connection:
        opened.append(sqlite3.connect(":memory:", check_same_thread=False, factory=Tracked))
        return opened[-1]  # type: ignore[no-any-return]  # a connection

    engine: Any = sqlalchemy.create_engine("sqlite://", creator=creator, poolclass=FairPool)
    held = [engine.connect() for _ in range(3)]
    for connection in held:
        connection.close()
    del engine, held, connection
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()
    until(lambda: all(one.closed for one in opened))
    assert len(opened) == 3


def test_an_async_engine_is_refused() -> None:
    with pytest.raises(exc.ArgumentError, match="asyncio"):
        sqlalchemy.create_engine("postgresql+psycopg_async://", poolclass=FairPool)


def test_many_threads_share_few_connections_and_none_is_lost(engines: Engines) -> None:
    engine = engines(pool_size=2, max_overflow=2, pool_timeout=SOON)
    failures: list[BaseException] = []
    most = 0

    def work(seed: int) -> None:
        nonlocal most
        try:
            for number in range(40):
                connection = engine.connect()
                most = max(most, below(engine).stats().size)
                if (number + seed) % 7 == 0:
                    connection.invalidate()
                elif (number + seed) % 11 == 0:
                    connection.detach()
                connection.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert failures == []
    assert most <= 4
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # a FairPool
    until(lambda: below(engine).stats().size <= 2)
    for connection in [engine.connect() for _ in range(2)]:
        connection.close()
    assert balance(engine)


def test_connections_that_come_and_go_in_one_place_leave_nothing_in_the_books(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0)
    for _ in range(200):
        with engine.connect() as connection:
            connection.invalidate()
    roster = below(engine)._roster
    assert (len(roster.entries), below(engine).stats().opened) == (1, 200)
    assert len(roster._agenda) < 100


def test_a_connection_that_came_into_an_old_place_has_its_lifetime(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0, max_lifetime=0.3, min_size=1)
    with engine.connect() as connection:
        connection.invalidate()
        connection.execute(sqlalchemy.text("SELECT 1"))
    until(lambda: below(engine).stats().closed["lifetime"] > 0)


def test_wrong_arguments_of_an_acquire_are_refused_before_anything_is_taken(engines: Engines) -> None:
    engine = engines()
    with pytest.raises(ValueError, match="timeout"):
        below(engine).acquire(timeout=-1.0)
    with pytest.raises(TypeError, match="priority"):
        below(engine).acquire(priority="high")
    assert below(engine).stats().acquired == 0


@pytest.mark.parametrize("with_engine", [True, False])
def test_a_check_by_ping_that_succeeds_keeps_the_connection_and_leaves_no_transaction(
    tmp_path: Path, with_engine: bool
) -> None:
    """Without an engine there is no dialect that could ask."""

    def creator() -> sqlite3.Connection:
        return sqlite3.connect(tmp_path / "data", check_same_thread=False)

    options: dict[str, Any] = {"check": "ping", "check_after": 0.0}
    if with_engine:
        pool: Any = sqlalchemy.create_engine("sqlite://", creator=creator, poolclass=FairPool, **options).pool
    else:
        pool = FairPool(creator, **options)
    asked: list[str] = []
    for _ in range(3):
        connection = pool.connect()
        connection.driver_connection.set_trace_callback(asked.append)
        assert not connection.driver_connection.in_transaction
        connection.close()
    assert pool.pooling.stats().opened == 1
    assert (asked != []) is with_engine
    pool.dispose()
    pool.pooling.close()


def test_a_lease_of_the_pool_underneath_that_cannot_reconnect_leaves_nothing_behind(engines: Engines) -> None:
    broken = False

    def creator() -> sqlite3.Connection:
        if broken:
            raise sqlite3.OperationalError("no")
        return sqlite3.connect(":memory:", check_same_thread=False)

    engine = engines(creator=creator, pool_size=2, max_overflow=0)
    held = [engine.raw_connection() for _ in range(2)]
    for connection in held:
        connection.invalidate()
        connection.close()
    broken = True
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError):
            below(engine).acquire()
    pool: Any = engine.pool
    assert (pool.records, below(engine).stats().size) == ({}, 0)


def test_a_pool_without_a_cap_keeps_what_comes_back(engines: Engines) -> None:
    engine = engines(pool_size=0)
    for _ in range(2):
        held = [engine.connect() for _ in range(3)]
        for connection in held:
            connection.close()
    assert (below(engine).stats().opened, below(engine).stats().idle) == (3, 3)
