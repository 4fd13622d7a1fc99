"""Pools that nobody has closed: dropped in mid-life, or alive when the interpreter ends."""

from __future__ import annotations

import time

import pytest

from tests.core.helpers import run_python

SLOW_MACHINE = 10.0  # seconds; a bare interpreter starts and ends in 0.1


def test_a_dropped_pool_closes_its_connections_warns_and_leaves_no_threads() -> None:
    run_python(
        """
        import gc, threading, time, warnings
        from pooling import Pool
        from pooling.testing import FakeFactory

        factory = FakeFactory()
        pool = Pool(factory, max_size=4, min_size=2, name="lost", keepalive=30)
        for lease in [pool.acquire() for _ in range(4)]:
            lease.release()
        del lease
        assert threading.active_count() > 1
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del pool
            gc.collect()
            end = time.monotonic() + 5
            while not caught and time.monotonic() < end:
                time.sleep(0.01)  # the reaper may have had a look at the pool just then
        assert [(w.category, str(w.message)) for w in caught] == [
            (ResourceWarning, "pool 'lost' was dropped without close()")
        ], caught
        end = time.monotonic() + 20  # workers that the reaper has not sent home wait 5 s for another job
        while (threading.active_count() > 1 or factory.open) and time.monotonic() < end:
            time.sleep(0.01)
        assert factory.open == 0, factory.open
        assert threading.active_count() == 1, threading.enumerate()
        """
    )


@pytest.mark.parametrize("closed", [False, True])
def test_a_pool_dropped_together_with_a_lease_closes_that_ones_connection(closed: bool) -> None:
    """As by an exception in the function that has both. Nobody had the time to look after the lease before."""
    run_python(
        f"""
        import gc, time, warnings
        from pooling import Pool
        from pooling.testing import FakeFactory

        warnings.simplefilter("ignore")
        factory = FakeFactory()
        pool = Pool(factory, max_size=2)
        lease = pool.acquire()
        if {closed}:
            pool.close()
        del lease, pool
        gc.collect()
        end = time.monotonic() + 5
        while factory.open and time.monotonic() < end:
            time.sleep(0.01)
        assert factory.open == 0, factory.open
        """
    )


def test_a_lease_that_is_dropped_after_close_has_its_connection_closed() -> None:
    run_python(
        """
        import gc, time
        from pooling import Pool
        from pooling.testing import FakeFactory

        factory = FakeFactory()
        pool = Pool(factory, max_size=2)
        lease = pool.acquire()
        pool.close()
        del lease
        gc.collect()
        end = time.monotonic() + 5
        while factory.open and time.monotonic() < end:
            time.sleep(0.01)
        assert factory.open == 0, factory.open
        assert pool.stats().size == 0
        """
    )


def test_a_pool_that_was_never_used_is_dropped_in_silence() -> None:
    run_python(
        """
        import gc, threading
        from pooling import Pool
        Pool(object)
        gc.collect()
        assert threading.active_count() == 1
        """
    )


def test_a_lease_keeps_its_pool_alive() -> None:
    run_python(
        """
        import gc
        from pooling import Pool
        from pooling.testing import FakeFactory
        factory = FakeFactory()
        pool = Pool(factory)
        lease = pool.acquire()
        del pool
        gc.collect()
        assert not lease.connection.closed
        lease.release()
        lease._pool.close()
        """
    )


@pytest.mark.parametrize("seconds", [0, 0.4, 3600])
def test_the_end_of_the_interpreter_closes_idle_connections_within_a_second(seconds: float) -> None:
    start = time.monotonic()
    said = run_python(
        f"""
        from pooling import Pool
        from pooling.testing import FakeFactory, FakeConnection
        import time

        class Tells(FakeFactory):
            def close(self, connection):
                print("closing", flush=True)
                time.sleep({seconds})
                super().close(connection)
                print("closed", flush=True)

        pool = Pool(Tells(), max_size=8, min_size=4, keepalive=10)
        for lease in [pool.acquire() for _ in range(8)]:
            lease.release()
        """
    )
    took = time.monotonic() - start
    if seconds < 1:
        assert said.count("closed") == 8
    else:
        assert "closing" in said
    assert took < SLOW_MACHINE


def test_a_hung_worker_does_not_hold_the_end_of_the_interpreter_up() -> None:
    start = time.monotonic()
    run_python(
        """
        from pooling import Pool, PoolTimeout
        from pooling.testing import FakeFactory
        factory = FakeFactory()
        factory.gates["connect"].never()
        pool = Pool(factory)
        try:
            pool.acquire(timeout=0.05)
        except PoolTimeout:
            pass
        """
    )
    assert time.monotonic() - start < SLOW_MACHINE


def test_a_pool_in_use_at_the_end_of_the_interpreter_is_no_trouble() -> None:
    run_python(
        """
        from pooling import Pool
        from pooling.testing import FakeFactory
        pool = Pool(FakeFactory(), leak_after=10)
        lease = pool.acquire()
        other = pool.acquire()
        other.connection.dirty = True
        other.release()
        """
    )


@pytest.mark.parametrize("warm", [False, True], ids=["no worker there", "a worker there"])
def test_a_destructor_at_the_end_of_the_interpreter_is_served_in_time(warm: bool) -> None:
    """Before 3.12 threads can be started there, and never run: one after the other was, for ever."""
    start = time.monotonic()
    said = run_python(
        f"""
        import os
        from pooling import Pool
        from pooling.testing import FakeFactory

        class Late:
            def __init__(self):
                self.pool, self.me, self.write = Pool(FakeFactory(), max_size=2), self, os.write

            def __del__(self):
                with self.pool.acquire(timeout=20):
                    self.write(1, b"served")
                self.pool.close()

        late = Late()
        if {warm}:
            late.pool.acquire().discard()
        """
    )
    assert said == "served"
    assert time.monotonic() - start < SLOW_MACHINE


def test_a_pool_dropped_where_no_thread_can_be_started_closes_on_the_spot() -> None:
    run_python(
        """
        import gc, threading, time, warnings
        from pooling import Pool
        from pooling.testing import FakeFactory
        from pooling._runtime.threads import THREADS
        factory = FakeFactory()
        pool = Pool(factory)
        pool.acquire().release()
        pool.clear()
        with pool.acquire():
            pass
        def refuse(job):
            raise RuntimeError("can't start new thread")
        THREADS.submit = refuse
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del pool
            gc.collect()
            end = time.monotonic() + 5
            while factory.open and time.monotonic() < end:
                time.sleep(0.01)  # the reaper may have had a look at the pool just then
        assert factory.open == 0
        """
    )
