"""PgBouncer in front of a PostgreSQL server. Sessions are its clients, not its connections to the server."""

from __future__ import annotations

import signal
from typing import Any, ClassVar

import psycopg

from tests.servers.base import ADMIN_NAME, Server
from tests.servers.binaries import PGBOUNCER
from tests.servers.postgres import Postgres

_CONFIGURATION = """
[databases]
postgres = host={upstream.host} port={upstream.port} dbname=postgres user=postgres

[pgbouncer]
listen_addr = {self.host}
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {self.folder}/users
admin_users = {admin}
pool_mode = {self.pool_mode}
max_client_conn = 500
default_pool_size = 20
ignore_startup_parameters = extra_float_digits,options
application_name_add_host = 0
"""


class PgBouncer(Server):
    kind: ClassVar[str] = "pgbouncer"
    unprivileged: ClassVar[bool] = True
    # SIGINT would wait for clients to leave.
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, upstream: Postgres, *, pool_mode: str = "transaction") -> None:
        super().__init__()
        self.upstream = upstream
        self.pool_mode = pool_mode

    def url_at(self, host: str, port: int) -> str:
        return f"postgresql://postgres@{host}:{port}/postgres"

    def _prepare(self) -> None:
        text = _CONFIGURATION.format(self=self, upstream=self.upstream, admin=ADMIN_NAME)
        (self.folder / "pgbouncer.ini").write_text(text)
        (self.folder / "users").write_text(f'"postgres" ""\n"{ADMIN_NAME}" ""\n')

    def _command(self) -> list[str]:
        return [PGBOUNCER.path(), "-q", str(self.folder / "pgbouncer.ini")]

    def _connect_admin(self) -> psycopg.Connection[Any]:
        # The console speaks only the simple protocol, which psycopg uses for queries without parameters.
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=ADMIN_NAME,
            dbname="pgbouncer",
            autocommit=True,
            connect_timeout=5,
        )

    def show(self, what: str) -> list[dict[str, Any]]:
        """SHOW POOLS, SERVERS, …"""

        def question(admin: psycopg.Connection[Any]) -> list[dict[str, Any]]:
            cursor = admin.execute(f"SHOW {what}")
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor]

        return self._ask(question)

    def _sessions(self, admin: psycopg.Connection[Any], name: str | None) -> list[Any]:
        return [
            client["ptr"]
            for client in self.show("CLIENTS")
            if client["database"] != "pgbouncer" and name in {None, client["user"], client.get("application_name")}
        ]

    def kill_sessions(self, name: str | None = None) -> int:
        """All of them: PgBouncer can only disconnect everybody."""
        count = self.session_count()
        self._ask(lambda admin: admin.execute("KILL postgres"))
        self._ask(lambda admin: admin.execute("RESUME postgres"))
        return count

    def _kill_session(self, admin: psycopg.Connection[Any], session: Any) -> None:
        raise NotImplementedError
