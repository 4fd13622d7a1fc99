"""A line for the pool's log: made under its lock, put into words and written without it."""

from __future__ import annotations

from typing import NamedTuple

from pooling._holders import named, thread_names
from pooling._ledger.entry import Hold


class Notice(NamedTuple):
    """What happened, and the holders it is about."""

    text: str
    holds: tuple[Hold, ...]
    at: float
    """The pool's monotonic clock, in seconds."""

    def __str__(self) -> str:
        return f"{self.text}: {'; '.join(map(str, named(self.holds, self.at, thread_names())))}"
