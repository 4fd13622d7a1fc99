"""Everything that is measured, as adapters of one shape. Each says why it is set up the way it is.

A rule for all: the capacity is the scenario's size and nothing beside it, a caller that finds no connection waits
where the pool can wait, and every protection that the pool has by default stays on.
"""

from __future__ import annotations

import importlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from itertools import repeat
from typing import Any

import pooling
from benchmarks.peer import Peer
from benchmarks.rows import OURS
from benchmarks.stubs import HTTPStub, PsycopgStub, RedisStub, Server, Stub, StubFactory


class Floor(Peer):
    """The least that can be called a pool: a lock and a deque. It opens in advance and cannot wait."""

    name = "floor"
    contends = False

    def __init__(self, server: Server, size: int, timeout: float = 60.0) -> None:  # noqa: ARG002  # it cannot wait
        self._lock = threading.Lock()
        self._idle: deque[Stub] = deque(Stub(server) for _ in range(size))

    def acquire(self) -> Stub:
        with self._lock:
            return self._idle.pop()

    def release(self, held: Stub) -> None:
        with self._lock:
            self._idle.append(held)

    def spin(self, cycles: int) -> None:
        lock, take, put = self._lock, self._idle.pop, self._idle.append
        for _ in repeat(None, cycles):
            with lock:
                held = take()
            with lock:
                put(held)


class FairQueue:
    """The least that hands what is put into it to whoever has waited longest: a lock of his own for each who waits. No
    wait has a limit, none can be interrupted without loss, and nobody knows who has what."""

    def __init__(self, maxsize: int = 0) -> None:  # noqa: ARG002  # as queues have it, who are told and count
        self._lock = threading.Lock()
        self._items: deque[Any] = deque()
        self._waiting: deque[tuple[threading.Lock, list[Any]]] = deque()

    def put(self, item: Any, block: bool = True) -> None:  # noqa: ARG002  # there is always room
        with self._lock:
            if not self._waiting:
                self._items.append(item)
                return
            gate, hand = self._waiting.popleft()
        hand.append(item)
        gate.release()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ARG002
        with self._lock:
            if self._items:
                return self._items.pop()
            if not block:
                raise queue.Empty
            gate, hand = threading.Lock(), list[Any]()
            gate.acquire()
            self._waiting.append((gate, hand))
        gate.acquire()
        return hand.pop()


class FairFloor(Peer):
    """The least that can be called a fair pool."""

    name = "fair floor"

    def __init__(self, server: Server, size: int, timeout: float = 60.0) -> None:  # noqa: ARG002  # it has no limit
        self._queue = FairQueue()
        for _ in range(size):
            self._queue.put(Stub(server))

    def acquire(self) -> Stub:
        held: Stub = self._queue.get()
        return held

    def release(self, held: Stub) -> None:
        self._queue.put(held)

    def spin(self, cycles: int) -> None:
        for _ in repeat(None, cycles):
            self._queue.put(self._queue.get())


class Lifo(Peer):
    """The recipe that many write: a LifoQueue of places, filled by whoever takes an empty one."""

    name = "queue.LifoQueue"

    def __init__(self, server: Server, size: int, timeout: float = 60.0) -> None:
        self._server, self._timeout = server, timeout
        self._queue: queue.LifoQueue[Stub | None] = queue.LifoQueue(size)
        for _ in range(size):
            self._queue.put_nowait(None)

    def acquire(self) -> Stub:
        return self._queue.get(timeout=self._timeout) or Stub(self._server)

    def release(self, held: Stub) -> None:
        self._queue.put_nowait(held)

    def spin(self, cycles: int) -> None:
        places = self._queue
        for _ in repeat(None, cycles):
            held = places.get()
            places.put_nowait(held)


class SQLAlchemy(Peer):
    """``max_overflow=0`` makes pool_size the cap; reset-on-return (a rollback, of no cost with a stub) stays on, as
    it is everybody's default. pre_ping stays off: it would be a round trip."""

    name = "SQLAlchemy QueuePool"
    module, package = "sqlalchemy.pool", "SQLAlchemy"

    def __init__(self, server: Server, size: int, timeout: float = 60.0) -> None:
        from sqlalchemy.pool import QueuePool

        self._pool = QueuePool(lambda: Stub(server), pool_size=size, max_overflow=0, timeout=timeout)  # type: ignore[arg-type]

    def acquire(self) -> Any:
        return self._pool.connect()

    def release(self, held: Any) -> None:
        held.close()

    def spin(self, cycles: int) -> None:
        pool = self._pool
        for _ in repeat(None, cycles):
            pool.connect().close()

    def close(self) -> None:
        self._pool.dispose()


