"""The pool: the lock, the clock, the hand to workers and reaper. What is decided, the ledger decides.

The plain path. While nobody waits and nothing is out of the ordinary, an acquire pops a token from the deque of idle
ones and a release puts it back, without the lock: both ends of a deque are atomic. Two flags that change together say
whether that is so: an acquire reads ``plain[0]``, which the kernel wipes in a forked child; a release reads
``roster.calm``, which is cheaper, and in a child gives back to books that nobody there uses. It stays strictly first
come, first served, and loses no wake-up:

1. A caller that finds no idle connection clears the flags under the lock, and only then looks at the deque.
2. A release appends first and reads its flag afterwards; where it is cleared it comes to the lock and settles.
3. Pop and append on one deque are totally ordered. If the append came first, the look of (1) finds it. If the look
   came first, the flags were cleared before it, so the release of (2) reads that.
4. An acquire that read 1 just before it became 0 takes a connection at the very moment another caller joins the queue:
   of two that come together, either may be the first.

Interrupts. Every change under the lock stands in ``with``, entered and left by C code. A token is in one place; an
exception between two lines drops it, and its weak reference reports that (see _entry.py). What was decided but not
yet done stays in the outbox for the next who comes.

Re-entrancy. A destructor, weak-reference callback or signal handler can strike while its own thread holds the lock. It
leaves what it reports in the inbox; the thread it interrupted finds it there before it goes on.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import sys
import threading  # never "from threading import": gevent replaces what the module holds
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from pooling import _report
from pooling._clock import DEFAULT, Default, Timeout
from pooling._ending import dropped
from pooling._entry import Entry, Token, named, thread_names
from pooling._fork import flag, settled
from pooling._hooks import Hooks
from pooling._ledger import Fate, Ledger
from pooling._moves import Job, Phase, Stuck
from pooling._notice import Notice
from pooling._runtime import THREADS, Runtime
from pooling._waiter import SERVED, WAITING, Turn, Waiter
from pooling.config import Backoff, Config, Options, count, offset, seconds
from pooling.errors import Holder, PoolError, PoolTimeout, QueueFull
from pooling.events import Listener, LogLines, Outlet
from pooling.factory import Factory, as_factory, overrides
from pooling.lease import Lease, Transaction, leased
from pooling.retry import Harmless, Retrying
from pooling.stats import PoolStats, Waiting

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

T = TypeVar("T")
R = TypeVar("R")

_frame = sys._getframe
FIRST_COME = 0.0  # the priority of those who give none
SLICE = 1.0  # seconds after which a waiter looks by itself: repair, should its wake-up have been lost to an exception
LOOKS = 64  # a second that all waiters together take, at most: of ten thousand, each looks once in minutes
SLICE_INLINE = 0.05  # the same where waiters do the I/O that time brings: nobody else would
KEEP_LEAST = 0.05  # seconds between two looks at a connection that the other side hardly keeps
_names = itertools.count(1)
_forked: dict[int, threading.Lock] = {}  # by process id


def _nothing() -> None:
    """A report of nothing, but that there is something to settle."""


class Pool(Generic[T]):
    """A pool of connections.

    ``factory`` is a :class:`pooling.Factory`, or any zero-argument callable that returns a connection with a
    ``close()``. The options are those of :class:`pooling.config.Config`. Nothing is opened before the first
    :meth:`acquire` or :meth:`warm_up`. All methods may be called from any thread.

    ``runtime`` is where time and threads come from: for tests, see :mod:`pooling.testing`.

    Raises TypeError for an unknown option, ValueError for one out of range.
    """

    def __init__(
        self, factory: Factory[T] | Callable[[], T], *, runtime: Runtime | None = None, **options: Unpack[Options]
    ) -> None:
        self._config = config = Config.of(options)
        self._factory = as_factory(factory)
        self._checks = overrides(self._factory, "check")
        if not self._checks and (config.check == "ping" or config.keepalive is not None):
            name = type(self._factory).__name__  # its repr() might show a password
            raise ValueError(f"check='ping' and keepalive need a factory with a check(), {name} has none")
        self.name = config.name if config.name is not None else f"pool-{next(_names)}"
        self._log = logging.getLogger(f"pooling.pool.{self.name}")
        self._runtime: Runtime = runtime or THREADS
        self._now = self._runtime.now
        self._hooks = Hooks(self._factory, config, self._log)
        self._is_clean = self._hooks.cleanness()
        self._selective = config.max_waiting is not None  # whether _is_too_many() has to be asked
        self._inline = config.workers == "inline"
        self._slice = SLICE_INLINE if self._inline else SLICE
        self._build()

    def _build(self, parent: Ledger[T] | None = None) -> None:
        """What a forked child has to have anew; ``parent``: the books that it has inherited."""
        pid = os.getpid()
        self._runtime.renew()
        self._lock = self._runtime.lock()
        self._plain = flag()
        self._ledger: Ledger[T] = Ledger(self.name, self._config, self._plain, self._runtime.poke, checks=self._checks)
        if parent is not None:
            self._ledger.inherit(parent)
        self._roster = self._ledger.roster
        self._idle = self._roster.idle
        self._take = self._roster.take
        limits = self._ledger.limits
        self._fresh = limits.check_after if limits.uses == math.inf else -math.inf
        self._used = self._ledger.tally.uses.samples
        self._lines = LogLines(self._log)
        self._runtime.watch(self)
        self._finalizer = weakref.finalize(
            self, dropped, weakref.ref(self), pid, self._ledger, self._hooks, self._runtime
        )
        self._pid = pid
        settled(self._plain)  # last: who reads that in another thread finds everything else in place

    # -- acquiring ----------------------------------------------------------------------------------

    def acquire(self, timeout: Timeout = DEFAULT, priority: float = FIRST_COME) -> Lease[T]:
        """A lease on a connection, within ``timeout`` seconds in all (default: the pool's ``timeout``; None: for
        ever; 0: an idle one or PoolTimeout at once).

        Waiters are served in the order of their arrival. ``priority`` is added, in seconds, to the time of
        arrival: negative goes first, positive lets others by, and as arrival ages nobody waits for ever.

        Use it in a ``with``: ``with pool.acquire() as conn``. Raises PoolTimeout, QueueFull, PoolClosed, or
        ConnectError where the server cannot be reached.
        """
        if timeout is not DEFAULT:
            seconds("timeout", timeout)  # before anything is taken
        if priority is not FIRST_COME:
            offset("priority", priority)
        if self._plain[0]:
            try:
                try:
                    take = self._take
                    token = take()
                except IndexError:
                    stale: list[Token[T]] = []  # none is idle
                else:
                    entry = token.entry
                    clock = self._now
                    now = clock()
                    if now - entry.since < self._fresh and now < entry.plain_until:
                        entry.since = now
                        entry.thread = threading.get_ident()
                        frame = _frame(1)
                        entry.code = frame.f_code
                        entry.instruction = frame.f_lasti
                        lease: Lease[T] = Lease()
                        lease._pool = self
                        lease._entry = entry
                        lease._token = token
                        return lease
                    stale = [token]
                    del token  # that frame must not keep it either: the list is emptied
                return self._acquire_carefully(stale, timeout, priority, _frame(1))
            except BaseException:
                token = lease = None  # type: ignore[assignment]  # an exception may be kept, and this frame with it
                raise
        return self._acquire_carefully([], timeout, priority, _frame(1))

    def _acquire_for(
        self, frame: FrameType, timeout: Timeout = DEFAULT, priority: float = FIRST_COME
    ) -> Lease[T]:
        """An acquire that is shown, while it waits and while it holds, where ``frame`` is: for what stands between the
        pool and its user."""
        if self._plain[0] and self._idle:
            lease = self.acquire(timeout, priority)
        else:
            lease = self._acquire_carefully([], timeout, priority, frame)
        lease._entry.code, lease._entry.instruction = frame.f_code, frame.f_lasti
        return lease

    def _acquire_carefully(
        self, stale: list[Token[T]], timeout: Timeout, priority: float, frame: FrameType
    ) -> Lease[T]:
        """The way of everybody for whom no connection lies ready; ``stale`` may have one that was not used for long. It
        is emptied whatever happens."""
        try:
            if not self._plain[1]:
                self._check_process()
            looked_at = False
            ours = stale and stale[0].entry.roster is self._roster  # else it is a parent's
            if ours:
                entry, now, limits = stale[0].entry, self._now(), self._ledger.limits
                valid = entry.epoch == self._roster.epoch and now < entry.expires_at
                looked_at = valid and self._config.check == "peek" and not limits.fresh(entry, now)
                if valid and (self._is_alive(entry) if looked_at else limits.fresh(entry, now)):
                    entry.uses += 1
                    entry.since = now
                    entry.thread, entry.code, entry.instruction = threading.get_ident(), frame.f_code, frame.f_lasti
                    if entry.uses >= limits.uses:
                        entry.plain_until = -math.inf  # lowered only: without the lock, what listen() has set must stay
                    return leased(self, stale.pop())
            waiter = self._waiter(timeout, priority)
            waiter.code, waiter.instruction = frame.f_code, frame.f_lasti
            if ours:
                self._wait(waiter, self._ledger.exchange, stale, looked_at, waiter)
            else:
                self._wait(waiter, None, waiter)
            token, waiter.token = waiter.token, None
            assert token is not None  # its turn was SERVED
            return leased(self, token)
        except BaseException:
            stale.clear()  # as in acquire()
            token = None
            raise

    def _waiter(self, timeout: Timeout, priority: float = 0.0) -> Waiter[T]:
        """Somebody who is going to wait. Whoever calls has made sure that the pool is this process's."""
        seconds_ = self._config.timeout if isinstance(timeout, Default) else timeout
        return Waiter(self._runtime.bell(), self._now(), seconds_, priority, threading.get_ident())

    def _is_alive(self, entry: Entry[T]) -> bool:
        try:
            return self._factory.is_alive(entry.connection)  # type: ignore[arg-type]  # an idle entry has one
        except Exception:
            return False  # a check that raises means dead

    def _wait(self, waiter: Waiter[T], transition: Callable[..., object] | None, *args: Any) -> None:
        """Report the transition, or nothing but that somebody waits, and wait for the waiter's turn. Raises what the
        turn brought, or PoolTimeout."""
        if self._lock._is_owned():
            raise PoolError(
                f"pool {self.name!r} cannot wait here: a destructor or signal handler has struck inside its own lock"
            )
        ledger = self._ledger
        try:
            if transition is not None or self._roster.calm or not self._line_up(waiter):
                self._report(waiter, transition or ledger.join, *args)
            while waiter.turn is WAITING:
                left = waiter.at - self._now()
                if left <= 0:
                    self._expire(waiter)
                    break
                others = len(ledger.queue.lane) + len(ledger.queue.heap)
                waiter.bell.wait(min(left, self._slice + others / LOOKS), waiter)
                if waiter.turn is WAITING:
                    self._tell_again(waiter, transition)
        except BaseException:
            # Interrupted, or refused: what was handed over in this very moment goes back.
            self._tell(ledger.leave, waiter)
            handed, waiter.token = [waiter.token], None  # a list: the exception may be kept, and this frame with it
            if handed[0] is not None:
                self._tell(ledger.release, handed.pop(), Fate.CLEAN)
            raise
        self._runtime.keep(waiter.bell)
        if waiter.turn is SERVED:
            return
        if waiter.turn is Turn.STARVED:
            raise self._starved(waiter)
        assert waiter.error is not None  # its turn is FAILED
        raise waiter.error

    def _tell_again(self, waiter: Waiter[T], transition: Callable[..., object] | None) -> None:
        """A slice is over: look, and report once more, should the first report have been lost to an exception on the
        thread that took it in."""
        ledger = self._ledger
        ways: dict[Any, Callable[[Waiter[T]], None]]
        ways = {None: ledger.join, ledger.exchange: ledger.join, ledger.renew: ledger.reclaim}
        again = ways.get(transition)
        self._tell(*(() if again is None else (again, waiter)))

    def _line_up(self, waiter: Waiter[T]) -> bool:
        """Have somebody stand behind others. False where that is not all that has to be done."""
        with self._lock:
            done = not self._selective and self._ledger.line_up(self._now(), waiter)
        if self._ledger.inbox:
            self._act()
        return done

    def _report(self, waiter: Waiter[T], transition: Callable[..., object], *args: Any) -> None:
        """Report the transition; refuse a waiter that may not wait, before anybody else can come in between."""
        ledger = self._ledger
        with self._lock:
            ledger.settle(self._now(), transition, *args)
            refused = self._selective and self._is_too_many(waiter, transition)
            if refused:
                ledger.settle(self._now(), ledger.leave, waiter)
        self._act()
        if refused:
            raise self._queue_full()

    def _is_too_many(self, waiter: Waiter[T], transition: Callable[..., object]) -> bool:  # noqa: ARG002  # for others
        """Under the lock: whether the waiter who has just come may not wait."""
        limit = self._config.max_waiting
        if limit is None or waiter.turn is not WAITING or self._ledger.queued() <= limit:
            return False
        return not waiter.passed(self._now())  # else it is not going to wait: _expire() tells it

    def _queue_full(self) -> QueueFull:
        limit = self._config.max_waiting
        return QueueFull(f"{limit} callers are waiting for pool {self.name!r} already (max_waiting)")

    def _expire(self, waiter: Waiter[T]) -> None:
        """The waiter's time is over: raise PoolTimeout, unless it was served in the last moment."""
        with self._lock:
            self._ledger.settle(self._now(), partial(self._ledger.leave, waiter, expired=True))
            then = _report.moment(self._ledger, self._now()) if waiter.turn is Turn.LEFT else None
        self._act()
        if then is not None:
            raise _report.timed_out(then, waiter)

    def _starved(self, waiter: Waiter[T]) -> PoolTimeout:
        with self._lock:
            then = _report.moment(self._ledger, self._now(), stage="nested")
        return _report.timed_out(then, waiter)

    def transaction(self, timeout: Timeout = DEFAULT, priority: float = 0.0) -> Transaction[T]:
        """A lease and a transaction in one ``with``: commits at its end, rolls back on an exception.

        A plain lease never commits. Raises what :meth:`acquire` and the driver's commit raise.
        """
        if timeout is not DEFAULT:
            seconds("timeout", timeout)
        offset("priority", priority)
        return Transaction(self, timeout, priority)

    def run(
        self,
        fn: Callable[..., R],
        *args: Any,
        retries: int | None = 3,
        idempotent: bool = False,
        transaction: bool = False,
        timeout: Timeout = DEFAULT,
        priority: float = FIRST_COME,
        backoff: Backoff | None = None,
        on: Harmless = (),
    ) -> R:
        """``fn(connection, *args)`` on the calling thread, and again, each time on a fresh lease, where it failed and
        nothing of it took effect: at most ``retries`` times, all within ``timeout`` seconds (default: the pool's).

        Where the outcome is not known it is tried again only if ``idempotent``. ``transaction=True`` commits each
        try. :class:`pooling.retry.Retrying` explains the options. Returns what ``fn`` returns; raises what the
        last try has raised.
        """
        retrying = Retrying(
            self, retries=retries, idempotent=idempotent, transaction=transaction, timeout=timeout, priority=priority,
            backoff=backoff, on=on,
        )  # fmt: skip  # one argument list
        return retrying._run(fn, args, {}, sys._getframe(1))

    # -- orders -------------------------------------------------------------------------------------

    def warm_up(self, timeout: float | None = 30.0) -> None:
        """Open ``min_size`` connections, one at least, and wait for them. Raises PoolTimeout or ConnectError."""
        seconds("timeout", timeout)
        self._check_process()
        waiter = self._waiter(timeout)
        self._wait(waiter, self._ledger.warm, waiter)

    def resize(self, min_size: int | None = None, max_size: int | Default | None = DEFAULT) -> None:
        """Change the limits of the running pool; what is beyond them is closed when it is idle.

        None leaves min_size as it is; for max_size None means no cap. Raises ValueError and changes nothing
        where they contradict each other.
        """
        self._check_process()
        ledger = self._ledger
        least = ledger.min_size if min_size is None else min_size
        most = ledger.max_size if isinstance(max_size, Default) else max_size
        most = None if most is None or most == math.inf else most
        replace(self._config, min_size=least, max_size=most)  # type: ignore[arg-type]  # validates, nothing else
        self._tell(ledger.resize, least, math.inf if most is None else most)

    def clear(self, *, interrupt: bool = False) -> None:
        """Retire every connection of today: the idle ones now, those in use when they come back.

        ``interrupt=True`` also makes whoever is blocked on one of those fail at once.
        """
        self._check_process()
        self._tell(self._ledger.clear)
        for entry in list(self._roster.entries) if interrupt else ():
            old = entry.epoch < self._roster.cleared  # else it was opened meanwhile
            if old and entry.thread and entry.connection is not None:
                self._hooks.interrupt(entry.connection)

    def suspend(self) -> None:
        """Hand out nothing until :meth:`resume`: acquires wait, each to its own deadline."""
        self._check_process()
        self._tell(self._ledger.enter, Phase.SUSPENDED)

    def resume(self) -> None:
        """End a suspend(). Does nothing to a pool that is draining or closed."""
        self._check_process()
        if self._ledger.phase is Phase.SUSPENDED:
            self._tell(self._ledger.enter, Phase.RUNNING)

    def drain(self, timeout: float | None = 30.0) -> bool:
        """Take no new acquires (PoolClosed), wait for the leases that are out, then close. True if all came back
        within ``timeout`` seconds (None: for ever)."""
        seconds("timeout", timeout)
        self._check_process()
        self._tell(self._ledger.enter, Phase.DRAINING)
        back = self._until(self._is_drained, timeout)
        self.close()
        return back

    def _is_drained(self) -> bool:
        """Whether no lease is out, none is being refreshed, and nobody waits for one."""
        refreshed = any(entry.claimant is not None for entry in self._roster.entries)
        return not (self._roster.leased() or self._ledger.queue or refreshed)

    def close(self, timeout: float | None = 5.0) -> None:
        """Close the pool: waiters and later acquires get PoolClosed, idle connections are closed now, leased ones when
        they come back.

        Waits at most ``timeout`` seconds for what is being closed or opened. May be called again.
        """
        seconds("timeout", timeout)
        self._check_process()
        self._tell(self._ledger.enter, Phase.CLOSED)
        self._until(lambda: len(self._roster.entries) == self._roster.leased(), timeout)
        self._forget_if_over()

    def _forget_if_over(self) -> None:
        """A closed pool needs nobody any more once its last connection is closed. Until then a lease that is out may be
        dropped, which the reaper has to see."""
        if self._ledger.phase is Phase.CLOSED and not self._roster.entries:
            self._finalizer.detach()
            self._runtime.forget(self)

    def _until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait for a state of the pool; False where it has not come in time."""
        self._check_process()
        if self._lock._is_owned():
            return False  # a signal handler inside the lock: it cannot wait
        waiter = self._waiter(timeout)
        try:
            self._wait(waiter, self._ledger.watch, done, waiter)
        except PoolTimeout:
            return False
        return True

    # -- looking ------------------------------------------------------------------------------------

    def stats(self) -> PoolStats:
        """The pool's numbers at this moment."""
        self._check_process()
        with self._lock:
            return _report.snapshot(self._ledger, self._now())

    def holders(self) -> tuple[Holder, ...]:
        """Who holds the connections: thread, age, call site; longest first."""
        self._check_process()
        with self._lock:
            holds = _report.holds(self._ledger)
        return named(holds, self._now(), thread_names())

    def waiters(self, most: int = 100) -> tuple[Waiting, ...]:
        """Who waits for a connection: thread, age, call site; at most so many, in the order in which they will be
        served."""
        count("most", most, 0)
        self._check_process()
        with self._lock:
            first = _report.queue(self._ledger, most)
        return _report.waiting(first, self._now())

    @property
    def config(self) -> Config:
        """The options as they are now: as given, but for what :meth:`resize` has changed."""
        most = self._ledger.max_size
        return replace(self._config, min_size=self._ledger.min_size, max_size=None if most == math.inf else int(most))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have ``listener(event)`` called with every :class:`pooling.PoolEvent`, in order, on a worker thread.

        Returns a function that ends the subscription. While somebody listens every acquire and release takes
        the pool's lock. A forked child keeps the subscription, for its own events.
        """
        if not callable(listener):
            raise TypeError(f"a listener must be callable, not {listener!r}")
        self._check_process()
        outlet = Outlet(listener, self._log)
        self._tell(self._ledger.listen, outlet)
        return partial(self._unsubscribe, outlet)

    def _unsubscribe(self, outlet: Outlet) -> None:
        self._check_process()
        self._tell(self._ledger.ignore, outlet)

    # -- the two steps that everything goes through --------------------------------------------------

    def _tell(self, transition: Callable[..., object] | None = None, *args: Any) -> None:
        """Report something to the ledger, let it decide, and act on it. Never waits for I/O."""
        if not self._plain[1]:
            self._check_process()
        if self._lock._is_owned():
            self._ledger.inbox.append((transition or _nothing, args))
            return
        with self._lock:
            now = self._now()
            more = transition is not None or not self._ledger.pass_on(now)
            if more:
                self._ledger.settle(now, transition, *args)
        if more or self._ledger.inbox:
            self._act()

    def _act(self, *, work: bool = True) -> None:
        """Do what was decided, outside the lock. Several threads may do this at once.

        ``work=False`` leaves jobs where they are.
        """
        ledger, left = self._ledger, []
        while ledger.outbox:
            try:
                item = ledger.outbox.popleft()
            except IndexError:
                break
            if isinstance(item, Waiter):
                item.bell.ring()
            elif isinstance(item, Outlet):
                item.flow(self._runtime.submit)
            elif isinstance(item, Notice):
                self._lines.put(str(item))  # in words now: later its threads may be gone
                self._lines.flow(self._runtime.submit)
            elif isinstance(item, Stuck):
                self._interrupt(item)
            elif work:
                self._submit(item)
            else:
                left.append(item)
        if left:
            ledger.outbox.extend(left)
        self._runtime.alarm(ledger.alarm)
        if ledger.inbox:
            self._tell()

    def _submit(self, job: Job) -> None:
        if self._inline:
            self._work_inline(job)
            return
        try:
            self._runtime.submit(partial(self._work, job))
        except RuntimeError:
            # No thread can be started: the interpreter is ending, or a limit is reached.
            self._log.debug("no worker thread can be started: the caller does the I/O", exc_info=True)
            self._work_inline(job)

    def _interrupt(self, stuck: Stuck) -> None:
        """Have a call of the driver fail that was written off: with as many of those as there may be connections,
        nothing would be opened again before the network gives up, which may take it a quarter of an hour."""
        try:
            self._runtime.submit(partial(self._hooks.interrupt, stuck.connection))
        except RuntimeError:
            self._hooks.interrupt(stuck.connection)

    def _work_inline(self, job: Job) -> None:
        """Do a job on the calling thread. What follows from it is done by the loop that called, not further down
        the stack, however many jobs follow each other."""
        felt: list[BaseException] = []
        report = self._hooks.perform(job, self._ledger, felt)
        with self._lock:
            self._ledger.settle(self._now(), *report)
        if felt:
            raise felt.pop()

    def _work(self, job: Job) -> None:
        self._tell(*self._hooks.perform(job, self._ledger))

    def _end(self, entry: Entry[T], token: Token[T], fate: Fate, error: BaseException | None = None) -> None:
        """A lease ended other than on the plain path."""
        self._check_process()
        if entry.roster is self._roster:  # else it is a parent's, of no concern in this process
            self._tell(self._ledger.release, token, fate, error)

    def _renew(self, token: Token[T], timeout: Timeout, old: Entry[T]) -> Token[T]:
        """A new connection for a lease, in the place of the one the token stands for."""
        self._check_process()
        waiter = self._waiter(timeout)
        waiter.code, waiter.instruction, waiter.thread = old.code, old.instruction, old.thread
        self._wait(waiter, self._ledger.renew, token, waiter)
        new, waiter.token = waiter.token, None
        assert new is not None  # its turn was SERVED
        return new

    def _keep(self, entry: Entry[T], seconds: float) -> None:
        """Note that the other side will close this connection once it was unused for a little longer than that: it is
        to be closed here before, be it one of min_size."""
        seconds = max(seconds, KEEP_LEAST)
        shorter = seconds < entry.keep
        entry.keep = seconds
        if shorter:  # else the entry's line on the agenda comes in time
            self._tell(self._ledger._remind, entry)

    # -- what the reaper calls --------------------------------------------------------------------------

    def due_at(self) -> float:
        """When :meth:`look` is to be called."""
        ledger = self._ledger
        pending = self._roster.orphans or ledger.inbox or (ledger.outbox and not self._inline)
        return -math.inf if pending else ledger.alarm

    def look(self) -> None:
        """Let the ledger see the time; called by the reaper, which does nobody's I/O."""
        self._check_process()
        if not self._lock._is_owned():
            with self._lock:
                self._ledger.settle(self._now())
            self._act(work=not self._inline)
            self._forget_if_over()

    # -- forks and endings ---------------------------------------------------------------------------

    def _check_process(self) -> None:
        """In a forked child, start anew. Where callers come by, they look at the byte first, and spare this call."""
        if not self._plain[1] and self._pid != os.getpid():
            self._start_anew()

    def _start_anew(self) -> None:
        """In a forked child: a lock, ledger and threads of its own. The parent's lock may be held by a thread that does
        not exist here, so it is not even looked at."""
        pid = os.getpid()
        with _forked.setdefault(pid, threading.Lock()):  # setdefault is atomic: one lock for all threads of the child
            if self._pid != pid:
                parent = self._ledger
                for entry in parent.roster.entries:
                    # Nobody is told of the end of the parent's tokens: its reaper's queue may not even be fit to be put
                    # into, where uWSGI forks without Python's hooks. Nor of that of its leases.
                    entry.refs, entry.plain_until = None, -math.inf
                self._finalizer.detach()
                self._build(parent)
                if self._ledger.phase is Phase.CLOSED:
                    self._runtime.forget(self)  # as close() did in the parent
                self._hooks.abandon(parent.roster.entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"pool {self.name!r} cannot be pickled: open one in each process")

    def __repr__(self) -> str:
        roster, ledger = self._roster, self._ledger
        most = "any number" if ledger.max_size == math.inf else int(ledger.max_size)
        return (
            f"<Pool {self.name!r} {ledger.phase.value}: {roster.leased()} in use, {len(roster.idle)} idle, "
            f"{len(ledger.queue)} waiting, at most {most}>"
        )
