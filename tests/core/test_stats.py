"""Numbers that agree with each other, at every moment and under threads."""

from __future__ import annotations

import gc
import itertools
import math
import pickle
import random
import sys
import threading
from collections import Counter
from struct import pack, unpack
from types import FrameType
from typing import Any

import pytest

from pooling import Histogram, Lease, Pool, PoolStats, PoolTimeout
from pooling.stats import FOLD_AT, Recorder
from pooling.testing import FakeBroken, FakeFactory, ManualClock
from tests.core.conftest import Make
from tests.core.helpers import outcome


def add_up(stats: PoolStats) -> PoolStats:
    """The identities of every snapshot."""
    assert stats.size == stats.idle + stats.leased + stats.connecting + stats.busy + stats.closing
    assert stats.acquired == stats.released + stats.leased
    assert stats.wait.count == stats.acquired
    assert min(stats.idle, stats.leased, stats.connecting, stats.busy, stats.closing, stats.waiting) >= 0
    return stats


@pytest.mark.parametrize("order", ["drain", "close", "warm_up"])
def test_an_order_that_runs_out_of_time_is_no_timeout_of_an_acquire(
    clock: ManualClock, factory: FakeFactory, make: Make, order: str
) -> None:
    pool = make()
    pool.acquire().release()
    lease = pool.acquire()
    heard: list[str] = []
    pool.subscribe(lambda event: heard.append(event.kind))
    if order == "close":
        factory.gates["close"].slow(5)
        lease.discard()
    elif order == "warm_up":
        factory.gates["connect"].slow(5)
        pool.resize(min_size=2)
    outcome(getattr(pool, order), 1)
    assert (pool.stats().timeouts, "timeout" in heard) == (0, False)
    clock.advance(5)
    if not lease.ended:
        lease.release()


def test_a_new_pool_has_counted_nothing(make: Make) -> None:
    stats = add_up(make(name="p", min_size=1, max_size=7).stats())
    assert (stats.name, stats.state, stats.min_size, stats.max_size, stats.size) == ("p", "up", 1, 7, 0)
    assert (stats.acquired, stats.opened, stats.closed, stats.errors, stats.timeouts) == (0, 0, {}, 0, 0)
    assert (stats.last_error, stats.last_error_age, stats.wait, stats.use) == (None, None, Histogram(), Histogram())


def test_every_stage_of_a_connection_is_counted_where_it_is(
    clock: ManualClock, factory: FakeFactory, make: Make
) -> None:
    pool = make(max_size=1, check="ping")

    def where() -> tuple[int, ...]:
        stats = add_up(pool.stats())
        return stats.idle, stats.leased, stats.connecting, stats.busy, stats.closing, stats.waiting

    for gate in factory.gates.values():
        gate.slow(1)
    waiting = clock.spawn(pool.acquire, 10)
    clock.advance(0.5)
    assert where() == (0, 0, 1, 0, 0, 1)
    clock.advance(1)
    lease = waiting.result()
    assert where() == (0, 1, 0, 0, 0, 0)
    lease.connection.dirty = True
    lease.release()
    assert where() == (0, 0, 0, 1, 0, 0)
    clock.advance(1)
    assert where() == (1, 0, 0, 0, 0, 0)
    clock.advance(2)
    waiting = clock.spawn(pool.acquire, 10)
    clock.advance(0.1)
    assert where() == (0, 0, 0, 1, 0, 1)
    clock.advance(1)
    lease = waiting.result()
    lease.discard()
    assert where() == (0, 0, 0, 0, 1, 0)


def test_counters_say_what_happened(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=1, fail_after=0)
    pool.acquire().release()
    with pool.acquire():
        assert isinstance(outcome(pool.acquire, 1), PoolTimeout)
    pool.acquire().discard()
    clock.advance(0)
    pool.acquire().detach()
    factory.gates["connect"].error(OSError("down\nhard"))
    outcome(pool.acquire, 1)
    clock.advance(0.03)
    stats = add_up(pool.stats())
    assert (stats.acquired, stats.released, stats.timeouts, stats.errors) == (4, 4, 1, 1)
    assert (stats.opened, stats.closed) == (2, {"discarded": 1, "detached": 1})
    assert (stats.state, stats.last_error, stats.last_error_age) == ("down", "OSError: down hard", pytest.approx(0.03))


