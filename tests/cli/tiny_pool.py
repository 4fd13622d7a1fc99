"""A pool in a hundred lines, fair and correct, and one way to break it for each invariant that a run watches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pooling import Factory, PoolTimeout

Strays = list[Callable[[], None]]
strays: Strays = []
"""What ends the connections that only a broken pool knows of; the tests call them."""


class Waiter:
    def __init__(self) -> None:
        self.bell = threading.Condition()
        self.connection: Any = None

    def serve(self, connection: Any) -> None:
        with self.bell:
            self.connection = connection
            self.bell.notify()

    def wait(self, timeout: float) -> Any:
        with self.bell:
            self.bell.wait_for(lambda: self.connection is not None, timeout)
        if self.connection is None:
            raise PoolTimeout("nothing came in time")
        return self.connection


class TinyLease:
    def __init__(self, pool: TinyPool, connection: Any) -> None:
        self.connection = connection
        self._pool = pool

    def release(self) -> None:
        self._pool.put(self.connection)

    def __enter__(self) -> Any:
        return self.connection

    def __exit__(self, *details: object) -> None:
        self.release()


class TinyPool:
    """Hands over in the order of arrival; opens, resets and closes on its callers' threads."""

    def __init__(self, factory: Factory[Any], *, max_size: int, min_size: int, name: str) -> None:
        self.factory = factory
        self.most = max_size
        self.lock = threading.Lock()
        self.idle: list[Any] = []
        self.waiters: deque[Waiter] = deque()
        self.size = 0
        self.puts = 0
        self.struck = False

    def acquire(self, timeout: float) -> TinyLease:
        waiter = None
        with self.lock:
            if self.idle:
                return TinyLease(self, self.idle.pop())
            if self.size < self.most:
                self.size += 1
            else:
                waiter = Waiter()
                self.waiters.append(waiter)
        return TinyLease(self, self.open() if waiter is None else waiter.wait(timeout))

    def open(self) -> Any:
        connection = self.factory.connect(10.0)
        return self.factory.view(connection)

    def put(self, connection: Any) -> None:
        self.clean(connection)
        with self.lock:
            self.puts += 1
            if self.waiters:
                self.next().serve(connection)
            else:
                self.idle.append(connection)

    def clean(self, connection: Any) -> None:
        if not self.factory.is_clean(connection):
            self.factory.reset(connection, "transaction")

    def next(self) -> Waiter:
        return self.waiters.popleft()

    def strikes(self) -> bool:
        """True once, when the pool is well under way: for what goes wrong one time in many."""
        with self.lock:
            due = self.puts >= 50 and not self.struck
            self.struck = self.struck or due
            return due

    def close(self, timeout: float) -> None:
        for connection in self.idle:
            self.factory.close(connection)


class OpensTooMany(TinyPool):
    def __init__(self, factory: Factory[Any], *, max_size: int, min_size: int, name: str) -> None:
        super().__init__(factory, max_size=max_size + 1, min_size=min_size, name=name)


class ServesTheLastFirst(TinyPool):
    def next(self) -> Waiter:
        return self.waiters.pop()


class LetsNewcomersBarge(TinyPool):
    """What most pools do: whoever waits is woken, and competes with those who just came."""

    def __init__(self, factory: Factory[Any], *, max_size: int, min_size: int, name: str) -> None:
        super().__init__(factory, max_size=max_size, min_size=min_size, name=name)
        self.returned = threading.Condition(self.lock)

    def acquire(self, timeout: float) -> TinyLease:
        with self.lock:
            if self.idle or self.size == self.most:
                self.returned.wait_for(lambda: self.idle, timeout)
                return TinyLease(self, self.idle.pop())
            self.size += 1
        return TinyLease(self, self.open())

    def put(self, connection: Any) -> None:
        self.clean(connection)
        with self.lock:
            self.idle.append(connection)
            self.returned.notify()


class GivesOneToTwo(TinyPool):
    def acquire(self, timeout: float) -> TinyLease:
        lease = super().acquire(timeout)
        if self.strikes():
            with self.lock:
                self.idle.append(lease.connection)
        return lease


class ForgetsOneAtClose(TinyPool):
    def close(self, timeout: float) -> None:
        self.idle.pop()
        super().close(timeout)


class LosesASlot(TinyPool):
    def put(self, connection: Any) -> None:
        if self.strikes():
            self.factory.close(connection)
        else:
            super().put(connection)


class MixesUpSessions(TinyPool):
    """A use gets the answer of another session: here by a session that answers for another one."""

    def put(self, connection: Any) -> None:
        if self.strikes():
            connection.create_function("pooling_stress_mark", 0, lambda: 4711)
        super().put(connection)


class LeavesTransactionsOpen(TinyPool):
    def clean(self, connection: Any) -> None:
        pass


class CommitsForItsUsers(TinyPool):
    def clean(self, connection: Any) -> None:
        connection.commit()


class RaisesSomething(TinyPool):
    def acquire(self, timeout: float) -> TinyLease:
        if self.strikes():
            raise RuntimeError("dictionary changed size during iteration")
        return super().acquire(timeout)


class TimesOutEarly(TinyPool):
    def acquire(self, timeout: float) -> TinyLease:
        return super().acquire(0.001)


class HasAnotherSession(TinyPool):
    """One that the factory's books do not know."""

    def __init__(self, factory: Any, *, max_size: int, min_size: int, name: str) -> None:
        super().__init__(factory, max_size=max_size, min_size=min_size, name=name)
        strays.append(factory._inner.connect(10.0).close)
