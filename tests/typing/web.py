"""What type checkers make of the WSGI middleware and the Flask extension. Checked by mypy --strict, never run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask

import pooling
from pooling.integrations import wsgi
from pooling.integrations.flask import Pools
from pooling.lease import Lease

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    leases = wsgi.leases(environ)
    leases.connection("main").execute("SELECT 1")
    lease: Lease[Any] = leases.lease()
    with leases.transaction() as connection:
        connection.execute("SELECT 1")
    wsgi.connection(environ, "main").execute("SELECT 1")
    lease.discard()
    return []


pool: pooling.Pool[Any] = pooling.create_pool("sqlite://")
application: WSGIApplication = wsgi.Middleware(site, pool, timeout=None, retry_after=1.5)
application = wsgi.Middleware(application, {"main": pool}, key="second")
application = wsgi.Middleware(site, pooling.PoolManager())
wsgi.Middleware(site, "sqlite://")  # type: ignore[arg-type]
wsgi.Middleware(site, pool, retry_after="soon")  # type: ignore[arg-type]
wsgi.Middleware(7, pool)  # type: ignore[arg-type]

pools = Pools(Flask("site"), {"main": pool})
pools.init_app(Flask("other"))
lease: Lease[Any] = pools.lease("main")
with pools.transaction() as connection:
    connection.execute("SELECT 1")
pools.pools()["main"].stats()
pools.close(Flask("other"))
Pools("site")  # type: ignore[arg-type]
