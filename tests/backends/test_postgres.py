"""What is special about PostgreSQL by psycopg."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import errors

from pooling import ConnectError, Pool, create_pool
from pooling.backends import ConnectArgsError
from pooling.backends.postgres import PostgresFactory
from tests.backends.adapters import PostgreSQL
from tests.backends.contract import fill, in_threads, run_python, session_of
from tests.proxy import Proxy
from tests.servers import PgBouncer, Postgres
from tests.waiting import LATE, until


@pytest.fixture
def backend(postgres: Postgres, tmp_path: Path) -> Iterator[PostgreSQL]:
    with PostgreSQL(postgres, tmp_path) as adapter:
        yield adapter


@pytest.fixture(scope="module")
def tls_server() -> Iterator[Postgres]:
    with Postgres(tls=True, external=False) as server:
        yield server


def one(connection: Any, statement: str) -> Any:
    return connection.execute(statement).fetchone()[0]


def message(kind: bytes, body: bytes) -> bytes:
    """A message of the server's, as it is on the wire."""
    return kind + struct.pack("!i", len(body) + 4) + body


def report(severity: bytes, code: bytes, text: bytes) -> bytes:
    return b"S" + severity + b"\0V" + severity + b"\0C" + code + b"\0M" + text + b"\0\0"


NOTICE = message(b"N", report(b"WARNING", b"01000", b"mind the step"))
PARAMETER = message(b"S", b"TimeZone\0Asia/Tokyo\0")
NOTIFICATION = message(b"A", struct.pack("!i", 1) + b"channel\0payload\0")
FAREWELL = message(b"E", report(b"FATAL", b"57P01", b"terminating connection due to administrator command"))


class TestIdle:
    @pytest.fixture
    def between(self, backend: PostgreSQL, proxy: Callable[..., Proxy]) -> Proxy:
        return proxy(backend.server)

    @pytest.fixture
    def pool(self, backend: PostgreSQL, between: Proxy) -> Pool[Any]:
        pool = backend.pool(backend.at(*between.address), {"autocommit": True}, max_size=1, check_after=0.0)
        session_of(backend, pool)
        return pool

    @pytest.mark.parametrize("news", [NOTICE, PARAMETER, NOTIFICATION, NOTICE * 5000])
    def test_news_of_the_server_is_taken_in_and_the_connection_is_kept(
        self, backend: PostgreSQL, pool: Pool[Any], between: Proxy, news: bytes
    ) -> None:
        between.links()[0].client.sendall(news[:60000])
        between.links()[0].client.send(news[60000:120000])
        time.sleep(0.02)
        before = between.bytes_from_client
        for _ in range(10):
            pool.acquire().release()
        assert between.bytes_from_client == before
        assert pool.stats().opened == 1

    def test_a_server_that_has_said_goodbye_is_believed_before_it_hangs_up(
        self, pool: Pool[Any], between: Proxy
    ) -> None:
        between.links()[0].client.sendall(FAREWELL)
        time.sleep(0.02)
        with pool.acquire() as connection:
            assert one(connection, "SELECT 1") == 1
        assert pool.stats().closed == {"broken": 1}

    @pytest.mark.parametrize("fault", ["cut", "reset"])
    def test_an_end_without_a_word_is_seen(self, pool: Pool[Any], between: Proxy, fault: str) -> None:
        getattr(between.links()[0], fault)()
        time.sleep(0.02)
        with pool.acquire() as connection:
            assert one(connection, "SELECT 1") == 1
        assert pool.stats().closed == {"broken": 1}

    def test_real_notifications_reach_the_one_who_listens(self, backend: PostgreSQL, pool: Pool[Any]) -> None:
        with pool.acquire() as connection:
            connection.execute("LISTEN news")
        backend.admin.execute("NOTIFY news, 'hello'")
        time.sleep(0.02)
        with pool.acquire() as connection:
            connection.execute("SELECT 1")
            assert [note.payload for note in connection.notifies(timeout=0.0)] == ["hello"]
        assert pool.stats().opened == 1

    @pytest.mark.parametrize("check", ["peek", "ping"])
    def test_those_that_a_look_has_taken_in_reach_who_sends_nothing(self, backend: PostgreSQL, check: Any) -> None:
        pool = backend.pool(backend.url, {"autocommit": True}, max_size=1, check=check, check_after=0.0)
        with pool.acquire() as connection:
            connection.execute("LISTEN news")
        for payload in ("1", "2"):
            backend.admin.execute(f"NOTIFY news, '{payload}'")
            time.sleep(0.02)
            pool.acquire().release()
        with pool.acquire() as connection:
            assert [note.payload for note in connection.notifies(timeout=0.1)] == ["1", "2"]
        assert pool.stats().opened == 1


