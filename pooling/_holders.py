"""Who holds a connection, in words: the names of threads and the lines of their acquires.

A pool notes an identifier, a code object and an instruction, and no more: the rest is looked up for whoever reads it.
"""

from __future__ import annotations

import sys
import threading  # never "from threading import": gevent replaces what the module holds
from collections.abc import Iterable, Mapping
from types import CodeType, FrameType
from typing import Any

from pooling._ledger.entry import Hold
from pooling.errors import Holder

# What traces calls: it may stand around those that a driver's classes are asked by.
_AGENTS = ("wrapt", "opentelemetry", "ddtrace", "newrelic", "elasticapm", "sentry_sdk", "scout_apm")


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
    """The packages that stand between a pool and its user, beside ``pooling`` and agents. Every acquire through a
    driver's classes asks for the user's frame, so what was found out of a module is kept: one look-up for each."""

    def __init__(self, *packages: str) -> None:
        self._packages = {"pooling", *_AGENTS, *packages}
        # How far from here the user called last, and which function: a program comes the same way again and again. Each
        # frame that is looked at has to be made an object, and for nine of them, as below SQLAlchemy's engine, that
        # takes longer than the acquire.
        self._usual: tuple[int, CodeType | None] = 0, None

    def __missing__(self, module: object) -> bool:
        between = str(module).partition(".")[0] in self._packages
        self[module] = between
        return between

    def outside(self) -> FrameType:
        """The innermost frame, from the caller's outwards, that is in none of the packages; the outermost where all
        are."""
        distance, called = self._usual
        try:
            frame = sys._getframe(distance)
        except ValueError:  # the stack is not as deep
            pass
        else:
            user = frame.f_back
            if frame.f_code is called and user is not None and not self._has(user):
                return user
        distance, frame, called = 0, sys._getframe(), None
        while self._has(frame) and (user := frame.f_back) is not None:
            distance, called, frame = distance + 1, frame.f_code, user
        self._usual = distance - 1, called
        return frame

    def _has(self, frame: FrameType) -> bool:
        return self[frame.f_globals.get("__name__")]
