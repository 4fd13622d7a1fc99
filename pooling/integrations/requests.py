"""requests with our pools underneath: an adapter to mount in a requests.Session."""

from __future__ import annotations

from typing import Any

try:
    import requests.adapters
    from requests.exceptions import ConnectTimeout
    from requests.utils import get_auth_from_url
except ImportError as error:
    raise ImportError("this needs requests: pip install 'pooling[requests]'", name="requests") from error

from urllib3.exceptions import EmptyPoolError

from pooling.backends.http import PoolManager, ProxyManager
from pooling.backends.http._manager import taken
from pooling.pool import Pool


class Adapter(requests.adapters.HTTPAdapter):
    """:class:`requests.adapters.HTTPAdapter` with a :class:`pooling.Pool` for each origin, at ``.pooling``::

        session = requests.Session()
        adapter = Adapter(pool_maxsize=4, pool_block=True, pool_timeout=5.0)
        session.mount("http://", adapter)
        session.mount("https://", adapter)

    The first four arguments are those of requests. ``max_total`` and the options of
    :class:`pooling.backends.http.PoolManager` come on top. A request that gets no connection within ``pool_timeout``
    seconds raises ``requests.exceptions.ConnectTimeout``: it was never sent.
    """

    __attrs__ = [*requests.adapters.HTTPAdapter.__attrs__, "_options"]  # noqa: RUF012  # requests' own way; for pickles

    def __init__(
        self,
        pool_connections: int = requests.adapters.DEFAULT_POOLSIZE,
        pool_maxsize: int = requests.adapters.DEFAULT_POOLSIZE,
        max_retries: Any = requests.adapters.DEFAULT_RETRIES,
        pool_block: bool = requests.adapters.DEFAULT_POOLBLOCK,
        *,
        max_total: int | None = None,
        **options: Any,
    ) -> None:
        self._options = {**taken(options), **({} if max_total is None else {"max_total": max_total})}
        super().__init__(pool_connections, pool_maxsize, max_retries, pool_block, **options)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        self._pool_connections, self._pool_maxsize, self._pool_block = connections, maxsize, block
        self.poolmanager = PoolManager(connections, maxsize=maxsize, block=block, **pool_kwargs, **self._options)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        if proxy not in self.proxy_manager:
            sizes = {"num_pools": self._pool_connections, "maxsize": self._pool_maxsize, "block": self._pool_block}
            self.proxy_manager[proxy] = self._proxy_manager(proxy, {**sizes, **proxy_kwargs, **self._options})
        return self.proxy_manager[proxy]

    def _proxy_manager(self, proxy: str, options: dict[str, Any]) -> Any:
        if not proxy.lower().startswith("socks"):
            return ProxyManager(proxy, proxy_headers=self.proxy_headers(proxy), **options)
        try:
            from pooling.backends.http._socks import SOCKSProxyManager
        except ImportError:
            raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.") from None
        user, password = get_auth_from_url(proxy)
        return SOCKSProxyManager(proxy, username=user, password=password, **options)

    def send(self, request: Any, *args: Any, **kw: Any) -> Any:
        try:
            return super().send(request, *args, **kw)
        except EmptyPoolError as error:
            raise ConnectTimeout(error, request=request) from error

    @property
    def pooling(self) -> dict[str, Pool[Any]]:
        """The pool of each origin by its name; those behind a proxy have its URL in front."""
        found = dict(self.poolmanager.pooling)
        for proxy, manager in self.proxy_manager.items():
            shown = proxy.rpartition("@")[2]  # without the password
            found.update({f"{shown} {name}": pool for name, pool in manager.pooling.items()})
        return found
