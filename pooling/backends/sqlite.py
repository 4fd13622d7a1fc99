"""SQLite by the standard library's sqlite3."""

from __future__ import annotations

import itertools
import os
import sqlite3
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode

from pooling.backends import ConnectArgs, asked, check_connect_args, on_or_off, read_option, unknown_option
from pooling.backends._traced import TracedFactory, noted
from pooling.factory import ResetMode
from pooling.pool import Pool

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from pooling.config import Options

R = TypeVar("R")

# https://www.sqlite.org/rescode.html
_BUSY, _LOCKED, _READONLY, _IOERR, _CORRUPT, _CANTOPEN, _NOTADB = 5, 6, 8, 10, 11, 14, 26
_MOVED = "SQLITE_READONLY_DBMOVED"  # the file was deleted or replaced: the connection leads to the one of before
# By what an error is told from others in Python 3.10, which does not give its code.
_TEXTS = {
    "database is locked": _BUSY,
    "table is locked": _LOCKED,
    "readonly database": _READONLY,
    "disk I/O error": _IOERR,
    "malformed": _CORRUPT,
    "unable to open": _CANTOPEN,
    "not a database": _NOTADB,
}
# What users can change on Python's object; autocommit is there from Python 3.12 on.
_ATTRIBUTES = ("isolation_level", "autocommit", "row_factory", "text_factory")
_LOCKING = ("locking_mode", "main.locking_mode")  # the first tells only what databases to come will have
_JOURNAL = "main.journal_mode"  # what a connection does without a write-ahead log; that is the file's own
# What a session can have changed and SQLite can tell.
_PRAGMAS = (
    "analysis_limit", "automatic_index", "busy_timeout", "cache_size", "cache_spill", "cell_size_check",
    "checkpoint_fullfsync", "count_changes", "defer_foreign_keys", "empty_result_callbacks", "foreign_keys",
    "full_column_names", "fullfsync", "ignore_check_constraints", _JOURNAL, "journal_size_limit", "legacy_alter_table",
    *_LOCKING, "max_page_count", "mmap_size", "query_only", "read_uncommitted", "recursive_triggers",
    "reverse_unordered_selects", "secure_delete", "short_column_names", "synchronous", "temp_store", "threads",
    "trusted_schema", "wal_autocheckpoint", "writable_schema",
)  # fmt: skip  # a list
_LIKE = "SELECT 'a' LIKE 'A'"  # the one pragma that does not answer, case_sensitive_like, seen by what it does
_LIMITS = [code for name, code in vars(sqlite3).items() if name.startswith("SQLITE_LIMIT_")]  # from Python 3.11
_SWITCHES = [code for name, code in vars(sqlite3).items() if name.startswith("SQLITE_DBCONFIG_")]  # from Python 3.12
# What a user can register. SQLite neither lists it nor takes it back.
_REGISTERING = ("create_function", "create_aggregate", "create_window_function", "create_collation", "load_extension")
_BUSY_TIMEOUT = 5.0  # seconds; sqlite3's own default
_KNOCKS, _PAUSE = 10, 0.002  # how often a thread at work is told to end, and seconds it has to do so each time
_memories = itertools.count(1)


