"""The stress command on MySQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pooling.backends.mysql import MysqlFactory
from tests.servers import MariaDB
from tests.servers.base import free_port

Main = Callable[..., tuple[int, str, str]]
FAULTS = ("--faults", "0.05", "--lost", "0.03", "--dirty", "0.2")


@pytest.mark.parametrize("scheme", ["mysql", "mariadb+pymysql"])
def test_it_holds_and_the_server_agrees(main: Main, mariadb: MariaDB, scheme: str) -> None:
    url = mariadb.url.replace("mysql", scheme, 1)
    code, out, err = main("stress", url, "--duration", "1.5", "--threads", "16", "--max-size", "4", *FAULTS)
    assert (code, err) == (0, ""), out
    assert "sessions, by the server" in out
    assert "injected break" in out
    password = mariadb.params["password"]
    assert f":{password}@" not in out


def test_what_is_not_rolled_back_is_found(main: Main, mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MysqlFactory, "is_clean", lambda self, connection: True)
    code, out, _ = main("stress", mariadb.url, "--duration", "0.5", "--threads", "8", "--dirty", "0.3")
    assert code == 1
    assert "was given an open transaction" in out


@pytest.mark.parametrize(
    ("url", "code", "told"),
    [
        ("mysql://root@127.0.0.1:1", 2, "has to name a database"),
        ("mysql://root@127.0.0.1/x?speed=1", 2, "unknown option 'speed'"),
        ("mysql://me:geheim@127.0.0.1:{port}/x", 1, "no connection could be opened"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(main: Main, url: str, code: int, told: str) -> None:
    found, out, err = main("stress", url.format(port=free_port()), "--duration", "0.1")
    assert (found, out) == (code, "")
    assert told in err
    assert "geheim" not in err
    assert len(err.splitlines()) == 1


def test_without_the_driver_the_extra_is_named(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    blocked: Any = None
    monkeypatch.delitem(sys.modules, "pooling.backends.mysql", raising=False)
    monkeypatch.setitem(sys.modules, "pymysql", blocked)
    code, _, err = main("stress", "mysql://localhost/x")
    assert code == 2
    assert "pooling[mysql]" in err
