"""What users leave on connections to MySQL and MariaDB, and what the errors there mean."""

from __future__ import annotations

import contextlib
import gc
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql import _auth
from pymysql.constants import CLIENT, FIELD_TYPE
from pymysql.cursors import Cursor, SSCursor

from pooling import ConnectError, Pool, create_pool
from pooling.backends.mysql import MysqlFactory
from tests.backends.adapters_mysql import MySQL, in_transaction, one, rows
from tests.backends.contract import in_threads, session_of
from tests.proxy import Proxy
from tests.servers import MariaDB


@pytest.fixture
def backend(mariadb: MariaDB, tmp_path: Path) -> Iterator[MySQL]:
    with MySQL(mariadb, tmp_path) as adapter:
        yield adapter


@pytest.fixture(scope="module")
def undoing() -> Iterator[MariaDB]:
    """A server where a lock wait timeout undoes the whole transaction."""

    class Undoing(MariaDB):
        def _command(self) -> list[str]:
            return [*super()._command(), "--innodb-rollback-on-timeout=ON"]

    with Undoing(external=False) as server:
        yield server


class TestClean:
    """What is given back without a round trip, and what is not."""

    @pytest.mark.parametrize("autocommit", [False, True])
    def test_a_connection_is_called_clean_only_where_the_server_has_no_transaction(
        self, backend: MySQL, autocommit: bool
    ) -> None:
        factory = MysqlFactory(backend.url, {**backend.marked(None)(), "autocommit": autocommit})  # type: ignore[operator,misc]
        connection = factory.connect(5.0)
        notes = f"{backend.name}.notes"
        for statement in (
            "DO 1", "SELECT 1", f"SELECT * FROM {notes}", f"INSERT INTO {notes} VALUES (1)", "COMMIT",
            f"INSERT INTO {notes} VALUES (2), (2)", "SELECT nothing FROM nowhere", f"SELECT nothing FROM {notes}",
            "BEGIN", "SELECT 1", "ROLLBACK", "START TRANSACTION READ ONLY", "COMMIT AND CHAIN", "ROLLBACK AND NO CHAIN",
            f"SELECT * FROM {notes} FOR UPDATE", "SET autocommit = 1", "BEGIN", "SET autocommit = 0",
        ):  # fmt: skip  # a list
            with contextlib.suppress(pymysql.MySQLError):
                rows(connection, statement)
            clean = factory.is_clean(connection)
            open_ = in_transaction(connection)
            other = bool(one(connection, "SELECT @@autocommit")) != autocommit
            assert not (clean and (open_ or other)), statement
            # What was asked meanwhile has told the status, after errors too: nothing is dirty without need.
            assert factory.is_clean(connection) is not (open_ or other), statement
        factory.close(connection)

    @pytest.mark.parametrize("autocommit", [False, True])
    def test_uses_that_leave_nothing_open_cost_their_own_bytes_and_no_more(
        self, backend: MySQL, proxy: Callable[..., Proxy], autocommit: bool
    ) -> None:
        between = proxy(backend.server)
        pool = backend.pool(backend.at(*between.address), {"autocommit": autocommit}, max_size=1, check_after=0.0)
        session_of(backend, pool)
        before = between.bytes_from_client
        for token in range(50):
            with pool.acquire() as connection:
                assert backend.ask(connection, 100 + token) == 100 + token
        assert between.bytes_from_client - before == 50 * len(b"1234\x03SELECT 100")

    def test_a_command_that_nobody_read_the_answer_of_costs_the_connection(self, backend: MySQL) -> None:
        pool = backend.pool(max_size=1)
        with pool.acquire() as connection:
            connection._execute_command(3, b"SELECT 7")  # and then Ctrl-C
        session_of(backend, pool)
        assert pool.stats().closed == {"reset": 1}

    def test_an_answer_that_pymysql_did_not_expect_costs_the_connection(self, backend: MySQL) -> None:
        pool = backend.pool(max_size=1)
        with pytest.raises(pymysql.OperationalError, match="Out of Sync"), pool.acquire() as connection:
            connection._execute_command(3, b"SELECT 7")
            connection._read_ok_packet()  # it was a result
        session_of(backend, pool)
        assert pool.stats().closed == {"reset": 1}

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
    @pytest.mark.parametrize("mode", ["transaction", "session"])
    def test_an_answer_that_was_read_half_costs_the_connection(self, backend: MySQL, mode: Any, error: Any) -> None:
        pool = backend.pool(connect_args={"autocommit": True}, max_size=1, reset=mode)
        seen: list[Any] = []

        def convert(value: str) -> Any:
            seen.append(value)
            if len(seen) == 2:
                raise error
            return value

        with pytest.raises(error), pool.acquire() as connection:
            connection.decoders[FIELD_TYPE.VAR_STRING] = convert
            rows(connection, "SELECT 'a' UNION SELECT 'b' UNION SELECT 'c'")
        session_of(backend, pool)
        assert pool.stats().closed == {"reset": 1}

    def test_a_further_result_that_was_read_half_costs_the_connection(self, backend: MySQL) -> None:
        flags = {"client_flag": CLIENT.MULTI_STATEMENTS, "autocommit": True}
        pool = backend.pool(connect_args=flags, max_size=1)
        with pytest.raises(KeyError), pool.acquire() as connection:
            connection.decoders[FIELD_TYPE.VAR_STRING] = {}.__getitem__
            cursor = connection.cursor()
            cursor.execute("SELECT 1; SELECT 'a' UNION SELECT 'b'")
            cursor.nextset()
        session_of(backend, pool)
        assert pool.stats().closed == {"reset": 1}

    @pytest.mark.parametrize("mode", ["transaction", "session"])
    def test_an_unbuffered_result_never_reaches_the_next_user_and_its_holder_is_told(
        self, backend: MySQL, mode: Any
    ) -> None:
        pool = backend.pool(max_size=1, reset=mode)
        with pool.acquire() as connection:
            cursor = connection.cursor(SSCursor)
            cursor.execute("SELECT seq FROM seq_1_to_100000")
            assert cursor.fetchone() == (1,)
        session_of(backend, pool)
        assert pool.stats().closed == {"reset": 1}
        with pytest.raises(pymysql.OperationalError, match="the connection of this result is closed"):
            cursor.fetchone()
        del cursor, connection
        gc.collect()  # a destructor that reads on would be a warning

    def test_an_unbuffered_result_that_was_read_costs_nothing(self, backend: MySQL) -> None:
        pool = backend.pool(connect_args={"autocommit": True}, max_size=1)
        with pool.acquire() as connection, connection.cursor(SSCursor) as cursor:
            cursor.execute("SELECT seq FROM seq_1_to_1000")
            assert len(cursor.fetchall()) == 1000
            assert pool._factory.is_clean(connection)
        session_of(backend, pool)
        assert pool.stats().opened == 1

    @pytest.mark.parametrize("mode", ["transaction", "session"])
    def test_results_that_were_not_fetched_are_read_before_the_next_user_comes(self, backend: MySQL, mode: Any) -> None:
        flags = {"client_flag": CLIENT.MULTI_STATEMENTS, "autocommit": True}
        pool = backend.pool(connect_args=flags, max_size=1, reset=mode)
        with pool.acquire() as connection:
            connection.cursor().execute("SELECT 1; SELECT 2; SELECT 3")
            assert not pool._factory.is_clean(connection)
        session_of(backend, pool)
        assert pool.stats().opened == 1

    def test_a_distributed_transaction_is_not_left_to_the_next_user(self, backend: MySQL) -> None:
        pool = backend.pool(max_size=1)
        with pool.acquire() as connection:
            rows(connection, f"XA START '{backend.name}'")
            backend.write(connection, 1)
        with pool.acquire() as connection:
            assert not backend.written(connection, 1)
        assert pool.stats().closed == {"reset": 1}

    @pytest.mark.parametrize("mode", ["transaction", "session"])
    def test_one_that_is_prepared_can_be_ended_from_elsewhere_and_spoils_no_connection(
        self, backend: MySQL, mode: Any
    ) -> None:
        pool = backend.pool(max_size=1, reset=mode)
        with pool.acquire() as connection:
            rows(connection, f"XA START '{backend.name}'")
            backend.write(connection, 1)
            for statement in ("END", "PREPARE"):
                rows(connection, f"XA {statement} '{backend.name}'")
        with pool.acquire() as connection:
            backend.wait_for(1)  # until the first session is gone the transaction is its own
            backend.server.order(f"XA COMMIT '{backend.name}'")
            assert backend.written(connection, 1)
        assert pool.stats().closed == {"reset": 1}

    def test_a_connection_that_its_user_closed_says_nothing_of_the_others(self, backend: MySQL) -> None:
        pool = backend.pool(max_size=1)
        with pool.acquire() as connection:
            connection.close()
        session_of(backend, pool)
        assert pool.stats().closed == {"reset": 1}

    @pytest.mark.filterwarnings("ignore:The 'reconnect' argument is deprecated")
    @pytest.mark.parametrize("autocommit", [False, True])
    def test_one_that_its_user_has_connected_again_is_not_handed_on(self, backend: MySQL, autocommit: bool) -> None:
        pool = backend.pool(
            connect_args={"autocommit": autocommit},
            max_size=1,
            on_connect=lambda connection: rows(connection, "SET time_zone = '+09:00'"),
        )
        with pool.acquire() as connection:
            backend.kill(backend.session(connection))
            connection.ping(reconnect=True)
            assert one(connection, "SELECT @@time_zone") != "+09:00"  # nobody has set that up
        with pool.acquire() as connection:
            assert one(connection, "SELECT @@time_zone") == "+09:00"
        assert pool.stats().closed == {"reset": 1}

    def test_one_that_was_lost_and_whose_error_was_swallowed_is_broken(self, backend: MySQL) -> None:
        pool = backend.pool(max_size=1)
        with pool.acquire() as connection:
            backend.kill(connection.thread_id())
            with contextlib.suppress(pymysql.OperationalError):
                backend.ask(connection, 1)
        session_of(backend, pool)
        assert pool.stats().closed == {"broken": 1}

    def test_warnings_and_character_sets_do_not_make_it_look_busy(self, backend: MySQL) -> None:
        pool = backend.pool(connect_args={"autocommit": True}, max_size=1)
        for _ in range(2):
            with pool.acquire() as connection:
                rows(connection, "SELECT 1 / 0")
                assert connection.show_warnings()
            with pool.acquire() as connection:
                rows(connection, "SELECT 1")
                connection.set_character_set("utf8mb4")
        assert pool.stats().opened == 1

    def test_fifty_users_of_autocommit_cost_no_reset(self, backend: MySQL) -> None:
        pool: Pool[Any] = backend.pool(connect_args={"autocommit": True}, max_size=4, reset="transaction")
        seen: list[str] = []
        original = pool._factory.reset
        pool._factory.reset = lambda *args: (seen.append("reset"), original(*args))  # type: ignore[assignment,method-assign]
        in_threads(50, lambda _: session_of(backend, pool))
        assert seen == []


