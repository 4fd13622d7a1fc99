"""A connection of whatever DB-API driver, seen from outside: how it commits, its socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pooling.backends import _sockets


def autocommit(connection: Any) -> Any:
    """Whether autocommit is on; None where the connection does not say. May be a round trip."""
    value = getattr(connection, "autocommit", None)
    if callable(value):
        ask = getattr(connection, "get_autocommit", None)
        value = ask() if ask is not None else None
    return value


def set_autocommit(connection: Any, value: Any) -> None:
    if callable(getattr(connection, "autocommit", None)):
        connection.autocommit(value)
    else:
        connection.autocommit = value


def transaction_status(connection: Any) -> Any:
    """What libpq says, as psycopg2 tells it, without a round trip; 0, which is idle, where a driver tells nothing."""
    ask = getattr(connection, "get_transaction_status", None)
    return 0 if ask is None else ask()


def socket_of(connection: Any) -> socket.socket | None:
    """The socket of a driver written in Python: an attribute of its connection, or of something that it holds."""
    package = type(connection).__module__.partition(".")[0]
    held = list(getattr(connection, "__dict__", {}).values())
    inner = [vars(thing) for thing in held if hasattr(thing, "__dict__") and _belongs(thing, package)]
    for thing in (*held, *(each for values in inner for each in values.values())):
        if isinstance(thing, socket.socket):
            return thing
    return None


def _belongs(thing: Any, package: str) -> bool:
    return type(thing).__module__.partition(".")[0] == package


def fileno(connection: Any) -> int | None:
    """The descriptor; None where the driver shows none, -1 where the connection is closed."""
    ask = getattr(connection, "fileno", None)
    try:
        return None if ask is None else int(ask())
    except Exception:  # closed, in the words of whatever driver
        return -1


@contextmanager
def timed(connection: socket.socket | None, timeout: float) -> Iterator[None]:
    """With a timeout on the driver's socket, where there is one to be seen."""
    if connection is None:
        yield
        return
    before = connection.gettimeout()
    connection.settimeout(timeout)
    try:
        yield
    finally:
        connection.settimeout(before)


@contextmanager
def hung_up(connection: socket.socket | None) -> Iterator[None]:
    """After the block the socket leads nowhere, whatever has become of its descriptor: a thread that still reads fails.
    With the descriptor alone closed, as by MySQL's own driver, it would read on, and the server keep the session."""
    twin = -1
    if connection is not None and connection.fileno() >= 0:
        with suppress(OSError):  # no descriptor is left
            twin = os.dup(connection.fileno())
    try:
        yield
    finally:
        if twin >= 0:
            _sockets.shut_down(twin)
            os.close(twin)