class SqliteFactory(TracedFactory[sqlite3.Connection]):
    """Connections to one SQLite database.

    ``database`` is a path, or ``":memory:"``: one database in memory, shared by all connections of this factory and
    gone with it. Files that can be written are put into WAL mode (``wal=False`` leaves them as they are), so that
    readers and a writer do not block each other. ``connect_args`` goes to :func:`sqlite3.connect`;
    ``check_same_thread`` is always False, as a pool hands a connection from thread to thread, to one at a time.
    """

    def __init__(self, database: str | os.PathLike[str], connect_args: ConnectArgs = None, *, wal: bool = True) -> None:
        if sqlite3.threadsafety == 0:
            raise RuntimeError("this SQLite library was built without thread safety: it cannot be pooled")
        check_connect_args(connect_args)
        database = os.fspath(database)
        memory = database == ":memory:"
        self.database = database
        self._target = _shared_memory() if memory else database
        self._forced: dict[str, Any] = {"check_same_thread": False, **({"uri": True} if memory else {})}
        self._connect_args = connect_args
        self._wal = wal and not memory
        if memory:
            # The database lives as long as one connection to it does: this one, until the factory goes.
            keeper = sqlite3.connect(self._target, **self._forced)
            weakref.finalize(self, keeper.close)

    def connect(self, timeout: float) -> sqlite3.Connection:
        args = {"timeout": _BUSY_TIMEOUT, "factory": _Connection, **asked(self._connect_args, self), **self._forced}
        if isinstance(args["factory"], type):
            args["factory"] = _watched(args["factory"])
        connection: sqlite3.Connection = noted(sqlite3.connect(self._target, **args))
        try:
            if not isinstance(connection, _Connection):  # made by a user's function: what reads from it is not known
                if not hasattr(connection, "__dict__"):
                    raise TypeError(
                        "the factory in connect_args has made a plain sqlite3.Connection, on which no pool can note "
                        "anything: let it make one of a subclass"
                    )
                _known(connection).readers = set()
                _known(connection).registered = _known(connection).elsewhere = False
            with _undisturbed(connection):
                if self._wal:
                    _write_ahead(connection)
                _ask(connection, "SELECT 1 FROM sqlite_master")  # touches the file: sqlite3.connect() does not
            self.remember(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self, connection: sqlite3.Connection) -> None:
        known = _known(connection)
        known.ended = True
        if known.readers:
            # A thread may be at work on it: sqlite3 would go on there with what close() has freed, and the process die.
            # It does not say who has left, so what is under way is told to end, again and again, then waited for.
            for _ in range(_KNOCKS):
                self.interrupt(connection)
                time.sleep(_PAUSE)
            with suppress(sqlite3.Error):
                sqlite3.Connection.execute(connection, "SELECT 1")  # waits; last, as it wipes out the error there
            time.sleep(_PAUSE)
        connection.close()

    def check(self, connection: sqlite3.Connection, timeout: float) -> None:
        _ask(connection, "SELECT 1")

    def reset(self, connection: sqlite3.Connection, mode: ResetMode) -> None:
        if _known(connection).elsewhere:
            raise sqlite3.InterfaceError("a user has put another database in the place of the pool's: deserialize()")
        _end_reading(_known(connection))
        self.rollback(connection)
        _restore(connection, _ATTRIBUTES if mode == "session" else _ATTRIBUTES[:2])
        if connection.in_transaction:  # begun by autocommit=False, and kept by every other value
            self.rollback(connection)
        if mode == "session":
            if _known(connection).registered:
                raise sqlite3.InterfaceError("what a user has registered with SQLite cannot be taken away again")
            with _undisturbed(connection):
                _clear_session(connection)

    def is_alive(self, connection: sqlite3.Connection) -> bool:
        try:
            return connection.total_changes >= 0
        except sqlite3.ProgrammingError:  # closed
            return False

    def is_clean(self, connection: sqlite3.Connection) -> bool:
        known = _known(connection)
        defaults = known.defaults
        try:
            if known.readers:
                _end_reading(known)  # cheaper than to have a worker do it, for whoever has a cursor in a variable
            return (
                not connection.in_transaction
                and not known.elsewhere
                and connection.isolation_level == defaults["isolation_level"]
                and getattr(connection, "autocommit", None) == defaults["autocommit"]
            )
        except sqlite3.ProgrammingError:  # closed
            return False

    def remember(self, connection: sqlite3.Connection) -> None:
        # What on_connect did in a transaction is to last: left open, it would be the first user's, and rolled back
        # with it.
        known = _known(connection)
        _end_reading(known)
        self.commit(connection)
        known.defaults = {name: getattr(connection, name, None) for name in _ATTRIBUTES}
        with _undisturbed(connection):
            try:
                known.pragmas = {name: rows[0][0] for name in _PRAGMAS if (rows := _ask(connection, f"PRAGMA {name}"))}
                known.like = _ask(connection, _LIKE)
            except sqlite3.DatabaseError as error:
                # By an authorizer of on_connect's: what was noted when the connection was new has to do.
                if "not authorized" not in str(error):
                    raise
        new: Any = connection  # mypy sees Python 3.10's, which has neither limits nor switches
        known.limits = {limit: new.getlimit(limit) for limit in _LIMITS}
        known.switches = {switch: new.getconfig(switch) for switch in _SWITCHES}
        known.registered = known.elsewhere = False

    def interrupt(self, connection: sqlite3.Connection) -> None:
        try:
            connection.interrupt()
        except sqlite3.ProgrammingError:
            pass  # it is closed

    def abandon(self, connection: sqlite3.Connection) -> None:
        # Not kept open: SQLite counts on a file's locks for all connections of a process together, and the kernel does
        # not pass them on to a child. With the parent's still there, a child's own connection takes no lock at all, and
        # loses its write-ahead log to whoever closes the file last.
        connection.close()

    def abandon_in_use(self, connection: sqlite3.Connection) -> None:
        super().abandon(connection)  # close() would wait for ever on a mutex of the parent's thread

    def begin(self, connection: sqlite3.Connection) -> None:
        if not connection.in_transaction:
            connection.execute(f"BEGIN {connection.isolation_level or ''}")

    def commit(self, connection: sqlite3.Connection) -> None:
        _end(connection, "COMMIT")

    def rollback(self, connection: sqlite3.Connection) -> None:
        _end(connection, "ROLLBACK")

    def is_broken(self, error: BaseException) -> bool:
        if isinstance(error, sqlite3.ProgrammingError):
            return "closed database" in str(error)
        damaged = isinstance(error, sqlite3.DatabaseError) and _code(error) in (_CORRUPT, _IOERR, _NOTADB)
        return damaged or getattr(error, "sqlite_errorname", "") == _MOVED

    def is_demoted(self, connection: sqlite3.Connection, error: BaseException) -> bool:
        return getattr(error, "sqlite_errorname", "") == _MOVED

    def is_permanent(self, error: BaseException) -> bool:
        if isinstance(error, (sqlite3.ProgrammingError, TypeError, ValueError)):
            return True  # the arguments, or what on_connect executes
        return isinstance(error, sqlite3.Error) and _code(error) in (_READONLY, _CORRUPT, _CANTOPEN, _NOTADB)

    def is_retryable(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.OperationalError) and _code(error) in (_BUSY, _LOCKED)

    def __repr__(self) -> str:
        return f"SqliteFactory({self.database!r})"


