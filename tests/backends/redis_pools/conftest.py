"""Pools in the place of redis-py's own, on a server whose sessions are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pooling.backends.redis import BlockingConnectionPool
from tests.backends.adapters_redis import Redis
from tests.servers import Redis as Server

Make = Callable[..., Any]


@pytest.fixture
def backend(redis_server: Server, tmp_path: Path) -> Iterator[Redis]:
    with Redis(redis_server, tmp_path) as adapter:
        yield adapter


@pytest.fixture
def make(backend: Redis) -> Iterator[Make]:
    """A pool whose sessions the backend counts."""
    made: list[Any] = []

    def new(kind: Any = BlockingConnectionPool, url: str | None = None, **options: Any) -> Any:
        pool = kind.from_url(url or backend.url, **{"client_name": backend.name, **options})
        made.append(pool)
        return pool

    yield new
    for pool in made:
        pool.close()
        pool.pooling.close()


def identity(connection: Any) -> int:
    connection.send_command("CLIENT", "ID")
    number: int = connection.read_response()
    return number
