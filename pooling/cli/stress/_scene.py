"""What the users of one run share."""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from typing import Any, Protocol

from pooling.cli.stress._census import Census
from pooling.cli.stress._faults import Faults
from pooling.cli.stress._order import OrderWatch
from pooling.cli.stress._plan import Ending
from pooling.cli.stress._verdict import Invariant, Verdict
from pooling.cli.stress.work import Work
from pooling.stats import Recorder


class AnyPool(Protocol):
    """What a run needs of a pool."""

    def acquire(self, timeout: float) -> Any: ...

    def close(self, timeout: float) -> None: ...


class Scene:
    """Called by all users' threads at once, but for :meth:`fold`; ``_lock`` is for counting errors and endings."""

    def __init__(
        self,
        pool: AnyPool,
        work: Work,
        census: Census,
        faults: Faults,
        verdict: Verdict,
        timeout: float,
        *,
        chaos: bool = False,
    ) -> None:
        self.pool = pool
        self.work = work
        self.census = census
        self.faults = faults
        self.verdict = verdict
        self.order = OrderWatch(verdict)
        self.stop = threading.Event()
        self.timeout = timeout
        self.chaos = chaos  # any connection may break at any time, and no connect has to succeed
        self.waits = Recorder()
        self.holds = Recorder()
        self.errors: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()
        self._lock = threading.Lock()

    def failed(self, error: BaseException, *, expected: bool, kind: str = "") -> None:
        """Count an error; one that nothing in this run explains breaks a promise."""
        kind = kind or type(error).__name__
        with self._lock:
            self.errors[kind] += 1
        if not expected:
            where = traceback.extract_tb(error.__traceback__)[-1:]
            at = "".join(f" at {frame.filename}:{frame.lineno} {frame.name}" for frame in where)
            text = " ".join(str(error).split())
            self.verdict.broke(Invariant.ERRORS, f"{kind}: {text[:400]}{at}")

    def fold(self) -> None:
        """Sort new samples into their histograms; called by one thread at a time."""
        self.waits.fold()
        self.holds.fold()

    def ended(self, ending: Ending) -> None:
        with self._lock:
            self.endings[ending.value] += 1
