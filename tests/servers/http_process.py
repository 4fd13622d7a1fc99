"""The HTTP server's process: `http_process.py HOST PORT [CERTIFICATE KEY]`. Standard library only.

GET /                   200, "ok"
GET /connection         200, the number of the connection that carries the request
GET /status/404         that status, with a body
GET /delay/0.5          200 after so many seconds
GET /bytes/1000         200 with so many bytes
GET /chunks/10          200 with so many chunks of 1000 bytes
GET /close              200 with "Connection: close"
GET /drop               200 without "Connection: close", and then the server hangs up all the same
GET /hint/2             200 with "Keep-Alive: timeout=2"; the server itself keeps the connection
GET /drip/30            200 with a byte every 20 ms for so many seconds; ends early when the client has gone
GET /redirect/a/path    302 to /a/path, with a body
GET /broken             hangs up instead of answering
GET /short              promises 1000 bytes, sends 10, hangs up
GET /admin/sessions     open connections and the User-Agent of each
GET /admin/kill/7       hang up on that connection
POST, PUT anything      200 with the body it was sent

An X-Request-ID of the request is sent back.
"""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_numbers = itertools.count(1)
_sessions: dict[int, tuple[socket.socket, str | None]] = {}
_lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The head and the body are two writes; Nagle's algorithm would hold the second for 40 ms.
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.number = next(_numbers)
        with _lock:
            _sessions[self.number] = (self.connection, None)

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            with _lock:
                _sessions.pop(self.number, None)

    def do_GET(self) -> None:
        with _lock:
            _sessions[self.number] = (self.connection, self.headers.get("User-Agent"))
        head, _, rest = self.path.lstrip("/").partition("/")
        action = getattr(self, f"get_{head or 'root'}", None)
        if action is None:
            self.reply(b"no such path", 404)
        else:
            action(rest)

    def do_POST(self) -> None:
        self.reply(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def do_PUT(self) -> None:
        self.do_POST()

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()

    def get_root(self, rest: str) -> None:
        self.reply(b"ok")

    def get_connection(self, rest: str) -> None:
        self.reply(str(self.number).encode())

    def get_status(self, rest: str) -> None:
        self.reply(rest.encode(), int(rest))

    def get_delay(self, rest: str) -> None:
        time.sleep(float(rest))
        self.reply(b"ok")

    def get_bytes(self, rest: str) -> None:
        self.reply(b"x" * int(rest))

    def get_chunks(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(int(rest)):
            self.wfile.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def get_close(self, rest: str) -> None:
        self.reply(b"ok", headers={"Connection": "close"})

    def get_drop(self, rest: str) -> None:
        self.reply(b"ok")
        self.close_connection = True

    def get_hint(self, rest: str) -> None:
        self.reply(b"ok", headers={"Keep-Alive": f"timeout={rest}, max=100"})

    def get_drip(self, rest: str) -> None:
        self.send_response(200)
        count = round(float(rest) / 0.02)
        self.send_header("Content-Length", str(count))
        self.end_headers()
        for _ in range(count):
            self.wfile.write(b"x")
            time.sleep(0.02)

    def get_redirect(self, rest: str) -> None:
        self.reply(b"over there", 302, headers={"Location": f"/{rest}"})

    def get_broken(self, rest: str) -> None:
        self.close_connection = True

    def get_short(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)
        self.close_connection = True

    def get_admin(self, rest: str) -> None:
        action, _, number = rest.partition("/")
        with _lock:
            sessions = {key: agent for key, (_, agent) in _sessions.items()}
            doomed = _sessions.get(int(number)) if action == "kill" else None
        if doomed is not None:
            try:
                doomed[0].shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has left by itself
        self.reply(json.dumps(sessions).encode())

    def reply(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if "X-Request-ID" in self.headers:
            self.send_header("X-Request-ID", self.headers["X-Request-ID"])
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name for it
        """A line for each request would fill the log."""


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512
    context: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        # Here, in the connection's own thread, a slow handshake holds nobody else up.
        if self.context is not None:
            request = self.context.wrap_socket(request, server_side=True)
        try:
            super().finish_request(request, client_address)
        finally:
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


def main(host: str, port: str, certificate: str | None = None, key: str | None = None) -> None:
    with Listener((host, int(port)), Handler) as server:
        if certificate is not None:
            server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.context.load_cert_chain(certificate, key)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
