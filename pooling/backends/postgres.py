"""PostgreSQL by psycopg 3."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pooling._clock import monotonic
from pooling.backends import ConnectArgs, _sockets, asked, check_connect_args, check_user, unknown_option
from pooling.backends._traced import TracedFactory, noted
from pooling.factory import ResetMode
from pooling.pool import Pool

try:
    import psycopg
    from psycopg import errors
    from psycopg.adapt import AdaptersMap
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.errors import CancellationTimeout, ConnectionTimeout, PipelineAborted
    from psycopg.pq import Conninfo, ConnStatus, ExecStatus, PipelineStatus, TransactionStatus
except ImportError as error:
    raise ImportError("PostgreSQL needs psycopg 3.2 or later: pip install 'pooling[postgres]'") from error

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult
    from typing_extensions import Unpack

    from pooling.config import Options

Connection = psycopg.Connection[Any]

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_FATAL = ("FATAL", "PANIC")  # severities after which a session is over
_LOST = ("08", "57P")  # connection exceptions, interventions of the operator
_READ_ONLY = "25006"  # a primary that was demoted under us
_SAYS_READ_ONLY = (b"in_hot_standby", b"default_transaction_read_only")
_NOT_SUPPORTED, _STALE_PLAN = "0A000", "RevalidateCachedQuery"  # a code for many things, the server's function for one
# Undone, or refused: serialization failure, deadlock, lock not available.
_NOTHING_DONE = {"40001", "40P01", "55P03", _READ_ONLY}
_CLIENT_SIDE = (PipelineAborted, CancellationTimeout, ConnectionTimeout)
# A failed connect carries no code, only text. In another language than English none of these is found, and the error
# counts as passing: the waiters learn of it after fail_after. The last row is PgBouncer's.
_PERMANENT = (
    "authentication failed", "does not exist", "no pg_hba.conf entry", "pg_hba.conf rejects", "no password supplied",
    "certificate verify failed", "certificate file", "private key file", "alert certificate", "alert bad certificate",
    "alert unknown ca", "alert protocol version", "does not support SSL", "is not permitted to log in",
    "permission denied for database", "is not currently accepting connections", "invalid connection option",
    "server certificate", "requires a valid client certificate",
    "connection is bad: invalid", "invalid integer value", "must be an integer",
    "could not parse network address", "weak sslmode",
    "definition of service", "channel binding required", "authentication method requirement",
    "unrecognized configuration parameter", "invalid value for parameter", "outside the valid range for parameter",
    "cannot be changed", "permission denied to set", "invalid command-line argument",
    "no such database", "no such user", "unsupported startup parameter", "login rejected", "SSL required",
)  # fmt: skip  # a list
# What users can change on psycopg's object: what the next transaction begins with, and what only a whole session has.
_OF_TRANSACTIONS = ("autocommit", "isolation_level", "read_only", "deferrable")
_OF_SESSIONS = ("row_factory", "cursor_factory", "server_cursor_factory", "prepare_threshold", "prepared_max")
_ALL_OF_THEM = "\nMultiple connection attempts failed. All failures were:"  # psycopg's words, before a line for each
_WHERE = ("host", "hostaddr", "port")  # each may list several
_LEAVING = 0.25  # seconds that a thread has to leave a connection to be closed: a generator need not be driven by any
_READS = 16  # reads on one peek: who has sent more than that is alive


class PostgresFactory(TracedFactory[Connection]):
    """Connections to PostgreSQL, given as a libpq connection string or URI.

    ``connect_args`` goes to :meth:`psycopg.Connection.connect`. A ``connect_timeout`` there or in the string counts
    where it is shorter than the pool's. psycopg rounds it to whole seconds, two at least; an acquire ends in time
    all the same, since it does not wait for the driver. Several hosts share the time, as psycopg tries one after the
    other. Where it was not enough, as some do not answer, the next connect begins with the next of them.

    Raises ValueError for a connection string that cannot be read, TypeError for an option in it that libpq lacks.
    """

    def __init__(self, conninfo: str = "", connect_args: ConnectArgs = None) -> None:
        check_user(conninfo)
        check_connect_args(connect_args)
        parts = _parts(conninfo)
        place = parts.get("host") or parts.get("hostaddr") or os.environ.get("PGHOST") or "localhost"
        self.where = f"{place}:{parts.get('port') or os.environ.get('PGPORT') or 5432}/{parts.get('dbname') or ''}"
        if "service" in parts and "host" not in parts:  # where that is, stands in libpq's file
            self.where = f"service={parts['service']}"
        self._conninfo = conninfo  # has the password in it
        self._connect_timeout = parts.get("connect_timeout")
        self._places = {name: parts[name] for name in _WHERE if name in parts}
        self._turn = 0  # of several hosts the one to begin with
        self._connect_args = connect_args

    def connect(self, timeout: float) -> Connection:
        args = asked(self._connect_args, self)
        places = {name: str({**self._places, **args}.get(name) or "").split(",") for name in _WHERE}
        several = max(map(len, places.values()))
        turn = self._turn % several
        args |= {name: ",".join(each[turn:] + each[:turn]) for name, each in places.items() if len(each) > 1}
        args["connect_timeout"] = _shorter(timeout / several, args.get("connect_timeout", self._connect_timeout))
        began = monotonic()
        try:
            connection: _Connection = noted(_Connection.connect(self._conninfo, **args))
        finally:
            self._turn = turn + 1 if monotonic() - began > timeout else 0
        self.remember(connection)
        return connection

    def close(self, connection: Connection) -> None:
        # A thread that is at work on it has the lock. It would go on with what close() frees, and the process die.
        lock = connection.lock
        if lock.locked():
            self.interrupt(connection)
        left = lock.acquire(timeout=_LEAVING)
        try:
            connection.close()
        finally:
            if left:
                lock.release()

    def check(self, connection: Connection, timeout: float) -> None:
        # An empty query, by libpq's own calls: psycopg's have no timeout.
        until = monotonic() + timeout
        pgconn = connection.pgconn
        pgconn.send_query(b"")
        while (result := _next_result(pgconn, until)) is not None:
            if result.status != ExecStatus.EMPTY_QUERY:
                raise psycopg.OperationalError("the connection answered a check with an error")

    def reset(self, connection: Connection, mode: ResetMode) -> None:
        known = _known(connection)
        if known.pgconn.transaction_status == TransactionStatus.UNKNOWN:
            raise psycopg.OperationalError("the connection is closed")
        if unfinished := known.unfinished():
            raise psycopg.InterfaceError(unfinished)
        known.rollback()  # refused where a connection.transaction() was not ended
        if mode == "session":
            known.restore(_OF_SESSIONS)
            known.autocommit = True  # DISCARD ALL is refused in a transaction
            # Of a statement that psycopg has seen before it does not look at the answer, so it would take what it has
            # prepared for still there. Its own rollback() tells it in this way.
            known._prepared.clear()
            # prepare=False: prepared like any other statement it would discard itself and fail.
            known.execute("DISCARD ALL", prepare=False)
            known.forget()
        known.restore(_OF_TRANSACTIONS)
        known.touched = False

    def is_alive(self, connection: Connection) -> bool:
        # Something to read may be a notice, a parameter's new value, a notification, a TLS session ticket: libpq
        # takes those in and keeps the connection. The end of the stream makes the second or third read fail; where it
        # is still on its way, what the server said before has told us.
        known = _known(connection)
        pgconn = known.pgconn
        try:
            for _ in range(_READS):
                if not _sockets.readable(pgconn.socket):
                    break
                pgconn.consume_input()
                pgconn.is_busy()  # has libpq look at what it read: see _heed
            return pgconn.status == ConnStatus.OK and not known.dismissed
        except (psycopg.Error, OSError, ValueError):
            return False

    def is_clean(self, connection: Connection) -> bool:
        known = _known(connection)
        pgconn = known.pgconn
        return (
            pgconn.transaction_status == TransactionStatus.IDLE
            and pgconn.pipeline_status == PipelineStatus.OFF
            and known.autocommit == known.defaults["autocommit"]
            and not known.touched
            and not known._num_transactions
            and not known.lock.locked()
        )

    def remember(self, connection: Connection) -> None:
        # What on_connect did outside autocommit is to last: left open, its transaction would be the first user's, and
        # rolled back with it.
        known = _known(connection)
        if known.pgconn.transaction_status == TransactionStatus.INERROR:
            raise errors.InFailedSqlTransaction("on_connect has left a failed transaction")
        if unfinished := known.unfinished():
            raise psycopg.InterfaceError(f"on_connect has left something open: {unfinished}")
        known.commit()
        known.defaults = {name: getattr(known, name) for name in _OF_TRANSACTIONS + _OF_SESSIONS}
        known.touched = False

    def interrupt(self, connection: Connection) -> None:
        try:
            descriptor = connection.fileno()
        except psycopg.OperationalError:
            return  # it is closed
        _sockets.shut_down(descriptor)

    def abandon(self, connection: Connection) -> None:
        # close() alone would end the parent's session; once the descriptor leads nowhere it only frees memory.
        if connection.closed:
            return
        if _sockets.let_go(connection.fileno()):
            connection.close()
        else:
            super().abandon(connection)

    def abandon_in_use(self, connection: Connection) -> None:
        super().abandon(connection)
        if not connection.closed:
            _sockets.let_go(connection.fileno())

    def begin(self, connection: Connection) -> None:
        # psycopg's own block: begins with the connection's isolation level, with autocommit on or off, and makes a
        # connection.transaction() within it a savepoint.
        block = _known(connection).block = psycopg.Transaction(connection)
        block.__enter__()

    def commit(self, connection: Connection) -> None:
        if connection.closed:
            raise psycopg.OperationalError("the connection is closed: nothing was committed")  # psycopg says nothing
        # In a pipeline a COMMIT would only be queued; behind anything else it would wait for ever, as the one who can
        # end that is waiting here.
        if unfinished := _known(connection).unfinished():
            raise psycopg.InterfaceError(f"{unfinished} within the transaction: it was not committed")
        if connection.pgconn.transaction_status == TransactionStatus.INERROR:
            self.rollback(connection)  # which is what the server would do, without a word
            raise errors.InFailedSqlTransaction("a statement has failed: the transaction was rolled back")
        _known(connection).end(None)

    def rollback(self, connection: Connection) -> None:
        known = _known(connection)
        if not known.unfinished():  # else it is closed, which ends the transaction as well
            known.end(psycopg.Rollback())

    def is_broken(self, error: BaseException) -> bool:
        if not isinstance(error, psycopg.Error):
            return False
        if error.sqlstate is None:
            return isinstance(error, psycopg.OperationalError) and not isinstance(error, _CLIENT_SIDE)
        return (
            error.diag.severity_nonlocalized in _FATAL
            or error.sqlstate.startswith(_LOST)
            or error.sqlstate == _READ_ONLY
            or _is_outdated(error)
        )

    def is_demoted(self, connection: Connection, error: BaseException) -> bool:
        if _is_outdated(error):
            return True
        if not isinstance(error, psycopg.Error) or error.sqlstate != _READ_ONLY:
            return False
        # From version 14 on a server says by itself whether it is read-only. If not, the user's own transaction was.
        told = [] if connection.closed else [connection.pgconn.parameter_status(name) for name in _SAYS_READ_ONLY]
        return not told or None in told or b"on" in told

    def is_permanent(self, error: BaseException) -> bool:
        if isinstance(error, (psycopg.ProgrammingError, errors.InvalidParameterValue, TypeError, ValueError)):
            return True  # the connection string, the arguments, or what on_connect executes
        return isinstance(error, psycopg.Error) and all(map(_told_for_good, _by_host(str(error))))

    def is_retryable(self, error: BaseException) -> bool:
        return isinstance(error, psycopg.Error) and (error.sqlstate in _NOTHING_DONE or _is_outdated(error))

    def __repr__(self) -> str:
        return f"PostgresFactory({self.where})"


def create(url: str, connect_args: ConnectArgs = None, **options: Unpack[Options]) -> Pool[Connection]:
    """A pool for ``postgresql://user@host:port/database?option=value``, as libpq reads it."""
    factory = PostgresFactory("postgresql://" + url.partition("://")[2], connect_args)
    options.setdefault("name", factory.where)
    return Pool(factory, **options)


