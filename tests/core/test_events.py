"""What listeners hear: each thing once, in order, never on the pool's lock or its callers' time."""

from __future__ import annotations

import gc
import itertools
import logging
import re
import threading
from collections import Counter
from typing import Any

import pytest

from pooling import ConnectError, Pool, PoolEvent, PoolTimeout
from pooling.events import LIMIT, Outlet
from pooling.testing import FakeBroken, FakeFactory, Gate, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, timed
from tests.waiting import until


def listen(pool: Any) -> list[PoolEvent]:
    heard: list[PoolEvent] = []
    pool.subscribe(heard.append)
    return heard


def told(heard: list[PoolEvent]) -> list[str]:
    return [event.kind + (f" {event.reason}" if event.reason else "") for event in heard]


def test_a_plain_life_is_told_in_order(clock: ManualClock, make: Make) -> None:
    pool = make(name="p")
    heard = listen(pool)
    with pool.acquire():
        clock.advance(2)
    with pool.acquire():
        pass
    pool.close()
    clock.advance(0)
    assert told(heard) == [
        "wait", "connect", "acquire", "release clean", "acquire", "release clean", "state closed", "close pool",
    ]  # fmt: skip
    assert {event.pool for event in heard} == {"p"}
    assert [event.at for event in heard] == sorted(event.at for event in heard)
    assert [event.holder is not None for event in heard] == [False, False, True, True, True, True, False, False]
    release = heard[3]
    assert (release.connection_id, release.duration, release.error) == (1, 2.0, None)
    assert release.holder is not None
    assert release.holder.thread == "MainThread"
    assert release.holder.where.endswith(" test_a_plain_life_is_told_in_order")
    assert heard[-1].duration == 2.0


def test_each_kind_is_told_once_for_each_thing_that_happened(  # noqa: PLR0915  # one life, told in order
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=1, leak_after=5, check="ping", keepalive=50, fail_after=0)
    heard = listen(pool)

    def expect(*kinds: str) -> None:
        clock.advance(0)
        assert told(heard) == list(kinds)
        heard.clear()

    lease = pool.acquire()
    expect("wait", "connect", "acquire")
    assert isinstance(outcome(pool.acquire, 1), PoolTimeout)
    expect("wait", "timeout")
    clock.advance(10)
    expect("leak")
    lease.connection.dirty = True
    lease.release()
    expect("release dirty")
    pool.resize(max_size=2)
    expect("resize")
    with pytest.raises(FakeBroken), pool.acquire():
        raise FakeBroken
    expect("acquire", "release broken", "error use", "state suspect", "close broken")
    factory.gates["connect"].error(OSError())
    assert isinstance(outcome(pool.acquire, 3), ConnectError)
    expect("wait", "error connect", "state down")
    factory.gates["connect"].ok()
    clock.advance(1)
    expect("connect", "state up")
    pool.clear()
    expect("clear", "close stale")
    lease = pool.acquire()
    factory.gates["reset"].error(OSError())
    lease.connection.dirty = True
    lease.release()
    expect("wait", "connect", "acquire", "release dirty", "error reset", "close reset")
    pool.acquire().detach()
    expect("wait", "connect", "acquire", "release detached", "close detached")
    lease = pool.acquire()
    factory.gates["close"].error(OSError())
    lease.discard()
    expect("wait", "connect", "acquire", "release discarded", "error close", "close discarded")
    factory.gates["close"].ok()
    lease = pool.acquire()
    lease.refresh()
    lease.release()
    expect("wait", "connect", "acquire", "release discarded", "close discarded", "connect", "acquire", "release clean")
    factory.gates["check"].error(OSError())
    clock.advance(55)
    expect("error check", "state suspect", "close broken")
    pool.acquire()
    gc.collect()
    expect("wait", "connect", "acquire", "state up", "leak dropped", "close dropped")
    pool.suspend()
    pool.resume()
    expect("state suspended", "state running")
    pool.drain()
    expect("state draining", "state closed")