def create(url: str, connect_args: ConnectArgs = None, **options: Unpack[Options]) -> Pool[sqlite3.Connection]:
    """A pool for ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``sqlite://`` (in memory, shared).

    A query string gives arguments of :func:`sqlite3.connect`, such as ``?timeout=20``, and ``wal=0``. With ``uri=1``
    the path is a URI of SQLite's own and the rest of the query is for it: ``sqlite:///file:path?mode=ro&uri=1``.

    Raises ValueError for a host or a value that cannot be, TypeError for an unknown argument.
    """
    location, _, query = url.partition("://")[2].partition("?")
    host, _, path = location.partition("/")
    if host:
        raise ValueError("an SQLite URL has no host: sqlite:///relative.db or sqlite:////absolute.db")
    database = unquote(path) or ":memory:"
    given = dict(parse_qsl(query, keep_blank_values=True))
    args: dict[str, Any] = {
        name: read_option(name, given.pop(name), read, "SQLite") for name, read in _QUERY.items() if name in given
    }
    args.pop("check_same_thread", None)  # FastAPI's tutorial has taught everybody to write it
    wal = args.pop("wal", True)
    if args.get("uri") and given:
        database += "?" + urlencode(given, safe="/:")
    elif given:
        raise unknown_option(next(iter(given)), "SQLite", _QUERY, listed=True)
    options.setdefault("name", database.partition("?")[0].rpartition("/")[2])
    return Pool(SqliteFactory(database, lambda: {**args, **asked(connect_args)}, wal=wal), **options)