class TestTLS:
    @pytest.fixture
    def secure(self, tls_server: Postgres, tmp_path: Path) -> Iterator[PostgreSQL]:
        with PostgreSQL(tls_server, tmp_path) as adapter:
            yield adapter

    def test_it_stays_warm_without_a_byte_and_is_recognised_when_dead(
        self, secure: PostgreSQL, proxy: Callable[..., Proxy]
    ) -> None:
        between = proxy(secure.server)
        pool = secure.pool(secure.at(*between.address), {"autocommit": True}, max_size=1, check_after=0.0)
        with pool.acquire() as connection:
            assert connection.pgconn.ssl_in_use
        before = between.bytes_from_client, between.bytes_from_server
        for _ in range(20):
            pool.acquire().release()
        assert (between.bytes_from_client, between.bytes_from_server) == before
        first = session_of(secure, pool)
        secure.kill(first)
        assert session_of(secure, pool) != first
        assert pool.stats().closed == {"broken": 1}

    def test_a_forked_child_says_nothing_on_the_parents_session(self, secure: PostgreSQL) -> None:
        script = "import sys; from tests.backends.forking import main; main(*sys.argv[1:])"
        run_python(script, "PostgreSQL", secure.url, str(secure.folder), "exit")


class TestSetUp:
    def test_what_on_connect_leaves_in_a_transaction_lasts(self, backend: PostgreSQL) -> None:
        pool = backend.pool(max_size=1, on_connect=lambda c: c.execute("SET TIME ZONE 'Asia/Tokyo'"))
        for _ in range(3):
            with pool.acquire() as connection:
                assert one(connection, "SHOW TIME ZONE") == "Asia/Tokyo"
        assert pool.stats().opened == 1

    def test_an_on_connect_that_hides_a_failure_is_found_out(self, backend: PostgreSQL) -> None:
        def set_up(connection: Any) -> None:
            with contextlib.suppress(errors.UndefinedTable):
                backend.mistake(connection)

        pool = backend.pool(on_connect=set_up, fail_after=0.0)
        with pytest.raises(ConnectError, match="on_connect has left a failed transaction"):
            pool.acquire()

    def test_an_on_connect_that_leaves_something_open_is_found_out(self, backend: PostgreSQL) -> None:
        kept: list[Any] = []

        def set_up(connection: Any) -> None:
            kept.append(block := connection.pipeline())
            block.__enter__()

        pool = backend.pool(on_connect=set_up, fail_after=0.0)
        with pytest.raises(ConnectError, match="on_connect has left something open: a pipeline was not ended"):
            pool.acquire()

    def test_a_function_that_could_not_read_its_file_is_asked_again(self, backend: PostgreSQL) -> None:
        files = iter(['{"application_name": ', "{}"])
        pool = backend.pool(connect_args=lambda: json.loads(next(files)), timeout=10.0)
        session_of(backend, pool)
        assert next(files, None) is None

    def test_a_function_that_fails_is_told_by_what_it_raised_and_without_a_secret(self, backend: PostgreSQL) -> None:
        def credentials() -> dict[str, Any]:
            raise ValueError("cannot read password=hunter22 from the file")

        pool = backend.pool(connect_args=credentials, fail_after=0.0)
        with pytest.raises(ConnectError, match="connect_args raised ValueError: cannot read password=") as caught:
            pool.acquire()
        told = "".join(traceback.format_exception(caught.value))
        assert "\nValueError: cannot read" in told
        assert told.count("hunter22") == 1  # the line of code above

    @pytest.mark.parametrize("url", ["postgresql:", "mysql:", "redis:", "mongodb:", "http:", "sqlite:"])
    @pytest.mark.parametrize("kind", [ValueError, TypeError, AttributeError, FileNotFoundError])
    def test_what_a_function_raises_is_taken_for_passing_by_every_backend(
        self, url: str, kind: type[Exception]
    ) -> None:
        given = kind("authentication failed: it does not exist, certificate verify failed")

        def credentials() -> dict[str, Any]:
            raise given

        with create_pool(f"{url}//" + ("" if url == "sqlite:" else "127.0.0.1"), credentials) as pool:
            factory = pool._factory
            with pytest.raises(ConnectArgsError) as caught:
                factory.connect(1.0)
            assert caught.value.__cause__ is given
            assert not factory.is_permanent(caught.value)

    def test_a_password_may_rotate(self, backend: PostgreSQL) -> None:
        passwords = iter(["yesterday's", "secret"])
        url = backend.server.guarded_url.replace(":secret@", "@")
        pool = backend.pool(url, lambda: {"password": next(passwords)}, timeout=5.0)
        with pytest.raises(ConnectError, match="authentication failed"):
            pool.acquire()
        end = time.monotonic() + 5.0
        while pool.stats().state != "up":  # the next try comes by itself
            assert time.monotonic() < end
            time.sleep(0.01)
        session_of(backend, pool)

    @pytest.mark.parametrize(
        ("given", "pools", "used"), [("3", 10.0, 3), ("30", 2.5, 3), ("0", 4.0, 4), ("1.5", 4.0, 1)]
    )
    def test_the_shorter_connect_timeout_counts(
        self, given: str, pools: float, used: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Any] = []
        monkeypatch.setattr(psycopg.Connection, "connect", lambda _, **args: seen.append(args["connect_timeout"]))
        for factory in (
            PostgresFactory(f"postgresql://db/shop?connect_timeout={given}"),
            PostgresFactory("postgresql://db/shop", {"connect_timeout": given}),
        ):
            with pytest.raises(AttributeError):
                factory.connect(pools)
        assert seen == [used, used]

    @pytest.mark.parametrize("given", ["abc", "nan", "inf"])
    def test_a_connect_timeout_that_is_no_number_is_told_by_its_name(self, given: str) -> None:
        told = f"connect_timeout must be a number of seconds, not '{given}'"
        with (
            create_pool(f"postgresql://db/shop?connect_timeout={given}") as pool,
            pytest.raises(ConnectError, match=told),
        ):
            pool.acquire()

    @pytest.mark.parametrize(("hosts", "each"), [("a", 10), ("a,b", 5), ("a,b,c", 4)])
    def test_several_hosts_share_the_time(self, hosts: str, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Any] = []
        monkeypatch.setattr(psycopg.Connection, "connect", lambda _, **args: seen.append(args["connect_timeout"]))
        with pytest.raises(AttributeError):
            PostgresFactory(f"postgresql://{hosts}/shop").connect(10.0)
        assert seen == [each]

    @pytest.mark.parametrize("patience", [3.0, 2.0, 1.0])
    def test_a_host_behind_others_that_do_not_answer_is_reached(self, backend: PostgreSQL, patience: float) -> None:
        host, port = urlsplit(backend.url).netloc.rpartition("@")[2].split(":")
        with contextlib.ExitStack() as stack:
            deaf = [stack.enter_context(socket.create_server((host, 0))) for _ in range(2)]
            ports = ",".join([*(str(one.getsockname()[1]) for one in deaf), port])
            query = f"host={host},{host},{host}&port={ports}"
            url = f"postgresql://postgres@/postgres?{query}"
            pool = stack.enter_context(create_pool(url, connect_timeout=patience, max_size=1, timeout=20.0))
            with pool.acquire() as connection:
                assert str(connection.info.port) == port


