"""Ours beside each driver's own pool on real servers: 16 threads on 4 connections, each with one short operation.

What a caller sees is measured: from the call to the moment when the connection is back, wait and use together, since
some pools (MongoClient, urllib3) do not let the two be told apart. Needs the drivers and programs of the tests.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.crowd import Outcome, Service, crowd, together
from benchmarks.peers import FairQueue, unfit
from benchmarks.rows import OURS, Family, Row, Settings, by_time, in_turn, percentile, ratio, row

THREADS, SIZE, TIMEOUT = 16, 4, 60.0
SECONDS, QUICK_SECONDS = 2.0, 0.3
LEAD = 0.3  # seconds before each sample that are left out: the threads fall into step

Use = Callable[[], object]
"""One operation, as users write it: it takes a connection, uses it and gives it back."""


class Subject(NamedTuple):
    """One pool as a server's peer."""

    name: str
    build: Callable[[str], tuple[Use, Callable[[], object]]]
    """Of the server's URL makes the operation, and what closes the pool."""
    module: str = ""
    """What has to be importable, beside the server's driver."""


# PostgreSQL: autocommit for both, which is what a program that only reads uses: no rollback after each lease.


def _psycopg(url: str) -> tuple[Use, Callable[[], object]]:
    """``min_size=0`` and no check on acquire, as in peers.py."""
    from psycopg_pool import ConnectionPool

    pool = ConnectionPool(
        url, kwargs={"autocommit": True}, min_size=0, max_size=SIZE, timeout=TIMEOUT, open=True
    )  # fmt: skip

    def use() -> None:
        with pool.connection() as connection:
            connection.execute("SELECT 1").fetchone()

    return use, lambda: pool.close(timeout=1.0)


def _postgres(url: str) -> tuple[Use, Callable[[], object]]:
    import pooling

    pool = pooling.create_pool(url, {"autocommit": True}, max_size=SIZE, timeout=TIMEOUT)

    def use() -> None:
        with pool.acquire() as connection:
            connection.execute("SELECT 1").fetchone()

    return use, pool.close


# MariaDB: autocommit for all. Others roll back after each use whatever happened in it, which is a round trip; ours
# reads the flags of the last answer. So each takes part with its default and without that rollback.


def _arguments(url: str) -> dict[str, Any]:
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    return {
        "host": parts.hostname,
        "port": parts.port or 3306,
        "user": unquote(parts.username or "root"),
        "password": unquote(parts.password or ""),
        "database": parts.path.lstrip("/") or None,
        "autocommit": True,
    }


