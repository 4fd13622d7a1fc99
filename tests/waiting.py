"""Waiting, in real time, for what another thread, process or server brings about."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 30.0  # seconds: longer than anything that is waited for takes on a machine with much to do
LATE = 5.0  # seconds by which such a machine may be late with what has a time of its own
LOOK = 0.001  # seconds between two looks


def comes_true(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether the condition holds within that many seconds. Returns as soon as it does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(LOOK)
    return True


def until(condition: Callable[[], object], what: str = "what was waited for", seconds: float = PATIENCE) -> None:
    """Return as soon as the condition holds. AssertionError, which says ``what``, after that many seconds."""
    if not comes_true(condition, seconds):  # no assert: under -O it would not even wait
        raise AssertionError(f"not within {seconds:g} s: {what}")
