"""The stress command on MySQL, Redis and MongoDB."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pymongo
import pytest

from pooling import Pool
from pooling.backends import _mongo
from pooling.backends.mysql import MysqlFactory
from tests.servers import MariaDB, MongoDB, Redis, Server
from tests.servers.base import free_port

Main = Callable[..., tuple[int, str, str]]
# Shares of the uses, of which a busy machine has forty in the shortest of these runs.
FAULTS = ("--faults", "0.3", "--lost", "0.03", "--dirty", "0.2")


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("mariadb", "mysql"),
        ("mariadb", "mariadb+pymysql"),
        ("redis_server", "redis"),
        ("mongodb", "mongodb"),
    ],
)
def test_it_holds_and_the_server_agrees(main: Main, request: pytest.FixtureRequest, kind: str, scheme: str) -> None:
    server: Server = request.getfixturevalue(kind)
    url = f"{scheme}:{server.url.partition(':')[2]}"
    code, out, err = main("stress", url, "--duration", "1.5", "--threads", "16", "--max-size", "4", *FAULTS)
    assert (code, err) == (0, ""), out
    assert "sessions, by the server" in out
    assert "injected break" in out
    assert f":{urlsplit(url).password}@" not in out


def test_nothing_is_said_of_a_count_where_the_pools_sockets_have_no_name(
    main: Main, mongodb: MongoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with PyMongo before 4.14: the count was of none, and passed for held."""
    monkeypatch.delattr(pymongo.MongoClient, "append_metadata")
    code, out, err = main("stress", mongodb.url, "--duration", "0.5", "--threads", "8", "--max-size", "4", *FAULTS)
    assert (code, err) == (0, ""), out
    assert "sessions, by the server" not in out
    assert "the server counts" not in out


def test_no_document_is_left(main: Main, mongodb: MongoDB) -> None:
    code, out, _ = main("stress", mongodb.url, "--duration", "0.5", "--threads", "8", "--max-size", "4", *FAULTS)
    assert code == 0, out
    assert mongodb.ask(lambda admin: admin.pooling_stress.notes.count_documents({})) == 0


@pytest.mark.parametrize("kind", ["mariadb", "redis"])
def test_a_server_that_freezes_in_the_middle_is_no_reason_to_wait_for_ever(
    main: Main, stressing: Callable[[Any], None], own_server: Callable[..., Server], kind: str
) -> None:
    server = own_server(kind)

    def make(factory: Any, **options: Any) -> Pool[Any]:
        threading.Timer(0.5, server.freeze).start()
        return Pool(factory, **options)

    stressing(make)
    ends: list[tuple[int, str, str]] = []
    options = ("--duration", "1.5", "--timeout", "0.3", "--threads", "8", "--max-size", "4")
    run = threading.Thread(target=lambda: ends.append(main("stress", server.url, *options)), daemon=True)
    run.start()
    run.join(60.0)
    server.thaw()
    ((code, out, _),) = ends
    assert code == 1
    assert "could not be watched to the end: TimeoutError: no answer" in out


# -- what is wrong is found ------------------------------------------------------------------------------------


def test_what_is_not_rolled_back_is_found(main: Main, mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MysqlFactory, "is_clean", lambda self, connection: True)
    code, out, _ = main("stress", mariadb.url, "--duration", "0.5", "--threads", "8", "--dirty", "0.3")
    assert code == 1
    assert "was given an open transaction" in out


def test_a_transaction_that_is_left_open_is_found(
    main: Main, redis_server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pooling.backends.redis.RedisFactory.is_clean", lambda factory, connection: True)
    code, out, _ = main(
        "stress", redis_server.url, "--duration", "1.5", "--threads", "16", "--max-size", "4",
        "--dirty", "0.2", "--faults", "0.05",
    )  # fmt: skip  # one argument list
    assert code == 1
    assert "results: " in out


def test_sockets_beyond_the_cap_are_found(main: Main, mongodb: MongoDB, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = _mongo.fill
    monkeypatch.setattr(
        _mongo, "fill", lambda client, permits: max(fill(client, range(len(permits) + 3)) for _ in range(3))
    )
    monkeypatch.setattr(_mongo, "trim", lambda client, permits: None)
    code, out, _ = main("stress", mongodb.url, "--duration", "1", "--threads", "8", "--max-size", "2", *FAULTS)
    assert code == 1
    assert "sessions of this run, max_size is 2" in out


# -- what cannot be stressed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "code", "told"),
    [
        ("mysql://root@127.0.0.1:1", 2, "has to name a database"),
        ("mysql://root@127.0.0.1/x?speed=1", 2, "unknown option 'speed'"),
        ("mysql://me:geheim@127.0.0.1:{port}/x", 1, "no connection could be opened"),
        ("mongodb://me:geheim@127.0.0.1/?speed=1", 2, "unknown option 'speed'"),
        ("mongodb://me:geheim@127.0.0.1:{port}/", 1, "no connection could be opened"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(main: Main, url: str, code: int, told: str) -> None:
    found, out, err = main("stress", url.format(port=free_port()), "--duration", "0.1")
    assert (found, out) == (code, "")
    assert told in err
    assert "geheim" not in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("backend", "driver", "url"),
    [
        ("mysql", "pymysql", "mysql://localhost/x"),
        ("redis", "redis", "redis://localhost/0"),
        ("mongodb", "pymongo", "mongodb://localhost/"),
    ],
)
def test_without_the_driver_the_extra_is_named(
    main: Main, monkeypatch: pytest.MonkeyPatch, backend: str, driver: str, url: str
) -> None:
    for name in [name for name in sys.modules if name.startswith(f"pooling.backends.{backend}")]:
        monkeypatch.delitem(sys.modules, name)
    blocked: Any = None  # what makes an import fail
    monkeypatch.setitem(sys.modules, driver, blocked)
    code, _, err = main("stress", url)
    assert code == 2
    assert f"pooling[{backend}]" in err
