"""A small web service on one pool: notes, kept in SQLite or PostgreSQL.

python notes.py                                               # in notes.db
python notes.py --database postgresql://user@host/db --port 8000

PUT  /notes/NAME    keep the text that is sent
GET  /notes/NAME    give it back
GET  /notes         every note, one a line
GET  /health        204 if the database answers
GET  /pools/        who holds the connections, who waits, what has happened
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.util import shift_path_info

import pooling
from pooling.integrations.page import Page
from pooling.integrations.wsgi import Middleware
from pooling.signals import drain_on_signals

LONGEST = 65536  # bytes of a note
PAGE = 100  # notes that are read at once
PATIENCE = 5.0  # seconds the database may take to answer when the service starts


class Notes:
    """The notes in a database. Each call is tried again if the connection breaks or a transaction is undone: as often
    as there is time for, since doing any of them twice is as good as once."""

    def __init__(self, url: str) -> None:
        postgres = url.startswith("postgres")
        self._placeholder = "%s" if postgres else "?"
        # It outlasts a restart of the database: a request waits for a connection for up to 20 seconds, and fails sooner
        # only once connecting has failed for 15. Of more than 200 that wait, the last ones are turned away.
        self.pool: pooling.Pool[Any] = pooling.create_pool(
            url,
            {"autocommit": True} if postgres else None,  # else each read would leave a transaction to roll back
            name="notes",
            max_size=10,
            timeout=20.0,
            fail_after=15.0,
            max_waiting=200,
        )

    def _run(self, statement: str, *values: Any, write: bool = False) -> list[Any]:
        def work(connection: Any) -> list[Any]:
            cursor = connection.execute(statement.replace("?", self._placeholder), values)
            return [] if cursor.description is None else cursor.fetchall()

        return self.pool.run(work, retries=None, idempotent=True, transaction=write)

    def create(self) -> None:
        self._run("CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, text TEXT NOT NULL)", write=True)

    def put(self, name: str, text: str) -> None:
        statement = "INSERT INTO note VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET text = excluded.text"
        self._run(statement, name, text, write=True)

    def get(self, name: str) -> str | None:
        rows = self._run("SELECT text FROM note WHERE name = ?", name)
        return rows[0][0] if rows else None

    def names(self) -> Iterator[str]:
        """All names. No connection is held between two pages, be the reader as slow as it likes."""
        last = ""
        while rows := self._run(f"SELECT name FROM note WHERE name > ? ORDER BY name LIMIT {PAGE}", last):
            yield from (name for (name,) in rows)
            last = rows[-1][0]


class Site:
    """The WSGI application, before the middleware."""

    def __init__(self, notes: Notes, page: Page) -> None:
        self._notes = notes
        self._page = page

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        area = shift_path_info(environ)
        if area == "pools":
            return self._page(environ, start_response)
        status, body = self._answer(area, environ)
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return body

    def _answer(self, area: str | None, environ: dict[str, Any]) -> tuple[str, Iterable[bytes]]:
        method = environ["REQUEST_METHOD"]
        name = environ["PATH_INFO"].removeprefix("/").encode("latin-1").decode("utf-8", "replace")
        if area == "health":
            environ["pooling.leases"].connection().execute("SELECT 1")  # the request's own connection, see Middleware
            return "204 No Content", []
        if area != "notes":
            return "404 Not Found", [b"There is nothing here.\n"]
        if method == "PUT" and name:
            return self._put(name, environ)
        if method != "GET":
            return "405 Method Not Allowed", [b"PUT or GET, please.\n"]
        if not name:
            return "200 OK", (f"{one}\n".encode() for one in self._notes.names())
        text = self._notes.get(name)
        return ("404 Not Found", [b"No such note.\n"]) if text is None else ("200 OK", [text.encode()])

    def _put(self, name: str, environ: dict[str, Any]) -> tuple[str, Iterable[bytes]]:
        length = environ.get("CONTENT_LENGTH") or "0"
        if not length.isdigit() or int(length) > LONGEST:
            return "413 Content Too Large", [b"That is too long.\n"]
        text = environ["wsgi.input"].read(int(length)).decode("utf-8", "replace")
        if "\0" in name + text:
            return "400 Bad Request", [b"No NUL characters, please.\n"]
        self._notes.put(name, text)
        return "204 No Content", []


class Server(ThreadingMixIn, WSGIServer):
    """The standard library's server, with a thread for each request."""

    daemon_threads = False  # server_close() waits for those that are under way
    request_queue_size = 128

    def stop(self) -> None:
        """Take no new requests, and wait for those that are under way, but not longer than 15 seconds."""
        self.shutdown()
        closing = threading.Thread(target=self.server_close, daemon=True)
        closing.start()
        closing.join(15.0)


class Handler(WSGIRequestHandler):
    timeout = 30  # seconds a client may take to say something

    def log_message(self, *details: Any) -> None:
        """A line for each request would be too much."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep notes.")
    parser.add_argument("--database", default="sqlite:///notes.db", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    options = parser.parse_args()

    if not options.database.startswith(("sqlite", "postgres")):
        parser.error("--database takes a URL of SQLite or PostgreSQL: sqlite:///FILE, postgresql://USER@HOST/DATABASE")
    try:
        notes = Notes(options.database)
    except (ImportError, TypeError, ValueError) as error:  # no driver, or a URL that it does not understand
        parser.error(str(error))
    with notes.pool as pool, Page(pool) as page:
        try:
            pool.warm_up(PATIENCE)  # a service that has no database should say so now, not to its users
            notes.create()
        except pooling.PoolError as error:
            why = " ".join(str(error.__cause__ or error).split())
            sys.exit(f"notes: the database of --database cannot be reached: {why}")
        application = Middleware(Site(notes, page), pool, retry_after=1)
        try:
            server = make_server("127.0.0.1", options.port, application, Server, Handler)
        except (OSError, OverflowError) as error:  # another program has that port, or there is none of that number
            sys.exit(f"notes: nobody can be served at --port {options.port}: {error}")
        with server:
            # SIGTERM and Ctrl-C: the server stops, the pool is drained, and only then the process ends.
            drain_on_signals(pool, timeout=20.0, stop=server.stop)
            threading.Thread(target=server.serve_forever).start()
            print(f"Notes are kept at http://127.0.0.1:{server.server_port}/notes", flush=True)
            with suppress(KeyboardInterrupt):
                while True:
                    time.sleep(0.5)  # in short pieces: a signal that came to another thread is seen only in between


if __name__ == "__main__":
    main()
