"""Redis by redis-py: leases of a client on one connection, and pools in the place of redis-py's own."""

from __future__ import annotations

try:
    import redis as _driver  # noqa: F401  # that it is there
except ImportError as error:
    raise ImportError("Redis needs redis-py: pip install 'pooling[redis]'") from error

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
