"""The two steps that everything goes through: report to the ledger under the lock, do what it decides outside."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from pooling._hooks import Hooks
from pooling._ledger.entry import Stage
from pooling._ledger.jobs import Job, Stuck
from pooling._ledger.ledger import Ledger
from pooling._ledger.notice import Notice
from pooling._ledger.queue import Waiter
from pooling._log import PoolLog, write
from pooling._runtime.fork import Flag
from pooling._runtime.lock import Lock, let_go, under
from pooling._runtime.offer import offer
from pooling._runtime.threads import Runtime
from pooling._traces import forget_frames
from pooling.events import LogLines, Outlet

T = TypeVar("T")

TURN_INLINE = 0.05  # seconds after which a thread that does the I/O itself begins nothing more with a server in trouble


def _nothing() -> None:
    """A report of nothing, but that there is something to settle."""


class Dispatch(Generic[T]):
    """The part of a pool that has the lock."""

    _lock: Lock
    _ledger: Ledger[T]
    _plain: Flag
    _hooks: Hooks[T]
    _runtime: Runtime
    _now: Callable[[], float]
    _inline: bool
    _lines: LogLines
    _log: PoolLog
    _pid: int
    _lingers: bool  # closed, and watched all the same
    _finalizer: weakref.finalize[..., Any]
    _start_anew: Callable[[], None]

    def _check_process(self) -> None:
        """In a forked child, start anew. Where callers come by, they look at the byte first, and spare this call."""
        if not self._plain[1] and self._pid != os.getpid():
            self._start_anew()

    def _tell(self, transition: Callable[..., object] | None = None, *args: Any, work: bool = True) -> None:
        """Report something to the ledger, let it decide, and act on it. Never waits for I/O."""
        if not self._plain[1]:
            self._check_process()
        if self._lock._is_owned():
            self._ledger.inbox.append((transition or _nothing, args))
            return
        try:
            with self._lock:
                self._ledger.settle(self._now(), transition, *args)
            self._act(work=work)
        except BaseException as struck:
            let_go(self._lock)
            forget_frames(struck)  # somebody's token, whom it was about to serve
            raise

    def _settle(self, transition: Callable[..., object] | None = None, *args: Any) -> None:
        """Under the lock: the time is looked up there, for no transition comes before an earlier one."""
        self._ledger.settle(self._now(), transition, *args)

    def _pass_on(self) -> None:
        """Report that a connection lies idle for which somebody may wait."""
        if not self._plain[1]:
            self._check_process()
        if self._lock._is_owned():
            self._tell()
            return
        ledger = self._ledger
        try:
            with self._lock:
                now = self._now()
                passed_on = ledger.pass_on(now)
                if not passed_on:
                    ledger.settle(now)
        except BaseException:
            let_go(self._lock)
            raise
        if not passed_on or ledger.inbox:
            self._act()

    def _act(self, *, work: bool = True) -> None:
        """Do what was decided, outside the lock. Several threads may do this at once.

        ``work=False`` leaves jobs where they are.
        """
        ledger, left = self._ledger, []
        began = self._now() if self._inline else 0.0
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
            elif not work or (self._inline and self._is_too_much(item, began)):
                left.append(item)
            else:
                self._submit(item)
        if left:
            ledger.outbox.extend(left)
        self._runtime.alarm(ledger.alarm)
        if ledger.inbox:
            self._tell()
        if self._lingers:
            self._forget_if_over()

    def _submit(self, job: Job) -> None:
        if self._inline:
            self._work_inline(job)
        else:
            offer(self._runtime.submit, partial(self._work, job), partial(self._work_for_want_of_others, job))

    def _is_too_much(self, job: Job, began: float) -> bool:
        """Inline, whether a job is left to those who wait, and to this thread when it has looked at its own time. A
        server that says nothing would else have whoever came first do one try after the other, for as long as somebody
        asks: a try that has taken long is followed by the next one at once."""
        asks_the_server = job.stage in (Stage.CONNECTING, Stage.CHECKING)
        return asks_the_server and self._ledger.outage.state != "up" and self._now() - began > TURN_INLINE

    def _interrupt(self, stuck: Stuck) -> None:
        """Have a call of the driver fail that was written off: with as many of those as there may be connections,
        nothing would be opened again before the network gives up, which may take it a quarter of an hour."""
        try:
            self._runtime.submit(partial(self._hooks.interrupt, stuck.connection))
        except RuntimeError:
            self._hooks.interrupt(stuck.connection)

    def _work_inline(self, job: Job) -> None:
        """Do a job on the calling thread. What follows from it is done by the loop that called, not further down
        the stack, however many jobs follow each other.

        An interrupt (Ctrl-C, a killed greenlet) of a connect or check was meant for this thread: it is raised.
        """
        felt: list[BaseException] = []
        under(self._lock, self._ledger.begin, job, self._now())
        report = self._hooks.perform(job, self._ledger, felt)
        under(self._lock, self._settle, *report)
        if felt:
            raise felt.pop()

    def _work_for_want_of_others(self, job: Job) -> None:
        write(self._log.debug, "no worker thread can be started: the caller does the I/O", exc_info=True)
        self._work_inline(job)

    def _work(self, job: Job) -> None:
        self._tell(*self._hooks.perform(job, self._ledger))

    def _forget_if_over(self) -> None:
        """Let the reaper go, once no lease is out that may be lost: nobody else would see that and have its connection
        closed. (Inline the reaper could not either.)"""
        if self._lingers and (self._inline or not self._ledger.roster.leased()):
            self._lingers = False
            self._finalizer.detach()
            self._runtime.forget(self)

    # -- what the reaper calls --------------------------------------------------------------------------

    def due_at(self) -> float:
        """When :meth:`look` is to be called."""
        ledger = self._ledger
        pending = ledger.roster.orphans or ledger.inbox or (ledger.outbox and not self._inline)
        return -math.inf if pending else ledger.alarm

    def look(self) -> None:
        """Let the ledger see the time; called by the reaper, which does nobody's I/O."""
        self._check_process()
        if not self._lock._is_owned():
            under(self._lock, self._settle)
            self._act(work=not self._inline)
