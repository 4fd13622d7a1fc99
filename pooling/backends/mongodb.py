"""MongoDB by PyMongo: one MongoClient for all leases of a pool.

A MongoClient is itself a pool of sockets for each server. So a pool's connections are *permits* to use the one client:
the queue, the deadline, max_size and the reports of who holds what stand in front of it. With each permit a socket is
opened, with each that is closed a socket is closed, the oldest first: sockets are all alike, so the numbers
and ages of the one are those of the other. Which socket an operation takes, PyMongo decides.
"""

from __future__ import annotations

import contextlib
import re
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote_plus

from pooling._clock import DEFAULT, LONGEST, Timeout, monotonic
from pooling._runtime.fork import PerProcess, keep_inherited
from pooling._runtime.lock import new_lock
from pooling.backends import ConnectArgs, ConnectArgsError, asked, check_connect_args, check_user, unknown_option
from pooling.config import Config
from pooling.errors import PoolError
from pooling.factory import Factory, ResetMode
from pooling.pool import Pool

try:
    import pymongo

    if pymongo.version_tuple < (4, 6):  # which fails elsewhere, and says nothing of versions
        raise ImportError(f"this is PyMongo {pymongo.version}")
    from pymongo import errors
    from pymongo.common import SERVER_SELECTION_TIMEOUT
    from pymongo.driver_info import DriverInfo
    from pymongo.uri_parser import parse_uri, split_options

    from pooling.backends import _mongo
    from pooling.backends._mongo import Sockets
except ImportError as error:
    raise ImportError("MongoDB needs PyMongo 4.6 or later: pip install 'pooling[mongodb]'") from error

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from typing_extensions import Unpack

    from pooling.config import Options

# PyMongo's names for what the pool has an option of its own for.
_THEIRS = {
    "maxPoolSize": "max_size", "minPoolSize": "min_size", "maxConnecting": "max_connecting",
    "maxIdleTimeMS": "idle_timeout", "waitQueueTimeoutMS": "timeout", "connectTimeoutMS": "connect_timeout",
}  # fmt: skip  # a table
_OURS = {name.lower(): ours for name, ours in _THEIRS.items()}
_SRV = ("srvservicename", "srvmaxhosts")
_DEAD = ("poolsize", "buffermaxentries", "usenewurlparser", "useunifiedtopology", "waitqueuemultiple")
# https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml: BadValue, FailedToParse, UserNotFound,
# Unauthorized, AuthenticationFailed, CommandNotFound, InvalidOptions, AtlasError
_PERMANENT = {2, 9, 11, 13, 18, 59, 72, 8000}
_UNVERIFIED = ("certificate verify failed", "CERTIFICATE_VERIFY_FAILED")
_LOOK = 0.002  # seconds between two looks at what a new client's monitors have found
_GOODBYE = 1.0  # seconds that telling a server of the end of its sessions may take


class Permit:
    """A pool's connection: the right to use the client. ``client`` is what a lease yields."""

    __slots__ = ("__weakref__", "_shared", "client")

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self.client = shared.client


