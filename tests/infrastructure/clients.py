"""One client connection to each kind of server, by the driver alone: open it, use it, close it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pymongo
import pymysql
import redis
import urllib3

from tests.servers import MariaDB, Server

NAME = "tests-client"


@contextlib.contextmanager
def client(server: Server) -> Iterator[Callable[[], Any]]:
    """Yield what makes one round trip; by then one has been made."""
    with contextlib.ExitStack() as closing:
        use = _OPEN[server.kind](server, closing)
        use()
        yield use


def session_name(server: Server) -> str:
    """What the server knows the client's session by."""
    return "pooling" if server.kind == "mariadb" else NAME


def _postgres(server: Server, closing: contextlib.ExitStack) -> Callable[[], Any]:
    connection = closing.enter_context(
        psycopg.connect(server.url, application_name=NAME, autocommit=True, connect_timeout=5)
    )
    return lambda: connection.execute("SELECT 1").fetchone()


def _mariadb(server: Server, closing: contextlib.ExitStack) -> Callable[[], Any]:
    assert isinstance(server, MariaDB)
    connection = pymysql.connect(**server.params, connect_timeout=5, read_timeout=2)
    closing.callback(connection._force_close)  # type: ignore[attr-defined]
    return lambda: connection.ping(reconnect=False)


def _redis(server: Server, closing: contextlib.ExitStack) -> Callable[[], Any]:
    pool = redis.ConnectionPool.from_url(server.url, client_name=NAME, socket_timeout=2)
    closing.callback(pool.disconnect)
    connection: Any = pool.make_connection()
    closing.callback(connection.disconnect)
    connection.connect()

    def ping() -> Any:
        connection.send_command("PING", check_health=False)
        return connection.read_response()

    return ping


def _mongodb(server: Server, closing: contextlib.ExitStack) -> Callable[[], Any]:
    connection: pymongo.MongoClient[Any] = pymongo.MongoClient(
        server.url, appname=NAME, serverSelectionTimeoutMS=3000, socketTimeoutMS=2000, retryReads=False
    )
    closing.callback(connection.close)
    return lambda: connection.admin.command("ping")


def _http(server: Server, closing: contextlib.ExitStack) -> Callable[[], Any]:
    authority = str(server.certificates.authority) if server.certificates else None
    pool = urllib3.PoolManager(headers={"User-Agent": NAME}, timeout=2, retries=False, ca_certs=authority, maxsize=1)
    closing.callback(pool.clear)
    return lambda: pool.request("GET", server.url).status


_OPEN: dict[str, Callable[[Server, contextlib.ExitStack], Callable[[], Any]]] = {
    "postgres": _postgres,
    "pgbouncer": _postgres,
    "mariadb": _mariadb,
    "redis": _redis,
    "mongodb": _mongodb,
    "http": _http,
}
