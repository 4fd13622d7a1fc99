"""Work whose connection or server goes away is tried again where that does no harm, and only there."""

from __future__ import annotations

import itertools
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from pooling import ConnectError, Pool, create_pool
from pooling.retry import Retrying
from tests.backends.adapters import PostgreSQL, Remote
from tests.backends.adapters_dbapi import PG8000
from tests.backends.adapters_http import Http
from tests.backends.adapters_mongodb import MongoDB
from tests.backends.adapters_mysql import MySQL, rows
from tests.backends.adapters_redis import Redis
from tests.backends.together import LONG, together
from tests.proxy import Proxy
from tests.servers import HTTP, Postgres

# -- connections that are cut ----------------------------------------------------------------------------------------


class Bumps:
    """A write that shows in a count, through a proxy that cuts the connection around it."""

    connect_args: Any = None

    def __init__(self, adapter: Remote, between: Proxy) -> None:
        self.adapter, self.between = adapter, between
        self.calls = 0

    def pool(self, **options: Any) -> Pool[Any]:
        return self.adapter.pool(self.adapter.at(*self.between.address), self.connect_args, **options)

    def arm(self, where: str) -> None:
        """Cut every connection of this moment: before the server gets what is sent next, or after it has answered."""
        for link in self.between.links():
            if where == "before":
                link.flows[0].budget = 0
            else:
                link.flows[1].budget = 1

    def bump(self, connection: Any) -> None:
        raise NotImplementedError

    def count(self) -> int:
        raise NotImplementedError


class BumpsPostgres(Bumps):
    adapter: PostgreSQL

    def bump(self, connection: Any) -> None:
        self.adapter.write(connection, 1)

    def count(self) -> int:
        query = "SELECT count(*) FROM notes WHERE name = %s"
        return self.adapter.admin.execute(query, (self.adapter.name,)).fetchone()[0]  # type: ignore[index,no-any-return]


class BumpsMySQL(Bumps):
    adapter: MySQL

    def __init__(self, adapter: MySQL, between: Proxy) -> None:
        super().__init__(adapter, between)
        adapter.server.order(f"CREATE TABLE {adapter.name}.bumps (k int AUTO_INCREMENT PRIMARY KEY)")

    def bump(self, connection: Any) -> None:
        rows(connection, f"INSERT INTO {self.adapter.name}.bumps () VALUES ()")

    def count(self) -> int:
        return self.adapter.server.order(f"SELECT count(*) FROM {self.adapter.name}.bumps")[0][0]  # type: ignore[no-any-return]


class BumpsRedis(Bumps):
    adapter: Redis

    def bump(self, connection: Any) -> None:
        connection.incr(self.adapter.name)

    def count(self) -> int:
        return int(self.adapter.admin.get(self.adapter.name) or 0)  # type: ignore[arg-type]


class BumpsMongoDB(Bumps):
    adapter: MongoDB

    def bump(self, connection: Any) -> None:
        self.adapter.write(connection, 1)

    def count(self) -> int:
        with self.adapter.pool() as pool, pool.acquire() as client:
            return client.contract.notes.count_documents({"name": self.adapter.name})  # type: ignore[no-any-return]


BUMPS: dict[str, tuple[type[Remote], type[Bumps], dict[str, Any]]] = {
    "postgres": (PostgreSQL, BumpsPostgres, {"autocommit": True}),
    "dbapi": (PG8000, BumpsPostgres, {}),
    "mysql": (MySQL, BumpsMySQL, {"autocommit": True}),
    "redis": (Redis, BumpsRedis, {}),
    "mongodb": (MongoDB, BumpsMongoDB, {}),
}


def made(request: pytest.FixtureRequest, folder: Path, name: str) -> tuple[Remote, Bumps, Any]:
    kind, counting, args = BUMPS[name]
    adapter = kind(request.getfixturevalue(kind.fixture), folder)
    between: Proxy = request.getfixturevalue("proxy")(adapter.server)
    return adapter, counting(adapter, between), args


CUTS = [(name, "before") for name in BUMPS] + [
    # pg8000 has the server parse, and answer, before it has anything executed: its first answer says nothing.
    (name, "after")
    for name in BUMPS
    if name != "dbapi"
]


