"""A PyMySQL connection that can say whether anything is left over on it, and go back to how it was."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.constants import CLIENT, CR, ER, SERVER_STATUS

from pooling.backends._traced import noted

if TYPE_CHECKING:
    import socket
    import ssl

    class _Base(pymysql.connections.Connection[Any]):
        """What PyMySQL's types leave out."""

        server_version: str
        server_capabilities: int
        client_flag: int
        _sock: socket.socket | None
        _closed: bool
        _result: Any
        _read_timeout: float | None
        _write_timeout: float | None

        def _force_close(self) -> None: ...
        def _execute_command(self, command: int, sql: bytes) -> None: ...
        def _write_bytes(self, data: bytes) -> None: ...
        def _read_ok_packet(self) -> Any: ...
        def _read_query_result(self, unbuffered: bool = False) -> int: ...
        def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext: ...
        def _request_authentication(self) -> None: ...

    class MySQLResult:
        connection: Any
        server_status: int | None
        affected_rows: Any

        def __init__(self, connection: Any) -> None: ...
        def read(self) -> None: ...
        def init_unbuffered_query(self) -> None: ...
        def _check_packet_is_eof(self, packet: Any) -> bool: ...
        def _read_rowdata_packet_unbuffered(self) -> Any: ...

else:
    from pymysql.connections import MySQLResult

    _Base = pymysql.connections.Connection  # not generic at run time

_COM_RESET_CONNECTION = 0x1F  # PyMySQL's table of commands calls this number COM_END
_UNKNOWN_COMMAND = 1047
# What a status must have in common with that of the new connection.
_STATE = (
    SERVER_STATUS.SERVER_STATUS_IN_TRANS
    | SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
    | SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS
)
_ROLES = """
    SELECT CURRENT_ROLE(), (SELECT MAX(role_name) FROM information_schema.applicable_roles WHERE is_default = 'YES')
"""
# What users can change on PyMySQL's object.
_ATTRIBUTES = (
    "autocommit_mode", "charset", "collation", "encoding", "use_unicode", "cursorclass", "encoders", "decoders",
    "max_allowed_packet", "_read_timeout", "_write_timeout",
)  # fmt: skip  # a list


