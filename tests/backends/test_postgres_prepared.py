"""What psycopg has prepared on PostgreSQL: how long it lasts, and what comes of a table that changes under it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from pooling.backends.postgres import PostgresFactory
from tests.backends.adapters import PostgreSQL
from tests.servers import Postgres


@pytest.fixture
def backend(postgres: Postgres, tmp_path: Path) -> Iterator[PostgreSQL]:
    with PostgreSQL(postgres, tmp_path) as adapter:
        yield adapter


def test_what_is_prepared_lasts_until_a_rollback(backend: PostgreSQL) -> None:
    """As the manual says; where psycopg no longer forgets it, that has to be changed."""

    def use(connection: Any) -> int:
        before = connection.execute("SELECT count(*) FROM pg_prepared_statements", prepare=False).fetchone()[0]
        connection.execute("SELECT 1", prepare=True)
        return int(before)

    for autocommit in (True, False):
        pool = backend.pool(None, {"autocommit": autocommit}, max_size=1)
        by_transaction = []
        for _ in range(2):
            with pool.transaction() as connection:
                by_transaction.append(use(connection))
        by_lease = []
        for _ in range(2):
            with pool.acquire() as connection:
                by_lease.append(use(connection))
        assert by_transaction == [0, 1]
        assert by_lease == ([1, 1] if autocommit else [1, 0])


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_table_that_is_altered_under_prepared_statements_costs_one_operation(
    backend: PostgreSQL, autocommit: bool
) -> None:
    def look(connection: Any) -> int:
        return len(connection.execute("SELECT * FROM widening", prepare=True).fetchone())

    pool = backend.pool(None, {"autocommit": autocommit}, max_size=3)
    leases = [pool.acquire() for _ in range(3)]
    with psycopg.connect(backend.url, autocommit=True) as admin:
        admin.execute("DROP TABLE IF EXISTS widening; CREATE TABLE widening (a int)")
        admin.execute("INSERT INTO widening VALUES (1)")
        try:
            for lease in leases:
                assert look(lease.connection) == 1
                lease.connection.commit()
                lease.release()
            admin.execute("ALTER TABLE widening ADD b int")
            with pytest.raises(errors.FeatureNotSupported) as caught, pool.acquire() as connection:
                look(connection)
            assert pool._factory.is_retryable(caught.value)
            with pool.acquire() as first, pool.acquire() as second, pool.acquire() as third:
                assert [look(first), look(second), look(third)] == [2, 2, 2]
        finally:
            pool.close()
            admin.execute("DROP TABLE widening")


def test_what_the_server_does_not_support_says_nothing_of_the_connection(backend: PostgreSQL) -> None:
    with psycopg.connect(backend.url) as connection, pytest.raises(errors.FeatureNotSupported) as caught:
        connection.execute("SELECT 1 FROM generate_series(1, 2) GROUP BY 1 FOR UPDATE")
    assert not PostgresFactory().is_broken(caught.value)
    assert not PostgresFactory().is_demoted(connection, caught.value)
    assert not PostgresFactory().is_retryable(caught.value)
