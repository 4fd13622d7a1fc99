"""What the page says about a pool: the verdict, what stands out, what has happened. In virtual time."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from pooling import Pool, PoolStats
from pooling.integrations.page import _document
from pooling.integrations.page._history import MARKS, WINDOW
from pooling.integrations.page._verdict import Condition
from pooling.integrations.page._words import span
from pooling.testing import FakeBroken, FakeFactory, ManualClock
from tests.core.conftest import Make, clock, factory, make
from tests.docs.pages import ROOT, table
from tests.integrations.page_client import Looking

__all__ = ["clock", "factory", "make"]  # fixtures
GUIDE = ROOT / "docs" / "how-to" / "watch-a-pool.md"


def hold(clock: ManualClock, pool: Pool[Any], seconds: float) -> None:
    with pool.acquire():
        clock.sleep(seconds)


def test_a_pool_that_is_not_used_is_at_rest(clock: ManualClock, make: Make) -> None:
    looking = Looking(clock, make(max_size=3))
    told = looking.sees()["verdict"]
    assert told == {"condition": "at rest", "level": "good", "text": "at rest: no connection open, nobody waiting"}


def test_a_pool_in_ordinary_use_is_fine(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=3)
    looking = Looking(clock, pool)
    with pool.acquire(), pool.acquire():
        pass
    with pool.acquire():
        assert looking.says() == "fine: 1/3 in use, 1 idle, nobody waiting"


def test_a_pool_without_a_cap_is_never_called_full(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=None)
    looking = Looking(clock, pool)
    with pool.acquire(), pool.acquire():
        assert looking.says() == "fine: 2 in use, nobody waiting"


def test_a_full_pool_that_lets_nobody_wait_for_long_is_fully_used(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    looking = Looking(clock, pool)
    with pool.acquire():
        looking.passes(3)
        told = looking.sees()["verdict"]
        assert (told["level"], told["text"]) == ("busy", "fully used for 2 s: 1/1 in use, nobody waiting")
        clock.spawn(hold, clock, pool, 0)
        clock.advance(0.05)
        told = looking.sees()["verdict"]
        assert told["text"] == "fully used for 2 s: 1/1 in use, 1 waiting, oldest 50 ms"


def test_an_exhausted_pool_says_for_how_long_and_who_waits(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=10, timeout=30.0)
    looking = Looking(clock, pool)
    for _ in range(10):
        clock.spawn(hold, clock, pool, 1000)
    clock.advance(0)
    for _ in range(5):
        clock.spawn(pool.acquire, 7.5)
    looking.passes(7)
    clock.advance(0.8)
    for _ in range(32):
        clock.spawn(pool.acquire)
    looking.passes(4)
    clock.advance(0.2)
    told = looking.sees()["verdict"]
    assert told["text"] == "exhausted for 12 s: 10/10 in use, 32 waiting, oldest 4.2 s"
    assert told["condition"] == "exhausted"


def test_an_exhausted_pool_is_bad_once_callers_give_up_or_are_about_to(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1, timeout=10.0)
    looking = Looking(clock, pool)
    with pool.acquire():
        clock.spawn(pool.acquire)
        looking.passes(1)
        assert looking.sees()["verdict"]["level"] == "warn"
        looking.passes(4)
        assert looking.sees()["verdict"]["level"] == "bad"  # half its patience is gone
        looking.passes(6)
        clock.spawn(pool.acquire)
        looking.passes(1)
        assert looking.sees()["verdict"]["level"] == "bad"  # one has given up just now


def test_a_short_relief_does_not_begin_the_count_anew(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    looking = Looking(clock, pool)
    first = clock.spawn(hold, clock, pool, 5.5)
    clock.advance(0)
    clock.spawn(pool.acquire, 5.2)
    looking.passes(6)
    assert first.done
    clock.spawn(hold, clock, pool, 100)
    clock.advance(0)
    clock.spawn(pool.acquire, 60)
    looking.passes(3)
    assert looking.says().startswith("exhausted for 9 s")


def test_a_pool_that_is_opening_says_so(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    factory.gates["connect"].slow(3)
    pool = make(max_size=4)
    looking = Looking(clock, pool)
    clock.spawn(pool.acquire)
    clock.advance(0.5)
    told = looking.sees()["verdict"]
    assert told["level"] == "busy"
    assert told["text"] == "opening for 0 ms: 0/4 in use, 1 being opened, 1 waiting, oldest 500 ms"
    clock.advance(1)
    assert looking.sees()["verdict"]["level"] == "warn"


def test_a_server_that_is_away_is_named_with_its_error(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    factory.gates["connect"].error(ConnectionRefusedError("nobody there"))
    pool = make(max_size=4)
    looking = Looking(clock, pool)
    clock.spawn(pool.acquire, 4.5)
    looking.passes(4)
    told = looking.sees()
    assert told["verdict"]["level"] == "bad"
    assert told["verdict"]["text"] == "down for 3 s: cannot connect, 0/4 in use, 1 waiting, oldest 4 s"
    assert "ConnectionRefusedError: nobody there" in told["last_error"]["text"]
    assert told["findings"][0]["text"].startswith("last connect error, ")
    assert told["findings"][0]["text"].endswith(" ago: ConnectionRefusedError: nobody there")
    assert [event["kind"] for event in told["events"]] == ["connects", "state"]
    assert told["events"][0]["text"].endswith(" connects failed")
    assert told["events"][1]["text"] == "the server cannot be reached: ConnectionRefusedError: nobody there"
    factory.gates["connect"].ok()
    looking.passes(4)
    told = looking.sees()
    assert any(event["text"].startswith("up again after ") for event in told["events"])
    assert told["last_error"]["age"] >= 2, "the last error is remembered when all is well again"


def test_suspended_draining_and_closed_are_told(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    looking = Looking(clock, pool)
    pool.suspend()
    clock.spawn(pool.acquire, 60)
    looking.passes(2)
    told = looking.sees()["verdict"]
    assert told["level"] == "warn"
    assert told["text"].startswith("suspended for 1 s: 0/1 in use, ")
    pool.close()
    looking.passes(1)
    told = looking.sees()["verdict"]
    assert (told["condition"], told["level"]) == ("closed", "off")


def test_suspects_are_told(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=2)
    looking = Looking(clock, pool)
    with pool.acquire(), pool.acquire():
        pass
    factory.gates["check"].slow(3)
    with pytest.raises(FakeBroken), pool.acquire():
        raise FakeBroken("gone")
    looking.passes(1)
    assert looking.sees()["verdict"]["text"].startswith("suspect for 0 ms: a connection broke, ")
    assert "1 connection broke" in [event["text"] for event in looking.sees()["events"]]


def test_every_condition_is_explained_in_the_documentation() -> None:
    listed = [re.findall(r"`([^`]+)`", row[0]) for row in table(GUIDE, "verdict")]
    assert {name for names in listed for name in names} == {each.value for each in Condition}


# -- what stands out ------------------------------------------------------------------------------------------


def found(looking: Looking) -> list[str]:
    return [finding["text"] for finding in looking.sees()["findings"]]


def test_a_slow_holder_is_named_against_what_is_usual(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=3)
    looking = Looking(clock, pool)
    for _ in range(50):
        hold(clock, pool, 0.1)
    assert found(looking) == []
    clock.spawn(hold, clock, pool, 100)
    looking.passes(5)
    (text,) = found(looking)
    assert "has held a connection for 5 s, acquired at " in text
    assert "acquired at integrations/test_page_verdict.py:" in text
    assert "99 % of the holds take at most 99 ms" in text or "99 % of the holds take at most 1" in text
    assert [bool(holder["slow"]) for holder in looking.sees()["holders"]] == [True]


def test_leaks_show_up(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=2, leak_after=3.0)
    looking = Looking(clock, pool)
    clock.spawn(hold, clock, pool, 1000)
    looking.passes(5)
    told = looking.sees()
    assert told["holders"][0]["slow"] == "longer than leak_after (3 s)"
    assert "1 leak so far: leases dropped, or held past leak_after" in found(looking)
    assert "1 leaked lease" in [event["text"] for event in told["events"]]
    assert told["totals"]["leaks"] == 1


def test_workers_that_were_written_off_show_up(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    factory.gates["connect"].never()
    pool = make(max_size=1, connect_timeout=2.0)
    looking = Looking(clock, pool)
    clock.spawn(pool.acquire, 3.0)
    looking.passes(5)
    assert pool.stats().hung == 1
    assert "1 worker is written off: a call of the driver did not come back" in found(looking)
    factory.gates["connect"].ok()
    looking.passes(5)
    assert not [text for text in found(looking) if "written off" in text]


def test_slow_connects_show_up(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    factory.gates["connect"].slow(3.0)
    pool = make(max_size=2)
    looking = Looking(clock, pool)
    clock.spawn(hold, clock, pool, 0.1)
    looking.passes(5)
    (text,) = found(looking)
    assert re.fullmatch(r"opening a connection takes [\d.]+ s \(95 % are faster\)", text)


def test_the_place_that_holds_most_connections_of_an_exhausted_pool_is_named(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=3)
    looking = Looking(clock, pool)
    for _ in range(3):
        clock.spawn(hold, clock, pool, 1000)
    clock.advance(0)
    clock.spawn(pool.acquire, 60)
    looking.passes(2)
    assert any(text.startswith("3 of the 3 connections in use were acquired at ") for text in found(looking))


def test_threads_that_wait_while_they_hold_are_named(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=2, nested=None)
    looking = Looking(clock, pool)

    def nest() -> None:
        with pool.acquire():
            clock.sleep(1)
            pool.acquire(60)

    for _ in range(2):
        clock.spawn(nest)
    looking.passes(3)
    assert any(text.startswith("2 threads hold a connection and wait for another (") for text in found(looking))


def test_who_holds_and_who_waits_is_told_with_age_thread_and_place(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    looking = Looking(clock, pool)
    with pool.acquire():
        clock.advance(1)
        clock.spawn(hold, clock, pool, 0)
        clock.advance(2)
        told = looking.sees()
    (holder,), (waiter,) = told["holders"], told["waiters"]
    assert (round(holder["age"]), holder["thread"]) == (3, "MainThread")
    assert holder["where"].startswith(f"{__file__}:")
    assert round(waiter["age"]) == 2
    assert waiter["where"].endswith(" hold")


# -- the last minutes -----------------------------------------------------------------------------------------


def test_a_sample_a_second_is_kept_for_a_quarter_of_an_hour_and_no_more(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=2, min_size=0)
    looking = Looking(clock, pool)
    with pool.acquire():
        looking.passes(1000)
    told = looking.sees()["history"]
    assert told["columns"] == ["tick", "age", "leased", "idle", "other", "waiting", "limit", "acquired"]
    assert len(told["rows"]) == WINDOW == 900
    assert told["rows"][-1][0] == 1001
    assert {tuple(row[2:7]) for row in told["rows"]} == {(1, 0, 0, 0, 2)}


def test_only_what_is_new_is_sent_again(clock: ManualClock, make: Make) -> None:
    looking = Looking(clock, make())
    looking.passes(10)
    first = looking.document()
    looking.passes(3)
    later = looking.document(run=first["run"], since=first["tick"])
    assert [row[0] for row in later["pools"][0]["history"]["rows"]] == [12, 13, 14]
    assert later["tick"] == 14
    other = looking.document(run="of another process", since=first["tick"])
    assert len(other["pools"][0]["history"]["rows"]) == 14


def test_events_of_a_kind_are_told_as_one_and_their_number_is_bounded(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    looking = Looking(clock, pool)
    with pool.acquire():
        for _ in range(4):
            clock.spawn(pool.acquire, 0.5)
            looking.passes(1)
        looking.passes(20)
        clock.spawn(pool.acquire, 0.5)
        looking.passes(1)
        assert [event["text"] for event in looking.sees()["events"] if event["kind"] == "timeouts"] == [
            "1 timeout",
            "4 timeouts",
        ]
    for size in range(2, 300):
        pool.resize(max_size=size)
        looking.watch.tick()
    assert len(looking.sees()["events"]) == MARKS
    assert looking.sees()["events"][0]["text"] == "resized: 0 to 299 connections"


@pytest.mark.parametrize(
    ("happens", "text"),
    [
        (lambda pool: pool.clear(), "1 connection retired by a clear"),
        (lambda pool: pool.resize(min_size=1, max_size=7), "resized: 1 to 7 connections"),
        (lambda pool: pool.resize(max_size=None), "resized: 0 to any number connections"),
        (lambda pool: pool.suspend(), "suspended"),
        (lambda pool: pool.close(), "closed"),
    ],
)
def test_what_happens_to_a_pool_is_an_event(
    happens: Callable[[Any], object], text: str, clock: ManualClock, make: Make
) -> None:
    pool = make(max_size=2)
    with pool.acquire():
        pass
    looking = Looking(clock, pool)
    looking.passes(1)
    happens(pool)
    looking.passes(1)
    assert text in [event["text"] for event in looking.sees()["events"]]


def test_a_look_that_another_one_has_overtaken_tells_nothing(
    clock: ManualClock, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for the document looks as well where the page's own thread is late, and so do both then."""
    pool = make(max_size=1)
    looking = Looking(clock, pool)
    stats = pool.stats

    def slowly() -> PoolStats:
        mine = stats()
        monkeypatch.setattr(pool, "stats", stats)
        with pool.acquire():
            clock.advance(1)
        looking.watch.tick()
        return mine

    monkeypatch.setattr(pool, "stats", slowly)
    looking.watch.tick()
    columns = looking.sees()["history"]["columns"]
    assert [row[columns.index("acquired")] for row in looking.sees()["history"]["rows"]] == [0, 1]


