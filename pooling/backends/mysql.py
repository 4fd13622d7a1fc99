"""MySQL and MariaDB by PyMySQL."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pooling.backends import (
    ConnectArgs,
    _sockets,
    asked,
    check_connect_args,
    check_text,
    on_or_off,
    read_option,
    unknown_option,
)
from pooling.backends._traced import TracedFactory
from pooling.factory import ResetMode
from pooling.pool import Pool

try:
    import pymysql

    if pymysql.VERSION < (1, 1):  # which fails at the first connect, and says nothing of versions
        raise ImportError(f"this is PyMySQL {'.'.join(map(str, pymysql.VERSION[:3]))}")
except ImportError as error:
    raise ImportError("MySQL and MariaDB need PyMySQL 1.1 or later: pip install 'pooling[mysql]'") from error

from pooling.backends._mysql_connection import Connection as _Connection

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pooling.config import Options

    Connection = pymysql.connections.Connection[Any]
else:
    Connection = pymysql.connections.Connection  # not generic at run time

# https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference
# https://dev.mysql.com/doc/mysql-errors/8.4/en/
_LOST = {
    0,  # InterfaceError(0, ''): it was lost before, and is used all the same
    2006, 2013, 2055,  # gone away, lost during a query
    1047, 1053,  # an unknown command, a shutdown
    1152, 1158, 1159, 1160, 1161, 1184,  # aborted, network errors of the server
    1927, 3169, 4031,  # killed; killed; idle for longer than wait_timeout
}  # fmt: skip  # a list with its meanings
_READ_ONLY_TRANSACTION = 1792  # of the user's own
_READ_ONLY = {_READ_ONLY_TRANSACTION, 1836}  # a primary that was demoted under us; 1290 says so too, and other things
_OPTION_PREVENTS = 1290
_UNKNOWN_COMMAND = 1047  # also said by a cluster's node that has lost the others, which still answers pings and logins
# Undone, or never begun. A lock that is not to be had may undo the statement alone; the end of the lease undoes the
# rest.
_NOTHING_DONE = {
    1213, 1205, 3572,  # a deadlock, a lock that did not come in time, one that had to come at once
    1020, 3101,  # a conflict: with a newer row (MariaDB's snapshot isolation), with another node (group replication)
    2003, 1040, 1203,  # unreachable, too many connections
}  # fmt: skip  # a list with its meanings
_PERMANENT = {
    1044, 1045, 1049, 1698, 1130,  # no such user, password, database; no access from this host
    1820, 1862, 3118, 4151,  # the password has expired, the account is locked
    1115, 1253, 1273,  # no such character set or collation, or two that do not belong together
    1193, 1227, 1231, 1251,  # system variable, privilege, value, way of authentication
    2026, 2059, 2061,  # no TLS there, no such plugin
}  # fmt: skip  # a list with its meanings
_SCHEME = re.compile(r"(mysql|mariadb)(\+[a-z0-9_.-]+)?://", re.IGNORECASE)
_MOST = 31536000.0  # seconds; PyMySQL's limit
_ALIASES = {"passwd": "password", "db": "database"}  # PyMySQL's old names, which give way to the new ones of the URL


class MysqlFactory(TracedFactory[Connection]):
    """Connections to MySQL or MariaDB, given as ``mysql://user:password@host:port/database?option=value``.

    ``connect_args`` goes to :class:`pymysql.connections.Connection`; a ``connect_timeout`` there or in the URL counts
    where it is shorter than the pool's. ``ssl_mode`` is that of MySQL's own clients. ``tcp_keepalive`` is the pool's
    own: the seconds of silence after which the kernel probes the other side, 0 for never; PyMySQL leaves it at the
    system's two hours.

    Raises ValueError for a URL that cannot be read, TypeError for an unknown option in it.
    """

    def __init__(self, url: str = "mysql://", connect_args: ConnectArgs = None) -> None:
        check_text(url)
        check_connect_args(connect_args)
        self._args = _arguments(url)  # has the password in it
        self._connect_args = connect_args
        place = self._args.get("unix_socket") or f"{_host(self._args)}:{self._args.get('port') or 3306}"
        if "read_default_file" in self._args and not self._args.keys() & {"host", "unix_socket"}:
            place = self._args["read_default_file"]  # where that is, stands in there
        self.where = f"{place}/{self._args.get('database') or ''}"

    def connect(self, timeout: float) -> Connection:
        given = asked(self._connect_args, self)
        args = with_ssl_mode({**self._args, **{_ALIASES.get(name, name): value for name, value in given.items()}})
        delay = args.pop("tcp_keepalive", None)
        args["connect_timeout"] = min(timeout, args.get("connect_timeout") or timeout, _MOST)
        args["password"] = _encoded(args.get("password"))
        connection = _made({**args, "defer_connect": True})
        try:
            with InTime(connection, args["connect_timeout"]):
                connection.connect()
                # A server's init_connect may have changed autocommit behind PyMySQL's back.
                connection.learn()
                if connection.autocommit_mode is not None:
                    connection.autocommit(connection.autocommit_mode)
            if delay is not None:
                _keep_alive(connection._sock, delay)
            self.remember(connection)
        except BaseException:
            connection._force_close()
            raise
        return connection

    def close(self, connection: Connection) -> None:
        _known(connection).forsake()
        if _known(connection).pending:
            self.interrupt(connection)  # a thread may still be reading, and close() would wait for it
        if connection.open:
            connection.close()

    def check(self, connection: Connection, timeout: float) -> None:
        with InTime(_known(connection), timeout):
            connection.ping(reconnect=False)

    def reset(self, connection: Connection, mode: ResetMode) -> None:
        known = _known(connection)
        known.refuse_leftovers()
        if mode == "session":
            known.reset_session()
        else:
            known.rollback()
            known.restore_autocommit()
        if not known.at_rest():
            raise pymysql.InterfaceError("the connection cannot be cleaned")

    def is_alive(self, connection: Connection) -> bool:
        sock = _known(connection)._sock
        return sock is not None and _sockets.looks_open(sock)

    def is_clean(self, connection: Connection) -> bool:
        return _known(connection).at_rest()

    def remember(self, connection: Connection) -> None:
        # What on_connect did outside autocommit is to last: left open, its transaction would be the first user's, and
        # rolled back with it.
        known = _known(connection)
        known.refuse_leftovers()
        known.settle()
        known.note()
        if not known.at_rest():
            known.commit()
            known.note()  # again: after an error nobody had told whether autocommit is on

    def interrupt(self, connection: Connection) -> None:
        sock = _known(connection)._sock
        if sock is not None:
            _sockets.shut_down(sock.fileno())

    def abandon(self, connection: Connection) -> None:
        if self._let_go(connection):
            _known(connection)._force_close()
        else:
            super().abandon(connection)

    def abandon_in_use(self, connection: Connection) -> None:
        # Closing it could wait for a lock that a thread of the parent holds for ever.
        super().abandon(connection)
        self._let_go(connection)

    def _let_go(self, connection: Connection) -> bool:
        sock = _known(connection)._sock
        return sock is None or sock.fileno() < 0 or _sockets.let_go(sock.fileno())

    def begin(self, connection: Connection) -> None:
        known = _known(connection)
        known.conflict = 0
        if known.get_autocommit():
            known.begin()

    def commit(self, connection: Connection) -> None:
        known = _known(connection)
        if known.reopened:
            raise pymysql.InterfaceError(0, "the connection was opened anew by its user, and the transaction lost")
        if known.conflict and known.was_undone():
            # The server has undone everything up to the conflict: the rest alone is not what was meant.
            code = known.conflict
            known.rollback()
            raise pymysql.OperationalError(code, "a conflict has rolled the transaction back: nothing to commit")
        known.commit()

    def rollback(self, connection: Connection) -> None:
        # With the rest of an unbuffered result still to come PyMySQL would read that first, hours of it perhaps. The
        # connection is closed instead, which ends the transaction as well.
        _known(connection).refuse_leftovers()
        _known(connection).rollback()

    def is_broken(self, error: BaseException) -> bool:
        if not isinstance(error, pymysql.MySQLError):
            return False
        return _code(error) in _LOST or _refuses(error) or "Packet sequence number wrong" in str(error)

    def is_demoted(self, connection: Connection, error: BaseException) -> bool:
        return _refuses(error) and _code(error) != _READ_ONLY_TRANSACTION

    def is_permanent(self, error: BaseException) -> bool:
        if isinstance(error, pymysql.MySQLError):
            # PyMySQL wraps what went wrong with the socket, TLS included.
            cause = getattr(error, "original_exception", None)
            untrusted = type(cause).__name__ == "SSLCertVerificationError"
            return untrusted or isinstance(error, pymysql.ProgrammingError) or _code(error) in _PERMANENT
        # The arguments (PyMySQL meets an unknown charset with an AttributeError), or a file of certificates.
        wrong = (TypeError, ValueError, AttributeError, FileNotFoundError, PermissionError, NotImplementedError)
        return (
            isinstance(error, wrong)
            or type(error).__name__ in ("SSLError", "SSLCertVerificationError")
            or (isinstance(error, RuntimeError) and "package is required" in str(error))  # to authenticate
        )

    def is_retryable(self, error: BaseException) -> bool:
        return isinstance(error, pymysql.MySQLError) and (_code(error) in _NOTHING_DONE or _refuses(error))

    def __repr__(self) -> str:
        return f"MysqlFactory({self.where})"


def create(url: str, connect_args: ConnectArgs = None, **options: Unpack[Options]) -> Pool[Connection]:
    """A pool for ``mysql://user@host:port/database?option=value``; ``mariadb://`` is the same.

    The options in the URL are arguments of PyMySQL's connect, ``ssl_mode`` as MySQL's own clients have it, and
    ``tcp_keepalive``.
    """
    factory = MysqlFactory(url, connect_args)
    options.setdefault("name", factory.where)
    return Pool(factory, **options)


class InTime:
    """A ``with`` block in which no read or write on the connection takes longer than so many seconds."""

    def __init__(self, connection: _Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = max(seconds, 0.001)

    def __enter__(self) -> None:
        connection = self._connection
        self._given = connection._read_timeout, connection._write_timeout
        connection._read_timeout = min(self._seconds, self._given[0] or self._seconds)
        connection._write_timeout = min(self._seconds, self._given[1] or self._seconds)

    def __exit__(self, *details: object) -> None:
        self._connection._read_timeout, self._connection._write_timeout = self._given


def _keep_alive(sock: socket.socket | None, delay: float) -> None:
    if not 0 <= delay < 32768:
        raise ValueError(f"tcp_keepalive must be seconds, 0 (off) to 32767, not {delay!r}")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        for option in _sockets.keep_alive(delay):
            sock.setsockopt(*option)


def _known(connection: Connection) -> _Connection:
    return connection  # type: ignore[return-value]  # connect() makes no others


def _code(error: BaseException) -> Any:
    return error.args[0] if error.args else None


def _refuses(error: BaseException) -> bool:
    """Whether the server refuses what another one may do."""
    if _code(error) == _OPTION_PREVENTS:
        return re.search("read.only", str(error)) is not None  # else it is --secure-file-priv or the like
    if _code(error) == _UNKNOWN_COMMAND:
        return "WSREP" in str(error)
    return _code(error) in _READ_ONLY


def _made(args: dict[str, Any]) -> _Connection:
    """PyMySQL's connection, not connected yet."""
    try:
        return _Connection.made(**args)
    except UnicodeEncodeError as error:  # the password comes from an option file: see below
        password = str(error.object)
    return _Connection.made(**{**args, "password": password.encode()})