class TestTransaction:
    @pytest.mark.parametrize("autocommit", [False, True])
    def test_it_is_one_whole_with_psycopgs_own_blocks_in_it(self, backend: PostgreSQL, autocommit: bool) -> None:
        pool = backend.pool(connect_args={"autocommit": autocommit}, max_size=1)
        with pytest.raises(KeyError), pool.transaction() as connection:
            with connection.transaction():
                backend.write(connection, 1)
            raise KeyError
        with pool.transaction() as connection:
            with pytest.raises(KeyError), connection.transaction():
                backend.write(connection, 2)
                raise KeyError
            backend.write(connection, 3)
        with pool.acquire() as connection:
            assert [backend.written(connection, token) for token in (1, 2, 3)] == [False, False, True]
        assert pool.stats().opened == 1

    @pytest.mark.parametrize("autocommit", [False, True])
    def test_it_begins_with_the_connections_isolation_level(self, backend: PostgreSQL, autocommit: bool) -> None:
        def set_up(connection: Any) -> None:
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE

        pool = backend.pool(connect_args={"autocommit": autocommit}, on_connect=set_up)
        with pool.transaction() as connection:
            assert one(connection, "SHOW transaction_isolation") == "serializable"

    def test_one_that_has_failed_does_not_end_as_if_it_were_committed(self, backend: PostgreSQL) -> None:
        pool = backend.pool(max_size=1)
        with pytest.raises(errors.InFailedSqlTransaction), pool.transaction() as connection:
            backend.write(connection, 1)
            with contextlib.suppress(errors.UndefinedTable):
                backend.mistake(connection)
        with pool.acquire() as connection:
            assert not backend.written(connection, 1)
        assert pool.stats().opened == 1

    def test_one_whose_connection_was_lost_does_not_end_as_if_it_were_committed(self, backend: PostgreSQL) -> None:
        pool = backend.pool(max_size=1)
        with pytest.raises(psycopg.OperationalError, match="nothing was committed"), pool.transaction() as connection:
            backend.kill(backend.session(connection))
            with contextlib.suppress(psycopg.OperationalError):
                backend.write(connection, 1)
        session_of(backend, pool)


