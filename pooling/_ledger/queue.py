"""Somebody who waits for a connection, and the queue of them.

Written under the pool's lock, but for what its own thread does with a waiter whose turn has come.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum
from types import CodeType
from typing import TYPE_CHECKING, Generic, TypeVar

from pooling._clock import Deadline
from pooling._ledger.entry import Token

if TYPE_CHECKING:
    from pooling._runtime.bell import Bell

T = TypeVar("T")


class Turn(Enum):
    """How a wait stands; it leaves WAITING once.

    SERVED: it has a token. FAILED: an error. LEFT: it gave up. STARVED: it was told to, see _look_for_nesting().
    """

    WAITING = "waiting"
    SERVED = "served"
    FAILED = "failed"
    LEFT = "left"
    STARVED = "starved"


# On 3.10 and 3.11 an Enum lookup costs as much as a call: where every waiter comes by, the members are globals.
WAITING, SERVED = Turn.WAITING, Turn.SERVED


class Waiter(Deadline, Generic[T]):
    """One acquire in the queue: the moment by which it has to end, and a one-shot hand-off."""

    __slots__ = ("bell", "code", "error", "instruction", "key", "thread", "ticket", "token", "turn")

    def __init__(self, bell: Bell, started: float, timeout: float | None, priority: float, thread: int) -> None:
        # As Deadline does it: a call of that is a thirtieth of a hand-over.
        self.started = started
        self.at = math.inf if timeout is None else started + timeout
        self.bell = bell
        self.key = started + priority
        self.ticket = -1
        self.thread = thread
        self.turn = WAITING
        self.token: Token[T] | None = None
        self.error: BaseException | None = None
        self.code: CodeType | None = None
        self.instruction = 0

    def fail(self, error: BaseException) -> bool:
        """End the wait with an error, under the pool's lock."""
        if self.turn is not Turn.WAITING:
            return False
        self.error = error
        self.turn = Turn.FAILED
        return True


class WaitQueue(Generic[T]):
    """Waiters in the order of ``arrival + priority`` seconds, ties by ticket.

    Those without a priority stand in a lane of their own, an OrderedDict: its head is taken, and anybody in the
    middle leaves, in constant time whatever its length. The few with a priority stand in a heap: one who leaves its
    middle has it built anew.
    """

    def __init__(self) -> None:
        self.lane: OrderedDict[Waiter[T], None] = OrderedDict()
        self.heap: list[tuple[float, int, Waiter[T]]] = []
        self._tickets = itertools.count()

    def __len__(self) -> int:
        return len(self.lane) + len(self.heap)

    def __bool__(self) -> bool:
        return bool(self.lane or self.heap)

    def join(self, waiter: Waiter[T]) -> None:
        """Put a waiter at its place; one who stands here already keeps it."""
        if waiter.ticket < 0:
            waiter.ticket = next(self._tickets)
        if waiter.key == waiter.started:
            self.lane.setdefault(waiter)
        elif not any(known is waiter for _, _, known in self.heap):
            heapq.heappush(self.heap, (waiter.key, waiter.ticket, waiter))

    def __iter__(self) -> Iterator[Waiter[T]]:
        """All of them, in no order."""
        yield from self.lane
        for _, _, waiter in self.heap:
            yield waiter

    def head(self) -> Waiter[T] | None:
        """Who is next, or None."""
        first = next(iter(self.lane), None)
        if not self.heap:
            return first
        key, ticket, urgent = self.heap[0]
        return urgent if first is None or (key, ticket) < (first.key, first.ticket) else first

    def first(self, count: int) -> list[Waiter[T]]:
        """Those who stand in front, in the order in which they will be served."""
        lane = ((waiter.key, waiter.ticket, waiter) for waiter in self.lane)
        urgent = heapq.nsmallest(count, self.heap)
        return [waiter for _, _, waiter in itertools.islice(heapq.merge(lane, urgent), count)]

    def remove(self, waiter: Waiter[T]) -> None:
        """Take a waiter out whose turn is over (served, failed or left)."""
        if self.lane.pop(waiter, waiter) is waiter and self.heap:  # not in the lane: its values are None
            if self.heap[0][2] is waiter:
                heapq.heappop(self.heap)
            else:
                left = [line for line in self.heap if line[2] is not waiter]
                heapq.heapify(left)
                self.heap = left
