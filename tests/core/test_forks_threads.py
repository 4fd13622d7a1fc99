"""The parent's threads around a fork: those without work end before it, and what is due is done after it."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from pooling._runtime.threads import Threads
from pooling._runtime.workers import await_end
from tests.core.forking import LENIENT, script
from tests.core.helpers import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


# Whether os.fork warns of other threads decides how the reaper comes back after it: both ways on every version.
COUNTS = pytest.mark.parametrize("counts", [True, False], ids=["counted", "not counted"])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the warning came with 3.12")
def test_forking_a_quiet_pool_warns_of_nothing() -> None:
    run_python(
        script(
            """
            import pooling._runtime.threads
            pooling._runtime.threads.AT_FORK = 10.0  # on a busy machine a thread may need more than 50 ms to end
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
        f"import pooling._runtime.threads; pooling._runtime.threads.COUNTED = {counts}\n"
        + script(
            f"""
            {without}
            pool = Pool(factory, max_size=2, idle_timeout=0.3)
            pool.acquire().release()
            for _ in range(3):
                in_child(lambda: None)
            until(lambda: not factory.open)
            until(lambda: pool.stats().closed == {{"idle": 1}})
            pool.close()
            """
        ),
        options=LENIENT,
    )


@COUNTS
def test_a_fork_by_another_thread_leaves_the_reaper_running_though_the_main_one_does_nothing(counts: bool) -> None:
    run_python(
        f"import pooling._runtime.threads; pooling._runtime.threads.COUNTED = {counts}\n"
        + script(
            """
            pool = Pool(factory, max_size=2, idle_timeout=0.3)
            pool.acquire().release()
            problems = []

            def work():
                in_child(lambda: None)
                if not comes_true(lambda: not factory.open, 10):
                    problems.append(pool.stats())

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
        f"import pooling._runtime.threads; pooling._runtime.threads.COUNTED = {counts}\n"
        + script(
            """
            pool = Pool(factory, max_size=2, idle_timeout=None, max_lifetime=None, connect_timeout=0.1)
            pool.acquire().release()
            assert threading.active_count() > 1
            pooling._runtime.threads.AT_FORK = 10.0  # on a busy machine a thread may need more than 50 ms to end
            until(lambda: pool.due_at() == float("inf"), "nothing is due any more")
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
        f"import pooling._runtime.threads; pooling._runtime.threads.COUNTED = {counts}\n"
        + script(
            """
            pool = Pool(factory, max_size=2, keepalive=60)
            pool.acquire().release()
            locked, done = threading.Event(), threading.Event()
            threads = pooling._runtime.threads.THREADS

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
        f"import pooling._runtime.threads; pooling._runtime.threads.COUNTED = {counts}\n"
        + script(
            """
            pool = Pool(factory, max_size=2)
            factory.gates["connect"].never()
            waiting = threading.Thread(target=lambda: pool.acquire(timeout=10).release())
            waiting.start()
            until(lambda: factory.gates["connect"].inside)
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
