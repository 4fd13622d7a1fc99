"""A real forwarding HTTP proxy: CONNECT tunnels, and requests with absolute URLs. In-process, on loopback.

with Forwarder() as forwarder:
    urllib3.ProxyManager(forwarder.url)
    forwarder.tunnels, forwarder.forwarded      # how many it has seen
    forwarder.user = "user:password"            # 407 for whoever does not say so
"""

from __future__ import annotations

import base64
import http.client
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from typing_extensions import Self


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_CONNECT(self) -> None:
        if not self.welcome():
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), 5) as upstream:
            self.server.owner.tunnels += 1
            self.send_response(200)
            self.end_headers()
            ends = [self.connection, upstream]
            while True:
                for ready in select.select(ends, [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        self.close_connection = True
                        return
                    ends[ends.index(ready) ^ 1].sendall(data)

    def do_GET(self) -> None:
        if not self.welcome():
            return
        self.server.owner.forwarded += 1
        target = urlsplit(self.path)
        upstream = http.client.HTTPConnection(target.hostname or "", target.port or 80, timeout=5)
        upstream.request("GET", target.path or "/", headers={"Host": target.netloc})
        response = upstream.getresponse()
        body = response.read()
        upstream.close()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def welcome(self) -> bool:
        user = self.server.owner.user
        given = self.headers.get("Proxy-Authorization")
        if user is None or given == "Basic " + base64.b64encode(user.encode()).decode():
            return True
        self.send_response(407)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name for it
        """A line for each request would fill the log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: Forwarder

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class Forwarder:
    def __init__(self) -> None:
        self.tunnels = self.forwarded = 0
        self.user: str | None = None
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
