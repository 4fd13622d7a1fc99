"""The Django backends: full pools, wrong logins, sessions that have ended; and Django's own hooks."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, ProgrammingError, close_old_connections, connections
from django.db.backends.signals import connection_created
from django.db.utils import InterfaceError

import pooling
from tests.integrations.django_backends.asking import SESSION, ask, items, kill, pool
from tests.servers import MariaDB, Postgres
from tests.waiting import until

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


def test_one_waiter_too_many_is_djangos_operational_error(alias: str, changed: Any) -> None:
    connection = changed(alias, OPTIONS={"pooling": {"max_size": 1, "max_waiting": 0, "timeout": 30}})
    connection.ensure_connection()
    with pytest.raises(OperationalError) as raised:
        connection.copy().ensure_connection()
    assert isinstance(raised.value, pooling.QueueFull)


def test_a_pool_that_is_closed_while_somebody_waits_is_followed_by_another(alias: str, changed: Any) -> None:
    connection = changed(alias, OPTIONS={"pooling": {"max_size": 1, "timeout": 30}})
    connection.ensure_connection()
    before = connection.pooling
    other = connection.copy()
    other.inc_thread_sharing()
    waiting = threading.Thread(target=other.ensure_connection)
    waiting.start()
    until(lambda: before.stats().waiting == 1)
    connection.close_pool()
    waiting.join(30)
    assert ask(other, "SELECT 5") == 5
    assert (before.stats().leased, connection.pooling.stats().leased) == (1, 1)
    other.close()


def test_an_error_that_cannot_be_copied_reaches_the_caller_all_the_same(alias: str, changed: Any) -> None:
    class OddError(Exception):
        def __init__(self, connection: Any, *, why: str) -> None:
            super().__init__(why)

    def refuse(connection: Any) -> None:
        raise OddError(connection, why="not today")

    connection = changed(alias, OPTIONS={"pooling": {"on_connect": refuse, "fail_after": 0.0}})
    with pytest.raises(OddError, match="not today"):
        connection.ensure_connection()


def test_a_violated_constraint_is_an_integrity_error_of_many_rows_too() -> None:
    with connections["mysql"].cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE few (x INTEGER, CHECK (x < 100))")
        with pytest.raises(IntegrityError):
            cursor.execute("INSERT INTO few VALUES (200)")
        with pytest.raises(IntegrityError):
            cursor.executemany("INSERT INTO few VALUES (%s)", [(1,), (200,)])
        with pytest.raises(ProgrammingError):
            cursor.executemany("INSERT INTO nowhere VALUES (%s)", [(1,), (200,)])


def test_a_session_that_the_server_has_ended_is_not_usable(server: str, changed: Any) -> None:
    connection = changed(server)
    session = ask(connection, SESSION[server])
    assert connection.is_usable()
    kill(server, session)
    assert not connection.is_usable()


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
