"""The WSGI servers that an application may run under, each in processes of its own."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from tests.servers import Server

ROOT = Path(__file__).parents[2]
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


def _gunicorn(kind: str, *options: str) -> Callable[[str, int], list[str]]:
    def command(application: str, port: int) -> list[str]:
        bind = ["--bind", f"127.0.0.1:{port}", "--worker-class", kind, "--graceful-timeout", "5"]
        return [sys.executable, "-m", "gunicorn", *bind, *options, application]

    return command


def _uwsgi(*options: str) -> Callable[[str, int], list[str]]:
    def command(application: str, port: int) -> list[str]:
        run = [sys.executable, "-c", "import sys, pyuwsgi; pyuwsgi.run(sys.argv[1:])"]
        life = ["--master", "--need-app", "--die-on-term", "--no-orphans", "--processes", "2"]
        return [*run, "--http-socket", f"127.0.0.1:{port}", "--module", application, *life, *options]

    return command


def _waitress(application: str, port: int) -> list[str]:
    return [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}", "--threads=8", application]


def _wsgiref(application: str, port: int) -> list[str]:
    return [sys.executable, "-m", application.partition(":")[0], str(port)]


COMMANDS: dict[str, Callable[[str, int], list[str]]] = {
    "gunicorn-gthread": _gunicorn("gthread", "--threads", "8"),
    "gunicorn-gevent": _gunicorn("gevent", "--worker-connections", "100"),
    "gunicorn-preload": _gunicorn("gthread", "--threads", "8", "--workers", "2", "--preload"),
    "uwsgi": _uwsgi("--enable-threads", "--threads", "8"),
    "uwsgi-unthreaded": _uwsgi(),  # Python's threads run while a request does, and not between
    "waitress": _waitress,
    "wsgiref": _wsgiref,
}
FORKING = ("gunicorn-preload", "uwsgi", "uwsgi-unthreaded")
"""The application is loaded once, and two workers are forked from that."""
THREADED = [name for name in COMMANDS if name != "uwsgi-unthreaded"]


class Serving(Server):
    """An application under one of the servers; its output is in ``folder/server.log``."""

    kind: ClassVar[str] = "wsgi"

    def __init__(self, name: str, application: str, **variables: str) -> None:
        super().__init__()
        self._name, self._application, self._variables = name, application, variables

    def url_at(self, host: str, port: int) -> str:
        return f"http://{host}:{port}"

    def _prepare(self) -> None:
        """No files."""

    def _command(self) -> list[str]:
        variables = {"PYTHONPATH": str(ROOT), "HOME": str(self.folder), **self._variables}
        pairs = [f"{name}={value}" for name, value in variables.items()]
        return ["env", *pairs, *COMMANDS[self._name](self._application, self.port)]

    def _connect_admin(self) -> http.client.HTTPConnection:
        self.get("/nothing")
        return http.client.HTTPConnection(self.host, self.port)  # not connected: each question has its own

    def _sessions(self, admin: Any, name: str | None) -> list[Any]:
        raise NotImplementedError

    def _kill_session(self, admin: Any, session: Any) -> None:
        raise NotImplementedError

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def get(self, path: str, timeout: float = 30.0, method: str = "GET") -> tuple[int, bytes]:
        """One request on a connection of its own: the status and the whole body."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request(method, path, headers={"Connection": "close"})
            with connection.getresponse() as response:
                return response.status, response.read()
        finally:
            connection.close()

    def stats(self) -> dict[str, Any]:
        """The numbers of the worker that answers."""
        found: dict[str, Any] = json.loads(self.get("/stats")[1])
        return found

    def abandon(self, path: str) -> None:
        """A client that goes away, with a reset, once it has seen the beginning of the answer."""
        with socket.create_connection((self.host, self.port), timeout=30) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())
            client.recv(1024)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