def test_waits_uses_and_connects_are_measured(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(max_size=1)
    factory.gates["connect"].slow(0.5)
    lease = pool.acquire()
    waiting = clock.spawn(pool.acquire, 10)
    clock.advance(2)
    lease.release()
    clock.advance(4)
    waiting.result().release()
    pool.acquire().release()
    stats = add_up(pool.stats())
    assert (stats.wait.count, stats.wait.sum, stats.wait.max) == (3, pytest.approx(2.5), pytest.approx(2))
    assert (stats.use.count, stats.use.sum, stats.use.max) == (3, pytest.approx(6), pytest.approx(4))
    assert stats.use.mean == pytest.approx(2)
    assert (stats.connect.count, stats.connect.sum) == (1, pytest.approx(0.5))
    assert stats.connect.mean == pytest.approx(0.5)
    assert stats.wait.percentile(0) == pytest.approx(0, abs=1e-9)


def test_a_use_begins_with_its_acquire_also_after_a_look_at_what_was_unused_for_long(
    clock: ManualClock, make: Make
) -> None:
    pool = make()
    pool.acquire().release()
    clock.advance(30)
    with pool.acquire():
        clock.advance(2)
        assert pool.holders()[0].age == 2
    assert pool.stats().use.max == 2


@pytest.mark.parametrize("end", ["release", "discard", "detach", "refresh", "with", "loss"])
def test_every_use_is_measured_however_it_ends(clock: ManualClock, make: Make, end: str) -> None:
    pool = make()
    lease = pool.acquire()
    clock.advance(3)
    if end == "with":
        with pytest.raises(ValueError), lease:
            raise ValueError
    elif end == "loss":
        del lease
        gc.collect()
        clock.advance(0)
    else:
        getattr(lease, end)()
    assert (pool.stats().use.count, pool.stats().use.sum) == (1, pytest.approx(3))
    if end == "refresh":
        lease.release()


@pytest.mark.parametrize("spread", [1e-6, 1e-3, 1.0, 1e4])
def test_percentiles_are_within_5_percent(spread: float) -> None:
    """Promised are 3.1 %."""
    draw = random.Random(3)
    values = sorted(spread * draw.lognormvariate(0, 2) for _ in range(20_000))
    recorder = Recorder()
    for value in values:
        recorder.samples.append(value)
    histogram = recorder.snapshot()
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values))
    assert histogram.max == values[-1]
    for p in (1, 5, 25, 50, 75, 90, 95, 99, 99.9, 100):
        exact = values[min(len(values) - 1, math.ceil(p / 100 * len(values)) - 1)]
        assert histogram.percentile(p) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(("low", "high"), [(1e-6, 3e-5), (1e-5, 1e-4), (5e-5, 1.9), (0.5, 60.0), (1e-9, 1e4)])
@pytest.mark.parametrize("count", [1, 5, 1000])
def test_a_batch_is_sorted_into_the_buckets_that_its_samples_belong_to(low: float, high: float, count: int) -> None:
    """Whichever way is taken: those that share their first byte, and those that do not."""
    ours = random.Random(count)
    batches = [[math.exp(ours.uniform(math.log(low), math.log(high))) for _ in range(count)] for _ in range(3)]
    recorder = Recorder()
    for batch in batches:
        recorder.samples.extend(batch)
        recorder.fold()
    everything = [sample for batch in batches for sample in batch]
    found = recorder.snapshot()
    assert dict(found.counts) == Counter(unpack(">H", pack(">d", sample)[:2])[0] for sample in everything)
    assert (found.count, found.max) == (len(everything), max(everything))
    assert found.sum == pytest.approx(sum(everything))


def test_what_took_no_time_took_none(make: Make) -> None:
    pool = make()
    for _ in range(3):
        pool.acquire().release()
    assert [pool.stats().wait.percentile(p) for p in (0, 50, 100)] == [0.0, 0.0, 0.0]
    recorder = Recorder()
    recorder.samples += [0.5, 2.0]
    assert recorder.snapshot(zeros=4).percentile(50) == 0.0


