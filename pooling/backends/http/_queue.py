"""What ``pool.pool`` of urllib3's pools looks like: a queue of connections, and of room for more."""

from __future__ import annotations

import queue
import weakref
from typing import TYPE_CHECKING, Any

from urllib3.exceptions import PoolError as TheirPoolError

if TYPE_CHECKING:
    from pooling.backends.http._pools import HTTPConnectionPool


class QueueFace(queue.LifoQueue):  # type: ignore[type-arg]
    """It counts what is idle and what may still be opened, as urllib3's queue filled with None does.

    A queue by its type alone: by that vcrpy knows that a place which it takes out has to be put back.
    It knows its pool weakly: urllib3 keeps the queue of a pool that is gone.
    """

    def __init__(self, owner: HTTPConnectionPool, maxsize: int) -> None:
        self.maxsize = maxsize
        self.taken = 0  # without a cap, where nothing but this number is limited: what was not put back is lost
        self._owner = weakref.ref(owner)

    def qsize(self) -> int:
        owner = self._open_owner()
        if owner is None:
            return 0
        return max(0, self.maxsize - (owner.pooling._roster.leased() if owner.capped else self.taken))

    def empty(self) -> bool:
        return self.qsize() == 0

    def full(self) -> bool:
        return 0 < self.maxsize <= self.qsize()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """A connection, connected or not. Raises queue.Empty."""
        owner = self._open_owner()
        if owner is None or not (self.qsize() or (block and owner.capped)):
            raise queue.Empty
        try:
            return owner._hand_out(timeout if block else 0.0)
        except TheirPoolError:
            raise queue.Empty from None

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Give back what get() returned, or None for what this thread got last. Raises queue.Full for anything else."""
        owner = self._open_owner()
        if owner is None:
            return  # it is being set up: urllib3 fills its queue with None
        if self.full() and not owner._has(item):
            raise queue.Full
        owner._give_back(item)

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def put_nowait(self, item: Any) -> None:
        self.put(item, block=False)

    @property
    def queue(self) -> list[Any]:  # type: ignore[override]  # nobody sets it
        """The idle connections, the one used last at the end, behind a None for each that may still be opened."""
        owner = self._open_owner()
        if owner is None:
            return []
        idle = [token.entry.connection for token in list(owner.pooling._roster.idle)]
        return [None] * max(0, self.qsize() - len(idle)) + idle

    def _open_owner(self) -> HTTPConnectionPool | None:
        owner = self._owner()
        return owner if owner is not None and owner.is_open else None
