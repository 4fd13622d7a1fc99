"""Pools in the place of redis-py's own: what clients see, and what the pool underneath adds."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any
from unittest import mock

import pytest
import redis
from redis.auth.token import SimpleToken
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection
from redis.credentials import UsernamePasswordCredentialProvider
from redis.event import AfterConnectionReleasedEvent, EventDispatcher, ReAuthConnectionListener
from redis.retry import Retry

import pooling
from pooling.backends.redis import BlockingConnectionPool, ConnectionPool, NoConnection, TooManyConnections
from pooling.backends.redis._shells import Shells
from tests.backends.adapters_redis import Redis
from tests.backends.contract import in_threads, run_python, settled
from tests.interrupts.lines import struck_at_each_line
from tests.proxy import Proxy
from tests.servers import Redis as Server

Make = Callable[..., Any]


@pytest.fixture
def backend(redis_server: Server, tmp_path: Path) -> Iterator[Redis]:
    with Redis(redis_server, tmp_path) as adapter:
        yield adapter


@pytest.fixture
def make(backend: Redis) -> Iterator[Make]:
    """A pool whose sessions the backend counts."""
    made: list[Any] = []

    def new(kind: Any = BlockingConnectionPool, url: str | None = None, **options: Any) -> Any:
        pool = kind.from_url(url or backend.url, **{"client_name": backend.name, **options})
        made.append(pool)
        return pool

    yield new
    for pool in made:
        pool.close()
        pool.pooling.close()


def identity(connection: Any) -> int:
    connection.send_command("CLIENT", "ID")
    number: int = connection.read_response()
    return number


class TestAsAClientSeesIt:
    @pytest.mark.parametrize("kind", [ConnectionPool, BlockingConnectionPool])
    def test_a_client_works_on_it_from_many_threads(self, make: Make, backend: Redis, kind: Any) -> None:
        pool = make(kind, max_connections=16 if kind is ConnectionPool else 4)
        client = redis.Redis(connection_pool=pool)

        def work(number: int) -> None:
            for use in range(50):
                assert int(client.echo(number * 50 + use)) == number * 50 + use

        in_threads(16, work)
        stats = pool.pooling.stats()
        assert stats.acquired == stats.released == 16 * 50
        assert stats.errors == 0
        assert backend.count() == stats.size <= pool.max_connections

    def test_it_is_one_of_redis_pys_own(self, make: Make) -> None:
        assert isinstance(make(ConnectionPool), redis.ConnectionPool)
        assert isinstance(make(), redis.BlockingConnectionPool)
        assert isinstance(make().pooling, pooling.Pool)

    def test_a_client_from_the_pool_owns_it(self, make: Make, backend: Redis) -> None:
        pool = make()
        with redis.Redis.from_pool(pool) as client:
            assert client.ping()
            assert backend.count() == 1
        backend.wait_for(0)
        assert redis.Redis(connection_pool=pool).ping()  # closed is disconnected: it can be used again

    def test_pipelines_transactions_and_watches(self, make: Make, backend: Redis) -> None:
        pool = make(max_connections=1)
        client = redis.Redis(connection_pool=pool)
        assert client.pipeline().set(backend.name, 1).incr(backend.name).execute() == [True, 2]
        with client.pipeline() as pipeline:
            pipeline.watch(backend.name)
            assert pipeline.get(backend.name) == b"2"
            backend.admin.set(backend.name, 7)
            pipeline.multi()
            pipeline.incr(backend.name)
            with pytest.raises(redis.WatchError):
                pipeline.execute()
        assert client.transaction(lambda pipe: (pipe.multi(), pipe.incr(backend.name)), backend.name) == [8]
        assert pool.pooling.stats().opened == 1

    def test_a_pubsub_takes_a_connection_and_costs_it(self, make: Make, backend: Redis) -> None:
        pool = make(max_connections=2)
        client = redis.Redis(connection_pool=pool)
        with client.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(backend.name)
            assert pubsub.get_message(timeout=1) is None
            assert client.publish(backend.name, "hello") == 1
            message = pubsub.get_message(timeout=5)
            assert message is not None
            assert message["data"] == b"hello"
            assert pool.pooling.stats().leased == 1
        settled(pool.pooling, leased=0, size=1)
        assert pool.pooling.stats().closed == {"discarded": 1}
        assert pool.pooling.stats().errors == 0

    def test_a_handler_of_published_messages_does_not_stay_behind(self, make: Make, backend: Redis) -> None:
        client = redis.Redis(connection_pool=make(max_connections=1, protocol=3))
        heard: list[Any] = []
        with client.pubsub(push_handler_func=heard.append) as pubsub:
            pubsub.subscribe(backend.name)
            pubsub.get_message(timeout=1)
        count = len(heard)
        with client.pubsub() as pubsub:
            pubsub.subscribe(backend.name)
            message = pubsub.get_message(timeout=5)
            assert message is not None
            assert message["type"] == "subscribe"
        assert len(heard) == count

    @pytest.mark.parametrize("command", [("SELECT", 4), ("CLIENT", "SETNAME", "other"), ("WATCH", "x"), ("MULTI",)])
    def test_what_one_command_leaves_does_not_reach_the_next(self, make: Make, backend: Redis, command: Any) -> None:
        client = redis.Redis(connection_pool=make(max_connections=1))
        client.execute_command(*command)
        info = client.client_info()
        assert (info["db"], info["name"], info["multi"]) == (0, backend.name, -1)

    def test_a_reply_that_was_not_read_does_not_reach_the_next(self, make: Make) -> None:
        pool = make(max_connections=1)
        connection = pool.get_connection()
        connection.send_command("ECHO", "secret")
        pool.release(connection)
        assert redis.Redis(connection_pool=pool).echo("mine") == b"mine"

    def test_a_connection_is_put_back_and_kept(self, make: Make) -> None:
        pool = make(ConnectionPool)
        first = pool.get_connection()
        pool.release(first)
        assert pool._available_connections == [first]
        assert pool.get_connection() is first
        assert pool._in_use_connections == {first}
        pool.release(first)
        pool.release(first)  # twice: ignored
        pool.release(make(ConnectionPool).get_connection())  # another pool's: likewise
        assert pool._created_connections == len(pool._available_connections) == 1
        assert pool.pooling.stats().released == 2

    def test_without_a_wait_too_many_is_an_error_at_once(self, make: Make) -> None:
        pool = make(ConnectionPool, max_connections=2)
        held = [pool.get_connection(), pool.get_connection()]
        start = time.monotonic()
        with pytest.raises(redis.MaxConnectionsError, match=r"2 of 2 are in use, longest by MainThread") as caught:
            pool.get_connection()
        assert time.monotonic() - start < 0.2
        assert isinstance(caught.value, TooManyConnections)
        assert isinstance(caught.value, pooling.QueueFull)
        for connection in held:
            pool.release(connection)

    def test_without_a_wait_a_cold_pool_serves_as_many_as_it_may(self, make: Make) -> None:
        pool = make(ConnectionPool, max_connections=8)
        barrier = threading.Barrier(8)

        def work(_: int) -> None:
            barrier.wait()
            connection = pool.get_connection()
            barrier.wait()
            pool.release(connection)

        in_threads(8, work)
        assert pool.pooling.stats().opened == 8

    def test_a_slot_that_is_being_closed_counts_as_free(self, make: Make) -> None:
        pool = make(ConnectionPool, max_connections=1)
        for _ in range(50):
            connection = pool.get_connection()
            connection.disconnect()
            pool.release(connection)

    def test_disconnect_reaches_those_in_use_too(self, make: Make, backend: Redis) -> None:
        pool = make(max_connections=3)
        used, idle = pool.get_connection(), pool.get_connection()
        pool.release(idle)
        pool.disconnect(inuse_connections=False)
        assert used.is_connected
        assert not idle.is_connected
        backend.wait_for(1)
        pool.disconnect()
        assert not used.is_connected
        backend.wait_for(0)
        pool.release(used)
        assert redis.Redis(connection_pool=pool).ping()

    def test_a_reset_forgets_everything(self, make: Make, backend: Redis) -> None:
        pool = make(max_connections=2)
        used, idle = pool.get_connection(), pool.get_connection()
        pool.release(idle)
        old = pool.pooling
        pool.reset()
        assert pool._created_connections == 0
        assert pool.pooling is not old
        pool.release(used)
        assert not used.is_connected
        assert pool._created_connections == 0
        del idle
        gc.collect()
        backend.wait_for(0)
        assert redis.Redis(connection_pool=pool).ping()

    @pytest.mark.filterwarnings("ignore:pool .* was dropped without close:ResourceWarning")  # by a reset that is struck
    @pytest.mark.parametrize("function", [Shells.lend, Shells.take_back, ConnectionPool.reset])
    def test_wherever_an_exception_strikes_no_slot_is_lost(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, function: Any
    ) -> None:
        """A connection object that was kept with its lease kept that for ever; and a reset closed the pool first."""
        monkeypatch.setattr("pooling.backends.redis._shells.GRACE", 0.01)
        pools: list[Any] = []

        def use() -> Callable[[], object]:
            pools.append(make(max_connections=1, timeout=5.0))
            pools[-1].release(pools[-1].get_connection())
            return lambda: (pools[-1].release(pools[-1].get_connection()), pools[-1].reset())

        for line in struck_at_each_line(function, use):
            gc.collect()
            pools[-1].release(pools[-1].get_connection())
            assert pools[-1].pooling.stats().leased == 0, line

    def test_its_text_tells_no_secret(self) -> None:
        pool = ConnectionPool.from_url("redis://anna:hidden@db.example:6380/2", max_lifetime=60)
        assert "hidden" not in repr(pool) + repr(pool.pooling)
        assert "anna" not in repr(pool)
        assert "host=db.example" in repr(pool)
        assert pool.pooling.name == "db.example:6380/2"

    def test_options_come_by_keyword_and_in_the_url(self) -> None:
        pool = BlockingConnectionPool.from_url(
            "redis://db.example?max_connections=7&timeout=1.5&max_lifetime=60&idle_timeout=none&name=cache",
            max_uses=9, queue_class=Queue,
        )  # fmt: skip  # a list of options
        config = pool.pooling._config
        assert (config.max_size, config.max_lifetime, config.idle_timeout, config.max_uses) == (7, 60, None, 9)
        assert (config.order, config.name, pool.timeout) == ("fifo", "cache", 1.5)
        with pytest.raises(ValueError, match="max_uses"):
            ConnectionPool(max_uses=0)

    def test_on_connect_is_given_a_client(self, make: Make) -> None:
        pool = make(max_connections=1, on_connect=lambda client: client.execute_command("SELECT", 3))
        client = redis.Redis(connection_pool=pool)
        for _ in range(2):
            assert client.client_info()["db"] == 3
            client.execute_command("SELECT", 4)
        pool.disconnect()
        assert client.client_info()["db"] == 3
        connection = pool.get_connection()
        assert len(connection.setup) == 1
        pool.release(connection)


class TestErrors:
    def test_a_refused_port_is_the_drivers_error_at_once(self, make: Make) -> None:
        client = redis.Redis(connection_pool=make(url="redis://127.0.0.1:1/0"))
        start = time.monotonic()
        for _ in range(3):
            with pytest.raises(redis.ConnectionError, match="refused") as caught:
                client.ping()
            assert type(caught.value) is redis.ConnectionError
            assert isinstance(caught.value.__cause__, pooling.ConnectError)
        assert time.monotonic() - start < 1.0

    def test_a_wrong_password_is_the_drivers_error(self, make: Make, backend: Redis) -> None:
        client = redis.Redis(connection_pool=make(url=backend.permanent()["wrong password"]))
        with pytest.raises(redis.AuthenticationError):
            client.ping()

    def test_nothing_is_retried_in_silence(self, make: Make, backend: Redis, proxy: Callable[..., Proxy]) -> None:
        between = proxy(backend.server)
        client = redis.Redis(connection_pool=make(url=backend.at(*between.address)))
        client.set(backend.name, 0)
        between.cut_after(from_server=0)
        with pytest.raises(redis.ConnectionError):
            client.incr(backend.name)
        assert backend.admin.get(backend.name) == "1"

    def test_after_a_restart_nobody_sees_an_error(
        self, make: Make, backend: Redis, proxy: Callable[..., Proxy]
    ) -> None:
        between = proxy(backend.server)
        pool = make(url=backend.at(*between.address), max_connections=4)
        client = redis.Redis(connection_pool=pool)
        held = [pool.get_connection() for _ in range(4)]
        for connection in held:
            pool.release(connection)
        between.reset_all()
        time.sleep(0.02)
        in_threads(8, lambda _: client.ping())
        assert pool.pooling.stats().closed.get("broken", 0) >= 1

    def test_an_error_in_use_makes_the_others_suspect(self, make: Make, backend: Redis) -> None:
        pool = make(max_connections=3, check_after=60.0)
        held = [pool.get_connection() for _ in range(3)]
        victim = identity(held[0])
        others = {identity(connection) for connection in held[1:]}
        for connection in reversed(held):
            pool.release(connection)
        client = redis.Redis(connection_pool=pool)
        connection = pool.get_connection()
        backend.kill(victim)
        with pytest.raises(redis.ConnectionError):
            identity(connection)
        pool.release(connection)
        settled(pool.pooling, size=2, busy=0)
        assert pool.pooling.stats().closed == {"broken": 1}
        assert client.client_id() in others


class TestThroughPooling:
    def test_first_come_first_served(self, make: Make) -> None:
        pool = make(max_connections=1, timeout=10)
        connection = pool.get_connection()
        served: list[int] = []

        def work(number: int) -> None:
            mine = pool.get_connection()
            served.append(number)
            pool.release(mine)

        threads = []
        for number in range(8):
            thread = threading.Thread(target=work, args=(number,))
            thread.start()
            threads.append(thread)
            settled(pool.pooling, waiting=number + 1)
        pool.release(connection)
        for thread in threads:
            thread.join()
        assert served == list(range(8))

    def test_nobody_starves(self, make: Make) -> None:
        pool = make(max_connections=2, timeout=10)
        counts = [0] * 8
        until = time.monotonic() + 0.5

        def work(number: int) -> None:
            while time.monotonic() < until:
                connection = pool.get_connection()
                time.sleep(0.002)
                pool.release(connection)
                counts[number] += 1

        in_threads(8, work)
        assert min(counts) > 0.5 * max(counts)

    @pytest.mark.parametrize("timeout", [0.05, 0.3])
    def test_the_deadline_holds_while_all_are_in_use(self, make: Make, timeout: float) -> None:
        pool = make(max_connections=1, timeout=timeout)
        connection = pool.get_connection()
        start = time.monotonic()
        with pytest.raises(redis.ConnectionError, match="No connection available") as caught:
            pool.get_connection()
        assert timeout <= time.monotonic() - start < timeout + 0.25
        assert isinstance(caught.value, NoConnection)
        assert isinstance(caught.value, pooling.PoolTimeout)
        assert caught.value.stage == "queue"
        assert "NoConnection" in repr(caught.value)
        (holder,) = caught.value.holders
        assert Path(__file__).name in holder.where
        pool.release(connection)

    def test_the_deadline_holds_against_a_black_hole(
        self, make: Make, backend: Redis, proxy: Callable[..., Proxy]
    ) -> None:
        between = proxy(backend.server)
        between.on_accept = "mute"
        pool = make(url=backend.at(*between.address), timeout=0.2)
        start = time.monotonic()
        with pytest.raises(redis.ConnectionError):
            pool.get_connection()
        assert 0.2 <= time.monotonic() - start < 0.5
        between.reset_all()

    def test_holders_are_told_by_the_line_that_called_redis(self, make: Make) -> None:
        pool = make()
        client = redis.Redis(connection_pool=pool)
        pipeline = client.pipeline()
        pipeline.watch("x")
        (holder,) = pool.pooling.holders()
        assert holder.thread == threading.current_thread().name
        assert holder.where.endswith("test_holders_are_told_by_the_line_that_called_redis")
        pipeline.reset()
        assert pool.pooling.holders() == ()

    def test_a_dropped_connection_comes_back_and_is_reported(
        self, make: Make, backend: Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool = make(max_connections=1, timeout=5)
        first = identity(pool.get_connection())
        gc.collect()
        assert redis.Redis(connection_pool=pool).client_id() != first
        assert pool.pooling.stats().leaks == 1
        assert pool.pooling.stats().closed == {"dropped": 1}
        assert Path(__file__).name in caplog.text

    def test_a_lease_of_the_pool_underneath_that_is_dropped_comes_back(self, make: Make) -> None:
        pool = make(max_connections=1, timeout=5)
        pool.pooling.acquire()
        gc.collect()
        assert redis.Redis(connection_pool=pool).ping()
        assert pool.pooling.stats().leaks == 1

    def test_a_client_that_is_dropped_gives_its_connection_back(self, make: Make) -> None:
        pool = make(max_connections=1, timeout=5)
        pipeline = redis.Redis(connection_pool=pool).pipeline()
        pipeline.watch("x")
        del pipeline
        gc.collect()
        assert redis.Redis(connection_pool=pool).client_info()["multi"] == -1
        assert pool.pooling.stats().opened == 1

    @pytest.mark.parametrize("protocol", [2, 3])
    def test_a_dropped_pool_closes_its_connections_and_says_nothing(self, backend: Redis, protocol: int) -> None:
        pool = BlockingConnectionPool.from_url(backend.url, client_name=backend.name, protocol=protocol)
        redis.Redis(connection_pool=pool).ping()
        reference = weakref.ref(pool)
        del pool
        gc.collect()
        assert reference() is None
        backend.wait_for(0)

    def test_a_connection_outlives_a_dropped_pool(self, backend: Redis) -> None:
        connection = BlockingConnectionPool.from_url(backend.url, client_name=backend.name).get_connection()
        gc.collect()
        assert identity(connection)
        connection.disconnect()

    def test_a_clean_healthy_use_sends_its_command_and_nothing_else(
        self, make: Make, backend: Redis, proxy: Callable[..., Proxy]
    ) -> None:
        between = proxy(backend.server)
        pool = make(url=backend.at(*between.address), check_after=0.0)
        redis.Redis(connection_pool=pool).ping()
        time.sleep(0.05)
        before = between.bytes_from_client, between.bytes_from_server
        for _ in range(100):
            pool.release(pool.get_connection())
        time.sleep(0.05)
        assert (between.bytes_from_client, between.bytes_from_server) == before

    def test_connections_are_replaced_and_retired_as_by_any_pool(self, make: Make, backend: Redis) -> None:
        pool = make(max_connections=3, max_uses=2, idle_timeout=0.2)
        client = redis.Redis(connection_pool=pool)
        sessions = [client.client_id() for _ in range(4)]
        assert sessions[0] == sessions[1] != sessions[2] == sessions[3]
        client.ping()
        backend.wait_for(0)
        assert pool.pooling.stats().closed == {"uses": 2, "idle": 1}

    def test_a_forked_child_has_sessions_of_its_own(self, backend: Redis) -> None:
        script = """
            import os, sys, threading
            import redis
            from pooling.backends.redis import BlockingConnectionPool

            pool = BlockingConnectionPool.from_url(sys.argv[1], max_connections=3, timeout=5)
            client = redis.Redis(connection_pool=pool)
            mine, idle = pool.get_connection(), pool.get_connection()
            idle.send_command("CLIENT", "ID")
            known = idle.read_response()
            pool.release(idle)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    assert client.client_id() != known
                    assert pool._created_connections == 1, pool._created_connections
                    assert pool.pooling.stats().size == 1
                    pool.release(mine)  # the parent's
                    assert pool._created_connections == 1
                    pool.close()
                    code = 0
                except BaseException:
                    import traceback
                    traceback.print_exc()
                sys.exit(code) if sys.argv[2] == "exit" else os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            mine.send_command("ECHO", "still here")
            assert mine.read_response() == b"still here"
            assert client.client_id() == known
            pool.release(mine)
            pool.close()
        """
        for ending in ("exit", "os._exit"):
            run_python(script, backend.url, ending)


class TestWhatTheDriversOwnCodeCalls:
    def test_retries_are_set_on_every_connection(self, make: Make) -> None:
        pool = make()
        used, idle = pool.get_connection(), pool.get_connection()
        pool.release(idle)
        retry = Retry(NoBackoff(), 3)
        pool.set_retry(retry)
        assert used.retry is idle.retry is retry
        pool.release(used)

    def test_a_new_token_logs_idle_connections_in_at_once_and_the_others_when_they_come_back(
        self, make: Make, backend: Redis
    ) -> None:
        dispatcher = EventDispatcher({AfterConnectionReleasedEvent: [ReAuthConnectionListener()]})
        pool = make(max_connections=2, event_dispatcher=dispatcher)
        used, idle = pool.get_connection(), pool.get_connection()
        pool.release(idle)

        def users() -> list[str]:
            return sorted(client["user"] for client in backend.clients())

        pool.re_auth_callback(SimpleToken("secret", time.time() * 1000 + 1e6, time.time() * 1000, {"oid": "guarded"}))
        until = time.monotonic() + 5
        while users() != ["default", "guarded"]:
            assert time.monotonic() < until
            time.sleep(0.01)
        pool.release(used)
        assert users() == ["guarded", "guarded"]
        assert pool.pooling.stats().opened == 2

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

    def test_a_cache_wraps_the_connection(self, backend: Redis) -> None:
        pool = ConnectionPool.from_url(backend.url, protocol=3, cache_config=CacheConfig())
        assert isinstance(pool.make_connection(), CacheProxyConnection)
        assert redis.Redis(connection_pool=pool).get_cache() is pool.cache
        assert pool.expects_news()
        with pytest.raises(redis.RedisError, match="RESP version 3"):
            ConnectionPool(protocol=2, cache_config=CacheConfig())

    def test_a_cached_answer_is_invalidated_by_others(self, make: Make, backend: Redis) -> None:
        # The driver refuses servers before 7.4 on its own account; tracking works since 6.
        with mock.patch.object(CacheProxyConnection, "MIN_ALLOWED_VERSION", "6.0.0"):
            pool = make(max_connections=2, protocol=3, cache_config=CacheConfig(), check_after=0.0)
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
