"""Pools in the place of redis-py's own, as clients see them: what a connection is, and which errors are raised."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any
from unittest.mock import patch

import pytest
import redis

import pooling
from pooling.backends.redis import BlockingConnectionPool, ConnectionPool, TooManyConnections
from pooling.backends.redis._shells import ShellFactory, Shells
from pooling.errors import ConnectError, PoolClosed, PoolError
from tests.backends.adapters_redis import Redis
from tests.backends.contract import in_threads, settled
from tests.backends.redis_pools.conftest import Make, identity
from tests.interrupts.lines import keeping, struck_after_each_call, struck_at_each_line
from tests.proxy import Proxy
from tests.waiting import LATE, until


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
        assert time.monotonic() - start < LATE  # that of a machine: the pool does not wait
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

    def test_slots_that_are_being_opened_for_others_are_told(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            pool = ConnectionPool(host="127.0.0.1", port=mute.getsockname()[1], max_connections=1, socket_timeout=0.5)
            first = threading.Thread(target=pytest.raises, args=(redis.TimeoutError, pool.get_connection))
            first.start()
            until(lambda: pool.pooling.stats().connecting)
            with pytest.raises(redis.MaxConnectionsError, match="0 of 1 are in use, 1 being opened"):
                pool.get_connection()
            first.join()
            pool.pooling.close()

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
        places = pool.pool
        pool.reset()
        assert pool._created_connections == 0
        assert pool.pooling is not old
        assert pool.pool is not places
        assert pool.pool.qsize() == 2
        pool.release(used)
        assert not used.is_connected
        assert pool._created_connections == 0
        del idle
        gc.collect()
        backend.wait_for(0)
        assert redis.Redis(connection_pool=pool).ping()

    @pytest.mark.parametrize("kind", [ConnectionPool, BlockingConnectionPool])
    def test_who_waits_while_it_is_reset_gets_a_new_one(self, make: Make, kind: Any) -> None:
        """He got the PoolClosed of the pool underneath, which no client of redis-py knows."""
        pool = make(kind, max_connections=1, timeout=5)
        used = pool.get_connection()
        with ThreadPoolExecutor(1) as thread:
            waits = thread.submit(pool.get_connection)
            settled(pool.pooling, waiting=1)
            pool.reset()
            pool.release(waits.result(LATE))
        pool.release(used)
        assert pool._created_connections == 1
        pool.pooling.close()
        with pytest.raises(PoolClosed):  # by its owner's own order: there is no other
            pool.get_connection()

    def test_a_connect_that_an_exception_has_struck_is_an_error_of_redis_pys(self, make: Make) -> None:
        """An error of the pool's own reached the client, as nothing that it retries."""
        struck = ConnectError("pool 'x' cannot connect")
        struck.__cause__ = PoolError("the worker that was to connect was struck by an exception")
        client = redis.Redis(connection_pool=make(max_connections=1))
        failing = patch.object(client.connection_pool.pooling, "_acquire_for", side_effect=struck)
        with failing, pytest.raises(redis.ConnectionError, match="cannot connect") as raised:
            client.ping()
        assert raised.value.__cause__ is struck

    def test_a_connection_that_was_half_set_up_goes_out_to_nobody(self, make: Make) -> None:
        """redis-py leaves it open where it was no error of its own, and takes it for connected the next time."""
        told: list[Exception] = [KeyError("no settings yet")]

        def set_up(connection: Any) -> None:
            connection.on_connect()
            if told:
                connection.send_command("SELECT", 5)  # whose answer is still to come
                raise told.pop()
            connection.send_command("SELECT", 3)
            connection.read_response()

        pool = make(max_connections=1, timeout=LATE, redis_connect_func=set_up, fail_after=LATE)
        connection = pool.get_connection()
        connection.send_command("CLIENT", "INFO")
        assert " db=3 " in str(connection.read_response())
        assert not told
        pool.release(connection)

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

    def test_between_two_steps_of_a_line_no_slot_is_lost_either(self, make: Make) -> None:
        """The lease had left the connection object, and stood nowhere but in what waits for the end of that: a PubSub
        that could not give it back has it still."""
        lent: list[tuple[Any, Any]] = []

        def use() -> Callable[[], object]:
            pool = make(max_connections=1, timeout=5.0)
            lent.append((pool, pool.get_connection()))
            return lambda: pool.release(lent[-1][1])

        for call in struck_after_each_call(Shells.take_back, use):
            pool = lent[-1][0]
            assert pool.pooling.stats().leased == 0, call
            pool.release(pool.get_connection())

    @pytest.mark.parametrize(
        "function", [ConnectionPool.get_connection, ConnectionPool._ready, ConnectionPool._take_in, Shells.lend]
    )
    def test_an_exception_that_is_kept_keeps_no_slot(self, make: Make, function: Any) -> None:
        """As a debugger's is, or a future's, and with it every frame that it has passed."""
        pools: list[Any] = []
        kept: list[BaseException] = []

        def use() -> Callable[[], object]:
            pools.append(make(max_connections=1, timeout=5.0))
            pools[-1].release(pools[-1].get_connection())
            return keeping(kept, lambda: pools[-1].release(pools[-1].get_connection()))

        for line in struck_at_each_line(function, use):
            pools[-1].release(pools[-1].get_connection())
            assert pools[-1].pooling.stats().leased == 0, line
            assert not pools[-1]._get_in_use_connections(), line
        assert kept

    def test_a_release_that_is_struck_as_it_begins_gives_its_slot_back(self, make: Make) -> None:
        pool = make(max_connections=1, timeout=5.0)
        connection = pool.get_connection()
        with patch.object(pool, "_checkpid", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            pool.release(connection)
        pool.release(pool.get_connection())  # though somebody has the old one yet

    def test_a_connect_that_is_struck_leaves_no_connection_beside_the_pool(self, make: Make) -> None:
        """One that was neither a session nor spare stayed open for as long as the pool."""
        pools: list[Any] = []
        made: list[Any] = []

        def use() -> Callable[[], object]:
            pools.append(make())
            made.clear()
            return lambda: made.append(pools[-1].pooling._factory.connect(5.0))

        for line in struck_at_each_line(ShellFactory.connect, use):
            shells = pools[-1].shells
            lost = [shell for shell in shells.free() if shell.is_connected and shell not in shells.spares()]
            assert len(lost) == len(made), line
            pools[-1].disconnect()
            for session in made:
                pools[-1].pooling._factory.close(session)

    def test_its_text_tells_no_secret(self) -> None:
        pool = ConnectionPool.from_url("redis://anna:hidden@db.example:6380/2", max_lifetime=60)
        assert "hidden" not in repr(pool) + repr(pool.pooling)
        assert "anna" not in repr(pool)
        assert "host=db.example" in repr(pool)
        assert pool.pooling.name == "db.example:6380/2"
        pool = ConnectionPool.from_url("unix://anna:hidden@/run/redis.sock?db=3")
        assert pool.pooling.name == "/run/redis.sock/3"

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

    @pytest.mark.parametrize("kind", [ConnectionPool, BlockingConnectionPool])
    @pytest.mark.parametrize("timeout", ["soon", -1, float("nan"), True])
    def test_a_timeout_that_is_none_is_refused_at_once(self, kind: Any, timeout: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=r"^timeout must be "):
            kind(timeout=timeout)
        pool = kind(timeout=2)
        with pytest.raises((TypeError, ValueError), match=r"^timeout must be "):
            pool.timeout = timeout
        assert pool.timeout == 2

    def test_a_name_of_digits_is_a_name(self) -> None:
        assert ConnectionPool.from_url("redis://db.example?name=007").pooling.name == "007"

    @pytest.mark.parametrize("kind", [ConnectionPool, BlockingConnectionPool])
    @pytest.mark.parametrize(
        ("wrong", "right"),
        [
            ("max_conections", "max_connections"),
            ("max_size", "max_connections"),
            ("idle_timout", "idle_timeout"),
            ("sokcet_timeout", "socket_timeout"),
        ],
    )
    def test_an_option_that_nobody_knows_is_told_with_the_nearest(self, kind: Any, wrong: str, right: str) -> None:
        pool = kind(**{wrong: 3})
        with pytest.raises(TypeError, match=f"unknown argument '{wrong}', did you mean '{right}'"):
            pool.get_connection()

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
