"""Whatever a hook does, the pool lives on: {ok, Exception, BaseException, slow, never} for each, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from pooling import ConnectError, Pool, PoolTimeout
from pooling.testing import Actor, FakeFactory, Gate, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, timed

HOOKS = ("connect", "check", "reset", "close", "on_connect", "listener")
BEHAVIOURS = ("ok", "error", "base", "slow", "never")
SLOTS = 2


def misbehave(gate: Gate, how: str) -> None:
    """Slow is slower than the timeouts of the acquires, and faster than connect_timeout."""
    if how == "error":
        gate.error(OSError("injected"))
    elif how == "base":
        gate.error(KeyboardInterrupt("injected"))
    elif how == "slow":
        gate.slow(0.3)
    elif how == "never":
        gate.never()


class LateGate(Gate):
    """A gate that raises at whoever comes out of it, while ``late`` is set."""

    late: BaseException | None = None

    def enter(self, *_: Any) -> None:
        super().enter()
        if self.late is not None:
            raise self.late


def live(clock: ManualClock, pool: Any, until: float, allowed: float) -> list[str]:
    """A user: acquire, leave it dirty, give it back; from time to time by an exception. No acquire may outlive its
    deadline, whatever comes of it."""
    results = []
    while clock.now() < until:
        took, result = timed(clock, pool.acquire, allowed)
        assert took <= allowed + 1e-9, f"an acquire with timeout={allowed} took {took}"
        if isinstance(result, BaseException):
            assert isinstance(result, (PoolTimeout, ConnectError)), result
            results.append(type(result).__name__)
        else:
            results.append("served")
            result.connection.dirty = True
            clock.sleep(0.01)
            result.release()
        clock.sleep(0.05)
    return results


def insist(clock: ManualClock, pool: Any, until: float) -> Any:
    """Acquire, and try again where the pool says that the server is down."""
    while True:
        result = outcome(pool.acquire, until - clock.now())
        if not isinstance(result, ConnectError) or clock.now() >= until:
            return result
        clock.sleep(0.05)


def all_slots(clock: ManualClock, pool: Any, within: float) -> None:
    """Every slot can be leased within so many seconds."""
    waiting = [clock.spawn(insist, clock, pool, clock.now() + within) for _ in range(SLOTS)]
    clock.advance(within)
    for lease in [actor.result() for actor in waiting]:
        lease.release()


@pytest.mark.parametrize("how", BEHAVIOURS)
@pytest.mark.parametrize("hook", HOOKS)
def test_the_pool_lives_on(clock: ManualClock, hook: str, how: str) -> None:
    """Every use is checked first, reset afterwards, and every second one ends by a close."""
    factory = FakeFactory(clock)
    gates = {**factory.gates, "on_connect": Gate(clock), "listener": Gate(clock)}
    pool = Pool(
        factory,
        max_size=SLOTS,
        max_uses=2,
        check="ping",
        check_after=0,
        connect_timeout=1.0,
        on_connect=gates["on_connect"].enter,
        runtime=clock,
    )
    heard: list[str] = []

    def listen(event: Any) -> None:
        heard.append(event.kind)
        gates["listener"].enter()

    pool.subscribe(listen)
    with pool.acquire():
        pass
    misbehave(gates[hook], how)
    calls = gates[hook].calls
    users: list[Actor] = [clock.spawn(live, clock, pool, clock.now() + 4, allowed) for allowed in (0.2, 0.25, 0)]
    clock.advance(4.5)
    outcomes = [user.result() for user in users]
    stats = pool.stats()
    assert gates[hook].calls > calls
    assert stats.size == stats.idle + stats.leased + stats.connecting + stats.busy + stats.closing <= SLOTS
    assert stats.hung <= SLOTS
    assert factory.peak <= SLOTS + stats.hung
    if how == "ok" or hook == "listener":
        assert set(outcomes[0]) == {"served"}

    gates[hook].ok()
    all_slots(clock, pool, within=1.0)
    assert pool.stats().hung == 0
    pool.close()
    clock.advance(0)
    stats = pool.stats()
    assert (stats.size, stats.leased, factory.open) == (0, 0, 0)
    assert heard.count("acquire") == heard.count("release") == stats.acquired


@pytest.mark.parametrize("hook", ["connect", "check", "reset", "close"])
def test_a_hung_hook_keeps_its_slot_for_two_connect_timeouts_and_is_written_off(
    clock: ManualClock, factory: FakeFactory, make: Make, hook: str
) -> None:
    """design: hung past connect_timeout, written off after another one, with the reason ``hung``."""
    pool = make(max_size=1, connect_timeout=2.0, check="ping", check_after=0, timeout=100)
    if hook != "connect":
        lease = pool.acquire()
        lease.connection.dirty = hook == "reset"
    factory.gates[hook].never()
    if hook == "close":
        lease.discard()
    elif hook != "connect":
        lease.release()
    waiting = clock.spawn(timed, clock, pool.acquire)
    clock.advance(3.9)
    assert (pool.stats().size, pool.stats().hung, waiting.done) == (1, 0, False)
    clock.advance(0.2)
    assert (pool.stats().hung, pool.stats().closed) == (1, {"hung": 1})
    factory.gates[hook].ok()
    clock.advance(0)
    took, lease = waiting.result()
    assert (took, pool.stats().hung) == (pytest.approx(4.1), 0)
    lease.release()
    clock.advance(1)
    assert (factory.open, pool.stats().size) == (1, 1)  # what came late was closed


@pytest.mark.parametrize("threads", [True, False])
def test_a_call_that_is_written_off_is_interrupted(
    clock: ManualClock, factory: FakeFactory, make: Make, monkeypatch: pytest.MonkeyPatch, threads: bool
) -> None:
    pool = make(max_size=1, connect_timeout=2.0)
    lease = pool.acquire()
    connection = lease.connection
    connection.dirty = True
    factory.gates["reset"].never()
    lease.release()
    clock.advance(3.9)
    assert not connection.interrupted

    def refuse(job: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        if not threads:
            patch.setattr(clock, "submit", refuse)
        clock.advance(0.2)
    clock.advance(0)
    assert connection.interrupted
    factory.gates["reset"].ok()
    clock.advance(0)
    assert connection.closed


def test_at_most_max_size_workers_are_written_off_then_nothing_opens_until_one_ends(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=3, connect_timeout=1.0, fail_after=None)
    factory.gates["connect"].never()
    waiting = [clock.spawn(pool.acquire, 100) for _ in range(5)]
    clock.advance(60)
    assert (pool.stats().hung, pool.stats().size) == (3, 0)
    assert factory.gates["connect"].inside == 3
    factory.gates["connect"].ok()
    clock.advance(1)
    assert sum(actor.done for actor in waiting) == 3
    assert pool.stats().hung == 0
    for actor in waiting:
        clock.advance(0)
        actor.result().release()
    assert factory.peak <= 6


def test_one_hung_connect_does_not_keep_the_others_from_opening(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """From connect_timeout on it is late: it holds nobody up, but its slot still counts."""
    pool = make(max_size=2, connect_timeout=1.0, max_connecting=1)
    factory.gates["connect"].never()
    waiting = clock.spawn(timed, clock, pool.acquire, 30)
    clock.advance(0.5)
    stuck = factory.gates["connect"]
    factory.gates["connect"] = Gate(clock)
    clock.advance(1)
    took, lease = waiting.result()
    assert took == pytest.approx(1.0)
    assert pool.stats().size == 2
    lease.release()
    stuck.ok()


@pytest.mark.parametrize("hook", ["connect", "check", "reset", "close"])
def test_a_late_error_of_a_hook_that_was_written_off_changes_nothing(
    clock: ManualClock, factory: FakeFactory, make: Make, hook: str
) -> None:
    gate = factory.gates[hook] = LateGate(clock)
    pool = make(max_size=1, connect_timeout=1.0, check="ping", check_after=0)
    lease = pool.acquire() if hook != "connect" else None
    gate.never()
    if lease is not None:
        lease.connection.dirty = hook == "reset"
        lease.discard() if hook == "close" else lease.release()
    outcome(pool.acquire, 2.5)
    assert pool.stats().hung == 1
    gate.late = OSError("late")
    gate.ok()
    clock.advance(0)
    gate.late = None
    clock.advance(1)
    assert (pool.stats().hung, pool.stats().state) == (0, "up")
    pool.acquire(timeout=1).release()
    assert pool.stats().closed == {"hung": 1}
    assert factory.gates["close"].calls == (hook != "connect")
    assert pool.stats().errors == (hook == "close")


def test_a_subscription_that_hangs_is_one_worker_whatever_happens(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make()
    gate = Gate(clock)
    gate.never()
    pool.subscribe(gate.enter)
    for _ in range(20):
        pool.acquire(timeout=0.1).release()
    clock.advance(60)
    assert (gate.inside, gate.calls) == (1, 1)
    gate.ok()
    clock.advance(0)
    assert gate.calls > 40


def test_closing_does_not_wait_longer_than_asked_for_what_hangs(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make()
    pool.acquire().release()
    factory.gates["close"].never()
    took, _ = timed(clock, pool.close, 3)
    assert took == pytest.approx(3)
    factory.gates["close"].ok()
    clock.advance(0)
    assert factory.open == 0
