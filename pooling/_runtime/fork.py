"""How a process learns that it was forked, at the price of reading one byte.

The kernel zeroes a page marked MADV_WIPEONFORK in every child, whoever forks and with whatever hooks: uWSGI
runs none of Python's. Each pool keeps its "the plain path may be taken" byte on such a page, so a child finds
it 0 and takes the careful path, where a second byte on that page tells it from its parent. Elsewhere a fork hook of
Python's clears the first, and process ids are compared in place of the second: a hook may not have run. Windows has
no fork.
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
_WIPE_ON_FORK = 18  # from <linux/mman.h>; Python's mmap module has no name for it before 3.14
_inherited: list[object] = []
_hooked: weakref.WeakSet[_HookedByte] = weakref.WeakSet()


class Flag(Protocol):
    """Two bytes. ``flag[0]`` is 1 in the process that set it and 0 in its children; so is ``flag[1]`` after
    :func:`settled`, where the kernel sees to it, else it is always 0."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class _HookedByte(bytearray):
    __slots__ = ("__weakref__",)

    def __hash__(self) -> int:  # type: ignore[override]  # by identity: the set of all flags holds it weakly
        return id(self)


class PerProcess(Generic[T]):
    """What each process has of its own. Calling it returns that, made by ``make`` at the first call, the same for all
    threads.

    So a forked child begins with a new one, and its parent's is not even looked at: a lock may be held by a thread that
    the child does not have. The parent's is kept all the same, so that no destructor of what is in there, a driver's
    client perhaps, runs in the child. Of several threads that come first at once each may call ``make``, which must do
    nothing that has to be undone.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}  # by process id

    def __call__(self) -> T:
        pid = os.getpid()
        try:
            return self._made[pid]
        except KeyError:
            return self._made.setdefault(pid, self._make())  # setdefault is atomic


def flag() -> Flag:
    """A new flag, all 0."""
    if sys.platform.startswith("linux"):
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            page.madvise(_WIPE_ON_FORK)
        except OSError:  # a kernel before 4.14, or a sandbox that refuses the advice
            page.close()
        else:
            return page
    byte = _HookedByte(2)
    _hooked.add(byte)
    return byte


def settled(flag: Flag) -> None:
    """Everything that goes with this flag is in place in this process."""
    flag[1] = not isinstance(flag, _HookedByte)


def keep_inherited(*things: object) -> None:
    """In a forked child: keep what is the parent's for ever, so that no destructor of a driver says goodbye on its
    session. Not at the end of the interpreter either, where modules let go of what they hold: hence a reference that
    nobody counts back."""
    _inherited.extend(things)
    try:
        import ctypes  # 5 ms, once, and in a child that has inherited connections alone

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_inherited))
    except (ImportError, AttributeError, OSError):
        pass  # no CPython, or one without it; or no descriptor is left to read it by


def once_back(call: Callable[[], object]) -> bool:
    """From now on, have the call made in the parent after each fork, once ``os.fork`` is over: the thread that forked
    makes it before its next line. False where that cannot be had.

    A fork hook of Python's comes too early for a thread to be started (see Threads.resume_after_fork). The interpreter
    can be asked to run something soon, as it does for signal handlers, but does so at the next instruction: the asking
    must be the last thing that the hook does, so the hook itself is C.
    """
    try:
        import ctypes  # 5 ms, and only a process that forks beside a pool needs it

        ask = ctypes.pythonapi.Py_AddPendingCall
    except (ImportError, AttributeError, OSError):  # as in keep_inherited()
        return False

    def answer(_: object) -> int:
        call()
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(answer)
    os.register_at_fork(after_in_parent=partial(ask, callback, None))
    return True


def _clear_hooked() -> None:
    for byte in list(_hooked):
        byte[0] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_clear_hooked)
