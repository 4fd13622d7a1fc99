"""Connecting to MySQL and MariaDB: the URL, TLS, timeouts, forks, restarts."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest

from pooling import ConnectError, create_pool
from pooling.backends.mysql import _QUERY, MysqlFactory
from tests.backends.adapters_mysql import MySQL, one
from tests.backends.contract import fill, in_threads, run_python, session_of
from tests.core.helpers import Traced
from tests.docs.pages import ROOT, table
from tests.proxy import Proxy
from tests.servers import MariaDB
from tests.waiting import LATE


@pytest.fixture
def backend(mariadb: MariaDB, tmp_path: Path) -> Iterator[MySQL]:
    with MySQL(mariadb, tmp_path) as adapter:
        yield adapter


@pytest.fixture(scope="module")
def tls_server() -> Iterator[MariaDB]:
    with MariaDB(tls=True, external=False) as server:
        yield server


class TestConnect:
    def test_a_servers_init_connect_does_not_change_autocommit_unseen(self, backend: MySQL) -> None:
        order, user = backend.server.order, f"{backend.name}_u"
        order(f"CREATE USER {user}")
        order(f"GRANT SELECT ON {backend.name}.* TO {user}")  # for whoever may do everything it does not run
        order("SET GLOBAL init_connect = 'SET autocommit = 0'")
        try:
            factory = MysqlFactory(backend.url, {"user": user, "password": "", "database": None, "autocommit": True})
            connection = factory.connect(5.0)
            assert one(connection, "SELECT @@autocommit") == 1
            factory.close(connection)
        finally:
            order("SET GLOBAL init_connect = ''")
            order(f"DROP USER {user}")

    def test_what_a_test_puts_in_the_place_of_pymysqls_connect_is_no_connection(
        self, backend: MySQL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pymysql, "connect", lambda **args: None)
        with create_pool(backend.url) as pool, pool.acquire() as connection:
            assert one(connection, "SELECT 1") == 1

    def test_a_password_may_rotate(self, backend: MySQL) -> None:
        secret = backend.server.params["password"]
        passwords = iter(["yesterday's", secret])
        factory = MysqlFactory(backend.url, lambda: {"password": next(passwords)})
        with pytest.raises(pymysql.OperationalError, match="Access denied"):
            factory.connect(5.0)
        factory.close(factory.connect(5.0))

    def test_arguments_by_their_old_names_count_more_than_the_url(self, backend: MySQL) -> None:
        url = backend.url.replace(backend.server.params["password"], "yesterdays")
        factory = MysqlFactory(url, {"passwd": backend.server.params["password"], "db": "information_schema"})
        connection = factory.connect(5.0)
        assert one(connection, "SELECT DATABASE()") == "information_schema"
        factory.close(connection)

    def test_a_password_in_an_option_file_is_any_like_another(self, backend: MySQL, tmp_path: Path) -> None:
        user, file, password = f"{backend.name}_u", tmp_path / "my.cnf", "пароль€"
        backend.server.order(f"CREATE USER {user} IDENTIFIED BY %s", password)
        place = urlsplit(backend.url)
        file.write_text(
            f"[client]\nhost={place.hostname}\nport={place.port}\nuser={user}\npassword={password}", encoding="utf-8"
        )
        try:
            factory = MysqlFactory(f"mysql:///?read_default_file={file}")
            assert factory.where == f"{file}/"
            factory.close(factory.connect(5.0))
            backend.server.order(f"SET PASSWORD FOR {user} = PASSWORD('another')")
            with create_pool(f"mysql:///?read_default_file={file}") as pool, pytest.raises(ConnectError) as caught:
                pool.acquire(5.0)
            assert password not in repr(caught.value) + repr(caught.value.__cause__)
        finally:
            backend.server.order(f"DROP USER {user}")

    @pytest.mark.parametrize("query", ["collation=klingon", "charset=latin1&collation=utf8mb4_bin", "charset=klingon"])
    def test_a_collation_that_cannot_be_fails_for_good(self, backend: MySQL, query: str) -> None:
        factory = MysqlFactory(f"{backend.url}?{query}")
        with pytest.raises((pymysql.OperationalError, AttributeError)) as caught:
            factory.connect(5.0)
        assert factory.is_permanent(caught.value)

    @pytest.mark.parametrize("password", ["pässwörd", "пароль €", "100 %/?#@:"])
    def test_a_password_of_any_letters_is_tried_and_not_shown(self, backend: MySQL, password: str) -> None:
        user = f"{backend.name}_u"
        backend.server.order(f"CREATE USER {user} IDENTIFIED BY %s", password)
        try:
            wanted: Any = password if password.isascii() or max(password) > "\xff" else password.encode()
            with create_pool(backend.url, {"user": user, "password": wanted, "database": None}) as pool:
                session_of(backend, pool)
        finally:
            backend.server.order(f"DROP USER {user}")

    @pytest.mark.parametrize(("given", "pools", "used"), [(3, 10.0, 3), (30, 2.5, 2.5), (None, 4.0, 4.0)])
    def test_the_shorter_connect_timeout_counts(
        self, given: Any, pools: float, used: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Any] = []

        def refuse(address: Any, timeout: float) -> Any:
            seen.append(timeout)
            raise ConnectionRefusedError

        monkeypatch.setattr(socket, "create_connection", refuse)
        query = f"?connect_timeout={given}" if given else ""
        for factory in (MysqlFactory(f"mysql://db{query}"), MysqlFactory("mysql://db", {"connect_timeout": given})):
            with pytest.raises(pymysql.OperationalError):
                factory.connect(pools)
        assert seen == [used, used]

    def test_a_server_that_says_nothing_is_given_up_in_time_and_users_may_be_patient(
        self, backend: MySQL, proxy: Callable[..., Proxy]
    ) -> None:
        between = proxy(backend.server)
        factory = MysqlFactory(backend.at(*between.address))
        connection = factory.connect(0.5)
        assert one(connection, "SELECT SLEEP(0.7)") == 0
        factory.close(connection)
        between.on_accept = "mute"
        start = time.monotonic()
        with pytest.raises(pymysql.OperationalError, match="timed out"):
            factory.connect(0.2)
        assert 0.2 <= time.monotonic() - start < 0.2 + LATE  # nothing else would end it

    @pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="Linux has this name for it")
    def test_the_delay_of_tcp_keep_alive_can_be_set(self, backend: MySQL) -> None:
        def options(url: str, **connect_args: Any) -> tuple[bool, int]:
            factory = MysqlFactory(url, connect_args)
            connection: Any = factory.connect(5.0)
            sock = connection._sock
            found = (
                bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
                sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            )
            factory.close(connection)
            return found

        default = options(backend.url)
        assert default[0]
        assert options(f"{backend.url}?tcp_keepalive=30") == (True, 30)
        assert options(backend.url, tcp_keepalive=7) == (True, 7)
        assert options(backend.url, tcp_keepalive=0) == (False, default[1])
        with pytest.raises(ValueError, match="tcp_keepalive must be seconds") as caught:
            options(backend.url, tcp_keepalive=-1)
        assert MysqlFactory().is_permanent(caught.value)

    def test_a_unix_socket_is_used(self, backend: MySQL) -> None:
        if backend.server.external:
            return
        path = backend.server.folder / "socket"
        with create_pool(f"{backend.url}?unix_socket={path}&tcp_keepalive=9", check_after=0.0) as pool:
            with pool.acquire() as connection:
                assert connection._sock.family == socket.AF_UNIX
            session_of(backend, pool)
            assert pool.stats().opened == 1
            assert pool.name.startswith(str(path))


class TestTLS:
    @pytest.fixture
    def secure(self, tls_server: MariaDB, tmp_path: Path) -> Iterator[MySQL]:
        with MySQL(tls_server, tmp_path) as adapter:
            yield adapter

    def test_it_stays_warm_without_a_byte_and_is_recognised_when_dead(
        self, secure: MySQL, proxy: Callable[..., Proxy]
    ) -> None:
        between = proxy(secure.server)
        pool = secure.pool(secure.at(*between.address), max_size=1, check_after=0.0)
        with pool.acquire() as connection:
            assert connection._sock.version() == "TLSv1.3"
            connection.rollback()
        before = between.bytes_from_client, between.bytes_from_server
        for _ in range(20):
            pool.acquire().release()
        assert (between.bytes_from_client, between.bytes_from_server) == before
        first = session_of(secure, pool)
        secure.kill(first)
        until = time.monotonic() + 5.0
        while pool._factory.is_alive(connection):  # the end is on its way through the proxy
            assert time.monotonic() < until
        assert session_of(secure, pool) != first
        assert pool.stats().closed == {"broken": 1}

    def test_messages_of_tls_itself_do_not_look_like_an_end(self, secure: MySQL) -> None:
        """A fresh connection of TLS 1.3 may have tickets to read; nobody has read on it since."""
        factory = MysqlFactory(secure.url)
        for _ in range(5):
            connection = factory.connect(5.0)
            time.sleep(0.01)
            assert factory.is_alive(connection)
            assert secure.ask(connection, 1) == 1
            factory.close(connection)

    @pytest.mark.parametrize("fault", ["cut", "reset"])
    def test_an_end_without_a_word_is_seen(self, secure: MySQL, proxy: Callable[..., Proxy], fault: str) -> None:
        between = proxy(secure.server)
        factory = MysqlFactory(secure.at(*between.address))
        connection = factory.connect(5.0)
        getattr(between.links()[0], fault)()
        time.sleep(0.02)
        assert not factory.is_alive(connection)
        factory.close(connection)

    @pytest.mark.parametrize(
        ("query", "tls", "verified"),
        [
            ("", True, False), ("ssl_mode=DISABLED", False, False), ("ssl_mode=PREFERRED", True, False),
            ("ssl-mode=REQUIRED", True, False), ("ssl_mode=VERIFY_CA&ssl_ca={ca}", True, True),
            ("ssl_mode=verify_identity&ssl_ca={ca}", True, True), ("ssl_ca={ca}", True, False),
            ("ssl_disabled=1", False, False), ("ssl_verify_identity=yes&ssl_ca={ca}", True, True),
        ],
    )  # fmt: skip  # a table
    def test_the_modes_of_mysqls_own_clients_are_understood(
        self, secure: MySQL, query: str, tls: bool, verified: bool
    ) -> None:
        assert secure.server.certificates is not None
        query = query.format(ca=secure.server.certificates.authority)
        factory = MysqlFactory(f"{secure.url.partition('?')[0]}?{query}")
        connection: Any = factory.connect(5.0)
        assert isinstance(connection._sock, ssl.SSLSocket) is tls
        if tls:
            assert (connection._sock.context.verify_mode == ssl.CERT_REQUIRED) is verified
        factory.close(connection)

    @pytest.mark.parametrize(
        ("mode", "beside", "host", "outcome"),
        [
            ("DISABLED", {}, "127.0.0.1", "plain"), ("PREFERRED", {}, "127.0.0.1", "unverified"),
            ("REQUIRED", {}, "127.0.0.1", "unverified"), ("required", {"ca": ...}, "127.1", "verified"),
            ("REQUIRED", {"cipher": "ALL"}, "127.1", "unverified"),
            ("VERIFY_CA", {"ca": ...}, "127.1", "verified"), ("VERIFY_CA", {}, "127.0.0.1", "refused"),
            ("VERIFY_IDENTITY", {"ca": ...}, "127.0.0.1", "verified"),
            ("VERIFY_IDENTITY", {"ca": ...}, "127.1", "refused"),
        ],
    )  # fmt: skip  # a table; 127.1 is the same place by a name that is not in the certificate
    def test_so_they_are_among_the_arguments_where_they_count_more_than_the_url(
        self, secure: MySQL, mode: str, beside: dict[str, Any], host: str, outcome: str
    ) -> None:
        """As mysqlclient has them, and Django's settings with it."""
        assert secure.server.certificates is not None
        beside = {
            name: str(secure.server.certificates.authority) if given is ... else given for name, given in beside.items()
        }
        other = "REQUIRED" if mode == "DISABLED" else "DISABLED"
        url = f"{secure.url.partition('?')[0]}?ssl_mode={other}".replace("127.0.0.1", host)
        factory = MysqlFactory(url, {"ssl_mode": mode, "ssl": beside})
        if outcome == "refused":
            with pytest.raises(pymysql.OperationalError, match="certificate verify failed"):
                factory.connect(5.0)
            return
        connection: Any = factory.connect(5.0)
        if outcome == "plain":
            assert not isinstance(connection._sock, ssl.SSLSocket)
        else:
            assert (connection._sock.context.verify_mode == ssl.CERT_REQUIRED) is (outcome == "verified")
        factory.close(connection)

    def test_a_context_of_the_users_own_is_left_alone(self, secure: MySQL) -> None:
        assert secure.server.certificates is not None
        context = ssl.create_default_context(cafile=str(secure.server.certificates.authority))
        factory = MysqlFactory(secure.url.partition("?")[0], {"ssl_mode": "VERIFY_CA", "ssl": context})
        connection: Any = factory.connect(5.0)
        assert connection._sock.context is context
        factory.close(connection)

    @pytest.mark.parametrize("wrong", [{"ssl_mode": "SAFE"}, {"ssl_mode": ["REQUIRED"]}, {"compress": True}])
    def test_arguments_that_cannot_be_are_permanent(self, backend: MySQL, wrong: dict[str, Any]) -> None:
        with create_pool(backend.url, wrong) as pool, pytest.raises(ConnectError, match=next(iter(wrong))):
            pool.acquire(10.0)
        assert pool.stats().errors_by["connect"] == 1

    def test_a_certificate_that_is_not_trusted_is_permanent(self, secure: MySQL) -> None:
        url = f"{secure.url.partition('?')[0]}?ssl_mode=VERIFY_CA"
        with create_pool(url) as pool, pytest.raises(ConnectError, match="certificate verify failed"):
            pool.acquire(10.0)

    @pytest.mark.parametrize("traced", [False, True], ids=["", "traced"])
    def test_a_name_is_verified_by_the_systems_authorities_too(
        self, secure: MySQL, monkeypatch: pytest.MonkeyPatch, traced: bool
    ) -> None:
        assert secure.server.certificates is not None
        theirs = pymysql.connect
        if traced:  # by an agent, which calls PyMySQL's class, not the pool's
            monkeypatch.setattr(pymysql, "connect", lambda **args: Traced(theirs(**args)))
        monkeypatch.setenv("SSL_CERT_FILE", str(secure.server.certificates.authority))
        url = secure.url.partition("?")[0] + "?ssl_mode="
        for mode, host in (("VERIFY_IDENTITY", "127.0.0.1"), ("VERIFY_CA", "127.1")):  # the same place by another name
            factory = MysqlFactory(url.replace("127.0.0.1", host) + mode)
            factory.close(factory.connect(5.0))
        with pytest.raises(pymysql.OperationalError, match="certificate verify failed"):
            MysqlFactory(url.replace("127.0.0.1", "127.1") + "VERIFY_IDENTITY").connect(5.0)

    @pytest.mark.parametrize("mode", ["REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"])
    def test_without_tls_nobody_is_let_in_who_asked_for_it(self, own_server: Callable[..., Any], mode: str) -> None:
        factory = MysqlFactory(f"{own_server('mariadb').url}?ssl_mode={mode}")
        with pytest.raises(pymysql.OperationalError, match="TLS is required") as caught:
            factory.connect(5.0)
        assert factory.is_permanent(caught.value)

    def test_a_forked_child_says_nothing_on_the_parents_session(self, secure: MySQL) -> None:
        script = "import sys; from tests.backends.forking import main; main(*sys.argv[1:])"
        kind = "tests.backends.adapters_mysql:MySQL"
        run_python(script, kind, secure.url, str(secure.folder), "exit", secure.name)


