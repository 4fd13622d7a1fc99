"""The Django backends: when a lease begins and ends, what is set up, and what is left for the next user."""

from __future__ import annotations

import datetime as dt
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import (
    IntegrityError,
    OperationalError,
    ProgrammingError,
    close_old_connections,
    connections,
    transaction,
)
from django.db.backends.signals import connection_created
from django.db.utils import InterfaceError

import pooling
from pooling.integrations.django import close_all, pools
from tests.backends.contract import in_threads
from tests.integrations.django_project.setting_up import ALIASES, make_tables, set_up
from tests.proxy import Proxy
from tests.servers import MariaDB, Postgres, Redis
from tests.waiting import until

SESSION = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
SERVERS = tuple(SESSION)


@pytest.fixture(scope="module", autouse=True)
def project(
    postgres: Postgres, mariadb: MariaDB, redis_server: Redis, tmp_path_factory: pytest.TempPathFactory
) -> None:
    set_up(postgres.url, mariadb.url, redis_server.url, tmp_path_factory.mktemp("django"))
    for alias in ALIASES:
        make_tables(alias)


@pytest.fixture(autouse=True)
def all_back() -> Iterator[None]:
    """Every test begins without pools, and ends with every lease given back."""
    close_all()
    yield
    connections.close_all()
    for alias in ALIASES:
        stats = pool(alias).stats()
        assert (stats.leased, stats.released) == (0, stats.acquired), alias
    close_all()