@contextmanager
def refused(adapter: Remote) -> Iterator[list[BaseException]]:
    """A block that ends by the driver's error. Nothing is left in its frames: pg8000's hold the file of a socket, which
    stays open with it."""
    found: list[BaseException] = []
    with pytest.raises(adapter.errors) as caught:
        yield found
    traceback.clear_frames(caught.tb)
    found.append(caught.value.with_traceback(None))


def autocommit(connection: Any) -> None:
    connection.autocommit = True


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize(("name", "where"), CUTS)
def test_a_write_whose_connection_is_cut_is_repeated_only_if_that_is_said_to_do_no_harm(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, where: str, idempotent: bool
) -> None:
    """What happened to the first write, its caller cannot know: the error is the same, the count is not."""
    adapter, bumps, args = made(request, tmp_path, name)
    with adapter:
        bumps.connect_args = args
        pool = bumps.pool(max_size=2, on_connect=autocommit if name == "dbapi" else None)

        def work(connection: Any) -> str:
            bumps.calls += 1
            if bumps.calls == 1:
                adapter.ask(connection, 7)
                bumps.arm(where)
            bumps.bump(connection)
            return "done"

        if idempotent:
            assert pool.run(work, idempotent=True, timeout=LONG) == "done"
        else:
            with refused(adapter) as error:
                pool.run(work, timeout=LONG)
            assert pool._factory.is_broken(error[0])
            assert not pool._factory.is_retryable(error[0])
        assert bumps.calls == 1 + idempotent
        assert bumps.count() == (where == "after") + idempotent
        pool.close()


@pytest.mark.parametrize(("name", "where"), [cut for cut in CUTS if cut[0] in ("postgres", "dbapi", "mysql")])
def test_a_commit_whose_answer_does_not_come_is_not_repeated(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, where: str
) -> None:
    adapter, bumps, _ = made(request, tmp_path, name)
    with adapter:
        pool = bumps.pool(max_size=2)

        def work(connection: Any) -> None:
            bumps.calls += 1
            bumps.bump(connection)
            bumps.arm(where)  # what comes next is the commit

        with refused(adapter):
            pool.run(work, transaction=True, timeout=LONG)
        assert bumps.calls == 1
        assert bumps.count() == (where == "after")
        pool.close()


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_request_whose_connection_is_cut_is_repeated_only_if_it_is_idempotent(
    request: pytest.FixtureRequest, http_server: HTTP, tmp_path: Path, where: str
) -> None:
    with Http(http_server, tmp_path) as adapter:
        for idempotent in (False, True):
            bumps = Bumps(adapter, request.getfixturevalue("proxy")(http_server))
            pool = bumps.pool(max_size=2)
            numbers = []

            def work(connection: Any, bumps: Bumps = bumps, numbers: list[int] = numbers) -> int:
                numbers.append(adapter.session(connection))
                if len(numbers) == 1:
                    bumps.arm(where)
                return adapter.ask(connection, 7)

            if idempotent:
                assert pool.run(work, idempotent=True, timeout=LONG) == 7
                assert len(set(numbers)) == 2
            else:
                with refused(adapter):
                    pool.run(work, timeout=LONG)
                assert len(numbers) == 1
            pool.close()


def test_a_connection_that_was_lost_unnoticed_does_no_harm_to_a_transaction(postgres: Postgres, tmp_path: Path) -> None:
    """It breaks as the transaction begins: nothing of the work can have been done, nobody has to say idempotent."""
    with PostgreSQL(postgres, tmp_path) as backend:
        pool = backend.pool(max_size=1, check_after=LONG)
        with pool.acquire() as connection:
            session = backend.session(connection)
        backend.kill(session)
        pool.run(backend.write, 1, transaction=True)
        with pool.acquire() as connection:
            assert backend.written(connection, 1)
        assert pool.stats().closed == {"broken": 1}
        pool.close()


# -- servers that go away ----------------------------------------------------------------------------------------------


