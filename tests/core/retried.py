"""Work that fails as it is told, and a fake backend that notes its transactions: for the tests of retry."""

from __future__ import annotations

from typing import Any

from pooling.testing import FakeConnection, FakeFactory, ManualClock


class RolledBack(Exception):
    """What the fake backend says of work that was undone."""


class Factory(FakeFactory):
    """A fake that notes its transactions, and may fail in them."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        super().__init__(clock)
        self.log: list[str] = []
        self.failing: dict[str, list[Exception]] = {}

    def begin(self, connection: FakeConnection) -> None:
        self._step("begin", connection, dirty=True)

    def commit(self, connection: FakeConnection) -> None:
        self._step("commit", connection, dirty=False)

    def rollback(self, connection: FakeConnection) -> None:
        self._step("rollback", connection, dirty=False)

    def is_retryable(self, error: BaseException) -> bool:
        return isinstance(error, RolledBack)

    def _step(self, step: str, connection: FakeConnection, *, dirty: bool) -> None:
        self.log.append(step)
        if errors := self.failing.get(step):
            raise errors.pop(0)
        connection.dirty = dirty


class Work:
    """A function that fails as often as it is told, and then returns its arguments."""

    def __init__(self, *errors: BaseException, clock: ManualClock | None = None, takes: float = 0.0) -> None:
        self.errors = list(errors)
        self.connections: list[FakeConnection] = []
        self.times: list[float] = []
        self._clock = clock
        self._takes = takes

    @property
    def calls(self) -> int:
        return len(self.connections)

    def __call__(self, connection: FakeConnection, *args: Any) -> Any:
        self.connections.append(connection)
        if self._clock is not None:
            self.times.append(self._clock.now())
            if self._takes:
                self._clock.sleep(self._takes)
        if self.errors:
            raise self.errors.pop(0)
        return args


def conflicts(count: int) -> list[RolledBack]:
    return [RolledBack(str(number)) for number in range(count)]
