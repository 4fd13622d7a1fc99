"""What two threads, or an interrupt, can do between two lines, forced: each state is made by hand as they leave it.

The state machines and the injection of exceptions at every line find such states by themselves; here each of
them has a name.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from pooling import PoolTimeout
from pooling._holders import call_site
from pooling._ledger.entry import Stage, TokenRef
from pooling._ledger.queue import Turn, Waiter
from pooling._ledger.roster import MANY, NONE, Roster
from pooling._runtime.threads import Threads
from pooling._waiting import LOOKS
from pooling.testing import FakeBroken, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome
from tests.core.test_reentrancy import Inside


class Emptied(deque):  # type: ignore[type-arg]
    """A deque that another thread empties between the look at it and what is done with it."""

    def __bool__(self) -> bool:
        return True


class PlainUntilTheAppend(Roster[Any]):
    """Who joins the queue does it just before a connection comes back."""

    @property  # type: ignore[override]
    def plain_releases(self) -> Iterator[None]:
        found: Iterator[None] = self.__dict__["plain_releases"] if self.idle else iter(MANY)
        return found

    @plain_releases.setter
    def plain_releases(self, left: Iterator[None]) -> None:
        self.__dict__["plain_releases"] = left


def a_waiter(clock: ManualClock, turn: Turn = Turn.WAITING) -> Waiter[Any]:
    waiter: Waiter[Any] = Waiter(clock.bell(), clock.now(), 5, 0.0, 1)
    waiter.turn = turn
    return waiter


# -- the plain path: callers take and give back without the lock -----------------------------------------------


def test_a_refresh_that_is_served_while_it_is_about_to_look_does_not_come_to_wait_again(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    """It would stand in the queue until something comes back, with a connection opened for it, and nobody drains a pool
    in which somebody waits."""
    pool = make(max_size=2)
    lease = pool.acquire()
    factory.gates["connect"].slow(1.2)
    tell = pool._tell

    def slowly(*args: Any, **options: Any) -> None:
        if pool._ledger.reclaim in args:
            clock.sleep(0.5)  # its thread was just not running
        tell(*args, **options)

    pool._tell = slowly  # type: ignore[method-assign]
    lease.refresh()
    clock.advance(5)
    assert (pool.stats().waiting, factory.opened) == (0, 2)
    lease.release()


def test_of_two_that_come_for_the_last_idle_connection_one_waits(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    pool.acquire().release()
    take, taken = pool._take, []

    def faster() -> Any:
        if not taken:
            taken.append(take())  # by another thread
        return take()

    pool._take = faster
    assert isinstance(outcome(pool.acquire, 1), PoolTimeout)
    pool._take = take
    pool._idle.append(taken.pop())
    pool.acquire(timeout=0).release()


def test_a_release_beside_a_caller_who_has_just_joined_the_queue_serves_it(clock: ManualClock, make: Make) -> None:
    """It may be plain when it begins, and no longer when its append is done: it comes to settle()."""
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0)
    pool._roster.__class__ = PlainUntilTheAppend
    lease.release()
    pool._roster.__class__ = Roster
    clock.advance(0)
    waiting.result().release()


def test_a_settle_that_finds_idle_emptied_under_its_hands_goes_on(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=2)
    pool.subscribe(lambda event: None)  # so that every acquire goes through the queue
    roster = pool._roster
    pool.acquire().release()
    ledger, take = pool._ledger, roster.take
    waiting = clock.spawn(pool.acquire, 5)

    def gone() -> Any:
        roster.take = take
        raise IndexError  # a caller on the plain path took it, and brings it back

    roster.take = gone  # type: ignore[method-assign]
    clock.advance(0)
    assert ledger.queue.head() is None
    waiting.result().release()


def test_a_release_that_came_beside_the_close_is_closed(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """It read the flag just before the close took it away, and appended just after idle was emptied."""
    pool = make()
    lease = pool.acquire()
    pool.close()
    pool._idle.append(lease._take("lost"))
    pool._tell()
    clock.advance(0)
    assert (factory.open, pool.stats().closed) == (0, {"pool": 1})


def test_a_release_that_came_beside_a_break_is_checked_before_its_next_use(clock: ManualClock, make: Make) -> None:
    """It looked at its epoch just before the break, and appended just after idle was emptied."""
    pool = make(max_size=2, check_after=1000)
    lease, broken = pool.acquire(), pool.acquire()
    lease.connection.dead = True
    with pytest.raises(FakeBroken), broken:
        raise FakeBroken
    pool._idle.append(lease._take("lost"))
    with pool.acquire(timeout=5) as connection:
        assert not connection.dead


def test_a_clear_that_finds_idle_emptied_under_its_hands_goes_on(clock: ManualClock, make: Make) -> None:
    pool = make()
    roster = pool._roster
    ordinary, roster.idle = roster.idle, Emptied()
    roster.next_epoch()
    roster.idle = ordinary
    assert roster.epoch == 1


@pytest.mark.parametrize("error", [ValueError, RuntimeError, IndexError])
def test_a_line_that_changes_while_a_token_is_looked_for_in_it(
    clock: ManualClock, make: Make, error: type[Exception]
) -> None:
    class Changing(deque):  # type: ignore[type-arg]
        def __contains__(self, token: object) -> bool:
            raise error

    pool = make()
    pool.acquire().release()
    roster = pool._roster
    entry = next(iter(roster.entries))
    ordinary, roster.idle = roster.idle, Changing()
    assert roster.fetch(entry) is None
    roster.idle = ordinary
    assert roster.fetch(entry) is not None


def test_a_connection_that_was_used_while_its_retirement_was_decided_stays(clock: ManualClock, make: Make) -> None:
    pool = make(idle_timeout=10, max_lifetime=None)
    pool.acquire().release()
    ledger = pool._ledger
    answers = ["idle", ""]  # due when first asked; used and brought back before it was fetched
    due = ledger._due
    ledger._due = lambda entry: answers.pop(0) if answers else due(entry)  # type: ignore[method-assign]
    clock.advance(10)
    assert (pool.stats().idle, pool.stats().closed) == (1, {})


# -- two threads that act on what was decided ------------------------------------------------------------------


def test_two_threads_that_empty_the_outbox_at_once(clock: ManualClock, make: Make) -> None:
    pool = make()
    ordinary, pool._ledger.outbox = pool._ledger.outbox, Emptied()
    pool._act()
    pool._ledger.outbox = ordinary
    pool.acquire().release()


def test_what_strikes_at_the_end_of_a_settle_is_taken_in_after_it(clock: ManualClock, make: Make) -> None:
    """After the inbox was looked at, before the lock is let go."""
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0)
    finish = pool._ledger._is_plain

    def struck() -> bool:
        pool._ledger._is_plain = finish  # type: ignore[method-assign]
        lease.release()
        return finish()

    pool._ledger._is_plain = struck  # type: ignore[method-assign]
    pool.resize(min_size=0)
    clock.advance(0)
    waiting.result().release()


def test_a_look_or_a_bare_report_from_inside_the_lock_is_left_to_its_holder(clock: ManualClock, make: Make) -> None:
    pool = make()
    for call in (pool.look, pool._tell):
        Inside(pool).strike(call)
        pool.resize(min_size=0)
    pool.acquire().release()


def test_a_release_from_inside_the_lock_is_left_to_its_holder(clock: ManualClock, make: Make) -> None:
    """Where somebody waits for it: what the holder is about to do may rest on nobody being served meanwhile."""
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0.01)
    with pool._lock:
        lease.release()
        assert (len(pool._ledger.queue), len(pool._ledger.inbox)) == (1, 1)
    clock.advance(0)
    waiting.result().release()


# -- hand-offs: accepted or refused, once --------------------------------------------------------------------------


def test_a_turn_leaves_waiting_once(clock: ManualClock) -> None:
    waiter = a_waiter(clock, Turn.LEFT)
    assert waiter.fail(OSError()) is False
    assert (waiter.error, waiter.token) == (None, None)


def test_one_that_looks_again_after_it_was_served_does_not_join_again(clock: ManualClock, make: Make) -> None:
    pool = make()
    pool._tell(pool._ledger.join, a_waiter(clock, Turn.SERVED))
    assert pool.stats().waiting == 0


def test_one_that_is_served_between_its_last_look_and_its_timeout_is_served(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 1)
    clock.advance(0.5)
    end = clock.now() + 0.5

    def now() -> float:
        here = clock.current is waiting and not pool._lock._is_owned()
        if clock.now() >= end and here and not lease.ended:
            lease.release()  # by another thread, just after the waiter saw that its turn had not come
        return clock.now()

    pool._now = now
    clock.advance(1)
    waiting.result().release()
    assert pool.stats().timeouts == 0


def test_one_who_was_served_but_not_woken_is_woken_by_whoever_looks_next(clock: ManualClock, make: Make) -> None:
    """An exception struck the thread that served it, between its turn and its bell."""
    pool = make(max_size=1)
    lease = pool.acquire()
    served, other = clock.spawn(pool.acquire, 60), clock.spawn(pool.acquire, 60)
    clock.advance(0.01)
    first, second = pool._ledger.queue.first(2)
    bell, first.bell = first.bell, Mock(ring=Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        lease.release()
    first.bell = bell
    pool._tell(pool._ledger.join, second)  # as it does itself now and then
    clock.advance(0)
    served.result().release()
    clock.advance(0)
    other.result().release()
    assert pool.stats().leased == 0


@pytest.mark.parametrize("priority", [0.0, 1.0])
def test_the_more_wait_the_seldomer_each_of_them_looks(clock: ManualClock, make: Make, priority: float) -> None:
    """A thousand that look each second would have the processor for themselves."""
    pool, looks = make(max_size=1), list[float]()
    lease = pool.acquire()
    join = pool._ledger.join
    pool._ledger.join = lambda waiter: (looks.append(clock.now()), join(waiter))[1]  # type: ignore[method-assign]
    waiting = [clock.spawn(pool.acquire, 1000, priority) for _ in range(2 * LOOKS)]
    clock.advance(0.01)
    looks.clear()  # they have joined
    clock.advance(30)
    assert len(looks) <= 30 * LOOKS
    assert len({round(look) for look in looks}) > 5
    lease.release()
    for actor in waiting:
        clock.advance(0)
        actor.result().release()


def test_nobody_lines_up_where_the_last_connection_came_back_just_before(clock: ManualClock, make: Make) -> None:
    """Between the look without the lock, which saw others wait, and the lock."""
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0.01)
    assert pool._ledger.line_up(a_waiter(clock, Turn.WAITING)) is True
    pool._ledger.queue.remove(pool._ledger.queue.first(2)[1])
    lease.release()
    clock.advance(0)
    waiting.result().release()
    assert pool._roster.plain_releases is not NONE
    assert pool._ledger.line_up(a_waiter(clock, Turn.WAITING)) is False


def test_whoever_comes_after_the_last_who_waited_stands_alone_and_is_served(clock: ManualClock, make: Make) -> None:
    """No connection is idle then, so nobody was told that one may be taken without a word."""
    pool = make(max_size=1)
    lease = pool.acquire()
    for _ in range(3):
        waiting = clock.spawn(pool.acquire, 5)
        clock.advance(0.01)
        lease.release()
        assert pool._roster.plain_releases is NONE
        clock.advance(0)
        lease = waiting.result()
    lease.release()
    assert pool._roster.plain_releases is not NONE
    assert pool._plain[0] == 1


def test_a_release_whose_connection_somebody_else_has_handed_on_has_nothing_to_do(
    clock: ManualClock, make: Make
) -> None:
    """Between its append and the lock."""
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0.01)
    pool._pass_on()
    assert pool.stats().waiting == 1
    lease.release()
    clock.advance(0)
    waiting.result().release()


def test_a_waiter_that_has_left_but_stands_in_the_queue_is_passed_over(clock: ManualClock, make: Make) -> None:
    """An exception struck between serving it, or its leaving, and taking it out."""
    pool = make()
    lease = pool.acquire()
    pool._ledger.queue.join(a_waiter(clock, Turn.LEFT))
    lease.release()
    pool._tell()
    clock.advance(0)
    assert (pool.stats().waiting, pool.stats().idle, pool.stats().closed) == (0, 1, {})


def test_so_is_one_in_front_of_others(clock: ManualClock, make: Make) -> None:
    pool = make(max_size=1)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 5)
    clock.advance(0.01)
    left, queue = a_waiter(clock, Turn.LEFT), pool._ledger.queue
    queue.join(left)
    queue.lane.move_to_end(left, last=False)
    lease.release()
    clock.advance(0)
    waiting.result().release()
    assert (pool.stats().waiting, pool.stats().idle, pool.stats().closed) == (0, 1, {})


def test_a_crowd_too_gets_nothing_unchecked_where_every_use_is_to_begin_with_a_check(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=1, check="ping", check_after=0)
    lease = pool.acquire()
    waiting = [clock.spawn(pool.acquire, 5) for _ in range(2)]
    clock.advance(0.01)
    for served, actor in enumerate(waiting, start=1):
        clock.advance(0.01)  # what was checked at this very moment is good
        lease.release()
        clock.advance(0)
        lease = actor.result()
        assert factory.gates["check"].calls == served
    lease.release()


def test_a_bell_does_not_wait_for_a_turn_that_has_come() -> None:
    bell = Threads().bell()
    waiter: Waiter[Any] = Waiter(bell, 0, 5, 0.0, 1)
    waiter.turn = Turn.SERVED
    waiter.bell.wait(1000, waiter)


def test_a_bell_that_was_rung_twice_ends_one_wait() -> None:
    bell = Threads().bell()
    waiter: Waiter[Any] = Waiter(bell, 0, 5, 0.0, 1)
    bell.ring()
    bell.ring()
    waiter.bell.wait(1000, waiter)
    assert bell._gate.locked()


def test_of_two_that_ring_at_once_one_is_too_late() -> None:
    bell = Threads().bell()
    gate, bell._gate = bell._gate, Mock()
    bell._gate.locked.return_value = True
    bell._gate.release.side_effect = gate.release
    bell.ring()
    bell.ring()
    assert not gate.locked()


def test_a_refresh_whose_claim_was_lost_to_an_interrupt_waits_in_the_queue(clock: ManualClock, make: Make) -> None:
    """While the old connection was being closed."""
    factory = FakeFactory(clock)
    pool = make(factory=factory, max_size=1)
    lease = pool.acquire()
    entry = lease._entry
    factory.gates["close"].slow(0.5)
    refreshing = clock.spawn(lease.refresh, 10)
    clock.advance(0.1)
    entry.claimant = None
    clock.advance(3)
    assert refreshing.result().number == 2
    lease.release()


def test_a_refresh_outlives_the_worker_that_closes_its_old_connection(
    clock: ManualClock, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is lost before it can report: nobody else may keep the token, the refresh that waits least of all."""
    pool = make(max_size=1)
    lease = pool.acquire()
    perform = pool._hooks.perform

    def lost(job: Any, ledger: Any) -> tuple[Any, ...]:
        report = perform(job, ledger)
        return report if job.stage is not Stage.CLOSING else (lambda: None,)

    monkeypatch.setattr(pool._hooks, "perform", lost)
    refreshing = clock.spawn(lease.refresh, 10)
    clock.advance(0.1)
    assert refreshing.result().number == 2
    lease.release()


