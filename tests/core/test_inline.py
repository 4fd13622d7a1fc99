"""workers="inline": the calling thread does the driver's I/O, for connections that belong to a thread."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pooling import ConnectError, Pool, PoolTimeout
from pooling.testing import FakeBroken, FakeConnection, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome


class Bound(FakeFactory):
    """Notes which thread calls each hook."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        super().__init__(clock)
        self.threads: list[tuple[str, threading.Thread]] = []

    def _note(self, hook: str) -> None:
        self.threads.append((hook, threading.current_thread()))

    def connect(self, timeout: float) -> FakeConnection:
        self._note("connect")
        return super().connect(timeout)

    def close(self, connection: FakeConnection) -> None:
        self._note("close")
        super().close(connection)

    def check(self, connection: FakeConnection, timeout: float) -> None:
        self._note("check")
        super().check(connection, timeout)

    def reset(self, connection: FakeConnection, mode: Any) -> None:
        self._note("reset")
        super().reset(connection, mode)


def test_the_caller_connects_checks_resets_and_closes(clock: ManualClock, make: Make) -> None:
    factory = Bound(clock)
    pool = make(factory=factory, workers="inline", check="ping", max_size=2)
    with pool.acquire() as connection:
        connection.dirty = True
    clock.advance(2)
    with pool.acquire() as again:
        assert again is connection
    pool.acquire().discard()
    assert [hook for hook, _ in factory.threads] == ["connect", "reset", "check", "close"]
    assert {thread for _, thread in factory.threads} == {threading.main_thread()}
    assert factory.open == 0


def test_a_waiter_is_served_by_another_threads_release() -> None:
    with Pool(Bound(), workers="inline", max_size=1) as pool:
        lease = pool.acquire()
        served = threading.Event()

        def wait() -> None:
            with pool.acquire(timeout=5):
                served.set()

        thread = threading.Thread(target=wait)
        thread.start()
        while not pool.stats().waiting:
            threading.Event().wait(0.001)
        lease.connection.dirty = True
        lease.release()
        thread.join()
        assert served.is_set()


def test_a_failing_connect_is_tried_again_by_the_waiter_at_the_back_offs_pace(clock: ManualClock, make: Make) -> None:
    factory = Bound(clock)
    pool = make(factory=factory, workers="inline", fail_after=1)
    factory.gates["connect"].error(OSError())
    error = outcome(pool.acquire, 10)
    assert isinstance(error, ConnectError)
    assert 4 <= factory.gates["connect"].calls <= 8
    factory.gates["connect"].ok()
    clock.advance(3)
    pool.acquire(timeout=1).release()
    assert {thread for _, thread in factory.threads} == {threading.main_thread()}


def test_a_long_row_of_jobs_does_not_grow_the_stack(clock: ManualClock, make: Make) -> None:
    factory = Bound(clock)
    pool = make(factory=factory, workers="inline", max_size=3000, check=None)
    leases = [pool.acquire() for _ in range(3000)]
    for lease in leases:
        lease.release()
    pool.clear()
    assert factory.open == 0


def test_what_is_due_is_done_by_the_next_caller_not_by_the_reaper(clock: ManualClock, make: Make) -> None:
    factory = Bound(clock)
    pool = make(factory=factory, workers="inline", idle_timeout=5)
    pool.acquire().release()
    clock.advance(60)
    assert factory.open == 1
    pool.acquire(timeout=1).release()
    assert factory.connections[0].closed


@pytest.mark.parametrize("option", ["idle_timeout", "max_lifetime", "keepalive"])
@pytest.mark.parametrize("max_waiting", [None, 0])
def test_what_nobody_came_by_to_do_does_not_hang(
    clock: ManualClock, make: Make, option: str, max_waiting: int | None
) -> None:
    """A program that had nothing to do for a night: nothing was written off, and who comes first is served."""
    factory = Bound(clock)
    options: dict[str, Any] = {"idle_timeout": None, "max_lifetime": None, option: 5}
    pool = make(factory=factory, workers="inline", max_size=1, max_waiting=max_waiting, **options)
    pool.acquire().release()
    clock.advance(8 * 3600)
    stats = pool.stats()
    assert (stats.hung, stats.size, stats.closing + stats.busy, stats.closed) == (0, 1, 1, {})
    with pool.acquire(timeout=1) as connection:
        assert connection.number == (1 if option == "keepalive" else 2)
        assert not connection.interrupted
    reasons = {"idle_timeout": {"idle": 1}, "max_lifetime": {"lifetime": 1}, "keepalive": {}}
    assert pool.stats().closed == reasons[option]


