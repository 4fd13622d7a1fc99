"""Which backend a URL is for: by its scheme, to which other packages add theirs by an entry point."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from pooling.backends._connect_args import ConnectArgs, check_connect_args
from pooling.config import OPTIONS, nearest

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pooling.config import Options
    from pooling.pool import Pool

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
_SCHEME = re.compile(r"([a-z][a-z0-9.-]*)(\+[a-z0-9_.-]+)?://", re.IGNORECASE)
_WITHOUT_SLASHES = re.compile(r"([a-z][a-z0-9.-]*)(?:\+[a-z0-9_.-]+)?:(/?)(?!/)", re.IGNORECASE)
_QUOTED = re.compile(r"""([\s"']+)[a-z][a-z0-9.+_-]*://""", re.IGNORECASE)
_FILE = re.compile(r"[\w./-]+\.(?:db|db3|sqlite|sqlite3)")
_QUERY = re.compile(r"\?[^@=]*=")  # without an "@" in the first name: what looks like a query may be in a password
# What ends user and password for the reader of such a URL, also before an "@". The others refuse it by themselves.
_ENDINGS = {"postgres": "/", "mongodb": "/?", "redis": "/?#"}
_ELSEWHERE = {"psql": "postgresql", "pg": "postgresql", "pgsql": "postgresql"}


def create_pool(url: str, connect_args: ConnectArgs = None, **options: Unpack[Options]) -> Pool[Any]:
    """A pool for the database or service behind a URL, such as ``postgresql://user@host/db``.

    ``connect_args`` goes to the driver's connect; the options are those of :class:`pooling.Pool`. A driver's name
    in the scheme (``postgresql+psycopg``) is accepted and ignored. Nothing is opened yet.

    Raises ValueError for a scheme nobody knows, TypeError for what cannot be ``connect_args``, ImportError that names
    the extra where the driver is missing.
    """
    check_connect_args(connect_args)
    return _creator(scheme_of(url))(url, connect_args=connect_args, **options)


def scheme_of(url: str) -> str:
    """The scheme of a URL, if :func:`create_pool` knows it and the URL does not read in two ways; loads no driver.
    Raises TypeError or ValueError."""
    check_text(url)
    found = _SCHEME.match(url)
    if found is None:
        raise ValueError(_no_url(url))
    scheme = found[1].lower()
    if scheme not in _MODULES and not entry_points(group=GROUP, name=scheme):
        known = schemes()
        meant = f", did you mean {_ELSEWHERE[scheme]!r}?" if scheme in _ELSEWHERE else nearest(scheme, known)
        raise ValueError(f"unknown URL scheme {scheme!r}{meant} (known: {', '.join(known)})")
    check_user(url)
    return scheme


def _no_url(text: str) -> str:
    """What to write instead. Of the text nothing is repeated but what can only be a scheme or a file's name: it may be
    a connection string with a password."""
    if _FILE.fullmatch(text):
        return f"url must look like 'sqlite:///shop.db': {text!r} has no scheme, write 'sqlite:///{text}'"
    if text == ":memory:":
        return "url must look like 'sqlite:///shop.db': for a database in memory write 'sqlite://'"
    if not text or text.isspace():
        return "url must look like 'postgresql://user@host/db' or 'sqlite:///shop.db': it is empty"
    if quoted := _QUOTED.match(text):  # as a file of variables has it whose reader keeps the quotes, Docker's for one
        return f"url must look like 'postgresql://user@host/db': it has {quoted[1]!r} before its scheme"
    begun = _WITHOUT_SLASHES.match(text)
    scheme = begun[1].lower() if begun else ""
    if begun is None or scheme not in schemes():
        return "url must look like 'postgresql://user@host/db' or 'sqlite:///shop.db': it has no scheme"
    if _MODULES.get(scheme) != "sqlite":
        return f"url must look like '{scheme}://host': it has no '//' after '{scheme}:'"
    path = begun[2] + text[begun.end() :]
    meant = path if _FILE.fullmatch(path) else "shop.db"
    return f"url must look like 'sqlite:///shop.db': it has no '///' after 'sqlite:', write 'sqlite:///{meant}'"


def check_text(url: str) -> None:
    """Raise TypeError for what is no text: mostly it is None, of a variable that is not set."""
    if not isinstance(url, str):
        raise TypeError(f"url must be a string, not {type(url).__name__}")


def check_user(url: str) -> None:
    """Refuse a URL with a password that ends too early for who reads it: what is left of it would be taken for the host
    or the database, and the pool be called that. Raises ValueError, and TypeError for what is no text."""
    check_text(url)
    found = _SCHEME.match(url)
    if found is None:
        return  # a connection string of another kind, which ends a password in its own way
    before, _, _ = _QUERY.split(url[found.end() :], maxsplit=1)[0].rpartition("@")
    if ending := next((mark for mark in _ENDINGS.get(_MODULES.get(found[1].lower(), ""), "") if mark in before), None):
        raise ValueError(
            f"the URL cannot be read: it has a {ending!r} before an '@'. Special characters in user, password and "
            "database have to be percent-encoded: '@' as %40, '/' as %2F, '?' as %3F, '#' as %23"
        )


def unknown_option(
    name: str, kind: str, known: Iterable[str], *, meant: str | None = None, listed: bool = False
) -> TypeError:
    """An error for an option in a URL of that kind that nobody knows, with the nearest one; or with where it is given,
    if it is the pool's. ``meant``: what it is looked for as."""
    if name in OPTIONS:
        return TypeError(f"{name!r} is an option of the pool and not of the {kind} URL: create_pool(url, {name}=…)")
    known = list(known)
    near = nearest(meant or name, [*known, "max_size", "min_size"])  # by which a pool_size or max_connections is meant
    rest = f" (known: {', '.join(known)})" if listed else ""
    return TypeError(f"unknown option {name!r} in the {kind} URL{near}{rest}")


_SWITCH = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True, "off": False, "on": True}
on_or_off = _SWITCH.__getitem__
_WANTED: dict[Callable[[str], Any], str] = {float: "seconds", int: "a whole number"}


def read_option(name: str, text: str, read: Callable[[str], Any], kind: str, *, also: str = "") -> Any:
    """What the text of an option stands for in a URL of that kind. Raises ValueError with what it may be; ``also``:
    beside the words for on and off."""
    try:
        return read(text)
    except (ValueError, KeyError):
        wanted = _WANTED.get(read, f"one of {', '.join(_SWITCH)}{also}")
        raise ValueError(f"{name} in the {kind} URL must be {wanted}, not {text!r}") from None


def schemes() -> list[str]:
    """Every scheme that :func:`create_pool` knows."""
    return sorted({*_MODULES, *(point.name for point in entry_points(group=GROUP))})


def _creator(scheme: str) -> Callable[..., Pool[Any]]:
    create: Callable[..., Pool[Any]]
    # Each import is written out: what packs a program with all that it imports reads them here.
    match _MODULES.get(scheme):
        case "sqlite":
            from pooling.backends.sqlite import create
        case "postgres":
            from pooling.backends.postgres import create
        case "mysql":
            from pooling.backends.mysql import create
        case "redis":
            from pooling.backends.redis import create
        case "http":
            from pooling.backends.http import create
        case "mongodb":
            from pooling.backends.mongodb import create
        case _:
            (point, *_) = entry_points(group=GROUP, name=scheme)
            create = point.load()
    return create