# -- orphans -----------------------------------------------------------------------------------------------------------


def test_a_reference_that_was_struck_while_it_was_made_is_no_orphan(clock: ManualClock, make: Make) -> None:
    pool = make()
    lease = pool.acquire()
    pool._roster.orphans.append(TokenRef(lease._token))
    clock.advance(0)
    assert (pool.stats().leased, len(pool._roster.orphans)) == (1, 0)
    lease.release()


def test_an_orphan_is_adopted_once(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    """An exception between adopting it and taking it off the list has it looked at again."""
    pool = make(max_size=1)
    lease = pool.acquire()
    entry = lease._entry
    assert entry.refs is not None
    reference = entry.refs[1]
    del lease
    gc.collect()
    pool.due_at()
    pool._roster.orphans.append(reference)
    pool._roster.orphans.append(reference)
    clock.advance(0)
    assert (pool.stats().closed, factory.gates["close"].calls) == ({"dropped": 1}, 1)


def test_a_release_that_is_struck_just_before_it_gives_back_has_ended_its_lease(clock: ManualClock, make: Make) -> None:
    """The use is counted, and its user has let go: he leaks nothing."""
    pool = make()
    lease = pool.acquire()
    lease._entry.thread = 0
    pool._used.append(0.0)
    del lease
    gc.collect()
    clock.advance(0)
    assert (pool.stats().closed, pool.stats().leaks, pool.stats().use.count) == ({"dropped": 1}, 0, 1)


def test_a_job_that_was_written_off_and_then_lost_is_no_longer_counted_as_hung(clock: ManualClock, make: Make) -> None:
    pool = make(connect_timeout=1, fail_after=None)
    jobs: list[Any] = []
    submit = clock.submit
    clock.submit = jobs.append  # type: ignore[method-assign]
    assert isinstance(outcome(pool.acquire, 3), PoolTimeout)
    assert pool.stats().hung >= 1
    jobs.clear()
    clock.submit = submit  # type: ignore[method-assign]
    gc.collect()
    clock.advance(0)
    assert pool.stats().hung == 0


def test_of_workers_that_are_lost_while_they_connect_the_first_since_a_success_is_replaced_at_once(
    clock: ManualClock, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What struck it may have struck whoever gave it the job, and says nothing of the server. The next one is followed
    by a pause."""
    pool = make(max_size=1)
    perform, coming = pool._hooks.perform, [Stage.CONNECTING]

    def lost(job: Any, ledger: Any) -> tuple[Any, ...]:
        if coming and job.stage is coming[0]:
            coming.pop()
            return (lambda: None,)
        return perform(job, ledger)

    monkeypatch.setattr(pool._hooks, "perform", lost)
    for _ in range(2):
        waiting = clock.spawn(pool.acquire, 10)
        clock.advance(0)
        waiting.result().discard()
        clock.advance(0)
        coming.append(Stage.CONNECTING)
    coming.append(Stage.CONNECTING)
    waiting = clock.spawn(pool.acquire, 10)
    clock.advance(0)
    assert (waiting.done, pool.stats().state) == (False, "down")
    clock.advance(1)
    waiting.result().release()


def test_a_slot_is_freed_once(clock: ManualClock, make: Make) -> None:
    pool = make()
    lease = pool.acquire()
    entry = lease._entry
    lease.detach()
    pool._ledger._free(entry, "broken")
    assert (pool.stats().acquired, pool.stats().closed) == (1, {"detached": 1})


def test_a_call_site_that_nobody_knows() -> None:
    assert call_site(None, 0) == "unknown"
