"""FairPool in the place of SQLAlchemy's QueuePool: options, who gets a connection, what is said where there is none.

On SQLite, where a connection costs nothing. What a server does is in test_sqlalchemy_postgres.py; SQLAlchemy's own
tests run in test_sqlalchemy_suite.py.
"""

from __future__ import annotations

import logging
import pickle
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event, exc
from sqlalchemy.pool import QueuePool

import pooling
from pooling.integrations.sqlalchemy import ClosedError, FairPool, FullError, NoConnectionError
from tests.core.helpers import outcome
from tests.core.test_reentrancy import Inside
from tests.integrations.sqlalchemy_engines import SOON, Engines, below, borrow, counts, engines_on
from tests.waiting import until


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    with engines_on(f"sqlite:///{tmp_path}/data") as make:
        yield make


# -- options -----------------------------------------------------------------------------------------


def test_every_option_is_taken_by_the_name_that_create_engine_knows(engines: Engines) -> None:
    engine = engines(
        pool_size=3, max_overflow=4, pool_timeout=5.0, pool_use_lifo=True, pool_recycle=600, pool_pre_ping=True,
        pool_reset_on_return="commit", echo_pool=False, pool_logging_name="orders",
        pool_events=[(lambda *args: None, "checkout")], min_size=1, max_waiting=9, idle_timeout=60.0, max_lifetime=None,
        max_uses=100, check=None, check_after=2.0, keepalive=30.0, nested="raise", leak_after=7.0,
    )  # fmt: skip  # a table
    for pool in (engine.pool, engine.pool.recreate()):
        assert isinstance(pool, FairPool)
        assert pool.status().startswith("Pool size: 3  Connections in pool: 0 ")
        assert (pool.timeout(), pool._recycle, pool._pre_ping) == (5.0, 600, True)
        assert pool._reset_on_return.name == "reset_commit"
        assert len(pool.dispatch.checkout) == 1
        config = pool.pooling.config
        assert pool.pooling.name == "orders"
        assert (config.max_size, config.max_idle, config.timeout, config.order) == (7, 3, 5.0, "lifo")
        assert (config.min_size, config.max_waiting, config.idle_timeout, config.max_lifetime) == (1, 9, 60.0, None)
        assert (config.max_uses, config.check, config.check_after, config.keepalive) == (100, None, 2.0, 30.0)
        assert (config.nested, config.leak_after) == ("raise", 7.0)
        pool.pooling.close()


@pytest.mark.parametrize("sizes", [{"pool_size": 0}, {"pool_size": 0, "max_overflow": 5}, {"max_overflow": -1}])
def test_sizes_that_mean_no_cap_for_sqlalchemy_mean_none_here(engines: Engines, sizes: dict[str, int]) -> None:
    assert below(engines(**sizes)).config.max_size is None


def test_a_pool_keeps_its_name_when_the_engine_is_disposed_of(engines: Engines) -> None:
    engine, unnamed = engines(name="orders"), engines()
    name = below(unnamed).name
    engine.dispose()
    unnamed.dispose()
    assert (below(engine).name, below(unnamed).name) == ("orders", name)


def test_bad_options_are_refused(engines: Engines) -> None:
    with pytest.raises(TypeError, match="'max_size'"):
        engines(max_size=3)
    with pytest.raises(ValueError, match="leak_after must be greater than 0"):
        engines(leak_after=0)
    with pytest.raises(ValueError, match="timeout must be at least 0"):
        engines(pool_timeout=-1)
    with pytest.raises(ValueError, match="pool_size must be at least 0, not -1"):
        engines(pool_size=-1)


def test_it_is_a_queue_pool_to_whoever_asks(engines: Engines) -> None:
    seen = []

    def listener(*args: Any) -> None:
        seen.append(args)

    event.listen(QueuePool, "connect", listener)
    try:
        with engines().connect() as connection:
            assert isinstance(connection.engine.pool, QueuePool)
    finally:
        event.remove(QueuePool, "connect", listener)
    assert len(seen) == 1


def test_what_it_logs_is_said_where_sqlalchemys_pools_log(engines: Engines, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "sqlalchemy.pool"):
        engines(pool_logging_name="orders").connect().close()
    said = {record.name for record in caplog.records if "checked out" in record.getMessage()}
    assert said == {"sqlalchemy.pool.impl.FairPool.orders"}


