"""A Django connection that is a lease: taken at its first use, given back when Django closes it.

Django has one ``DatabaseWrapper`` for each thread and alias. It connects at the first query of a request and closes at
the request's end. Here to connect is to acquire and to close is to release, and neither sends a byte: what Django sets
up after each connect is set up once for each new connection, on a worker.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
import weakref
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, ClassVar, NamedTuple

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.utils import ProgrammingError
from django.utils.functional import cached_property

from pooling._runtime.fork import keep_inherited
from pooling.errors import PoolClosed, PoolError
from pooling.factory import Factory
from pooling.integrations.django import _pools
from pooling.integrations.django._errors import Errors, NoConnection, translated
from pooling.lease import Lease
from pooling.pool import Pool

# What a connection is opened and set up by. The password is left out: it may change, and is asked for at every connect.
_IDENTITY = ("NAME", "USER", "HOST", "PORT", "AUTOCOMMIT", "TIME_ZONE")
_EVERYBODYS = ("django.db.", "django.utils.", "pooling.integrations.django.")
_DJANGO = ("django.", "pooling.integrations.django.", "asgiref.")
_HANDLERS = "django.core.handlers."


class Pooled(BaseDatabaseWrapper):
    """What the backends have in common; stands before Django's wrapper for the database."""

    connection: Any  # the driver's; None while there is no lease
    pool_class: ClassVar[type[Pool[Any]]] = Pool
    timeout_class: ClassVar[type[NoConnection]] = NoConnection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lease: Lease[Any] | None = None
        self._process = 0  # the id of the one that the lease belongs to
        self._is_set_up = False  # whether the connection was, and Django is yet to ask for it
        self._fault: BaseException | None = None  # by which the connection has broken
        self._unfit = False  # a health check has failed
        self._cursors: weakref.WeakSet[Any] = weakref.WeakSet()  # of the lease, as far as somebody has them

    # -- the pool -------------------------------------------------------------------------------------

    @property
    def pooling(self) -> Pool[Any] | None:
        """The pool of this alias in this process, which has opened nothing before the first use; None where the alias
        is not pooled: ``OPTIONS["pooling"]`` is False, or the database is in memory.

        Raises ImproperlyConfigured for options that cannot be.
        """
        return _pools.pool_of(self.alias, self._identity(), self._build) if self.is_pooled() else None

    def close_pool(self) -> None:
        """Close the pool of this alias: idle connections now, those in use when they come back. The next use builds
        another."""
        _pools.close(self.alias)

    def is_pooled(self) -> bool:
        """Whether this wrapper takes its connections from a pool."""
        return self.alias != NO_DB_ALIAS and self._options().get("pooling") is not False

    def pool_options(self) -> dict[str, Any]:
        """The options for the pool, from the settings. Raises ImproperlyConfigured."""
        given = self._options().get("pooling")
        if given is None or given is True:
            return {}
        if not isinstance(given, dict):
            raise ImproperlyConfigured(
                f"{self._place('pooling')} must be a dictionary of options, or False for no pool, not {given!r}"
            )
        return dict(given)

    def make_factory(self, another: Callable[[], Any]) -> Factory[Any]:
        """The factory of the pool. ``another()`` is a wrapper of the same settings that never connects."""
        raise NotImplementedError

    def set_up(self, connection: Any) -> None:
        """What Django does with every new connection. *Worker*; again after a reset of the whole session."""

    def _build(self) -> Pool[Any]:
        live = self.settings_dict
        if live.get("CONN_MAX_AGE", 0) != 0:
            raise ImproperlyConfigured(
                "Pooling doesn't support persistent connections. Set DATABASES"
                f"[{self.alias!r}]['CONN_MAX_AGE'] to 0: a request gives its connection back at its end, and the pool "
                "keeps it open."
            )
        frozen = {**live, "OPTIONS": _copied(self._options())}
        kind, alias = type(self), self.alias

        def another() -> Any:
            return kind({**frozen, "PASSWORD": live.get("PASSWORD", "")}, alias)

        options = {"name": alias, **self.pool_options()}
        if live.get("CONN_HEALTH_CHECKS"):
            options.setdefault("check", "ping")
        then = options.get("on_connect")

        def on_connect(connection: Any) -> None:
            another().set_up(connection)
            if then is not None:
                then(connection)

        options["on_connect"] = on_connect if then is None or callable(then) else then  # which the pool refuses
        try:
            return self.pool_class(self.make_factory(another), **options)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{self._place('pooling')}: {error}") from error

    def _identity(self) -> _pools.Settings:
        known = self.settings_dict
        given = tuple(known.get(name) for name in _IDENTITY)
        return (type(self), *given, _copied(self._options()), settings.USE_TZ, self.timezone_name)

    def _options(self) -> dict[str, Any]:
        return self.settings_dict.get("OPTIONS") or {}

    def _place(self, option: str) -> str:
        return f"DATABASES[{self.alias!r}]['OPTIONS'][{option!r}]"

    # -- the lease ------------------------------------------------------------------------------------

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        params.pop("pooling", None)
        return params

    def connect(self) -> None:
        if self.in_atomic_block and self.closed_in_transaction and django.VERSION < (5, 1):
            # As Django says it from 5.1 on: what follows would not be in the transaction.
            raise ProgrammingError("Cannot open a new connection in an atomic block.")
        # Built here: it refuses a CONN_MAX_AGE, which may be a text of the environment, before Django reckons with it.
        # Who changes it later, as Django's own tests do, is let.
        _ = self.pooling
        super().connect()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """A connection from the pool, within its ``timeout``. Raises an error that is both Django's OperationalError
        and the pool's, or the driver's own where connecting has failed."""
        if not self.is_pooled():
            return self.open(conn_params)
        self._end_lease()  # of somebody who calls connect() twice
        self._lease, self._process, self._is_set_up = self._acquire(), os.getpid(), True
        if not self.allow_thread_sharing:  # else it is not this thread's alone
            _here.end.wrappers.add(self)
        return self._lease.connection

    def open(self, conn_params: dict[str, Any]) -> Any:
        """A connection without a pool."""
        return super().get_new_connection(conn_params)

    def _acquire(self) -> Lease[Any]:
        while True:
            pool = self.pooling
            assert pool is not None  # is_pooled() has said so
            try:
                return pool._acquire_for(_asker())
            except PoolError as error:
                if isinstance(error, PoolClosed) and not _pools.is_current(self.alias, pool):
                    continue  # the settings have changed, or close_pool() was called: there is another one
                problem = translated(error, self.timeout_class)
                raise problem from (error.__cause__ if isinstance(problem, PoolError) else error)

    def init_connection_state(self) -> None:
        done, self._is_set_up = self._is_set_up, False
        if done:
            BaseDatabaseWrapper.init_connection_state(self)  # the rest was done when the connection was new
        else:
            super().init_connection_state()

    def create_cursor(self, name: str | None = None) -> Any:
        return self._remembered(super().create_cursor(name))

    def _remembered(self, cursor: Any) -> Any:
        if self._lease is not None:
            self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        super().close()
        if self.connection is None:  # nothing was closed then: an exception may have struck when that was gone already
            self._end_lease()

    def _close(self) -> None:
        if self._lease is None:
            super()._close()
        else:
            self._end_lease()

    def _end_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is None:
            return
        fault, self._fault = self._fault, None
        self.connection = None  # within an atomic block too, where Django would keep it and use it once more
        # Who has kept a cursor must not reach the next user's session by it.
        silent = [self.silence(cursor) for cursor in list(self._cursors)]
        self._cursors.clear()
        if self._unfit or not all(silent):
            lease.discard()
        elif fault is not None:
            lease.__exit__(type(fault), fault, None)
        else:
            lease.release()

    def drop(self) -> None:
        """The thread of this wrapper has ended without a close: nobody can use it any more. The lease goes as it would
        with the wrapper, but at once: that is in a cycle with its parts, and in a program that only waits for a
        connection the collector never comes."""
        if self._process != os.getpid() or self.allow_thread_sharing:
            return  # in a forked child a thread of the parent's seems to end; a shared one others may use
        self._lease = self._fault = self.connection = None
        self._cursors.clear()

    def silence(self, cursor: Any) -> bool:
        """Keep a cursor from ever using its connection again, without a round trip. False where that cannot be."""
        try:
            cursor.close()
        except Exception:
            return False
        return True

    def note(self, error: BaseException) -> None:
        """The driver has raised an error: keep one by which the connection has broken for the end of the lease."""
        lease = self._lease
        if lease is not None and self._fault is None and lease._pool._factory.is_broken(error):
            self._fault = error

    @cached_property  # type: ignore[untyped-decorator]  # Django's
    def wrap_database_errors(self) -> Errors:
        return Errors(self)

    # -- the ends of a request --------------------------------------------------------------------------

    def close_if_unusable_or_obsolete(self) -> None:
        """Called by Django before and after each request: the lease ends, without the round trip by which Django finds
        out after an error whether a connection that is to be closed still works."""
        if self._lease is not None and self.settings_dict["CONN_MAX_AGE"] == 0:
            self.close()
        else:
            super().close_if_unusable_or_obsolete()

    def close_if_health_check_failed(self) -> None:
        self._leave_to_parent()  # this comes before every cursor and every transaction
        if self.connection is None or not self.health_check_enabled or self.health_check_done:
            return
        self._unfit = True  # a close within this call means that the check has failed
        try:
            BaseDatabaseWrapper.close_if_health_check_failed(self)
        finally:
            self._unfit = False

    # -- forks ----------------------------------------------------------------------------------------

    def validate_thread_sharing(self) -> None:
        self._leave_to_parent()  # commit, rollback and close ask this before they do anything
        super().validate_thread_sharing()

    def _leave_to_parent(self) -> None:
        """In a forked child: the lease, and a transaction on it, belong to the parent."""
        if self._lease is None or self._process == os.getpid():
            return
        keep_inherited(self._lease, self.connection, *self._cursors)
        self._lease = self._fault = self.connection = None
        self._cursors.clear()
        if self.in_atomic_block:
            self.closed_in_transaction = self.needs_rollback = True
        self.close()  # of nothing: there those who build upon this wrapper forget what they have set in the session


