"""What happens to the connections of a pool that nobody has closed."""

from __future__ import annotations

import os
import warnings
import weakref
from functools import partial
from typing import Any

from pooling._entry import Stage
from pooling._hooks import Hooks
from pooling._ledger import Ledger
from pooling._moves import Job
from pooling._runtime import Runtime

AT_EXIT = 1.0  # seconds that the end of the interpreter is held up to close connections


def dropped(pool: weakref.ref[Any], pid: int, ledger: Ledger[Any], hooks: Hooks[Any], runtime: Runtime) -> None:
    """A pool was collected without close(), or the interpreter ends: close what is idle."""
    if pid != os.getpid():
        return  # the parent's business
    ending = pool() is not None
    jobs = []
    for line in (ledger.roster.idle, ledger.roster.suspects, ledger.roster.doomed):
        while line:
            jobs.append(Job(line.popleft(), Stage.CLOSING, ledger.config.connect_timeout, 0, True))
    until = runtime.now() + AT_EXIT
    for job in jobs:
        if not ending:
            try:
                runtime.submit(partial(_close, hooks, job, ledger))
                continue
            except RuntimeError:
                pass
        if runtime.now() < until:
            hooks.perform(job, ledger)
    if jobs and not ending:
        warnings.warn(f"pool {ledger.name!r} was dropped without close()", ResourceWarning, stacklevel=2)


def _close(hooks: Hooks[Any], job: Job, ledger: Ledger[Any]) -> None:
    hooks.perform(job, ledger)  # whom to report to, nobody is left