class TestURL:
    @pytest.mark.parametrize(
        ("url", "where"),
        [
            ("mysql://", "localhost:3306/"),
            ("mysql://db/shop", "db:3306/shop"),
            ("mysql+pymysql://anna:hidden@db:3307/shop", "db:3307/shop"),
            ("mariadb://[::1]:3307/", "[::1]:3307/"),
            ("mysql://anna:hidden@/shop?unix_socket=/run/mysqld.sock", "/run/mysqld.sock/shop"),
        ],
    )
    def test_a_pool_is_named_after_its_place(self, url: str, where: str) -> None:
        with create_pool(url) as pool:
            assert pool.name == where
            assert repr(pool._factory) == f"MysqlFactory({where})"

    def test_every_part_is_decoded(self) -> None:
        query = "?autocommit=server&client_flag=65536&read_timeout=2.5&local_infile=no&sql_mode=ANSI&charset=utf8mb4"
        factory = MysqlFactory(f"mysql://a%40b:p%2Fw%3F@db:3307/s%2Fp{query}")
        assert factory._args == {
            "user": "a@b", "password": "p/w?", "host": "db", "port": 3307, "database": "s/p", "autocommit": None,
            "client_flag": 65536, "read_timeout": 2.5, "local_infile": False, "sql_mode": "ANSI", "charset": "utf8mb4",
        }  # fmt: skip  # a table

    @pytest.mark.parametrize(
        "url",
        [
            "mysql://anna:hid/den@db/shop", "mysql://anna:12/hidden@db/shop", "mysql://anna:hidden#x@db/shop",
            "mysql://anna:hidden?x@db/shop", "mysql://anna:hidden@db:port/shop", "mysql://anna:hi@dden/x@db/shop",
            "mysql://anna:hi@dden?x@db/shop", "mysql://anna:hidden@[db/shop", "mysql://anna@db/shop/hidden",
        ],
    )  # fmt: skip  # a list
    def test_one_that_cannot_be_read_is_refused_and_not_repeated(self, url: str) -> None:
        with pytest.raises(ValueError, match="the MySQL URL cannot be read") as caught:
            create_pool(url)
        assert "hi" not in str(caught.value).replace("special characters", "")
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize("url", ["db/hidden", "postgresql://anna:hidden@db/shop", ""])
    def test_what_is_none_does_not_lead_to_this_machine(self, url: str) -> None:
        with pytest.raises(ValueError, match="the MySQL URL cannot be read") as caught:
            MysqlFactory(url)
        assert "hidden" not in str(caught.value)

    @pytest.mark.parametrize(
        ("query", "told"),
        [
            ("auto_commit=1", "unknown option 'auto_commit' in the MySQL URL, did you mean 'autocommit'"),
            ("ssl-mod=REQUIRED", "unknown option 'ssl_mod' in the MySQL URL, did you mean 'ssl_mode'"),
            ("password=hidden", "unknown option 'password' in the MySQL URL: it stands before the '?'"),
        ],
    )
    def test_an_unknown_option_is_refused_with_the_nearest(self, query: str, told: str) -> None:
        with pytest.raises(TypeError, match=told) as caught:
            create_pool(f"mysql://db/shop?{query}")
        assert "hidden" not in str(caught.value)

    @pytest.mark.parametrize(
        ("query", "told"),
        [
            ("autocommit=True", "one of 0, 1, false, .*, on or server, not 'True'"),
            ("ssl_disabled=maybe", "one of 0, 1, false, .*, on, not 'maybe'"),
            ("read_timeout=soon", "seconds, not 'soon'"),
            ("client_flag=", "a whole number, not ''"),
            ("ssl_mode=SAFE", "one of DISABLED, .*, VERIFY_IDENTITY, not 'SAFE'"),
        ],
    )
    def test_a_value_of_the_wrong_kind_is_refused_with_those_there_are(self, query: str, told: str) -> None:
        with pytest.raises(ValueError, match=f"{query.partition('=')[0]} in the MySQL URL must be {told}"):
            create_pool(f"mysql://db/shop?{query}")

    def test_a_missing_driver_is_told_with_the_extra_that_brings_it(self) -> None:
        script = """
            import sys
            sys.modules["pymysql"] = None  # what makes an import fail
            import pooling
            try:
                pooling.create_pool("mysql://db/shop")
            except ImportError as error:
                print(error)
        """
        assert "pip install 'pooling[mysql]'" in run_python(script)


