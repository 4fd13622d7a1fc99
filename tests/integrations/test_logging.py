"""Events as lines of a log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from pooling import Pool, PoolEvent, PoolManager
from pooling.integrations.logging import LEVELS, log_events
from pooling.testing import FakeBroken, FakeConnection, FakeFactory, ManualClock
from tests.core.helpers import outcome
from tests.docs.pages import ROOT, bare, table

WARNING, INFO, DEBUG = logging.WARNING, logging.INFO, logging.DEBUG


@pytest.fixture
def clock(caplog: pytest.LogCaptureFixture) -> Iterator[ManualClock]:
    caplog.set_level(DEBUG, logger="pooling.events")
    with ManualClock() as clock:
        yield clock


@pytest.fixture
def factory(clock: ManualClock) -> FakeFactory:
    return FakeFactory(clock)


@pytest.fixture
def pool(clock: ManualClock, factory: FakeFactory) -> Iterator[Pool[FakeConnection]]:
    with Pool(factory, name="shop", max_size=1, leak_after=5, fail_after=0, runtime=clock) as pool:
        yield pool
        factory.gates["connect"].ok()


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "pooling.events"]


def test_every_event_is_a_line_with_a_level_that_fits(
    clock: ManualClock, factory: FakeFactory, pool: Pool[FakeConnection], caplog: pytest.LogCaptureFixture
) -> None:
    log_events(pool)
    with pytest.raises(FakeBroken), pool.acquire():
        clock.advance(2)
        raise FakeBroken("gone")
    clock.advance(0)
    factory.gates["connect"].error(OSError("no\n route"))
    outcome(pool.acquire, 1)
    clock.advance(0)
    where = f"acquired at {__file__}:"
    lines = [
        (level, message.partition(where)[0] + message.partition(": FakeBroken")[1]) for level, message in said(caplog)
    ]
    assert lines == [
        (DEBUG, "pool 'shop': wait"),
        (INFO, "pool 'shop': connect connection 1 after 0 s"),
        (DEBUG, "pool 'shop': acquire connection 1 after 0 s held by MainThread for 0 s, "),
        (DEBUG, "pool 'shop': release (broken) connection 1 after 2 s held by MainThread for 2 s, "),
        (WARNING, "pool 'shop': error (use) connection 1 held by MainThread for 2 s, : FakeBroken"),
        (WARNING, "pool 'shop': state (suspect)"),
        (WARNING, "pool 'shop': close (broken) connection 1 after 2 s"),
        (DEBUG, "pool 'shop': wait"),
        (WARNING, "pool 'shop': error (connect) connection 2: OSError: no route"),
        (WARNING, "pool 'shop': state (down)"),
    ]
    assert all(isinstance(record.event, PoolEvent) for record in caplog.records if record.name == "pooling.events")  # type: ignore[attr-defined]


def test_levels_can_be_chosen_and_kinds_left_out(
    clock: ManualClock, pool: Pool[FakeConnection], caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("pooling.events")
    stop = log_events(pool, log, levels={"acquire": WARNING, "release": 0, "wait": 0, "connect": 0})
    pool.acquire().release()
    clock.advance(0)
    assert [(level, message[:19]) for level, message in said(caplog)] == [(WARNING, "pool 'shop': acquir")]
    stop()
    pool.acquire().release()
    clock.advance(0)
    assert len(said(caplog)) == 1


def test_an_ordinary_end_of_a_connection_is_no_warning_and_what_is_left_out_is_so_in_trouble_too(
    clock: ManualClock, pool: Pool[FakeConnection], caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("pooling.events")
    quiet = {"acquire": 0, "release": 0, "wait": 0, "connect": 0, "error": 0, "clear": 0}
    stop = log_events(pool, log, levels=quiet)
    pool.acquire().release()
    clock.advance(7)
    pool.clear()
    clock.advance(0)
    assert said(caplog) == [(INFO, "pool 'shop': close (stale) connection 1 after 7 s")]
    stop()
    stop = log_events(pool, log, levels={**quiet, "close": 0, "state": 0})
    with pytest.raises(FakeBroken), pool.acquire():
        raise FakeBroken
    clock.advance(0)
    stop()
    assert len(said(caplog)) == 1


def test_a_kind_that_does_not_exist_is_refused(pool: Pool[FakeConnection]) -> None:
    with pytest.raises(ValueError, match=r"^there are no events of the kind 'aquire' \(kinds: acquire, clear, close, "):
        log_events(pool, levels={"aquire": INFO})


def test_a_level_can_be_given_by_its_name(
    clock: ManualClock, pool: Pool[FakeConnection], caplog: pytest.LogCaptureFixture
) -> None:
    log_events(pool, levels={"acquire": "ERROR", "release": "NOTSET", "wait": "NOTSET", "connect": "NOTSET"})
    pool.acquire().release()
    clock.advance(0)
    assert [level for level, _ in said(caplog)] == [logging.ERROR]


@pytest.mark.parametrize(
    ("level", "error"), [("LOUD", ValueError), ("info", ValueError), (None, TypeError), (True, TypeError)]
)
def test_what_is_no_level_is_refused_at_once(level: Any, error: type[Exception], pool: Pool[FakeConnection]) -> None:
    with pytest.raises(error, match=r"^the level of 'connect' must be "):
        log_events(pool, levels={"connect": level})


@pytest.mark.parametrize("logger", [None, 5, logging])
def test_what_is_no_logger_is_refused_at_once(logger: Any, pool: Pool[FakeConnection]) -> None:
    with pytest.raises(TypeError, match=r"^logger must be a logger or the name of one, not "):
        log_events(pool, logger)


def test_every_kind_has_a_level() -> None:
    kinds = {bare(row[0]) for row in table(ROOT / "docs" / "reference" / "events.md", "kind")}
    assert kinds == set(LEVELS)


def test_an_error_of_the_users_own_is_told_without_secrets(
    clock: ManualClock, factory: FakeFactory, pool: Pool[FakeConnection], caplog: pytest.LogCaptureFixture
) -> None:
    factory.password = "Tweety-bird"  # type: ignore[attr-defined]
    log_events(pool)
    with pytest.raises(FakeBroken, match="Tweety-bird"), pool.acquire():
        raise FakeBroken("Tweety-bird did not help, nor did postgresql://bob:pw@h/d")
    clock.advance(0)
    assert "FakeBroken: *** did not help, nor did postgresql://bob:***@h/d" in caplog.text


def test_many_pools_are_refused_where_one_is_needed(pool: Pool[FakeConnection]) -> None:
    manager = PoolManager()
    many: Any
    for many in (manager, [pool]):
        with pytest.raises(TypeError, match=r"needs a Pool, not (PoolManager|list) \(of a manager or a list: each"):
            log_events(many)
    manager.close()