class _Connection(sqlite3.Connection):
    """A connection that knows how it was when it was new, and what may still be reading from it.

    A cursor that was not read to its end keeps a read transaction open, of which ``in_transaction`` says nothing. The
    next user would see the data of then, and could not write once somebody else has. sqlite3 knows its cursors and
    shows them to nobody, and its ``execute`` does not ask ``cursor`` for one.
    """

    defaults: dict[str, Any]
    pragmas: dict[str, Any]
    like: list[Any]
    limits: dict[int, int]
    switches: dict[int, bool]
    readers: set[weakref.ref[Any]]
    registered: bool
    elsewhere: bool  # it leads to another database than the one it was opened for
    ended = False  # nothing is begun on it any more

    def __new__(cls, *_: Any, **__: Any) -> Self:  # not __init__: a subclass may execute something before it calls that
        connection = super().__new__(cls)
        connection.readers, connection.registered, connection.elsewhere = set(), False, False
        return connection

    def cursor(self, *args: Any, **options: Any) -> Any:
        return self._noted(super().cursor(*args, **options))

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        return self._noted(super().cursor()).execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        return self._noted(super().cursor()).executemany(sql, parameters)

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        return self._noted(super().cursor()).executescript(sql_script)

    if sys.version_info >= (3, 11):

        def blobopen(self, *args: Any, **options: Any) -> sqlite3.Blob:
            return self._noted(super().blobopen(*args, **options))

        def deserialize(self, *args: Any, **options: Any) -> None:
            self.elsewhere = True
            super().deserialize(*args, **options)

    def _noted(self, reader: R) -> R:
        self.readers.add(weakref.ref(reader, self.readers.discard))
        if self.ended:  # asked last: close() says so first, and looks at the readers then
            raise sqlite3.ProgrammingError("Cannot operate on a closed database.")
        return reader


def _noting(name: str) -> Callable[..., Any]:
    def register(self: _Connection, *args: Any, **options: Any) -> Any:
        self.registered = True
        return getattr(super(_Connection, self), name)(*args, **options)

    return register


for _name in _REGISTERING:
    if hasattr(sqlite3.Connection, _name):
        setattr(_Connection, _name, _noting(_name))


@lru_cache
def _watched(given: type[sqlite3.Connection]) -> type[sqlite3.Connection]:
    """A user's own class of connections, with ours behind it."""
    if issubclass(_Connection, given):
        return _Connection
    return type(given.__name__, (given, _Connection), {"__module__": given.__module__})


def _known(connection: sqlite3.Connection) -> _Connection:
    return connection  # type: ignore[return-value]  # or made by a user's function: see connect()


def _end_reading(connection: _Connection) -> None:
    """Close every cursor and blob that is still there: whoever reads on gets an error, not somebody else's rows."""
    for reference in list(connection.readers):
        reader = reference()
        if reader is not None:
            reader.close()
    connection.readers.clear()


def _shared_memory() -> str:
    number = next(_memories)
    if sqlite3.sqlite_version_info >= (3, 36):
        # The memdb VFS locks like a file does; a shared cache fails at once with "table is locked".
        return f"file:/pooling-{number}?vfs=memdb"
    return f"file:pooling-{number}?mode=memory&cache=shared"


def _ask(connection: sqlite3.Connection, statement: str) -> list[Any]:
    cursor = connection.cursor()
    cursor.row_factory = None  # a user's may make anything of a row
    return cursor.execute(statement).fetchall()


