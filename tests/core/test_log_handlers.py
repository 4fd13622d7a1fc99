"""A user's log handlers may raise, or take their time: the pool goes on."""

from __future__ import annotations

import gc
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pooling import Pool, signals
from pooling._runtime.threads import Threads
from pooling.signals import drain_on_signals
from pooling.testing import FakeFactory
from tests.core.conftest import Make
from tests.waiting import until


class Handler(logging.Handler):
    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act
        self.emitted = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.emitted += 1
        self.act()


@pytest.fixture
def handle() -> Iterator[Callable[[Callable[[], object]], Handler]]:
    log, handlers = logging.getLogger("pooling"), []

    def add(act: Callable[[], object]) -> Handler:
        handlers.append(Handler(act))
        log.addHandler(handlers[-1])
        return handlers[-1]

    yield add
    for handler in handlers:
        log.removeHandler(handler)


def away() -> None:
    raise RuntimeError("the log's server is away")


def test_a_log_handler_that_raises_stops_no_upkeep(handle: Any) -> None:
    handler = handle(away)
    with Pool(FakeFactory(), max_size=1, leak_after=0.05, timeout=10.0) as pool:
        lease = pool.acquire()
        until(lambda: handler.emitted)
        lease.release()
        lease = pool.acquire()
        del lease
        gc.collect()
        until(lambda: pool.stats().closed.get("dropped") == 1)  # the reaper lives, and nobody else looks
        pool.acquire().release()


def test_a_log_handler_that_raises_keeps_no_signal_from_its_effect(
    handle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the thread that drains nobody would see it, and the process would not end before it is killed."""
    handler, ends = handle(away), []
    before = signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
    monkeypatch.setattr(signals, "AGAIN", 0.01)
    try:
        pool = Pool(FakeFactory(), max_size=1)
        lease = pool.acquire()  # which does not come back in time: a second line
        drain_on_signals(pool, timeout=0.05, signals=[signal.SIGTERM], stop=away)
        signal.raise_signal(signal.SIGTERM)
        until(lambda: ends)
        assert handler.emitted == 2
        assert pool.stats().state == "closed"
        lease.release()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_log_handler_that_raises_keeps_no_caller_from_his_connection(
    handle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    logging.getLogger("pooling.pool.chatty").setLevel(logging.DEBUG)
    handler = handle(away)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Pool(FakeFactory(), runtime=Threads(), name="chatty", max_size=1) as pool:
        pool.acquire(timeout=1).release()
    assert handler.emitted


def test_a_log_handler_that_raises_keeps_no_work_from_its_next_try(handle: Any, make: Make) -> None:
    logging.getLogger("pooling.pool.tireless").setLevel(logging.INFO)
    handler, tries = handle(away), []

    def work(_: Any) -> int:
        tries.append(True)
        if len(tries) < 3:
            raise ZeroDivisionError
        return len(tries)

    assert make(name="tireless").run(work, on=ZeroDivisionError, backoff=lambda _: 0.0) == 3
    assert handler.emitted == 2


def test_a_slow_log_handler_holds_no_acquire_up(handle: Any) -> None:
    """A real clock, and half a minute of room: what is to be seen is that nobody waits for the handler."""
    free = threading.Event()
    handler = handle(lambda: free.wait(30))
    try:
        with Pool(FakeFactory(), max_size=2) as pool:
            for _ in range(3):
                lease = pool.acquire(timeout=10)
                del lease
                pool.acquire(timeout=10).release()
            until(lambda: handler.emitted)
            assert not free.is_set()
    finally:
        free.set()
