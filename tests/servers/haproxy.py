"""HAProxy, TCP mode, in front of named upstream addresses. Sessions are its clients' connections."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.servers.base import Server, ServerError
from tests.servers.binaries import HAPROXY

_CONFIGURATION = """
global
    stats socket {self.folder}/admin level admin
    maxconn 500
defaults
    mode tcp
    timeout connect 2s
    timeout client {self.idle_timeout}
    timeout server {self.idle_timeout}
frontend front
    bind {self.host}:{self.port}
    default_backend back
backend back
    balance {self.balance}
{upstreams}
"""


class HAProxy(Server):
    kind: ClassVar[str] = "haproxy"

    def __init__(
        self, upstreams: Mapping[str, tuple[str, int]], *, balance: str = "first", idle_timeout: str = "1h"
    ) -> None:
        super().__init__()
        self.upstreams = dict(upstreams)
        self.balance = balance
        self.idle_timeout = idle_timeout

    def url_at(self, host: str, port: int) -> str:
        return f"tcp://{host}:{port}"

    def disable(self, name: str) -> None:
        """Send no new connections to that upstream."""
        self._ask(lambda admin: self._say(f"disable server back/{name}"))

    def enable(self, name: str) -> None:
        self._ask(lambda admin: self._say(f"enable server back/{name}"))

    def _prepare(self) -> None:
        lines = [f"    server {name} {host}:{port}" for name, (host, port) in self.upstreams.items()]
        text = _CONFIGURATION.format(self=self, upstreams="\n".join(lines))
        (self.folder / "haproxy.cfg").write_text(text)

    def _command(self) -> list[str]:
        return [HAPROXY.path(), "-f", str(self.folder / "haproxy.cfg"), "-db"]

    def _connect_admin(self) -> None:
        """The admin socket hangs up after each answer."""
        self._say("show info")

    def _close_admin(self, admin: None) -> None:
        """Nothing is kept."""

    def _say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(5)
            admin.connect(str(self.folder / "admin"))
            admin.sendall(command.encode() + b"\n")
            answer = b"".join(iter(lambda: admin.recv(65536), b"")).decode()
        if "No such server" in answer:
            raise ServerError(answer.strip())
        return answer

    def _sessions(self, admin: None, name: str | None) -> list[Any]:
        """`name` is an upstream's."""
        found = []
        for line in self._say("show sess").splitlines():
            fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
            if fields.get("fe") == "front" and name in {None, fields.get("srv")}:
                found.append(line.partition(":")[0])
        return found

    def _kill_session(self, admin: None, session: Any) -> None:
        self._say(f"shutdown session {session}")
