"""What a backend tells the pool about its connections, and on which thread it is asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar

from pooling._driver import module_of, within
from pooling._lazy import lazy
from pooling._runtime.fork import keep_inherited
from pooling._secrets import attributes, found

T = TypeVar("T")

ResetMode = Literal["transaction", "session"]

ANSWERS = 16  # of connect_args that are remembered for the sake of secrets


class Factory(Generic[T]):
    """How to open, check, reset and close one kind of connection.

    Only :meth:`connect` has to be written; everything else has a default that asks nothing of the
    connection but a ``close()``. Methods marked *worker* may take time and do I/O: they run on one of the
    pool's worker threads, in an empty :class:`contextvars.Context`. Methods marked *caller* run on the
    thread that acquires or releases: they must look at flags only and never block.

    ``T`` is what :meth:`connect` returns and a lease yields; where :meth:`view` makes another thing of it, let it be
    ``Factory[Any]``.

    The pool gives everything by position: a subclass may call its parameters what it likes, a connection ``client``.

    A method that raises never harms the pool: a failed connect is retried or reported, a failed check or
    reset retires the connection, a failed close is logged.
    """

    # Methods that the class defines and this one factory has nothing to do with: see overrides().
    _lacks: frozenset[str] = frozenset()

    def connect(self, timeout: float, /) -> T:
        """Open a connection within ``timeout`` seconds, or raise. *Worker.*"""
        raise NotImplementedError(f"{type(self).__name__} has to define connect(timeout)")

    def close(self, connection: T, /) -> None:
        """Close the connection. *Worker.* The default calls its ``close()``."""
        connection.close()  # type: ignore[attr-defined]  # what "closed with its .close()" means

    def check(self, connection: T, timeout: float, /) -> None:
        """Make a round trip within ``timeout`` seconds; raise if the connection is dead. *Worker.*

        A factory that does not define it says that no harmless round trip exists: connections under
        suspicion are then replaced in place of checked.
        """
        if not self.is_alive(connection):
            raise ConnectionError("the connection is closed")

    def reset(self, connection: T, mode: ResetMode, /) -> None:
        """Make the connection like new for its next user. *Worker.* The default does nothing.

        ``"transaction"``: end an open transaction by a rollback and restore autocommit; ``"session"``:
        clear everything that a user can have set on the session.
        """

    def is_alive(self, connection: T, /) -> bool:
        """Whether the connection still looks open, without a byte sent. *Caller*, about a microsecond."""
        return True

    def is_clean(self, connection: T, /) -> bool:
        """Whether the next user can have it as it is: no transaction, no unread result. *Caller.*"""
        return True

    def view(self, connection: T, /) -> Any:
        """What a lease yields; asked once per connection. *Worker.* The default: the connection itself."""
        return connection

    def remember(self, connection: T, /) -> None:
        """Note how the connection is, now that it is set up: what a reset goes back to. *Worker.*

        Called for a new connection after ``on_connect``, and again after a reset of the whole session, when
        ``on_connect`` has set it up anew. The default does nothing.
        """

    def interrupt(self, connection: T, /) -> None:
        """Make whoever is blocked on the connection fail at once, free nothing. *Any thread.*"""

    def abandon(self, connection: T, /) -> None:
        """In a forked child: let go of the parent's connection without a word on the wire.

        The default keeps a reference for ever, so that no destructor of the driver runs in the child.
        """
        keep_inherited(connection)

    def abandon_in_use(self, connection: T, /) -> None:
        """The same for a connection that some thread was using at the moment of the fork, perhaps in the middle of
        a call: the driver's own state cannot be relied on. The default calls :meth:`abandon`.
        """
        self.abandon(connection)

    def begin(self, connection: T, /) -> None:
        """Start a transaction for :meth:`pooling.Pool.transaction`. *Caller.*

        The default does nothing: a DB-API connection begins by itself.
        """

    def commit(self, connection: T, /) -> None:
        """Commit the transaction of :meth:`pooling.Pool.transaction`. *Caller.*"""
        connection.commit()  # type: ignore[attr-defined]  # DB-API; other backends override it

    def rollback(self, connection: T, /) -> None:
        """Roll the transaction of :meth:`pooling.Pool.transaction` back. *Caller.*"""
        connection.rollback()  # type: ignore[attr-defined]  # DB-API; other backends override it

    def is_broken(self, error: BaseException, /) -> bool:
        """Whether an error that a user saw means that the connection is of no more use. *Caller.*"""
        return False

    def is_demoted(self, connection: T, error: BaseException, /) -> bool:
        """Whether an error for which :meth:`is_broken` was true says that this server is no longer the one to use: a
        primary that has become read-only or was replaced; or that what all connections have noted of it is out of date.
        *Caller.*

        Every connection of today is retired then, whereas after any other break those that pass a check stay.
        """
        return False

    def is_permanent(self, error: BaseException, /) -> bool:
        """Whether a failed connect will fail again however often it is tried. *Worker.*"""
        return False

    def is_retryable(self, error: BaseException, /) -> bool:
        """Whether nothing took effect (never sent, or rolled back), so that a retry is safe. *Caller.*"""
        return False

    def secrets(self) -> Iterable[str]:
        """What nobody is to see: it is taken out of the errors of the methods above. *Any thread.*

        The default finds passwords, tokens and the like among the factory's attributes: by their names, and in URLs and
        connection strings.
        """
        return found(attributes(self))

    def _answered(self, args: Mapping[str, Any]) -> None:
        """Keep what a function given as ``connect_args`` has answered where :meth:`secrets` finds it: whichever of the
        last ones an error shows, it was asked for not long ago."""
        vars(self).setdefault("_answers", deque(maxlen=ANSWERS)).append(args)  # atomic: many workers connect at once


def overrides(factory: Factory[Any], method: str) -> bool:
    """Whether a factory has something of its own to do in the place of a default."""
    return getattr(type(factory), method) is not getattr(Factory, method) and method not in factory._lacks


class CallableFactory(Factory[T]):
    """A factory made of any zero-argument callable that returns a connection with a ``close()``.

    Those of a DB-API driver are rolled back after each lease, unless they say that they are in no transaction.
    """

    _lacks = frozenset({"is_clean"})  # whether one is in the middle of a message, only the driver's backend knows

    def __init__(self, connect: Callable[[], T]) -> None:
        self._connect = connect
        self._begins = False  # whether a connection begins a transaction unasked (PEP 249)

    def connect(self, timeout: float) -> T:
        connection = self._connect()
        kind = type(within(connection))
        # Not by a rollback() alone: a client of something else may have every attribute that it is asked for.
        self._begins = hasattr(kind, "rollback") and any(map(module_of, kind.__mro__))
        return connection

    def is_permanent(self, error: BaseException) -> bool:
        return isinstance(error, TypeError)  # it wants arguments

    def is_clean(self, connection: T) -> bool:
        return not (self._begins and getattr(connection, "in_transaction", True))

    def reset(self, connection: T, mode: ResetMode) -> None:
        self.rollback(connection)

    def __repr__(self) -> str:
        return f"CallableFactory({getattr(self._connect, '__qualname__', type(self._connect).__name__)})"


def as_factory(factory: Factory[T] | Callable[[], T]) -> Factory[T]:
    """The factory itself, or one made of a callable. Raises TypeError for anything else."""
    if isinstance(factory, Factory):
        return factory
    if lazy(factory) is not None:
        raise TypeError("factory is a coroutine function or generator: pools are for threads and drivers that block")
    if isinstance(factory, type) and issubclass(factory, Factory):
        raise TypeError(f"factory is the class {factory.__name__}: pass an instance, {factory.__name__}(…)")
    kind = type(factory).__name__
    if callable(factory):
        return CallableFactory(factory)  # type: ignore[arg-type]  # mypy adds type[object] to what is callable
    raise TypeError(
        f"factory must be a pooling.Factory or a callable that returns a connection, not {kind}"
        f"{' (for a URL: pooling.create_pool)' if kind == 'str' else ''}"
    )
