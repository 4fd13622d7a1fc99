"""Schedules: the pool's real code on actors of a virtual clock, switched at any line of the core, by a seed.

``python -m tests.schedules.explorer COUNT [FIRST_SEED]`` runs so many schedules and prints what broke, one line a
schedule; exit status 1 if any did.
"""

from __future__ import annotations

import functools
import gc
import os
import random
import sys
from collections import deque
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import pooling
from pooling import ConnectError, Lease, Pool, PoolClosed, PoolTimeout
from pooling._runtime.lock import Lock
from pooling.testing import Actor, FakeBroken, FakeConnection, FakeFactory, ManualClock

CORE = os.path.dirname(pooling.__file__)
# The clock's own, its workers included: it starts one while the baton is passed, no place to pass it again.
OUTSIDE = ("_manual_clock.py", "_fakes.py", "workers.py", "__init__.py")


@functools.cache
def _is_core(code: CodeType) -> bool:
    """Whether threads are switched in there. (due_at is asked while the baton is passed as well.)"""
    path = code.co_filename
    return path.startswith(CORE) and not path.endswith(OUTSIDE) and code.co_name != "due_at"


class BatonLock:
    """The pool's lock between actors: whoever finds it taken lets others run."""

    def __init__(self, clock: Explorer) -> None:
        self._clock = clock
        self._owner: Actor | None = None
        self._depth = 0

    def __enter__(self) -> None:
        while self._owner not in (None, self._clock.current):
            self._clock.give_way()
        self._owner = self._clock.current
        self._depth += 1

    def __exit__(self, *details: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def _is_owned(self) -> bool:
        return self._owner is self._clock.current


class Explorer(ManualClock):
    """A clock that switches between actors at some lines of the core and wakes them in any order."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        # Few switches find more than many (most bugs need two or three, in the right places), so mostly few.
        self.chance = self.random.choice([0.01, 0.03, 0.1, 0.3])

    def lock(self) -> Lock:
        return BatonLock(self)

    def choose(self, ready: deque[Actor]) -> Actor:
        ready.rotate(-self.random.randrange(len(ready)))
        return ready.popleft()

    def give_way(self) -> None:
        """Let another actor run, and come back when chosen again."""
        me, tracing = self.current, sys.gettrace()
        sys.settrace(None)
        me.blocked = True
        me.wake()
        self._pass_baton()
        me._baton.acquire()
        self.current = me
        sys.settrace(tracing)

    def trace(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        return self._switch if _is_core(frame.f_code) else None

    def _switch(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        if event == "line" and self.random.random() < self.chance:
            self.give_way()
        return self._switch

    def spawn(self, call: Callable[..., Any], *args: Any, **options: Any) -> Actor:
        def traced() -> Any:
            sys.settrace(self.trace)
            try:
                return call(*args, **options)
            finally:
                sys.settrace(None)

        return super().spawn(traced)


class Schedule:
    """A few users of one pool, and everything that must hold whatever their order."""

    def __init__(self, seed: int) -> None:
        self.clock = Explorer(seed)
        self.dice = random.Random(seed)
        self.factory = FakeFactory(self.clock)
        self.size = self.dice.choice([1, 1, 2])
        self.pool: Pool[FakeConnection] = Pool(
            self.factory, runtime=self.clock, max_size=self.size, timeout=20.0, nested=None,
            order=self.dice.choice(["lifo", "fifo"]), max_uses=self.dice.choice([None, None, 2]),
        )  # fmt: skip  # one row of what is fixed
        self.wrong: list[str] = []
        self.held: set[int] = set()
        self.closes = self.dice.random() < 0.15
        self._watch_the_queue()

    def run(self) -> list[str]:
        if self.dice.random() < 0.7:
            self.pool.warm_up()
        began = self.clock.now()
        users = [
            self.clock.spawn(self._user, self.dice.choice(self._uses())) for _ in range(self.dice.choice([2, 3, 3]))
        ]
        while not all(user.done for user in users):
            self.clock.sleep(0.25)
            if self.clock.now() > began + 30:
                self.wrong.append("somebody never came back")
                break
        for user in users:
            self._outcome(user)
        # Nothing here takes time: whoever had to wait for a clock was not woken by whom it should have been.
        if self.clock.now() - began > 0.9 and not self.wrong:
            self.wrong.append("a wake-up was lost: the queue moved on only when a waiter looked by itself")
        self._everything_comes_back()
        self.clock.close()
        return self.wrong

    def _watch_the_queue(self) -> None:
        """First come, first served: note who joined, and that nobody is served before one who joined earlier."""
        ledger = self.pool._ledger
        hand = ledger._hand

        def handing(waiter: Any, token: Any) -> bool:
            waiting = [other.ticket for other in ledger.queue.lane if other.turn.value == "waiting"]
            if waiter.ticket > min(waiting, default=waiter.ticket):
                self.wrong.append("a waiter was overtaken")
            return hand(waiter, token)

        ledger._hand = handing  # type: ignore[method-assign]

    def _uses(self) -> list[Callable[[], None]]:
        return [self._plainly, self._plainly, self._twice, self._impatiently, self._dirtily, self._and_breaks,
                self._and_drops, self._and_orders]  # fmt: skip  # plain use most often

    def _user(self, use: Callable[[], None]) -> None:
        try:
            use()
        except PoolClosed:
            if not self.closes:
                raise

    def _hold(self, lease: Lease[FakeConnection]) -> int:
        number = lease.connection.number
        if number in self.held:
            self.wrong.append(f"connection {number} has two users")
        if lease.connection.closed:
            self.wrong.append(f"connection {number} was handed out closed")
        self.held.add(number)
        if self.factory.open > self.size:
            self.wrong.append(f"{self.factory.open} connections are open")
        return number

    def _plainly(self) -> None:
        with self.pool.acquire():
            pass
        lease = self.pool.acquire()
        self.held.discard(self._hold(lease))
        lease.release()

    def _twice(self) -> None:
        for _ in range(3):
            lease = self.pool.acquire()
            number = self._hold(lease)
            self.clock.give_way()
            self.held.discard(number)
            lease.release()

    def _impatiently(self) -> None:
        for timeout in (0.0, 1e-9, 0.0):
            try:
                lease = self.pool.acquire(timeout)
            except PoolTimeout:
                continue
            self.held.discard(self._hold(lease))
            lease.release()

    def _dirtily(self) -> None:
        lease = self.pool.acquire()
        number = self._hold(lease)
        lease.connection.dirty = True
        self.held.discard(number)
        lease.release()
        self._plainly()

    def _and_breaks(self) -> None:
        try:
            with self.pool.acquire() as connection:
                connection.dead = True
                raise FakeBroken
        except FakeBroken:
            pass
        self._plainly()

    def _and_drops(self) -> None:
        lease = self.pool.acquire()
        self.held.discard(self._hold(lease))
        del lease
        self._plainly()

    def _and_orders(self) -> None:
        if self.closes:
            self.pool.close()
        elif self.dice.random() < 0.5:
            self.pool.clear()
        else:
            self.pool.suspend()
            self.clock.give_way()
            self.pool.resume()
        self._plainly()

    def _outcome(self, user: Actor) -> None:
        try:
            user.result()
        except (PoolTimeout, ConnectError, PoolClosed, RuntimeError) as error:
            self.wrong.append(f"{type(error).__name__}: {str(error).splitlines()[0]}")

    def _everything_comes_back(self) -> None:
        gc.collect(0)
        if self.pool._ledger.phase.value == "running":
            leases = [self.clock.spawn(self.pool.acquire, 5.0) for _ in range(self.size)]
            self.clock.sleep(6.0)
            got = [lease for lease in leases if lease.done and lease._error is None]
            if len(got) < self.size:
                self.wrong.append(f"only {len(got)} of {self.size} slots are left")
            for lease in got:
                lease.result().release()
            self.clock.sleep(0.1)
        stats = self.pool.stats()
        if stats.waiting or stats.leased:
            self.wrong.append(f"at the end {stats.leased} are leased and {stats.waiting} wait")
        self.pool.close()
        if self.factory.open:
            self.wrong.append(f"{self.factory.open} connections are open after close()")


def explore(count: int, first: int = 0) -> dict[int, list[str]]:
    """What is wrong, by seed."""
    found = {}
    for seed in range(first, first + count):
        wrong = Schedule(seed).run()
        if wrong:
            found[seed] = wrong
    return found


if __name__ == "__main__":
    broken = explore(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    for number, texts in broken.items():
        print(f"seed {number}: {'; '.join(sorted(set(texts)))}")
    sys.exit(1 if broken else 0)
