"""Work that others get in the way of is tried again on real servers, until all of it is done, and done once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pooling import Pool
from pooling.retry import Retrying
from tests.backends.adapters import PostgreSQL, Sqlite
from tests.backends.adapters_dbapi import PG8000
from tests.backends.adapters_dbapi import rows as pg8000_rows
from tests.backends.adapters_mysql import MySQL, rows
from tests.backends.together import LONG, together

# -- what a backend needs for these tests -----------------------------------------------------------------------------


class Accounts:
    """Rows with a number each, on one server: read, written and counted."""

    connect_args: ClassVar[Any] = None

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter
        self.table = f"accounts_{adapter.name.replace('-', '_')}"

    def pool(self, **options: Any) -> Pool[Any]:
        return self.adapter.pool(connect_args=self.connect_args, **options)  # type: ignore[no-any-return]

    def make(self, *numbers: int) -> None:
        """A row for each number: its key is its place."""
        with self.pool() as pool, pool.transaction() as connection:
            self.execute(connection, f"CREATE TABLE {self.table} (k int PRIMARY KEY, n int)")
            for key, number in enumerate(numbers):
                self.execute(connection, f"INSERT INTO {self.table} VALUES ({key}, {number})")

    def drop(self) -> None:
        with self.pool() as pool, pool.transaction() as connection:
            self.execute(connection, f"DROP TABLE IF EXISTS {self.table}")

    def get(self, connection: Any, key: int) -> int:
        ((number,),) = self.execute(connection, f"SELECT n FROM {self.table} WHERE k = {key}")
        return int(number)

    def put(self, connection: Any, key: int, number: int) -> None:
        self.execute(connection, f"UPDATE {self.table} SET n = {number} WHERE k = {key}")

    def add(self, connection: Any, key: int, number: int = 1) -> None:
        self.execute(connection, f"UPDATE {self.table} SET n = n + {number} WHERE k = {key}")

    def numbers(self) -> list[int]:
        with self.pool() as pool, pool.acquire() as connection:
            return [int(number) for (number,) in self.execute(connection, f"SELECT n FROM {self.table} ORDER BY k")]

    def execute(self, connection: Any, statement: str) -> Any:
        done = connection.execute(statement)
        return done.fetchall() if done.description else ()


class OnPostgres(Accounts):
    connect_args: ClassVar[Any] = {"options": "-c default_transaction_isolation=serializable -c deadlock_timeout=20ms"}


class OnPG8000(Accounts):
    def execute(self, connection: Any, statement: str) -> Any:
        if not connection._in_transaction and not statement.startswith("SET"):
            pg8000_rows(connection, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        return pg8000_rows(connection, statement)


class OnMySQL(Accounts):
    def __init__(self, adapter: Any) -> None:
        super().__init__(adapter)
        self.table = f"{adapter.name}.accounts"

    def execute(self, connection: Any, statement: str) -> Any:
        return rows(connection, statement)


class OnSqlite(Accounts):
    def __init__(self, adapter: Any) -> None:
        adapter.name = "here"
        super().__init__(adapter)


KINDS: dict[str, tuple[type[Any], type[Accounts]]] = {
    "postgres": (PostgreSQL, OnPostgres),
    "dbapi": (PG8000, OnPG8000),
    "mysql": (MySQL, OnMySQL),
    "sqlite": (Sqlite, OnSqlite),
}


@pytest.fixture
def accounts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Accounts]:
    adapter, kind = KINDS[request.param]
    server = request.getfixturevalue(adapter.fixture) if adapter.fixture else None
    with adapter(server, tmp_path) as made:
        found = kind(made)
        yield found
        found.drop()


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("accounts", names, indirect=True)


# -- contention -----------------------------------------------------------------------------------------------------


@on("postgres", "dbapi")
def test_serialization_failures_are_tried_again_until_every_write_is_in_once(accounts: Accounts) -> None:
    """Read, then write what follows from it: at SERIALIZABLE all but one of those at once fail, some at the commit."""
    accounts.make(0)
    calls: list[None] = []
    met = threading.Barrier(6)

    def increment(connection: Any) -> None:
        calls.append(None)
        number = accounts.get(connection, 0)
        if len(calls) <= 6:
            met.wait(LONG / 2)  # the first tries have all read the same
        accounts.put(connection, 0, number + 1)

    with accounts.pool(max_size=6) as pool:
        retrying = Retrying(pool, retries=None, timeout=LONG, transaction=True)
        together(6, lambda _: [retrying.run(increment) for _ in range(8)])
        assert pool.stats().closed == {}
    assert accounts.numbers() == [48]
    assert len(calls) >= 48 + 5  # of the six that met, one could win


@on("postgres")
def test_a_commit_that_the_server_refuses_is_tried_again(accounts: Accounts) -> None:
    """Write skew: each reads what the other writes, and the second commit fails."""
    accounts.make(1, 1)
    met, calls, ends = threading.Barrier(2), [], []

    def leave(connection: Any, key: int) -> None:
        calls.append(key)
        first = len(calls) <= 2
        on_duty = accounts.get(connection, 0) + accounts.get(connection, 1)
        if first:
            met.wait(LONG / 2)  # both have read
        if on_duty > 1:
            accounts.put(connection, key, 0)
        if first:
            met.wait(LONG / 2)  # both have written
        ends.append(key)

    with accounts.pool(max_size=2) as pool:
        together(2, lambda key: pool.run(leave, key, transaction=True, timeout=LONG))
    assert sum(accounts.numbers()) == 1
    assert len(ends) == 3  # it was not in the middle of the work that the one of them failed


@on("postgres", "dbapi", "mysql")
def test_whom_a_deadlock_costs_his_transaction_tries_again(accounts: Accounts) -> None:
    accounts.make(0, 0)
    met, calls = threading.Barrier(2), []

    def move(connection: Any, first: int) -> None:
        calls.append(first)
        accounts.add(connection, first, 1)
        if len(calls) <= 2:
            met.wait(LONG / 2)  # both hold one row
        accounts.add(connection, 1 - first, 10)

    with accounts.pool(max_size=2) as pool:
        together(2, lambda number: pool.run(move, number, transaction=True, timeout=LONG))
        assert pool.stats().closed == {}
    assert accounts.numbers() == [11, 11]
    assert len(calls) == 3


@on("postgres", "mysql")
def test_the_same_without_a_transaction_of_ours(accounts: Accounts) -> None:
    """The work commits by itself; what a failed try has left is rolled back by a worker before the next one."""
    accounts.make(0, 0)
    met, calls = threading.Barrier(2), []

    def move(connection: Any, first: int) -> None:
        calls.append(first)
        accounts.add(connection, first, 1)
        if len(calls) <= 2:
            met.wait(LONG / 2)
        accounts.add(connection, 1 - first, 10)
        connection.commit()

    with accounts.pool(max_size=4) as pool:
        together(2, lambda number: pool.run(move, number, timeout=LONG))
    assert accounts.numbers() == [11, 11]
    assert len(calls) == 3


@on("mysql")
def test_a_try_does_not_wait_for_the_locks_of_the_one_before(accounts: Accounts) -> None:
    """A lock wait timeout undoes the statement alone: the transaction goes on holding what it has."""
    accounts.make(0, 0)
    calls = []
    with accounts.pool(max_size=3, on_connect=lambda c: rows(c, "SET innodb_lock_wait_timeout = 1")) as pool:
        holder = pool.acquire()
        accounts.add(holder.connection, 1, 100)

        def both(connection: Any) -> None:
            calls.append(connection)
            accounts.add(connection, 0)
            accounts.add(connection, 1)
            connection.commit()

        def free_it(tries: int) -> float:
            holder.release()
            return 0.0

        pool.run(both, retries=1, timeout=LONG, backoff=free_it)
    assert len(calls) == 2
    assert accounts.numbers() == [1, 1]


@on("mysql")
def test_a_row_that_has_changed_since_the_snapshot_was_taken_is_tried_again(accounts: Accounts) -> None:
    """MariaDB's own way of a serialization failure; before 11.6 it has to be asked for."""
    accounts.make(0, 0)
    calls = []
    with accounts.pool(max_size=2, on_connect=lambda c: rows(c, "SET innodb_snapshot_isolation = ON")) as pool:

        def work(connection: Any) -> None:
            calls.append(accounts.get(connection, 0))
            accounts.add(connection, 1)
            if len(calls) == 1:
                with pool.transaction() as other:
                    accounts.put(other, 0, 5)
            accounts.put(connection, 0, calls[-1] + 1)

        pool.run(work, transaction=True, timeout=LONG)
    assert calls == [0, 5]
    assert accounts.numbers() == [6, 1]


@on("sqlite")
def test_transactions_that_find_the_database_locked_try_again(accounts: Accounts) -> None:
    """A transaction that has read and now wants to write fails at once when another one has written meanwhile."""
    accounts.make(0)
    calls = []

    def increment(connection: Any) -> None:
        calls.append(None)
        if not connection.in_transaction:
            connection.execute("BEGIN")  # sqlite3 itself would begin with the write only
        accounts.put(connection, 0, accounts.get(connection, 0) + 1)

    with accounts.pool(max_size=4) as pool:
        retrying = Retrying(pool, retries=None, timeout=LONG, transaction=True, backoff=lambda tries: 0.001 * tries)
        together(4, lambda _: [retrying.run(increment) for _ in range(10)])
    assert accounts.numbers() == [40]
    assert len(calls) > 40
