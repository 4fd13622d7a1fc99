"""urllib3's pools and managers with ours underneath, on a server whose connections are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pooling.backends import http
from tests.servers import HTTP

Make = Callable[..., Any]


@pytest.fixture
def nothing_left(http_server: HTTP) -> Iterator[None]:
    yield
    http_server.wait_for_sessions(0)


@pytest.fixture
def make(http_server: HTTP, nothing_left: None) -> Iterator[Make]:
    """make(kind, **options): a drop-in pool to the server; no connection is left at the end."""
    pools: list[Any] = []

    def build(kind: Any = http.HTTPConnectionPool, **options: Any) -> Any:
        pools.append(kind(http_server.host, http_server.port, **options))
        return pools[-1]

    yield build
    for pool in pools:
        pool.close()


@pytest.fixture
def manage(nothing_left: None) -> Iterator[Make]:
    """manage(**options): a drop-in manager; no connection is left at the end."""
    managers: list[Any] = []

    def build(**options: Any) -> http.PoolManager:
        managers.append(http.PoolManager(**options))
        return managers[-1]

    yield build
    for manager in managers:
        manager.clear()
    managers.clear()


def number(pool: Any, path: str = "/connection", **options: Any) -> int:
    """Which of the server's connections answers."""
    return int(pool.request("GET", path, **options).data)
