"""What an acquire returns: the right to use one connection until it is released."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from pooling._clock import DEFAULT, Timeout
from pooling._elsewhere import lead
from pooling._ledger.entry import Entry, Token
from pooling._ledger.ledger import Fate
from pooling._traces import forget_frames
from pooling.config import seconds
from pooling.errors import PoolError

if TYPE_CHECKING:
    from pooling.pool import Pool

T = TypeVar("T")


class Lease(Generic[T]):
    """One use of one connection. Ends once: by :meth:`release`, :meth:`discard` or :meth:`detach`, or by leaving
    its ``with``, which releases it, or discards it where the block ended by an error that the backend calls broken.

    Any thread may end it. One that is dropped without an end is found by the garbage collector: the connection
    is closed, its slot is freed, and the log says where it was acquired.
    """

    # Made by the pool, which sets these: an __init__ would cost a fifth of a whole cycle. An ended lease has no
    # _token: of two threads that end it at once, one deletes it, and the other one's del raises AttributeError.
    __slots__ = ("__weakref__", "_entry", "_pool", "_token")
    _pool: Pool[T]
    _entry: Entry[T]
    _token: Token[T]

    @property
    def connection(self) -> T:
        """The connection: what the ``with`` yields. Raises PoolError once the lease has ended."""
        return self.__enter__()

    @property
    def ended(self) -> bool:
        """Whether it was released, discarded, detached, or lost by a refresh that failed."""
        return not hasattr(self, "_token")

    def release(self) -> None:
        """Give the connection back: to whoever has waited longest, or to the idle ones. A connection that is
        not clean (an open transaction, an unread result) is reset by a worker first. Returns at once.

        Raises PoolError if the lease has ended before.
        """
        if not self._leave():
            raise PoolError("the lease has ended already: released, discarded or detached twice")

    def _leave(
        self,
        kind: type[BaseException] | None = None,  # noqa: ARG002  # what __exit__ is called with
        error: BaseException | None = None,
        trace: TracebackType | None = None,  # noqa: ARG002
    ) -> bool:
        """End the lease, by the error that its block ended with; False where it had ended before."""
        try:
            token: Any = self._token
            del self._token
        except AttributeError:
            token = None  # what another thread ends may be lost, and must die then
            return False
        try:
            pool = self._pool
            entry = token.entry
            roster = entry.roster
            clock, is_clean = pool._now, pool._is_clean
            now = clock()
            try:
                clean = is_clean(entry.connection)
            except Exception:
                clean = False  # judge() asks again, and logs what is wrong
            # Orphans first, plain_until after them: a destructor in a cycle of garbage releases a lease that was
            # reported as lost before. Until that is taken in it stands among the orphans, and then its time is over.
            if clean and error is None and not roster.orphans and now < entry.plain_until:
                # In this order it is, for whoever takes a snapshot meanwhile, never released and still leased.
                entry.thread = 0
                pool._used.append(now - entry.since)
                entry.since = now
                roster.idle.append(token)
                # After the append: see "The plain path" in pool.py. A loop, since it takes the next one at the least
                # that this can cost.
                for _ in roster.plain_releases:
                    return True
                pool._pass_on()
                return True
            if entry.owned_by(token):
                pool._end(entry, token, pool._hooks.judge(entry, error), error)
            return error is None
        except BaseException as struck:
            token = None  # an exception may be kept, and this frame with it: the slot is not to be kept as well
            forget_frames(struck)
            raise

    def discard(self) -> None:
        """Give the connection up: it is closed, and its slot is freed for another. Raises PoolError if the
        lease has ended before."""
        self._part("discarded", Fate.DISCARDED)

    def detach(self) -> T:
        """Take the connection out of the pool, which forgets it and may open another: the caller closes it.
        Returns it. Raises PoolError if the lease has ended before."""
        view = self._entry.view
        self._part("detached", Fate.DETACHED)
        return view

    def refresh(self, timeout: Timeout = DEFAULT) -> T:
        """Swap the connection for a new one, in the same slot, without a place in the queue. Returns it.

        ``timeout``: seconds, by default the pool's. Raises PoolTimeout or ConnectError, and the lease has ended then;
        PoolError if it had before.
        """
        if timeout is not DEFAULT:
            seconds("timeout", timeout)  # before anything is given up
        new: Token[T] | None = None
        try:
            new = self._pool._renew([self._take("refreshed")], timeout, self._entry)
            self._entry = new.entry
            self._token = new
            return self._entry.view
        except BaseException as struck:
            new = None  # as in _leave()
            forget_frames(struck)
            raise

    @property
    def _is_parents(self) -> bool:
        """Whether this process was forked since: what it does with the connection would be done to its parent."""
        self._pool._check_process()
        return self._entry.roster is not self._pool._roster

    def _part(self, verb: str, fate: Fate) -> None:
        token: Token[T] | None = None
        try:
            token = self._take(verb)
            self._pool._end(self._entry, token, fate)
        except BaseException as struck:
            token = None  # as in _leave()
            forget_frames(struck)
            raise

    def _take(self, verb: str) -> Token[T]:
        try:
            token: Any = self._token
            del self._token
        except AttributeError:
            token = None  # as in _leave()
            raise PoolError(f"the lease has ended already and cannot be {verb}") from None
        return token  # type: ignore[no-any-return]

    def __enter__(self) -> T:
        try:
            return self._token.entry.view
        except AttributeError:
            raise PoolError("the lease has ended: its connection may be in somebody else's hands") from None

    if TYPE_CHECKING:

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None: ...

    else:
        # The same function, for a call in between would cost a tenth of a cycle. What it returns counts only after an
        # error: None then, so that none is swallowed.
        __exit__ = _leave

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lease can be neither copied nor pickled: it is one right to one connection")

    def __repr__(self) -> str:
        state = "ended" if self.ended else "held"
        return f"<Lease of pool {self._pool.name!r}, connection {self._entry.id}, {state}>"


def leased(pool: Pool[T], token: Token[T]) -> Lease[T]:
    """A lease of what the token stands for."""
    try:
        lease: Lease[T] = Lease()
        lease._pool = pool
        lease._entry = token.entry
        lease._token = token
        return lease
    except BaseException:
        token = lease = None  # type: ignore[assignment]  # as in _leave()
        raise


def give_up(lease: Lease[Any] | None) -> None:
    """End a lease where an exception has struck. That may be kept, and with it the frames that hold the lease: it would
    not be lost then."""
    if lease is not None and not lease.ended:
        lease.discard()


class Transaction(Generic[T]):
    """The ``with`` of :meth:`pooling.Pool.transaction`."""

    __slots__ = ("_entered", "_lease", "_pool", "_priority", "_timeout")

    def __init__(self, pool: Pool[T], timeout: Timeout, priority: float, lease: Lease[T] | None = None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._priority = priority
        self._lease = lease  # where one was acquired already
        self._entered = False

    def __enter__(self) -> T:
        if self._entered:
            raise PoolError("a transaction is entered once: call pool.transaction() again")
        lease = self._lease
        if lease is None:
            lease = self._pool._acquire_for(sys._getframe(1), self._timeout, self._priority)
            self._lease = lease
        self._entered = True
        try:
            self._begin(lease)
        except BaseException:
            give_up(lease)  # struck before it came to that
            raise
        return lease._entry.view

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease = self._lease
        assert lease is not None  # __enter__ has set it
        try:
            self._finish(lease, error, commit=error is None)
        except BaseException as failure:
            lease.__exit__(type(failure), failure, None)
            raise
        lease.__exit__(kind, error, trace)

    @staticmethod
    def _begin(lease: Lease[Any]) -> None:
        """Begin a transaction. Where that fails, the lease ends."""
        try:
            lease._pool._factory.begin(lease._entry.connection)
        except BaseException as error:
            lease.__exit__(type(error), error, None)
            raise

    @staticmethod
    def _finish(lease: Lease[Any], error: BaseException | None, *, commit: bool) -> None:
        """End what _begin() has begun, if the lease has not ended. Raises what a commit raises. Where a rollback fails,
        the lease ends, judged by that: what counts for the user is why it was rolled back. In a forked child that
        leaves the block, by sys.exit() perhaps, it is the parent's to end."""
        if lease.ended or lease._is_parents:
            return
        factory, connection = lease._pool._factory, lease._entry.connection
        if commit:
            factory.commit(connection)
            return
        try:
            if error is None or not factory.is_broken(error):
                factory.rollback(connection)
        except Exception as failure:
            lease.__exit__(type(failure), failure, None)

    def __repr__(self) -> str:
        return f"<Transaction on pool {self._pool.name!r}>"


_NAMES = "execute executemany cursor commit rollback execute_command request"
lead(Lease, _NAMES, ", its connection has: use `with pool.acquire() as connection`, or `lease.connection`")
lead(Lease, "close", ": use `lease.release()`")
lead(Transaction, _NAMES, ", its connection has: use `with pool.transaction() as connection`")
