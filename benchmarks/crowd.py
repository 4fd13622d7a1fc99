"""Threads that begin at the same moment, and what those saw that go on until a time is over."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

Service = tuple[int, float, float]
"""The thread, when it called and when it was served."""
Turns = Callable[[int, float, Callable[[Service], None]], None]
"""What a thread does, given its number, until that time is over; each service it records."""


@dataclass
class Outcome:
    """What the threads saw."""

    services: list[Service] = field(default_factory=list)
    seconds: float = 0.0
    errors: int = 0

    def waits(self) -> list[float]:
        """In ascending order."""
        return sorted(served - called for _, called, served in self.services)

    def least_to_most(self, threads: int) -> float:
        """Services of the thread with the fewest, as a part of the most."""
        counts = Counter(thread for thread, _, _ in self.services)
        return counts.get(min(range(threads), key=lambda one: counts[one]), 0) / max(counts.values(), default=1)

    def overtaken(self, slack: float = 0.0) -> int:
        """Services before which somebody was served who had called later (by more than ``slack`` seconds,
        at both ends)."""
        calls = sorted((served, called) for _, called, served in self.services)
        latest, before, count = 0.0, 0, 0
        for served, called in calls:
            while calls[before][0] < served - slack:
                latest = max(latest, calls[before][1])
                before += 1
            count += latest > called + slack
        return count


def together(threads: int, use: Callable[[], object]) -> float:
    """So many threads do it once, and all begin when all are there. Returns when that was, after the last has ended.
    Raises what the first of them has raised: who fails is quick about it, and would look well in a table of times."""
    gate = threading.Barrier(threads + 1)
    errors: list[Exception] = []

    def caller() -> None:
        gate.wait()
        try:
            use()
        except Exception as error:
            errors.append(error)

    everybody = [threading.Thread(target=caller, daemon=True) for _ in range(threads)]
    for thread in everybody:
        thread.start()
    gate.wait()
    began = perf_counter()
    for thread in everybody:
        thread.join()
    if errors:
        raise errors[0]
    return began


def crowd(threads: int, turns: Turns, *, lead: float, seconds: float) -> Outcome:
    """So many threads take their turns; what they see counts once ``lead`` seconds are over, for ``seconds``.

    A service counts where it was within that time. Who has waited since before it and was served after it has been
    starved: that counts as well.
    """
    outcome = Outcome(seconds=seconds)
    record = outcome.services.append  # of a list it is atomic
    gate = threading.Barrier(threads + 1)
    end = float("inf")

    def caller(number: int) -> None:
        gate.wait()
        gate.wait()  # the first is for all to be there, the second for `end` to be set
        try:
            turns(number, end, record)
        except Exception:
            outcome.errors += 1  # what went wrong is not the subject; that it did is in the table

    everybody = [threading.Thread(target=caller, args=(number,), daemon=True) for number in range(threads)]
    for thread in everybody:
        thread.start()
    gate.wait()
    start = perf_counter() + lead
    end = start + seconds
    gate.wait()
    for thread in everybody:
        thread.join()
    outcome.services[:] = [
        (thread, called, served)
        for thread, called, served in outcome.services
        if served >= start and (served < end or called < start)
    ]
    return outcome