def test_histograms_are_of_all_uses_first_and_of_the_window_later(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=2)
    for _ in range(10):
        hold(clock, pool, 0.5)
    looking = Looking(clock, pool)
    told = looking.sees()
    assert told["window"] is None
    assert told["use"]["count"] == sum(count for _, _, count in told["use"]["bins"]) == 10
    ((low, high, _),) = told["use"]["bins"]
    assert low <= 0.5 < high
    assert high / low == pytest.approx(1.5, abs=0.2), "two bins an octave"
    assert told["wait"]["at_once"] + sum(count for _, _, count in told["wait"]["bins"]) == told["wait"]["count"] == 10
    looking.passes(1000)
    hold(clock, pool, 0.25)
    told = looking.sees()
    assert 840 <= told["window"] <= 900
    assert told["use"]["count"] == told["wait"]["count"] == 1


def test_the_rate_is_of_the_last_seconds(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    looking = Looking(clock, pool)
    assert looking.sees()["rate"] is None
    for _ in range(30):
        for _ in range(4):
            hold(clock, pool, 0)
        looking.passes(1)
    assert looking.sees()["rate"] == pytest.approx(4, abs=0.5)


def test_settings_are_told_and_resized_ones_as_they_are_now(clock: ManualClock, make: Make) -> None:
    def prepare(connection: Any) -> None: ...

    pool = make(max_size=3, timeout=7.0, on_connect=prepare)
    pool.resize(max_size=5)
    settings = Looking(clock, pool).sees()["settings"]
    assert (settings["max_size"], settings["timeout"], settings["reset"]) == ("5", "7.0", "transaction")
    assert settings["on_connect"].endswith("prepare")


def test_every_field_of_the_document_is_described(clock: ManualClock, make: Make) -> None:
    told = Looking(clock, make()).document()
    described = set(re.findall(r"\w+", _document.__doc__ or ""))
    fields = {*told, *told["pools"][0], *told["pools"][0]["now"], *told["pools"][0]["totals"]}
    fields |= {*told["pools"][0]["wait"], *told["pools"][0]["verdict"]}
    assert fields <= described, fields - described


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"), (3e-6, "3 µs"), (0.0004, "400 µs"), (0.00099, "990 µs"), (0.0014, "1.4 ms"), (0.003, "3 ms"),
        (0.0123, "12 ms"), (0.9994, "999 ms"), (1.0, "1 s"),
        (4.24, "4.2 s"), (9.94, "9.9 s"), (9.96, "10 s"), (12.3, "12 s"), (59.6, "1 min"), (200, "3 min 20 s"),
        (3600, "1 h"), (7500, "2 h 5 min"),
    ],
)  # fmt: skip  # a table
def test_times_read_as_people_say_them(seconds: float, text: str) -> None:
    assert span(seconds) == text
