"""Fakes for tests of pools and of code that uses them: a factory with gates, and a clock that is moved by hand.

A test with real time::

    factory = FakeFactory()
    pool = Pool(factory, max_size=2)
    factory.gates["connect"].error(ConnectionRefusedError())   # the next connects fail

A test in virtual time, where everything happens on one thread at a time, in the same order on every run::

    with ManualClock() as clock:
        factory = FakeFactory(clock)
        pool = Pool(factory, max_size=1, runtime=clock)
        lease = pool.acquire()                       # workers run while the test waits
        waiting = clock.spawn(pool.acquire, 5.0)     # an acquire that has to wait
        clock.advance(1.0)                           # one second passes
        lease.release()
        clock.advance(0)                             # let everybody act who can
        assert waiting.result() is not None
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pooling._ledger.queue import Turn, Waiter
from pooling._runtime.bell import Bell
from pooling._runtime.lock import Lock
from pooling._runtime.reaper import Watched
from pooling._runtime.workers import Workers
from pooling.factory import Factory, ResetMode

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Actor", "FakeBroken", "FakeConnection", "FakeFactory", "FakePermanent", "Gate", "ManualClock"]


class Gate:
    """What a hook of a fake does when it is called: pass (the default), raise, take its time, or never come back."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self._clock = clock
        self.mode: Literal["ok", "error", "slow", "never"] = "ok"
        self._error: BaseException | None = None
        self._delay = 0.0
        self._opened = threading.Event()
        self._stuck: list[Actor] = []
        self.calls = 0
        self.inside = 0

    def ok(self) -> None:
        """Let everybody pass, those stuck inside as well."""
        self.mode = "ok"
        self._opened.set()
        stuck, self._stuck = self._stuck, []
        for actor in stuck:
            actor.wake()

    def error(self, error: BaseException) -> None:
        """Raise this at every call."""
        self.mode, self._error = "error", error

    def slow(self, seconds: float) -> None:
        """Take this long at every call."""
        self.mode, self._delay = "slow", seconds

    def never(self) -> None:
        """Do not come back until :meth:`ok`."""
        self.mode = "never"
        self._opened = threading.Event()

    def enter(self, *_: Any) -> None:
        """What the hook calls."""
        self.calls += 1
        self.inside += 1
        try:
            if self.mode == "error" and self._error is not None:
                raise self._error.with_traceback(None)  # else it would grow by each raise
            if self.mode == "slow":
                self._sleep(self._delay)
            elif self.mode == "never":
                self._stick()
        finally:
            self.inside -= 1

    def __repr__(self) -> str:
        return f"<Gate {self.mode}: {self.calls} calls, {self.inside} inside>"

    def _sleep(self, seconds: float) -> None:
        if self._clock is not None:
            self._clock.sleep(seconds)
        else:
            threading.Event().wait(seconds)

    def _stick(self) -> None:
        opened = self._opened
        if self._clock is None:
            opened.wait()
        else:
            while not opened.is_set():
                self._stuck.append(self._clock.current)
                self._clock.block(None)


class FakeBroken(ConnectionError):
    """An error that :class:`FakeFactory` calls broken."""


class FakePermanent(Exception):
    """A connect error that :class:`FakeFactory` calls permanent."""


class FakeConnection:
    """A connection that remembers what was done with it. Set ``dirty`` or ``dead`` to make it so."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.dirty = False
        self.dead = False
        self.interrupted = False
        self.resets = 0
        self.checks = 0
        self.closed = False

    def __repr__(self) -> str:
        state = [word for word in ("dirty", "dead", "closed") if getattr(self, word)]
        return f"<FakeConnection {self.number}{' ' if state else ''}{', '.join(state)}>"


class FakeFactory(Factory[FakeConnection]):
    """A factory of :class:`FakeConnection`, with a :class:`Gate` for each hook: ``gates["connect"]``, ``check``,
    ``reset``, ``close``. ``connections`` has every one it made; ``open`` and ``peak`` count those not closed."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.gates = {hook: Gate(clock) for hook in ("connect", "check", "reset", "close")}
        self.connections: list[FakeConnection] = []
        self.opened = self.closed = self.peak = 0
        self._lock = threading.Lock()

    @property
    def open(self) -> int:
        """Connections open now."""
        return self.opened - self.closed

    def connect(self, timeout: float) -> FakeConnection:
        self.gates["connect"].enter()
        with self._lock:
            self.opened += 1
            self.peak = max(self.peak, self.open)
            connection = FakeConnection(self.opened)
            self.connections.append(connection)
        return connection

    def close(self, connection: FakeConnection) -> None:
        try:
            self.gates["close"].enter()
        finally:  # a close that raises leaves nothing open either
            with self._lock:
                if not connection.closed:
                    connection.closed = True
                    self.closed += 1

    def check(self, connection: FakeConnection, timeout: float) -> None:
        self.gates["check"].enter()
        connection.checks += 1
        if connection.dead or connection.closed:
            raise FakeBroken("the connection is dead")

    def reset(self, connection: FakeConnection, mode: ResetMode) -> None:
        self.gates["reset"].enter()
        if connection.dead:
            raise FakeBroken("the connection is dead")
        connection.resets += 1
        connection.dirty = False

    def is_alive(self, connection: FakeConnection) -> bool:
        return not connection.dead and not connection.closed

    def is_clean(self, connection: FakeConnection) -> bool:
        return not connection.dirty

    def interrupt(self, connection: FakeConnection) -> None:
        connection.interrupted = True

    def begin(self, connection: FakeConnection) -> None:
        connection.dirty = True

    def commit(self, connection: FakeConnection) -> None:
        connection.dirty = False

    def rollback(self, connection: FakeConnection) -> None:
        connection.dirty = False

    def is_broken(self, error: BaseException) -> bool:
        return isinstance(error, FakeBroken)

    def is_permanent(self, error: BaseException) -> bool:
        return isinstance(error, FakePermanent)


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
