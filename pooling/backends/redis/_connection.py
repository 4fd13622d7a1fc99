"""A redis-py connection that knows what was sent on it: whether its next user can have it as it is.

redis-py lets any command through and remembers none of them, and the server has no cheap way to say what a session
has become. So this notes the few commands that change a session as they pass, and counts the replies still to come.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from typing import Any

from redis._parsers.socket import SocketBuffer
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError  # noqa: A004  # redis-py's names

from pooling.backends import _sockets
from pooling.backends.redis._errors import is_demoted

Command = tuple[Any, ...]

# What a command does to a session, each undone in its own way: see clean(). RESET (from Redis 6.2 on) undoes what is
# marked as SESSION; Redis 7.0 leaves NO-EVICT as it is, and for what is marked as FRESH only a new session helps.
_MULTI, _WATCH, _SELECT, _SESSION, FRESH = "multi", "watch", "select", "session", "fresh"
_EVICT, _TOUCH, _ASKING = "evict", "touch", "asking"
_ENDS, _UNWATCH = "ends", "unwatch"
_EFFECTS = {
    "MULTI": _MULTI, "EXEC": _ENDS, "DISCARD": _ENDS, "WATCH": _WATCH, "UNWATCH": _UNWATCH, "SELECT": _SELECT,
    "CLIENT NO-EVICT": _EVICT, "CLIENT NO-TOUCH": _TOUCH, "ASKING": _ASKING,
    **dict.fromkeys(
        (
            "AUTH", "HELLO", "RESET", "READONLY", "READWRITE", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE",
            "CLIENT REPLY", "CLIENT SETNAME", "CLIENT TRACKING", "CLIENT CACHING",
        ),
        _SESSION,
    ),
    **dict.fromkeys(
        (
            "MONITOR", "QUIT", "SYNC", "PSYNC", "REPLCONF", "SCRIPT DEBUG", "CLIENT SETINFO", "CLIENT CAPA",
            "CLIENT IMPORT-SOURCE", "CLIENT MAINT_NOTIFICATIONS",
        ),
        FRESH,
    ),
}  # fmt: skip  # a table
# ASKING holds for one command: the next one, or any.
_UNDONE = {_EVICT: ("CLIENT", "NO-EVICT", "OFF"), _TOUCH: ("CLIENT", "NO-TOUCH", "OFF"), _ASKING: ("PING",)}
_LASTING = (_SELECT, _EVICT, _TOUCH, _SESSION, FRESH)  # what an on_connect may do for good
_FAMILIES = ("CLIENT", "SCRIPT")  # whose effect the second word decides
_STRAY = 1000  # replies and messages at most that are skipped in front of the one that is waited for


class Tracked(AbstractConnection):
    """Put in front of a connection class by :func:`tracked`.

    ``marks`` is what the session has become, ``pending`` how many replies have not been read, ``fault`` the error by
    which the connection was lost, if it was, ``doubt`` one after which it is open yet. All of it speaks of the session
    that is open now: the driver reconnects by itself, and a new session is clean. ``setup`` is what an on_connect has
    sent, sent again on each new session. ``ended``: it was closed for good.
    """

    marks: frozenset[str] = frozenset()
    pending = 0
    fault: BaseException | None = None
    doubt: BaseException | None = None
    ended = False
    setup: tuple[Command, ...] = ()
    recorded: tuple[Command, ...] | None = None
    _sessions = 0
    _packed: tuple[Command, ...] = ()

    # -- what goes out --------------------------------------------------------------------------------

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        sessions = self._sessions
        self._note(args)
        super().send_command(*args, **kwargs)
        if self._sessions != sessions:  # it was a new session that got the command
            self._note(args)

    def pack_command(self, *args: Any) -> Any:
        self._packed = (*self._packed, args)
        return super().pack_command(*args)

    def pack_commands(self, commands: Iterable[Command]) -> Any:
        commands = list(commands)
        self._packed = (*self._packed, *commands)
        return super().pack_commands(commands)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        packed, self._packed = self._packed, ()
        sessions = self._sessions
        for args in packed:
            self._note(args)
        try:
            super().send_packed_command(command, check_health)
        except (ConnectionError, TimeoutError) as error:
            self._lost(error)
            raise
        if self._sessions != sessions:
            for args in packed:
                self._note(args)

    def _note(self, args: Command) -> None:
        self.pending += 1
        effect = _EFFECTS.get(_verb(args))
        if effect is None:
            if self.marks:
                self.marks -= {_ASKING}
            return
        if self.recorded is not None and effect in _LASTING:
            self.recorded = (*self.recorded, args)
        if effect == _ENDS:
            if _MULTI in self.marks:
                self.marks -= {_MULTI, _WATCH}
        elif effect == _UNWATCH:
            if _MULTI not in self.marks:
                self.marks -= {_WATCH}
        else:
            self.marks |= {effect}

    # -- what comes in --------------------------------------------------------------------------------

    def read_response(self, disable_decoding: bool = False, **kwargs: Any) -> Any:
        try:
            # By its name: a class that stands in for the driver's may take nothing else.
            response = super().read_response(disable_decoding=disable_decoding, **kwargs)
        except ResponseError as error:
            self._answered(kwargs)
            if is_demoted(error):  # it is of no use any more, and so are the others: see Factory.is_demoted
                self.fault = copy.copy(error)
            raise
        except (ConnectionError, TimeoutError) as error:
            self._lost(error)
            raise
        self._answered(kwargs)
        return response

    def _answered(self, kwargs: dict[str, Any]) -> None:
        self.doubt = None
        if self.pending and not kwargs.get("push_request"):
            self.pending -= 1

    def _lost(self, error: BaseException) -> None:
        if self.is_connected:
            self.doubt = copy.copy(error)  # a Sentinel's connection leaves it to its user to close it: see disconnect()
        else:
            if error.__context__ is not None and is_demoted(error.__context__):
                error = error.__context__  # which a Sentinel's connection makes a ConnectionError
            self.fault = copy.copy(error)  # without the traceback, which would keep the user's variables

    # -- sessions -------------------------------------------------------------------------------------

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        super().disconnect(*args, **kwargs)
        doubt, self.doubt = self.doubt, None
        if doubt is not None:
            self._lost(doubt)

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        if self.is_connected:
            return
        if self.ended:  # the driver would connect for whoever has it: a pipeline, say, that unwatches when it dies
            raise ConnectionError("the connection was closed when its lease ended")
        if self.credential_provider is not None:  # it is asked for what counts now: an older token would log out again
            self._re_auth_token = None
        recorded, self.recorded = self.recorded, None  # the handshake is the driver's
        try:
            super().connect_check_health(*args, **kwargs)
        except (ConnectionError, TimeoutError) as error:
            self._lost(error)
            raise
        finally:
            self.recorded = recorded
        self._begin()

    def re_auth(self) -> None:
        """Log in with a new token, which changes nothing for the next user."""
        marks = self.marks
        super().re_auth()
        self.marks = marks

    def _begin(self) -> None:
        self._sessions += 1
        self.pending, self.fault, self.doubt, self._packed = 0, None, None, ()
        # What the handshake has sent is how a session is; what a callback has sent is on somebody's behalf.
        self.marks = frozenset({_SESSION}) if any(_subscribes(known()) for known in self._connect_callbacks) else _NONE
        try:
            self._set_up()
        except RedisError:
            self.disconnect()
            raise

    def _set_up(self) -> None:
        marks, recorded, self.recorded = self.marks, self.recorded, None
        for args in self.setup:
            self.send_command(*args, check_health=False)
            self.read_response()
        self.marks, self.recorded = marks, recorded

    def clean(self, *, thoroughly: bool) -> None:
        """Make the session like new. Raises where that is not possible."""
        marks = self.marks
        if _MULTI in marks:
            self._order("DISCARD")
        elif _WATCH in marks:
            self._order("UNWATCH")
        for mark, command in _UNDONE.items():
            if mark in marks:
                self._order(*command)
        if thoroughly or _SESSION in marks:
            self._start_over()
        elif _SELECT in marks:
            self._order("SELECT", self.db)
        if marks - {_MULTI, _WATCH, _ASKING}:
            self._set_up()
        self.marks = _NONE

    def _start_over(self) -> None:
        """End the session's state, login and protocol included, and shake hands anew."""
        self.send_command("RESET", check_health=False)
        for _ in range(_STRAY):
            if _text(self.read_response()) == "RESET":
                break
        else:
            raise ConnectionError("the connection says more than it was asked for")
        if self.redis_connect_func is not None:
            self.redis_connect_func(self)  # type: ignore[call-arg]  # it is given the connection
        else:
            self.on_connect_check_health(check_health=False)
        self.pending = 0

    def _order(self, *args: Any) -> None:
        self.send_command(*args, check_health=False)
        self.read_response()


