"""FairPool on a real MariaDB, by PyMySQL: what a look at a socket finds, with a driver that is not psycopg."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import exc, text

from tests.integrations.sqlalchemy_engines import Engines, below, engines_on
from tests.proxy import Proxy
from tests.servers import MariaDB


@pytest.fixture
def engines(mariadb: MariaDB) -> Iterator[Engines]:
    with engines_on(mariadb.url.replace("mysql://", "mysql+pymysql://", 1)) as make:
        yield make


def session(connection: Any) -> int:
    return int(connection.execute(text("SELECT connection_id()")).scalar_one())


def cut_idle(engine: sqlalchemy.Engine, count: int) -> set[int]:
    """Idle connections that the server has cut."""
    held = [engine.connect() for _ in range(count)]
    found = {session(connection) for connection in held}
    admin = engine.connect()
    for connection in held:
        connection.close()
    for number in found:
        admin.execute(text(f"KILL {number}"))
    admin.invalidate()
    admin.close()
    return found


def test_idle_connections_that_the_server_has_cut_reach_nobody(engines: Engines) -> None:
    engine = engines(check_after=0.0)
    old = cut_idle(engine, 4)
    for _ in range(5):
        with engine.connect() as connection:
            assert session(connection) not in old
    assert below(engine).stats().closed["broken"] >= 1


def test_a_cut_in_use_is_one_error(engines: Engines) -> None:
    engine = engines(check=None)
    old = cut_idle(engine, 2)
    with engine.connect() as connection, pytest.raises(exc.OperationalError):
        session(connection)
    for _ in range(3):
        with engine.connect() as connection:
            assert session(connection) not in old


def test_a_deadlock_leaves_the_connection_with_its_user(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0)
    with engine.connect() as connection:
        first = session(connection)
        with pytest.raises(exc.DBAPIError):
            connection.execute(text("SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213"))
        connection.rollback()
        assert session(connection) == first
    with engine.connect() as connection:
        assert session(connection) == first


def test_autocommit_that_a_lease_of_the_pool_underneath_leaves_reaches_nobody(engines: Engines) -> None:
    engine = engines(pool_size=1, max_overflow=0)
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE fair_left (x int)"))
    with below(engine).acquire() as raw:
        raw.autocommit(True)
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO fair_left VALUES (1)"))
        connection.rollback()
        assert connection.execute(text("SELECT count(*) FROM fair_left")).scalar() == 0
    assert below(engine).stats().opened == 1


def test_a_check_by_ping_ends_in_time_on_links_that_have_gone_mute(
    engines: Engines, mariadb: MariaDB, proxy: Callable[..., Proxy]
) -> None:
    link = proxy(mariadb)
    url = mariadb.url.replace("mysql://", "mysql+pymysql://", 1).replace(f":{mariadb.port}/", f":{link.port}/")
    engine = engines(url=url, pool_size=2, max_overflow=0, check="ping", check_after=0.0, connect_timeout=0.3,
                     pool_timeout=10.0)  # fmt: skip  # one argument list
    held = [engine.connect() for _ in range(2)]
    old = {session(connection) for connection in held}
    for connection in held:
        connection.close()
    for each in link.links():
        each.mute = True
    with engine.connect() as connection:  # no error
        assert session(connection) not in old
        assert connection.connection.driver_connection._read_timeout is None  # type: ignore[union-attr]  # PyMySQL's
    stats = below(engine).stats()
    assert stats.hung == 0
    assert set(stats.closed) == {"broken"}, "the thread has come back by itself, and was not written off"
