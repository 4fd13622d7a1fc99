"""How a thread waits for its turn: reported, blocked on a bell, and told how it ended."""

from __future__ import annotations

import threading  # never "from threading import": gevent replaces what the module holds
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from pooling import _report
from pooling._clock import Default, Timeout
from pooling._dispatch import Dispatch
from pooling._ledger.ledger import Fate, Ledger
from pooling._ledger.queue import SERVED, WAITING, Turn, Waiter
from pooling._ledger.roster import Roster
from pooling._report import Moment
from pooling._runtime.lock import let_go, under
from pooling._traces import forget_frames
from pooling.config import Config
from pooling.errors import PoolError, PoolTimeout, QueueFull

T = TypeVar("T")

SLICE = 1.0  # seconds after which a waiter looks by itself: repair, should its wake-up have been lost to an exception
LOOKS = 64  # a second that all waiters together take, at most: of ten thousand, each looks once in minutes
SLICE_INLINE = 0.05  # the same where waiters do the I/O that time brings: nobody else would


class WaitingRoom(Dispatch[T]):
    """The part of a pool in which its callers wait."""

    name: str
    _config: Config
    _roster: Roster[T]
    _slice: float
    _selective: bool

    def _waiter(self, timeout: Timeout, priority: float = 0.0) -> Waiter[T]:
        """Somebody who is going to wait. Whoever calls has made sure that the pool is this process's."""
        seconds_ = self._config.timeout if isinstance(timeout, Default) else timeout
        return Waiter(self._runtime.bell(), self._now(), seconds_, priority, threading.get_ident())

    def _wait(
        self,
        waiter: Waiter[T],
        again: Callable[[Waiter[T]], None] | None,
        first: Callable[..., object] | None = None,
        *args: Any,
    ) -> None:
        """Report ``first(*args)``, or where there is none that somebody joins, and wait for the waiter's turn.
        ``again`` is what is reported once more now and then. Raises what the turn brought, or PoolTimeout."""
        if self._lock._is_owned():
            raise QueueFull(
                f"pool {self.name!r} cannot wait here: a destructor or signal handler has struck inside its own lock"
            )
        ledger = self._ledger
        try:
            with self._lock:
                lined_up = first is None and not self._selective and ledger.line_up(waiter)
                refusal = None if lined_up else self._take_in(waiter, first or partial(ledger.join, waiter), *args)
            if not lined_up or ledger.inbox:
                self._act()
            if refusal is not None:
                raise refusal()
            self._await_turn(waiter, ledger, again, first, args)
        except BaseException as struck:
            let_go(self._lock)
            forget_frames(struck)
            # Interrupted, or refused: what was handed over in this very moment goes back.
            ledger = self._ledger  # another one where it has forked meanwhile
            self._tell(ledger.leave, waiter, work=not self._inline)
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

    def _await_turn(
        self,
        waiter: Waiter[T],
        ledger: Ledger[T],
        again: Callable[[Waiter[T]], None] | None,
        first: Callable[..., object] | None,
        args: tuple[Any, ...],
    ) -> None:
        # A function of its own: CPython takes the jump at the end of a loop for a place outside of the "try" around it.
        while waiter.turn is WAITING:
            left = waiter.at - self._now()
            if left <= 0:
                self._expire(waiter)
                break
            others = len(ledger.queue.lane) + len(ledger.queue.heap)
            waiter.bell.wait(min(left, self._slice + others / LOOKS), waiter)
            if not ledger.plain[1]:  # wiped by a fork, whoever has seen to that meanwhile
                self._check_process()
                if ledger is not self._ledger:
                    ledger = self._ledger
                    again = self._wait_anew(waiter, again, first, *args)
            if waiter.turn is WAITING:
                # The first report may have been lost to an exception on the thread that took it in. What an order waits
                # for, a drain() above all, may be held up by a lease whose end nobody was told of.
                self._tell(*((ledger.find_unreported,) if again is None else (again, waiter)))

    def _wait_anew(
        self,
        waiter: Waiter[T],
        again: Callable[[Waiter[T]], None] | None,
        first: Callable[..., object] | None,
        *args: Any,
    ) -> Callable[[Waiter[T]], None] | None:
        """In a forked child that has its parent's waiter: a signal handler has forked while it waited, or it is a
        greenlet, which both have. It waits here like a newcomer; what it was handed is the parent's. Returns what is
        reported from now on."""
        waiter.ticket, waiter.token, waiter.turn = -1, None, WAITING
        if again is None:
            assert first is not None  # an order, which the books here have not heard of
            self._tell(getattr(self._ledger, first.__name__), *args)
            return None
        return getattr(self._ledger, again.__name__)  # type: ignore[no-any-return]

    def _take_in(
        self, waiter: Waiter[T], transition: Callable[..., object], *args: Any
    ) -> Callable[[], PoolError] | None:
        """Under the lock: let the ledger decide; have a waiter leave that may not wait, before anybody else can come in
        between. Returns what makes the error that tells it so."""
        ledger = self._ledger
        ledger.settle(self._now(), transition, *args)
        if self._selective and waiter.ticket >= 0 and self._is_too_many(waiter):
            ledger.settle(self._now(), ledger.leave, waiter)
            return self._queue_full
        if waiter.turn is WAITING and not self._inline and waiter.passed(self._now()):
            # Who gives no time gets what there is, not what a worker is quick to bring.
            then = self._give_up(waiter)
            return None if then is None else partial(_report.timed_out, then, waiter)
        return None

    def _is_too_many(self, waiter: Waiter[T]) -> bool:
        """Under the lock: whether the waiter who has just joined the queue may not stay there. (Only they are asked
        about: an order or a refresh needs no place in it, and those for whom a connection was to be opened may have
        come to make it longer than the limit.)"""
        limit = self._config.max_waiting
        if limit is None or waiter.turn is not WAITING or self._ledger.queued() <= limit:
            return False
        return not waiter.passed(self._now())  # else it is not going to wait, and is told that

    def _queue_full(self) -> QueueFull:
        limit = self._config.max_waiting
        if limit == 0:
            return QueueFull(f"pool {self.name!r} has no connection free, and nobody may wait for one (max_waiting=0)")
        return QueueFull(f"{limit} callers are waiting for pool {self.name!r} already (max_waiting)")

    def _expire(self, waiter: Waiter[T]) -> None:
        """The waiter's time is over: raise PoolTimeout, unless it was served in the last moment."""
        then = under(self._lock, self._give_up, waiter)
        self._act(work=not self._inline)  # inline the rest is for those who have time, or come next
        if then is not None:
            raise _report.timed_out(then, waiter)

    def _give_up(self, waiter: Waiter[T]) -> Moment | None:
        """Under the lock: the waiter leaves. What is to be told of that moment, or None where it was served."""
        self._ledger.settle(self._now(), partial(self._ledger.leave, waiter, expired=True))
        return _report.moment(self._ledger, self._now()) if waiter.turn is Turn.LEFT else None

    def _starved(self, waiter: Waiter[T]) -> PoolTimeout:
        then = under(self._lock, lambda: _report.moment(self._ledger, self._now(), stage="nested"))
        return _report.timed_out(then, waiter)

    def _until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait for a state of the pool; False where it has not come in time."""
        self._check_process()
        if self._lock._is_owned():
            return False  # a signal handler inside the lock: it cannot wait
        waiter = self._waiter(timeout)
        try:
            self._wait(waiter, None, self._ledger.watch, done, waiter)
        except PoolTimeout:
            return False
        return True