@pytest.fixture(params=ALIASES)
def alias(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    """The aliases that have sessions at a server."""
    return str(request.param)


@pytest.fixture
def changed() -> Iterator[Any]:
    """changed("mysql", OPTIONS={...}): a connection of an alias of its own, with settings of its own."""
    made: list[Any] = []

    def change(alias: str, **given: Any) -> Any:
        connection = connections[alias].copy(f"{alias}-{len(made)}")
        options = {**connection.settings_dict["OPTIONS"], **given.pop("OPTIONS", {})}
        connection.settings_dict.update(given, OPTIONS=options)
        made.append(connection)
        return connection

    yield change
    for connection in made:
        connection.close()
        connection.close_pool()


def pool(alias: str) -> pooling.Pool[Any]:
    known: Any = connections[alias]
    return known.pooling  # type: ignore[no-any-return]


def items(alias: str) -> Any:
    from tests.integrations.django_project.models import Item

    return Item.objects.using(alias)


def ask(connection: Any, statement: str, *values: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchone()[0]


# -- a lease ------------------------------------------------------------------------------------------


def test_nothing_is_opened_before_the_first_query(alias: str) -> None:
    assert pool(alias).stats().opened == 0
    list(items(alias).all())
    assert (pool(alias).stats().leased, pool(alias).stats().opened) == (1, 1)
    assert pools()[alias] is pool(alias)


def test_closing_a_connection_gives_it_back_and_the_next_use_has_it_again(alias: str) -> None:
    seen = []
    for _ in range(3):
        list(items(alias).all())
        seen.append(connections[alias].connection)
        connections[alias].close()
        assert connections[alias].connection is None
        assert pool(alias).stats().leased == 0
    assert len(set(map(id, seen))) == 1
    assert pool(alias).stats().opened == 1


def test_all_threads_have_one_pool_and_no_connection_in_common(alias: str) -> None:
    barrier = threading.Barrier(4, timeout=30)
    seen: list[tuple[Any, Any]] = []

    def work(number: int) -> None:
        try:
            connections[alias].ensure_connection()
            seen.append((pool(alias), connections[alias].connection))
            barrier.wait()
        finally:
            connections.close_all()

    in_threads(4, work)
    assert {found for found, _ in seen} == {pool(alias)}
    assert len({id(connection) for _, connection in seen}) == 4


def test_a_request_sends_nothing_to_take_a_connection_and_to_give_it_back(
    server: str, changed: Any, proxy: Any, postgres: Postgres, mariadb: MariaDB
) -> None:
    between: Proxy = proxy(postgres if server == "postgresql" else mariadb)
    connection = changed(server, HOST=between.host, PORT=str(between.port))
    connection.ensure_connection()
    connection.close()
    between.cut_after(from_client=0)  # one byte more, and the connection is gone
    for _ in range(20):
        connection.ensure_connection()
        connection.close()
    assert between.open == 1
    assert connection.pooling.stats().opened == 1


def test_a_holder_is_shown_where_the_application_asked(alias: str) -> None:
    list(items(alias).all())
    (holder,) = pool(alias).holders()
    assert "test_django.py" in holder.where
    assert "test_a_holder_is_shown_where_the_application_asked" in holder.where


def test_connecting_twice_keeps_one_lease(alias: str) -> None:
    connection = connections[alias]
    connection.connect()
    connection.connect()
    assert pool(alias).stats().leased == 1


def test_a_thread_that_ends_without_closing_costs_its_connection_and_no_slot(alias: str) -> None:
    thread = threading.Thread(target=lambda: list(items(alias).all()))
    thread.start()
    thread.join(30)
    gc.collect()
    until(lambda: pool(alias).stats().size == 0)
    assert pool(alias).stats().closed["dropped"] == 1
    close_all()


def test_a_connection_of_another_thread_is_refused_unless_it_is_shared(alias: str) -> None:
    connection: Any = connections[alias]
    connection.ensure_connection()
    raised: list[BaseException] = []

    def use() -> None:
        try:
            ask(connection, "SELECT 1")
        except BaseException as error:
            raised.append(error)

    def in_a_thread() -> None:
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(30)

    in_a_thread()
    assert "can only be used in that same thread" in str(raised.pop())
    connection.inc_thread_sharing()
    in_a_thread()
    connection.dec_thread_sharing()
    assert not raised


# -- transactions -------------------------------------------------------------------------------------


def test_a_block_commits_or_rolls_back(alias: str) -> None:
    with transaction.atomic(using=alias):
        items(alias).create(name="kept")
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
        items(alias).create(name="gone")
        with transaction.atomic(using=alias):
            items(alias).create(name="inner")
        raise ZeroDivisionError
    assert list(items(alias).values_list("name", flat=True)) == ["kept"]
    items(alias).all().delete()


def test_a_failed_statement_is_undone_to_its_savepoint(alias: str) -> None:
    with transaction.atomic(using=alias):
        items(alias).create(name="one")
        with pytest.raises(IntegrityError), transaction.atomic(using=alias):
            items(alias).create(name="one")
        items(alias).create(name="two")
    assert items(alias).count() == 2
    items(alias).all().delete()


def test_a_transaction_left_open_is_rolled_back_before_the_next_user(alias: str) -> None:
    connection = connections[alias]
    connection.set_autocommit(False)
    items(alias).create(name="left open")
    connection.close()
    until(lambda: pool(alias).stats().idle == 1)
    assert items(alias).count() == 0
    assert connections[alias].get_autocommit()
    assert pool(alias).stats().opened == 1  # by a reset, not by another connection


def test_closing_within_a_block_ends_it(alias: str) -> None:
    refused = pytest.raises(ProgrammingError, match="Cannot open a new connection in an atomic block")
    with refused, transaction.atomic(using=alias):
        items(alias).create(name="in vain")
        connections[alias].close()
        items(alias).count()
    assert items(alias).count() == 0


# -- what is left behind ------------------------------------------------------------------------------


def test_a_cursor_kept_beyond_the_end_reaches_nobody(alias: str) -> None:
    cursor = connections[alias].cursor()
    cursor.execute("SELECT 1")
    connections[alias].close()
    connections[alias].ensure_connection()
    with pytest.raises(Exception, match=r"(?i)closed") as raised:
        cursor.execute("SELECT 2")
    assert isinstance(raised.value, (InterfaceError, ProgrammingError))


def test_an_iterator_kept_beyond_the_end_costs_its_session(alias: str) -> None:
    items(alias).bulk_create(items(alias).model(name=f"n{number}") for number in range(10))
    rows = items(alias).iterator(chunk_size=2)
    next(rows)
    connections[alias].close()
    connections[alias].ensure_connection()
    if alias == "postgresql":
        assert ask(connections[alias], "SELECT count(*) FROM pg_cursors") == 0
    rows.close()  # which closes the server's cursor, where there is one
    assert ask(connections[alias], "SELECT 7") == 7
    items(alias).all().delete()


def test_server_side_cursors_read_in_pieces() -> None:
    items("postgresql").bulk_create(items("postgresql").model(name=f"n{number}") for number in range(10))
    connection = connections["postgresql"]
    rows = items("postgresql").order_by("id").iterator(chunk_size=2)
    first = next(rows)
    assert ask(connection, "SELECT count(*) FROM pg_cursors WHERE name LIKE '_django_curs_%%'") == 1
    assert [first.name, *(row.name for row in rows)] == [f"n{number}" for number in range(10)]
    connection.close()
    assert ask(connection, "SELECT count(*) FROM pg_cursors") == 0
    assert pool("postgresql").stats().opened == 1
    items("postgresql").all().delete()


def test_a_session_is_cleared_where_that_is_asked_for(server: str, changed: Any) -> None:
    connection = changed(server, OPTIONS={"pooling": {"reset": "session"}, "isolation_level": ISOLATION[server][0]})
    before = ask(connection, SESSION[server])
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE {'pg_temp.' if server == 'postgresql' else ''}leftover (id integer)")
        cursor.execute("SET time_zone = '+05:00'" if server == "mysql" else "SET TIME ZONE 'Asia/Tokyo'")
    connection.close()
    until(lambda: connection.pooling.stats().idle == 1)
    with pytest.raises(ProgrammingError):
        ask(connection, "SELECT count(*) FROM leftover")
    assert ask(connection, SESSION[server]) == before
    assert isolation(connection) == ISOLATION[server][1]


# -- set-up -------------------------------------------------------------------------------------------

ISOLATION: dict[str, tuple[Any, str]] = {
    "postgresql": (4, "serializable"),  # psycopg.IsolationLevel.SERIALIZABLE
    "mysql": ("serializable", "SERIALIZABLE"),
}


def isolation(connection: Any) -> Any:
    with begun(connection):
        name = "@@transaction_isolation" if connection.vendor == "mysql" else "current_setting('transaction_isolation')"
        if connection.vendor == "mysql" and connection.mysql_is_mariadb:
            name = "@@tx_isolation"
        return ask(connection, f"SELECT {name}")


@contextmanager
def begun(connection: Any) -> Iterator[None]:
    """A transaction on a connection that is not one of ``connections``."""
    connection.set_autocommit(False)
    yield
    connection.rollback()
    connection.set_autocommit(True)


def test_the_isolation_level_is_set_up_once_for_each_connection(server: str, changed: Any) -> None:
    connection = changed(server, OPTIONS={"isolation_level": ISOLATION[server][0]})
    for _ in range(2):
        assert isolation(connection) == ISOLATION[server][1]
        connection.close()
    assert connection.pooling.stats().opened == 1


def test_an_isolation_level_that_does_not_exist_is_told_at_once(server: str, changed: Any) -> None:
    connection = changed(server, OPTIONS={"isolation_level": "xxx"})
    with pytest.raises(ImproperlyConfigured, match="Invalid transaction isolation level"):
        connection.ensure_connection()


def test_the_role_is_assumed_by_each_new_connection(changed: Any) -> None:
    with connections["postgresql"].cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS clerk")
        cursor.execute("CREATE ROLE clerk")
    connection = changed("postgresql", OPTIONS={"assume_role": "clerk"})
    assert ask(connection, "SELECT current_user") == "clerk"
    wrong = changed("postgresql", OPTIONS={"assume_role": "nobody at all"})
    with pytest.raises(Exception, match="does not exist"):
        wrong.ensure_connection()


def test_a_time_zone_that_somebody_has_changed_is_put_right() -> None:
    connection = connections["postgresql"]
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'Asia/Tokyo'")
    connection.close()
    until(lambda: pool("postgresql").stats().idle == 1)
    assert ask(connection, "SHOW TIME ZONE") == "UTC"
    assert pool("postgresql").stats().opened == 1


def test_times_come_back_as_they_were(alias: str) -> None:
    seen = dt.datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=dt.timezone.utc)
    items(alias).create(name="clock", seen=seen)
    connections[alias].close()
    assert items(alias).get(name="clock").seen == seen
    items(alias).all().delete()


def test_on_connect_of_the_pool_runs_once_for_each_connection(alias: str, changed: Any) -> None:
    met: list[Any] = []
    connection = changed(alias, OPTIONS={"pooling": {"on_connect": met.append, "max_size": 3}})
    for _ in range(2):
        connection.ensure_connection()
        assert met == [connection.connection]
        connection.close()
    assert connection.pooling.config.max_size == 3


def test_sqlite_has_djangos_functions_and_pragmas() -> None:
    for _ in range(2):
        asked = ("PRAGMA foreign_keys", "SELECT 'abc' REGEXP '^a'")
        assert [ask(connections["sqlite"], statement) for statement in asked] == [1, 1]
        connections["sqlite"].close()
    assert pool("sqlite").stats().opened == 1


@pytest.mark.skipif(django.VERSION < (5, 1), reason="Django has the option from 5.1 on")
def test_sqlite_runs_its_init_command_once_for_each_connection(changed: Any) -> None:
    connection = changed("sqlite", OPTIONS={"init_command": "PRAGMA synchronous=3; PRAGMA cache_size=2000;"})
    for _ in range(2):
        assert [ask(connection, f"PRAGMA {name}") for name in ("synchronous", "cache_size")] == [3, 2000]
        connection.close()
    assert connection.pooling.stats().opened == 1


# -- settings -----------------------------------------------------------------------------------------


def test_persistent_connections_are_refused(alias: str, changed: Any) -> None:
    for age in (None, 60):
        connection = changed(alias, CONN_MAX_AGE=age)
        with pytest.raises(ImproperlyConfigured, match=r"doesn't support persistent connections.*CONN_MAX_AGE.*to 0"):
            connection.ensure_connection()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"maxsize": 5}, r"\['OPTIONS'\]\['pooling'\]: unknown option 'maxsize', did you mean 'max_size'"),
        ({"max_size": 0}, "max_size must be at least 1"),
        ({"on_connect": 5}, "on_connect must be callable"),
        ("yes", "must be a dictionary of options"),
    ],
)
def test_wrong_options_are_told_at_once(alias: str, changed: Any, options: Any, complaint: str) -> None:
    connection = changed(alias, OPTIONS={"pooling": options})
    with pytest.raises(ImproperlyConfigured, match=complaint):
        connection.ensure_connection()
    assert connection.connection is None


