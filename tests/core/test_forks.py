"""os.fork: the child begins afresh, the parent notices nothing."""

from __future__ import annotations

import os

import pytest

from tests.core.forking import LENIENT, script
from tests.core.helpers import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def test_what_each_process_has_of_its_own_is_made_once_in_each_and_the_parents_is_kept() -> None:
    run_python(
        script(
            """
            from pooling._runtime.fork import PerProcess

            class Client:
                def __del__(self):
                    gone.append(id(self))

            own = PerProcess(Client)
            parents, seen, gone = id(own()), [], []
            def child():
                threads = [threading.Thread(target=lambda: seen.append(own())) for _ in range(8)]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
                assert len({id(each) for each in seen}) == 1
                assert id(seen[0]) != parents and parents not in gone
            in_child(child)
            assert id(own()) == parents
            """
        )
    )


def test_a_child_opens_its_own_connections_and_the_parents_stay() -> None:
    run_python(
        script(
            """
            pool = Pool(factory, max_size=3)
            idle, held = pool.acquire(), pool.acquire()
            mine = idle.connection
            idle.release()

            def child():
                with pool.acquire(timeout=5) as connection:
                    assert connection not in (mine, held.connection)
                    assert pool.stats().size == 1
                assert mine in factory.abandoned and not mine.closed
                held.release()              # a parent's lease: of no concern here
                assert pool.stats().size == 1
                pool.close()
                assert not mine.closed

            for _ in range(3):
                in_child(child)
            with pool.acquire(timeout=0) as connection:
                assert connection is mine
            held.release()
            assert (pool.stats().idle, factory.opened, factory.abandoned) == (2, 2, [])
            pool.close()
            assert factory.open == 0
            """
        ),
        options=LENIENT,
    )


@pytest.mark.parametrize(
    "first", ["pool.acquire(timeout=5).release()", "pool.stats()", "pool.holders()", "pool.waiters()", "pool.clear()",
              "pool.close()", "pool.drain()", "pool.warm_up()", "pool.suspend()", "pool.resize(min_size=1)",
              "pool.subscribe(print)"]
)  # fmt: skip
def test_whatever_the_child_does_first_the_parents_lock_is_not_touched(first: str) -> None:
    """Held at the fork by a thread that does not exist in the child."""
    run_python(
        script(
            f"""
            pool = Pool(factory, max_size=3)
            pool.acquire().release()
            locked, done = threading.Event(), threading.Event()

            def hold():
                with pool._lock:
                    locked.set()
                    done.wait()

            holder = threading.Thread(target=hold)
            holder.start()
            locked.wait()

            def child():
                {first}
                pool.resume()
                if pool.stats().state == "up":
                    with pool.acquire(timeout=5) as connection:
                        assert connection is not factory.connections[0]

            in_child(child)
            done.set()
            holder.join()
            with pool.acquire() as connection:
                assert connection is factory.connections[0]
            pool.close()
            """
        ),
        options=LENIENT,
    )


def test_nobody_is_told_of_the_end_of_a_parents_lease_in_a_child() -> None:
    """The parent's reaper has a queue that a child of uWSGI, which runs no hook of Python's, must not put into."""
    run_python(
        script(
            """
            from pooling._runtime.threads import THREADS

            pool = Pool(factory, max_size=2)
            leases = [pool.acquire()]
            pool.acquire().release()
            parents = THREADS._reaper

            def child():
                pool.acquire().release()  # from here on the child has a pool of its own
                before = parents._pokes.qsize()
                leases.clear()
                gc.collect()
                assert parents._pokes.qsize() == before
                pool.close()

            in_child(child)
            leases.pop().release()
            pool.close()
            assert factory.open == 0
            """
        ),
        options=LENIENT,
    )