@pytest.mark.parametrize("max_size", [None, 5])
def test_what_min_size_asked_for_all_night_is_opened_once(clock: ManualClock, make: Make, max_size: int | None) -> None:
    factory = Bound(clock)
    pool = make(factory=factory, workers="inline", min_size=2, max_size=max_size, max_lifetime=3600)
    pool.warm_up()
    clock.advance(12 * 3600)
    assert (pool.stats().hung, pool.stats().closing, pool.stats().connecting) == (0, 2, 2)
    pool.acquire(timeout=1).release()
    assert (pool.stats().closed, pool.stats().size, factory.opened) == ({"lifetime": 2}, 3, 5)


@pytest.mark.parametrize("max_waiting", [None, 0])
def test_a_connect_that_lies_undone_does_not_tell_a_newcomer_that_the_server_is_away(
    clock: ManualClock, make: Make, max_waiting: int | None
) -> None:
    factory = Bound(clock)
    pool = make(factory=factory, workers="inline", fail_after=1, max_waiting=max_waiting)
    factory.gates["connect"].error(OSError())
    assert isinstance(outcome(pool.acquire, 10), ConnectError)
    factory.gates["connect"].ok()
    clock.advance(3600)  # the last of them has asked for one more try, which nobody has made
    assert (pool.stats().connecting, pool.stats().hung) == (1, 0)
    pool.acquire(timeout=1).release()


def test_what_hangs_once_it_was_begun_is_written_off_inline_too(clock: ManualClock, make: Make) -> None:
    factory = Bound(clock)
    pool = make(factory=factory, workers="inline", max_size=1, idle_timeout=5)
    pool.acquire().release()
    clock.advance(3600)
    factory.gates["close"].never()
    stuck = clock.spawn(pool.acquire, 60)
    clock.advance(15)
    assert pool.stats().hung == 0
    clock.advance(10)
    assert (pool.stats().hung, pool.stats().closed) == (1, {"hung": 1})
    factory.gates["close"].ok()
    clock.advance(1)
    stuck.result().release()
    assert pool.stats().hung == 0


def test_hooks_that_raise_are_contained(clock: ManualClock, make: Make) -> None:
    factory = Bound(clock)
    pool = make(factory=factory, workers="inline", max_size=1)
    for hook in ("reset", "close"):
        factory.gates[hook].error(KeyboardInterrupt())
        lease = pool.acquire(timeout=1)
        lease.connection.dirty = True
        lease.release()
        factory.gates[hook].ok()
        pool.acquire(timeout=1).release()
    with pytest.raises(FakeBroken), pool.acquire():
        raise FakeBroken
    pool.acquire(timeout=1).release()


@pytest.mark.parametrize("hook", ["connect", "check"])
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_the_caller_who_waits_for_the_server_reaches_it(
    clock: ManualClock, make: Make, hook: str, interrupt: type[BaseException]
) -> None:
    factory = Bound(clock)
    pool = make(factory=factory, workers="inline", max_size=1, check="ping", check_after=0.0)
    if hook == "check":
        pool.acquire(timeout=1).release()
    factory.gates[hook].error(interrupt("now"))
    with pytest.raises(interrupt, match="now") as kept:
        pool.acquire(timeout=5)
    factory.gates[hook].ok()
    pool.acquire(timeout=1).release()
    stats = pool.stats()
    assert (stats.size, stats.leased, stats.waiting, dict(stats.errors_by)) == (1, 0, 0, {hook: 1}), kept


@pytest.mark.parametrize("hook", ["connect", "check"])
def test_so_does_one_that_strikes_while_secrets_are_taken_out_of_an_error(
    clock: ManualClock, make: Make, hook: str
) -> None:
    class Telling(Bound):
        struck = False

        def secrets(self) -> list[str]:
            if self.struck:
                raise KeyboardInterrupt("now")
            return []

    factory = Telling(clock)
    pool = make(factory=factory, workers="inline", max_size=1, check="ping", check_after=0.0)
    if hook == "check":
        pool.acquire(timeout=1).release()
    factory.gates[hook].error(ConnectionRefusedError("down"))
    factory.struck = True
    with pytest.raises(KeyboardInterrupt, match="now"):
        pool.acquire(timeout=5)
    factory.struck = False
    factory.gates[hook].ok()
    pool.acquire(timeout=5).release()


def test_so_does_one_that_strikes_while_a_failed_connect_is_judged(clock: ManualClock, make: Make) -> None:
    class Judging(Bound):
        def is_permanent(self, error: BaseException) -> bool:
            raise KeyboardInterrupt("now")

    factory = Judging(clock)
    pool = make(factory=factory, workers="inline", max_size=1)
    factory.gates["connect"].error(ConnectionRefusedError("down"))
    with pytest.raises(KeyboardInterrupt, match="now"):
        pool.acquire(timeout=5)
    factory.gates["connect"].ok()
    pool.acquire(timeout=5).release()
    assert (pool.stats().size, pool.stats().leased, pool.stats().waiting) == (1, 0, 0)


