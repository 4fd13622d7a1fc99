"""urllib3's own connection pools with a pooling.Pool underneath.

urllib3 connects when it sends: what it takes from a pool is a connection object that may not be connected yet, and
closing that object gives it back as it was. So the pool hands out *shells* (see ShellFactory), and the connect
happens within the request, on a worker, in time. Whoever takes a connection from ``.pooling`` itself gets it
connected.
"""

from __future__ import annotations

import logging
import math
import threading  # never "from threading import": gevent replaces what the module holds
import weakref
from functools import partial
from types import FrameType
from typing import Any

import urllib3
from urllib3 import HTTPResponse
from urllib3.exceptions import ClosedPoolError, EmptyPoolError, FullPoolError, ReadTimeoutError
from urllib3.util import Timeout
from urllib3.util.timeout import _DEFAULT_TIMEOUT

from pooling._clock import monotonic
from pooling._holders import Between
from pooling._traces import forget_frames
from pooling.backends.http._connect import connect_in_time
from pooling.backends.http._connection import OK, Owner, allowed_idle, ends_http, is_fit, is_idle
from pooling.backends.http._factory import ShellFactory
from pooling.backends.http._queue import QueueFace
from pooling.backends.http._total import Total, time_for_a_place
from pooling.backends.http._use import Use, forget
from pooling.config import Options, seconds
from pooling.errors import ConnectError, PoolClosed, PoolTimeout, QueueFull
from pooling.lease import Lease, give_up
from pooling.pool import Pool

OWN_OPTIONS = frozenset(Options.__annotations__) - {"timeout", "reset", "workers"} | {"pool_timeout"}
CLOSING = 1.0  # seconds that close() waits for what is being closed
_BETWEEN = Between("urllib3", "requests")
_log = logging.getLogger("urllib3.connectionpool")  # what it says is urllib3's


