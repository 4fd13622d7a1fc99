"""The pool: the lock, the clock, the hand to workers and reaper. What is decided, the ledger decides.

The plain path. While nobody waits and nothing is out of the ordinary, an acquire pops a token from the deque of idle
ones and a release puts it back, without the lock: both ends of a deque are atomic. Two things that change together say
whether that is so: an acquire reads the flag ``plain[0]``, which the kernel wipes in a forked child; a release takes an
item of ``roster.plain_releases``, and in a child gives back to books that nobody there uses. When those have run out it
is time for settle() to fold the samples that have gathered. It stays strictly first come, first served, and loses no
wake-up:

1. A caller that finds no idle connection takes both away under the lock, and only then looks at the deque.
2. A release appends first and takes its one afterwards; where there is none it comes to the lock and settles.
3. Pop and append on one deque are totally ordered. If the append came first, the look of (1) finds it. If the look
   came first, both were taken away before it, so the release of (2) finds none.
4. An acquire that read 1 just before it became 0 takes a connection at the very moment another caller joins the queue:
   of two that come together, either may be the first.

Interrupts. Every change under the lock stands in ``with``, entered and left by C code. A token is in one place; an
exception between two lines drops it, and its weak reference reports that (see _ledger/entry.py). What was decided but
not yet done stays in the outbox for the next who comes.

Re-entrancy. A destructor, weak-reference callback or signal handler can strike while its own thread holds the lock. It
leaves what it reports in the inbox; the thread it interrupted finds it there before it goes on.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import threading  # never "from threading import": gevent replaces what the module holds
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pooling import _report
from pooling._clock import DEFAULT, Default, Timeout
from pooling._elsewhere import lead
from pooling._finalizer import dropped
from pooling._holders import named, thread_names
from pooling._hooks import Hooks
from pooling._inspection import Inspection
from pooling._lazy import refuse_lazy
from pooling._ledger.entry import Entry, Token
from pooling._ledger.ledger import Fate, Ledger
from pooling._ledger.phase import Phase
from pooling._ledger.queue import WAITING
from pooling._log import PoolLog
from pooling._runtime.fork import PerProcess, flag, settled
from pooling._runtime.lock import new_lock, under
from pooling._runtime.threads import THREADS, Runtime
from pooling._traces import forget_frames
from pooling._waiting import SLICE, SLICE_INLINE
from pooling._words import printable
from pooling.config import Backoff, Config, Options, count, offset, seconds
from pooling.errors import Holder
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
CLOSE = 5.0  # seconds that a close waits for the driver
LAST_CLOSE = 0.5  # the same after a drain that has used its time up
KEEP_LEAST = 0.05  # seconds between two looks at a connection that the other side hardly keeps
_names = itertools.count(1)
# Re-entrant: a destructor that strikes in there may release a lease, a log handler of an abandon() that
# raises may use another pool.
_forked = PerProcess(new_lock)


class Pool(Inspection[T]):
    """A pool of connections.

    ``factory`` is a :class:`pooling.Factory`, or any zero-argument callable that returns a connection with a
    ``close()``. The options are those of :class:`pooling.config.Config`. Nothing is opened before the first
    :meth:`acquire` or :meth:`warm_up`. All methods may be called from any thread.

    ``runtime`` is where time and threads come from: for tests, see :mod:`pooling.testing`.

    Raises TypeError for an unknown option, ValueError for one out of range.
    """

    _books: type[Ledger[T]] = Ledger  # how they are kept

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
        self._log = PoolLog(printable(self.name))
        self._runtime: Runtime = runtime or THREADS
        self._now = self._runtime.now
        self._hooks = Hooks(self._factory, config, self._log)
        self._is_clean = self._hooks.cleanness()
        self._selective = config.max_waiting is not None  # whether _is_too_many() has to be asked
        self._inline = config.workers == "inline"
        self._slice = SLICE_INLINE if self._inline else SLICE
        self._lingers = False
        self._build()

    def _build(self, parent: Ledger[T] | None = None) -> None:
        """What a forked child has to have anew; ``parent``: the books that it has inherited."""
        pid = os.getpid()
        self._runtime.renew()
        self._lock = self._runtime.lock()
        self._plain = flag()
        self._ledger = self._books(self.name, self._config, self._plain, self._runtime.poke, checks=self._checks)
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
                return leased(self, self._take_carefully(stale, timeout, priority, _frame(1)))
            except BaseException as struck:
                # An exception may be kept, and this frame with it, and those below.
                token = lease = stale = None  # type: ignore[assignment]
                forget_frames(struck)
                raise
        return leased(self, self._take_carefully([], timeout, priority, _frame(1)))

    def _acquire_for(self, frame: FrameType, timeout: Timeout = DEFAULT, priority: float = FIRST_COME) -> Lease[T]:
        """An acquire that is shown, while it waits and while it holds, where ``frame`` is: for what stands between the
        pool and its user."""
        lease: Lease[T] | None = None
        try:
            if self._plain[0] and self._idle:
                lease = Pool.acquire(self, timeout, priority)  # whatever a subclass has its own acquire do beside
            else:
                lease = leased(self, self._take_carefully([], timeout, priority, frame))
            entry = lease._entry
            entry.code, entry.instruction = frame.f_code, frame.f_lasti
            return lease
        except BaseException:
            lease = None  # as in acquire()
            raise

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
        """Open ``min_size`` connections, one at least, and wait for them. Raises PoolTimeout, PoolClosed or
        ConnectError."""
        seconds("timeout", timeout)
        self._check_process()
        waiter = self._waiter(timeout)
        self._wait(waiter, None, self._ledger.warm, waiter)

    def resize(self, min_size: int | None = None, max_size: int | Default | None = DEFAULT) -> None:
        """Change the limits of the running pool; what is beyond them is closed when it is idle.

        None leaves min_size as it is; for max_size None means no cap. Raises ValueError and changes nothing
        where they contradict each other.
        """
        self._check_process()
        now = self.config
        least = now.min_size if min_size is None else min_size
        most = now.max_size if isinstance(max_size, Default) else max_size
        replace(now, min_size=least, max_size=most)  # validates, nothing else
        # What is not given is left to the ledger: by then another resize() may have changed it.
        kept = max_size is DEFAULT
        self._tell(self._ledger.resize, min_size, None if kept else math.inf if most is None else most)

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
        # Not asked here whether it is: of a suspend() that has struck inside the lock the ledger is still to hear.
        self._tell(self._ledger.enter, Phase.RUNNING)

    def drain(self, timeout: float | None = 30.0) -> bool:
        """Take no new acquires (PoolClosed), wait for the leases that are out, then close. True if all came back
        within ``timeout`` seconds (None: for ever).

        The close takes what is left of the time, half a second at least, and five seconds at most.
        """
        seconds("timeout", timeout)
        self._check_process()
        until = math.inf if timeout is None else self._now() + timeout
        self._tell(self._ledger.enter, Phase.DRAINING)
        back = self._until(self._is_drained, timeout)
        self.close(min(max(until - self._now(), LAST_CLOSE), CLOSE))
        return back

    def _is_drained(self) -> bool:
        """Whether no lease is out, none is being refreshed, and nobody waits for one."""
        claimants = (entry.claimant for entry in self._roster.entries)
        refreshed = any(claimant is not None and claimant.turn is WAITING for claimant in claimants)
        return not (self._roster.leased() or self._ledger.queue or self._ledger.claims or refreshed)

    def close(self, timeout: float | None = CLOSE) -> None:
        """Close the pool: waiters and later acquires get PoolClosed, idle connections are closed now, leased ones when
        they come back.

        Waits at most ``timeout`` seconds for what is being closed or opened. May be called again.
        """
        seconds("timeout", timeout)
        self._check_process()
        self._tell(self._ledger.enter, Phase.CLOSED)
        self._until(lambda: len(self._roster.entries) == self._roster.leased(), timeout)
        self._lingers = True
        self._forget_if_over()

    # -- looking ------------------------------------------------------------------------------------

    def stats(self) -> PoolStats:
        """The pool's numbers at this moment."""
        self._check_process()
        return under(self._lock, lambda: _report.snapshot(self._ledger, self._now()))

    def holders(self) -> tuple[Holder, ...]:
        """Who holds the connections: thread, age, call site; longest first."""
        self._check_process()
        holds = under(self._lock, _report.holds, self._ledger)
        return named(holds, self._now(), thread_names())

    def waiters(self, most: int = 100) -> tuple[Waiting, ...]:
        """Who waits for a connection: thread, age, call site; at most so many, in the order in which they will be
        served."""
        count("most", most, 0)
        self._check_process()
        first = under(self._lock, _report.queue, self._ledger, most)
        return _report.waiting(first, self._now())

    @property
    def config(self) -> Config:
        """The options as they are now: as given, but for what :meth:`resize` has changed."""
        least, most = under(self._lock, lambda: (self._ledger.min_size, self._ledger.max_size))
        return replace(self._config, min_size=least, max_size=None if most == math.inf else int(most))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have ``listener(event)`` called with every :class:`pooling.PoolEvent`, in order, on a worker thread.

        Returns a function that ends the subscription. While somebody listens every acquire and release takes
        the pool's lock. A forked child keeps the subscription, for its own events.
        """
        if not callable(listener):
            raise TypeError(f"a listener must be callable, not {listener!r}")
        refuse_lazy("a listener", listener)
        self._check_process()
        outlet = Outlet(listener, self._log)
        self._tell(self._ledger.listen, outlet)
        return partial(self._unsubscribe, outlet)

    def _unsubscribe(self, outlet: Outlet) -> None:
        self._check_process()
        self._tell(self._ledger.ignore, outlet)

    def _end(self, entry: Entry[T], token: Token[T], fate: Fate, error: BaseException | None = None) -> None:
        """A lease ended other than on the plain path."""
        self._check_process()
        if entry.roster is self._roster:  # else it is a parent's, of no concern in this process
            self._tell(self._ledger.release, token, fate, error)

    def _renew(self, given: list[Token[T]], timeout: Timeout, old: Entry[T]) -> Token[T]:
        """A new connection for a lease, in the place of the one the token stands for. The list is emptied: if who
        closes that one is lost, its token has to die while this waits."""
        self._check_process()
        waiter = self._waiter(timeout)
        waiter.code, waiter.instruction, waiter.thread = old.code, old.instruction, old.thread
        self._wait(waiter, self._ledger.reclaim, self._ledger.renew, given, waiter)
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

    # -- forks and endings ---------------------------------------------------------------------------

    def _start_anew(self) -> None:
        """In a forked child: a lock, ledger and threads of its own. The parent's lock may be held by a thread that does
        not exist here, so it is not even looked at."""
        pid = os.getpid()
        with _forked():
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


# What other pools call it.
lead(
    Pool,
    "getconn get_connection get_conn connection connect get checkout borrow execute executemany cursor",
    ": use `with pool.acquire() as connection`",
)
lead(Pool, "putconn release put return_connection", ": the end of its `with`, or of the lease, gives a connection back")
lead(Pool, "dispose disconnect", ": use `pool.clear()` to go on with other connections, `pool.close()` to end")
lead(Pool, "closeall terminate end", ": use `pool.close()`")
lead(Pool, "open wait", ": it is open from the start, `pool.warm_up()` opens connections")
lead(Pool, "size closed status get_stats checkedout", ": `pool.stats()` tells")
