"""FairPool in the place of SQLAlchemy's QueuePool: who gets a connection, when, and what is said where there is none.

On SQLite, where a connection costs nothing; what a server does is in test_sqlalchemy_postgres.py, and SQLAlchemy's own
tests run in test_sqlalchemy_suite.py.
"""

from __future__ import annotations

import gc
import logging
import pickle
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event, exc
from sqlalchemy.pool import NullPool, QueuePool

import pooling
from pooling.integrations.sqlalchemy import ClosedError, FairPool, FullError, NoConnectionError

SOON = 20.0  # seconds: longer than anything here takes on a machine with much to do

Engines = Callable[..., sqlalchemy.Engine]


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    """engines(pool_size=1, …): an engine on a file of SQLite."""
    made: list[sqlalchemy.Engine] = []

    def make(**options: Any) -> sqlalchemy.Engine:
        engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/data", poolclass=FairPool, **options)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.dispose()
        below(engine).close()


def below(engine: sqlalchemy.Engine) -> Any:
    return engine.pool.pooling  # type: ignore[attr-defined]  # a FairPool


def until(state: Callable[[], Any], what: str = "the state") -> None:
    end = time.monotonic() + SOON
    while not state():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.002)


def counts(engine: sqlalchemy.Engine) -> tuple[int, int, int, int]:
    pool: Any = engine.pool
    return pool.size(), pool.checkedin(), pool.overflow(), pool.checkedout()


def balance(engine: sqlalchemy.Engine) -> bool:
    """Whether as many connections are open as were opened and not closed."""
    stats = below(engine).stats()
    return bool(stats.opened - sum(stats.closed.values()) == stats.size)


# -- options ------------------------------------------------------------------------------------------


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
    engine = engines(name="orders")
    engine.dispose()
    assert below(engine).name == "orders"


def test_bad_options_are_refused(engines: Engines) -> None:
    with pytest.raises(TypeError, match="'max_size'"):
        engines(max_size=3)
    with pytest.raises(ValueError, match="leak_after must be greater than 0"):
        engines(leak_after=0)
    with pytest.raises(ValueError, match="timeout must be at least 0"):
        engines(pool_timeout=-1)


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


# -- who is served ------------------------------------------------------------------------------------


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


# -- where there is none --------------------------------------------------------------------------------


def borrow(engine: sqlalchemy.Engine) -> Any:
    return engine.connect()


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
    assert type(error.__cause__) is pooling.PoolTimeout
    assert str(error).startswith("FairPool limit of size 1 overflow 0 reached, connection timed out: no connection ")
    assert "held by MainThread" in str(error)
    assert error.holders[0].where.endswith(f"{Path(__file__).name}:{borrow.__code__.co_firstlineno + 1} borrow")
    assert error.stats.leased == 1
    assert error.code == "3o7r"
    copy: Any = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.stage) == (NoConnectionError, str(error), "queue")


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


# -- connections that fail ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [sqlite3.OperationalError("no such file"), KeyboardInterrupt(), MemoryError()])
def test_a_connect_that_fails_raises_its_own_error_and_frees_its_place_at_once(
    engines: Engines, error: BaseException
) -> None:
    broken = True

    def creator() -> sqlite3.Connection:
        if broken:
            raise error
        return sqlite3.connect(":memory:", check_same_thread=False)

    engine = engines(creator=creator, pool_size=1, max_overflow=0, pool_timeout=0.5)
    for _ in range(3):
        with pytest.raises(type(error)) as raised:
            engine.raw_connection()
        assert raised.value is error
        assert counts(engine) == (1, 0, -1, 0)
    broken = False
    engine.raw_connection().close()
    stats = below(engine).stats()
    assert (stats.opened, stats.size, stats.errors, sum(stats.closed.values())) == (1, 1, 3, 0)


def test_a_checkout_event_that_fails_gives_the_place_back(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0, pool_timeout=0.5)

    class Stop(BaseException):
        pass

    def stop(*args: Any) -> None:
        raise Stop

    event.listen(engine, "checkout", stop)
    for _ in range(3):
        with pytest.raises(Stop):
            engine.connect()
    event.remove(engine, "checkout", stop)
    engine.connect().close()
    assert counts(engine) == (1, 1, 0, 0)
    assert balance(engine)


def test_a_password_in_a_connect_error_is_not_told_to_listeners(engines: Engines) -> None:
    heard: list[pooling.PoolEvent] = []

    def connect(password: str) -> sqlite3.Connection:
        raise sqlite3.OperationalError(f"cannot log in with {password}")

    password = "hunter2-" + "x" * 8
    engine = engines(creator=lambda: connect(password=password))
    below(engine).subscribe(heard.append)
    with pytest.raises(sqlite3.OperationalError):
        engine.raw_connection()
    until(lambda: any(one.kind == "error" for one in heard))
    (failure,) = [one for one in heard if one.kind == "error"]
    assert failure.reason == "connect"
    assert password not in str(failure.error)


# -- coming back ----------------------------------------------------------------------------------------


def test_what_overflows_is_closed_at_once_when_it_comes_back(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=2)
    closed: list[int] = []
    event.listen(engine, "close", lambda *args: closed.append(threading.get_ident()))
    held = [engine.connect() for _ in range(3)]
    assert counts(engine) == (1, 0, 2, 3)
    for number, connection in enumerate(held):
        connection.close()
        assert closed == [threading.get_ident()] * number
    assert counts(engine) == (1, 1, 0, 0)
    assert below(engine).stats().closed == {"surplus": 2}
    assert balance(engine)


