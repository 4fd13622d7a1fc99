"""A Redis Sentinel that watches one primary under the name `shop`, and alone decides that another takes its place."""

from __future__ import annotations

import time
from typing import ClassVar

import redis

from tests.servers.base import ServerError
from tests.servers.redis import Redis

SERVICE = "shop"
DOWN_AFTER = 300  # milliseconds


class Sentinel(Redis):
    kind: ClassVar[str] = "sentinel"
    variable: ClassVar[str | None] = None

    def __init__(self, primary: Redis) -> None:
        super().__init__(external=False)
        self._primary = primary

    def _prepare(self) -> None:
        host, port = self._primary.address
        lines = [
            f"sentinel monitor {SERVICE} {host} {port} 1",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]
        (self.folder / "sentinel.conf").write_text("\n".join(lines))

    def _command(self) -> list[str]:
        server, *_ = super()._command()
        file = str(self.folder / "sentinel.conf")
        return [server, file, "--sentinel", "--bind", self.host, "--port", str(self.port), "--dir", str(self.folder)]

    def wait_for_replicas(self, count: int) -> None:
        """Until it could make one of them the primary. It looks for new ones every ten seconds."""
        until = time.monotonic() + 30
        with redis.Redis(host=self.host, port=self.port) as client:
            while client.sentinel_master(SERVICE)["num-slaves"] < count:
                if time.monotonic() > until:
                    raise ServerError("the Sentinel has not found the replicas")
                time.sleep(0.05)
