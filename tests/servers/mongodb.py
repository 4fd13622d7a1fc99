"""A server that speaks MongoDB's protocol, as a replica set of one primary. Data outlives a restart.

Sessions are connections here. PyMongo's clients hold two more for monitoring than for work: count by the
application's name, and know that its monitors carry the name, too.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any, ClassVar

import pymongo

from tests.servers.base import ADMIN_NAME, Server, ServerError
from tests.servers.binaries import SS, mongodb_command


class MongoDB(Server):
    kind: ClassVar[str] = "mongodb"
    variable: ClassVar[str | None] = "POOLING_TEST_MONGODB_URL"

    def url_at(self, host: str, port: int) -> str:
        url = f"mongodb://{host}:{port}/?directConnection=true"
        return url if self.certificates is None else f"{url}&tls=true&tlsCAFile={self.certificates.authority}"

    def _prepare(self) -> None:
        mongodb_command()

    def _command(self) -> list[str]:
        options = ["--host", self.host, "--port", str(self.port), "--enable-test-commands"]
        options += ["--storage-path", str(self.folder / "data"), "--cache-size", "64M"]
        options += ["--log-level", "WARNING"]
        if self.certificates is not None:
            options += ["--tls-cert-file", str(self.certificates.certificate)]
            options += ["--tls-key-file", str(self.certificates.key)]
        return [*mongodb_command(), *options]

    def _connect_admin(self) -> pymongo.MongoClient[Any]:
        client: pymongo.MongoClient[Any] = pymongo.MongoClient(
            self.url,
            appname=ADMIN_NAME,
            serverSelectionTimeoutMS=2000,
            connectTimeoutMS=2000,
            socketTimeoutMS=5000,
        )
        try:
            client.admin.command("ping")
        except BaseException:
            client.close()
            raise
        return client

    def _sessions(self, admin: pymongo.MongoClient[Any], name: str | None) -> list[Any]:
        running = admin.admin.command({"currentOp": 1, "$all": True})["inprog"]
        clients = {one["client"]: _name(one) for one in running if "client" in one}
        return [client for client, named in clients.items() if named != ADMIN_NAME and name in {None, named}]

    def ask(self, question: Callable[[pymongo.MongoClient[Any]], Any]) -> Any:
        """Ask over the connection that counts."""
        return self._ask(question)

    def kill_session(self, session: str) -> None:
        """End the connection that comes from an address."""
        self._ask(lambda admin: self._kill_session(admin, session))

    def _kill_session(self, admin: pymongo.MongoClient[Any], session: Any) -> None:
        """MongoDB has no word for it, so the kernel does it: the client sees a reset."""
        host, _, port = session.rpartition(":")
        pair = ["src", f"{self.host}:{self.port}", "dst", f"{host}:{port}"]
        killed = subprocess.run([SS.path(), "-K", "-tnH", *pair], capture_output=True, text=True, check=False)
        if killed.returncode != 0 or killed.stderr:
            raise ServerError(f"`ss -K`, which needs root, could not kill {session}: {killed.stderr.strip()}")


def _name(operation: dict[str, Any]) -> str | None:
    metadata = operation.get("clientMetadata", {})
    name: str | None = operation.get("appName") or metadata.get("application", {}).get("name")
    return name
