"""What an agent that traces queries puts around connections: users get it, and the pool looks within."""

from __future__ import annotations

import select
import sqlite3
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy import create_engine, text

from pooling import Pool, create_pool
from pooling.backends import dbapi
from pooling.integrations.sqlalchemy import FairPool
from tests.core.helpers import Traced
from tests.servers import Postgres
from tests.waiting import until

Begin = Callable[[], Pool[Any]]


def tracing(connect: Callable[..., Any]) -> Callable[..., Traced]:
    return lambda *args, **options: Traced(connect(*args, **options))


@pytest.fixture(params=["sqlite", "postgres", "mysql", "dbapi", "callable"])
def begin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Begin:
    """Makes a pool below an agent, with one connection at most."""

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(tmp_path / "file.db", check_same_thread=False)

    def build() -> Pool[Any]:
        if request.param == "sqlite":
            monkeypatch.setattr(sqlite3, "connect", tracing(sqlite3.connect))
            return create_pool(f"sqlite:///{tmp_path / 'file.db'}", max_size=1)
        if request.param == "postgres":
            connect_by_kind = psycopg.Connection.connect.__func__  # type: ignore[attr-defined]  # a class method's
            monkeypatch.setattr(psycopg.Connection, "connect", classmethod(tracing(connect_by_kind)))
            return create_pool(request.getfixturevalue("postgres").url, max_size=1)
        if request.param == "mysql":
            monkeypatch.setattr(pymysql, "connect", tracing(pymysql.connect))
            return create_pool(request.getfixturevalue("mariadb").url, max_size=1)
        if request.param == "dbapi":
            return dbapi.create(tracing(connect), module=sqlite3, max_size=1)
        return Pool(tracing(connect), max_size=1)

    return build


def test_users_get_what_an_agent_has_made_and_nothing_leaks_from_one_to_the_next(begin: Begin) -> None:
    with begin() as pool:
        with pool.transaction() as connection:
            assert isinstance(connection, Traced)
            connection.cursor().execute("CREATE TABLE traced (x INTEGER)")
        try:
            with pool.acquire() as connection:
                connection.cursor().execute("INSERT INTO traced VALUES (1)")
            with pool.acquire() as connection:
                assert isinstance(connection, Traced)
                cursor = connection.cursor()
                cursor.execute("SELECT count(*) FROM traced")
                assert cursor.fetchall()[0][0] == 0
        finally:
            with pool.transaction() as connection:
                connection.cursor().execute("DROP TABLE traced")
        assert pool.stats().opened == 1


def test_the_two_do_not_keep_each_other(begin: Begin) -> None:
    with begin() as pool:
        connection: Any = pool.acquire().detach()
        gone = weakref.ref(connection)
        connection.close()
        del connection
        assert gone() is None


def test_a_connection_to_sqlite_is_closed_though_somebody_keeps_a_cursor_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite3, "connect", tracing(sqlite3.connect))
    with create_pool(f"sqlite:///{tmp_path / 'file.db'}", max_size=1) as pool:
        lease = pool.acquire()
        cursor = lease.connection.execute("SELECT 1 UNION SELECT 2")
        lease.discard()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        cursor.fetchall()
    assert caplog.text == ""


def test_below_an_engine_a_connection_that_the_server_has_closed_is_found(postgres: Postgres) -> None:
    made: list[psycopg.Connection[Any]] = []

    def connect() -> Traced:
        made.append(psycopg.connect(postgres.url, application_name="traced"))
        return Traced(made[-1])

    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=FairPool, check_after=0.0)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    ended = select.poll()
    ended.register(made[0].fileno(), select.POLLRDHUP)
    postgres.kill_sessions("traced")
    until(lambda: ended.poll(0), "the end of the stream")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()
