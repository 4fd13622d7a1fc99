"""One user of the pool: a thread that acquires, works, and gives back, one plan after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from pooling.cli.stress._census import Card, Unfit
from pooling.cli.stress._order import Attempt
from pooling.cli.stress._plan import Ending, Plan
from pooling.cli.stress._scene import Scene
from pooling.cli.stress._verdict import Invariant
from pooling.errors import ConnectError, PoolClosed, PoolTimeout

NAP = 0.05  # seconds: sleeps longer than this end early when the run does
# Why a connection must never be seen again after a use.
FATES = {
    Ending.LOST: "lost",
    Ending.BREAK: "broken",
    Ending.DISCARD: "discarded",
    Ending.REFUSE: "discarded",
    Ending.SLOW: "discarded",
}


class User(threading.Thread):
    """Runs through its plans until the scene's stop."""

    def __init__(self, number: int, scene: Scene, plans: Iterator[Plan]) -> None:
        super().__init__(name=f"user {number}", daemon=True)
        self.uses = 0
        self._scene = scene
        self._plans = plans
        self._broke = False  # whether this use has broken its connection on purpose
        self._waited = 0.0  # seconds that its acquire took

    def run(self) -> None:
        for plan in self._plans:
            self._pause(plan.think)
            if self._scene.stop.is_set():
                return
            try:
                self._broke = False
                self._use(plan)
            except Unfit:
                pass  # the verdict has it
            except Exception as error:
                self._explain(error)

    def _explain(self, error: Exception) -> None:
        """Sort an error that ended a use."""
        scene = self._scene
        if isinstance(error, PoolTimeout):
            # The pool's clock started after ours, so it can only have taken longer by ours.
            early = self._waited < scene.timeout
            scene.failed(error, expected=not early, kind="PoolTimeout before its time" if early else "")
        elif isinstance(error, PoolClosed):
            scene.failed(error, expected=scene.census.closing)
        elif scene.work.is_busy(error):
            scene.failed(error, expected=True, kind="database is busy")
        elif self._broke and isinstance(error, scene.work.errors):
            scene.failed(error, expected=True, kind=f"injected break: {type(error).__name__}")
        elif scene.chaos and isinstance(error, (ConnectError, *scene.work.errors)):
            scene.failed(error, expected=True, kind=f"chaos: {type(error).__name__}")
        else:
            scene.failed(error, expected=False)

    def _use(self, plan: Plan) -> None:
        """Acquire, work, and end the lease as planned. A lease that is to be lost is dropped by the end of this
        function: nothing else refers to it."""
        scene = self._scene
        attempt = scene.order.begin(self.name)
        try:
            lease = scene.pool.acquire(timeout=scene.timeout)
        finally:
            scene.order.end(attempt)
            self._waited = (attempt.served - attempt.called) / 1e9
        scene.waits.samples.append(self._waited)
        if scene.stop.is_set():
            plan = plan._replace(ending=Ending.CLEAN, hold=0.0)  # the run is over: let the next one see that too
        if plan.ending is Ending.LOST:
            self._work(lease.connection, attempt, plan)
        elif plan.ending in (Ending.CLEAN, Ending.DIRTY, Ending.BREAK):
            with lease as connection:
                self._work(connection, attempt, plan)
        else:
            try:
                self._work(lease.connection, attempt, plan)
            finally:
                lease.discard()

    def _work(self, connection: Any, attempt: Attempt, plan: Plan) -> None:
        scene = self._scene
        card = scene.census.enter(connection, self.name)
        began = time.monotonic()
        scene.order.served(attempt, card.free_since)
        try:
            if left := scene.work.leftover(connection):
                scene.verdict.broke(Invariant.RESULTS, f"{self.name} was given {left}, connection {card.number}")
            self._ask(card, connection, plan)
            self._pause(plan.hold)
            self.uses += 1
            scene.ended(plan.ending)
            if plan.ending is Ending.DIRTY:
                scene.work.soil(connection, plan.number)
            elif plan.ending is Ending.BREAK:
                self._break(connection, plan)
            elif plan.ending in (Ending.REFUSE, Ending.SLOW):
                scene.faults.arm(plan.ending)
        finally:
            # Before the pool hears of it: from then on the connection may be somebody else's.
            spared = plan.ending is Ending.BREAK and not self._broke
            scene.census.leave(card, "" if spared else FATES.get(plan.ending, ""))
            scene.holds.samples.append(time.monotonic() - began)

    def _ask(self, card: Card, connection: Any, plan: Plan) -> None:
        """One round trip, and whether its answer is ours."""
        echo, mark, seen = self._scene.work.ask(connection, plan.number)
        if (echo, mark) != (plan.number, card.mark):
            self._scene.verdict.broke(
                Invariant.RESULTS,
                f"{self.name} asked session {card.mark} for {plan.number}, session {mark} answered {echo}",
            )
        if seen:
            self._scene.verdict.broke(Invariant.RESULTS, f"{self.name} saw an uncommitted write of another user")

    def _break(self, connection: Any, plan: Plan) -> None:
        """Break the connection, then use it: by what the driver raises then, the pool is to know."""
        self._broke = True
        self._scene.work.break_(connection)
        self._scene.work.ask(connection, plan.number)
        self._scene.verdict.broke(Invariant.RESULTS, f"{self.name} got an answer from a broken connection")

    def _pause(self, seconds: float) -> None:
        if seconds > NAP:
            self._scene.stop.wait(seconds)
        elif seconds > 0:
            time.sleep(seconds)
