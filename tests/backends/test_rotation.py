"""Credentials change while requests run: new connections use the new ones, and no request fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pooling import Pool, PoolManager
from tests.backends.together import LONG
from tests.servers import Postgres
from tests.waiting import until

USERS = 6


class Load:
    """Users who make one request after the other, until they are told to stop."""

    def __init__(self, pool: Pool[Any]) -> None:
        self._pool = pool
        self._over = threading.Event()
        self.requests = [0] * USERS
        self.errors: list[BaseException] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._use, args=(number,)) for number in range(USERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join(LONG)
        assert not any(thread.is_alive() for thread in threads)

    def wait(self, count: int) -> None:
        """Until every user has made so many requests more."""
        goals = [done + count for done in self.requests]
        until(lambda: all(done >= goal for done, goal in zip(self.requests, goals, strict=True)) or self.errors)
        assert self.errors == []

    def _use(self, number: int) -> None:
        while not self._over.is_set():
            try:
                with self._pool.acquire(timeout=LONG / 2) as connection:
                    assert connection.execute("SELECT 1").fetchone() == (1,)
            except BaseException as error:
                self.errors.append(error)
                return
            self.requests[number] += 1


@pytest.fixture
def server(own_server: Callable[..., Postgres]) -> Postgres:
    """With two more users whose passwords are looked at: anna's and bert's."""
    server: Postgres = own_server("postgres")
    rules = server._data / "pg_hba.conf"
    rules.write_text(f"host all anna,bert {server.host}/32 scram-sha-256\n{rules.read_text()}")
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute("CREATE ROLE anna LOGIN PASSWORD 'one'")
        admin.execute("CREATE ROLE bert LOGIN PASSWORD 'two'")
        admin.execute("SELECT pg_reload_conf()")
    url = server.url.replace("postgres@", "anna:wrong@")

    def refused() -> bool:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            return True
        return False

    until(refused)
    return server


def order(server: Postgres, statement: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(statement)


def test_a_password_changes_under_load_and_clear_retires_what_used_the_old_one(server: Postgres) -> None:
    secret = {"user": "anna", "password": "one"}
    with PoolManager() as manager:
        manager.add("db", server.url, lambda: secret, min_size=4, max_size=4)
        pool = manager["db"]
        pool.warm_up()
        load = Load(pool)
        with load.running():
            load.wait(20)
            order(server, "ALTER ROLE anna PASSWORD 'changed'")
            secret = {"user": "anna", "password": "changed"}
            load.wait(20)  # those that are open stay open
            assert pool.stats().opened == 4
            pool.clear()
            load.wait(20)
            until(lambda: pool.stats().closed.get("stale", 0) + pool.stats().closed.get("lifetime", 0) == 4)
            load.wait(20)
            until(lambda: pool.stats().opened == 8)  # callers do not wait for all of them
        assert load.errors == []
        stats = pool.stats()
        assert (stats.opened, stats.errors, stats.timeouts) == (8, 0, 0)
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(server.url, user="anna", password="one")


def test_a_lifetime_retires_the_connections_of_the_user_before(server: Postgres) -> None:
    """Two users who take turns: the old one is shut out when the last of its connections is gone."""
    secret = {"user": "anna", "password": "one"}
    with PoolManager(max_lifetime=1.0) as manager:
        manager.add("db", server.url, lambda: secret, max_size=4)
        pool = manager["db"]
        load = Load(pool)
        with load.running():
            load.wait(20)
            assert server.session_count("anna") > 0
            secret = {"user": "bert", "password": "two"}
            until(lambda: server.session_count("anna") == 0 or load.errors)
            order(server, "ALTER ROLE anna NOLOGIN")
            load.wait(20)
            until(lambda: pool.stats().closed.get("lifetime", 0) >= 4 or load.errors)
        assert load.errors == []
        assert (pool.stats().errors, pool.stats().timeouts) == (0, 0)


def test_a_password_that_was_not_changed_here_is_reported_at_once_and_healed_by_the_next_answer(
    server: Postgres,
) -> None:
    secret = {"user": "anna", "password": "one"}
    with PoolManager() as manager:
        manager.add("db", server.url, lambda: secret, max_size=1)
        pool = manager["db"]
        pool.acquire().release()
        order(server, "ALTER ROLE anna PASSWORD 'changed'")
        pool.clear()
        start = time.monotonic()
        with pytest.raises(Exception, match="authentication failed") as caught:
            pool.acquire(timeout=LONG)
        assert time.monotonic() - start < LONG / 4
        assert "one" not in str(caught.value).split()
        secret = {"user": "anna", "password": "changed"}
        until(lambda: _works(pool))


def _works(pool: Pool[Any]) -> bool:
    try:
        pool.acquire(timeout=5.0).release()
    except Exception:
        return False
    return True
