"""Redis by redis-py: leases of a client on one connection, and pools in the place of redis-py's own."""

from __future__ import annotations

try:
    import redis.himport  # noqa: F401  # which came with 8.1
except ImportError as error:
    raise ImportError("Redis needs redis-py 8.1 or later: pip install 'pooling[redis]'") from error

from pooling.backends.redis._errors import NoConnection, TooManyConnections
from pooling.backends.redis._factory import RedisFactory, create
from pooling.backends.redis._pools import BlockingConnectionPool, ConnectionPool
from pooling.backends.redis._sentinel import SentinelConnectionPool

__all__ = [
    "BlockingConnectionPool",
    "ConnectionPool",
    "NoConnection",
    "RedisFactory",
    "SentinelConnectionPool",
    "TooManyConnections",
    "create",
]
