"""Functions whose call does nothing yet."""

from __future__ import annotations

import functools
import inspect

_LAZY = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def lazy(fn: object) -> object | None:
    """The generator function or coroutine function that a call of ``fn`` would call, also an object called as one, or
    a partial of those; None where there is none."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    code = getattr(fn, "__code__", None) or getattr(type(fn).__call__, "__code__", None)
    return fn if getattr(code, "co_flags", 0) & _LAZY else None


def refuse_lazy(what: str, fn: object) -> None:
    """Raise TypeError where nobody would run what a call returns."""
    if lazy(fn) is not None:
        raise TypeError(f"{what} must be a plain function, not one that makes a generator or coroutine: nobody runs it")