class Psycopg(Peer):
    """``min_size=0``: it opens what it is asked for and no more, as every peer here does, and the scenarios warm all
    in the same way. Its three workers and no check on acquire are its defaults."""

    name = "psycopg_pool getconn"
    module, package = "psycopg_pool", "psycopg-pool"

    def __init__(self, server: Server, size: int, timeout: float = 60.0) -> None:
        from psycopg.pq import TransactionStatus
        from psycopg_pool import ConnectionPool

        class Connections:
            """The pool calls nothing of a connection class but this."""

            @staticmethod
            def connect(conninfo: str, **_: object) -> PsycopgStub:  # noqa: ARG004
                return PsycopgStub(server, TransactionStatus.IDLE)

        stubs: Any = Connections
        self._pool: Any = ConnectionPool(connection_class=stubs, min_size=0, max_size=size, timeout=timeout, open=True)

    def acquire(self) -> Any:
        return self._pool.getconn()

    def release(self, held: Any) -> None:
        self._pool.putconn(held)

    def spin(self, cycles: int) -> None:
        pool = self._pool
        for _ in repeat(None, cycles):
            held = pool.getconn()
            pool.putconn(held)

    def close(self) -> None:
        self._pool.close(timeout=1.0)


class PsycopgContext(Psycopg):
    """The same pool, used as its documentation recommends."""

    name = "psycopg_pool connection()"
    contends = False  # its waiting is that of getconn()

    def spin(self, cycles: int) -> None:
        pool = self._pool
        for _ in repeat(None, cycles):
            with pool.connection():
                pass


class DBUtils(Peer):
    """``blocking`` makes it wait, without a limit, since it has none. ``ping=0``: a stub has no ping, and a real
    one would be a round trip. ``maxcached`` stays 0 (keep all), reset stays on."""

    name = "DBUtils PooledDB"
    module, package = "dbutils.pooled_db", "DBUtils"
    bounded = False

    def __init__(self, server: Server, size: int, timeout: float = 60.0) -> None:  # noqa: ARG002  # no limit
        from dbutils.pooled_db import PooledDB  # type: ignore[import-untyped]

        def connect() -> Stub:
            return Stub(server)

        connect.threadsafety = 1  # type: ignore[attr-defined]  # it reads that off the creator
        self._pool = PooledDB(connect, maxconnections=size, blocking=True, failures=OSError, ping=0)

    def acquire(self) -> Any:
        return self._pool.connection()

    def release(self, held: Any) -> None:
        held.close()

    def spin(self, cycles: int) -> None:
        pool = self._pool
        for _ in repeat(None, cycles):
            pool.connection().close()

    def close(self) -> None:
        self._pool.close()


class RedisPool(Peer):
    """The default of redis-py. It raises where others wait, so it takes part where nobody has to."""

    name = "redis ConnectionPool"
    module, package = "redis", "redis"
    contends = False

    def __init__(self, server: Server, size: int, timeout: float = 60.0) -> None:
        self._pool = self._build(server, size, timeout)

    def _build(self, server: Server, size: int, timeout: float) -> Any:  # noqa: ARG002
        from redis import ConnectionPool

        return ConnectionPool(connection_class=RedisStub, max_connections=size, server=server)

    def acquire(self) -> Any:
        return self._pool.get_connection()

    def release(self, held: Any) -> None:
        self._pool.release(held)

    def spin(self, cycles: int) -> None:
        pool = self._pool
        for _ in repeat(None, cycles):
            held = pool.get_connection()
            pool.release(held)

    def close(self) -> None:
        self._pool.disconnect()


class RedisBlocking(RedisPool):
    """The pool of redis-py that waits."""

    name = "redis BlockingConnectionPool"
    contends = True

    def _build(self, server: Server, size: int, timeout: float) -> Any:
        from redis import BlockingConnectionPool

        build: Any = BlockingConnectionPool
        return build(connection_class=RedisStub, max_connections=size, timeout=timeout, server=server)


