"""HTTP and HTTPS by urllib3: a pool of raw connections, and urllib3's own pools and managers with ours underneath."""

from __future__ import annotations

try:
    from urllib3 import __version__ as _version  # type: ignore[attr-defined]  # not in its __all__
except ImportError as error:
    raise ImportError("HTTP needs urllib3: pip install 'pooling[http]'", name="urllib3") from error

if _version.startswith("1."):
    raise ImportError(f"HTTP needs urllib3 2 or later, this is {_version}: pip install 'pooling[http]'", name="urllib3")

from urllib3.exceptions import EmptyPoolError

from pooling.backends.http._connection import keep_alive
from pooling.backends.http._factory import HttpFactory, create
from pooling.backends.http._manager import PoolManager, ProxyManager
from pooling.backends.http._pools import HTTPConnectionPool, HTTPSConnectionPool

__all__ = [
    "EmptyPoolError",
    "HTTPConnectionPool",
    "HTTPSConnectionPool",
    "HttpFactory",
    "PoolManager",
    "ProxyManager",
    "create",
    "keep_alive",
]
