"""Who waits, and what the options are: what a page or a terminal shows of a running pool."""

from __future__ import annotations

import functools
import queue
import threading
from typing import Any

import pytest

from pooling import Waiting
from pooling._holders import Between
from pooling.testing import ManualClock
from tests.core.conftest import Make


def test_waiters_are_told_in_the_order_of_service_with_age_and_place(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)

    def wait(priority: float) -> None:
        pool.acquire(timeout=60, priority=priority).release()

    with pool.acquire():
        for priority in (0.0, 0.0, -10.0, 5.0):
            clock.spawn(wait, priority)
            clock.advance(1)
        told = pool.waiters()
        assert [round(waiter.age, 3) for waiter in told] == [2.0, 4.0, 3.0, 1.0]
        assert {waiter.where for waiter in told} == {f"{__file__}:{wait.__code__.co_firstlineno + 1} wait"}
        assert pool.waiters(most=2) == told[:2]
    clock.advance(1)
    assert pool.waiters() == ()


def test_a_waiter_who_has_left_is_not_told(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    with pool.acquire():
        for priority in (0.0, -1.0):
            clock.spawn(pool.acquire, 1.0, priority)
        clock.advance(2)
        assert pool.waiters() == ()


@functools.cache  # a program's functions are the same each time
def _function(module: str | None) -> Any:
    namespace: dict[str, Any] = {"__name__": module}
    exec("def function(call, *calls):\n    call(*calls)", namespace)
    return namespace["function"]


def _shown(between: Between, *modules: str | None) -> Any:
    """Whose frame is shown where these modules have called each other, the first of them as a thread's function."""
    shown: queue.Queue[Any] = queue.Queue()

    def tell() -> None:
        shown.put(between.outside().f_globals["__name__"])

    thread = threading.Thread(target=_function(modules[0]), args=(*map(_function, modules[1:]), tell))
    thread.start()
    thread.join()
    return shown.get_nowait()


@pytest.mark.parametrize(
    ("modules", "whose"),
    [
        (["app", "shop.views", "redis.client", "redis"], "shop.views"),
        (["app", "redisearch.query", "redis.client"], "redisearch.query"),
        (["app", "opentelemetry.instrumentation.redis", "redis.client"], "app"),  # an agent traces it
        (["app", None, "redis.client"], None),  # what exec() was given
        (["redis", "redis.client"], "threading"),  # a thread of the library's own
        (["app"], "app"),
    ],
)
def test_a_holder_is_shown_at_the_line_past_the_library_in_between(
    modules: list[str | None], whose: str | None
) -> None:
    between = Between("redis", "tests", "threading")
    assert [_shown(between, *modules) for _ in range(2)] == [whose, whose]  # looked for, then found where it was


def test_a_holder_is_shown_at_its_own_line_whichever_way_the_one_before_has_come() -> None:
    between = Between("redis", "tests", "threading")
    deep = ["app", *["redis"] * 9]
    ways = (
        deep,
        ["app", "redis"],
        ["app", "redis", "redis"],
        ["redis", "redis"],
        ["app", "a", "redis"],
        ["b"],
        ["redis"],
    )
    for before in ways:
        for way in ways:
            expected = next((name for name in reversed(way) if name != "redis"), "threading")
            _shown(between, *before)
            assert _shown(between, *way) == expected, (before, way)


def test_a_waiter_reads_as_one_line() -> None:
    assert str(Waiting("worker-1", 1.25, "app.py:3 view")) == "worker-1 for 1.25 s, at app.py:3 view"


def test_the_options_are_those_given_but_for_what_was_resized(make: Make) -> None:
    pool = make(max_size=3, min_size=1, timeout=7.0)
    assert (pool.config.min_size, pool.config.max_size, pool.config.timeout) == (1, 3, 7.0)
    pool.resize(min_size=2, max_size=None)
    assert (pool.config.min_size, pool.config.max_size, pool.config.timeout) == (2, None, 7.0)