class URLLib3(Peer):
    """``block=True`` makes maxsize a cap; without it, it opens and throws away. Its users never see ``_get_conn``, but
    that is the pool: everything else in a request is HTTP."""

    name = "urllib3 HTTPConnectionPool"
    module, package = "urllib3", "urllib3"

    def __init__(self, server: Server, size: int, timeout: float = 60.0) -> None:
        from urllib3 import HTTPConnectionPool

        class StubPool(HTTPConnectionPool):
            def _new_conn(self) -> Any:
                return HTTPStub(server)

        self._pool: Any = StubPool("localhost", maxsize=size, block=True)
        self._timeout = timeout

    def acquire(self) -> Any:
        return self._pool._get_conn(self._timeout)

    def release(self, held: Any) -> None:
        self._pool._put_conn(held)

    def spin(self, cycles: int) -> None:
        pool = self._pool
        for _ in repeat(None, cycles):
            held = pool._get_conn()
            pool._put_conn(held)

    def close(self) -> None:
        self._pool.close()


class Ours(Peer):
    """All options at their defaults, and a factory with all that a database's has: call site, histograms, deadline,
    clean check and fork detection are on in every cycle."""

    name = OURS

    def __init__(self, server: Server, size: int, timeout: float = 60.0, **options: Any) -> None:
        self.pool: pooling.Pool[Stub] = pooling.Pool(self._factory(server), max_size=size, timeout=timeout, **options)

    def _factory(self, server: Server) -> pooling.Factory[Stub] | Callable[[], Stub]:
        return StubFactory(server)

    def acquire(self) -> Any:
        return self.pool.acquire()

    def release(self, held: Any) -> None:
        held.release()

    def spin(self, cycles: int) -> None:
        pool = self.pool
        for _ in repeat(None, cycles):
            with pool.acquire():
                pass

    def catch_up(self) -> None:
        self.pool.stats()  # sorts into the histograms what has gathered

    def close(self) -> None:
        self.pool.close()


class OursExplicit(Ours):
    """The same without ``with``: what the context manager costs."""

    name = f"{OURS} acquire/release"
    contends = False

    def spin(self, cycles: int) -> None:
        pool = self.pool
        for _ in repeat(None, cycles):
            pool.acquire().release()


class OursBare(Ours):
    """A plain callable in place of a factory: no clean check."""

    name = f"{OURS}, a callable"
    contends = False

    def _factory(self, server: Server) -> Callable[[], Stub]:
        return lambda: Stub(server)


ALL: tuple[type[Peer], ...] = (
    Floor, Lifo, SQLAlchemy, Psycopg, PsycopgContext, DBUtils, RedisPool, RedisBlocking, URLLib3,
    Ours, OursExplicit, OursBare,
)  # fmt: skip  # in the order of the tables


@cache
def unfit(module: str) -> str:
    """Why it cannot be imported; nothing where it can. To find it is not enough: psycopg_pool is there without psycopg,
    and psycopg without libpq."""
    try:
        importlib.import_module(module or __name__)
    except Exception as error:  # too old for this Python, a package raises whatever it comes to
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


def installed(kinds: Sequence[type[Peer]] = ALL) -> dict[str, type[Peer]]:
    """The peers that can run here, by name."""
    return {kind.name: kind for kind in kinds if not unfit(kind.module)}


def contenders() -> dict[str, type[Peer]]:
    """Those that take part where callers wait."""
    return {name: kind for name, kind in installed().items() if kind.contends}


def missing() -> dict[str, str]:
    """Peers that cannot run here, and why."""
    return {kind.name: why for kind in ALL if (why := unfit(kind.module))}


def versions() -> dict[str, str]:
    """The packages measured, with their versions; last the drivers of real servers, as far as they are here."""
    found = {kind.package: metadata.version(kind.package) for kind in installed().values() if kind.package}
    for driver in ("psycopg", "PyMySQL", "pymongo"):
        with suppress(metadata.PackageNotFoundError):
            found[driver] = metadata.version(driver)
    return {OURS: pooling.__version__, **found}
