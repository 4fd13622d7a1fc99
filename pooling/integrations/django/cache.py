"""Pools for Django's Redis cache, each shared by all threads of a process.

Django has a cache object for each thread, and each makes a pool of its own: as many pools as threads, of one
connection each, and no limit over all of them. Here ``from_url`` gives the pool that is there already for the same URL
and options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pooling.backends import redis
from pooling.integrations.django._pools import lock

if TYPE_CHECKING:
    from typing_extensions import Self


class _Key(NamedTuple):
    kind: type
    url: str
    options: dict[str, Any]


_shared: list[tuple[_Key, Any]] = []  # a list, as options need not be hashable; there are as many as servers


def _made_for(key: _Key) -> Any:
    # A function of its own: CPython takes the jump at the end of a loop for a place outside of the "with" around.
    return next((pool for known, pool in _shared if known == key), None)


class _Shared(redis.ConnectionPool):
    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """The pool for this URL and these options, made at the first call. Any thread may call it; opens nothing."""
        key = _Key(cls, url, options)
        with lock():
            pool = _made_for(key)
            if pool is None:
                pool = super().from_url(url, **options)
                _shared.append((key, pool))
        return pool  # type: ignore[no-any-return]  # of the same class


class ConnectionPool(_Shared):
    """:class:`pooling.backends.redis.ConnectionPool`, shared: refuses at once where all connections are in use."""


class BlockingConnectionPool(_Shared, redis.BlockingConnectionPool):
    """:class:`pooling.backends.redis.BlockingConnectionPool`, shared: waits ``timeout`` seconds for a connection."""
