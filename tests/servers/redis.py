"""A Redis server. The user `guarded` has the password "secret"; without a user no password is asked for."""

from __future__ import annotations

from typing import Any, ClassVar

import redis

from tests.servers.base import ADMIN_NAME, Server
from tests.servers.binaries import REDIS

GUARDED = ("guarded", "secret")


class Redis(Server):
    kind: ClassVar[str] = "redis"
    variable: ClassVar[str | None] = "POOLING_TEST_REDIS_URL"

    def url_at(self, host: str, port: int) -> str:
        if self.certificates is None:
            return f"redis://{host}:{port}/0"
        return f"rediss://{host}:{port}/0?ssl_ca_certs={self.certificates.authority}"

    def _prepare(self) -> None:
        """No files: all of it is on the command line."""

    def _command(self) -> list[str]:
        command = [REDIS.path(), "--bind", self.host, "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "no"]
        command += ["--user", GUARDED[0], "on", f">{GUARDED[1]}", "~*", "&*", "+@all"]
        if self.certificates is None:
            return [*command, "--port", str(self.port)]
        return [
            *command,
            *("--port", "0", "--tls-port", str(self.port)),
            *("--tls-cert-file", str(self.certificates.certificate)),
            *("--tls-key-file", str(self.certificates.key)),
            *("--tls-ca-cert-file", str(self.certificates.authority)),
            *("--tls-auth-clients", "no"),
        ]

    def _connect_admin(self) -> redis.Redis:
        admin = redis.Redis.from_url(
            self.url,
            client_name=ADMIN_NAME,
            single_connection_client=True,
            decode_responses=True,
            socket_timeout=5,
            socket_connect_timeout=5,
        )
        try:
            admin.ping()  # answers with an error while the data set is being loaded
        except BaseException:
            admin.close()
            raise
        return admin

    def _sessions(self, admin: redis.Redis, name: str | None) -> list[Any]:
        return [
            client["id"]
            for client in admin.client_list()
            if client["name"] != ADMIN_NAME and name in {None, client["name"], client.get("user")}
        ]

    def _kill_session(self, admin: redis.Redis, session: Any) -> None:
        admin.client_kill_filter(_id=session)