class Connection(_Base):
    """PyMySQL reads the server's status from OK packets alone. With autocommit off a SELECT opens a transaction and
    ends with an EOF packet, and an error tells no status at all: PyMySQL's ``server_status`` then says that nothing is
    open. This class reads EOF packets too, and knows when the status is not known.

    Guarantees: ``at_rest()`` is True only if every answer was read to its end, the last one told a status, and that
    is the status of the new connection.
    """

    # Not set by an __init__: made() has one that PyMySQL's class has made.
    defaults: dict[str, Any]  # set by note(), once it is connected
    # The error by which the server has, or may have, rolled a transaction back; 0 when a new one was begun by hand.
    conflict = 0
    # An answer is due, or in the middle of being read. An exception out of nowhere (Ctrl-C) leaves it so, and what is
    # read next may be the answer to somebody else's question.
    pending = False
    _told = False  # whether the server has told its status since it was last sent something
    home: Any = None  # the database that a reset goes back to
    # Its user has connected it again, as by ping(reconnect=True): another session, that nobody has set up.
    reopened = False

    @classmethod
    def made(cls, **args: Any) -> Connection:
        """One that is not connected yet; by ``pymysql.connect`` where somebody stands in the place of that."""
        connection: Any = cls if pymysql.connect is _Base else noted(pymysql.connect(**args))
        is_theirs = type(connection) is _Base
        if not is_theirs:  # nobody does, or a stand-in of a test
            return cls(**args)
        connection.__class__ = cls
        cls.__init__(connection, **args)  # anew, by what is otherwise here: the TLS context above all
        return connection  # type: ignore[no-any-return]  # it is one now

    # -- what is left over ----------------------------------------------------------------------------

    def at_rest(self) -> bool:
        """Whether the next user can have the connection as it is. Looks at flags alone."""
        result = self._result
        return (
            self._told
            and not self.pending
            and self.server_status & _STATE == self.defaults["status"]
            and (result is None or not (result.unbuffered_active or result.has_next))
            and self._sock is not None
            and not self.reopened
        )

    def refuse_leftovers(self) -> None:
        """Raise if the connection is beyond repair: closed, or with an answer that was not read to its end."""
        if self._sock is None:
            if self._closed:
                raise pymysql.InterfaceError("the connection was closed by its user")
            raise pymysql.InterfaceError(0, "")  # as PyMySQL says it of a lost one
        if self.reopened:
            raise pymysql.InterfaceError("the connection was opened anew by its user")
        if self.pending or (self._result is not None and self._result.unbuffered_active):
            raise pymysql.InterfaceError("an answer was not read to its end")

    def forsake(self) -> None:
        """Keep whoever still holds an unbuffered result from reading on, by itself or by its destructor."""
        if self._result is not None and self._result.unbuffered_active:
            self._result.connection = _Gone()

    # -- how it was -----------------------------------------------------------------------------------

    def note(self) -> None:
        """Note how the connection is: what a reset goes back to."""
        self.defaults = {name: _copied(getattr(self, name)) for name in _ATTRIBUTES}
        self.defaults["status"] = self.server_status & SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT

    def settle(self) -> None:
        """Note the database that a connection without one of its own was given when it was set up."""
        if self.db:
            self.home = self.db
        else:
            ((self.home,),) = self._run("SELECT DATABASE()")

    def learn(self) -> None:
        """Have the server tell its status, if it has not."""
        if not self._told:
            self.ping(reconnect=False)

    def was_undone(self) -> bool:
        """Whether the server has rolled the transaction back. After a lock that did not come in time a round trip: that
        undoes the statement alone or everything, as an option of InnoDB's or MyRocks's has it."""
        if self.conflict == ER.LOCK_WAIT_TIMEOUT:
            listed = "SHOW VARIABLES WHERE Variable_name LIKE '%rollback_on_timeout' AND Value = 'ON'"
            return bool(self._run(listed))
        return bool(self.conflict)

    def restore_autocommit(self) -> None:
        self.autocommit(bool(self.defaults["status"]))
        self.autocommit_mode = self.defaults["autocommit_mode"]

    def reset_session(self) -> None:
        """COM_RESET_CONNECTION, and the set-up of the new connection again."""
        if not self.at_rest():
            # Refused in an XA transaction. MariaDB would take a prepared one along into the new session, where nobody
            # can end it, and no table be used.
            self.rollback()
        try:
            self._execute_command(_COM_RESET_CONNECTION, b"")
            self._read_ok_packet()
        except pymysql.OperationalError as error:
            if error.args[0] == _UNKNOWN_COMMAND:  # which else means that a node of a cluster is not ready
                raise pymysql.NotSupportedError("the server is too old for reset='session'") from None
            raise
        for name in _ATTRIBUTES:
            setattr(self, name, _copied(self.defaults[name]))
        # The server keeps the current database, and there is no way to have none again.
        if self.home is not None:
            self.select_db(self.home)
        elif self._run("SELECT DATABASE()") != ((None,),):
            raise pymysql.InterfaceError("the user has chosen a database on a connection without one")
        self.set_character_set(self.charset, self.collation)
        self._restore_role()
        if self.sql_mode is not None:
            self._run("SET sql_mode=%s", self.sql_mode)
        if self.init_command is not None:
            self._run(self.init_command)
        self.restore_autocommit()

    def _restore_role(self) -> None:
        """MariaDB keeps the role that a user has taken on, or put off, and what that may do."""
        if "MariaDB" not in self.server_version:
            return
        ((role, default),) = self._run(_ROLES)
        if role != default:
            self._run("SET ROLE " + ("NONE" if default is None else f"`{default.replace('`', '``')}`"))

    def _run(self, statement: str, *args: Any) -> Any:
        with self.cursor(pymysql.cursors.Cursor) as cursor:
            cursor.execute(statement, args or None)
            return cursor.fetchall()

    # -- what passes through --------------------------------------------------------------------------

    def connect(self, sock: Any = None) -> None:
        self.reopened = hasattr(self, "defaults")
        super().connect(sock)

    def _write_bytes(self, data: bytes) -> None:
        self.pending, self._told = True, False
        super()._write_bytes(data)

    def _read_ok_packet(self) -> Any:
        try:
            packet = super()._read_ok_packet()
        except pymysql.MySQLError as error:
            self.failed(error)
            raise
        self.pending, self._told = False, True
        return packet

    def _read_query_result(self, unbuffered: bool = False) -> int:
        # As PyMySQL does it, with a result that listens to EOF packets.
        self._result, self.pending = None, True
        result = _Result(self)
        try:
            if unbuffered:
                result.init_unbuffered_query()
            else:
                result.read()
        except pymysql.MySQLError as error:
            self.failed(error)
            raise
        self._result, self.pending = result, False
        if result.server_status is not None:  # an OK packet
            self.told(result.server_status)
        return result.affected_rows  # type: ignore[no-any-return]

    def told(self, status: int) -> None:
        """The server has told its status, at the end of an answer."""
        self.server_status, self._told = status, True

    def failed(self, error: pymysql.MySQLError) -> None:
        """An error was raised where an answer was due. It is the whole answer, unless PyMySQL did not understand one;
        where the connection was lost, _sock is None."""
        code = error.args[0] if error.args else None
        self.pending = code == CR.CR_COMMANDS_OUT_OF_SYNC
        if code in (ER.LOCK_DEADLOCK, ER.CHECKREAD) or (code == ER.LOCK_WAIT_TIMEOUT and not self.conflict):
            self.conflict = code

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        told = self._told
        super().set_character_set(charset, collation)
        # PyMySQL reads the whole answer and drops the status in it, which is the same as before.
        self.pending, self._told = False, told

    def show_warnings(self) -> Any:
        rows = super().show_warnings()  # type: ignore[no-untyped-call]
        self.pending = False  # this result does not listen; what it says is read to its end
        return rows

    def begin(self) -> None:
        self.conflict = 0
        super().begin()

    def rollback(self) -> None:
        self.conflict = 0
        super().rollback()

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        # Without any TLS option PyMySQL takes what the server offers and verifies nothing. Reading the system's
        # certificates for that would be nine tenths of the time a connect takes.
        if not sslp:
            return _unverified()
        context = super()._create_ssl_ctx(sslp)
        # PyMySQL has the name verified only beside a ca. By the system's authorities anybody's certificate would do.
        if isinstance(sslp, dict) and sslp.get("check_hostname") and context.verify_mode:
            context.check_hostname = True
        return context

    def _request_authentication(self) -> None:
        # Where TLS is asked for and not to be had, PyMySQL 1.1 goes on in plain text.
        if self.client_flag & CLIENT.SSL and not self.server_capabilities & CLIENT.SSL:
            raise pymysql.OperationalError(CR.CR_SSL_CONNECTION_ERROR, "TLS is required, but the server has none")
        super()._request_authentication()


class _Result(MySQLResult):
    def _check_packet_is_eof(self, packet: Any) -> bool:
        if not packet.is_eof_packet():  # asked once a row: no further call for that
            return False
        self.connection.told(struct.unpack_from("<H", packet._data, 3)[0])
        return bool(super()._check_packet_is_eof(packet))

    def _read_rowdata_packet_unbuffered(self) -> Any:
        connection = self.connection
        try:
            return super()._read_rowdata_packet_unbuffered()
        except pymysql.MySQLError as error:
            if isinstance(connection, Connection):
                connection.failed(error)
            raise


class _Gone:
    """In the place of a connection that was closed while somebody held an unread result of it."""

    def _read_packet(self) -> Any:
        # The one kind of error that the destructor of a result takes as its end.
        raise pymysql.OperationalError(ER.QUERY_TIMEOUT, "the connection of this result is closed")


@lru_cache
def _unverified() -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value
