"""First come, first served, watched from outside: without a look into the pool, and without a false alarm.

A stamp taken before acquire() says little: between the stamp and the queue, and again between being served and
noticing it, a thread may be off the processor for as long as the scheduler likes. So nothing here is a matter of
milliseconds. B has overtaken A only if both of these are certain:

1. A waited when B came. The watch has seen A's thread blocked inside its acquire(), on the semaphore that is its bell
   (in pools that are not ours, on a condition variable), at a moment before B called acquire(). Whoever blocks has
   joined the queue.
2. B was served before A. B's acquire() had returned before the connection that A was given became free: before the
   user ahead of A on that connection began to release it, or before a worker began to hand it over. A can not have
   been served any earlier than that, whenever its thread may have noticed.

In a pool that hands over in the order of the queue both can never be true together. In one that lets newcomers barge,
or serves the last first, it takes as long as one sample of the watch to see it.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import deque
from operator import attrgetter
from types import FrameType

from pooling._runtime.bell import Bell
from pooling.cli.stress._verdict import Invariant, Verdict

REMEMBERED = 20_000  # services looked back on
_served_at = attrgetter("served")


class Attempt:
    """One acquire(), by stamps in nanoseconds."""

    __slots__ = ("called", "free_since", "seen", "served", "user")

    def __init__(self, user: str) -> None:
        self.user = user
        self.seen = 0  # when the watch saw it wait; 0: not yet
        self.served = 0
        self.free_since = 0  # when the connection it got became free
        self.called = time.monotonic_ns()


class OrderWatch:
    """Users report their attempts from their own threads; one other thread calls :meth:`look`."""

    def __init__(self, verdict: Verdict) -> None:
        self.watched = 0
        """Waits that were seen, served, and compared with everybody who came later."""
        self._verdict = verdict
        self._waiting: dict[int, Attempt] = {}
        self._reported: deque[Attempt] = deque()
        self._unjudged: list[Attempt] = []
        self._served: list[Attempt] = []  # by the time of their service

    @property
    def waiting(self) -> int:
        """Users inside acquire()."""
        return len(self._waiting)

    # -- users ------------------------------------------------------------------------------------------

    def begin(self, user: str) -> Attempt:
        """To be called right before acquire()."""
        attempt = self._waiting[threading.get_ident()] = Attempt(user)
        return attempt

    def end(self, attempt: Attempt) -> None:
        """To be called right after acquire(), however it ended."""
        attempt.served = time.monotonic_ns()
        self._waiting.pop(threading.get_ident(), None)

    def served(self, attempt: Attempt, free_since: int) -> None:
        """The attempt brought a connection that was free since then."""
        attempt.free_since = free_since
        self._reported.append(attempt)

    # -- the watch --------------------------------------------------------------------------------------

    def look(self) -> None:
        """See who is blocked, and judge who was served."""
        self._sample()
        judged, self._unjudged = self._unjudged, []
        while self._reported:
            attempt = self._reported.popleft()
            insort(self._served, attempt, key=_served_at)
            if attempt.seen:
                self._unjudged.append(attempt)
        # One look later: those who were served at about the same time have reported by then.
        for attempt in judged:
            self._judge(attempt)
        del self._served[:-REMEMBERED]

    def _sample(self) -> None:
        waiting = {ident: attempt for ident, attempt in self._waiting.copy().items() if not attempt.seen}
        if not waiting:
            return
        frames = _frames()
        try:
            for ident, attempt in waiting.items():
                # Under way before the sample and after it: then also at the moment of the sample.
                if _is_blocked(frames.get(ident)) and self._waiting.get(ident) is attempt:
                    attempt.seen = time.monotonic_ns()
        finally:
            frames.clear()  # it holds this function's own frame, and with it itself

    def _judge(self, late: Attempt) -> None:
        self.watched += 1
        first = bisect_right(self._served, late.seen, key=_served_at)
        end = bisect_left(self._served, late.free_since, key=_served_at)
        for early in self._served[first:end]:
            if early.called > late.seen:
                self._verdict.broke(
                    Invariant.ORDER,
                    f"{early.user} came {_ms(early.called - late.seen)} after {late.user} was seen waiting, and was "
                    f"served {_ms(late.free_since - early.served)} before the connection was free that {late.user} got",
                )
                return


def _frames() -> dict[int, FrameType]:
    """What every thread is doing at this moment."""
    # Before Python 3.12 an allocation can run the collector, here inside the interpreter's own lock; what is collected
    # may need that lock, and then the whole process stands still (https://github.com/python/cpython/issues/106883).
    collects = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if collects:
            gc.enable()


def _is_blocked(frame: FrameType | None) -> bool:
    """Whether a thread waits in a queue: at its bell in our pools, in other ones in Condition.wait(), unless that is
    Thread.start(), which waits on an Event."""
    if frame is not None and frame.f_code is Bell.wait.__code__:
        return True
    if frame is None or frame.f_code is not threading.Condition.wait.__code__:
        return False
    below = frame.f_back
    return below is not None and below.f_code is not threading.Event.wait.__code__


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.3f} ms"
