"""What an acquire returns: the right to use one connection until it is released."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pooling._clock import DEFAULT, Timeout
from pooling._entry import Entry, Token
from pooling._ledger import Fate
from pooling.errors import PoolError
from pooling.stats import FOLD_AT

if TYPE_CHECKING:
    from pooling.pool import Pool

T = TypeVar("T")


class Lease(Generic[T]):
    """One use of one connection. Ends once: by :meth:`release`, :meth:`discard` or :meth:`detach`, or by leaving
    its ``with``, which releases it, or discards it where the block ended by an error that the backend calls broken.

    Any thread may end it. One that is dropped without an end is found by the garbage collector: the connection
    is closed, its slot is freed, and the log says where it was acquired.
    """

    # The token is in a list of its own because list.pop() is atomic: of two threads that release at once, one gets it.
    __slots__ = ("__weakref__", "_cell", "_entry", "_pool")

    def __init__(self, pool: Pool[T], entry: Entry[T], cell: list[Token[T]]) -> None:
        self._pool = pool
        self._entry = entry
        self._cell = cell

    @property
    def connection(self) -> Any:
        """The connection: what the ``with`` yields. Raises PoolError once the lease has ended."""
        if not self._cell:
            raise PoolError("the lease has ended: its connection may be in somebody else's hands")
        return self._entry.view

    def release(self) -> None:
        """Give the connection back: to whoever has waited longest, or to the idle ones. A connection that is
        not clean (an open transaction, an unread result) is reset by a worker first. Returns at once.

        Raises PoolError if the lease has ended before.
        """
        try:
            token = self._cell.pop()
        except IndexError:
            raise PoolError("the lease has ended already: released, discarded or detached twice") from None
        pool, entry = self._pool, self._entry
        now = pool._now()
        expires = entry.expires_at
        try:
            fine = now < expires and entry.uses < pool._max_uses and pool._plain[0] and pool._is_clean(entry.connection)
        except Exception:
            fine = False  # _end() asks again, and logs what is wrong
        if fine:
            used = pool._used
            used.append(now - entry.since)
            good = now + pool._check_after
            entry.good_until = good if good < expires else expires  # noqa: FURB136  # min() is a call
            entry.since = now
            entry.thread = 0
            entry.roster.idle.append(token)
            # Read after the append: see "The plain path" in pool.py. Samples are folded by settle(), now and then.
            if not pool._plain[0] or len(used) >= FOLD_AT:
                pool._tell()
        else:
            self._end(token, None)

    def discard(self) -> None:
        """Give the connection up: it is closed, and its slot is freed for another. Raises PoolError if the
        lease has ended before."""
        token = self._take("discarded")
        self._pool._end(self._entry, token, Fate.DISCARDED)

    def detach(self) -> Any:
        """Take the connection out of the pool, which forgets it and may open another: the caller closes it.
        Returns it. Raises PoolError if the lease has ended before."""
        token = self._take("detached")
        view = self._entry.view
        self._pool._end(self._entry, token, Fate.DETACHED)
        return view

    def refresh(self, timeout: Timeout = DEFAULT) -> Any:
        """Swap the connection for a new one, in the same slot, without a place in the queue. Returns it.

        ``timeout``: seconds, by default the pool's. Raises PoolTimeout or ConnectError, and the lease has ended then;
        PoolError if it had before.
        """
        token = self._take("refreshed")
        new = self._pool._renew(token, timeout, self._entry)
        self._entry = new.entry
        self._cell.append(new)
        return self._entry.view

    def _take(self, verb: str) -> Token[T]:
        try:
            return self._cell.pop()
        except IndexError:
            raise PoolError(f"the lease has ended already and cannot be {verb}") from None

    def _end(self, token: Token[T], error: BaseException | None) -> None:
        """Give back a connection that is not plainly fine."""
        fate = self._pool._hooks.judge(self._entry, error)
        self._pool._end(self._entry, token, fate, error)

    def __enter__(self) -> Any:
        return self.connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            if self._cell:  # else it ended inside the block
                self.release()
            return
        try:
            token = self._cell.pop()
        except IndexError:
            return
        self._end(token, error)

    def __repr__(self) -> str:
        state = "held" if self._cell else "ended"
        return f"<Lease of pool {self._pool.name!r}, connection {self._entry.id}, {state}>"


class Transaction(Generic[T]):
    """The ``with`` of :meth:`pooling.Pool.transaction`."""

    __slots__ = ("_entered", "_lease", "_pool", "_priority", "_timeout")

    def __init__(self, pool: Pool[T], timeout: Timeout, priority: float, lease: Lease[T] | None = None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._priority = priority
        self._lease = lease  # where one was acquired already
        self._entered = False

    def __enter__(self) -> Any:
        if self._entered:
            raise PoolError("a transaction is entered once: call pool.transaction() again")
        lease = self._lease
        if lease is None:
            lease = self._pool._acquire_carefully([], self._timeout, self._priority, sys._getframe(1))
            self._lease = lease
        self._entered = True
        entry = lease._entry
        try:
            self._pool._factory.begin(entry.connection)  # type: ignore[arg-type]  # a lease has a connection
        except BaseException as error:
            lease.__exit__(type(error), error, None)
            raise
        return entry.view

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease, factory = self._lease, self._pool._factory
        assert lease is not None  # __enter__ has set it
        if not lease._cell:
            return
        connection: Any = lease._entry.connection
        try:
            if error is None:
                factory.commit(connection)
            elif not factory.is_broken(error):
                factory.rollback(connection)
        except BaseException as failure:
            lease.__exit__(type(failure), failure, None)
            if error is None:
                raise
            # The rollback failed: the connection is judged by that, the block's own error is what counts.
            return
        lease.__exit__(kind, error, trace)
