"""A cache of daemon threads that do the driver's I/O, one for the whole process.

A job never waits for another: there is an idle thread for it, or a new one is started (0.1 ms), so a hung driver
call holds nobody up. How many jobs there may be, each pool decides. (The idea of such a cache is trio's.)
"""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from pooling._clock import monotonic

Job = Callable[[], None]
IDLE = 5.0  # seconds after which a thread without work ends
BIRTH = 1.0  # seconds that a new thread is waited for: on a busy machine it may take its time
TRIES = 3  # threads that are started, one after the other, until one begins
_LOOK = 0.0002  # seconds between two looks whether the system has let go of a thread
_names = itertools.count(1)


def await_end(thread: threading.Thread, until: float) -> None:
    """Wait until a thread is gone, or for that time; not for the calling one."""
    if thread is threading.current_thread():
        return
    try:
        thread.join(max(0.0, until - monotonic()))
    except RuntimeError:
        return  # another thread is just starting it, for a job: it has an identity before it can be joined
    if thread.native_id == threading.get_native_id():
        return  # gevent's threads are greenlets, on the same thread of the system
    # Before 3.13 join() can come back a little before the system's own thread has ended, and os.fork counts those.
    while os.path.exists(f"/proc/self/task/{thread.native_id}") and monotonic() < until:
        time.sleep(_LOOK)


class _Begun:
    """What Thread.start() waits for, in time, in the place of an event: that the new thread has come to where it is to
    work, not that it is there. It may end between the two, for want of memory say, and what it was given would lie
    there for ever. Nor can it end inside an event, whose lock would stay taken, and whoever starts it wait for that.
    """

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()
        self.arrived = False
        born: list[bool] = []
        # What threading calls, the first on the new thread, before any tracer comes there: C alone.
        self.set, self.is_set = partial(born.append, True), partial(bool, born)

    def arrive(self) -> None:
        self.arrived = True
        self._gate.release()

    def wait(self) -> None:
        """Called by threading, on the thread that starts the new one."""
        self._gate.acquire(True, BIRTH)

    def _at_fork_reinit(self) -> None:
        """In a forked child, where nobody waits for it."""


def check_running() -> None:
    """Raise RuntimeError where the interpreter is ending. From 3.12 on a thread cannot be started then; before, it can,
    and never runs, as none does that is there already."""
    if sys.is_finalizing():
        raise RuntimeError("no thread runs any more: the interpreter is ending")


def arrive() -> None:
    """The first thing that a thread does which was started by begin()."""
    threading.current_thread()._started.arrive()  # type: ignore[attr-defined]  # as in begin()


def begin(thread: threading.Thread) -> bool:
    """Start a thread. False where it has not begun after a while. Raises RuntimeError where none can be started.

    An exception that is sent to whoever starts a thread may strike the newborn one, which goes by its parent's identity
    until it runs (``PyThreadState_SetAsyncExc``). It ends unseen then, and Thread.start() would wait for it for ever.
    """
    check_running()
    begun = thread._started = _Begun()  # type: ignore[attr-defined]  # called so from Python 3.3 to 3.14 at least
    thread.start()
    return begun.arrived


class Workers:
    """Hands jobs to threads. Everything here is safe without a lock: a deque's two ends are atomic."""

    def __init__(self) -> None:
        self._idle: deque[_Worker] = deque()
        self._all: set[_Worker] = set()
        self._parked = False

    def submit(self, job: Job) -> None:
        """Run the job on a thread. Raises RuntimeError where none can be started."""
        check_running()
        self._parked = False
        worker = self._rested() or self._hired()
        worker.jobs.put(job)

    def _rested(self) -> _Worker | None:
        while self._idle:
            try:
                return self._idle.pop()
            except IndexError:  # another thread took the last one
                break
        return None

    def _hired(self) -> _Worker:
        for _ in range(TRIES):
            worker = _Worker(self)
            self._all.add(worker)
            try:
                if begin(worker.thread):
                    return worker
            except BaseException:
                self._all.discard(worker)
                raise
            self._all.discard(worker)
        # Nothing strikes that often. A test has put something of its own in the place of threading.Thread.
        raise RuntimeError("can't start new thread: none that is started begins")

    def park(self, patience: float) -> None:
        """Let idle threads end, and those that are nearly done; wait ``patience`` seconds for it at most. The next
        job starts them again."""
        self._parked = True
        everybody = list(self._all)  # before any of them ends: they leave while they still run
        while self._idle:
            try:
                self._idle.pop().jobs.put(None)
            except IndexError:
                break
        end = monotonic() + patience
        for worker in everybody:
            if worker.busy_since < end - 2 * patience:
                continue  # it hangs
            await_end(worker.thread, end)

    def retire(self, worker: _Worker) -> bool:
        """Whether an idle worker may end: not if a job was just given to it."""
        try:
            self._idle.remove(worker)
        except ValueError:
            return False
        return True

    def rest(self, worker: _Worker) -> bool:
        """A worker has done its job. False: it is to end."""
        self._idle.append(worker)
        # Looked at after the append: park() sets the flag first and empties the deque then.
        return not (self._parked and self.retire(worker))

    def gone(self, worker: _Worker) -> None:
        self.retire(worker)  # one that was struck while it had nothing to do: nobody is to give it a job
        self._all.discard(worker)


class _Worker:
    def __init__(self, owner: Workers) -> None:
        self._owner = owner
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.busy_since = float("inf")
        self.thread = threading.Thread(target=self._run, name=f"pooling-worker-{next(_names)}", daemon=True)

    def _run(self) -> None:
        try:
            arrive()
            self._work()
        finally:
            self._owner.gone(self)

    def _work(self) -> None:
        # A function of its own: CPython takes the jump at the end of a loop for a place outside of the "try" around it.
        given = True  # whether the job of whoever took it out of the idle ones may still come
        while True:
            try:
                job = self.jobs.get(timeout=IDLE)
            except queue.Empty:
                # Neither idle nor given a job all this time: an exception has struck whoever took it before it was.
                if self._owner.retire(self) or not given:
                    return
                given = False
                continue
            given = True
            if job is None:
                return
            self.busy_since = monotonic()
            job()
            del job  # while it waits for the next one it must keep nothing alive
            self.busy_since = float("inf")
            if not self._owner.rest(self):
                return
