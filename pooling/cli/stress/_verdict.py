"""What must hold in every run, and the evidence where it did not."""

from __future__ import annotations

import threading
import time
from enum import Enum

EVIDENCE_KEPT = 3  # for each invariant: the first ones tell the story, a broken pool produces thousands


class Invariant(Enum):
    """A promise that a run watches; the value is its name in the report."""

    SIZE = "size"
    ONE_USER = "one user"
    ORDER = "order"
    RESULTS = "results"
    ACCOUNTED = "accounted"
    ERRORS = "errors"
    SERVER = "server"
    STEADY = "steady"


MEANING = {
    Invariant.SIZE: "never more connections open than max_size",
    Invariant.ONE_USER: "one user per connection at a time",
    Invariant.ORDER: "nobody who waits is overtaken by one who came later",
    Invariant.RESULTS: "right results, nothing uncommitted left by the user before",
    Invariant.ACCOUNTED: "every slot usable at the end, every connection closed",
    Invariant.ERRORS: "no error of an unexpected kind",
    Invariant.SERVER: "the server counts no more sessions than max_size, and none after close",
    Invariant.STEADY: "descriptors, threads and memory do not grow",
}


class Verdict:
    """Collects evidence from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._counts: dict[Invariant, int] = {}
        self._evidence: dict[Invariant, list[str]] = {}

    def broke(self, invariant: Invariant, evidence: str) -> None:
        """The invariant did not hold, and this is how that showed."""
        with self._lock:
            self._counts[invariant] = self._counts.get(invariant, 0) + 1
            kept = self._evidence.setdefault(invariant, [])
            if len(kept) < EVIDENCE_KEPT:
                kept.append(f"{time.monotonic() - self._started:.3f} s: {evidence}")

    @property
    def held(self) -> bool:
        """Whether nothing broke so far."""
        return not self._counts

    def count(self, invariant: Invariant) -> int:
        """How often it broke."""
        return self._counts.get(invariant, 0)

    def evidence(self, invariant: Invariant) -> tuple[str, ...]:
        """How it broke, the first few times."""
        with self._lock:
            return tuple(self._evidence.get(invariant, ()))
