"""The same behind a SOCKS proxy. Needs PySocks, as urllib3 does: ``pip install 'urllib3[socks]'``."""

from __future__ import annotations

from typing import Any, ClassVar

import urllib3.contrib.socks as theirs

from pooling.backends.http._manager import _Managing, taken
from pooling.backends.http._pools import HTTPConnectionPool, HTTPSConnectionPool


class SOCKSHTTPConnectionPool(HTTPConnectionPool):
    ConnectionCls = theirs.SOCKSConnection


class SOCKSHTTPSConnectionPool(HTTPSConnectionPool):
    ConnectionCls = theirs.SOCKSHTTPSConnection


class SOCKSProxyManager(_Managing, theirs.SOCKSProxyManager):
    """urllib3's SOCKSProxyManager with our pools underneath; options as for PoolManager."""

    _classes: ClassVar[dict[str, type[Any]]] = {"http": SOCKSHTTPConnectionPool, "https": SOCKSHTTPSConnectionPool}

    def __init__(self, proxy_url: str, *args: Any, max_total: int | None = None, **kw: Any) -> None:
        options = taken(kw)
        super().__init__(proxy_url, *args, **kw)
        self._set_up(max_total, options)