def test_a_histogram_refuses_what_is_no_percentile() -> None:
    for p in (-1, 101, float("nan")):
        with pytest.raises(ValueError, match=r"^a percentile lies between 0 and 100, not "):
            Histogram().percentile(p)
    assert (Histogram().percentile(50), Histogram().mean) == (0.0, 0.0)
    assert Histogram(count=5, sum=1.0, max=0.5, counts=((1, 2),)).percentile(100) == 0.5


def test_histograms_are_subtracted_for_what_came_between(clock: ManualClock, make: Make) -> None:
    pool = make()

    def use(seconds: float) -> None:
        with pool.acquire():
            clock.advance(seconds)

    use(100)
    before = pool.stats().use
    assert (before - before).percentile(50) == 0.0
    for seconds in (1, 2, 3):
        use(seconds)
    between = pool.stats().use - before
    assert (between.count, between.sum) == (3, pytest.approx(6))
    assert between.percentile(100) == pytest.approx(3, rel=0.05)


def test_snapshots_are_subtracted_for_what_came_between(clock: ManualClock, factory: FakeFactory, make: Make) -> None:
    pool = make(name="p", max_size=1, fail_after=0, backoff=lambda failures: 1.0)
    with pool.acquire():
        clock.advance(4)
    before = pool.stats()
    for _ in range(3):
        with pool.acquire():
            clock.advance(2)
    with pool.acquire():
        assert isinstance(outcome(pool.acquire, 4), PoolTimeout)
    pool.acquire().discard()
    factory.gates["connect"].error(OSError())
    outcome(pool.acquire, 1)
    between = pool.stats() - before
    assert between.seconds == pytest.approx(10)
    assert (between.acquired, between.released, between.timeouts, between.opened) == (5, 5, 1, 0)
    assert (between.closed, between.errors, between.errors_by) == ({"discarded": 1}, 1, {"connect": 1})
    assert (between.wait.count, between.use.count, between.connect.count) == (5, 5, 0)
    assert between.rate(between.acquired) == pytest.approx(0.5)
    assert between.in_use == pytest.approx(1.0)


def test_an_interval_without_time_divides_nothing_by_zero(make: Make) -> None:
    stats = make().stats()
    nothing = stats - stats
    assert (nothing.seconds, nothing.rate(nothing.acquired), nothing.rate(5), nothing.in_use) == (0, 0, 0, 0)
    assert (nothing.closed, nothing.errors_by, nothing.wait) == ({}, {}, Histogram())


def test_snapshots_that_do_not_belong_together_are_not_subtracted(clock: ManualClock, make: Make) -> None:
    pool = make(name="p")
    before = pool.stats()
    clock.advance(1)
    pool.acquire().release()
    after = pool.stats()
    with pytest.raises(ValueError, match=r"^the snapshots of pool 'p' are the wrong way round: later - earlier$"):
        before - after
    with pytest.raises(ValueError, match=r"^snapshots of two pools, 'p' and 'q'$"):
        after - make(name="q").stats()


@pytest.mark.parametrize("stage", ["connect", "check", "reset", "close", "use"])
def test_errors_are_counted_by_what_raised(clock: ManualClock, factory: FakeFactory, make: Make, stage: str) -> None:
    pool = make(max_size=1, check="ping", fail_after=0)
    lease = pool.acquire()
    if stage == "use":
        with pytest.raises(FakeBroken), lease:
            raise FakeBroken
    else:
        factory.gates[stage].error(OSError())
        lease.connection.dirty = stage == "reset"
        if stage in ("connect", "close"):
            lease.discard()
        else:
            lease.release()
        clock.advance(2)
        outcome(pool.acquire, 0)
    clock.advance(0)
    stats = pool.stats()
    assert stats.errors_by[stage] == stats.errors > 0
    factory.gates["connect"].ok()


def test_the_memory_of_a_histogram_does_not_grow_with_what_it_counts() -> None:
    """O(1): from a nanosecond to a year there are 16 buckets an octave, whatever is recorded."""
    recorder, draw = Recorder(), random.Random(5)
    for _ in range(50):
        for _ in range(FOLD_AT):
            recorder.samples.append(10 ** draw.uniform(-9, 7.5))
        recorder.fold()
    histogram = recorder.snapshot()
    assert histogram.count == 50 * FOLD_AT
    assert len(histogram.counts) <= 16 * (math.log2(10**16.5) + 1)
    assert not recorder.samples


