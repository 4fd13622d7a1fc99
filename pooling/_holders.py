"""Who holds a connection, in words: the names of threads and the lines of their acquires.

A pool notes an identifier, a code object and an instruction, and no more: the rest is looked up for whoever reads it.
"""

from __future__ import annotations

import threading  # never "from threading import": gevent replaces what the module holds
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import CodeType, FrameType

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


def outside(frame: FrameType, packages: frozenset[str]) -> FrameType:
    """The innermost frame, from this one outwards, that is in none of these packages, which stand between the pool and
    its user; the outermost where all are."""
    while (outer := frame.f_back) is not None and _is_in(frame.f_globals.get("__name__"), packages):
        frame = outer
    return frame


@lru_cache(maxsize=1024)  # each acquire through a driver's own classes asks for the same few
def _is_in(module: object, packages: frozenset[str]) -> bool:
    return str(module).partition(".")[0] in packages