class TestFork:
    def test_a_fork_in_the_middle_of_a_call_leaves_the_parent_alone_and_the_child_ends(self, backend: MySQL) -> None:
        script = """
            import os, sys, threading, time, pooling
            pool = pooling.create_pool(sys.argv[1], max_size=2)
            got = []
            def work():
                with pool.acquire() as connection, connection.cursor() as cursor:
                    cursor.execute("SELECT SLEEP(0.5), 7")
                    got.append(cursor.fetchone())
            thread = threading.Thread(target=work)
            thread.start()
            time.sleep(0.2)
            import warnings
            warnings.simplefilter("ignore")  # of a fork with threads
            child = os.fork()
            if child == 0:
                with pool.acquire() as connection, connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
                sys.exit(0)  # with all its destructors
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            thread.join()
            assert got == [(0, 7)], got
            pool.close()
        """
        run_python(script, backend.url)


class TestServer:
    @pytest.mark.parametrize("fast", [False, True])
    def test_a_restart_while_idle_costs_nobody_an_error(
        self, own_server: Callable[..., MariaDB], tmp_path: Path, fast: bool
    ) -> None:
        server = own_server("mariadb")
        backend = MySQL.__new__(MySQL)
        with create_pool(server.url, max_size=5, check_after=0.0) as pool:
            fill(backend, pool, 5)
            server.restart(fast=fast)
            in_threads(10, lambda _: session_of(backend, pool))
            assert pool.stats().state == "up"

    def test_a_frozen_server_is_waited_for_and_a_check_gives_up_in_time(
        self, own_server: Callable[..., MariaDB]
    ) -> None:
        server = own_server("mariadb")
        factory = MysqlFactory(server.url)
        connection = factory.connect(5.0)
        factory.check(connection, 5.0)
        assert factory.is_clean(connection)
        server.freeze()
        start = time.monotonic()
        with pytest.raises(pymysql.OperationalError, match="timed out"):
            factory.check(connection, 0.2)
        assert 0.2 <= time.monotonic() - start < 0.2 + LATE  # nothing else would end it
        server.thaw()
        factory.close(connection)


def test_the_page_lists_the_options_of_the_url() -> None:
    rows = table(ROOT / "docs" / "backends" / "mysql.md", "option")
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(listed) == sorted((*_QUERY, "ssl_mode"))
