"""A primary is demoted or replaced: two real servers behind the proxy, which leads to the new primary from then on.

The connections to the old one stay open and answer every check. The first error that says what has happened has to
retire them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pymysql
import pytest
import redis
from pymongo.errors import NotPrimaryError

from pooling import create_pool
from pooling.backends.redis import BlockingConnectionPool
from tests.outages.conftest import Servers
from tests.outages.users import fill
from tests.proxy import Proxy
from tests.waiting import until

SIZE = 8


class Failover:
    """Two servers. ``fail_over`` demotes the first and has the proxy lead to the second."""

    error: type[Exception]

    def __init__(self, old: Any, new: Any, proxy: Proxy) -> None:
        self.old, self.new = old, new
        self.proxy = proxy
        self.prepare()

    @property
    def url(self) -> str:
        return self.old.url_at(self.proxy.host, self.proxy.port)

    def prepare(self) -> None:
        """Before a pool is there."""

    def demote(self) -> None:
        """From now on the first one refuses to write; it says so, and keeps its connections."""
        raise NotImplementedError

    def restore(self) -> None:
        """Undo it, for the next test."""
        raise NotImplementedError

    def write(self, connection: Any) -> None:
        raise NotImplementedError

    def read(self, connection: Any) -> None:
        raise NotImplementedError

    def written(self, server: Any) -> int:
        """Writes on that server, as it counts them."""
        raise NotImplementedError

    def fail_over(self) -> None:
        self.demote()
        self.proxy.retarget(self.new.address)


class PostgresFailover(Failover):
    error = psycopg.errors.ReadOnlySqlTransaction

    def prepare(self) -> None:
        for server in (self.old, self.new):
            server._ask(lambda admin: admin.execute("CREATE TABLE IF NOT EXISTS written (at float)"))

    def demote(self) -> None:
        self.set_read_only("on")

    def restore(self) -> None:
        self.set_read_only("off")

    def set_read_only(self, value: str) -> None:
        def order(admin: Any) -> None:
            admin.execute("SET default_transaction_read_only = off")  # for this session alone
            admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            admin.execute("SELECT pg_reload_conf()")

        self.old._ask(order)
        asked = "SELECT setting FROM pg_file_settings WHERE name = 'default_transaction_read_only' AND applied"
        until(lambda: self.old._ask(lambda a: a.execute(asked).fetchone()) == (value,), "it is so")

    def write(self, connection: Any) -> None:
        connection.execute("INSERT INTO written VALUES (1)")
        connection.commit()

    def read(self, connection: Any) -> None:
        connection.execute("SELECT count(*) FROM written")

    def written(self, server: Any) -> int:
        return server._ask(lambda admin: admin.execute("SELECT count(*) FROM written").fetchone())[0]


class MysqlFailover(Failover):
    error = pymysql.OperationalError

    def prepare(self) -> None:
        # A user without the privilege to write on a read-only server, which ALL PRIVILEGES would include.
        for server in (self.old, self.new):
            server.order("CREATE TABLE IF NOT EXISTS pooling.written (at float) ENGINE=InnoDB")
            server.order("CREATE USER IF NOT EXISTS plain IDENTIFIED BY 'secret'")
            server.order("GRANT SELECT, INSERT ON pooling.* TO plain")

    @property
    def url(self) -> str:
        return super().url.replace("pooling:secret@", "plain:secret@")

    def demote(self) -> None:
        self.old.order("SET GLOBAL read_only = ON")

    def restore(self) -> None:
        self.old.order("SET GLOBAL read_only = OFF")

    def write(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO written VALUES (1)")
        connection.commit()

    def read(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM written")

    def written(self, server: Any) -> int:
        return server.order("SELECT count(*) FROM pooling.written")[0][0]


class RedisFailover(Failover):
    error = redis.exceptions.ReadOnlyError

    def prepare(self) -> None:
        host, port = self.old.address
        self.old._ask(lambda admin: admin.config_set("repl-diskless-sync-delay", 0))
        self.new._ask(lambda admin: admin.replicaof(host, port))

        def linked() -> bool:
            return self.new._ask(lambda admin: admin.info("replication")).get("master_link_status") == "up"

        until(linked, "the replica has found its primary")

    def demote(self) -> None:
        host, port = self.new.address
        self.new._ask(lambda admin: admin.replicaof("NO", "ONE"))
        self.old._ask(lambda admin: admin.replicaof(host, port))

    def restore(self) -> None:
        self.old._ask(lambda admin: admin.replicaof("NO", "ONE"))

    def write(self, connection: Any) -> None:
        connection.incr("written")

    def read(self, connection: Any) -> None:
        connection.get("written")

    def written(self, server: Any) -> int:
        return int(server._ask(lambda admin: admin.get("written")) or 0)


class MongoFailover(Failover):
    """Its servers are replica sets of one. The old one refuses to write as a primary does that has stepped down."""

    error = NotPrimaryError

    def demote(self) -> None:
        order = {"configureFailPoint": "failCommand", "mode": "alwaysOn"}
        data = {"failCommands": ["insert"], "errorCode": 10107}
        self.old.ask(lambda admin: admin.admin.command({**order, "data": data}))

    def restore(self) -> None:
        self.old.ask(lambda admin: admin.admin.command({"configureFailPoint": "failCommand", "mode": "off"}))

    def write(self, connection: Any) -> None:
        connection.failover.written.insert_one({})

    def read(self, connection: Any) -> None:
        connection.failover.written.find_one({})

    def written(self, server: Any) -> int:
        return server.ask(lambda admin: admin.failover.written.count_documents({}))


KINDS: dict[str, type[Failover]] = {
    "mysql": MysqlFailover,
    "mongodb": MongoFailover,
    "postgres": PostgresFailover,
    "redis": RedisFailover,
}


@pytest.fixture
def failover(request: pytest.FixtureRequest, own_servers: Servers, proxy: Callable[..., Proxy]) -> Iterator[Failover]:
    old, new = own_servers[f"old {request.param}"], own_servers[request.param]
    between = KINDS[request.param](old, new, proxy(old))
    yield between
    between.restore()


def kinds(*names: str) -> Any:
    """Of the other kinds a pair of servers takes long to start: they are for the soak."""
    marks = {name: [pytest.mark.soak] * (name not in {"postgres", "redis"}) for name in names}
    return pytest.mark.parametrize("failover", [pytest.param(name, marks=marks[name]) for name in names], indirect=True)


@kinds(*KINDS)
def test_the_first_error_that_says_so_retires_every_connection_to_the_old_primary(failover: Failover) -> None:
    args = {"retryWrites": False} if isinstance(failover, MongoFailover) else None
    with create_pool(failover.url, connect_args=args, max_size=SIZE, check_after=0.0) as pool:
        fill(pool, SIZE)
        with pool.acquire() as connection:
            failover.write(connection)
        failover.fail_over()
        with pool.acquire() as connection:
            failover.read(connection)  # which the old one still answers
        failed, before = 0, failover.written(failover.new)
        for _ in range(3 * SIZE):
            try:
                with pool.acquire() as connection:
                    failover.write(connection)
            except failover.error:
                failed += 1
        assert failed == 1
        # Those that were idle have gone without having been handed out, and all the writes went to the new primary.
        until(lambda: sum(pool.stats().closed.values()) == SIZE, "all of them are closed")
        assert pool.stats().closed == {"broken": 1, "stale": SIZE - 1}
        assert failover.written(failover.new) - before == 3 * SIZE - 1
        assert pool.stats().state == "up"


@kinds("redis")
def test_a_redis_client_on_our_pool_meets_one_error(failover: Failover) -> None:
    """The drop-in hears of what a server said only from the connection that heard it."""
    pool = BlockingConnectionPool.from_url(failover.url, max_connections=SIZE)
    with redis.Redis(connection_pool=pool) as client:
        held = [pool.get_connection() for _ in range(SIZE)]
        for connection in held:
            pool.release(connection)
        client.incr("written")
        failover.fail_over()
        assert client.get("written")
        failed = 0
        for _ in range(3 * SIZE):
            try:
                client.incr("written")
            except redis.exceptions.ReadOnlyError:
                failed += 1
        assert failed == 1
        until(lambda: sum(pool.pooling.stats().closed.values()) == SIZE, "all of them are closed")
        assert pool.pooling.stats().closed == {"broken": 1, "stale": SIZE - 1}
    pool.disconnect()


def test_a_read_only_transaction_of_the_users_own_costs_one_connection(own_servers: Servers) -> None:
    """The same error, by a mistake of the user: the server has said that it takes writes, so the others stay."""
    with create_pool(own_servers["postgres"].url, max_size=4) as pool:
        fill(pool, 4)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), pool.acquire() as connection:
            connection.execute("SET TRANSACTION READ ONLY")
            connection.execute("CREATE TABLE never (at float)")
        until(lambda: pool.stats().size == 3 == pool.stats().idle, "the others have been checked")
        assert pool.stats().closed == {"broken": 1}


@kinds("postgres")
def test_a_standby_in_the_place_of_a_primary_is_left_when_the_proxy_leads_to_the_primary(failover: Failover) -> None:
    """Nothing changes on the server here: it was read-only when the connections were opened."""
    failover.demote()
    with create_pool(failover.url, max_size=SIZE) as pool:
        fill(pool, SIZE)
        failover.proxy.retarget(failover.new.address)
        failed = 0
        for _ in range(3 * SIZE):
            try:
                with pool.acquire() as connection:
                    failover.write(connection)
            except failover.error:
                failed += 1
        assert failed == 1