class MongoFactory(Factory[Any]):  # of permits; what a lease yields is another thing
    """Permits to use one MongoClient, given as a MongoDB URL.

    ``connect_args`` goes to :class:`pymongo.MongoClient`. A callable is asked for each permit: while it answers the
    same, they share a client. ``options`` are the pool's, which size the client; :attr:`options` has them together with
    those that the URL names, for ``Pool(factory, **factory.options)``.

    Raises ValueError for a URL that cannot be read and for options that contradict it.
    """

    def __init__(self, url: str, connect_args: ConnectArgs = None, **options: Unpack[Options]) -> None:
        check_user(url)
        check_connect_args(connect_args)
        srv = url[: len("mongodb+srv:")].lower() == "mongodb+srv:"
        self._url = ("mongodb+srv://" if srv else "mongodb://") + url.partition("://")[2]  # may have a password in it
        self.where, given = _read(self._url, srv)
        if connect_args is not None and not callable(connect_args):
            given |= connect_args
            connect_args = {name: value for name, value in connect_args.items() if name.lower() not in _OURS}
        self._connect_args = connect_args
        self.options: Any = _merged(options, given)
        config = Config.of(self.options)
        # Who has a permit finds a socket free, unless threads share a lease; less than a second would be rash.
        patience = max(LONGEST if config.timeout is None else config.timeout, 1.0)
        self._sizes = {
            "maxPoolSize": config.max_size or 0,  # 0: any number
            "minPoolSize": 0,  # PyMongo, filling up beside us, would go beyond maxPoolSize: the permits do it
            "maxConnecting": config.max_connecting,
            "maxIdleTimeMS": None if config.idle_timeout is None else _milliseconds(config.idle_timeout),
            "connectTimeoutMS": _milliseconds(config.connect_timeout),
            "waitQueueTimeoutMS": _milliseconds(patience),
        }
        if "serverselectiontimeoutms" not in map(str.lower, given):
            self._sizes["serverSelectionTimeoutMS"] = min(patience, SERVER_SELECTION_TIMEOUT) * 1000
        self._state = PerProcess(_State)  # a child of a fork neither uses nor closes its parent's client

    def connect(self, timeout: float) -> Permit:
        until = monotonic() + timeout
        permit = self._join()
        shared = permit._shared
        try:
            _reach(shared.client, until)
            shared.reached = True
            with pymongo.timeout(max(until - monotonic(), 0.001)):
                if not _mongo.fill(shared.client, shared.permits):
                    _ping(shared.client)
        except BaseException:
            self.close(permit)
            raise
        return permit

    def close(self, permit: Permit) -> None:
        shared, state = permit._shared, self._state()
        with state.lock:
            shared.permits.discard(permit)
            left = len(shared.permits)
            if not left and state.shared is shared:
                state.shared = None
        if left:
            _mongo.trim(shared.client, shared.permits)
        else:
            shared.end()

    def check(self, permit: Permit, timeout: float) -> None:
        client = permit.client
        self.reset(permit, "transaction")
        if not _reachable(client):
            _raise(client)
        if permit._shared.lost(permit):
            raise errors.AutoReconnect("a socket was closed by the other side")
        with pymongo.timeout(min(timeout, client.options.timeout or timeout)):  # as short as his timeoutMS
            _mongo.turn(client)
            _ping(client)
            _mongo.fill(client, permit._shared.permits)  # PyMongo may have closed some after an error

    def reset(self, permit: Permit, mode: ResetMode) -> None:
        # Nothing of a user's stays on a client: transactions and causal order are his session's. He may have closed it.
        if not self.is_clean(permit):
            raise errors.InvalidOperation("Cannot use MongoClient after close")

    def is_alive(self, permit: Permit) -> bool:
        # Once its monitors have lost the server, PyMongo has closed its sockets, and there is none to look at.
        return self.is_clean(permit) and _reachable(permit.client) and not permit._shared.lost(permit)

    def is_clean(self, permit: Permit) -> bool:
        return not permit._shared.client._pooling_closed

    def view(self, permit: Permit) -> pymongo.MongoClient[Any]:
        return permit.client

    def begin(self, permit: Permit) -> NoReturn:
        raise PoolError(
            "a MongoDB transaction belongs to a session, not to a connection: "
            "with pooling.backends.mongodb.transaction(pool) as session: … session=session"
        )

    def is_broken(self, error: BaseException) -> bool:
        if isinstance(error, errors.InvalidOperation):
            return "after close" in str(error)
        # A timeout of an operation's own costs its socket, which PyMongo closes: that says nothing of the others.
        return isinstance(error, errors.AutoReconnect) and not isinstance(error, errors.NetworkTimeout)

    def is_demoted(self, permit: Permit, error: BaseException) -> bool:
        return isinstance(error, errors.NotPrimaryError)

    def is_permanent(self, error: BaseException) -> bool:
        if isinstance(error, ConnectArgsError):
            return False
        if isinstance(error, errors.ConfigurationError):
            cause = error.__cause__  # a name server that does not answer may do so later
            return type(cause).__module__.partition(".")[0] != "dns" or type(cause).__name__ == "NXDOMAIN"
        if isinstance(error, errors.OperationFailure):
            return error.code in _PERMANENT
        return isinstance(error, (TypeError, ValueError)) or any(text in str(error) for text in _UNVERIFIED)

    def is_retryable(self, error: BaseException) -> bool:
        if not isinstance(error, errors.PyMongoError) or error.has_error_label("SystemOverloadedError"):
            return False  # the last thing an overloaded server needs, and PyMongo has tried again already
        if error.has_error_label("TransientTransactionError"):
            return not error.has_error_label("UnknownTransactionCommitResult")
        return isinstance(error, errors.ServerSelectionTimeoutError) or error.has_error_label("NoWritesPerformed")

    def _join(self) -> Permit:
        """A permit to use the client of today, or a new one."""
        args = asked(self._connect_args, self)
        if wrong := next((name for name in args if name.lower() in _OURS), None):
            raise TypeError(f"{wrong} from connect_args comes too late: give {_OURS[wrong.lower()]} to the pool")
        state = self._state()
        with state.lock:
            shared = state.shared
            if shared is None or shared.args != args or not shared.inviting():
                shared = state.shared = _Shared(self._open(args, state.tally), args)
            permit = Permit(shared)
            shared.permits.add(permit)
            return permit

    def _open(self, args: dict[str, Any], tally: _mongo.Tally) -> SharedClient:
        listeners = [*args.get("event_listeners", ()), _mongo.Listener(tally)]
        client = SharedClient(self._url, **{**self._sizes, **args, "event_listeners": listeners, "connect": True})
        if hasattr(SharedClient, "append_metadata"):  # from PyMongo 4.14; a client itself has every name
            # For sockets that are opened from now on, so not for the monitors: what a server counts as the pool's.
            client.append_metadata(DriverInfo("pooling"))
        return client

    def __repr__(self) -> str:
        return f"MongoFactory({self.where})"