def test_a_pool_can_be_done_without(alias: str, changed: Any) -> None:
    connection = changed(alias, OPTIONS={"pooling": False})
    assert ask(connection, "SELECT 3") == 3
    assert connection.pooling is None
    before = connection.connection
    connection.close()
    connection.ensure_connection()
    assert connection.connection is not before


def test_a_database_in_memory_has_no_pool(changed: Any) -> None:
    connection = changed("sqlite", NAME=":memory:")
    assert ask(connection, "SELECT 3") == 3
    assert connection.pooling is None
    connection._close()


def test_changed_settings_have_another_pool(alias: str, changed: Any) -> None:
    connection = changed(alias, OPTIONS={"pooling": {"max_size": 2}})
    connection.ensure_connection()
    before = connection.pooling
    connection.settings_dict["OPTIONS"]["pooling"]["max_size"] = 5
    after = connection.pooling
    assert after is not before
    assert after.config.max_size == 5
    connection.close()  # to the old one, which is closed
    connection.ensure_connection()
    assert after.stats().leased == 1
    before.close()  # again: it waits for what is still being closed
    assert before.stats().size == 0


def test_the_options_of_psycopg_pool_are_understood(changed: Any) -> None:
    given = {"min_size": 2, "max_idle": 60, "timeout": 1.5, "num_workers": 2, "max_waiting": 0}
    connection = changed("postgresql", OPTIONS={"pool": given})
    config = connection.pool.config
    assert connection.pool is connection.pooling
    assert (config.min_size, config.max_size, config.idle_timeout, config.timeout) == (2, 2, 60, 1.5)
    assert (config.max_connecting, config.max_waiting, config.check) == (2, None, "peek")
    assert changed("postgresql", OPTIONS={"pool": True}, CONN_HEALTH_CHECKS=True).pool.config.check == "ping"
    assert changed("postgresql", OPTIONS={"pool": False}).pool is None
    with pytest.raises(ImproperlyConfigured, match=r"\['pool'\]: 'min_sise' has no counterpart.*'min_size'"):
        changed("postgresql", OPTIONS={"pool": {"min_sise": 1}}).ensure_connection()