_NONE: frozenset[str] = frozenset()


@functools.lru_cache(maxsize=64)
def tracked(kind: Any) -> Any:
    """The connection class with :class:`Tracked` in front; one that is none of redis-py's stays as it is.

    It goes by the same name, so that what is printed reads as ever.
    """
    if not isinstance(kind, type) or not issubclass(kind, AbstractConnection) or issubclass(kind, Tracked):
        return kind
    return type(kind.__name__, (Tracked, kind), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})


def _inner(connection: Any) -> Any:
    """The connection itself, also from behind the driver's cache."""
    return getattr(connection, "_conn", connection)


def tracker(connection: Any) -> Tracked | None:
    """The tracked connection itself; None where a class of the user's is used."""
    inner = _inner(connection)
    return inner if isinstance(inner, Tracked) else None


def awaits_login(connection: Any) -> bool:
    """Whether a new token has come that it has not logged in with."""
    return getattr(_inner(connection), "_re_auth_token", None) is not None


def socket_of(connection: Any) -> Any:
    """None where there is none, or none that is seen: a class of the user's need not have the driver's attribute, and a
    fake of a test has there what is no socket, whose fileno() is a number of somebody else's."""
    sock = getattr(_inner(connection), "_sock", None)
    return sock if hasattr(sock, "settimeout") else None