def _write_ahead(connection: sqlite3.Connection) -> None:
    try:
        _ask(connection, "PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        if _code(error) != _READONLY:  # a file that can only be read has no writer who could be in the way
            raise


def _end(connection: sqlite3.Connection, statement: str) -> None:
    if getattr(connection, "autocommit", None) is not True:
        (connection.commit if statement == "COMMIT" else connection.rollback)()
    elif connection.in_transaction:  # begun by a BEGIN of its own, of which commit() and rollback() know nothing there
        connection.execute(statement)


@contextmanager
def _undisturbed(connection: sqlite3.Connection) -> Iterator[None]:
    """With no transaction open (with autocommit=False Python sees to it that there always is one), and with texts as
    str: a user may want them as anything else, and the path of a file need not be UTF-8."""
    autocommit, texts = getattr(connection, "autocommit", None), connection.text_factory
    connection.text_factory = _decoded
    if autocommit is False:
        connection.autocommit = True  # type: ignore[attr-defined,unused-ignore]  # there from Python 3.12 on
    yield
    if autocommit is False:
        connection.autocommit = False  # type: ignore[attr-defined,unused-ignore]
    connection.text_factory = texts


def _decoded(text: bytes) -> str:
    return text.decode(errors="surrogateescape")


def _restore(connection: sqlite3.Connection, names: tuple[str, ...]) -> None:
    for name in names:
        value = _known(connection).defaults[name]
        if hasattr(connection, name) and getattr(connection, name) != value:
            setattr(connection, name, value)


def _clear_session(connection: sqlite3.Connection) -> None:
    known: Any = connection  # mypy sees Python 3.10's, which has neither limits nor switches
    for limit, most in known.limits.items():
        known.setlimit(limit, most)  # first: what follows may be too long for a user's
    for switch, on in known.switches.items():
        if known.getconfig(switch) != on:
            known.setconfig(switch, on)
    connection.set_trace_callback(None)
    connection.set_progress_handler(None, 0)
    # First one that allows everything: with it SQLite compiles every statement anew. Python keeps those that a user's
    # authorizer has changed, and would execute them again. And before Python 3.11 None denies everything.
    connection.set_authorizer(_allow)
    if sys.version_info >= (3, 11):
        connection.set_authorizer(None)
    if _ask(connection, _LIKE) != known.like:
        _ask(connection, f"PRAGMA case_sensitive_like = {known.like != [(1,)]:d}")
    unlocked = False
    for name, value in known.pragmas.items():
        now = _ask(connection, f"PRAGMA {name}")[0][0]
        if now != value and (name, now) != (_JOURNAL, "wal"):
            _ask(connection, f"PRAGMA {name} = {value}")
            unlocked |= name in _LOCKING
    if unlocked:
        _ask(connection, "SELECT 1 FROM sqlite_master LIMIT 1")  # SQLite lets go of the file when it next reads it
    for _, name, _ in _ask(connection, "PRAGMA database_list"):
        if name not in ("main", "temp"):
            _ask(connection, f"DETACH {_quoted(name)}")
    listed = "SELECT type, name FROM sqlite_temp_master WHERE type IN ('table', 'view', 'trigger')"
    for kind, name in _ask(connection, listed + r" AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY type DESC"):
        _ask(connection, f"DROP {kind} IF EXISTS temp.{_quoted(name)}")


def _allow(*_: object) -> int:
    return sqlite3.SQLITE_OK


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _code(error: sqlite3.Error) -> int:
    """The primary result code; 1 (any error) where it is not known."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF
    return next((known for text, known in _TEXTS.items() if text in str(error)), 1)


_QUERY: dict[str, Callable[[str], Any]] = {
    "timeout": float,
    "cached_statements": int,
    "detect_types": int,
    "isolation_level": lambda text: text or None,
    "uri": on_or_off,
    "wal": on_or_off,
    "check_same_thread": on_or_off,
}