def create(url: str, connect_args: ConnectArgs = None, **options: Unpack[Options]) -> Pool[pymongo.MongoClient[Any]]:
    """A pool for ``mongodb://user@host:port/?option=value`` or ``mongodb+srv://…``. A lease yields a MongoClient."""
    factory = MongoFactory(url, connect_args, **options)
    return Pool(factory, **{"name": factory.where, **factory.options})


def sockets(pool: Pool[Any]) -> Sockets:
    """PyMongo's sockets behind a pool. Raises TypeError for a pool of something else."""
    return _factory_of(pool)._state().tally.snapshot()


@contextlib.contextmanager
def transaction(pool: Pool[Any], timeout: Timeout = DEFAULT, **options: Any) -> Iterator[ClientSession]:
    """A lease, a session and a transaction in one ``with``: commits at its end, aborts on an exception.

    Yields the session; ``session.client`` is the MongoClient, and each operation has to be given ``session=session``.
    ``options`` are those of :meth:`pymongo.client_session.ClientSession.start_transaction`. Raises TypeError for a pool
    of something else.
    """
    _factory_of(pool)
    with pool.acquire(timeout) as client, client.start_session() as session, session.start_transaction(**options):
        yield session


def _factory_of(pool: Pool[Any]) -> MongoFactory:
    factory: object = pool._factory
    if not isinstance(factory, MongoFactory):
        raise TypeError(f"pool {pool.name!r} is not a pool of MongoDB")
    return factory


class SharedClient(pymongo.MongoClient[Any]):
    """A client that knows whether it was closed, by us or by a user."""

    _pooling_closed = False

    def close(self) -> None:
        self._pooling_closed = True
        super().close()

    def _after_fork(self) -> None:
        # PyMongo lets go of what the parent has there, and its destructors close sockets by descriptors that may lead
        # elsewhere in a child that becomes a daemon.
        keep_inherited(self._topology)
        super()._after_fork()


SharedClient.__name__ = "MongoClient"  # which PyMongo's messages and repr() are to say


class _Shared:
    """A client and the permits to use it. It is closed with its last permit."""

    def __init__(self, client: SharedClient, args: dict[str, Any]) -> None:
        self.client = client
        self.args = args
        self.reached = False  # whether it has found its server once
        self.permits: weakref.WeakSet[Permit] = weakref.WeakSet()  # one that was detached counts while somebody has it

    def inviting(self) -> bool:
        """Whether further permits may use it. Not when it has lost its server: a new client tries at once, whereas this
        one's monitors take their time, half a second at least."""
        return bool(self.permits) and not self.client._pooling_closed and (_reachable(self.client) or not self.reached)

    def lost(self, permit: Permit) -> bool:
        """Whether a socket was found dead. It costs the permit that finds it, at once, or another would be opened."""
        return _mongo.lose(self.client, lambda: self.permits.discard(permit))

    def end(self) -> None:
        with pymongo.timeout(_GOODBYE if _reachable(self.client) else 0.01):
            self.client.close()