class _Connection(psycopg.Connection[Any]):
    """A connection that knows how it was when it was new, and what was added to it since.

    psycopg has no way to list handlers and to take adapters back, so this notes what passes through.
    """

    _num_transactions = 0  # psycopg's count of its open blocks, should it ever be without one

    def __init__(self, pgconn: PGconn, *args: Any) -> None:
        self.defaults: dict[str, Any] = {}
        self.block: psycopg.Transaction | None = None  # the one of Pool.transaction()
        # Whether what psycopg itself knows of transactions may differ: what they begin with, one that is prepared.
        self.touched = False
        self.dismissed = False  # the server has said that the session is over
        self._handlers: list[tuple[str, Callable[[Any], None]]] = []
        self._own_adapters: AdaptersMap | None = None
        super().__init__(pgconn, *args)
        super().add_notice_handler(partial(_heed, weakref.ref(self)))

    def forget(self) -> None:
        """Drop handlers, adapters and notifications that have not been read."""
        for kind, handler in self._handlers[:]:
            getattr(self, f"remove_{kind}_handler")(handler)
        self._own_adapters = None
        for _ in self.notifies(timeout=0):
            pass

    def restore(self, names: Iterable[str]) -> None:
        """Set what users can change on psycopg's object back; sends nothing."""
        for name in names:
            setattr(self, name, self.defaults[name])

    def unfinished(self) -> str:
        """What was begun and not ended, so that nothing else can be sent; "" if nothing was."""
        if self.pgconn.pipeline_status != PipelineStatus.OFF:
            return "a pipeline was not ended"
        if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
            return "a query or COPY is still under way"
        # Which notifies() does between two notifications: to wait for the lock would be to wait for its user.
        return "a generator of notifies() was not closed" if self.lock.locked() else ""

    def end(self, error: BaseException | None) -> None:
        """End the block of Pool.transaction()."""
        block, self.block = self.block, None
        if block is not None:
            block.__exit__(None if error is None else type(error), error, None)

    def notifies(self, **options: Any) -> Generator[psycopg.Notify]:
        # What a look or a check has taken in lies with libpq, and psycopg does not ask that before more has come.
        # (Those that keep no backlog do; and where there is none for a moment, a generator runs that is to read it.)
        if getattr(self, "_notifies_backlog", None) is not None:
            with self.lock:
                self._hand_on_notifications()
        return super().notifies(**options)

    def _hand_on_notifications(self) -> None:
        # A function of its own: CPython takes the jump at the end of a loop for a place outside of the "with" around.
        while (note := self.pgconn.notifies()) is not None:
            if self.pgconn.notify_handler is not None:
                self.pgconn.notify_handler(note)

    def add_notice_handler(self, callback: Callable[[errors.Diagnostic], None]) -> None:
        super().add_notice_handler(callback)
        self._handlers.append(("notice", callback))

    def remove_notice_handler(self, callback: Callable[[errors.Diagnostic], None]) -> None:
        super().remove_notice_handler(callback)
        self._handlers.remove(("notice", callback))

    def add_notify_handler(self, callback: Callable[[psycopg.Notify], None]) -> None:
        super().add_notify_handler(callback)
        self._handlers.append(("notify", callback))

    def remove_notify_handler(self, callback: Callable[[psycopg.Notify], None]) -> None:
        super().remove_notify_handler(callback)
        self._handlers.remove(("notify", callback))

    @property
    def adapters(self) -> AdaptersMap:
        if self._own_adapters is None:
            self._own_adapters = AdaptersMap(super().adapters)
        return self._own_adapters

    def tpc_begin(self, xid: psycopg.Xid | str) -> None:
        self.touched = True
        super().tpc_begin(xid)

    # psycopg's properties are set through these.
    def set_isolation_level(self, value: psycopg.IsolationLevel | None) -> None:
        self.touched = True
        super().set_isolation_level(value)

    def set_read_only(self, value: bool | None) -> None:
        self.touched = True
        super().set_read_only(value)

    def set_deferrable(self, value: bool | None) -> None:
        self.touched = True
        super().set_deferrable(value)


