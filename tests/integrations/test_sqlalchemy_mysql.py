"""FairPool on a real MariaDB, by PyMySQL: what a look at a socket finds, with a driver that is not psycopg."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import exc, text

from tests.integrations.sqlalchemy_engines import Engines, below, engines_on
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
