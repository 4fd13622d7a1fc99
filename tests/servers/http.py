"""An HTTP/1.1 server with keep-alive in a process of its own; http_process.py says what it answers."""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from tests.servers.base import ADMIN_NAME, Server, ServerError


class HTTP(Server):
    """Sessions are connections; their name is the User-Agent of the last request."""

    kind: ClassVar[str] = "http"

    def url_at(self, host: str, port: int) -> str:
        return f"{'https' if self.tls else 'http'}://{host}:{port}"

    def _prepare(self) -> None:
        """No files."""

    def _command(self) -> list[str]:
        # -I: a script's folder comes first on the path otherwise, and this one holds an http.py.
        script = str(Path(__file__).with_name("http_process.py"))
        command = [sys.executable, "-I", script, self.host, str(self.port)]
        if self.certificates is not None:
            command += [str(self.certificates.certificate), str(self.certificates.key)]
        return command

    def _connect_admin(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        if self.certificates is None:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        else:
            context = ssl.create_default_context(cafile=str(self.certificates.authority))
            connection = http.client.HTTPSConnection(self.host, self.port, timeout=5, context=context)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        return connection

    def _sessions(self, admin: http.client.HTTPConnection, name: str | None) -> list[Any]:
        sessions: dict[str, str | None] = self._get(admin, "/admin/sessions")
        return [key for key, agent in sessions.items() if agent != ADMIN_NAME and name in {None, agent}]

    def hang_up(self, number: int) -> None:
        """End one connection; return once it is gone."""
        self._ask(lambda admin: self._kill_session(admin, number))
        until = time.monotonic() + 5.0
        while str(number) in self._ask(lambda admin: self._sessions(admin, None)):
            if time.monotonic() > until:
                raise ServerError(f"connection {number} is still there")
            time.sleep(0.002)

    def _kill_session(self, admin: http.client.HTTPConnection, session: Any) -> None:
        self._get(admin, f"/admin/kill/{session}")

    @staticmethod
    def _get(admin: http.client.HTTPConnection, path: str) -> Any:
        admin.request("GET", path, headers={"User-Agent": ADMIN_NAME})
        with admin.getresponse() as response:
            return json.load(response)
