"""The pool for what a Sentinel watches, on a real Sentinel with a primary and a replica."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError
from redis.sentinel import Sentinel as Client

from pooling.backends.redis import SentinelConnectionPool
from tests.servers import Redis, Sentinel
from tests.servers.sentinel import SERVICE
from tests.waiting import until


@pytest.fixture
def primary(own_server: Callable[..., Redis]) -> Redis:
    return own_server("redis")


@pytest.fixture
def replica(own_server: Callable[..., Redis], primary: Redis) -> Redis:
    server = own_server("redis")
    with server_client(server) as client:
        client.replicaof(*primary.address)
        until(lambda: client.info("replication")["master_link_status"] == "up")
    return server


@pytest.fixture
def sentinel(primary: Redis, replica: Redis) -> Iterator[Client]:
    with Sentinel(primary) as server:
        server.wait_for_replicas(1)
        asking = {"socket_timeout": 1, "retry": Retry(NoBackoff(), 0)}
        with Client([server.address], sentinel_kwargs=asking, socket_timeout=1) as client:
            yield client


def server_client(server: Redis) -> redis.Redis:
    host, port = server.address
    return redis.Redis(host=host, port=port)


def fill(pool: Any, count: int) -> None:
    for connection in [pool.get_connection() for _ in range(count)]:
        pool.release(connection)


class TestSentinelConnectionPool:
    def test_it_leads_to_the_primary_or_to_its_replicas(self, sentinel: Client, primary: Redis, replica: Redis) -> None:
        master = sentinel.master_for(SERVICE, connection_pool_class=SentinelConnectionPool, max_connections=2)
        slave = sentinel.slave_for(SERVICE, connection_pool_class=SentinelConnectionPool, db=3)
        with master, slave:
            assert master.info("replication")["role"] == "master"
            assert slave.info("replication")["role"] == "slave"
            pools = master.connection_pool.pooling, slave.connection_pool.pooling
            assert [pool.name for pool in pools] == ["shop(master)/0", "shop(slave)/3"]
            assert pools[0].stats().max_size == 2

    def test_a_new_primary_is_found_when_the_old_one_dies(
        self, sentinel: Client, primary: Redis, replica: Redis
    ) -> None:
        options = {"connection_pool_class": SentinelConnectionPool, "timeout": 20.0, "fail_after": 20.0}
        with sentinel.master_for(SERVICE, **options) as client:
            pool = client.connection_pool
            fill(pool, 3)
            primary.kill()
            assert client.set("a", 1)  # waits until there is another one
            assert pool.master_address == replica.address
            assert pool.pooling.stats().leased == 0

    def test_one_error_tells_that_the_primary_was_demoted(
        self, sentinel: Client, primary: Redis, replica: Redis
    ) -> None:
        """Each connection to the old one was used once more: redis-py's error says that it was lost, not why."""
        with sentinel.master_for(SERVICE, connection_pool_class=SentinelConnectionPool) as client:
            pool = client.connection_pool
            fill(pool, 3)
            sentinel.discover_master = lambda _: replica.address  # type: ignore[method-assign]
            with server_client(primary) as old, server_client(replica) as new:
                new.replicaof("NO", "ONE")
                old.replicaof(*replica.address)
            with pytest.raises(redis.ConnectionError, match="The previous master is now a slave"):
                client.set("a", 1)
            for _ in range(3):
                assert client.set("a", 1)
            until(lambda: pool.pooling.stats().closed == {"broken": 1, "stale": 2})  # by workers

    def test_one_error_tells_that_the_primary_hangs(self, sentinel: Client, primary: Redis, replica: Redis) -> None:
        """Each connection to it cost a user another timeout: a Sentinel's connection is still open after one, and was
        closed without a reason."""
        with sentinel.master_for(SERVICE, connection_pool_class=SentinelConnectionPool) as client:
            pool = client.connection_pool
            fill(pool, 3)
            sentinel.discover_master = lambda _: replica.address  # type: ignore[method-assign]
            with server_client(replica) as new:
                new.replicaof("NO", "ONE")
            primary.freeze()
            with pytest.raises(redis.TimeoutError):
                client.set("a", 1)
            for _ in range(3):
                assert client.set("a", 1)
            assert pool.pooling.stats().errors_by["use"] == 1
            assert pool.pooling.stats().closed["broken"] >= 1

    def test_a_name_that_no_sentinel_knows_is_the_drivers_error(self, sentinel: Client) -> None:
        with (
            sentinel.master_for("nobody", connection_pool_class=SentinelConnectionPool) as client,
            pytest.raises(MasterNotFoundError, match="No master found for 'nobody'"),
        ):
            client.ping()
