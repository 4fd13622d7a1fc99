"""Any driver that follows the DB-API 2.0 (PEP 249), by its ``connect`` function."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from pooling._driver import module_of, within
from pooling._secrets import found
from pooling.backends import ConnectArgs, _sockets, asked, check_connect_args
from pooling.backends._dbapi_session import (
    autocommit,
    fileno,
    hung_up,
    set_autocommit,
    socket_of,
    timed,
    transaction_status,
)
from pooling.factory import Factory, ResetMode
from pooling.pool import Pool

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pooling.config import Options

C = TypeVar("C")
# Classes of SQLSTATE, where a driver tells one. ISO 9075: connection exceptions; PostgreSQL's: interventions of the
# operator.
_LOST = ("08", "57P")
_READ_ONLY = "25006"  # a primary that was demoted under us
_ROLLED_BACK = ("40001", "40P01", "55P03")  # serialization failure; PostgreSQL's deadlock, and lock not available
_REFUSED = ("28", "3D", "42")  # who, which database, what is not understood
_CODE = 5  # letters
_GENERAL = "HY000"  # which says nothing: what MySQL's own libraries tell of a lost connection as well
_ACTIVE = 1  # libpq's PQTRANS_ACTIVE


class Held:
    """A driver's connection, and what the pool knows of it."""

    __slots__ = ("autocommit", "connection", "made", "socket")

    def __init__(self, made: Any) -> None:
        self.made = made  # for users: an agent that traces queries may have put a proxy around the connection
        self.connection = within(made)
        self.socket = socket_of(self.connection)
        self.autocommit: Any = None


