"""The lock that stands in ``with``: re-entrant, and never left taken by what strikes its thread on the way in or out.

What a signal handler raises, or another thread sends, the interpreter raises between two opcodes, and there is no such
place between entering a ``with`` and its block. But in Python 3.14 there is one (CPython's issue 148874, mended in
3.15): whoever it strikes there holds the lock, and nothing lets go of it.

The same is left by a want of memory at the end of the block: the call that leaves a ``with`` takes three arguments, and
where there is no place for the tuple of them it is not made.
"""

from __future__ import annotations

import _thread
import sys
import threading  # never "from threading import": gevent replaces what the module holds
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

R = TypeVar("R")

STRUCK_BETWEEN = sys.version_info[:2] == (3, 14)


class Lock(Protocol):
    """What is used of it."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *details: object) -> None: ...

    def release(self) -> None: ...

    def _is_owned(self) -> bool:
        """Whether the calling thread holds it. (threading.Condition relies on the same method.)"""


class EnteredCarefully(_thread.RLock):  # type: ignore[misc]  # final in typeshed, not in CPython
    """Entered by a function of Python's: from where that ends to the block no place is left. Leaving stays in C."""

    __slots__ = ()

    def __enter__(self) -> bool:  # type: ignore[override]  # nobody gives it arguments
        try:
            return self.acquire()
        except BaseException:
            try:
                self.release()  # it was taken, and the exception came after it
            except RuntimeError:
                pass  # the exception ended the wait for it
            raise


def new_lock() -> Lock:
    """A new lock, of the kind that threading has now."""
    made: Any = threading.RLock()
    if STRUCK_BETWEEN and type(made) is _thread.RLock:
        made = EnteredCarefully()
    return made  # type: ignore[no-any-return]  # _is_owned is not in typeshed


def let_go(lock: Lock) -> None:
    """An exception came out of the ``with`` of a thread that had not had the lock before: nor is it to have it now."""
    while lock._is_owned():
        lock.release()


def under(lock: Lock, action: Callable[..., R], *args: Any) -> R:
    """What the action returns, called under the lock; a destructor or signal handler may have it already."""
    had = lock._is_owned()
    try:
        with lock:
            return action(*args)
    except BaseException:
        if not had:
            let_go(lock)
        raise


def alone(lock: threading.RLock, patience: float, action: Callable[[], R]) -> R | None:
    """What the action returns; None where it was not called, for another thread is at it for longer than that."""
    try:
        return action() if lock.acquire(timeout=patience) else None
    finally:
        # Asked for nothing before: whatever strikes between the two, or before them, leaves no lock taken.
        try:
            lock.release()
        except RuntimeError:
            pass  # it is not this thread's
