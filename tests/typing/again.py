"""What type checkers make of retry, PoolManager and signals. Checked by mypy --strict, never run."""

from __future__ import annotations

import signal
from typing import Any

from typing_extensions import assert_type

from pooling import Pool, PoolManager, PoolStats
from pooling.retry import Attempt, FullJitter, Retrying, without_waiting
from pooling.signals import drain_on_signals
from pooling.testing import FakeConnection, FakeFactory

pool = Pool(FakeFactory())


def number(connection: FakeConnection, add: int) -> int:
    return connection.number + add


assert_type(pool.run(number, 5), int)
assert_type(pool.run(number, 5, retries=None, idempotent=True, transaction=True, timeout=None, priority=-1.0), int)
assert_type(pool.run(number, 5, backoff=FullJitter(first=0.1), on=(ValueError, KeyError)), int)
pool.run(number, 5, on=lambda error: "again" in str(error))
pool.run(number, 5, retrys=2)  # type: ignore[call-arg]
pool.run(5)  # type: ignore[arg-type]

retrying: Retrying[FakeConnection] = Retrying(pool, backoff=lambda tries: 0.1 * tries)
assert_type(retrying.run(number, 5), int)


@retrying
def named(connection: FakeConnection, *, name: str) -> str:
    return f"{name} {connection.number}"


assert_type(named(name="x"), str)
named("x")  # type: ignore[call-arg]
named(pool.acquire().connection, name="x")  # type: ignore[arg-type,misc]


def loop() -> int:
    for attempt in Retrying(lambda: pool):
        assert_type(attempt, Attempt[FakeConnection])
        with attempt as connection:
            assert_type(connection, FakeConnection)
            return connection.number
    raise AssertionError


with without_waiting():
    loop()

manager = PoolManager(timeout=5.0, max_size=None)
manager.add("a", "sqlite://", {"timeout": 1.0}, max_size=3)
manager.add("b", pool)
manager.add("c", FakeFactory(), min_size=1)
manager.add("d", lambda: 5, connect_args=None, order="fifo")
manager.add("e", "sqlite://", max_sise=3)  # type: ignore[call-arg]
PoolManager(max_size="3")  # type: ignore[arg-type]
assert_type(manager["a"], Pool[Any])
assert_type(manager.stats(), dict[str, PoolStats])
assert_type(manager.drain(None), bool)
assert_type(PoolManager.from_dict({"a": "sqlite://"}, timeout=1.0), PoolManager)
assert_type(PoolManager.from_toml("pools.toml", table="x"), PoolManager)
assert_type(PoolManager.from_env("SHOP_"), PoolManager)
for name, one in manager.items():
    assert_type((name, one), tuple[str, Pool[Any]])

restore = drain_on_signals(manager, timeout=5.0, signals=[signal.SIGTERM], stop=print)
drain_on_signals(pool)
drain_on_signals(5)  # type: ignore[arg-type]
restore()
