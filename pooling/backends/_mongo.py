"""The sockets of PyMongo's pools: counted by its events, and handled by the functions below.

Those are the only lines of this package that look behind PyMongo's public names. PyMongo opens a socket when an
operation needs one, and gives no word for "open one now", "close one" or "look whether they are alive". The names used
here are the same in PyMongo 4.6 and 4.20. Where a version does not have them, and behind a load balancer, where PyMongo
binds sockets to services, nothing is done here: sockets are then opened by the first operation that needs one,
checked by PyMongo, and closed after their idle time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sized
from typing import Any, NamedTuple

from pymongo import MongoClient, ReadPreference, monitoring
from pymongo.monitoring import ConnectionClosedReason

from pooling._runtime.lock import new_lock
from pooling.backends import _sockets

_NEEDED = ("conns", "requests", "max_pool_size", "lock", "size_cond", "_max_connecting_cond", "connect", "closed")
_PRIMARY_FIRST = (ReadPreference.PRIMARY.mode, ReadPreference.PRIMARY_PREFERRED.mode)


class Sockets(NamedTuple):
    """PyMongo's sockets for operations, as its own events tell of them; those of its monitors are not counted."""

    open: int
    in_use: int
    opened: int
    closed: Mapping[str, int]
    """By PyMongo's reason: ``idle`` (also: its permit was closed), ``stale``, ``error``, ``poolClosed``."""


class Tally:
    """The sockets of one process, over all its clients."""

    def __init__(self) -> None:
        self.lock = new_lock()
        self.open = self.in_use = self.opened = 0
        self.closed: Counter[str] = Counter()

    def snapshot(self) -> Sockets:
        with self.lock:
            return Sockets(self.open, self.in_use, self.opened, dict(self.closed))


class Listener(monitoring.ConnectionPoolListener):
    """Tells the tally what one client's pools do."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._ready: set[Any] = set()  # a socket whose handshake failed is closed without having been open

    def connection_ready(self, event: monitoring.ConnectionReadyEvent) -> None:
        with self._tally.lock:
            self._ready.add((event.address, event.connection_id))
            self._tally.open += 1
            self._tally.opened += 1

    def connection_closed(self, event: monitoring.ConnectionClosedEvent) -> None:
        with self._tally.lock:
            if (event.address, event.connection_id) in self._ready:
                self._ready.discard((event.address, event.connection_id))
                self._tally.open -= 1
                self._tally.closed[event.reason] += 1

    def connection_checked_out(self, event: monitoring.ConnectionCheckedOutEvent) -> None:
        with self._tally.lock:
            self._tally.in_use += 1

    def connection_checked_in(self, event: monitoring.ConnectionCheckedInEvent) -> None:
        with self._tally.lock:
            self._tally.in_use -= 1

    def _ignore(self, event: object) -> None:
        """Of no concern."""

    pool_created = pool_ready = pool_cleared = pool_closed = connection_created = _ignore
    connection_check_out_started = connection_check_out_failed = _ignore


def lose(client: MongoClient[Any], forget: Callable[[], object]) -> bool:
    """Close one idle socket that the other side has closed, and say whether there was one. Sends nothing; three
    microseconds a socket. ``forget`` is called in the moment it counts no more."""
    for pool in _pools(client).values():
        with pool.lock:  # held while looking: a socket in use is readable without being dead
            lost = next((connection for connection in pool.conns if connection.conn_closed()), None)
            if lost is not None:
                forget()
                _drop(pool, [lost])
        if lost is not None:
            lost.close_conn(ConnectionClosedReason.ERROR)
            return True
    return False


def fill(client: MongoClient[Any], permits: Sized) -> bool:
    """Open a socket to the server that operations go to, if it has fewer than permits; True if one was opened.

    Raises what PyMongo raises when an operation opens one. The books are kept as PyMongo keeps them for its
    minPoolSize, so that operations and this together never have more than maxPoolSize.
    """
    pool = _target(client)
    if pool is None:
        return False
    with pool.size_cond:
        pool.max_pool_size = max(pool.max_pool_size, len(permits))  # the pool may have been resized
        if len(pool.conns) + pool.requests >= len(permits):
            return False
        pool.requests += 1
    try:
        connection = pool.connect()
        with pool.size_cond:
            closed = pool.closed
            if not closed:
                pool.conns.appendleft(connection)
            getattr(pool, "active_contexts", set()).discard(connection.cancel_context)
            pool._max_connecting_cond.notify()
        # As where an operation opens one: what is sent from now on is to tell the cluster's time.
        client._topology.receive_cluster_time(getattr(connection, "_cluster_time", None))
        if closed:
            connection.close_conn(ConnectionClosedReason.POOL_CLOSED)
    finally:
        with pool.size_cond:
            pool.requests -= 1
            pool.size_cond.notify()
    return True


def trim(client: MongoClient[Any], permits: Sized) -> None:
    """Close idle sockets until no server has more than permits, the oldest first."""
    for pool in _pools(client).values():
        with pool.lock:
            excess = max(0, len(pool.conns) + pool.requests - len(permits))
            doomed = sorted(pool.conns, key=lambda connection: int(connection.id))[:excess]
            _drop(pool, doomed)
        for connection in doomed:
            connection.close_conn(ConnectionClosedReason.IDLE)


def snap(client: MongoClient[Any]) -> None:
    """Break the socket that the next operation takes, as a network would: for trials."""
    for pool in _pools(client).values():
        with pool.lock:
            connection = next(iter(pool.conns), None)
            if connection is not None:
                # Which PyMongo, from 4.12 on, holds further in.
                _sockets.shut_down(getattr(connection.conn, "get_conn", connection.conn).fileno())


def _drop(pool: Any, lost: list[Any]) -> None:
    """Forget these idle sockets. By hand: PyMongo's sockets compare equal in ways of their own."""
    # Not where the lock is taken: CPython takes the jump at the end of a loop for a place outside of the "with" around.
    kept = [connection for connection in pool.conns if all(connection is not one for one in lost)]
    if len(kept) < len(pool.conns):
        pool.conns.clear()
        pool.conns.extend(kept)


def turn(client: MongoClient[Any]) -> None:
    """Have the next operation take the socket that was unused for longest."""
    pool = _target(client)
    if pool is not None:
        with pool.lock:
            pool.conns.rotate(1)


def _pools(client: MongoClient[Any]) -> dict[Any, Any]:
    """PyMongo's pools by address: of sockets for operations, not those of its monitors."""
    servers = dict(getattr(getattr(client, "_topology", None), "_servers", {}))
    return {
        address: server.pool
        for address, server in servers.items()
        if all(hasattr(server.pool, name) for name in _NEEDED) and not server.pool.opts.load_balanced
    }


def _target(client: MongoClient[Any]) -> Any:
    """The pool of the server that operations go to; of several, the one with the fewest sockets."""
    known = client.topology_description.server_descriptions()
    usable = {address for address, server in known.items() if server.is_readable}
    if client.read_preference.mode in _PRIMARY_FIRST:
        usable = {address for address, server in known.items() if server.is_writable} or usable
    pools = [pool for address, pool in _pools(client).items() if address in usable]
    return min(pools, key=lambda pool: len(pool.conns) + pool.requests, default=None)