def test_a_child_never_uses_a_lease_of_its_parent() -> None:
    run_python(
        script(
            """
            pool = Pool(factory, max_size=2)
            leases = [pool.acquire() for _ in range(2)]
            leases[1].connection.dirty = True

            def child():
                leases[0].release()
                leases[1].release()
                assert pool.stats().size == 0, pool.stats()
                a, b = pool.acquire(timeout=5), pool.acquire(timeout=5)
                assert {a.connection.number, b.connection.number} == {3, 4}
                assert factory.gates["reset"].calls == 0
                a.release(); b.release()
                assert pool.stats().released == pool.stats().use.count == 2
                pool.close()

            in_child(child)
            for lease in leases:
                lease.release()
            pool.close()
            assert factory.open == 0
            """
        ),
        options=LENIENT,
    )


def test_a_child_that_does_nothing_says_nothing_at_its_end() -> None:
    """No warning, no close, with the interpreter's whole ending."""
    run_python(
        script(
            """
            pool = Pool(factory, max_size=2)
            pool.acquire().release()
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                factory.gates["close"].error(SystemExit("closed in the child"))
                sys.exit(0)
            _, status = os.waitpid(pid, 0)
            assert status == 0
            with pool.acquire(timeout=0) as connection:
                assert connection.number == 1
            pool.close()
            """
        ),
        options=LENIENT,
    )


@pytest.mark.parametrize(
    "life", ["pass", "pool.acquire(timeout=5).release()", "del lease; gc.collect()", "del lease, pool; gc.collect()"]
)
def test_no_destructor_says_goodbye_in_a_child(life: str) -> None:
    """Drivers in C have such, mysqlclient's among them: they run whatever the process, at its very end too. The factory
    is a plain callable, which knows nothing of forks."""
    run_python(
        script(
            f"""
            heard, told = os.pipe()

            class Driver:
                def __init__(self):
                    self.pid = os.getpid()
                def close(self):
                    self.closed = True
                def __del__(self, write=os.write, told=told, getpid=os.getpid):
                    if getpid() != self.pid:
                        write(told, b"goodbye")

            pool = Pool(Driver, max_size=3)
            lease, other = pool.acquire(), pool.acquire()
            other.release()
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                {life}
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            os.close(told)
            assert os.read(heard, 100) == b""
            lease.release()
            pool.close()
            """
        ),
        options=("-W", "ignore"),
    )


def test_threads_of_the_child_start_lazily_and_many_children_work_at_once() -> None:
    run_python(
        script(
            """
            pool = Pool(factory, max_size=2, keepalive=60)
            pool.acquire().release()

            def child():
                assert threading.active_count() == 1
                threads = [threading.Thread(target=lambda: pool.acquire(timeout=5).release()) for _ in range(8)]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
                assert pool.stats().acquired == 8
                assert pool.stats().size <= 2
                pool.close()

            in_child(child)
            pool.close()
            """
        ),
        options=LENIENT,
    )


def test_a_pool_made_in_the_child_has_workers_and_a_reaper_of_its_own() -> None:
    """The parent's threads are in nobody's books there."""
    run_python(
        script(
            """
            pool = Pool(factory, max_size=2, keepalive=60)
            pool.acquire().release()
            time.sleep(0.05)

            def child():
                other = Pool(FakeFactory(), max_size=1)
                other.acquire(timeout=5).release()
                other.acquire(timeout=5)    # dropped: the reaper finds it
                other.acquire(timeout=5).release()
                other.close()

            in_child(child)
            pool.close()
            """
        ),
        options=LENIENT,
    )


def test_a_grandchild_begins_afresh_as_well() -> None:
    run_python(
        script(
            """
            pool = Pool(factory, max_size=2)
            pool.acquire().release()

            def child():
                pool.acquire(timeout=5).release()
                def grandchild():
                    with pool.acquire(timeout=5) as connection:
                        assert connection.number == 3
                in_child(grandchild)
                with pool.acquire(timeout=0) as connection:
                    assert connection.number == 2

            in_child(child)
            pool.close()
            """
        ),
        options=LENIENT,
    )


