"""Threads that use a pool, and what they have met with."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pooling import Pool
from tests.backends.adapters import Remote

JOIN = 60.0  # seconds: a thread that has not ended by then never will
_tokens = itertools.count(1)


@dataclass
class Use:
    """One lease: the entry it was of, and the stamps around it."""

    entry: int
    acquired: float
    ended: float
    error: BaseException | None


@dataclass
class Crowd:
    """Threads that share a pool. Everything that is not the driver's error on a lease of theirs ends them, and is
    raised by :meth:`join`."""

    backend: Remote
    pool: Pool[Any]
    uses: list[Use] = field(default_factory=list)
    strange: list[BaseException] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def failed(self) -> list[Use]:
        return sorted((use for use in self.uses if use.error is not None), key=lambda use: use.ended)

    @property
    def served(self) -> list[Use]:
        return sorted((use for use in self.uses if use.error is None), key=lambda use: use.ended)

    def use(self, timeout: float = 30.0) -> None:
        """Acquire, ask the server something, release."""
        lease = self.pool.acquire(timeout)
        entry, acquired = lease._entry.id, time.monotonic()
        error: BaseException | None = None
        try:
            with lease as connection:
                token = next(_tokens)
                assert self.backend.ask(connection, token) == token
        except self.backend.errors as caught:
            error = caught
        self.uses.append(Use(entry, acquired, time.monotonic(), error))

    def start(self, count: int, work: Callable[[], object]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                self.strange.append(error)

        new = [threading.Thread(target=run, daemon=True) for _ in range(count)]
        self.threads += new
        for thread in new:
            thread.start()

    def join(self) -> None:
        until = time.monotonic() + JOIN
        for thread in self.threads:
            thread.join(max(0.0, until - time.monotonic()))
        assert not any(thread.is_alive() for thread in self.threads), f"threads hang: {self.pool.stats()}"
        if self.strange:
            raise self.strange[0]

    def none_after_the_first(self) -> None:
        """Each failure was on a lease that was out before the pool heard of the first one."""
        if self.failed:
            heard = self.failed[0].ended
            late = [use for use in self.failed if use.acquired > heard]
            assert not late, [f"{use.acquired - heard:.3f} s after the first: {use.error!r}" for use in late]


def fill(pool: Pool[Any], count: int) -> set[int]:
    """Open so many connections and give them back; their entries."""
    leases = [pool.acquire() for _ in range(count)]
    entries = {lease._entry.id for lease in leases}
    for lease in leases:
        lease.release()
    return entries
