"""The Django backends: when a lease begins and ends, and what is left for the next user."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, ProgrammingError, connections, transaction
from django.db.utils import InterfaceError

import pooling
from pooling.integrations.django import close_all, pools
from pooling.integrations.django._pools import pool_of
from pooling.testing import FakeFactory
from tests.backends.contract import in_threads
from tests.integrations.django_backends.asking import ISOLATION, SESSION, ask, isolation, items, pool
from tests.proxy import Proxy
from tests.servers import MariaDB, Postgres
from tests.waiting import until

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


def test_a_connection_that_has_gone_is_not_usable_and_says_so_without_an_error(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Django's own test has it: the connection is closed behind Django's back. Before 5.1 Django itself did not
    look whether there is one."""
    wrapper = connections[server]
    theirs = next(kind for kind in type(wrapper).__mro__ if kind.__module__.startswith("django.db.backends."))
    monkeypatch.setattr(theirs, "is_usable", lambda self: callable(self.connection.cursor))
    wrapper.ensure_connection()
    wrapper._close()
    assert not wrapper.is_usable()
    list(items(server).all())
    assert wrapper.is_usable()


def test_the_end_of_a_request_ends_a_lease_that_has_no_connection_any_more_or_not_yet(
    alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception has struck between the two. Django has nothing to close then, and the thread kept its lease until it
    used the database again."""

    def strike(*_: object) -> None:
        raise KeyboardInterrupt

    wrapper = connections[alias]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pooling.Lease, "connection", property(strike))
        wrapper.ensure_connection()
    wrapper.close_if_unusable_or_obsolete()
    assert pool(alias).stats().leased == 0
    wrapper.ensure_connection()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(wrapper, "_end_lease", strike)
        wrapper.close()
    wrapper.close_if_unusable_or_obsolete()
    assert pool(alias).stats().leased == 0


def test_a_signal_handler_may_use_another_database_while_a_pool_is_built() -> None:
    built: list[str] = []

    def build(alias: str, then: Callable[[], object]) -> pooling.Pool[Any]:
        then()
        built.append(alias)
        return pooling.Pool(FakeFactory())

    def first_use() -> None:
        struck = partial(pool_of, "other", (), partial(build, "other", lambda: None))
        pool_of("one", (), partial(build, "one", struck))

    thread = threading.Thread(target=first_use, daemon=True)
    thread.start()
    thread.join(10)
    try:
        assert built == ["other", "one"]
    finally:
        close_all()


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
    assert Path(__file__).name in holder.where
    assert "test_a_holder_is_shown_where_the_application_asked" in holder.where


def test_a_view_that_is_a_transaction_is_shown_itself(alias: str) -> None:
    """As each is with ATOMIC_REQUESTS: Django begins before it calls it."""

    def view() -> str:
        return pool(alias).holders()[0].where

    within: Any = transaction.atomic(using=alias)
    assert within(within(view))().endswith(" view")


def test_a_waiter_is_shown_where_the_application_asked(alias: str) -> None:
    pool(alias).suspend()

    def ask_for_one() -> None:
        try:
            connections[alias].ensure_connection()
        finally:
            connections.close_all()

    thread = threading.Thread(target=ask_for_one)
    thread.start()
    try:
        until(lambda: bool(pool(alias).waiters()))
        assert pool(alias).waiters()[0].where.endswith(" ask_for_one")
    finally:
        pool(alias).resume()
        thread.join()


def test_connecting_twice_keeps_one_lease(alias: str) -> None:
    connection = connections[alias]
    connection.connect()
    connection.connect()
    assert pool(alias).stats().leased == 1


def test_a_thread_that_ends_without_closing_costs_its_connection_and_no_slot(alias: str) -> None:
    # Django's wrapper is in a cycle: a program that only waits for a connection makes nothing to be collected.
    gc.disable()
    try:
        thread = threading.Thread(target=lambda: list(items(alias).all()))
        thread.start()
        thread.join(30)
        until(lambda: pool(alias).stats().size == 0)
    finally:
        gc.enable()
    assert pool(alias).stats().closed["dropped"] == 1
    close_all()


def test_a_connection_that_threads_share_outlives_the_one_that_took_it(alias: str) -> None:
    connection: Any = connections[alias]
    connection.inc_thread_sharing()
    thread = threading.Thread(target=connection.ensure_connection)
    thread.start()
    thread.join(30)
    try:
        assert pool(alias).stats().leased == 1
        assert ask(connection, "SELECT 1") == 1
    finally:
        connection.dec_thread_sharing()


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
