"""What the pool knows about a server it cannot reach: since when, why, and when to try next."""

from __future__ import annotations

import math
from collections.abc import Callable

from pooling._chance import chance
from pooling._secrets import hide, said
from pooling._words import in_words, printable
from pooling.config import Config
from pooling.errors import ConnectError
from pooling.stats import PoolState

LONGEST_TEXT = 1000  # characters of an error's text that are repeated
READ = 10 * LONGEST_TEXT  # characters of it that are looked at
LONGEST_GAP = 2.0  # seconds between two tries, and for one try, while the server is down
PATIENT = 30.0  # seconds after which one try may take longer, where those before it ran out of time
GRACE = 1.0  # seconds for which a permanent error is put up with while other connections are open
MOMENT = 0.25  # seconds by which a driver that keeps to its time may come back later


class Outage:
    """The back-off of one pool. Nothing here knows the lock: the ledger calls it under the pool's.

    While ``failures`` is 0 the server is up. ``asked`` says that somebody wanted a connection since the last
    try began: without that the pool leaves the server alone (unless min_size has to be kept). ``hurried`` says that
    the last try ran out of its short time.
    """

    def __init__(self, config: Config, jitter: Callable[[], float] = chance) -> None:
        self._fail_after = math.inf if config.fail_after is None else config.fail_after
        self._jitter = jitter
        self.failures = 0
        self.since = 0.0
        self.next_try = 0.0
        self.asked = False
        self.error: BaseException | None = None
        self.told = ""  # the error in one line: a crowd of waiters may ask for it, each under the lock
        self.error_at = 0.0
        self.doubt = False  # a connection broke, and nothing has gone well since
        self.permanent = False
        self.hurried = False
        self._grace = 0.0
        self._fell_at = 0.0  # when the first of them failed
        self._patient_at = 0.0  # from when on a try may take longer

    @property
    def state(self) -> PoolState:
        return "down" if self.failures else "suspect" if self.doubt else "up"

    def __bool__(self) -> bool:
        return self.failures > 0

    def failed(
        self,
        now: float,
        error: BaseException,
        *,
        permanent: bool,
        began: float,
        alone: bool,
        pause: float | None = None,
    ) -> None:
        """A connect failed: the next one has to wait, unless this one has taken as long as the longest pause.
        ``pause``: for how long, where the user has a say in that.

        Unless it was ``alone``, with no other connection open, even a permanent error leaves waiters something to wait
        for: perhaps a password is being changed, and the next try asks for the credentials anew.
        """
        # Those under way together fail together: that is one failure, and after one the pause is short.
        together = self.failures > 0 and began <= self._fell_at
        if not self.failures:
            self.since = self._fell_at = now
            self._patient_at = now + PATIENT
        self.hurried = now >= began + LONGEST_GAP  # the sum: a difference may be a rounding less
        if not together:
            self.failures += 1
            pause = gap(self.failures, self._jitter()) if pause is None else pause
            self.next_try = now if self.hurried else now + pause
        self.error, self.error_at, self.permanent = error, now, permanent
        self.told = describe(error)
        self._grace = 0.0 if alone else min(GRACE, self._fail_after)

    def time_for_a_try(self, now: float, whole: float) -> float:
        """How long one that begins now may take: not long, for who has no answer by then may get one by the next.
        But a server that is back may be slow, since it has to be woken up, or a name server does not answer it. What is
        always short would never reach it: now and then one has the whole time."""
        if not self.hurried or now < self._patient_at:
            return min(whole, LONGEST_GAP)
        self.hurried, self._patient_at = False, now + PATIENT
        return whole

    def served(self, now: float) -> None:
        """Somebody got a connection all the same (the server refuses new ones, those it has work): the
        patience of those who still wait begins anew."""
        self.since = max(self.since, now)

    def resumed(self, now: float) -> None:
        """Nothing was tried by the owner's order. Now he has reason to think that the server is back: it is tried at
        once, and those who have waited for him wait for what comes of that."""
        self.since, self.next_try, self.permanent = max(self.since, now), min(self.next_try, now), False
        self._fell_at = -math.inf  # that try is not one of those that failed together

    def over(self) -> None:
        self.failures = 0
        self.error = None
        self.asked = self.doubt = self.permanent = self.hurried = False

    def hopeless_at(self) -> float:
        """From when on waiters are not kept waiting any longer."""
        if not self.failures:
            return math.inf
        if self.permanent:
            return self.since + self._grace if self._grace else self.error_at
        return self.since + self._fail_after

    def hopeless_for(self, started: float, now: float) -> bool:
        """Whether one who has waited since ``started`` is not kept waiting any longer. Who came when it was
        hopeless already, and nobody was finding out, waits for the try that was made for it."""
        at = self.hopeless_at()
        return now >= at and (started < at or started <= self.error_at)

    def explain(self, name: str, now: float) -> ConnectError:
        """An error for one waiter; each gets its own, so that no traceback is shared."""
        pause = self.next_try - now
        trying = "the next try is under way" if pause <= 0 else f"the next try is in {in_words(pause)}"
        error = ConnectError(
            f"pool {name!r} cannot connect: {self.told} (failing for {in_words(now - self.since)}, "
            f"{self.failures} {'try' if self.failures == 1 else 'tries'}; {trying})"
        )
        error.__cause__ = self.error
        return error


def gap(failures: int, jitter: float) -> float:
    """Seconds between two tries after so many failures in a row, shortened by up to a tenth: ``jitter`` is random."""
    return min(0.05 * failures, LONGEST_GAP) * (1 - 0.1 * jitter)


def describe(error: BaseException | None) -> str:
    """An error's type and text in one line, without what reads like a password: not every error was concealed, some
    are a user's own."""
    # Cut before it is searched, which takes a second for a megabyte, and the pool's lock may be held.
    text = " ".join(hide(said(error)[:READ])[:LONGEST_TEXT].split()) if error is not None else ""
    return f"{type(error).__name__}: {printable(text)}" if text else type(error).__name__
