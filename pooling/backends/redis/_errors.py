"""What redis-py's errors mean for a connection, and the errors of the classes in the place of its pools."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from redis import exceptions

from pooling._traces import apart
from pooling.backends import ConnectArgsError
from pooling.config import nearest
from pooling.errors import ConnectError, PoolError, PoolTimeout, QueueFull
from pooling.factory import Factory

T = TypeVar("T")
# Redis-py makes these ConnectionErrors; the connection is well.
_REFUSALS = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.MaxConnectionsError,
)
# The server has another part in the replication, or is not ready: another connection may reach one that is.
_WRONG_SERVER = (exceptions.ReadOnlyError, exceptions.MasterDownError)
# Refused before anything was done.
_NOT_EXECUTED = (
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,  # MasterDownError is one
    exceptions.WatchError,
)
_NOT_EXECUTED_CODES = ("BUSY ", "MISCONF ", "NOREPLICAS ")
_IN_PIPELINE = "Command # "  # how redis-py begins the error of one command of many: others of them have been executed
# A server that speaks like this at the handshake is one that will take us in later.
_PASSING = (exceptions.ReadOnlyError, exceptions.TryAgainError, exceptions.ClusterDownError)
_PERMANENT_TEXTS = (
    "certificate verify failed", "key values mismatch", "alert unknown ca", "alert bad certificate",
    "alert certificate", "protocol must be", "Invalid RESP version", "Invalid Database",
)  # fmt: skip  # a list
_NO_FILE = re.compile(r"Error 2 connecting to [^/]+:\d+\.")  # of certificates or a key: no network says so
_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")


class NoConnection(PoolTimeout, exceptions.ConnectionError):
    """No connection came within the time of a pool that waits. A PoolTimeout, and a ConnectionError of redis-py."""

    error_type = exceptions.ExceptionType.NETWORK
    status_code = None

    @classmethod
    def like(cls, error: PoolTimeout) -> NoConnection:
        text = f"No connection available: {error}"
        return cls(text, stage=error.stage, stats=error.stats, holders=error._holders)


class TooManyConnections(QueueFull, exceptions.MaxConnectionsError):
    """All connections are in use, and the pool does not wait. A QueueFull, and a MaxConnectionsError of redis-py."""


def is_demoted(error: BaseException) -> bool:
    return isinstance(error, _WRONG_SERVER)


class Opinions(Factory[T]):
    """What a factory has to say about redis-py's errors."""

    def is_broken(self, error: BaseException) -> bool:
        lost = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.InvalidResponse, *_WRONG_SERVER)
        return isinstance(error, lost) and not isinstance(error, _REFUSALS)

    def is_demoted(self, connection: T, error: BaseException) -> bool:
        return is_demoted(error)

    def is_permanent(self, error: BaseException) -> bool:
        if isinstance(error, (exceptions.BusyLoadingError, ConnectArgsError)):
            return False
        said = str(error)
        if isinstance(error, _REFUSALS) or any(text in said for text in _PERMANENT_TEXTS) or _NO_FILE.match(said):
            return True
        if isinstance(error, exceptions.ResponseError):  # a database that is not there, a command that is not known
            return not isinstance(error, _PASSING) and not said.startswith(_NOT_EXECUTED_CODES)
        return isinstance(error, (exceptions.DataError, TypeError, ValueError, AttributeError))

    def is_retryable(self, error: BaseException) -> bool:
        if str(error).startswith(_IN_PIPELINE):
            return False
        if isinstance(error, exceptions.ResponseError) and str(error).startswith(_NOT_EXECUTED_CODES):
            return True
        return isinstance(error, _NOT_EXECUTED)


def own(error: ConnectError) -> BaseException:
    """The driver's error behind it, as a copy for one caller: so that no traceback is shared. Where it is an error of
    ours, as of a worker that an exception has struck, a client knows none of those: a ConnectionError that says it."""
    cause = error.__cause__
    if cause is None or isinstance(cause, PoolError):
        return exceptions.ConnectionError(str(error))
    return apart(cause)


def explained(error: TypeError, kind: Any, options: Iterable[str]) -> TypeError:
    """What a connection class has said of an argument that nobody knows, with the nearest one that it or somebody else
    does, or with where it is given, if it is one of these ``options``; any other error as it is."""
    found = _UNKNOWN.search(str(error))
    if found is None:
        return error
    if found[1] in options:
        return TypeError(
            f"{found[1]!r} is an option of the pool and not of a connection: create_pool(url, {found[1]}=…)"
        )
    makers = [vars(each).get("__init__") for each in inspect.getmro(kind)] if isinstance(kind, type) else []
    known = {name for maker in makers if inspect.isfunction(maker) for name in inspect.signature(maker).parameters}
    return TypeError(f"unknown argument {found[1]!r}{nearest(found[1], sorted({*known, *options} - {'self'}))}")
