"""Leases of a ``redis.Redis`` that is bound to one connection."""

from __future__ import annotations

import re
import weakref
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import redis
from redis._parsers import Encoder
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection, ConnectionPoolInterface, parse_url
from redis.himport import HImportRegistry
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from pooling.backends import ConnectArgs, asked, check_connect_args, check_user
from pooling.backends.redis import _connection, _errors
from pooling.config import OPTIONS
from pooling.errors import PoolError
from pooling.factory import ResetMode
from pooling.pool import Pool

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pooling.config import Options

_SCHEMES = ("redis", "rediss", "unix")
_WRONG_VALUE = re.compile(r"Invalid value for '(\w+)'")  # which redis-py says of an option; it leaves the value out


class RedisFactory(_errors.Opinions[Any]):
    """Connections to one Redis server, given as redis-py's URL: ``redis://``, ``rediss://`` (TLS) or ``unix://``.

    ``connect_args`` goes to the connection class of redis-py; ``connection_class`` in it is the class itself. A lease
    yields a :class:`redis.Redis` on that one connection. Other than in redis-py, nothing is retried in silence, no
    reply is waited for with a time limit (``socket_timeout`` sets one), and opening takes one round trip.

    Raises ValueError for a URL that cannot be read, TypeError for an argument in it that nobody knows.
    """

    def __init__(self, url: str = "redis://localhost:6379/0", connect_args: ConnectArgs = None) -> None:
        check_user(url)
        check_connect_args(connect_args)
        self._args = _parsed(url)  # has the password in it
        self._connect_args = connect_args
        address = self._args.get("path") or f"{self._args.get('host', 'localhost')}:{self._args.get('port', 6379)}"
        self.where = f"{address}/{self._args.get('db', 0)}"
        self._defaults: dict[str, Any] = {
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "driver_info": None,  # two round trips
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),  # one more
            "himport_registry": HImportRegistry(),
        }
        self._make(self._args)

    def connect(self, timeout: float) -> Any:
        connection, args = self._make({**self._args, **asked(self._connect_args, self)})
        try:
            _connection.connect(connection, timeout)
            if args.get("protocol") in (2, "2"):  # which may have come without a word of the server's
                _connection.ping(connection, timeout)
        except BaseException:
            connection.disconnect()
            raise
        connection.recorded = ()
        connection.args = args
        connection.client = None
        return connection

    def _make(self, args: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        args = dict(args)
        kind = args.pop("connection_class", Connection)
        if isinstance(kind, type) and issubclass(kind, AbstractConnection):
            args = {**self._defaults, **args}
        try:
            return _connection.tracked(kind)(**args), args
        except TypeError as error:
            raise _errors.explained(error, kind, OPTIONS) from None

    def view(self, connection: Any) -> Any:
        client = redis.Redis.from_pool(Bound(connection, connection.args))  # type: ignore[arg-type]  # it asks no more of it
        connection.client = weakref.ref(client)
        self._note_manners(connection)  # for who never calls remember(), as the command "check"
        return client

    def remember(self, connection: Any) -> None:
        connection.setup, connection.recorded = connection.recorded or (), None
        connection.marks = frozenset()
        self._note_manners(connection)

    def close(self, connection: Any) -> None:
        connection.ended = True
        connection.disconnect()

    def check(self, connection: Any, timeout: float) -> None:
        _connection.ping(connection, timeout)

    def reset(self, connection: Any, mode: ResetMode) -> None:
        if connection.held:
            # It would go on using the connection, at the latest when it dies, in the middle of the next user's replies.
            raise PoolError("a pipeline or PubSub has outlived its lease, and still has the connection: it is closed")
        renew(connection)
        if mode == "session":
            self._mend_manners(connection)
            connection.setup = ()  # on_connect comes again
            connection.clean(thoroughly=True)
            connection.recorded = ()
        else:
            connection.clean(thoroughly=False)

    def _note_manners(self, connection: Any) -> None:
        """What a user can change in the client, which is there for as long as the connection."""
        client = connection.client and connection.client()
        if client is not None:
            connection.manners = connection.retry, dict(client.response_callbacks)

    def _mend_manners(self, connection: Any) -> None:
        client = connection.client and connection.client()
        if client is not None:
            connection.retry, callbacks = connection.manners
            connection.args["retry"] = connection.retry
            client.response_callbacks.clear()
            client.response_callbacks.update(callbacks)

    def is_alive(self, connection: Any) -> bool:
        return _connection.is_alive(connection)

    def is_clean(self, connection: Any) -> bool:
        return not (connection.marks or connection.pending or connection.held) and connection._sock is not None

    def interrupt(self, connection: Any) -> None:
        _connection.interrupt(connection)

    def abandon(self, connection: Any) -> None:
        if _connection.let_go(connection):
            connection.disconnect()  # in another process than its own it says nothing

    def abandon_in_use(self, connection: Any) -> None:
        super().abandon(connection)
        _connection.let_go(connection)

    def begin(self, connection: Any) -> None:
        raise PoolError("Redis has no transaction that a pool could hold open: use pipeline(transaction=True)")

    def __repr__(self) -> str:
        return f"RedisFactory({self.where})"


def renew(connection: Any, outer: Any = None) -> None:
    """Have a connection whose stream is of no more use, or that its user has closed, begin a new session. Raises the
    error by which it was lost, where it was. ``outer`` is the driver's cache around it."""
    if connection.fault is not None:
        raise connection.fault
    outer = outer or connection
    _connection.forget_handler(connection)
    if connection.pending or _connection.FRESH in connection.marks:  # replies that nobody has read, or messages
        outer.disconnect()
    if connection._sock is None:
        outer.connect()


def create(url: str, connect_args: ConnectArgs = None, **options: Unpack[Options]) -> Pool[redis.Redis]:
    """A pool for ``redis://user:password@host:port/database?option=value``, as redis-py reads it, or ``rediss://``."""
    scheme, _, rest = url.partition("://")
    factory = RedisFactory(f"{scheme.partition('+')[0].lower()}://{rest}", connect_args)
    options.setdefault("name", factory.where)
    return Pool(factory, **options)


class Bound(ConnectionPoolInterface):
    """What a redis.Redis takes for its pool: one connection, for everything it does.

    Between two commands nobody has it, unless it is a pipeline that watches, a PubSub or a monitor.
    """

    cache = None

    def __init__(self, connection: Any, args: dict[str, Any]) -> None:
        self._connection = connection
        connection.held = 0
        self.connection_kwargs = args
        self.himport_registry = args.get("himport_registry")

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        self._connection.held += 1
        return self._connection

    def release(self, connection: Any) -> None:
        self._connection.held -= 1

    def get_protocol(self) -> Any:
        return self.connection_kwargs.get("protocol")

    def get_encoder(self) -> Any:
        args = self.connection_kwargs
        return Encoder(
            encoding=args.get("encoding", "utf-8"),
            encoding_errors=args.get("encoding_errors", "strict"),
            decode_responses=args.get("decode_responses", False),
        )

    def reset(self) -> None:
        self.disconnect()

    def disconnect(self, inuse_connections: bool = True) -> None:
        self._connection.disconnect()

    def close(self) -> None:
        self.disconnect()

    def set_retry(self, retry: Any) -> None:
        self._connection.retry = retry

    def re_auth_callback(self, token: Any) -> None:
        self._connection.set_re_auth_token(token)

    def get_connection_count(self) -> list[tuple[int, dict[Any, Any]]]:
        return []


def _parsed(url: str) -> dict[str, Any]:
    """The URL, taken apart. The errors never repeat it: it may hold a password."""
    scheme, _, rest = url.partition("://")
    try:
        if scheme not in _SCHEMES:
            raise ValueError
        args: dict[str, Any] = parse_url(url)
    except ValueError as error:
        wrong = _WRONG_VALUE.match(str(error))
        if wrong:
            raise ValueError(f"the value of {wrong[1]} in the Redis URL cannot be read") from None
        raise ValueError(
            "the Redis URL cannot be read: it looks like redis://user:password@host:port/database?option=value, "
            "with special characters percent-encoded"
        ) from None
    database = unquote(rest.partition("?")[0].rpartition("@")[2].partition("/")[2]).replace("/", "")
    if scheme != "unix" and database and not database.isdecimal():  # which redis-py passes over, with a db beside it
        raise ValueError(
            "the database in the Redis URL must be a number (for a socket's path: unix:///run/redis.sock?db=1)"
        )
    return args
