"""The one thread that looks at the pools of a page once a second, while there is a page.

It begins with :meth:`Watch.begin`, in each process by itself: a forked child has none of its parent's threads, and
pools with a past of their own. It holds the watch weakly between two looks, and ends with it.
"""

from __future__ import annotations

import logging
import math
import queue
import secrets
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pooling._clock import monotonic
from pooling._log import write
from pooling._runtime.fork import PerProcess
from pooling._runtime.lock import new_lock
from pooling.integrations.page._history import EVERY, History
from pooling.pool import Pool

LATE = 3 * EVERY  # seconds without a look after which whoever asks looks for himself
_log = logging.getLogger("pooling.page")


class _Here:
    """What a watch has in one process."""

    def __init__(self) -> None:
        self.lock = new_lock()  # over histories, tick and thread
        self.run = secrets.token_hex(4)
        self.histories: weakref.WeakKeyDictionary[Pool[Any], History] = weakref.WeakKeyDictionary()
        self.tick = 0
        self.looked_at = -math.inf
        # Its put() is written in C and may be called by the garbage collector, wherever that strikes.
        self.ending: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None


class Watch:
    """The histories of the pools. Any thread may call anything."""

    def __init__(self, pools: Callable[[], dict[str, Pool[Any]]]) -> None:
        self.pools = pools
        self._here = PerProcess(_Here)
        self._ended = False

    def begin(self) -> None:
        """Have the thread running, in this process. Does nothing where it runs, or after :meth:`end`."""
        here = self._here()
        with here.lock:
            if here.thread is not None or self._ended:
                return
            here.thread = threading.Thread(
                target=_run, args=(weakref.ref(self), here.ending), name="pooling-page", daemon=True
            )
            weakref.finalize(self, here.ending.put, None).atexit = False
            here.thread.start()
        self.tick()

    def end(self) -> None:
        """Let the thread end, for good."""
        self._ended = True
        here = self._here()
        here.ending.put(None)
        thread = here.thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(5.0)

    def tick(self) -> None:
        """Look at every pool once."""
        here = self._here()
        with here.lock:
            here.tick += 1
            here.looked_at = monotonic()
        for pool in self.pools().values():
            try:
                stats = pool.stats()
            except Exception:
                write(_log.exception, "pool %r could not be looked at", pool.name)
                continue
            with here.lock:
                _history(here, pool).add(here.tick, stats)

    def catch_up(self) -> None:
        """Look now, where the thread is late by far: some servers let no thread run but their own."""
        if not self._ended and monotonic() - self._here().looked_at > LATE:
            self.tick()

    @contextmanager
    def history(self, pool: Pool[Any]) -> Iterator[History]:
        """A pool's history, while nobody writes to it."""
        here = self._here()
        with here.lock:
            yield _history(here, pool)

    @property
    def run(self) -> str:
        """Tells this process's histories from those of another process, or another run."""
        return self._here().run


def _history(here: _Here, pool: Pool[Any]) -> History:
    history = here.histories.get(pool)
    if history is None:
        history = here.histories[pool] = History()
    return history


def _run(reference: weakref.ref[Watch], ending: queue.SimpleQueue[None]) -> None:
    while not _ends(ending):
        watch = reference()
        if watch is None:
            return
        try:
            watch.tick()
        except Exception:
            # Whatever is wrong with what the page was given, the next look may go well.
            write(_log.exception, "the pools could not be looked at")
        del watch


def _ends(ending: queue.SimpleQueue[None]) -> bool:
    """Whether the end has come before it is time for the next look."""
    try:
        ending.get(timeout=EVERY)
    except queue.Empty:
        return False
    return True