def test_a_check_as_psycopg_pool_takes_it_is_made_before_a_connection_goes_out(changed: Any) -> None:
    met: list[Any] = []
    connection = changed("postgresql", OPTIONS={"pool": {"check": met.append}, "pooling": {"check_after": 0.0}})
    connection.ensure_connection()
    checked = connection.connection
    assert not met  # it is new
    connection.close()
    connection.ensure_connection()
    assert met == [checked]


def test_a_test_database_is_removed_after_its_pool(changed: Any, tmp_path: Path) -> None:
    connection = changed("sqlite", NAME=str(tmp_path / "test.db"))
    connection.ensure_connection()
    connection.close()
    assert connection.alias in pools()
    connection.creation._destroy_test_db(connection.settings_dict["NAME"], 0)
    assert connection.alias not in pools()
    assert not list(tmp_path.iterdir())


# -- errors -------------------------------------------------------------------------------------------


def test_a_full_pool_says_who_holds_its_connections(alias: str, changed: Any) -> None:
    connection = changed(alias, OPTIONS={"pooling": {"max_size": 1, "timeout": 0.1}})
    connection.ensure_connection()
    with pytest.raises(OperationalError, match="test_a_full_pool_says_who_holds") as raised:
        connection.copy().ensure_connection()
    assert isinstance(raised.value, pooling.PoolTimeout)
    assert raised.value.stats is not None
    assert raised.value.stats.leased == 1
    assert len(raised.value.holders) == 1