# -- who is served -----------------------------------------------------------------------------------


def test_connections_are_opened_on_the_thread_that_asks_and_events_come_there(engines: Engines) -> None:
    engine = engines()
    seen: list[tuple[str, int]] = []
    for name in ("connect", "checkout", "checkin", "close"):
        event.listen(engine, name, lambda *args, name=name: seen.append((name, threading.get_ident())))

    def work() -> None:
        engine.connect().close()
        engine.dispose()

    thread = threading.Thread(target=work)
    thread.start()
    ident = thread.ident
    thread.join(SOON)
    assert seen == [(name, ident) for name in ("connect", "checkout", "checkin", "close")]


def test_waiters_are_served_in_the_order_of_their_arrival_and_nobody_overtakes(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0, pool_timeout=SOON)
    order: list[int] = []

    def work(number: int) -> None:
        for _ in range(3):
            with engine.connect():
                order.append(number)

    held = engine.connect()
    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        until(lambda waiting=number + 1: below(engine).stats().waiting == waiting)
    held.close()
    for thread in threads:
        thread.join(SOON)
    assert order[:5] == [0, 1, 2, 3, 4]
    assert sorted(order) == sorted(list(range(5)) * 3)


def test_a_connection_that_is_being_opened_holds_nobody_else_up(engines: Engines) -> None:
    opening, go_on = threading.Event(), threading.Event()

    def creator() -> sqlite3.Connection:
        if threading.current_thread().name == "slow":
            opening.set()
            assert go_on.wait(SOON)
        return sqlite3.connect(":memory:", check_same_thread=False)

    engine = engines(creator=creator, pool_size=3, max_overflow=0, pool_timeout=SOON)
    held = engine.connect()
    slow = threading.Thread(target=lambda: engine.connect().close(), name="slow")
    slow.start()
    assert opening.wait(SOON)
    with engine.connect():  # below the cap: another one is opened
        waiter = threading.Thread(target=lambda: engine.connect().close())
        waiter.start()
        until(lambda: below(engine).stats().waiting == 1)
        held.close()  # at the cap: whatever comes first
        waiter.join(SOON)
        assert not waiter.is_alive()
    go_on.set()
    slow.join(SOON)
    assert counts(engine) == (3, 3, 0, 0)


def test_with_a_timeout_of_0_there_is_a_connection_below_the_cap_and_an_error_at_the_cap(engines: Engines) -> None:
    engine = engines(pool_size=8, max_overflow=0, pool_timeout=0)
    start, done = threading.Barrier(8), threading.Barrier(8)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            start.wait(SOON)
            connection = engine.connect()
            done.wait(SOON)
            with pytest.raises(exc.TimeoutError):
                engine.connect()
            done.wait(SOON)
            connection.close()
        except BaseException as error:
            failures.append(error)
            start.abort()
            done.abort()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert failures == []
    assert counts(engine) == (8, 8, 0, 0)


def test_a_waiter_gets_the_place_of_one_whose_connection_was_given_up(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0, pool_timeout=SOON)
    for give_up in ("invalidate", "detach"):
        held = engine.connect()
        served: list[int] = []
        waiter = threading.Thread(target=lambda: served.append(engine.connect().close() or 1))  # noqa: B023
        waiter.start()
        until(lambda: below(engine).stats().waiting == 1)
        getattr(held, give_up)()
        waiter.join(SOON)
        assert served == [1], give_up
        held.close()
    assert counts(engine) == (1, 1, 0, 0)


# -- where there is none -----------------------------------------------------------------------------


def test_a_timeout_comes_in_time_and_says_who_has_the_connections_and_where_they_asked(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0, pool_timeout=0.2)
    with borrow(engine):
        started = time.monotonic()
        with pytest.raises(exc.TimeoutError) as raised:
            engine.connect()
        assert 0.2 <= time.monotonic() - started < SOON / 2
    error: Any = raised.value
    assert isinstance(error, NoConnectionError)
    assert isinstance(error, pooling.PoolTimeout)
    assert not isinstance(error, TimeoutError)
    assert type(error.__cause__) is pooling.PoolTimeout
    assert str(error).startswith("FairPool limit of size 1 overflow 0 reached, connection timed out: no connection ")
    assert "held by MainThread" in str(error)
    assert error.holders[0].where.endswith(f"sqlalchemy_engines.py:{borrow.__code__.co_firstlineno + 2} borrow")
    assert error.stats.leased == 1
    assert error.code == "3o7r"
    copy: Any = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.stage) == (NoConnectionError, str(error), "queue")


