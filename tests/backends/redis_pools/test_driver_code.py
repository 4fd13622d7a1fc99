"""What redis-py's own code calls on its pools, and frameworks on redis-py."""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from queue import Empty
from typing import Any
from unittest import mock

import pytest
import redis
from redis.auth.token import SimpleToken
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection, Connection
from redis.credentials import UsernamePasswordCredentialProvider
from redis.event import AfterConnectionReleasedEvent, EventDispatcher, ReAuthConnectionListener
from redis.maint_notifications import MaintNotificationsConfig
from redis.observability.attributes import ConnectionState, get_pool_name
from redis.retry import Retry

from pooling.backends.redis import BlockingConnectionPool, ConnectionPool
from tests.backends.adapters_redis import Redis
from tests.backends.contract import run_python, settled
from tests.backends.redis_pools.conftest import Make, identity
from tests.waiting import until


class TestWhatTheDriversOwnCodeCalls:
    def test_a_connection_that_somebodys_test_keeps_from_connecting_is_handed_out(self, make: Make) -> None:
        """Many replace these methods to see what is sent; the driver's own tests of a cluster do."""
        nothing = {"connect": mock.Mock(), "can_read": mock.Mock(return_value=False)}
        with mock.patch.multiple(Connection, **nothing):
            pool = make(ConnectionPool, max_connections=1)
            for _ in range(2):
                pool.release(pool.get_connection())
            assert pool.pooling.stats().leased == 0

    def test_retries_are_set_on_every_connection(self, make: Make) -> None:
        pool = make()
        used, idle = pool.get_connection(), pool.get_connection()
        pool.release(idle)
        retry = Retry(NoBackoff(), 3)
        pool.set_retry(retry)
        assert used.retry is idle.retry is retry
        pool.release(used)

    def test_a_connection_that_was_dropped_is_counted_out_of_the_drivers_metrics(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counted = Counter[str]()

        def record(pool_name: str, connection_state: ConnectionState, counter: int) -> None:
            if pool_name == name:
                counted[connection_state.value] += counter

        monkeypatch.setattr("pooling.backends.redis._pools._is_metered", lambda: True)
        monkeypatch.setattr("pooling.backends.redis._pools.record_connection_count", record)
        pool = make(max_connections=2)
        name = get_pool_name(pool)
        pool.release(pool.get_connection())
        assert counted == {"idle": 1, "used": 0}
        dropped: Any = pool.get_connection()
        assert counted == {"idle": 0, "used": 1}
        del dropped
        gc.collect()
        until(lambda: counted == {"idle": 0, "used": 0})
        dropped = pool.get_connection()
        pool.reset()  # which counts it out
        del dropped
        gc.collect()
        time.sleep(0.6)
        pool.release(pool.get_connection())
        assert counted == {"idle": 1, "used": 0}

    def test_a_new_token_logs_idle_connections_in_at_once_and_the_others_when_they_come_back(
        self, make: Make, backend: Redis
    ) -> None:
        dispatcher = EventDispatcher({AfterConnectionReleasedEvent: [ReAuthConnectionListener()]})
        pool = make(max_connections=2, event_dispatcher=dispatcher)
        used, idle = pool.get_connection(), pool.get_connection()
        pool.release(idle)

        def users() -> list[str]:
            return sorted(client["user"] for client in backend.clients())

        pool.re_auth_callback(token("secret"))
        until(lambda: users() == ["default", "guarded"])
        pool.release(used)
        assert users() == ["guarded", "guarded"]
        assert pool.pooling.stats().opened == 2

    @pytest.mark.parametrize("name", ["ConnectionPool", "BlockingConnectionPool"])
    def test_listeners_hear_of_returns_as_at_redis_pys_pool_of_the_same_name(self, backend: Redis, name: str) -> None:
        def heard(kind: Any) -> int:
            listener = mock.Mock()
            dispatcher = EventDispatcher({AfterConnectionReleasedEvent: [listener]})
            pool = kind.from_url(backend.url, event_dispatcher=dispatcher)
            redis.Redis(connection_pool=pool).ping()
            pool.disconnect()
            return len(listener.listen.mock_calls)

        ours = ConnectionPool if name == "ConnectionPool" else BlockingConnectionPool
        assert heard(ours) == heard(getattr(redis, name))

    def test_a_token_is_not_used_on_a_session_that_is_younger(self, make: Make) -> None:
        """Kept by a connection without a session, it was sent after the first use of the next one."""
        pool = make(max_connections=1, credential_provider=UsernamePasswordCredentialProvider("guarded", "secret"))
        client = redis.Redis(connection_pool=pool)
        assert client.ping()
        pool.disconnect()
        pool.re_auth_callback(token("expired"))
        assert client.ping()
        assert pool.pooling.stats().errors == 0

    def test_a_session_that_is_refused_a_new_token_ends(self, make: Make, backend: Redis) -> None:
        pool = make(max_connections=1, credential_provider=UsernamePasswordCredentialProvider("guarded", "secret"))
        connection = pool.get_connection()
        pool.re_auth_callback(token("expired"))
        with pytest.raises(redis.AuthenticationError):
            pool.release(connection)
        backend.wait_for(0)
        assert redis.Redis(connection_pool=pool).ping()

    def test_a_connection_marked_for_a_new_start_is_not_used_again_as_it_is(self, make: Make) -> None:
        pool = make(max_connections=1)
        connection = pool.get_connection()
        before = identity(connection)
        pool.update_active_connections_for_reconnect()
        pool.release(connection)
        assert redis.Redis(connection_pool=pool).client_id() != before

    def test_a_server_that_moves(self, make: Make, backend: Redis) -> None:
        """What the handler of maintenance notifications does, in its order."""
        pool = make(max_connections=2, timeout=0.2)
        used, idle = pool.get_connection(), pool.get_connection()
        pool.release(idle)
        with pool._lock:
            pool.set_in_maintenance(True)
            with pytest.raises(redis.ConnectionError):  # in another thread it would wait, and so does this
                pool.get_connection()
            pool.update_connections_settings(relaxed_timeout=30, include_free_connections=True)
            pool.update_active_connections_for_reconnect()
            pool.disconnect_free_connections()
            pool.update_connection_kwargs(socket_timeout=30)
            pool.set_in_maintenance(False)
        assert used.should_reconnect()
        assert not idle.is_connected
        pool.release(used)
        assert redis.Redis(connection_pool=pool).ping()
        assert pool._created_connections <= 2

    def test_a_connection_that_a_subclass_disowns_is_forgotten(self, backend: Redis) -> None:
        class Picky(ConnectionPool):
            def owns_connection(self, connection: Any) -> bool:  # type: ignore[override]  # as a Sentinel's pool does
                return False

        with Picky.from_url(backend.url, client_name=backend.name, max_connections=1) as pool:
            first = pool.get_connection()
            pool.release(first)
            assert pool._created_connections == 0
            assert pool.get_connection() is not first

    def test_a_connection_class_that_is_none_of_redis_pys_is_told_to_connect_at_each_use(self, backend: Redis) -> None:
        class Wrapped:
            """It has no socket to look at, and does not connect by itself."""

            _sock = None

            def __init__(self, **args: Any) -> None:
                self.inner = Connection(**args)
                self.pid, self.connects = self.inner.pid, 0

            def connect(self) -> None:
                if not self.inner.is_connected:
                    self.inner.connect()
                    self.connects += 1

            def can_read(self) -> bool:
                assert self.inner.is_connected
                return self.inner.can_read()

            def __getattr__(self, name: str) -> Any:
                return getattr(self.inner, name)

        pool = ConnectionPool.from_url(backend.url, connection_class=Wrapped, client_name=backend.name)
        client = redis.Redis(connection_pool=pool)
        sessions = [client.client_id() for _ in range(3)]
        assert sessions == [sessions[0]] * 3
        connection = pool.get_connection()
        connection.disconnect()
        pool.release(connection)
        assert client.client_id() != sessions[0]
        assert connection.connects == 2

    def test_a_connection_class_may_forward_whatever_it_is_asked_for(self, backend: Redis) -> None:
        class Forwarding:
            def __init__(self, **args: Any) -> None:
                self.inner = Connection(**args)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.inner, name)

        pool = ConnectionPool.from_url(backend.url, connection_class=Forwarding, client_name=backend.name)
        client = redis.Redis(connection_pool=pool)
        assert client.client_id() == client.client_id()

    def test_connections_are_counted_as_the_metrics_want_it(self, make: Make) -> None:
        pool = make()
        connections = [pool.get_connection() for _ in range(3)]
        pool.release(connections.pop())
        (idle, idle_attributes), (used, used_attributes) = pool.get_connection_count()
        assert (idle, used) == (1, 2)
        assert idle_attributes != used_attributes
        assert [item for item in pool.pool.queue if item] == pool._get_free_connections()
        assert pool.pool.qsize() == pool.max_connections - 2
        assert set(pool._connections) == {*pool._get_free_connections(), *pool._get_in_use_connections()}
        for connection in connections:
            pool.release(connection)

    def test_what_is_written_to_its_lists_is_counted_in(self, make: Make) -> None:
        pool = make(ConnectionPool)
        idle, used = pool.make_connection(), pool.make_connection()
        pool._available_connections.append(idle)
        pool._in_use_connections.add(used)
        assert (pool._available_connections, pool._in_use_connections) == ([idle], {used})
        assert pool._created_connections == 2
        assert pool.get_connection() is idle
        pool.release(idle)

    @pytest.mark.parametrize("kind", [BlockingConnectionPool, redis.BlockingConnectionPool])
    def test_its_queue_is_one_of_places_as_in_redis_py(self, kind: Any) -> None:
        pool = kind(max_connections=2)
        places = pool.pool

        def seen() -> tuple[int, bool, bool]:
            return places.qsize(), places.full(), places.empty()

        assert seen() == (2, True, False)
        assert places.get_nowait() is None
        assert seen() == (1, False, False)
        assert places.get_nowait() is None
        assert seen() == (0, False, True)
        with pytest.raises(Empty):
            places.get_nowait()
        places.put_nowait(None)
        places.put_nowait(pool.make_connection())
        assert seen() == (2, True, False)
        assert sum(place is not None for place in places.queue) == 1

    def test_arguments_of_get_connection_are_out_of_date(self, make: Make) -> None:
        pool = make()
        with pytest.warns(DeprecationWarning, match="Use get_connection.. without args") as caught:
            pool.release(pool.get_connection("PING"))
        assert caught[0].filename == __file__

    @pytest.mark.parametrize("kind", [ConnectionPool, BlockingConnectionPool, redis.ConnectionPool])
    @pytest.mark.parametrize("problem", [None, redis.ConnectionError("hung up")])
    def test_a_server_that_lets_no_new_connection_be_is_an_error_and_not_asked_for_ever(
        self, backend: Redis, kind: Any, problem: Exception | None
    ) -> None:
        """It says something unasked on each, or hangs up at once. Redis-py's own pool does the same."""
        looks: list[int] = []

        class Odd(redis.Connection):
            def can_read(self, timeout: float = 0) -> bool:
                looks.append(1)
                if problem is not None:
                    raise problem
                return True

        pool = kind.from_url(backend.url, connection_class=Odd, protocol=2, client_name=backend.name, max_connections=1)
        with pytest.raises(redis.ConnectionError, match="hung up" if problem else "Connection not ready"):
            pool.get_connection()
        assert len(looks) == 2
        pool.disconnect()
        backend.wait_for(0)
        if isinstance(pool, ConnectionPool):
            settled(pool.pooling, leased=0, busy=0)

    def test_a_cache_wraps_the_connection(self, backend: Redis) -> None:
        pool = ConnectionPool.from_url(backend.url, protocol=3, cache_config=CacheConfig())
        assert isinstance(pool.make_connection(), CacheProxyConnection)
        assert redis.Redis(connection_pool=pool).get_cache() is pool.cache
        assert pool.expects_news()
        with pytest.raises(redis.RedisError, match="RESP version 3"):
            ConnectionPool(protocol=2, cache_config=CacheConfig())

    @pytest.mark.parametrize("moves", [True, False])
    def test_a_cached_answer_is_invalidated_by_others(self, make: Make, backend: Redis, moves: bool) -> None:
        # The driver refuses servers before 7.4 on its own account; tracking works since 6.
        with mock.patch.object(CacheProxyConnection, "MIN_ALLOWED_VERSION", "6.0.0"):
            notices = {} if moves else {"maint_notifications_config": MaintNotificationsConfig(enabled=False)}
            pool = make(max_connections=2, protocol=3, cache_config=CacheConfig(), check_after=0.0, **notices)
            client = redis.Redis(connection_pool=pool)
            backend.admin.set(backend.name, "old")
            assert client.get(backend.name) == client.get(backend.name) == b"old"
            assert pool.cache.size == 1
            backend.admin.set(backend.name, "new")
            time.sleep(0.05)
            assert client.get(backend.name) == b"new"
            client.execute_command("SELECT", 4)  # a reset that has to leave the tracking as it is
            backend.admin.set(backend.name, "newer")
            time.sleep(0.05)
            assert client.get(backend.name) == b"newer"
            assert client.client_info()["db"] == 0
            assert "t" in client.client_info()["flags"]
            assert pool.pooling.stats().opened == 1

    def test_it_has_what_cluster_and_failover_code_reaches_for(self) -> None:
        pool = BlockingConnectionPool(host="db.example")
        for name in (
            "_lock", "owns_connection", "disconnect_free_connections", "update_active_connections_for_reconnect",
            "update_connections_settings", "update_connection_kwargs", "update_maint_notifications_config",
            "_get_free_connections", "_get_in_use_connections", "set_in_maintenance", "himport_registry", "_pool_id",
        ):  # fmt: skip  # a list
            assert hasattr(pool, name)

    def test_djangos_cache_takes_it(self, backend: Redis) -> None:
        """In a process of its own: Django's settings are made once in each."""
        pytest.importorskip("django")
        run_python(
            """
            import sys

            from django.conf import settings
            from django.core.cache.backends.redis import RedisCache

            from pooling.backends.redis import BlockingConnectionPool

            settings.configure()
            options = {
                "pool_class": "pooling.backends.redis.BlockingConnectionPool", "max_connections": 3, "timeout": 2.0,
            }
            cache = RedisCache(sys.argv[1], {"OPTIONS": options})
            cache.set(sys.argv[2], {"a": 1})
            assert cache.get(sys.argv[2]) == {"a": 1}
            (pool,) = cache._cache._pools.values()
            assert isinstance(pool, BlockingConnectionPool)
            assert (pool.pooling.stats().max_size, pool.timeout) == (3, 2.0)
            pool.close()
            """,
            backend.url,
            backend.name,
        )

    def test_credentials_are_asked_for_each_connection(self, make: Make, backend: Redis) -> None:
        asked: list[int] = []

        class Provider(UsernamePasswordCredentialProvider):
            def get_credentials(self) -> Any:
                asked.append(1)
                return super().get_credentials()

        pool = make(credential_provider=Provider("guarded", "secret"))
        held = [pool.get_connection() for _ in range(2)]
        assert len(asked) == 2
        for connection in held:
            pool.release(connection)

    def test_it_runs_in_another_process_than_it_was_made_in(self, make: Make) -> None:
        pool = make()
        assert pool.owns_connection(pool.make_connection())
        assert pool.pid == os.getpid()


def token(value: str) -> SimpleToken:
    return SimpleToken(value, time.time() * 1000 + 1e6, time.time() * 1000, {"oid": "guarded"})
