"""What is special about Redis by redis-py: a lease is a client on one connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ExecAbortError,
    InvalidResponse,
    MasterDownError,
    MaxConnectionsError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
    WatchError,
)
from redis.retry import Retry

from pooling import ConnectError, Pool, PoolError, PoolTimeout, create_pool
from pooling.backends.redis import RedisFactory
from tests.backends.adapters_redis import Redis
from tests.backends.contract import fill, session_of, settled
from tests.proxy import Proxy
from tests.servers import Redis as Server
from tests.waiting import PATIENCE, until


@pytest.fixture
def backend(redis_server: Server, tmp_path: Path) -> Iterator[Redis]:
    with Redis(redis_server, tmp_path) as adapter:
        yield adapter


@pytest.fixture(scope="module")
def tls_server() -> Iterator[Server]:
    with Server(tls=True, external=False) as server:
        yield server


class TestALeaseIsAClient:
    def test_commands_pipelines_and_scripts_go_over_its_one_connection(self, backend: Redis) -> None:
        pool = backend.pool(max_size=2)
        with pool.acquire() as client:
            session = client.client_id()
            assert client.set(backend.name, 1)
            assert client.pipeline().incr(backend.name).execute_command("CLIENT", "ID").execute() == [2, session]
            assert client.register_script("return redis.call('get', KEYS[1])")(keys=[backend.name]) == b"2"
            with client.lock(f"{backend.name}-lock", timeout=5):
                assert client.client_id() == session
        assert pool.stats().opened == 1

    def test_a_watch_sees_what_others_write(self, backend: Redis) -> None:
        with backend.pool().acquire() as client, client.pipeline() as pipeline:
            pipeline.watch(backend.name)
            backend.admin.set(backend.name, 1)
            pipeline.multi()
            pipeline.set(backend.name, 2)
            with pytest.raises(WatchError):
                pipeline.execute()

    def test_messages_are_received(self, backend: Redis) -> None:
        with backend.pool().acquire() as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(backend.name)
            assert pubsub.get_message(timeout=1) is None
            backend.admin.publish(backend.name, "hello")
            message = pubsub.get_message(timeout=5)
            assert message is not None
            assert message["data"] == b"hello"

    def test_a_blocking_command_may_take_longer_than_any_timeout_of_the_pool(self, backend: Redis) -> None:
        pool = backend.pool(connect_timeout=0.2)
        timer = threading.Timer(0.5, backend.admin.rpush, (backend.name, "late"))
        timer.start()
        with pool.acquire() as client:
            assert client.blpop(backend.name, timeout=5)[1] == b"late"
        timer.join()  # its own reply may come later

    def test_arguments_of_the_url_and_of_connect_args_count(self, backend: Redis) -> None:
        pool = backend.pool(f"{backend.url}?socket_timeout=0.1", {"decode_responses": True})
        with pool.acquire() as client:
            assert client.echo("text") == "text"
            with pytest.raises(redis.TimeoutError):
                client.blpop(backend.name, timeout=5)

    def test_a_client_tells_what_its_connection_speaks(self, backend: Redis) -> None:
        pool = backend.pool(connect_args={"protocol": 3, "encoding": "latin-1"}, max_size=1)
        with pool.acquire() as client:
            assert client.connection_pool.get_protocol() == 3
            assert client.get_encoder().encoding == "latin-1"
            assert client.echo("\xe9") == b"\xe9"

    def test_a_transaction_of_the_pool_is_refused_in_clear_words(self, backend: Redis) -> None:
        pool = backend.pool(max_size=1)
        with pytest.raises(PoolError, match="pipeline"), pool.transaction():
            pass
        session_of(backend, pool)
        assert pool.stats().opened == 1

    @pytest.mark.parametrize("protocol", [2, 3])
    def test_both_protocols_are_spoken(self, backend: Redis, protocol: int) -> None:
        with backend.pool(connect_args={"protocol": protocol}, reset="session").acquire() as client:
            assert client.client_info()["resp"] == str(protocol)
            assert client.hset(backend.name, mapping={"a": 1}) == 1
            assert client.hgetall(backend.name) == {b"a": b"1"}

    def test_a_server_that_does_not_answer_is_not_connected_though_protocol_2_has_no_greeting(
        self, redis_server: Server, proxy: Callable[..., Proxy]
    ) -> None:
        between = proxy(redis_server)
        between.on_accept = "mute"
        url = f"redis://{between.host}:{between.port}/0"
        with create_pool(url, {"protocol": 2}, connect_timeout=0.1) as pool, pytest.raises(PoolTimeout):
            pool.acquire(0.5)
        between.reset_all()

    def test_opening_takes_one_round_trip(self, redis_server: Server, proxy: Callable[..., Proxy]) -> None:
        """All that a connection says until it can be used it says before it has heard anything."""
        between = proxy(redis_server)
        with create_pool(f"redis://{between.host}:{between.port}/0") as pool, ThreadPoolExecutor(1) as thread:
            pool.acquire().release()
            sent = between.bytes_from_client
            between.mute_after(from_server=0)
            opening = thread.submit(pool._factory.connect, PATIENCE)
            until(lambda: between.bytes_from_client == 2 * sent)
            between.reset_all()
            with pytest.raises(redis.ConnectionError):
                opening.result()

    def test_nothing_is_retried_in_silence(self, backend: Redis, proxy: Callable[..., Proxy]) -> None:
        between = proxy(backend.server)
        pool = backend.pool(backend.at(*between.address), max_size=1)
        with pool.acquire() as client:
            client.set(backend.name, 0)
        with pytest.raises(redis.ConnectionError) as caught, pool.acquire() as client:
            between.cut_after(from_server=0)
            client.incr(backend.name)
        assert pool._factory.is_broken(caught.value)
        assert not pool._factory.is_retryable(caught.value)
        assert backend.admin.get(backend.name) == "1"


class TestNothingReachesTheNextUser:
    @pytest.fixture
    def pool(self, backend: Redis) -> Pool[Any]:
        return backend.pool(max_size=1)

    def like_new(self, backend: Redis, pool: Pool[Any]) -> Any:
        """The session, after a look at everything of it."""
        with pool.acquire() as client:
            info = client.client_info()
            assert (info["db"], info["name"], info["user"]) == (0, backend.name, "default")
            assert (info["sub"], info["psub"], info["multi"], info["flags"]) == (0, 0, -1, "N")
            assert client.echo("mine") == b"mine"
            return client.client_id()

    @pytest.mark.parametrize(
        "commands",
        [
            [("SELECT", 3)],
            [("select", 3)],
            [(b"SELECT", b"3")],
            [("SELECT 3",)],
            [("WATCH", "x")],
            [("MULTI",)],
            [("WATCH", "x"), ("MULTI",), ("SET", "x", 1)],
            [("AUTH", "guarded", "secret")],
            [("CLIENT", "SETNAME", "other")],
            [("CLIENT SETNAME", "other")],
            [("client", "no-evict", "on")],
            [("CLIENT TRACKING", "ON", "BCAST")],
            [("RESET",), ("CLIENT", "ID")],
            [("SELECT", 3), ("WATCH", "x"), ("MULTI",)],
        ],
        ids=str,
    )
    def test_what_a_command_has_changed_is_undone_on_the_same_session(
        self, backend: Redis, pool: Pool[Any], commands: list[Any]
    ) -> None:
        first = self.like_new(backend, pool)
        with pool.acquire() as client:
            for command in commands:
                client.execute_command(*command)
        assert self.like_new(backend, pool) == first

    def test_so_it_is_where_the_driver_is_told_to_connect_what_is_connected(
        self, backend: Redis, pool: Pool[Any]
    ) -> None:
        first = self.like_new(backend, pool)
        with pool.acquire() as client:
            client.execute_command("SELECT", 3)
            connection = client.connection_pool.get_connection()
            connection.connect()
            client.connection_pool.release(connection)
        assert self.like_new(backend, pool) == first

    def test_so_is_an_asking_that_nothing_has_followed(self, backend: Redis, pool: Pool[Any]) -> None:
        first = self.like_new(backend, pool)
        with pytest.raises(ResponseError), pool.acquire() as client:
            client.execute_command("ASKING")
        assert self.like_new(backend, pool) == first
        assert not pool.stats().busy

    def test_so_is_what_a_pipeline_has_changed(self, backend: Redis, pool: Pool[Any]) -> None:
        first = self.like_new(backend, pool)
        with pool.acquire() as client:
            client.pipeline(transaction=False).execute_command("SELECT", 3).client_setname("other").execute()
        assert self.like_new(backend, pool) == first

    @pytest.mark.parametrize("way", ["command", "pipeline", "packed"])
    def test_so_is_what_was_changed_on_a_session_that_the_driver_has_just_begun(
        self, backend: Redis, pool: Pool[Any], way: str
    ) -> None:
        """It connects when it sends, once its connection was closed: what is sent then is that session's."""
        with pool.acquire() as client:
            client.connection_pool.disconnect()
            if way == "command":
                client.execute_command("SELECT", 3)
            elif way == "pipeline":
                client.pipeline(transaction=False).execute_command("SELECT", 3).execute()
            else:
                connection = client.connection_pool.get_connection()
                connection.send_packed_command(connection.pack_command("SELECT", 3))
                connection.read_response()
                client.connection_pool.release(connection)
        self.like_new(backend, pool)

    @pytest.mark.parametrize(
        "commands",
        [
            [("SUBSCRIBE", "a", "b")],
            [("PSUBSCRIBE", "a*")],
            [("MONITOR",)],
            [("CLIENT", "REPLY", "OFF")],
            [("CLIENT", "REPLY", "SKIP")],
            [("ECHO", "unread")],
            [("BLPOP", "nothing", 30)],
            [("QUIT",)],
        ],
        ids=str,
    )
    def test_where_the_stream_is_of_no_more_use_there_is_a_new_session(
        self, backend: Redis, pool: Pool[Any], commands: list[Any]
    ) -> None:
        first = self.like_new(backend, pool)
        lease = pool.acquire()
        for command in commands:
            lease._entry.connection.send_command(*command)
        lease.release()
        assert self.like_new(backend, pool) != first
        assert pool.stats().errors == 0

    def test_so_there_is_where_a_command_cannot_be_undone(self, backend: Redis, pool: Pool[Any]) -> None:
        first = self.like_new(backend, pool)
        with pool.acquire() as client:
            client.execute_command("SCRIPT", "DEBUG", "YES")  # the next script would not end before somebody debugs it
        assert self.like_new(backend, pool) != first

    def test_one_that_its_user_has_closed_is_connected_before_anybody_asks(
        self, backend: Redis, pool: Pool[Any]
    ) -> None:
        """Else its next user would connect by himself, and for as long as that takes."""
        for _ in range(2):
            with pool.acquire() as client:
                client.connection_pool.disconnect()
            settled(pool, leased=0, busy=0, closing=0)
            backend.wait_for(1)
        self.like_new(backend, pool)

    def test_a_handler_of_published_messages_does_not_stay_behind(self, backend: Redis) -> None:
        pool = backend.pool(connect_args={"protocol": 3}, max_size=1)
        heard: list[Any] = []
        with pool.acquire() as client, client.pubsub(push_handler_func=heard.append) as pubsub:
            pubsub.subscribe(backend.name)
            pubsub.get_message(timeout=1)
        count = len(heard)
        assert count
        with pool.acquire() as client, client.pubsub() as pubsub:
            pubsub.subscribe(backend.name)
            message = pubsub.get_message(timeout=5)
            assert message is not None
            assert message["type"] == "subscribe"
        assert len(heard) == count

    @pytest.mark.parametrize("holder", ["pipeline", "pubsub", "monitor"])
    def test_what_outlives_its_lease_never_has_its_connection_again(self, backend: Redis, holder: str) -> None:
        """A pipeline unwatches when it dies, which may be in the middle of the next user's replies; redis-py would
        even connect for it."""
        pool = backend.pool(max_size=1, timeout=10.0)
        for _ in range(20):
            with pool.acquire() as client:
                kept: Any = client.monitor() if holder == "monitor" else getattr(client, holder)()
                if holder == "pipeline":
                    kept.watch(backend.name)
                elif holder == "pubsub":
                    kept.subscribe(backend.name)
                else:
                    kept.__enter__()
            dropped = [kept]
            del kept
            dropping = threading.Thread(target=dropped.clear)
            with pool.acquire() as client:
                dropping.start()
                for number in range(200):
                    assert client.echo(f"{number}") == f"{number}".encode()
            dropping.join(10.0)
        assert pool.stats().closed == {"reset": 20}
        with pool.acquire() as client:
            kept = client.pipeline()
            kept.watch(backend.name)
        settled(pool, leased=0, busy=0, closing=0)
        with pytest.raises((redis.ConnectionError, redis.WatchError)):
            kept.get(backend.name)

    def test_a_command_beside_what_outlives_its_lease_does_not_hide_that(self, backend: Redis) -> None:
        pool = backend.pool(max_size=1, timeout=10.0)
        with pool.acquire() as client:
            kept = client.pipeline()
            kept.watch(backend.name)
            client.get(backend.name)
        settled(pool, leased=0, busy=0, closing=0)
        assert pool.stats().closed == {"reset": 1}

    def test_a_pipeline_that_is_closed_in_time_keeps_its_connection(self, backend: Redis, pool: Pool[Any]) -> None:
        for _ in range(3):
            with pool.acquire() as client, client.pipeline() as pipeline:
                pipeline.watch(backend.name)
        assert pool.stats().opened == 1

    def test_a_session_reset_undoes_what_was_changed_in_the_client(self, backend: Redis) -> None:
        pool = backend.pool(max_size=1, reset="session", timeout=10.0)
        with pool.acquire() as client:
            client.set(backend.name, "1")
            client.set_response_callback("GET", lambda response, **options: "mine")
            client.set_retry(Retry(NoBackoff(), 7))
            assert client.get(backend.name) == "mine"
            with client.pipeline() as pipeline:
                pipeline.watch("x")
                assert pipeline.connection.retry.get_retries() == 7
        with pool.acquire() as client:
            assert client.get(backend.name) == b"1"
            assert client.connection_pool.get_connection().retry.get_retries() == 0

    def test_a_pubsub_that_was_not_closed_is(self, backend: Redis, pool: Pool[Any]) -> None:
        with pool.acquire() as client:
            pubsub = client.pubsub()
            pubsub.subscribe(backend.name)
            pubsub.get_message(timeout=5)
        self.like_new(backend, pool)
        assert backend.admin.publish(backend.name, "anyone?") == 0

    def test_an_interrupted_read_costs_the_stream_and_not_the_next_user(self, backend: Redis, pool: Pool[Any]) -> None:
        with pytest.raises(KeyboardInterrupt), pool.acquire() as client:
            connection = client.connection_pool.get_connection()
            connection.send_command("ECHO", "not mine")
            raise KeyboardInterrupt
        self.like_new(backend, pool)

    def test_with_a_reset_of_the_session_every_return_is_like_new(self, backend: Redis) -> None:
        pool = backend.pool(max_size=1, reset="session")
        first = self.like_new(backend, pool)
        for _ in range(3):
            assert self.like_new(backend, pool) == first

    def test_without_a_reset_it_stays_as_it_is(self, backend: Redis) -> None:
        pool = backend.pool(max_size=1, reset=None)
        with pool.acquire() as client:
            client.execute_command("SELECT", 3)
        with pool.acquire() as client:
            assert client.client_info()["db"] == 3

    @pytest.mark.parametrize("mode", ["transaction", "session"])
    @pytest.mark.parametrize("command", [("SELECT", 4), ("CLIENT", "TRACKING", "ON"), ("CLIENT", "NO-EVICT", "OFF")])
    def test_a_reset_goes_back_to_what_on_connect_has_set(self, backend: Redis, mode: Any, command: Any) -> None:
        pool = backend.pool(max_size=1, reset=mode, on_connect=backend.set_up)
        first = session_of(backend, pool)
        with pool.acquire() as client:
            client.execute_command(*command)
        with pool.acquire() as client:
            assert backend.is_set_up(client)
            assert "t" not in client.client_info()["flags"]
        assert session_of(backend, pool) == first

    def test_a_reset_of_the_session_shakes_hands_as_the_user_has_it(self, backend: Redis) -> None:
        def begin(connection: Any) -> None:
            connection.on_connect()
            connection.send_command("CLIENT", "NO-EVICT", "ON")
            connection.read_response()
            connection.send_command("SELECT", 3)
            connection.read_response()

        pool = backend.pool(connect_args={"redis_connect_func": begin}, max_size=1, reset="session")
        with pool.acquire() as client:
            first = client.client_id()
            client.execute_command("SELECT", 4)
        with pool.acquire() as client:
            assert backend.is_set_up(client)
            assert client.client_info()["name"] == backend.name
            assert client.client_id() == first

    def test_a_session_that_cannot_be_set_up_is_not_used(self, backend: Redis) -> None:
        """The driver begins one by itself for a user who has closed his; a half of on_connect is none."""

        def begin(client: Any) -> None:
            client.execute_command("SELECT", 3)
            client.execute_command("CLIENT", "NO-EVICT", "ON")

        name, password = f"{backend.name}-halfway", "secret"
        backend.admin.acl_setuser(name, enabled=True, passwords=[f"+{password}"], commands=["+@all"], keys=["*"])
        pool = backend.pool(connect_args={"username": name, "password": password}, max_size=1, on_connect=begin)
        session_of(backend, pool)
        backend.admin.acl_setuser(name, enabled=True, commands=["-client|no-evict"])
        with pool.acquire() as client:
            client.connection_pool.disconnect()
            for _ in range(2):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.ping()
        backend.admin.acl_deluser(name)

    def test_with_a_reset_of_the_session_on_connect_comes_again(self, backend: Redis) -> None:
        """What it sent the last time is not sent any more, and what it sends now is what a new session gets."""
        uses: list[int] = []

        def begin(client: Any) -> None:
            if not uses:
                client.execute_command("SELECT", 3)
            uses.append(1)
            client.execute_command("CLIENT", "NO-EVICT", "OFF" if len(uses) < 3 else "ON")

        pool = backend.pool(max_size=1, reset="session", on_connect=begin)
        seen = []
        for _ in range(3):
            with pool.acquire() as client:
                info = client.client_info()
                seen.append((info["db"], "e" in info["flags"]))
                client.select(4)
        assert seen == [(3, False), (0, False), (0, True)]
        with pool.acquire() as client:
            client.connection_pool.disconnect()
            assert "e" in client.client_info()["flags"]
        assert pool.stats().opened == 1

    def test_a_session_that_was_begun_anew_is_set_up_as_well(self, backend: Redis) -> None:
        pool = backend.pool(max_size=1, on_connect=backend.set_up)
        with pool.acquire() as client:
            with client.pubsub() as pubsub:
                pubsub.subscribe(backend.name)
            assert backend.is_set_up(client)  # on the caller's thread, as the driver has it
        with pool.acquire() as client, client.pubsub() as pubsub:
            pubsub.subscribe(backend.name)
        with pool.acquire() as client:
            assert backend.is_set_up(client)

    def test_what_on_connect_has_set_is_no_reason_to_clean_up(
        self, backend: Redis, proxy: Callable[..., Proxy]
    ) -> None:
        between = proxy(backend.server)
        pool = backend.pool(backend.at(*between.address), max_size=1, on_connect=backend.set_up)
        lease = pool.acquire()
        sent = between.bytes_from_client
        lease.release()
        settled(pool, leased=0, busy=0)
        time.sleep(0.02)
        assert between.bytes_from_client == sent

    def test_clean_uses_of_everything_that_cleans_up_after_itself_send_nothing_more(
        self, backend: Redis, proxy: Callable[..., Proxy]
    ) -> None:
        between = proxy(backend.server)
        pool = backend.pool(backend.at(*between.address), max_size=1, check_after=0.0)

        def use() -> int:
            with pool.acquire() as client:
                client.set(backend.name, 1)
                client.pipeline().incr(backend.name).execute()
                with client.pipeline() as pipeline:
                    pipeline.watch(backend.name)
                    pipeline.multi()
                    pipeline.incr(backend.name)
                    pipeline.execute()
                with client.pipeline() as pipeline:
                    pipeline.watch(backend.name)
                with pytest.raises(ResponseError):  # by a server that is in no cluster
                    client.execute_command("ASKING")
                client.get(backend.name)
                sent = between.bytes_from_client
            time.sleep(0.02)
            return between.bytes_from_client - sent

        use()
        assert [use() for _ in range(3)] == [0, 0, 0]
        assert pool.stats().opened == 1


