"""Where a pool is in its life."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    RUNNING = "running"
    SUSPENDED = "suspended"
    DRAINING = "draining"
    CLOSED = "closed"


RUNNING, SUSPENDED, CLOSED = Phase.RUNNING, Phase.SUSPENDED, Phase.CLOSED  # see queue.WAITING
