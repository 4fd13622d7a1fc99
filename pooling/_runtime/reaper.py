"""The one background thread for all pools of the process: it calls a pool when its alarm is due, or when a token died.

It holds pools weakly, sleeps for ever while nothing is due, starts with the first alarm and ends with the last
pool.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from pooling._clock import monotonic
from pooling._log import write
from pooling._runtime.lock import new_lock, under
from pooling._runtime.workers import arrive, await_end, begin, check_running

_log = logging.getLogger("pooling")

PAUSE = 1.0  # seconds until a pool whose upkeep has failed is looked at again
BREATH = 0.01  # seconds after which the reaper goes on that was struck by an exception


class Watched(Protocol):
    """What the reaper needs of a pool."""

    def due_at(self) -> float:
        """When the next look is due; ``-inf`` for at once. Called without the pool's lock."""

    def look(self) -> None:
        """Have a look."""


class _Ref(weakref.ref[Watched]):
    """Known by itself, however a pool compares, and whoever has its address after it."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Reaper:
    """``at_rest`` is called by the reaper's thread when the last pool is gone."""

    def __init__(self, at_rest: Callable[[], None]) -> None:
        self._at_rest = at_rest
        self._pools: dict[_Ref, None] = {}  # in the order in which they came
        self._pokes: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        # Re-entrant: starting a thread can run the garbage collector, and with it a destructor that closes a pool.
        self._starting = new_lock()
        self.wakes_at = float("inf")
        # SimpleQueue.put is written in C and may be called from anywhere, weak-reference callbacks included.
        self.poke = self._pokes.put

    def watch(self, pool: Watched) -> None:
        if self._thread is None:
            self._thin_out()
        self._pools[_Ref(pool, self.poke)] = None

    def forget(self, pool: Watched) -> bool:
        """Whether no pool is left."""
        for ref in list(self._pools):
            if ref() is pool:
                self._pools.pop(ref, None)
        return not self._living()

    def alarm(self, when: float) -> None:
        """A pool's next look is due at this time."""
        # A parked thread has left its last wake-up behind, which says nothing.
        if when < self.wakes_at or self._thread is None:
            self.poke(None)
            try:
                self._start()
            except RuntimeError:
                # No thread can be started (the interpreter is ending, or a limit): waiters look by themselves.
                self._thin_out()

    def park(self, patience: float) -> None:
        """Let the thread end; the next alarm starts it again, or :meth:`resume`."""
        if sys.is_finalizing():
            return  # it has ended already, with the lock in its hands perhaps
        thread = under(self._starting, self._dismiss)
        self.poke(None)
        if thread is not None:
            await_end(thread, monotonic() + patience)

    def _dismiss(self) -> threading.Thread | None:
        thread, self._thread = self._thread, None
        return thread

    def resume(self) -> None:
        """Start the thread again if anything is going to be due. Raises RuntimeError where none can be started."""
        if any(pool.due_at() < float("inf") for pool in self._living()):
            self._start()

    def watches(self) -> bool:
        """Whether there is any pool."""
        return bool(self._living())

    def _thin_out(self) -> None:
        """Keep one of the pokes that nobody reads: pools may come and go for ever without anything that is ever due."""
        try:
            while True:
                self._pokes.get_nowait()
        except queue.Empty:
            pass
        finally:
            self.poke(None)  # one of them may have been meant for a thread that has come meanwhile

    def _start(self) -> None:
        check_running()  # before the lock: as in park()
        if not self._starting._is_owned():  # else such a destructor has struck in here
            under(self._starting, self._start_thread)

    def _start_thread(self) -> None:
        if self._thread is not None and self._thread.is_alive():  # else it was struck before its first line
            return
        self.wakes_at = float("inf")
        thread = threading.Thread(target=self._run, name="pooling-reaper", daemon=True)
        if begin(thread):
            self._thread = thread  # else the next alarm starts another

    def _living(self) -> list[Watched]:
        living = []
        for ref in list(self._pools):  # at once, while the collector cannot run, and a destructor that closes a pool
            pool = ref()
            if pool is None:
                self._pools.pop(ref, None)
            else:
                living.append(pool)
        return living

    def _run(self) -> None:
        arrive()
        me = under(self._starting, threading.current_thread)  # not before _thread is set
        try:
            self._live(me)
        finally:
            if self._thread is me:  # struck once more, in that breath: the next alarm starts another
                self._thread = None
        if self._thread is not None:
            self.poke(None)  # what woke this thread may have been meant for its successor

    # Functions of their own: CPython looks for a signal where a loop jumps back, and takes that for a place outside of
    # any "try" around the loop.

    def _live(self, me: threading.Thread) -> None:
        while self._thread is me:
            try:
                self._turns(me)
            except BaseException:  # sent to this thread from outside: the pools need their reaper all the same
                time.sleep(BREATH)

    def _turns(self, me: threading.Thread) -> None:
        while self._thread is me:
            self._turn(me)

    def _turn(self, me: threading.Thread) -> None:
        """Look at the pools, and sleep until the next look is due."""
        # An alarm that is set while the pools are asked must not be missed: until the answer is known, every
        # alarm counts as earlier than the next wake-up, so it pokes.
        self.wakes_at = float("inf")
        wakes_at = self._round()
        if wakes_at is None:
            if self._end():
                self._at_rest()
            return
        if self._thread is not me:
            return
        self.wakes_at = wakes_at
        timeout = None if wakes_at == float("inf") else max(0.0, wakes_at - monotonic())
        try:
            self._pokes.get(timeout=timeout if timeout is None else min(timeout, threading.TIMEOUT_MAX))
            while True:
                self._pokes.get_nowait()
        except queue.Empty:
            pass

    def _end(self) -> bool:
        """Whether the thread may end: not if a pool has come while it made up its mind."""
        return under(self._starting, self._end_if_alone)

    def _end_if_alone(self) -> bool:
        if self._living():
            return False
        self._thread = None
        return True

    def _round(self) -> float | None:
        """Look at every pool that is due; when the next one is, or None with no pool left."""
        pools = self._living()
        if not pools:
            return None
        return min(self._visit(pool) for pool in pools)

    def _visit(self, pool: Watched) -> float:
        """Look at a pool if that is due; when the next look is."""
        if pool.due_at() <= monotonic():
            try:
                pool.look()
            except BaseException:
                # Whatever is wrong with one pool, the others need their reaper; and the reaper a pause.
                write(_log.exception, "a pool's upkeep failed")
                return monotonic() + PAUSE
        return pool.due_at()