class TestTLS:
    @pytest.fixture
    def secure(self, tls_server: Server, tmp_path: Path) -> Iterator[Redis]:
        with Redis(tls_server, tmp_path) as adapter:
            yield adapter

    def test_it_stays_warm_without_a_byte_and_is_recognised_when_dead(
        self, secure: Redis, proxy: Callable[..., Proxy]
    ) -> None:
        between = proxy(secure.server)
        pool = secure.pool(secure.at(*between.address), max_size=1, check_after=0.0)
        first = session_of(secure, pool)
        time.sleep(0.05)
        before = between.bytes_from_client, between.bytes_from_server
        for _ in range(100):
            pool.acquire().release()
        assert (between.bytes_from_client, between.bytes_from_server) == before
        for fault in ("cut", "reset"):
            getattr(between.links()[-1], fault)()
            time.sleep(0.05)
            assert session_of(secure, pool) != first
        assert pool.stats().closed == {"broken": 2}

    def test_a_session_ticket_on_an_idle_connection_is_no_sign_of_death(self, secure: Redis) -> None:
        pool = secure.pool(max_size=1, check_after=0.0)
        lease = pool.acquire()
        connection = lease._entry.connection
        assert connection._sock.version() == "TLSv1.3"
        lease.release()
        time.sleep(0.05)
        session_of(secure, pool)
        assert pool.stats().opened == 1

    def test_a_certificate_nobody_vouches_for_is_permanent(self, secure: Redis) -> None:
        url = f"rediss://{secure.server.host}:{secure.server.port}/0"
        start = time.monotonic()
        with create_pool(url) as pool, pytest.raises(ConnectError, match="certificate verify failed"):
            pool.acquire(10.0)
        assert time.monotonic() - start < 3.0