def test_a_wrong_login_is_djangos_operational_error_at_once(changed: Any, postgres: Postgres, mariadb: MariaDB) -> None:
    wrong = changed("mysql", PASSWORD="not this one", OPTIONS={"pooling": {"timeout": 30}})
    with pytest.raises(OperationalError) as raised:
        wrong.ensure_connection()
    assert raised.value.args[0] == 1045
    missing = changed("postgresql", NAME="not_there")
    with pytest.raises(OperationalError, match='"not_there" does not exist') as raised:
        missing.ensure_connection()
    cause = raised.value.__cause__
    assert cause is not None
    assert isinstance(cause.__cause__, pooling.ConnectError)


def test_a_password_that_was_changed_in_the_settings_is_used_by_new_connections(changed: Any) -> None:
    connection = changed("mysql")
    connection.ensure_connection()
    connection.close()
    before = connection.pooling
    connection.settings_dict["PASSWORD"] = "another"
    connection.ensure_connection()  # it is open already
    connection.close()
    connection.pooling.clear()
    with pytest.raises(OperationalError) as raised:
        connection.ensure_connection()
    assert (raised.value.args[0], connection.pooling is before) == (1045, True)


def test_sessions_that_the_server_has_ended_are_not_met_by_the_next_request(server: str, changed: Any) -> None:
    connection = changed(server, OPTIONS={"pooling": {"max_size": 3, "check_after": 0.0}})
    copies = [connection.copy() for _ in range(3)]
    sessions = [ask(one, SESSION[server]) for one in copies]
    for one in copies:
        one.close()
    for session in sessions:
        kill(server, session)
    assert ask(connection, "SELECT 5") == 5


def test_the_first_broken_connection_makes_the_others_suspect(server: str, changed: Any) -> None:
    # Used just now, none of them is looked at before it goes out.
    connection = changed(server, OPTIONS={"pooling": {"max_size": 3, "check_after": 3600.0}})
    copies = [connection.copy() for _ in range(3)]
    sessions = [ask(one, SESSION[server]) for one in copies]
    for one in copies[:2]:
        one.close()
    for session in sessions:
        kill(server, session)
    with pytest.raises((OperationalError, InterfaceError)):
        ask(copies[2], "SELECT 5")
    copies[2].close()
    assert connection.pooling.stats().errors_by["use"] == 1  # which the pool was told of
    for one in copies:
        assert ask(one, "SELECT 5") == 5
        one.close()


def kill(server: str, session: int) -> None:
    with connections[server].cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)" if server == "postgresql" else "KILL %s", [session])
    until(lambda: session not in alive(server))


def alive(server: str) -> list[int]:
    with connections[server].cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity"
            if server == "postgresql"
            else "SELECT id FROM information_schema.processlist"
        )
        return [number for (number,) in cursor.fetchall()]


# -- Django's own hooks -------------------------------------------------------------------------------


def test_after_an_error_the_request_ends_without_a_round_trip(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connections[server]
    with pytest.raises(ProgrammingError):
        ask(connection, "SELECT nonsense FROM nowhere")
    assert connection.errors_occurred
    monkeypatch.setattr(connection, "is_usable", lambda: pytest.fail("a round trip"))
    close_old_connections()
    assert (connection.connection, pool(server).stats().opened) == (None, 1)


def test_connection_created_is_sent_for_each_lease(alias: str) -> None:
    met: list[Any] = []

    def note(connection: Any, **details: Any) -> None:
        met.append(connection.connection)

    connection_created.connect(note)
    try:
        for _ in range(2):
            list(items(alias).all())
            connections[alias].close()
    finally:
        connection_created.disconnect(note)
    assert len(met) == 2
