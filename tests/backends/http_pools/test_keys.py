"""Which pool a manager of ours finds for a request: the one that urllib3's would."""

from __future__ import annotations

from typing import Any

import pytest
import urllib3

from pooling.backends import http
from pooling.backends.http._keys import KEPT, KnownKeys

HOST = "origin.invalid"


class Counted:
    """A manager's own function of keys, which counts what it was asked for."""

    def __init__(self, manager: Any) -> None:
        self.asked = 0
        known = manager.key_fn_by_scheme["http"]
        assert isinstance(known, KnownKeys)
        self._make, known._make = known._make, self

    def __call__(self, context: dict[str, Any]) -> Any:
        self.asked += 1
        return self._make(context)


def test_a_key_is_made_once_for_an_origin_that_is_asked_for_again() -> None:
    manager = http.PoolManager(retries=2)
    counted = Counted(manager)
    pools = [manager.connection_from_host(host) for host in (HOST, "other.invalid") for _ in range(3)]
    assert counted.asked == 2
    assert len({id(pool) for pool in pools}) == 2
    assert manager.connection_from_host(HOST, scheme="HTTP") is pools[0]
    assert manager.connection_from_host(HOST.upper()) is pools[0]


@pytest.mark.parametrize("kind", [urllib3.PoolManager, http.PoolManager])
def test_a_pool_is_found_by_what_the_options_are_now(kind: Any) -> None:
    manager = kind()
    first = manager.connection_from_host(HOST)
    assert manager.connection_from_host(HOST, pool_kwargs={"maxsize": 3}) is not first
    manager.connection_pool_kw["retries"] = urllib3.Retry(1)
    changed = manager.connection_from_host(HOST)
    assert changed is not first
    manager.connection_pool_kw["retries"] = urllib3.Retry(1)  # another one that says the same
    assert manager.connection_from_host(HOST) is not changed
    del manager.connection_pool_kw["retries"]
    assert manager.connection_from_host(HOST) is first
    manager.clear()
    assert manager.connection_from_host(HOST) is not first


@pytest.mark.parametrize("kind", [urllib3.PoolManager, http.PoolManager])
@pytest.mark.parametrize(
    ("option", "value", "change"),
    [
        ("headers", {"X": "1"}, lambda headers: headers.update(X="2")),
        ("socket_options", [(6, 1, 1)], lambda options: options.append((6, 1, 0))),
    ],
)
def test_an_option_that_is_changed_in_place_asks_for_another_pool(
    kind: Any, option: str, value: Any, change: Any
) -> None:
    value = value.copy()
    manager = kind(**({} if option == "headers" else {option: value}))
    manager.connection_pool_kw[option] = value
    first = manager.connection_from_host(HOST)
    assert manager.connection_from_host(HOST) is first
    change(value)
    assert manager.connection_from_host(HOST) is not first


@pytest.mark.parametrize("kind", [urllib3.PoolManager, http.PoolManager])
def test_a_function_of_keys_of_ones_own_is_asked_each_time(kind: Any) -> None:
    manager, asked = kind(), []

    def by_host(context: dict[str, Any]) -> str:
        asked.append(context["host"])
        return str(context["host"])

    manager.key_fn_by_scheme["http"] = by_host
    assert manager.connection_from_host(HOST) is manager.connection_from_host(HOST, port=81)
    assert asked == [HOST, HOST]


def test_who_talks_to_ever_more_origins_keeps_few_of_their_keys() -> None:
    manager = http.PoolManager(num_pools=2)
    for number in range(3 * KEPT):
        manager.connection_from_host(f"{number}.invalid")
    known: Any = manager.key_fn_by_scheme["http"]
    assert len(known._known) <= KEPT
