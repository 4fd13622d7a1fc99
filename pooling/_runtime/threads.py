"""Where a pool's time and threads come from: the real ones here, virtual ones in :mod:`pooling.testing`."""

from __future__ import annotations

import os
import sys
import threading  # never "from threading import": gevent replaces what the module holds
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from pooling._runtime.bell import Bell
from pooling._runtime.fork import PerProcess, once_back
from pooling._runtime.lock import Lock, new_lock
from pooling._runtime.reaper import Reaper, Watched
from pooling._runtime.workers import Workers

_renewing = PerProcess(new_lock)
PATIENCE = 0.25  # seconds that the last close() waits for the process's own threads to end
COUNTED = sys.version_info >= (3, 12)  # whether os.fork warns of other threads
SPARE = 256  # bells kept for those who come to wait
AT_FORK = 0.05  # seconds that a fork is held up for the same, at most


class Runtime(Protocol):
    """What a pool needs from the world around it."""

    def now(self) -> float: ...

    poke: Callable[[Any], None]
    """Wakes the reaper; called from weak-reference callbacks, so written in C."""

    def lock(self) -> Lock: ...

    def bell(self) -> Bell: ...

    def keep(self, bell: Bell, /) -> None:
        """Take a bell back that came through its wait unharmed. Somebody may still be about to ring it: who waits at it
        next looks up once for nothing."""

    def submit(self, job: Callable[[], None]) -> None: ...

    def watch(self, pool: Watched) -> None: ...

    def forget(self, pool: Watched) -> None: ...

    def alarm(self, when: float, /) -> None:
        """Have the reaper look at this time, or before."""

    def renew(self) -> None: ...


class Threads:
    """The real thing: one set of workers and one reaper for the process, made anew in a forked child."""

    def __init__(self) -> None:
        self.now = time.monotonic
        self._resumes_late: bool | None = None  # not known before the first fork
        self._build()

    def _build(self) -> None:
        self._bells: deque[Bell] = deque(maxlen=SPARE)
        self._workers = Workers()
        self._reaper = Reaper(at_rest=partial(self._workers.park, 0.0))
        self.poke: Callable[[Any], None] = self._reaper.poke
        # No methods of its own: whoever waits calls them.
        self.alarm: Callable[[float], None] = self._reaper.alarm
        self.keep: Callable[[Bell], None] = self._bells.append
        self._pid = os.getpid()

    def renew(self) -> None:
        """In a forked child: the parent's threads do not exist here."""
        pid = os.getpid()
        if self._pid != pid:
            with _renewing():
                if self._pid != pid:  # pragma: no branch  # else another thread of the child was first
                    self._build()

    def lock(self) -> Lock:
        return new_lock()

    def bell(self) -> Bell:
        """A bell that nobody waits at."""
        try:
            return self._bells.pop()
        except IndexError:
            return Bell()

    def submit(self, job: Callable[[], None]) -> None:
        self._workers.submit(job)

    def watch(self, pool: Watched) -> None:
        self._reaper.watch(pool)

    def forget(self, pool: Watched) -> None:
        """A pool is closed. With the last one the threads end."""
        if self._reaper.forget(pool):
            self.park(PATIENCE)

    def park(self, patience: float) -> None:
        """Let every thread that is not at work end, and wait ``patience`` seconds for it at most."""
        end = self.now() + patience
        # A worker at the end of its job may start the reaper, and the reaper's last round may have brought work.
        for group in (self._workers, self._reaper, self._workers):
            group.park(max(0.0, end - self.now()))

    def resume(self) -> None:
        """Go on after a park(): with the reaper now if anything is going to be due, with workers as jobs come."""
        if self._pid != os.getpid():
            return  # as in park_for_fork()
        try:
            self._reaper.resume()
        except RuntimeError:
            pass  # as in Reaper.alarm()

    def park_for_fork(self) -> None:
        """A fork beside other threads is warned of from Python 3.12 on, and rightly so: ours have ended when it
        happens, unless they are at work."""
        if self._pid != os.getpid():
            return  # a child that has used no pool yet: the threads and their locks are its parent's
        if COUNTED and self._resumes_late is None and self._reaper.watches():
            self._resumes_late = once_back(self.resume)
        self.park(AT_FORK)

    def resume_after_fork(self) -> None:
        """In the parent. Its threads are counted after its hooks have run, so the reaper must not start in one of
        those, unless there are other threads anyway."""
        if not self._resumes_late or threading.active_count() > 1:
            self.resume()


THREADS = Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=THREADS.park_for_fork, after_in_parent=THREADS.resume_after_fork)
