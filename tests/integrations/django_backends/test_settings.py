"""The Django backends: what each new connection is set up with, and the settings of their pools."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections, transaction
from django.test import override_settings

from pooling.integrations.django import pools
from tests.integrations.django_backends.asking import ISOLATION, ask, isolation, items, pool
from tests.servers import MariaDB
from tests.servers.mariadb import DATABASE, PASSWORD, USER
from tests.waiting import until

# -- set-up -------------------------------------------------------------------------------------------


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


@pytest.fixture(scope="module")
def tls_server() -> Iterator[MariaDB]:
    with MariaDB(external=False, tls=True) as server:
        yield server


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(("mode", "encrypted"), [("DISABLED", False), ("REQUIRED", True), ("VERIFY_IDENTITY", True)])
def test_the_ssl_mode_of_mysqlclient_is_understood(
    tls_server: MariaDB, changed: Any, pooled: bool, mode: str, encrypted: bool
) -> None:
    assert tls_server.certificates is not None
    options = {"pooling": None if pooled else False, "ssl_mode": mode}
    place = {"HOST": tls_server.host, "PORT": tls_server.port, "NAME": DATABASE, "USER": USER, "PASSWORD": PASSWORD}
    if mode == "VERIFY_IDENTITY":
        untrusted = changed("mysql", **place, OPTIONS=dict(options))
        with pytest.raises(OperationalError, match="certificate verify failed"):
            untrusted.ensure_connection()
        options["ssl"] = {"ca": str(tls_server.certificates.authority)}
    connection = changed("mysql", **place, OPTIONS=options)
    with connection.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        assert bool(cursor.fetchone()[1]) is encrypted


def test_a_time_zone_that_somebody_has_changed_is_put_right() -> None:
    connection = connections["postgresql"]
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'Asia/Tokyo'")
    connection.close()
    until(lambda: pool("postgresql").stats().idle == 1)
    assert ask(connection, "SHOW TIME ZONE") == "UTC"
    assert pool("postgresql").stats().opened == 1


def test_a_time_zone_that_was_put_right_outlasts_a_rollback_where_autocommit_is_off(changed: Any) -> None:
    connection = changed("postgresql", AUTOCOMMIT=False)
    ask(connection, "SELECT set_config('TimeZone', 'Asia/Tokyo', false)")
    connection.commit()
    connection.close()
    until(lambda: connection.pooling.stats().idle == 1)
    assert ask(connection, "SHOW TIME ZONE") == "UTC"
    connection.rollback()
    assert ask(connection, "SHOW TIME ZONE") == "UTC"
    assert connection.pooling.stats().opened == 1


def test_a_time_zone_that_is_overridden_reaches_the_connection_in_hand() -> None:
    connection = connections["postgresql"]
    with transaction.atomic("postgresql"):
        assert ask(connection, "SHOW TIME ZONE") == "UTC"
        with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
            assert ask(connection, "SHOW TIME ZONE") == "Asia/Tokyo"
        assert ask(connection, "SHOW TIME ZONE") == "UTC"


@pytest.mark.parametrize("level", [None, ISOLATION["postgresql"][0]])
def test_an_isolation_level_that_somebody_has_changed_is_put_right(changed: Any, level: Any) -> None:
    connection = changed("postgresql", OPTIONS={} if level is None else {"isolation_level": level})
    before = isolation(connection)
    connection.connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    assert isolation(connection) == "repeatable read"
    connection.close()
    until(lambda: connection.pooling.stats().idle == 1)
    assert isolation(connection) == before
    assert connection.pooling.stats().opened == 1


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
    for age in (None, 60, "60"):
        connection = changed(alias, CONN_MAX_AGE=age)
        with pytest.raises(ImproperlyConfigured, match=r"doesn't support persistent connections.*CONN_MAX_AGE.*to 0"):
            connection.ensure_connection()


def test_a_pool_that_is_there_serves_whatever_becomes_of_conn_max_age(alias: str, changed: Any) -> None:
    """Django's own tests of health checks and of its live server change it."""
    connection = changed(alias)
    connection.ensure_connection()
    connection.close()
    connection.settings_dict["CONN_MAX_AGE"] = None
    connection.ensure_connection()
    assert connection.is_usable()


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
