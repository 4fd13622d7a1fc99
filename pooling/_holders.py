"""Who holds a connection, in words: the names of threads and the lines of their acquires.

A pool notes an identifier, a code object and an instruction, and no more: the rest is looked up for whoever reads it.
"""

from __future__ import annotations

import threading  # never "from threading import": gevent replaces what the module holds
from collections.abc import Iterable, Mapping
from types import CodeType, FrameType
from typing import Any

from pooling._ledger.entry import Hold
from pooling.errors import Holder


def named(holds: Iterable[Hold], now: float, names: Mapping[int | None, str]) -> tuple[Holder, ...]:
    """The holders with their threads' names and the places of their acquires, longest first. Takes a while: not
    for under the lock."""
    return tuple(
        Holder(names.get(hold.thread, f"thread {hold.thread}"), max(now - hold.since, 0.0), call_site(*hold[2:]))
        for hold in sorted(holds, key=lambda hold: hold.since)
    )


def thread_names() -> dict[int | None, str]:
    """The names of the threads of this moment, by identifier."""
    # What threading.enumerate() lists, without its lock: that one is held while a thread starts, and a destructor that
    # strikes there may wait for a pool's lock, under which names are asked for. Copying a dict is atomic.
    active: dict[int | None, threading.Thread] = threading._active.copy()  # type: ignore[attr-defined]
    return {ident: thread.name for ident, thread in active.items()}


def call_site(code: CodeType | None, instruction: int) -> str:
    """``file:line function`` of an instruction."""
    if code is None:
        return "unknown"
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= instruction < end and number is not None:
            line = number
    return f"{code.co_filename}:{line} {code.co_name}"


class Between(dict[Any, bool]):
    """The packages that stand between a pool and its user. Every acquire through a driver's classes asks this of each
    frame, so what was found out of a module is kept: one look-up for each."""

    def __init__(self, *packages: str) -> None:
        self._packages = frozenset(packages)

    def __missing__(self, module: object) -> bool:
        between = str(module).partition(".")[0] in self._packages
        self[module] = between
        return between

    def outside(self, frame: FrameType) -> FrameType:
        """The innermost frame, from this one outwards, that is in none of the packages; the outermost where all are."""
        while self[frame.f_globals.get("__name__")] and frame.f_back is not None:
            frame = frame.f_back
        return frame
