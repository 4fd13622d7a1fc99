"""FairPool: connections that fail, what comes back and how, and the numbers that tell of it."""

from __future__ import annotations

import gc
import logging
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event

import pooling
from tests.integrations.sqlalchemy_engines import (
    SOON,
    Engines,
    balance,
    below,
    borrow,
    counts,
    engines_on,
)
from tests.waiting import until


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    with engines_on(f"sqlite:///{tmp_path}/data") as make:
        yield make


# -- connections that fail ---------------------------------------------------------------------------


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


def test_a_connect_that_fails_in_a_place_that_was_used_before_is_counted_and_told_too(engines: Engines) -> None:
    broken = False

    def creator() -> sqlite3.Connection:
        if broken:
            raise sqlite3.OperationalError("no such file")
        return sqlite3.connect(":memory:", check_same_thread=False)

    engine = engines(creator=creator, pool_size=1, max_overflow=0, pool_timeout=0.5)
    heard: list[pooling.PoolEvent] = []
    below(engine).subscribe(heard.append)
    connection = engine.raw_connection()
    connection.invalidate()
    connection.close()
    broken = True
    for number in range(1, 4):
        with pytest.raises(sqlite3.OperationalError, match="no such file"):
            engine.raw_connection()
        assert below(engine).stats().errors_by == {"connect": number}
    broken = False
    engine.raw_connection().close()
    until(lambda: sum(one.kind == "error" for one in heard) == 3)
    assert {(one.reason, str(one.error)) for one in heard if one.kind == "error"} == {("connect", "no such file")}
    assert balance(engine)


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


# -- coming back -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("lifo", [False, True])
def test_dispose_closes_in_the_order_in_which_they_would_have_gone_out(engines: Engines, lifo: bool) -> None:
    pool: Any = engines(pool_use_lifo=lifo).pool
    closed: list[Any] = []
    event.listen(pool, "close", lambda connection, record: closed.append(connection))
    held = [pool.connect() for _ in range(3)]
    order = [one.dbapi_connection for one in held]
    for one in held:
        one.close()
    pool.dispose()
    assert closed == (order[::-1] if lifo else order)


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


# -- numbers -----------------------------------------------------------------------------------------


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


def test_events_have_the_words_and_numbers_of_every_pools(engines: Engines) -> None:
    broken = False

    def creator() -> sqlite3.Connection:
        time.sleep(0.02)
        if broken:
            raise sqlite3.OperationalError("no such file")
        return sqlite3.connect(":memory:", check_same_thread=False)

    engine = engines(creator=creator, pool_size=1, max_overflow=1)
    heard: list[pooling.PoolEvent] = []
    below(engine).subscribe(heard.append)
    first, second = engine.raw_connection(), engine.raw_connection()
    first.close()
    time.sleep(0.02)
    second.close()  # one too many
    held = engine.raw_connection()
    held.invalidate()
    held.close()
    held, broken = engine.raw_connection(), True
    with pytest.raises(sqlite3.OperationalError):
        engine.raw_connection()
    held.close()
    until(lambda: sum(one.kind == "release" for one in heard) == 5)
    told = [(one.kind, one.reason) for one in heard if one.kind in ("close", "release")]
    assert told == [
        ("release", "clean"), ("release", "clean"), ("close", "surplus"),
        ("close", "discarded"), ("release", "clean"), ("release", "discarded"), ("release", "clean"),
    ]  # fmt: skip  # a table
    durations = [one.duration for one in heard if one.kind in ("connect", "release", "close")]
    assert all(duration is not None and 0.0 <= duration < SOON for duration in durations)
    assert all(one.duration >= 0.02 for one in heard if one.kind == "connect")  # type: ignore[operator]  # never None
    (surplus,) = [one for one in heard if one.reason == "surplus"]
    assert surplus.duration is not None
    assert surplus.duration >= 0.02  # its age
