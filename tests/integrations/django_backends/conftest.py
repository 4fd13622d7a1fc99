"""The project in this process, without pools when a test begins, and with nothing leased when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections

from pooling.integrations.django import close_all
from tests.integrations.django_backends.asking import SERVERS, pool
from tests.integrations.django_project.setting_up import ALIASES, make_tables, set_up
from tests.servers import MariaDB, Postgres, Redis


@pytest.fixture(scope="module", autouse=True)
def project(
    postgres: Postgres, mariadb: MariaDB, redis_server: Redis, tmp_path_factory: pytest.TempPathFactory
) -> None:
    set_up(postgres.url, mariadb.url, redis_server.url, tmp_path_factory.mktemp("django"))
    for alias in ALIASES:
        make_tables(alias)


@pytest.fixture(autouse=True)
def all_back() -> Iterator[None]:
    """Every test begins without pools, and ends with every lease given back."""
    close_all()
    yield
    connections.close_all()
    for alias in ALIASES:
        stats = pool(alias).stats()
        assert (stats.leased, stats.released) == (0, stats.acquired), alias
    close_all()


@pytest.fixture(params=ALIASES)
def alias(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    """The aliases that have sessions at a server."""
    return str(request.param)


@pytest.fixture
def changed() -> Iterator[Any]:
    """changed("mysql", OPTIONS={...}): a connection of an alias of its own, with settings of its own."""
    made: list[Any] = []

    def change(alias: str, **given: Any) -> Any:
        connection = connections[alias].copy(f"{alias}-{len(made)}")
        options = {**connection.settings_dict["OPTIONS"], **given.pop("OPTIONS", {})}
        connection.settings_dict.update(given, OPTIONS=options)
        made.append(connection)
        return connection

    yield change
    for connection in made:
        connection.close()
        connection.close_pool()