class DbapiFactory(Factory[Any]):  # of Held; what a lease yields is the driver's own connection
    """Connections by a driver's ``connect`` function; ``args`` and ``connect_args`` are what it is called with.

    ``module``: the driver's module, where it cannot be seen from ``connect``. ``check_query``: what a check executes;
    without one nothing is known to be harmless, and connections under suspicion are replaced. ``is_clean(connection)``:
    whether nothing needs to be rolled back, told without I/O; without it every return is rolled back.
    ``is_broken(error)``: True or False, or None for the general rule. ``reset_session(connection)``: what
    ``reset="session"`` does after the rollback.

    A module whose ``threadsafety`` is 0 is refused with RuntimeError: here, or by the first connect where the
    module is known only then.
    """

    def __init__(
        self,
        connect: Callable[..., Any],
        args: tuple[Any, ...] = (),
        connect_args: ConnectArgs = None,
        *,
        module: ModuleType | None = None,
        check_query: str | None = None,
        is_clean: Callable[[Any], bool] | None = None,
        is_broken: Callable[[BaseException], bool | None] | None = None,
        reset_session: Callable[[Any], object] | None = None,
    ) -> None:
        if not callable(connect):
            raise TypeError(f"connect must be the driver's connect function, not {type(connect).__name__}")
        if not isinstance(args, (tuple, list)):  # a string would be taken letter by letter, a mapping name by name
            raise TypeError(f"args must be a tuple of what stands before connect_args, not {type(args).__name__}")
        check_connect_args(connect_args)
        self._connect = connect
        self._args = args
        self._connect_args = connect_args
        self._module = module or module_of(_unwrapped(connect))
        self._check_query = check_query
        self._says_clean = is_clean
        self._says_broken = is_broken
        self._reset_session = reset_session
        lacks = {"check": check_query is None, "is_clean": is_clean is None}
        self._lacks = frozenset(name for name, lacking in lacks.items() if lacking)
        if self._module is not None:
            _refuse_unsafe(self._module)

    def connect(self, timeout: float) -> Held:
        connection = self._connect(*self._args, **asked(self._connect_args, self))
        try:
            if self._module is None:
                self._module = module_of(type(within(connection)))
                if self._module is None:
                    raise TypeError(f"which driver has made {type(connection).__name__}? Say it by module=…")
                _refuse_unsafe(self._module)
            return Held(connection)
        except BaseException:
            connection.close()
            raise

    def view(self, held: Held) -> Any:
        return held.made

    def close(self, held: Held) -> None:
        alive = self.is_alive(held)  # else its user may have closed it, and some drivers refuse to do that again
        if transaction_status(held.connection) == _ACTIVE:
            self.interrupt(held)  # a thread waits for an answer, and psycopg2's close() would wait for the thread
        try:
            with hung_up(held.socket):
                held.connection.close()
        except Exception as error:
            # Else there is nobody to say goodbye to, and a restart breaks all of them.
            if alive and not self.is_broken(error):
                raise
        finally:
            # One whose goodbye fails may keep its socket open until it is collected; a socket's own close() waits for
            # the files that were made of it.
            if held.socket is not None and held.socket.fileno() >= 0:
                socket.close(held.socket.detach())

    def check(self, held: Held, timeout: float) -> None:
        with timed(held.socket, timeout):
            cursor = held.connection.cursor()
            cursor.execute(self._check_query)
            cursor.fetchall()
            cursor.close()
            self._roll_back(held)

    def reset(self, held: Held, mode: ResetMode) -> None:
        if not self.is_alive(held):  # which a rollback need not notice
            raise ConnectionError("the connection is closed")
        self._roll_back(held)
        if mode == "session":
            if self._reset_session is None:
                raise TypeError("reset='session' needs reset_session=…: the DB-API has no word for it")
            self._reset_session(held.connection)
        if held.autocommit is not None and autocommit(held.connection) != held.autocommit:
            set_autocommit(held.connection, held.autocommit)

    def is_alive(self, held: Held) -> bool:
        if getattr(held.connection, "closed", False) in (True, 1, 2):  # a method is none of these
            return False
        if held.socket is not None:
            return _sockets.looks_open(held.socket)
        number = fileno(held.connection)
        try:
            return number is None or not _sockets.readable(number)
        except (OSError, ValueError):
            return False

    def is_clean(self, held: Held) -> bool:
        return self._says_clean is not None and bool(self._says_clean(held.connection)) and self.is_alive(held)

    def remember(self, held: Held) -> None:
        # What on_connect did is to last; a failed transaction is the driver's to refuse.
        held.connection.commit()
        held.autocommit = autocommit(held.connection)

    def interrupt(self, held: Held) -> None:
        number = _number(held)
        if number is not None:
            _sockets.shut_down(number)

    def abandon(self, held: Held) -> None:
        super().abandon(held)  # a destructor may say goodbye: kept for ever, and led nowhere
        number = _number(held)
        if number is not None:
            _sockets.let_go(number)

    def begin(self, held: Held) -> None:
        if held.autocommit is True:
            set_autocommit(held.connection, False)  # from here on the driver begins by itself

    def commit(self, held: Held) -> None:
        held.connection.commit()
        self._ended(held)

    def rollback(self, held: Held) -> None:
        self._roll_back(held)
        self._ended(held)

    def is_broken(self, error: BaseException) -> bool:
        said = None if self._says_broken is None else self._says_broken(error)
        if said is not None:
            return said
        if not self._is_one_of(error, "Error"):
            return isinstance(error, OSError) and _passed_through(error, self._module)
        if state := _sqlstate(error):
            return state.startswith(_LOST) or state == _READ_ONLY
        return self._is_one_of(error, "OperationalError", "InterfaceError")

    def is_demoted(self, held: Held, error: BaseException) -> bool:
        return self._is_one_of(error, "Error") and _sqlstate(error) == _READ_ONLY

    def is_permanent(self, error: BaseException) -> bool:
        if isinstance(error, (TypeError, ValueError, ImportError, _Unsafe)):
            return True  # the arguments, or the driver itself: a part of it that is not there
        if self._is_one_of(error, "ProgrammingError", "NotSupportedError"):
            return True
        return self._is_one_of(error, "Error") and _sqlstate(error).startswith(_REFUSED)

    def is_retryable(self, error: BaseException) -> bool:
        return self._is_one_of(error, "Error") and _sqlstate(error) in _ROLLED_BACK

    def secrets(self) -> Iterator[str]:
        yield from super().secrets()
        yield from found(functools.partial(self._connect, *self._args))  # which argument is the password

    def __repr__(self) -> str:
        return f"DbapiFactory({_name(self._module, self._connect)})"

    def _roll_back(self, held: Held) -> None:
        try:
            held.connection.rollback()
        except Exception as error:
            if not self._is_one_of(error, "NotSupportedError"):  # a database without transactions
                raise
        # psycopg2 takes it that with autocommit there is nothing to roll back: not so after a BEGIN by hand.
        if transaction_status(held.connection):
            held.connection.cursor().execute("ROLLBACK")

    def _ended(self, held: Held) -> None:
        if held.autocommit is True:
            set_autocommit(held.connection, True)

    def _is_one_of(self, error: BaseException, *names: str) -> bool:
        """Whether the error is of the driver's classes of these names."""
        return any(isinstance(error, getattr(self._module, name, ())) for name in names)


