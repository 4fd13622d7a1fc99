"""Real servers for the tests: private, on a free loopback port, gone when the tests are."""

from tests.servers.base import Server, ServerError
from tests.servers.binaries import ServerMissing
from tests.servers.haproxy import HAProxy
from tests.servers.http import HTTP
from tests.servers.mariadb import MariaDB
from tests.servers.mongodb import MongoDB
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis
from tests.servers.sentinel import Sentinel

KINDS: dict[str, type[Server]] = {
    "postgres": Postgres,
    "mariadb": MariaDB,
    "redis": Redis,
    "mongodb": MongoDB,
    "http": HTTP,
}

__all__ = [
    "HTTP",
    "KINDS",
    "HAProxy",
    "MariaDB",
    "MongoDB",
    "PgBouncer",
    "Postgres",
    "Redis",
    "Sentinel",
    "Server",
    "ServerError",
    "ServerMissing",
]
