"""A MariaDB server.

The tests log in as `pooling` with the password "secret", the admin as root.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pymysql

from tests.servers import launch
from tests.servers.base import Server
from tests.servers.binaries import MARIADB, MARIADB_INSTALL

USER, PASSWORD, DATABASE = "pooling", "secret", "pooling"


class MariaDB(Server):
    kind: ClassVar[str] = "mariadb"
    variable: ClassVar[str | None] = "POOLING_TEST_MYSQL_URL"

    def url_at(self, host: str, port: int) -> str:
        url = f"mysql://{USER}:{PASSWORD}@{host}:{port}/{DATABASE}"
        return url if self.certificates is None else f"{url}?ssl_ca={self.certificates.authority}"

    @property
    def params(self) -> dict[str, Any]:
        """Keyword arguments for pymysql.connect."""
        parts = urlsplit(self.url)
        params: dict[str, Any] = {
            "host": parts.hostname,
            "port": parts.port or 3306,
            "user": unquote(parts.username or "root"),
            "password": unquote(parts.password or ""),
            "database": parts.path.lstrip("/") or None,
        }
        if self.certificates is not None:
            params["ssl"] = {"ca": str(self.certificates.authority), "check_hostname": True}
        return params

    def order(self, statement: str, *values: Any) -> Any:
        """Have the admin execute a statement; its rows."""

        def execute(admin: pymysql.Connection[Any]) -> Any:
            with admin.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall()

        return self._ask(execute)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _prepare(self) -> None:
        options = [*self._places(), "--auth-root-authentication-method=normal", "--skip-test-db"]
        self._data.mkdir()
        launch.run([MARIADB_INSTALL.path(), "--no-defaults", *self._as_user(), *options], self.folder)

    def _command(self) -> list[str]:
        command = [
            MARIADB.path(),
            "--no-defaults",
            *self._as_user(),
            *self._places(),
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            f"--port={self.port}",
            f"--bind-address={self.host}",
            "--skip-name-resolve",
            "--performance-schema=OFF",
            "--innodb-buffer-pool-size=32M",
            "--innodb-flush-log-at-trx-commit=0",
            "--max-connections=500",
            # A test's own user may log in with a wrong password as often as it takes.
            "--max-connect-errors=1000000000",
        ]
        if self.certificates is None:
            command.append("--skip-ssl")  # from 11.4 on a server would make itself a certificate
        else:
            command += [
                f"--ssl-ca={self.certificates.authority}",
                f"--ssl-cert={self.certificates.certificate}",
                f"--ssl-key={self.certificates.key}",
            ]
        return command

    def _places(self) -> list[str]:
        # A starting server deletes every temporary table in its tmpdir, another server's as well.
        return [f"--datadir={self._data}", f"--tmpdir={self.folder}"]

    @staticmethod
    def _as_user() -> list[str]:
        """Root has to say that root is meant; others may not name themselves at all."""
        return ["--user=root"] if os.geteuid() == 0 else []

    def _connect_admin(self) -> pymysql.Connection[Any]:
        params: dict[str, Any] = {"connect_timeout": 5, "read_timeout": 5, "autocommit": True}
        if self.external:
            return pymysql.connect(**self.params, **params)
        return pymysql.connect(host=self.host, port=self.port, user="root", **params)

    def _first_start(self, admin: pymysql.Connection[Any]) -> None:
        with admin.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {DATABASE}")
            cursor.execute(f"CREATE USER {USER} IDENTIFIED BY '{PASSWORD}'")
            cursor.execute(f"GRANT ALL ON *.* TO {USER}")
            cursor.execute("DROP USER IF EXISTS ''@'localhost'")

    def _sessions(self, admin: pymysql.Connection[Any], name: str | None) -> list[Any]:
        with admin.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() "
                "AND command <> 'Daemon' AND user <> 'system user' AND (%s IS NULL OR user = %s)",
                (name, name),
            )
            return [number for (number,) in cursor.fetchall()]

    def _kill_session(self, admin: pymysql.Connection[Any], session: Any) -> None:
        with admin.cursor() as cursor:
            try:
                cursor.execute(f"KILL {int(session)}")
            except pymysql.OperationalError as error:
                if error.args[0] != 1094:  # it has left by itself
                    raise
