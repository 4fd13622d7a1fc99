"""The stress command on Redis."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.servers import Redis

Main = Callable[..., tuple[int, str, str]]

SHORT = ("--duration", "1.5", "--threads", "16", "--max-size", "4", "--dirty", "0.2", "--faults", "0.05")


def test_redis_holds_and_the_server_agrees(main: Main, redis_server: Redis) -> None:
    code, out, err = main("stress", redis_server.url, *SHORT)
    assert code == 0, out + err
    assert "sessions, by the server" in out


def test_a_transaction_that_is_left_open_is_found(
    main: Main, redis_server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pooling.backends.redis.RedisFactory.is_clean", lambda factory, connection: True)
    code, out, _ = main("stress", redis_server.url, *SHORT)
    assert code == 1
    assert "results: " in out


def test_a_missing_driver_is_told_with_the_extra(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pooling.backends.redis")]:
        monkeypatch.delitem(sys.modules, name)
    blocked: ModuleType | None = None
    monkeypatch.setitem(sys.modules, "redis", blocked)  # type: ignore[arg-type]  # what makes an import fail
    code, _, err = main("stress", "redis://localhost/0")
    assert code == 2
    assert "pooling[redis]" in err