def test_a_timeout_of_0_leaves_nothing_leased(clock: ManualClock, make: Make) -> None:
    factory = Bound(clock)
    pool = make(factory=factory, workers="inline")
    result = outcome(pool.acquire, 0)
    if not isinstance(result, PoolTimeout):
        result.release()
    assert pool.stats().leased == 0


def test_a_connection_is_checked_once_an_acquire_however_strict_check_after_is(clock: ManualClock, make: Make) -> None:
    factory = Bound(clock)
    pool = make(factory=factory, workers="inline", check="ping", check_after=0.0)
    pool.acquire().release()
    for _ in range(3):
        clock.advance(1)
        pool.acquire().release()
    assert [hook for hook, _ in factory.threads] == ["connect", "check", "check", "check"]


def test_who_joins_a_crowd_does_what_is_left_to_do(clock: ManualClock, make: Make) -> None:
    factory = FakeFactory(clock)
    pool = make(factory=factory, workers="inline", max_size=3)
    for lease in [pool.acquire() for _ in range(3)]:
        lease.release()
    factory.gates["close"].slow(1.0)
    calls = [clock.spawn(pool.clear)]
    for closing in (1, 2, 3):
        clock.advance(0)
        assert factory.gates["close"].inside == closing
        calls.append(clock.spawn(pool.acquire))
    factory.gates["close"].ok()
    clock.advance(5)
    for call in calls[1:]:
        call.result().release()


class Silent(FakeFactory):
    """A server that takes connections in and says nothing, and a driver that gives up after two seconds."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.silent, self._clock = True, clock

    def connect(self, timeout: float) -> FakeConnection:
        if self.silent:
            self._waits("connect")
        return super().connect(timeout)

    def check(self, connection: FakeConnection, timeout: float) -> None:
        if self.silent:
            self._waits("check")

    def _waits(self, hook: str) -> None:
        self.gates[hook].calls += 1
        self._clock.sleep(2.0)
        raise FakeBroken("no answer")


@pytest.mark.parametrize("min_size", [0, 1])
def test_a_silent_server_costs_a_caller_one_try_however_long_the_pool_would_go_on(
    clock: ManualClock, make: Make, min_size: int
) -> None:
    """A try that has taken two seconds is followed by the next one at once: by somebody else's hands."""
    pool = make(factory=(factory := Silent(clock)), workers="inline", min_size=min_size, fail_after=None)
    for call in (pool.acquire, pool.warm_up, pool.acquire):
        began, tries = clock.now(), factory.gates["connect"].calls
        assert isinstance(outcome(call, 1.0), PoolTimeout)
        assert clock.now() - began == pytest.approx(2.0)
        assert factory.gates["connect"].calls == tries + 1
    factory.silent = False
    pool.acquire(1.0).release()
    assert (pool.stats().hung, pool.stats().leased) == (0, 0)


def test_nor_is_anybody_kept_by_those_who_come_after_him(clock: ManualClock, make: Make) -> None:
    pool = make(factory=Silent(clock), workers="inline", fail_after=None)
    took: list[float] = []

    def call() -> None:
        began = clock.now()
        outcome(pool.acquire, 1.0)
        took.append(clock.now() - began)

    calls = []
    for _ in range(40):
        calls.append(clock.spawn(call))
        clock.advance(0.5)
    clock.advance(5)
    assert all(one.done for one in calls)
    assert max(took) <= 1.0 + 2.0 + 0.1  # its time, a try begun at its end


def test_nor_by_the_checks_of_all_the_others_connections(clock: ManualClock, make: Make) -> None:
    factory = Silent(clock)
    factory.silent = False
    pool = make(factory=factory, workers="inline", max_size=10, check="ping", check_after=0.0, fail_after=None)
    for lease in [pool.acquire() for _ in range(10)]:
        lease.release()
    clock.advance(1)
    factory.silent = True
    began = clock.now()
    assert isinstance(outcome(pool.acquire, 1.0), PoolTimeout)
    assert clock.now() - began <= 2.0 + 0.1
    factory.silent = False
    pool.acquire(5.0).release()


def test_who_gives_no_time_has_what_he_can_do_himself(clock: ManualClock, make: Make) -> None:
    """Opened or reset, whichever it takes: nobody else would do it for the next caller."""
    pool = make(workers="inline", max_size=1)
    for _ in range(2):
        with pool.acquire(timeout=0) as connection:
            connection.dirty = True
    assert connection.resets == 2
