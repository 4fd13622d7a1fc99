"""Every backend at once, as the adapters of the contract suite know them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.adapters import Adapter, PostgreSQL, Sqlite
from tests.backends.adapters_http import Http
from tests.backends.adapters_mongodb import MongoDB
from tests.backends.adapters_mysql import MySQL
from tests.backends.adapters_redis import Redis


@pytest.fixture
def backends(
    postgres: Any, mariadb: Any, redis_server: Any, mongodb: Any, http_server: Any, tmp_path: Path
) -> Iterator[dict[str, Adapter]]:
    """By name. At the end of the test no session may be left at any server."""
    with contextlib.ExitStack() as stack:
        found: dict[str, Adapter] = {}
        for kind, adapter, server in (
            ("postgres", PostgreSQL, postgres),
            ("mysql", MySQL, mariadb),
            ("redis", Redis, redis_server),
            ("mongodb", MongoDB, mongodb),
            ("http", Http, http_server),
            ("sqlite", Sqlite, None),
        ):
            folder = tmp_path / kind
            folder.mkdir()
            found[kind] = stack.enter_context(adapter(server, folder))
        yield found


class Census:
    """What the servers count. SQLite has none: there the sessions themselves tell whose they are."""

    def __init__(self, backends: dict[str, Adapter]) -> None:
        self._backends = {kind: backend for kind, backend in backends.items() if kind != "sqlite"}

    def take(self) -> dict[str, int]:
        return {kind: backend.count() for kind, backend in self._backends.items()}

    def expect(self, counts: dict[str, int], timeout: float = 30.0) -> None:
        for kind, backend in self._backends.items():
            backend.wait_for(counts[kind], timeout)


@pytest.fixture
def census(backends: dict[str, Adapter]) -> Census:
    return Census(backends)
