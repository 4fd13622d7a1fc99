"""The WSGI application: which path answers what, and the headers that keep a browser strict."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, quote

from pooling._log import write
from pooling.integrations.page._actions import Desk, Refused
from pooling.integrations.page._document import document
from pooling.integrations.page._source import Source, source
from pooling.integrations.page._watch import Watch

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from typing_extensions import Self

_log = logging.getLogger("pooling.page")
_LONGEST_ORDER = 4096  # bytes
# Nothing but this page's own files, no inline script or style, and no string that becomes code or markup.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = [
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]
_ASSETS = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_JSON, _TEXT = "application/json; charset=utf-8", "text/plain; charset=utf-8"


class _Answer(NamedTuple):
    status: str
    kind: str
    body: bytes
    more: tuple[tuple[str, str], ...] = ()


class Page:
    """A live page about ``pools``, as a WSGI application. Mount it below any path; calls come from any thread.

    ``pools``: a :class:`pooling.Pool`, a mapping of names to pools (such as a manager), several pools, or a drop-in of
    this package, whose pools are in its ``pooling``. Pools are held weakly, a mapping as it is.

    ``token``: who sends it in the header ``X-Pooling-Token`` may clear, suspend, resume and resize; without one the
    page only reads. It shows thread names, call sites and options, never URLs, passwords or connections: mount it
    where only you can see it all the same.

    The past that it shows begins with its first request in a process, or with :meth:`start`: one daemon thread looks
    at the pools once a second. The thread ends with :meth:`close`, or with the page.

    Raises TypeError for what has no pools, ValueError for an empty token.
    """

    def __init__(self, pools: Source, *, token: str | None = None) -> None:
        self._watch = Watch(source(pools))
        self._desk = Desk(token)

    def start(self) -> None:
        """Begin to look at the pools now. In a server that forks, call it in each worker, not before."""
        self._watch.begin()

    def close(self) -> None:
        """Have the thread end; waits for it at most 5 seconds. The page still answers, from what it has seen."""
        self._watch.end()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.start()
        try:
            answer = self._answer(environ)
        except Exception:
            write(_log.exception, "the page could not answer")
            answer = _Answer("500 Internal Server Error", _TEXT, b"The page could not answer: see the log.\n")
        headers = [*_HEADERS, ("Content-Type", answer.kind), ("Content-Length", str(len(answer.body))), *answer.more]
        start_response(answer.status, headers)
        return [b"" if environ.get("REQUEST_METHOD") == "HEAD" else answer.body]

    def _answer(self, environ: WSGIEnvironment) -> _Answer:
        path, method = environ.get("PATH_INFO", ""), environ.get("REQUEST_METHOD", "GET")
        if path == "/actions":
            return self._act(environ) if method == "POST" else _not_allowed("POST")
        if path and path != "/pools.json" and path not in _ASSETS:
            return _Answer("404 Not Found", _TEXT, b"There is nothing here.\n")
        if method not in ("GET", "HEAD"):
            return _not_allowed("GET, HEAD")
        if not path:  # mounted without a slash at its end: the page's own links are relative
            # One slash only in front: two would lead to another host.
            place = quote("/" + environ.get("SCRIPT_NAME", "").strip("/") + "/", encoding="latin-1")
            return _Answer("308 Permanent Redirect", _TEXT, b"", (("Location", place.replace("//", "/")),))
        if path == "/pools.json":
            return _Answer("200 OK", _JSON, _dumped(self._look(environ.get("QUERY_STRING", ""))))
        name, kind = _ASSETS[path]
        return _Answer("200 OK", kind, (files(__package__) / "assets" / name).read_bytes())

    def _look(self, query: str) -> dict[str, Any]:
        asked = parse_qs(query)
        since = asked.get("since", ["0"])[0]
        run = asked.get("run", [""])[0]
        known = int(since) if since.isascii() and since.isdigit() and len(since) < 16 else 0
        self._watch.catch_up()
        return document(self._watch, actions=self._desk.is_open, run=run, since=known)

    def _act(self, environ: WSGIEnvironment) -> _Answer:
        """A header of its own, which no form can send and no other site may: nothing to forge a request with."""
        try:
            order = _order(environ)
            done = self._desk.carry_out(environ.get("HTTP_X_POOLING_TOKEN", ""), order, self._watch.pools())
        except Refused as refusal:
            return _Answer(refusal.status, _JSON, _dumped({"error": str(refusal)}))
        return _Answer("200 OK", _JSON, _dumped({"done": done}))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def _order(environ: WSGIEnvironment) -> object:
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused("415 Unsupported Media Type", "an order is sent as application/json")
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        length = -1
    if not 0 <= length <= _LONGEST_ORDER:
        raise Refused("413 Content Too Large", f"an order has at most {_LONGEST_ORDER} bytes")
    try:
        return json.loads(environ["wsgi.input"].read(length))
    except (ValueError, RecursionError):
        raise Refused("400 Bad Request", "the order is no JSON") from None
    except OSError:  # the server's, where the client takes too long or has hung up
        raise Refused("408 Request Timeout", "the order did not come as a whole") from None


def _not_allowed(methods: str) -> _Answer:
    return _Answer("405 Method Not Allowed", _TEXT, b"Not in this way.\n", (("Allow", methods),))


def _dumped(value: object) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
