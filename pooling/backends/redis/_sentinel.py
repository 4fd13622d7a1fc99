"""A pool in the place of the one that redis-py makes for what Sentinels watch."""

from __future__ import annotations

from typing import Any

from redis import sentinel

from pooling.backends.redis._pools import ConnectionPool


class SentinelConnectionPool(sentinel.SentinelConnectionPool, ConnectionPool):
    """A :class:`redis.sentinel.SentinelConnectionPool`: ``Sentinel.master_for`` and ``slave_for`` take it as their
    ``connection_pool_class``, and its arguments beside it. See :class:`ConnectionPool` for these; with a ``timeout`` it
    waits. A connection that finds out that its server was demoted takes the others with it, so that the next one asks
    the Sentinels.
    """

    def __init__(self, service_name: str, sentinel_manager: Any, **kwargs: Any) -> None:
        role = "master" if kwargs.get("is_master", True) else "slave"
        kwargs.setdefault("name", f"{service_name}({role})/{kwargs.get('db') or 0}")
        super().__init__(service_name, sentinel_manager, **kwargs)
