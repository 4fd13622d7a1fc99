"""Virtual time: a runtime in which everything runs one at a time, in a fixed order, and time is moved by hand."""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pooling._ledger.queue import Turn, Waiter
from pooling._runtime.bell import Bell
from pooling._runtime.lock import Lock
from pooling._runtime.reaper import Watched
from pooling._runtime.workers import Workers

if TYPE_CHECKING:
    from typing_extensions import Self


class _Ended(BaseException):
    """Ends an actor that is still blocked when its clock is closed."""


class Actor:
    """Something that runs under a :class:`ManualClock`: a worker's job, or a call that a test has spawned."""

    def __init__(self, clock: ManualClock, call: Callable[[], Any]) -> None:
        self._clock = clock
        self._call = call
        self._value: Any = None
        self._error: BaseException | None = None
        self._baton = threading.Lock()  # passed on by who has it: let go of once for each time that it is taken
        self._baton.acquire()
        self.done = False
        self.ended = False
        self.blocked = False

    def result(self) -> Any:
        """What the call returned, or raised; once, as no second reference is kept. Raises RuntimeError while it
        runs."""
        if not self.done:
            raise RuntimeError("it has not come back yet: advance the clock")
        value, error, self._value, self._error = self._value, self._error, None, None
        if error is not None:
            raise error
        return value

    def wake(self) -> None:
        """Let it go on, if it is blocked, as soon as its turn comes."""
        if self.blocked:
            self.blocked = False
            self._clock._ready.append(self)

    def _run(self) -> None:
        self._baton.acquire()
        self._clock.current = self
        try:
            if not self.ended:
                self._value = self._call()
        except _Ended:
            pass
        except BaseException as error:
            self._error = error
        self.done = True
        del self._call  # with all that it holds
        self._clock._leave()


class ManualClock:
    """A runtime for pools, in which time stands still unless it is advanced, and whatever would run on threads runs one
    at a time, in a fixed order. Pass it as ``Pool(..., runtime=clock)``; use it on one thread.

    Whoever blocks (an acquire, a slow gate, :meth:`sleep`) lets the others run; when all are blocked, time jumps to
    the next thing that is due. Raises RuntimeError where everybody waits for ever and nothing is due; where somebody
    waits in a pool something always is, so give each acquire a timeout.
    """

    def __init__(self) -> None:
        self._time = 1000.0
        self._pid = os.getpid()
        self._ready: deque[Actor] = deque()
        self._timers: list[tuple[float, int, Actor]] = []
        self._numbers = itertools.count()
        self._pools: list[weakref.ref[Watched]] = []
        self._looks: dict[int, Actor] = {}
        self._threads = Workers()
        self._blocked: set[Actor] = set()
        self._driver = Actor(self, lambda: None)
        self._stalled = False
        self.current = self._driver
        self.poke: Callable[[Any], None] = deque[Any](maxlen=1).append  # due_at() tells all there is to know

    # -- for tests ----------------------------------------------------------------------------------

    def now(self) -> float:
        """The time in seconds."""
        return self._time

    def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due meanwhile, up to and including its last moment."""
        self.sleep(seconds)
        self._look_at_pools()
        while self._ready:
            self.block(0)
            self._look_at_pools()

    def sleep(self, seconds: float) -> None:
        """Block whoever runs now for so many seconds."""
        until = self._time + seconds
        while True:
            self.block(until - self._time)
            if self._time >= until:
                return

    def spawn(self, call: Callable[..., Any], *args: Any, **options: Any) -> Actor:
        """Have a call run beside the test, from the next time that the test blocks."""
        actor = Actor(self, lambda: call(*args, **options))
        self._threads.submit(actor._run)
        self._ready.append(actor)
        return actor

    def close(self) -> None:
        """End everybody who is still blocked; whoever can run comes to his end."""
        while self._blocked or self._ready:
            if self._blocked:
                actor = self._blocked.pop()
                actor.ended = True
                actor.wake()
            self.block(0)
        self._threads.park(1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    # -- for pools: the runtime ------------------------------------------------------------------------

    def lock(self) -> Lock:
        return threading.RLock()  # type: ignore[return-value]  # never contended: one runs at a time

    def bell(self) -> Bell:
        return _ManualBell(self)

    def keep(self, bell: Bell) -> None:
        pass

    def submit(self, job: Callable[[], None]) -> None:
        self.spawn(job)

    def watch(self, pool: Watched) -> None:
        self._pools.append(weakref.ref(pool))

    def forget(self, pool: Watched) -> None:
        self._pools = [ref for ref in self._pools if ref() is not pool]

    def alarm(self, when: float) -> None:
        pass

    def renew(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError("a pool in virtual time cannot be used in a forked child")

    # -- the baton ------------------------------------------------------------------------------------

    def block(self, seconds: float | None) -> None:
        """Let others run until somebody wakes the current actor, or so many seconds are over (None: never)."""
        me = self.current
        if seconds is not None:
            heapq.heappush(self._timers, (self._time + seconds, next(self._numbers), me))
        me.blocked = True
        if me is not self._driver:
            self._blocked.add(me)
        self._pass_baton()
        me._baton.acquire()
        self._blocked.discard(me)
        # Whatever else would wake it is of the past.
        self._timers = [timer for timer in self._timers if timer[2] is not me]
        heapq.heapify(self._timers)
        self.current = me
        if me.ended:
            raise _Ended
        if me is self._driver and self._stalled:
            self._stalled = False
            raise RuntimeError("everybody waits for ever: nobody runs and nothing is due")

    def choose(self, ready: deque[Actor]) -> Actor:
        """Who of the ready ones runs next; the first, unless a subclass explores other orders."""
        return ready.popleft()

    def _pass_baton(self) -> None:
        self._look_at_pools()
        while not self._ready:
            when = min((self._timers[0][0] if self._timers else None, self._next_due()), key=_late)
            if when is None:
                self._stalled = True
                self._driver.wake()
                break
            self._time = max(self._time, when)
            while self._timers and self._timers[0][0] <= self._time:
                heapq.heappop(self._timers)[2].wake()
            self._look_at_pools()
        self.choose(self._ready)._baton.release()

    def _leave(self) -> None:
        """An actor is over: somebody else runs."""
        self._pass_baton()

    def _look_at_pools(self) -> None:
        for pool in self._unseen():
            if pool.due_at() <= self._time:
                self._looks[id(pool)] = self.spawn(pool.look)

    def _unseen(self) -> list[Watched]:
        """The pools that nobody is about to look at."""
        pools = [pool for ref in self._pools if (pool := ref()) is not None]
        return [pool for pool in pools if id(pool) not in self._looks or self._looks[id(pool)].done]

    def _next_due(self) -> float | None:
        due = [pool.due_at() for pool in self._unseen()]
        return min((when for when in due if when != float("inf")), default=None)


def _late(when: float | None) -> float:
    return float("inf") if when is None else when


class _ManualBell(Bell):
    """A bell that blocks an actor of a clock."""

    __slots__ = ("_clock", "_sleeper")

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self._sleeper: Actor | None = None

    def ring(self) -> None:
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            sleeper.wake()

    def wait(self, seconds: float, waiter: Waiter[Any]) -> None:
        if waiter.turn is Turn.WAITING:
            self._sleeper = self._clock.current
            self._clock.block(seconds if seconds != float("inf") else None)
            self._sleeper = None