class HTTPConnectionPool(urllib3.HTTPConnectionPool):
    """:class:`urllib3.HTTPConnectionPool` with a :class:`pooling.Pool` underneath, at ``.pooling``.

    ``maxsize`` and ``block`` are urllib3's: with ``block`` there are never more than ``maxsize`` connections, without
    it no more than that are kept. The options of :class:`pooling.Pool` come on top; ``max_size`` is a cap whatever
    ``block`` says, and the pool's ``timeout`` is called ``pool_timeout``, as in a request. ``timeout`` and all
    else are urllib3's.
    """

    pooling: Pool[Any]
    pool: QueueFace | None

    def __init__(
        self,
        host: str,
        port: int | None = None,
        timeout: Any = _DEFAULT_TIMEOUT,
        maxsize: int = 1,
        block: bool = False,
        *args: Any,
        _total: Total | None = None,
        **kw: Any,
    ) -> None:
        options: dict[str, Any] = {name: kw.pop(name) for name in OWN_OPTIONS & kw.keys()}
        self.is_open = False
        self._total = _total
        self._mine = threading.local()  # .use: the one that this thread took last
        # By id(): a use keeps its connection, so that no other has its number. One that belongs to a response goes
        # when the response does.
        self._uses: dict[int, Use | weakref.ref[Use]] = {}
        super().__init__(host, port, timeout, maxsize, block, *args, **kw)
        self.pool = QueueFace(self, maxsize)  # in the place of theirs, which not every urllib3 has made by a method
        self._open(options, maxsize)

    def _open(self, options: dict[str, Any], maxsize: int) -> None:
        cap = options.pop("max_size", maxsize if self.block and maxsize > 0 else None)
        if self._total is not None:
            cap = min(cap or self._total.limit, self._total.limit)
        if cap is None and maxsize > 0:
            options.setdefault("max_idle", max(maxsize, options.get("min_size", 0)))
        if "pool_timeout" in options:
            seconds("pool_timeout", options["pool_timeout"])  # by this name: urllib3 has a timeout too
            options["timeout"] = options.pop("pool_timeout")
        self.capped = self.block = cap is not None
        if cap is not None and self.pool is not None:
            self.pool.maxsize = cap
        origin = f"{self.scheme}://{self.host}:{self.port or self.ConnectionCls.default_port}"
        options.setdefault("name", origin)
        reference = weakref.ref(self)
        self._factory = ShellFactory(
            "http://localhost", partial(_call, reference, "_new_conn"),
            partial(_call, reference, "_prepare_connection"), owner=reference,
        )  # fmt: skip  # one argument list
        self._factory.origin = origin
        self.pooling = Pool(self._factory, max_size=cap, reset=None, **options)
        self._finalizer = weakref.finalize(self, self.pooling.close, 0.0)
        self._finalizer.atexit = False  # the pool has one of its own
        if self._total is not None:
            self._total.pools.add(self.pooling)
        self.is_open = True

    def urlopen(self, *args: Any, **kw: Any) -> Any:
        """A request, as urllib3 makes it."""
        before = self._current()
        try:
            self._mine.use = None
            return super().urlopen(*args, **kw)
        except BaseException:
            if self._current() is not before:  # struck where urllib3 was about to give it back: nobody else will
                self._put_conn(None)
            raise
        finally:
            self._mine.use = before  # of a request whose body has made this one

    # -- what urllib3 calls ---------------------------------------------------------------------------

    def _get_conn(self, timeout: float | None = None) -> Any:
        if not self.is_open:
            raise ClosedPoolError(self, "Pool is closed.")
        until = None if timeout is None else monotonic() + timeout
        frame = _BETWEEN.outside()
        use = self._mine.use = self._take(timeout, frame)
        self._count(+1)
        connection = use.connection
        self._uses[id(connection)] = use
        if self._total is not None:
            try:
                connection = self._enter(use, None if until is None else max(0.0, until - monotonic()), frame)
            except BaseException:
                self._give_back(None)
                raise
        if connection.sock is not None and not is_fit(connection):
            connection.close()
        connection.unread = False
        return connection

    def _put_conn(self, connection: Any) -> None:
        known: Any = None
        try:
            if connection is None:
                known = self._current()
                if known is not None:
                    self._mine.use = known.before
                    self._uses.pop(id(known.connection), None)
                    if known.unanswered:
                        self._empty(known)
                    else:
                        self._retire(known)
                    self._count(-1)
                return
            known = self._uses.pop(id(connection), None)
            if isinstance(known, weakref.ref):
                known = known()
            if known is None:
                self._put_stranger(connection)
            else:
                self._take_in(known, connection)
        except BaseException as struck:
            # It may be kept, and with it the frames that have the use, or a response that has it.
            if isinstance(known, Use) and not known.lease.ended:
                self._retire(known)
            known = None
            forget_frames(struck)
            raise

    def _take_in(self, returned: Use, connection: Any) -> None:
        if returned is self._current():
            self._mine.use = returned.before
        if not self.is_open:
            connection.close()  # now, as urllib3's does: the pool underneath would leave it to a worker
            self._retire(returned)
        elif not self.capped and self._is_surplus():
            connection.close()
            self._retire(returned)
            self._warn_full()
        else:
            self._put_back(returned, connection)
            self._count(-1)

    # What the queue's face calls: a subclass's own methods may ask the queue, as urllib3's do.
    _hand_out, _give_back = _get_conn, _put_conn

    def _make_request(self, conn: Any, method: str, *args: Any, **kw: Any) -> Any:
        try:
            response = super()._make_request(conn, method, *args, **kw)
        except BaseException as error:
            use = self._current()
            if use is not None:
                fault = self._factory.is_broken(error) and not self._factory.is_permanent(error)
                use.error = error if fault else None
                use.unanswered = isinstance(error, ReadTimeoutError) and getattr(conn, "reused", False)
            raise
        known = self._uses.get(id(conn))
        if isinstance(known, Use):
            conn.reused = True
            # Hardly ever: a call for each response would cost more than the question.
            if (response.status < OK or method == "CONNECT") and ends_http(response, method):
                conn.unread = True
            allowed = allowed_idle(response.headers)
            if allowed is not None:
                self.pooling._keep(known.lease._entry, allowed)
            if kw.get("response_conn") is conn:  # it is the response that gives it back, or is dropped
                response._pooling_use = known  # type: ignore[attr-defined]
                if type(response) is HTTPResponse:  # not what a library for tests has put in its place
                    response.__class__ = Owner
                self._uses[id(conn)] = weakref.ref(known, partial(forget, self._uses, id(conn)))
                self._mine.use = known.before
        return response

    def _validate_conn(self, conn: Any) -> None:
        if conn.is_closed:
            connect_in_time(conn, conn.connect, self._connect_timeout(conn))
        super()._validate_conn(conn)

    def _prepare_proxy(self, conn: Any) -> None:
        connect_in_time(conn, partial(super()._prepare_proxy, conn), self._connect_timeout(conn))

    def close(self) -> None:
        """Close the pool: idle connections now, those in use when they come back."""
        if self.is_open:
            self.is_open, self.pool = False, None
            self._finalizer.detach()
            self.pooling.close(CLOSING)

    def _current(self) -> Use | None:
        """What this thread took last and has not given back."""
        use: Use | None = getattr(self._mine, "use", None)
        while use is not None and use.lease.ended:  # another thread has given it back, or this one in another order
            use = use.before
        return use

    def _has(self, connection: Any) -> bool:
        """Whether this was taken and has not come back; None: whether this thread has taken anything."""
        return self._current() is not None if connection is None else id(connection) in self._uses

    # -- uses -----------------------------------------------------------------------------------------

    def _take(self, timeout: float | None, frame: FrameType) -> Use:
        """A connection, for who is told of by that frame: the innermost that is neither ours nor urllib3's."""
        request, requests = object(), self._factory.requests
        lease: Lease[Any] | None = None
        try:
            try:
                requests.add(request)
                lease = self.pooling._acquire_for(frame, time_for_a_place(self.pooling, timeout))
            finally:
                requests.discard(request)
            return Use(lease, self._current())
        except (PoolTimeout, QueueFull) as error:
            raise EmptyPoolError(self, str(error)) from error
        except PoolClosed as error:
            raise ClosedPoolError(self, "Pool is closed.") from error
        except ConnectError as error:  # of somebody who took a connection from .pooling
            raise _own(error.__cause__ or error) from error
        except BaseException:
            give_up(lease)
            raise

    def _enter(self, use: Use, timeout: float | None, frame: FrameType) -> Any:
        """Wait for a permit where there is a total over all origins. The connection to use: one that has come back
        meanwhile is better than one that has to be opened."""
        assert self._total is not None
        self._total.claim(use.connection)
        try:
            use.permit = self._total.acquire(timeout, frame)
        except (PoolTimeout, QueueFull) as error:
            raise EmptyPoolError(self, str(error)) from error
        connection = use.connection
        if connection.sock is None and self.pooling._roster.idle:
            try:
                other = self.pooling._acquire_for(frame, 0.0)
            except (PoolTimeout, QueueFull, PoolClosed, ConnectError):
                pass
            else:
                self._uses.pop(id(connection), None)
                spare, use.lease = use.lease, other
                connection = use.connection = other.connection
                self._uses[id(connection)] = use
                spare.discard()
        self._total.admit(connection)
        return connection

    def _put_back(self, use: Use, connection: Any) -> None:
        keep = use.lease._entry.keep
        connection.stale_at = keep if keep == math.inf else monotonic() + keep
        fit = is_idle(connection)
        if not fit and connection.unread:  # the server has left HTTP: there is nothing to wait for
            connection.close()
            fit = True
        connection.unread = not fit  # released early: whoever reads it may do so until the next request
        if self._total is None:
            use.lease.release()
        else:
            with self._total.leaving(connection, use.permit):
                use.lease.release()

    def _retire(self, use: Use) -> None:
        connection = use.connection
        error, use.error = use.error, None
        if error is not None:
            use.lease.__exit__(type(error), error, None)
        else:
            use.lease.discard()
        if self._total is not None and use.permit is not None:
            with self._total.leaving(connection, use.permit):
                pass

    def _empty(self, use: Use) -> None:
        """Give a place back whose connection did not answer: the server may be slow, or the link forgotten by a
        firewall, and with it those that lie idle. The next request connects anew, in this very place, as in urllib3's
        pool: else it would have the next of those, and one request after the other would time out."""
        connection = use.connection
        connection.close()
        connection.reused = False
        self._put_back(use, connection)

    def _put_stranger(self, connection: Any) -> None:
        """A connection that this pool has not handed out, or that has come back already."""
        if any(entry.connection is connection for entry in list(self.pooling._roster.entries)):
            return
        connection.close()
        if self.is_open and self.pool is not None and self.pool.full():
            if self.block:
                raise FullPoolError(self, "Pool reached maximum size and no more connections are allowed.")
            self._warn_full()

    def _count(self, change: int) -> None:
        """Note for the queue's face how many are taken; where there is a cap, the pool underneath knows."""
        face = self.pool
        if face is not None and not self.capped:
            face.taken = min(max(0, face.taken + change), face.maxsize)

    def _is_surplus(self) -> bool:
        most = self.pooling._ledger.max_idle
        return len(self.pooling._roster.idle) >= most

    def _warn_full(self) -> None:
        size = self.pool.qsize() if self.pool is not None else 0
        _log.warning("Connection pool is full, discarding connection: %s. Connection pool size: %s", self.host, size)

    # -- connections ----------------------------------------------------------------------------------

    def _connect_timeout(self, connection: Any) -> float:
        """Seconds that a connect may take in all: the request's own connect timeout, else the pool's."""
        given = connection.timeout
        return float(given) if isinstance(given, (int, float)) else self.pooling._config.connect_timeout

    def _prepare_connection(self, connection: Any, timeout: float) -> None:
        """Connect it, for those who take it from ``.pooling``; on a worker."""
        wanted = connection.timeout
        connection.timeout = min(wanted, timeout) if isinstance(wanted, (int, float)) else timeout
        if self.proxy is not None and self.scheme == "https":
            super()._prepare_proxy(connection)
        else:
            connection.connect()
        connection.timeout = Timeout.resolve_default_timeout(self.timeout.read_timeout)


class HTTPSConnectionPool(HTTPConnectionPool, urllib3.HTTPSConnectionPool):
    """:class:`urllib3.HTTPSConnectionPool` with a :class:`pooling.Pool` underneath; see
    :class:`HTTPConnectionPool`. Certificates are checked as urllib3 does."""


def _call(owner: weakref.ref[HTTPConnectionPool], name: str, *args: Any) -> Any:
    """Call a method of a pool that may be gone: its factory must not keep it alive."""
    pool = owner()
    if pool is None:
        raise ClosedPoolError(None, "Pool is closed.")  # type: ignore[arg-type]  # there is none any more
    return getattr(pool, name)(*args)


def _own(cause: BaseException) -> BaseException:
    """The error as a copy for one caller: raised as it is, it would collect the traceback of each of them. (urllib3's
    lose their text where they are copied by the copy module.)"""
    own = type(cause).__new__(type(cause), *cause.args)
    vars(own).update(vars(cause))
    return own
