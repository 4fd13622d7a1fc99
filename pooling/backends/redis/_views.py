"""What redis-py's own code and its tests find where its pools keep their connections.

Each is made when it is asked for. What is written to it is counted in.
"""

from __future__ import annotations

from queue import Empty
from typing import Any

from pooling.backends.redis._shells import Shells


class FreeConnections(list[Any]):
    """The connections nobody uses. What is written to it is counted in, as redis-py's own code and tests expect."""

    def __init__(self, shells: Shells) -> None:
        super().__init__(shells.free())
        self._shells = shells

    def append(self, shell: Any) -> None:
        super().append(shell)
        self._shells.adopt(shell, used=False)


class UsedConnections(set[Any]):
    """The connections in use."""

    def __init__(self, shells: Shells) -> None:
        super().__init__(shells.used())
        self._shells = shells

    def add(self, shell: Any) -> None:
        super().add(shell)
        self._shells.adopt(shell, used=True)


class AllConnections(list[Any]):
    """The connections nobody uses, and those in use."""

    def __init__(self, shells: Shells) -> None:
        super().__init__([*shells.free(), *shells.used()])
        self._shells = shells

    def append(self, shell: Any) -> None:
        super().append(shell)
        self._shells.adopt(shell, used=True)


class QueueFace:
    """A queue to look at, as redis-py's waiting pool has one: the idle connections, and a None for each that can still
    be opened. What is put is counted in; what is taken is not missed elsewhere."""

    def __init__(self, shells: Shells, most: int) -> None:
        self._shells, self._most = shells, most
        self._taken = 0

    @property
    def queue(self) -> list[Any]:
        free = self._shells.free()
        places = self._most - len(free) - len(self._shells.used()) - self._taken
        return [None] * places + free

    def qsize(self) -> int:
        return len(self.queue)

    def empty(self) -> bool:
        return not self.queue

    def full(self) -> bool:
        return self.qsize() >= self._most

    def get_nowait(self) -> Any:
        if None not in self.queue:
            raise Empty
        self._taken += 1

    def put_nowait(self, shell: Any) -> None:
        self._taken = max(0, self._taken - 1)
        if shell is not None:
            self._shells.adopt(shell, used=False)