def test_dispose_closes_what_is_idle_and_what_was_in_use_is_pooled_again(engines: Engines) -> None:
    pool: Any = engines(pool_size=2).pool
    idle, used = pool.connect(), pool.connect()
    kept = used.dbapi_connection
    idle.close()
    pool.dispose()
    assert (pool.checkedin(), pool.checkedout()) == (0, 1)
    used.close()
    again = pool.connect()
    assert again.dbapi_connection is kept
    again.close()
    assert pool.pooling.stats().closed == {"stale": 1}


@pytest.mark.parametrize("lifo", [False, True])
def test_which_idle_connection_goes_out_first_is_as_use_lifo_says(engines: Engines, lifo: bool) -> None:
    pool: Any = engines(pool_use_lifo=lifo).pool
    held = [pool.connect() for _ in range(3)]
    order = [one.dbapi_connection for one in held]
    for one in held:
        one.close()
    assert [pool.connect().dbapi_connection for _ in range(3)]  # and dropped: they come back by collection
    gc.collect()
    assert pool.checkedin() == 3
    again = pool.connect()
    assert again.dbapi_connection is (order[2] if lifo else order[0])
    again.close()


def test_a_connection_that_is_dropped_is_rolled_back_and_pooled_as_sqlalchemy_does(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0, pool_timeout=0.5)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (x)"))
    raw: Any = engine.raw_connection()
    raw.cursor().execute("INSERT INTO t VALUES (1)")
    del raw
    gc.collect()
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT count(*) FROM t")).scalar() == 0
    assert below(engine).stats().opened == 1


def test_a_record_that_is_lost_between_two_lines_loses_no_place(engines: Engines) -> None:
    pool: Any = engines(pool_size=1, max_overflow=0, pool_timeout=SOON).pool
    for _ in range(3):
        record = pool._do_get()  # what an interrupt leaves that strikes before SQLAlchemy has it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # sqlite3's, from 3.13 on: nobody closed it
            del record
            gc.collect()
        pool.connect().close()
    until(lambda: pool.pooling.stats().closed.get("dropped") == 3)
    assert pool.checkedout() == 0


def test_a_lease_that_is_held_for_long_is_reported_with_its_call_site(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engines(leak_after=0.05, name="orders")
    with caplog.at_level(logging.WARNING, "pooling.pool.orders"), borrow(engine):
        until(lambda: below(engine).stats().leaks == 1)
        until(lambda: any(" borrow" in record.getMessage() for record in caplog.records))


def test_idle_connections_are_closed_in_time_with_nobody_asking(engines: Engines) -> None:
    engine = engines(idle_timeout=0.05)
    engine.connect().close()
    until(lambda: below(engine).stats().closed == {"idle": 1})
    assert counts(engine) == (5, 0, -5, 0)
    engine.connect().close()
    assert balance(engine)


def test_a_connection_is_retired_after_max_uses(engines: Engines) -> None:
    engine = engines(max_uses=2)
    for _ in range(4):
        engine.connect().close()
    until(lambda: below(engine).stats().closed == {"uses": 2})


# -- numbers ----------------------------------------------------------------------------------------------


def test_the_numbers_count_connections_however_they_end(engines: Engines) -> None:
    engine = engines(pool_size=2, max_overflow=2)
    pool: Any = engine.pool

    connection = engine.connect()
    connection.invalidate()
    connection.close()
    assert balance(engine) is False  # the place is kept, with its record, and nothing in it
    engine.connect().close()
    assert balance(engine)

    raw = pool.connect()
    raw.detach()
    raw.close()
    engine.connect().close()
    assert balance(engine)

    raw = pool.connect()
    time.sleep(0.01)  # SQLAlchemy compares times of day
    raw.invalidate(soft=True)
    raw.close()
    engine.connect().close()
    assert balance(engine)
    stats = below(engine).stats()
    assert (stats.opened, stats.closed, stats.connect.count) == (4, {"discarded": 3}, 4)

    held = [engine.connect() for _ in range(4)]
    for connection in held:
        connection.close()
    assert balance(engine)
    pool.dispose()
    assert balance(engine)
    below(engine).close()
    assert balance(engine)
    stats = below(engine).stats()
    assert stats.acquired == stats.released
    assert stats.size == 0


def test_an_empty_place_that_is_closed_is_counted_as_nothing(engines: Engines) -> None:
    engine = engines(pool_size=2)
    connection = engine.connect()
    connection.invalidate()
    connection.close()
    below(engine).close()
    assert balance(engine)
    assert below(engine).stats().closed == {"discarded": 1}


def test_events_tell_what_happens_to_connections(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0)
    heard: list[pooling.PoolEvent] = []
    below(engine).subscribe(heard.append)
    engine.connect().close()
    connection = engine.connect()
    connection.invalidate()
    connection.close()
    kinds = ["acquire", "connect", "release", "acquire", "close", "release"]
    until(lambda: len([one for one in heard if one.kind in kinds]) == len(kinds))
    assert [one.kind for one in heard if one.kind in kinds] == kinds
    acquired = next(one for one in heard if one.kind == "connect")
    assert acquired.holder is not None
    assert Path(__file__).name in acquired.holder.where


# -- the pool underneath ------------------------------------------------------------------------------------


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


def test_other_pools_of_sqlalchemy_are_as_they_were() -> None:
    engine = sqlalchemy.create_engine("sqlite://", poolclass=NullPool)
    engine.connect().close()