class TestIdle:
    @pytest.mark.parametrize("fault", ["cut", "reset"])
    def test_an_end_without_a_word_is_seen(self, backend: Redis, proxy: Callable[..., Proxy], fault: str) -> None:
        between = proxy(backend.server)
        pool = backend.pool(backend.at(*between.address), max_size=1, check_after=0.0)
        session_of(backend, pool)
        getattr(between.links()[0], fault)()
        time.sleep(0.02)
        session_of(backend, pool)
        assert pool.stats().closed == {"broken": 1}

    def test_what_nobody_has_asked_for_is_a_reason_to_close(self, backend: Redis, proxy: Callable[..., Proxy]) -> None:
        between = proxy(backend.server)
        pool = backend.pool(backend.at(*between.address), max_size=1, check_after=0.0)
        session_of(backend, pool)
        between.links()[0].client.sendall(b"+surprise\r\n")
        time.sleep(0.02)
        session_of(backend, pool)
        assert pool.stats().closed == {"broken": 1}

    def test_a_check_waits_no_longer_than_a_user_would(self, backend: Redis, proxy: Callable[..., Proxy]) -> None:
        """By his socket_timeout every reply comes within that, or the link is lost; one that a firewall has forgotten
        would be waited for in vain all the rest of connect_timeout."""
        between = proxy(backend.server)
        url, args = backend.at(*between.address), {"socket_timeout": 0.3}
        pool = backend.pool(url, connect_args=args, max_size=1, check="ping", check_after=0.0, connect_timeout=10.0)
        session_of(backend, pool)
        between.links()[0].mute = True
        start = time.monotonic()
        session_of(backend, pool)
        assert time.monotonic() - start < 5.0
        assert pool.stats().closed == {"broken": 1}

    def test_a_keepalive_makes_round_trips(self, backend: Redis) -> None:
        pool = backend.pool(max_size=1, keepalive=0.1)
        first = session_of(backend, pool)
        until(lambda: backend.admin.client_list(client_id=[first])[0]["cmd"] == "ping")
        assert session_of(backend, pool) == first


