"""An SQLite file as ``check`` opens it: a look at it neither creates it nor puts it into WAL mode, as a pool does."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode


def untouched(url: str) -> str:
    """The URL with which SQLite leaves the file as it is; of other schemes, and in memory, the URL itself. A ``mode``
    of the user's own stays. ``url`` is one that a pool takes."""
    path, given = _parts(url)
    if path in ("", ":memory:"):
        return url
    if not _is_uri(given):
        path = Path(path).absolute().as_uri()
        given |= {"uri": "1", "mode": "rw"}
    elif not {"mode", "vfs"} & given.keys():  # another VFS has modes of its own: memdb creates what there is not
        given["mode"] = "rw"
    return f"sqlite:///{quote(path)}?{urlencode(given | {'wal': '0'})}"


def missing(url: str) -> str | None:
    """What is not there of what the URL names, for people to read."""
    path, given = _parts(url)
    if path in ("", ":memory:") or _is_uri(given) or Path(path).exists():
        return None
    if Path(path).parent.is_dir():
        return "there is no such file: a pool would create it, this command changes nothing"
    return "there is no such directory, and a pool creates none"


def _parts(url: str) -> tuple[str, dict[str, str]]:
    """Path and query; the path is empty where it is not an SQLite file's."""
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    if scheme.lower().partition("+")[0] != "sqlite":
        return "", {}
    return unquote(place.partition("/")[2]), dict(parse_qsl(query, keep_blank_values=True))


def _is_uri(given: dict[str, str]) -> bool:
    return given.get("uri") in ("1", "true", "yes", "on")
