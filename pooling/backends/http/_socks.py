"""The same behind a SOCKS proxy. Needs PySocks, as urllib3 does: ``pip install 'urllib3[socks]'``."""

from __future__ import annotations

from typing import Any, ClassVar

import urllib3.contrib.socks as theirs

from pooling.backends.http._manager import _Managing, taken
from pooling.backends.http._pools import HTTPConnectionPool, HTTPSConnectionPool


# Of their kind as well: what others set on urllib3's classes, as vcrpy does to record and replay, is to hold for these.
# And of theirs first: what somebody sets on ours, a ConnectionCls, is for connections that know nothing of SOCKS.
class SOCKSHTTPConnectionPool(theirs.SOCKSHTTPConnectionPool, HTTPConnectionPool):
    """urllib3's pool for a SOCKS proxy, with ours underneath."""


class SOCKSHTTPSConnectionPool(theirs.SOCKSHTTPSConnectionPool, HTTPSConnectionPool):
    """The same for HTTPS."""


class SOCKSProxyManager(_Managing, theirs.SOCKSProxyManager):
    """urllib3's SOCKSProxyManager with our pools underneath; options as for PoolManager."""

    _classes: ClassVar[dict[str, type[Any]]] = {"http": SOCKSHTTPConnectionPool, "https": SOCKSHTTPSConnectionPool}

    def __init__(self, proxy_url: str, *args: Any, max_total: int | None = None, **kw: Any) -> None:
        options = taken(kw)
        super().__init__(proxy_url, *args, **kw)
        self._set_up(max_total, options)
