"""SQLAlchemy's pool, with a :class:`pooling.Pool` underneath."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

from sqlalchemy import exc
from sqlalchemy import pool as sqlalchemy_pool
from sqlalchemy.pool import QueuePool

from pooling._clock import monotonic
from pooling._holders import Between
from pooling._hooks import contained
from pooling._runtime.fork import keep_inherited
from pooling.config import Check, Nested, count
from pooling.errors import PoolClosed, PoolTimeout, QueueFull
from pooling.integrations.sqlalchemy import _wire
from pooling.integrations.sqlalchemy._errors import ClosedError, FullError, NoConnectionError
from pooling.integrations.sqlalchemy._place import Place, PlaceFactory
from pooling.integrations.sqlalchemy._place_pool import PlacePool, place_of
from pooling.lease import Lease
from pooling.pool import FIRST_COME
from pooling.stats import CloseReason

_BETWEEN = Between("sqlalchemy", "contextlib")
_LEASE, _TOOK = "_pooling_lease", "_pooling_took"  # what a record carries of ours


class FairPool(QueuePool):
    """A :class:`sqlalchemy.pool.QueuePool` that serves in the order of arrival, ends in time, and says who has what::

        engine = create_engine(url, poolclass=FairPool, pool_size=5, max_overflow=10, leak_after=60.0)

    Every option of QueuePool is taken by SQLAlchemy's name and means the same. ``name``, ``min_size``,
    ``max_waiting``, ``idle_timeout``, ``max_lifetime``, ``max_uses``, ``check``, ``check_after``, ``keepalive``,
    ``nested`` and ``leak_after`` are those of :class:`pooling.config.Config`, with its defaults. So is
    ``connect_timeout``, the seconds of one job of a worker: on connects of the caller it has no effect.

    SQLAlchemy's contract comes first: connections are opened by its records, on the thread that asks, with its events;
    the pool underneath, at ``.pooling``, says who may have one. ``min_size`` alone is filled by a worker.

    Where no connection comes within ``timeout`` seconds, :class:`sqlalchemy.exc.TimeoutError` is raised, which is a
    :class:`pooling.PoolTimeout` as well and says what that says.
    """

    _is_asyncio = False
    _sqla_logger_namespace = "sqlalchemy.pool.impl.FairPool"  # beside QueuePool's: who logs pools sees this one too
    _finalizer: Any = None

    def __init__(
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float | None = 30.0,
        use_lifo: bool = False,
        # Not keyword-only: create_engine() would not find them.
        name: str | None = None,
        min_size: int = 0,
        max_waiting: int | None = None,
        idle_timeout: float | None = 600.0,
        max_lifetime: float | None = 3600.0,
        max_uses: int | None = None,
        check: Check | None = "peek",
        check_after: float = 1.0,
        keepalive: float | None = None,
        nested: Nested | None = "warn",
        leak_after: float | None = None,
        connect_timeout: float = 10.0,
        **kw: Any,
    ) -> None:
        count("pool_size", pool_size, 0)  # else it would be told by a name of the pool underneath
        sqlalchemy_pool.Pool.__init__(self, creator, **kw)
        self._max_overflow = -1 if pool_size == 0 else max_overflow
        self._timeout = timeout  # type: ignore[assignment]  # QueuePool takes None as well
        self._options: dict[str, Any] = {
            "name": name or self._orig_logging_name, "min_size": min_size, "max_waiting": max_waiting,
            "idle_timeout": idle_timeout, "max_lifetime": max_lifetime, "max_uses": max_uses, "check": check,
            "check_after": check_after, "keepalive": keepalive, "nested": nested, "leak_after": leak_after,
            "connect_timeout": connect_timeout,
        }  # fmt: skip  # a table
        reference = weakref.ref(self)
        pooling = PlacePool(
            PlaceFactory(reference),
            lambda lease: _equip(reference, lease),
            max_size=None if self._max_overflow < 0 else pool_size + self._max_overflow,
            max_idle=pool_size or None,
            timeout=timeout,
            order="lifo" if use_lifo else "fifo",
            fail_after=None,  # nobody but a worker learns that from the pool
            **self._options,
        )
        self._options["name"] = pooling.name
        self._pool = _Queue(pooling, pool_size, use_lifo)  # type: ignore[assignment]  # a queue's face
        self._finalizer = weakref.finalize(self, pooling.close, 0.0)
        self._finalizer.atexit = False  # the pool has one of its own
        _pools.add(self)

    @property
    def pooling(self) -> PlacePool:
        """The pool underneath, with its numbers, holders, events and orders."""
        return self._pool.pooling  # type: ignore[attr-defined,no-any-return]  # a _Queue

    @property
    def records(self) -> dict[Place, Any]:
        """The records of idle places."""
        return self._pool.records  # type: ignore[attr-defined,no-any-return]  # a _Queue

    # -- what SQLAlchemy's base class calls ---------------------------------------------------------------

    def _do_get(self) -> Any:
        lease: Lease[Place] | None = None
        record: Any = None
        try:
            lease = self._acquire()
            place = place_of(lease._entry)
            record = self.records.pop(place, None)
            if record is None:
                record = self._create_connection()
                self.pooling.filled(lease, vars(record).pop(_TOOK, 0.0))
            vars(record)[_LEASE] = lease
            place.lend(record)
            return record
        except BaseException as error:
            # It may be kept, and with it the frames that hold the lease: that would not be lost then.
            if lease is not None and not lease.ended:
                self._give_up(lease, record, error)
            raise

    def _do_return_conn(self, record: Any) -> None:
        # May be a destructor's call, at any moment of any thread.
        lease: Lease[Place] | None = None
        try:
            lease = vars(record).pop(_LEASE, None)
            if lease is not None:  # else it was brought back before
                self._take_back(record, lease)
        except BaseException:
            lease = lease or vars(record).pop(_LEASE, None)
            if lease is not None and not lease.ended and self.pooling.owns(lease):  # as in _do_get()
                self._give_up(lease, record, None)
            raise

    def _take_back(self, record: Any, lease: Lease[Place]) -> None:
        pooling, place = self.pooling, place_of(lease._entry)
        if not pooling.owns(lease):
            keep_inherited(record, lease)
            return
        if record.dbapi_connection is None:
            pooling.emptied(lease, "discarded")
        if pooling.is_full(self.size()):
            try:
                record.close()
            finally:
                self._give_up(lease, record, None, "surplus")
            return
        self._keep(place, record)
        place.clean = True
        lease.release()

    def _give_up(
        self, lease: Lease[Place], record: Any, error: BaseException | None, reason: CloseReason = "dropped"
    ) -> None:
        """End a lease and its place: at once where nothing is open, else when a worker has closed it."""
        place = place_of(lease._entry)
        record = self.records.get(place) if record is None else record
        if record is not None and record.dbapi_connection is not None:
            self._keep(place, record)
            lease.discard()
        else:
            self.records.pop(place, None)
            self.pooling.vacate(lease, reason, error)

    def _keep(self, place: Place, record: Any) -> None:
        self.records[place] = record
        place.keep(record.dbapi_connection, self._dialect)

    def _should_wrap_creator(self, creator: Any) -> Any:
        invoke = super()._should_wrap_creator(creator)

        def connect(record: Any) -> Any:
            started = monotonic()
            try:
                connection = invoke(record)
            except BaseException as error:
                # psycopg's error keeps the socket that timed out, in the driver's frames and until the garbage
                # collector comes: beside the limit, and open at the server.
                contained(error)
                lease = vars(record).get(_LEASE)
                if lease is not None:  # else whoever made the record gives the place up, which tells of the error
                    lease._pool.not_filled(lease, error)
                raise
            took = monotonic() - started
            lease = vars(record).get(_LEASE)
            if lease is None:
                vars(record)[_TOOK] = took
            else:
                lease._pool.filled(lease, took)
            return connection

        return connect

    def recreate(self) -> FairPool:
        """A new pool, not connected, of the same class and with the same options and events."""
        self.logger.info("Pool recreating")
        return self.__class__(
            self._creator,
            pool_size=self.size(),
            max_overflow=self._max_overflow,
            timeout=self._timeout,
            use_lifo=self._pool.use_lifo,
            pre_ping=self._pre_ping,
            recycle=self._recycle,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
            **self._options,
        )

    def dispose(self) -> None:
        """Close the idle connections. What is in use comes back to this pool, which stays usable."""
        tokens = self.pooling.fetch_idle()
        if not self._pool.use_lifo:  # in the order in which they would have gone out, as QueuePool has it
            tokens.reverse()
        while tokens:
            record = self.records.get(place_of(tokens[-1].entry))
            if record is not None:
                record.close()
            # Where that was interrupted, what is left goes with its tokens, and the pool closes it.
            self.records.pop(place_of(tokens[-1].entry), None)
            self.pooling.forget(tokens.pop(), "stale")
        self.logger.info("Pool disposed. %s", self.status())

    # -- numbers ----------------------------------------------------------------------------------------

    # Those that are not here are QueuePool's own, which reads them off the _Queue in _pool.

    def checkedout(self) -> int:
        """How many are in use."""
        return self.pooling.counts()[1]

    @property
    def _overflow(self) -> int:  # type: ignore[override]  # an attribute in QueuePool
        return self.pooling.counts()[0] - self.size()

    # -- what the pool underneath asks for ------------------------------------------------------------------

    def _acquire(self) -> Lease[Place]:
        try:
            return self.pooling.take(self._timeout, FIRST_COME, _BETWEEN.outside())
        except PoolTimeout as error:
            limits = f"FairPool limit of size {self.size()} overflow {self._max_overflow} reached, connection timed out"
            raise NoConnectionError.like(error, limits) from error
        except QueueFull as error:
            raise FullError(str(error)) from error
        except PoolClosed as error:
            raise ClosedError(str(error)) from error

    def equip(self, lease: Lease[Place]) -> None:
        """Connect the place of a lease that was acquired from the pool underneath."""
        record: Any = None
        try:
            record = self.records.get(place_of(lease._entry))
            if record is None:
                record = self._create_connection()
            else:
                record.get_connection()
            if _TOOK in vars(record):  # it was opened here and now
                self.pooling.filled(lease, vars(record).pop(_TOOK))
            self._keep(place_of(lease._entry), record)
            place_of(lease._entry).note()
        except BaseException as error:
            self._give_up(lease, record, error)
            raise
        place_of(lease._entry).clean = False
        lease._entry.view = record.dbapi_connection

    def fill(self, place: Place) -> None:
        """Connect a place of ``min_size``, on a worker."""
        record: Any = self._create_connection()
        vars(record).pop(_TOOK, None)
        self._keep(place, record)

    def is_disconnect(self, error: BaseException) -> bool:
        """Whether the dialect says that the connection is lost."""
        if isinstance(error, exc.DBAPIError):
            return error.connection_invalidated
        dialect: Any = self._dialect
        driver = getattr(dialect, "dbapi", None)
        if driver is None or not isinstance(error, driver.Error):
            return False
        return bool(dialect.is_disconnect(error, None, None)) or _wire.says_lost(error, driver)


class _Queue:
    """What QueuePool keeps in ``_pool``: a queue of idle records."""

    def __init__(self, pooling: PlacePool, maxsize: int, use_lifo: bool) -> None:
        self.pooling = pooling
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self.records: dict[Place, Any] = {}

    @property
    def queue(self) -> deque[Any]:
        """The idle records, the one longest unused first. Those that are left out of what is assigned are closed."""
        places = (token.entry.connection for token in self.pooling._idle.copy())
        found = (self.records.get(place) for place in places if place is not None)
        return deque(record for record in found if record is not None)

    @queue.setter
    def queue(self, kept: Iterable[Any]) -> None:
        kept = list(kept)
        for token in self.pooling.fetch_idle():
            record = self.records.get(place_of(token.entry))
            if any(record is one for one in kept):
                self.pooling.bring_back(token)
            else:
                self.pooling.doom(token, "stale")

    def qsize(self) -> int:
        places, lent = self.pooling.counts()
        return max(0, places - lent)

    def empty(self) -> bool:
        return self.qsize() == 0

    def full(self) -> bool:
        return 0 < self.maxsize <= self.qsize()


def _equip(owner: weakref.ref[FairPool], lease: Lease[Place]) -> None:
    pool = owner()
    if pool is None:
        raise ClosedError("the pool of this engine is gone")
    pool.equip(lease)


_pools: weakref.WeakSet[FairPool] = weakref.WeakSet()


def _in_child() -> None:
    """Before anybody in a forked child can use or end what its parent has in use."""
    for pool in list(_pools):
        pool.pooling._check_process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
