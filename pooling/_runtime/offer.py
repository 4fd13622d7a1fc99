"""Something that a worker is to do, and whoever asked where there can be none: done once, whoever it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pooling._runtime.workers import Job


def offer(submit: Callable[[Job], None], job: Job, otherwise: Job) -> None:
    """Have a worker do the job; ``otherwise`` is called here where no thread can be started, as the interpreter is
    ending or a limit is reached. Raises what ``submit`` raises for other reasons."""
    offered = [job]  # to the one who takes it out: done by two, a connection would be opened twice
    try:
        submit(partial(_take, offered))
    except RecursionError:
        raise  # a RuntimeError as well; but where the stack is full the driver's calls have no place on it either
    except RuntimeError:
        if _first(offered) is None:
            raise  # a signal handler's own error, say: a worker is at it
        otherwise()


def _take(offered: list[Job]) -> None:
    job = _first(offered)
    if job is not None:
        job()


def _first(offered: list[Job]) -> Job | None:
    try:
        return offered.pop()
    except IndexError:
        return None
