"""One stress run, from the first connection to the verdict."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

from pooling.cli.stress._census import Census, CountedFactory
from pooling.cli.stress._chaos import Chaos
from pooling.cli.stress._faults import Faults
from pooling.cli.stress._options import StressOptions
from pooling.cli.stress._plan import plans
from pooling.cli.stress._resources import LONG_ENOUGH, Resources
from pooling.cli.stress._result import Progress, Result, SessionCount
from pooling.cli.stress._scene import AnyPool, Scene
from pooling.cli.stress._target import Target, open_target
from pooling.cli.stress._user import User
from pooling.cli.stress._verdict import Invariant, Verdict
from pooling.cli.stress.work._sessions import EVERY
from pooling.pool import Pool

MakePool = Callable[..., AnyPool]
"""Called with a factory and the options max_size, min_size and name."""

LOOK = 0.002  # seconds between two looks at the queue: well below what one turn of a crowded queue takes
SHOW = 0.1  # seconds between two pictures of the progress, and at most until an interrupt is noticed


def run(
    options: StressOptions,
    make_pool: MakePool = Pool,
    show: Callable[[Progress], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Result:
    """Stress a pool for ``options.duration`` seconds, or until ``interrupted()``.

    ``make_pool`` is there so that tests can put a broken pool to the same trial. Raises Mistake and Unreachable
    before anything has run; whatever happens later is part of the result.
    """
    with open_target(options.url, chaos=options.chaos) as target:
        return _Run(options, target, make_pool).through(show, interrupted)


class _Run:
    def __init__(self, options: StressOptions, target: Target, make_pool: MakePool) -> None:
        self.options = options
        self.target = target
        self.verdict = verdict = Verdict()
        self.faults = Faults()
        self.census = census = Census(options.max_size, verdict)
        factory = CountedFactory(target.factory, census, target.work, self.faults)
        self.pool = make_pool(factory, max_size=options.max_size, min_size=options.min_size, name="stress")
        self.chaos = None if target.proxy is None else Chaos(target.proxy, options.seed)
        self.resources = Resources()
        self.scene = Scene(
            self.pool, target.work, census, self.faults, verdict, options.timeout, chaos=self.chaos is not None
        )
        self.users = [User(n, self.scene, plans(options, n)) for n in range(1, options.threads + 1)]
        self.watches = [_Watch(Invariant.ORDER, LOOK, self._look, self._watch_failed)]
        if target.sessions is not None:
            self.watches.append(_Watch(Invariant.SERVER, EVERY, self._count, self._watch_failed))

    def through(self, show: Callable[[Progress], None] | None, interrupted: Callable[[], bool]) -> Result:
        started = time.monotonic()
        try:
            for thread in (*self.watches, *self.users, *([self.chaos] if self.chaos else [])):
                thread.start()
            while (elapsed := time.monotonic() - started) < self.options.duration and not interrupted():
                if show is not None:
                    show(self._progress(elapsed))
                if self.chaos is not None:
                    self.resources.look()
                time.sleep(min(SHOW, self.options.duration - elapsed))
            elapsed = time.monotonic() - started
        finally:
            self.scene.stop.set()
        if self.chaos is not None and elapsed >= LONG_ENOUGH:
            self.resources.judge(self.verdict, self.options.max_size)
        self._finish()
        return self._result(elapsed, interrupted())

    # -- the watches --------------------------------------------------------------------------------

    def _look(self) -> None:
        self.scene.order.look()
        self.scene.fold()

    def _count(self) -> None:
        if self.target.sessions is not None:
            self.target.sessions.look(self.census, self.verdict, self.options.max_size, chaos=self.chaos is not None)

    def _watch_failed(self, subject: Invariant, error: Exception) -> None:
        # What was not watched to its end has not been shown to hold.
        text = " ".join(str(error).split())
        self.verdict.broke(subject, f"could not be watched to the end: {type(error).__name__}: {text}")

    # -- the end ------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Let everybody go home, then ask for every slot, close, and count."""
        self.faults.disarm()
        if self.chaos is not None:
            self.chaos.end()
        patience = self.options.patience
        if stuck := self._join(patience):
            self.verdict.broke(
                Invariant.ACCOUNTED,
                f"{stuck} threads stayed in the pool, none came back for {patience:g} s after the end",
            )
        else:
            self._lease_all()
        watched = [watch.end(patience) for watch in self.watches]
        self.census.closing = True
        self.pool.close(patience)
        self._join(1.0)
        self.census.audit()
        if self.target.sessions is not None and all(watched):  # else its connection is in use, and hangs
            try:
                self.target.sessions.finish(self.verdict, patience)
            except Exception as error:
                self._watch_failed(Invariant.SERVER, error)
        self.scene.order.look()
        self.scene.order.look()  # who was reported by the first is judged by the second
        if not sum(user.uses for user in self.users):
            self.verdict.broke(Invariant.ACCOUNTED, "not one use in the whole run")

    def _join(self, patience: float) -> int:
        """Wait for the users to end, as long as one does every ``patience`` seconds; returns how many have not."""
        left, until = len(self.users), time.monotonic() + patience
        while left and time.monotonic() < until:
            time.sleep(SHOW / 10)
            now_left = sum(user.is_alive() for user in self.users)
            if now_left < left:
                left, until = now_left, time.monotonic() + patience
        return left

    def _lease_all(self) -> None:
        """Nobody is left: now all slots are there to be leased at the same time, by one."""
        gc.collect()  # a lost lease may be garbage: an error of PyMongo's keeps the frames of its user, in a cycle
        until = time.monotonic() + self.options.patience
        leases, cards = [], []
        try:
            for _ in range(self.options.max_size):
                leases.append(self.pool.acquire(timeout=max(0.0, until - time.monotonic())))
                cards.append(self.census.enter(leases[-1].connection, "the final count"))
        except Exception as error:
            self.verdict.broke(
                Invariant.ACCOUNTED,
                f"at the end only {len(cards)} of {self.options.max_size} slots could be leased: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            )
        finally:
            for card in cards:
                self.census.leave(card)
            for lease in leases:
                lease.release()

    # -- the numbers --------------------------------------------------------------------------------

    def _progress(self, elapsed: float) -> Progress:
        return Progress(
            elapsed=elapsed,
            duration=self.options.duration,
            uses=sum(user.uses for user in self.users),
            open=self.census.open,
            waiting=self.scene.order.waiting,
            errors=sum(self.scene.errors.values()),
            broken=tuple(each for each in Invariant if self.verdict.count(each)),
        )

    def _result(self, elapsed: float, interrupted: bool) -> Result:
        sessions = self.target.sessions
        return Result(
            options=self.options,
            target=self.target.name,
            elapsed=elapsed,
            interrupted=interrupted,
            per_thread=tuple(user.uses for user in self.users),
            wait=self.scene.waits.snapshot(),
            hold=self.scene.holds.snapshot(),
            opened=self.census.opened,
            closed=dict(self.census.closed),
            peak_open=self.census.peak,
            refused=self.faults.refused,
            slowed=self.faults.slowed,
            sessions=None if sessions is None else SessionCount(*sessions.figures),
            troubles=None if self.chaos is None else dict(self.chaos.counts),
            resources=None if self.chaos is None else self.resources.thirds(),
            waits_watched=self.scene.order.watched,
            endings=dict(self.scene.endings),
            errors=dict(self.scene.errors),
            verdict=self.verdict,
        )


class _Watch(threading.Thread):
    """Looks again and again."""

    def __init__(
        self,
        subject: Invariant,
        pause: float,
        look: Callable[[], None],
        failed: Callable[[Invariant, Exception], None],
    ) -> None:
        super().__init__(name=f"watch over {subject.value}", daemon=True)
        self._subject = subject
        self._pause = pause
        self._look = look
        self._failed = failed
        self._over = threading.Event()

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self._look()
                time.sleep(self._pause)
        except Exception as error:
            self._failed(self._subject, error)

    def end(self, patience: float) -> bool:
        """Whether it has ended in time: a server that hangs may never answer the last question."""
        self._over.set()
        self.join(patience)
        if self.is_alive():
            self._failed(self._subject, TimeoutError(f"no answer for {patience:g} s"))
        return not self.is_alive()
