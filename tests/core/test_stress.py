"""Everything at once: at the end full capacity is left, and whatever was opened is closed."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from pooling import ConnectError, Pool, PoolTimeout, QueueFull
from pooling.testing import FakeBroken, FakeConnection, FakeFactory, ManualClock
from tests.core.helpers import outcome


class Exclusive(FakeFactory):
    """Fails now and then, and sees whether two use one connection at a time."""

    def __init__(self, draw: random.Random, clock: ManualClock | None = None) -> None:
        super().__init__(clock)
        self.draw = draw
        self.failing = True
        self.doubles = 0
        self._users: dict[int, int] = {}

    def connect(self, timeout: float) -> FakeConnection:
        if self.failing and self.draw.random() < 0.1:
            raise OSError("injected")
        return super().connect(timeout)

    def check(self, connection: FakeConnection, timeout: float) -> None:
        if self.failing and self.draw.random() < 0.1:
            raise FakeBroken("injected")
        super().check(connection, timeout)

    def reset(self, connection: FakeConnection, mode: Any) -> None:
        if self.failing and self.draw.random() < 0.1:
            raise FakeBroken("injected")
        super().reset(connection, mode)

    def use(self, connection: FakeConnection, leave: bool = False) -> None:
        with self._lock:
            count = self._users[connection.number] = self._users.get(connection.number, 0) + (-1 if leave else 1)
            self.doubles += count > 1


def mixed(pool: Any, factory: Exclusive, draw: random.Random, rest: Any) -> None:
    """One of the many things that callers do."""
    result = outcome(pool.acquire, draw.choice([0, 0.001, 5, 5, 5]), draw.choice([0, 0, 0, -1, 1]))
    if isinstance(result, BaseException):
        assert isinstance(result, (PoolTimeout, ConnectError, QueueFull)), result
        return
    connection = result.connection
    factory.use(connection)
    rest(draw.choice([0, 0, 0.001]))
    factory.use(connection, leave=True)
    match draw.randrange(12):
        case 0:
            result.discard()
        case 1:
            connection.dirty = True
            result.release()
        case 2:
            with pytest.raises(FakeBroken), result:
                raise FakeBroken
        case 3:
            with pytest.raises(ValueError), result:
                raise ValueError
        case 4:
            connection.dead = True
            result.release()
        case 5:
            del result  # dropped
        case 6:
            if not isinstance(outcome(result.refresh, 5), BaseException):
                result.release()
        case _:
            result.release()


def order(pool: Any, draw: random.Random) -> None:
    match draw.randrange(4):
        case 0:
            pool.clear()
        case 1:
            pool.resize(max_size=draw.randint(4, 8))
        case 2:
            pool.suspend()
            pool.resume()
        case 3:
            pool.stats()


def all_usable(pool: Any, factory: Exclusive, slots: int) -> None:
    factory.failing = False
    pool.resize(max_size=slots)
    leases = []
    for _ in range(slots):
        result: Any = ConnectError()
        for _ in range(50):
            if not isinstance(result, ConnectError):
                break
            result = outcome(pool.acquire, 5)
        assert not isinstance(result, BaseException), result
        leases.append(result)
    assert len({lease.connection.number for lease in leases}) == slots
    for lease in leases:
        lease.release()


@pytest.mark.parametrize("seed", range(5))
def test_mixed_operations_in_virtual_time(clock: ManualClock, seed: int) -> None:
    draw = random.Random(seed)
    factory = Exclusive(draw, clock)
    pool = Pool(
        factory, runtime=clock, max_size=8, min_size=2, max_waiting=30, check="ping", check_after=0.001, max_uses=20,
        fail_after=0.5, max_lifetime=3, idle_timeout=1, keepalive=0.5, leak_after=1,
    )  # fmt: skip  # a row of options

    def user() -> None:
        for _ in range(30):
            mixed(pool, factory, draw, clock.sleep)
            clock.sleep(draw.choice([0, 0.001, 0.3]))

    users = [clock.spawn(user) for _ in range(20)]
    while not all(actor.done for actor in users):
        clock.advance(0.2)
        order(pool, draw)
        stats = pool.stats()
        assert stats.size == stats.idle + stats.leased + stats.connecting + stats.busy + stats.closing
        assert factory.open <= 8
    for actor in users:
        actor.result()
    clock.advance(5)
    all_usable(pool, factory, 8)
    pool.close()
    clock.advance(0)
    stats = pool.stats()
    assert (stats.size, factory.open, factory.doubles) == (0, 0, 0)
    assert stats.opened == sum(stats.closed.values()) == factory.opened
    assert stats.acquired == stats.released


def test_mixed_operations_under_threads() -> None:
    factory = Exclusive(random.Random(1))
    failures: list[BaseException] = []
    with Pool(
        factory, max_size=8, min_size=2, check="ping", check_after=0.001, max_uses=20, backoff=lambda n: 0.001,
        keepalive=0.05, max_lifetime=0.3,
    ) as pool:  # fmt: skip  # a row of options

        def user(seed: int) -> None:
            draw = random.Random(seed)
            try:
                for _ in range(60):
                    mixed(pool, factory, draw, lambda seconds: seconds and threading.Event().wait(seconds))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=user, args=(seed,)) for seed in range(24)]
        for thread in threads:
            thread.start()
        draw = random.Random(2)
        while any(thread.is_alive() for thread in threads):
            order(pool, draw)
            threading.Event().wait(0.005)
        for thread in threads:
            thread.join()
        assert not failures, failures[0]
        all_usable(pool, factory, 8)
    stats = pool.stats()
    assert (stats.size, factory.open, factory.doubles) == (0, 0, 0)
    assert stats.opened == sum(stats.closed.values()) == factory.opened
    assert factory.peak <= 8