def test_the_memory_of_samples_is_bounded(clock: ManualClock, make: Make) -> None:
    pool = make()
    for _ in range(3 * FOLD_AT):
        pool.acquire().release()
    pool.clear()
    assert len(pool._used) < FOLD_AT
    assert pool.stats().use.count == 3 * FOLD_AT


def test_counters_agree_under_64_threads() -> None:
    """Snapshots are taken all the while, and at the end every count is exact."""
    factory = FakeFactory()
    done = [0] * 64
    stop = threading.Event()
    snapshots: list[PoolStats] = []
    with Pool(factory, max_size=8) as pool:

        def use(number: int) -> None:
            for turn in range(100):
                with pool.acquire() as connection:
                    connection.dirty = turn % 10 == 0
                done[number] += 1

        def watch() -> None:
            while not stop.is_set():
                snapshots.append(add_up(pool.stats()))

        failures: list[Any] = []

        def guarded(call: Any, *args: Any) -> None:
            result = outcome(call, *args)
            if isinstance(result, BaseException):
                failures.append(result)

        threads = [threading.Thread(target=guarded, args=(use, number)) for number in range(64)]
        watcher = threading.Thread(target=guarded, args=(watch,))
        for thread in (*threads, watcher):
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        watcher.join()
        assert not failures
        while pool.stats().busy:
            threading.Event().wait(0.001)
        stats = add_up(pool.stats())
        assert stats.acquired == stats.released == sum(done) == stats.use.count == 6400
        assert stats.opened == factory.opened <= 8
    assert len(snapshots) > 5
    for before, after in itertools.pairwise(snapshots):
        assert before.acquired <= after.acquired
        assert before.released <= after.released
        assert after.size <= 8
    assert sum(pool.stats().closed.values()) == factory.opened == factory.closed


@pytest.mark.skipif(sys.gettrace() is not None, reason="it traces itself")
def test_a_snapshot_between_any_two_lines_of_a_cycle_counts_nothing_twice(make: Make) -> None:
    """What another thread may see: no counter ever goes down, and none is ahead of what happened."""
    pool, seen = make(max_size=2), list[PoolStats]()
    pool.acquire().release()

    def look(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code in (Pool.acquire.__code__, Lease.__exit__.__code__):
            seen.append(add_up(pool.stats()))
            return look
        return None

    sys.settrace(look)
    for _ in range(3):
        with pool.acquire():
            pass
    sys.settrace(None)
    assert len(seen) > 60
    for before, after in itertools.pairwise([*seen, pool.stats()]):
        assert before.acquired <= after.acquired <= before.acquired + 1
        assert before.released <= after.released <= before.released + 1
        assert before.use.count <= after.use.count
    assert (pool.stats().acquired, pool.stats().released, pool.stats().use.count) == (4, 4, 4)


def test_what_did_not_occur_is_absent_and_0_where_it_is_asked_for(clock: ManualClock, make: Make) -> None:
    pool = make()
    before = pool.stats()
    pool.acquire().discard()
    clock.advance(0)
    after = pool.stats()
    for closed in (after.closed, (after - before).closed, pickle.loads(pickle.dumps(after)).closed):
        assert (closed["discarded"], closed["idle"]) == (1, 0)
        assert "idle" not in closed
    assert (before.errors_by["connect"], after.errors_by) == (0, {})


def test_a_snapshot_is_frozen(make: Make) -> None:
    stats = make().stats()
    with pytest.raises(AttributeError):
        stats.size = 3  # type: ignore[misc]


def test_samples_that_are_folded_by_whoever_strikes_just_before_are_not_folded_again() -> None:
    """A signal handler between the look whether there are any and the taking."""
    recorder, struck = Recorder(), list[bool]()

    class Struck(list[float]):
        def __len__(self) -> int:
            there = super().__len__()
            if not struck:
                struck.append(True)
                recorder.fold()
            return there

    recorder.samples = Struck([0.5, 0.25])
    recorder.fold()
    assert (recorder._count, recorder._sum, recorder._folding) == (2, 0.75, False)
