"""What the pool underneath adds to redis-py's: the order of service, deadlines, holders, and nothing lost."""

from __future__ import annotations

import gc
import socket
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, TimeoutError  # noqa: A004  # on 3.10 it is not Python's
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import redis
from redis._parsers.socket import SocketBuffer
from redis.backoff import ConstantBackoff
from redis.connection import AbstractConnection
from redis.retry import Retry
from redis.utils import HIREDIS_AVAILABLE

import pooling
from pooling.backends import _sockets
from pooling.backends.redis import BlockingConnectionPool, ConnectionPool, NoConnection
from pooling.backends.redis._connection import is_quiet
from tests.backends.adapters_redis import Redis
from tests.backends.contract import in_threads, run_python, settled
from tests.backends.redis_pools.conftest import Make, identity
from tests.core.helpers import outcome
from tests.core.test_reentrancy import Inside
from tests.proxy import Proxy
from tests.waiting import LATE

in_python = pytest.mark.skipif(HIREDIS_AVAILABLE, reason="hiredis has a buffer of its own, and the driver looks at it")


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
        end = time.monotonic() + 0.5

        def work(number: int) -> None:
            while time.monotonic() < end:
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
        assert timeout <= time.monotonic() - start < timeout + LATE
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
        assert 0.2 <= time.monotonic() - start < 0.2 + LATE  # nothing else would end it
        between.reset_all()

    @pytest.mark.parametrize("kind", [BlockingConnectionPool, ConnectionPool])
    def test_each_caller_with_retries_is_kept_for_as_long_as_they_take(
        self, make: Make, backend: Redis, proxy: Callable[..., Proxy], kind: Any
    ) -> None:
        """Also while the pool knows that the server is away: with redis-py's pools each makes tries of its own."""
        between = proxy(backend.server)
        retry = Retry(ConstantBackoff(0.5), 3)
        pool = make(kind, backend.at(*between.address), retry=retry)
        client = redis.Redis(connection_pool=pool)
        assert client.ping()
        between.on_accept = "reset"
        between.reset_all()

        def refused() -> float:
            start = time.monotonic()
            with pytest.raises(redis.ConnectionError) as caught:
                pool.get_connection()
            assert not isinstance(caught.value, NoConnection)
            return time.monotonic() - start

        for _ in range(3):  # the first one's is a whole try, the others come in the middle of one, or between two
            assert 1.4 < refused() < 1.5 + LATE
        with ThreadPoolExecutor(1) as others:
            later = others.submit(client.ping)
            with pytest.raises(TimeoutError):
                later.result(0.3)  # it is not told what is known already
            between.on_accept = "forward"
            assert later.result(LATE)
        assert pool.pooling.stats().timeouts == 0

    def test_with_retries_a_try_begins_within_the_time_of_each_caller(self, make: Make) -> None:
        """However long the outage is, and the default pause between two tries."""
        pool = make(retry=Retry(ConstantBackoff(0.1), 3))
        pause = pool.pooling.config.backoff
        pool._pool._factory.tried = 0.4
        assert all(pause(failures) <= 0.2 for failures in range(1, 100))
        pool._pool._factory.tried = 100.0
        assert [round(pause(failures), 1) for failures in (0, 100)] in ([0.0, 1.8], [0.0, 1.9], [0.0, 2.0])
        assert make().pooling.config.backoff is None

    def test_a_timeout_ends_retries_too(self, make: Make, backend: Redis, proxy: Callable[..., Proxy]) -> None:
        between = proxy(backend.server)
        between.on_accept = "reset"
        pool = make(url=backend.at(*between.address), timeout=20, retry=Retry(ConstantBackoff(1.0), 2))
        with pytest.raises(redis.ConnectionError):
            pool.get_connection()
        pool.timeout = 0.1
        start = time.monotonic()
        with pytest.raises(redis.ConnectionError):
            pool.get_connection()
        assert time.monotonic() - start < 1.0  # a try takes twice as long

    def test_without_retries_what_is_known_is_told_at_once(
        self, make: Make, backend: Redis, proxy: Callable[..., Proxy]
    ) -> None:
        between = proxy(backend.server)
        between.on_accept = "reset"
        pool = make(url=backend.at(*between.address), backoff=lambda _: 60.0)
        for _ in range(3):
            with pytest.raises(redis.ConnectionError):
                pool.get_connection()
        assert pool.pooling.stats().errors_by["connect"] == 1

    @pytest.mark.parametrize("kind", [BlockingConnectionPool, ConnectionPool])
    def test_one_connect_that_fails_fails_nobody(self, make: Make, kind: Any) -> None:
        """As through a balancer one of whose servers is dead. With redis-py's pools one caller would hear of it."""
        go_on, failed = threading.Event(), []

        class Unlucky(redis.Connection):
            def _connect(self) -> socket.socket:
                if failed:
                    return super()._connect()
                go_on.wait()
                failed.append(self)
                raise ConnectionResetError("by peer")

        pool = make(kind, connection_class=Unlucky, max_connections=4)
        with ThreadPoolExecutor(4) as callers:
            asked = [callers.submit(pool.get_connection) for _ in range(4)]
            settled(pool.pooling, waiting=4)
            go_on.set()
            for connection in [each.result(LATE) for each in asked]:
                pool.release(connection)
        assert pool.pooling.stats().errors_by == {"connect": 1}

    def test_what_retries_cannot_change_is_told_at_once(self, make: Make) -> None:
        pool = make(username="nobody", password="wrong", retry=Retry(ConstantBackoff(1.0), 2))
        for _ in range(2):
            start = time.monotonic()
            with pytest.raises(redis.ConnectionError):
                pool.get_connection()
        assert time.monotonic() - start < 1.0  # a try takes twice as long, for redis-py itself tries again

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

    def test_who_waits_is_told_of_by_the_line_that_called_redis(self, make: Make) -> None:
        pool = make(max_connections=1, timeout=10)
        held = pool.get_connection()

        def wait() -> None:
            redis.Redis(connection_pool=pool).ping()

        thread = threading.Thread(target=wait, name="the one who waits")
        thread.start()
        settled(pool.pooling, waiting=1)
        (waiting,) = pool.pooling.waiters()
        pool.release(held)
        thread.join()
        assert waiting.thread == "the one who waits"
        assert waiting.where.endswith(" wait")

    @pytest.mark.parametrize("kind", [ConnectionPool, BlockingConnectionPool])
    def test_no_more_wait_than_max_waiting_says(self, make: Make, kind: Any) -> None:
        pool = make(kind, max_connections=1, max_waiting=1, timeout=10)
        held = pool.get_connection()
        thread = threading.Thread(target=lambda: pool.release(pool.get_connection()))
        thread.start()
        settled(pool.pooling, waiting=1)
        with pytest.raises(redis.MaxConnectionsError, match="1 callers are waiting") as caught:
            pool.get_connection()
        pool.release(held)
        thread.join()
        assert isinstance(caught.value, pooling.QueueFull)

    def test_with_a_reset_of_the_session_on_connect_comes_again(self, make: Make) -> None:
        """What it sent the last time is not sent any more, and what it sends now is what a new session gets."""
        names: list[str] = []

        def begin(client: Any) -> None:
            if not names:
                client.execute_command("SELECT", 3)
            names.append(f"user-{len(names)}")
            client.client_setname(names[-1])

        pool = make(max_connections=1, reset="session", on_connect=begin)
        client = redis.Redis(connection_pool=pool)
        infos = []
        for _ in range(3):
            with client.pipeline(transaction=False) as pipeline:
                infos += pipeline.client_info().select(4).execute()[:1]
        assert [info["db"] for info in infos] == [3, 0, 0]
        assert [info["name"] for info in infos] == ["user-0", "user-1", "user-2"]
        assert len({info["id"] for info in infos}) == 1
        connection = pool.get_connection()
        connection.disconnect()  # the driver begins the next session by itself
        connection.send_command("CLIENT", "GETNAME")
        assert connection.read_response() == b"user-3"
        pool.release(connection)

    def test_a_timeout_may_be_set_later(self, make: Make) -> None:
        pool = make(max_connections=1, timeout=10)
        held = pool.get_connection()
        pool.timeout = 0
        with pytest.raises(redis.exceptions.MaxConnectionsError):
            pool.get_connection()
        pool.timeout = 0.05
        with pytest.raises(NoConnection):
            pool.get_connection()
        pool.reset()
        assert pool.timeout == 0.05
        held.disconnect()

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

    @pytest.mark.parametrize(
        "options", [{"protocol": 2}, {"protocol": 3}, {"on_connect": lambda client: client.ping()}]
    )
    def test_a_dropped_pool_closes_its_connections_and_says_nothing(self, backend: Redis, options: Any) -> None:
        pool = BlockingConnectionPool.from_url(backend.url, client_name=backend.name, **options)
        redis.Redis(connection_pool=pool).ping()
        reference = weakref.ref(pool)
        del pool
        gc.collect()
        assert reference() is None
        backend.wait_for(0)

    @pytest.mark.parametrize("used", [False, True])
    def test_a_destructor_uses_a_pool_that_is_collected_with_its_object(self, backend: Redis, used: bool) -> None:
        said: list[Any] = []

        class Temporary:
            def __init__(self) -> None:
                pool = BlockingConnectionPool.from_url(backend.url, client_name=backend.name)
                self.client, self.itself = redis.Redis(connection_pool=pool), self

            def __del__(self) -> None:
                try:
                    said.append(self.client.ping())
                except Exception as error:
                    said.append(error)

        temporary = Temporary()
        if used:
            temporary.client.ping()
        pool = weakref.ref(temporary.client.connection_pool)
        gc.collect()  # of one generation, else the socket's own destructor comes before redis-py's, and warns
        del temporary
        gc.collect()
        gc.collect()  # what is underneath had a hold on it while it worked: found to be alive, it goes the next time
        assert said == [True]
        assert pool() is None
        backend.wait_for(0)

    def test_who_cannot_wait_inside_the_pools_lock_is_refused_by_an_error_of_redis_py(self, make: Make) -> None:
        pool, told = make(max_connections=1, timeout=5), list[Any]()
        used = pool.get_connection()
        Inside(pool.pooling).strike(lambda: told.append(outcome(pool.get_connection)))
        pool.pooling.clear()
        assert isinstance(told[0], redis.MaxConnectionsError)
        pool.release(used)

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

    @in_python
    def test_a_look_at_a_quiet_connection_is_one_at_its_socket(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []
        can_read: Any = AbstractConnection.can_read
        monkeypatch.setattr(AbstractConnection, "can_read", lambda self, *a, **kw: asked.append(1) or can_read(self))
        pool = make()
        client = redis.Redis(connection_pool=pool)
        number = client.client_id()
        assert [client.client_id() for _ in range(5)] == [number] * 5
        assert not asked

    @in_python
    def test_what_is_left_to_be_read_is_seen_wherever_it_is(self, make: Make) -> None:
        connection = make().get_connection()
        assert is_quiet(connection)
        connection.send_command("PING")
        assert _sockets.wait_readable(connection._sock.fileno(), 5.0)
        assert not is_quiet(connection)
        assert connection.can_read()  # and moves it into the driver's buffer
        assert not is_quiet(connection)
        connection.read_response()
        assert is_quiet(connection)
        connection._sock.shutdown(socket.SHUT_RDWR)
        assert not is_quiet(connection)
        connection.disconnect()
        assert not is_quiet(connection)

    @in_python
    def test_one_that_another_thread_closes_while_it_is_looked_at_is_replaced(self, make: Make) -> None:
        pool = make(max_connections=1)
        connection = pool.get_connection()
        before = identity(connection)
        pool.release(connection)
        unread_bytes = SocketBuffer.unread_bytes

        def close(buffer: SocketBuffer) -> int:
            looking.stop()
            connection.disconnect()  # as disconnect() of the pool does, by then of a connection in other hands
            return unread_bytes(buffer)

        looking = mock.patch.object(SocketBuffer, "unread_bytes", close)
        looking.start()
        assert identity(pool.get_connection()) != before

    def test_one_that_is_refused_while_it_is_looked_at_does_not_come_back(self, backend: Redis) -> None:
        class Expired(redis.Connection):
            """Closed meanwhile, it is opened by the look, and the password is another by now."""

            def can_read(self, timeout: float = 0) -> bool:
                if refusals:
                    raise refusals.pop()
                return super().can_read(timeout)

        refusals: list[redis.RedisError] = []
        with BlockingConnectionPool.from_url(
            backend.url, connection_class=Expired, client_name=backend.name, max_connections=2
        ) as pool:
            pool.release(pool.get_connection())
            refusals.append(redis.AuthenticationError("WRONGPASS"))
            pool.get_connection()
            assert pool.pooling.stats().acquired == 3  # released, its session would have been looked at once more

    def test_the_drivers_metrics_are_those_of_its_own_pool(self, backend: Redis) -> None:
        script = """
            import sys
            from opentelemetry import metrics
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import InMemoryMetricReader
            import redis
            from redis.observability import OTelConfig, get_observability_instance
            from redis.observability.config import MetricGroup
            from pooling.backends.redis import BlockingConnectionPool

            reader = InMemoryMetricReader()
            metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
            groups = [MetricGroup.CONNECTION_BASIC, MetricGroup.CONNECTION_ADVANCED]
            get_observability_instance().init(OTelConfig(metric_groups=groups))
            kind = redis.BlockingConnectionPool if sys.argv[2] == "stock" else BlockingConnectionPool
            pool = kind.from_url(sys.argv[1], max_connections=3)
            client = redis.Redis(connection_pool=pool)
            for _ in range(5):
                client.ping()
            held = pool.get_connection()
            for resource in reader.get_metrics_data().resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        for point in metric.data.data_points:
                            state = dict(point.attributes).get("db.client.connection.state", "")
                            print(metric.name, state, getattr(point, "value", None), getattr(point, "count", None))
        """
        stock, ours = (sorted(run_python(script, backend.url, kind).splitlines()) for kind in ("stock", "ours"))
        assert any("wait_time" in line for line in stock)
        assert ours == stock

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

    def test_a_daemon_has_its_descriptors_whatever_its_parent_had_out(self, backend: Redis) -> None:
        """Clients that die disconnect, and close by a number that is a file's of the daemon by now."""
        script = """
            import gc, os, sys
            import redis
            from pooling.backends.redis import BlockingConnectionPool
            from tests.backends.forking import check, taken_again

            pool = BlockingConnectionPool.from_url(sys.argv[1], max_connections=4, timeout=5)
            client = redis.Redis(connection_pool=pool)
            pipeline, listener, single = client.pipeline(), client.pubsub(), client.client()
            pipeline.watch("x")
            listener.subscribe("x")
            single.ping()
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    files = taken_again()
                    assert client.ping()
                    pool.close()
                    del pipeline, listener, single, client, pool
                    gc.collect()
                    check(files)
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert single.ping()
        """
        run_python(script, backend.url)
