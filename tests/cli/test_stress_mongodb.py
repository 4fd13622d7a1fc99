"""The stress command on MongoDB."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from pooling.backends import _mongo
from tests.servers import MongoDB
from tests.servers.base import free_port

Main = Callable[..., tuple[int, str, str]]
FAULTS = ("--faults", "0.05", "--lost", "0.03", "--dirty", "0.2")


def test_it_holds_the_server_agrees_and_no_document_is_left(main: Main, mongodb: MongoDB) -> None:
    code, out, err = main("stress", mongodb.url, "--duration", "1.5", "--threads", "16", "--max-size", "4", *FAULTS)
    assert (code, err) == (0, ""), out
    assert "sessions, by the server" in out
    assert "injected break" in out
    assert mongodb.ask(lambda admin: admin.pooling_stress.notes.count_documents({})) == 0


def test_sockets_beyond_the_cap_are_found(main: Main, mongodb: MongoDB, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = _mongo.fill
    monkeypatch.setattr(
        _mongo, "fill", lambda client, permits: max(fill(client, range(len(permits) + 3)) for _ in range(3))
    )
    monkeypatch.setattr(_mongo, "trim", lambda client, permits: None)
    code, out, _ = main("stress", mongodb.url, "--duration", "1", "--threads", "8", "--max-size", "2", *FAULTS)
    assert code == 1
    assert "sessions of this run, max_size is 2" in out


@pytest.mark.parametrize(
    ("url", "code", "told"),
    [
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


def test_without_the_driver_the_extra_is_named(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked: Any = None
    monkeypatch.delitem(sys.modules, "pooling.backends.mongodb", raising=False)
    monkeypatch.setitem(sys.modules, "pymongo", blocked)
    code, _, err = main("stress", "mongodb://localhost/")
    assert code == 2
    assert "pooling[mongodb]" in err