def test_idempotent_transactions_do_not_feel_a_restart(own_server: Callable[..., Postgres]) -> None:
    server = own_server("postgres")
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute("CREATE TABLE done (worker int, number int, PRIMARY KEY (worker, number))")
    over = threading.Event()
    counts = [0] * 6

    def put(connection: Any, worker: int, number: int) -> None:
        connection.execute("INSERT INTO done VALUES (%s, %s) ON CONFLICT DO NOTHING", (worker, number))

    with create_pool(server.url, max_size=4) as pool:
        retrying = Retrying(pool, idempotent=True, transaction=True, retries=None, timeout=LONG)

        def work(worker: int) -> None:
            while not over.is_set():
                retrying.run(put, worker, counts[worker])
                counts[worker] += 1

        def restart() -> None:
            try:
                for fast in (False, True):
                    before = sum(counts)
                    until = time.monotonic() + LONG
                    while sum(counts) < before + 50 and time.monotonic() < until:
                        time.sleep(0.01)
                    server.restart(fast=fast)
                before = sum(counts)
                until = time.monotonic() + LONG
                while sum(counts) < before + 50 and time.monotonic() < until:
                    time.sleep(0.01)
            finally:
                over.set()

        together(7, lambda number: restart() if number == 6 else work(number))
        assert pool.stats().closed["broken"] >= 2
        with pool.acquire() as connection:
            assert connection.execute("SELECT count(*) FROM done").fetchone()[0] == sum(counts)


def test_no_write_is_applied_twice_while_sessions_are_killed(own_server: Callable[..., Postgres]) -> None:
    """Whoever got no error has written once; whoever got one, once or not at all."""
    server = own_server("postgres")
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute("CREATE TABLE written (token int)")
    tokens = itertools.count()
    fine: list[int] = []
    unknown: list[int] = []
    over = threading.Event()

    def put(connection: Any, token: int) -> None:
        connection.execute("INSERT INTO written VALUES (%s)", (token,))
        connection.execute("SELECT pg_sleep(0.002)")

    with create_pool(server.url, {"application_name": "writers"}, max_size=4) as pool:

        def write() -> None:
            while not over.is_set():
                token = next(tokens)
                try:
                    pool.run(put, token, transaction=True, timeout=LONG)
                except psycopg.OperationalError:
                    unknown.append(token)
                else:
                    fine.append(token)

        def kill() -> None:
            try:
                for _ in range(15):
                    before = len(fine)
                    until = time.monotonic() + LONG / 2
                    while len(fine) < before + 10 and time.monotonic() < until:
                        time.sleep(0.005)
                    server.kill_sessions("writers")
            finally:
                over.set()

        together(5, lambda number: kill() if number == 4 else write())
        with pool.acquire() as connection:
            counts = dict(connection.execute("SELECT token, count(*) FROM written GROUP BY token").fetchall())
    assert set(counts.values()) == {1}
    assert set(fine) <= set(counts) <= set(fine) | set(unknown)
    assert unknown


def test_a_wrong_password_is_not_tried_again(postgres: Postgres) -> None:
    tries = []
    with (
        create_pool(postgres.guarded_url.replace("secret", "wrong")) as pool,
        pytest.raises(ConnectError, match="authentication failed"),
    ):
        pool.run(lambda connection: None, timeout=LONG, backoff=lambda tried: tries.append(tried) or 0.0)  # type: ignore[func-returns-value]
    assert tries == []


def test_a_server_that_is_back_in_time_is_reached(own_server: Callable[..., Postgres]) -> None:
    server = own_server("postgres")
    server.stop()
    with create_pool(server.url, fail_after=0.1) as pool:
        tries = []

        def backoff(tried: int) -> float:
            tries.append(tried)
            if tried == 2:
                server.start()
            return 0.1

        assert pool.run(lambda c: c.execute("SELECT 1").fetchone(), backoff=backoff, retries=None, timeout=LONG) == (1,)
    assert tries[:2] == [1, 2]


def test_a_server_that_refuses_writes_has_done_nothing(mariadb: Any, tmp_path: Path) -> None:
    """As a primary does that was demoted: the work may be done again, on the connection to the one of today."""
    with MySQL(mariadb, tmp_path) as backend:
        user = f"{backend.name}_u"
        mariadb.order(f"CREATE USER {user}")
        mariadb.order(f"GRANT ALL ON {backend.name}.* TO {user}")
        pool = backend.pool(connect_args={"user": user, "password": "", "database": None}, max_size=2)
        calls = []

        def work(connection: Any) -> None:
            calls.append(connection)
            if len(calls) == 1:
                mariadb.order("SET GLOBAL read_only = 1")
            try:
                backend.write(connection, 1)
            except pymysql.MySQLError:
                mariadb.order("SET GLOBAL read_only = 0")
                raise

        pool.run(work, transaction=True, timeout=LONG)
        assert calls[0] is not calls[1]
        pool.close()
        mariadb.order(f"DROP USER {user}")
