"""Servers that a test may stop, kill and freeze: one of each kind for all tests here, running again before each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.backends.adapters import PostgreSQL, Remote
from tests.backends.adapters_http import Http, Https
from tests.backends.adapters_mongodb import MongoDB
from tests.backends.adapters_mysql import MySQL
from tests.backends.adapters_redis import Redis
from tests.servers import KINDS, Server

ADAPTERS: dict[str, type[Remote]] = {
    "http": Http,
    "https": Https,
    "mongodb": MongoDB,
    "mysql": MySQL,
    "postgres": PostgreSQL,
    "redis": Redis,
}
_SERVERS = {"mysql": "mariadb", "https": "http"}

Mine = Callable[[str], Remote]


class Servers:
    """Private servers by the backend's name, each started by the first test that asks for it."""

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}

    def __getitem__(self, name: str) -> Server:
        """ "redis", or "old redis": a second one."""
        if name not in self._servers:
            backend = name.removeprefix("old ")
            kind = KINDS[_SERVERS.get(backend, backend)]
            self._servers[name] = kind(external=False, tls=name == "https").start()
        return self._servers[name]

    def close(self) -> None:
        for server in self._servers.values():
            server.close()


@pytest.fixture(scope="session")
def own_servers() -> Iterator[Servers]:
    with contextlib.closing(Servers()) as servers:
        yield servers


@pytest.fixture
def mine(own_servers: Servers, tmp_path: Path) -> Iterator[Mine]:
    """mine("redis"): an adapter on a private server. At the end the server runs again and has none of its sessions."""
    with contextlib.ExitStack() as running:

        def start(name: str) -> Remote:
            adapter = running.enter_context(ADAPTERS[name](own_servers[name], tmp_path))
            running.callback(revive, adapter.server)
            return adapter

        yield start


def revive(server: Server) -> None:
    """Have a server run, whatever a test has done to it."""
    server.thaw()
    if not server.running:
        server.start()
