"""os.fork: the child begins afresh, the parent notices nothing."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
import time

import pytest

from pooling._runtime import Threads
from pooling._workers import await_end
from tests.core.helpers import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

COMMON = """
import gc, os, signal, sys, threading, time
signal.alarm(20)  # inherited by no child
from pooling import Pool, PoolError, PoolTimeout
from pooling.testing import FakeFactory, FakeConnection

class Counting(FakeFactory):
    def __init__(self):
        super().__init__()
        self.abandoned = []
    def abandon(self, connection):
        self.abandoned.append(connection)

def in_child(call):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            call()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 1
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status

factory = Counting()
"""
# A pool in use has threads; from 3.12 on the interpreter warns of forking beside them.
LENIENT = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")


def script(text: str) -> str:
    return COMMON + textwrap.dedent(text)


def test_a_child_opens_its_own_connections_and_the_parents_stay() -> None:
    """Checklist 54."""
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
    "first", ["pool.acquire(timeout=5).release()", "pool.stats()", "pool.holders()", "pool.clear()", "pool.close()",
              "pool.warm_up()", "pool.suspend()", "pool.resize(min_size=1)", "pool.subscribe(print)"]
)  # fmt: skip
def test_whatever_the_child_does_first_the_parents_lock_is_not_touched(first: str) -> None:
    """Checklist 54: held at the fork by a thread that does not exist in the child."""
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
                if "close" not in {first!r}:
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
            from pooling._runtime import THREADS

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
    """Checklist 54: no warning, no close, with the interpreter's whole ending."""
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


