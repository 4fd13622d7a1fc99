"""What happens to the connections of a pool that nobody has closed."""

from __future__ import annotations

import contextlib
import os
import queue
import warnings
import weakref
from collections import deque
from functools import partial
from typing import Any

from pooling._hooks import Hooks
from pooling._ledger.entry import Stage, Token
from pooling._ledger.jobs import Job
from pooling._ledger.ledger import Ledger
from pooling._ledger.phase import Phase
from pooling._runtime.threads import Runtime

AT_EXIT = 1.0  # seconds that the end of the interpreter is held up to close connections


def dropped(pool: weakref.ref[Any], pid: int, ledger: Ledger[Any], hooks: Hooks[Any], runtime: Runtime) -> None:
    """A pool was collected: close every connection that it had. Or the interpreter ends: close what is idle, for the
    rest may be in use until the last moment."""
    if pid != os.getpid():
        hooks.abandon(ledger.roster.entries)  # the parent's, and this child has never used the pool
        return
    ending = pool() is not None
    jobs: deque[Job] = deque()
    lines = (ledger.roster.idle, ledger.roster.suspects, ledger.roster.doomed) if ending else (_lost(ledger),)
    for line in lines:
        while line:
            jobs.append(Job(line.popleft(), Stage.CLOSING, ledger.config.connect_timeout, 0))
    until = runtime.now() + AT_EXIT
    closed: queue.SimpleQueue[None] = queue.SimpleQueue()
    count, workers = len(jobs), 0
    try:
        # By workers and not here: a close that hangs is to hold up nothing but its own thread.
        while workers < count:
            runtime.submit(partial(_close_all, jobs, hooks, ledger, closed))
            workers += 1
    except RuntimeError:  # no thread can be started any more: the others take their share
        while not workers and jobs and (runtime.now() < until or not ending):
            _close(jobs.popleft(), hooks, ledger, closed)
    if ending:
        with contextlib.suppress(queue.Empty):
            for _ in range(count if workers else 0):
                closed.get(timeout=max(0.0, until - runtime.now()))
    elif count and ledger.phase is not Phase.CLOSED:
        warnings.warn(f"pool {ledger.name!r} was dropped without close()", ResourceWarning, stacklevel=2)


def _lost(ledger: Ledger[Any]) -> deque[Token[Any]]:
    """New tokens for the connections that there are when the pool is collected. Whoever had them had the pool as well,
    and is gone with it."""
    known = (entry for entry in ledger.roster.entries if entry.connection is not None)
    return deque(map(ledger.roster.mint, known))


def _close_all(jobs: deque[Job], hooks: Hooks[Any], ledger: Ledger[Any], closed: queue.SimpleQueue[None]) -> None:
    with contextlib.suppress(IndexError):  # until somebody has taken the last one
        while True:
            _close(jobs.popleft(), hooks, ledger, closed)


def _close(job: Job, hooks: Hooks[Any], ledger: Ledger[Any], closed: queue.SimpleQueue[None]) -> None:
    hooks.perform(job, ledger)  # whom to report to, nobody is left
    closed.put(None)