def _known(connection: Connection) -> _Connection:
    return connection  # type: ignore[return-value]  # connect() makes no others


def _next_result(pgconn: PGconn, until: float) -> PGresult | None:
    """What the server has answered; None at the end of it. Raises where it has not come until then."""
    # Before each one, the None as well: with the end of an answer still on its way get_result() would wait for it,
    # for ever, and with the interpreter's own lock held.
    while pgconn.flush() or pgconn.is_busy():
        if not _sockets.wait_readable(pgconn.socket, until - monotonic()):
            raise psycopg.OperationalError("no answer in time")
        pgconn.consume_input()
    return pgconn.get_result()


def _heed(reference: weakref.ref[_Connection], notice: errors.Diagnostic) -> None:
    """Take in what a server says before it hangs up on an idle connection."""
    connection = reference()
    if connection is not None and notice.severity_nonlocalized in _FATAL:
        connection.dismissed = True


def _is_outdated(error: BaseException) -> bool:
    """Whether a table was altered under a statement that psycopg has prepared. It forgets those with a rollback; with
    autocommit there is none, and the statement would fail on this connection, and on all others, for ever."""
    return (
        isinstance(error, psycopg.Error)
        and error.sqlstate == _NOT_SUPPORTED
        and error.diag.source_function == _STALE_PLAN
    )


