"""Pools in a Flask application: a lease per context, taken at first use, given back when the context ends."""

from __future__ import annotations

import math
import weakref
from collections.abc import Container, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

try:
    import flask
except ImportError as error:
    raise ImportError("this needs Flask: pip install 'pooling[flask]'", name="flask") from error

from pooling._clock import DEFAULT, Timeout
from pooling.config import seconds
from pooling.errors import PoolError
from pooling.integrations._leases import SOLE, Leases, as_pools
from pooling.integrations._leases import Pools as ByName
from pooling.integrations.wsgi import NO_CONNECTION, Body
from pooling.lease import Lease
from pooling.manager import PoolManager
from pooling.pool import Pool

__all__ = ["Pools"]

_EXTENSION = "pooling"  # in app.extensions
_LEASES = "_pooling"  # in flask.g
_ANSWERED = "pooling.answered"  # in a request's environ


class Pools:
    """A Flask extension: the connections of the current context, from one pool or several::

        pools = Pools()

        def create_app():
            app = Flask(__name__)
            app.config["POOLING_URL"] = "postgresql://user@host/db"
            pools.init_app(app)
            return app

        @app.get("/")
        def index():
            return pools.connection().execute("SELECT 1").fetchone()

    A lease is taken at the first use in an application context (a request's, or a command's) and ends with it. A
    response that is streamed keeps it until its end.

    The pools are those of the application's configuration, or ``pools``, a Pool or a mapping of names to pools. Keys:

    - ``POOLING_URL``, ``POOLING_OPTIONS``: the pool called ``"default"``, and a dict of its options;
    - ``POOLING_POOLS``: a dict of further pools by name, as :meth:`pooling.PoolManager.from_dict` takes it: a URL, or a
      dict of options with a ``"url"`` in it;
    - ``POOLING_TIMEOUT``: seconds an acquire may take, by default the pool's;
    - ``POOLING_TRANSACTION``: whether each lease is one transaction, or the names of the pools for which that is so. It
      commits before the answer goes out if its status is below 400, or at the end of a context without a request if
      that ends without an error, and else rolls back. Default: False; a lease never commits then;
    - ``POOLING_RETRY_AFTER``: a request that gets no connection is answered 503, with so many seconds as its
      ``Retry-After``. Default: None, it fails as by any other error.
    """

    def __init__(self, app: flask.Flask | None = None, pools: Pool[Any] | ByName | None = None) -> None:
        self._given = None if pools is None else as_pools(pools)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Read the configuration; a pool is made when it is first asked for. Raises TypeError and ValueError for what
        is wrong with it, RuntimeError for an application that has such an extension already."""
        if _EXTENSION in app.extensions:
            raise RuntimeError("this application has its pools already: init_app() was called twice")
        state = _State.of(app.config, self._given)
        app.extensions[_EXTENSION] = state
        if isinstance(state.pools, PoolManager) and self._given is None:
            weakref.finalize(app, state.pools.close, 1.0)  # they are the application's own
        app.after_request(_answered)
        app.teardown_appcontext(_ended)
        flask.got_request_exception.connect(_failed, app)
        if state.retry_after is not None:
            for kind in NO_CONNECTION:
                app.register_error_handler(kind, _unavailable)

    def connection(self, name: str | None = None) -> Any:
        """The context's connection, the driver's own object; taken from the pool at the first call.

        ``name`` chooses among several pools; without it the only one, or the one called ``"default"``. Raises what
        :meth:`pooling.Pool.acquire` raises, LookupError for an unknown name, RuntimeError outside of a context,
        PoolError in an application that has no pools.
        """
        return _leases().connection(name)

    def lease(self, name: str | None = None) -> Lease[Any]:
        """The lease itself, for ``refresh()`` and ``discard()``. Raises as :meth:`connection` does."""
        return _leases().lease(name)

    def transaction(self, name: str | None = None) -> AbstractContextManager[Any]:
        """A transaction on the context's connection: commits at the end of the ``with``, rolls back on an exception.

        Raises as :meth:`connection` does, and PoolError where one is open already, as with ``POOLING_TRANSACTION``.
        """
        return _leases().transaction(name)

    def release(self) -> None:
        """Give the context's connections back now, for instance before slow work that needs none. What was not
        committed is rolled back. A later use takes new ones."""
        _leases().release()

    def pools(self, app: flask.Flask | None = None) -> ByName:
        """The pools by name of that application, or of the current one."""
        return _state(app).pools

    def close(self, app: flask.Flask | None = None) -> None:
        """Close the pools of that application, or of the current one; for the end of a test. Waits a second at most, or
        a second for each where a mapping that is no manager was given."""
        pools = _state(app).pools
        if isinstance(pools, PoolManager):
            pools.close(1.0)
            return
        for pool in pools.values():
            pool.close(1.0)


@dataclass(frozen=True)
class _State:
    """What an application was configured to."""

    pools: ByName
    timeout: Timeout
    transactional: Container[str]
    retry_after: float | None

    @classmethod
    def of(cls, config: flask.Config, given: ByName | None) -> _State:
        for key, default in _DEFAULTS.items():
            config.setdefault(key, default)
        timeout, retry_after = config["POOLING_TIMEOUT"], config["POOLING_RETRY_AFTER"]
        if timeout is not DEFAULT:
            seconds("POOLING_TIMEOUT", timeout)
        seconds("POOLING_RETRY_AFTER", retry_after)
        pools = _made(config) if given is None else given
        return cls(pools, timeout, _transactional(config["POOLING_TRANSACTION"], pools), retry_after)


_DEFAULTS: dict[str, Any] = {
    "POOLING_URL": None,
    "POOLING_OPTIONS": None,
    "POOLING_POOLS": None,
    "POOLING_TIMEOUT": DEFAULT,
    "POOLING_TRANSACTION": False,
    "POOLING_RETRY_AFTER": None,
}


def _made(config: Mapping[str, Any]) -> PoolManager:
    for key in ("POOLING_OPTIONS", "POOLING_POOLS"):
        if not isinstance(config[key] or {}, Mapping):  # of the environment, where Flask keeps as text what is no JSON
            kind = type(config[key]).__name__  # and no more: there may be a URL in it
            raise TypeError(f"{key} must be a dict (in the environment: as JSON) or None, not {kind}")
    described = dict(config["POOLING_POOLS"] or {})
    if config["POOLING_URL"] is not None:
        described[SOLE] = {**(config["POOLING_OPTIONS"] or {}), "url": config["POOLING_URL"]}
    if not described:
        raise ValueError("no pool is configured: set POOLING_URL, or POOLING_POOLS, or give the extension its pools")
    return PoolManager.from_dict(described)


def _transactional(wanted: Any, pools: ByName) -> Container[str]:
    if isinstance(wanted, bool):
        return pools if wanted else ()  # those as well that are added to a manager later
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise TypeError(f"POOLING_TRANSACTION must be True, False, or a list of pools' names, not {wanted!r}")
    names = frozenset(wanted)
    if unknown := sorted(map(str, names - frozenset(pools))):
        raise ValueError(f"POOLING_TRANSACTION names {unknown[0]!r}, which is no pool (known: {', '.join(pools)})")
    return names


class _ContextLeases(Leases):
    """Those of one application context."""

    __slots__ = ("streaming",)
    streaming: bool
    """Whether a response has them, which outlasts the context."""


def _kept() -> dict[str, Any]:
    """What the current context keeps. Not by methods of ``flask.g``: an application may have its own class of it, which
    needs none (``app_ctx_globals_class``)."""
    return vars(flask.g)


def _leases() -> _ContextLeases:
    kept = _kept()
    found: _ContextLeases | None = kept.get(_LEASES)
    if found is None:
        state = _state(None)
        # After the answer, in a stream or a teardown, nobody could be told of a commit that fails: none is made.
        late = flask.has_request_context() and _ANSWERED in flask.request.environ
        found = _ContextLeases(state.pools, state.timeout, begin=() if late else state.transactional)
        found.streaming = False
        found = kept.setdefault(_LEASES, found)
    return found


def _state(app: flask.Flask | None) -> _State:
    app = app or flask.current_app
    try:
        state: _State = app.extensions[_EXTENSION]
    except KeyError:
        raise PoolError(f"the application {app.name!r} has no pools: call init_app() with it first") from None
    return state


def _answered(response: flask.Response) -> flask.Response:
    """The view has returned, or an error handler in its place; nothing has been sent yet."""
    flask.request.environ[_ANSWERED] = True
    leases: _ContextLeases | None = _kept().get(_LEASES)
    if leases is not None:
        leases.streaming = False  # what comes after may have failed, and this be the answer in a stream's place
        leases._settle(commit=response.status_code < 400)  # where a commit fails, this answer becomes a 500
        if response.status_code >= 300 and not response.direct_passthrough:
            response.make_sequence()  # Flask's own error pages look like streams, and so do redirects that were raised
        # A body that is made while it is sent may still read from the connection; a file does not.
        if leases._any and response.is_streamed and not response.direct_passthrough:
            leases.streaming = True
            response.response = _Stream(response.response, leases)  # type: ignore[arg-type]  # bytes, whatever it holds
    return response


class _Stream(Body):
    """A body that ends its context's leases after its last block too: servers close every response, test clients hardly
    any."""

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except BaseException:
            self.close()
            raise


def _failed(*_: Any, **__: Any) -> None:
    """Flask has an error that nobody has handled: a stream that was to be the answer will not be sent. Where the error
    goes on to the server or the debugger, no other answer comes by :func:`_answered`."""
    leases: _ContextLeases | None = _kept().get(_LEASES)
    if leases is not None:
        leases.streaming = False


def _ended(error: BaseException | None) -> None:
    """A context has ended. With stream_with_context() this comes twice: for the request, then for the stream."""
    kept = _kept()
    leases: _ContextLeases | None = kept.get(_LEASES)
    if leases is None or leases.streaming:
        return
    del kept[_LEASES]
    try:
        leases._settle(commit=error is None)
    finally:
        leases._end(error)


def _unavailable(error: Exception) -> flask.Response:
    flask.current_app.logger.warning("503: %s", str(error).partition("\n")[0])
    retry_after = _state(None).retry_after
    headers: Iterable[tuple[str, str]] = [("Retry-After", str(math.ceil(retry_after or 0)))]
    return flask.Response(
        "No connection is free. Please try again later.\n", status=503, headers=headers, mimetype="text/plain"
    )