def _is_told_at_once(pool: Pool[Any]) -> None:
    """And not after fail_after, nor by a PoolTimeout."""
    with pytest.raises(ConnectError):
        pool.acquire(timeout=5.0)
    assert pool._ledger.outage.permanent


class TestErrors:
    @pytest.mark.parametrize(
        "conninfo",
        [
            "postgresql://anna:hid@den@db/shop",
            "postgresql://anna:hid/den@db/shop",
            "postgresql://anna:hid%den@db/shop",
            "postgresql://[anna:hidden",
            "host=db hidden",
        ],
    )
    def test_a_malformed_string_is_refused_and_not_repeated(self, conninfo: str) -> None:
        with pytest.raises(ValueError, match="cannot be read") as caught:
            PostgresFactory(conninfo)
        assert "hid" not in str(caught.value)
        assert "den" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize(
        ("conninfo", "where"),
        [
            ("service=shop", "service=shop"), ("postgresql:///?service=shop", "service=shop"),
            ("hostaddr=10.0.0.1 dbname=shop", "10.0.0.1:5432/shop"), ("dbname=shop", "away:6543/shop"),
            ("postgresql://db/shop?service=others", "db:6543/shop"),
        ],
    )  # fmt: skip  # a table
    def test_a_pool_is_called_by_where_it_leads(
        self, conninfo: str, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGHOST", "away")
        monkeypatch.setenv("PGPORT", "5432" if "hostaddr" in conninfo else "6543")
        assert PostgresFactory(conninfo).where == where

    @pytest.mark.parametrize(
        ("query", "told"),
        [
            ("sslmod=require", "unknown option 'sslmod' in the PostgreSQL URL, did you mean 'sslmode'?"),
            ("application_name=a&SSLMODE=require", "'SSLMODE' in the PostgreSQL URL, did you mean 'sslmode'?"),
            ("applicaton_name=a", "'applicaton_name' in the PostgreSQL URL, did you mean 'application_name'?"),
            ("ssl=require", "'ssl' in the PostgreSQL URL, did you mean 'sslmode'?"),
            ("ht%74pproxy=1", "unknown option 'httpproxy' in the PostgreSQL URL"),
            ("max_size=5", "'max_size' is an option of the pool and not of the PostgreSQL URL: create_pool(url, max"),
        ],
    )
    def test_a_wrong_option_is_told_with_the_nearest(self, query: str, told: str) -> None:
        with pytest.raises(TypeError, match=re.escape(told)) as caught:
            create_pool(f"postgresql://anna:hidden@db/shop?{query}")
        assert "hidden" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize(
        "conninfo",
        [
            "postgresql://anna:hid?den=1@db/shop?sslmod=require",
            "postgresql://anna:12?hid=1@db/shop?sslmod=require",
            "postgresql://anna:hid/den?hidden=1",
            "postgresql://anna@db/shop?sslmode",
            "host=db password=hid den=1",
        ],
    )
    def test_what_may_be_the_rest_of_a_password_is_not_told(self, conninfo: str) -> None:
        with pytest.raises(ValueError, match="cannot be read") as caught:
            PostgresFactory(conninfo)
        assert "hid" not in str(caught.value)

    @pytest.mark.parametrize(
        "query",
        [
            "sslmode=foo",
            "target_session_attrs=foo",
            "require_auth=foo",
            "require_auth=scram-sha-256",
            "channel_binding=require",
            "sslmode=disable&sslrootcert=system",
            "service=nowhere",
            "hostaddr=foo",
            "port=99999",
            "keepalives=foo",
            "client_encoding=foo",
            "options=-c%20nonsense%3D1",
            "options=-c%20statement_timeout%3Dabc",
            "options=-c%20statement_timeout%3D-5",
            "options=-c%20max_connections%3D5",
            "options=nonsense",
        ],
    )
    def test_options_that_can_never_be_right_are_told_at_once(self, backend: PostgreSQL, query: str) -> None:
        _is_told_at_once(backend.pool(f"{backend.url}?{query}"))

    def test_a_number_that_is_none_is_told_at_once_in_the_words_of_an_older_libpq(self) -> None:
        error = psycopg.OperationalError("connection is bad: keepalives parameter must be an integer")  # until libpq 16
        assert PostgresFactory().is_permanent(error)

    @pytest.mark.parametrize(
        "said",
        [
            'FATAL:  pg_hba.conf rejects connection for host "10.0.0.7", user "anna", database "shop", no encryption',
            'private key file "/k.pem" has group or world access; file must have permissions u=rw (0600) or less',
            'could not load private key file "/k.pem": key values mismatch',
            'certificate present, but not private key file "/k.pem"',
            "SSL error: ssl/tls alert certificate expired",
            "SSL error: sslv3 alert bad certificate",
            "SSL error: tlsv1 alert unknown ca",
            "SSL error: tlsv1 alert protocol version",
            "FATAL:  login rejected",  # PgBouncer's word for pg_hba.conf's "rejects"
            "FATAL:  SSL required",  # and for a client that comes without
        ],
    )
    def test_a_refusal_of_who_asks_or_of_his_certificate_is_told_at_once(self, said: str) -> None:
        at = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '
        assert PostgresFactory().is_permanent(psycopg.OperationalError(at + said))

    def test_a_setting_that_this_user_may_not_make_is_told_at_once(self, backend: PostgreSQL) -> None:
        _is_told_at_once(backend.pool(f"{backend.server.guarded_url}?options=-c%20log_statement%3Dall"))

    def test_a_value_that_on_connect_cannot_set_is_told_at_once(self, backend: PostgreSQL) -> None:
        _is_told_at_once(backend.pool(on_connect=lambda c: c.execute("SET statement_timeout = 'abc'")))

    def test_of_several_hosts_all_have_to_refuse_for_good(self, backend: PostgreSQL) -> None:
        """One that restarts is waited for, whatever the other one says."""
        url = urlsplit(backend.url)
        for hosts, permanent in (("127.0.0.1:1,{}", False), ("{},127.0.0.1:1", False), ("{0},{0}", True)):
            with pytest.raises(psycopg.OperationalError, match="does not exist") as caught:
                PostgresFactory(f"postgresql://postgres@{hosts.format(url.netloc.rpartition('@')[2])}/nowhere").connect(
                    5
                )
            assert PostgresFactory().is_permanent(caught.value) is permanent, caught.value

    def test_a_host_of_several_addresses_refuses_for_good_where_one_of_them_does(self) -> None:
        """As "localhost" mostly is one, with a server on the first alone."""
        refused = "host: 'localhost', port: '5432', hostaddr: '127.0.0.1': FATAL:  password authentication failed"
        nobody = "host: 'localhost', port: '5432', hostaddr: '::1': Connection refused"
        text = f"connection failed\nMultiple connection attempts failed. All failures were:\n- {refused}\n- {nobody}"
        assert PostgresFactory().is_permanent(psycopg.OperationalError(text))
        elsewhere = psycopg.OperationalError(
            text.replace("'localhost', port: '5432', hostaddr: '::1'", "'b', port: '5'")
        )
        assert not PostgresFactory().is_permanent(elsewhere)

    def test_a_server_that_is_no_standby_may_become_one(self, backend: PostgreSQL) -> None:
        pool = backend.pool(f"{backend.url}?target_session_attrs=standby", fail_after=0.0)
        with pytest.raises(ConnectError, match="not in hot standby mode"):
            pool.acquire()
        assert not pool._ledger.outage.permanent

    def test_what_the_manual_says_of_prepared_statements_behind_a_bouncer(
        self, own_server: Callable[..., Postgres]
    ) -> None:
        """In transaction mode one connection of the bouncer's serves several of ours, in turn."""
        args = {"prepare_threshold": None, "autocommit": True}
        with (
            PgBouncer(own_server("postgres")) as bouncer,
            create_pool(bouncer.url, args, max_size=2) as pool,
            pool.acquire() as first,
            pool.acquire() as second,
        ):
            for connection in [first, second] * 10:
                assert connection.execute("SELECT %s::int", [1]).fetchone() == (1,)

    def test_a_bouncer_that_refuses_an_option_is_believed(self, own_server: Callable[..., Postgres]) -> None:
        with PgBouncer(own_server("postgres")) as bouncer, create_pool(f"{bouncer.url}?replication=bogus") as pool:
            try:
                psycopg.connect(f"{bouncer.url}?replication=bogus").close()
            except psycopg.OperationalError:
                _is_told_at_once(pool)
            else:
                pytest.skip("this PgBouncer, of 1.26 perhaps, takes it")

    def test_the_factory_shows_no_password(self) -> None:
        factory = PostgresFactory("host=db1,db2 port=5432,5433 user=anna password=hidden dbname=shop")
        assert repr(factory) == "PostgresFactory(db1,db2:5432,5433/shop)"

    def test_which_errors_break_a_connection(self, backend: PostgreSQL) -> None:
        broken = PostgresFactory().is_broken
        connection = psycopg.connect(backend.url, autocommit=True)
        for statement, fatal in [
            ("SELECT nothing FROM nowhere", False),
            ("SET statement_timeout = 1; SELECT pg_sleep(1)", False),
            ("BEGIN READ ONLY; CREATE TABLE t ()", True),  # as on a primary that was demoted
            ("ROLLBACK; SELECT pg_terminate_backend(pg_backend_pid())", True),
            ("SELECT 1", True),  # closed
        ]:
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(statement)
            assert broken(caught.value) is fatal, caught.value
        with psycopg.connect(backend.url) as connection, pytest.raises(psycopg.InterfaceError) as misuse:
            cursor = connection.cursor()
            cursor.close()
            cursor.execute("SELECT 1")
        assert not broken(misuse.value)
        assert not broken(errors.PipelineAborted())
        assert not broken(KeyError())

    def test_what_took_no_effect_may_be_tried_again(self) -> None:
        retryable = PostgresFactory().is_retryable
        assert retryable(errors.SerializationFailure())
        assert retryable(errors.DeadlockDetected())
        assert retryable(errors.LockNotAvailable())
        assert retryable(errors.ReadOnlySqlTransaction())
        assert not retryable(errors.QueryCanceled())
        assert not retryable(errors.AdminShutdown())
        assert not retryable(psycopg.OperationalError("server closed the connection unexpectedly"))

    def test_a_session_ended_for_idling_in_a_transaction_costs_that_connection(self, backend: PostgreSQL) -> None:
        pool = backend.pool(max_size=1, connect_args={"options": "-c idle_in_transaction_session_timeout=50ms"})
        with pytest.raises(psycopg.Error) as caught, pool.acquire() as connection:
            backend.write(connection, 1)
            time.sleep(0.2)
            backend.write(connection, 2)
        assert pool._factory.is_broken(caught.value)
        session_of(backend, pool)

    def test_a_closed_connection_can_be_asked_everything(self, backend: PostgreSQL) -> None:
        factory = PostgresFactory(backend.url)
        connection = factory.connect(5.0)
        assert factory.is_alive(connection)
        assert factory.is_clean(connection)
        factory.close(connection)
        factory.close(connection)
        assert not factory.is_alive(connection)
        assert not factory.is_clean(connection)
        factory.interrupt(connection)
        with pytest.raises(psycopg.OperationalError):
            factory.check(connection, 1.0)
        with pytest.raises(psycopg.OperationalError):
            factory.reset(connection, "transaction")

    def test_a_connection_is_closed_once_the_thread_that_is_at_work_on_it_has_left(
        self, backend: PostgreSQL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pooling.backends.postgres._LEAVING", 30.0)
        factory = PostgresFactory(backend.url)
        connection = factory.connect(5.0)
        closing = threading.Thread(target=factory.close, args=[connection])
        with connection.lock:  # as psycopg has it in each call
            closing.start()
            until(lambda: not factory.is_alive(connection), "it is interrupted")
            closing.join(0.2)
            assert closing.is_alive(), "it was closed meanwhile"
        closing.join()
        assert connection.closed
        factory.close(connection)

    def test_a_generator_that_nobody_goes_on_with_keeps_no_connection_open(self, backend: PostgreSQL) -> None:
        factory = PostgresFactory(backend.url)
        connection = factory.connect(5.0)
        rows = connection.cursor().stream("SELECT generate_series(1, 9)")
        next(rows)
        factory.close(connection)
        assert connection.closed
        rows.close()


class TestServer:
    @pytest.mark.parametrize("fast", [False, True])
    def test_a_restart_while_idle_costs_nobody_an_error(
        self, own_server: Callable[..., Postgres], tmp_path: Path, fast: bool
    ) -> None:
        server = own_server("postgres")
        pool = create_pool(server.url, max_size=5, check_after=0.0)
        with pool:
            backend = PostgreSQL.__new__(PostgreSQL)
            fill(backend, pool, 5)
            server.restart(fast=fast)
            in_threads(10, lambda _: session_of(backend, pool))
            assert pool.stats().state == "up"

    def test_a_frozen_server_is_waited_for_and_a_check_gives_up_in_time(
        self, own_server: Callable[..., Postgres]
    ) -> None:
        server = own_server("postgres")
        factory = PostgresFactory(server.url)
        connection = factory.connect(5.0)
        factory.check(connection, 5.0)
        server.freeze()
        start = time.monotonic()
        with pytest.raises(psycopg.OperationalError, match="no answer in time"):
            factory.check(connection, 0.2)
        assert 0.2 <= time.monotonic() - start < 0.2 + LATE  # nothing else would end it
        server.thaw()
        factory.close(connection)

    def test_the_secret_is_taken_from_the_url_and_no_other_part(self, backend: PostgreSQL) -> None:
        parts = urlsplit(backend.server.guarded_url)
        pool = backend.pool(urlunsplit(parts._replace(scheme="postgresql+psycopg")))
        with pool.acquire() as connection:
            assert connection.info.user == "guarded"
        assert "secret" not in f"{pool!r} {pool._factory!r} {pool.stats()}"