def test_who_cannot_wait_inside_the_pools_lock_is_refused_by_an_error_of_sqlalchemys(engines: Engines) -> None:
    pool, told = engines(pool_size=1, max_overflow=0).pool, list[Any]()
    used = pool.connect()
    Inside(pool.pooling).strike(lambda: told.append(outcome(pool.connect)))
    pool.pooling.clear()
    assert isinstance(told[0], exc.TimeoutError)
    used.close()


def test_a_timeout_in_the_middle_of_a_statement_leaves_the_transaction_as_it_is(engines: Engines) -> None:
    # SQLAlchemy takes Python's TimeoutError, which PoolTimeout is one of, for the end of a task.
    engine = engines(pool_size=1, max_overflow=0, pool_timeout=0.01, nested=None)

    def number() -> Any:
        with engine.connect() as another:
            return another.scalar(sqlalchemy.text("SELECT 1"))

    column = sqlalchemy.Column("number", sqlalchemy.Integer, default=number)
    table = sqlalchemy.Table("numbers", sqlalchemy.MetaData(), column)
    table.metadata.create_all(engine)
    with engine.connect() as connection:
        connection.execute(table.insert().values(number=5))
        with pytest.raises(exc.StatementError) as raised:
            connection.execute(table.insert())
        assert type(raised.value.orig) is NoConnectionError
        assert not connection.invalidated
        assert connection.scalars(sqlalchemy.select(column)).all() == [5]


def test_the_call_site_of_a_session_and_of_begin_is_outside_sqlalchemy(engines: Engines) -> None:
    from sqlalchemy.orm import Session

    engine = engines()
    with Session(engine) as session, engine.begin():
        session.execute(sqlalchemy.text("SELECT 1"))
        places = [holder.where for holder in below(engine).holders()]
        assert len(places) == 2
        assert all(Path(__file__).name in place for place in places), places


def test_a_waiters_call_site_is_known_as_well(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0, pool_timeout=SOON)
    with engine.connect():
        waiter = threading.Thread(target=lambda: borrow(engine).close())
        waiter.start()
        until(lambda: below(engine).stats().waiting == 1)
        (waiting,) = below(engine).waiters()
        assert waiting.where.endswith(" borrow")
    waiter.join(SOON)


def test_one_more_than_max_waiting_is_told_at_once(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0, pool_timeout=SOON, max_waiting=1)
    with engine.connect():
        waiter = threading.Thread(target=lambda: engine.connect().close())
        waiter.start()
        until(lambda: below(engine).stats().waiting == 1)
        with pytest.raises(exc.TimeoutError) as raised:
            engine.connect()
        assert isinstance(raised.value, FullError)
        assert isinstance(raised.value, pooling.QueueFull)
    waiter.join(SOON)


def test_threads_that_starve_each_other_are_found(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0, pool_timeout=None, nested="raise")
    with engine.connect(), pytest.raises(exc.TimeoutError) as raised:
        engine.connect()
    assert raised.value.stage == "nested"  # type: ignore[attr-defined]  # a PoolTimeout


def test_a_closed_pool_says_so_and_closes_what_comes_back(engines: Engines) -> None:
    engine = engines()
    held = engine.connect()
    below(engine).close()
    with pytest.raises(exc.InvalidRequestError) as raised:
        engine.connect()
    assert isinstance(raised.value, ClosedError)
    assert isinstance(raised.value, pooling.PoolClosed)
    held.close()
    until(lambda: below(engine).stats().size == 0)
    engine.dispose()  # a new pool, which is open
    engine.connect().close()


def test_drain_waits_for_what_is_in_use(engines: Engines) -> None:
    engine = engines()
    held = engine.connect()
    threading.Timer(0.1, held.close).start()
    assert below(engine).drain(SOON)
    assert below(engine).stats().size == 0