def create(
    connect: Callable[..., C],
    *args: Any,
    connect_args: ConnectArgs = None,
    module: ModuleType | None = None,
    check_query: str | None = None,
    is_clean: Callable[[Any], bool] | None = None,
    is_broken: Callable[[BaseException], bool | None] | None = None,
    reset_session: Callable[[Any], object] | None = None,
    **options: Unpack[Options],
) -> Pool[C]:
    """A pool of what ``connect(*args, **connect_args)`` returns; :class:`DbapiFactory` explains the arguments."""
    if options.get("reset") == "session" and reset_session is None:
        raise ValueError("reset='session' needs reset_session=…: the DB-API has no word for it")
    if check_query is None and (options.get("check") == "ping" or options.get("keepalive") is not None):
        raise ValueError("check='ping' and keepalive need check_query=…: the DB-API has no word for a round trip")
    factory = DbapiFactory(
        connect, args, connect_args, module=module, check_query=check_query, is_clean=is_clean, is_broken=is_broken,
        reset_session=reset_session,
    )  # fmt: skip  # one argument list
    return Pool(factory, **options)


# -- the driver ---------------------------------------------------------------------------------------


def _unwrapped(connect: Any) -> Any:
    while isinstance(connect, functools.partial):
        connect = connect.func
    return connect


class _Unsafe(RuntimeError):
    """A driver that threads may not share."""


def _refuse_unsafe(module: ModuleType) -> None:
    if getattr(module, "threadsafety", None) == 0:
        raise _Unsafe(
            f"{module.__name__} says threadsafety = 0: threads may not share it, so its connections cannot be pooled"
        )


def _name(module: ModuleType | None, connect: Any) -> str:
    return module.__name__ if module is not None else getattr(connect, "__qualname__", type(connect).__name__)


def _sqlstate(error: BaseException) -> str:
    """The SQLSTATE of an error, as one driver or another tells it; empty where none does, or it is the general one."""
    first = error.args[0] if error.args else None
    found = (
        getattr(error, "sqlstate", None),
        getattr(error, "pgcode", None),
        first.get("C") if isinstance(first, dict) else first,
    )
    for state in found:
        if isinstance(state, str) and len(state) == _CODE and state.isalnum() and state.isupper() | state.isdigit():
            return "" if state == _GENERAL else state
    return ""


def _passed_through(error: BaseException, module: ModuleType | None) -> bool:
    """Whether an error comes from inside the driver: a socket's, which not every driver puts into its own words."""
    package = module.__name__.partition(".")[0] if module is not None else ""
    trace = error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == package:
            return True
        trace = trace.tb_next
    return False


def _number(held: Held) -> int | None:
    number = fileno(held.connection) if held.socket is None else held.socket.fileno()
    return number if number is not None and number >= 0 else None