def _told_for_good(text: str) -> bool:
    return any(permanent in text for permanent in _PERMANENT)


def _by_host(text: str) -> list[str]:
    """What was said of each host and port that a connect has tried. Where one of several may yet be reached, as while
    the primary restarts, it is no matter that another one would refuse for good."""
    _, _, list_of_all = text.partition(_ALL_OF_THEM)
    by_host: dict[str, str] = {}  # one that has several addresses is one host
    for each in list_of_all.split("\n- host: ")[1:]:
        place, _, said = each.partition(", hostaddr: ")
        by_host[place] = by_host.get(place, "") + said
    return list(by_host.values()) or [text]  # where only one was tried, nothing is listed


def _parts(conninfo: str) -> dict[str, Any]:
    """The connection string, taken apart. Its errors never repeat it: it may hold a password."""
    parts: dict[str, Any] | None
    try:
        parts = conninfo_to_dict(conninfo)
    except (psycopg.ProgrammingError, UnicodeError):
        parts = None
    if parts is None:  # told from out here: below an error that came of libpq's, its text would be shown as well
        if error := _unknown(conninfo):
            raise error
        parts = {"host": "@"}
    # A password with a bare @ or / in it ends up in other parts.
    ports = str(parts.get("port") or 0).split(",")
    if "@" in str(parts.get("host")) or not all(port.isdigit() or not port for port in ports):
        raise ValueError(
            "the PostgreSQL connection string cannot be read: it looks like "
            "postgresql://user:password@host:port/database?option=value, with special characters percent-encoded"
        )
    return parts


def _unknown(conninfo: str) -> TypeError | None:
    """An error that names the first option of a URL that libpq does not have; None where something else is wrong."""
    base, _, query = conninfo.partition("?")
    if not query or "@" in query or not base.startswith(("postgresql://", "postgres://")):
        return None  # what reads like an option may be the rest of a password
    _parts(base)  # raises where it is this that cannot be read
    known = [option.keyword.decode() for option in Conninfo.get_defaults()]
    names = (unquote(option.partition("=")[0]) for option in query.split("&"))
    name = next((name for name in names if name not in known), None)
    if name is None:
        return None
    meant = "sslmode" if name == "ssl" else name.lower()  # ssl: as JDBC and asyncpg have it
    return unknown_option(name, "PostgreSQL", known, meant=meant)


def _shorter(timeout: float, given: Any) -> int:
    """libpq's connect_timeout: whole seconds, where 0 means none."""
    whole = math.ceil(timeout)
    try:
        seconds = int(float(given or 0))
    except (ValueError, OverflowError):
        raise ValueError(f"connect_timeout must be a number of seconds, not {given!r}") from None
    return min(whole, seconds) if seconds > 0 else whole
