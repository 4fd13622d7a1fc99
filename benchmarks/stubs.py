"""Connections to nothing. What is measured is the pool, so a connection costs what its server says and no more."""

from __future__ import annotations

import itertools
import os
import threading
from typing import Any

import pooling


class Server:
    """What the stub connections connect to: how long a connect takes, how many were opened and closed."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self._over = threading.Event()
        self._opened, self._closed = itertools.count(), itertools.count()

    def connect(self) -> None:
        """Take as long as a connect takes; after :meth:`end` none takes any time."""
        next(self._opened)  # of a count it is atomic: no lock that could order the callers
        if self.delay:
            self._over.wait(self.delay)

    def close(self) -> None:
        next(self._closed)

    def end(self) -> None:
        """Let go of every connect that still hangs."""
        self._over.set()

    @property
    def opened(self) -> int:
        return _reading(self._opened)

    @property
    def closed(self) -> int:
        return _reading(self._closed)


def _reading(counter: itertools.count[int]) -> int:
    """How often a counter was asked. (Its repr is the one way to look without counting.)"""
    return int(repr(counter)[len("count(") : -1])


class Stub:
    """The least that a DB-API connection is."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.in_transaction = False
        server.connect()

    def rollback(self) -> None:
        """Nothing was begun."""

    def commit(self) -> None:
        """Nothing was begun."""

    def cursor(self) -> Stub:
        return self

    def close(self) -> None:
        self.server.close()


class StubFactory(pooling.Factory[Stub]):
    """A factory that answers all that a database's would, so that nothing of the pool is switched off."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def connect(self, timeout: float) -> Stub:  # noqa: ARG002  # the scenarios that hang are about this
        return Stub(self.server)

    def check(self, connection: Stub, timeout: float) -> None:
        """A round trip that costs nothing."""

    def is_alive(self, connection: Stub) -> bool:  # noqa: ARG002  # it has no socket to look at
        return True

    def is_clean(self, connection: Stub) -> bool:
        return not connection.in_transaction


class PsycopgStub(Stub):
    """What psycopg_pool touches of a psycopg.Connection: the transaction status and the context manager."""

    def __init__(self, server: Server, idle: Any) -> None:
        super().__init__(server)
        self.pgconn = self
        self.transaction_status = idle
        self._pool: object = None

    def __enter__(self) -> PsycopgStub:  # noqa: PYI034  # Self is not in 3.10
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """The real one commits or rolls back here; with nothing begun neither sends a byte."""


class RedisStub(Stub):
    """What redis-py's pools touch of a connection. Like the real one it connects when it is asked to."""

    def __init__(self, server: Server, **_: object) -> None:
        self.server = server
        self.pid = os.getpid()
        self._connected = False

    def connect(self) -> None:
        if not self._connected:
            self._connected = True
            self.server.connect()

    def disconnect(self) -> None:
        if self._connected:
            self._connected = False
            self.close()

    def can_read(self) -> bool:
        return False

    def should_reconnect(self) -> bool:
        return False

    def re_auth(self) -> None:
        """It has no token that could be new."""


class HTTPStub(Stub):
    """What urllib3's pool touches of an HTTPConnection when it takes one out and puts it back."""

    is_connected = True
