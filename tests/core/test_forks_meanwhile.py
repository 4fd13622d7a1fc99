"""A child begins afresh once, whoever else comes meanwhile: a thread, a destructor, a log handler with a pool."""

from __future__ import annotations

import os

import pytest

from tests.core.forking import LENIENT, script
from tests.core.helpers import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def test_a_thread_of_the_child_that_comes_while_another_begins_afresh_waits_for_that() -> None:
    """It must not go on with the parent's lock and books."""
    run_python(
        script(
            """
            from pooling._runtime.threads import THREADS
            pool = Pool(factory, max_size=2)
            pool.acquire().release()

            def child():
                lock, others = THREADS.lock, []
                def beside():
                    THREADS.lock = lock
                    others.append(threading.Thread(target=lambda: pool.acquire(timeout=5).release()))
                    others[0].start()
                    others[0].join(0.2)
                    return lock()
                THREADS.lock = beside
                pool.acquire(timeout=5).release()
                others[0].join()
                assert pool.stats().acquired == 2, pool.stats()

            in_child(child)
            assert pool.stats().acquired == 1
            pool.close()
            """
        ),
        options=LENIENT,
    )


def test_a_destructor_that_strikes_while_the_child_begins_afresh_does_not_wait_for_that() -> None:
    run_python(
        script(
            """
            from pooling._runtime.threads import THREADS
            pool = Pool(factory, max_size=2)
            pool.acquire().release()

            def child():
                lock = THREADS.lock
                def struck():
                    THREADS.lock = lock
                    pool.acquire(timeout=5).release()  # as a destructor: the allocations here may run the collector
                    return lock()
                THREADS.lock = struck
                pool.acquire(timeout=5).release()
                assert (pool.stats().acquired, pool.stats().size) == (1, 1), pool.stats()

            in_child(child)
            pool.close()
            """
        ),
        options=LENIENT,
    )


def test_a_log_handler_that_uses_another_pool_does_not_wait_for_the_one_that_begins_afresh() -> None:
    run_python(
        script(
            """
            import logging
            class Raising(Counting):
                def abandon(self, connection):
                    raise OSError("it cannot be abandoned")
            pool, other = Pool(Raising()), Pool(factory)
            pool.acquire().release()
            other.acquire().release()

            def child():
                class Handler(logging.Handler):
                    def emit(self, record):
                        other.acquire(timeout=5).release()
                logging.getLogger("pooling").addHandler(Handler())
                pool.acquire(timeout=5).release()
                assert (pool.stats().acquired, other.stats().acquired) == (1, 1)

            in_child(child)
            pool.close()
            other.close()
            """
        ),
        options=LENIENT,
    )


@pytest.mark.parametrize("waits", ["for a connection", "who was just handed one", "for a drain"])
def test_who_waits_as_a_signal_handler_forks_waits_in_the_child_for_what_there_is_here(waits: str) -> None:
    """The child has its parent's waiter, whom nobody there would ever serve."""
    run_python(
        script(
            f"""
            waits = {waits!r}
            pool = Pool(lambda: FakeConnection(os.getpid()), max_size=1, timeout=None)
            parent, children, lease = os.getpid(), [], pool.acquire()

            def fork(*_):
                if waits == "who was just handed one":
                    lease.release()
                child = os.fork()
                if child == 0:
                    signal.alarm(20)
                else:
                    children.append(child)

            def elsewhere():
                until(lambda: pool.stats().waiting or pool.stats().state == "draining")
                time.sleep(0.1)
                os.kill(parent, signal.SIGUSR1)
                until(lambda: children)
                if not lease.ended:
                    lease.release()

            signal.signal(signal.SIGUSR1, fork)
            thread = threading.Thread(target=elsewhere)
            thread.start()
            if waits == "for a drain":
                assert pool.drain(timeout=None)
            else:
                with pool.acquire() as connection:
                    assert connection.number == os.getpid()
            if os.getpid() == parent:
                assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
                thread.join()
            pool.close()
            """
        ),
        options=LENIENT,
    )
