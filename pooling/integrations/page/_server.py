"""The page on a port of its own: a small threaded server of the standard library, on the loopback interface."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import socketserver
import sys
import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from pooling._log import write
from pooling.integrations.page._app import Page
from pooling.integrations.page._source import Source

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from typing_extensions import Self

_log = logging.getLogger("pooling.page")
_PATIENCE = 10.0  # seconds that a client may take with its request


def serve(pools: Source, *, host: str = "127.0.0.1", port: int = 8080, token: str | None = None) -> PageServer:
    """Answer with a :class:`Page` about ``pools`` on a port of its own, from daemon threads. Returns at once.

    ``port`` 0 takes any that is free; :attr:`PageServer.url` says which. By default nobody but this machine can
    reach it, and a request has to name this machine too, so that no other site's name leads a browser here. With
    another ``host`` everybody who can reach that address can read the page.

    Call it after a fork, not before. Raises OSError where the address cannot be had, ValueError for a number that is no
    port's, and what :class:`Page` raises.
    """
    return PageServer(Page(pools, token=token), host, port)


class PageServer:
    """What :func:`serve` returns. It answers until :meth:`close`, also when nobody keeps it, or the end of the process;
    as a context manager it closes itself."""

    def __init__(self, page: Page, host: str, port: int) -> None:
        self.page = page
        address = _address(host, port)
        local = ipaddress.ip_address(address[1][0]).is_loopback
        if not local:
            write(_log.warning, "the page can be read by everybody who can reach %s", host)
        self._server = _Server(address, _only_here(page) if local else page)
        bound: Any = self._server.server_address
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        self.url = f"http://{shown}:{bound[1]}/"
        """Where the page is."""
        page.start()
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="pooling-page-server", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Take no more requests, and let the threads end. May be called again; does nothing in a forked child."""
        if os.getpid() == self._pid:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(5.0)
            self.page.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PageServer {self.url}>"


def _address(host: str, port: int) -> tuple[Any, Any]:
    """Family and address of a host; the first of what its name stands for."""
    if type(port) is not int or not 0 <= port <= 65535:
        raise ValueError(f"port must be a number from 0 to 65535, not {port!r}")
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return family, address


def _only_here(page: Page) -> WSGIApplication:
    """Answer none that names another host: a site whose name was made to lead to this machine."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not _is_local(environ.get("HTTP_HOST", "")):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"This page is for this machine alone: call it by localhost.\n"]
        return page(environ, start_response)

    return answer


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


_servers: weakref.WeakSet[_Server] = weakref.WeakSet()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    # Not the 5 of socketserver: a browser that opens the page makes six connections at once, and who finds no place
    # tries again a second later.
    request_queue_size = 128

    def __init__(self, address: tuple[Any, Any], application: WSGIApplication) -> None:
        self.address_family, place = address
        super().__init__(place, _Handler)
        self.set_app(application)
        _servers.add(self)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the name service who we are, and that may take its time.
        socketserver.TCPServer.server_bind(self)
        bound: Any = self.server_address
        self.server_name, self.server_port = str(bound[0]), int(bound[1])
        self.setup_environ()

    def handle_error(self, *_: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # else a browser has hung up, or takes too long
            write(_log.exception, "a request failed")


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name it has there
        _log.debug(format, *args)


def _let_go() -> None:
    """In a forked child: nobody listens there, and the port is to be free once the parent has closed it."""
    for server in list(_servers):
        server.socket.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
