"""Pools in a WSGI application: a lease per request, taken at first use, ended when the server closes the response."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pooling._clock import DEFAULT, Timeout
from pooling._log import write
from pooling.config import seconds
from pooling.errors import ConnectError, PoolClosed, PoolError, PoolTimeout, QueueFull
from pooling.integrations._leases import Leases, Pools, as_pools
from pooling.pool import Pool

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["KEY", "NO_CONNECTION", "Leases", "Middleware", "connection", "leases"]

KEY = "pooling.leases"
"""Where a request's leases are in its environ."""
NO_CONNECTION = (PoolTimeout, QueueFull, PoolClosed, ConnectError)
"""What an acquire raises where there is no connection to be had."""

_log = logging.getLogger("pooling.wsgi")


class Middleware:
    """A WSGI application around another, which finds its request's :class:`Leases` in ``environ["pooling.leases"]``::

        application = Middleware(application, pool)

        def application(environ, start_response):
            connection = environ["pooling.leases"].connection()

    ``pools`` is a Pool, or a mapping of names to pools such as a :class:`pooling.PoolManager`. A lease is taken at the
    first use, on the thread that asks, and ends when the server closes the response, also where the application
    raises, the client goes away or the response fails on its way. A lease never commits.

    ``timeout``: seconds an acquire may take, by default the pool's. With ``retry_after`` (seconds) a request that gets
    no connection (:data:`NO_CONNECTION`) is answered 503 with that ``Retry-After``; by default the error goes on to the
    server. ``key`` is the name in environ.

    Raises TypeError or ValueError for arguments that cannot be.
    """

    def __init__(
        self,
        application: WSGIApplication,
        pools: Pool[Any] | Pools,
        *,
        timeout: Timeout = DEFAULT,
        retry_after: float | None = None,
        key: str = KEY,
    ) -> None:
        if not callable(application):
            raise TypeError(f"application must be a WSGI application, not {application!r}")
        if timeout is not DEFAULT:
            seconds("timeout", timeout)
        seconds("retry_after", retry_after)
        if retry_after == math.inf:
            raise ValueError(f"retry_after must be a finite number of seconds, not {retry_after!r}")
        self._application = application
        self._pools = as_pools(pools)
        self._timeout = timeout
        self._retry_after = retry_after
        self._key = key

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        leases = environ[self._key] = Leases(self._pools, self._timeout)
        refusal = None if self._retry_after is None else _Refusal(self._retry_after, environ, start_response)
        try:
            result = self._application(environ, refusal or start_response)
        except BaseException as error:
            leases._end(error)  # there is no response, so nobody will close it
            if refusal is None or not isinstance(error, NO_CONNECTION):
                raise
            return refusal.send(error)
        if isinstance(result, (list, tuple)) and not leases._any:
            leases._end()
            return result  # complete, and nothing was taken
        if _is_file(result, environ) and _closing(result, leases):
            return result
        body = _SizedBody if hasattr(result, "__len__") else Body
        return body(result, leases, refusal)


def leases(environ: Mapping[str, Any], key: str = KEY) -> Leases:
    """The leases of the request. Raises PoolError where no :class:`Middleware` stands before the application."""
    found = environ.get(key)
    if not isinstance(found, Leases):
        raise PoolError(f"environ has no {key!r}: wrap the application in pooling.integrations.wsgi.Middleware")
    return found


def connection(environ: Mapping[str, Any], name: str | None = None) -> Any:
    """The request's connection from the pool, or from the one called ``name``. Raises as :meth:`Leases.connection`
    does, and PoolError where no :class:`Middleware` stands before the application."""
    return leases(environ).connection(name)


class Body:
    """A response that ends the request's leases after its own close(), however it came to that."""

    def __init__(self, result: Iterable[bytes], leases: Leases, refusal: _Refusal | None = None) -> None:
        self._result = result
        self._leases = leases
        self._refusal = refusal
        self._blocks: Iterator[bytes] | None = None
        self._error: BaseException | None = None
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._blocks is None:
                self._blocks = iter(self._result)
            return next(self._blocks)
        except StopIteration:
            raise
        except BaseException as error:
            self._error = error
            if self._refusal is None or not isinstance(error, NO_CONNECTION):
                raise
            self._blocks = iter(self._refusal.send(error))
            return next(self._blocks)

    def close(self) -> None:
        """Called by the server, on the iterable and not on its iterator, at the end of every response."""
        if self._closed:
            return
        self._closed = True
        try:
            close = getattr(self._result, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._error = error
            raise
        finally:
            failure, self._error = self._error, None
            self._leases._end(failure)


class _SizedBody(Body):
    """One whose length is known: of a single block, servers take the Content-Length."""

    def __len__(self) -> int:
        return len(self._result)  # type: ignore[arg-type]  # it has one


class _Refusal:
    """The 503 in the place of a response, and the start_response that the application gets meanwhile."""

    def __init__(self, retry_after: float, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self._retry_after = retry_after
        self._environ = environ
        self._start_response = start_response
        self._started = False

    def __call__(self, status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None, /) -> Any:
        self._started = True
        return self._start_response(status, headers, *(() if exc_info is None else (exc_info,)))

    def send(self, error: BaseException) -> Iterable[bytes]:
        """Start the answer and return its body; raises ``error`` where a part of another one is on its way already."""
        method, path = self._environ.get("REQUEST_METHOD"), self._environ.get("PATH_INFO")
        write(_log.warning, "%s %r was answered 503: %s", method, path, str(error).partition("\n")[0])
        text = b"No connection is free. Please try again later.\n"
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(text))),
            ("Retry-After", str(math.ceil(self._retry_after))),
        ]
        # With exc_info the server replaces what was started, or raises if that is on its way. Where nothing was
        # started there is nothing to replace.
        replaced = ((type(error), error, error.__traceback__),) if self._started else ()
        self._start_response("503 Service Unavailable", headers, *replaced)
        return [] if method == "HEAD" else [text]


def _is_file(result: object, environ: WSGIEnvironment) -> bool:
    """Whether the server will recognise a file that it may send without Python's help, as long as it gets that very
    object."""
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, type):
        return isinstance(result, wrapper)
    return wrapper is not None and hasattr(result, "read")  # uWSGI's is a function, which returns the file itself


def _closing(result: Any, leases: Leases) -> bool:
    """Have the object's own close() end the leases; False where it cannot be replaced."""
    own = getattr(result, "close", None)

    def close() -> None:
        try:
            if own is not None:
                own()
        finally:
            leases._end()

    try:
        result.close = close
    except (AttributeError, TypeError):
        return False
    return True
