"""What a process does when it is told to end: its pools are drained first, then the signal has its usual effect."""

from __future__ import annotations

import _thread  # never "from _thread import": gevent replaces what the module holds
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from enum import Enum
from types import FrameType
from typing import Any, Protocol

from pooling._clock import monotonic
from pooling._log import write
from pooling.config import seconds

_log = logging.getLogger("pooling")

AGAIN = 0.05  # seconds until a signal is sent again that the main thread has not noticed
ECHO = 1.0  # seconds after its effect in which the same signal counts as that one
ENDING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")  # whose default action ends a process, of those that ask for it
REAL_TIME = getattr(signal, "SIGRTMIN", signal.NSIG)  # from here on each ends one: systemd's way is SIGRTMIN + 3
DRAIN = 20.0  # seconds: what waits for a process to end (a container's runtime, say) usually gives it 30 or less


class Drainable(Protocol):
    """A pool, or a manager of pools."""

    def drain(self, timeout: float | None) -> bool: ...


class _Stage(Enum):
    WAITING = "waiting for a signal"
    DRAINING = "draining"
    DRAINED = "drained"
    OVER = "the signal has had its effect"


def drain_on_signals(
    target: Drainable,
    timeout: float = DRAIN,
    signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT),
    stop: Callable[[], object] | None = None,
) -> Callable[[], None]:
    """Have a signal drain a pool or all pools of a manager, for ``timeout`` seconds at most, before it has the effect
    that it would have had: its handler of today is called, on the main thread, or its default action happens. The first
    process of a container, which has none, ends all the same, by exit code 128 + the signal's number.

    The handler itself only starts a thread. On that thread ``stop`` is called first, to take no new work; its
    time counts. A second SIGINT (Ctrl-C) has its effect at once; other signals during the drain change nothing. A
    signal that is ignored today stays ignored.

    Returns a function that takes the handlers away again. Call both on the main thread. Raises RuntimeError elsewhere,
    or where a handler was not installed by Python and so cannot be called afterwards; TypeError, ValueError or OSError
    for what can be no target, time or signal. All handlers are as before then.
    """
    if not callable(getattr(target, "drain", None)):  # else who is told would be the log, when the signal has come
        raise TypeError(f"target must be a Pool or a PoolManager, not {type(target).__name__}")
    seconds("timeout", timeout, optional=False)
    if stop is not None and not callable(stop):
        raise TypeError(f"stop must be callable or None, not {stop!r}")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signal handlers can only be installed on the main thread")
    before = {number: signal.getsignal(number) for number in signals}
    for number, handler in before.items():
        if handler is None:
            raise RuntimeError(f"the handler of {_name(number)} is not Python's: drain in the server's own hook")
    handlers = _Handlers(target, timeout, stop, before)
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, handlers.handle)
    except BaseException:
        handlers.restore()
        raise
    return handlers.restore


class _Handlers:
    """The handlers of one target. A handler runs on the main thread between any two of its instructions, perhaps while
    that thread holds a lock: it takes none, and waits for nothing.

    When the drain is over the signal is sent again, to the main thread, until its handler has run: a signal that
    arrives just before the main thread begins to wait for something does not wake it. So one too many may be sent,
    and that one is no second signal: for a moment after the effect it is ignored.
    """

    def __init__(
        self, target: Drainable, timeout: float, stop: Callable[[], object] | None, before: dict[int, Any]
    ) -> None:
        self._target = target
        self._timeout = timeout
        self._stop = stop
        self._before = before
        self._stage = _Stage.WAITING
        self._pid = os.getpid()  # whose stage that is
        self._number = 0  # the signal that came first
        self._over_at = 0.0

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self._pid != os.getpid():  # a child that was forked meanwhile: the thread that drains is its parent's
            self._stage, self._pid = _Stage.WAITING, os.getpid()
        stage, first = self._stage, number == self._number
        if stage is _Stage.WAITING:
            self._stage, self._number = _Stage.DRAINING, number
            try:
                # Not a threading.Thread, whose start() takes locks; and not one that waits from the beginning, which
                # no forked child would have.
                _thread.start_new_thread(self._drain, ())
            except RuntimeError:  # a limit is reached
                self._finish(frame)
        elif first and (stage is _Stage.DRAINED or (stage is _Stage.DRAINING and number == signal.SIGINT)):
            self._finish(frame)
        elif number == signal.SIGINT or (stage is _Stage.OVER and not (first and monotonic() < self._over_at + ECHO)):
            self._take_effect(number, frame)

    def restore(self) -> None:
        """Put the former handlers back, where ours are still in place."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self.handle:
                signal.signal(number, handler)

    def _drain(self) -> None:
        """On a thread of its own."""
        until = monotonic() + self._timeout
        try:
            if self._stop is not None:
                self._stop()
        except BaseException:
            write(_log.exception, "what was to be stopped on %s raised", _name(self._number))
        try:
            if not self._target.drain(max(0.0, until - monotonic())):
                write(_log.warning, "after %s not all leases came back within %g s", _name(self._number), self._timeout)
        except BaseException:
            write(_log.exception, "draining on %s failed", _name(self._number))
        if self._stage is _Stage.DRAINING:
            self._stage = _Stage.DRAINED
        while self._stage is _Stage.DRAINED:
            _send_to_main_thread(self._number)
            time.sleep(AGAIN)

    def _finish(self, frame: FrameType | None) -> None:
        self._stage, self._over_at = _Stage.OVER, monotonic()
        self._take_effect(self._number, frame)

    def _take_effect(self, number: int, frame: FrameType | None) -> None:
        """What would have happened without us."""
        handler = self._before[number]
        if callable(handler):
            handler(number, frame)
        else:
            self.restore()
            signal.raise_signal(number)
            if os.getpid() == 1 and (_name(number) in ENDING or number >= REAL_TIME):
                # The first process of a container has no default actions: the kernel drops the signal, and the process
                # would go on, with closed pools, until it is killed.
                os._exit(128 + number)


def _send_to_main_thread(number: int) -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one: of those Python names the first and the last only
        return f"signal {number}"
