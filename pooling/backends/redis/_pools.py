"""Pools in the place of redis-py's own: the same classes to a client, with a :class:`pooling.Pool` underneath."""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from queue import LifoQueue, Queue
from types import FrameType
from typing import TYPE_CHECKING, Any

import redis
from redis.connection import CacheProxyConnection, Connection
from redis.event import AfterConnectionReleasedEvent
from redis.exceptions import ConnectionError, TimeoutError  # noqa: A004  # redis-py's names
from redis.observability.attributes import ConnectionState, get_pool_name
from redis.observability.providers import get_observability_instance
from redis.observability.recorder import (
    record_connection_count,
    record_connection_create_time,
    record_connection_wait_time,
)

from pooling._clock import monotonic
from pooling._holders import Between
from pooling.backends import check_user
from pooling.backends.redis import _connection, _errors
from pooling.backends.redis._shells import ShellFactory, Shells
from pooling.backends.redis._slots import SlotPool
from pooling.backends.redis._views import AllConnections, FreeConnections, QueueFace, UsedConnections
from pooling.config import OPTIONS, from_text, seconds
from pooling.errors import ConnectError, PoolClosed, PoolTimeout, QueueFull
from pooling.lease import Lease, give_up
from pooling.pool import Pool

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

_BETWEEN = Between("redis")
ASK = 0.25  # seconds after which a caller whom an outage keeps waiting asks again
# Seconds of failing connects that callers do not hear of. Clients have retries of their own, and expect the error: but
# one connect that fails, as through a balancer with a dead server behind it, was to fail all who wait, and all who come
# until the next try. Each caller of redis-py's pools makes a connect of his own.
PATIENCE = 0.25
_OPTIONS = set(OPTIONS) - {"max_size", "timeout", "workers"}