def with_ssl_mode(args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for PyMySQL, which does not know the ``ssl_mode`` of MySQL's own clients and of mysqlclient. Raises
    ValueError for one that does not exist."""
    given = dict(args)
    mode = given.pop("ssl_mode", None)
    if mode is None:
        return given
    mode, tls = _ssl_mode("ssl_mode", mode), given.get("ssl")
    given["ssl_disabled"] = mode == "DISABLED"
    if not tls:
        given.update(_SSL_MODES[mode])
    elif isinstance(tls, Mapping) and mode.startswith("VERIFY"):  # PyMySQL would drop it for arguments of its own
        given["ssl"] = {**tls, "verify_mode": True, "check_hostname": mode == "VERIFY_IDENTITY"}
    elif isinstance(tls, Mapping):  # a ca beside REQUIRED has the certificate verified, not the name
        given["ssl"] = {"check_hostname": False, **tls}
    return given


def _ssl_mode(what: str, mode: Any) -> str:
    name = str(mode).upper()
    if name not in _SSL_MODES:
        raise ValueError(f"{what} must be one of {', '.join(_SSL_MODES)}, not {mode!r}")
    return name


def _encoded(password: Any) -> Any:
    """PyMySQL encodes by Latin-1 and shows, in its error, the password for which that fails."""
    if isinstance(password, str) and any(character > "\xff" for character in password):
        return password.encode()
    return password or b""


# -- the URL ------------------------------------------------------------------------------------------


def _host(args: dict[str, Any]) -> str:
    host = args.get("host") or "localhost"
    return f"[{host}]" if ":" in host else host


def _arguments(url: str) -> dict[str, Any]:
    """PyMySQL's arguments. The errors never repeat the URL: it may hold a password."""
    if _SCHEME.match(url) is None:
        raise _unreadable()
    try:
        parts = urlsplit("mysql://" + url.partition("://")[2])
        port = parts.port
        given = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        raise _unreadable() from None
    database = parts.path[1:]
    # A password with a bare / ? # or @ in it ends up in other parts.
    misplaced = "@" in parts.path or "/" in database or ("@" in parts.query and "@" not in parts.netloc)
    if misplaced or parts.fragment or not all(re.fullmatch(r"[\w-]+", name) for name, _ in given):
        raise _unreadable()
    args: dict[str, Any] = {
        "host": unquote(parts.hostname or ""),
        "port": port,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": unquote(database),
    }
    args = {name: value for name, value in args.items() if value}
    for name, text in given:
        args.update(_option(name.replace("-", "_"), text))
    return args


def _unreadable() -> ValueError:
    return ValueError(
        "the MySQL URL cannot be read: it looks like mysql://user:password@host:port/database?option=value, "
        "with special characters percent-encoded"
    )


def _option(name: str, text: str) -> dict[str, Any]:
    """The arguments that an option in the URL's query stands for."""
    if name == "ssl_mode":
        return dict(_SSL_MODES[_ssl_mode("ssl_mode in the MySQL URL", text)])
    if name in _PLACES:
        raise TypeError(
            f"unknown option {name!r} in the MySQL URL: it stands before the '?', mysql://user:password@host:port/database"
        )
    if name not in _QUERY:
        raise unknown_option(name, "MySQL", sorted((*_QUERY, "ssl_mode")), listed=True)
    return {name: read_option(name, text, _QUERY[name], "MySQL", also=" or server" if name == "autocommit" else "")}


# In the query of other programs' URLs.
_PLACES = {"user", "username", "password", "passwd", "host", "port", "database", "db", "dbname"}
_QUERY: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(
        (
            "bind_address", "charset", "collation", "init_command", "program_name", "read_default_file",
            "read_default_group", "sql_mode", "ssl_ca", "ssl_cert", "ssl_key", "ssl_key_password", "unix_socket",
        ),
        str,
    ),
    **dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout", "tcp_keepalive"), float),
    **dict.fromkeys(("client_flag", "max_allowed_packet"), int),
    **dict.fromkeys(
        ("local_infile", "ssl_disabled", "ssl_verify_cert", "ssl_verify_identity", "use_unicode"), on_or_off
    ),
    "autocommit": lambda text: None if text == "server" else on_or_off(text),
}  # fmt: skip  # lists of names
# As in MySQL's own clients. PyMySQL has no name for TLS that is required and not verified but this.
_SSL_MODES: dict[str, dict[str, Any]] = {
    "DISABLED": {"ssl_disabled": True},
    "PREFERRED": {},
    "REQUIRED": {"ssl": {"verify_mode": False}},
    "VERIFY_CA": {"ssl_verify_cert": True},
    "VERIFY_IDENTITY": {"ssl_verify_cert": True, "ssl_verify_identity": True},
}