def test_one_who_waits_for_long_is_told_once(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """He looks by himself now and then, and keeps his place."""
    pool = make()
    heard = listen(pool)
    factory.gates["connect"].slow(5)
    pool.acquire(timeout=10).release()
    clock.advance(0)
    assert told(heard) == ["wait", "connect", "acquire", "release clean"]


def test_a_hand_over_is_told_as_release_and_acquire(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    heard = listen(pool)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(3)
    lease.release()
    clock.advance(0)
    assert told(heard) == ["wait", "connect", "acquire", "wait", "release clean", "acquire"]
    assert heard[-1].duration == pytest.approx(3)
    waiting.result().release()


def test_each_duration_is_of_what_its_kind_says(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=1, leak_after=2)
    heard = listen(pool)
    clock.advance(1)
    factory.gates["connect"].slow(3)
    lease = pool.acquire(timeout=10)
    assert isinstance(outcome(pool.acquire, 5), PoolTimeout)
    clock.advance(2)
    lease.release()
    clock.advance(4)
    pool.clear()
    clock.advance(0)
    durations = {event.kind: event.duration for event in heard if event.duration is not None}
    assert durations == pytest.approx({"connect": 3, "acquire": 3, "leak": 2, "timeout": 5, "release": 7, "close": 11})


def test_a_subscription_begins_and_ends_in_the_middle(clock: ManualClock, make: Make) -> None:
    pool = make()
    lease = pool.acquire()
    heard: list[PoolEvent] = []
    stop = pool.subscribe(heard.append)
    lease.release()
    stop()
    stop()
    pool.acquire().release()
    clock.advance(0)
    assert told(heard) == ["release clean"]


def test_listeners_are_independent(clock: ManualClock, make: Make) -> None:
    """A slow one, one that raises, one that hangs: each hears everything in its own time, the last not at all."""
    pool = make()
    gates = {"slow": Gate(clock), "never": Gate(clock)}
    gates["slow"].slow(1)
    gates["never"].never()
    heard: dict[str, list[str]] = {name: [] for name in ("fast", "slow", "never", "raises")}

    def subscribe(name: str) -> None:
        def listener(event: PoolEvent) -> None:
            heard[name].append(event.kind)
            if name == "raises":
                raise SystemExit(name)
            if name in gates:
                gates[name].enter()

        pool.subscribe(listener)

    for name in heard:
        subscribe(name)
    assert timed(clock, lambda: pool.acquire().release())[0] == 0
    clock.advance(0)
    everything = ["wait", "connect", "acquire", "release"]
    assert heard["fast"] == heard["raises"] == everything
    assert heard["slow"] == everything[:1]
    clock.advance(10)
    assert heard["slow"] == everything
    assert heard["never"] == everything[:1]
    gates["never"].ok()
    clock.advance(0)
    assert heard["never"] == everything


def test_a_listener_that_raises_is_logged(clock: ManualClock, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    pool = make()

    def listener(event: PoolEvent) -> None:
        raise KeyboardInterrupt

    pool.subscribe(listener)
    pool.clear()
    clock.advance(0)
    assert caplog.messages == ["a listener raised on clear"]
    pool.clear()
    clock.advance(61)
    pool.resize(max_size=3)
    pool.clear()
    clock.advance(0)
    assert caplog.messages == ["a listener raised on clear", "a listener raised on resize"]


def test_a_listener_may_call_the_pool(clock: ManualClock, make: Make) -> None:
    """Re-entrant: it is a caller like any other, on a thread of its own."""
    pool = make(max_size=2)
    seen: list[Any] = []

    def listener(event: PoolEvent) -> None:
        seen.append((event.kind, pool.stats().size))
        if event.kind == "clear":
            with pool.acquire(timeout=5) as connection:
                seen.append(connection.number)

    pool.subscribe(listener)
    with pool.acquire():
        pool.clear()
        clock.advance(0)
    clock.advance(0)
    assert 2 in seen
    assert pool.stats().leased == 0


def test_a_listener_that_is_too_slow_loses_the_oldest_and_they_are_counted(clock: ManualClock, make: Make) -> None:
    pool = make()
    gate, heard = Gate(clock), []
    gate.never()

    def listener(event: PoolEvent) -> None:
        gate.enter()
        heard.append(event)

    pool.subscribe(listener)
    pool.suspend()
    clock.advance(0)
    for _ in range(LIMIT + 25):
        pool.clear()
    pool.resume()
    assert pool.stats().events_lost == 26
    gate.ok()
    clock.advance(0)
    assert told(heard[:2]) == ["state suspended", "clear"]
    assert told(heard[-1:]) == ["state running"]
    assert len(heard) == 1 + LIMIT


def test_what_a_listener_has_missed_stays_counted_when_it_ends(clock: ManualClock, make: Make) -> None:
    """It is a counter: exporters add up by how much it has grown."""
    pool = make()
    gate = Gate(clock)
    gate.never()
    stop = pool.subscribe(gate.enter)
    pool.suspend()
    clock.advance(0)
    for _ in range(LIMIT + 25):
        pool.clear()
    missed = pool.stats()
    stop()
    stop()
    assert (pool.stats() - missed).events_lost == 0
    assert missed.events_lost == 25


def test_64_threads_are_told_once_each_and_in_order() -> None:  # noqa: PLR0915  # one run, every kind of listener
    """Real threads, hand-overs among them, and beside the listener one that raises, one that is slow and one that calls
    the pool: what is heard adds up with the stats, and each connection's story is one that can be."""
    factory = FakeFactory()
    heard: list[PoolEvent] = []
    said: list[PoolEvent] = []
    over = threading.Event()
    calls = itertools.count(1)

    def listen(event: PoolEvent) -> None:
        heard.append(event)
        if (event.kind, event.reason) == ("state", "closed"):
            over.set()

    def slow(event: PoolEvent) -> None:
        over.wait(0.0001)

    def reenter(event: PoolEvent) -> None:
        if event.kind == "release" and next(calls) % 50 == 0:
            with pool.acquire(timeout=30):
                pool.stats()

    def raises(event: PoolEvent) -> None:
        said.append(event)
        raise ValueError(event.kind)

    with Pool(factory, max_size=4, timeout=60) as pool:
        for listener in (raises, listen, slow, reenter):
            pool.subscribe(listener)
        failures: list[Any] = []

        def use() -> None:
            for turn in range(20):
                lease = outcome(pool.acquire)
                if isinstance(lease, BaseException):
                    failures.append(lease)
                    return
                lease.discard() if turn == 7 else lease.release()

        threads = [threading.Thread(target=use) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not failures
        pool.drain(60)
    # Closes come last, and may come after the end of close(), or reach one listener later than another.
    until(lambda: all(sum(event.kind == "close" for event in each) == pool.stats().opened for each in (heard, said)))
    assert over.is_set()
    assert next(calls) > 1
    stats = pool.stats()
    kinds = Counter(event.kind for event in heard)
    assert stats.events_lost == 0
    assert kinds["acquire"] == kinds["release"] == stats.acquired >= 64 * 20
    assert kinds["connect"] == stats.opened
    assert said == heard
    assert [event.at for event in heard] == sorted(event.at for event in heard)
    stories: dict[int | None, list[str]] = {}
    for event in heard:
        stories.setdefault(event.connection_id, []).append(event.kind)
    del stories[None]
    for story in stories.values():
        assert re.fullmatch(r"connect( acquire release)*( close)?", " ".join(story))
    assert any(event.kind == "acquire" and event.duration for event in heard)


def test_a_listener_may_end_its_own_subscription_and_begin_another(clock: ManualClock, make: Make) -> None:
    pool = make()
    first: list[PoolEvent] = []
    second: list[PoolEvent] = []

    def once(event: PoolEvent) -> None:
        first.append(event)
        stop()
        pool.subscribe(second.append)

    stop = pool.subscribe(once)
    pool.clear()
    clock.advance(0)
    pool.clear()
    clock.advance(0)
    assert (told(first), told(second)) == (["clear"], ["clear"])


def test_a_listener_may_close_the_pool(clock: ManualClock, make: Make) -> None:
    pool = make()
    heard = listen(pool)
    pool.subscribe(lambda event: pool.close() if event.kind == "release" else None)
    pool.acquire().release()
    clock.advance(0)
    assert told(heard)[-2:] == ["state closed", "close pool"]


def test_two_listeners_hear_the_same_in_the_same_order(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    first, second = listen(pool), listen(pool)
    with pool.acquire():
        outcome(pool.acquire, 1)
    pool.acquire().discard()
    clock.advance(0)
    assert first == second
    assert len(first) == 9


def test_while_nobody_listens_nothing_is_made_of_events(clock: ManualClock, make: Make) -> None:
    pool = make()
    stop = pool.subscribe(lambda event: None)
    pool.acquire().release()
    assert pool._plain[0] == 0
    stop()
    pool.acquire().release()
    assert pool._plain[0] == 1


def test_a_listener_has_to_be_callable(make: Make) -> None:
    with pytest.raises(TypeError, match=r"^a listener must be callable, not 7$"):
        make().subscribe(7)  # type: ignore[arg-type]


def test_the_kept_error_holds_no_variables_of_its_frames(clock: ManualClock, make: Make) -> None:
    """Secrets and connections in a driver's frames do not live on in events, stats or causes."""

    def connect() -> Any:
        secret = "hunter2"
        try:
            raise KeyError(secret[:0]) from ValueError("a cause that was never raised")
        except KeyError as error:
            raise OSError("refused") from error

    pool = make(factory=connect, fail_after=0)
    heard = listen(pool)
    failure = outcome(pool.acquire, 1)
    clock.advance(0)
    links = [failure.__cause__, failure.__cause__.__cause__, *(event.error for event in heard if event.error)]
    assert len(links) == 3
    for error in links:
        trace = error.__traceback__
        assert trace is not None
        while trace:
            assert "secret" not in trace.tb_frame.f_locals
            trace = trace.tb_next


def test_an_interrupt_while_a_worker_is_asked_for_costs_no_event() -> None:
    told: list[PoolEvent] = []
    outlet = Outlet(told.append, logging.getLogger("pooling"))
    event = PoolEvent("clear", "pool", 0.0)
    outlet.put(event)

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outlet.flow(interrupted)
    outlet.flow(lambda job: job())
    assert told == [event]
