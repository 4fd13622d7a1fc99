"""The backends by name, each with its server and a fresh directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends import adapters
from tests.backends.adapters import Adapter, Remote
from tests.backends.adapters_dbapi import PG8000
from tests.backends.adapters_http import Http, Https
from tests.backends.adapters_mongodb import MongoDB
from tests.backends.adapters_mysql import MySQL
from tests.backends.adapters_redis import Redis
from tests.servers import HTTP

pytest.register_assert_rewrite("tests.backends.contract")

ADAPTERS: dict[str, type[Adapter]] = {
    **adapters.ADAPTERS,
    "dbapi": PG8000,
    "http": Http,
    "https": Https,
    "mongodb": MongoDB,
    "mysql": MySQL,
    "redis": Redis,
}
REMOTE = {name: kind for name, kind in ADAPTERS.items() if issubclass(kind, Remote)}


def _made(request: pytest.FixtureRequest, name: str, folder: Path) -> Adapter:
    kind = ADAPTERS[name]
    if reason := kind.elsewhere.get(request.node.originalname):
        pytest.skip(reason)
    return kind(request.getfixturevalue(kind.fixture) if kind.fixture else None, folder)


@pytest.fixture(scope="session")
def https_server() -> Iterator[HTTP]:
    with HTTP(tls=True) as server:
        yield server


@pytest.fixture(params=sorted(ADAPTERS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Adapter]:
    with _made(request, request.param, tmp_path) as adapter:
        yield adapter


@pytest.fixture(params=sorted(REMOTE))
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Adapter]:
    with _made(request, request.param, tmp_path) as adapter:
        assert isinstance(adapter, Remote)
        yield adapter
