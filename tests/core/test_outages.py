"""A server that goes away and comes back: back-off, failing fast, recovery. All in virtual time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pooling import ConnectError, Factory, PoolTimeout
from pooling.testing import FakeConnection, FakeFactory, FakePermanent, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome, timed


def record_tries(clock: ManualClock, factory: FakeFactory) -> list[float]:
    """The time of each connect from now on."""
    tries: list[float] = []
    gate = factory.gates["connect"]
    enter = gate.enter

    def entering(*args: Any) -> None:
        tries.append(clock.now())
        enter(*args)

    gate.enter = entering  # type: ignore[method-assign]
    return tries


def keep_asking(clock: ManualClock, pool: Any, seconds: float, every: float = 0.1) -> list[Any]:
    """One acquire after the other; what came of each."""
    results = []
    end = clock.now() + seconds
    while clock.now() < end:
        result = outcome(pool.acquire, every)
        if not isinstance(result, BaseException):
            result.release()
            result = "served"
        results.append(result)
        clock.advance(every)
    return results


def test_the_gaps_between_tries_grow_and_jitter_only_shortens_them(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(fail_after=None)
    tries = record_tries(clock, factory)
    factory.gates["connect"].error(OSError())
    assert isinstance(outcome(pool.acquire, 120), PoolTimeout)
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    for number, gap in enumerate(gaps, 1):
        longest = min(0.05 * number, 2.0)
        assert 0.9 * longest - 1e-9 <= gap <= longest + 1e-9
    assert len(gaps) > 45
    assert len({round(gap, 6) for gap in gaps[-10:]}) > 5


@pytest.mark.parametrize("slow", [0.0, 0.3])
def test_while_down_two_tries_a_second_at_most_and_one_in_flight(
    clock: ManualClock, factory: FakeFactory, make: Make, slow: float
) -> None:
    """Averaged over any 5 s from the second second on, with 12 callers who ask all the time."""
    tries: list[float] = []
    inside: list[int] = []

    class Down(FakeFactory):
        now_inside = 0

        def connect(self, timeout: float) -> FakeConnection:
            Down.now_inside += 1
            tries.append(clock.now())
            if clock.now() >= start + 1:
                inside.append(Down.now_inside)
            try:
                clock.sleep(slow)
                raise OSError("down")
            finally:
                Down.now_inside -= 1

    start = clock.now()
    pool = make(factory=Down(clock), max_size=50, min_size=10)
    actors = [clock.spawn(keep_asking, clock, pool, 20, 0.2) for _ in range(12)]
    clock.advance(40)
    assert all(actor.done for actor in actors)
    assert max(inside) == 1
    for first in (time for time in tries if time >= start + 1):
        assert sum(first <= time < first + 5 for time in tries) <= 10 + 1e-9


def test_a_short_outage_is_waited_out(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make()
    factory.gates["connect"].error(OSError())
    waiting = clock.spawn(pool.acquire, 10)
    clock.advance(3)
    assert not waiting.done
    assert pool.stats().state == "down"
    factory.gates["connect"].ok()
    clock.advance(0.5)
    waiting.result().release()
    assert pool.stats().state == "up"


def test_waiters_fail_once_the_outage_has_lasted_fail_after(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(name="p", fail_after=2)
    cause = OSError("nobody\nthere")
    factory.gates["connect"].error(cause)
    took, error = timed(clock, pool.acquire, 10)
    assert took == pytest.approx(2)
    assert isinstance(error, ConnectError)
    assert error.__cause__ is cause
    assert str(error).startswith("pool 'p' cannot connect: OSError: nobody there (failing for 2 s, ")
    assert " tries; the next try is in 0." in str(error)


def test_newcomers_fail_at_once_while_the_server_is_known_to_be_down(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(fail_after=2)
    factory.gates["connect"].error(OSError())
    outcome(pool.acquire, 10)
    for _ in range(20):
        took, error = timed(clock, pool.acquire, 10)
        assert (took, type(error)) == (0, ConnectError)
        clock.advance(0.1)


def test_fail_after_none_waits_the_deadline_out(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    factory.gates["connect"].error(OSError())
    took, error = timed(clock, make(fail_after=None).acquire, 20)
    assert (took, type(error)) == (pytest.approx(20), PoolTimeout)


def test_a_permanent_error_reaches_waiters_at_once(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    cause = FakePermanent("wrong password")
    factory.gates["connect"].error(cause)
    factory.gates["connect"].slow(0.5)
    factory.gates["connect"].error(cause)
    pool = make()
    waiting = [clock.spawn(timed, clock, pool.acquire, 10) for _ in range(5)]
    clock.advance(0.01)
    for actor in waiting:
        took, error = actor.result()
        assert (took, type(error)) == (0, ConnectError)
        assert error.__cause__ is cause


def test_a_permanent_error_fails_nobody_while_other_connections_come_back(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """A password is being changed: those that are open serve everybody, until a connect succeeds again."""
    pool = make(max_size=2)
    leases = [pool.acquire() for _ in range(2)]
    factory.gates["connect"].error(FakePermanent("the old password"))
    leases.pop().discard()
    for _ in range(20):
        waiting = clock.spawn(pool.acquire, 10)
        clock.advance(0.3)
        assert not waiting.done
        leases.pop().release()
        clock.advance(0)
        leases.append(waiting.result())
    factory.gates["connect"].ok()
    clock.advance(2.0)
    assert pool.stats().state == "down"  # nobody has asked for long
    last = clock.spawn(pool.acquire, 10)
    clock.advance(0.1)
    leases.append(last.result())
    for lease in leases:
        lease.release()


def test_a_permanent_error_is_reported_soon_where_none_of_them_comes_back(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=2)
    held = pool.acquire()
    factory.gates["connect"].error(FakePermanent("wrong password"))
    took, error = timed(clock, pool.acquire, 10)
    assert (took, type(error)) == (pytest.approx(1.0), ConnectError)
    held.discard()
    clock.advance(0.1)
    took, error = timed(clock, pool.acquire, 10)
    assert took <= 2.0
    assert type(error) is ConnectError


def test_the_pool_goes_on_probing_as_long_as_anybody_has_asked_and_then_stops(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(fail_after=1)
    factory.gates["connect"].error(OSError())
    keep_asking(clock, pool, 5)
    asked = factory.gates["connect"].calls
    clock.advance(60)
    assert factory.gates["connect"].calls - asked <= 1
    quiet = factory.gates["connect"].calls
    clock.advance(600)
    assert factory.gates["connect"].calls == quiet
    outcome(pool.acquire, 0)
    clock.advance(60)
    assert factory.gates["connect"].calls > quiet


def test_who_was_refused_at_once_has_asked_as_well(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(fail_after=0)
    connects = factory.gates["connect"]
    connects.error(OSError())
    assert isinstance(outcome(pool.acquire, 1), ConnectError)
    while connects.calls < 2:  # that one has asked
        clock.advance(0.01)
    took, error = timed(clock, pool.acquire, 1)
    assert (took, type(error), connects.calls) == (0, ConnectError, 2)
    connects.ok()
    clock.advance(2)
    assert (connects.calls, pool.stats().idle) == (3, 1)


def test_newcomers_fail_at_once_also_while_the_next_try_is_under_way(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(fail_after=0)
    connects = factory.gates["connect"]
    connects.error(OSError())
    assert isinstance(outcome(pool.acquire, 1), ConnectError)
    connects.slow(1.5)
    clock.advance(0.1)
    assert (connects.calls, connects.inside) == (2, 1)
    took, error = timed(clock, pool.acquire, 5)
    assert (took, type(error)) == (0, ConnectError)
    assert "the next try is under way" in str(error)


def test_min_size_keeps_the_pool_probing_with_nobody_asking(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """The background work survives outages, however long."""
    pool = make(min_size=2)
    pool.acquire().discard()
    factory.gates["connect"].error(OSError())
    pool.clear()
    clock.advance(3600)
    assert factory.gates["connect"].calls > 1500
    factory.gates["connect"].ok()
    clock.advance(2.1)
    assert pool.stats().idle == 2


def test_recovery_comes_within_one_gap_before_the_next_caller_asks(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(fail_after=1)
    factory.gates["connect"].error(OSError())
    keep_asking(clock, pool, 60, 1.0)
    outcome(pool.acquire, 0)
    factory.gates["connect"].ok()
    clock.advance(2.01)
    assert pool.stats().idle == 1
    assert pool.stats().state == "up"
    pool.acquire(timeout=0).release()


def test_a_quick_recovery_comes_within_250_ms_for_those_who_ask(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make()
    factory.gates["connect"].error(OSError())
    waiting = clock.spawn(timed, clock, pool.acquire, 10)
    clock.advance(0.5)
    factory.gates["connect"].ok()
    clock.advance(0.25)
    took, lease = waiting.result()
    assert took <= 0.75
    lease.release()


def test_a_server_that_is_down_at_the_start_is_no_trouble_later(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    factory.gates["connect"].error(OSError())
    pool = make(min_size=2, fail_after=1)
    assert isinstance(outcome(pool.warm_up, 10), ConnectError)
    factory.gates["connect"].ok()
    clock.advance(1)
    assert pool.stats().idle == 2


@pytest.mark.parametrize("ask", ["acquire", "warm_up"])
def test_long_after_an_outage_the_next_caller_is_served_by_its_own_try(
    clock: ManualClock, factory: FakeFactory, make: Make, ask: str
) -> None:
    pool = make(fail_after=1)
    factory.gates["connect"].error(OSError())
    outcome(pool.acquire, 5)
    clock.advance(3600)
    factory.gates["connect"].ok()
    if ask == "acquire":
        pool.acquire(timeout=1).release()
    else:
        pool.warm_up(timeout=1)
    assert pool.stats().idle == 1


@pytest.mark.parametrize("ask", ["acquire", "warm_up"])
def test_long_into_an_outage_the_next_caller_is_failed_by_its_own_try(
    clock: ManualClock, factory: FakeFactory, make: Make, ask: str
) -> None:
    pool = make(fail_after=1)
    factory.gates["connect"].error(OSError())
    outcome(pool.acquire, 5)
    clock.advance(3600)
    calls = factory.gates["connect"].calls
    took, error = timed(clock, getattr(pool, ask), 5)
    assert (took, type(error)) == (0, ConnectError)
    assert factory.gates["connect"].calls == calls + 1


def test_a_try_while_down_has_two_seconds_at_most(clock: ManualClock, make: Make) -> None:
    allowed = []

    def connect(self: Any, timeout: float) -> Any:
        allowed.append(timeout)
        raise OSError

    Slow = type("Slow", (Factory,), {"connect": connect})  # noqa: N806
    outcome(make(factory=Slow(), connect_timeout=10).acquire, 3)
    assert allowed[0] == 10
    assert set(allowed[1:]) == {2.0}


def test_tries_that_use_their_two_seconds_up_follow_each_other_without_a_pause_and_never_overlap(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """A driver comes back a moment after its time, not on the dot: the next try is not to begin beside the last."""
    tries: list[float] = []
    inside: list[int] = []

    class Silent(FakeFactory):
        now_inside = 0

        def connect(self, timeout: float) -> FakeConnection:
            Silent.now_inside += 1
            tries.append(clock.now())
            inside.append(Silent.now_inside)
            clock.sleep(timeout + 0.01)
            Silent.now_inside -= 1
            raise TimeoutError

    pool = make(factory=Silent(clock), fail_after=None, connect_timeout=2.0)
    assert isinstance(outcome(pool.acquire, 30), PoolTimeout)
    # The second began before the first had said that the server is down; from then on none begins beside another.
    assert max(inside[2:]) == 1
    gaps = [after - before for before, after in itertools.pairwise(tries[2:])]
    assert gaps == pytest.approx([2.01] * len(gaps), abs=0.005)
    assert len(gaps) > 10


def test_a_connect_that_began_before_the_outage_and_hangs_does_not_keep_the_pool_from_trying(
    clock: ManualClock, make: Make
) -> None:
    """It has all of connect_timeout, which is more than a try may take while the server is down."""

    class OneIsLost(FakeFactory):
        def connect(self, timeout: float) -> FakeConnection:
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 1:
                clock.sleep(timeout - 1.0)
                raise TimeoutError
            if self.calls == 2:
                raise OSError
            return super().connect(timeout)

    pool = make(factory=OneIsLost(clock), min_size=2, connect_timeout=10.0)
    took, lease = timed(clock, pool.acquire, 9)
    assert took == pytest.approx(2.25)
    lease.release()
    clock.advance(10)  # the lost one comes back as well


def test_connects_that_fail_together_are_one_failure(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """Six of them, and the next try is 50 ms later, not 300."""
    pool = make(min_size=6, fail_after=None)
    tries = record_tries(clock, factory)
    factory.gates["connect"].slow(0.01)
    factory.gates["connect"].error(OSError())
    outcome(pool.acquire, 1.0)
    assert tries[:6] == [tries[0]] * 6
    gaps = [after - before for before, after in itertools.pairwise(tries[5:])]
    for number, gap in enumerate(gaps, 1):
        assert gap <= 0.05 * number + 0.01 + 1e-9


def test_a_connect_that_outlasts_one_outage_begins_another_where_it_fails(clock: ManualClock, make: Make) -> None:
    class Late(FakeFactory):
        calls = 0

        def connect(self, timeout: float) -> FakeConnection:
            self.calls = call = self.calls + 1
            if call == 1:
                clock.sleep(3)
            if call <= 2:
                raise OSError("down")
            return super().connect(timeout)

    pool = make(factory=Late(clock), min_size=2, max_size=3)
    states: list[str] = []
    pool.subscribe(lambda event: states.append(event.reason) if event.kind == "state" else None)
    pool.acquire(timeout=10).release()
    clock.advance(0)
    assert states == ["down", "up"]
    clock.advance(5)
    assert states == ["down", "up", "down", "up"]


def test_a_permanent_error_reaches_waiters_at_once_though_others_are_still_connecting(
    clock: ManualClock, make: Make
) -> None:
    """They are no connections that could come back, and will fail alike."""

    class Refusing(FakeFactory):
        calls = 0

        def connect(self, timeout: float) -> FakeConnection:
            self.calls = call = self.calls + 1
            if call > 1:
                clock.sleep(3)
            raise FakePermanent("password")

    pool = make(factory=Refusing(clock), min_size=3)
    took, error = timed(clock, pool.acquire, 10)
    assert (took, type(error)) == (0, ConnectError)


def test_the_back_off_can_be_given(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    numbers: list[int] = []

    def backoff(number: int) -> float:
        numbers.append(number)
        return 1.0

    pool = make(fail_after=None, backoff=backoff)
    tries = record_tries(clock, factory)
    factory.gates["connect"].error(OSError())
    outcome(pool.acquire, 4.5)
    assert [after - before for before, after in itertools.pairwise(tries)] == pytest.approx([1.0] * 4)
    assert numbers == [1, 2, 3, 4, 5]


def test_a_server_that_refuses_new_ones_but_serves_the_old_fails_nobody_who_is_served(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """The patience of fail_after begins anew with each hand-over: a full server is not a server that is down."""
    pool = make(max_size=5, fail_after=1)
    leases = [pool.acquire(), pool.acquire()]
    factory.gates["connect"].error(OSError("too many"))
    waiting = [clock.spawn(pool.acquire, 60) for _ in range(8)]
    for _ in range(8):
        clock.advance(0.5)
        leases.pop(0).release()
        clock.advance(0)
        leases += [actor.result() for actor in waiting if actor.done]
        waiting = [actor for actor in waiting if not actor.done]
    assert not waiting
    for lease in leases:
        lease.release()


@pytest.mark.parametrize("heeds", [True, False], ids=["driver with a timeout", "driver without one"])
@pytest.mark.parametrize("max_size", [1, 4])
def test_a_server_that_comes_back_slow_is_reached_all_the_same(
    clock: ManualClock, make: Make, max_size: int, heeds: bool
) -> None:
    """Its login takes longer than a try has while the server is down: a name server that does not answer it, a database
    that has to be woken up. What it took before the outage it may take after it."""

    class Slow(FakeFactory):
        calls = 0

        def connect(self, timeout: float) -> FakeConnection:
            self.calls += 1
            if self.calls == 1:
                raise OSError("down")
            clock.sleep(min(5.0, timeout) if heeds else 5.0)
            if heeds and timeout < 5.0:
                raise TimeoutError
            return super().connect(timeout)

    pool = make(factory=Slow(clock), max_size=max_size, fail_after=None, connect_timeout=10.0)
    took, lease = timed(clock, pool.acquire, 60)
    assert 30 < took < 40
    lease.release()
    assert pool.stats().state == "up"
    clock.advance(10)


@pytest.mark.parametrize("max_size", [1, 4])
def test_a_try_is_short_but_for_one_in_half_a_minute(clock: ManualClock, make: Make, max_size: int) -> None:
    """A firewall that swallows everything: when it ends, the next try finds that out, where another has room beside the
    one that takes long."""
    tries: list[tuple[float, float]] = []

    class Silent(FakeFactory):
        def connect(self, timeout: float) -> FakeConnection:
            tries.append((clock.now(), timeout))
            if len(tries) == 1:
                raise OSError("down")
            clock.sleep(timeout)
            raise TimeoutError

    pool = make(factory=Silent(clock), max_size=max_size, fail_after=None, connect_timeout=10.0)
    outcome(pool.acquire, 110)
    assert {timeout for _, timeout in tries[1:]} == {2.0, 10.0}
    long = [began for began, timeout in tries[1:] if timeout > 2]
    assert len(long) == 3
    assert long[0] >= tries[0][0] + 30
    assert all(after - before >= 30 for before, after in itertools.pairwise(long))
    most = 10.3 if max_size == 1 else 2.3
    assert all(after - before <= most for (before, _), (after, _) in itertools.pairwise(tries))


def test_a_try_of_a_server_that_refuses_is_always_short(clock: ManualClock, make: Make) -> None:
    times: list[float] = []

    class Refusing(FakeFactory):
        def connect(self, timeout: float) -> FakeConnection:
            times.append(timeout)
            raise ConnectionRefusedError

    pool = make(factory=Refusing(clock), max_size=4, fail_after=None, connect_timeout=10.0)
    outcome(pool.acquire, 110)
    assert set(times[1:]) == {2.0}
