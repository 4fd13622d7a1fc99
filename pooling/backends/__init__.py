"""One module a backend, found by the scheme of a URL; other packages add schemes by an entry point."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from pooling.config import nearest

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pooling.config import Options
    from pooling.factory import Factory
    from pooling.pool import Pool

ConnectArgs = Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None
"""Further arguments for the driver's connect: a mapping, or a callable asked anew for every connection, so that
passwords can rotate."""

# scheme → module under pooling.backends
_MODULES = {
    "sqlite": "sqlite",
    "postgresql": "postgres",
    "postgres": "postgres",
    "mysql": "mysql",
    "mariadb": "mysql",
    "redis": "redis",
    "rediss": "redis",
    "http": "http",
    "https": "http",
    "mongodb": "mongodb",
    "mongodb+srv": "mongodb",
}
GROUP = "pooling.backends"
"""The entry-point group: ``name`` is the scheme, the object ``create(url, connect_args=None, **options)``."""
ANSWERS = 16  # of connect_args that are remembered for the sake of secrets
_SCHEME = re.compile(r"([a-z][a-z0-9.-]*)(\+[a-z0-9_.-]+)?://", re.IGNORECASE)


def create_pool(url: str, connect_args: ConnectArgs = None, **options: Unpack[Options]) -> Pool[Any]:
    """A pool for the database or service behind a URL, such as ``postgresql://user@host/db``.

    ``connect_args`` goes to the driver's connect; the options are those of :class:`pooling.Pool`. A driver's name
    in the scheme (``postgresql+psycopg``) is accepted and ignored. Nothing is opened yet.

    Raises ValueError for a scheme nobody knows, ImportError that names the extra where the driver is missing.
    """
    return _creator(scheme_of(url))(url, connect_args=connect_args, **options)


def scheme_of(url: str) -> str:
    """The scheme of a URL, if :func:`create_pool` knows it; loads no driver. Raises TypeError or ValueError."""
    if not isinstance(url, str):
        raise TypeError(f"url must be a string, not {type(url).__name__}")
    found = _SCHEME.match(url)
    if found is None:  # nothing of it is repeated: it may be a connection string with a password
        raise ValueError("url must look like 'postgresql://user@host/db': it has no scheme")
    scheme = found[1].lower()
    if scheme not in _MODULES and not entry_points(group=GROUP, name=scheme):
        known = schemes()
        raise ValueError(f"unknown URL scheme {scheme!r}{nearest(scheme, known)} (known: {', '.join(known)})")
    return scheme


def schemes() -> list[str]:
    """Every scheme that :func:`create_pool` knows."""
    return sorted({*_MODULES, *(point.name for point in entry_points(group=GROUP))})


def _creator(scheme: str) -> Callable[..., Pool[Any]]:
    if scheme in _MODULES:
        create: Callable[..., Pool[Any]] = import_module(f"pooling.backends.{_MODULES[scheme]}").create
        return create
    (point, *_) = entry_points(group=GROUP, name=scheme)
    loaded: Callable[..., Pool[Any]] = point.load()
    return loaded


def asked(connect_args: ConnectArgs, factory: Factory[Any] | None = None) -> dict[str, Any]:
    """The arguments for one connect."""
    if not callable(connect_args):
        return dict(connect_args or {})
    args = dict(connect_args())
    # Where Factory.secrets() finds them: whichever of these an error shows, it was asked for not long ago.
    if factory is not None:
        vars(factory).setdefault("_answers", deque(maxlen=ANSWERS)).append(args)
    return args