class TestErrors:
    FACTORY = RedisFactory()

    @pytest.mark.parametrize(
        ("error", "broken", "permanent", "retryable"),
        [
            (redis.ConnectionError("Connection closed by server."), True, False, False),
            (redis.ConnectionError("Error 111 connecting to db:6379. Connection refused."), True, False, False),
            (redis.ConnectionError("max number of clients reached"), True, False, False),
            (
                redis.ConnectionError("Error 2 connecting to /run/redis.sock. No such file or directory."),
                True,
                False,
                False,
            ),
            (redis.ConnectionError("Error 2 connecting to db:6379. No such file or directory."), True, True, False),
            (redis.ConnectionError("(1, '[SSL: …] tlsv13 alert certificate required')"), True, True, False),
            (redis.TimeoutError("Timeout reading from socket"), True, False, False),
            (InvalidResponse("Protocol Error"), True, False, False),
            (BusyLoadingError("Redis is loading the dataset in memory"), True, False, True),
            (ReadOnlyError("You can't write against a read only replica."), True, False, True),
            (MasterDownError("Link with MASTER is down"), True, False, True),
            (ClusterDownError("The cluster is down"), False, False, True),
            (TryAgainError("Multiple keys request during rehashing of slot"), False, False, True),
            (WatchError("Watched variable changed."), False, False, True),
            (ResponseError("BUSY Redis is busy running a script."), False, False, True),
            (AuthenticationError("invalid username-password pair"), False, True, False),
            (MaxConnectionsError("Too many connections"), False, True, False),
            (NoPermissionError("this user has no permissions"), False, True, False),
            (ResponseError("DB index is out of range"), False, True, False),
            (ResponseError("unknown command 'HELLO'"), False, True, False),
            (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), False, True, False),
            (ExecAbortError("Transaction discarded because of previous errors."), False, True, False),
            (ReadOnlyError("Command # 2 (SET a 1) of pipeline caused error: You can't write"), True, False, False),
            (TypeError("unexpected keyword argument"), False, True, False),
            (KeyError("the user's own"), False, False, False),
        ],
        ids=repr,
    )
    def test_each_error_is_judged(self, error: Exception, broken: bool, permanent: bool, retryable: bool) -> None:
        factory = self.FACTORY
        judged = factory.is_broken(error), factory.is_permanent(error), factory.is_retryable(error)
        assert judged == (broken, permanent, retryable)

    def test_a_wrong_password_is_told_at_once_and_costs_one_try(self, backend: Redis) -> None:
        pool = backend.pool(backend.permanent()["wrong password"], timeout=20.0)
        start = time.monotonic()
        with pytest.raises(ConnectError) as caught:
            pool.acquire()
        assert time.monotonic() - start < 2.0
        assert isinstance(caught.value.__cause__, AuthenticationError)
        assert backend.secret not in str(caught.value)

    def test_a_primary_that_was_demoted_is_left(self, own_server: Callable[..., Server], tmp_path: Path) -> None:
        with Redis(own_server("redis"), tmp_path) as backend:
            pool = backend.pool(max_size=2)
            fill(backend, pool, 2)
            backend.admin.replicaof("127.0.0.1", 1)
            with pytest.raises(ReadOnlyError), pool.acquire() as client:
                client.set("x", 1)
            settled(pool, size=0)
            assert pool.stats().closed == {"broken": 1, "stale": 1}
            backend.admin.replicaof("NO", "ONE")

    def test_an_error_that_the_user_caught_is_seen_all_the_same(self, backend: Redis) -> None:
        pool = backend.pool(max_size=3, check_after=60.0)
        old = fill(backend, pool, 3)
        with pool.acquire() as client:
            for session in old:
                backend.kill(session)
            with pytest.raises(redis.ConnectionError):
                client.ping()
        settled(pool, busy=0)  # a worker has come upon the error, and made the others suspect
        assert session_of(backend, pool) not in old
        assert pool.stats().closed["broken"] >= 2

    @pytest.mark.parametrize(
        "url",
        [
            "redis://anna:hid/den@db.example/0", "redis://db.example:port/0", "redis://db.example/hidden",
            "redis://db.example/0?socket_timeout=hidden",
        ],
    )  # fmt: skip  # a list
    def test_a_url_that_cannot_be_read_is_refused_and_not_repeated(self, url: str) -> None:
        with pytest.raises(ValueError, match="URL") as caught:
            create_pool(url)
        assert "hid" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_an_option_with_a_wrong_value_is_named(self) -> None:
        with pytest.raises(ValueError, match="the value of socket_timeout in the Redis URL cannot be read"):
            create_pool("redis://db.example/0?socket_timeout=2s")

    @pytest.mark.parametrize(
        ("query", "told"),
        [
            ("zzz=1", "unknown argument 'zzz'$"),
            ("socket_timout=1", "unknown argument 'socket_timout', did you mean 'socket_timeout'"),
        ],
    )
    def test_an_unknown_argument_in_the_url_is_refused_with_the_nearest(self, query: str, told: str) -> None:
        with pytest.raises(TypeError, match=told):
            create_pool(f"redis://db.example/0?{query}")

    @pytest.mark.parametrize(
        "url", ["redis://db.example/x", "redis+unix:///run/r.sock?db=1", "redis+socket:///run/r.sock"]
    )
    def test_a_database_that_is_no_number_is_refused_whatever_stands_beside_it(self, url: str) -> None:
        """Of a socket's path redis-py makes localhost's port, where a db is given too."""
        with pytest.raises(ValueError, match=r"must be a number \(for a socket's path: unix:///run/redis.sock\?db=1\)"):
            create_pool(url)

    def test_a_database_that_is_a_number_may_have_another_beside_it(self) -> None:
        assert RedisFactory("redis://db.example/1/?db=2").where == "db.example:6379/2"

    def test_a_factory_tells_no_secret(self) -> None:
        factory = RedisFactory("redis://anna:hidden@db.example:6380/2")
        assert repr(factory) == "RedisFactory(db.example:6380/2)"
        assert RedisFactory("unix://anna:hidden@/run/redis.sock?db=3").where == "/run/redis.sock/3"
        assert RedisFactory().where == "localhost:6379/0"