def _select(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()


def _sqlalchemy(url: str, reset: Any = "rollback") -> tuple[Use, Callable[[], object]]:
    """``pre_ping`` stays off: its default, and another round trip."""
    import pymysql
    from sqlalchemy.pool import QueuePool

    arguments = _arguments(url)
    pool = QueuePool(
        lambda: pymysql.connect(**arguments),  # type: ignore[arg-type]
        pool_size=SIZE, max_overflow=0, timeout=TIMEOUT, reset_on_return=reset,
    )  # fmt: skip

    def use() -> None:
        connection = pool.connect()
        try:
            _select(connection)
        finally:
            connection.close()

    return use, pool.dispose


def _dbutils(url: str, reset: bool = True) -> tuple[Use, Callable[[], object]]:
    """``ping=0``: by default it pings before each use, a round trip that no other here makes."""
    import pymysql
    from dbutils.pooled_db import PooledDB  # type: ignore[import-untyped]

    pool = PooledDB(pymysql, maxconnections=SIZE, blocking=True, ping=0, reset=reset, **_arguments(url))

    def use() -> None:
        connection = pool.connection()
        try:
            _select(connection)
        finally:
            connection.close()

    return use, pool.close


def _mariadb(url: str) -> tuple[Use, Callable[[], object]]:
    import pooling

    pool = pooling.create_pool(url, {"autocommit": True}, max_size=SIZE, timeout=TIMEOUT)

    def use() -> None:
        with pool.acquire() as connection:
            _select(connection)

    return use, pool.close


# SQLAlchemy's engine, whose users write poolclass=FairPool and nothing else. Its default: each use is a transaction,
# which is a BEGIN and a rollback beside the query, for both.


def _engine(url: str, poolclass: Any) -> tuple[Use, Callable[[], object]]:
    """``pre_ping`` stays off, its default."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:", 1),
        poolclass=poolclass, pool_size=SIZE, max_overflow=0, pool_timeout=TIMEOUT,
    )  # fmt: skip
    select = sqlalchemy.text("SELECT 1")

    def use() -> None:
        with engine.connect() as connection:
            connection.execute(select).scalar()

    return use, engine.dispose


def _queue_pool(url: str) -> tuple[Use, Callable[[], object]]:
    from sqlalchemy.pool import QueuePool

    return _engine(url, QueuePool)


def _queue_pool_in_order(url: str) -> tuple[Use, Callable[[], object]]:
    """The same pool with the least queue that is fair: what order costs here, whoever keeps it."""
    from sqlalchemy.pool import QueuePool
    from sqlalchemy.util.queue import Empty

    class Queue(FairQueue):
        def __init__(self, maxsize: int, use_lifo: bool) -> None:
            super().__init__()
            self.maxsize, self.use_lifo = maxsize, use_lifo

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            try:
                return super().get(block, timeout)
            except queue.Empty:
                raise Empty from None

        def qsize(self) -> int:
            return len(self._items)

    class InOrder(QueuePool):
        _queue_class: Any = Queue

    return _engine(url, InOrder)


def _fair_pool(url: str) -> tuple[Use, Callable[[], object]]:
    from pooling.integrations.sqlalchemy import FairPool

    return _engine(url, FairPool)


def _redis_blocking(url: str) -> tuple[Use, Callable[[], object]]:
    import redis

    pool = redis.BlockingConnectionPool.from_url(url, max_connections=SIZE, timeout=TIMEOUT)
    client = redis.Redis(connection_pool=pool)
    return lambda: client.get("key"), pool.disconnect


def _redis_drop_in(url: str) -> tuple[Use, Callable[[], object]]:
    import redis

    from pooling.backends.redis import BlockingConnectionPool

    pool = BlockingConnectionPool.from_url(url, max_connections=SIZE, timeout=TIMEOUT)
    client = redis.Redis(connection_pool=pool)
    return lambda: client.get("key"), pool.pooling.close


def _redis_lease(url: str) -> tuple[Use, Callable[[], object]]:
    import pooling

    pool = pooling.create_pool(url, max_size=SIZE, timeout=TIMEOUT)

    def use() -> None:
        with pool.acquire() as client:
            client.get("key")

    return use, pool.close


def _mongo_client(url: str) -> tuple[Use, Callable[[], object]]:
    import pymongo

    client: Any = pymongo.MongoClient(url, maxPoolSize=SIZE, waitQueueTimeoutMS=int(1000 * TIMEOUT))
    return lambda: client.bench.things.find_one({"_id": 1}), client.close


def _mongo(url: str) -> tuple[Use, Callable[[], object]]:
    import pooling

    pool = pooling.create_pool(url, max_size=SIZE, timeout=TIMEOUT)

    def use() -> None:
        with pool.acquire() as client:
            client.bench.things.find_one({"_id": 1})

    return use, pool.close


def _urllib3(url: str) -> tuple[Use, Callable[[], object]]:
    import urllib3

    manager = urllib3.PoolManager(maxsize=SIZE, block=True)
    return lambda: manager.request("GET", url + "/").data, manager.clear


def _urllib3_in_order(url: str) -> tuple[Use, Callable[[], object]]:
    """The same pool with the least queue that is fair: what order costs here, whoever keeps it."""
    import urllib3

    class InOrder(urllib3.HTTPConnectionPool):
        QueueCls: Any = FairQueue

    manager = urllib3.PoolManager(maxsize=SIZE, block=True)
    manager.pool_classes_by_scheme = {"http": InOrder}
    return lambda: manager.request("GET", url + "/").data, manager.clear


def _http(url: str) -> tuple[Use, Callable[[], object]]:
    from pooling.backends import http

    manager = http.PoolManager(maxsize=SIZE, block=True, pool_timeout=TIMEOUT)
    return lambda: manager.request("GET", url + "/").data, manager.clear


# By the scenario's name: the class in tests.servers and the peers; ours comes last, under the name that bars look for.
SERVERS: dict[str, tuple[str, tuple[Subject, ...]]] = {
    "PostgreSQL": ("Postgres", (
        Subject("psycopg_pool ConnectionPool", _psycopg, "psycopg_pool"),
        Subject(OURS, _postgres),
    )),
    "PostgreSQL, SQLAlchemy's engine": ("Postgres", (
        Subject("SQLAlchemy QueuePool", _queue_pool, "sqlalchemy"),
        Subject("SQLAlchemy QueuePool, in order", _queue_pool_in_order, "sqlalchemy"),
        Subject(OURS, _fair_pool, "sqlalchemy"),
    )),
    "MariaDB": ("MariaDB", (
        Subject("SQLAlchemy QueuePool", _sqlalchemy, "sqlalchemy"),
        Subject("SQLAlchemy QueuePool, no reset", lambda url: _sqlalchemy(url, None), "sqlalchemy"),
        Subject("DBUtils PooledDB", _dbutils, "dbutils"),
        Subject("DBUtils PooledDB, no reset", lambda url: _dbutils(url, False), "dbutils"),
        Subject(OURS, _mariadb),
    )),
    "Redis": ("Redis", (
        Subject("redis BlockingConnectionPool", _redis_blocking, "redis"),
        Subject(f"{OURS}, drop-in", _redis_drop_in, "redis"),
        Subject(OURS, _redis_lease, "redis"),
    )),
    "MongoDB": ("MongoDB", (
        Subject("MongoClient", _mongo_client, "pymongo"),
        Subject(OURS, _mongo, "pymongo"),
    )),
    "HTTP": ("HTTP", (
        Subject("urllib3 PoolManager", _urllib3, "urllib3"),
        Subject("urllib3 PoolManager, in order", _urllib3_in_order, "urllib3"),
        Subject(OURS, _http, "urllib3"),
    )),
}  # fmt: skip


def run(settings: Settings) -> Iterator[Row]:
    for name in SERVERS:
        yield from measure(name, settings)


def measure(name: str, settings: Settings) -> Iterator[Row]:
    """All peers of one server."""
    scenario = f"server, {name}"
    yield from beside(
        name, scenario, settings, lambda url, here: _rows(scenario, _outcomes(name, url, here, settings))
    )  # fmt: skip  # what is asked, then how


def beside(
    name: str, scenario: str, settings: Settings, sample: Callable[[str, list[Subject]], Iterator[Row]]
) -> Iterator[Row]:
    """What ``sample`` makes of the server's URL and of the peers that are there; who is not has a row that says why."""
    kind, subjects = SERVERS[name]
    settings.say(f"{name} is being started")
    try:
        server = _start(kind)
    except (ImportError, RuntimeError) as error:  # RuntimeError: ServerMissing and ServerError
        advice = '; pip install --group test -e ".[all]"' if isinstance(error, ImportError) else ""
        yield _missing(scenario, f"the server ({name})", str(error).partition("\n")[0] + advice)
        return
    try:
        here = [one for one in subjects if not unfit(one.module)]
        for one in subjects:
            if one not in here:
                yield _missing(scenario, one.name, unfit(one.module))
        yield from sample(server.url, here)
    finally:
        server.close()


def _start(kind: str) -> Any:
    from tests import servers  # needs the drivers of all of them

    server = getattr(servers, kind)()
    try:
        return server.start()
    except BaseException:
        server.close()
        raise


def _missing(scenario: str, peer: str, reason: str) -> Row:
    return Row(scenario, peer, "missing", reason, 1.0, 0.0, THREADS)


def _outcomes(name: str, url: str, subjects: list[Subject], settings: Settings) -> dict[str, list[Outcome]]:
    by_name = {one.name: one for one in subjects}
    outcomes: dict[str, list[Outcome]] = {one: [] for one in by_name}
    for number, names in enumerate(in_turn(list(by_name), settings.rounds), 1):
        for one in names:
            settings.say(f"servers: {name}, round {number}, {one}")
            with using(by_name[one], url) as use:
                outcomes[one].append(closed_loop(use, QUICK_SECONDS if settings.quick else SECONDS))
    return outcomes


@contextmanager
def using(subject: Subject, url: str) -> Iterator[Use]:
    """The operation on a pool of its own, whose connections are open: until they are nobody is measured, and a driver
    that reads all certificates for that takes longer than any lead."""
    use, close = subject.build(url)
    try:
        together(THREADS, use)
        yield use
    finally:
        close()


def closed_loop(use: Use, seconds: float) -> Outcome:
    """The threads use it until the time is over, each again once it has been served."""

    def turns(number: int, end: float, record: Callable[[Service], None]) -> None:
        done = 0.0
        while done < end:
            called = perf_counter()
            use()
            done = perf_counter()
            record((number, called, done))

    return crowd(THREADS, turns, lead=LEAD, seconds=seconds)


def _rows(scenario: str, outcomes: dict[str, list[Outcome]]) -> Iterator[Row]:
    rates = {name: [len(one.services) / one.seconds for one in rounds] for name, rounds in outcomes.items()}
    for name, rate in rates.items():
        yield row(scenario, name, "throughput", "1/s", rate, THREADS)
    ours = [name for name in rates if name.startswith(OURS)]
    for name, rate in rates.items():
        if name not in ours and all(rate):
            for one in ours:
                yield ratio(scenario, one, f"throughput to {name}", rates[one], rate, THREADS)
    for label, p in (("p50", 50.0), ("p99", 99.0), ("max", 100.0)):
        times = {name: [1000 * percentile(one.waits(), p) for one in rounds] for name, rounds in outcomes.items()}
        for name, found in times.items():
            yield row(scenario, name, f"wait and use {label}", "ms", found, THREADS)
        for name, found in times.items():
            if label == "p99" and name not in ours and all(found):
                for one in ours:
                    yield ratio(scenario, one, f"p99 to {name}", times[one], found, THREADS)
    for name, rounds in outcomes.items():
        found = [1000 * by_time(one.waits(), 99.0) for one in rounds]
        yield row(scenario, name, "wait and use p99 by time", "ms", found, THREADS)
        yield row(scenario, name, "least/most", "ratio", [one.least_to_most(THREADS) for one in rounds], THREADS)
        if any(one.errors for one in rounds):
            yield row(scenario, name, "threads that failed", "", [one.errors for one in rounds], THREADS)


FAMILY = Family(
    "servers",
    "16 threads on 4 connections to real servers, beside each driver's own pool",
    run,
    plots=("throughput", "wait and use p99", "wait and use p99 by time", "least/most"),
)
