"""gevent, whose threads are greenlets: they exist in the child of a fork as well."""

from __future__ import annotations

import os

import pytest

from tests.core.helpers import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def test_forks_under_gevent_are_silent_and_both_processes_go_on() -> None:
    """The pool's threads have ended before: else they would end in the child, where threading knows them no more."""
    run_python(
        """
        from gevent import monkey
        monkey.patch_all()
        import gevent, os, signal
        from pooling import Pool
        from pooling._runtime import threads
        from pooling.testing import FakeFactory

        signal.alarm(25)
        threads.AT_FORK = 10.0
        factory = FakeFactory()
        pool = Pool(factory, max_size=2, idle_timeout=0.3)

        def use():
            with pool.acquire(timeout=10) as connection:
                gevent.sleep(0.005)
                return connection.number

        def used():
            users = [gevent.spawn(use) for _ in range(10)]
            gevent.joinall(users)
            return {user.value for user in users}

        mine = used()
        lease = pool.acquire()
        for _ in range(3):
            child = os.fork()
            if child == 0:
                assert used().isdisjoint(mine)
                pool.close()
                gevent.sleep(0.05)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        assert not lease.connection.closed
        lease.release()
        used()
        with gevent.Timeout(10):
            while factory.open:  # what is due is done after the forks, too
                gevent.sleep(0.01)
        pool.close()
        """,
        options=("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
    )


def test_a_greenlet_that_waits_at_the_fork_waits_in_the_child_for_what_there_is_there() -> None:
    """Both processes have it."""
    run_python(
        """
        from gevent import monkey
        monkey.patch_all()
        import gevent, os, signal
        from pooling import Pool
        from pooling.testing import FakeConnection

        signal.alarm(25)
        pool = Pool(lambda: FakeConnection(os.getpid()), max_size=1, timeout=None)
        lease = pool.acquire()

        def use():
            with pool.acquire() as connection:
                return connection.number

        users = [gevent.spawn(use) for _ in range(5)]
        while pool.stats().waiting < 5:
            gevent.sleep(0.01)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
        else:
            lease.release()
        gevent.joinall(users)
        assert [user.value for user in users] == [os.getpid()] * 5
        pool.close()
        if child == 0:
            gevent.sleep(0.05)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """,
        options=("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
    )