class ConnectionPool(redis.ConnectionPool):
    """A :class:`redis.ConnectionPool` that is fair, ends in time, finds what was lost, and tells who holds what.

    Takes what redis-py's takes, and the options of :class:`pooling.Pool` beside it; ``max_connections`` is its
    ``max_size``. ``timeout`` is how many seconds :meth:`get_connection` may take in all, None for ever; with 0, the
    default, it raises MaxConnectionsError at once where all connections are in use, as redis-py's does. ``pooling``
    is the pool underneath, with its numbers, holders and events.
    """

    shells: Shells
    _timeout: float | None = 0.0
    _pool: SlotPool
    _finalizer: weakref.finalize[Any, Any]

    def __init__(
        self,
        connection_class: Any = Connection,
        max_connections: int | None = None,
        cache_factory: Any = None,
        maint_notifications_config: Any = None,
        **kwargs: Any,
    ) -> None:
        self._options = {name: from_text(name, kwargs.pop(name)) for name in _OPTIONS & kwargs.keys()}
        timeout = from_text("timeout", kwargs.pop("timeout", self._timeout))
        super().__init__(
            connection_class=connection_class,
            max_connections=max_connections,
            cache_factory=cache_factory,
            maint_notifications_config=maint_notifications_config,
            **kwargs,
        )
        self.timeout = timeout

    @classmethod
    def from_url(cls, url: str, **kwargs: Any) -> Self:
        """A pool for ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it."""
        check_user(url)
        return super().from_url(url, **kwargs)

    @property
    def timeout(self) -> float | None:
        """Seconds that :meth:`get_connection` may take in all, None for ever; with 0 it does not wait for others."""
        return self._timeout

    @timeout.setter
    def timeout(self, value: float | None) -> None:
        seconds("timeout", value)
        self._timeout = value
        if "_pool" in vars(self):  # redis-py's own __init__ sets this before it has one made
            self._pool.refuse(value == 0)

    @property
    def pooling(self) -> Pool[Any]:
        """The pool underneath."""
        return self._pool

    # -- lending --------------------------------------------------------------------------------------

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """A connection that is open and has nothing to be read. Raises what redis-py's pool raises."""
        if command_name is not None or keys or options:
            warnings.warn("Use get_connection() without args instead", DeprecationWarning, stacklevel=2)
        self._checkpid()
        if not self._pool._factory.belongs_to(self):  # a destructor asks, in a cycle that is being collected: the
            self.reset()  # weak references that all underneath has to this pool were cleared before, and it needs them
        started, frame = monotonic(), _BETWEEN.outside()
        tried = False
        lease: Lease[Any] | None = None
        try:
            while True:
                lease = self._acquire(started, frame)
                entry = lease._entry
                fresh = entry.since == entry.opened_at >= started  # opened for this caller
                shell = self._ready(lease, fresh=fresh, last=fresh and tried)
                if shell is not None:
                    break
                tried = tried or fresh
            self.shells.lend(shell, lease)
            if _is_metered():
                self._count(idle=-1, used=1)
                self._record(started, fresh=fresh)
            return shell
        except BaseException:
            give_up(lease)
            raise

    def _acquire(self, started: float, frame: FrameType) -> Lease[Any]:
        while True:
            pool = self._pool
            patience = pool._config.connect_timeout if self.timeout == 0 else self.timeout
            left = None if patience is None else max(0.0, started + patience - monotonic())
            try:
                return pool._acquire_for(frame, left)
            except PoolClosed:
                if pool is self._pool:
                    raise
                # Else reset() has closed it, and made another one, which serves those who waited for this one.
            except QueueFull as error:
                raise _errors.TooManyConnections(f"Too many connections: {error}") from None
            except PoolTimeout as error:
                raise _errors.NoConnection.like(error) from error.__cause__
            except ConnectError as error:
                left = self._left_to_retry(error, started, patience)
                if left <= 0:
                    raise _errors.own(error) from error
                time.sleep(min(left, ASK))  # not in the queue, where all are told of an outage together

    def _left_to_retry(self, error: ConnectError, started: float, patience: float | None) -> float:
        """For how many seconds more a caller whose connections have a ``retry`` is to be kept: in all for as long as a
        try with that takes, as with redis-py's pools, whose callers each make their own."""
        factory = self._pool._factory
        if self.connection_kwargs.get("retry") is None or factory.is_permanent(error.__cause__ or error):
            return 0.0
        kept = factory.tried if patience is None else min(factory.tried, patience)
        return started + kept - monotonic()

    def _ready(self, lease: Lease[Any], *, fresh: bool, last: bool) -> Any:
        """The connection of a lease if it may go out; None where it may not, and the lease has ended. Raises what is
        wrong with the last one that is tried."""
        session: Any = lease._entry.connection
        shell = session.shell()
        if _connection.is_quiet(shell):
            return shell
        problem: Exception | None = None
        # One that was opened for this caller the driver asks all the same, and connects where it was closed again.
        closed = shell is None or not (fresh or _connection.is_open(shell))
        says_something = False
        try:
            if not closed:
                if not fresh and _connection.tracker(shell) is None:
                    shell.connect()  # which does nothing where it is connected
                says_something = shell.can_read() and not self.expects_news()
        except (ConnectionError, TimeoutError, OSError, ValueError, AttributeError) as error:
            problem = error  # the last two where another thread closes it meanwhile
        if not (closed or says_something or problem):
            return shell
        if says_something and last:
            lease.release()  # whoever gets it next will find the same, and close it
            raise ConnectionError("Connection not ready")
        self._pool._factory.close(session)  # now: the next try can have the same object
        if problem is None or not self._pool._factory.is_broken(problem):
            lease.discard()  # never released: the object is a spare one by now, and would be lent to two
        else:
            lease.__exit__(type(problem), problem, None)
        if last:
            raise problem or ConnectionError("Connection is closed")
        return None

    def expects_news(self) -> bool:
        """Whether the server may say something on an idle connection: what is invalid in the cache, or a move."""
        return self.cache is not None or bool(self.maint_notifications_enabled())

    def release(self, connection: Any) -> None:
        """Take a connection back, from any thread or destructor. One that is not out of this pool is ignored."""
        lease: Lease[Any] | None = None
        try:
            self._checkpid()
            lease = self.shells.take_back(connection, self._pool)
            if lease is None:
                self.shells.close_stale(connection, self)
            else:
                self._take_in(connection, lease)
        except BaseException:
            give_up(lease or self.shells.take_back(connection, self._pool))
            raise

    def _take_in(self, connection: Any, lease: Lease[Any]) -> None:
        owned = False
        try:
            owned = bool(self.owns_connection(connection))
            if not owned:
                self.shells.forget(connection, lease._entry.connection)
            if not owned or connection.should_reconnect():
                connection.disconnect()
            if owned:
                self._tell_of(connection)
        except BaseException:
            connection.disconnect()  # such as a new token that was refused: the next session asks for another
            raise
        finally:
            fault = getattr(_connection.tracker(connection), "fault", None)
            if fault is not None and self._pool._factory.is_broken(fault):
                lease.__exit__(type(fault), fault, None)
            elif not owned or not _connection.is_open(connection):
                lease.discard()  # its user has closed it, as a PubSub does
            else:
                lease.release()
            self._count(idle=1, used=-1)

    def _tell_of(self, connection: Any) -> None:
        """Tell redis-py's listeners that it comes back: one of them logs in where there is a new token."""
        if self._event_dispatcher is not None:
            self._event_dispatcher.dispatch(AfterConnectionReleasedEvent(connection))

    # -- opening and closing --------------------------------------------------------------------------

    def make_connection(self) -> Any:
        """A new connection object, not connected yet."""
        try:
            connection = _connection.tracked(self.connection_class)(**self.connection_kwargs)
        except TypeError as error:
            raise _errors.explained(error, self.connection_class, {*_OPTIONS, "max_connections", "timeout"}) from None
        if self.cache is not None:
            proxy: Any = CacheProxyConnection  # abstract in redis-py's annotations alone
            connection = proxy(connection, self.cache, self._lock)
        self._count(idle=1)
        return connection

    def reset(self) -> None:
        """Forget all connections: those in use are closed when they come back. In a forked child the parent's are
        left alone."""
        old: SlotPool | None = self.__dict__.get("_pool")
        if old is not None:
            self._count_out()
        if old is not None and self.pid != os.getpid():
            self._lock = threading.RLock()  # a thread that is not here may hold the old one
            old.stats()  # has the pool see that it was forked: it lets go of the parent's sockets
            self.shells = Shells(weakref.WeakMethod(self.make_connection))
        else:
            new = self._build()
            if old is not None:
                self._finalizer.detach()
            self._pool, self.shells = new, Shells(weakref.WeakMethod(self.make_connection))
            self._finalizer = weakref.finalize(self, _forget, new)
            self._finalizer.atexit = False
            if old is not None:
                old.close(0)  # last: interrupted here, or told of it, everybody has one to go on with
        self.pid = os.getpid()  # last: see _checkpid()

    def _build(self) -> SlotPool:
        args = self.connection_kwargs
        factory = ShellFactory(weakref.ref(self))
        place = args.get("path") or f"{args.get('host', 'localhost')}:{args.get('port', 6379)}"
        retry = args.get("retry")
        options: dict[str, Any] = {
            "name": f"{place}/{args.get('db') or 0}",
            "max_size": self.max_connections,
            "fail_after": PATIENCE,
            "connect_timeout": 10.0 * (1 + max(0, retry.get_retries() if retry else 0)),
            "backoff": factory.pause if retry else None,
            "order": self._order(),
            **self._options,
        }
        if options.get("on_connect") is not None:
            options["on_connect"] = factory.for_shells(options["on_connect"])
        return SlotPool(factory, refuses=self._timeout == 0, missed=weakref.WeakMethod(self._miss), **options)

    def _order(self) -> str:
        return "lifo"

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the idle connections, and by default those in use under their users too. The pool stays usable."""
        self._checkpid()
        self._pool.retire(None, self.shells)
        if inuse_connections:
            for connection in self.shells.used():
                connection.disconnect()

    def disconnect_free_connections(self, moving_address_src: str | None = None) -> None:
        """Close the idle connections to one address, by default to any."""
        with self._lock:
            self._pool.retire(self._free_at(moving_address_src), self.shells)

    def _free_at(self, address: str | None) -> set[int]:
        # A function of its own: CPython takes the jump at the end of a loop for a place outside of the "with" around.
        free = self.shells.free()
        return {id(shell) for shell in free if self._should_update_connection(shell, "connected_address", address)}

    # -- what the driver's own code looks at ----------------------------------------------------------

    @property
    def _available_connections(self) -> list[Any]:  # type: ignore[override]  # an attribute in redis-py
        return FreeConnections(self.shells)

    @property
    def _in_use_connections(self) -> set[Any]:  # type: ignore[override]  # an attribute in redis-py
        return UsedConnections(self.shells)

    @property
    def _created_connections(self) -> int:  # type: ignore[override]  # an attribute in redis-py
        return len(AllConnections(self.shells))

    def _get_free_connections(self) -> list[Any]:
        return self.shells.free()

    def _get_in_use_connections(self) -> set[Any]:
        return set(self.shells.used())

    def re_auth_callback(self, token: Any) -> None:
        """Log in anew on every connection: on the idle ones a worker does so before anybody gets them, on those in use
        whoever brings them back."""
        for connection in (*self.shells.free(), *self.shells.used()):
            connection.set_re_auth_token(token)
        self._pool.suspect()

    def __del__(self) -> None:
        try:
            self._count_out()
        except Exception:
            pass  # half built, or the interpreter is ending

    def _count_out(self) -> None:
        """All that are here count no more; nor do those that were dropped and have not been missed yet."""
        self._count(idle=-len(self.shells.free()), used=-len(self.shells.used()) - len(self._pool.lost))

    def _miss(self, pool: SlotPool) -> None:
        """A connection was dropped by its user. Where it was lent before a reset, that has counted it out."""
        if pool is self._pool:
            self._count(used=-1)

    def _count(self, *, idle: int = 0, used: int = 0) -> None:
        """Tell redis-py's metrics."""
        if not _is_metered():
            return
        name = get_pool_name(self)
        for state, change in ((ConnectionState.IDLE, idle), (ConnectionState.USED, used)):
            if change:
                record_connection_count(pool_name=name, connection_state=state, counter=change)

    def _record(self, started: float, *, fresh: bool) -> None:
        if fresh:
            record_connection_create_time(connection_pool=self, duration_seconds=monotonic() - started)


