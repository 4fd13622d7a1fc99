"""Something that is done every so many seconds, on the threads that the pools have anyway."""

from __future__ import annotations

import logging
import math
import os
import threading  # never "from threading import": gevent replaces what the module holds
from collections.abc import Callable
from typing import Any

from pooling._log import write
from pooling._runtime.lock import alone
from pooling._runtime.threads import THREADS, Runtime
from pooling.config import seconds

_log = logging.getLogger("pooling")
_running: set[Periodic] = set()  # what was started lives until it is stopped, whoever else keeps it
_held: dict[int, list[Any]] = {}  # while a thread forks, by that: several may do so at once
AT_FORK = 0.05  # seconds that a fork waits for a call under way, at most
AT_END = 1.0  # seconds that whoever stops it, or calls by himself, waits for the same


class Periodic:
    """Calls ``action`` on a worker thread every ``interval`` seconds, from :meth:`start` to :meth:`stop`, or until it
    returns False. One call that takes longer than that delays the next ones; none are made at the same time.

    In a forked child it goes on by itself, with threads of its own.
    """

    def __init__(self, action: Callable[[], bool], interval: float, runtime: Runtime | None = None) -> None:
        seconds("interval", interval, positive=True, optional=False)
        self._action = action
        self._interval = interval
        self._runtime: Runtime = runtime or THREADS
        self._due = math.inf
        self._acting = threading.RLock()  # which knows whose it is
        self.began = self._runtime.now()
        """When it was started, or its process forked."""

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self in _running

    def start(self) -> None:
        """Begin, with the first call one interval from now. Does nothing to one that runs."""
        if not self.running:
            _running.add(self)
            self._begin()

    def stop(self) -> None:
        """End. Where a call is being made by another thread, waits for that for a second at most."""
        _running.discard(self)
        self._due = math.inf
        alone(self._acting, AT_END, lambda: True)
        self._runtime.forget(self)

    def now(self) -> None:
        """Make a call on this thread, after one that is being made by another: none where that hangs."""
        alone(self._acting, AT_END, self._action)

    # -- what the reaper calls ----------------------------------------------------------------------------

    def due_at(self) -> float:
        """When :meth:`look` is to be called."""
        return self._due

    def look(self) -> None:
        """Have a worker make the call: the reaper has no time for it."""
        if self._due != math.inf:
            self._due = self._runtime.now() + self._interval
            self._runtime.submit(self._act)

    def _act(self) -> None:
        try:
            goes_on = alone(self._acting, 0.0, self._action)
        except Exception:
            write(_log.exception, "a periodic report failed")  # the next one may not
            return
        if goes_on is False:
            _running.discard(self)
            self._due = math.inf
            self._runtime.forget(self)

    def _begin(self) -> None:
        self.began = self._runtime.now()
        self._due = self.began + self._interval
        self._runtime.watch(self)
        self._runtime.alarm(self._due)

    def _begin_anew(self) -> None:
        """In a forked child: the parent's threads do not exist here, and its lock may be held by one."""
        self._acting = threading.RLock()
        self._runtime.renew()
        self._begin()


def _before_fork() -> None:
    """A call that is being made may hold a lock of somebody else's, which would stay locked in the child."""
    acting = [periodic._acting for periodic in tuple(_running)]
    _held.setdefault(threading.get_ident(), []).extend(lock for lock in acting if lock.acquire(timeout=AT_FORK))


def _in_parent() -> None:
    mine = _held.get(threading.get_ident(), [])
    while mine:
        mine.pop().release()
    _held.pop(threading.get_ident(), None)


def _in_child() -> None:
    _held.clear()
    for periodic in tuple(_running):
        try:
            periodic._begin_anew()
        except Exception:
            write(_log.exception, "a periodic report cannot go on in a forked child")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
