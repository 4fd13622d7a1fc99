"""Leases that are not given back: found, told, and made good, in a pool of its own and below other libraries' clients.

On real servers and in real time: nobody else uses the pool meanwhile, and the garbage collector is the interpreter's.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import create_connection
from typing import Any, ClassVar

import psycopg
import pytest
import redis

from pooling import Pool, PoolEvent, create_pool
from pooling.backends.http import HTTPConnectionPool
from pooling.backends.redis import BlockingConnectionPool
from tests.servers import HTTP, Postgres, Redis
from tests.waiting import until

HERE = Path(__file__).name
BACK = 1.0  # seconds within which a lease is back after its collection


class User(ABC):
    """Somebody with a pool for two, who may forget to give back."""

    fixture: ClassVar[str]
    pooling: Pool[Any]

    @abstractmethod
    def take(self) -> Any:
        """Something that has a lease, and gives it back only if somebody ends it."""

    @abstractmethod
    def end(self, taken: Any) -> None: ...

    @abstractmethod
    def ask(self, taken: Any) -> object:
        """Use what was taken. Raises if that does not work any more."""

    @abstractmethod
    def close(self) -> None: ...


class Direct(User):
    fixture = "postgres"

    def __init__(self, server: Postgres, **options: Any) -> None:
        self.pooling = create_pool(server.url, max_size=2, **options)

    def take(self) -> Any:
        return self.pooling.acquire()

    def end(self, taken: Any) -> None:
        taken.release()

    def ask(self, taken: Any) -> object:
        return taken.connection.execute("SELECT 1").fetchone()

    def close(self) -> None:
        self.pooling.close()


class BelowRedis(User):
    """What a client keeps between WATCH and EXEC is a connection of its own."""

    fixture = "redis_server"

    def __init__(self, server: Redis, **options: Any) -> None:
        self._pool = BlockingConnectionPool.from_url(server.url, max_connections=2, timeout=5, **options)
        self.pooling = self._pool.pooling

    def take(self) -> Any:
        return self._pool.get_connection()

    def end(self, taken: Any) -> None:
        self._pool.release(taken)

    def ask(self, taken: Any) -> object:
        taken.send_command("PING")
        return taken.read_response()

    def close(self) -> None:
        self._pool.close()
        self.pooling.close()


class BelowUrllib3(User):
    """A response that nobody has read to its end has a connection."""

    fixture = "http_server"

    def __init__(self, server: HTTP, **options: Any) -> None:
        host, port = server.address
        self._pool = HTTPConnectionPool(host, port, maxsize=2, block=True, pool_timeout=5.0, **options)
        self.pooling = self._pool.pooling

    def take(self) -> Any:
        return self._pool.request("GET", "/bytes/1000000", preload_content=False)

    def end(self, taken: Any) -> None:
        taken.drain_conn()
        taken.release_conn()

    def ask(self, taken: Any) -> object:
        return taken.read(10)

    def close(self) -> None:
        self._pool.close()


USERS = {"a pool": Direct, "below redis": BelowRedis, "below urllib3": BelowUrllib3}
Make = Callable[..., User]


@pytest.fixture(params=USERS)
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """make(**options): a user with a pool of these options."""
    kind, made = USERS[request.param], list[User]()

    def build(**options: Any) -> User:
        made.append(kind(request.getfixturevalue(kind.fixture), **options))
        return made[-1]

    yield build
    for user in made:
        user.close()


def forgets(user: User) -> None:
    user.ask(user.take())


def forgets_in_a_cycle(user: User) -> None:
    class Node:
        pass

    node = Node()
    node.itself, node.taken = node, user.take()  # type: ignore[attr-defined]


def forgets_in_a_thread(user: User) -> None:
    thread = threading.Thread(target=forgets, args=(user,))
    thread.start()
    thread.join()


def forgets_in_an_error(user: User) -> None:
    """The frames of a traceback hold everything that they had."""

    def fails() -> None:
        taken = user.take()
        raise ValueError(f"{taken!r:.0}")

    try:
        fails()
    except ValueError as error:
        kept = error
    assert user.pooling.stats().leased == 1
    del kept


WAYS = [forgets, forgets_in_a_cycle, forgets_in_a_thread, forgets_in_an_error]


def back(user: User, leased: int = 0) -> float:
    """How long it takes until no more than so many leases are out, with nobody using the pool."""
    start = time.monotonic()
    while user.pooling.stats().leased > leased:
        assert time.monotonic() - start < 30
        time.sleep(0.002)
    return time.monotonic() - start


def warned(caplog: pytest.LogCaptureFixture, about: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if about in record.getMessage()]


@pytest.mark.parametrize("way", WAYS)
def test_what_was_dropped_is_back_within_a_second_of_its_collection(
    make: Make, way: Callable[[User], None], caplog: pytest.LogCaptureFixture
) -> None:
    user, times = make(), list[float]()
    for _ in range(2):
        way(user)
        gc.collect()
        times.append(back(user))
    assert min(times) < BACK  # the better of two: the machine may be busy
    until(lambda: len(warned(caplog, "dropped without release()")) == 2)
    for record in warned(caplog, "dropped without release()"):
        assert record.levelname == "WARNING"
        assert record.name == f"pooling.pool.{user.pooling.name}"
        assert HERE in record.getMessage()
    stats = user.pooling.stats()
    assert (stats.leaks, stats.acquired, stats.released) == (2, 2, 2)
    user.end(user.take())


def test_without_a_collection_nothing_comes_back_and_leak_after_tells_of_it(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    user = make(leak_after=0.2)
    gc.collect()
    gc.disable()
    try:
        forgets_in_a_cycle(user)
        until(lambda: warned(caplog, "held for long"))
        assert (user.pooling.stats().leaks, user.pooling.stats().leased) == (1, 1)
        (line,) = warned(caplog, "held for long")
        assert HERE in line.getMessage()
        gc.collect()
        back(user)
    finally:
        gc.enable()
    until(lambda: warned(caplog, "dropped without release()"))
    assert user.pooling.stats().leaks == 2


def test_what_is_held_for_long_is_told_once_and_goes_on(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    user, heard = make(leak_after=0.2), list[PoolEvent]()
    user.pooling.subscribe(heard.append)
    done = threading.Event()

    def report() -> None:
        taken = user.take()
        done.wait(30)
        user.ask(taken)
        user.end(taken)

    thread = threading.Thread(target=report, name="the nightly report")
    thread.start()
    try:
        until(lambda: warned(caplog, "held for long"))
        time.sleep(0.6)  # twice more it could be told
    finally:
        done.set()
        thread.join(30)
    (line,) = warned(caplog, "held for long")
    assert "the nightly report" in line.getMessage()
    assert HERE in line.getMessage()
    until(lambda: any(event.kind == "leak" for event in heard))
    (event,) = [event for event in heard if event.kind == "leak"]
    assert event.reason is None
    assert event.holder is not None
    assert event.duration is not None
    assert (event.holder.thread, event.duration >= 0.2) == ("the nightly report", True)
    stats = user.pooling.stats()
    assert (stats.leaks, stats.leased, stats.opened, stats.closed) == (1, 0, 1, {})


def test_a_lease_that_is_given_back_in_time_is_never_told_of(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    user = make(leak_after=30.0)
    for _ in range(20):
        user.end(user.take())
    assert user.pooling.stats().leaks == 0
    assert not caplog.records


def test_as_many_can_be_dropped_as_there_are(make: Make) -> None:
    """However many, and at once: all places are there again, and nobody had more than one."""
    user = make()
    for _ in range(3):
        taken = [user.take(), user.take()]
        del taken
        gc.collect()
    back(user)
    both = [user.take(), user.take()]
    assert user.pooling.stats().leased == 2
    for one in both:
        user.end(one)
    assert user.pooling.stats().leaks == 6


def test_the_connection_of_a_dropped_lease_reaches_nobody_else(postgres: Postgres) -> None:
    """Who has kept it uses it no longer, and its transaction is not the next user's."""
    with create_pool(postgres.url, max_size=1) as pool:
        kept = pool.acquire().connection
        gc.collect()
        with pool.acquire(timeout=10) as mine:
            assert mine is not kept
            until(lambda: kept.closed)
            with pytest.raises(psycopg.OperationalError):
                kept.execute("SELECT 1")
            assert mine.execute("SELECT 1").fetchone() == (1,)


def test_a_pipeline_of_redis_that_is_dropped_gives_its_connection_back_by_itself(redis_server: Redis) -> None:
    """redis-py does that in its own destructor: nothing to warn of."""
    user = BelowRedis(redis_server)
    client: Any = redis.Redis(connection_pool=user._pool)
    pipeline = client.pipeline()
    pipeline.watch("x")
    del pipeline
    gc.collect()
    back(user)
    assert (user.pooling.stats().leaks, user.pooling.stats().opened) == (0, 1)
    user.close()


def test_a_connection_of_redis_that_is_dropped_is_closed_before_its_socket_is_collected(redis_server: Redis) -> None:
    """Where Python finalizes a cycle's objects from the oldest on, and the socket is older than its connection."""
    socket = create_connection(redis_server.address)
    gc.collect()

    class Connection(redis.Connection):
        def _connect(self) -> Any:
            return socket_made.pop()

    socket_made = [socket]
    del socket
    pool = BlockingConnectionPool(connection_class=Connection, max_connections=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)  # unraisable, which pytest finds
        pool.get_connection()
        gc.collect()
    until(lambda: not pool.pooling.stats().leased)
    pool.close()
    pool.pooling.close()
