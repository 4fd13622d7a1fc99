"""Django on our pools: a database backend for each of PostgreSQL, MySQL and SQLite, and pools for the Redis cache.

``ENGINE`` is ``pooling.integrations.django.postgresql``, ``.mysql`` or ``.sqlite3``; the pool's options stand in
``OPTIONS["pooling"]``. ``connection.pooling`` is the :class:`pooling.Pool` of an alias.
"""

from __future__ import annotations

try:
    import django  # noqa: F401  # asked for here so that the error names the extra
except ImportError as error:
    raise ImportError("the Django backends need Django: pip install 'pooling[django]'") from error

from pooling.integrations.django._pools import close_all, pools

__all__ = ["close_all", "pools"]