def is_open(connection: Any) -> bool:
    """Of a class that is none of redis-py's only that one knows: it is told to connect at each use."""
    inner = _inner(connection)
    return not isinstance(inner, AbstractConnection) or inner._sock is not None


def connect(connection: Any, timeout: float) -> None:
    """Connect within the time: the connection's own timeouts count where they are shorter."""
    inner = _inner(connection)
    if not isinstance(inner, AbstractConnection):
        connection.connect()
        return
    own = inner.socket_connect_timeout, inner.socket_timeout
    inner.socket_connect_timeout, inner.socket_timeout = (_shorter(timeout, value) for value in own)
    try:
        connection.connect()
    finally:
        inner.socket_connect_timeout, inner.socket_timeout = own
        _apply(inner, own[1])


def is_alive(connection: Any, *, chatty: bool = False) -> bool:
    """Whether it is open with nothing to read. What there is to read may be a session ticket of TLS, which the driver
    takes in. ``chatty``: the server may have something to say, and the user's driver will read it."""
    if getattr(_inner(connection), "_sock", None) is None:
        return False
    sock = socket_of(connection)
    try:
        if sock is not None and not _sockets.readable(sock.fileno()) and not getattr(sock, "pending", int)():
            return True
        return chatty or not connection.can_read(timeout=0)
    except (RedisError, OSError, ValueError):
        return False


def is_quiet(connection: Any) -> bool:
    """Whether it is certain that a connection is open and has nothing to be read. The driver's can_read() tells as
    well, but reads into a buffer for that, under a timeout that it sets and sets back: three system calls, each of
    which lets go of the interpreter. False where only that one knows."""
    inner = _inner(connection)
    try:
        sock, buffer = inner._sock, inner._parser._buffer
        if type(inner).can_read is not AbstractConnection.can_read or not isinstance(buffer, SocketBuffer):
            return False
        return not (_sockets.readable(sock.fileno()) or getattr(sock, "pending", int)() or buffer.unread_bytes())
    except (OSError, ValueError, AttributeError):  # closed, perhaps by another thread now; or none of redis-py's
        return False


def ping(connection: Any, timeout: float) -> None:
    """A round trip within the time; within that of any reply, where the user has given one."""
    own = getattr(_inner(connection), "socket_timeout", None)
    connection.send_command("PING", check_health=False)
    if _text(connection.read_response(timeout=_shorter(timeout, own))) != "PONG":
        raise ConnectionError("the connection answered a PING with something else")


def interrupt(connection: Any) -> None:
    sock = socket_of(connection)
    if sock is not None:
        try:
            _sockets.shut_down(sock.fileno())
        except OSError:
            pass  # it is closed already


def let_go(connection: Any) -> bool:
    """In a forked child: have its descriptor lead nowhere. False where that is somebody else's by now: nobody who
    has the connection, be it a client that dies, closes it then."""
    sock = socket_of(connection)
    done = sock is None or sock.fileno() < 0 or _sockets.let_go(sock.fileno())
    if not done:
        _sockets.disown(sock)
    return done


def forget_handler(connection: Any) -> None:
    """Take away the handler of published messages that a PubSub has put there: the driver never does."""
    parser = getattr(_inner(connection), "_parser", None)
    if parser is not None and hasattr(parser, "set_pubsub_push_handler"):
        parser.set_pubsub_push_handler(parser.handle_pubsub_push_response)


def _apply(connection: Any, timeout: float | None) -> None:
    """Set the timeout of an open connection; the driver's own way has none for None."""
    sock, parser = socket_of(connection), connection._parser
    if sock is None:
        return
    sock.settimeout(timeout)
    buffer = getattr(parser, "_buffer", None)
    if hasattr(buffer, "socket_timeout"):
        buffer.socket_timeout = timeout  # type: ignore[union-attr]  # it has just been seen to be there
    if hasattr(parser, "_socket_timeout"):  # hiredis
        parser._socket_timeout = timeout


def _shorter(timeout: float, own: float | None) -> float:
    return timeout if own is None else min(timeout, own)


def _verb(args: Command) -> str:
    """The command's name in capitals; of a family that has two words, both."""
    name = _text(args[0]).upper()
    if " " in name:
        words = name.split()
    elif name in _FAMILIES and len(args) > 1:
        words = [name, _text(args[1]).upper()]
    else:
        return name
    return " ".join(words[:2]) if words[0] in _FAMILIES else words[0]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _subscribes(callback: Any) -> bool:
    """Whether a callback of the driver's belongs to a PubSub."""
    return callback is not None and hasattr(getattr(callback, "__self__", None), "subscribed")
