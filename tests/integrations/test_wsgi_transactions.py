"""What a request of the WSGI middleware leaves in a database: nothing that was not committed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import pooling
from pooling.integrations import wsgi
from pooling.integrations.wsgi import Middleware
from tests.core.forking import LENIENT, script
from tests.core.helpers import run_python
from tests.integrations.exchange import Exchange, answering


@pytest.fixture
def bank(tmp_path: Any) -> Iterator[pooling.Pool[Any]]:
    with pooling.create_pool(f"sqlite:///{tmp_path}/bank.db", max_size=2) as pool:
        with pool.transaction() as connection:
            connection.execute("CREATE TABLE entry (amount INTEGER)")
        yield pool


def entries(pool: Any) -> int:
    with pool.acquire() as connection:
        return int(connection.execute("SELECT count(*) FROM entry").fetchone()[0])


def test_a_lease_never_commits(bank: Any) -> None:
    def body(leases: wsgi.Leases) -> list[bytes]:
        leases.connection().execute("INSERT INTO entry VALUES (1)")
        return [b"x"]

    Exchange(Middleware(answering(body), bank)).run()
    assert entries(bank) == 0


def test_a_transaction_commits_on_the_requests_own_lease(bank: Any) -> None:
    def body(leases: wsgi.Leases) -> list[bytes]:
        with leases.transaction() as connection:
            assert connection is leases.connection()
            connection.execute("INSERT INTO entry VALUES (1)")
            with pytest.raises(pooling.PoolError, match="open already"), leases.transaction():
                pass
        assert entries(bank) == 1
        with pytest.raises(RuntimeError, match="no"), leases.transaction() as connection:
            connection.execute("INSERT INTO entry VALUES (2)")
            raise RuntimeError("no")
        with leases.transaction() as connection:
            connection.execute("INSERT INTO entry VALUES (3)")
        return [b"x"]

    assert Exchange(Middleware(answering(body), bank)).run() == b"x"
    assert entries(bank) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_that_a_request_forks_has_a_connection_of_its_own() -> None:
    run_python(
        script(
            """
            from pooling.integrations.wsgi import Leases
            pool = Pool(factory, max_size=2)
            leases = Leases({"default": pool})

            def child():
                with leases.transaction() as own:
                    assert own is leases.connection() is not mine
                leases.release()
                assert (pool.stats().released, pool.stats().leased) == (1, 0)

            with leases.transaction() as mine:
                in_child(child)
                assert leases.connection() is mine and mine.dirty
            leases.release()
            pool.close()
            """
        ),
        options=LENIENT,
    )