class _End:
    """Dropped with the thread that it belongs to."""

    def __init__(self) -> None:
        self.wrappers: weakref.WeakSet[Pooled] = weakref.WeakSet()  # with a lease taken in this thread

    def __del__(self) -> None:
        if not sys.is_finalizing():
            for wrapper in list(self.wrappers):
                wrapper.drop()


class _Here(threading.local):
    def __init__(self) -> None:
        self.end = _End()


_here = _Here()


def _copied(options: dict[str, Any]) -> dict[str, Any]:
    """So that a later change of the settings is noticed."""
    return {name: dict(value) if isinstance(value, dict) else value for name, value in options.items()}


class _Start(NamedTuple):
    """Where a function begins, in the place of a frame in it."""

    f_code: CodeType
    f_lasti: int = -1


def _asker() -> Any:
    """The frame of whoever asks: else all holders and waiters would be shown at the same line of this package.

    That is the nearest one outside Django; where Django asks for itself, as its sessions do, the nearest one outside
    of what all queries go through. A function that is a transaction, by ``@atomic`` or ATOMIC_REQUESTS, asks before it
    runs: it is shown where it begins.
    """
    frame: FrameType | None = sys._getframe(1)
    own = None
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name == "contextlib":
            decorated: Any = frame.f_locals.get("func")
            code = getattr(inspect.unwrap(decorated), "__code__", None)
            if code is not None:
                return _Start(code)
        elif not name.startswith(_DJANGO):
            return frame
        elif own is None and not name.startswith(_EVERYBODYS):
            own = frame
        if own is not None and name.startswith(_HANDLERS):  # the request begins here: what is further out is the server
            return own
        frame = frame.f_back
    return own or sys._getframe(1)
