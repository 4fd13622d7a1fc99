"""A WSGI application on PostgreSQL that watches its own requests, run by the servers of serving.py.

It notes each backend process that a request is using, from its first use to the request's end, and counts the moments
when two requests have the same one.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs
from wsgiref.util import FileWrapper

import pooling
from pooling.integrations import wsgi

ROW = b"x" * 65536
MASTER = os.getpid()

pool: pooling.Pool[Any] = pooling.create_pool(os.environ["APPLICATION_URL"], max_size=4)
tight: pooling.Pool[Any] = pooling.create_pool(os.environ["APPLICATION_URL"], max_size=1, max_waiting=1)
inherited: list[int] = []
if "APPLICATION_WARM" in os.environ:  # as an application does that uses its pool while it is loaded
    with pool.acquire() as first:
        inherited.append(first.info.backend_pid)

_lock = threading.Lock()
_users: Counter[int] = Counter()
_shared = 0
_files = Counter[bool]()  # whether a file reached the server as its wrapper had made it


@contextmanager
def using(backend: int) -> Iterator[None]:
    global _shared
    with _lock:
        _users[backend] += 1
        _shared += _users[backend] > 1
    try:
        yield
    finally:
        with _lock:
            _users[backend] -= 1


def ask(environ: Any, sleep: str = "0", pool: str = "default") -> Iterable[bytes]:
    connection = wsgi.connection(environ, pool)
    with using(connection.info.backend_pid):
        (answer,) = connection.execute("SELECT pg_backend_pid() FROM pg_sleep(%s)", [sleep]).fetchone()
        assert answer == connection.info.backend_pid
    return [str(answer).encode()]


def stream(environ: Any, rows: str = "5", fail: str = "") -> Iterator[bytes]:
    return _rows(wsgi.connection(environ), int(rows), fail)  # taken by the application, used by its body


def _rows(connection: Any, rows: int, fail: str) -> Iterator[bytes]:
    with using(connection.info.backend_pid):
        for row in range(rows):
            connection.execute("SELECT %s::int", [row])
            yield ROW
        if fail:
            raise RuntimeError("midway, as was asked for")


def fail(environ: Any) -> Iterable[bytes]:
    wsgi.connection(environ).execute("SELECT 1")
    raise RuntimeError("as was asked for")


def file(environ: Any) -> Any:
    wsgi.connection(environ).execute("SELECT 1")
    opened = open(os.environ["APPLICATION_FILE"], "rb")  # noqa: SIM115  # the server closes it
    environ["tests.file"] = environ.get("wsgi.file_wrapper", FileWrapper)(opened, 65536)
    return environ["tests.file"]


def nothing(environ: Any) -> Iterable[bytes]:
    return [b"nothing"]


def stats(environ: Any) -> Iterable[bytes]:
    numbers = pool.stats()
    found = {
        "pid": os.getpid(),
        "master": MASTER,
        "inherited": inherited,
        "shared": _shared,
        "files": [_files[True], _files[False]],
        "leased": numbers.leased + tight.stats().leased,
        "acquired": numbers.acquired,
        "released": numbers.released,
        "size": numbers.size,
        "closed": dict(numbers.closed),
    }
    return [json.dumps(found).encode()]


ROUTES: dict[str, Callable[..., Any]] = {
    "/ask": ask,
    "/stream": stream,
    "/fail": fail,
    "/file": file,
    "/nothing": nothing,
    "/stats": stats,
}


def bare(environ: Any, start_response: Any) -> Any:
    query = {name: values[0] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
    body = ROUTES[environ["PATH_INFO"]](environ, **query)
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return body


pooled = wsgi.Middleware(bare, {"default": pool, "tight": tight}, retry_after=1)


def application(environ: Any, start_response: Any) -> Any:
    result = pooled(environ, start_response)
    if "tests.file" in environ:
        _files[result is environ["tests.file"]] += 1
    return result


def main(port: int) -> None:
    """The standard library's server, with a thread for each request."""
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIServer, make_server

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True
        request_queue_size = 128

    make_server("127.0.0.1", port, application, Server).serve_forever()  # type: ignore[arg-type]


if __name__ == "__main__":
    import sys

    main(int(sys.argv[1]))