class BlockingConnectionPool(ConnectionPool, redis.BlockingConnectionPool):
    """A :class:`redis.BlockingConnectionPool`: it waits ``timeout`` seconds in all for a connection, in the order of
    arrival. See :class:`ConnectionPool` for what else it takes. ``queue_class`` says which idle connection goes out
    first: that of a LifoQueue the one used last, that of a Queue the one longest unused.
    """

    _face: tuple[Shells, QueueFace] | None = None

    def __init__(
        self,
        max_connections: int | None = 50,
        timeout: float | None = 20,
        connection_class: Any = Connection,
        queue_class: Any = LifoQueue,
        **kwargs: Any,
    ) -> None:
        super().__init__(connection_class, max_connections, timeout=timeout, queue_class=queue_class, **kwargs)

    def _order(self) -> str:
        fifo = isinstance(self.queue_class, type) and not issubclass(self.queue_class, LifoQueue)
        return "fifo" if fifo and issubclass(self.queue_class, Queue) else "lifo"

    def set_in_maintenance(self, in_maintenance: bool) -> None:
        """While connections are moved to another server nobody gets one; who waits, waits to its own deadline."""
        self._in_maintenance = in_maintenance
        (self._pool.suspend if in_maintenance else self._pool.resume)()

    @property
    def pool(self) -> Any:
        """What redis-py keeps its places in."""
        if self._face is None or self._face[0] is not self.shells:
            self._face = self.shells, QueueFace(self.shells, self.max_connections)
        return self._face[1]

    @property
    def _connections(self) -> list[Any]:  # type: ignore[override]  # an attribute in redis-py
        return AllConnections(self.shells)

    def _tell_of(self, connection: Any) -> None:
        if _connection.awaits_login(connection):  # redis-py's pool of this name tells of nothing else
            super()._tell_of(connection)

    def _record(self, started: float, *, fresh: bool) -> None:
        super()._record(started, fresh=fresh)
        record_connection_wait_time(pool_name=get_pool_name(self), duration_seconds=monotonic() - started)


def _is_metered() -> bool:
    """Whether anybody wants redis-py's metrics. Asked first: each of its record_...() asks anew, and wants to be given
    a name that has to be made."""
    return get_observability_instance().get_provider_manager() is not None


def _forget(pool: SlotPool) -> None:
    """The pool that callers saw was collected, and with it the connections, which close themselves: the one underneath
    is to close nothing and to warn of nothing. No lock is taken here and no thread started: it may be anywhere."""
    pool._finalizer.detach()
