"""How an acquire looks at the connection that it is going to get, off the plain path."""

from __future__ import annotations

import math
import threading  # never "from threading import": gevent replaces what the module holds
from collections import deque
from collections.abc import Callable
from enum import Enum
from types import FrameType
from typing import TypeVar

from pooling._clock import Timeout
from pooling._ledger.entry import Entry, Token
from pooling._ledger.phase import RUNNING
from pooling._traces import forget_frames
from pooling._waiting import WaitingRoom
from pooling.factory import Factory

T = TypeVar("T")


class Look(Enum):
    """What a look at an idle connection has shown."""

    GOOD = "good"
    UNSURE = "unsure"  # a worker is to see to it
    DEAD = "dead"


class Inspection(WaitingRoom[T]):
    """The part of a pool that sees to it that no dead connection goes out."""

    _factory: Factory[T]
    _idle: deque[Token[T]]
    _take: Callable[[], Token[T]]

    def _take_carefully(self, stale: list[Token[T]], timeout: Timeout, priority: float, frame: FrameType) -> Token[T]:
        """What everybody gets for whom no connection lies ready; ``stale`` may have one that was not used for long. It
        is emptied whatever happens."""
        try:
            if not self._plain[1]:
                self._check_process()
            look, plainly = None, bool(stale)
            if not plainly and self._idle and self._config.check == "peek":
                self._take_to_look(stale)
            if stale and stale[0].entry.roster is not self._roster:
                stale.clear()  # a parent's
            elif stale and (look := self._look_at(stale[0].entry)) is Look.GOOD and plainly:
                entry = stale[0].entry
                entry.uses += 1
                entry.since = self._now()
                entry.thread, entry.code, entry.instruction = threading.get_ident(), frame.f_code, frame.f_lasti
                if entry.uses >= self._ledger.limits.uses:
                    entry.plain_until = -math.inf  # lowered only: without the lock, what listen() has set must stay
                return stale.pop()
            waiter = self._waiter(timeout, priority)
            waiter.code, waiter.instruction = frame.f_code, frame.f_lasti
            if look is None:
                self._wait(waiter, self._ledger.join)
            elif look is Look.GOOD:
                self._wait(waiter, self._ledger.join, self._ledger.offer, stale, waiter)
            else:
                self._wait(waiter, self._ledger.join, self._ledger.exchange, stale, look is Look.DEAD, waiter)
            token, waiter.token = waiter.token, None
            assert token is not None  # its turn was SERVED
            return token
        except BaseException as struck:
            stale.clear()  # as in acquire()
            token = waiter = None
            forget_frames(struck)
            raise

    def _take_to_look(self, taken: list[Token[T]]) -> None:
        """Off the plain path too, the caller looks by itself at the connection that it is going to get. From a worker
        it would have to wait for that, and who gives no time would get nothing, with a good connection idle."""
        if self._ledger.phase is RUNNING and not self._ledger.queue:
            try:
                taken.append(self._take())
            except IndexError:
                pass  # another caller took the last one

    def _look_at(self, entry: Entry[T]) -> Look:
        """Whether an idle connection may go out. Nothing is sent for that."""
        now, limits = self._now(), self._ledger.limits
        if entry.epoch != self._roster.epoch or now >= entry.expires_at:
            return Look.UNSURE
        if limits.fresh(entry, now):
            return Look.GOOD
        if self._config.check != "peek":
            return Look.UNSURE
        try:
            alive = self._factory.is_alive(entry.connection)  # type: ignore[arg-type]  # an idle entry has one
        except Exception:
            alive = False  # a check that raises means dead
        return Look.GOOD if alive else Look.DEAD
