"""What an error that is kept leads to: of its traceback nothing but places, of the pool's own frames no variables."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator
from functools import lru_cache
from inspect import CO_NESTED
from traceback import clear_frames, walk_tb
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import Any


def bare(trace: TracebackType | None) -> TracebackType | None:
    """The same files, lines and names, in frames that have never run.

    Clearing the frames of an error is not enough. Each still leads to its function, with all that this one encloses,
    and to the frame that called it: from a job's to the worker's, which has the pool and the job's token.
    """
    made = None
    for frame, line in reversed(list(walk_tb(trace))):
        made = TracebackType(made, _like(frame), 0, line)
    return made


def forget_frames(error: BaseException) -> None:
    """Have an error that passes by keep no variables of the frames below the caller's, who has caught it. Where it is
    kept, a token that stood in one of them would else be nobody's, and yet not die."""
    here = error.__traceback__
    clear_frames(here and here.tb_next)


def apart(error: BaseException) -> BaseException:
    """A copy for one caller: raised as it is, an error that others get too would collect the traceback of each."""
    try:
        return copy.copy(error)
    except Exception:  # its constructor takes other arguments than it keeps
        return error


def _like(frame: FrameType) -> FrameType:
    """One that is called the same in the same place, holds no variables, and was called by nobody."""
    code = frame.f_code
    name = getattr(code, "co_qualname", code.co_name)  # from Python 3.11
    named = _named(code.co_filename, code.co_firstlineno, code.co_name, name)
    return FunctionType(named, frame.f_globals)().gi_frame  # type: ignore[no-any-return]  # a generator's


# Python 3.13 without the GIL frees no code, hence the cache, and no function unless its code says that it is nested.
@lru_cache(maxsize=1024)
def _named(file: str, line: int, name: str, qualified: str) -> CodeType:
    code = _nothing.__code__
    more: dict[str, Any] = {}
    if sys.version_info >= (3, 11):  # pragma: no cover  # not run on 3.10, where the core is covered as well
        # No columns are known of any instruction (so many bytes, each for eight of them, say that): else a traceback is
        # printed with an empty line in the place of carets.
        nowhere = b"\xff" * math.ceil(len(code.co_code) / 16)
        more = {"co_qualname": qualified, "co_linetable": nowhere}
    flags = code.co_flags | CO_NESTED
    return code.replace(co_filename=file, co_firstlineno=line, co_name=name, co_flags=flags, **more)


def _nothing() -> Iterator[None]:
    """A generator, for its frame is there before it runs."""
    yield  # pragma: no cover  # it never does
