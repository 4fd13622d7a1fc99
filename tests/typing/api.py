"""What type checkers make of the public names. Checked by mypy --strict, never run."""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

import pooling
from pooling import (
    Config,
    ConnectError,
    Factory,
    Histogram,
    Holder,
    Lease,
    Pool,
    PoolClosed,
    PoolError,
    PoolEvent,
    PoolStats,
    PoolTimeout,
    QueueFull,
    Waiting,
    create_pool,
)
from pooling.errors import TimeoutStage
from pooling.events import EventKind
from pooling.testing import Actor, FakeConnection, FakeFactory, ManualClock


class Connection:
    def close(self) -> None: ...

    def query(self) -> int:
        return 1


class ConnectionFactory(Factory[Connection]):
    def connect(self, timeout: float) -> Connection:
        return Connection()


def connect() -> Connection:
    return Connection()


# -- a pool knows its connections' type, from a callable, a class, and a Factory ------------------------------

from_callable = Pool(connect, max_size=3)
assert_type(from_callable, Pool[Connection])
assert_type(Pool(Connection), Pool[Connection])
assert_type(Pool(lambda: connect()), Pool[Connection])  # noqa: PLW0108  # a lambda is what is checked
pool = Pool(ConnectionFactory(), name="main", timeout=None, on_connect=print)
assert_type(pool, Pool[Connection])
assert_type(create_pool("sqlite://", {"timeout": 5.0}, max_size=3), Pool[Any])
assert_type(create_pool("sqlite://", lambda: {"timeout": 5.0}), Pool[Any])

# -- leases --------------------------------------------------------------------------------------------------

lease = pool.acquire(timeout=1.0, priority=-5)
assert_type(lease, Lease[Connection])
assert_type(lease.connection, Connection)
assert_type(lease.refresh(), Connection)
assert_type(lease.detach(), Connection)
with lease as mine, pool.transaction() as changed:
    assert_type(mine, Connection)
    assert_type(changed, Connection)
assert_type(lease.release(), None)
assert_type(lease.discard(), None)
pool.acquire(None)
pool.acquire(0)

with pool as entered:
    assert_type(entered, Pool[Connection])

# -- everything else of a pool -----------------------------------------------------------------------------------

assert_type(pool.name, str)
assert_type(pool.stats(), PoolStats)
assert_type(pool.holders(), tuple[Holder, ...])
assert_type(pool.waiters(), tuple[Waiting, ...])
assert_type(pool.config, Config)
assert_type(pool.drain(timeout=None), bool)
assert_type(pool.stats().wait, Histogram)
assert_type(pool.stats().wait.percentile(99), float)
assert_type(pool.stats().wait - pool.stats().wait, Histogram)
assert_type(pool.stats().closed.get("idle", 0), int)
assert_type(pool.stats().max_size, int | None)
pool.warm_up()
pool.resize(min_size=1, max_size=None)
pool.clear(interrupt=True)
pool.suspend()
pool.resume()
pool.close(timeout=1)


def listener(event: PoolEvent) -> None:
    assert_type(event.kind, EventKind)
    assert_type(event.connection_id, int | None)
    assert_type(event.error, BaseException | None)
    assert_type(event.holder, Holder | None)


stop = pool.subscribe(listener)
stop()

try:
    pool.acquire()
except PoolTimeout as error:
    assert_type(error.stage, TimeoutStage)
    assert_type(error.stats, PoolStats | Any)
    assert_type(error.stats.leased, int | Any)
    print(error.stats.lesed)  # type: ignore[union-attr]
    assert_type(error.holders, tuple[Holder, ...])
    os_error: OSError = error
except (QueueFull, PoolClosed, ConnectError) as other:
    base: PoolError = other

# -- options --------------------------------------------------------------------------------------------------------

assert_type(Config.of({"max_size": 3}), Config)
Pool(connect, max_sise=3)  # type: ignore[call-arg]
Pool(connect, max_size="3")  # type: ignore[arg-type]
Pool(connect, check="pong")  # type: ignore[arg-type]
Pool(connect, on_connect=7)  # type: ignore[arg-type]
Pool(7)  # type: ignore[arg-type]
create_pool("sqlite://", max_sise=3)  # type: ignore[call-arg]
create_pool("sqlite://", timeout="soon")  # type: ignore[arg-type]
create_pool(7)  # type: ignore[arg-type]
pool.acquire(timeout="soon")  # type: ignore[arg-type]
pool.resize(max_size=1.5)  # type: ignore[arg-type]
pool.release(lease)  # type: ignore[attr-defined]
pool.stats().size = 3  # type: ignore[misc]
pool.subscribe(lambda: None)  # type: ignore[arg-type, misc]

# -- the fakes ---------------------------------------------------------------------------------------------------------

clock = ManualClock()
assert_type(Pool(FakeFactory(clock), runtime=clock), Pool[FakeConnection])
assert_type(clock.spawn(pool.acquire, 5.0), Actor)
pooling.__version__.split(".")
