"""The page of the stress command says that it leaves nothing behind: the servers are asked before and after."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psycopg
import pymongo
import pymysql
import pytest
import redis

from pooling.backends.mysql import MysqlFactory
from tests.docs.pages import ROOT
from tests.servers import Server


def postgres(url: str) -> Any:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT relnamespace, relname FROM pg_class ORDER BY 1, 2").fetchall()


def mariadb(url: str) -> Any:
    connection: pymysql.connections.Connection[Any] = MysqlFactory(url).connect(10.0)
    try:
        with connection.cursor() as cursor:
            # In information_schema the temporary tables of other sessions have no place, nor had they before.
            cursor.execute("SELECT table_schema, table_name FROM information_schema.tables ORDER BY 1, 2")
            return cursor.fetchall()
    finally:
        connection.close()


def redis_server(url: str) -> Any:
    with redis.Redis.from_url(url) as client:
        return client.info("keyspace"), sorted(client.keys())


def mongodb(url: str) -> Any:
    client: pymongo.MongoClient[Any] = pymongo.MongoClient(url)
    try:
        return {name: sorted(client[name].list_collection_names()) for name in client.list_database_names()}
    finally:
        client.close()


@pytest.mark.parametrize("look", [postgres, mariadb, redis_server, mongodb], ids=lambda look: look.__name__)
def test_stress_leaves_a_server_as_it_was(look: Callable[[str], Any], request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(look.__name__)
    before = look(server.url)
    done = subprocess.run(
        [sys.executable, "-m", "pooling", "stress", server.url, "--duration", "1", "--dirty", "0.5", "--faults", "0.1"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip  # one argument list
    assert done.returncode == 0, done.stdout + done.stderr
    assert look(server.url) == before