class _State:
    def __init__(self) -> None:
        self.lock = new_lock()
        self.shared: _Shared | None = None
        self.tally = _mongo.Tally()


def _ping(client: pymongo.MongoClient[Any]) -> None:
    client.admin.command("ping", read_preference=client.read_preference)


def _reach(client: pymongo.MongoClient[Any], until: float) -> None:
    """Wait for a new client's monitors to find a server to use. Where all of them fail, say so at once: PyMongo itself
    would go on trying for as long as it may."""
    while not _reachable(client):
        known = client.topology_description.server_descriptions().values()
        if (known and all(server.error for server in known)) or monotonic() >= until:
            _raise(client)
        time.sleep(_LOOK)


def _reachable(client: pymongo.MongoClient[Any]) -> bool:
    return client.topology_description.has_readable_server(client.read_preference)


def _raise(client: pymongo.MongoClient[Any]) -> NoReturn:
    """Raise what the monitors have met with."""
    found = [server.error for server in client.topology_description.server_descriptions().values() if server.error]
    for error in found:
        if not isinstance(error, errors.AutoReconnect):
            raise error
    raise errors.AutoReconnect("; ".join(dict.fromkeys(map(str, found))) or "no server to use was found in time")


def _read(url: str, srv: bool) -> tuple[str, dict[str, Any]]:
    """Hosts and database, and the options. Errors never repeat the URL: it may hold a password."""
    base, _, query = url.partition("?")
    options = re.split("[&;]", query) if query else []
    try:
        # As for a plain URL: resolving the name of another kind is the connect's business.
        parts = parse_uri(re.sub(r"^[^:]*", "mongodb", base, count=1), warn=False)
    except (ValueError, errors.PyMongoError):
        raise _unreadable() from None
    if not all(re.match(r"\w+=", option) for option in options):
        raise _unreadable()  # a password with a bare question mark, above all
    given = {}
    for option in options:
        name, _, value = option.partition("=")
        if name.lower() in _DEAD:
            raise TypeError(f"{name} in the MongoDB URL is an option that drivers have not had for years")
        if name.lower() in _SRV and not srv:
            raise ValueError(f"{name} in the MongoDB URL is for mongodb+srv:// only")
        try:
            split_options(option, warn=False)  # as it is written: which parts of a value to decode, PyMongo knows
        except (ValueError, errors.PyMongoError) as error:
            if "unknown option" in str(error).lower():
                raise unknown_option(name, "MongoDB", _THEIRS) from None
            raise ValueError(f"{name} in the MongoDB URL has a value that it cannot have") from None
        given[name] = unquote_plus(value)
    hosts = ",".join(host if srv or port is None else f"{host}:{port}" for host, port in parts["nodelist"])
    return f"{hosts}/{parts['database'] or ''}", given


def _unreadable() -> ValueError:
    return ValueError(
        "the MongoDB URL cannot be read: it looks like mongodb://user:password@host:port/database?option=value, "
        "with special characters percent-encoded"
    )


def _milliseconds(seconds: float) -> float:
    return min(seconds, LONGEST) * 1000


def _merged(options: Options, given: Mapping[str, Any]) -> dict[str, Any]:
    """The pool's options with those that the URL or connect_args have under PyMongo's names."""
    merged: dict[str, Any] = dict(options)
    for name, value in given.items():
        if not (ours := _OURS.get(name.lower(), "")):
            continue
        number = float(value or 0)
        theirs = number / 1000 if name.lower().endswith("ms") else int(number)
        if not theirs and ours in ("max_size", "idle_timeout", "timeout"):
            theirs = None  # type: ignore[assignment]  # where 0 is theirs for no limit
        if ours in merged and merged[ours] != theirs:
            raise ValueError(f"{name}={value} and {ours}={merged[ours]!r} contradict each other: give one of them")
        merged[ours] = theirs
    return merged
