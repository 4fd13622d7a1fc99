"""A PostgreSQL server.

`postgres` logs in without a password, `guarded` with the password "secret".
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, ClassVar

import psycopg

from tests.servers import launch
from tests.servers.base import ADMIN_NAME, HOST, Server
from tests.servers.binaries import POSTGRES

GUARDED = ("guarded", "secret")

_SESSIONS = """
    SELECT pid FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND application_name <> %(admin)s
      AND (%(name)s::text IS NULL OR application_name = %(name)s OR usename = %(name)s)
"""


class Postgres(Server):
    kind: ClassVar[str] = "postgres"
    variable: ClassVar[str | None] = "POOLING_TEST_POSTGRES_URL"
    unprivileged: ClassVar[bool] = True
    # "Fast" shutdown: clients are told and disconnected. SIGTERM would wait for them to leave.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def url_at(self, host: str, port: int) -> str:
        url = f"postgresql://postgres@{host}:{port}/postgres"
        if self.certificates is None:
            return url
        return f"{url}?sslmode=verify-full&sslrootcert={self.certificates.authority}"

    @property
    def guarded_url(self) -> str:
        """For a login that can fail: change the password in it."""
        return self.url.replace("postgres@", ":".join(GUARDED) + "@", 1)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _prepare(self) -> None:
        options = ["-U", "postgres", "--auth=trust", "-E", "utf8", "--no-sync", "--no-locale"]
        # A data directory belongs to one major version, and PATH may offer several.
        initdb = Path(POSTGRES.path()).resolve().with_name("initdb")
        launch.run([str(initdb), "-D", str(self._data), *options], self.folder, unprivileged=True)
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"host all {GUARDED[0]} {HOST}/32 scram-sha-256\n{rules.read_text()}")

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": self.host,
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "max_connections": "500",
            "max_prepared_transactions": "10",
        }
        if self.certificates is not None:
            settings |= {
                "ssl": "on",
                "ssl_cert_file": str(self.certificates.certificate),
                "ssl_key_file": str(self.certificates.key),
            }
        pairs = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [POSTGRES.path(), "-D", str(self._data), "-p", str(self.port), *pairs]

    def _connect_admin(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            self.url,
            autocommit=True,
            application_name=ADMIN_NAME,
            connect_timeout=5,
            options="-c statement_timeout=5s",
            tcp_user_timeout=5000,
        )

    def _first_start(self, admin: psycopg.Connection[Any]) -> None:
        admin.execute(f"CREATE ROLE {GUARDED[0]} LOGIN PASSWORD '{GUARDED[1]}'")

    def _sessions(self, admin: psycopg.Connection[Any], name: str | None) -> list[Any]:
        rows = admin.execute(_SESSIONS, {"admin": ADMIN_NAME, "name": name}, prepare=False)
        return [pid for (pid,) in rows]

    def _kill_session(self, admin: psycopg.Connection[Any], session: Any) -> None:
        admin.execute("SELECT pg_terminate_backend(%s)", [session], prepare=False)
