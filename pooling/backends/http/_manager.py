"""urllib3's pool managers with our pools underneath."""

from __future__ import annotations

import os
import threading  # never "from threading import": gevent replaces what the module holds
import weakref
from typing import Any, ClassVar

import urllib3
from urllib3.connectionpool import HTTPConnectionPool as TheirPool

from pooling._sources import numbered
from pooling.backends.http._keys import KnownKeys
from pooling.backends.http._pools import OWN_OPTIONS, HTTPConnectionPool, HTTPSConnectionPool
from pooling.backends.http._total import Total
from pooling.config import Config, count, seconds
from pooling.pool import Pool

POOLS: dict[str, type[TheirPool]] = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}


class _Managing(urllib3.PoolManager):
    """What our managers have in common."""

    _options: dict[str, Any]
    _total: Total | None
    _classes: ClassVar[dict[str, type[TheirPool]]] = POOLS

    def _set_up(self, max_total: int | None, options: dict[str, Any]) -> None:
        # Refused at once, and by the names that they have here.
        count("max_total", max_total, 1, optional=True)
        if "pool_timeout" in options:
            seconds("pool_timeout", options["pool_timeout"])
        Config.of({name: value for name, value in options.items() if name != "pool_timeout"})
        self._options = options
        self._total = None if max_total is None else Total(max_total, options.get("pool_timeout", 30.0))
        self.pool_classes_by_scheme = {**self.pool_classes_by_scheme, **self._classes}
        keys: Any = {scheme: KnownKeys(make) for scheme, make in self.key_fn_by_scheme.items()}
        self.key_fn_by_scheme = keys  # Any: urllib3 says that they are partial, where any function will do
        _managers.add(self)

    def _new_pool(self, scheme: str, host: str, port: int, request_context: dict[str, Any] | None = None) -> TheirPool:
        context = (self.connection_pool_kw if request_context is None else request_context).copy()
        kind: Any = self.pool_classes_by_scheme[scheme]
        # Who has put a class of urllib3's there, or a scheme of his own, gets what it takes: it knows nothing of ours.
        if not isinstance(kind, type) or issubclass(kind, HTTPConnectionPool):
            context |= {**self._options, "_total": self._total}
        return super()._new_pool(scheme, host, port, context)

    @property
    def pooling(self) -> dict[str, Pool[Any]]:
        """The pool of each origin, by its name: ``https://host:port``. Where there are several of one origin (with
        other certificates, or by other proxies) the second is ``https://host:port#2``."""
        with self.pools.lock:
            pools = list(self.pools._container.values())
        return numbered((pool.pooling.name, pool.pooling) for pool in pools if isinstance(pool, HTTPConnectionPool))


class PoolManager(_Managing):
    """:class:`urllib3.PoolManager` with a :class:`pooling.Pool` for each origin, at ``.pooling``.

    ``max_total``: connections open at most over all origins. The options of :class:`HTTPConnectionPool` hold for
    each origin; everything else is urllib3's.
    """

    def __init__(self, num_pools: int = 10, headers: Any = None, *, max_total: int | None = None, **kw: Any) -> None:
        options = taken(kw)
        super().__init__(num_pools, headers, **kw)
        self._set_up(max_total, options)


class ProxyManager(_Managing, urllib3.ProxyManager):
    """:class:`urllib3.ProxyManager` with our pools underneath; options as for :class:`PoolManager`."""

    def __init__(self, proxy_url: str, *args: Any, max_total: int | None = None, **kw: Any) -> None:
        options = taken(kw)
        super().__init__(proxy_url, *args, **kw)
        self._set_up(max_total, options)


def taken(kw: dict[str, Any]) -> dict[str, Any]:
    """Our options, taken out of the arguments: urllib3 would not know them."""
    return {name: kw.pop(name) for name in OWN_OPTIONS & kw.keys()}


_managers: weakref.WeakSet[_Managing] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked child: urllib3's lock around a manager's pools may be held by a thread that is not here."""
    for manager in list(_managers):
        manager.pools.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