def test_a_thread_of_the_child_that_comes_while_another_begins_afresh_waits_for_that() -> None:
    """It must not go on with the parent's lock and books."""
    run_python(
        script(
            """
            from pooling._runtime import THREADS
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
            from pooling._runtime import THREADS
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
            import pooling._fork as _fork

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
        import logging, random, threading  # they look for the hook as well
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
        """
    )


def test_a_child_that_nobody_told_of_the_fork_uses_no_connection_that_needs_a_look() -> None:
    """Neither the kernel nor Python's hooks have cleared the flag: the process id is compared."""
    run_python(
        script(
            """
            import pooling.pool
            flag = pooling.pool.flag
            pooling.pool.flag = lambda: pooling._fork._HookedByte(2)  # which no hook knows
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
            while not factory.gates["connect"].inside:
                time.sleep(0.001)

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
                while pool.stats().state != "draining":
                    time.sleep(0.001)

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
                until = time.monotonic() + 10
                while threading.active_count() > 1:
                    assert time.monotonic() < until, threading.enumerate()
                    time.sleep(0.01)

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

            def until(condition):
                end = time.monotonic() + 10
                while not condition():
                    assert time.monotonic() < end, heard
                    time.sleep(0.001)

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


# -- the threads of the parent ------------------------------------------------------------------------

# Whether os.fork warns of other threads decides how the reaper comes back after it: both ways on every version.
COUNTS = pytest.mark.parametrize("counts", [True, False], ids=["counted", "not counted"])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the warning came with 3.12")
def test_forking_a_quiet_pool_warns_of_nothing() -> None:
    run_python(
        script(
            """
            import pooling._runtime
            pooling._runtime.AT_FORK = 10.0  # on a busy machine a thread may need more than 50 ms to end
            pool = Pool(factory, max_size=2, keepalive=60)
            for _ in range(20):
                pool.acquire(timeout=5).release()
                in_child(lambda: pool.acquire(timeout=5).release())
            in_child(lambda: in_child(lambda: pool.acquire(timeout=5).release()))
            pool.acquire(timeout=5).release()
            pool.close()
            """
        ),
        options=("-W", "always"),  # as an error the warning would be swallowed
    )


@COUNTS
@pytest.mark.parametrize("without", ["", "sys.modules['ctypes'] = None"])
def test_what_is_due_in_the_parent_is_done_also_if_it_never_uses_the_pool_again(counts: bool, without: str) -> None:
    run_python(
        f"import pooling._runtime; pooling._runtime.COUNTED = {counts}\n"
        + script(
            f"""
            {without}
            pool = Pool(factory, max_size=2, idle_timeout=0.3)
            pool.acquire().release()
            for _ in range(3):
                in_child(lambda: None)
            until = time.monotonic() + 10
            while factory.open:
                assert time.monotonic() < until
                time.sleep(0.01)
            while pool.stats().closed != {{"idle": 1}}:
                assert time.monotonic() < until, pool.stats()
                time.sleep(0.01)
            pool.close()
            """
        ),
        options=LENIENT,
    )


@COUNTS
def test_a_fork_by_another_thread_leaves_the_reaper_running_though_the_main_one_does_nothing(counts: bool) -> None:
    run_python(
        f"import pooling._runtime; pooling._runtime.COUNTED = {counts}\n"
        + script(
            """
            pool = Pool(factory, max_size=2, idle_timeout=0.3)
            pool.acquire().release()
            problems = []

            def work():
                in_child(lambda: None)
                until = time.monotonic() + 10
                while factory.open and time.monotonic() < until:
                    time.sleep(0.01)
                problems.extend([pool.stats()] * factory.open)

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            assert not problems, problems
            pool.close()
            """
        ),
        options=LENIENT,
    )


@COUNTS
def test_a_fork_ends_the_threads_that_have_nothing_to_do_and_starts_none_without_need(counts: bool) -> None:
    run_python(
        f"import pooling._runtime; pooling._runtime.COUNTED = {counts}\n"
        + script(
            """
            pool = Pool(factory, max_size=2, idle_timeout=None, max_lifetime=None, connect_timeout=0.1)
            pool.acquire().release()
            assert threading.active_count() > 1
            time.sleep(0.3)  # nothing is due any more
            in_child(lambda: None)
            assert threading.active_count() == 1, threading.enumerate()
            pool.acquire()                     # dropped: the orphan is found by the next who comes
            pool.acquire(timeout=5).release()
            pool.close()
            """
        ),
        options=LENIENT,
    )


@COUNTS
def test_a_child_that_forks_before_it_uses_a_pool_leaves_its_parents_threads_and_locks_alone(counts: bool) -> None:
    run_python(
        f"import pooling._runtime; pooling._runtime.COUNTED = {counts}\n"
        + script(
            """
            pool = Pool(factory, max_size=2, keepalive=60)
            pool.acquire().release()
            locked, done = threading.Event(), threading.Event()
            threads = pooling._runtime.THREADS

            def hold():
                with threads._reaper._starting:
                    locked.set()
                    done.wait()

            def child():
                threads._pid = pid
                in_child(lambda: None)
                assert threading.active_count() == 1
                assert factory.abandoned == []
                in_child(lambda: pool.acquire(timeout=5).release())
                pool.acquire(timeout=5).release()

            holder = threading.Thread(target=hold)
            holder.start()
            locked.wait()
            # The hook must not wait for the holder: what is meant is one that comes between the hook and the fork.
            pid, threads._pid = threads._pid, 0
            in_child(child)
            threads._pid = pid
            done.set()
            holder.join()
            pool.close()
            """
        ),
        options=LENIENT,
    )


@COUNTS
def test_a_worker_that_hangs_does_not_hold_a_fork_up_for_long(counts: bool) -> None:
    run_python(
        f"import pooling._runtime; pooling._runtime.COUNTED = {counts}\n"
        + script(
            """
            pool = Pool(factory, max_size=2)
            factory.gates["connect"].never()
            waiting = threading.Thread(target=lambda: pool.acquire(timeout=10).release())
            waiting.start()
            while not factory.gates["connect"].inside:
                time.sleep(0.001)
            for _ in range(5):
                start = time.monotonic()
                in_child(lambda: None)
                assert time.monotonic() - start < 1.0
            factory.gates["connect"].ok()
            waiting.join()
            pool.close()
            """
        ),
        options=LENIENT,
    )


def test_waiting_for_a_threads_end_waits_for_the_systems_own_thread_too() -> None:
    """As far as the system tells: join() of Python 3.12 is back a little before."""

    class Joined(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            pass

    done = threading.Event()
    thread = Joined(target=done.wait)
    thread.start()
    start = time.monotonic()
    await_end(thread, start + 0.05)
    waited = time.monotonic() - start
    done.set()
    threading.Thread.join(thread)
    assert waited >= 0.05 or not os.path.exists("/proc/self/task")
    await_end(thread, time.monotonic() + 10)
    assert time.monotonic() - start < 5


def test_a_thread_that_is_a_greenlet_is_only_joined() -> None:
    """gevent's threads are all on one thread of the system, which never ends."""

    class Greenlet(threading.Thread):
        native_id = threading.get_native_id()  # type: ignore[assignment]

    greenlet = Greenlet()
    greenlet.start()
    start = time.monotonic()
    await_end(greenlet, start + 60)
    assert not greenlet.is_alive()
    assert time.monotonic() - start < 30


def test_a_reaper_that_cannot_be_started_again_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    class Due:
        def due_at(self) -> float:
            return 0.0

        def look(self) -> None:
            pass

    threads, pool = Threads(), Due()
    threads.watch(pool)
    monkeypatch.setattr(threading.Thread, "start", refused)
    threads.resume()
    assert threads._reaper._thread is None
