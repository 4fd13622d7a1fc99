"""Interrupts that strike a request, at its lines and between them: its place comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import Mock

import pytest

from pooling.backends import http
from pooling.backends.http import _pools
from pooling.backends.http._use import Use
from tests.backends.http_pools.conftest import Make, number
from tests.interrupts.lines import keeping, struck_after_each_call, struck_at_each_line


def test_an_interrupted_request_gives_its_place_back(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make(maxsize=1, block=True, pool_timeout=5.0)
    for place, name in ((pool, "_make_request"), (pool, "_take"), (pool, "_validate_conn"), (_pools, "is_fit")):
        number(pool)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, name, lambda *args, **kw: (_ for _ in ()).throw(KeyboardInterrupt))
            pool.request("GET", "/")
    assert pool.request("GET", "/").data == b"ok"
    assert pool.pooling.stats().leased == 0


def test_a_request_interrupted_as_it_gives_its_place_back_gives_it_back(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make(maxsize=1, block=True, pool_timeout=5.0)
    put_back = pool._put_conn

    def struck(connection: Any) -> None:
        monkeypatch.setattr(pool, "_put_conn", put_back)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "_put_conn", struck)
    mine = None
    with pytest.raises(KeyboardInterrupt):
        mine = pool.urlopen("GET", "/", preload_content=False, release_conn=True)
    assert mine is None
    assert pool.request("GET", "/").data == b"ok"
    assert pool.pooling.stats().leased == 0


def test_whoever_is_struck_as_he_begins_to_wait_is_not_waited_for(make: Make) -> None:
    """He counted as one who wants a connection object, connected or not: that is what everybody got from then on, and
    what a warm-up opened."""
    pools: list[Any] = []

    def use() -> Callable[[], object]:
        pools.append(make(maxsize=1, block=True, pool_timeout=5.0))
        return lambda: pools[-1].request("GET", "/")

    for call in struck_after_each_call(http.HTTPConnectionPool._take, use):
        with pools[-1].pooling.acquire() as connection:
            assert not connection.is_closed, call


def test_who_waits_for_a_connect_waits_at_no_condition_variable(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What strikes one of those on the way in or out comes out of it as a RuntimeError: a Ctrl-C was none any more."""
    pool = make(maxsize=1)
    monkeypatch.setattr(threading.Condition, "wait", Mock(side_effect=AssertionError("it has waited there")))
    assert pool.request("GET", "/").data == b"ok"


@pytest.mark.parametrize(
    ("strikes", "function"),
    [
        (struck_at_each_line, Use.__init__),
        (struck_at_each_line, http.HTTPConnectionPool._put_conn),
        (struck_at_each_line, http.HTTPConnectionPool._take_in),
        (struck_after_each_call, http.HTTPConnectionPool._take),
    ],
)
def test_an_exception_that_is_kept_keeps_no_place_that_is_handed_out_or_comes_back(
    make: Make, strikes: Callable[..., Iterable[object]], function: Any
) -> None:
    """As a debugger's is, or a future's: it keeps every frame that it has passed. So does urllib3 with a timeout that a
    signal raises, and tries again: with the only place in it, there was none for that."""
    pools: list[Any] = []
    kept: list[BaseException] = []

    def use() -> Callable[[], object]:
        pools.append(make(maxsize=1, block=True, pool_timeout=5.0))
        number(pools[-1])
        return keeping(kept, lambda: number(pools[-1]))

    for place in strikes(function, use):
        number(pools[-1])
        assert pools[-1].pooling.stats().leased == 0, place
    assert kept
