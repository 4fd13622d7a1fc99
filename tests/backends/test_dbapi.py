"""Any DB-API driver: what is found out about it, and what it is told."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import socket
import sqlite3
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pg8000.dbapi
import psycopg
import pymysql
import pytest
from psycopg.pq import TransactionStatus

import pooling
from pooling import ConnectError, Pool
from pooling.backends import dbapi
from pooling.backends.dbapi import DbapiFactory
from tests.backends.adapters_dbapi import PG8000, one, rows
from tests.backends.contract import session_of, settled
from tests.proxy import Proxy
from tests.servers import MariaDB, Postgres
from tests.waiting import LATE, until


@pytest.fixture
def backend(postgres: Postgres, tmp_path: Path) -> Iterator[PG8000]:
    with PG8000(postgres, tmp_path) as adapter:
        yield adapter


class FakeConnection:
    """A driver without anything that the DB-API does not ask for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.given = args, options
        self.calls: list[str] = []

    def commit(self) -> None:
        self.calls.append("commit")

    def rollback(self) -> None:
        self.calls.append("rollback")

    def close(self) -> None:
        self.calls.append("close")


class Likeness(psycopg.Connection[Any]):
    """Behaves like psycopg2."""

    def get_transaction_status(self) -> int:
        return self.info.transaction_status

    def rollback(self) -> None:
        if not self.autocommit:
            super().rollback()

    def close(self) -> None:
        with self.lock:
            super().close()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that is a driver."""
    module: Any = types.ModuleType("fakedriver")
    module.threadsafety = 1
    module.Error = type("Error", (Exception,), {})
    for name in ("OperationalError", "InterfaceError", "ProgrammingError", "NotSupportedError", "IntegrityError"):
        setattr(module, name, type(name, (module.Error,), {}))
    module.Connection = type("Connection", (FakeConnection,), {"__module__": "fakedriver.inner"})

    def connect(*args: Any, **options: Any) -> Any:
        return module.Connection(*args, **options)

    connect.__module__ = "fakedriver.inner"
    module.connect = connect
    monkeypatch.setitem(sys.modules, "fakedriver", module)
    return module


def own(driver: Any) -> Callable[[], Any]:
    """A connect that does not tell where it leads."""

    def connect() -> Any:
        return driver.connect()

    return connect


class TestDriver:
    @pytest.mark.parametrize(
        ("connect", "name"),
        [
            (pg8000.dbapi.connect, "pg8000.dbapi"),
            (pg8000.connect, "pg8000"),
            (pymysql.connect, "pymysql"),
            (sqlite3.connect, "sqlite3"),
            (functools.partial(functools.partial(sqlite3.connect), ":memory:"), "sqlite3"),
        ],
    )
    def test_its_module_is_found_by_its_connect(self, connect: Any, name: str) -> None:
        assert repr(DbapiFactory(connect)) == f"DbapiFactory({name})"

    def test_its_module_is_found_by_a_connection_where_connect_is_a_function_of_ones_own(self, driver: Any) -> None:
        with dbapi.create(own(driver)) as pool, pool.acquire() as connection:
            assert type(connection) is driver.Connection
            assert repr(pool._factory) == "DbapiFactory(fakedriver)"

    def test_one_that_cannot_be_found_is_asked_for(self) -> None:
        connections: list[FakeConnection] = []

        def connect() -> FakeConnection:
            connections.append(FakeConnection())
            return connections[0]

        with dbapi.create(connect) as pool, pytest.raises(ConnectError, match=r"Say it by module=…"):
            pool.acquire(5.0)
        assert connections[0].calls == ["close"]

    def test_it_may_be_named(self, driver: Any) -> None:
        with dbapi.create(FakeConnection, module=driver) as pool:
            pool.acquire().release()

    def test_one_that_threads_may_not_share_is_refused(self, driver: Any) -> None:
        driver.threadsafety = 0
        with pytest.raises(RuntimeError, match="fakedriver says threadsafety = 0"):
            dbapi.create(driver.connect)
        with dbapi.create(own(driver)) as pool, pytest.raises(ConnectError, match="threadsafety = 0"):
            pool.acquire(5.0)

    @pytest.mark.parametrize("connect", [None, "sqlite3"])
    def test_what_cannot_be_called_is_refused(self, connect: Any) -> None:
        with pytest.raises(TypeError, match="connect must be the driver's connect function"):
            dbapi.create(connect)

    @pytest.mark.parametrize("args", ["db", {"user": "anna"}, None])
    def test_positional_arguments_that_are_no_tuple_are_refused(self, driver: Any, args: Any) -> None:
        with pytest.raises(TypeError, match=f"^args must be a tuple of .*, not {type(args).__name__}$"):
            DbapiFactory(driver.connect, args)

    def test_arguments_reach_it(self, driver: Any) -> None:
        pool = dbapi.create(driver.connect, "db", 7, connect_args=lambda: {"user": "anna"}, max_size=2)
        with pool, pool.acquire() as connection:
            assert connection.given == (("db", 7), {"user": "anna"})

    def test_options_of_the_pool_are_checked_as_ever(self, driver: Any) -> None:
        options: dict[str, Any] = {"max_sise": 2}
        with pytest.raises(TypeError, match="did you mean 'max_size'"):
            dbapi.create(driver.connect, **options)
        for option in ({"check": "ping"}, {"keepalive": 5.0}):
            with pytest.raises(ValueError, match="check='ping' and keepalive need check_query="):
                dbapi.create(driver.connect, **option)
        with pytest.raises(ValueError, match="needs reset_session="):
            dbapi.create(driver.connect, reset="session")


class TestReturn:
    def test_everything_is_rolled_back_that_is_not_known_to_be_clean(self, driver: Any) -> None:
        with dbapi.create(driver.connect, workers="inline") as pool:
            pool.acquire().release()
            with pool.acquire() as connection:
                assert connection.calls == ["commit", "rollback"]  # the first is of the set-up

    def test_what_is_known_to_be_clean_is_not(self, driver: Any) -> None:
        with dbapi.create(driver.connect, is_clean=lambda c: c.clean, workers="inline") as pool:
            with pool.acquire() as connection:
                connection.clean = True
            with pool.acquire() as connection:
                connection.clean = False
            with pool.acquire() as connection:
                assert connection.calls == ["commit", "rollback"]

    @pytest.mark.parametrize("mode", ["transaction", "session"])
    def test_a_reset_on_a_path_that_is_dead_costs_no_slot_for_longer_than_a_call_may_take(
        self, backend: PG8000, proxy: Callable[..., Proxy], mode: Any
    ) -> None:
        between = proxy(backend.server)
        pool = backend.pool(backend.at(*between.address), max_size=1, connect_timeout=1.0, reset=mode)
        with pool.acquire() as connection:
            assert not backend.written(connection, 1)  # in a transaction, so the rollback is a round trip
            between.links()[0].mute = True
        session_of(backend, pool, 20.0)
        settled(pool, hung=0)
        assert pool.stats().closed == {"hung": 1}

    def test_a_database_without_transactions_is_put_up_with(self, driver: Any) -> None:
        def refuse(self: Any) -> None:
            raise driver.NotSupportedError

        driver.Connection.rollback = refuse
        with dbapi.create(driver.connect, max_size=1) as pool:
            for _ in range(3):
                pool.acquire().release()
            assert pool.stats().opened == 1

    @pytest.mark.parametrize("clean", [None, lambda connection: True])
    def test_an_interrupt_costs_the_connection_unless_cleanness_can_be_told(self, driver: Any, clean: Any) -> None:
        with dbapi.create(driver.connect, is_clean=clean) as pool:
            with pytest.raises(KeyboardInterrupt), pool.acquire():
                raise KeyboardInterrupt
            pool.acquire().release()
            until(lambda: pool.stats().closed == ({} if clean else {"discarded": 1}))

    def test_without_a_check_query_suspects_are_replaced_and_with_one_they_are_asked(self, backend: PG8000) -> None:
        for query in (None, "SELECT 1"):
            pool = backend.pool(max_size=2, check_query=query)
            leases = [pool.acquire(), pool.acquire()]
            victim = backend.session(leases[0].connection)
            leases[1].release()
            with pytest.raises(backend.errors), leases[0] as connection:
                backend.kill(victim)
                backend.ask(connection, 1)
            session_of(backend, pool)
            pool.close()
            assert ("stale" in pool.stats().closed) == (query is None)

    def test_a_close_that_fails_leaves_no_socket_open(self, backend: PG8000) -> None:
        factory = backend.pool(max_size=1)._factory
        held = factory.connect(5.0)
        backend.kill(backend.session(held.connection))
        number, kept = held.socket.fileno(), held.connection  # referenced: no collector has closed it
        factory.close(held)  # nobody is left to be told
        assert held.socket.fileno() == -1
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
        assert kept is not None

    @pytest.mark.parametrize(("kind", "news"), [("OperationalError", False), ("ProgrammingError", True)])
    def test_a_close_that_fails_as_the_connection_is_lost_is_no_news(
        self, driver: Any, caplog: pytest.LogCaptureFixture, kind: str, news: bool
    ) -> None:
        def close(connection: Any) -> None:
            raise getattr(driver, kind)("said by close()")

        driver.Connection.close = close
        with dbapi.create(driver.connect, workers="inline") as pool:
            pool.acquire().discard()
            assert pool.stats().closed == {"discarded": 1}
            assert pool.stats().errors == news
        assert ("closing a connection failed" in caplog.text) == news

    @pytest.mark.parametrize("module", ["fakedriver", "pymysql"])
    def test_a_close_that_is_refused_as_the_user_has_closed_it_is_no_news(
        self, driver: Any, mariadb: MariaDB, caplog: pytest.LogCaptureFixture, module: str
    ) -> None:
        def close(connection: Any) -> None:  # as pyodbc's
            if connection.closed:
                raise driver.ProgrammingError("attempt to use a closed connection")
            connection.closed = True

        driver.Connection.closed, driver.Connection.close = False, close
        connect = driver.connect if module == "fakedriver" else lambda: pymysql.connect(**mariadb.params)
        with dbapi.create(connect, workers="inline") as pool:
            with pool.acquire() as connection:
                connection.close()
            assert pool.stats().errors_by == {"reset": 1}
        assert "closing a connection failed" not in caplog.text

    def test_a_close_of_the_descriptor_alone_ends_what_a_thread_still_reads(self, driver: Any) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            connection = driver.connect()
            connection.channel, connection.close = ours, ours.close
            with dbapi.create(lambda: connection, module=driver, max_size=1) as pool:
                lease = pool.acquire()
                thread = threading.Thread(target=lambda: ours.recv(1))
                thread.start()
                time.sleep(0.05)  # until it reads
                lease.discard()
                thread.join(5.0)
                assert not thread.is_alive()
            assert theirs.recv(1) == b""

    def test_a_close_that_waits_for_the_user_does_not_wait_long(self, backend: PG8000) -> None:
        with dbapi.create(Likeness.connect, backend.server.url, module=psycopg, max_size=1) as pool:
            lease = pool.acquire()
            connection, outcome = lease.connection, Queue[Any]()
            connection.execute("SELECT 1")  # with a BEGIN, between which and the query it is not active

            def work() -> None:
                try:
                    outcome.put(connection.execute("SELECT pg_sleep(20)"))
                except psycopg.OperationalError as error:
                    outcome.put(error)

            threading.Thread(target=work).start()
            until(lambda: connection.get_transaction_status() == TransactionStatus.ACTIVE)
            lease.discard()
            with pool.acquire(timeout=5.0):
                assert isinstance(outcome.get(timeout=5.0), psycopg.OperationalError)

    def test_a_session_is_reset_by_what_the_user_says(self, driver: Any) -> None:
        with dbapi.create(
            driver.connect, reset="session", reset_session=lambda c: c.calls.append("reset"), workers="inline"
        ) as pool:
            pool.acquire().release()
            with pool.acquire() as connection:
                assert connection.calls == ["commit", "rollback", "reset", "commit"]

    def test_what_its_user_has_closed_is_not_clean_whatever_is_said(self, backend: PG8000) -> None:
        pool = backend.pool(max_size=1, is_clean=lambda c: True)
        with pool.acquire() as connection:
            connection.close()
        session_of(backend, pool)
        assert pool.stats().opened == 2

    def test_a_check_leaves_no_transaction_open(self, driver: Any) -> None:
        driver.Connection.cursor = lambda self: types.SimpleNamespace(
            execute=self.calls.append, fetchall=list, close=list
        )
        with dbapi.create(
            driver.connect, check_query="SELECT 1", check="ping", check_after=0.0, reset=None, workers="inline"
        ) as pool:
            with pool.acquire() as connection:
                connection.calls.clear()
            with pool.acquire() as connection:
                assert connection.calls == ["SELECT 1", "rollback"]


class TestAutocommit:
    @pytest.mark.parametrize("autocommit", [False, True])
    def test_a_transaction_is_one_whole_whatever_autocommit_is(self, backend: PG8000, autocommit: bool) -> None:
        pool = backend.pool(max_size=1, on_connect=lambda c: setattr(c, "autocommit", autocommit))
        with pytest.raises(KeyError), pool.transaction() as connection:
            backend.write(connection, 1)
            raise KeyError
        with pool.transaction() as connection:
            backend.write(connection, 2)
        with pool.acquire() as connection:
            assert connection.autocommit is autocommit
            assert [backend.written(connection, token) for token in (1, 2)] == [False, True]
        assert pool.stats().opened == 1

    def test_a_transaction_puts_autocommit_back_by_itself(self, backend: PG8000) -> None:
        """Where the next user gets what is clean without a reset."""
        pool = backend.pool(max_size=1, on_connect=lambda c: setattr(c, "autocommit", True), is_clean=lambda c: True)
        with pool.transaction() as connection:
            assert connection.autocommit is False
        with pool.acquire() as connection:
            assert connection.autocommit is True

    def test_a_transaction_begun_by_hand_is_rolled_back_where_the_driver_sees_none(self, backend: PG8000) -> None:
        url = backend.server.url
        with dbapi.create(Likeness.connect, url, connect_args={"autocommit": True}, module=psycopg, max_size=1) as pool:
            for last in ("SELECT 1", "SELECT nothing FROM nowhere"):
                with pool.acquire() as connection:
                    connection.execute("BEGIN")
                    with contextlib.suppress(psycopg.errors.UndefinedTable):
                        connection.execute(last)
                with pool.acquire() as connection:
                    assert not connection.get_transaction_status()
            assert pool.stats().opened == 1

    def test_it_is_restored_where_it_is_a_method_and_a_round_trip(self, mariadb: MariaDB) -> None:
        args = {**mariadb.params, "autocommit": True}
        with dbapi.create(pymysql.connect, connect_args=args, check_query="SELECT 1", max_size=1) as pool:
            for _ in range(2):
                with pool.acquire() as connection:
                    assert connection.get_autocommit()
                    connection.autocommit(False)
            with pool.transaction() as connection:
                assert not connection.get_autocommit()
            with pool.acquire() as connection:
                assert connection.get_autocommit()
            assert pool.stats().opened == 1


class TestSocket:
    def test_that_of_a_driver_in_python_is_found_and_looked_at(
        self, backend: PG8000, proxy: Callable[..., Proxy]
    ) -> None:
        between = proxy(backend.server)
        pool = backend.pool(backend.at(*between.address), max_size=1, check_after=0.0)
        session_of(backend, pool)
        settled(pool, idle=1)
        between.links()[0].cut()
        time.sleep(0.02)
        session_of(backend, pool)
        assert pool.stats().closed == {"broken": 1}

    def test_one_that_is_held_further_in_is_found(self, driver: Any) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            connection = driver.connect()
            connection.inner = driver.connect()
            connection.inner.channel = ours
            factory = DbapiFactory(lambda: connection, module=driver)
            held = factory.connect(1.0)
            assert factory.is_alive(held)
            theirs.close()
            assert not factory.is_alive(held)

    def test_a_descriptor_will_do(self, driver: Any) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            connection = driver.connect()
            connection.fileno = ours.fileno
            factory = DbapiFactory(lambda: connection, module=driver)
            held = factory.connect(1.0)
            assert factory.is_alive(held)
            factory.interrupt(held)
            assert not factory.is_alive(held)
            ours.close()
            assert not factory.is_alive(held)
            connection.fileno = "no function"  # so that it raises
            assert not factory.is_alive(held)

    @pytest.mark.parametrize(("closed", "alive"), [(0, True), (1, False), (True, False), (False, True), (print, True)])
    def test_a_driver_that_says_that_it_is_closed_is_believed(self, driver: Any, closed: Any, alive: bool) -> None:
        connection = driver.connect()
        connection.closed = closed
        factory = DbapiFactory(lambda: connection, module=driver)
        assert factory.is_alive(factory.connect(1.0)) is alive

    def test_where_nothing_can_be_seen_nothing_is_said(self, driver: Any) -> None:
        factory = DbapiFactory(driver.connect)
        held = factory.connect(1.0)
        assert factory.is_alive(held)
        factory.interrupt(held)
        factory.abandon(held)
        assert held.connection.calls == []

    def test_a_frozen_server_is_given_up_by_a_check(self, own_server: Callable[..., Postgres]) -> None:
        server = own_server("postgres")
        adapter = PG8000.__new__(PG8000)
        pool = adapter.open(server.url, None)
        factory: Any = pool._factory
        held = factory.connect(5.0)
        factory.check(held, 5.0)
        server.freeze()
        start = time.monotonic()
        with pytest.raises((pg8000.dbapi.InterfaceError, TimeoutError)) as caught:
            factory.check(held, 0.2)
        assert factory.is_broken(caught.value)
        assert 0.2 <= time.monotonic() - start < 0.2 + LATE  # nothing else would end it
        server.thaw()
        factory.interrupt(held)
        pool.close()
        factory.close(held)  # the socket's own close() waits for the file that pg8000 has made of it


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "args", "broken", "permanent", "retryable"),
        [
            ("OperationalError", ("the server has gone away",), True, False, False),
            ("InterfaceError", ("connection already closed",), True, False, False),
            ("ProgrammingError", ("syntax",), False, True, False),
            ("NotSupportedError", (), False, True, False),
            ("IntegrityError", ("duplicate",), False, False, False),
            ("OperationalError", ({"C": "57P01"},), True, False, False),
            ("OperationalError", ({"C": "40P01"},), False, False, True),
            ("OperationalError", ("40001", "serialization failure"), False, False, True),
            ("OperationalError", ({"C": "55P03"},), False, False, True),
            ("OperationalError", ("08S01", "link failure"), True, False, False),
            ("OperationalError", ({"C": "28P01"},), False, True, False),
            ("OperationalError", (1205, "lock wait timeout"), True, False, False),
            ("OperationalError", ("HY000", "server has gone away"), True, False, False),  # MySQL's libraries
            ("InterfaceError", ("HY000", "server has gone away"), True, False, False),
            ("IntegrityError", ("HY000", "some other thing"), False, False, False),
        ],
    )
    def test_they_are_sorted_by_class_and_sqlstate(
        self, driver: Any, name: str, args: Any, broken: bool, permanent: bool, retryable: bool
    ) -> None:
        factory, error = DbapiFactory(driver.connect), getattr(driver, name)(*args)
        assert factory.is_broken(error) is broken
        assert factory.is_permanent(error) is permanent
        assert factory.is_retryable(error) is retryable

    @pytest.mark.parametrize("attribute", ["sqlstate", "pgcode"])
    def test_an_sqlstate_may_be_an_attribute(self, driver: Any, attribute: str) -> None:
        error = driver.OperationalError("deadlock")
        setattr(error, attribute, "40P01")
        assert not DbapiFactory(driver.connect).is_broken(error)
        for nothing in (None, "HY000"):
            setattr(error, attribute, nothing)
            assert DbapiFactory(driver.connect).is_broken(error)

    def test_a_part_of_the_driver_that_is_missing_is_not_waited_for(self) -> None:
        """As where mysql.connector is to use its C extension and has none."""

        def connect() -> None:
            raise ImportError("the extension is not available")

        with dbapi.create(connect) as pool, pytest.raises(ConnectError, match="the extension is not available"):
            pool.acquire(5.0)
        assert pool.stats().errors_by["connect"] == 1

    def test_what_the_user_says_goes_first(self, driver: Any) -> None:
        def judge(error: BaseException) -> bool | None:
            return {"yes": True, "no": False}.get(str(error))

        factory = DbapiFactory(driver.connect, is_broken=judge)
        assert factory.is_broken(driver.IntegrityError("yes"))
        assert not factory.is_broken(driver.OperationalError("no"))
        assert factory.is_broken(driver.OperationalError("neither"))

    @pytest.mark.parametrize("error", [KeyError("08S01"), KeyboardInterrupt(), TimeoutError()])
    def test_what_is_not_the_drivers_says_nothing(self, driver: Any, error: BaseException) -> None:
        for factory in (DbapiFactory(driver.connect), DbapiFactory(lambda: None)):
            assert not factory.is_broken(error)
            assert not factory.is_permanent(error)
            assert not factory.is_retryable(error)


class TestThreadBound:
    """sqlite3 as it is by default refuses every other thread than the one that has connected."""

    def test_with_inline_workers_the_thread_that_uses_it_does_everything(self, tmp_path: Path) -> None:
        args = {"isolation_level": None}
        with dbapi.create(
            sqlite3.connect, tmp_path / "x.db", connect_args=args, workers="inline", max_uses=2, check_query="SELECT 1",
            check="ping", check_after=0.0,
        ) as pool:  # fmt: skip  # one argument list
            for number in range(5):
                with pool.acquire() as connection:
                    assert connection.execute("SELECT ?", (number,)).fetchone() == (number,)
            assert pool.stats().opened == 3
            assert pool.stats().errors == 0

    @pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")  # from Python 3.13 on
    def test_with_worker_threads_the_driver_says_what_is_wrong(self, tmp_path: Path) -> None:
        pool = dbapi.create(sqlite3.connect, tmp_path / "x.db", fail_after=0.0)
        with pool, pytest.raises(sqlite3.ProgrammingError, match="same thread"), pool.acquire() as connection:
            connection.execute("SELECT 1")
        # A worker that has not connected is refused the close as well: that is left to the collector, which is not to
        # come upon it in another test.
        del connection
        gc.collect()


def test_the_pool_is_a_pool_like_any_other(backend: PG8000) -> None:
    pool: Pool[Any] = backend.pool(max_size=1)
    assert isinstance(pool, pooling.Pool)
    with pool.acquire() as connection:
        assert type(connection) is pg8000.dbapi.Connection
        assert one(connection, "SELECT 1") == 1
        assert rows(connection, "SET TIME ZONE 'UTC'") == ()