def test_without_the_kernels_help_a_hook_of_python_notices_the_fork() -> None:
    run_python(
        "import sys, mmap\n"
        + script(
            """
            import pooling._runtime.fork as _fork

            class Refuses(_fork.mmap.mmap):
                def madvise(self, *args):
                    raise OSError("not here")

            _fork.mmap.mmap = Refuses
            pool = Pool(factory, max_size=2)
            _fork.mmap.mmap = Refuses.__mro__[1]
            assert isinstance(pool._plain, bytearray)
            pool.acquire().release()
            assert pool._plain[0] == 1

            def child():
                assert pool._plain[0] == 0
                with pool.acquire(timeout=5) as connection:
                    assert connection.number == 2

            in_child(child)
            with pool.acquire(timeout=0) as connection:
                assert connection.number == 1
            pool.close()
            """
        ),
        options=LENIENT,
    )


def test_a_system_without_forks_or_hooks_is_no_trouble() -> None:
    """Windows, and other systems than Linux: the flag is a plain byte."""
    run_python(
        """
        import os, sys
        import logging, random, threading, time  # they look for the hook as well
        if hasattr(os, "register_at_fork"):
            del os.register_at_fork
        sys.platform = "other"
        from pooling import Pool
        from pooling.testing import FakeFactory
        with Pool(FakeFactory()) as pool:
            assert isinstance(pool._plain, bytearray)
            for _ in range(3):
                pool.acquire().release()
            assert pool._plain[0] == 1
            leases = [pool.acquire() for _ in range(pool.config.max_size)]
            waiting = threading.Thread(target=lambda: pool.acquire().release())
            waiting.start()
            while not pool.stats().waiting:
                time.sleep(0.001)
            leases[0].release()
            waiting.join(10)
            assert not waiting.is_alive()
        """
    )


def test_a_child_that_nobody_told_of_the_fork_uses_no_connection_that_needs_a_look() -> None:
    """Neither the kernel nor Python's hooks have cleared the flag: the process id is compared."""
    run_python(
        script(
            """
            import pooling.pool
            flag = pooling.pool.flag
            pooling.pool.flag = lambda: pooling._runtime.fork._HookedByte(2)  # which no hook knows
            pool = Pool(factory, max_size=2, check_after=0.01)
            pool.acquire().release()
            time.sleep(0.05)

            def child():
                with pool.acquire(timeout=5) as connection:
                    assert connection.number == 2
                pool._start_anew()              # a second thread of the child that has noticed the fork
                assert pool.stats().size == 1

            in_child(child)
            pool.close()
            """
        ),
        options=LENIENT,
    )


def test_a_connect_under_way_at_the_fork_is_the_parents() -> None:
    run_python(
        script(
            """
            pool = Pool(factory, max_size=2)
            factory.gates["connect"].never()
            waiting = threading.Thread(target=lambda: pool.acquire(timeout=10).release())
            waiting.start()
            until(lambda: factory.gates["connect"].inside)

            def child():
                factory.gates["connect"].mode = "ok"
                pool.acquire(timeout=5).release()
                assert factory.abandoned == []

            in_child(child)
            factory.gates["connect"].ok()
            waiting.join()
            pool.close()
            assert factory.open == 0
            """
        ),
        options=LENIENT,
    )


def test_an_abandon_that_raises_is_logged_and_the_child_works() -> None:
    run_python(
        script(
            """
            class Raises(FakeFactory):
                def abandon(self, connection):
                    raise ValueError("cannot")
            import logging
            messages = []
            class Keep(logging.Handler):
                def emit(self, record):
                    messages.append(record.getMessage())
            logging.getLogger("pooling").addHandler(Keep())
            pool = Pool(Raises(), max_size=2)
            pool.acquire().release()

            def child():
                pool.acquire(timeout=5).release()
                assert messages == ["abandoning a parent's connection failed"], messages

            in_child(child)
            pool.close()
            """
        ),
        options=LENIENT,
    )
