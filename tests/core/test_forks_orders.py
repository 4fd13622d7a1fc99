"""What was ordered of a pool, and who listens to it, before a fork and in the child."""

from __future__ import annotations

import os

import pytest

from tests.core.forking import LENIENT, script
from tests.core.helpers import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.mark.parametrize(
    ("order", "check"),
    [
        ("pool.suspend()", "pool.stats().state == 'suspended'"),
        ("pool.drain()", "pool.stats().state == 'closed'"),
        ("pool.resize(max_size=7)", "pool.stats().max_size == 7"),
        ("pool.subscribe(print)", "len(pool._ledger.tally.outlets) == 1"),
    ],
)
def test_an_order_that_is_the_first_thing_in_the_child_is_carried_out_there(order: str, check: str) -> None:
    run_python(
        script(
            f"""
            pool = Pool(factory, max_size=3)
            pool.acquire().release()

            def child():
                {order}
                assert {check}
                pool.resume()

            in_child(child)
            assert (pool.stats().state, pool.stats().max_size) == ("up", 3)
            pool.close()
            """
        ),
        options=LENIENT,
    )


@pytest.mark.parametrize(
    ("orders", "check"),
    [
        ("pool.resize(min_size=1, max_size=7)", "(pool.stats().min_size, pool.stats().max_size) == (1, 7)"),
        ("pool.suspend()", "pool.stats().state == 'suspended' and refused(PoolTimeout)"),
        ("pool.close()", "pool.stats().state == 'closed' and refused(PoolClosed)"),
        ("drain()", "pool.stats().state == 'closed' and refused(PoolClosed)"),
    ],
)
def test_what_was_ordered_before_the_fork_holds_in_the_child(orders: str, check: str) -> None:
    """A pool that is draining waits for leases which this process does not have: it is closed here."""
    run_python(
        script(
            f"""
            from pooling import PoolClosed
            pool = Pool(factory, max_size=3)
            lease = pool.acquire()

            def refused(kind):
                try:
                    pool.acquire(timeout=0.05)
                except kind:
                    return True

            def drain():
                threading.Thread(target=pool.drain, args=(10,), daemon=True).start()
                until(lambda: pool.stats().state == "draining")

            {orders}
            state = pool.stats().state

            def child():
                assert {check}, pool.stats()
                assert factory.opened == 1
                pool.resume()
                if pool.stats().state == "up":
                    pool.acquire(timeout=5).release()
                pool.close()

            in_child(child)
            assert pool.stats().state == state
            pool.resume()
            lease.release()
            pool.close()
            """
        ),
        options=LENIENT,
    )


def test_a_closed_pool_that_is_asked_in_a_child_starts_no_thread_that_stays() -> None:
    run_python(
        script(
            """
            from pooling import PoolClosed
            pool = Pool(factory)
            pool.close()

            def child():
                try:
                    pool.acquire()
                except PoolClosed:
                    pass
                until(lambda: threading.active_count() == 1, "every thread has ended")

            in_child(child)
            """
        ),
        options=LENIENT,
    )


def test_listeners_hear_of_their_own_processs_events_also_where_the_fork_struck_while_they_were_told() -> None:
    run_python(
        script(
            """
            pool = Pool(factory, max_size=2)
            heard, inside, go = [], threading.Event(), threading.Event()

            def listener(event):
                heard.append((os.getpid(), event.kind))
                if event.kind == "wait" and os.getpid() == parent:
                    inside.set()
                    go.wait(20)

            parent = os.getpid()
            stop = pool.subscribe(listener)
            pool.acquire().release()
            inside.wait(20)

            def child():
                del heard[:]
                pool.acquire(timeout=5).release()
                me = os.getpid()
                until(lambda: len(heard) == 4)
                assert heard == [(me, "wait"), (me, "connect"), (me, "acquire"), (me, "release")], heard
                assert pool.stats().events_lost == 0
                stop()
                pool.acquire(timeout=5).release()
                pool.close()
                time.sleep(0.05)
                assert len(heard) == 4, heard

            def ends_it_first():
                del heard[:]
                stop()
                pool.acquire(timeout=5).release()
                time.sleep(0.05)
                assert not heard

            in_child(child)
            in_child(ends_it_first)
            go.set()
            until(lambda: len(heard) == 4)
            assert {pid for pid, _ in heard} == {parent}
            pool.acquire().release()
            until(lambda: len(heard) == 6)
            pool.close()
            """
        ),
        options=LENIENT,
    )


@pytest.mark.parametrize("leaving", ["sys.exit(0)", "raise ValueError", "pass"])
def test_a_child_that_leaves_the_block_of_a_transaction_does_not_end_it(leaving: str) -> None:
    run_python(
        script(
            f"""
            heard, told = os.pipe()

            class Telling(FakeFactory):
                def commit(self, connection):
                    os.write(told, b"commit")
                def rollback(self, connection):
                    os.write(told, b"rollback")

            pool = Pool(Telling(), max_size=2)
            try:
                with pool.transaction():
                    pid = os.fork()
                    if pid == 0:
                        signal.alarm(20)
                        {leaving}
                    else:
                        assert os.waitpid(pid, 0)[1] == 0
                        os.write(told, b"parent: ")
            except ValueError:
                assert pid == 0
            if pid == 0:
                assert pool.stats().size == 0
                os._exit(0)
            assert os.read(heard, 100) == b"parent: commit"
            pool.close()
            """
        ),
        options=("-W", "ignore"),
    )
