"""One connection pool for everything that is expensive to open: synchronous, thread-safe, strictly fair."""

from pooling.backends import create_pool
from pooling.config import Config, Options
from pooling.errors import ConnectArgsError, ConnectError, Holder, PoolClosed, PoolError, PoolTimeout, QueueFull
from pooling.events import PoolEvent
from pooling.factory import Factory
from pooling.lease import Lease
from pooling.manager import PoolManager
from pooling.monitor import PoolMonitor
from pooling.pool import Pool
from pooling.stats import Histogram, Interval, PoolStats, Waiting

__all__ = [
    "Config",
    "ConnectArgsError",
    "ConnectError",
    "Factory",
    "Histogram",
    "Holder",
    "Interval",
    "Lease",
    "Options",
    "Pool",
    "PoolClosed",
    "PoolError",
    "PoolEvent",
    "PoolManager",
    "PoolMonitor",
    "PoolStats",
    "PoolTimeout",
    "QueueFull",
    "Waiting",
    "create_pool",
]
__version__ = "0.1.0"