class TestSession:
    def test_the_set_up_of_a_new_connection_comes_again_after_a_reset(self, backend: MySQL) -> None:
        given = {
            "autocommit": None,
            "charset": "latin1",
            "collation": "latin1_german1_ci",
            "sql_mode": "ANSI",
            "init_command": f"USE {backend.name}",
        }
        pool = backend.pool(connect_args=given, max_size=1, reset="session")
        question = "SELECT @@autocommit, @@collation_connection, LEFT(@@sql_mode, 9), DATABASE(), CONNECTION_ID()"
        with pool.acquire() as connection:
            (first,) = rows(connection, question)
            assert first[:4] == (1, "latin1_german1_ci", "REAL_AS_F", backend.name)
            connection.set_character_set("utf8mb4")
            rows(connection, "SET autocommit = 0, sql_mode = ''")
            rows(connection, "USE information_schema")
        with pool.acquire() as connection:
            assert rows(connection, question) == (first,)
            assert connection.encoding == "cp1252"
            assert connection.autocommit_mode is None

    @pytest.mark.parametrize("autocommit", [False, True, None])
    def test_the_database_of_the_url_comes_again_after_a_reset(self, backend: MySQL, autocommit: bool | None) -> None:
        args = {"database": backend.name, "autocommit": autocommit}
        with create_pool(backend.url, args, max_size=1, reset="session") as pool:
            for _ in range(3):
                with pool.acquire() as connection:
                    assert one(connection, "SELECT DATABASE()") == backend.name
                    connection.select_db("information_schema")
            assert pool.stats().opened == 1

    @pytest.mark.parametrize("chosen", [False, True])
    def test_a_database_chosen_on_a_connection_without_one_does_not_stay(self, backend: MySQL, chosen: bool) -> None:
        url = backend.url.rpartition("/")[0]
        with create_pool(url, max_size=1, reset="session") as pool:
            with pool.acquire() as connection:
                if chosen:
                    connection.select_db(backend.name)
            with pool.acquire() as connection:
                assert one(connection, "SELECT DATABASE()") is None
            assert pool.stats().opened == 1 + chosen

    @pytest.mark.parametrize("database", [{}, {"database": ""}])
    @pytest.mark.parametrize("by", ["init_command", "on_connect"])
    def test_a_database_that_the_set_up_chooses_comes_again_after_a_reset(
        self, backend: MySQL, by: str, database: dict[str, str]
    ) -> None:
        url, choose = backend.url.rpartition("/")[0], f"USE {backend.name}"
        set_up = {"on_connect": lambda connection: connection.query(choose)} if by == "on_connect" else {}
        args = {**database, **({} if set_up else {"init_command": choose})}
        with create_pool(url, args, max_size=1, reset="session", **set_up) as pool:
            for _ in range(3):
                with pool.acquire() as connection:
                    assert one(connection, "SELECT DATABASE()") == backend.name
                    connection.select_db("information_schema")
            assert pool.stats().opened == 1

    @pytest.mark.parametrize("default", [False, True])
    @pytest.mark.parametrize("reset_by", ["taken on", "put off"])
    def test_a_role_is_again_what_it_was(self, backend: MySQL, default: bool, reset_by: str) -> None:
        user, role = f"user_{backend.name}", f"role`{backend.name}"
        quoted = f"`{role.replace('`', '``')}`"
        with contextlib.ExitStack() as undo:
            for made, thing in [("USER", user), ("ROLE", quoted)]:
                backend.server.order(f"CREATE {made} {thing}")
                undo.callback(backend.server.order, f"DROP {made} {thing}")
            backend.server.order(f"GRANT {quoted} TO {user}")
            backend.server.order(f"GRANT ALL ON {backend.name}.* TO {quoted}")
            if default:
                backend.server.order(f"SET DEFAULT ROLE {quoted} FOR {user}")
            args = {"user": user, "password": "", "init_command": None, "database": None}
            pool = backend.pool(connect_args=args, max_size=1, reset="session")
            undo.callback(pool.close)
            for _ in range(2):
                with pool.acquire() as connection:
                    assert one(connection, "SELECT CURRENT_ROLE()") == (role if default else None)
                    rows(connection, "SET ROLE " + (quoted if reset_by == "taken on" else "NONE"))
            assert pool.stats().opened == 1

    def test_a_server_that_is_too_old_for_it_is_named(self, backend: MySQL, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pooling.backends._mysql_connection._COM_RESET_CONNECTION", 0x77)
        factory = MysqlFactory(backend.url)
        connection = factory.connect(5.0)
        with pytest.raises(pymysql.NotSupportedError, match="too old for reset='session'") as caught:
            factory.reset(connection, "session")
        assert not factory.is_broken(caught.value)
        factory.close(connection)

    def test_what_on_connect_leaves_in_a_transaction_lasts(self, backend: MySQL) -> None:
        pool = backend.pool(max_size=1, on_connect=lambda c: backend.write(c, 1))
        with pool.acquire() as connection:
            assert backend.written(connection, 1)
            connection.rollback()
            assert backend.written(connection, 1)

    def test_an_autocommit_that_on_connect_has_switched_on_before_an_error_lasts(self, backend: MySQL) -> None:
        """An error tells no status: that autocommit is on, the server says with the next answer only."""

        def set_up(connection: Any) -> None:
            with contextlib.suppress(pymysql.MySQLError):
                connection.query("BEGIN NOT ATOMIC SET autocommit = 1; SIGNAL SQLSTATE '45000'; END")

        pool = backend.pool(max_size=1, on_connect=set_up)
        for _ in range(2):
            with pool.acquire() as connection:
                assert one(connection, "SELECT @@autocommit") == 1
        assert pool.stats().opened == 1

    def test_an_on_connect_that_leaves_a_result_unread_is_found_out(self, backend: MySQL) -> None:
        kept: list[Any] = []

        def set_up(connection: Any) -> None:
            kept.append(connection.cursor(SSCursor))
            kept[0].execute("SELECT 1")

        pool = backend.pool(on_connect=set_up, fail_after=0.0)
        with pytest.raises(ConnectError, match="not read to its end"):
            pool.acquire()


class TestTransaction:
    @pytest.mark.parametrize("autocommit", [False, True])
    def test_it_is_one_whole_whatever_autocommit_is(self, backend: MySQL, autocommit: bool) -> None:
        pool = backend.pool(connect_args={"autocommit": autocommit}, max_size=1)
        with pytest.raises(KeyError), pool.transaction() as connection:
            backend.write(connection, 1)
            raise KeyError
        with pool.transaction() as connection:
            backend.write(connection, 2)
            with contextlib.suppress(pymysql.IntegrityError):
                backend.write(connection, 2)
            backend.write(connection, 3)
        with pool.acquire() as connection:
            assert [backend.written(connection, token) for token in (1, 2, 3)] == [False, True, True]
        assert pool.stats().opened == 1

    @pytest.mark.parametrize("kind", [Cursor, SSCursor])  # the latter is told in the place of a row
    @pytest.mark.parametrize(("autocommit", "mode"), [(False, "session"), (True, "transaction")])
    def test_one_that_a_deadlock_has_rolled_back_does_not_end_as_if_it_were_committed(
        self, backend: MySQL, autocommit: bool, mode: Any, kind: type[Cursor]
    ) -> None:
        notes = f"{backend.name}.notes"
        backend.server.order(f"INSERT INTO {notes} VALUES (1), (2)")
        backend.server.order(f"CREATE TABLE {backend.name}.heavy AS SELECT * FROM {notes}")
        pool = backend.pool(connect_args={"autocommit": autocommit}, max_size=2, reset=mode)
        heavy = pool.acquire()
        heavy.connection.begin()
        rows(heavy.connection, f"UPDATE {backend.name}.heavy SET token = token + 10")  # the lighter one is rolled back
        rows(heavy.connection, f"SELECT * FROM {notes} WHERE token = 2 FOR UPDATE")
        with pytest.raises(pymysql.OperationalError, match="nothing to commit") as caught, pool.transaction() as light:
            rows(light, f"SELECT * FROM {notes} WHERE token = 1 FOR UPDATE")
            wait = threading.Thread(
                target=rows, args=(heavy.connection, f"SELECT * FROM {notes} WHERE token = 1 FOR UPDATE")
            )
            wait.start()
            time.sleep(0.1)
            with pytest.raises(pymysql.OperationalError, match="Deadlock") as deadlock, light.cursor(kind) as cursor:
                cursor.execute(f"SELECT * FROM {notes} WHERE token > 0 FOR UPDATE")
                cursor.fetchall()
            wait.join()
            backend.write(light, 3)
        heavy.release()
        factory = pool._factory
        for error in (caught.value, deadlock.value):
            assert factory.is_retryable(error)
            assert not factory.is_broken(error)
        assert pool.stats().opened == 2
        with pool.transaction() as connection, pool.transaction() as other:  # the next ones are not blamed
            backend.write(connection, 4)
            backend.write(other, 5)
        with pool.acquire() as connection:
            assert backend.written(connection, 3) is autocommit  # it came after the transaction
            assert backend.written(connection, 4)

    @pytest.mark.parametrize("undoes_all", [False, True])
    @pytest.mark.parametrize("autocommit", [False, True])
    def test_one_whose_lock_did_not_come_in_time_commits_all_or_nothing(
        self, undoes_all: bool, autocommit: bool, undoing: MariaDB, mariadb: MariaDB, tmp_path: Path
    ) -> None:
        with MySQL(undoing if undoes_all else mariadb, tmp_path) as backend:
            args = {"autocommit": autocommit, "use_unicode": False}
            pool = backend.pool(connect_args=args, max_size=2)
            with pool.transaction() as holder:
                backend.write(holder, 1)
                light = contextlib.ExitStack()
                connection = light.enter_context(pool.transaction())
                rows(connection, "SET innodb_lock_wait_timeout = 1")
                backend.write(connection, 2)
                with pytest.raises(pymysql.OperationalError) as timeout:
                    backend.write(connection, 1)
                assert timeout.value.args[0] == 1205
                backend.write(connection, 3)
                if undoes_all:
                    with pytest.raises(pymysql.OperationalError, match="nothing to commit") as caught:
                        light.close()
                    assert pool._factory.is_retryable(caught.value)
                else:
                    light.close()
            with pool.transaction() as connection, pool.transaction() as other:  # the next ones are not blamed
                backend.write(connection, 4)
                backend.write(other, 5)
            with pool.acquire() as connection:
                assert backend.written(connection, 2) is not undoes_all
                assert backend.written(connection, 3) is (not undoes_all or autocommit)  # it came after the transaction
                assert backend.written(connection, 4)
            assert pool.stats().opened == 2

    @pytest.mark.parametrize("mode", ["transaction", "session"])
    def test_one_is_not_blamed_for_a_deadlock_of_the_user_before(self, backend: MySQL, mode: Any) -> None:
        pool = backend.pool(max_size=1, reset=mode)
        with pool.acquire() as connection:
            connection.failed(pymysql.OperationalError(1213, "Deadlock found"))
        with pool.transaction() as connection:
            backend.write(connection, 1)
        assert pool.stats().opened == 1

    @pytest.mark.parametrize("again", ["begin", "rollback"])
    def test_one_that_its_user_begins_again_after_a_deadlock_is_committed(self, backend: MySQL, again: str) -> None:
        pool = backend.pool(max_size=1)
        with pool.transaction() as connection:
            backend.write(connection, 1)
            connection.failed(pymysql.OperationalError(1213, "Deadlock found"))
            getattr(connection, again)()
            backend.write(connection, 2)
        with pool.acquire() as connection:
            assert backend.written(connection, 2)

    def test_one_whose_connection_was_lost_does_not_end_as_if_it_were_committed(self, backend: MySQL) -> None:
        pool = backend.pool(max_size=1)
        with pytest.raises(pymysql.InterfaceError), pool.transaction() as connection:
            backend.kill(backend.session(connection))
            with contextlib.suppress(pymysql.OperationalError):
                backend.write(connection, 1)
        session_of(backend, pool)

    @pytest.mark.filterwarnings("ignore:Previous unbuffered result was left incomplete")
    def test_one_that_fails_in_the_middle_of_a_long_result_does_not_read_the_rest_of_it(self, backend: MySQL) -> None:
        pool = backend.pool(max_size=1)
        began = time.monotonic()
        with pytest.raises(KeyError), pool.transaction() as connection:
            backend.write(connection, 1)
            cursor = connection.cursor(SSCursor)
            cursor.execute("SELECT SLEEP(0.05), REPEAT('x', 50000) FROM information_schema.collations")  # hundreds
            cursor.fetchone()
            raise KeyError
        assert time.monotonic() - began < 5.0
        with pool.acquire() as connection:
            assert not backend.written(connection, 1)
        assert pool.stats().closed == {"reset": 1}

    @pytest.mark.filterwarnings("ignore:The 'reconnect' argument is deprecated")
    @pytest.mark.parametrize("autocommit", [False, True])
    def test_one_whose_connection_was_opened_anew_does_not_end_as_if_it_were_committed(
        self, backend: MySQL, autocommit: bool
    ) -> None:
        pool = backend.pool(connect_args={"autocommit": autocommit}, max_size=1)
        with pytest.raises(pymysql.InterfaceError, match="transaction lost"), pool.transaction() as connection:
            backend.write(connection, 1)
            backend.kill(backend.session(connection))
            connection.ping(reconnect=True)
        with pool.acquire() as connection:
            assert not backend.written(connection, 1)


class TestErrors:
    def test_which_errors_of_the_server_break_a_connection(self, backend: MySQL) -> None:
        factory = MysqlFactory(backend.url)
        connection = factory.connect(5.0)
        notes = f"{backend.name}.notes"
        for statement, fatal in [
            ("SELECT nothing FROM nowhere", False),
            ("frobnicate", False),
            (f"INSERT INTO {notes} VALUES (1), (1)", False),
            ("SET STATEMENT max_statement_time = 0.01 FOR SELECT SLEEP(1)", False),
            ("KILL QUERY CONNECTION_ID()", False),
            ("START TRANSACTION READ ONLY", None),
            (f"INSERT INTO {notes} VALUES (1)", True),  # as on a primary that was demoted
            ("KILL CONNECTION_ID()", True),
            ("SELECT 1", True),  # lost
            ("SELECT 1", True),  # known to be lost
        ]:
            if fatal is None:
                rows(connection, statement)
                continue
            with pytest.raises(pymysql.MySQLError) as caught:
                rows(connection, statement)
            assert factory.is_broken(caught.value) is fatal, caught.value

    def test_a_server_that_was_made_read_only_costs_the_connection(self, backend: MySQL) -> None:
        order, user = backend.server.order, f"{backend.name}_u"
        order(f"CREATE USER {user}")
        order(f"GRANT ALL ON {backend.name}.* TO {user}")
        pool = backend.pool(connect_args={"user": user, "password": "", "database": None}, max_size=1)
        order("SET GLOBAL read_only = 1")
        try:
            with pytest.raises(pymysql.OperationalError, match="1290"), pool.acquire() as connection:
                backend.write(connection, 1)
        finally:
            order("SET GLOBAL read_only = 0")
        session_of(backend, pool)
        assert pool.stats().closed == {"broken": 1}
        pool.close()
        order(f"DROP USER {user}")

    def test_an_option_that_prevents_something_else_does_not(self) -> None:
        text = "The MySQL server is running with the --secure-file-priv option so it cannot execute this statement"
        assert not MysqlFactory().is_broken(pymysql.OperationalError(1290, text))

    def test_a_clusters_node_that_has_lost_the_others_refuses_everything(self) -> None:
        """It answers pings and takes logins: a check would pass."""
        lost = pymysql.OperationalError(1047, "WSREP has not yet prepared node for application use")
        unknown = pymysql.OperationalError(1047, "Unknown command")
        factory, connection = MysqlFactory(), pymysql.Connection(defer_connect=True)
        assert factory.is_broken(lost)
        assert factory.is_broken(unknown)
        for opinion in (factory.is_retryable, partial(factory.is_demoted, connection)):
            assert opinion(lost)
            assert not opinion(unknown)

    @pytest.mark.parametrize("error", [KeyError(1290), KeyboardInterrupt(), pymysql.MySQLError()])
    def test_what_says_nothing_of_the_connection_breaks_nothing(self, error: BaseException) -> None:
        factory = MysqlFactory()
        assert not factory.is_broken(error)
        assert not factory.is_permanent(error)
        assert not factory.is_retryable(error)

    @pytest.mark.parametrize("package", ["cryptography", "nacl"])
    def test_a_package_that_is_missing_to_authenticate_is_missing_for_good(
        self, monkeypatch: pytest.MonkeyPatch, package: str
    ) -> None:
        monkeypatch.setattr(_auth, "_have_cryptography", False)
        monkeypatch.setattr(_auth, "_nacl_bindings", None)
        monkeypatch.setitem(sys.modules, "nacl", None)  # what makes an import fail
        ask = _auth.sha2_rsa_encrypt if package == "cryptography" else _auth.ed25519_password
        with pytest.raises(RuntimeError, match=f"{package}' package is required") as caught:
            ask(*[b"secret"] * len(inspect.signature(ask).parameters))
        assert MysqlFactory().is_permanent(caught.value)
        assert not MysqlFactory().is_permanent(RuntimeError("can't start new thread"))

    def test_errors_without_a_number_are_known_by_their_words(self) -> None:
        assert MysqlFactory().is_broken(pymysql.InternalError("Packet sequence number wrong - got 1 expected 2"))

    @pytest.mark.parametrize(
        ("code", "retryable"),
        [
            (1213, True), (1205, True), (3572, True), (1020, True), (3101, True), (1792, True), (1836, True),
            (2003, True), (1040, True), (2013, False), (2006, False), (1290, False),
        ],
    )  # fmt: skip  # a list
    def test_what_may_be_tried_again(self, code: int, retryable: bool) -> None:
        assert MysqlFactory().is_retryable(pymysql.OperationalError(code, "")) is retryable

    def test_a_lock_wait_timeout_costs_no_connection(self, backend: MySQL) -> None:
        pool = backend.pool(max_size=2, on_connect=lambda c: rows(c, "SET innodb_lock_wait_timeout = 1"))
        with pool.acquire() as holder:
            backend.write(holder, 1)
            with pytest.raises(pymysql.OperationalError, match="1205"), pool.acquire() as connection:
                backend.write(connection, 2)
                backend.write(connection, 1)
        with pool.acquire() as connection:
            assert not backend.written(connection, 2)
        assert pool.stats().opened == 2

    def test_a_session_ended_for_idling_is_found_before_it_is_handed_out(self, backend: MySQL) -> None:
        pool = backend.pool(
            max_size=1, check_after=0.5, connect_args={"init_command": f"SET wait_timeout = 1, @x = '{backend.name}'"}
        )
        first = session_of(backend, pool)
        time.sleep(1.5)
        assert session_of(backend, pool) != first

    def test_a_closed_connection_can_be_asked_everything(self, backend: MySQL) -> None:
        factory = MysqlFactory(backend.url)
        connection = factory.connect(5.0)
        assert factory.is_alive(connection)
        assert factory.is_clean(connection)
        factory.close(connection)
        factory.close(connection)
        factory.interrupt(connection)
        factory.abandon(connection)
        assert not factory.is_alive(connection)
        assert not factory.is_clean(connection)
        with pytest.raises(pymysql.MySQLError):
            factory.check(connection, 1.0)
        with pytest.raises(pymysql.InterfaceError):
            factory.reset(connection, "transaction")
